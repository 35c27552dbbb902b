//! What taking a port costs at different degrees of use: `cargo run --release -p throughway-nat --example port-cost`.

use std::io::Write;
use std::time::Instant;

use throughway_nat::{Parity, Ports};

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

fn main() -> std::io::Result<()> {
    const ROUNDS: usize = 2_000_000;
    let mut out = std::io::stdout().lock();
    writeln!(out, "| in use | take and give back, ns (median of 9) |\n| ---: | ---: |")?;
    for percent in [1, 25, 50, 75, 90, 99] {
        let mut state = 0x1234_5678_9abc_def0;
        let mut ports = Ports::new(1024..=65535, 0);
        let mut taken = Vec::new();
        while taken.len() < ports.owned() * percent / 100 {
            taken.extend(ports.take_any(Parity::Any, random(&mut state), 0));
        }
        let mut times: Vec<f64> = (0..9)
            .map(|_| {
                let start = Instant::now();
                for round in 0..ROUNDS {
                    let at = round % taken.len();
                    if let (Some(slot), Some(port)) =
                        (taken.get_mut(at), ports.take_any(Parity::Any, random(&mut state), 0))
                    {
                        ports.give_back(std::mem::replace(slot, port), 0);
                    }
                }
                start.elapsed().as_nanos() as f64 / ROUNDS as f64
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let median = times.get(4).copied().unwrap_or_default();
        writeln!(out, "| {percent} % | {median:.1} |")?;
    }
    Ok(())
}
