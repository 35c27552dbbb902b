//! The two keys of a session, and how they are kept in 47 bytes.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use throughway_shared::flow::{FlowKey, MAPPED_PREFIX, mapped};

/// A 5-tuple in one direction, as one stateful function sees it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SessionKey {
    /// Source address in network order; IPv4 in its mapped form.
    pub source: [u8; 16],
    /// Destination address in network order; IPv4 in its mapped form.
    pub destination: [u8; 16],
    /// Source port in network order, or the identifier of an ICMP query.
    pub source_port: [u8; 2],
    /// Destination port in network order, or the identifier of an ICMP query.
    pub destination_port: [u8; 2],
    /// Keeps equal 5-tuples apart: a routing domain, a VLAN, or what else the function wants to tell apart.
    pub zone: u16,
    /// The upper-layer protocol (IANA number).
    pub protocol: u8,
}

/// Which of its session's two keys a packet has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side {
    /// As the packet that opened the session.
    Forward,
    /// As the answers to it.
    Reverse,
}

impl Side {
    /// The other direction.
    #[must_use]
    pub const fn other(self) -> Side {
        match self {
            Side::Forward => Side::Reverse,
            Side::Reverse => Side::Forward,
        }
    }

    #[inline]
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl SessionKey {
    /// The key of a flow's packets in `zone`. Ingress, VLANs and family are left out: what of them shall count goes into the
    /// zone; the family follows from the addresses.
    pub const fn of(flow: &FlowKey, zone: u16) -> Self {
        SessionKey {
            source: flow.source,
            destination: flow.destination,
            source_port: flow.source_port,
            destination_port: flow.destination_port,
            zone,
            protocol: flow.protocol,
        }
    }

    /// The key of the answers when nobody translates: source and destination change places.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        SessionKey {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            zone: self.zone,
            protocol: self.protocol,
        }
    }

    /// What is hashed: every bit of the key, nothing else.
    #[inline]
    pub(crate) fn words(&self) -> [u64; 5] {
        let source = u128::from_le_bytes(self.source);
        let destination = u128::from_le_bytes(self.destination);
        let [a, b] = self.source_port;
        let [c, d] = self.destination_port;
        let [e, f] = self.zone.to_le_bytes();
        [
            source as u64,
            (source >> 64) as u64,
            destination as u64,
            (destination >> 64) as u64,
            u64::from_le_bytes([a, b, c, d, e, f, self.protocol, 0]),
        ]
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = |f: &mut fmt::Formatter<'_>, address: &[u8; 16], port: [u8; 2]| {
            let port = u16::from_be_bytes(port);
            match narrow(address) {
                Some(v4) => write!(f, "{}:{port}", Ipv4Addr::from(v4)),
                None => write!(f, "[{}]:{port}", Ipv6Addr::from(*address)),
            }
        };
        write!(f, "protocol {} ", self.protocol)?;
        end(f, &self.source, self.source_port)?;
        f.write_str(" > ")?;
        end(f, &self.destination, self.destination_port)?;
        if self.zone != 0 {
            write!(f, " zone {}", self.zone)?;
        }
        Ok(())
    }
}

/// The IPv4 address in a mapped one.
#[inline]
pub(crate) fn narrow(address: &[u8; 16]) -> Option<[u8; 4]> {
    let (prefix, v4) = address.split_last_chunk::<4>()?;
    (prefix == MAPPED_PREFIX).then_some(*v4)
}

/// What is left of a key without its addresses; bytes, so that it needs no alignment.
#[derive(Clone, Copy)]
pub(crate) struct Tail {
    source_port: [u8; 2],
    destination_port: [u8; 2],
    zone: [u8; 2],
    protocol: u8,
}

impl Tail {
    fn of(key: &SessionKey) -> Tail {
        Tail {
            source_port: key.source_port,
            destination_port: key.destination_port,
            zone: key.zone.to_ne_bytes(),
            protocol: key.protocol,
        }
    }

    #[inline]
    fn with(self, source: [u8; 16], destination: [u8; 16]) -> SessionKey {
        SessionKey {
            source,
            destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
            zone: u16::from_ne_bytes(self.zone),
            protocol: self.protocol,
        }
    }
}

/// Both keys of a session. Two full keys would take 80 bytes; nearly all sessions are IPv4 on both sides, or the addresses of one
/// side are those of the other exchanged. The rest (translated IPv6) keeps its reverse key elsewhere.
#[derive(Clone, Copy)]
pub(crate) enum Packed {
    /// Four IPv4 addresses.
    Narrow { addresses: [[u8; 4]; 4], tails: [Tail; 2] },
    /// The reverse addresses are the forward ones, exchanged.
    Mirrored { source: [u8; 16], destination: [u8; 16], tails: [Tail; 2] },
    /// The reverse key is in the slab's store of spare keys, under this number.
    Apart { source: [u8; 16], destination: [u8; 16], tail: Tail, spare: [u8; 4] },
}

