//! What was measured, as `report.json` has it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::generator::{Latency, Packets};
use crate::machine::Machine;
use crate::method::Figure;
use crate::peers::{Peer, Subject};
use crate::plan::Dimension;
use crate::trial::Trial;

/// The whole report.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Results {
    /// On what.
    pub machine: Machine,
    /// Seconds of one trial.
    pub seconds: f64,
    /// Flows, where they do not grow.
    pub flows: u32,
    /// How the generator sends.
    pub generator: String,
    /// One line each.
    pub subjects: Vec<Line>,
    /// Growing tables.
    pub scaling: Vec<Growth>,
    /// Microbenchmarks: name and nanoseconds.
    pub micro: Vec<Micro>,
    /// Instructions a packet, by row.
    pub instructions: BTreeMap<String, f64>,
    /// What was planned and not measured for want of time.
    pub cut: Vec<String>,
    /// What was tried and failed, with how it did.
    pub failed: Vec<String>,
}

/// A microbenchmark of criterion's.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Micro {
    /// Group and name.
    pub name: String,
    /// Nanoseconds for one round of it.
    pub ns: f64,
    /// The same for one packet, where it says how many a round has.
    pub ns_each: Option<f64>,
}

/// What one run showed of a subject.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Run {
    /// Its number, from 1: what is compared was measured in the same one.
    pub number: usize,
    /// Trials at the offered rates, the last as fast as the generator can.
    pub trials: Vec<Trial>,
    /// The highest rates of the searches.
    pub searched: Vec<f64>,
    /// Latency at half of the best rate.
    pub latency: Option<Latency>,
}

impl Run {
    /// The most that arrived in a second, at any offered rate.
    pub fn best(&self) -> f64 {
        self.trials.iter().map(|trial| trial.arrived).fold(0.0, f64::max)
    }

    /// What arrived when the generator sent as fast as it can.
    pub fn overloaded(&self) -> f64 {
        self.trials.last().map_or(0.0, |trial| trial.arrived)
    }
}

/// A subject with its runs.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its key, by which baselines know it.
    pub key: String,
    /// Which core pays for what.
    pub placement: &'static str,
    /// What is sent.
    pub packets: Packets,
    /// Who.
    #[serde(skip)]
    pub subject: Subject,
    /// Why it could not be measured here.
    pub unavailable: Option<String>,
    /// Its runs.
    pub runs: Vec<Run>,
    /// How the others failed.
    pub failures: Vec<String>,
}

impl Line {
    /// Of a subject that was not measured yet.
    pub fn new(subject: Subject) -> Self {
        Line {
            name: subject.name(),
            key: subject.key(),
            placement: subject.placement.name(),
            packets: subject.packets,
            subject,
            unavailable: None,
            runs: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Median and spread of something of each run.
    pub fn figure(&self, of: impl Fn(&Run) -> f64) -> Option<Figure> {
        Figure::of(&self.runs.iter().map(of).collect::<Vec<_>>())
    }

    /// The highest rate of search `index`.
    pub fn searched(&self, index: usize) -> Option<Figure> {
        Figure::of(&self.runs.iter().filter_map(|run| run.searched.get(index).copied()).collect::<Vec<_>>())
    }

    /// A percentile of latency in microseconds.
    pub fn latency(&self, of: impl Fn(&Latency) -> f64) -> Option<Figure> {
        let each = self.runs.iter().filter_map(|run| run.latency.as_ref().map(|latency| of(latency) / 1e3));
        Figure::of(&each.collect::<Vec<_>>())
    }

    /// Medians of offered and arrived rate, by offered rate.
    pub fn curve(&self) -> Vec<(f64, f64)> {
        let points = self.runs.iter().map(|run| run.trials.len()).max().unwrap_or(0);
        let of = |index: usize, what: fn(&Trial) -> f64| {
            let each: Vec<f64> = self.runs.iter().filter_map(|run| run.trials.get(index).map(what)).collect();
            Figure::of(&each).map(|figure| figure.median)
        };
        let point = |at| Some((of(at, |one| one.offered)?, of(at, |one| one.arrived)?));
        let mut curve: Vec<(f64, f64)> = (0..points).filter_map(point).collect();
        // A generator that is kept from its core offers less than it was told.
        curve.sort_by(|one, two| one.0.total_cmp(&two.0));
        curve
    }

    /// Something of the trial at which most arrived, over the runs.
    pub fn at_best(&self, of: impl Fn(&Trial) -> f64) -> Option<Figure> {
        let best = self
            .runs
            .iter()
            .filter_map(|run| run.trials.iter().max_by(|one, two| one.arrived.total_cmp(&two.arrived)));
        Figure::of(&best.map(of).collect::<Vec<_>>())
    }
}

/// A growing table with one who was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Growth {
    /// What grows.
    pub dimension: Dimension,
    /// Who.
    pub name: String,
    /// Size, and packets a second that arrived in each run, in their order; nothing where it failed.
    pub points: Vec<(u32, Vec<Option<f64>>)>,
}

/// Median and spread of the runs that did not fail.
pub fn of_those_measured(arrived: &[Option<f64>]) -> Option<Figure> {
    Figure::of(&arrived.iter().flatten().copied().collect::<Vec<_>>())
}

impl Results {
    /// The line of a subject.
    pub fn line(&self, subject: Subject) -> Option<&Line> {
        self.subjects.iter().find(|line| line.subject == subject)
    }

