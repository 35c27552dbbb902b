//! Longest prefix match: a multibit trie that one writer changes while others read it.
//!
//! The first bits of a key index a table, below it every node consumes some more. Table and nodes consist of words, and a word
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
//! A node has up to 256 slots, of which runs of equal words are stored once:
//!
//! ```text
//! word  0 .. 8    one bit for each slot: does a run begin here?
//!       8 .. 10   how many runs begin before each of the eight words above: a byte each
//!       10 ..     the words, one for each run
//! ```
//!
//! Where not many prefixes lie, as nearly everywhere in IPv6, one node takes the place of several levels: up to 64 ranges of
//! slots, searched by comparing. There are four sizes, for 8, 16, 32 and 64 ranges (one cache line to eight):
//!
//! ```text
//! first half   where each range begins, all bits set behind the last
//! second half  the words, one for each range
//! ```
//!
//! Such a node consumes all bits up to the next bound ([`Key::bound`]), so that what lies below a bound is where it is whatever
//! kinds of nodes lead there. One that gets too many ranges becomes a node of eight bits with such nodes below it.
//!
//! A node of up to six runs lies in one cache line. What begins where never changes while a node can be found; words may.
//! Everything else is done by making a new node and storing one word above it.

use std::fmt::Debug;
use std::hash::Hash;
use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use zerocopy::FromZeros;

/// The word leads to a node.
pub(super) const NODE: u32 = 1 << 31;
pub(super) const DEPTH_SHIFT: u32 = 26;
/// What a word leads to.
pub(super) const VALUE: u32 = (1 << DEPTH_SHIFT) - 1;

/// The word leads to a node of ranges.
pub(super) const RANGES: u32 = NODE | 1 << 25;
/// Where the size of such a node stands, as a power of two: 8 to 64 ranges.
const SIZE_SHIFT: u32 = 23;
/// Where a node lies.
pub(super) const BLOCK: u32 = (1 << SIZE_SHIFT) - 1;
/// How many ranges a node has at most.
pub(super) const MOST_RANGES: usize = 8 << 3;

/// Bits that another node consumes at most.
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
    /// Slots of the first table.
    const FIRST: usize;
    /// Whether there are nodes of ranges.
    const HAS_RANGES: bool;

    /// The slot of the first table, and how many bits are consumed then.
    fn first(self) -> (usize, u8);

    /// How many bits are consumed when a slot of the first table was found.
    fn consumed(slot: usize) -> u8;

    /// The slots of the first table that a prefix covers which ends there: not longer than what [`Key::first`] consumes.
    fn covered(self, len: u8) -> [Range<usize>; 2];

    /// The first bit that no node consumes which begins at bit `offset`, at most [`MOST_BITS`] behind it.
    fn bound(offset: u8) -> u8;

    /// The `count` bits (1 to 32) from `offset` on, zeros after the last; `offset` is smaller than the width.
    fn bits(self, offset: u8, count: u8) -> usize;

    /// The first `len` bits, zeros behind them.
    fn truncated(self, len: u8) -> Self;

    /// The first `offset` bits, eight others behind them, then zeros.
    fn with_octet(self, offset: u8, octet: u32) -> Self;
}

impl Key for u32 {
    const WIDTH: u8 = 32;
    const FIRST: usize = 1 << 24;
    const HAS_RANGES: bool = false;

    #[inline]
    fn first(self) -> (usize, u8) {
        ((self >> 8) as usize, 24)
    }

    fn consumed(_: usize) -> u8 {
        24
    }

    fn covered(self, len: u8) -> [Range<usize>; 2] {
        let first = (self >> 8) as usize;
        [first..first + (1 << (24 - len)), 0..0]
    }

    #[inline]
    fn bound(_: u8) -> u8 {
        32
    }

    #[inline]
    fn bits(self, offset: u8, count: u8) -> usize {
        ((self << offset) >> (32 - count)) as usize
    }

    fn truncated(self, len: u8) -> u32 {
        self & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
    }

    fn with_octet(self, offset: u8, octet: u32) -> u32 {
        self.truncated(offset) | octet << 24 >> offset
    }
}

/// What depth can tell: the most bits between two bounds.
pub(super) const MOST_BITS: u8 = 31;

