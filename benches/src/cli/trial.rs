//! `throughway-bench trial`: one peer at given rates.

use std::time::Duration;

use super::{Machine, say};
use crate::error::Result;
use crate::generator::{Generator, Packets, Rate, Traffic};
use crate::namespaces::{Namespaces, Place, Placement};
use crate::peers::{Peer, Scale, Setup, Subject};
use crate::trial::Bench;

/// What is wanted.
pub(super) struct Wanted {
    pub(super) peers: Vec<Peer>,
    pub(super) placement: Placement,
    pub(super) fast_path: bool,
    pub(super) packets: Packets,
    pub(super) rates: Vec<Rate>,
    pub(super) seconds: f64,
    pub(super) flows: u32,
    pub(super) runs: usize,
    pub(super) stamp: bool,
    pub(super) all_new: bool,
    pub(super) then: Option<String>,
}

pub(super) fn trials(machine: &Machine, wanted: &Wanted) -> Result<()> {
    super::prepare(machine)?;
    let generator = Generator::new(machine.pktgen(), machine.cores, machine.generator)?;
    for _ in 0..wanted.runs {
        for &peer in &wanted.peers {
            let mut at = Namespaces::up(&machine.prefix, machine.nice)?;
            let Wanted { placement, fast_path, packets, .. } = *wanted;
            let subject = Subject { peer, placement, fast_path, packets };
            let traffic = if peer.balances() {
                Traffic::to_service(wanted.flows)
            } else {
                Traffic::of(wanted.packets, wanted.flows)
            };
            let traffic = Traffic { all_new: wanted.all_new, ..traffic };
            let mut setup = Setup {
                at: &mut at,
                cores: machine.cores,
                scale: Scale::default(),
                traffic: &traffic,
                binary: &machine.throughway,
                workers: &machine.workers,
            };
            let running = subject.start(&mut setup)?;
            if let Some(then) = &wanted.then {
                let words =
                    |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
                let line = format!(
                    "export NAPI='{}' PIDS='{}' NS='{}'; {then}",
                    words(at.napi()),
                    words(&running.pids()),
                    at.name(Place::Device)
                );
                say(crate::command::run(&["sh", "-c", &line])?.trim_end());
            }
            let bench = Bench {
                at: &at,
                generator: &generator,
                cores: machine.cores,
                running: &running,
                traffic: &traffic,
            };
            bench.warm_up(peer)?;
            for &rate in &wanted.rates {
                let trial = bench.trial(rate, Duration::from_secs_f64(wanted.seconds), wanted.stamp)?;
                let latency = trial.latency.filter(|_| wanted.stamp).map_or(String::new(), |latency| {
                    format!("  p50 {:.1} us p99 {:.1} us", latency.p50 / 1e3, latency.p99 / 1e3)
                });
                say(&format!(
                    "{:<42} offered {:>6.3} Mpps  arrived {:>6.3}  loss {:>7.3} %  worker {:.2} softirq {:.2} generator {:.2} others {:.2} stolen {:.2}{latency}",
                    subject.name(),
                    trial.offered / 1e6,
                    trial.arrived / 1e6,
                    trial.loss * 100.0,
                    trial.cpu.worker,
                    trial.cpu.softirq,
                    trial.cpu.generator,
                    trial.cpu.others,
                    trial.cpu.stolen
                ));
            }
        }
    }
    Ok(())
}
