//! Sent from one end of a cable, counted at the other.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed"
)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{B0, on_a_cable};
use throughway_pktgen::{Backend, Mode, Received, Sent, Sink, Sizes, Traffic, send};

mod common;

fn traffic() -> Traffic {
    Traffic::new("a0", B0)
}

/// Sends and counts; waits for what is on its way.
fn both(traffic: &Traffic, backend: Backend) -> (Sent, Received) {
    let sink = Sink::attach("b0").unwrap();
    assert_eq!(sink.mode(), Mode::Native);
    let sent = send(traffic, Some(backend), &AtomicBool::new(false)).unwrap();
    let limit = Instant::now() + Duration::from_secs(2);
    while sink.packets().unwrap() < sent.packets && Instant::now() < limit {
        thread::sleep(Duration::from_millis(5));
    }
    (sent, sink.received().unwrap())
}

#[test]
fn as_many_as_asked_for_arrive() {
    on_a_cable(|| {
        let traffic = Traffic { packets: Some(1_000), rate: Some(20_000), flows: 7, ..traffic() };
        let (sent, received) = both(&traffic, Backend::LiveFrames);
        println!("{sent:?}\n{received:?}");
        assert_eq!((sent.packets, sent.bytes, sent.flows), (1_000, 60_000, 7));
        assert_eq!((received.packets, received.bytes), (1_000, 60_000));
        assert!(received.stamped.is_none());
    });
}

#[test]
fn it_ends_when_it_is_told_to() {
    on_a_cable(|| {
        let sink = Sink::attach("b0").unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while sink.packets().unwrap() == 0 {
                    thread::sleep(Duration::from_millis(5));
                }
                stop.store(true, Ordering::Relaxed);
            });
            // In this thread: the other one is in this namespace too, but nothing else ends it.
            let sent = send(&traffic(), None, &stop).unwrap();
            println!("{sent:?}");
            assert!(sent.packets > 0);
        });
    });
}

#[test]
fn a_mix_with_stamps_tells_loss_and_latency() {
    on_a_cable(|| {
        let traffic = Traffic {
            packets: Some(12_800),
            rate: Some(50_000),
            flows: 100,
            sizes: Some(Sizes::imix()),
            stamp: true,
            ..traffic()
        };
        let (sent, received) = both(&traffic, Backend::LiveFrames);
        println!("{sent:?}\n{received:?}");
        assert_eq!((received.packets, received.bytes), (sent.packets, sent.bytes));
        // 1518, 594 and 64 in the proportion 1:4:7, check sequences apart.
        let mean = sent.bytes as f64 / sent.packets as f64;
        assert!((mean - (1514.0 + 4.0 * 590.0 + 7.0 * 60.0) / 12.0).abs() < 4.0, "{mean}");
        let stamped = received.stamped.unwrap();
        assert_eq!((stamped.lost, stamped.duplicates, stamped.reordered, stamped.unknown), (0, 0, 0, 0));
        let latency = stamped.latency;
        assert_eq!(latency.count, sent.packets);
        assert!(latency.min > 0 && latency.min <= latency.p50 && latency.p50 <= latency.max, "{latency:?}");
    });
}
