//! What a worker does in a round without packets.
//!
//! Sleeping costs the next packet a wake-up: some 20 µs until the thread has its core back. So a worker that had packets a moment
//! ago looks again for a while, and sleeps only then. Where the kernel's receiving is a thread on the worker's own core, looking
//! again would keep the packets away that it looks for: there it sleeps at once.
//!
//! While it sleeps others get its core, and when packets come again it waits until they give it back: a scheduler's slice, some
//! milliseconds, where they have much to do. So a worker with much to do is slow to sleep: beyond the while it looks again for as long as it
//! had work, half a millisecond at a time, and so takes at most twice the time that its packets take.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use throughway_vnf::Now;

/// For so long after the last packet a worker looks for more before it sleeps, in nanoseconds: twice what a wake-up costs, and the time
/// from packet to packet at 20,000 a second. Measurements: `docs/adr/0025-who-goes-first-on-a-shared-core.md`.
const SPIN: u64 = 50_000;

/// For so long (ns) more it looks at most, if it had as much work. Not longer: where the kernel receives for it in `ksoftirqd` on its own core, which
/// cannot be told from outside, this is what it keeps packets waiting.
const PATIENCE: u64 = 500_000;

/// No round counts for more work than this (ns): one may have been interrupted.
const ROUND: u64 = 250_000;

/// Whether a thread of the kernel's that receives for the worker shares its core. Until somebody has looked it counts as shared.
#[derive(Clone, Debug)]
pub struct Shared(Arc<AtomicBool>);

impl Default for Shared {
    fn default() -> Self {
        Shared(Arc::new(AtomicBool::new(true)))
    }
}

impl Shared {
    /// From now on the worker does as is right where its core is shared, or is not.
    pub fn set(&self, shared: bool) {
        self.0.store(shared, Ordering::Relaxed);
    }

    /// Whether it is shared.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is to be done in an empty round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rest {
    /// Look again at once.
    Spin,
    /// Sleep until a packet comes.
    Sleep,
}

/// When a worker last had packets, and what follows from it.
#[derive(Debug)]
pub(super) struct Idle {
    busy: bool,
    shared: Shared,
    /// When the last round that had packets was over.
    last: Option<Now>,
    /// When the last round began, if it had packets.
    working: Option<Now>,
    /// Time that its work took and that it has not looked for more in, in nanoseconds.
    earned: u64,
}

impl Idle {
    /// Of a worker that never sleeps if it is `busy`.
    pub(super) fn new(busy: bool, shared: Shared) -> Self {
        Idle { busy, shared, last: None, working: None, earned: 0 }
    }

    /// The round that began at `now` brought so many packets; what to do if there were none.
    pub(super) fn after(&mut self, now: Now, received: usize) -> Rest {
        if let Some(began) = self.working.take() {
            // The round that began then has ended by now.
            self.earned = (self.earned + now.0.saturating_sub(began.0).min(ROUND)).min(PATIENCE);
            self.last = Some(now);
        }
        let since = self.last.map_or(u64::MAX, |last| now.0.saturating_sub(last.0));
        if received > 0 {
            self.working = Some(now);
            self.earned = self.earned.saturating_sub(since.saturating_sub(SPIN));
            return Rest::Spin;
        }
        let lately = since < SPIN + self.earned;
        if self.busy || lately && !self.shared.get() { Rest::Spin } else { Rest::Sleep }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone() -> Shared {
        let shared = Shared::default();
        shared.set(false);
        shared
    }

    #[test]
    fn a_worker_looks_again_for_a_while_after_packets_and_sleeps_then() {
        let mut idle = Idle::new(false, alone());
        assert_eq!(idle.after(Now(1_000), 0), Rest::Sleep, "nothing ever came");
        assert_eq!(idle.after(Now(2_000), 1), Rest::Spin);
        assert_eq!(idle.after(Now(2_010), 0), Rest::Spin);
        assert_eq!(idle.after(Now(2_010 + SPIN + 9), 0), Rest::Spin);
        assert_eq!(idle.after(Now(2_010 + SPIN + 10), 0), Rest::Sleep);
        // Woken by nothing, it does not look for long.
        assert_eq!(idle.after(Now(20_000_000), 0), Rest::Sleep);
        assert_eq!(idle.after(Now(30_000_000), 64), Rest::Spin);
        assert_eq!(idle.after(Now(30_000_001), 0), Rest::Spin);
    }

    #[test]
    fn a_worker_with_much_to_do_is_slow_to_sleep_and_looks_no_longer_than_it_worked() {
        let mut idle = Idle::new(false, alone());
        let mut now = 1_000_000;
        // Twenty rounds of 10 µs.
        for _ in 0..20 {
            assert_eq!(idle.after(Now(now), 64), Rest::Spin);
            now += 10_000;
        }
        assert_eq!(idle.after(Now(now), 0), Rest::Spin);
        assert_eq!(idle.after(Now(now + SPIN + 199_999), 0), Rest::Spin);
        assert_eq!(idle.after(Now(now + SPIN + 200_000), 0), Rest::Sleep);
        // What it looked in vain is used up: after one more packet it is as if there had been nothing before.
        now += SPIN + 200_000;
        idle.after(Now(now), 1);
        now += 5_000;
        assert_eq!(idle.after(Now(now), 0), Rest::Spin);
        assert_eq!(idle.after(Now(now + SPIN + 4_999), 0), Rest::Spin);
        assert_eq!(idle.after(Now(now + SPIN + 5_000), 0), Rest::Sleep);
        // A round that was interrupted for a second.
        now += 1_000_000_000;
        idle.after(Now(now), 1);
        now += 1_000_000_000;
        assert_eq!(idle.after(Now(now), 0), Rest::Spin);
        assert_eq!(idle.after(Now(now + SPIN + ROUND), 0), Rest::Sleep);
        // However long it worked.
        for _ in 0..1_000 {
            now += 100_000;
            idle.after(Now(now), 64);
        }
        now += 1_000;
        idle.after(Now(now), 0);
        assert_eq!(idle.after(Now(now + SPIN + PATIENCE - 1), 0), Rest::Spin);
        assert_eq!(idle.after(Now(now + SPIN + PATIENCE), 0), Rest::Sleep);
    }

    #[test]
    fn a_core_that_is_shared_or_may_be_is_given_up_at_once() {
        let shared = Shared::default();
        let mut idle = Idle::new(false, shared.clone());
        idle.after(Now(1), 64);
        assert_eq!(idle.after(Now(2), 0), Rest::Sleep, "nobody has looked yet");
        shared.set(false);
        assert_eq!(idle.after(Now(3), 0), Rest::Spin);
        shared.set(true);
        assert_eq!(idle.after(Now(4), 0), Rest::Sleep);
        assert_eq!(Idle::new(true, shared).after(Now(u64::MAX), 0), Rest::Spin, "poll: busy");
    }
}
