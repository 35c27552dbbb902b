//! The two keys of a session.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use throughway_shared::flow::{FlowKey, MAPPED_PREFIX};

use crate::hash::Seed;

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

    /// The key as it is compared, kept and hashed.
    #[inline]
    pub(crate) fn words(&self) -> Words {
        let source = u128::from_le_bytes(self.source);
        let destination = u128::from_le_bytes(self.destination);
        let [a, b] = self.source_port;
        let [c, d] = self.destination_port;
        let [e, f] = self.zone.to_le_bytes();
        Words([
            source as u64,
            (source >> 64) as u64,
            destination as u64,
            (destination >> 64) as u64,
            u64::from_le_bytes([a, b, c, d, e, f, self.protocol, 0]),
        ])
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

/// The middle of a mapped address, before the IPv4 one: the lower half of its second word.
const MAPPED: u32 = u32::from_le_bytes([0, 0, 0xff, 0xff]);
/// Both ports in the tail.
const PORTS: u64 = 0xffff_ffff;
/// The zone in the tail.
const ZONE: u64 = 0xffff << 32;

/// A key as five words, as of its little-endian bytes: source, destination, and the tail (ports, zone, protocol).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Words(pub(crate) [u64; 5]);

impl Words {
    #[inline]
    pub(crate) fn tail(&self) -> u64 {
        self.0[4]
    }

    /// Both addresses in one word, if both are IPv4.
    #[inline]
    pub(crate) fn narrow(&self) -> Option<u64> {
        let [a, b, c, d, _] = self.0;
        let is_narrow = a | c == 0 && b as u32 == MAPPED && d as u32 == MAPPED;
        is_narrow.then_some(b >> 32 | d >> 32 << 32)
    }

    /// The words whose narrow addresses and tail these are.
    #[inline]
    pub(crate) fn widened(narrow: u64, tail: u64) -> Words {
        let widen = |v4: u64| v4 << 32 | u64::from(MAPPED);
        Words([0, widen(narrow & 0xffff_ffff), 0, widen(narrow >> 32), tail])
    }

    /// Source and destination exchanged.
    #[inline]
    pub(crate) fn reversed(&self) -> Words {
        let [a, b, c, d, tail] = self.0;
        Words([c, d, a, b, tail & !PORTS | u64::from((tail as u32).rotate_left(16))])
    }

    #[inline]
    pub(crate) fn zone(&self) -> u16 {
        (self.tail() >> 32) as u16
    }

    #[inline]
    pub(crate) fn in_zone(mut self, zone: u16) -> Words {
        self.0[4] = self.0[4] & !ZONE | u64::from(zone) << 32;
        self
    }

    #[inline]
    pub(crate) fn without_zone(self) -> Words {
        self.in_zone(0)
    }

    pub(crate) fn key(&self) -> SessionKey {
        let [a, b, c, d, tail] = self.0;
        let address = |low, high| (u128::from(low) | u128::from(high) << 64).to_le_bytes();
        let [e, f, g, h, i, j, protocol, _] = u64::to_le_bytes(tail);
        SessionKey {
            source: address(a, b),
            destination: address(c, d),
            source_port: [e, f],
            destination_port: [g, h],
            zone: u16::from_le_bytes([i, j]),
            protocol,
        }
    }

    /// The same for a key and its reverse, else different for different keys. So both directions of a session that nobody
    /// translates lie in one bucket. IPv4 takes two words; the hash counts the length in.
    #[inline]
    pub(crate) fn hash(&self, seed: &Seed) -> u64 {
        let [a, b, c, d, tail] = self.0;
        match self.narrow() {
            Some(addresses) => {
                // An end with the zone or the protocol above it: ordered without a branch, which nobody could foresee.
                let there = addresses & 0xffff_ffff | (tail & 0xffff) << 32;
                let back = addresses >> 32 | (tail >> 16 & 0xffff) << 32;
                let (zone, protocol) = (tail >> 32 & 0xffff, tail >> 48);
                seed.hash([there.min(back) | zone << 48, there.max(back) | protocol << 48])
            }
            None => {
                let ordered = (a, b, tail as u16) <= (c, d, (tail >> 16) as u16);
                seed.hash(if ordered { self.0 } else { self.reversed().0 })
            }
        }
    }
}

/// A key with its hash in one table, so that finding and making take one computation; see [`SessionTable::probe`].
///
/// [`SessionTable::probe`]: crate::SessionTable::probe
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    pub(crate) key: SessionKey,
    pub(crate) hash: u64,
}

impl Probe {
    /// The key.
    pub const fn key(&self) -> &SessionKey {
        &self.key
    }

    /// The key's hash: the same for a key and its reverse. As secret as the table's seed.
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// That of the answers when nobody translates, without hashing: a key and its reverse have the same hash.
    #[must_use]
    pub const fn reversed(&self) -> Probe {
        Probe { key: self.key.reversed(), hash: self.hash }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::SessionKey {}
    impl Sealed for super::Probe {}
}

/// What a table can be asked for: a [`SessionKey`], or a [`Probe`] that this same table made.
pub trait Keyed: sealed::Sealed {
    /// The key itself.
    fn session_key(&self) -> &SessionKey;
    #[doc(hidden)]
    fn hash_with(&self, seed: &Seed) -> u64;
}

impl Keyed for SessionKey {
    fn session_key(&self) -> &SessionKey {
        self
    }

    #[inline]
    fn hash_with(&self, seed: &Seed) -> u64 {
        self.words().hash(seed)
    }
}

impl Keyed for Probe {
    fn session_key(&self) -> &SessionKey {
        &self.key
    }

    #[inline]
    fn hash_with(&self, seed: &Seed) -> u64 {
        debug_assert_eq!(self.hash, self.key.words().hash(seed), "the probe of another table");
        self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use throughway_shared::flow::mapped;

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
        fn reversing_twice_changes_nothing(key in key()) {
            prop_assert_eq!(key.reversed().reversed(), key);
        }

        #[test]
        fn words_say_what_the_key_says(a in key(), b in key()) {
            prop_assert_eq!(a.words().key(), a);
            prop_assert_eq!(a == b, a.words() == b.words());
            prop_assert_eq!(a.reversed().words(), a.words().reversed());
            prop_assert_eq!(a.words().narrow().is_some(), narrow(&a.source).is_some() && narrow(&a.destination).is_some());
            if let Some(addresses) = a.words().narrow() {
                prop_assert_eq!(Words::widened(addresses, a.words().tail()), a.words());
            }
        }

        #[test]
        fn a_key_meets_its_reverse_and_nothing_else(a in key(), b in key()) {
            let seed = Seed([3, 5]);
            let hash = |key: &SessionKey| key.words().hash(&seed);
            prop_assert_eq!(hash(&a), hash(&a.reversed()));
            prop_assert_eq!(hash(&a) == hash(&b), a == b || a == b.reversed());
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
