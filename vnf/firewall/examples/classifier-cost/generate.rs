//! Rule sets in the manner of ClassBench (Taylor and Turner, INFOCOM 2005): prefixes nest like networks do, pairs of them repeat,
//! ports come in classes (any, one, low, high, a range). The same numbers give the same rules on every machine.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use throughway_firewall::*;
use throughway_packet::{PortId, Prefix};

/// SplitMix64 (Steele, Lea and Flood, 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Access lists: specific pairs, destination ports.
    Acl,
    /// Firewalls: many wildcards, more port ranges.
    Firewall,
}

/// A rule as one box: what the other approaches of the comparison need.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Plain {
    pub(crate) source: (u32, u8),
    pub(crate) destination: (u32, u8),
    pub(crate) source_ports: (u16, u16),
    pub(crate) destination_ports: (u16, u16),
    pub(crate) protocol: Option<u8>,
}

pub(crate) fn mask(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
}

/// Networks of an organisation or of the internet: some /8, in each some /16, in each some /24, in each some hosts.
fn network(random: &mut Random, wide: u64) -> u32 {
    let a = 10 + random.below(wide.min(180)) as u32;
    let b = (random.below(wide) * 37) as u32 & 255;
    // Low numbers are more common, in networks as in hosts.
    let c = random.below(random.0 % 256 + 1) as u32;
    let d = random.below(random.0 % 256 + 1) as u32;
    a << 24 | b << 16 | c << 8 | d
}

fn prefix(random: &mut Random, wide: u64, wildcard: u64) -> (u32, u8) {
    let len = match random.below(100) {
        n if n < wildcard => 0,
        n => match (n * 7 + random.below(7)) % 100 {
            0..4 => 8,
            4..12 => 16,
            12..22 => 17 + random.below(7) as u8,
            22..55 => 24,
            55..70 => 25 + random.below(7) as u8,
            _ => 32,
        },
    };
    (network(random, wide) & mask(len), len)
}

fn ports(random: &mut Random, any: u64) -> (u16, u16) {
    const KNOWN: [u16; 12] = [20, 21, 22, 25, 53, 80, 110, 123, 443, 993, 3306, 8080];
    match random.below(100) {
        n if n < any => (0, u16::MAX),
        n if n % 10 < 7 => {
            let port = if n % 2 == 0 { KNOWN[random.below(12) as usize] } else { random.below(9000) as u16 };
            (port, port)
        }
        n if n % 10 == 7 => (1024, u16::MAX),
        n if n % 10 == 8 => (0, 1023),
        _ => {
            let first = random.below(60000) as u16;
            (first, first + random.below(500) as u16)
        }
    }
}

pub(crate) fn rules(kind: Kind, count: usize, seed: u64) -> Vec<Plain> {
    let mut random = Random(seed);
    let random = &mut random;
    let wide = (count as f64).sqrt() as u64 / 4 + 4;
    let (wild_source, wild_destination) = if kind == Kind::Acl { (12, 4) } else { (35, 18) };
    let mut seen = HashSet::new();
    let mut all = Vec::with_capacity(count);
    let mut pair = ((0, 0), (0, 0));
    while all.len() < count {
        // Several services between the same networks.
        if random.below(3) > 0 || all.is_empty() {
            pair = (prefix(random, wide, wild_source), prefix(random, wide, wild_destination));
            // A wildcard on both sides is for the few rules about services as such.
            if pair.0.1 == 0 && pair.1.1 == 0 && random.below(100) > 10 {
                continue;
            }
        }
        let protocol = match random.below(100) {
            0..60 => Some(6),
            60..85 => Some(17),
            85..90 => Some(1),
            _ => None,
        };
        let with_ports = matches!(protocol, Some(6 | 17));
        let any = (0, u16::MAX);
        let plain = Plain {
            source: pair.0,
            destination: pair.1,
            source_ports: if with_ports {
                ports(random, if kind == Kind::Acl { 95 } else { 80 })
            } else {
                any
            },
            destination_ports: if with_ports { ports(random, 15) } else { any },
            protocol,
        };
        if seen.insert(plain) {
            all.push(plain);
        }
    }
    // As people write them: the specific before the general.
    all.sort_by_key(|rule| u32::MAX - (u32::from(rule.source.1 / 8) + u32::from(rule.destination.1 / 8)));
    all
}

/// An IPv4 prefix in the place of an IPv6 one: 2001::/16, then the address, hosts with an interface identifier.
fn widen(address: u32, len: u8) -> (u128, u8) {
    match len {
        0 => (0, 0),
        32 => (0x2001 << 112 | u128::from(address) << 80 | 0x1234_5678_9abc, 128),
        len => (0x2001 << 112 | u128::from(address) << 80, 16 + len),
    }
}

pub(crate) fn rule(number: usize, plain: &Plain, family: Family) -> Rule {
    let list = |(address, len): (u32, u8)| {
        (len > 0).then(|| {
            let (address, len) = match family {
                Family::Ipv4 => (Ipv4Addr::from_bits(address).into(), len),
                Family::Ipv6 => {
                    let (bits, len) = widen(address, len);
                    (Ipv6Addr::from_bits(bits).into(), len)
                }
            };
            let prefix = Prefix::containing(address, len).expect("a length of the family");
            AddressMatch { ranges: vec![prefix.into()], ..AddressMatch::default() }
        })
    };
    let ports = |(first, last): (u16, u16)| {
        ((first, last) != (0, u16::MAX))
            .then(|| PortMatch { ranges: vec![first..=last], ..PortMatch::default() })
    };
    let matches = Matches {
        family: Some(family),
        source: list(plain.source),
        destination: list(plain.destination),
        protocols: plain.protocol.into_iter().collect(),
        source_ports: ports(plain.source_ports),
        destination_ports: ports(plain.destination_ports),
        ..Matches::default()
    };
    Rule { id: number as u32, matches, actions: Actions { ending: Ending::Allow, ..Actions::default() } }
}

/// Packets in the boxes of random rules, without locality.
pub(crate) fn packets(rules: &[Plain], family: Family, count: usize, seed: u64) -> Vec<Fields> {
    let mut random = Random(seed);
    let random = &mut random;
    let within = |random: &mut Random, (first, last): (u16, u16)| {
        first + random.below(u64::from(last - first) + 1) as u16
    };
    (0..count)
        .map(|_| {
            let rule = &rules[random.below(rules.len() as u64) as usize];
            let mut address = |(address, len): (u32, u8)| -> std::net::IpAddr {
                let bits = address | random.next() as u32 & !mask(len);
                match family {
                    Family::Ipv4 => Ipv4Addr::from_bits(bits).into(),
                    Family::Ipv6 if len == 32 => Ipv6Addr::from_bits(widen(address, 32).0).into(),
                    Family::Ipv6 => Ipv6Addr::from_bits(
                        0x2001 << 112 | u128::from(bits) << 80 | u128::from(random.next() >> 16),
                    )
                    .into(),
                }
            };
            let (source, destination) = (address(rule.source), address(rule.destination));
            let mut fields = Fields::between(source, destination);
            fields.protocol = rule.protocol.unwrap_or(47);
            fields.has_ports = matches!(fields.protocol, 6 | 17);
            fields.has_header = fields.protocol == 6;
            fields.ingress = PortId(0);
            fields.length = 100;
            if fields.has_ports {
                fields.source_port = within(random, rule.source_ports);
                fields.destination_port = within(random, rule.destination_ports);
            }
            fields
        })
        .collect()
}
