//! Membership in sorted ranges.
//!
//! Large sets whose values are spread (most are) have a table over the first bits in which they differ: it says where the few
//! values lie among which to look. The others, and who makes all his values meet in one place, get a search tree without pointers.
//!
//! A set of ranges is a list of values behind which membership changes. They lie in blocks of one or two cache lines; each level above
//! holds the last value of each block below it. A search counts in one block per level how many values are smaller:
//! no branch depends on the value, and a million ranges are five blocks of sixteen values deep.

use std::fmt;

/// A number of fixed width.
pub(super) trait Number: Copy + Ord + Default + fmt::Debug {
    const ZERO: Self;
    const MAX: Self;
    fn above(self) -> Option<Self>;
    fn below(self) -> Option<Self>;
    /// How many low bits hold all bits in which the two differ.
    fn differing(self, other: Self) -> u32;
    /// Without its low bits.
    fn without(self, low: u32) -> Self;
    /// `self - base`, which is not negative, without its low bits.
    fn slot(self, base: Self, low: u32) -> usize;
}

macro_rules! number {
    ($($kind:ty),+) => {$(
        impl Number for $kind {
            const ZERO: Self = 0;
            const MAX: Self = <$kind>::MAX;
            fn above(self) -> Option<Self> {
                self.checked_add(1)
            }
            fn below(self) -> Option<Self> {
                self.checked_sub(1)
            }
            fn differing(self, other: Self) -> u32 {
                Self::BITS - (self ^ other).leading_zeros()
            }
            fn without(self, low: u32) -> Self {
                self & <$kind>::MAX.checked_shl(low).unwrap_or(0)
            }
            #[inline]
            fn slot(self, base: Self, low: u32) -> usize {
                usize::try_from(self.wrapping_sub(base) >> low).unwrap_or(usize::MAX)
            }
        }
    )+};
}
number!(u32, u64, u128);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(align(64))]
struct Block<T, const B: usize>([T; B]);

impl<T: Number, const B: usize> Block<T, B> {
    /// How many of the values are smaller; unused ones are the largest value.
    #[inline]
    fn rank(&self, value: T) -> usize {
        self.0.iter().map(|&key| usize::from(key < value)).sum()
    }
}

/// Fewer values than this get no table.
const LARGE: usize = 1024;

/// The most values that a slot of the table may lead to.
const CROWDED: u32 = 40;

/// A table over the first bits in which values differ.
#[derive(Clone, PartialEq, Eq)]
struct Table<T> {
    /// The first value, without the bits that differ.
    base: T,
    /// How many bits lie below those that choose the slot.
    shift: u32,
    /// Where the values of each slot begin, and of the one behind the last.
    starts: Box<[u32]>,
    keys: Box<[T]>,
}

impl<T: Number> Table<T> {
    /// `None` if there are too few values, or many in one slot.
    fn new(keys: &[T]) -> Option<Table<T>> {
        let (&first, &last) = (keys.first()?, keys.last()?);
        if keys.len() < LARGE || keys.len() > u32::MAX as usize {
            return None;
        }
        let width = first.differing(last);
        // Four to eight values a slot.
        let bits = (keys.len().ilog2() - 2).min(width);
        let (base, shift) = (first.without(width), width - bits);
        let mut starts = vec![0u32; (1 << bits) + 1];
        keys.iter().for_each(|key| starts[key.slot(base, shift) + 1] += 1);
        if starts.iter().any(|&count| count > CROWDED) {
            return None;
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        Some(Table { base, shift, starts: starts.into(), keys: keys.into() })
    }

    /// How many values are smaller.
    #[inline]
    fn rank(&self, value: T) -> usize {
        if value < self.base {
            return 0;
        }
        let slot = value.slot(self.base, self.shift);
        let (Some(&from), Some(&to)) = (self.starts.get(slot), self.starts.get(slot.saturating_add(1)))
        else {
            return self.keys.len();
        };
        let keys = self.keys.get(from as usize..to as usize).unwrap_or_default();
        from as usize + keys.iter().map(|&key| usize::from(key < value)).sum::<usize>()
    }
}

/// A set of numbers, in blocks of `B`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Steps<T, const B: usize> {
    /// Instead of the levels.
    table: Option<Table<T>>,
    /// The values behind which membership changes come last.
    levels: Vec<Box<[Block<T, B>]>>,
    /// How many of these there are.
    len: usize,
    /// Whether the smallest number is in the set.
    begins_inside: bool,
}

impl<T, const B: usize> Default for Steps<T, B> {
    fn default() -> Self {
        Steps { table: None, levels: Vec::new(), len: 0, begins_inside: false }
    }
}

