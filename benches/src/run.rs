//! Carries a plan out: run after run, in each of them one subject after the other, each in fresh namespaces.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::cli::say;
use crate::error::{BenchError, Result};
use crate::generator::{Generator, Packets, Rate, Traffic};
use crate::machine::Machine;
use crate::method::Tried;
use crate::namespaces::{Cores, Namespaces};
use crate::peers::{Scale, Setup, Subject};
use crate::plan::{Done, LATENCY_TRIALS, Plan, Scaling, Took};
use crate::results::{Growth, Line, Results, Run};
use crate::trial::Bench;

/// What runs are made with.
pub struct Runner<'a> {
    /// The path of `throughway`.
    pub binary: &'a str,
    /// The generator and sink.
    pub generator: &'a Generator,
    /// The cores.
    pub cores: Cores,
    /// The niceness.
    pub nice: i32,
    /// The namespaces' prefix.
    pub prefix: &'a str,
    /// More of Throughway's section `workers`.
    pub workers: &'a str,
    /// Set when it shall end.
    pub stop: Arc<AtomicBool>,
    /// Nothing new is begun after this instant.
    pub deadline: Option<Instant>,
}

impl Runner<'_> {
    /// Everything in `plan`, or as much of it as fits: after each run, what that took says how many more there will be.
    ///
    /// # Errors
    /// When generator or sink fail, or it was interrupted. A peer that fails is a line that says so.
    pub fn run(&self, plan: &Plan) -> Result<Results> {
        let mut results = Results {
            machine: Machine::here(self.cores, self.nice, self.binary),
            seconds: plan.seconds,
            flows: plan.flows,
            subjects: plan.subjects.iter().map(|subject| Line::new(*subject)).collect(),
            scaling: plan.scaling.iter().flat_map(growths).collect(),
            ..Results::default()
        };
        let (mut fit, mut took) = (Done { runs: plan.runs, scaling: plan.scaling_runs }, Took::default());
        let mut run = 0;
        while run < fit.runs && !self.is_late() {
            run += 1;
            let begun = Instant::now();
            self.subjects(plan, run, &mut results)?;
            took.subjects = begun.elapsed();
            if run <= fit.scaling {
                let begun = Instant::now();
                self.scaling(plan, run, &mut results.scaling)?;
                took.scaling = begun.elapsed();
            }
            if let Some(deadline) = self.deadline {
                let done = Done { runs: run, scaling: run.min(fit.scaling) };
                fit = plan.fit(done, took, deadline.saturating_duration_since(Instant::now()));
            }
            say(&format!(
                "run {run} took {} s, growing tables {} s; {} runs in all, {} of them with growing tables",
                took.subjects.as_secs(),
                took.scaling.as_secs(),
                fit.runs,
                fit.scaling
            ));
        }
        results.cut = cut(plan, run, &results);
        for line in &results.cut {
            say(&format!("cut: {line}"));
        }
        results.failed = failed(run, &results);
        for line in &results.failed {
            say(&format!("failed: {line}"));
        }
        Ok(results)
    }

    /// Every subject once.
    fn subjects(&self, plan: &Plan, run: usize, results: &mut Results) -> Result<()> {
        for line in results.subjects.iter_mut().filter(|line| line.unavailable.is_none()) {
            self.check()?;
            if self.is_late() {
                break;
            }
            let near: Vec<Option<f64>> =
                (0..plan.searches.len()).map(|search| line.searched(search).map(|one| one.median)).collect();
            match self.subject(plan, line.subject, run, &near) {
                Ok(one) => {
                    say(&format!(
                        "run {run}/{}  {:<46} {:<9} {:<14} best {:>6.3} Mpps, overloaded {:>6.3}",
                        plan.runs,
                        line.name,
                        line.placement,
                        line.packets.name(),
                        one.best() / 1e6,
                        one.overloaded() / 1e6
                    ));
                    if let Some(trial) = one.trials.last() {
                        results.generator.clone_from(&trial.backend);
                    }
                    line.runs.push(one);
                }
                Err(BenchError::Interrupted) => return Err(BenchError::Interrupted),
                Err(error) => {
                    say(&format!("run {run}/{}  {:<46} {:<9} {error}", plan.runs, line.name, line.placement));
                    // What cannot run here will not in the next run either; anything else may have been bad luck.
                    if matches!(error, BenchError::Unavailable(_)) || run == plan.runs && line.runs.is_empty()
                    {
                        line.unavailable = Some(first_line(&error));
                    }
                    line.failures.push(first_line(&error));
                }
            }
        }
        Ok(())
    }

    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(BenchError::Interrupted) } else { Ok(()) }
    }

    /// Runs `work` with a subject that forwards.
    fn with<T>(
        &self,
        subject: Subject,
        scale: Scale,
        traffic: &Traffic,
        work: impl FnOnce(&Bench<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut at = Namespaces::up(self.prefix, self.nice)?;
        let mut setup = Setup {
            at: &mut at,
            cores: self.cores,
            scale,
            traffic,
            binary: self.binary,
            workers: self.workers,
        };
        let running = subject.start(&mut setup)?;
        work(&Bench { at: &at, generator: self.generator, cores: self.cores, running: &running, traffic })
    }

    /// One run of a subject; `near` is what its searches found before.
    fn subject(&self, plan: &Plan, subject: Subject, number: usize, near: &[Option<f64>]) -> Result<Run> {
        let traffic = plan.traffic(subject);
        let duration = Duration::from_secs_f64(plan.seconds);
        self.with(subject, Scale::default(), &traffic, |bench| {
            bench.warm_up(subject.peer)?;
            let mut run = Run { number, ..Run::default() };
            let rates = plan.rates_of(subject);
            for rate in rates.iter().map(|rate| Rate::Pps(*rate)).chain([Rate::Max]) {
                self.check()?;
                run.trials.push(bench.trial(rate, duration, false)?);
            }
            let best = run.best();
            let mut known: Vec<Tried> = rates
                .iter()
                .copied()
                .zip(&run.trials)
                .map(|(rate, trial)| (rate, trial.lost_of(rate)))
                .collect();
            let searches = if subject.packets == Packets::Small { plan.searches.as_slice() } else { &[] };
            for (search, near) in searches.iter().zip(near) {
                let found = search.run(rates, &mut known, *near, |rate| {
                    self.check()?;
                    bench.trial(Rate::Pps(rate), duration, false).map(|trial| trial.lost_of(rate))
                })?;
                run.searched.push(found);
            }
            if plan.latency {
                let duration = duration * LATENCY_TRIALS;
                run.latency = bench.trial(Rate::Pps(best / 2.0), duration, true)?.latency;
            }
            Ok(run)
        })
    }

    fn scaling(&self, plan: &Plan, run: usize, growths: &mut [Growth]) -> Result<()> {
        let mut places = growths.iter_mut();
        for scaling in &plan.scaling {
            for peer in &scaling.peers {
                let Some(growth) = places.next() else { continue };
                for (size, arrived) in &mut growth.points {
                    self.check()?;
                    if self.is_late() {
                        return Ok(());
                    }
                    let cell = scaling.cell(*peer, *size, plan.flows);
                    let full = cell.before.as_ref().unwrap_or(&cell.traffic);
                    let duration = Duration::from_secs_f64(plan.seconds);
                    let result = self.with(cell.subject, cell.scale, full, |bench| {
                        bench.warm_up(cell.subject.peer)?;
                        let bench = Bench { traffic: &cell.traffic, ..*bench };
                        bench.trial(Rate::Pps(scaling.rate(plan)), duration, false)
                    });
                    let what = format!(
                        "run {run}/{}  {:<46} {size} {}",
                        plan.runs,
                        growth.name,
                        scaling.dimension.name()
                    );
                    match result {
                        Ok(trial) => {
                            say(&format!("{what}: {:.3} Mpps", trial.arrived / 1e6));
                            arrived.push(Some(trial.arrived));
                        }
                        Err(BenchError::Interrupted) => return Err(BenchError::Interrupted),
                        Err(error) => {
                            say(&format!("{what}: {}", first_line(&error)));
                            arrived.push(None);
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// What was planned and is not in the results; `runs` were begun.
fn cut(plan: &Plan, runs: usize, results: &Results) -> Vec<String> {
    let mut cut = Vec::new();
    if runs < plan.runs {
        cut.push(format!("{runs} runs of {} were made", plan.runs));
    }
    let fewer: Vec<&str> = results
        .subjects
        .iter()
        .filter(|line| line.unavailable.is_none() && line.runs.len() + line.failures.len() < runs)
        .map(|line| line.key.as_str())
        .collect();
    if !fewer.is_empty() {
        cut.push(format!("fewer runs of {}", fewer.join(", ")));
    }
    let points = results.scaling.iter().flat_map(|growth| &growth.points);
    let (least, most) = points.fold((plan.scaling_runs, 0), |(least, most), (_, arrived)| {
        (least.min(arrived.len()), most.max(arrived.len()))
    });
    if least < plan.scaling_runs {
        let how_often = if least == most { least.to_string() } else { format!("{least} to {most}") };
        cut.push(format!("growing tables were measured in {how_often} of {} runs", plan.scaling_runs));
    }
    cut
}

/// What was tried in `runs` runs and failed, by subject and by growing table. What never worked is in the tables as unavailable.
fn failed(runs: usize, results: &Results) -> Vec<String> {
    let lines = results.subjects.iter().filter(|line| line.unavailable.is_none());
    let lines = lines.filter_map(|line| {
        let (last, count) = (line.failures.last()?, line.failures.len());
        Some(format!("{} in {count} of {runs} runs ({last})", line.key))
    });
    let growths = results.scaling.iter().filter_map(|growth| {
        let all = || growth.points.iter().flat_map(|(_, arrived)| arrived);
        let count = all().filter(|arrived| arrived.is_none()).count();
        let (name, dimension, all) = (&growth.name, growth.dimension.name(), all().count());
        (count > 0).then(|| format!("{name} with more {dimension} in {count} of {all} trials"))
    });
    lines.chain(growths).collect()
}

fn growths(scaling: &Scaling) -> Vec<Growth> {
    let of = |peer: &crate::peers::Peer| Growth {
        dimension: scaling.dimension,
        name: peer.name(),
        points: scaling.points.iter().map(|size| (*size, Vec::new())).collect(),
    };
    scaling.peers.iter().map(of).collect()
}

fn first_line(error: &BenchError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::Peer;
    use crate::plan::Dimension;
    use crate::results::tests::line;

    #[test]
    fn what_was_planned_and_not_measured_is_said() {
        let plan = Plan { scaling_runs: 3, ..Plan::whole(5) };
        let growth = |runs: usize| Growth {
            dimension: Dimension::Rules,
            name: String::new(),
            points: vec![(1, vec![Some(1.0); runs]), (2, vec![Some(1.0); 3])],
        };
        let all = line(Peer::Router, &[1e6; 5]);
        let mut results =
            Results { subjects: vec![all.clone()], scaling: vec![growth(3)], ..Results::default() };
        assert_eq!(cut(&plan, 5, &results), Vec::<String>::new());
        results.subjects = vec![all, line(Peer::Stateful, &[1e6; 4])];
        results.scaling = vec![growth(1)];
        assert_eq!(
            cut(&plan, 5, &results),
            ["fewer runs of stateful@one-core", "growing tables were measured in 1 to 3 of 3 runs"]
        );
        assert_eq!(cut(&plan, 4, &results)[0], "4 runs of 5 were made");
        assert_eq!(failed(5, &results), Vec::<String>::new());
        // What failed was not cut.
        results.subjects[1].failures.push("no route".to_owned());
        results.scaling = vec![growth(3)];
        results.scaling[0].points[0].1[1] = None;
        assert_eq!(cut(&plan, 5, &results), Vec::<String>::new());
        let name = Peer::Stateful.on_one_core().key();
        assert_eq!(
            failed(5, &results),
            [format!("{name} in 1 of 5 runs (no route)"), " with more rules in 1 of 6 trials".to_owned()]
        );
    }
}
