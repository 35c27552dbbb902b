//! What classification costs on one core: `cargo run --release -p throughway-firewall --example classifier-cost`.
//!
//! Columns: nanoseconds a packet, packets without locality; milliseconds to compile; megabytes. The
//! other approaches know IPv4 and one box per rule only, which flatters them.
#![expect(clippy::print_stdout, reason = "prints a table")]
#![expect(clippy::expect_used, reason = "a failure ends the measurement")]

mod generate;
mod others;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use generate::{Kind, Random};
use throughway_firewall::*;

const PACKETS: usize = 1 << 17;

/// Packets that are timed together: short enough to be seldom interrupted.
const SLICE: usize = 512;

const ROUNDS: usize = 15;

/// The fastest pass over each slice counts: the machine does other things too. Between two passes over a slice come all the others, so
/// that caches are as cold as the trace is long.
fn measure(packets: &[Fields], mut search: impl FnMut(&Fields) -> u32) -> (f64, Vec<u32>) {
    let answers = packets.iter().map(&mut search).collect();
    let mut best = vec![u64::MAX; packets.len().div_ceil(SLICE)];
    for _ in 0..ROUNDS {
        for (slice, best) in packets.chunks(SLICE).zip(&mut best) {
            let begun = Instant::now();
            for fields in slice {
                black_box(search(black_box(fields)));
            }
            *best = (*best).min(begun.elapsed().as_nanos() as u64);
        }
    }
    (best.iter().sum::<u64>() as f64 / packets.len() as f64, answers)
}

fn rules() {
    println!(
        "{:>9} {:>5} {:>7} {:>8} {:>8} {:>6} {:>8} {:>7} {:>6} {:>8} {:>7}",
        "kind", "ip", "rules", "tree ns", "ms", "MB", "tuple ns", "tuples", "MB", "bits ns", "MB"
    );
    for kind in [Kind::Acl, Kind::Firewall] {
        for family in [Family::Ipv4, Family::Ipv6] {
            for count in [100, 1_000, 10_000, 100_000] {
                let plain = generate::rules(kind, count, 7);
                let packets = generate::packets(&plain, family, PACKETS, 99);
                let rules: Vec<Rule> = plain
                    .iter()
                    .enumerate()
                    .map(|(number, rule)| generate::rule(number, rule, family))
                    .collect();
                let begun = Instant::now();
                let set = RuleSet::compile(rules, Vec::new()).expect("legal rules");
                let compile = begun.elapsed().as_millis();
                let index =
                    |fields: &Fields| set.classify(fields).found.map_or(u32::MAX, |found| found.index.0);
                let (tree, answers) = measure(&packets, index);
                let mb = |bytes: usize| bytes as f64 / 1e6;
                print!(
                    "{:>9} {:>5} {count:>7} {tree:>8.0} {compile:>8} {:>6.1}",
                    format!("{kind:?}"),
                    format!("{family:?}"),
                    mb(set.memory())
                );
                if family == Family::Ipv4 {
                    let tuples = others::TupleSpace::new(&plain);
                    let (ns, same) = measure(&packets, |fields| tuples.search(fields));
                    assert!(same == answers, "tuple space search finds the same rules");
                    print!(" {ns:>8.0} {:>7} {:>6.1}", tuples.tuples(), mb(tuples.memory()));
                    if let Some(bits) = others::BitVectors::new(&plain) {
                        let (ns, same) = measure(&packets, |fields| bits.search(fields));
                        assert!(same == answers, "bit vectors find the same rules");
                        print!(" {ns:>8.0} {:>7.1}", mb(bits.memory()));
                    }
                }
                println!();
            }
        }
    }
}

fn analysis() {
    println!("\n{:>9} {:>9} {:>11} {:>9}", "kind", "rules", "analysis ms", "findings");
    for kind in [Kind::Acl, Kind::Firewall] {
        let plain = generate::rules(kind, 100_000, 7);
        let rule = |(number, rule)| generate::rule(number, rule, Family::Ipv4);
        let rules: Vec<Rule> = plain.iter().enumerate().map(rule).collect();
        let begun = Instant::now();
        let findings = analyse(&rules, &[], &[]);
        println!(
            "{:>9} {:>9} {:>11} {:>9}",
            format!("{kind:?}"),
            rules.len(),
            begun.elapsed().as_millis(),
            findings.len()
        );
    }
}

fn sets() {
    println!("\n{:>12} {:>9} {:>9} {:>8} {:>6}", "set", "entries", "hit ns", "build ms", "MB");
    let mut random = Random(3);
    for count in [100, 10_000, 1_000_000] {
        let v4 = |random: &mut Random| IpAddr::from(Ipv4Addr::from_bits(random.next() as u32));
        let net = |random: &mut Random| {
            let bits = 0x2001 << 112 | u128::from(random.next()) << 48 & !((1 << 64) - 1);
            IpAddr::from(Ipv6Addr::from_bits(bits))
        };
        let host = |random: &mut Random| {
            IpAddr::from(Ipv6Addr::from_bits(
                0x2001 << 112 | u128::from(random.next() & 0xffff) << 64 | u128::from(random.next()),
            ))
        };
        type Draw<'a> = &'a dyn Fn(&mut Random) -> IpAddr;
        let kinds: [(&str, Draw<'_>, u8); 3] =
            [("IPv4", &v4, 32), ("IPv6 /64", &net, 64), ("IPv6 hosts", &host, 128)];
        for (name, draw, len) in kinds {
            let addresses: Vec<IpAddr> = (0..count).map(|_| draw(&mut random)).collect();
            let ranges: Vec<AddressRange> = addresses
                .iter()
                .map(|&address| throughway_packet::Prefix::containing(address, len).expect("fits").into())
                .collect();
            let begun = Instant::now();
            let set = AddressSet::new(ranges);
            let build = begun.elapsed().as_millis();
            let asked: Vec<Fields> = (0..PACKETS)
                .map(|number| {
                    let known = addresses[random.below(count) as usize];
                    let address = if number % 2 == 0 { known } else { draw(&mut random) };
                    Fields::between(address, address)
                })
                .collect();
            let (ns, answers) = measure(&asked, |f| u32::from(set.contains(f.family, &f.source)));
            assert!(answers.iter().step_by(2).all(|&known| known == 1), "what was put in is in");
            println!("{name:>12} {count:>9} {ns:>9.0} {build:>8} {:>6.1}", set.memory() as f64 / 1e6);
        }
    }
}

fn main() {
    rules();
    analysis();
    sets();
}
