//! The steps of the flow engine one by one, with criterion: `cargo bench -p throughway-microbenches --bench steps`.
//!
//! Batches of 64 packets of 10,000 flows; times are for a batch, throughput is in packets. `hit` is the whole.
#![allow(clippy::unwrap_used, missing_docs, reason = "a program to be run by hand")]

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use throughway_benches::random::Random;
use throughway_flow::{Credits, Dependencies, FlowCache, Generations, NewFlow, Policy, Probe, Round, peek};
use throughway_packet::build::PacketBuilder;
use throughway_packet::{Action, Edit, Headers, PortId, apply, parse};

const BATCH: usize = 64;
const FLOWS: u32 = 10_000;
const PORT: PortId = PortId(0);
const NOW: u64 = 1 << 40;

/// 64-byte packets in random order.
fn frames(ipv4: bool) -> Vec<Vec<u8>> {
    let mut frames: Vec<_> = (0..FLOWS)
        .map(|number| {
            let [_, b, c, d] = number.to_be_bytes();
            let builder = if ipv4 {
                PacketBuilder::ipv4([10, b, c, d], [198, 18, c, 2])
            } else {
                let host = u16::from_be_bytes([c, d]);
                PacketBuilder::ipv6([0xfd00, 1, 0, 0, 0, 0, b.into(), host], [0xfd00, 2, 0, 0, 0, 0, 0, 2])
            };
            let payload: &[u8] = if ipv4 { &[0; 18] } else { &[] };
            builder.udp(1024 + (number % 16) as u16, 53).payload(payload).finish()
        })
        .collect();
    Random(1).shuffle(&mut frames);
    frames
}

/// What a NAT and a router say together; of IPv6 the addresses stay.
fn judge(headers: &Headers) -> Action {
    let (mut view, mut action) = (*headers, Action::nothing());
    let source = headers.is_ipv4().then_some(Edit::Source([203, 0, 113, 7].into()));
    let rest = [
        Edit::SourcePort(headers.source_port() ^ 0x5555),
        Edit::DecrementHops,
        Edit::Ethernet { destination: [2, 0, 0, 0, 1, 1], source: [2, 0, 0, 0, 1, 2] },
        Edit::Egress(PortId(1)),
    ];
    for edit in source.into_iter().chain(rest) {
        edit.record(&mut view, &mut action);
    }
    action
}

fn install(cache: &mut FlowCache, headers: &Headers, round: &Round<'_>) {
    let new = NewFlow {
        action: &judge(headers),
        tunnel: None,
        dependencies: Dependencies::NONE,
        credits: Credits::default(),
        limit: 1500,
        silence: u64::MAX,
    };
    cache.install(&Probe::of(headers), &new, round, |_| ());
}

fn steps(criterion: &mut Criterion) {
    for (ipv4, family) in [(true, "IPv4"), (false, "IPv6")] {
        let frames = frames(ipv4);
        let headers: Vec<_> = frames.iter().map(|frame| parse(frame, PORT).unwrap()).collect();
        let probes: Vec<_> = headers.iter().map(Probe::of).collect();
        let actions: Vec<_> = headers.iter().map(judge).collect();
        let generations = Generations::default();
        let round = Round::new(generations.epoch(), NOW);
        let fresh = || FlowCache::new(FLOWS as usize, 7, Policy::default());
        let mut cache = fresh();
        headers.iter().for_each(|headers| install(&mut cache, headers, &round));

        let mut group = criterion.benchmark_group(family);
        group.throughput(Throughput::Elements(BATCH as u64));
        // A batch of packets in turn.
        let batches = FLOWS as usize / BATCH;
        let turn = |at: &mut usize| {
            *at = (*at + 1) % batches;
            *at * BATCH..(*at + 1) * BATCH
        };
        let mut at = 0;
        group.bench_function("parse", |bench| {
            bench.iter(|| {
                frames[turn(&mut at)].iter().filter(|frame| black_box(parse(frame, PORT)).is_ok()).count()
            });
        });
        group.bench_function("peek", |bench| {
            bench.iter(|| {
                frames[turn(&mut at)].iter().filter(|frame| black_box(peek(frame, PORT)).is_some()).count()
            });
        });
        group.bench_function("prepare: hash, fetch", |bench| {
            let mut batch = [Probe::default(); BATCH];
            bench.iter(|| {
                batch.copy_from_slice(&probes[turn(&mut at)]);
                cache.prepare(black_box(&mut batch));
            });
        });
        group.bench_function("prepare, lookup", |bench| {
            let mut batch = [Probe::default(); BATCH];
            bench.iter(|| {
                batch.copy_from_slice(&probes[turn(&mut at)]);
                cache.prepare(&mut batch);
                batch.iter().filter(|probe| black_box(cache.lookup(probe, &round)).is_some()).count()
            });
        });
        group.bench_function("apply", |bench| {
            let mut frames = frames.clone();
            bench.iter(|| {
                let range = turn(&mut at);
                for number in range {
                    apply(&actions[number], &headers[number], &mut frames[number]);
                }
            });
        });
        group.bench_function("hit: peek, prepare, lookup, apply", |bench| {
            let mut batch = [Probe::default(); BATCH];
            let mut lying = [[0; 64]; BATCH];
            bench.iter(|| {
                let range = turn(&mut at);
                for ((frame, lying), probe) in frames[range].iter().zip(&mut lying).zip(&mut batch) {
                    lying[..frame.len()].copy_from_slice(frame);
                    *probe = peek(&lying[..frame.len()], PORT).unwrap_or_default();
                }
                cache.prepare(&mut batch);
                for (probe, frame) in batch.iter().zip(&mut lying) {
                    if let Some(action) = cache.lookup(probe, &round) {
                        probe.apply(action, frame);
                    }
                }
                black_box(&lying);
            });
        });
        group.bench_function("install", |bench| {
            let mut cache = fresh();
            bench.iter(|| {
                headers[turn(&mut at)].iter().for_each(|headers| install(&mut cache, headers, &round))
            });
        });
        group.finish();
    }
}

fn main() {
    let mut criterion = throughway_microbenches::criterion();
    steps(&mut criterion);
    criterion.final_summary();
}
