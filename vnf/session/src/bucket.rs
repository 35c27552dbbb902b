//! The index: buckets of one cache line, each with ten tagged entries.
//!
//! A key that is not there costs one line; one that is there, this line and its session's card. Buckets are changed under
//! the lock of their shard and read without: an entry is never moved while its session lives, so a reader that comes in between sees
//! the bucket before or after each change. What it finds is checked against the card.
//!
//! A bucket that is full leads to another one, from the shard's reserve. Only the last of such a chain, once empty, goes back to
//! the reserve: a reader who is there has seen all that lies before it.

use crate::key::Side;
use crate::sync::{AtomicU64, Ordering};

/// Entries of a bucket.
pub(crate) const CELLS: usize = 10;
/// Words with tags: four each; the last has two, and in its upper half the way to the next bucket.
const TAGS: usize = 3;
const LAST: usize = TAGS - 1;
/// Where that way lies in its word.
const UPPER: u64 = 0xffff_ffff << 32;
const LOW: u64 = 0x7fff_7fff_7fff_7fff;
/// One in each 16 bits.
const EACH: u64 = 0x0001_0001_0001_0001;
/// No next bucket.
const NONE: u32 = 0;

/// Two and a half words of tags of 16 bits (0: vacant), the number of the next bucket plus one, five words of entries.
#[repr(align(64))]
pub(crate) struct Bucket([AtomicU64; 8]);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Bucket>() == 64);

/// One of the two keys of the session at `index`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) index: u32,
    pub(crate) side: Side,
}

impl Entry {
    #[inline]
    fn encode(self) -> u32 {
        self.index << 1 | self.side as u32
    }

    #[inline]
    fn decode(entry: u32) -> Entry {
        let side = if entry & 1 == 0 { Side::Forward } else { Side::Reverse };
        Entry { index: entry >> 1, side }
    }
}

/// Cells of a bucket: in bit 16 × lane + word those of each word's lanes.
#[derive(Clone, Copy)]
struct Cells(u64);

impl Iterator for Cells {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let bit = self.0.trailing_zeros() as usize;
        self.0 &= self.0 - 1;
        Some(bit % 16 * 4 + bit / 16)
    }
}

