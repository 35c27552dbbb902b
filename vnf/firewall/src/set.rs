//! Sets of addresses and of 16-bit numbers: built once, then only asked.

mod steps;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use throughway_vnf::Prefix;

use crate::rule::Family;
use steps::Steps;

/// Addresses of one family, from the first to the last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

/// Why something is not a range or a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SetError {
    /// The two ends are of different families.
    #[error("{first} and {last} are of different families")]
    Families {
        /// The first address.
        first: IpAddr,
        /// The last address.
        last: IpAddr,
    },
    /// The first address is behind the last.
    #[error("the range {first}-{last} is empty: write the smaller address first")]
    Empty {
        /// The first address.
        first: IpAddr,
        /// The last address.
        last: IpAddr,
    },
}

impl AddressRange {
    /// The addresses from `first` to `last`, both included.
    ///
    /// # Errors
    /// [`SetError`] if the families differ or the range is empty.
    pub fn new(first: IpAddr, last: IpAddr) -> Result<AddressRange, SetError> {
        if first.is_ipv4() != last.is_ipv4() {
            return Err(SetError::Families { first, last });
        }
        if first > last {
            return Err(SetError::Empty { first, last });
        }
        Ok(AddressRange { first, last })
    }

    /// The first address.
    pub const fn first(&self) -> IpAddr {
        self.first
    }

    /// The last address.
    pub const fn last(&self) -> IpAddr {
        self.last
    }

    /// The family.
    pub const fn family(&self) -> Family {
        if self.first.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
    }

    /// Whether `address` lies in it; never for an address of the other family.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && (self.first..=self.last).contains(&address)
    }

    /// Both ends as numbers, of an IPv4 range in the low 32 bits.
    pub(crate) fn bits(&self) -> (u128, u128) {
        (bits(self.first), bits(self.last))
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl From<Prefix> for AddressRange {
    fn from(prefix: Prefix) -> AddressRange {
        AddressRange { first: prefix.address(), last: prefix.last() }
    }
}

impl From<IpAddr> for AddressRange {
    fn from(address: IpAddr) -> AddressRange {
        AddressRange { first: address, last: address }
    }
}

/// A set of addresses of both families. A look-up reads two places whatever the size, as long as the addresses are not crowded in
/// few networks of a wide space; else one block of one or two cache lines for each factor of eight to sixteen in the number
/// of ranges. About 9 bytes for each IPv4 range, 18 in sets of IPv6 networks up to /64, 36 for other IPv6 ranges.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct AddressSet {
    ipv4: Steps<u32, 16>,
    ipv6: Ipv6,
}

#[derive(Clone, PartialEq, Eq)]
enum Ipv6 {
    /// Whole /64 networks only: the upper halves.
    Networks(Steps<u64, 16>),
    Any(Steps<u128, 8>),
}

impl Default for Ipv6 {
    fn default() -> Self {
        Ipv6::Networks(Steps::default())
    }
}

/// The lower half of an IPv6 address.
const INTERFACE: u128 = u64::MAX as u128;

impl AddressSet {
    /// The set of all addresses in these ranges, which may overlap and come in any order.
    pub fn new(ranges: impl IntoIterator<Item = AddressRange>) -> AddressSet {
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for range in ranges {
            match (range.first, range.last) {
                (IpAddr::V4(first), IpAddr::V4(last)) => ipv4.push((first.to_bits(), last.to_bits())),
                (first, last) => ipv6.push((bits(first), bits(last))),
            }
        }
        merge(&mut ipv4, |last| last.checked_add(1));
        merge(&mut ipv6, |last| last.checked_add(1));
        let whole = |&(first, last): &(u128, u128)| first & INTERFACE == 0 && last & INTERFACE == INTERFACE;
        let ipv6 = if ipv6.iter().all(whole) {
            Ipv6::Networks(Steps::new(
                ipv6.iter().map(|&(first, last)| ((first >> 64) as u64, (last >> 64) as u64)),
            ))
        } else {
            Ipv6::Any(Steps::new(ipv6.iter().copied()))
        };
        AddressSet { ipv4: Steps::new(ipv4.iter().copied()), ipv6 }
    }

