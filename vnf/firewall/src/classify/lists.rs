//! Lists of ranges of one dimension: sorted, disjoint, not adjacent.

use std::collections::HashMap;
use std::sync::Arc;

use crate::rule::{AddressMatch, Family, PortMatch};
use crate::set::{AddressSet, NumberSet, merge};

/// How many ranges a set is reduced to before it is combined with others.
const COARSE: usize = 64;

/// Sorted, disjoint ranges that contain every value that can match; only these, if `exact`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct List {
    pub(crate) ranges: Vec<(u128, u128)>,
    pub(crate) exact: bool,
}

impl List {
    /// Every value up to `max`.
    pub(crate) fn all(max: u128) -> List {
        List { ranges: vec![(0, max)], exact: true }
    }

    pub(crate) fn of(mut ranges: Vec<(u128, u128)>) -> List {
        merge(&mut ranges, |last| last.checked_add(1));
        List { ranges, exact: true }
    }

    /// The values in both.
    pub(crate) fn and(&self, other: &List) -> List {
        let (mut ranges, mut i, mut j) = (Vec::new(), 0, 0);
        while let (Some(a), Some(b)) = (self.ranges.get(i), other.ranges.get(j)) {
            let (first, last) = (a.0.max(b.0), a.1.min(b.1));
            if first <= last {
                ranges.push((first, last));
            }
            if a.1 < b.1 {
                i += 1;
            } else {
                j += 1;
            }
        }
        List { ranges, exact: self.exact && other.exact }
    }

    /// The values in either.
    fn or(&self, other: &List) -> List {
        let mut ranges = self.ranges.clone();
        ranges.extend_from_slice(&other.ranges);
        List { exact: self.exact && other.exact, ..List::of(ranges) }
    }

    /// The values up to `max` that are not in it. Of an exact list only: the complement of too much would be too little.
    fn not(&self, max: u128) -> List {
        let (mut ranges, mut next) = (Vec::new(), Some(0));
        for &(first, last) in &self.ranges {
            if let Some(start) = next
                && start < first
            {
                ranges.push((start, first - 1));
            }
            next = last.checked_add(1);
        }
        if let Some(start) = next
            && start <= max
        {
            ranges.push((start, max));
        }
        List { ranges, exact: self.exact }
    }

    /// At most `count` ranges that contain everything: the widest gaps stay.
    pub(crate) fn coarsen(&mut self, count: usize) {
        let count = count.max(1);
        if self.ranges.len() <= count {
            return;
        }
        let gap = |pair: &[(u128, u128)]| pair[1].0 - pair[0].1;
        let mut gaps: Vec<u128> = self.ranges.windows(2).map(gap).collect();
        let (wider, &mut smallest, _) = gaps.select_nth_unstable_by(count - 1, |a, b| b.cmp(a));
        // Gaps wider than this stay, and of those that are as wide the first ones.
        let mut equal = count - 1 - wider.iter().filter(|&&gap| gap > smallest).count();
        self.ranges.dedup_by(|later, kept| {
            let gap = later.0 - kept.1;
            let stays = gap > smallest || gap == smallest && equal > 0;
            if stays {
                equal -= usize::from(gap == smallest);
            } else {
                kept.1 = later.1;
            }
            !stays
        });
        self.exact = false;
    }
}

/// Turns conditions into lists. Large sets are reduced once, however many rules name them.
#[derive(Default)]
pub(crate) struct Lister {
    addresses: HashMap<(*const AddressSet, bool, Family), List>,
    numbers: HashMap<(*const NumberSet, bool), List>,
}

const PORTS: u128 = u16::MAX as u128;

pub(crate) const fn address_max(family: Family) -> u128 {
    match family {
        Family::Ipv4 => u32::MAX as u128,
        Family::Ipv6 => u128::MAX,
    }
}

impl Lister {
    pub(crate) fn addresses(&mut self, list: &AddressMatch, family: Family) -> List {
        let max = address_max(family);
        let own = list.ranges.iter().filter(|range| range.family() == family).map(|range| range.bits());
        let own = List::of(own.collect());
        let start = if list.negated { own.not(max) } else { own };
        list.sets.iter().fold(start, |all, set| {
            let set = self.address_set(set, list.negated, family);
            if list.negated { all.and(set) } else { all.or(set) }
        })
    }

    fn address_set(&mut self, set: &Arc<AddressSet>, negated: bool, family: Family) -> &List {
        self.addresses.entry((Arc::as_ptr(set), negated, family)).or_insert_with(|| {
            let exact = List { ranges: set.bits(family), exact: true };
            let mut list = if negated { exact.not(address_max(family)) } else { exact };
            list.coarsen(COARSE);
            list
        })
    }

    pub(crate) fn ports(&mut self, list: &PortMatch) -> List {
        let own = list.ranges.iter().filter(|range| !range.is_empty());
        let own = List::of(own.map(|range| (u128::from(*range.start()), u128::from(*range.end()))).collect());
        let start = if list.negated { own.not(PORTS) } else { own };
        list.sets.iter().fold(start, |all, set| {
            let set = self.number_set(set, list.negated);
            if list.negated { all.and(set) } else { all.or(set) }
        })
    }

    fn number_set(&mut self, set: &Arc<NumberSet>, negated: bool) -> &List {
        self.numbers.entry((Arc::as_ptr(set), negated)).or_insert_with(|| {
            let exact = numbers(set);
            let mut list = if negated { exact.not(PORTS) } else { exact };
            list.coarsen(COARSE);
            list
        })
    }
}

/// All of a set of numbers.
pub(crate) fn numbers(set: &NumberSet) -> List {
    let ranges = set.ranges().map(|range| (u128::from(*range.start()), u128::from(*range.end())));
    List { ranges: ranges.collect(), exact: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(ranges: &[(u128, u128)]) -> List {
        List::of(ranges.to_vec())
    }

    #[test]
    fn lists_are_sets() {
        let a = list(&[(10, 20), (0, 3), (21, 25), (40, 50)]);
        assert_eq!(a.ranges, [(0, 3), (10, 25), (40, 50)]);
        assert_eq!(a.not(60).ranges, [(4, 9), (26, 39), (51, 60)]);
        assert_eq!(a.not(50).ranges, [(4, 9), (26, 39)]);
        assert_eq!(list(&[(0, u128::MAX)]).not(u128::MAX).ranges, []);
        assert_eq!(list(&[]).not(7).ranges, [(0, 7)]);
        let b = list(&[(2, 12), (25, 45)]);
        assert_eq!(a.and(&b).ranges, [(2, 3), (10, 12), (25, 25), (40, 45)]);
        assert_eq!(a.or(&b).ranges, [(0, 50)]);
    }

    #[test]
    fn a_coarse_list_contains_the_exact_one_and_keeps_the_widest_gaps() {
        let mut coarse = list(&[(0, 1), (3, 4), (100, 110), (112, 120), (500, 600)]);
        coarse.coarsen(3);
        assert_eq!(coarse.ranges, [(0, 4), (100, 120), (500, 600)]);
        assert!(!coarse.exact);
        // Of equal gaps the first ones.
        let mut coarse = list(&[(0, 0), (2, 2), (4, 4), (6, 6)]);
        coarse.coarsen(2);
        assert_eq!(coarse.ranges, [(0, 0), (2, 6)]);
        let mut same = list(&[(0, 0), (2, 2)]);
        same.coarsen(2);
        assert!(same.exact);
    }
}
