//! The session table, and what is known of fragments: `cargo bench -p throughway-microbenches --bench session`.
#![allow(clippy::unwrap_used, missing_docs, reason = "a program to be run by hand")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use throughway_microbenches::{BEGIN, criterion, scattered};
use throughway_session::fragment::Datagrams;
use throughway_session::{Class, Config, NewSession, Probe, Seed, SessionKey, SessionTable};
use throughway_shared::flow::mapped;
use throughway_vnf::{BATCH, Now};

const SEED: Seed = Seed([0x0123_4567, 0x89ab_cdef]);
const TIMEOUT: Duration = Duration::from_secs(60);

/// A connection, and what its answers look like behind a NAT.
fn keys(number: u32) -> [SessionKey; 2] {
    let forward = SessionKey {
        source: mapped(number.to_be_bytes()),
        destination: mapped([198, 51, 100, 1]),
        source_port: [4, 0],
        destination_port: [1, 187],
        zone: 0,
        protocol: 6,
    };
    let [a, b, c, d] = number.to_be_bytes();
    let reverse =
        SessionKey { destination: mapped([203, 0, a, b]), destination_port: [c, d], ..forward.reversed() };
    [forward, reverse]
}

fn new(number: u32) -> NewSession<[u64; 4]> {
    let [forward, reverse] = keys(number);
    NewSession { forward, reverse, class: Class::HalfOpen, timeout: TIMEOUT, state: [0; 4] }
}

fn table(criterion: &mut Criterion, count: u32) {
    let config = Config { up_front: true, ..Config::new(count * 2, SEED) };
    let table = SessionTable::new(config);
    for number in 0..count {
        table.insert(new(scattered(number)), BEGIN, |_| ()).unwrap();
    }
    let mut group = criterion.benchmark_group(format!("session table, {count} sessions"));
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut at = 0;
    let mut turn = move || {
        at = (at + BATCH as u32) % count;
        at..at + BATCH as u32
    };
    let found = |key: &SessionKey| table.lookup_with(key, BEGIN, |_, state, _| state[0]).is_some();
    group.bench_function("hit", |bench| {
        bench.iter(|| turn().filter(|number| black_box(found(&keys(scattered(*number % count))[0]))).count());
    });
    group.bench_function("hit, prepared", |bench| {
        bench.iter(|| {
            let probe = |number: u32| table.probe(keys(scattered(number % count))[0]);
            let probes: Vec<Probe> = turn().map(probe).collect();
            table.prepare(&probes);
            let found = |probe: &&Probe| table.lookup_with(*probe, BEGIN, |_, state, _| state[0]).is_some();
            probes.iter().filter(found).count()
        });
    });
    group.bench_function("miss", |bench| {
        bench.iter(|| {
            let other = |number: u32| SessionKey { zone: 9, ..keys(scattered(number))[0] };
            turn().filter(|number| black_box(found(&other(*number)))).count()
        });
    });
    group.bench_function("insert and remove", |bench| {
        bench.iter(|| {
            for number in turn() {
                let id = table.insert(new(0x0100_0000 + number), BEGIN, |_| ()).unwrap();
                black_box(table.remove(id));
            }
        });
    });
    group.finish();
}

fn fragments(criterion: &mut Criterion) {
    let datagrams = Datagrams::new(1 << 13, Duration::from_secs(15), SEED);
    let mut group = criterion.benchmark_group("fragments");
    group.throughput(Throughput::Elements(BATCH as u64));
    let (mut at, mut now) = (0_u32, BEGIN);
    // 64 new datagrams every 100 ms: some 10,000 within their 15 s, so that the oldest makes room.
    group.bench_function("a first fragment is remembered", |bench| {
        bench.iter(|| {
            for _ in 0..BATCH {
                at = at.wrapping_add(1);
                datagrams.remember(keys(scattered(at))[0], 1_u64, now);
            }
            now = Now(now.0 + 100_000_000);
            datagrams.expire(now);
        });
    });
    group.bench_function("a later fragment is found", |bench| {
        bench.iter(|| {
            let last = at;
            let find =
                |back: &u32| datagrams.find(&keys(scattered(last.wrapping_sub(*back)))[0], now).is_some();
            assert_eq!((0..BATCH as u32).filter(find).count(), BATCH);
        });
    });
    group.finish();
}

fn main() {
    let mut criterion = criterion();
    for count in [1 << 14, 1 << 20] {
        table(&mut criterion, count);
    }
    fragments(&mut criterion);
    criterion.final_summary();
}