    /// Whether `address` (network order, IPv4 in its mapped form) of `family` is in the set.
    #[inline]
    pub fn contains(&self, family: Family, address: &[u8; 16]) -> bool {
        let bits = u128::from_be_bytes(*address);
        match (family, &self.ipv6) {
            (Family::Ipv4, _) => self.ipv4.contains(bits as u32),
            (Family::Ipv6, Ipv6::Networks(steps)) => steps.contains((bits >> 64) as u64),
            (Family::Ipv6, Ipv6::Any(steps)) => steps.contains(bits),
        }
    }

    /// Its ranges: sorted within each family, disjoint, not adjacent.
    pub fn ranges(&self) -> impl Iterator<Item = AddressRange> + '_ {
        let ipv4 = self.ipv4.ranges().map(|(first, last)| AddressRange {
            first: Ipv4Addr::from_bits(first).into(),
            last: Ipv4Addr::from_bits(last).into(),
        });
        let ipv6 = self.bits(Family::Ipv6).into_iter().map(|(first, last)| AddressRange {
            first: Ipv6Addr::from_bits(first).into(),
            last: Ipv6Addr::from_bits(last).into(),
        });
        ipv4.chain(ipv6)
    }

    /// Its ranges of one family as numbers.
    pub(crate) fn bits(&self, family: Family) -> Vec<(u128, u128)> {
        match (family, &self.ipv6) {
            (Family::Ipv4, _) => self.ipv4.ranges().map(|(a, b)| (u128::from(a), u128::from(b))).collect(),
            (Family::Ipv6, Ipv6::Networks(steps)) => {
                steps.ranges().map(|(a, b)| (u128::from(a) << 64, u128::from(b) << 64 | INTERFACE)).collect()
            }
            (Family::Ipv6, Ipv6::Any(steps)) => steps.ranges().collect(),
        }
    }

    /// Bytes that it takes.
    pub fn memory(&self) -> usize {
        self.ipv4.memory()
            + match &self.ipv6 {
                Ipv6::Networks(steps) => steps.memory(),
                Ipv6::Any(steps) => steps.memory(),
            }
    }

    /// How many ranges are left after joining what touches.
    pub fn len(&self) -> usize {
        self.ipv4.len()
            + match &self.ipv6 {
                Ipv6::Networks(steps) => steps.len(),
                Ipv6::Any(steps) => steps.len(),
            }
    }

    /// Whether it holds no address.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

// Not derived: a million entries help nobody in a message.
impl fmt::Debug for AddressSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AddressSet({} ranges)", self.len())
    }
}

/// Sorts, and joins ranges that overlap or touch.
pub(crate) fn merge<T: Copy + Ord>(ranges: &mut Vec<(T, T)>, next: impl Fn(T) -> Option<T>) {
    ranges.sort_unstable();
    ranges.dedup_by(|later, kept| {
        let touches = next(kept.1).is_none_or(|next| later.0 <= next);
        if touches {
            kept.1 = kept.1.max(later.1);
        }
        touches
    });
}

#[inline]
fn holds<T: Copy + Ord>(ranges: &[(T, T)], value: T) -> bool {
    let behind = ranges.partition_point(|&(first, _)| first <= value);
    behind > 0 && ranges.get(behind - 1).is_some_and(|&(_, last)| value <= last)
}

/// A set of 16-bit numbers: ports (host order), ports of the data plane, VLAN identifiers.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct NumberSet {
    /// Sorted, disjoint, not adjacent.
    ranges: Vec<(u16, u16)>,
}

impl NumberSet {
    /// The set of all numbers in these ranges, which may overlap and come in any order; empty ones are left out.
    pub fn new(ranges: impl IntoIterator<Item = RangeInclusive<u16>>) -> NumberSet {
        let mut ranges: Vec<_> = ranges
            .into_iter()
            .filter(|range| !range.is_empty())
            .map(|range| (*range.start(), *range.end()))
            .collect();
        merge(&mut ranges, |last| last.checked_add(1));
        NumberSet { ranges }
    }

    /// The set of these numbers.
    pub fn of(numbers: &[u16]) -> NumberSet {
        NumberSet::new(numbers.iter().map(|&number| number..=number))
    }

    /// Whether `number` is in the set.
    #[inline]
    pub fn contains(&self, number: u16) -> bool {
        holds(&self.ranges, number)
    }

    /// Its ranges, sorted, disjoint, not adjacent.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = RangeInclusive<u16>> + '_ {
        self.ranges.iter().map(|&(first, last)| first..=last)
    }

    /// Whether it holds no number.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}
