//! The aims of the project that these benchmarks show, and how near it is: ratios of figures of the same run.

use std::fmt::Write;

use crate::method::Figure;
use crate::peers::{Peer, Subject};
use crate::plan::Dimension;
use crate::results::{Results, Run};

/// An aim.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

impl Aim {
    fn text(self) -> String {
        match self {
            Aim::AtLeast(least) => format!("≥ {least}"),
            Aim::AtMost(most) => format!("≤ {most}"),
        }
    }

    fn is_reached(self, figure: f64) -> bool {
        match self {
            Aim::AtLeast(least) => figure >= least,
            Aim::AtMost(most) => figure <= most,
        }
    }
}

/// The table of aims, or nothing when none of them was measured.
pub(super) fn table(results: &Results) -> String {
    let rows: Vec<String> = rows(results)
        .into_iter()
        .filter_map(|(name, aim, figure)| {
            let figure = figure?;
            let word = if aim.is_reached(figure.median) { "reached" } else { "missed" };
            Some(format!(
                "| {name} | {} | {:.2} | {:.2} | {:.2} | {word} |",
                aim.text(),
                figure.median,
                figure.least,
                figure.most
            ))
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let mut text = "## Aims\n\n| ratio in each run, firewall + NAT + router where nothing is said | aim | median | least | most | |\n|---|---|---:|---:|---:|---|\n".to_owned();
    for row in rows {
        let _ = writeln!(text, "{row}");
    }
    text.push('\n');
    text
}

fn rows(results: &Results) -> Vec<(&'static str, Aim, Option<Figure>)> {
    let (own, one) = (Peer::Stateful.on_own_core(), Peer::Stateful.on_one_core());
    let fast = Subject { fast_path: true, ..one };
    let best = |ours: Subject, theirs: Subject| ratio(results, ours, theirs, |run| Some(run.best()));
    let no_loss = |run: &Run| run.searched.first().copied();
    let typical = |run: &Run| run.latency.map(|latency| latency.p50);
    let slowest = |run: &Run| run.latency.map(|latency| latency.p99);
    let testpmd = Peer::Testpmd.on_own_core();
    vec![
        ("own core, to testpmd", Aim::AtLeast(0.97), best(own, testpmd)),
        (
            "own core, to the kernel's filter + masquerade",
            Aim::AtLeast(2.0),
            best(own, Peer::KernelMasquerade.on_one_core()),
        ),
        ("own core, no loss, to testpmd", Aim::AtLeast(1.0), ratio(results, own, testpmd, no_loss)),
        ("own core, p50 at half load, to testpmd", Aim::AtMost(1.1), ratio(results, own, testpmd, typical)),
        ("own core, p99 at half load, to testpmd", Aim::AtMost(1.1), ratio(results, own, testpmd, slowest)),
        ("one core, to testpmd", Aim::AtLeast(1.1), best(one, Peer::Testpmd.on_one_core())),
        (
            "one core, overloaded, to its own best",
            Aim::AtLeast(0.8),
            results.line(one).and_then(|line| line.figure(|run| run.overloaded() / run.best().max(1.0))),
        ),
        (
            "100,000 flows, to one",
            Aim::AtLeast(0.9),
            grown(results, Dimension::Flows, Peer::Stateful, 1, 100_000),
        ),
        (
            "router with three more functions, to the router",
            Aim::AtLeast(0.97),
            grown(results, Dimension::Functions, Peer::Router, 1, 4),
        ),
        (
            "fast path, to a bare XDP redirect",
            Aim::AtLeast(0.75),
            best(fast, Peer::XdpRedirect.on_one_core()),
        ),
        (
            "fast path, to bare XDP with the kernel's forwarding table",
            Aim::AtLeast(1.0),
            best(fast, Peer::XdpFib.on_one_core()),
        ),
        (
            "fast path, to the kernel's filter + masquerade",
            Aim::AtLeast(4.0),
            best(fast, Peer::KernelMasquerade.on_one_core()),
        ),
    ]
}

/// The ratio of two lines' figures, run by run.
fn ratio(
    results: &Results,
    ours: Subject,
    theirs: Subject,
    of: impl Fn(&Run) -> Option<f64>,
) -> Option<Figure> {
    let (ours, theirs) = (results.line(ours)?, results.line(theirs)?);
    let each = ours.runs.iter().filter_map(|run| {
        let other = of(theirs.runs.iter().find(|other| other.number == run.number)?)?;
        (other > 0.0).then_some(of(run)? / other)
    });
    Figure::of(&each.collect::<Vec<_>>())
}

/// What is left of the rate at one size of a table when it has another one, run by run.
fn grown(results: &Results, dimension: Dimension, peer: Peer, from: u32, to: u32) -> Option<Figure> {
    let growth =
        results.scaling.iter().find(|growth| growth.dimension == dimension && growth.name == peer.name())?;
    let at = |size| growth.points.iter().find(|(point, _)| *point == size).map(|(_, arrived)| arrived);
    // A run in which one of them failed makes no ratio.
    let each = at(from)?.iter().zip(at(to)?).filter_map(|(from, to)| {
        let from = from.filter(|from| *from > 0.0)?;
        Some(to.as_ref()? / from)
    });
    Figure::of(&each.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Growth;
    use crate::results::tests::line;

    #[test]
    fn aims_are_held_against_figures_of_the_same_run() {
        let mut own = line(Peer::Stateful, &[2e6, 4e6]);
        own.subject = Peer::Stateful.on_own_core();
        let mut testpmd = line(Peer::Testpmd, &[2e6, 4e6]);
        testpmd.subject = Peer::Testpmd.on_own_core();
        for run in &mut testpmd.runs {
            run.latency.as_mut().unwrap().p99 = 4e4;
        }
        // In the second run the small table failed, in the third the large one: neither is held against another run's.
        let points = vec![
            (1, vec![Some(1e6), None, Some(9e6), Some(2e6)]),
            (10, vec![]),
            (100_000, vec![Some(0.8e6), Some(9e6), None, Some(1.9e6)]),
        ];
        let results = Results {
            subjects: vec![own, testpmd, line(Peer::KernelMasquerade, &[1e6, 2.5e6])],
            scaling: vec![Growth { dimension: Dimension::Flows, name: Peer::Stateful.name(), points }],
            ..Results::default()
        };
        let text = table(&results);
        for row in [
            "| own core, to testpmd | ≥ 0.97 | 1.00 | 1.00 | 1.00 | reached |",
            "| own core, to the kernel's filter + masquerade | ≥ 2 | 1.80 | 1.60 | 2.00 | missed |",
            "| own core, no loss, to testpmd | ≥ 1 | 1.00 |",
            "| own core, p99 at half load, to testpmd | ≤ 1.1 | 1.25 | 1.25 | 1.25 | missed |",
            "| 100,000 flows, to one | ≥ 0.9 | 0.88 | 0.80 | 0.95 | missed |",
        ] {
            assert!(text.contains(row), "{row}:\n{text}");
        }
        assert!(!text.contains("fast path"), "{text}");
        assert_eq!(table(&Results::default()), "");
    }
}
