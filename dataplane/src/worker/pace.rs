//! How fast the flow cache is gone through for what functions are to be told.

use throughway_vnf::Now;
use throughway_vnf::credit::HARVEST;

/// The cache is gone through in three quarters of the time within which functions want to be told: the rest is for rounds that
/// come late.
const CYCLE: u64 = HARVEST / 4 * 3;

/// The neighbours in use are looked for less often: the kernel takes half a minute to doubt one.
const MARKING: u64 = 8_000_000_000;

/// The least that a round may go through, in buckets of sixteen flows: with sessions to be told of all of them, 10 µs.
const SLICE: u64 = 2;

/// What a round may always go through is what this time (ns) is worth, the length of a long round: so it keeps up.
const ROUND: u64 = 100_000;

/// What may be owed is this part of the cache: above what falls due while an idle worker sleeps, and far below what [`CYCLE`] leaves of
/// [`HARVEST`].
const OWED: u64 = 64;

/// Turns time into a share of the cache: all of it once in a cycle, in slices that follow the clock. What a sleep has left behind is
/// made up for in small slices, so that the packet that ended it does not wait for all of it.
#[derive(Debug)]
pub(super) struct Pace {
    cycle: u64,
    last: Option<Now>,
    /// What the last slices were short of, in buckets × nanoseconds.
    rest: u64,
    /// The least that a round may go through.
    least: u64,
}

impl Pace {
    /// For what functions are to be told.
    pub(super) const fn of_harvest() -> Pace {
        Pace { cycle: CYCLE, last: None, rest: 0, least: SLICE }
    }

    /// For what functions are to be told, where a round goes through `least` as well as through one: flows that are looked at together.
    pub(super) const fn of_many(least: u64) -> Pace {
        Pace { least, ..Pace::of_harvest() }
    }

    /// For the marks of what is in use.
    pub(super) const fn of_marking() -> Pace {
        Pace { cycle: MARKING, ..Pace::of_harvest() }
    }

    /// How many of `buckets` this round, which begins at `now`, has to go through: never more than all, as no more is owed than a part
    /// that is left for later.
    pub(super) fn due(&mut self, now: Now, buckets: usize) -> usize {
        let buckets = buckets as u64;
        let last = self.last.replace(now).unwrap_or(now);
        let elapsed = now.0.saturating_sub(last.0).min(self.cycle);
        let owed = self.rest + elapsed * buckets;
        let due = owed / self.cycle;
        let slice = (ROUND * buckets / self.cycle).max(self.least).max(due.saturating_sub(buckets / OWED));
        let due = due.min(slice);
        self.rest = owed - due * self.cycle;
        due as usize
    }

    /// Whether more is due already: no time to sleep.
    pub(super) fn is_behind(&self) -> bool {
        self.rest >= self.cycle
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_buckets_come_up_once_a_cycle_however_time_is_cut() {
        for step in [50, 999, 1_000_003, 700_000_000, CYCLE] {
            let mut pace = Pace::of_harvest();
            let mut sum = pace.due(Now(5), 73_728);
            assert_eq!(sum, 0);
            let mut now = 5;
            while now < 5 + 3 * CYCLE {
                now = (now + step).min(5 + 3 * CYCLE);
                sum += pace.due(Now(now), 73_728);
            }
            while pace.is_behind() {
                sum += pace.due(Now(now), 73_728);
            }
            assert_eq!(sum, 3 * 73_728, "in steps of {step} ns");
        }
        assert_eq!(Pace::of_harvest().due(Now(0), 9), 0);
    }

    #[test]
    fn what_a_sleep_left_behind_is_made_up_for_in_small_slices_and_what_a_stall_did_at_once() {
        let (mut pace, buckets) = (Pace::of_harvest(), 10_240);
        pace.due(Now(0), buckets);
        // An idle worker's sleep of 20 ms.
        let mut now = 20_000_000;
        let mut slices = Vec::new();
        while slices.is_empty() || pace.is_behind() {
            slices.push(pace.due(Now(now), buckets));
            now += 5_000;
        }
        assert!(slices.len() > 30 && slices.iter().all(|slice| *slice <= 2), "{slices:?}");
        // Nobody called for a second: functions must hear of what was seen before that soon.
        let slice = pace.due(Now(now + 1_000_000_000), buckets);
        let second = buckets * 1_000_000 / (CYCLE / 1000) as usize;
        assert!((second - buckets / 64 - 1..=second).contains(&slice), "{slice} of {second}");
        // A table of four million flows, long rounds without a pause: it keeps up.
        let (mut pace, buckets) = (Pace::of_harvest(), 294_912);
        let sum: usize = (0..=CYCLE / 90_000).map(|round| pace.due(Now(round * 90_000), buckets)).sum();
        assert!(sum.abs_diff(buckets) < 20, "{sum}");
    }
}
