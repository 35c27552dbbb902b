//! The classifier and the firewall: `cargo bench -p throughway-microbenches --bench firewall`. More kinds of rules, and other algorithms
//! beside ours: `cargo run --release -p throughway-firewall --example classifier-cost`.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    missing_docs,
    reason = "a program to be run by hand"
)]

#[path = "../../../vnf/firewall/examples/classifier-cost/generate.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod generate;

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use criterion::{Criterion, Throughput};
use generate::{Kind, Random};
use throughway_firewall::{
    Actions, AddressRange, AddressSet, DefaultAction, Ending, Family, Firewall, Matches, Options,
    PolicyConfig, Rule, RuleSet, Shared,
};
use throughway_microbenches::{Turns, criterion, udp};
use throughway_packet::headers::octets;
use throughway_session::Seed;
use throughway_vnf::{BATCH, EventQueue, Generations};

const PACKETS: usize = 1 << 15;

fn classifier(criterion: &mut Criterion) {
    for (family, name) in [(Family::Ipv4, "IPv4"), (Family::Ipv6, "IPv6")] {
        let mut group = criterion.benchmark_group(format!("classifier, {name}"));
        group.throughput(Throughput::Elements(BATCH as u64));
        for count in [100, 10_000, 100_000] {
            let plain = generate::rules(Kind::Acl, count, 7);
            let packets = generate::packets(&plain, family, PACKETS, 99);
            let rules = plain.iter().enumerate().map(|(number, rule)| generate::rule(number, rule, family));
            let set = RuleSet::compile(rules.collect(), Vec::new()).unwrap();
            let mut at = 0;
            group.bench_function(format!("{count} rules"), |bench| {
                bench.iter(|| {
                    at = (at + BATCH) % PACKETS;
                    let some = &packets[at..][..BATCH];
                    some.iter().filter(|fields| set.classify(black_box(fields)).found.is_some()).count()
                });
            });
        }
        group.finish();
    }
}

fn sets(criterion: &mut Criterion) {
    let mut random = Random(3);
    let mut group = criterion.benchmark_group("set of addresses");
    group.throughput(Throughput::Elements(BATCH as u64));
    for count in [100, 1_000_000] {
        let addresses: Vec<IpAddr> =
            (0..count).map(|_| Ipv4Addr::from_bits(random.next() as u32).into()).collect();
        let set = AddressSet::new(addresses.iter().map(|address| AddressRange::from(*address)));
        let keys: Vec<[u8; 16]> = addresses.iter().take(PACKETS).map(|address| octets(*address)).collect();
        let mut at = 0;
        group.bench_function(format!("{count} addresses"), |bench| {
            bench.iter(|| {
                at += BATCH;
                let some = (at..at + BATCH).map(|number| &keys[number % keys.len()]);
                some.filter(|key| set.contains(Family::Ipv4, key)).count()
            });
        });
    }
    group.finish();
}

fn firewall(ending: Ending) -> Firewall {
    // More than fit are asked for in none of the benches.
    let options = Options { sessions: 1 << 18, half_open: 1 << 18, ..Options::new(Seed([3, 4])) };
    let rule = Rule { id: 0, matches: Matches::default(), actions: Actions { ending, ..Actions::default() } };
    let policy = PolicyConfig { rules: vec![rule], default: DefaultAction::Drop, ..PolicyConfig::default() };
    let events = EventQueue::new(1).of_function(0);
    Firewall::new(Shared::new(options, policy, Arc::new(Generations::default()), events).unwrap())
}

fn function(criterion: &mut Criterion) {
    let packets = udp(1 << 16);
    let few = &packets[..1 << 14];
    let mut group = criterion.benchmark_group("firewall");
    group.throughput(Throughput::Elements(BATCH as u64));
    let (mut open, mut turns) = (firewall(Ending::Allow), Turns::still(few));
    assert!(turns.all(&mut open), "the rule allows all");
    group.bench_function("known", |bench| bench.iter(|| turns.run(&mut open)));
    let (mut open, mut turns) = (firewall(Ending::Allow), Turns::ageing(&packets));
    group.bench_function("opens", |bench| bench.iter(|| assert_eq!(turns.run(&mut open), BATCH)));
    let (mut closed, mut turns) = (firewall(Ending::Drop), Turns::still(few));
    group.bench_function("refused", |bench| bench.iter(|| assert_eq!(turns.run(&mut closed), 0)));
    group.finish();
}

fn main() {
    let mut criterion = criterion();
    classifier(&mut criterion);
    sets(&mut criterion);
    function(&mut criterion);
    criterion.final_summary();
}
