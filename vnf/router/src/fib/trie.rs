//! Longest prefix match: a multibit trie that one writer changes while others read it.
//!
//! The first bits of a key index a table, below it every node consumes eight. Table and nodes consist of words, and a word
//! is either a value or leads to a node:
//!
//! ```text
//! bit  31        30 .. 26   25 .. 0
//!      a node?   depth      value, or where the node lies in units of 64 bytes
//! ```
//!
//! Depth is how many bits of this level the prefix has that the slot belongs to; 0: it is inherited from a level above.
//! Readers ignore it; it tells the writer which prefix it may overwrite. Behind a word that leads to a node it is that of
//! the prefix that covers the slot.
//!
//! A node has 256 slots, of which runs of equal words are stored once:
//!
//! ```text
//! word  0 .. 8    one bit for each slot: does a run begin here?
//!       8 .. 10   how many runs begin before each of the eight words above: a byte each
//!       10 ..     the words, one for each run
//! ```
//!
//! IPv6 has wide tables between the first one and the nodes: 2¹⁶ words for each /16 with something in it, of which the
//! world uses a few dozen. When there is none left, nodes do, at the price of two more steps.
//!
//! A node of up to six runs lies in one cache line. What begins where never changes while a node can be found; words may.
//! Everything else is done by making a new node and storing one word above it.

use std::fmt::Debug;
use std::hash::Hash;
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use zerocopy::FromZeros;

/// The word leads to a node.
pub(super) const NODE: u32 = 1 << 31;
pub(super) const DEPTH_SHIFT: u32 = 26;
/// What a word leads to.
pub(super) const VALUE: u32 = (1 << DEPTH_SHIFT) - 1;

/// The word leads to a wide table instead. Only in the first table.
pub(super) const WIDE: u32 = NODE | 1 << 25;
/// The bits that a wide table consumes.
pub(super) const WIDE_STRIDE: u8 = 16;
/// The words of a wide table.
pub(super) const WIDE_SLOTS: usize = 1 << WIDE_STRIDE;

/// Bits that a node consumes.
pub(super) const STRIDE: u8 = 8;
/// Slots of a node.
pub(super) const SLOTS: usize = 1 << STRIDE;
/// Words with the bits that say where runs begin.
pub(super) const MARKS: usize = SLOTS / 32;
/// Words before the runs of a node: the marks and how many precede them.
pub(super) const HEAD: usize = MARKS + 2;
/// Words in a unit of memory: a cache line.
pub(super) const UNIT: usize = 16;

/// How many keys are looked up together.
pub(super) const TOGETHER: usize = 64;

/// The bits of an address, most significant first.
pub(super) trait Key: Copy + Ord + Hash + Debug + Default {
    const WIDTH: u8;

    /// The `count` bits (1 to 32) from `offset` on, zeros after the last; `offset` is smaller than the width.
    fn bits(self, offset: u8, count: u8) -> usize;

    /// The [`STRIDE`] bits from `offset` on, which is smaller than the width and a multiple of eight.
    fn octet(self, offset: u8) -> usize;

    /// The first `len` bits, zeros behind them.
    fn truncated(self, len: u8) -> Self;
}

impl Key for u32 {
    const WIDTH: u8 = 32;

    #[inline]
    fn bits(self, offset: u8, count: u8) -> usize {
        ((self << offset) >> (32 - count)) as usize
    }

    #[inline]
    fn octet(self, offset: u8) -> usize {
        (self >> (24 - offset) & 0xff) as usize
    }

    fn truncated(self, len: u8) -> u32 {
        self & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
    }
}

impl Key for u128 {
    const WIDTH: u8 = 128;

    #[inline]
    fn bits(self, offset: u8, count: u8) -> usize {
        ((self << offset) >> (128 - count)) as usize
    }

    #[inline]
    fn octet(self, offset: u8) -> usize {
        // Shifts of 64 bits, which are cheaper by far than those of 128.
        let half = if offset < 64 { (self >> 64) as u64 } else { self as u64 };
        (half >> (56 - offset % 64) & 0xff) as usize
    }

    fn truncated(self, len: u8) -> u128 {
        self & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
    }
}

/// What readers walk through.
///
/// Every load acquires and every store releases: who sees a word sees the node that it leads to, and who sees a word of
/// memory that is used again sees the epoch that announced it.
#[derive(Debug, Default)]
pub(super) struct Trie<K, const ROOT: u8> {
    pub(super) root: Box<[AtomicU32]>,
    /// The wide tables, one behind the other.
    pub(super) wide: Box<[AtomicU32]>,
    pub(super) nodes: Box<[AtomicU32]>,
    /// Bytes of nodes in use, for people.
    pub(super) used: AtomicUsize,
    key: std::marker::PhantomData<K>,
}

