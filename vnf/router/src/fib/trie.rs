//! Longest prefix match.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{PoisonError, RwLock};

/// The bits of an address, most significant first.
pub(super) trait Key: Copy + Ord + Hash + Debug {
    const WIDTH: u8;

    /// The first `len` bits, zeros behind them.
    fn truncated(self, len: u8) -> Self;
}

impl Key for u32 {
    const WIDTH: u8 = 32;

    fn truncated(self, len: u8) -> u32 {
        self & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
    }
}

impl Key for u128 {
    const WIDTH: u8 = 128;

    fn truncated(self, len: u8) -> u128 {
        self & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
    }
}

#[derive(Debug)]
pub(super) struct Trie<K>(RwLock<HashMap<(K, u8), u32>>);

impl<K> Default for Trie<K> {
    fn default() -> Self {
        Trie(RwLock::default())
    }
}

impl<K: Key> Trie<K> {
    pub(super) fn lookup(&self, key: K) -> u32 {
        let map = self.0.read().unwrap_or_else(PoisonError::into_inner);
        (1..=K::WIDTH).rev().find_map(|len| map.get(&(key.truncated(len), len)).copied()).unwrap_or(0)
    }

    pub(super) fn insert(&self, key: K, len: u8, value: u32) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert((key, len), value);
    }

    pub(super) fn remove(&self, key: K, len: u8) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&(key, len));
    }

    pub(super) fn memory(&self) -> usize {
        0
    }
}
