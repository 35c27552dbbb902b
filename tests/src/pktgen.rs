//! `throughway pktgen` in a lab: a generator at the client, sinks at the servers. Far faster than sockets, and every packet is
//! counted at both ends.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use throughway_lab::topology::{HOST_DEVICE, LAN};
use throughway_lab::{Guard, Host};

use crate::config::Config;
use crate::{Scene, binary, eventually};

/// How long a sink may take to attach, and a generator to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// With nothing for so long, everything has arrived.
const QUIET: Duration = Duration::from_millis(200);
/// Less than this shows nothing about changes under load.
const LEAST_RATE: u64 = 10_000;

/// Counts the generator's frames at a server and drops them; all others pass to its kernel.
#[derive(Debug)]
pub struct Sink {
    guard: Guard,
    log: PathBuf,
}

/// What a sink has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counted {
    /// Frames of the generator's.
    pub packets: u64,
    /// Of these, how many came again; only of stamped ones.
    pub duplicates: u64,
}

impl Sink {
    /// Counts at `host` when this returns.
    #[track_caller]
    pub fn start(scene: &Scene, host: Host) -> Sink {
        let (guard, log) =
            spawn(scene, host, "sink", &["sink", "--device", HOST_DEVICE, "--json"].map(str::to_owned));
        eventually("the sink is ready", PATIENCE, || read(&log).contains("ready").then_some(()));
        Sink { guard, log }
    }

    /// Ends it.
    #[track_caller]
    pub fn finish(mut self) -> Counted {
        self.guard.stop().unwrap_or_else(|error| panic!("{error}"));
        let said = said(&self.log);
        Counted {
            packets: said["packets"].as_u64().expect("a count"),
            duplicates: said["duplicates"].as_u64().unwrap_or(0),
        }
    }
}

/// Sends from the client through the box.
#[derive(Debug)]
pub struct Generator {
    guard: Guard,
    log: PathBuf,
}

impl Generator {
    /// Sends what `options` of `throughway pktgen send` say, stamped, to the box's MAC address; `rate`: packets a second, `None`: as
    /// many as there can be.
    #[track_caller]
    pub fn start(scene: &Scene, rate: Option<u64>, options: &str) -> Generator {
        let mac = scene.run(Host::Box, &["cat", &format!("/sys/class/net/{}/address", LAN.device)]).stdout;
        let rate = rate.map_or_else(|| "max".to_owned(), |rate| rate.to_string());
        let fixed = ["send", "--device", HOST_DEVICE, "--json", "--stamp", "--destination-mac", mac.trim()];
        let words = fixed.into_iter().chain(["--rate", &rate]).chain(options.split_whitespace());
        let words: Vec<String> = words.map(str::to_owned).collect();
        let (guard, log) = spawn(scene, Host::Client, "generator", &words);
        Generator { guard, log }
    }

    /// Stops it; how many packets it has sent.
    #[track_caller]
    pub fn stop(mut self) -> u64 {
        self.guard.stop().unwrap_or_else(|error| panic!("{error}\n{}", read(&self.log)));
        said(&self.log)["packets"].as_u64().expect("a count")
    }

    /// Waits for its end; how many packets it has sent, and in how many seconds.
    #[track_caller]
    pub fn wait(mut self) -> (u64, f64) {
        let status = self.guard.wait(PATIENCE).unwrap_or_else(|error| panic!("{error}"));
        assert!(status.success(), "{}", read(&self.log));
        let said = said(&self.log);
        (said["packets"].as_u64().expect("a count"), said["seconds"].as_f64().expect("a time"))
    }
}

fn spawn(scene: &Scene, host: Host, what: &str, words: &[String]) -> (Guard, PathBuf) {
    let binary = binary().to_string_lossy();
    let argv: Vec<&str> = [&*binary, "pktgen"].into_iter().chain(words.iter().map(String::as_str)).collect();
    let name = format!("{what}-{}.log", host.name());
    let guard = scene.lab.spawn(host, &argv, &name).unwrap_or_else(|error| panic!("{error}"));
    (guard, scene.lab.directory().join(name))
}

fn read(log: &Path) -> String {
    std::fs::read_to_string(log).unwrap_or_default()
}

/// The object in what a program has written.
#[track_caller]
fn said(log: &Path) -> Value {
    let text = read(log);
    let line = text.lines().rev().find(|line| line.starts_with('{'));
    line.and_then(|line| serde_json::from_str(line).ok()).unwrap_or_else(|| panic!("no figures: {text}"))
}

/// Frames that a device has received and what it has dropped, in both directions, as its driver counts.
#[track_caller]
pub fn frames(scene: &Scene, host: Host, device: &str) -> (u64, u64) {
    let table = scene.lab.within(host, || std::fs::read_to_string("/proc/thread-self/net/dev"));
    let table = table.expect("the host is there").expect("every kernel has it");
    let row = table.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'));
    let row: Vec<u64> = row.map_or_else(Vec::new, |row| {
        row.split_whitespace().map(|number| number.parse().expect("a number")).collect()
    });
    // Receive: bytes, packets, errs, drop, fifo, frame, compressed, multicast; then transmit.
    match row[..] {
        [_, packets, _, dropped, _, _, _, _, _, _, _, unsent, ..] => (packets, dropped + unsent),
        _ => panic!("no device {device}: {table}"),
    }
}

/// Frames that a server has received.
#[track_caller]
pub fn received(scene: &Scene, host: Host) -> u64 {
    frames(scene, host, HOST_DEVICE).0
}

/// Waits until no server receives anything any more.
#[track_caller]
pub fn until_quiet(scene: &Scene) {
    let all = || [Host::ServerA, Host::ServerB].map(|host| received(scene, host));
    let (mut seen, mut since) = (all(), Instant::now());
    eventually("what is under way arrives", PATIENCE, || {
        let now = all();
        // Neighbours are asked after at times.
        if now.iter().sum::<u64>() > seen.iter().sum::<u64>() + 2 {
            (seen, since) = (now, Instant::now());
        }
        (since.elapsed() >= QUIET).then_some(())
    });
}

/// The highest rate at which a router without a fast path loses nothing here, with a margin: above it, a loss while flows are the
/// workers' would not be a change's fault. Found once, in a lab of its own.
#[track_caller]
pub fn bearable_rate() -> u64 {
    static RATE: OnceLock<u64> = OnceLock::new();
    *RATE.get_or_init(|| {
        let scene = Scene::running(&Config { fast_path: Some("off"), ..Config::default() });
        assert!(scene.pings(Host::Client, &Host::ServerA.ipv4().to_string(), 3));
        let mut rate = 1_000_000;
        loop {
            let sink = Sink::start(&scene, Host::ServerA);
            let options = format!(
                "--duration 700ms --flows 64 --source 198.18.0.0/26 --destination {}",
                Host::ServerA.ipv4()
            );
            let (sent, seconds) = Generator::start(&scene, Some(rate), &options).wait();
            until_quiet(&scene);
            let carried = (sent as f64 / seconds) as u64;
            if sink.finish().packets == sent && carried >= LEAST_RATE {
                return (carried * 3 / 4).max(LEAST_RATE);
            }
            assert!(rate > LEAST_RATE, "even {rate} packets a second are not carried");
            // A generator that others kept from sending gets another chance at nearly the same rate.
            rate = if carried < rate / 2 { rate * 3 / 4 } else { rate / 2 };
        }
    })
}
