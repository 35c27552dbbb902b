//! Packets that are the host's own although a worker took them: answers to its pings and errors about its packets, to an address that a
//! function claims. The steering program cannot tell whose they are, since that is known by sessions only.

use std::net::IpAddr;

use crossbeam::channel::{Receiver, Sender, bounded};
use throughway_io::{Frame, PacketIo};
use throughway_packet::parse::{ICMP, ICMPV6};
use throughway_packet::{Flags, Headers};
use throughway_vnf::Now;

use super::Engine;
use super::limit::{BURST, Bucket, RATE};

/// Packets that may wait to be given to the host, of all workers.
const WAITING: usize = 256;

/// An IP packet for an address of the host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnPacket {
    /// The packet, from its IP header on, as it came in.
    pub packet: Vec<u8>,
    /// Its destination.
    pub destination: IpAddr,
}

/// Where workers put what is the host's own, and where it is taken out.
pub fn own_packets() -> (Sender<OwnPacket>, Receiver<OwnPacket>) {
    bounded(WAITING)
}

/// A worker's way to the host: without one, and beyond the rate, such packets are dropped.
#[derive(Debug, Default)]
pub(super) struct ToHost {
    pub(super) sender: Option<Sender<OwnPacket>>,
    limiter: Bucket,
}

impl ToHost {
    /// Gives a packet to the host, if it may have it.
    fn give(&mut self, frame: &[u8], headers: &Headers, now: Now) -> Option<()> {
        let sender = self.sender.as_ref().filter(|sender| !sender.is_full() && may_have(headers))?;
        let packet = frame.get(usize::from(headers.l3)..usize::from(headers.end))?;
        if !self.limiter.admit(RATE, BURST, now) {
            return None;
        }
        let given = OwnPacket { packet: packet.to_vec(), destination: headers.destination() };
        sender.try_send(given).ok()
    }
}

impl<I: PacketIo> Engine<I> {
    /// Gives the host a packet that is its own; says whether it took it.
    pub(super) fn give_to_host(&mut self, frame: &I::Frame, headers: &Headers, now: Now) -> bool {
        let given = self.to_host.give(frame.bytes(), headers, now).is_some();
        self.stats.given_to_host.add(u64::from(given));
        given
    }
}

/// Answers and errors only. What is given comes in by the loopback device, which hosts trust: nothing that asks a service of
/// theirs may come this way, no redirect, and no fragment, since nobody has seen what it is a part of.
fn may_have(headers: &Headers) -> bool {
    if headers.flags.has(Flags::FRAGMENT) {
        return false;
    }
    match headers.key.protocol {
        // Echo reply, destination unreachable, time exceeded, parameter problem, timestamp reply (RFC 792).
        ICMP => matches!(headers.icmp_type, 0 | 3 | 11 | 12 | 14),
        // Errors and echo reply (RFC 4443).
        ICMPV6 => matches!(headers.icmp_type, 1..=4 | 129),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use throughway_packet::build::PacketBuilder;
    use throughway_packet::{PortId, parse};

    fn frame(kind: u8) -> Vec<u8> {
        let (from, to) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(203, 0, 113, 8));
        PacketBuilder::ipv4(from, to).icmp(kind, 0, [0, 7, 0, 1]).finish()
    }

    #[test]
    fn only_answers_and_errors_go_to_the_host_and_not_too_many() {
        let (sender, receiver) = own_packets();
        let mut to_host = ToHost { sender: Some(sender), ..ToHost::default() };
        let mut give = |kind, now| {
            let frame = frame(kind);
            to_host.give(&frame, &parse(&frame, PortId(0)).unwrap(), Now(now)).is_some()
        };
        let second = 1_000_000_000;
        assert!(give(0, second), "an echo reply");
        let taken = receiver.try_recv().unwrap();
        assert_eq!(
            (taken.packet, taken.destination.to_string()),
            (frame(0)[14..].to_vec(), "203.0.113.8".into())
        );
        for kind in [5, 8, 9, 13, 15] {
            assert!(!give(kind, second), "type {kind}");
        }
        // The rate holds, and so does the room.
        let at_once = (0..1000).filter(|_| give(0, 2 * second)).count();
        assert_eq!(at_once, BURST as usize);
        let slowly = (3..1000).filter(|at| give(0, at * second)).count();
        assert_eq!(slowly, WAITING - at_once);
        assert!(receiver.try_iter().count() == WAITING && give(0, 2000 * second));
    }
}
