//! Tables like those of the Internet, the same in every run: for tests and benchmarks.
//!
//! Invented, not recorded: the shares of the lengths are about those that BGP collectors showed in 2024 and 2025; half of
//! the prefixes lie inside others, many beside one another, as announcements that were split do.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use throughway_vnf::Prefix;

/// Lengths with how many of 10,000 prefixes have them.
const IPV4_LENGTHS: &[(u8, u32)] = &[
    (8, 1),
    (9, 1),
    (10, 2),
    (11, 2),
    (12, 4),
    (13, 7),
    (14, 13),
    (15, 22),
    (16, 140),
    (17, 86),
    (18, 143),
    (19, 260),
    (20, 455),
    (21, 520),
    (22, 1130),
    (23, 1010),
    (24, 6104),
    (25, 10),
    (26, 10),
    (27, 10),
    (28, 10),
    (29, 10),
    (30, 10),
    (32, 40),
];

const IPV6_LENGTHS: &[(u8, u32)] = &[
    (20, 3),
    (24, 3),
    (28, 15),
    (29, 260),
    (30, 60),
    (31, 30),
    (32, 1120),
    (33, 250),
    (34, 200),
    (35, 100),
    (36, 450),
    (37, 60),
    (38, 150),
    (39, 60),
    (40, 820),
    (41, 60),
    (42, 250),
    (43, 60),
    (44, 860),
    (45, 150),
    (46, 300),
    (47, 220),
    (48, 4459),
    (56, 20),
    (64, 30),
    (128, 10),
];

/// The blocks that the registries allocate from (RFC 3587, IANA), /12 each but for the first.
const IPV6_BLOCKS: &[u128] = &[0x2001, 0x2400, 0x2600, 0x2800, 0x2a00, 0x2a10, 0x2c00];

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(limit)) >> 64) as u64
    }

    fn wide(&mut self) -> u128 {
        u128::from(self.bits()) << 64 | u128::from(self.bits())
    }
}

/// `count` different IPv4 prefixes of unicast addresses, in no order.
pub fn ipv4(count: usize, seed: u64) -> Vec<Prefix> {
    let fresh = |random: &mut Random| loop {
        let address = random.bits() as u32;
        // 1.0.0.0 to 223.255.255.255, without the host's own and private ones.
        if !matches!(address >> 24, 0 | 10 | 127 | 224..) {
            break u128::from(address) << 96;
        }
    };
    table(count, seed, IPV4_LENGTHS, 32, fresh, |bits| Ipv4Addr::from_bits((bits >> 96) as u32).into())
}

/// `count` different IPv6 prefixes of global unicast addresses, in no order.
pub fn ipv6(count: usize, seed: u64) -> Vec<Prefix> {
    let fresh = |random: &mut Random| {
        let block = IPV6_BLOCKS[random.below(IPV6_BLOCKS.len() as u64) as usize];
        let free = if block == 0x2001 { 112 } else { 116 };
        block << 112 | random.wide() >> (128 - free)
    };
    table(count, seed, IPV6_LENGTHS, 128, fresh, |bits| Ipv6Addr::from_bits(bits).into())
}

/// Addresses are 128 bits here, IPv4 in the upper ones.
fn table(
    count: usize,
    seed: u64,
    lengths: &[(u8, u32)],
    width: u8,
    fresh: impl Fn(&mut Random) -> u128,
    address: impl Fn(u128) -> IpAddr,
) -> Vec<Prefix> {
    let mut random = Random(seed);
    let mut seen: HashSet<Prefix> = HashSet::with_capacity(count);
    let mut all: Vec<(u128, u8)> = Vec::with_capacity(count);
    for &(len, share) in lengths {
        let wanted = (count as u64 * u64::from(share)).div_ceil(10_000) as usize;
        let shorter = all.len();
        let (mut left, mut tries) = (wanted.min(count - all.len()), 0);
        let mut last = fresh(&mut random);
        while left > 0 && tries < 20 * wanted {
            tries += 1;
            let step = 1u128 << (128 - u32::from(len));
            let bits = match random.below(4) {
                // Beside the one before, as when an announcement is split.
                0 => last.wrapping_add(step),
                // Inside one that is announced as well.
                1 | 2 if shorter > 0 => {
                    let (outer, outer_len) = all[random.below(shorter as u64) as usize];
                    outer | random.wide() >> outer_len
                }
                _ => fresh(&mut random),
            };
            let bits = bits & !(step - 1);
            let Ok(prefix) = Prefix::containing(address(bits), len.min(width)) else { continue };
            if seen.insert(prefix) {
                all.push((bits, len));
                left -= 1;
                last = bits;
            }
        }
    }
    // What the shares left over by rounding, and what found no place.
    let (filler, _) = lengths.iter().copied().max_by_key(|(_, share)| *share).unwrap_or((width, 0));
    while seen.len() < count {
        seen.extend(Prefix::containing(address(fresh(&mut random)), filler));
    }
    let mut prefixes: Vec<Prefix> = seen.into_iter().collect();
    // The set has an order of its own in every run.
    prefixes.sort_unstable();
    shuffle(&mut prefixes, &mut random);
    prefixes
}

fn shuffle<T>(items: &mut [T], random: &mut Random) {
    for last in (1..items.len()).rev() {
        items.swap(last, random.below(last as u64 + 1) as usize);
    }
}

/// `count` addresses that the table has a route to: any address of any prefix, each prefix as likely as the others.
pub fn destinations(prefixes: &[Prefix], count: usize, seed: u64) -> Vec<IpAddr> {
    let mut random = Random(seed);
    let mut one = || {
        let prefix = prefixes[random.below(prefixes.len() as u64) as usize];
        match prefix.address() {
            IpAddr::V4(first) => {
                let host = u32::MAX.checked_shr(u32::from(prefix.len())).unwrap_or(0);
                Ipv4Addr::from_bits(first.to_bits() | random.bits() as u32 & host).into()
            }
            IpAddr::V6(first) => {
                let host = u128::MAX.checked_shr(u32::from(prefix.len())).unwrap_or(0);
                Ipv6Addr::from_bits(first.to_bits() | random.wide() & host).into()
            }
        }
    };
    if prefixes.is_empty() { Vec::new() } else { (0..count).map(|_| one()).collect() }
}
