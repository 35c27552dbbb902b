//! The forwarding table and the router: `cargo bench -p throughway-microbenches --bench router`. With other cores changing routes,
//! and memory: `cargo bench -p throughway-benches --bench fib`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs, reason = "a program to be run by hand")]

use std::net::IpAddr;
use std::sync::Arc;

use criterion::{Criterion, Throughput};
use throughway_microbenches::{LAN, Turns, WAN, criterion, udp};
use throughway_packet::{PortId, Prefix};
use throughway_router::internet::{self, Random};
use throughway_router::{
    FibWriter, InterfaceAddress, Neighbours, NextHop, Port, PortSettings, Ports, Route, RouteId, Router,
    Tables,
};
use throughway_vnf::{BATCH, Snapshot};

const GATEWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
const DESTINATIONS: usize = 1 << 18;

fn routes(prefixes: &[Prefix]) -> Vec<(Prefix, Route)> {
    let mut random = Random(3);
    let route = |port: u64| Route::via(NextHop::gateway(PortId(port as u16), GATEWAY));
    prefixes.iter().map(|prefix| (*prefix, route(random.below(8)))).collect()
}

fn look_ups(criterion: &mut Criterion, name: &str, prefixes: &[Prefix]) {
    let mut writer = FibWriter::default();
    writer.replace_all(routes(prefixes)).unwrap();
    let fib = Arc::clone(writer.fib());
    let addresses = internet::destinations(prefixes, DESTINATIONS, 5);
    let mut group = criterion.benchmark_group(format!("routes, {} of {name}", prefixes.len()));
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut at = 0;
    let mut turn = || {
        at = (at + BATCH) % DESTINATIONS;
        &addresses[at..][..BATCH]
    };
    group.bench_function("look-up", |bench| {
        bench.iter(|| turn().iter().filter(|address| fib.lookup(**address).is_some()).count());
    });
    group.bench_function("look-up, batch of 64", |bench| {
        let mut ids = [RouteId::default(); BATCH];
        bench.iter(|| {
            let view = fib.lookup_all(turn(), &mut ids);
            ids.iter().filter(|id| view.get(**id).is_some()).count()
        });
    });
    let (mut number, mut random) = (0, Random(9));
    group.bench_function("a route goes and comes", |bench| {
        bench.iter(|| {
            for _ in 0..BATCH {
                number = (number + 7919) % prefixes.len();
                writer.remove(prefixes[number]);
                let hop = NextHop::gateway(PortId(random.below(8) as u16), GATEWAY);
                writer.insert(prefixes[number], Route::via(hop)).unwrap();
            }
            writer.take_changes().len()
        });
    });
    group.finish();
}

fn router(criterion: &mut Criterion) {
    let port = |mac: [u8; 6], address: [u8; 4], len: u8| Port {
        mac,
        mtu: 1500,
        up: true,
        addresses: vec![InterfaceAddress::new(address.into(), len).unwrap()],
        settings: PortSettings::default(),
    };
    let ports = Ports::new(vec![
        port([2, 0, 0, 0, 1, 0], [10, 255, 255, 254], 8),
        port([2, 0, 0, 0, 1, 1], [192, 0, 2, 2], 24),
    ]);
    let everywhere = Prefix::containing([0, 0, 0, 0].into(), 0).unwrap();
    let mut all = ports.connected_routes();
    all.push((everywhere, Route::via(NextHop::gateway(WAN, GATEWAY))));
    let tables = Tables {
        ports: Arc::new(ports),
        neighbours: Arc::new(Neighbours::from_iter([(WAN, GATEWAY, [2, 0, 0, 0, 2, 1])])),
        fib: throughway_router::Fib::fixed(all),
    };
    let mut router = Router::new(Snapshot::new(tables));
    let packets = udp(1 << 14);
    assert!(packets.iter().all(|(_, headers)| headers.ingress() == LAN));
    let mut turns = Turns::still(&packets);
    assert!(turns.all(&mut router), "the router forwards");
    let mut group = criterion.benchmark_group("router");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("a packet that misses the flow cache", |bench| {
        bench.iter(|| turns.run(&mut router));
    });
    group.finish();
}

fn main() {
    let mut criterion = criterion();
    look_ups(&mut criterion, "IPv4", &internet::ipv4(1_000_000, 1));
    look_ups(&mut criterion, "IPv6", &internet::ipv6(250_000, 2));
    router(&mut criterion);
    criterion.final_summary();
}
