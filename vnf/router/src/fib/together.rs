//! Many IPv6 look-ups at once, step by step: the loads of a step do not wait for each other.
//!
//! What global unicast addresses need nearly always, the first table and one node of ranges, is done here in short loops without
//! a branch to be guessed: what the processor looks ahead reaches over many turns, so that their misses overlap. The few others
//! go on alone.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::atomic::Ordering;

use super::routes::RouteId;
use super::trie::{
    AFTER_GLOBAL, BLOCK, Key, LEAF, Line, NODE, Reader, SITE, UNIT, VALUE, begun, is_ranges, leaf,
};

/// How many keys are looked up together.
pub(super) const TOGETHER: usize = 64;

/// Up to [`TOGETHER`] look-ups on their way.
pub(super) struct Together<'a> {
    trie: Reader<'a, u128>,
    count: usize,
    /// Which address of the batch each is.
    places: [u8; TOGETHER],
    /// What the first table says, if it leads to a node of ranges below 2000::/3, else 0; and which slot of that node it is.
    words: [u32; TOGETHER],
    slots: [u32; TOGETHER],
    /// Of what was only read to have it in the cache.
    fetched: u32,
}

impl<'a> Together<'a> {
    #[inline]
    pub(super) fn new(trie: Reader<'a, u128>) -> Self {
        Together {
            trie,
            count: 0,
            places: [0; TOGETHER],
            words: [0; TOGETHER],
            slots: [0; TOGETHER],
            fetched: 0,
        }
    }

    /// Begins to look up the address at a place of the batch; at most [`TOGETHER`] times.
    #[inline]
    pub(super) fn begin(&mut self, place: u8, key: u128) {
        let (slot, consumed) = key.first();
        let word = self.trie.root.get(slot).map_or(0, |word| word.load(Ordering::Acquire));
        let usual = is_ranges::<u128>(word) & (consumed == AFTER_GLOBAL);
        let word = if usual { word } else { 0 };
        let at = self.count % TOGETHER;
        self.places[at] = place;
        self.words[at] = word;
        self.slots[at] = key.bits(AFTER_GLOBAL, SITE - AFTER_GLOBAL) as u32;
        self.fetched ^= fetch(self.trie.lines, (word & BLOCK) as usize);
        self.count += 1;
    }

    /// Ends all look-ups that were begun, of addresses at their places.
    #[inline]
    pub(super) fn end(&self, addresses: &[IpAddr], into: &mut [RouteId]) {
        let nodes = self.words.iter().zip(&self.slots).take(self.count);
        let mut leaves = [0u32; TOGETHER];
        let mut fetched = self.fetched;
        for ((&word, &slot), line) in nodes.zip(&mut leaves) {
            *line = leaf(self.trie.lines, word, slot) as u32;
            fetched ^= fetch(self.trie.lines, *line as usize);
        }
        black_box(fetched);
        let all = self.words.iter().zip(&self.slots).zip(&self.places).zip(&leaves).take(self.count);
        for (((&above, &slot), &place), &line) in all {
            let line = self.trie.lines.get(line as usize);
            let word = line.map_or(NODE, |line| {
                line[(LEAF + begun(line, [4, 2, 1], slot)) % UNIT].load(Ordering::Acquire)
            });
            let unusual = (above == 0) | (word & NODE != 0);
            let value = if unusual { self.alone(addresses, place) } else { word & VALUE };
            if let Some(id) = into.get_mut(usize::from(place)) {
                *id = RouteId::ipv6(value);
            }
        }
    }

    /// The value of an address that needs more, or something else.
    #[inline(never)]
    fn alone(&self, addresses: &[IpAddr], place: u8) -> u32 {
        match addresses.get(usize::from(place)) {
            Some(IpAddr::V6(address)) => self.trie.lookup(address.to_bits()),
            _ => 0,
        }
    }
}

#[inline]
fn fetch(lines: &[Line], line: usize) -> u32 {
    lines.get(line).map_or(0, |line| line[0].load(Ordering::Acquire))
}