/// Global unicast addresses, 2000::/3, go by bits 3 to 27, all others by the first 16.
const GLOBAL: usize = 1 << 24;
/// The bounds of IPv6 from every bit on. From 27 on: 56 and 80 (what providers give to sites and to hosts lies before), 104,
/// 128. From 16 on: 40 and 56.
const BOUNDS: [u8; 128] = {
    let mut bounds = [0; 128];
    let mut offset = 0;
    while offset < 128 {
        bounds[offset] = match offset as u8 {
            56.. => 80 + (offset as u8 - 56) / 24 * 24,
            at if at % 8 == 3 && at > 24 => 56,
            ..40 => 40,
            _ => 56,
        };
        offset += 1;
    }
    bounds
};

impl Key for u128 {
    const WIDTH: u8 = 128;
    const FIRST: usize = GLOBAL + (1 << 16);
    const HAS_RANGES: bool = true;

    #[inline]
    fn first(self) -> (usize, u8) {
        let high = (self >> 64) as u64;
        if high >> 61 == 1 {
            ((high >> 37) as usize % GLOBAL, 27)
        } else {
            (GLOBAL + (high >> 48) as usize, 16)
        }
    }

    fn consumed(slot: usize) -> u8 {
        if slot < GLOBAL { 27 } else { 16 }
    }

    fn covered(self, len: u8) -> [Range<usize>; 2] {
        let (slot, consumed) = self.first();
        let near = slot..slot + (1 << (consumed - len));
        // One of less than three bits may have both kinds of addresses in it.
        let has_global = consumed != 27 && (1u128 << 125).truncated(len) == self;
        [near, if has_global { 0..GLOBAL } else { 0..0 }]
    }

    #[inline]
    fn bound(offset: u8) -> u8 {
        BOUNDS.get(usize::from(offset)).map_or(128, |bound| *bound)
    }

    #[inline]
    fn bits(self, offset: u8, count: u8) -> usize {
        // Shifts of 64 bits, which are cheaper by far than those of 128.
        let (high, low) = ((self >> 64) as u64, self as u64);
        let at = u32::from(offset) % 64;
        let word = if offset < 64 { high << at | low >> 1 >> (63 - at) } else { low << at };
        (word >> (64 - u32::from(count))) as usize
    }

    fn truncated(self, len: u8) -> u128 {
        self & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
    }

    fn with_octet(self, offset: u8, octet: u32) -> u128 {
        self.truncated(offset) | u128::from(octet) << 120 >> offset
    }
}

/// How many bits the node consumes that `word`, which was found with `offset` bits consumed, leads to.
#[inline]
pub(super) fn stride<K: Key>(word: u32, offset: u8) -> u8 {
    let left = K::bound(offset) - offset;
    if is_ranges::<K>(word) { left } else { left.min(STRIDE) }
}

/// Whether the node that `word` leads to is one of ranges.
#[inline]
pub(super) fn is_ranges<K: Key>(word: u32) -> bool {
    K::HAS_RANGES && word & RANGES == RANGES
}

/// What readers walk through.
///
/// Every load acquires and every store releases: who sees a word sees the node that it leads to, and who sees a word of
/// memory that is used again sees the epoch that announced it.
#[derive(Debug, Default)]
pub(super) struct Trie<K> {
    pub(super) root: Box<[AtomicU32]>,
    pub(super) nodes: Box<[AtomicU32]>,
    /// Bytes of nodes in use, for people.
    pub(super) used: AtomicUsize,
    key: std::marker::PhantomData<K>,
}

impl<K: Key> Trie<K> {
    /// An empty one with room for `units` of nodes. Memory is only taken when it is written to; if there is no such address
    /// space, there is no room.
    pub(super) fn with_room(units: usize) -> Self {
        let zeroed = |words| <[AtomicU32]>::new_box_zeroed_with_elems(words).unwrap_or_default();
        Trie {
            root: zeroed(K::FIRST),
            nodes: zeroed(units.min(BLOCK as usize) * UNIT),
            used: AtomicUsize::new(0),
            key: std::marker::PhantomData,
        }
    }

    /// The value of the longest prefix that contains `key`; 0: there is none.
    #[inline]
    pub(super) fn lookup(&self, key: K) -> u32 {
        let (slot, mut offset) = key.first();
        let mut word = self.root.get(slot).map_or(0, |word| word.load(Ordering::Acquire));
        // In memory that is just used again a walk may come to anything: it ends nevertheless.
        while word & NODE != 0 && offset < K::WIDTH {
            let stride = stride::<K>(word, offset);
            let place = self.place(word, key.bits(offset, stride)).and_then(|place| self.nodes.get(place));
            word = place.map_or(0, |word| word.load(Ordering::Acquire));
            offset += stride;
        }
        word & VALUE
    }