    /// How Throughway stands to the kernel that does the same, by key: the median of the ratios of each run.
    pub fn ratios(&self) -> BTreeMap<String, Figure> {
        let mut ratios = BTreeMap::new();
        for line in self.subjects.iter().filter(|line| line.subject.peer.is_ours()) {
            let Some(kernel) = kernel_of(line.subject.peer)
                .and_then(|peer| self.line(peer.on_one_core().sent(line.subject.packets)))
            else {
                continue;
            };
            let ratio = |ours: &Run| {
                let kernel = kernel.runs.iter().find(|run| run.number == ours.number)?;
                (kernel.best() > 0.0).then(|| ours.best() / kernel.best())
            };
            let each: Vec<f64> = line.runs.iter().filter_map(ratio).collect();
            if let Some(figure) = Figure::of(&each) {
                let (peer, suffix) = (kernel.subject.peer.key(), line.subject.packets.suffix());
                ratios.insert(format!("{} / {peer}{suffix}", line.key), figure);
            }
        }
        ratios
    }
}

/// What the kernel has for the same purpose.
fn kernel_of(peer: Peer) -> Option<Peer> {
    match peer {
        Peer::Router | Peer::Chain(_) => Some(Peer::KernelForward),
        Peer::Filter => Some(Peer::KernelFilter),
        Peer::Stateful => Some(Peer::KernelMasquerade),
        Peer::Balancer => Some(Peer::KernelBalance),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cpu::CpuUse;

    pub(crate) fn trial(offered: f64, arrived: f64) -> Trial {
        Trial {
            offered,
            arrived,
            loss: 1.0 - arrived / offered,
            duplicates: None,
            reordered: None,
            latency: None,
            cpu: CpuUse::default(),
            backend: "live-frames".to_owned(),
        }
    }

    pub(crate) fn line(peer: Peer, bests: &[f64]) -> Line {
        let mut line = Line::new(peer.on_one_core());
        for (number, &best) in bests.iter().enumerate() {
            let trials = vec![trial(1e6, 0.9e6), trial(2e6, best), trial(9e6, best / 2.0)];
            let latency = Some(Latency { p50: 2e4, p90: 4e4, p99: 5e4, p999: 6e4, max: 7e4 });
            line.runs.push(Run { number, trials, searched: vec![0.5e6, 0.7e6], latency });
        }
        line
    }

    #[test]
    fn ratios_are_made_within_each_run() {
        // The machine got twice as slow in the second and third run: the ratio stays.
        let subjects =
            vec![line(Peer::KernelMasquerade, &[2e6, 1e6, 1e6]), line(Peer::Stateful, &[4e6, 2e6, 2e6])];
        let results = Results { subjects, ..Results::default() };
        let ratios = results.ratios();
        let ratio = ratios.get("stateful@one-core / kernel-masquerade").unwrap();
        assert_eq!((ratio.median, ratio.runs, ratio.spread()), (2.0, 3, 0.0));
        assert_eq!(ratios.len(), 1);
    }

    #[test]
    fn a_run_that_one_of_them_lacks_makes_no_ratio() {
        let mut ours = line(Peer::Stateful, &[4e6, 2e6, 2e6]);
        ours.runs.remove(0);
        let subjects = vec![line(Peer::KernelMasquerade, &[4e6, 1e6, 1e6]), ours];
        let results = Results { subjects, ..Results::default() };
        let ratio = results.ratios()["stateful@one-core / kernel-masquerade"];
        assert_eq!((ratio.median, ratio.runs), (2.0, 2));
    }

    #[test]
    fn a_line_knows_its_best_and_what_overload_left() {
        let line = line(Peer::Router, &[1.0e6, 1.4e6, 1.2e6]);
        assert_eq!(line.figure(Run::best).unwrap().median, 1.2e6);
        assert_eq!(line.figure(Run::overloaded).unwrap().median, 0.6e6);
        assert_eq!(line.curve(), [(1e6, 0.9e6), (2e6, 1.2e6), (9e6, 0.6e6)]);
        assert_eq!(line.searched(1).unwrap().median, 0.7e6);
        assert_eq!(line.searched(2), None);
    }
}
