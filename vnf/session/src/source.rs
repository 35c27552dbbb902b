//! Exact counts per source: for limits on sessions per host.

use crate::hash::Seed;
use crate::key::narrow;
use crate::sync::{AtomicU32, Mutex, Ordering, lock};

/// How a [`SourceCounter`] is made.
#[derive(Clone, Copy, Debug)]
pub struct SourceConfig {
    /// The most sources counted at the same time: 1 to 2²⁸, values beyond are clamped.
    pub capacity: u32,
    /// How many bits of an IPv6 address make a source, at most 64: who has a /64 has all its addresses. IPv4 addresses count
    /// one by one.
    pub ipv6_prefix: u8,
    /// The secret of the hash function.
    pub seed: Seed,
}

/// Why a source was not counted up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SourceError {
    /// It has reached its limit.
    #[error("the source has reached its limit")]
    Limit,
    /// So many other sources are being counted that this one finds no place.
    #[error("too many sources")]
    TooManySources,
}

/// A source, reduced to what counts. The number of an empty cell is zero.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Source {
    bits: u64,
    /// 4 or 6; 0 in an empty cell.
    family: u32,
}

#[derive(Clone, Copy, Default)]
struct Cell {
    source: Source,
    count: u32,
}

const _: () = assert!(size_of::<Cell>() == 24 || size_of::<Cell>() == 16);

/// One part of the counts: open addressing with linear probing, at most half full on average.
struct Part {
    cells: Box<[Cell]>,
    used: usize,
}

/// Counts per source address (IPv4) or network (IPv6), exact under any number of workers, bounded in the number of sources.
///
/// A source takes a cell while its count is above zero.
pub struct SourceCounter {
    parts: Box<[Mutex<Part>]>,
    sources: AtomicU32,
    capacity: u32,
    ipv6_mask: u64,
    seed: Seed,
}

impl SourceCounter {
    /// A counter in which nobody is counted. Allocates all it will ever use: at most 64 bytes a source.
    pub fn new(config: SourceConfig) -> Self {
        let capacity = config.capacity.clamp(1, 1 << 28);
        // Parts of at least 1024 sources on average: one that is twice as full as the average does not come up.
        let parts = (capacity / 1024).clamp(1, 64).next_power_of_two();
        let parts = if parts > 1 && capacity / parts < 1024 { parts / 2 } else { parts };
        let cells = capacity.div_ceil(parts) as usize * 2;
        let part = || Mutex::new(Part { cells: vec![Cell::default(); cells].into(), used: 0 });
        SourceCounter {
            parts: (0..parts).map(|_| part()).collect(),
            sources: AtomicU32::new(0),
            capacity,
            ipv6_mask: u64::MAX.checked_shl(64 - u32::from(config.ipv6_prefix.min(64))).unwrap_or(0),
            seed: config.seed,
        }
    }

    /// Counts `address` (IPv4 in its mapped form) up by one, unless that would exceed `limit`; returns the new count.
    ///
    /// # Errors
    /// See [`SourceError`]; nothing has changed then.
    pub fn acquire(&self, address: &[u8; 16], limit: u32) -> Result<u32, SourceError> {
        let (source, hash, part) = self.place(address);
        let mut part = lock(part);
        if let Some(at) = part.find(source, hash) {
            let count = &mut part.cells[at].count;
            if *count >= limit {
                return Err(SourceError::Limit);
            }
            *count += 1;
            return Ok(*count);
        }
        if limit == 0 {
            return Err(SourceError::Limit);
        }
        let place = self.sources.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |sources| {
            (sources < self.capacity).then(|| sources + 1)
        });
        if place.is_err() {
            return Err(SourceError::TooManySources);
        }
        // One cell stays empty, where every search ends.
        if part.used + 1 >= part.cells.len() {
            self.sources.fetch_sub(1, Ordering::Relaxed);
            return Err(SourceError::TooManySources);
        }
        part.add(source, hash);
        Ok(1)
    }

    /// Counts `address` down by one; returns whether it had been counted.
    pub fn release(&self, address: &[u8; 16]) -> bool {
        let (source, hash, part) = self.place(address);
        let mut part = lock(part);
        let Some(at) = part.find(source, hash) else { return false };
        part.cells[at].count -= 1;
        if part.cells[at].count == 0 {
            part.clear(at, |source| self.hash(source));
            self.sources.fetch_sub(1, Ordering::Relaxed);
        }
        true
    }

    /// The count of `address`.
    pub fn count(&self, address: &[u8; 16]) -> u32 {
        let (source, hash, part) = self.place(address);
        let part = lock(part);
        part.find(source, hash).map_or(0, |at| part.cells[at].count)
    }

    /// How many sources are being counted.
    pub fn sources(&self) -> u32 {
        self.sources.load(Ordering::Relaxed)
    }

    fn place(&self, address: &[u8; 16]) -> (Source, u32, &Mutex<Part>) {
        let source = match narrow(address) {
            Some(v4) => Source { bits: u64::from(u32::from_be_bytes(v4)), family: 4 },
            None => {
                let upper = (u128::from_be_bytes(*address) >> 64) as u64;
                Source { bits: upper & self.ipv6_mask, family: 6 }
            }
        };
        let hash = self.seed.hash([source.bits, u64::from(source.family)]);
        (source, hash as u32, &self.parts[(hash >> 32) as usize & (self.parts.len() - 1)])
    }

    fn hash(&self, source: Source) -> u32 {
        self.seed.hash([source.bits, u64::from(source.family)]) as u32
    }
}