    /// [`Trie::lookup`] of up to [`TOGETHER`] keys, level by level: the loads of a level do not wait for each other.
    #[inline]
    pub(super) fn lookup_all(&self, keys: &[K], values: &mut [u32]) {
        // Those that are not done yet, and how many bits of them are consumed.
        let mut walking = [0u8; TOGETHER];
        let mut offsets = [0u8; TOGETHER];
        let mut count = 0;
        let all = (0..TOGETHER as u8).zip(keys.iter().zip(values.iter_mut()).zip(&mut offsets));
        for (index, ((key, value), offset)) in all {
            let (slot, consumed) = key.first();
            *value = self.root.get(slot).map_or(0, |word| word.load(Ordering::Acquire));
            *offset = consumed;
            // Written always and kept sometimes: no branch to be guessed.
            walking[count % TOGETHER] = index;
            count += (*value >> 31) as usize;
        }
        while count > 0 {
            // Three short loops rather than a long one: what the processor looks ahead reaches over all of a short one, so
            // that the misses of all keys overlap. First the heads are fetched, then read, then the words fetched.
            let mut fetched = 0;
            for &index in &walking[..count] {
                let word = values.get(usize::from(index)).copied().unwrap_or_default();
                let base = (word & BLOCK) as usize * UNIT;
                // Of a larger node, where the search begins.
                let middle = if is_ranges::<K>(word) { base + room(word) / 2 } else { base };
                fetched ^= self.nodes.get(middle).map_or(0, |word| word.load(Ordering::Acquire));
            }
            black_box(fetched);
            let mut places = [0usize; TOGETHER];
            for (place, &index) in places.iter_mut().zip(&walking[..count]) {
                let at = usize::from(index);
                let (Some(key), Some(word), Some(offset)) =
                    (keys.get(at), values.get(at), offsets.get_mut(at))
                else {
                    continue;
                };
                let stride = stride::<K>(*word, *offset);
                *place = self.place(*word, key.bits(*offset, stride)).unwrap_or(usize::MAX);
                *offset += stride;
            }
            let mut left = 0;
            for step in 0..count {
                let index = walking[step];
                let word = self.nodes.get(places[step]).map_or(0, |word| word.load(Ordering::Acquire));
                if let Some(value) = values.get_mut(usize::from(index)) {
                    *value = word;
                }
                let ended = offsets.get(usize::from(index)).is_none_or(|offset| *offset >= K::WIDTH);
                walking[left % TOGETHER] = index;
                left += (word >> 31) as usize & usize::from(!ended);
            }
            count = left;
        }
        for value in values.iter_mut().take(TOGETHER) {
            *value &= VALUE;
        }
    }

    /// Where the word of a slot of the node lies that `word` leads to.
    #[inline]
    pub(super) fn place(&self, word: u32, slot: usize) -> Option<usize> {
        let base = (word & BLOCK) as usize * UNIT;
        if is_ranges::<K>(word) {
            let room = room(word);
            let starts = self.nodes.get(base..base + room)?;
            return Some(base + room + range(starts, slot as u32));
        }
        let head = self.nodes.get(base..base + HEAD)?;
        Some(base + HEAD + run(head, slot))
    }

    /// Bytes in use.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.root) + self.used.load(Ordering::Relaxed)
    }
}

/// How many ranges a node has room for that `word` leads to.
#[inline]
pub(super) const fn room(word: u32) -> usize {
    8 << (word >> SIZE_SHIFT & 3)
}

/// The bits of a word that leads to a node of ranges with room for so many, and how much memory the node takes.
pub(super) const fn ranges_of(count: usize) -> (u32, usize) {
    let size = match count {
        ..=8 => 0,
        9..=16 => 1,
        17..=32 => 2,
        _ => 3,
    };
    (RANGES | size << SIZE_SHIFT, 1 << size)
}

/// Which range of a node a slot belongs to, of so many as there are places for where they begin: a power of two from eight on.
#[inline]
fn range(starts: &[AtomicU32], slot: u32) -> usize {
    let begins = |at: usize| starts.get(at).map_or(0, |start| start.load(Ordering::Acquire)) <= slot;
    // Without a branch to be guessed: in halves down to eight, then all of these. The first range begins before every slot.
    let mut at = 0;
    for half in [32, 16, 8] {
        let half = if half < starts.len() { half } else { 0 };
        at += if begins(at + half) { half } else { 0 };
    }
    // There are eight from here on.
    let Some([_, rest @ ..]) = starts.get(at..).and_then(|starts| starts.first_chunk::<8>()) else {
        return at;
    };
    at + rest.iter().map(|start| usize::from(start.load(Ordering::Acquire) <= slot)).sum::<usize>()
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
