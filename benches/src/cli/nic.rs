//! `throughway-bench nic`: Throughway on real ports; somebody else sends.

use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Machine, say};
use crate::command::command;
use crate::cpu::Snapshot;
use crate::error::{BenchError, Result};
use crate::peers::ours::{Settings, configuration, is_ready};
use crate::peers::{Peer, Scale};

/// How often a line is printed.
const EVERY: Duration = Duration::from_secs(1);
/// Flows that tables are made for.
const FLOWS: u32 = 1_000_000;

/// Runs `peer` between two ports of this machine until it is interrupted, and prints every second what came in, what went out, and
/// who had the processor. Routes and neighbours are the kernel's: they have to lead the generator's packets to `output`.
pub(super) fn watch(machine: &Machine, peer: Peer, input: &str, output: &str) -> Result<()> {
    super::prepare(machine)?;
    let stop = super::interrupted()?;
    if !peer.is_ours() {
        return Err(BenchError::Unavailable(
            "on real ports only Throughway is set up: router, stateful, balancer".to_owned(),
        ));
    }
    let (cores, workers) = (machine.cores, machine.workers.as_str());
    let scale = Scale { flows: FLOWS, ..Scale::default() };
    let settings =
        Settings { devices: (input, output), core: cores.device, workers, fast_path: false, scale, flows: 1 };
    let place = Place::new()?;
    let (file, socket) = (place.0.join("throughway.yaml"), place.0.join("throughway.sock"));
    // Each run begins without sessions.
    let text = configuration(peer, &settings) + "at-stop: { sessions: 0s }\n";
    std::fs::write(&file, text).map_err(|source| BenchError::file(&file, source))?;
    let (config, api) = (file.to_string_lossy(), socket.to_string_lossy());
    let argv = [machine.throughway.as_str(), "run", &config, "--api", &api];
    let mut process = Process(
        command(&argv)?
            .stdout(Stdio::null())
            .spawn()
            .map_err(|source| BenchError::file(&machine.throughway, source))?,
    );
    let ended = |message: String| BenchError::Command { command: argv.join(" "), message };
    if !is_ready(&machine.throughway, &api, || process.ended().is_some() || stop.load(Ordering::Relaxed)) {
        return match process.ended() {
            Some(status) => Err(ended(format!("it ended: {status}"))),
            None if stop.load(Ordering::Relaxed) => Ok(()),
            None => Err(ended("it does not become ready".to_owned())),
        };
    }
    say(&format!("{} between {input} and {output}: start the generator, end with Ctrl-C", peer.name()));
    let (pid, mut before) = (process.0.id(), (Instant::now(), counted(input, "rx"), counted(output, "tx")));
    let mut used = Snapshot::take(cores, &[pid], &[]);
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(EVERY);
        if let Some(status) = process.ended() {
            return Err(ended(format!("it ended: {status}")));
        }
        let now = (Instant::now(), counted(input, "rx"), counted(output, "tx"));
        let seconds = now.0.duration_since(before.0).as_secs_f64();
        let (came, went) = ((now.1 - before.1) / seconds / 1e6, (now.2 - before.2) / seconds / 1e6);
        let snapshot = Snapshot::take(cores, &[pid], &[]);
        let cpu = used.until(&snapshot, 0.0);
        let lost = if came > 0.0 { (1.0 - went / came) * 100.0 } else { 0.0 };
        say(&format!(
            "in {came:>7.3} Mpps  out {went:>7.3}  difference {lost:>7.3} %  worker {:.2} softirq {:.2} others {:.2}",
            cpu.worker, cpu.softirq, cpu.others
        ));
        (before, used) = (now, snapshot);
    }
    Ok(())
}

/// Where its files are; gone afterwards.
struct Place(PathBuf);

impl Place {
    fn new() -> Result<Place> {
        let folder = std::env::temp_dir().join(format!("throughway-bench-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|source| BenchError::file(&folder, source))?;
        Ok(Place(folder))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The service; dropped, it is told to end, so that the ports are the kernel's again, and waited for.
struct Process(Child);

impl Process {
    fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().ok().flatten()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.0.id().cast_signed());
        if self.ended().is_none() && kill(pid, Signal::SIGTERM).is_ok() {
            let _ = self.0.wait();
        }
    }
}

/// What a device counted, as `/sys` tells it.
fn counted(device: &str, direction: &str) -> f64 {
    let path = format!("/sys/class/net/{device}/statistics/{direction}_packets");
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0.0)
}
