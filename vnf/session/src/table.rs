//! The session table: finding, making, changing and removing sessions.

use std::time::Duration;

use throughway_vnf::Now;

use crate::hash::Seed;
use crate::key::{SessionKey, Side};
use crate::quota::{Class, Counts, Lacking, QuotaFull};
use crate::session::{Info, Meta, Reason, Removed, SessionId};
use crate::shard::{Address, Entry, Heads, LAST_GENERATION, Shard};
use crate::slab::{Fresh, Life, Live, Slab};
use crate::sync::{AtomicU64, MutexGuard, Ordering, lock};
use crate::time::{tick, ticks};

/// The most sessions a table can hold.
pub const MAX_CAPACITY: u32 = 1 << 30;

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

/// A session to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewSession<S> {
    /// The key of the packet that opens it.
    pub forward: SessionKey,
    /// The key of the answers, as they will arrive at the function.
    pub reverse: SessionKey,
    /// What it is counted as at first.
    pub class: Class,
    /// How long it lives without a life sign.
    pub timeout: Duration,
    /// The function's own part.
    pub state: S,
}

/// Why a session was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InsertError {
    /// One of the keys belongs to a living session.
    #[error("the {side:?} key belongs to another session")]
    Conflict {
        /// Which of the new session's keys; the forward one if both.
        side: Side,
        /// The session that has it.
        with: SessionId,
    },
    /// The table is full, and nothing could be displaced.
    #[error("the session table is full")]
    Full,
    /// The quota of the class is used up, and nothing could be displaced.
    #[error(transparent)]
    Quota(#[from] QuotaFull),
    /// Both keys are the same: answers could not be told from questions.
    #[error("both keys are the same")]
    SameKey,
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
    seed: Seed,
    when_full: WhenFull,
}

/// A session found, with the lock of its slab.
struct Seat<'a, S> {
    slab: MutexGuard<'a, Slab<S>>,
    at: Entry,
}

impl<S> SessionTable<S> {
    /// An empty table.
    pub fn new(config: Config) -> Self {
        let capacity = config.capacity.clamp(1, MAX_CAPACITY);
        let shards = config.shards.unwrap_or(capacity / 4096).clamp(1, 256).min(capacity).next_power_of_two();
        // The power of two above a small capacity would leave shards without a slot.
        let shards = if shards > capacity { shards / 2 } else { shards };
        let quotas = config.quotas.map(|quota| quota.unwrap_or(u32::MAX));
        let share = |shard| capacity / shards + u32::from(shard < capacity % shards);
        SessionTable {
            shards: (0..shards).map(|shard| Shard::new(share(shard), config.up_front)).collect(),
            counts: Counts::new(capacity, quotas),
            sweep: AtomicU64::new(0),
            seed: config.seed,
            when_full: config.when_full,
        }
    }

