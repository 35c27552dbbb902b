//! Ageing, harvesting of counters and showing: each in slices, so that none of them holds up packets.

use crate::bucket::{CREDITED, ESTABLISHED, TICK, WAYS, elapsed, tick};
use crate::cache::FlowCache;
use crate::entry::{Flow, Settled};
use crate::generation::Dependencies;

/// Flows that are looked at together when what they are credited for is taken.
const TOGETHER: usize = 64;

impl FlowCache {
    /// Looks at the next `budget` buckets of sixteen flows and forgets those that were silent for
    /// [`Policy::forget`](crate::Policy::forget). What they leave uncredited is handed to `settle`.
    ///
    /// To be called often enough to get round within half an hour at most: stamps wrap around after 73 minutes, and
    /// generations after 2³² bumps.
    pub fn age(&mut self, time: u64, budget: usize, mut settle: impl FnMut(Settled)) {
        let now = tick(time);
        for _ in 0..budget.min(self.buckets.len()) {
            let number = self.ageing;
            self.ageing = (number + 1) % self.buckets.len();
            let Some(bucket) = self.buckets.get(number) else { return };
            let bucket = *bucket;
            for way in 0..WAYS {
                let (silent, place) = (elapsed(bucket.stamps[way], now), number * WAYS + way);
                if bucket.tags[way] != 0
                    && silent >= self.forget
                    && silent >= self.forget + self.elsewhere.lateness(place)
                {
                    if let Some(settled) = self.take(place, time) {
                        settle(settled);
                    }
                    self.free(place);
                    self.stats.forgotten += 1;
                }
            }
        }
    }

    /// Looks at the next `budget` buckets of sixteen flows and hands what those with credits have not been credited for to
    /// `settle`: counters of rules add up, and sessions are kept alive. `time` in nanoseconds.
    ///
    /// Of a bucket only its one cache line is touched, unless flows with credits were seen since this was last here: stamps
    /// and the time at which the round before began tell that.
    ///
    /// To be called often enough to get round within some minutes, so that sessions are told in time that they live.
    pub fn harvest(&mut self, time: u64, budget: usize, mut settle: impl FnMut(Settled)) {
        let now = tick(time);
        // Taken together, so that the memory answers for many flows side by side.
        let (mut places, mut count) = ([0u32; TOGETHER], 0);
        for _ in 0..budget.min(self.buckets.len()) {
            let number = self.harvesting.next;
            self.harvesting.next = (number + 1) % self.buckets.len();
            if number == 0 {
                self.harvesting.rounds = [time, self.harvesting.rounds[0]];
            }
            let Some(bucket) = self.buckets.get(number) else { return };
            let stamps = bucket.stamps;
            if stamps.iter().fold(0, |all, stamp| all | stamp) & CREDITED == 0 {
                continue;
            }
            // This bucket's last turn came after the last round had begun.
            let since =
                (time >> 28).saturating_sub(self.harvesting.rounds[1] >> 28).min(u64::from(TICK)) as u16;
            for (way, stamp) in stamps.iter().enumerate() {
                if stamp & CREDITED != 0
                    && elapsed(*stamp, now) <= since
                    && let Some(place) = places.get_mut(count)
                {
                    *place = (number * WAYS + way) as u32;
                    count += 1;
                }
            }
            if count + WAYS > TOGETHER {
                self.take_all(places.get(..count).unwrap_or_default(), time, &mut settle);
                count = 0;
            }
        }
        self.take_all(places.get(..count).unwrap_or_default(), time, &mut settle);
    }

    fn take_all(&mut self, places: &[u32], time: u64, settle: &mut impl FnMut(Settled)) {
        for place in places.iter().map(|place| *place as usize) {
            let entry = self.entries.get(place).map_or(0, |entry| entry.ports);
            self.fetched ^= u64::from(entry) ^ self.cold.touch(place);
        }
        for place in places.iter().map(|place| *place as usize) {
            if let Some(settled) = self.take(place, time) {
                self.promote(place);
                settle(settled);
            }
        }
    }

    /// Looks at the next `budget` buckets of sixteen flows and hands what the answers of those flows were made from that were
    /// seen since this was last here to `visit`: so that the neighbours that packets go to are known to be in use. `time` in
    /// nanoseconds. Of a bucket without such flows only its one cache line is touched.
    pub fn in_use(&mut self, time: u64, budget: usize, mut visit: impl FnMut(&Dependencies)) {
        let now = tick(time);
        for _ in 0..budget.min(self.buckets.len()) {
            let number = self.marking.next;
            self.marking.next = (number + 1) % self.buckets.len();
            if number == 0 {
                self.marking.rounds = [time, self.marking.rounds[0]];
            }
            let Some(bucket) = self.buckets.get(number) else { return };
            let since = (time >> 28).saturating_sub(self.marking.rounds[1] >> 28).min(u64::from(TICK)) as u16;
            for (way, stamp) in bucket.stamps.iter().enumerate() {
                if bucket.tags[way] != 0
                    && elapsed(*stamp, now) <= since
                    && let Some(entry) = self.entries.get(number * WAYS + way)
                {
                    visit(&entry.dependencies);
                }
            }
        }
    }

    /// A harvest sets the packets back to zero, and they may have been on their way to prove the flow, or to nominate it: one that sends
    /// less between two harvests than it takes would never be. Of one that is elsewhere what came here is news there.
    fn promote(&mut self, place: usize) {
        if self.cold.told(place).0 >= u64::from(self.policy().prove)
            && let Some(bucket) = self.buckets.get_mut(place / WAYS)
        {
            bucket.stamps[place % WAYS] |= ESTABLISHED;
            self.elsewhere.nominate(place);
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
                let Some(entry) = self.entries.get(place) else { continue };
                let Some(template) = self.templates.get(entry.template) else { continue };
                let Some(action) = entry.action(template, &self.records) else { continue };
                let stamp = bucket.stamps[way];
                let (told, carried) = (self.cold.told(place), self.cold.carried(place));
                visit(Flow {
                    key: entry.key(template).flow_key(),
                    action,
                    tunnel: self.templates.tunnel(template),
                    credits: self.cold.credits(place),
                    packets: told.0 + carried.0 + u64::from(entry.packets),
                    bytes: told.1 + carried.1 + u64::from(entry.bytes),
                    idle: u64::from(elapsed(stamp, now)) << 28,
                    age: u64::from(elapsed(self.cold.installed(place), now)) << 28,
                    established: stamp & ESTABLISHED != 0,
                    elsewhere: self.elsewhere.at(place).is_some(),
                });
            }
        }
        (end < self.buckets.len()).then_some(end)
    }
}

/// Where a sweep stands that tells flows seen since its last round from others.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    /// The next bucket.
    pub(crate) next: usize,
    /// When the present round began, and the one before (ns).
    pub(crate) rounds: [u64; 2],
}
