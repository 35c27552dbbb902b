//! What people read: `report.md`, the same on the terminal, `report.json`, and charts.

mod aims;
pub mod plot;

use std::fmt::Write;
use std::path::Path;

use crate::error::{BenchError, Result};
use crate::generator::Packets;
use crate::method::Figure;
use crate::namespaces::Placement;
use crate::plan::Dimension;
use crate::results::{Line, Results, Run, of_those_measured};
use plot::{Axis, Chart, Series};

/// Writes everything into `directory`.
///
/// # Errors
/// When a file cannot be written.
pub fn write(results: &Results, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(|source| BenchError::file(directory, source))?;
    let mut names = Vec::new();
    let mut pictures = true;
    for (name, chart) in charts(results) {
        pictures &= chart.write(directory, &name)?;
        names.push(name);
    }
    let mut text = markdown(results);
    for name in &names {
        let _ = writeln!(text, "![{name}]({name}.{})\n", if pictures { "png" } else { "svg" });
    }
    let file = directory.join("report.md");
    std::fs::write(&file, text).map_err(|source| BenchError::file(&file, source))?;
    let file = directory.join("report.json");
    let json = serde_json::to_string_pretty(results)
        .map_err(|error| BenchError::Answer { what: "the report".to_owned(), message: error.to_string() })?;
    std::fs::write(&file, json + "\n").map_err(|source| BenchError::file(&file, source))
}

/// A median in millions, with the spread where there are several runs.
fn mpps(figure: Option<Figure>) -> String {
    let Some(figure) = figure else { return "–".to_owned() };
    let spread = if figure.runs > 1 { format!(" ±{:.0} %", figure.spread() * 100.0) } else { String::new() };
    format!("{:.2}{spread}", figure.median / 1e6)
}

fn plain(figure: Option<Figure>, digits: usize) -> String {
    figure.map_or_else(|| "–".to_owned(), |figure| format!("{:.digits$}", figure.median))
}

/// The report as Markdown, charts left out. It is written to be read on a terminal, too.
pub fn markdown(results: &Results) -> String {
    let mut text = String::from("# Throughway side by side\n\n");
    let _ = writeln!(text, "{}\n", results.machine.text());
    let runs = results.subjects.iter().map(|line| line.runs.len()).max().unwrap_or(0);
    let _ = writeln!(
        text,
        "UDP packets of {} flows over veth pairs, generator `{}`; {runs} runs, one subject after the other in each, trials of \
         {} s after a warm-up. Medians, ± half of the range. Mpps: million packets a second that arrived.\n",
        results.flows, results.generator, results.seconds
    );
    if !results.cut.is_empty() {
        let _ = writeln!(text, "**Cut for want of time:** {}.\n", results.cut.join("; "));
    }
    if !results.failed.is_empty() {
        let _ = writeln!(text, "**Failed:** {}.\n", results.failed.join("; "));
    }
    text.push_str(
        "`own core`: the receive softirq runs on the generator's core; `one core`: one core pays for everything. `best` is the most at \
         any offered rate, `overloaded` what is left when the generator sends as fast as it can. Latency: half of the packets, 99 % and \
         99.9 % of them took no longer, at half of the best rate (RFC 8219, section 7.2, calls the first and the last typical and worst-case \
         latency).\n\n",
    );
    for packets in Packets::ALL {
        throughput(results, packets, &mut text);
    }
    processor(results, &mut text);
    let ratios = results.ratios();
    if !ratios.is_empty() {
        text.push_str("## Throughway to the kernel doing the same\n\n| best rate, ratio in each run | median | least | most |\n|---|---:|---:|---:|\n");
        for (name, figure) in ratios {
            let _ = writeln!(
                text,
                "| {name} | {:.2} | {:.2} | {:.2} |",
                figure.median, figure.least, figure.most
            );
        }
        text.push('\n');
    }
    text.push_str(&aims::table(results));
    scaling(results, &mut text);
    if !results.instructions.is_empty() {
        text.push_str("## Instructions a packet (callgrind)\n\n| | |\n|---|---:|\n");
        for (name, count) in &results.instructions {
            let _ = writeln!(text, "| {name} | {count:.1} |");
        }
        text.push('\n');
    }
    if !results.micro.is_empty() {
        text.push_str("## Microbenchmarks (criterion)\n\n| | ns a round | ns each |\n|---|---:|---:|\n");
        for one in &results.micro {
            let each = one.ns_each.map_or_else(|| "–".to_owned(), |ns| format!("{ns:.1}"));
            let _ = writeln!(text, "| {} | {:.1} | {each} |", one.name, one.ns);
        }
        text.push('\n');
    }
    text
}

