//! A shard: one part of the index, and one slab of sessions. They only share the memory; a session's keys may lie in the index
//! of any two shards.
//!
//! Order of locks: the indexes of at most two shards, lower number first; then one slab. Nothing is locked while a slab is.

use crate::key::Side;
use crate::session::{Reason, SessionId};
use crate::slab::{Life, Slab};
use crate::sync::{AtomicU64, Count, Mutex, MutexGuard, Ordering, lock};
use crate::table::Stats;

/// The generation after which a slot is not used again, so that handles stay unique.
pub(crate) const LAST_GENERATION: u32 = u32::MAX - 1;

/// Aligned so that no two shards share a cache line, nor a pair of lines that are fetched together.
#[repr(align(128))]
pub(crate) struct Shard<S> {
    /// Heads of chains: encoded [`Entry`]s. Whoever holds this lock may follow and change the shard's chains.
    pub(crate) index: Mutex<Box<[u32]>>,
    pub(crate) slab: Mutex<Slab<S>>,
    /// A [`Life`] for each slot. Generations change only under the slab's lock.
    pub(crate) life: Box<[AtomicU64]>,
    pub(crate) counters: Counters,
    buckets: u32,
}

impl<S> Shard<S> {
    pub(crate) fn new(slots: u32, up_front: bool) -> Self {
        // Two keys a session over three buckets: even in a full table, two of three keys are the first of their chain. Each
        // further one costs a cache miss, each further bucket 4 bytes a session.
        let buckets = slots * 3;
        let unborn = || AtomicU64::new(Life { generation: 1, seen: 0 }.word());
        Shard {
            index: Mutex::new(vec![0; buckets as usize].into_boxed_slice()),
            slab: Mutex::new(Slab::new(slots, up_front)),
            life: (0..slots).map(|_| unborn()).collect(),
            counters: Counters::default(),
            buckets,
        }
    }

    pub(crate) fn memory(&self) -> usize {
        self.buckets as usize * size_of::<u32>() + size_of_val(&*self.life) + lock(&self.slab).memory()
    }

    /// The bucket of a hash: its share of all buckets, without a division.
    #[inline]
    pub(crate) fn bucket(&self, hash: u32) -> usize {
        ((u64::from(hash) * u64::from(self.buckets)) >> 32) as usize
    }

    /// The life of a session, unless the handle is stale.
    #[inline]
    pub(crate) fn current(&self, id: SessionId, slot: u32) -> Option<Life> {
        let life = Life::load(self.life.get(slot as usize)?);
        (life.generation == id.generation).then_some(life)
    }

    /// Ends a generation if `decide` agrees, given the last life sign. A life sign that comes in meanwhile is decided upon
    /// again. The lock of the slab must be held. Returns the last life sign.
    pub(crate) fn end(&self, id: SessionId, slot: u32, decide: impl Fn(u32) -> bool) -> Option<u32> {
        loop {
            let life = self.current(id, slot)?;
            if !decide(life.seen) {
                return None;
            }
            let next = Life { generation: life.generation.saturating_add(1), seen: 0 };
            let cell = self.life.get(slot as usize)?;
            let swapped =
                cell.compare_exchange(life.word(), next.word(), Ordering::Relaxed, Ordering::Relaxed);
            if swapped.is_ok() {
                return Some(life.seen);
            }
        }
    }
}

/// Where a key's chain begins.
#[derive(Clone, Copy)]
pub(crate) struct Address {
    pub(crate) shard: usize,
    pub(crate) bucket: usize,
}

/// One of the two keys of the session at `index`, as an element of a chain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) index: u32,
    pub(crate) side: Side,
}

impl Entry {
    #[inline]
    pub(crate) fn encode(self) -> u32 {
        (self.index << 1 | self.side as u32) + 1
    }

    /// Zero ends a chain.
    #[inline]
    pub(crate) fn decode(link: u32) -> Option<Entry> {
        let entry = link.checked_sub(1)?;
        let side = if entry & 1 == 0 { Side::Forward } else { Side::Reverse };
        Some(Entry { index: entry >> 1, side })
    }
}

/// The locked indexes in which two keys lie.
pub(crate) struct Heads<'a> {
    lower: (usize, MutexGuard<'a, Box<[u32]>>),
    higher: Option<(usize, MutexGuard<'a, Box<[u32]>>)>,
}

impl<'a> Heads<'a> {
    pub(crate) fn lock<S>(shards: &'a [Shard<S>], [a, b]: [Address; 2]) -> Self {
        let (low, high) = (a.shard.min(b.shard), a.shard.max(b.shard));
        Heads {
            lower: (low, lock(&shards[low].index)),
            higher: (low != high).then(|| (high, lock(&shards[high].index))),
        }
    }

    /// The head of a chain in one of the two.
    pub(crate) fn head(&mut self, address: Address) -> &mut u32 {
        let (_, index) = match &mut self.higher {
            Some(higher) if higher.0 == address.shard => higher,
            _ => &mut self.lower,
        };
        &mut index[address.bucket]
    }
}

/// Written by any worker on its slow path, in the shard of the forward key or of the session.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) inserted: Count,
    pub(crate) removed: Count,
    pub(crate) expired: Count,
    pub(crate) evicted: Count,
    pub(crate) refused_full: Count,
    pub(crate) refused_quota: Count,
    pub(crate) conflicts: Count,
}

impl Counters {
    pub(crate) fn ended(&self, reason: Reason) {
        match reason {
            Reason::Removed => self.removed.add(),
            Reason::Expired => self.expired.add(),
            Reason::Evicted => self.evicted.add(),
        }
    }

    pub(crate) fn add_to(&self, sum: &mut Stats) {
        sum.inserted += self.inserted.get();
        sum.removed += self.removed.get();
        sum.expired += self.expired.get();
        sum.evicted += self.evicted.get();
        sum.refused_full += self.refused_full.get();
        sum.refused_quota += self.refused_quota.get();
        sum.conflicts += self.conflicts.get();
    }
}
