//! Buckets per source or destination: a table of fixed size without locks.

use std::sync::atomic::{AtomicU64, Ordering};

use super::bucket::{Bucket, Pace};

/// An address has its bucket in one of this many cells.
const WAYS: usize = 8;

#[derive(Debug, Default)]
struct Cell {
    /// The secret hash of the address it belongs to, all 64 bits; 0 before its first use.
    owner: AtomicU64,
    bucket: Bucket,
}

/// What a look-up came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taken {
    Yes,
    Exceeded,
    /// No cell for this address: others are using all that it may have.
    Full,
}

/// Cells are taken when first needed and may be taken over by others as soon as their bucket is full again, because then
/// they say nothing any more: nothing needs ageing. If a cell is taken over while somebody still works with it, a few
/// packets are charged to the wrong address; no lock is worth preventing that.
#[derive(Debug)]
pub(super) struct Buckets {
    cells: Box<[Cell]>,
}

impl Buckets {
    pub(super) fn new(capacity: u32) -> Buckets {
        let sets = (capacity as usize).div_ceil(WAYS).next_power_of_two();
        Buckets { cells: (0..sets * WAYS).map(|_| Cell::default()).collect() }
    }

    fn set(&self, hash: u64) -> &[Cell] {
        let sets = self.cells.len() / WAYS;
        let first = (hash as usize & (sets - 1)) * WAYS;
        self.cells.get(first..first + WAYS).unwrap_or_default()
    }

    /// Takes `units` from the bucket of the address with this hash.
    pub(super) fn take(&self, hash: u64, pace: &Pace, now: u64, units: u32) -> Taken {
        let hash = hash.max(1);
        let set = self.set(hash);
        let done = |cell: &Cell| {
            if cell.bucket.take(pace, now, units) { Taken::Yes } else { Taken::Exceeded }
        };
        if let Some(own) = set.iter().find(|cell| cell.owner.load(Ordering::Relaxed) == hash) {
            return done(own);
        }
        for cell in set {
            let owner = cell.owner.load(Ordering::Relaxed);
            if !cell.bucket.is_full(now) {
                continue;
            }
            match cell.owner.compare_exchange(owner, hash, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return done(cell),
                // Another worker took it for the same address.
                Err(other) if other == hash => return done(cell),
                Err(_) => {}
            }
        }
        Taken::Full
    }

    /// What [`Buckets::take`] would say, changing nothing.
    pub(super) fn peek(&self, hash: u64, pace: &Pace, now: u64, units: u32) -> Taken {
        let hash = hash.max(1);
        let set = self.set(hash);
        match set.iter().find(|cell| cell.owner.load(Ordering::Relaxed) == hash) {
            Some(own) if own.bucket.has(pace, now, units) => Taken::Yes,
            Some(_) => Taken::Exceeded,
            None if set.iter().any(|cell| cell.bucket.is_full(now)) => Taken::Yes,
            None => Taken::Full,
        }
    }
}