fn throughput(results: &Results, packets: Packets, text: &mut String) {
    let lines: Vec<&Line> = results.subjects.iter().filter(|line| line.packets == packets).collect();
    if lines.is_empty() {
        return;
    }
    let _ = write!(
        text,
        "## Throughput and latency: {}\n\n\
         | Mpps | core | best | no loss | 0.1 % loss | overloaded | of best | p50, p99, p99.9 µs at half load |\n\
         |---|---|---:|---:|---:|---:|---:|---:|\n",
        packets.name()
    );
    for line in lines {
        if let Some(why) = &line.unavailable {
            let _ = writeln!(text, "| {} | {} | not measured: {why} | | | | | |", line.name, line.placement);
            continue;
        }
        let kept = line.figure(|run| run.overloaded() / run.best().max(1.0));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {}, {}, {} |",
            line.name,
            line.placement,
            mpps(line.figure(Run::best)),
            mpps(line.searched(0)),
            mpps(line.searched(1)),
            mpps(line.figure(Run::overloaded)),
            kept.map_or_else(|| "–".to_owned(), |kept| format!("{:.0} %", kept.median * 100.0)),
            plain(line.latency(|latency| latency.p50), 0),
            plain(line.latency(|latency| latency.p99), 0),
            plain(line.latency(|latency| latency.p999), 0),
        );
    }
    text.push('\n');
}

fn processor(results: &Results, text: &mut String) {
    text.push_str(
        "## Processor time at the best rate\n\nCores: 1.00 is a core for all of the time. `others` is what other programs took of the two \
         cores: far above zero, the figures of this line say little.\n\n\
         | | packets | core | worker | softirq | generator | others | stolen |\n|---|---|---|---:|---:|---:|---:|---:|\n",
    );
    for line in results.subjects.iter().filter(|line| !line.runs.is_empty()) {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            line.name,
            line.packets.name(),
            line.placement,
            plain(line.at_best(|trial| trial.cpu.worker), 2),
            plain(line.at_best(|trial| trial.cpu.softirq), 2),
            plain(line.at_best(|trial| trial.cpu.generator), 2),
            plain(line.at_best(|trial| trial.cpu.others), 2),
            plain(line.at_best(|trial| trial.cpu.stolen), 2),
        );
    }
    text.push('\n');
}

fn scaling(results: &Results, text: &mut String) {
    for dimension in dimensions(results) {
        let growths: Vec<_> = results.scaling.iter().filter(|growth| growth.dimension == dimension).collect();
        let Some(first) = growths.first() else { continue };
        let _ = write!(text, "## With more {}\n\n| Mpps |", dimension.name());
        for (size, _) in &first.points {
            let _ = write!(text, " {size} |");
        }
        let _ = writeln!(text, "\n|---|{}", "---:|".repeat(first.points.len()));
        for growth in growths {
            let _ = write!(text, "| {} |", growth.name);
            for (_, arrived) in &growth.points {
                let _ = write!(text, " {} |", mpps(of_those_measured(arrived)));
            }
            text.push('\n');
        }
        text.push('\n');
    }
}

fn dimensions(results: &Results) -> Vec<Dimension> {
    let mut seen = Vec::new();
    for growth in &results.scaling {
        if !seen.contains(&growth.dimension) {
            seen.push(growth.dimension);
        }
    }
    seen
}

fn charts(results: &Results) -> Vec<(String, Chart)> {
    let mut charts = Vec::new();
    for packets in Packets::ALL {
        charts.extend(throughput_charts(results, packets));
        charts.extend(latency_chart(results, packets));
    }
    charts.extend(dimensions(results).into_iter().map(|dimension| scaling_chart(results, dimension)));
    charts
}

fn throughput_charts(results: &Results, packets: Packets) -> Vec<(String, Chart)> {
    let mut charts = Vec::new();
    for placement in [Placement::OwnCore, Placement::OneCore] {
        // The kernel has the core for itself in either case: its lines belong into both.
        let shown = |line: &&Line| {
            !line.runs.is_empty()
                && line.packets == packets
                && (line.subject.placement == placement || !line.subject.peer.in_user_space())
        };
        let lines: Vec<&Line> = results.subjects.iter().filter(shown).collect();
        if lines.iter().all(|line| line.subject.placement != placement) {
            continue;
        }
        let series = lines.iter().map(|line| Series {
            name: line.name.clone(),
            points: line
                .curve()
                .into_iter()
                .map(|(offered, arrived)| (offered / 1e6, arrived / 1e6))
                .collect(),
            dashed: !line.subject.peer.is_ours(),
        });
        charts.push((
            format!("throughput{}-{}", packets.suffix(), placement.key()),
            Chart {
                title: format!("Throughput against offered load, {}, {}", packets.name(), placement.name()),
                x: ("offered, Mpps".to_owned(), Axis::Logarithmic),
                y: ("arrived, Mpps".to_owned(), Axis::Linear),
                series: series.collect(),
            },
        ));
    }
    charts
}

fn latency_chart(results: &Results, packets: Packets) -> Option<(String, Chart)> {
    let names = ["p50", "p90", "p99", "p99.9", "max"].map(str::to_owned).to_vec();
    let series: Vec<Series> = results
        .subjects
        .iter()
        .filter(|line| line.packets == packets)
        .filter_map(|line| {
            let of = [
                line.latency(|latency| latency.p50)?,
                line.latency(|latency| latency.p90)?,
                line.latency(|latency| latency.p99)?,
                line.latency(|latency| latency.p999)?,
                line.latency(|latency| latency.max)?,
            ];
            let points = of.iter().enumerate().map(|(at, figure)| (at as f64, figure.median)).collect();
            let name = format!("{} ({})", line.name, line.placement);
            Some(Series { name, points, dashed: !line.subject.peer.is_ours() })
        })
        .collect();
    let chart = Chart {
        title: format!("Latency at half of the best rate, {}", packets.name()),
        x: ("percentile".to_owned(), Axis::Names(names)),
        y: ("microseconds".to_owned(), Axis::Logarithmic),
        series,
    };
    (!chart.series.is_empty()).then(|| (format!("latency{}", packets.suffix()), chart))
}

