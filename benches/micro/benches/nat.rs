//! NAT's ports and sessions: `cargo bench -p throughway-microbenches --bench nat`. Millions of sessions, and what they take of memory:
//! `cargo run --release -p throughway-nat --example nat-cost`.
#![allow(clippy::indexing_slicing, missing_docs, reason = "a program to be run by hand")]

use std::net::Ipv4Addr;
use std::sync::Arc;

use criterion::{Criterion, Throughput};
use throughway_benches::random::Random;
use throughway_microbenches::{Turns, WAN, criterion, udp};
use throughway_nat::rule::{Filtering, SourceRule, SourceTarget};
use throughway_nat::{Nat, Options, Parity, PoolConfig, Ports, Rules, Shared};
use throughway_vnf::{BATCH, Generations, Snapshot};

/// More than are alive at a time when they age.
const SESSIONS: u32 = 1 << 18;

fn ports(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("NAT ports");
    group.throughput(Throughput::Elements(1));
    for percent in [1, 50, 99] {
        let (mut random, mut ports) = (Random(9), Ports::new(1..=65535, 0));
        let mut taken = Vec::new();
        while taken.len() < ports.owned() * percent / 100 {
            taken.extend(ports.take_in(1..=65535, Parity::Any, random.next(), 0));
        }
        let mut at = 0;
        group.bench_function(format!("take and give back at {percent} % use"), |bench| {
            bench.iter(|| {
                at = (at + 1) % taken.len();
                if let Some(port) = ports.take_in(1..=65535, Parity::Any, random.next(), 0) {
                    ports.give_back(std::mem::replace(&mut taken[at], port), 0);
                }
            });
        });
    }
    group.finish();
}

fn nat(filtering: Filtering) -> Nat {
    let options = Options { half_open: SESSIONS, ..Options::new(SESSIONS, [3, 4]) };
    let shared = Shared::new(options, Arc::new(Generations::default()));
    let addresses = (0..32).map(|last| Ipv4Addr::new(203, 0, 113, last).into()).collect();
    let pools = vec![shared.pool(PoolConfig::new(addresses), &[])];
    let rule = SourceRule { filtering, ..SourceRule::new(SourceTarget::Pool(0)) };
    let rules = Rules { source: vec![rule], pools, ..Rules::new(vec![WAN]) };
    Nat::new(Arc::new(shared), Snapshot::new(rules), 0)
}

fn function(criterion: &mut Criterion) {
    let packets = udp(1 << 16);
    let mut group = criterion.benchmark_group("NAT");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, filtering) in [
        ("endpoint-independent", Filtering::EndpointIndependent),
        ("address-dependent", Filtering::AddressDependent),
    ] {
        let (mut known, mut turns) = (nat(filtering), Turns::still(&packets[..1 << 14]));
        assert!(turns.all(&mut known), "there is a port for each");
        group.bench_function(format!("known, {name} filtering"), |bench| {
            bench.iter(|| assert_eq!(turns.run(&mut known), BATCH));
        });
        let (mut opens, mut turns) = (nat(filtering), Turns::ageing(&packets));
        group.bench_function(format!("opens, {name} filtering"), |bench| {
            bench.iter(|| assert_eq!(turns.run(&mut opens), BATCH));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = criterion();
    ports(&mut criterion);
    function(&mut criterion);
    criterion.final_summary();
}
