//! Who had the processor: the worker, the softirq, the generator and everybody else, from `/proc`.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use crate::namespaces::Cores;

/// Clock ticks a second in `/proc/stat`; every Linux on the processors we run on has this number.
const TICKS: f64 = 100.0;

/// Processor time over a measurement, in parts of one core (1.0 is a core for all of the time).
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct CpuUse {
    /// Threads of what is measured.
    pub worker: f64,
    /// Softirq time of both cores as `/proc/stat` tells it, threaded NAPI included. It is sampled at ticks.
    pub softirq: f64,
    /// The generator.
    pub generator: f64,
    /// Time of both cores that was neither idle nor any of these: other programs. What it says is how far the figure can be trusted.
    pub others: f64,
    /// Time that the hypervisor took away.
    pub stolen: f64,
}

/// What `/proc` says at one instant.
#[derive(Clone, Debug)]
pub struct Snapshot {
    at: Instant,
    /// By core: busy (without softirq and steal), softirq, steal; in ticks.
    cores: [[f64; 3]; 2],
    /// By thread: nanoseconds on a core.
    threads: BTreeMap<u32, u64>,
    napi: BTreeMap<u32, u64>,
}

impl Snapshot {
    /// Now, of the two cores, the threads of the processes `measured` and the kernel threads `napi`.
    pub fn take(cores: Cores, measured: &[u32], napi: &[u32]) -> Self {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let threads = measured.iter().flat_map(|pid| threads_of(*pid)).collect::<Vec<_>>();
        Snapshot {
            at: Instant::now(),
            cores: [cores.generator, cores.device].map(|core| core_ticks(&stat, core)),
            threads: run_times(&threads),
            napi: run_times(napi),
        }
    }

    /// What was used from `self` until `later`; `generator` is the processor time that the generator says it took, in seconds.
    pub fn until(&self, later: &Snapshot, generator: f64) -> CpuUse {
        let seconds = later.at.duration_since(self.at).as_secs_f64().max(1e-6);
        let ticks = |kind: usize| {
            let gone = |core: usize| later.cores[core][kind] - self.cores[core][kind];
            (gone(0) + gone(1)) / TICKS / seconds
        };
        let worker = gone(&self.threads, &later.threads) / seconds;
        let napi = gone(&self.napi, &later.napi) / seconds;
        let generator = generator / seconds;
        let (busy, softirq, stolen) = (ticks(0), ticks(1), ticks(2));
        // The kernel's threads do their NAPI as softirq time; what is inline in the sender is in the generator's own time, too.
        let ours = worker + generator.max(0.0) + (napi - softirq).max(0.0);
        CpuUse { worker, softirq: softirq.max(napi), generator, others: (busy - ours).max(0.0), stolen }
    }
}

fn gone(before: &BTreeMap<u32, u64>, after: &BTreeMap<u32, u64>) -> f64 {
    let each =
        after.iter().map(|(thread, time)| time.saturating_sub(before.get(thread).copied().unwrap_or(0)));
    each.sum::<u64>() as f64 / 1e9
}

fn threads_of(pid: u32) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok()).collect()
}

fn run_times(threads: &[u32]) -> BTreeMap<u32, u64> {
    let time = |thread: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{thread}/schedstat")).ok()?;
        Some((*thread, text.split_ascii_whitespace().next()?.parse().ok()?))
    };
    threads.iter().filter_map(time).collect()
}

/// Busy without softirq and steal, softirq, steal.
fn core_ticks(stat: &str, core: usize) -> [f64; 3] {
    let name = format!("cpu{core} ");
    let Some(line) = stat.lines().find(|line| line.starts_with(&name)) else { return [0.0; 3] };
    let fields: Vec<f64> =
        line.split_ascii_whitespace().skip(1).map(|field| field.parse().unwrap_or(0.0)).collect();
    // user nice system idle iowait irq softirq steal
    let at = |index: usize| fields.get(index).copied().unwrap_or(0.0);
    [at(0) + at(1) + at(2) + at(5), at(6), at(7)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_read_from_proc_stat() {
        let stat = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\ncpu1 10 20 30 40 50 60 70 80 0 0\ncpu10 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(core_ticks(stat, 1), [120.0, 70.0, 80.0]);
        assert_eq!(core_ticks(stat, 10), [4.0, 1.0, 1.0]);
        assert_eq!(core_ticks(stat, 7), [0.0; 3]);
    }

    #[test]
    fn what_a_thread_of_ours_uses_is_seen() {
        let cores = Cores { generator: 0, device: 0, sink: None };
        let me = std::process::id();
        let before = Snapshot::take(cores, &[me], &[]);
        let mut sum = 0_u64;
        while before.at.elapsed().as_millis() < 50 {
            sum = std::hint::black_box(sum.wrapping_mul(3) + 1);
        }
        let used = before.until(&Snapshot::take(cores, &[me], &[]), 0.0);
        // A machine shared with others may give little, but never nothing and never more than its cores.
        assert!(used.worker > 0.0 && used.worker < 64.0, "{used:?}");
    }
}