fn scaling_chart(results: &Results, dimension: Dimension) -> (String, Chart) {
    let of_it = results.scaling.iter().filter(|growth| growth.dimension == dimension);
    let series = of_it.map(|growth| {
        let median = |(size, arrived): &(u32, Vec<Option<f64>>)| {
            of_those_measured(arrived).map(|figure| (f64::from(*size), figure.median / 1e6))
        };
        Series {
            name: growth.name.clone(),
            points: growth.points.iter().filter_map(median).collect(),
            dashed: !growth.name.starts_with("Throughway"),
        }
    });
    let axis = if dimension == Dimension::Functions { Axis::Linear } else { Axis::Logarithmic };
    let chart = Chart {
        title: format!("Throughput with more {}", dimension.name()),
        x: (dimension.name().to_owned(), axis),
        y: ("arrived, Mpps".to_owned(), Axis::Linear),
        series: series.collect(),
    };
    (format!("scaling-{}", dimension.name().replace(' ', "-")), chart)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::Peer;
    use crate::results::Growth;
    use crate::results::tests::line;

    fn results() -> Results {
        let mut missing = Line::new(Peer::KernelFlowtable.on_one_core());
        missing.unavailable = Some("this kernel has no flowtable".to_owned());
        let points = vec![(1, vec![Some(2e6)]), (1000, vec![Some(1e6), None])];
        Results {
            subjects: vec![
                line(Peer::KernelMasquerade, &[1e6, 1e6]),
                missing,
                line(Peer::Stateful, &[2e6, 2e6]),
            ],
            scaling: vec![Growth { dimension: Dimension::Rules, name: Peer::Stateful.name(), points }],
            ..Results::default()
        }
    }

    #[test]
    fn the_report_says_what_was_cut() {
        let text = markdown(&Results { cut: vec!["4 runs of 5 were made".to_owned()], ..results() });
        assert!(text.contains("**Cut for want of time:** 4 runs of 5 were made."), "{text}");
        assert!(!markdown(&results()).contains("Cut for"));
        let failed = vec!["stateful@one-core in 1 of 5 runs (no route)".to_owned()];
        let text = markdown(&Results { failed, ..results() });
        assert!(
            text.contains("**Failed:** stateful@one-core in 1 of 5 runs (no route).")
                && !text.contains("Cut for")
        );
    }

    #[test]
    fn the_report_says_what_was_measured_and_what_was_not() {
        let text = markdown(&results());
        let row = "| Throughway firewall + NAT + router | one core | 2.00 ±0 % | 0.50 ±0 % | 0.70 ±0 % | 1.00 ±0 % | 50 % | 20, 50, 60 |";
        for part in [
            row,
            "not measured: this kernel has no flowtable",
            "| stateful@one-core / kernel-masquerade | 2.00 |",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert!(text.contains("## With more rules\n\n| Mpps | 1 | 1000 |"), "{text}");
    }

    #[test]
    fn other_packets_have_tables_and_charts_of_their_own() {
        let mut other = line(Peer::Filter, &[1e6]);
        (other.packets, other.subject.packets) = (Packets::Ipv6, Packets::Ipv6);
        let results = Results { subjects: vec![line(Peer::Stateful, &[2e6]), other], ..Results::default() };
        let text = markdown(&results);
        let (small, ipv6) = (text.find("latency: 64 bytes").unwrap(), text.find("latency: IPv6").unwrap());
        let at = |what: &str| text.find(what).unwrap();
        assert!(
            small < at("| Throughway firewall + NAT") && at("| Throughway firewall + NAT") < ipv6,
            "{text}"
        );
        assert!(ipv6 < at("| Throughway firewall + router"), "{text}");
        let charts = charts(&results);
        let of = |name: &str| charts.iter().find(|chart| chart.0 == name).map(|chart| chart.1.series.len());
        assert_eq!((of("throughput-one-core"), of("throughput-ipv6-one-core")), (Some(1), Some(1)));
        assert_eq!(of("latency-ipv6"), Some(1));
    }

    #[test]
    fn files_are_written_with_a_chart_for_each_question() {
        let directory = std::env::temp_dir().join(format!("throughway-report-{}", std::process::id()));
        write(&results(), &directory).unwrap();
        for name in
            ["report.md", "report.json", "throughput-one-core.svg", "latency.svg", "scaling-rules.svg"]
        {
            assert!(directory.join(name).is_file(), "{name}");
        }
        let json = std::fs::read_to_string(directory.join("report.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["subjects"][2]["key"], "stateful@one-core");
        std::fs::remove_dir_all(directory).unwrap();
    }
}
