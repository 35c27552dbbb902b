//! The hash tables of early prefixes, as they lie in memory that is shared with the XDP program.
//!
//! The program reads while we write. A word of IPv4 is a whole prefix, so each store leaves a table that is true. Of IPv6 the address is
//! written before the tail that says it is there; a place that was given back may still be looked at, so it is not used again before
//! [`EarlySets`](super::EarlySets) has waited.

use std::sync::atomic::{AtomicU64, Ordering};

use throughway_shared::early::{
    KEY4, KEY6, LENGTHS6, MORE, VERDICT6, WAYS6, WORDS4, WORDS6, first, hash4, hash6, key4, second, tail6,
    verdict_of, word4,
};

use super::prefix::Prefix;
use crate::fast::SharedWords;

/// The table of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    /// IPv4.
    Narrow,
    /// IPv6.
    Wide,
}

/// A table.
pub(super) struct Table {
    pub(super) family: Family,
    words: SharedWords<AtomicU64>,
    buckets: u32,
    seed: u64,
}

/// What is looked for: the hash, and the word that it is known by.
struct Wanted {
    hash: u64,
    key: u64,
    address: [u64; 2],
}

impl Table {
    pub(super) fn new(family: Family, words: SharedWords<AtomicU64>, buckets: u32, seed: u64) -> Self {
        Table { family, words, buckets, seed }
    }

    /// The bit of a prefix's length in its root; `None`: such prefixes are not in the table.
    pub(super) fn bit(&self, prefix: &Prefix) -> Option<u32> {
        let number = match self.family {
            Family::Narrow => usize::from(prefix.length).checked_sub(17),
            Family::Wide => LENGTHS6.iter().position(|length| *length == prefix.length),
        };
        number.map(|number| 1 << number)
    }

    /// Puts a prefix with the number of its verdict in, or gives it another one; whether there is room.
    pub(super) fn insert(&mut self, prefix: &Prefix, verdict: u32) -> bool {
        if self.bit(prefix).is_none() {
            return false;
        }
        let wanted = self.wanted(prefix);
        let mut place = self.find(&wanted);
        if place.is_none() {
            let [one, other] = self.both(&wanted);
            place = self.free(one).or_else(|| {
                let free = self.free(other)?;
                // First the sign that leads there: nothing is there yet.
                self.store(one, self.load(one) | MORE);
                Some(free)
            });
        }
        let Some(place) = place else { return false };
        let more = self.load(place) & MORE;
        match self.family {
            Family::Narrow => self.store(place, word4(wanted.key, verdict) | more),
            Family::Wide => {
                let at = self.address_of(place);
                for (at, word) in (at..).zip(wanted.address) {
                    self.store(at, word);
                }
                self.store(place, wanted.key | u64::from(verdict) << VERDICT6 | more);
            }
        }
        true
    }

    /// Takes a prefix out; whether it was there.
    pub(super) fn remove(&mut self, prefix: &Prefix) -> bool {
        if self.bit(prefix).is_none() {
            return false;
        }
        let Some(place) = self.find(&self.wanted(prefix)) else { return false };
        self.store(place, self.load(place) & MORE);
        true
    }

    fn wanted(&self, prefix: &Prefix) -> Wanted {
        let (length, address) = (prefix.length.into(), prefix.wide());
        match self.family {
            Family::Narrow => {
                let key = key4(prefix.narrow(), length);
                Wanted { hash: hash4(self.seed, key), key, address }
            }
            Family::Wide => {
                let hash = hash6(self.seed, address[0], address[1], length);
                Wanted { hash, key: tail6(hash, length), address }
            }
        }
    }

    /// The first words of both buckets.
    fn both(&self, wanted: &Wanted) -> [usize; 2] {
        let words = if self.family == Family::Narrow { WORDS4 } else { WORDS6 };
        [first(wanted.hash, self.buckets), second(wanted.hash, self.buckets)]
            .map(|bucket| bucket as usize * words)
    }

    fn places(&self, bucket: usize) -> std::ops::Range<usize> {
        bucket..bucket + if self.family == Family::Narrow { WORDS4 } else { WAYS6 }
    }

    /// Where the address is of a prefix whose tail is in this word.
    fn address_of(&self, place: usize) -> usize {
        let bucket = place / WORDS6 * WORDS6;
        bucket + WAYS6 + (place - bucket) * 2
    }

    fn find(&self, wanted: &Wanted) -> Option<usize> {
        self.both(wanted).into_iter().find_map(|bucket| {
            self.places(bucket).find(|place| {
                let word = self.load(*place);
                verdict_of(word) != 0
                    && match self.family {
                        Family::Narrow => word & KEY4 == wanted.key,
                        Family::Wide => {
                            let at = self.address_of(*place);
                            word & KEY6 == wanted.key && [self.load(at), self.load(at + 1)] == wanted.address
                        }
                    }
            })
        })
    }

    fn free(&self, bucket: usize) -> Option<usize> {
        self.places(bucket).find(|place| verdict_of(self.load(*place)) == 0)
    }

    fn load(&self, word: usize) -> u64 {
        self.words.as_ref().get(word).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn store(&self, word: usize, value: u64) {
        if let Some(word) = self.words.as_ref().get(word) {
            word.store(value, Ordering::Release);
        }
    }
}
