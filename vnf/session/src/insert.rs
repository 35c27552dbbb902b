//! Making sessions.

use std::hint::black_box;
use std::time::Duration;

use throughway_vnf::Now;

use crate::bucket::{Bucket, Entry};
use crate::key::{Keyed, SessionKey, Side, Words};
use crate::quota::{Class, QuotaFull};
use crate::session::{Reason, Removed, SessionId};
use crate::shard::{Address, Locks, Shard};
use crate::sync::{Ordering, lock};
use crate::table::{SessionTable, WhenFull};
use crate::time::{tick, ticks};

/// A session to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewSession<S, K = SessionKey> {
    /// The key of the packet that opens it.
    pub forward: K,
    /// The key of the answers, as they will arrive at the function.
    pub reverse: K,
    /// What it is counted as at first.
    pub class: Class,
    /// How long it lives without a life sign: two years at most.
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

/// A session that is being made.
struct Fresh<S> {
    words: [Words; 2],
    addresses: [Address; 2],
    class: Class,
    /// In ticks.
    timeout: u32,
    state: Option<S>,
}

impl<S> SessionTable<S> {
    /// Makes a session under both keys or under none; they may be [probed](SessionTable::probe) before. `gone` is given what had to go:
    /// sessions that hold one of the keys but whose timeout is over, and a half-open session that was displaced.
    ///
    /// # Errors
    /// See [`InsertError`]; each is counted.
    pub fn insert<K: Keyed>(
        &self,
        new: NewSession<S, K>,
        now: Now,
        gone: impl FnMut(Removed<S>),
    ) -> Result<SessionId, InsertError> {
        let (forward, reverse) = (&new.forward, &new.reverse);
        let mut fresh = Fresh {
            words: [forward.session_key().words(), reverse.session_key().words()],
            addresses: [
                self.address(forward.hash_with(&self.seed)),
                self.address(reverse.hash_with(&self.seed)),
            ],
            class: new.class,
            timeout: ticks(new.timeout),
            state: Some(new.state),
        };
        let [there, back] = &fresh.words;
        if there.tail() == back.tail() && there == back {
            return Err(InsertError::SameKey);
        }
        if let Some(id) = self.at_once(&mut fresh, now) {
            return Ok(id);
        }
        self.insert_with_obstacles(fresh, now, gone)
    }

    /// What nearly every insertion is: neither key is there, their buckets have room, and the shard of the forward key has a vacant
    /// slot. `None`, and nothing has changed, where it is not so.
    #[inline]
    fn at_once(&self, fresh: &mut Fresh<S>, now: Now) -> Option<SessionId> {
        let [there, back] = fresh.addresses;
        let (shard, other) = (self.shards.get(there.shard)?, self.shards.get(back.shard)?);
        let (first, second) = (shard.at(there.bucket)?, other.at(back.bucket)?);
        // Side by side, before the first lock makes each wait for the one before.
        black_box(first.touch() ^ second.touch() ^ shard.touch_next());
        let low = (back.shard < there.shard).then(|| lock(&other.slab));
        let mut slab = lock(&shard.slab);
        let _others = low.or_else(|| (there.shard < back.shard).then(|| lock(&other.slab)));
        let [forward, reverse] = &fresh.words;
        let taken = |shard: &Shard<S>, bucket: &Bucket, words: &Words, address: Address| {
            !bucket.is_without(address.tag) && self.find_among(shard, words, address).is_some()
        };
        if taken(shard, first, forward, there) || taken(other, second, reverse, back) {
            return None;
        }
        let cell = first.vacant()?;
        let other_cell =
            if std::ptr::eq(first, second) { first.second_vacant()? } else { second.vacant()? };
        if !slab.slots.any() || self.counts.enter(fresh.class).is_err() {
            return None;
        }
        let Some((slot, card)) = shard.vacant(&mut slab) else {
            self.counts.leave(fresh.class);
            return None;
        };
        let written = card.write(&fresh.words, fresh.class, fresh.timeout, || shard.spare_cell(&mut slab));
        debug_assert!(written.is_some(), "there are as many spare cells as slots");
        if written.is_none() {
            shard.free(&mut slab, slot);
            self.counts.leave(fresh.class);
            return None;
        }
        self.list(there.shard, &mut slab);
        let index = self.index(there.shard, slot);
        first.put_at(cell, there.tag, Entry { index, side: Side::Forward });
        second.put_at(other_cell, back.tag, Entry { index, side: Side::Reverse });
        *slab.place(slot)? = fresh.state.take();
        let seen = tick(now);
        shard.file(&mut slab, slot, fresh.class, seen.saturating_add(fresh.timeout));
        shard.census.add(fresh.class);
        shard.counters.inserted.add_locked();
        // From here on both keys find it.
        Some(SessionId { index, generation: card.begin(seen) })
    }

