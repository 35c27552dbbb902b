//! The one clock of the process: what workers tell functions, and what the control side compares with.

use std::sync::OnceLock;
use std::time::Instant;

use throughway_vnf::Now;

static START: OnceLock<Instant> = OnceLock::new();

/// The time since the process first asked, and a second, so that no time is ever zero.
pub fn now() -> Now {
    let start = START.get_or_init(Instant::now);
    Now(1_000_000_000 + start.elapsed().as_nanos() as u64)
}
