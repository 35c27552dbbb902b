//! Membership in sorted ranges: a search tree without pointers.
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

/// A set of numbers, in blocks of `B`.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Steps<T, const B: usize> {
    /// The values behind which membership changes come last.
    levels: Vec<Box<[Block<T, B>]>>,
    /// How many of these there are.
    len: usize,
    /// Whether the smallest number is in the set.
    begins_inside: bool,
}

impl<T, const B: usize> Default for Steps<T, B> {
    fn default() -> Self {
        Steps { levels: Vec::new(), len: 0, begins_inside: false }
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
        Steps { levels, len, begins_inside }
    }

    #[inline]
    pub(super) fn contains(&self, value: T) -> bool {
        let rank = self
            .levels
            .iter()
            .fold(0, |block, level| block * B + level.get(block).map_or(0, |block| block.rank(value)));
        (rank % 2 == 1) != self.begins_inside
    }

    /// The ranges again.
    pub(super) fn ranges(&self) -> impl Iterator<Item = (T, T)> + '_ {
        let keys = self.levels.last().into_iter().flat_map(|blocks| blocks.iter()).flat_map(|block| block.0);
        let mut ends = keys.take(self.len);
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
        self.levels.iter().map(|level| size_of_val(&**level)).sum()
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
}
