//! Time inside the table: 32-bit ticks.

use std::time::Duration;

use throughway_vnf::Now;

/// A tick is 2²⁶ ns (67.1 ms): 32 bits of them last nine years of a clock that starts at boot.
const SHIFT: u32 = 26;

/// How far behind its timeout a session may end although the table is swept in time: a life sign is rounded down and a
/// deadline up.
pub const RESOLUTION: Duration = Duration::from_nanos(2 << SHIFT);

/// The tick in which `now` lies.
#[inline]
pub(crate) fn tick(now: Now) -> u32 {
    u32::try_from(now.0 >> SHIFT).unwrap_or(u32::MAX)
}

/// The beginning of a tick.
#[inline]
pub(crate) fn beginning(tick: u32) -> Now {
    Now(u64::from(tick) << SHIFT)
}

/// After how many ticks `timeout` is over for certain, wherever in its tick it began.
#[inline]
pub(crate) fn ticks(timeout: Duration) -> u32 {
    // In 64 bits: 584 years, which are more ticks than there are.
    let nanos = timeout.as_secs().saturating_mul(1_000_000_000).saturating_add(timeout.subsec_nanos().into());
    u32::try_from(nanos.div_ceil(1 << SHIFT)).unwrap_or(u32::MAX).saturating_add(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_early_and_at_most_the_resolution_late() {
        for begin in [0u64, 1, (1 << 26) - 1, 1 << 26, 123_456_789_012] {
            for timeout in [0u64, 1, (1 << 26) - 1, 1 << 26, (1 << 26) + 1, 30_000_000_000] {
                let deadline = beginning(tick(Now(begin)) + ticks(Duration::from_nanos(timeout))).0;
                assert!(deadline >= begin + timeout, "{begin} {timeout}");
                assert!(deadline <= begin + timeout + RESOLUTION.as_nanos() as u64, "{begin} {timeout}");
            }
        }
        assert_eq!(ticks(Duration::MAX), u32::MAX);
        assert_eq!(tick(Now(u64::MAX)), u32::MAX);
    }
}
