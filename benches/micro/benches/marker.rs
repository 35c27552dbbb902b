//! The marker, the smallest function: `cargo bench -p throughway-microbenches --bench marker`.
#![allow(clippy::unwrap_used, missing_docs, reason = "a program to be run by hand")]

use std::sync::Arc;

use criterion::Throughput;
use throughway_marker::{Dscp, Marker, Rule, Rules};
use throughway_microbenches::{Turns, criterion, udp};
use throughway_vnf::BATCH;

fn main() {
    let mut criterion = criterion();
    let packets = udp(1 << 14);
    let mut group = criterion.benchmark_group("marker");
    group.throughput(Throughput::Elements(BATCH as u64));
    for count in [1, 16] {
        // All but the last are for TCP.
        let other = |number: u16| Rule {
            protocol: Some(6),
            destination_ports: vec![number..=number],
            ..Rule::default()
        };
        let last = Rule { dscp: Dscp::new(46).unwrap(), ..Rule::default() };
        let rules = Rules::new((1..count).map(other).chain([last]).collect()).unwrap();
        let (mut marker, mut turns) = (Marker::new(Arc::new(rules)), Turns::still(&packets));
        group.bench_function(format!("{count} rules, the last matches"), |bench| {
            bench.iter(|| assert_eq!(turns.run(&mut marker), BATCH));
        });
    }
    group.finish();
    criterion.final_summary();
}
