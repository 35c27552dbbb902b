//! The prefixes as they were added: what the writer needs to know and no reader; and one family's RIB and trie together.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::grow::{self, Full, Grower};
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

/// The prefixes of one family, and the trie that readers look them up in.
#[derive(Debug)]
pub(super) struct Family<K> {
    pub(super) rib: Rib<K>,
    pub(super) trie: Grower<K>,
}

impl<K: Key> Family<K> {
    pub(super) fn new(bytes: usize) -> Self {
        Family { rib: Rib::default(), trie: Grower::new(bytes) }
    }

    /// Adds a prefix or changes its route; the number it had. When it fails, nothing has changed.
    pub(super) fn insert(&mut self, entry: grow::Entry<K>) -> Result<Option<u32>, Full> {
        let grow::Entry { key, len, value } = entry;
        let before = self.rib.insert(key, len, value);
        if len > 0
            && before != Some(value)
            && let Err(full) = self.trie.insert(entry, &self.rib)
        {
            match before {
                Some(before) => self.rib.insert(key, len, before),
                None => self.rib.remove(key, len),
            };
            return Err(full);
        }
        Ok(before)
    }

    /// Takes a prefix out; the number it had. When it fails, it is still there.
    pub(super) fn remove(&mut self, key: K, len: u8) -> Result<Option<u32>, Full> {
        let Some(before) = self.rib.remove(key, len) else { return Ok(None) };
        if len > 0
            && let Err(full) = self.trie.remove(key, len, &self.rib)
        {
            self.rib.insert(key, len, before);
            return Err(full);
        }
        Ok(Some(before))
    }

    /// Adds many, sorted and without doubles, to an empty table; those that there was no room for.
    pub(super) fn build(&mut self, entries: &[grow::Entry<K>]) -> Vec<grow::Entry<K>> {
        let defaults = entries.partition_point(|entry| entry.len == 0);
        let mut left_out = self.trie.build(entries.get(defaults..).unwrap_or_default());
        self.rib.reserve(entries.len());
        for entry in entries {
            self.rib.insert(entry.key, entry.len, entry.value);
        }
        for entry in &left_out {
            self.rib.remove(entry.key, entry.len);
        }
        // As many of them as there is room for.
        left_out.retain(|entry| self.insert(*entry).is_err());
        left_out
    }
}
