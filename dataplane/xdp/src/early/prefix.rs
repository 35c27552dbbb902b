//! A prefix of either family, in the order in which they are compared.

use std::net::IpAddr;

use throughway_shared::early::Verdict;

/// A prefix: its bits from the highest down, those beyond its length zero, and the length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Prefix {
    pub(super) bits: u128,
    pub(super) length: u8,
}

/// A prefix and what becomes of its packets.
pub(super) type Entry = (Prefix, Verdict);

impl Prefix {
    pub(super) fn new(address: IpAddr, length: u8) -> Prefix {
        let (bits, length) = match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, length.min(32)),
            IpAddr::V6(address) => (address.to_bits(), length.min(128)),
        };
        let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        Prefix { bits: bits & mask, length }
    }

    /// The first of the roots that it is about.
    pub(super) fn root(&self) -> usize {
        (self.bits >> 112) as usize
    }

    /// How many roots it is about.
    pub(super) fn roots(&self) -> usize {
        1 << 16_u32.saturating_sub(self.length.into())
    }

    /// Of IPv4.
    pub(super) fn narrow(&self) -> u32 {
        (self.bits >> 96) as u32
    }

    pub(super) fn wide(&self) -> [u64; 2] {
        [(self.bits >> 64) as u64, self.bits as u64]
    }
}

/// Sorted, and of each prefix the last.
pub(super) fn in_order(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.reverse();
    entries.sort_by_key(|(prefix, _)| *prefix);
    entries.dedup_by_key(|(prefix, _)| *prefix);
    entries
}

/// The entries of `list` of which none in `other` is the same. Both are in order.
pub(super) fn beyond<'a>(
    list: &'a [Entry],
    other: &'a [Entry],
    same: impl Fn(&Entry, &Entry) -> bool,
) -> impl Iterator<Item = &'a Entry> {
    let mut others = other.iter().peekable();
    list.iter().filter(move |entry| {
        while others.next_if(|other| other.0 < entry.0).is_some() {}
        !others.peek().is_some_and(|other| same(entry, other))
    })
}
