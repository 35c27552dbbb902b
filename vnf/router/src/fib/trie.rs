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
//! Where not many prefixes lie, as nearly everywhere in IPv6, one node takes the place of several levels: up to 128 ranges of
//! slots, searched by comparing. One of up to eight ranges is a single line, a leaf; a larger one has a line above its leaves:
//!
//! ```text
//! word  0 .. 16   (not of a single leaf) where each leaf begins, [`BEHIND`] behind the last
//!
//! word  0 .. 8    of each leaf: where each range begins, [`BEHIND`] behind the last
//!       8 .. 16   the words, one for each range
//! ```
//!
//! So a lookup fetches two cache lines of a node at most, and only these: nodes begin where cache lines do.
//!
//! Such a node consumes all bits up to the next bound ([`Key::bound`]), so that what lies below a bound is where it is whatever
//! kinds of nodes lead there. One that gets too many ranges becomes a node of eight bits with such nodes below it.
//!
//! A node of up to six runs lies in one cache line. What begins where never changes while a node can be found; words may.
//! Everything else is done by making a new node and storing one word above it.

use std::fmt::Debug;
use std::hash::Hash;
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
/// Which is set when such a node has a line above its leaves.
const TALL_SHIFT: u32 = 23;
/// Where a node lies.
pub(super) const BLOCK: u32 = (1 << TALL_SHIFT) - 1;
/// Ranges in a leaf; their words lie behind where they begin.
pub(super) const LEAF: usize = UNIT / 2;
/// How many ranges a node has at most.
pub(super) const MOST_RANGES: usize = UNIT * LEAF;

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
/// A unit of memory.
pub(super) type Line = [AtomicU32; UNIT];

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

/// The most bits between two bounds: depth can tell them, and [`BEHIND`] is behind all slots.
pub(super) const MOST_BITS: u8 = 30;
/// Where a range begins that is not there. Not the largest number, so that differences of starts have a sign: see [`begun`].
pub(super) const BEHIND: u32 = i32::MAX as u32;

/// Global unicast addresses, 2000::/3, go by bits 3 to 27, all others by the first 16.
const GLOBAL: usize = 1 << 24;
/// The bits that are consumed then, and the next bound.
const AFTER_GLOBAL: u8 = 27;
const SITE: u8 = BOUNDS[AFTER_GLOBAL as usize];

/// The slot of a global unicast address in a node of ranges below the first table; `high` are the address's first 64 bits.
#[inline]
pub(super) const fn site_slot(high: u64) -> u32 {
    (high >> (64 - SITE)) as u32 & ((1 << (SITE - AFTER_GLOBAL)) - 1)
}
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
            ((high >> 37) as usize % GLOBAL, AFTER_GLOBAL)
        } else {
            (GLOBAL + (high >> 48) as usize, 16)
        }
    }

    fn consumed(slot: usize) -> u8 {
        if slot < GLOBAL { AFTER_GLOBAL } else { 16 }
    }

    fn covered(self, len: u8) -> [Range<usize>; 2] {
        let (slot, consumed) = self.first();
        let near = slot..slot + (1 << (consumed - len));
        // One of less than three bits may have both kinds of addresses in it.
        let has_global = consumed != AFTER_GLOBAL && (1u128 << 125).truncated(len) == self;
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
    /// With as many words before the first line as it takes for lines to be cache lines: memory that is zero without having
    /// been written to cannot be had aligned.
    nodes: Box<[AtomicU32]>,
    skipped: usize,
    /// Bytes of nodes in use, for people.
    pub(super) used: AtomicUsize,
    key: std::marker::PhantomData<K>,
}

impl<K: Key> Trie<K> {
    /// An empty one with room for `units` of nodes. Memory is only taken when it is written to; if there is no such address
    /// space, there is no room.
    pub(super) fn with_room(units: usize) -> Self {
        let zeroed = |words| <[AtomicU32]>::new_box_zeroed_with_elems(words).unwrap_or_default();
        let nodes = zeroed(units.min(BLOCK as usize) * UNIT + UNIT);
        let skipped = nodes.as_ptr().align_offset(size_of::<Line>()) % UNIT;
        Trie {
            root: zeroed(K::FIRST),
            nodes,
            skipped,
            used: AtomicUsize::new(0),
            key: std::marker::PhantomData,
        }
    }

    /// The memory of the nodes.
    #[inline]
    pub(super) fn lines(&self) -> &[Line] {
        self.nodes.get(self.skipped..).unwrap_or_default().as_chunks().0
    }

    /// Where a reader finds everything.
    #[inline]
    pub(super) fn reader(&self) -> Reader<'_, K> {
        let global = self.root.get(..GLOBAL).unwrap_or_default();
        Reader { root: &self.root, global, lines: self.lines(), key: std::marker::PhantomData }
    }

    /// Bytes in use.
    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.root) + self.used.load(Ordering::Relaxed)
    }
}

/// A trie for many look-ups. Held as a value of its own because a load that acquires keeps all later ones behind it: through
/// the trie, each look-up would ask again where table and nodes lie.
#[derive(Debug)]
pub(super) struct Reader<'a, K> {
    root: &'a [AtomicU32],
    /// That part of the first table which is for global unicast addresses of IPv6.
    global: &'a [AtomicU32],
    pub(super) lines: &'a [Line],
    key: std::marker::PhantomData<K>,
}

impl<K> Clone for Reader<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Reader<'_, K> {}

