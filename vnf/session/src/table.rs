//! The session table: finding, changing and removing sessions.

use std::hint::black_box;

use throughway_vnf::Now;

use crate::bucket::Entry;
use crate::card::{LAST_GENERATION, Standing};
use crate::hash::Seed;
use crate::key::{Keyed, Probe, SessionKey, Side, Words};
use crate::quota::{Class, Counts};
use crate::session::{Info, Meta, Reason, Removed, SessionId};
use crate::shard::{Address, Locks, Shard};
use crate::slab::Slab;
use crate::sync::{AtomicU64, Ordering, lock};
use crate::time::tick;

/// The most sessions a table can hold.
pub const MAX_CAPACITY: u32 = (1 << 30) - 256;

/// What happens when a session is wanted and there is no room, or the quota of half-open sessions is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenFull {
    /// The new one is refused.
    #[default]
    Refuse,
    /// The oldest half-open session makes room. Nothing else is ever displaced.
    EvictHalfOpen,
}

/// How a table is made.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The most sessions it holds: 1 to [`MAX_CAPACITY`], values beyond are clamped.
    pub capacity: u32,
    /// The secret of its hash function.
    pub seed: Seed,
    /// The most sessions of each class, in the order of [`Class::ALL`]; `None`: as many as there is room for.
    pub quotas: [Option<u32>; 3],
    /// See [`WhenFull`].
    pub when_full: WhenFull,
    /// Number of shards, rounded up to a power of two, at most 256; `None`: one for every 4096 sessions.
    pub shards: Option<u32>,
    /// Allocate everything now instead of in chunks as sessions come.
    pub up_front: bool,
}

impl Config {
    /// A table of `capacity` sessions, without quotas, that refuses when full.
    pub const fn new(capacity: u32, seed: Seed) -> Self {
        Config {
            capacity,
            seed,
            quotas: [None; 3],
            when_full: WhenFull::Refuse,
            shards: None,
            up_front: false,
        }
    }

    /// Gives half-open sessions a share of their own.
    #[must_use]
    pub const fn half_open(mut self, limit: u32, when_full: WhenFull) -> Self {
        self.quotas[Class::HalfOpen as usize] = Some(limit);
        self.when_full = when_full;
        self
    }
}

/// Where a key was found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// The session.
    pub id: SessionId,
    /// Which of its keys it was.
    pub side: Side,
}

/// What a table counts; see [`SessionTable::stats`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Sessions made.
    pub inserted: u64,
    /// Sessions removed by the function.
    pub removed: u64,
    /// Sessions that ended by their timeout.
    pub expired: u64,
    /// Half-open sessions displaced.
    pub evicted: u64,
    /// Sessions that an operator cleared.
    pub cleared: u64,
    /// Refused: no room.
    pub refused_full: u64,
    /// Refused: quota used up.
    pub refused_quota: u64,
    /// Refused: a key was taken.
    pub conflicts: u64,
}

/// Sessions, found by either of two keys, shared by all workers. `docs/adr/0006-session-table.md` explains the layout.
///
/// Closures that are given to its methods run under a lock, except those that take a [`Removed`]: they must be short and
/// must not call the table.
pub struct SessionTable<S> {
    pub(crate) shards: Box<[Shard<S>]>,
    pub(crate) counts: Counts,
    /// Where ageing stands; see `age.rs`.
    pub(crate) sweep: AtomicU64,
    /// One bit for each shard that has a vacant slot.
    pub(crate) roomy: [AtomicU64; 4],
    pub(crate) seed: Seed,
    pub(crate) when_full: WhenFull,
}