impl<K: Key, const ROOT: u8> Trie<K, ROOT> {
    /// An empty one with room for `units` of nodes. Memory is only taken when it is written to; if there is no such address
    /// space, there is no room.
    pub(super) fn with_room(units: usize, tables: usize) -> Self {
        let zeroed = |words| <[AtomicU32]>::new_box_zeroed_with_elems(words).unwrap_or_default();
        Trie {
            root: zeroed(1 << ROOT),
            wide: zeroed(tables.min(WIDE_SLOTS) * WIDE_SLOTS),
            nodes: zeroed(units.min(VALUE as usize / 2) * UNIT),
            used: AtomicUsize::new(0),
            key: std::marker::PhantomData,
        }
    }

    /// The value of the longest prefix that contains `key`; 0: there is none.
    #[inline]
    pub(super) fn lookup(&self, key: K) -> u32 {
        let (mut word, mut offset) = self.first(key);
        // In memory that is just used again a walk may come to anything: it ends nevertheless.
        while word & NODE != 0 && offset < K::WIDTH {
            word = self.step(word, key.octet(offset));
            offset += STRIDE;
        }
        word & VALUE
    }

    /// [`Trie::lookup`] of up to [`TOGETHER`] keys, level by level: the loads of a level do not wait for each other.
    #[inline]
    pub(super) fn lookup_all(&self, keys: &[K], values: &mut [u32]) {
        // Those that are not done yet.
        let mut walking = [0u8; TOGETHER];
        let mut count = 0;
        let together = if self.wide.is_empty() { ROOT } else { ROOT + WIDE_STRIDE };
        for (index, (key, value)) in (0..TOGETHER as u8).zip(keys.iter().zip(values.iter_mut())) {
            let (word, offset) = self.first(*key);
            if offset == together {
                *value = word;
                // Written always and kept sometimes: no branch to be guessed.
                walking[count % TOGETHER] = index;
                count += (word >> 31) as usize;
            } else {
                *value = self.lookup(*key);
            }
        }
        let mut offset = together;
        while count > 0 && offset < K::WIDTH {
            // Three short loops rather than a long one: what the processor looks ahead reaches over all of a short one, so
            // that the misses of all keys overlap. First the heads are fetched, then read, then the words fetched.
            let mut fetched = 0;
            for &index in &walking[..count] {
                let base = (values.get(usize::from(index)).map_or(0, |word| word & VALUE)) as usize * UNIT;
                fetched ^= self.nodes.get(base).map_or(0, |word| word.load(Ordering::Acquire));
            }
            black_box(fetched);
            let mut places = [0usize; TOGETHER];
            for (place, &index) in places.iter_mut().zip(&walking[..count]) {
                let at = usize::from(index);
                let (Some(key), Some(value)) = (keys.get(at), values.get(at)) else { continue };
                *place = self.place(*value, key.octet(offset)).unwrap_or(usize::MAX);
            }
            let mut left = 0;
            for step in 0..count {
                let index = walking[step];
                let word = self.nodes.get(places[step]).map_or(0, |word| word.load(Ordering::Acquire));
                if let Some(value) = values.get_mut(usize::from(index)) {
                    *value = word;
                }
                walking[left % TOGETHER] = index;
                left += (word >> 31) as usize;
            }
            count = left;
            offset += STRIDE;
        }
        for value in values.iter_mut().take(TOGETHER) {
            *value &= VALUE;
        }
    }

    /// What the first table says, or the wide one that it leads to; and how many bits that took.
    #[inline]
    fn first(&self, key: K) -> (u32, u8) {
        let word = self.root.get(key.bits(0, ROOT)).map_or(0, |word| word.load(Ordering::Acquire));
        if self.wide.is_empty() || word & WIDE != WIDE {
            return (word, ROOT);
        }
        let at = (word & !WIDE & VALUE) as usize * WIDE_SLOTS + key.bits(ROOT, WIDE_STRIDE);
        (self.wide.get(at).map_or(0, |word| word.load(Ordering::Acquire)), ROOT + WIDE_STRIDE)
    }

    /// The word of a slot of the node that `word` leads to.
    #[inline]
    fn step(&self, word: u32, slot: usize) -> u32 {
        let place = self.place(word, slot).and_then(|place| self.nodes.get(place));
        place.map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Where that word lies.
    #[inline]
    fn place(&self, word: u32, slot: usize) -> Option<usize> {
        let base = (word & VALUE) as usize * UNIT;
        let head = self.nodes.get(base..base + HEAD)?;
        Some(base + HEAD + run(head, slot))
    }

    /// Bytes in use.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.root) + self.used.load(Ordering::Relaxed)
    }
}

/// Which run of a node a slot (below 256) belongs to.
#[inline]
pub(super) fn run(head: &[AtomicU32], slot: usize) -> usize {
    let (word, bit) = (slot / 32, slot as u32 % 32);
    let load = |at: usize| head.get(at).map_or(0, |word| word.load(Ordering::Acquire));
    let before = load(MARKS + word / 4) >> (8 * (word % 4)) & 0xff;
    // All slots up to and including this one. The first slot begins a run; nothing wraps but in memory that is used again.
    let up_to = load(word) & (u32::MAX >> (31 - bit));
    (before + up_to.count_ones()).wrapping_sub(1) as usize & (SLOTS - 1)
}