    /// How many sessions there are.
    pub fn len(&self) -> u32 {
        self.counts.all()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many sessions of a class there are.
    pub fn count(&self, class: Class) -> u32 {
        self.counts.of(class)
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

    /// Finds the living session of a key. One whose timeout is over is not found, collected or not.
    pub fn lookup(&self, key: &SessionKey, now: Now) -> Option<Found> {
        self.find(key, now).map(|(_, found)| found)
    }

    /// Finds the living session of a key and works on it.
    pub fn lookup_with<R>(
        &self,
        key: &SessionKey,
        now: Now,
        work: impl FnOnce(Side, &mut S, &mut Meta<'_>) -> R,
    ) -> Option<R> {
        let (mut seat, found) = self.find(key, now)?;
        self.work(&mut seat.slab, found.id, |state, meta| work(found.side, state, meta))
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
        let life = shard.current(id, slot)?;
        let live = slab.live(slot)?;
        Some(read(&live.state, &Info::new(id, life, live)))
    }

    /// Both keys of a session; `None` if it is gone.
    pub fn keys(&self, id: SessionId) -> Option<[SessionKey; 2]> {
        let (shard, slot) = self.place(id)?;
        let slab = lock(&shard.slab);
        shard.current(id, slot)?;
        Some(slab.keys(slab.live(slot)?))
    }

    /// A packet of the session was seen at `last_seen`, by whoever needed no other look at it. Takes no lock; says whether the
    /// session is still there. Earlier than what is known already: without effect.
    #[inline]
    pub fn keep_alive(&self, id: SessionId, last_seen: Now) -> bool {
        let Some((shard, slot)) = self.place(id) else { return false };
        let Some(life) = shard.life.get(slot as usize) else { return false };
        let sign = Life { generation: id.generation, seen: tick(last_seen) }.word();
        let known = Life::load(life);
        if known.generation != id.generation {
            return false;
        }
        // A slot's generation only grows: if the session goes between these two steps, the maximum is the newer one's.
        known.seen >= tick(last_seen) || life.fetch_max(sign, Ordering::Relaxed) >> 32 == sign >> 32
    }

    /// Makes a session under both keys or under none. `gone` is given what had to go: sessions that hold one of the keys but
    /// whose timeout is over, and a half-open session that was displaced.
    ///
    /// # Errors
    /// See [`InsertError`]; each is counted.
    pub fn insert(
        &self,
        new: NewSession<S>,
        now: Now,
        mut gone: impl FnMut(Removed<S>),
    ) -> Result<SessionId, InsertError> {
        const ROUNDS: usize = 16;
        let NewSession { forward, reverse, class, timeout, state } = new;
        if forward == reverse {
            return Err(InsertError::SameKey);
        }
        let keys = [forward, reverse];
        let addresses = keys.map(|key| self.address(&key));
        let home = &self.shards[addresses[0].shard];
        let mut fresh = Some(Fresh { keys, class, timeout: ticks(timeout), state });
        let mut error = InsertError::Full;
        // One round is the rule; each further one has removed something that stood in the way.
        for _ in 0..ROUNDS {
            let blocker = {
                let mut heads = Heads::lock(&self.shards, addresses);
                match self.holder(&mut heads, &keys, addresses, now) {
                    Some((side, id, true)) => {
                        home.counters.conflicts.add();
                        return Err(InsertError::Conflict { side, with: id });
                    }
                    Some((_, id, false)) => Some(id),
                    None => match self.counts.reserve(class) {
                        Err(Lacking::Room) => {
                            error = InsertError::Full;
                            None
                        }
                        Err(Lacking::Quota(class)) => {
                            error = QuotaFull(class).into();
                            None
                        }
                        Ok(()) => {
                            if let Some(id) = self.settle(&mut heads, addresses, &mut fresh, now) {
                                home.counters.inserted.add();
                                return Ok(id);
                            }
                            self.counts.release(class);
                            error = InsertError::Full;
                            break;
                        }
                    },
                }
            };
            if let Some(id) = blocker {
                if let Some(removed) = self.take(id, Reason::Expired, |deadline, _| deadline <= tick(now)) {
                    gone(removed);
                }
                continue;
            }
            let displaceable =
                matches!(error, InsertError::Full | InsertError::Quota(QuotaFull(Class::HalfOpen)));
            if self.when_full != WhenFull::EvictHalfOpen || !displaceable {
                break;
            }
            match self.evict(addresses[0].shard) {
                Some(removed) => gone(removed),
                None => break,
            }
        }
        match error {
            InsertError::Quota(_) => home.counters.refused_quota.add(),
            _ => home.counters.refused_full.add(),
        }
        Err(error)
    }

    /// Removes a session with both its keys; `None` if it is gone already.
    pub fn remove(&self, id: SessionId) -> Option<Removed<S>> {
        self.take(id, Reason::Removed, |_, _| true)
    }

    /// Removes a session if `condition` holds of it.
    pub fn remove_if(&self, id: SessionId, condition: impl Fn(&S) -> bool) -> Option<Removed<S>> {
        self.take(id, Reason::Removed, |_, live| condition(&live.state))
    }

    /// Removes a session if, under all the locks, `condition` of its deadline and itself holds.
    pub(crate) fn take(
        &self,
        id: SessionId,
        reason: Reason,
        condition: impl Fn(u32, &Live<S>) -> bool,
    ) -> Option<Removed<S>> {
        let (shard, slot) = self.place(id)?;
        let addresses = self.keys(id)?.map(|key| self.address(&key));
        // The keys of a session never change, so these are the right chains as long as the generation is the same.
        let mut heads = Heads::lock(&self.shards, addresses);
        let (mut live, keys, seen, retired) = {
            let mut slab = lock(&shard.slab);
            let seen = shard.end(id, slot, |seen| {
                slab.live(slot).is_some_and(|live| condition(seen.saturating_add(live.timeout), live))
            })?;
            let (live, keys) = slab.take(slot)?;
            // From here on handles are stale; the chains still lead here, but nobody else can follow them.
            let retired = id.generation == LAST_GENERATION;
            if !retired {
                slab.free(slot);
            }
            (live, keys, seen, retired)
        };
        for side in [Side::Forward, Side::Reverse] {
            self.unchain(&mut heads, addresses[side.index()], Entry { index: id.index, side }, &mut live);
        }
        drop(heads);
        if retired {
            self.counts.release_retired(live.class);
        } else {
            self.counts.release(live.class);
        }
        shard.counters.ended(reason);
        let info = Info::new(id, Life { generation: id.generation, seen }, &live);
        Some(Removed { keys, state: live.state, info, reason })
    }

    /// Which living (`true`) or ended session holds one of the keys.
    fn holder(
        &self,
        heads: &mut Heads<'_>,
        keys: &[SessionKey; 2],
        addresses: [Address; 2],
        now: Now,
    ) -> Option<(Side, SessionId, bool)> {
        [Side::Forward, Side::Reverse].into_iter().find_map(|side| {
            let address = addresses[side.index()];
            let seat = self.seek(*heads.head(address), &keys[side.index()])?;
            let (id, deadline) = self.identify(&seat)?;
            Some((side, id, deadline > tick(now)))
        })
    }

    /// Puts a session into a slot and its keys into the index. There is a slot, because its place is reserved; `None` only if
    /// others were faster to each slot that was seen.
    fn settle(
        &self,
        heads: &mut Heads<'_>,
        addresses: [Address; 2],
        fresh: &mut Option<Fresh<S>>,
        now: Now,
    ) -> Option<SessionId> {
        let home = addresses[0].shard;
        let count = self.shards.len();
        // Twice around: a slot may be freed behind us while another is taken before us.
        for step in 0..count * 2 {
            let number = (home + step) & (count - 1);
            let shard = &self.shards[number];
            let mut slab = lock(&shard.slab);
            let Some(slot) = slab.vacant() else { continue };
            let index = self.index(number, slot);
            let life = shard.life.get(slot as usize)?;
            let fresh = fresh.take()?;
            let born = Life { generation: Life::load(life).generation, seen: tick(now) };
            life.store(born.word(), Ordering::Relaxed);
            let mut chain = [0; 2];
            for side in [Side::Forward, Side::Reverse] {
                let entry = Entry { index, side }.encode();
                chain[side.index()] = std::mem::replace(heads.head(addresses[side.index()]), entry);
            }
            let deadline = born.seen.saturating_add(fresh.timeout);
            slab.fill(slot, fresh, chain, deadline);
            return Some(SessionId { index, generation: born.generation });
        }
        None
    }

    fn find(&self, key: &SessionKey, now: Now) -> Option<(Seat<'_, S>, Found)> {
        let address = self.address(key);
        let index = lock(&self.shards[address.shard].index);
        let seat = self.seek(index[address.bucket], key)?;
        // The slab's lock holds the session; others may use the chain.
        drop(index);
        let (id, deadline) = self.identify(&seat)?;
        let side = seat.at.side;
        (deadline > tick(now)).then_some((seat, Found { id, side }))
    }

    /// Walks a chain to the entry of `key`. The lock of the chain's shard must be held.
    fn seek(&self, head: u32, key: &SessionKey) -> Option<Seat<'_, S>> {
        let mut next = Entry::decode(head);
        while let Some(at) = next {
            let (number, slot) = self.locate(at.index);
            let slab = lock(&self.shards[number].slab);
            let live = slab.live(slot)?;
            if slab.key(live, at.side) == *key {
                return Some(Seat { slab, at });
            }
            next = Entry::decode(live.chain[at.side.index()]);
        }
        None
    }

    /// The handle and the deadline of a session whose lock is held.
    fn identify(&self, seat: &Seat<'_, S>) -> Option<(SessionId, u32)> {
        let (number, slot) = self.locate(seat.at.index);
        let life = Life::load(self.shards[number].life.get(slot as usize)?);
        let deadline = life.seen.saturating_add(seat.slab.live(slot)?.timeout);
        Some((SessionId { index: seat.at.index, generation: life.generation }, deadline))
    }

    /// Takes `entry`, whose session is already out of its slot, out of its chain.
    fn unchain(&self, heads: &mut Heads<'_>, address: Address, entry: Entry, own: &mut Live<S>) {
        let after = own.chain[entry.side.index()];
        let head = heads.head(address);
        if *head == entry.encode() {
            *head = after;
            return;
        }
        let mut next = Entry::decode(*head);
        while let Some(at) = next {
            let (number, slot) = self.locate(at.index);
            let mut slab;
            // Both keys of a session may lie in one chain.
            let live = if at.index == entry.index {
                &mut *own
            } else {
                slab = lock(&self.shards[number].slab);
                let Some(live) = slab.live_mut(slot) else { break };
                live
            };
            let link = &mut live.chain[at.side.index()];
            if *link == entry.encode() {
                *link = after;
                return;
            }
            next = Entry::decode(*link);
        }
        debug_assert!(false, "an entry is missing in its chain");
    }

    /// Runs `work` on a session whose slab is locked, and files it anew if its deadline came closer or its class changed.
    fn work<R>(
        &self,
        slab: &mut Slab<S>,
        id: SessionId,
        work: impl FnOnce(&mut S, &mut Meta<'_>) -> R,
    ) -> Option<R> {
        let (shard, slot) = self.place(id)?;
        let before = shard.current(id, slot)?;
        let live = slab.live_mut(slot)?;
        let (class, deadline) = (live.class, before.seen.saturating_add(live.timeout));
        let Live { state, class: new_class, timeout, .. } = live;
        let mut meta = Meta::new(id, shard.life.get(slot as usize)?, &self.counts, new_class, timeout);
        let result = work(state, &mut meta);
        let after = Life::load(shard.life.get(slot as usize)?).seen.saturating_add(live.timeout);
        if after < deadline || live.class != class {
            slab.refile(slot, after);
        }
        Some(result)
    }

    pub(crate) fn address(&self, key: &SessionKey) -> Address {
        let hash = self.seed.hash(key.words());
        let shard = (hash >> 32) as usize & (self.shards.len() - 1);
        Address { shard, bucket: self.shards[shard].bucket(hash as u32) }
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
    use throughway_shared::flow::mapped;

    #[test]
    fn a_slot_whose_generations_are_used_up_is_not_used_again() {
        let table = SessionTable::new(Config::new(2, Seed([1, 2])));
        let new = |number| {
            let forward = SessionKey { source: mapped([10, 0, 0, number]), ..SessionKey::default() };
            let (class, timeout) = (Class::Established, Duration::from_secs(9));
            NewSession { forward, reverse: forward.reversed(), class, timeout, state: number }
        };
        for life in &table.shards[0].life {
            life.store(Life { generation: LAST_GENERATION, seen: 0 }.word(), Ordering::Relaxed);
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
