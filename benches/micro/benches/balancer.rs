//! Maglev's table and the load balancer: `cargo bench -p throughway-microbenches --bench balancer`. All ways of forwarding, and ten thousand
//! services: `cargo run --release -p throughway-balancer --example balancer-cost`.
#![allow(clippy::unwrap_used, missing_docs, reason = "a program to be run by hand")]

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;

use criterion::{Criterion, Throughput};
use throughway_balancer::maglev::{Candidate, USUAL_SIZE};
use throughway_balancer::{
    Backend, Balancer, FULL_SHARE, Forward, Health, Maglev, Options, Seat, Service, ServiceConfig, Services,
    Shared,
};
use throughway_benches::random::Random;
use throughway_microbenches::{Parsed, Turns, criterion, parsed, scattered};
use throughway_packet::build::PacketBuilder;
use throughway_session::connection::Timeouts;
use throughway_vnf::BATCH;

const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);
/// More than are alive at a time when they age.
const CONNECTIONS: u32 = 1 << 18;

fn table(count: usize) -> Maglev {
    let names: Vec<String> =
        (0..count).map(|number| format!("10.1.{}.{}/8080", number / 250, number % 250)).collect();
    let candidates: Vec<_> =
        names.iter().map(|name| Candidate { name: name.as_bytes(), weight: 1 }).collect();
    Maglev::new(USUAL_SIZE, 0, &candidates).unwrap()
}

fn maglev(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group(format!("Maglev, {USUAL_SIZE} entries"));
    for count in [10, 100, 1000] {
        group.bench_function(format!("filled for {count} backends"), |bench| bench.iter(|| table(count)));
    }
    let (table, mut random) = (table(100), Random(3));
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("look-up", |bench| {
        bench.iter(|| (0..BATCH).filter(|_| black_box(table.choose(random.next())).is_some()).count());
    });
    group.finish();
}

fn balancer(forward: Forward) -> Balancer {
    let options =
        Options { connections: CONNECTIONS, half_open: CONNECTIONS, seed: [1, 2], timeouts: Timeouts::NAT };
    let shared = Arc::new(Shared::new(options, Arc::default()));
    let backend = |number: u32| {
        let seat = Arc::new(Seat::new(Ipv4Addr::from(0x0a01_0000 + number).into(), Some(8080)));
        seat.set_via(Some(Ipv4Addr::new(10, 1, 255, 254).into()));
        Backend { seat, weight: 1, share: FULL_SHARE, backup: false, health: Health::Up }
    };
    let config = ServiceConfig {
        addresses: vec![VIP.into()],
        protocols: vec![17],
        ports: vec![53..=53],
        ..ServiceConfig::new("dns", forward, (1..=100).map(backend).collect())
    };
    shared.publish(Services::new(vec![Arc::new(Service::new(config, None).unwrap())]));
    Balancer::new(shared)
}

fn function(criterion: &mut Criterion) {
    let of = |number: u32| -> Parsed {
        let client = Ipv4Addr::from(0x0b00_0000 + scattered(number));
        parsed(&PacketBuilder::between(client.into(), VIP.into()).udp(4000, 53).payload(&[0; 18]))
    };
    let packets: Vec<Parsed> = (0..1 << 16).map(of).collect();
    let mut group = criterion.benchmark_group("load balancer, 100 backends");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, forward) in [("NAT", Forward::Nat), ("direct return", Forward::Dsr)] {
        let few = packets.get(..1 << 14).unwrap();
        let (mut known, mut turns) = (balancer(forward), Turns::still(few));
        assert!(turns.all(&mut known), "every client gets a backend");
        group.bench_function(format!("known, {name}"), |bench| {
            bench.iter(|| assert_eq!(turns.run(&mut known), BATCH));
        });
        let (mut opens, mut turns) = (balancer(forward), Turns::ageing(&packets));
        group.bench_function(format!("opens, {name}"), |bench| {
            bench.iter(|| assert_eq!(turns.run(&mut opens), BATCH));
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = criterion();
    maglev(&mut criterion);
    function(&mut criterion);
    criterion.final_summary();
}
