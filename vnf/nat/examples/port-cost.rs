//! What taking a port costs at different degrees of use: `cargo run --release -p throughway-nat --example port-cost`.
//!
//! All degrees take turns, in slices so short that most are not interrupted: a busy machine then makes all of them slower alike, and
//! the ratios hold.

use std::io::Write;
use std::time::Instant;

use throughway_nat::{Parity, Ports};

/// Degrees of use, in percent.
const DEGREES: [usize; 6] = [1, 25, 50, 75, 90, 99];
/// Ports that are taken and given back in a slice.
const SLICE: usize = 4096;
/// Slices of each degree.
const TURNS: usize = 1001;

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// The ports of an address, with those that are taken.
struct Table {
    ports: Ports,
    taken: Vec<u16>,
    at: usize,
    state: u64,
}

impl Table {
    fn new(percent: usize) -> Table {
        let ports = Ports::new(1024..=65535, 0);
        let mut table = Table { ports, taken: Vec::new(), at: 0, state: 0x1234_5678_9abc_def0 };
        while table.taken.len() < table.ports.owned() * percent / 100 {
            let random = random(&mut table.state);
            table.taken.extend(table.ports.take_in(1024..=65535, Parity::Any, random, 0));
        }
        table
    }

    /// Replaces so many ports by others; how long each takes (ns).
    fn slice(&mut self) -> f64 {
        let start = Instant::now();
        for _ in 0..SLICE {
            let random = random(&mut self.state);
            self.at = (self.at + 1) % self.taken.len();
            if let (Some(slot), Some(port)) =
                (self.taken.get_mut(self.at), self.ports.take_in(1024..=65535, Parity::Any, random, 0))
            {
                self.ports.give_back(std::mem::replace(slot, port), 0);
            }
        }
        start.elapsed().as_nanos() as f64 / SLICE as f64
    }
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "| in use | take and give back, ns (median of {TURNS}) | of that at 1 % |")?;
    writeln!(out, "| ---: | ---: | ---: |")?;
    let mut tables = DEGREES.map(Table::new);
    let mut times = DEGREES.map(|_| Vec::with_capacity(TURNS));
    for _ in 0..TURNS {
        for (table, times) in tables.iter_mut().zip(&mut times) {
            times.push(table.slice());
        }
    }
    let medians = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times.get(TURNS / 2).copied().unwrap_or_default()
    });
    for (percent, median) in DEGREES.iter().zip(medians) {
        writeln!(out, "| {percent} % | {median:.1} | {:.2} |", median / medians[0])?;
    }
    Ok(())
}
