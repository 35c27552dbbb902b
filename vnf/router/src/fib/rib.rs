//! The prefixes as they were added: what the writer needs to know and no reader.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::trie::Key;

/// The prefixes of one family with the numbers of their routes.
#[derive(Debug)]
pub(super) struct Rib<K> {
    prefixes: HashMap<(K, u8), u32>,
    /// How many there are of each length.
    lengths: [u32; 129],
}

impl<K> Default for Rib<K> {
    fn default() -> Self {
        Rib { prefixes: HashMap::new(), lengths: [0; 129] }
    }
}

impl<K: Key> Rib<K> {
    /// Adds a prefix or changes its route; the number it had.
    pub(super) fn insert(&mut self, key: K, len: u8, route: u32) -> Option<u32> {
        match self.prefixes.entry((key, len)) {
            Entry::Occupied(mut known) => Some(known.insert(route)),
            Entry::Vacant(free) => {
                free.insert(route);
                self.lengths[usize::from(len)] += 1;
                None
            }
        }
    }

    /// Takes a prefix out; the number it had.
    pub(super) fn remove(&mut self, key: K, len: u8) -> Option<u32> {
        let route = self.prefixes.remove(&(key, len))?;
        self.lengths[usize::from(len)] -= 1;
        Some(route)
    }

    pub(super) fn get(&self, key: K, len: u8) -> Option<u32> {
        self.prefixes.get(&(key, len)).copied()
    }

    /// The longest prefix shorter than `len` bits, the default route left out, that contains `key`: its length and route.
    pub(super) fn covering(&self, key: K, len: u8) -> Option<(u8, u32)> {
        let shorter = (1..len).rev().filter(|&len| self.lengths[usize::from(len)] != 0);
        shorter.filter_map(|len| Some((len, self.get(key.truncated(len), len)?))).next()
    }

    pub(super) fn len(&self) -> usize {
        self.prefixes.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (K, u8, u32)> {
        self.prefixes.iter().map(|(&(key, len), &route)| (key, len, route))
    }

    pub(super) fn reserve(&mut self, more: usize) {
        self.prefixes.reserve(more);
    }

    /// The memory it takes, in bytes, about: a slot and a control byte for each place.
    pub(super) fn memory(&self) -> usize {
        self.prefixes.capacity() * 8 / 7 * (size_of::<((K, u8), u32)>() + 1)
    }
}