const _: () = assert!(size_of::<Packed>() == 47);

impl Packed {
    /// Packs both keys; `spare` stores the reverse one if it has to be kept apart, and may fail.
    pub(crate) fn new([forward, reverse]: &[SessionKey; 2], spare: impl FnOnce(SessionKey) -> u32) -> Packed {
        let tails = [Tail::of(forward), Tail::of(reverse)];
        let SessionKey { source, destination, .. } = *forward;
        let narrowed =
            (narrow(&source), narrow(&destination), narrow(&reverse.source), narrow(&reverse.destination));
        if let (Some(a), Some(b), Some(c), Some(d)) = narrowed {
            return Packed::Narrow { addresses: [a, b, c, d], tails };
        }
        if reverse.source == destination && reverse.destination == source {
            return Packed::Mirrored { source, destination, tails };
        }
        Packed::Apart { source, destination, tail: tails[0], spare: spare(*reverse).to_ne_bytes() }
    }

    /// The key of one side; `spare` finds what is kept apart.
    #[inline]
    pub(crate) fn key(&self, side: Side, spare: impl FnOnce(u32) -> SessionKey) -> SessionKey {
        match (self, side) {
            (Packed::Narrow { addresses: [source, destination, ..], tails: [tail, _] }, Side::Forward)
            | (Packed::Narrow { addresses: [.., source, destination], tails: [_, tail] }, Side::Reverse) => {
                tail.with(mapped(*source), mapped(*destination))
            }
            (Packed::Mirrored { source, destination, tails: [tail, _] }, Side::Forward)
            | (
                Packed::Mirrored { source: destination, destination: source, tails: [_, tail] },
                Side::Reverse,
            )
            | (Packed::Apart { source, destination, tail, .. }, Side::Forward) => {
                tail.with(*source, *destination)
            }
            (Packed::Apart { spare: number, .. }, Side::Reverse) => spare(u32::from_ne_bytes(*number)),
        }
    }

    /// The number under which the reverse key is kept apart.
    pub(crate) fn spare(&self) -> Option<u32> {
        match self {
            Packed::Apart { spare, .. } => Some(u32::from_ne_bytes(*spare)),
            Packed::Narrow { .. } | Packed::Mirrored { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address() -> impl Strategy<Value = [u8; 16]> {
        // Few values, so that mirrored and half mirrored pairs come up, and addresses that look mapped but are not.
        prop_oneof![
            (0u8..3).prop_map(|last| mapped([192, 0, 2, last])),
            (0u8..3).prop_map(|last| {
                let mut address = [0; 16];
                address[..2].copy_from_slice(&[0x20, 0x01]);
                address[15] = last;
                address
            }),
            Just([0; 16]),
            Just([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 1, 2, 3, 4]),
        ]
    }

    prop_compose! {
        fn key()(source in address(), destination in address(), source_port: [u8; 2], destination_port: [u8; 2],
                 zone: u16, protocol: u8) -> SessionKey {
            SessionKey { source, destination, source_port, destination_port, zone, protocol }
        }
    }

    proptest! {
        #[test]
        fn packing_loses_nothing(forward in key(), other in key(), mirror: bool) {
            let reverse = if mirror { forward.reversed() } else { other };
            let mut kept = None;
            let packed = Packed::new(&[forward, reverse], |key| { kept = Some(key); 7 });
            let spare = |number| { assert_eq!(number, 7); kept.unwrap() };
            prop_assert_eq!(packed.key(Side::Forward, |_| unreachable!()), forward);
            prop_assert_eq!(packed.key(Side::Reverse, spare), reverse);
            prop_assert!(!(mirror && kept.is_some()), "untranslated sessions keep nothing apart");
            prop_assert_eq!(packed.spare(), kept.map(|_| 7));
        }

        #[test]
        fn reversing_twice_changes_nothing(key in key()) {
            prop_assert_eq!(key.reversed().reversed(), key);
        }

        #[test]
        fn different_keys_are_hashed_from_different_words(a in key(), b in key()) {
            prop_assert_eq!(a == b, a.words() == b.words());
        }
    }

    #[test]
    fn is_shown_as_people_write_it() {
        let key = SessionKey {
            source: mapped([192, 0, 2, 1]),
            destination: Ipv6Addr::LOCALHOST.octets(),
            source_port: 1234u16.to_be_bytes(),
            destination_port: 443u16.to_be_bytes(),
            zone: 0,
            protocol: 6,
        };
        assert_eq!(key.to_string(), "protocol 6 192.0.2.1:1234 > [::1]:443");
        assert_eq!(SessionKey { zone: 3, ..key }.to_string(), "protocol 6 192.0.2.1:1234 > [::1]:443 zone 3");
    }
}
