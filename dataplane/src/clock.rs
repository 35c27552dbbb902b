//! The one clock of the process: what workers tell functions, and what the control side compares with.

use nix::time::{ClockId, clock_gettime};
use throughway_vnf::Now;

/// The kernel's monotonic clock, which the XDP program reads too (coarsely); and a second at least, so that no time is ever
/// zero.
pub fn now() -> Now {
    // Every Linux has this clock.
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC);
    let ns = time.map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64);
    Now(ns.max(1_000_000_000))
}