    /// Whatever stands in the way of a new session, or does not.
    #[cold]
    fn insert_with_obstacles(
        &self,
        mut fresh: Fresh<S>,
        now: Now,
        mut gone: impl FnMut(Removed<S>),
    ) -> Result<SessionId, InsertError> {
        const ROUNDS: usize = 16;
        let (class, addresses) = (fresh.class, fresh.addresses);
        let home = addresses[0].shard;
        let counters = &self.shards[home].counters;
        // A shard with a vacant slot, when those of the keys have none.
        let mut elsewhere = None;
        let mut error = InsertError::Full;
        // One round is the rule. Each further one has removed something that stood in the way, or knows where there is room.
        for _ in 0..ROUNDS {
            let mut locks = Locks::take(&self.shards, [home, addresses[1].shard, elsewhere.unwrap_or(home)]);
            match self.holder(&fresh, now) {
                Some((side, id, true)) => {
                    drop(locks);
                    counters.conflicts.add();
                    return Err(InsertError::Conflict { side, with: id });
                }
                Some((_, id, false)) => {
                    drop(locks);
                    if let Some(removed) =
                        self.take(id, Reason::Expired, |standing, _| standing.deadline() <= tick(now))
                    {
                        gone(removed);
                    }
                    continue;
                }
                None => {}
            }
            match self.counts.enter(class) {
                Err(full) => {
                    drop(locks);
                    error = full.into();
                }
                Ok(()) => {
                    if let Some(id) = self.settle(&mut locks, elsewhere, &mut fresh, now) {
                        counters.inserted.add_locked();
                        return Ok(id);
                    }
                    drop(locks);
                    self.counts.leave(class);
                    error = InsertError::Full;
                    elsewhere = self.roomy(home);
                    if elsewhere.is_some() {
                        continue;
                    }
                }
            }
            let displaceable =
                matches!(error, InsertError::Full | InsertError::Quota(QuotaFull(Class::HalfOpen)));
            if self.when_full != WhenFull::EvictHalfOpen || !displaceable {
                break;
            }
            match self.evict(home) {
                Some(removed) => gone(removed),
                None => break,
            }
        }
        match error {
            InsertError::Quota(_) => counters.refused_quota.add(),
            _ => counters.refused_full.add(),
        }
        Err(error)
    }

    /// Which living (`true`) or ended session holds one of the keys. The locks of both must be held: nothing of theirs comes or
    /// goes then.
    fn holder(&self, fresh: &Fresh<S>, now: Now) -> Option<(Side, SessionId, bool)> {
        let of = |side: Side| {
            let (words, address) = (&fresh.words[side.index()], fresh.addresses[side.index()]);
            let (found, standing) = self.find(words, address)?;
            Some((side, found.id, standing.deadline() > tick(now)))
        };
        of(Side::Forward).or_else(|| of(Side::Reverse))
    }

    /// Puts a session into a slot and its keys into the index: `None` if there is no vacant slot in the locked shards.
    fn settle(
        &self,
        locks: &mut Locks<'_, S>,
        elsewhere: Option<usize>,
        fresh: &mut Fresh<S>,
        now: Now,
    ) -> Option<SessionId> {
        let [forward, reverse] = fresh.addresses;
        let mut vacant = |number: usize| {
            let (slot, card) = self.shards[number].vacant(locks.of(number)?)?;
            Some((number, slot, card))
        };
        let (number, slot, card) =
            vacant(forward.shard).or_else(|| vacant(reverse.shard)).or_else(|| vacant(elsewhere?))?;
        let (shard, index) = (&self.shards[number], self.index(number, slot));
        let slab = locks.of(number)?;
        self.list(number, slab);
        let written = card.write(&fresh.words, fresh.class, fresh.timeout, || shard.spare_cell(slab));
        debug_assert!(written.is_some(), "there are as many spare cells as slots");
        for side in [Side::Forward, Side::Reverse] {
            let address = fresh.addresses[side.index()];
            let enlisted = written.is_some()
                && self.shards[address.shard].enlist(
                    locks.of(address.shard)?,
                    address,
                    Entry { index, side },
                );
            if !enlisted {
                if side == Side::Reverse {
                    let entry = Entry { index, side: Side::Forward };
                    self.shards[forward.shard].delist(locks.of(forward.shard)?, forward, entry);
                }
                let slab = locks.of(number)?;
                if written.is_some() {
                    shard.clean(slab, slot);
                }
                shard.free(slab, slot);
                self.list(number, slab);
                return None;
            }
        }
        let slab = locks.of(number)?;
        *slab.place(slot)? = fresh.state.take();
        let seen = tick(now);
        shard.file(slab, slot, fresh.class, seen.saturating_add(fresh.timeout));
        shard.census.add(fresh.class);
        // From here on both keys find it.
        Some(SessionId { index, generation: card.begin(seen) })
    }

    /// A shard with a vacant slot: `home`, or the next one after it.
    fn roomy(&self, home: usize) -> Option<usize> {
        let count = self.shards.len();
        let word = |number: usize| self.roomy.get(number).map_or(0, |word| word.load(Ordering::Relaxed));
        let (begin, bit) = (home / 64, home % 64);
        let after = word(begin) & u64::MAX << bit;
        if after != 0 {
            return Some(begin * 64 + after.trailing_zeros() as usize);
        }
        let words = count.div_ceil(64);
        (1..=words).find_map(|step| {
            let number = (begin + step) % words;
            let word = word(number);
            (word != 0).then(|| number * 64 + word.trailing_zeros() as usize)
        })
    }
}
