//! How fast packets of listed sources are dropped: Throughway's sets with `early` beside nftables' sets, at its ingress hook and in
//! its `prerouting`, with the same addresses, on one core; and a bare XDP program that reads the source and drops: no list at all. What is counted is what the device got through: that all of it was
//! dropped is checked by the counters of either.

use std::fmt::Write;
use std::time::Duration;

use serde_json::Value;

use crate::command::run;
use crate::error::{BenchError, Result};
use crate::generator::{Generator, Rate, Traffic};
use crate::namespaces::{Cores, IN_DEVICE, Namespaces, OUT_DEVICE, Place, Placement, SINK_MAC};
use crate::peers::{Running, ours, xdp};

/// Who drops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dropper {
    /// nftables, at the hook before everything else (family `netdev`).
    Ingress,
    /// nftables, where most rulesets have it (family `ip`, `prerouting`, priority `raw`).
    Prerouting,
    /// An XDP program that drops everything, for comparison.
    Bare,
    /// Throughway, sets with `early`.
    Early,
}

impl Dropper {
    /// All, in the order in which they take turns.
    pub const ALL: [Dropper; 4] = [Dropper::Ingress, Dropper::Prerouting, Dropper::Bare, Dropper::Early];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Dropper::Ingress => "nftables, netdev ingress",
            Dropper::Prerouting => "nftables, prerouting",
            Dropper::Bare => "bare XDP drop",
            Dropper::Early => "Throughway, early",
        }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The path of `throughway`.
    pub binary: &'a str,
    /// The generator's core, and the one of the device.
    pub cores: Cores,
    /// Addresses in the set; those of the flows are the first of them.
    pub elements: u32,
    /// Flows: as many sources.
    pub flows: u32,
    /// How long is sent.
    pub duration: Duration,
}

/// One trial: packets a second that were offered, and that were dropped.
///
/// # Errors
/// When something does not run, or lets listed packets pass.
pub fn trial(
    at: &mut Namespaces,
    generator: &Generator,
    dropper: Dropper,
    wanted: &Wanted<'_>,
) -> Result<(f64, f64)> {
    at.place(Placement::OneCore, wanted.cores)?;
    let _running = start(at, dropper, wanted)?;
    at.place(Placement::OneCore, wanted.cores)?;
    let traffic = Traffic::small(wanted.flows);
    // Everything is in the caches that it stays in.
    generator.send(at, &traffic, Rate::Pps(100_000.0), Duration::from_millis(200), false)?;
    let before = (received(at)?, dropped(at, dropper, wanted.binary)?);
    let sent = generator.send(at, &traffic, Rate::Max, wanted.duration, false)?;
    // What is in the ring is soon got through.
    std::thread::sleep(Duration::from_millis(50));
    let (through, counted) = (received(at)? - before.0, dropped(at, dropper, wanted.binary)? - before.1);
    let seconds = sent.seconds.max(1e-6);
    if counted < through * 99 / 100 || through == 0 {
        let text = format!("{}: {through} packets came and {counted} were dropped", dropper.name());
        return Err(BenchError::Worthless(text));
    }
    Ok((sent.packets as f64 / seconds, counted as f64 / seconds))
}

/// The addresses of the flows and those that follow.
fn addresses(count: u32) -> impl Iterator<Item = String> {
    (0..count).map(|number| {
        let [_, a, b, c] = number.to_be_bytes();
        format!("10.{a}.{b}.{c}")
    })
}

fn start(at: &Namespaces, dropper: Dropper, wanted: &Wanted<'_>) -> Result<Running> {
    let write = |name: &str, text: &str| -> Result<String> {
        let path = at.directory().join(name);
        std::fs::write(&path, text).map_err(|source| BenchError::file(&path, source))?;
        Ok(path.to_string_lossy().into_owned())
    };
    let (family, chain) = match dropper {
        Dropper::Early => {
            // In two sets in turn: addresses side by side in one would become a single prefix.
            let (even, odd): (Vec<_>, Vec<_>) =
                addresses(wanted.elements).enumerate().partition(|(number, _)| number % 2 == 0);
            for (name, half) in [("even.txt", even), ("odd.txt", odd)] {
                let lines = half.into_iter().fold(String::new(), |text, (_, address)| text + &address + "\n");
                write(name, &lines)?;
            }
            let text = format!(
                "interfaces: {{ lan: {{ device: {IN_DEVICE} }}, wan: {{ device: {OUT_DEVICE} }} }}\nworkers: {{ cores: [{}] }}\n\
                 functions:\n  edge:\n    firewall:\n      default: drop\n      sets:\n        \
                 even: {{ file: even.txt, early: lan }}\n        odd: {{ file: odd.txt, early: lan }}\n  core: {{ router: {{}} }}\n\
                 chains: {{ all: {{ from: [lan, wan], run: [edge, core] }} }}\n",
                wanted.cores.device
            );
            return ours::serve(at, wanted.binary, &text, false);
        }
        Dropper::Bare => {
            xdp::attach(at, IN_DEVICE, "xdp/drop", OUT_DEVICE, SINK_MAC)?;
            return Ok(Running::default());
        }
        Dropper::Ingress => ("netdev", format!("type filter hook ingress device {IN_DEVICE} priority -500")),
        Dropper::Prerouting => ("ip", "type filter hook prerouting priority raw".to_owned()),
    };
    let mut text = format!(
        "table {family} early {{\n  set blocked {{ type ipv4_addr; size {}; elements = {{\n",
        wanted.elements.max(1)
    );
    for address in addresses(wanted.elements) {
        let _ = writeln!(text, "{address},");
    }
    let _ = write!(
        text,
        "  }} }}\n  counter dropped {{ }}\n  chain in {{\n    {chain}; policy accept;\n    ip saddr @blocked counter name dropped drop\n  }}\n}}\n"
    );
    let file = write("early.nft", &text)?;
    at.run(Place::Device, &["nft", "-f", &file])?;
    Ok(Running::default())
}

/// Frames that the device has got through.
fn received(at: &Namespaces) -> Result<u64> {
    let text =
        at.run(Place::Device, &["cat", &format!("/sys/class/net/{IN_DEVICE}/statistics/rx_packets")])?;
    text.trim().parse().map_err(|_| BenchError::Worthless(format!("`{text}` is no count")))
}

/// Packets that were dropped as their source is in the set.
fn dropped(at: &Namespaces, dropper: Dropper, binary: &str) -> Result<u64> {
    let family = match dropper {
        Dropper::Ingress => "netdev",
        Dropper::Prerouting => "ip",
        Dropper::Bare => return received(at),
        Dropper::Early => {
            let socket = at.directory().join(ours::SOCKET);
            let text = run(&[binary, "show", "sets", "--json", "--api", &socket.to_string_lossy()])?;
            let rows: Value = answer(&text)?;
            let counts = rows.as_array().into_iter().flatten().filter_map(|row| row["early_drops"].as_u64());
            return Ok(counts.sum());
        }
    };
    let text = at.run(Place::Device, &["nft", "--json", "list", "counter", family, "early", "dropped"])?;
    let said: Value = answer(&text)?;
    let counters = said["nftables"].as_array().into_iter().flatten();
    Ok(counters.filter_map(|item| item["counter"]["packets"].as_u64()).sum())
}

fn answer(text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|error| BenchError::Answer {
        what: "a count of drops".to_owned(),
        message: error.to_string(),
    })
}
