//! How fast the flow cache is gone through for what functions are to be told.

use throughway_vnf::Now;
use throughway_vnf::credit::HARVEST;

/// The cache is gone through in three quarters of the time within which functions want to be told: the rest is for rounds that
/// come late.
const CYCLE: u64 = HARVEST / 4 * 3;

/// The neighbours in use are looked for less often: the kernel takes half a minute to doubt one.
const MARKING: u64 = 8_000_000_000;

/// Turns time into a share of the cache: all of it once in a cycle, in slices that follow the clock.
#[derive(Debug)]
pub(super) struct Pace {
    cycle: u64,
    last: Option<Now>,
    /// What the last slices were short of, in buckets × nanoseconds.
    rest: u64,
}

impl Pace {
    /// For what functions are to be told.
    pub(super) const fn of_harvest() -> Pace {
        Pace { cycle: CYCLE, last: None, rest: 0 }
    }

    /// For the marks of what is in use.
    pub(super) const fn of_marking() -> Pace {
        Pace { cycle: MARKING, last: None, rest: 0 }
    }

    /// How many of `buckets` are due at `now`: never more than all.
    pub(super) fn due(&mut self, now: Now, buckets: usize) -> usize {
        let last = self.last.replace(now).unwrap_or(now);
        let elapsed = now.0.saturating_sub(last.0).min(self.cycle);
        let owed = self.rest + elapsed * buckets as u64;
        self.rest = owed % self.cycle;
        (owed / self.cycle) as usize
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
            assert_eq!(sum, 3 * 73_728, "in steps of {step} ns");
        }
        assert_eq!(Pace::of_harvest().due(Now(0), 9), 0);
    }
}