impl std::fmt::Debug for SourceCounter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceCounter").field("sources", &self.sources()).finish_non_exhaustive()
    }
}

impl Part {
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.cells.len() as u64) >> 32) as usize
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.cells.len() { 0 } else { at + 1 }
    }

    fn find(&self, source: Source, hash: u32) -> Option<usize> {
        let mut at = self.home(hash);
        while self.cells[at].source.family != 0 {
            if self.cells[at].source == source {
                return Some(at);
            }
            at = self.after(at);
        }
        None
    }

    fn add(&mut self, source: Source, hash: u32) {
        let mut at = self.home(hash);
        while self.cells[at].source.family != 0 {
            at = self.after(at);
        }
        self.cells[at] = Cell { source, count: 1 };
        self.used += 1;
    }

    /// Empties a cell and moves up those behind it that would not be found any more (Knuth, volume 3, section 6.4,
    /// algorithm R).
    fn clear(&mut self, at: usize, hash: impl Fn(Source) -> u32) {
        let mut hole = at;
        let mut next = self.after(at);
        while self.cells[next].source.family != 0 {
            let home = self.home(hash(self.cells[next].source));
            // Whether `home` lies cyclically in (hole, next]: then the cell is where its search passes.
            let stays = if hole <= next { hole < home && home <= next } else { hole < home || home <= next };
            if !stays {
                self.cells[hole] = self.cells[next];
                hole = next;
            }
            next = self.after(next);
        }
        self.cells[hole] = Cell::default();
        self.used -= 1;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use throughway_shared::flow::mapped;

    fn counter(capacity: u32) -> SourceCounter {
        SourceCounter::new(SourceConfig { capacity, ipv6_prefix: 64, seed: Seed([5, 6]) })
    }

    fn v6(upper: u64, lower: u64) -> [u8; 16] {
        (u128::from(upper) << 64 | u128::from(lower)).to_be_bytes()
    }

    proptest! {
        #[test]
        fn counts_as_a_map_would(steps in prop::collection::vec((0u8..20, any::<bool>(), 1u32..4), 1..400), capacity in 1u32..16) {
            let counter = counter(capacity);
            let mut model: BTreeMap<u8, u32> = BTreeMap::new();
            for (who, up, limit) in steps {
                let address = if who % 2 == 0 { mapped([10, 0, 0, who]) } else { v6(u64::from(who) << 20, 1) };
                if up {
                    let known = model.get(&who).copied();
                    let expected = match known {
                        Some(count) if count >= limit => Err(SourceError::Limit),
                        Some(count) => Ok(count + 1),
                        None if model.len() == capacity as usize => Err(SourceError::TooManySources),
                        None => Ok(1),
                    };
                    prop_assert_eq!(counter.acquire(&address, limit), expected);
                    if let Ok(count) = expected {
                        model.insert(who, count);
                    }
                } else {
                    prop_assert_eq!(counter.release(&address), model.contains_key(&who));
                    if let Some(count) = model.get_mut(&who) {
                        *count -= 1;
                    }
                    model.retain(|_, count| *count > 0);
                }
                prop_assert_eq!(counter.sources() as usize, model.len());
                for who in 0..20 {
                    let address = if who % 2 == 0 { mapped([10, 0, 0, who]) } else { v6(u64::from(who) << 20, 1) };
                    prop_assert_eq!(counter.count(&address), model.get(&who).copied().unwrap_or(0));
                }
            }
        }
    }

    #[test]
    fn an_ipv6_network_is_one_source_and_never_an_ipv4_address() {
        let counter = counter(10);
        assert_eq!(counter.acquire(&v6(0x2001_0db8_0000_0001, 1), 9), Ok(1));
        assert_eq!(counter.acquire(&v6(0x2001_0db8_0000_0001, 2), 9), Ok(2));
        assert_eq!(counter.acquire(&v6(0x2001_0db8_0000_0002, 1), 9), Ok(1));
        // The number of 10.0.0.1 as the upper half of an IPv6 address.
        assert_eq!(counter.acquire(&mapped([10, 0, 0, 1]), 9), Ok(1));
        assert_eq!(counter.acquire(&v6(0x0a00_0001, 0), 9), Ok(1));
        assert_eq!(counter.sources(), 4);
        assert_eq!(counter.acquire(&mapped([10, 0, 0, 2]), 0), Err(SourceError::Limit));
    }

    #[test]
    fn many_sources_fit_exactly() {
        let counter = counter(50_000);
        let address = |number: u32| mapped(number.to_be_bytes());
        for number in 0..50_000 {
            assert_eq!(counter.acquire(&address(number), 1), Ok(1));
        }
        assert_eq!(counter.acquire(&address(50_000), 1), Err(SourceError::TooManySources));
        assert_eq!(counter.acquire(&address(7), 1), Err(SourceError::Limit));
        for number in (0..50_000).rev() {
            assert!(counter.release(&address(number)));
            assert!(!counter.release(&address(number)));
        }
        assert_eq!(counter.sources(), 0);
    }

    #[test]
    fn the_limit_holds_when_workers_race() {
        let counter = counter(10);
        let address = mapped([192, 0, 2, 1]);
        let granted: usize = std::thread::scope(|scope| {
            let work = || (0..1000).filter(|_| counter.acquire(&address, 1500).is_ok()).count();
            let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(granted, 1500);
        assert_eq!(counter.count(&address), 1500);
    }
}
