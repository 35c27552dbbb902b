//! What a router may do beside routing: keep TCP segments to what its links take.

use throughway_packet::mss;
use throughway_vnf::Packet;

use crate::tables::Tables;

/// What one router does beside routing. By default nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// What TCP connections may agree on.
    pub mss: Mss,
}

/// To how many bytes the MSS of TCP SYNs is lowered (RFC 9293, section 3.7.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mss {
    /// It stays.
    #[default]
    Keep,
    /// To what fits into the MTU of the port that the SYN leaves by and of the one it came in by: the segments that it is
    /// about pass both.
    Links,
    /// To so many bytes.
    Bytes(u16),
}

impl Mss {
    /// Lowers the MSS of a packet that leaves by a port with an MTU of `mtu` bytes, if it is a SYN.
    pub(crate) fn clamp(self, tables: &Tables, packet: &mut Packet<'_>, mtu: u16) {
        const SYN: u8 = 0x02;
        let received = packet.received();
        // Only SYNs have flags with this bit, and only TCP has flags.
        if self == Mss::Keep || received.tcp_flags & SYN == 0 {
            return;
        }
        let limit = match self {
            Mss::Keep => return,
            Mss::Bytes(limit) => limit,
            Mss::Links => {
                let came_in = tables.ports.get(packet.ingress()).map_or(u32::MAX, |port| port.mtu);
                let both = mtu.min(came_in.try_into().unwrap_or(u16::MAX));
                // What a tunnel takes, segments cannot have.
                let tunnel = packet.headers().packet_len().saturating_sub(received.packet_len());
                mss::of_mtu(both.saturating_sub(tunnel), received.is_ipv4())
            }
        };
        packet.clamp_mss(limit);
    }
}