impl<S> SessionTable<S> {
    /// An empty table.
    pub fn new(config: Config) -> Self {
        let capacity = config.capacity.clamp(1, MAX_CAPACITY);
        let shards = config.shards.unwrap_or(capacity / 4096).clamp(1, 256).min(capacity).next_power_of_two();
        // The power of two above a small capacity would leave shards without a slot.
        let shards = if shards > capacity { shards / 2 } else { shards };
        let share = |shard| capacity / shards + u32::from(shard < capacity % shards);
        SessionTable {
            shards: (0..shards).map(|shard| Shard::new(share(shard), config.up_front)).collect(),
            counts: Counts::new(config.quotas),
            sweep: AtomicU64::new(0),
            roomy: std::array::from_fn(|word| {
                let bits = (shards as usize).saturating_sub(word * 64).min(64);
                AtomicU64::new(if bits == 0 { 0 } else { u64::MAX >> (64 - bits) })
            }),
            seed: config.seed,
            when_full: config.when_full,
        }
    }

    /// How many sessions there are, summed over the shards.
    pub fn len(&self) -> u32 {
        Class::ALL.into_iter().map(|class| self.sum(class)).fold(0, u32::wrapping_add)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many sessions of a class there are.
    pub fn count(&self, class: Class) -> u32 {
        self.counts.of(class).unwrap_or_else(|| self.sum(class))
    }

    fn sum(&self, class: Class) -> u32 {
        // A session that changes its class meanwhile is counted in one, both or none of them.
        self.shards.iter().map(|shard| shard.census.of(class)).fold(0, u32::wrapping_add)
    }

    /// What has happened so far, summed over all workers.
    pub fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        for shard in &self.shards {
            shard.counters.add_to(&mut sum);
        }
        sum
    }

    /// Bytes the table holds on the heap now: grows in chunks up to its capacity, never shrinks.
    pub fn memory(&self) -> usize {
        let outside = size_of_val(&*self.shards);
        outside + self.shards.iter().map(Shard::memory).sum::<usize>()
    }

    /// Hashes a key once for all that is done with it: looking it up, making a session of it, [preparing](SessionTable::prepare).
    #[inline]
    pub fn probe(&self, key: SessionKey) -> Probe {
        Probe { hash: key.words().hash(&self.seed), key }
    }

    /// Fetches what lookups of these keys will need into the processor's cache, all at once: a batch waits for memory
    /// about as long as a single packet. Changes nothing and takes no lock. For up to some hundred keys: the cache is finite.
    pub fn prepare(&self, probes: &[Probe]) {
        self.fetch_all(probes, true);
    }

    /// [`SessionTable::prepare`] for the reverse keys of sessions that are to be made: their slots lie with their forward keys.
    pub fn prepare_reverse(&self, probes: &[Probe]) {
        self.fetch_all(probes, false);
    }

    fn fetch_all(&self, probes: &[Probe], slots: bool) {
        let address = |probe: &Probe| self.address(probe.hash);
        // The loads of each round do not depend on each other, so they overlap.
        let mut fetched = 0;
        for probe in probes {
            let Address { shard, bucket, .. } = address(probe);
            fetched ^=
                self.shards.get(shard).and_then(|shard| shard.at(bucket)).map_or(0, |bucket| bucket.touch());
        }
        for probe in probes {
            let Address { shard, bucket, tag } = address(probe);
            let Some(shard) = self.shards.get(shard) else { continue };
            let Some(bucket) = shard.at(bucket) else { continue };
            if bucket.is_without(tag) {
                fetched ^= if slots { shard.touch_next() } else { 0 };
                continue;
            }
            for Entry { index, .. } in bucket.entries(tag) {
                let (number, slot) = self.locate(index);
                let card = self.shards.get(number).and_then(|shard| shard.cards.get(slot));
                fetched ^= card.map_or(0, |card| u64::from(card.life().seen));
            }
        }
        black_box(fetched);
    }

    /// Finds the living session of a key, without a lock. One whose timeout is over is not found, collected or not.
    pub fn lookup(&self, key: &impl Keyed, now: Now) -> Option<Found> {
        let address = self.address(key.hash_with(&self.seed));
        let (found, standing) = self.find(&key.session_key().words(), address)?;
        (standing.deadline() > tick(now)).then_some(found)
    }

