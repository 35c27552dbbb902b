//! Evenness, disruption and time of the Maglev table beside the paper's: `cargo run --release -p throughway-balancer --example
//! maglev-table`.
#![expect(clippy::print_stdout, reason = "prints a table")]
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a failure ends the measurement")]

use std::time::Instant;

use throughway_balancer::Maglev;
use throughway_balancer::maglev::Candidate;

const BACKENDS: usize = 1000;

/// A table of so many equal backends, without those whose number is below `gone` in a scattered order.
fn table(size: u32, count: usize, gone: usize) -> Maglev {
    let names: Vec<String> =
        (0..count).map(|number| format!("10.1.{}.{}/8080", number / 250, number % 250)).collect();
    let candidates: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(number, name)| Candidate {
            name: name.as_bytes(),
            weight: u32::from(number * 7 % count >= gone),
        })
        .collect();
    Maglev::new(size, 0, &candidates).expect("a table")
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn main() {
    println!("| entries | backends | most entries / mean | fewest / mean | filled in ms |");
    println!("| --- | --- | --- | --- | --- |");
    for (size, count) in [(10_007, 100), (65_537, 100), (65_537, BACKENDS), (655_373, BACKENDS)] {
        let shares = table(size, count, 0).shares(count);
        let mean = f64::from(size) / count as f64;
        let of = |share: Option<&usize>| *share.expect("a share") as f64 / mean;
        let times = (0..15).map(|_| {
            let begun = Instant::now();
            std::hint::black_box(table(size, count, 0));
            begun.elapsed().as_secs_f64() * 1e3
        });
        let (most, fewest) = (of(shares.iter().max()), of(shares.iter().min()));
        println!("| {size} | {count} | {most:.3} | {fewest:.3} | {:.1} |", median(times.collect()));
    }
    println!();
    println!("| of 1000 backends fail | M = 65537: entries that change hands | M = 655373 |");
    println!("| --- | --- | --- |");
    for percent in [0.1, 0.5, 1.0, 2.0, 5.0] {
        let gone = (BACKENDS as f64 * percent / 100.0) as usize;
        let moved = |size: u32| {
            let (before, after) = (table(size, BACKENDS, 0), table(size, BACKENDS, gone));
            let stays = |was: Option<usize>| was.is_some_and(|number| number * 7 % BACKENDS >= gone);
            let pairs = before.entries().zip(after.entries());
            // Those of the failed must move; of the others none should.
            let moved = pairs.filter(|(was, is)| stays(*was) && was != is).count();
            moved as f64 * 100.0 / f64::from(size)
        };
        println!("| {percent} % | {:.2} % | {:.2} % |", moved(65_537), moved(655_373));
    }
    println!();
    println!("| one of n joins, M = 65537 | entries that change hands | 1/n |");
    println!("| --- | --- | --- |");
    for count in [9, 11, 101, 1001] {
        let (before, after) = (table(65_537, count, 1), table(65_537, count, 0));
        let moved = before.entries().zip(after.entries()).filter(|(was, is)| was != is).count();
        let percent = moved as f64 * 100.0 / 65_537.0;
        println!("| {} become {count} | {percent:.2} % | {:.2} % |", count - 1, 100.0 / count as f64);
    }
}
