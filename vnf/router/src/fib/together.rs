//! Many look-ups at once, step by step: the loads of a step do not wait for each other.
//!
//! What global unicast addresses of IPv6 need nearly always, the first table and one node of ranges, is done here in short loops
//! without a branch to be guessed: what the processor looks ahead reaches over many turns, so that their misses overlap. The few
//! others go on alone. An IPv4 look-up is one load nearly always.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::atomic::Ordering;

use super::routes::RouteId;
use super::trie::{BLOCK, LEAF, Line, NODE, RANGES, Reader, UNIT, VALUE, begun, leaf, site_slot};

/// How many addresses are looked up together.
pub(super) const TOGETHER: usize = 64;

/// Both tries, for one batch.
#[derive(Clone, Copy)]
pub(super) struct Readers<'a> {
    pub(super) ipv4: Reader<'a, u32>,
    pub(super) ipv6: Reader<'a, u128>,
}

impl Readers<'_> {
    #[inline]
    pub(super) fn find(self, address: IpAddr) -> RouteId {
        match address {
            IpAddr::V4(address) => RouteId::ipv4(self.ipv4.lookup(address.to_bits())),
            IpAddr::V6(address) => RouteId::ipv6(self.ipv6.lookup(address.to_bits())),
        }
    }

    /// Looks up to [`TOGETHER`] addresses up.
    #[inline]
    pub(super) fn walk(self, addresses: &[IpAddr], into: &mut [RouteId]) {
        // Of the IPv6 ones: which address of the batch it is, what the first table says, and which slot of a node below it is it.
        let mut places = [0u8; TOGETHER];
        let (mut words, mut slots) = ([0u32; TOGETHER], [0u32; TOGETHER]);
        let (mut count, mut fetched) = (0, 0);
        let lines = self.ipv6.lines;
        for (place, (address, id)) in (0..TOGETHER as u8).zip(addresses.iter().zip(into.iter_mut())) {
            match address {
                IpAddr::V4(address) => *id = RouteId::ipv4(self.ipv4.lookup(address.to_bits())),
                IpAddr::V6(address) => {
                    let high = (address.to_bits() >> 64) as u64;
                    // What is not global unicast goes on alone, as does what leads to no node of ranges.
                    let word = self.ipv6.global(high).map_or(NODE, |word| word.load(Ordering::Acquire));
                    let at = count % TOGETHER;
                    places[at] = place;
                    words[at] = word;
                    slots[at] = site_slot(high);
                    fetched ^= fetch(lines, (word & BLOCK) as usize);
                    count += 1;
                }
            }
        }
        if count == 0 {
            return;
        }
        let count = count.min(TOGETHER);
        let (places, words, slots) = (&places[..count], &words[..count], &slots[..count]);
        let mut leaves = [0u32; TOGETHER];
        let leaves = &mut leaves[..count];
        for ((&word, &slot), line) in words.iter().zip(slots).zip(leaves.iter_mut()) {
            *line = leaf(lines, word, slot) as u32;
            fetched ^= fetch(lines, *line as usize);
        }
        black_box(fetched);
        for (((&above, &slot), &place), &line) in words.iter().zip(slots).zip(places).zip(leaves.iter()) {
            let word = lines.get(line as usize).map_or(NODE, |line| {
                line[(LEAF + begun(line, [4, 2, 1], slot)) % UNIT].load(Ordering::Acquire)
            });
            let usual = (above & RANGES == RANGES) & (word & NODE == 0);
            let value = if usual { word & VALUE } else { self.alone(addresses, place) };
            if let Some(id) = into.get_mut(usize::from(place)) {
                *id = RouteId::ipv6(value);
            }
        }
    }

    /// The value of an IPv6 address that needs more, or something else.
    #[inline(never)]
    fn alone(&self, addresses: &[IpAddr], place: u8) -> u32 {
        match addresses.get(usize::from(place)) {
            Some(IpAddr::V6(address)) => self.ipv6.lookup(address.to_bits()),
            _ => 0,
        }
    }
}

#[inline]
fn fetch(lines: &[Line], line: usize) -> u32 {
    lines.get(line).map_or(0, |line| line[0].load(Ordering::Acquire))
}
