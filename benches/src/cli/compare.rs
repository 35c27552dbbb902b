//! `throughway-bench early` and `throughway-bench tcp`: one question each, with who answers it in turn.

use std::time::Duration;

use super::{Machine, say};
use crate::early::{self, Dropper};
use crate::error::Result;
use crate::generator::Generator;
use crate::method::Figure;
use crate::namespaces::Namespaces;
use crate::tcp::{self, Forwarder};

pub(super) fn early(machine: &Machine, elements: u32, flows: u32, seconds: f64, runs: usize) -> Result<()> {
    super::prepare(machine)?;
    let generator = Generator::new(machine.pktgen(), machine.cores, machine.generator)?;
    let wanted = early::Wanted {
        binary: &machine.throughway,
        cores: machine.cores,
        elements,
        flows: flows.min(elements),
        duration: Duration::from_secs_f64(seconds),
    };
    let mut rates = [const { Vec::new() }; Dropper::ALL.len()];
    for _ in 0..runs {
        for (dropper, rates) in Dropper::ALL.into_iter().zip(&mut rates) {
            let mut at = Namespaces::up(&machine.prefix, machine.nice)?;
            let (offered, dropped) = early::trial(&mut at, &generator, dropper, &wanted)?;
            say(&line(dropper.name(), "offered", offered, "dropped", dropped));
            rates.push(dropped);
        }
    }
    say(&format!("\n{elements} addresses, {} of them send; medians of {runs}:", wanted.flows));
    let figures = rates.map(|rates| Figure::of(&rates).unwrap_or_default());
    let [.., ours] = figures;
    for (dropper, figure) in Dropper::ALL.into_iter().zip(figures) {
        say(&format!(
            "{:<28} {:>7.3} Mpps ({:.3} to {:.3}); Throughway {:.2} times that",
            dropper.name(),
            figure.median / 1e6,
            figure.least / 1e6,
            figure.most / 1e6,
            ours.median / figure.median.max(1.0)
        ));
    }
    Ok(())
}

fn line(name: &str, what: &str, one: f64, other: &str, two: f64) -> String {
    format!("{name:<28} {what} {:>7.3} Mpps  {other} {:>7.3}", one / 1e6, two / 1e6)
}

pub(super) fn tcp(machine: &Machine, streams: &[u32], seconds: f64, runs: usize) -> Result<()> {
    super::prepare(machine)?;
    let duration = Duration::from_secs_f64(seconds);
    for &streams in streams {
        for single in [false, true] {
            let mut rates = [const { Vec::new() }; Forwarder::ALL.len()];
            for _ in 0..runs {
                for (by, rates) in Forwarder::ALL.into_iter().zip(&mut rates) {
                    let at = Namespaces::up(&machine.prefix, machine.nice)?;
                    let (binary, cores) = (machine.throughway.as_str(), machine.cores);
                    let wanted = tcp::Wanted { binary, cores, by, single, streams, duration };
                    rates.push(tcp::trial(&at, &wanted)?);
                }
            }
            let figures = rates.map(|rates| Figure::of(&rates).unwrap_or_default());
            let offloads = if single { "one packet a frame" } else { "offloads as by default" };
            say(&format!("{streams} streams, {offloads}:"));
            let [.., ours] = figures;
            for (by, figure) in Forwarder::ALL.into_iter().zip(figures) {
                let [median, least, most] = [figure.median, figure.least, figure.most].map(|rate| rate / 1e9);
                say(&format!(
                    "  {:<20} {median:>6.2} Gbit/s ({least:.2} to {most:.2}); Throughway {:.2} times that",
                    by.name(),
                    ours.median / figure.median.max(1.0)
                ));
            }
        }
    }
    Ok(())
}
