//! How sessions end by themselves: ageing in slices, and displacement.

use arrayvec::ArrayVec;
use throughway_vnf::Now;

use crate::quota::Class;
use crate::session::{Reason, Removed, SessionId};
use crate::sync::{Ordering, lock, try_lock};
use crate::table::SessionTable;
use crate::time::tick;

/// How many sessions are looked at while the lock of their slab is held.
const SLICE: usize = 32;

/// What one call of [`SessionTable::expire`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sweep {
    /// Sessions looked at, and shards in which nothing (more) was due: never above the budget.
    pub looked_at: usize,
    /// Sessions that ended.
    pub expired: usize,
    /// Whether nothing is left to do until time has moved on. If not, either the budget is used up or another worker is at it.
    pub done: bool,
}

/// Where ageing stands: it goes round the shards once in each tick.
#[derive(Clone, Copy)]
struct Round {
    tick: u32,
    /// Shards still to be visited in this tick.
    left: u16,
    /// The next one.
    position: u16,
}

impl Round {
    fn unpack(word: u64) -> Self {
        Round { tick: (word >> 32) as u32, left: (word >> 16) as u16, position: word as u16 }
    }

    fn pack(self) -> u64 {
        u64::from(self.tick) << 32 | u64::from(self.left) << 16 | u64::from(self.position)
    }
}

impl<S> SessionTable<S> {
    /// Ends sessions whose timeout is over, in a bounded slice of work: at most `budget` looks. Made for the `tick` of every worker:
    /// all go the same round through the shards, one a tick of 67 ms; what is not done in one tick is continued in the next,
    /// where it stopped. Where another worker is at work, a call ends instead of waiting. When nothing is left to do
    /// in a tick, it costs one load.
    ///
    /// `gone` runs without any lock.
    pub fn expire(&self, now: Now, budget: usize, mut gone: impl FnMut(Removed<S>)) -> Sweep {
        let now = tick(now);
        let mut sweep = Sweep::default();
        while sweep.looked_at < budget {
            let seen = self.sweep.load(Ordering::Relaxed);
            let mut round = Round::unpack(seen);
            // Another worker's clock may be ahead: a round is finished by the time it was begun with.
            let tick = now.max(round.tick);
            if round.tick < tick {
                round = Round { tick, left: self.shards.len() as u16, ..round };
            }
            if round.left == 0 {
                sweep.done = true;
                break;
            }
            let number = usize::from(round.position) & (self.shards.len() - 1);
            let shard = &self.shards[number];
            let mut overdue = ArrayVec::<SessionId, SLICE>::new();
            let (looked_at, drained) = {
                // Whoever holds it may be ageing it: no reason for a worker to wait. The next call goes on here.
                let Some(mut slab) = try_lock(&shard.slab) else { break };
                slab.due(&shard.cards, tick, (budget - sweep.looked_at).min(SLICE), |slot, generation| {
                    overdue.push(SessionId { index: self.index(number, slot), generation });
                })
            };
            sweep.looked_at += looked_at.max(1);
            for id in overdue {
                // Judged again under all its locks: it may have been seen meanwhile.
                if let Some(removed) =
                    self.take(id, Reason::Expired, |standing, _| standing.deadline() <= tick)
                {
                    sweep.expired += 1;
                    gone(removed);
                }
            }
            if drained {
                let next = (number + 1) as u16;
                round = Round { left: round.left - 1, position: next, ..round };
            }
            // If another worker was faster, its account of the round is as good as ours.
            let _ = self.sweep.compare_exchange(seen, round.pack(), Ordering::Relaxed, Ordering::Relaxed);
        }
        sweep
    }

    /// Displaces the oldest half-open session of the shard `home`, or of the next one that has any.
    pub(crate) fn evict(&self, home: usize) -> Option<Removed<S>> {
        let count = self.shards.len();
        if self.count(Class::HalfOpen) == 0 {
            return None;
        }
        (0..count).find_map(|step| {
            let number = (home + step) & (count - 1);
            let shard = &self.shards[number];
            let id = {
                let (slot, generation) = lock(&shard.slab).oldest_half_open(&shard.cards)?;
                SessionId { index: self.index(number, slot), generation }
            };
            self.take(id, Reason::Evicted, |standing, _| standing.class == Class::HalfOpen)
        })
    }
}
