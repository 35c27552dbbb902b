//! The prefixes of one family that are dropped early: roots, table, and the trie for what the table does not take.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::{
    MapData, MapError,
    lpm_trie::{Key, LpmTrie},
};
use throughway_shared::early::{ROOTS, Root, Verdict};
use throughway_shared::steer::early_value;

use super::prefix::{Entry, Prefix, beyond};
use super::table::Table;
use crate::fast::SharedWords;
use crate::steering::{SteeringError, in_map, is_absent};

/// The kernel's trie.
pub(super) enum Trie {
    Narrow(LpmTrie<MapData, [u8; 4], [u32; 3]>),
    Wide(LpmTrie<MapData, [u8; 16], [u32; 3]>),
}

impl Trie {
    fn insert(&mut self, prefix: &Prefix, verdict: Verdict) -> Result<(), MapError> {
        let value = early_value(verdict.interfaces, verdict.set as u32, prefix.length);
        match self {
            Trie::Narrow(trie) => {
                trie.insert(&Key::new(prefix.length.into(), prefix.narrow().to_be_bytes()), value, 0)
            }
            Trie::Wide(trie) => {
                trie.insert(&Key::new(prefix.length.into(), prefix.bits.to_be_bytes()), value, 0)
            }
        }
    }

    fn remove(&mut self, prefix: &Prefix) -> Result<(), MapError> {
        let length = prefix.length.into();
        let removed = match self {
            Trie::Narrow(trie) => trie.remove(&Key::new(length, prefix.narrow().to_be_bytes())),
            Trie::Wide(trie) => trie.remove(&Key::new(length, prefix.bits.to_be_bytes())),
        };
        removed.or_else(|error| if is_absent(&error) { Ok(()) } else { Err(error) })
    }
}

/// One family.
pub(super) struct Family {
    name: &'static str,
    roots: SharedWords<AtomicU32>,
    table: Table,
    trie: Trie,
    /// What is in force.
    pub(super) known: Vec<Entry>,
    /// What of it is in the trie.
    pub(super) in_trie: BTreeSet<Prefix>,
}

/// The numbers of verdicts.
pub(super) type Numbers = HashMap<Verdict, u32>;

impl Family {
    /// Of which nothing is dropped yet.
    pub(super) fn new(name: &'static str, roots: SharedWords<AtomicU32>, table: Table, trie: Trie) -> Self {
        Family { name, roots, table, trie, known: Vec::new(), in_trie: BTreeSet::new() }
    }

    /// Brings in force `new`, in order, instead of what is known, whose verdicts have `numbers`: those without one go to the trie. What was
    /// known before. What is new comes in before what is old goes.
    pub(super) fn change(&mut self, new: Vec<Entry>, numbers: &Numbers) -> Result<Vec<Entry>, SteeringError> {
        let old = std::mem::take(&mut self.known);
        match self.write(&old, &new, numbers) {
            Ok(()) => {
                self.known = new;
                Ok(old)
            }
            Err(error) => {
                // As it was: all of the old is put there again, as nobody knows how far it had gone; as far as that fails, too, all that
                // may be there is known.
                let added: Vec<_> = beyond(&new, &old, |(a, _), (b, _)| a == b).copied().collect();
                let all = super::prefix::in_order(old.iter().chain(&new).copied().collect());
                self.known = if self.write(&added, &old, numbers).is_ok() { old } else { all };
                Err(error)
            }
        }
    }

    fn write(&mut self, old: &[Entry], new: &[Entry], numbers: &Numbers) -> Result<(), SteeringError> {
        let mut between = self.roots_of(new, numbers);
        // What was known beside, until it has gone: of a source that is in both the new verdict counts.
        for (root, before) in between.iter_mut().zip(self.roots.as_ref()) {
            let before = Root(before.load(Ordering::Relaxed));
            let verdict = if root.verdict() == 0 { before.verdict() } else { root.verdict() };
            let others = (root.0 | before.0) & (Root::TRIE | 0xffff);
            *root = Root(others | verdict << 16);
        }
        // Beyond 16 bits nothing is there yet that this leads to; but what goes to the trie must be there before roots cease to cover it.
        for (prefix, verdict) in beyond(new, old, |a, b| a == b) {
            self.insert(prefix, *verdict, numbers)?;
        }
        for prefix in &self.in_trie {
            self.lead_to_trie(&mut between, prefix);
        }
        self.publish(&between);
        for (prefix, _) in beyond(old, new, |(a, _), (b, _)| a == b) {
            self.table.remove(prefix);
            if self.in_trie.contains(prefix) {
                self.trie.remove(prefix).map_err(in_map(self.name))?;
                self.in_trie.remove(prefix);
            }
        }
        // What found no room beside the old may find it now.
        let waiting: Vec<_> = self.in_trie.iter().copied().collect();
        for prefix in waiting {
            if let Ok(at) = new.binary_search_by_key(&prefix, |(prefix, _)| *prefix)
                && let Some((_, verdict)) = new.get(at)
            {
                // Where that fails it stays in the trie, with the verdict that it has.
                let _ = self.insert(&prefix, *verdict, numbers);
            }
        }
        let mut roots = self.roots_of(new, numbers);
        for prefix in &self.in_trie {
            self.lead_to_trie(&mut roots, prefix);
        }
        self.publish(&roots);
        Ok(())
    }

    /// Puts a prefix where there is room for it, or gives it another verdict.
    fn insert(&mut self, prefix: &Prefix, verdict: Verdict, numbers: &Numbers) -> Result<(), SteeringError> {
        let number = numbers.get(&verdict).copied();
        // Those of up to 16 bits are in the roots.
        let placed = number.is_some_and(|number| prefix.length <= 16 || self.table.insert(prefix, number));
        if !placed {
            self.trie.insert(prefix, verdict).map_err(in_map(self.name))?;
            self.in_trie.insert(*prefix);
            self.table.remove(prefix);
        } else if self.in_trie.contains(prefix) {
            self.trie.remove(prefix).map_err(in_map(self.name))?;
            self.in_trie.remove(prefix);
        }
        Ok(())
    }

    /// What roots say of these entries, which are in order, but for the trie.
    fn roots_of(&self, entries: &[Entry], numbers: &Numbers) -> Vec<Root> {
        let mut roots = vec![Root::default(); ROOTS];
        // In order wider ones come before those within them.
        for (prefix, verdict) in entries {
            let Some(roots) = roots.get_mut(prefix.root()..prefix.root() + prefix.roots()) else { continue };
            let number = numbers.get(verdict).copied().unwrap_or_default();
            let bit = self.table.bit(prefix).unwrap_or_default();
            for root in roots {
                *root = if prefix.length > 16 {
                    Root(root.0 | bit)
                } else {
                    // Without a number: the trie says so.
                    Root(root.0 & !(0xffff << 16) | number << 16)
                };
            }
        }
        roots
    }

    fn lead_to_trie(&self, roots: &mut [Root], prefix: &Prefix) {
        let within = roots.get_mut(prefix.root()..prefix.root() + prefix.roots());
        within.unwrap_or_default().iter_mut().for_each(|root| root.0 |= Root::TRIE);
    }

    fn publish(&self, roots: &[Root]) {
        for (word, root) in self.roots.as_ref().iter().zip(roots) {
            if word.load(Ordering::Relaxed) != root.0 {
                word.store(root.0, Ordering::Release);
            }
        }
    }
}
