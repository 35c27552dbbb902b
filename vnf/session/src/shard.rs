//! A shard: one part of the index, and the slots of some sessions, under one lock. A session's slot is nearly always in the shard of
//! its forward key; its reverse key may lie in the index of any shard.
//!
//! Order of locks: at most three shards, lower number first. Lookups take none, work on a session's state that of its slot.

use std::hint::black_box;

use crate::bucket::{Bucket, CELLS, Entry};
use crate::card::{Card, Spare};
use crate::chunks::Chunks;
use crate::quota::{Census, Class};
use crate::session::{Reason, SessionId};
use crate::slab::{Cards, NONE, Slab, Spares, lane};
use crate::sync::{Count, Mutex, MutexGuard, Ordering, PlainU32, lock};
use crate::table::Stats;
use crate::wheel::Link;

/// Entries of a bucket that are in use on average when the table is full. One bucket in five then needs a second one.
const LOAD: u32 = 8;
const _: () = assert!((LOAD as usize) < CELLS);
/// Buckets of the reserve that are allocated at once.
const RESERVE: u32 = 32;
/// The most buckets in one chain: far beyond what the hash function lets happen.
const LONGEST_CHAIN: usize = 64;

/// Aligned so that no two shards share a cache line, nor a pair of lines that are fetched together.
#[repr(align(128))]
pub(crate) struct Shard<S> {
    pub(crate) slab: Mutex<Slab<S>>,
    buckets: Box<[Bucket]>,
    pub(crate) cards: Cards,
    reserve: Chunks<Bucket, RESERVE>,
    spares: Spares,
    /// The slot that the next session will most likely get: what is worth fetching before the lock is taken.
    next: PlainU32,
    pub(crate) census: Census,
    pub(crate) counters: Counters,
}

impl<S> Shard<S> {
    pub(crate) fn new(slots: u32, up_front: bool) -> Self {
        let buckets = (slots * 2).div_ceil(LOAD);
        // For the keys of sessions in other shards that meet here by chance, with much to spare when all is small.
        let reserve = buckets.max(RESERVE);
        let mut slab = Slab::new(slots, reserve);
        let cards = Chunks::new(slots);
        if up_front {
            cards.fill(Card::new);
            slab.grow(slots.saturating_sub(1), slots);
        }
        Shard {
            slab: Mutex::new(slab),
            buckets: (0..buckets).map(|_| Bucket::new()).collect(),
            cards,
            reserve: Chunks::new(reserve),
            spares: Chunks::new(slots),
            next: PlainU32::new(0),
            census: Census::default(),
            counters: Counters::default(),
        }
    }

    pub(crate) fn memory(&self) -> usize {
        size_of_val(&*self.buckets)
            + self.cards.memory()
            + self.reserve.memory()
            + self.spares.memory()
            + lock(&self.slab).memory()
    }

    /// The bucket of a hash: its share of all buckets, without a division.
    #[inline]
    pub(crate) fn bucket(&self, hash: u32) -> usize {
        ((u64::from(hash) * self.buckets.len() as u64) >> 32) as usize
    }

    /// The bucket of an address.
    #[inline]
    pub(crate) fn at(&self, bucket: usize) -> Option<&Bucket> {
        self.buckets.get(bucket)
    }

    /// A bucket and those it leads to.
    #[inline]
    pub(crate) fn chain(&self, bucket: usize) -> impl Iterator<Item = &Bucket> {
        // The way on is asked for only when the bucket has been looked through: most are the only ones of their chain.
        let (mut last, mut length): (Option<&Bucket>, usize) = (None, 0);
        std::iter::from_fn(move || {
            let next = match last {
                None if length == 0 => self.at(bucket),
                None => None,
                Some(_) if length == LONGEST_CHAIN => None,
                Some(last) => last.next().and_then(|number| self.reserve.get(number)),
            };
            length += 1;
            last = next;
            next
        })
    }

    /// A spare key by its number.
    #[inline]
    pub(crate) fn spare(&self, number: u32) -> Option<&Spare> {
        self.spares.get(number)
    }

    /// Puts a key into the index; says whether there was room.
    #[inline]
    pub(crate) fn enlist(&self, slab: &mut Slab<S>, address: Address, entry: Entry) -> bool {
        // Nearly always there is room at once.
        self.at(address.bucket).is_some_and(|bucket| bucket.put(address.tag, entry))
            || self.enlist_behind(slab, address, entry)
    }

    /// [`Shard::enlist`] where the first bucket is full.
    #[cold]
    fn enlist_behind(&self, slab: &mut Slab<S>, address: Address, entry: Entry) -> bool {
        let mut last = None;
        let mut length = 0;
        for bucket in self.chain(address.bucket) {
            if bucket.put(address.tag, entry) {
                return true;
            }
            last = Some(bucket);
            length += 1;
        }
        let Some(last) = last.filter(|_| length < LONGEST_CHAIN) else { return false };
        let Some(number) = slab.reserve.take(|number| Some(self.reserve.get(number)?.next().unwrap_or(NONE)))
        else {
            return false;
        };
        let Some(bucket) = self.reserve.ensure(number, Bucket::new) else { return false };
        bucket.lead(None);
        bucket.put(address.tag, entry);
        last.lead(Some(number));
        true
    }

    /// Takes a key out of the index.
    pub(crate) fn delist(&self, slab: &mut Slab<S>, address: Address, entry: Entry) {
        let mut before: Option<&Bucket> = None;
        for bucket in self.chain(address.bucket) {
            if bucket.take(address.tag, entry) {
                if let Some((before, number)) = before.and_then(|before| Some((before, before.next()?)))
                    && bucket.next().is_none()
                    && bucket.is_empty()
                {
                    before.lead(None);
                    let next = slab.reserve.give(number);
                    bucket.lead((next != NONE).then_some(next));
                }
                return;
            }
            before = Some(bucket);
        }
        debug_assert!(false, "an entry is missing in the index");
    }

