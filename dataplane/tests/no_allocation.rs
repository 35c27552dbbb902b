//! In its steady state a worker allocates nothing: neither on the hit path nor where flows are new, recorded and installed.
//!
//! A test of its own, because the counting allocator is that of the whole program.

#![allow(clippy::unwrap_used, reason = "a failed test")]

mod common;

use std::sync::Arc;

use allocation_counter::measure;
use common::{Bench, CONFIG, HOST_LAN, LAN, WAN, facts};
use throughway::capture::{Filter, Ring};
use throughway::worker::tap::Tap;
use throughway_packet::PortId;
use throughway_packet::build::PacketBuilder;

/// So many packets in a batch, of both families.
const PACKETS: u16 = 64;

fn frame(number: u16, round: u16) -> Vec<u8> {
    let builder = if number & 1 == 0 {
        PacketBuilder::ipv4([10, 1, 0, 10], [10, 2, 0, 10])
    } else {
        PacketBuilder::ipv6([0xfd00, 1, 0, 0, 0, 0, 0, 0x10], [0xfd00, 2, 0, 0, 0, 0, 0, 0x10])
    };
    builder.ethernet([2, 0, 0, 0, 0, 0], HOST_LAN).udp(1000 + number, 1000 + round).finish()
}

/// Lets a batch through; how many came out by the wan.
fn pass(bench: &mut Bench, frames: &[Vec<u8>]) -> usize {
    for frame in frames {
        assert!(bench.worker.io().inject(LAN, frame));
    }
    bench.now.0 += 20_000_000;
    let now = bench.now;
    bench.worker.round(now);
    bench.worker.io().discard(PortId(0));
    bench.worker.io().discard(WAN)
}

fn batch(round: u16) -> Vec<Vec<u8>> {
    (0..PACKETS).map(|number| frame(number, round)).collect()
}

/// Two captures: one that is read, and a trace that nobody reads.
fn look_on(bench: &mut Bench) -> Arc<Ring> {
    let (ready, _is_ready) = crossbeam::channel::bounded(2);
    let rings = [false, true].map(|traces| Arc::new(Ring::new(256, 256, traces, 3)));
    for (number, ring) in (0..).zip(&rings) {
        let filter = Filter { port: Some(1000 + 2 * number), ..Filter::default() };
        ring.begin();
        let tap = Tap::new(number.into(), filter, number == 1, Arc::clone(ring));
        assert!(bench.worker.tap(Box::new(tap), ready.clone()).is_ok());
    }
    let [read, _] = rings;
    read
}

#[test]
fn nobody_allocates_while_packets_are_captured() {
    let mut bench = Bench::new(&format!("workers: {{ flows: 4096 }}\n{CONFIG}"), &facts());
    let ring = look_on(&mut bench);
    let batches: Vec<_> = (0..100).map(batch).collect();
    for _ in 0..3 {
        assert_eq!(pass(&mut bench, &batches[0]), usize::from(PACKETS));
    }
    std::iter::from_fn(|| ring.next()).for_each(|record| ring.give_back(record));
    let mut read = 0;
    let looked_at = measure(|| {
        for batch in &batches {
            for _ in 0..2 {
                assert_eq!(pass(&mut bench, batch), usize::from(PACKETS));
                while let Some(record) = ring.next() {
                    read += 1;
                    ring.give_back(record);
                }
            }
        }
    });
    assert_eq!(looked_at.count_total, 0, "{looked_at:?}");
    // Port 1000 is the source of one flow in each batch, and the destination of all of the first.
    assert_eq!(read, 2 * (2 * 99 + 2 * 64));
}

#[test]
fn neither_hits_nor_new_flows_allocate() {
    let mut bench = Bench::new(&format!("workers: {{ flows: 4096 }}\n{CONFIG}"), &facts());
    let batches: Vec<_> = (0..100).map(batch).collect();
    // What is made once (pages of the tables, the first sizes of lists) is made.
    for _ in 0..3 {
        assert_eq!(pass(&mut bench, &batches[0]), usize::from(PACKETS));
    }

    let hits = measure(|| {
        for _ in 0..100 {
            assert_eq!(pass(&mut bench, &batches[0]), usize::from(PACKETS));
        }
    });
    assert_eq!(hits.count_total, 0, "{hits:?}");
    bench.worker.publish_flows();
    assert_eq!(bench.stats.flows.values[0].get(), 102 * u64::from(PACKETS), "these were hits");

    // More than the table holds, so some are driven out, too.
    let new = measure(|| {
        for batch in &batches[1..] {
            assert_eq!(pass(&mut bench, batch), usize::from(PACKETS));
        }
    });
    assert_eq!(new.count_total, 0, "{new:?}");
    bench.worker.publish_flows();
    assert_eq!(bench.stats.flows.values[0].get(), 102 * u64::from(PACKETS), "these were none");
}