impl<T: Number, const B: usize> Steps<T, B> {
    /// Of ranges that are sorted, disjoint and not adjacent.
    pub(super) fn new(ranges: impl Iterator<Item = (T, T)>) -> Self {
        let mut keys = Vec::with_capacity(2 * ranges.size_hint().0);
        let mut begins_inside = false;
        for (first, last) in ranges {
            match first.below() {
                Some(before) => keys.push(before),
                None => begins_inside = true,
            }
            if last < T::MAX {
                keys.push(last);
            }
        }
        let len = keys.len();
        let table = Table::new(&keys);
        if table.is_some() {
            return Steps { table, levels: Vec::new(), len, begins_inside };
        }
        let mut levels = Vec::new();
        while !keys.is_empty() {
            let blocks: Box<[Block<T, B>]> = keys
                .chunks(B)
                .map(|chunk| {
                    let mut block = [T::MAX; B];
                    block[..chunk.len()].copy_from_slice(chunk);
                    Block(block)
                })
                .collect();
            let single = blocks.len() == 1;
            keys = if single { Vec::new() } else { blocks.iter().map(|block| block.0[B - 1]).collect() };
            // What is behind everything is looked for in the last block.
            if let Some(last) = keys.last_mut() {
                *last = T::MAX;
            }
            levels.push(blocks);
        }
        levels.reverse();
        Steps { table, levels, len, begins_inside }
    }

    #[inline]
    pub(super) fn contains(&self, value: T) -> bool {
        let rank = match &self.table {
            Some(table) => table.rank(value),
            None => self
                .levels
                .iter()
                .fold(0, |block, level| block * B + level.get(block).map_or(0, |block| block.rank(value))),
        };
        (rank % 2 == 1) != self.begins_inside
    }

    /// The ranges again.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (T, T)> + '_ {
        let blocks =
            self.levels.last().into_iter().flat_map(|blocks| blocks.iter()).flat_map(|block| block.0);
        let table = self.table.iter().flat_map(|table| table.keys.iter().copied());
        let mut ends = blocks.take(self.len).chain(table);
        let mut start = self.begins_inside.then_some(T::ZERO);
        let mut over = false;
        std::iter::from_fn(move || {
            if over {
                return None;
            }
            let first = match start.take() {
                Some(first) => first,
                None => ends.next()?.above()?,
            };
            let last = ends.next().unwrap_or_else(|| {
                over = true;
                T::MAX
            });
            Some((first, last))
        })
    }

    /// How many ranges.
    pub(super) fn len(&self) -> usize {
        (self.len + usize::from(self.begins_inside)).div_ceil(2)
    }

    pub(super) fn memory(&self) -> usize {
        let table = |table: &Table<T>| size_of_val(&*table.starts) + size_of_val(&*table.keys);
        self.levels.iter().map(|level| size_of_val(&**level)).sum::<usize>()
            + self.table.as_ref().map_or(0, table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ranges: &[(u32, u32)]) {
        let steps = Steps::<u32, 4>::new(ranges.iter().copied());
        assert_eq!(steps.ranges().collect::<Vec<_>>(), ranges);
        assert_eq!(steps.len(), ranges.len());
        let edges = ranges.iter().flat_map(|&(first, last)| [first, last]);
        let probes = edges.flat_map(|edge| [edge.wrapping_sub(1), edge, edge.wrapping_add(1)]);
        for probe in probes.chain([0, 1, u32::MAX - 1, u32::MAX]) {
            let inside = ranges.iter().any(|&(first, last)| (first..=last).contains(&probe));
            assert_eq!(steps.contains(probe), inside, "{probe} in {ranges:?}");
        }
    }

    #[test]
    fn every_edge_of_sets_of_every_size() {
        check(&[]);
        check(&[(0, u32::MAX)]);
        check(&[(0, 0)]);
        check(&[(u32::MAX, u32::MAX)]);
        check(&[(0, 5), (7, u32::MAX)]);
        for count in 1..200 {
            let ranges: Vec<_> = (0..count).map(|n| (n * 10 + 3, n * 10 + 3 + n % 5)).collect();
            check(&ranges);
            check(&[vec![(0, 1)], ranges.clone()].concat());
            check(&[ranges, vec![(u32::MAX - 7, u32::MAX)]].concat());
        }
    }

    #[test]
    fn every_edge_of_large_sets_spread_and_crowded() {
        let spread: Vec<_> = (0..2000u32).map(|n| (n * 2_000_003 + 9, n * 2_000_003 + 9 + n)).collect();
        let close: Vec<_> = (0..2000u32).map(|n| (n * 4 + 9, n * 4 + 10)).collect();
        let crowded = [close.clone(), vec![(1 << 31, 1 << 31)]].concat();
        for (ranges, table) in [(spread, true), (close, true), (crowded, false)] {
            assert_eq!(Steps::<u32, 4>::new(ranges.iter().copied()).table.is_some(), table);
            check(&ranges);
        }
    }
}