    /// Finds the living session of a key and works on it: [`SessionTable::update`] without saying what was found.
    pub fn lookup_with<R>(
        &self,
        key: &impl Keyed,
        now: Now,
        work: impl FnOnce(Side, &mut S, &mut Meta<'_>) -> R,
    ) -> Option<R> {
        self.update(key, now, work).map(|(_, result)| result)
    }

    /// Finds the living session of a key and works on it, in one operation: what `work` is given cannot end or change
    /// before it returns.
    pub fn update<R>(
        &self,
        key: &impl Keyed,
        now: Now,
        work: impl FnOnce(Side, &mut S, &mut Meta<'_>) -> R,
    ) -> Option<(Found, R)> {
        let Address { shard, bucket, tag } = self.address(key.hash_with(&self.seed));
        let index = self.shards.get(shard)?;
        if index.at(bucket)?.is_without(tag) {
            return None;
        }
        let words = key.session_key().words();
        for bucket in index.chain(bucket) {
            for Entry { index, side } in bucket.entries(tag) {
                let (number, slot) = self.locate(index);
                let Some(home) = self.shards.get(number) else { continue };
                // Few others have the same tag. With the lock first, the card and the state are fetched at once.
                let mut slab = lock(&home.slab);
                let Some(standing) =
                    home.cards.get(slot).and_then(|card| card.find(side, &words, |n| home.spare(n)))
                else {
                    continue;
                };
                if standing.deadline() <= tick(now) {
                    return None;
                }
                let id = SessionId { index, generation: standing.life.generation };
                let result = self.work(&mut slab, id, |state, meta| work(side, state, meta))?;
                return Some((Found { id, side }, result));
            }
        }
        None
    }

    /// Works on a session; `None` if it is gone.
    pub fn with<R>(&self, id: SessionId, work: impl FnOnce(&mut S, &mut Meta<'_>) -> R) -> Option<R> {
        let (shard, _) = self.place(id)?;
        self.work(&mut lock(&shard.slab), id, work)
    }

    /// Reads a session; `None` if it is gone.
    pub fn read<R>(&self, id: SessionId, read: impl FnOnce(&S, &Info) -> R) -> Option<R> {
        let (shard, slot) = self.place(id)?;
        let slab = lock(&shard.slab);
        let standing = shard.cards.get(slot)?.standing(id.generation)?;
        Some(read(slab.state(slot)?, &Info::new(id, &standing)))
    }

    /// Both keys of a session, without a lock; `None` if it is gone.
    pub fn keys(&self, id: SessionId) -> Option<[SessionKey; 2]> {
        let (shard, slot) = self.place(id)?;
        shard.cards.get(slot)?.keys(id.generation, |number| shard.spare(number))
    }

    /// A packet of the session was seen at `last_seen`, by whoever needed no other look at it. Takes no lock; says whether the
    /// session is still there. Earlier than what is known already: without effect.
    #[inline]
    pub fn keep_alive(&self, id: SessionId, last_seen: Now) -> bool {
        let Some((shard, slot)) = self.place(id) else { return false };
        shard.cards.get(slot).is_some_and(|card| card.sign(id.generation, tick(last_seen)))
    }

    /// [`SessionTable::keep_alive`] for what [`SessionId::to_credit`] said: how a flow cache tells of packets it has forwarded.
    #[inline]
    pub fn keep_alive_credit(&self, credit: u64, last_seen: Now) -> bool {
        self.credited(credit).is_some_and(|id| self.keep_alive(id, last_seen))
    }

    /// Fetches what [`SessionTable::keep_alive`] and work on these sessions will need into the processor's cache, side by side.
    #[inline]
    pub fn fetch(&self, ids: impl Iterator<Item = SessionId>) {
        let mut fetched = 0;
        for (shard, slot) in ids.filter_map(|id| self.place(id)) {
            fetched ^= shard.cards.get(slot).map_or(0, |card| card.life().seen);
        }
        black_box(fetched);
    }

    /// [`SessionTable::fetch`] for credits.
    #[inline]
    pub fn fetch_credits(&self, credits: &[u64]) {
        self.fetch(credits.iter().map(|credit| SessionId { index: *credit as u32, generation: 0 }));
    }

    /// The living session of a credit, without a lock. Of the lives of a slot 24 bits are compared: a credit that is kept while
    /// 16,777,216 sessions come and go in one slot is taken for that of another.
    #[inline]
    pub fn credited(&self, credit: u64) -> Option<SessionId> {
        let index = credit as u32;
        let (number, slot) = self.locate(index);
        let life = self.shards.get(number)?.cards.get(slot)?.life();
        let id = SessionId { index, generation: life.generation };
        (life.is_living() && id.to_credit() == credit & (u64::MAX >> 8)).then_some(id)
    }

    /// Removes a session with both its keys; `None` if it is gone already.
    pub fn remove(&self, id: SessionId) -> Option<Removed<S>> {
        self.take(id, Reason::Removed, |_, _| true)
    }

    /// Removes a session if `condition` holds of it.
    pub fn remove_if(&self, id: SessionId, condition: impl Fn(&S) -> bool) -> Option<Removed<S>> {
        self.take(id, Reason::Removed, |_, state| condition(state))
    }

    /// Removes a session if, under all the locks, `condition` of its standing and state holds. Every end goes through here, and
    /// hands over the session exactly once.
    pub(crate) fn take(
        &self,
        id: SessionId,
        reason: Reason,
        condition: impl Fn(&Standing, &S) -> bool,
    ) -> Option<Removed<S>> {
        let (number, slot) = self.locate(id.index);
        let shard = self.shards.get(number)?;
        let card = shard.cards.get(slot)?;
        // The keys of a session never change, so these are the right places as long as the generation is the same.
        let keys = self.keys(id)?;
        let [forward, reverse] = &keys;
        let there = forward.hash_with(&self.seed);
        // A key and its reverse have one hash.
        let back = if *reverse == forward.reversed() { there } else { reverse.hash_with(&self.seed) };
        let addresses = [self.address(there), self.address(back)];
        let mut locks = Locks::take(&self.shards, [number, addresses[0].shard, addresses[1].shard]);
        let slab = locks.of(number)?;
        let standing = card.end(id.generation, |standing| {
            slab.state(slot).is_some_and(|state| condition(standing, state))
        })?;
        // From here on handles are stale and neither key finds it; nobody else can take it.
        let state = shard.clean(slab, slot);
        for (side, address) in [Side::Forward, Side::Reverse].into_iter().zip(addresses) {
            let entry = Entry { index: id.index, side };
            if let (Some(shard), Some(slab)) = (self.shards.get(address.shard), locks.of(address.shard)) {
                shard.delist(slab, address, entry);
            }
        }
        let slab = locks.of(number)?;
        // A slot whose generations are used up is not used again: the capacity shrinks by one.
        if id.generation < LAST_GENERATION {
            shard.free(slab, slot);
            self.list(number, slab);
        }
        shard.census.subtract(standing.class);
        self.counts.leave(standing.class);
        shard.counters.ended(reason);
        drop(locks);
        Some(Removed { keys, state: state?, info: Info::new(id, &standing), reason })
    }

    /// Walks the chain of an address to the session of a key. Without the lock of its shard, what comes and goes meanwhile may be
    /// found or not.
    #[inline]
    pub(crate) fn find(&self, words: &Words, address: Address) -> Option<(Found, Standing)> {
        let shard = self.shards.get(address.shard)?;
        if shard.at(address.bucket)?.is_without(address.tag) {
            return None;
        }
        self.find_among(shard, words, address)
    }

    /// [`SessionTable::find`] where there is something with the same tag, or more than one bucket.
    pub(crate) fn find_among(
        &self,
        shard: &Shard<S>,
        words: &Words,
        address: Address,
    ) -> Option<(Found, Standing)> {
        for bucket in shard.chain(address.bucket) {
            for Entry { index, side } in bucket.entries(address.tag) {
                let (number, slot) = self.locate(index);
                let Some(shard) = self.shards.get(number) else { continue };
                let standing = shard
                    .cards
                    .get(slot)
                    .and_then(|card| card.find(side, words, |number| shard.spare(number)));
                if let Some(standing) = standing {
                    let id = SessionId { index, generation: standing.life.generation };
                    return Some((Found { id, side }, standing));
                }
            }
        }
        None
    }

    /// Runs `work` on a session whose slab is locked, and files it anew if its deadline came closer or its class changed.
    fn work<R>(
        &self,
        slab: &mut Slab<S>,
        id: SessionId,
        work: impl FnOnce(&mut S, &mut Meta<'_>) -> R,
    ) -> Option<R> {
        let (shard, slot) = self.place(id)?;
        let card = shard.current(id, slot)?;
        let before = card.standing(id.generation)?;
        let state = slab.place(slot)?.as_mut()?;
        let result = work(state, &mut Meta::new(id, card, &self.counts, &shard.census));
        let after = card.standing(id.generation)?;
        if after.deadline() < before.deadline() || after.class != before.class {
            slab.refile(&shard.cards, slot, after.class, after.deadline());
        }
        Some(result)
    }

    #[inline]
    pub(crate) fn address(&self, hash: u64) -> Address {
        let shard = (hash >> 32) as usize & (self.shards.len() - 1);
        // Shard, bucket and tag are of different bits.
        let tag = ((hash >> 48) as u16).max(1);
        Address { shard, bucket: self.shards[shard].bucket(hash as u32), tag }
    }

    /// Brings the list of shards with vacant slots in line with a shard that is locked.
    #[inline]
    pub(crate) fn list(&self, number: usize, slab: &mut Slab<S>) {
        let any = slab.slots.any();
        if any != slab.listed
            && let Some(word) = self.roomy.get(number / 64)
        {
            slab.listed = any;
            let bit = 1 << (number % 64);
            if any {
                word.fetch_or(bit, Ordering::Relaxed);
            } else {
                word.fetch_and(!bit, Ordering::Relaxed);
            }
        }
    }

    /// The slot of a handle, if the table has it.
    #[inline]
    pub(crate) fn place(&self, id: SessionId) -> Option<(&Shard<S>, u32)> {
        let (number, slot) = self.locate(id.index);
        Some((self.shards.get(number)?, slot))
    }

    /// Shard and slot of an index: the shard is in the lower bits.
    #[inline]
    fn locate(&self, index: u32) -> (usize, u32) {
        let bits = self.shards.len().trailing_zeros();
        (index as usize & (self.shards.len() - 1), index >> bits)
    }

    #[inline]
    pub(crate) fn index(&self, shard: usize, slot: u32) -> u32 {
        slot << self.shards.len().trailing_zeros() | shard as u32
    }
}

impl<S> std::fmt::Debug for SessionTable<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionTable")
            .field("sessions", &self.len())
            .field("shards", &self.shards.len())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::insert::{InsertError, NewSession};
    use std::time::Duration;
    use throughway_shared::flow::mapped;

    #[test]
    fn a_slot_whose_generations_are_used_up_is_not_used_again() {
        let table = SessionTable::new(Config::new(2, Seed([1, 2])));
        let new = |number| {
            let forward = SessionKey { source: mapped([10, 0, 0, number]), ..SessionKey::default() };
            let (class, timeout) = (Class::Established, Duration::from_secs(9));
            NewSession { forward, reverse: forward.reversed(), class, timeout, state: number }
        };
        for slot in 0..2 {
            table.shards[0].cards.ensure(slot, crate::card::Card::new).unwrap().age(LAST_GENERATION - 1);
        }
        let ids = [1, 2].map(|number| table.insert(new(number), Now(0), |_| {}).unwrap());
        assert_eq!(table.remove(ids[0]).map(|removed| removed.state), Some(1));
        assert!(table.remove(ids[0]).is_none() && !table.keep_alive(ids[0], Now(0)));
        assert_eq!(table.insert(new(3), Now(0), |_| {}), Err(InsertError::Full));
        assert_eq!(table.read(ids[1], |state, _| *state), Some(2));
        let mut shown = 0;
        table.walk(crate::Cursor::default(), |_, _, _| shown += 1);
        assert_eq!(shown, 1);
    }
}
