//! What the words of the contract promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;

use throughway_packet::build::PacketBuilder;
use throughway_packet::icmp::IcmpError;
use throughway_packet::{Edit, Headers, ParseError, PortId, apply, checksum, parse};
use throughway_vnf::counters::Counter;
use throughway_vnf::packet::State;
use throughway_vnf::{Answer, BATCH, Batch, Context, DropReason, Function, Now, Packet, Snapshot, Verdict};

fn frame(port: u16) -> Vec<u8> {
    PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7]).udp(port, 53).payload(b"query").finish()
}

fn headers(frame: &[u8]) -> Headers {
    parse(frame, PortId(2)).unwrap()
}

fn packet(frame: &[u8]) -> Packet<'_> {
    Packet::new(frame, headers(frame))
}

#[test]
fn labels_are_unique_and_in_kebab_case() {
    let labels: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.label()).collect();
    assert_eq!(labels.len(), DropReason::COUNT);
    for label in labels {
        let words: Vec<_> = label.split('-').collect();
        let kebab = words.iter().all(|word| {
            word.starts_with(|first: char| first.is_ascii_alphabetic())
                && word.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit())
        });
        assert!(kebab, "{label}");
    }
}

#[test]
fn reasons_are_numbered_in_order_and_explained() {
    for (number, reason) in DropReason::ALL.iter().enumerate() {
        assert_eq!(*reason as usize, number);
        let explanation = reason.explanation().trim();
        assert!(explanation.ends_with('.') && explanation.len() > 10, "{}: {explanation:?}", reason.label());
    }
    // An action holds the number in one byte.
    const { assert!(DropReason::COUNT <= 256) };
}

#[test]
fn the_label_of_a_reason_is_its_name() {
    for reason in DropReason::ALL {
        let name = format!("{reason:?}");
        let mut label = String::new();
        for letter in name.chars() {
            if letter.is_ascii_uppercase() && !label.is_empty() {
                label.push('-');
            }
            label.push(letter.to_ascii_lowercase());
        }
        assert_eq!(reason.label(), label);
    }
}

#[test]
fn every_parse_error_has_the_reason_of_its_name() {
    let errors = [
        ParseError::TruncatedEthernet,
        ParseError::TooManyTags,
        ParseError::NotIp,
        ParseError::TruncatedIpv4,
        ParseError::BadIpv4Header,
        ParseError::BadIpv4Checksum,
        ParseError::TruncatedIpv6,
        ParseError::BadIpv6Header,
        ParseError::BadExtensionHeaders,
        ParseError::BadFragment,
        ParseError::TruncatedTcp,
        ParseError::TruncatedUdp,
        ParseError::TruncatedSctp,
        ParseError::TruncatedIcmp,
    ];
    for error in errors {
        assert_eq!(format!("{:?}", DropReason::from(error)), format!("{error:?}"));
    }
}

#[test]
fn the_first_reason_stays() {
    let bytes = frame(1);
    let answer = Answer::Icmp(IcmpError::NetUnreachable);
    let mut dropped = packet(&bytes);
    dropped.settle(Verdict::Continue);
    assert_eq!(dropped.state(), State::Alive);
    dropped.settle(Verdict::Drop(DropReason::TooBig));
    dropped.settle(Verdict::Reject(DropReason::NoRoute, answer));
    dropped.settle(Verdict::Continue);
    assert_eq!(dropped.state(), State::Dropped(DropReason::TooBig, None));

    let mut rejected = packet(&bytes);
    rejected.settle(Verdict::Reject(DropReason::NoRoute, answer));
    rejected.settle(Verdict::Drop(DropReason::TooBig));
    assert_eq!(rejected.state(), State::Dropped(DropReason::NoRoute, Some(answer)));
}