impl Bucket {
    pub(crate) fn new() -> Self {
        Bucket(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// Brings the line into the cache.
    #[inline]
    pub(crate) fn touch(&self) -> u64 {
        self.0[LAST].load(Ordering::Relaxed)
    }

    /// The cells with this tag; 0 finds those that are vacant.
    #[inline]
    fn cells(&self, tag: u16) -> Cells {
        let pattern = u64::from(tag) * EACH;
        let equal = |word: usize| {
            let differing = self.0[word].load(Ordering::Acquire) ^ pattern;
            // The top bit of each 16 that are all zero, exactly.
            !(((differing & LOW) + LOW) | differing | LOW)
        };
        Cells(equal(0) >> 15 | equal(1) >> 14 | (equal(2) & 0xffff_ffff) >> 13)
    }

    /// Whether no entry has this tag, and none lies in another bucket: nearly always so for a key that is not there.
    #[inline]
    pub(crate) fn is_without(&self, tag: u16) -> bool {
        let pattern = u64::from(tag) * EACH;
        // The top bit of some 16 if any are all zero, not always of the right ones (A. Mycroft, 1987).
        let zero = |differing: u64| differing.wrapping_sub(EACH) & !differing & !LOW;
        let word = |word: usize| self.0[word].load(Ordering::Acquire);
        let last = word(LAST);
        // In the upper half of the last word nothing is all zero, as it is not looked at.
        let some = zero(word(0) ^ pattern) | zero(word(1) ^ pattern) | zero((last ^ pattern) | UPPER);
        some == 0 && last & UPPER == 0
    }

    /// A vacant cell.
    #[inline]
    pub(crate) fn vacant(&self) -> Option<usize> {
        self.cells(0).next()
    }

    /// One more vacant cell beside that of [`Bucket::vacant`].
    #[inline]
    pub(crate) fn second_vacant(&self) -> Option<usize> {
        self.cells(0).nth(1)
    }

    /// The entries with this tag.
    #[inline]
    pub(crate) fn entries(&self, tag: u16) -> impl Iterator<Item = Entry> {
        self.cells(tag).map(|cell| self.entry(cell))
    }

    /// The number of the bucket in the reserve that holds what finds no room here.
    #[inline]
    pub(crate) fn next(&self) -> Option<u32> {
        ((self.0[LAST].load(Ordering::Acquire) >> 32) as u32).checked_sub(1)
    }

    /// Leads to another bucket or to none. The shard's lock must be held, as for all that changes a bucket.
    pub(crate) fn lead(&self, next: Option<u32>) {
        let next = u64::from(next.map_or(NONE, |number| number + 1));
        self.change(LAST, UPPER, next << 32);
    }

    /// Puts an entry into a vacant cell; says whether there was one.
    #[inline]
    pub(crate) fn put(&self, tag: u16, entry: Entry) -> bool {
        let Some(cell) = self.vacant() else { return false };
        self.put_at(cell, tag, entry);
        true
    }

    /// Puts an entry into a cell that is vacant.
    #[inline]
    pub(crate) fn put_at(&self, cell: usize, tag: u16, entry: Entry) {
        self.change(
            TAGS + cell / 2,
            u64::from(u32::MAX) << half(cell),
            u64::from(entry.encode()) << half(cell),
        );
        // The tag last: who sees it sees the entry.
        self.tag(cell, tag);
    }

    /// Takes an entry out; says whether it was there.
    pub(crate) fn take(&self, tag: u16, entry: Entry) -> bool {
        let Some(cell) = self.cells(tag).find(|&cell| self.entry(cell) == entry) else { return false };
        self.tag(cell, 0);
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.cells(0).count() == CELLS
    }

    #[inline]
    fn entry(&self, cell: usize) -> Entry {
        let word = self.0.get(TAGS + cell / 2).map_or(0, |word| word.load(Ordering::Relaxed));
        Entry::decode((word >> half(cell)) as u32)
    }

    #[inline]
    fn tag(&self, cell: usize, tag: u16) {
        let shift = cell % 4 * 16;
        self.change(cell / 4, u64::from(u16::MAX) << shift, u64::from(tag) << shift);
    }

    #[inline]
    fn change(&self, word: usize, mask: u64, bits: u64) {
        if let Some(word) = self.0.get(word) {
            word.store(word.load(Ordering::Relaxed) & !mask | bits, Ordering::Release);
        }
    }
}

#[inline]
fn half(cell: usize) -> usize {
    cell % 2 * 32
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn holds_ten_entries_and_finds_each_by_its_tag() {
        let bucket = Bucket::new();
        let entry = |index: u32| Entry {
            index,
            side: if index.is_multiple_of(3) { Side::Forward } else { Side::Reverse },
        };
        bucket.lead(Some(0xffff_fffe));
        // Tags that differ in one bit, in the top bit, by a borrow; two alike.
        let tags = [1, 2, 3, 0x8000, 0x8001, 0xffff, 0x0100, 0x00ff, 7, 7];
        for (index, &tag) in (0..).zip(&tags) {
            assert!(bucket.put(tag, entry(index + (1 << 30))));
        }
        assert!(!bucket.put(9, entry(1)), "it is full");
        for (index, &tag) in (0..).zip(&tags) {
            let found: Vec<_> = bucket.entries(tag).map(|entry| entry.index - (1 << 30)).collect();
            let wanted: Vec<_> =
                (0..).zip(&tags).filter(|(_, other)| **other == tag).map(|(at, _)| at).collect();
            assert_eq!(found, wanted);
            assert!(bucket.entries(tag).any(|found| found == entry(index + (1 << 30))));
        }
        for absent in [4, 0x7fff, 0xfffe, 0xfffd, 0x0101] {
            assert_eq!(bucket.entries(absent).count(), 0);
        }
        assert_eq!(bucket.next(), Some(0xffff_fffe));
        assert!(!bucket.take(7, entry(3)) && bucket.take(7, entry(9 + (1 << 30))));
        assert_eq!(bucket.entries(7).map(|entry| entry.index - (1 << 30)).collect::<Vec<_>>(), [8]);
        assert!(bucket.put(0x4242, entry(5)) && !bucket.is_empty());
        bucket.lead(None);
        assert_eq!((bucket.next(), bucket.entries(0x4242).count()), (None, 1));
    }
}