    /// Takes a vacant slot.
    #[inline]
    pub(crate) fn vacant(&self, slab: &mut Slab<S>) -> Option<(u32, &Card)> {
        let slot = slab.slots.take(|slot| Some(self.cards.get(slot)?.link().next()))?;
        let card = self.cards.ensure(slot, Card::new)?;
        slab.grow(slot, self.cards.limit());
        self.next.store(slab.slots.next(), Ordering::Relaxed);
        // Begins to fetch the state's place while the card is written.
        black_box(slab.state(slot).is_some());
        Some((slot, card))
    }

    /// Gives a slot back for use by the next session.
    pub(crate) fn free(&self, slab: &mut Slab<S>, slot: u32) {
        if let Some(card) = self.cards.get(slot) {
            card.set_link(Link::vacant(slab.slots.give(slot)));
            self.next.store(slot, Ordering::Relaxed);
        }
    }

    /// Takes a spare cell for a key.
    pub(crate) fn spare_cell(&self, slab: &mut Slab<S>) -> Option<(u32, &Spare)> {
        let number = slab.spares.take(|number| Some(self.spares.get(number)?.next()))?;
        Some((number, self.spares.ensure(number, Spare::new)?))
    }

    /// Takes the state of a session that has ended, and what else it has but its slot and its keys' entries.
    pub(crate) fn clean(&self, slab: &mut Slab<S>, slot: u32) -> Option<S> {
        let card = self.cards.get(slot)?;
        slab.wheel.unlink(&mut &self.cards, slot);
        if let Some(number) = card.spare()
            && let Some(spare) = self.spares.get(number)
        {
            spare.set_next(slab.spares.give(number));
        }
        slab.place(slot)?.take()
    }

    /// Files a new session.
    #[inline]
    pub(crate) fn file(&self, slab: &mut Slab<S>, slot: u32, class: Class, deadline: u32) {
        slab.wheel.file(&mut &self.cards, lane(class), slot, deadline);
    }

    /// Fetches the card that the next session will most likely get.
    #[inline]
    pub(crate) fn touch_next(&self) -> u64 {
        let card = self.cards.get(self.next.load(Ordering::Relaxed));
        card.map_or(0, |card| u64::from(card.life().seen))
    }

    /// The card of a session, unless the handle is stale.
    #[inline]
    pub(crate) fn current(&self, id: SessionId, slot: u32) -> Option<&Card> {
        self.cards.get(slot).filter(|card| card.standing(id.generation).is_some())
    }
}

/// Where a key lies in the index.
#[derive(Clone, Copy)]
pub(crate) struct Address {
    pub(crate) shard: usize,
    pub(crate) bucket: usize,
    /// Never 0.
    pub(crate) tag: u16,
}

/// Up to three shards, locked.
pub(crate) struct Locks<'a, S> {
    low: Locked<'a, S>,
    middle: Locked<'a, S>,
    high: Locked<'a, S>,
}

/// A shard's number, and what lies under its lock.
type Locked<'a, S> = Option<(usize, MutexGuard<'a, Slab<S>>)>;

impl<'a, S> Locks<'a, S> {
    #[inline]
    pub(crate) fn take(shards: &'a [Shard<S>], [a, b, c]: [usize; 3]) -> Self {
        let (low, high) = (a.min(b), a.max(b));
        let (low, middle, high) = (low.min(c), high.min(low.max(c)), high.max(c));
        // Fields are written in this order, which is the order of locks.
        let take = |number: usize| Some((number, lock(&shards.get(number)?.slab)));
        Locks {
            low: take(low),
            middle: if middle == low { None } else { take(middle) },
            high: if high == middle { None } else { take(high) },
        }
    }

    /// What lies under the lock of a shard, if it is among those taken.
    #[inline]
    pub(crate) fn of(&mut self, number: usize) -> Option<&mut Slab<S>> {
        let Locks { low, middle, high } = self;
        let is = |locked: &&mut Locked<'a, S>| locked.as_ref().is_some_and(|(locked, _)| *locked == number);
        let locked =
            Some(low).filter(is).or_else(|| Some(middle).filter(is)).or_else(|| Some(high).filter(is));
        locked?.as_mut().map(|(_, slab)| &mut **slab)
    }
}

/// Written by any worker on its slow path, in the shard of the forward key or of the session.
#[derive(Default)]
pub(crate) struct Counters {
    /// Under the lock.
    pub(crate) inserted: Count,
    removed: Count,
    expired: Count,
    evicted: Count,
    cleared: Count,
    /// Without.
    pub(crate) refused_full: Count,
    pub(crate) refused_quota: Count,
    pub(crate) conflicts: Count,
}

impl Counters {
    /// The lock of the shard must be held.
    pub(crate) fn ended(&self, reason: Reason) {
        match reason {
            Reason::Removed => self.removed.add_locked(),
            Reason::Expired => self.expired.add_locked(),
            Reason::Evicted => self.evicted.add_locked(),
            Reason::Cleared => self.cleared.add_locked(),
        }
    }

    pub(crate) fn add_to(&self, sum: &mut Stats) {
        sum.inserted += self.inserted.get();
        sum.removed += self.removed.get();
        sum.expired += self.expired.get();
        sum.evicted += self.evicted.get();
        sum.cleared += self.cleared.get();
        sum.refused_full += self.refused_full.get();
        sum.refused_quota += self.refused_quota.get();
        sum.conflicts += self.conflicts.get();
    }
}