impl Reader<'_, u32> {
    /// The value of the longest prefix that contains `key`; 0: there is none.
    #[inline]
    pub(super) fn lookup(self, key: u32) -> u32 {
        let (slot, offset) = key.first();
        let word = self.root.get(slot).map_or(0, |word| word.load(Ordering::Acquire));
        if word & NODE == 0 { word & VALUE } else { self.lookup_longer(key, word, offset) }
    }

    /// Of a prefix longer than what the first table goes by: apart, so that loops over what is usual keep their registers.
    #[inline(never)]
    fn lookup_longer(self, key: u32, word: u32, offset: u8) -> u32 {
        follow(self.lines, key, word, offset)
    }
}

impl<'a> Reader<'a, u128> {
    /// The value of the longest prefix that contains `key`; 0: there is none.
    #[inline]
    pub(super) fn lookup(self, key: u128) -> u32 {
        // What nearly all addresses need at most, without asking for each bit where it comes from.
        let high = (key >> 64) as u64;
        if let Some(word) = self.global(high) {
            let above = word.load(Ordering::Acquire);
            if is_ranges::<u128>(above) {
                let word = step::<u128>(self.lines, above, site_slot(high));
                if word & NODE == 0 {
                    return word & VALUE;
                }
            }
        }
        self.lookup_unusual(key)
    }

    #[inline(never)]
    fn lookup_unusual(self, key: u128) -> u32 {
        let (slot, offset) = key.first();
        let word = self.root.get(slot).map_or(0, |word| word.load(Ordering::Acquire));
        follow(self.lines, key, word, offset)
    }

    /// The word of the first table for a global unicast address, of which `high` are the first 64 bits.
    #[inline]
    pub(super) fn global(self, high: u64) -> Option<&'a AtomicU32> {
        // The three bits before the slot, 001, become 0: for all other addresses the number is too large.
        self.global.get((high >> (64 - AFTER_GLOBAL)) as usize ^ GLOBAL)
    }
}

/// The value that `word` leads to, which was found with `offset` bits of the key consumed.
#[inline]
fn follow<K: Key>(lines: &[Line], key: K, mut word: u32, mut offset: u8) -> u32 {
    // In memory that is just used again a walk may come to anything: it ends nevertheless.
    while word & NODE != 0 && offset < K::WIDTH {
        let stride = stride::<K>(word, offset);
        word = step::<K>(lines, word, key.bits(offset, stride) as u32);
        offset += stride;
    }
    word & VALUE
}

/// The word of a slot of the node that `word` leads to.
#[inline]
fn step<K: Key>(lines: &[Line], word: u32, slot: u32) -> u32 {
    let (line, at) = place::<K>(lines, word, slot);
    lines.get(line).map_or(0, |line| line[at % UNIT].load(Ordering::Acquire))
}

/// In which line the word of a slot of the node lies that `word` leads to, and where in the line.
#[inline]
pub(super) fn place<K: Key>(lines: &[Line], word: u32, slot: u32) -> (usize, usize) {
    let block = (word & BLOCK) as usize;
    if is_ranges::<K>(word) {
        let leaf = leaf(lines, word, slot);
        return (leaf, LEAF + lines.get(leaf).map_or(0, |line| begun(line, [4, 2, 1], slot)));
    }
    let at = HEAD + lines.get(block).map_or(0, |head| run(head, slot as usize));
    (block + at / UNIT, at % UNIT)
}

/// The line with the range that a slot belongs to, of the node of ranges that `word` leads to.
#[inline]
pub(super) fn leaf(lines: &[Line], word: u32, slot: u32) -> usize {
    let block = (word & BLOCK) as usize;
    // A single leaf is read as if it were a line above others: that is cheaper than to guess which it is.
    let below = lines.get(block).map_or(0, |line| 1 + begun(line, [8, 4, 2, 1], slot));
    block + below * usize::from(is_tall(word))
}

/// Whether a node of ranges has a line above its leaves.
#[inline]
pub(super) const fn is_tall(word: u32) -> bool {
    word >> TALL_SHIFT & 1 != 0
}

/// The last that begins at a slot or before it, by halves; the first one does.
#[inline]
pub(super) fn begun<const N: usize>(line: &Line, halves: [usize; N], slot: u32) -> usize {
    let mut at = 0;
    for half in halves {
        // The sign of a difference: cheaper than what becomes of a comparison.
        let before = line[(at + half) % UNIT].load(Ordering::Acquire).wrapping_sub(slot + 1) >> 31;
        at += half * before as usize;
    }
    at
}

/// The bits of a word that leads to a node of so many ranges, and how much memory the node takes.
pub(super) const fn ranges_of(count: usize) -> (u32, usize) {
    match count {
        ..=LEAF => (RANGES, 1),
        _ => (RANGES | 1 << TALL_SHIFT, 1 + count.div_ceil(LEAF)),
    }
}

/// Which run of a node a slot (below 256) belongs to.
#[inline]
fn run(head: &Line, slot: usize) -> usize {
    let (word, bit) = (slot / 32 % MARKS, slot as u32 % 32);
    let before = head[MARKS + word / 4].load(Ordering::Acquire) >> (8 * (word % 4)) & 0xff;
    // All slots up to and including this one. The first slot begins a run; nothing wraps but in memory that is used again.
    let up_to = head[word].load(Ordering::Acquire) & (u32::MAX >> (31 - bit));
    (before + up_to.count_ones()).wrapping_sub(1) as usize & (SLOTS - 1)
}
