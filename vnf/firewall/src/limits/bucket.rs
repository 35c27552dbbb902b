//! Token buckets in one atomic word.
//!
//! The generic cell rate algorithm (ITU-T I.371, annex A, virtual scheduling), which is a token bucket told by time: the word
//! holds when the bucket would be full again. A packet is admitted if that moment, moved on by what the packet costs, is
//! at most the burst's worth ahead of now.

use std::sync::atomic::{AtomicU64, Ordering};

use throughway_vnf::Now;

/// Time here is in sixteenths of a nanosecond, so that ten billion bytes a second can be told apart: 36 years in 64 bits.
const PER_SECOND: u64 = 16_000_000_000;

/// How fast, and how much at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pace {
    /// So many units in this time.
    amount: u64,
    time: u64,
    /// The time that a full bucket is worth.
    burst: u64,
}

/// The moment as this file counts it.
pub(super) fn moment(now: Now) -> u64 {
    now.0.saturating_mul(16)
}

impl Pace {
    /// So many in so many seconds; all at least one.
    pub(super) fn new(amount: u64, seconds: u32, burst: u64) -> Pace {
        let (amount, time) = (amount.max(1), PER_SECOND * u64::from(seconds.max(1)));
        // As costs are rounded up, so many of one unit take a little longer than the burst is worth: up to what would be one more.
        let (burst, cost) = (u128::from(burst.max(1)), u128::from(time.div_ceil(amount)));
        let full = (burst * cost).min(burst * u128::from(time) / u128::from(amount) + cost - 1);
        Pace { amount, time, burst: u64::try_from(full).unwrap_or(u64::MAX).max(1) }
    }

    /// What `units` cost, rounded up: never more than the rate is admitted. At most the burst, or nothing of that size would
    /// ever be admitted. `units` below 2³⁰.
    fn cost(&self, units: u32) -> u64 {
        let cost = match u64::from(units).checked_mul(self.time) {
            Some(time) => time.div_ceil(self.amount),
            None => {
                let time = u128::from(units) * u128::from(self.time);
                u64::try_from(time.div_ceil(u128::from(self.amount))).unwrap_or(u64::MAX)
            }
        };
        cost.min(self.burst)
    }

    /// When the bucket is full again after a packet of `units`, or `None` if it has not enough for it.
    fn after(&self, full_at: u64, now: u64, units: u32) -> Option<u64> {
        let next = full_at.max(now).saturating_add(self.cost(units));
        (next <= now.saturating_add(self.burst)).then_some(next)
    }
}

/// A bucket; a new one is full.
#[derive(Debug, Default)]
pub(super) struct Bucket(AtomicU64);

impl Bucket {
    /// Takes `units` if they are there.
    pub(super) fn take(&self, pace: &Pace, now: u64, units: u32) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| pace.after(full_at, now, units))
            .is_ok()
    }

    /// Whether `units` are there.
    pub(super) fn has(&self, pace: &Pace, now: u64, units: u32) -> bool {
        pace.after(self.0.load(Ordering::Relaxed), now, units).is_some()
    }

    /// Whether it is full: then it is as good as a new one.
    pub(super) fn is_full(&self, now: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= now
    }
}
