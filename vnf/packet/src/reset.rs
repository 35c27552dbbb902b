//! Builds TCP resets (RFC 9293, section 3.10.7.1): what a host answers to a segment for a connection that does not exist.

use std::net::IpAddr;

use throughway_shared::checksum::add;

use crate::checksum::{pseudo_header_sum, sum};
use crate::headers::{Flags, Headers};
use crate::parse::TCP;

/// The flags byte of TCP.
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// TTL or hop limit of a reset, as Linux sends it.
const HOP_LIMIT: u8 = 64;

/// The longest frame that [`build_reset`] writes: TCP over IPv6 behind two tags.
pub const MAX_FRAME: usize = 14 + 2 * 4 + 40 + 20;

/// Writes a whole Ethernet frame to `out` that resets the connection of the segment in `received`, as if its destination had
/// refused it, and returns the frame's length.
///
/// `headers` are those parsed from `received`. If the segment has ACK, the reset takes its sequence number from the
/// acknowledgement; otherwise it has sequence number zero and acknowledges all that the segment occupies. VLAN tags are
/// those of `received`, its MAC addresses are swapped; the caller may overwrite both. IPv4: DF set and identification zero
/// (RFC 6864, section 4.1). No DSCP, no ECN (RFC 3168, section 6.1.1: none on a segment without data).
///
/// `None` when none may be sent: the segment is no TCP or itself a reset, a fragment (what it occupies is not known),
/// its checksum is wrong (it may never have been meant), or an address is not one host's. Also when `out` is too small;
/// [`MAX_FRAME`] bytes are always enough.
pub fn build_reset(received: &[u8], headers: &Headers, out: &mut [u8]) -> Option<usize> {
    if headers.key.protocol != TCP
        || !headers.flags.has(Flags::PORTS)
        || headers.flags.any(Flags::FRAGMENT | Flags::SOURCE_ROUTED)
        || headers.tcp_flags & RST != 0
        || !one_host(headers.source())
        || !one_host(headers.destination())
        || !crate::checksum::verify(received, headers)
    {
        return None;
    }
    let link = received.get(..usize::from(headers.l3))?;
    let segment = received.get(usize::from(headers.l4)..usize::from(headers.end))?;
    let ip_len = if headers.is_ipv4() { 20 } else { 40 };
    let frame = out.get_mut(..link.len() + ip_len + 20)?;
    let len = frame.len();
    let (ethernet, packet) = frame.split_at_mut_checked(link.len())?;
    let (macs, rest) = link.split_first_chunk::<12>()?;
    if macs[0] & 1 != 0 || macs[6] & 1 != 0 {
        return None;
    }
    let (new_macs, new_rest) = ethernet.split_first_chunk_mut::<12>()?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = *macs;
    *new_macs = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5];
    new_rest.copy_from_slice(rest);

    let (ip, tcp) = packet.split_at_mut_checked(ip_len)?;
    let addresses = if headers.is_ipv4() {
        let fixed = ip.first_chunk_mut::<20>()?;
        let [.., s0, s1, s2, s3] = headers.key.destination;
        let [.., d0, d1, d2, d3] = headers.key.source;
        *fixed = [0x45, 0, 0, 40, 0, 0, 0x40, 0, HOP_LIMIT, TCP, 0, 0, s0, s1, s2, s3, d0, d1, d2, d3];
        [fixed[10], fixed[11]] = (!sum(fixed)).to_be_bytes();
        ip.get(12..)?
    } else {
        let (fixed, addresses) = ip.split_first_chunk_mut::<8>()?;
        *fixed = [0x60, 0, 0, 0, 0, 20, TCP, HOP_LIMIT];
        let (from, to) = addresses.split_first_chunk_mut::<16>()?;
        *from = headers.key.destination;
        to.copy_from_slice(&headers.key.source);
        ip.get(8..)?
    };
    write_tcp(tcp, segment, headers, addresses)?;
    Some(len)
}

fn write_tcp(tcp: &mut [u8], segment: &[u8], headers: &Headers, addresses: &[u8]) -> Option<()> {
    let header = segment.first_chunk::<20>()?;
    let [_, _, _, _, q0, q1, q2, q3, a0, a1, a2, a3, offset, ..] = *header;
    let payload = segment.len().checked_sub(usize::from(offset >> 4) * 4)?;
    let (sequence, acknowledgement, flags) = if headers.tcp_flags & ACK != 0 {
        ([a0, a1, a2, a3], [0; 4], RST)
    } else {
        // SYN and FIN occupy a number each (RFC 9293, section 3.4).
        let signs = u32::from(headers.tcp_flags & SYN != 0) + u32::from(headers.tcp_flags & FIN != 0);
        let occupied = u32::try_from(payload).ok()?.wrapping_add(signs);
        let next = u32::from_be_bytes([q0, q1, q2, q3]).wrapping_add(occupied);
        ([0; 4], next.to_be_bytes(), RST | ACK)
    };
    let [p0, p1] = headers.key.destination_port;
    let [r0, r1] = headers.key.source_port;
    let [s0, s1, s2, s3] = sequence;
    let [k0, k1, k2, k3] = acknowledgement;
    let tcp = tcp.first_chunk_mut::<20>()?;
    *tcp = [p0, p1, r0, r1, s0, s1, s2, s3, k0, k1, k2, k3, 5 << 4, flags, 0, 0, 0, 0, 0, 0];
    let checksum = !add(sum(tcp), pseudo_header_sum(addresses, TCP, 20));
    [tcp[16], tcp[17]] = checksum.to_be_bytes();
    Some(())
}

/// Whether an address can be that of one host.
fn one_host(address: IpAddr) -> bool {
    match address {
        // RFC 1812, section 4.3.2.7: zero prefix, loopback, multicast, class E with the broadcast address.
        IpAddr::V4(address) => !matches!(address.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(address) => !(address.is_unspecified() || address.is_loopback() || address.is_multicast()),
    }
}
