//! Ageing, harvesting of counters and showing: each in slices, so that none of them holds up packets.

use crate::cache::FlowCache;
use crate::entry::{ESTABLISHED, Flow, Settled, WAYS, elapsed, tick};

impl FlowCache {
    /// Looks at the next `budget` buckets of sixteen flows and forgets those that were silent for
    /// [`Policy::forget`](crate::Policy::forget). What they leave uncredited is handed to `settle`.
    ///
    /// To be called often enough to get round within half an hour at most: stamps wrap around after 2.4 hours, and
    /// generations after 2³² bumps.
    pub fn age(&mut self, time: u64, budget: usize, mut settle: impl FnMut(Settled)) {
        let now = tick(time);
        for _ in 0..budget.min(self.buckets.len()) {
            let number = self.ageing;
            self.ageing = (number + 1) % self.buckets.len();
            let Some(bucket) = self.buckets.get(number) else { return };
            let bucket = *bucket;
            for way in 0..WAYS {
                if bucket.tags[way] != 0 && elapsed(bucket.stamps[way], now) >= self.forget {
                    let place = number * WAYS + way;
                    if let Some(settled) = self.take(place, time) {
                        settle(settled);
                    }
                    self.free(place);
                    self.stats.forgotten += 1;
                }
            }
        }
    }

    /// Looks at the next `budget` buckets of sixteen flows and hands what their flows have not been credited for to
    /// `settle`: to credit rules and sessions, and to keep sessions alive. `now` in nanoseconds.
    ///
    /// To be called often enough to get round within some minutes: the counters hold 2³² packets and 2⁴⁸ bytes.
    pub fn harvest(&mut self, now: u64, budget: usize, mut settle: impl FnMut(Settled)) {
        for _ in 0..budget.min(self.buckets.len()) {
            let number = self.harvesting;
            self.harvesting = (number + 1) % self.buckets.len();
            let Some(bucket) = self.buckets.get(number) else { return };
            let tags = bucket.tags;
            for (way, _) in tags.iter().enumerate().filter(|(_, tag)| **tag != 0) {
                let place = number * WAYS + way;
                if let Some(settled) = self.take(place, now) {
                    self.promote(place);
                    settle(settled);
                }
            }
        }
    }

    /// A harvest sets the packets back to zero, and they may have been on their way to prove the flow.
    fn promote(&mut self, place: usize) {
        if self.cold.get(place).is_some_and(|cold| cold.packets >= u64::from(self.policy().prove))
            && let Some(bucket) = self.buckets.get_mut(place / WAYS)
        {
            bucket.stamps[place % WAYS] |= ESTABLISHED;
        }
    }

    /// The flows in `budget` buckets of sixteen from bucket `from` on; returns where to go on, or `None` at the end.
    pub fn flows(&self, now: u64, from: usize, budget: usize, mut visit: impl FnMut(Flow)) -> Option<usize> {
        let now = tick(now);
        let end = from.saturating_add(budget).min(self.buckets.len());
        for number in from..end {
            let Some(bucket) = self.buckets.get(number) else { break };
            for way in (0..WAYS).filter(|way| bucket.tags[*way] != 0) {
                let place = number * WAYS + way;
                let (Some(entry), Some(cold)) = (self.entries.get(place), self.cold.get(place)) else {
                    continue;
                };
                let stamp = bucket.stamps[way];
                visit(Flow {
                    key: entry.key().flow_key(),
                    action: entry.action,
                    credits: cold.credits,
                    packets: cold.packets
                        + u64::from(entry.packets)
                        + (u64::from(cold.packets_carried) << 16),
                    bytes: cold.bytes + u64::from(entry.bytes) + (u64::from(cold.bytes_carried) << 32),
                    idle: u64::from(elapsed(stamp, now)) << 28,
                    age: u64::from(elapsed(cold.installed, now)) << 28,
                    established: stamp & ESTABLISHED != 0,
                });
            }
        }
        (end < self.buckets.len()).then_some(end)
    }
}
