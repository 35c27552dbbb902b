//! Time in cycles of the time stamp counter, without reading it: nanoseconds for which the thread was on a core, times the
//! counter's frequency. So what others do on a shared machine counts only by the caches that they take.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The counter's frequency in cycles per nanosecond: half of what the kernel prints as BogoMIPS on x86, where that is
/// computed from it. `None` elsewhere.
pub fn per_nanosecond() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("bogomips"))?;
    let bogomips: f64 = line.split(':').nth(1)?.trim().parse().ok()?;
    Some(bogomips / 2000.0)
}

/// What one kind of run took, per packet, over several runs.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// The least of all runs, in nanoseconds per packet: nearest to what the machine can do when it is not shared.
    pub least: f64,
    /// The median of all runs, in nanoseconds per packet.
    pub median: f64,
}

/// Runs `work`, which says how many packets it handled and how long that took, `runs` times.
pub fn measure(runs: usize, mut work: impl FnMut() -> (u64, Duration)) -> Figures {
    let mut each: Vec<f64> = (0..runs.max(1))
        .map(|_| {
            let (packets, time) = work();
            time.as_nanos() as f64 / packets.max(1) as f64
        })
        .collect();
    each.sort_by(f64::total_cmp);
    Figures { least: each[0], median: each[each.len() / 2] }
}

/// How long `work` takes on the core, and what it gives.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = on_core();
    let result = work();
    (result, on_core().saturating_sub(start))
}

fn on_core() -> Duration {
    // Every Linux has this clock.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}