#[test]
fn a_packet_shows_what_came_in_and_what_would_go_out() {
    let bytes = frame(5000);
    let mut packet = packet(&bytes);
    assert_eq!((packet.ingress(), packet.egress(), packet.awaited_neighbour()), (PortId(2), None, None));
    let new: IpAddr = "203.0.113.9".parse().unwrap();
    packet.edit(Edit::Source(new));
    packet.edit(Edit::DecrementHops);
    packet.edit(Edit::Egress(PortId(0)));
    packet.await_neighbour(new);
    assert_eq!(packet.received(), &headers(&bytes));
    assert_eq!((packet.headers().source(), packet.headers().hop_limit), (new, 63));
    assert_eq!((packet.egress(), packet.awaited_neighbour()), (Some(PortId(0)), Some(new)));
    assert_eq!(packet.bytes(), bytes);

    let mut sent = bytes.clone();
    apply(packet.action(), packet.received(), &mut sent);
    assert_eq!(&headers(&sent), packet.headers());
    assert!(checksum::verify(&sent, packet.headers()));
}

/// Drops packets from odd ports; the others lose a hop.
struct Even {
    judged: Vec<u16>,
    ticks: u64,
}

impl Function for Even {
    const KIND: &'static str = "even";

    fn judge(&mut self, packet: &mut Packet<'_>, context: &Context) -> Verdict {
        assert_eq!(context.now, Now(7));
        let port = packet.headers().source_port();
        self.judged.push(port);
        if port % 2 == 1 {
            return Verdict::Drop(DropReason::NoRoute);
        }
        packet.edit(Edit::DecrementHops);
        Verdict::Continue
    }

    fn tick(&mut self, context: &Context) {
        self.ticks += context.now.0;
    }
}

#[test]
fn a_batch_walks_in_order_and_only_the_living_walk() {
    let context = Context { now: Now(7) };
    let frames: Vec<_> = (0..6).map(frame).collect();
    let mut batch = Batch::new();
    for bytes in &frames {
        batch.push(packet(bytes)).unwrap();
    }
    batch.packets_mut()[4].settle(Verdict::Drop(DropReason::BlackholeRoute));
    let mut function = Even { judged: Vec::new(), ticks: 0 };
    function.process(&mut batch, &context);
    assert_eq!(function.judged, [0, 1, 2, 3, 5]);
    function.process(&mut batch, &context);
    assert_eq!(function.judged[5..], [0, 2]);
    let hops: Vec<_> = batch.packets().iter().map(|packet| packet.headers().hop_limit).collect();
    assert_eq!(hops, [62, 64, 62, 64, 64, 64]);
    assert_eq!(batch.living().count(), 2);
    assert_eq!(batch.packets()[4].state(), State::Dropped(DropReason::BlackholeRoute, None));
    function.tick(&context);
    assert_eq!(function.ticks, 7);
}

#[test]
fn a_full_batch_gives_the_packet_back() {
    let bytes = frame(1);
    let other = frame(2);
    let mut batch = Batch::new();
    for _ in 0..BATCH {
        batch.push(packet(&bytes)).unwrap();
    }
    let back = batch.push(packet(&other)).unwrap_err();
    assert_eq!(back.headers().source_port(), 2);
    assert_eq!(batch.packets().len(), BATCH);
}

#[test]
fn counters_count_and_wrap() {
    let counter = Counter::default();
    counter.add(3);
    counter.add(0);
    counter.add(4);
    assert_eq!(counter.get(), 7);
    counter.set(u64::MAX);
    counter.add(2);
    assert_eq!(counter.get(), 1);
}

#[test]
fn a_counter_is_read_while_it_is_written() {
    const TIMES: u64 = 100_000;
    let counter = Counter::default();
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = 0;
            while last < TIMES {
                let now = counter.get();
                assert!(now >= last, "a counter never goes back");
                last = now;
                thread::yield_now();
            }
        });
        for _ in 0..TIMES {
            counter.add(1);
        }
        reader.join().unwrap();
    });
    assert_eq!(counter.get(), TIMES);
}

#[test]
fn a_snapshot_is_seen_by_all_and_held_by_who_reads() {
    let writer = Snapshot::new(1);
    let reader = writer.clone();
    let held = reader.read();
    let owned = reader.read_owned();
    let old = writer.publish(2);
    assert_eq!((**held, *owned, *old), (1, 1, 1));
    assert_eq!(**reader.read(), 2);
    drop((held, old));
    assert_eq!(Arc::strong_count(&owned), 1, "nobody else holds what was replaced");
}
