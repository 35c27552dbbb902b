//! Packets that are captured: as they came and as they left, and why others did not; while all others go their way unseen.

#![allow(clippy::unwrap_used, reason = "a failed test")]

mod common;

use std::sync::Arc;

use common::{Bench, CONFIG, DMZ, HOST_LAN, HOST_WAN, LAN, WAN, facts};
use crossbeam::channel::bounded;
use throughway::capture::{Filter, Record, Ring, What};
use throughway::worker::tap::Tap;
use throughway_packet::build::PacketBuilder;
use throughway_packet::{PortId, Prefix, checksum, parse};
use throughway_vnf::DropReason;

const BOX: [u8; 6] = [2, 0, 0, 0, 0, 0];

/// A firewall that lets in only what was asked for, and a NAT that masquerades.
const EDGE: &str = "\
interfaces: { lan: { device: lan0 }, wan: { device: wan0 }, dmz: { device: dmz0 } }
functions:
  edge: { firewall: { default: drop, rules: [ { allow: { from: lan } } ] } }
  outer: { nat: { outside: wan, source: [ { match: { source: 10.1.0.0/16 }, masquerade: true } ] } }
  core: { router: { routes: [ { prefix: 198.51.100.0/24, blackhole: true } ] } }
chains:
  outbound: { from: lan, run: [edge, outer, core] }
  inbound: { from: [wan, dmz], run: [outer, edge, core] }
";

fn ring(records: usize) -> Arc<Ring> {
    Arc::new(Ring::new(records, 2048, true, 3))
}

fn open(bench: &mut Bench, number: u64, filter: Filter, traces: bool) -> Arc<Ring> {
    let (ready, is_ready) = bounded(1);
    let ring = ring(256);
    assert!(bench.worker.tap(Box::new(Tap::new(number, filter, traces, ring.clone())), ready).is_ok());
    is_ready.try_recv().unwrap();
    ring.begin();
    ring
}

fn host(address: [u8; 4]) -> Filter {
    Filter { host: Some(Prefix::host(address.into())), ..Filter::default() }
}

fn udp(to: [u8; 4], port: u16) -> Vec<u8> {
    PacketBuilder::ipv4([10, 1, 0, 10], to).ethernet(BOX, HOST_LAN).udp(4000, port).payload(&[7; 20]).finish()
}

fn read(ring: &Ring) -> Vec<Record> {
    std::iter::from_fn(|| ring.next()).map(|record| *record).collect()
}

fn whats(records: &[Record]) -> Vec<(u16, What)> {
    records.iter().map(|record| (record.interface, record.what)).collect()
}

fn assert_whole(record: &Record) {
    let headers = parse(record.bytes(), PortId(record.interface)).unwrap();
    assert!(checksum::verify(record.bytes(), &headers), "{record:?}");
}

const SENT: [(u16, What); 2] = [(0, What::Received), (1, What::Sent)];

#[test]
fn both_forms_are_written_whether_the_flow_is_known_or_not() {
    let mut bench = Bench::new(EDGE, &facts());
    let ring = open(&mut bench, 1, host([10, 1, 0, 10]), false);
    let frame = udp([10, 2, 0, 10], 53);
    let mut sent = Vec::new();
    for number in 1..=5 {
        bench.receive(LAN, &frame);
        let records = read(&ring);
        assert_eq!(whats(&records), SENT);
        assert_eq!(records[0].bytes(), frame);
        sent = bench.sent(WAN);
        assert_eq!(records[1].bytes(), sent[0]);
        assert!(records[0].is_first && !records[1].is_first);
        assert!(records.iter().all(|record| record.packet == number && record.time == bench.now.0));
        records.iter().for_each(assert_whole);
    }
    bench.worker.publish_flows();
    // The first two open the session.
    assert_eq!(bench.stats.flows.values[0].get(), 3, "known flows are executed as ever");
    // What comes back has the host's address only when it leaves.
    let masked = parse(&sent[0], WAN).unwrap();
    let back = PacketBuilder::between([10, 2, 0, 10].into(), masked.source())
        .ethernet(BOX, HOST_WAN)
        .udp(53, masked.source_port())
        .finish();
    for _ in 0..3 {
        bench.receive(WAN, &back);
        let records = read(&ring);
        assert_eq!(whats(&records), [(1, What::Received), (0, What::Sent)]);
        assert_eq!((records[0].bytes(), records[1].bytes()), (&*back, &*bench.sent(LAN)[0]));
    }
    // Others are not seen.
    let other =
        PacketBuilder::ipv4([10, 1, 0, 11], [10, 2, 0, 10]).ethernet(BOX, HOST_LAN).udp(1, 2).finish();
    (0..3).for_each(|_| bench.receive(LAN, &other));
    assert_eq!(bench.sent(WAN).len(), 3);
    assert!(read(&ring).is_empty());
    bench.assert_balance();
    // When it has ended, nothing is.
    assert!(bench.worker.untap(1).is_some() && bench.worker.untap(1).is_none());
    bench.receive(LAN, &frame);
    assert!(read(&ring).is_empty());
}

#[test]
fn what_is_dropped_has_its_reason_and_its_function() {
    let mut bench = Bench::new(CONFIG, &facts());
    let all = open(&mut bench, 1, Filter::default(), false);
    let dropped = open(&mut bench, 2, Filter { dropped: true, ..Filter::default() }, false);
    let routes =
        open(&mut bench, 3, Filter { reason: Some(DropReason::BlackholeRoute), ..Filter::default() }, false);
    let lost = udp([198, 51, 100, 1], 53);
    // The first walks its chain, the second finds what is remembered of it.
    for _ in 0..2 {
        bench.receive(LAN, &lost);
        for ring in [&all, &dropped, &routes] {
            let records = read(ring);
            assert_eq!(whats(&records), [(0, What::Dropped(DropReason::BlackholeRoute))]);
            assert_eq!((records[0].by.as_str(), records[0].bytes()), ("core", &*lost));
            assert!(records[0].is_first);
        }
    }
    bench.worker.publish_flows();
    assert_eq!(bench.stats.flows.values[0].get(), 1);
    // No function has had it.
    bench.receive(LAN, &udp([10, 2, 0, 10], 9)[..30]);
    let records = read(&dropped);
    assert_eq!(whats(&records), [(0, What::Dropped(DropReason::TruncatedIpv4))]);
    assert!(records[0].by.is_empty());
    assert_eq!(read(&all).len(), 1);
    // Sent ones are none of theirs.
    bench.receive(LAN, &udp([10, 2, 0, 10], 9));
    assert_eq!(whats(&read(&all)), SENT);
    assert!(read(&dropped).is_empty() && read(&routes).is_empty());
}

#[test]
fn what_is_asked_for_by_how_it_would_have_left_is_dropped_under_that_name() {
    let open_nat = EDGE.replace("masquerade: true", "masquerade: true, filtering: endpoint-independent");
    let mut bench = Bench::new(&open_nat, &facts());
    // The NAT has given the packet its destination inside before the firewall ends it.
    bench.receive(LAN, &udp([10, 2, 0, 10], 53));
    let masked = parse(&bench.sent(WAN)[0], WAN).unwrap();
    let ring = open(&mut bench, 1, Filter { dropped: true, ..host([10, 1, 0, 10]) }, false);
    let other = PacketBuilder::between([10, 2, 0, 99].into(), masked.source()).ethernet(BOX, HOST_WAN);
    bench.receive(WAN, &other.udp(9, masked.source_port()).finish());
    let records = read(&ring);
    assert_eq!(records.len(), 1, "{records:?}");
    assert_eq!((records[0].by.as_str(), records[0].is_first), ("edge", true));
    let unasked =
        PacketBuilder::ipv4([10, 2, 0, 10], [10, 1, 0, 10]).ethernet(BOX, HOST_WAN).udp(1, 2).finish();
    bench.receive(WAN, &unasked);
    let records = read(&ring);
    assert_eq!(whats(&records), [(1, What::Dropped(DropReason::FirewallDefault))]);
    assert_eq!(records[0].by.as_str(), "edge");
}

#[test]
fn answers_and_fragments_are_written_as_they_leave() {
    let mut bench = Bench::new(CONFIG, &facts());
    let ring = open(&mut bench, 1, host([10, 1, 0, 10]), false);
    let dying = PacketBuilder::ipv4([10, 1, 0, 10], [10, 2, 0, 10]).ethernet(BOX, HOST_LAN).hop_limit(1);
    bench.receive(LAN, &dying.udp(1, 2).finish());
    let records = read(&ring);
    assert_eq!(whats(&records), [(0, What::Dropped(DropReason::HopLimitExceeded)), (0, What::Answer)]);
    assert_eq!((records[0].by.as_str(), records[1].bytes()), ("core", &*bench.sent(LAN)[0]));
    assert_eq!(records[0].packet, records[1].packet);

    let facts = {
        let mut facts = facts();
        facts.ports[1].mtu = 600;
        facts
    };
    let mut bench = Bench::new(CONFIG, &facts);
    let ring = open(&mut bench, 1, Filter { interface: Some(WAN.0), ..Filter::default() }, false);
    let long = PacketBuilder::ipv4([10, 1, 0, 10], [10, 2, 0, 10]).ethernet(BOX, HOST_LAN).udp(1, 2);
    bench.receive(LAN, &long.payload(&[1; 1000]).finish());
    let records = read(&ring);
    assert_eq!(whats(&records), [SENT[0], SENT[1], SENT[1]]);
    assert_eq!(bench.sent(WAN), [records[1].bytes(), records[2].bytes()]);
}

#[test]
fn who_waits_for_a_neighbour_is_written_when_it_begins_to_and_when_it_leaves() {
    let mut bench = Bench::new(CONFIG, &facts());
    let ring = open(&mut bench, 1, host([10, 3, 0, 10]), false);
    let frame = udp([10, 3, 0, 10], 53);
    bench.receive(LAN, &frame);
    let waits = read(&ring);
    assert_eq!(whats(&waits), [(0, What::Held)]);
    assert_eq!(waits[0].bytes(), frame);
    let mut facts = facts();
    facts.neighbours.push(throughway::host::NeighbourFacts {
        port: DMZ.0,
        address: "10.3.0.10".parse().unwrap(),
        mac: [2, 0, 0, 0, 3, 0x10],
        state: "reachable".to_owned(),
    });
    let came = bench.now.0;
    for spec in bench.blueprint.routers() {
        spec.tables.publish(throughway::assemble::router::tables(&facts, &spec.config, None));
    }
    bench.round();
    let leaves = read(&ring);
    assert_eq!(whats(&leaves), [(2, What::Sent)]);
    assert_eq!((leaves[0].packet, leaves[0].is_first), (waits[0].packet, false));
    assert!(leaves[0].time > came && leaves[0].bytes() == bench.sent(DMZ)[0]);
    bench.assert_balance();
}

#[test]
fn traced_packets_walk_their_chain_and_tell_each_step() {
    let mut bench = Bench::new(EDGE, &facts());
    let frame = udp([10, 2, 0, 10], 53);
    // The flow is known before anybody looks.
    (0..5).for_each(|_| bench.receive(LAN, &frame));
    let ring = open(&mut bench, 1, host([10, 2, 0, 10]), true);
    let told = |records: &[Record]| -> Vec<String> {
        records[0].steps.iter().map(|step| step.in_words(|port| format!("port {}", port.0))).collect()
    };
    for _ in 0..2 {
        bench.receive(LAN, &frame);
        let records = read(&ring);
        assert_eq!(whats(&records), SENT);
        let steps = told(&records);
        assert_eq!(steps[0], "edge: passes");
        assert!(steps[1].starts_with("outer: source becomes 10.2.0.1:"), "{steps:?}");
        assert_eq!((steps[2].as_str(), steps.len()), ("core: ttl becomes 63, leaves by port 1", 3));
    }
    bench.worker.publish_flows();
    assert_eq!(bench.stats.flows.values[0].get(), 3, "only before");
    let lost = PacketBuilder::ipv4([10, 2, 0, 10], [10, 1, 0, 77]).ethernet(BOX, HOST_WAN).udp(1, 2).finish();
    bench.receive(WAN, &lost);
    let records = read(&ring);
    assert_eq!(told(&records).last().map(String::as_str), Some("edge: drops it: firewall-default"));
    // Beside it, others hit.
    let other =
        PacketBuilder::ipv4([10, 1, 0, 11], [10, 2, 0, 99]).ethernet(BOX, HOST_LAN).udp(1, 2).finish();
    (0..3).for_each(|_| bench.receive(LAN, &other));
    assert!(read(&ring).is_empty());
}

#[test]
fn a_reader_that_is_too_slow_holds_up_nobody_and_what_is_lost_is_counted() {
    let mut bench = Bench::new(CONFIG, &facts());
    let (ready, _is_ready) = bounded(1);
    let ring = Arc::new(Ring::new(40, 64, false, 3));
    ring.begin();
    let tap = Tap::new(1, Filter::default(), false, ring.clone());
    assert!(bench.worker.tap(Box::new(tap), ready).is_ok());
    for _ in 0..10 {
        for port in 0..50 {
            assert!(bench.worker.io().inject(LAN, &udp([10, 2, 0, 10], port)));
        }
        bench.round();
        assert_eq!(bench.sent(WAN).len(), 50);
    }
    let counts = [ring.counts(0), ring.counts(1)];
    let (written, lost) = (counts[0].0 + counts[1].0, counts[0].1 + counts[1].1);
    assert_eq!((written + lost, read(&ring).len() as u64), (1000, written));
    assert!(written <= 40 && counts.iter().all(|(written, lost)| written + lost == 500), "{counts:?}");
    bench.assert_balance();
}

#[test]
fn what_does_not_leave_for_want_of_room_is_found_by_how_it_would_have_left() {
    let mut bench = Bench::new(EDGE, &facts());
    bench.receive(LAN, &udp([10, 2, 0, 10], 53));
    let masked = parse(&bench.sent(WAN)[0], WAN).unwrap().source();
    // Known flows and new ones, from an address that only packets behind the translation have.
    for known in [true, false] {
        let ring = ring(1024);
        ring.begin();
        let filter = Filter { dropped: true, source: Some(Prefix::host(masked)), ..Filter::default() };
        let tap = Tap::new(known.into(), filter, false, ring.clone());
        assert!(bench.worker.tap(Box::new(tap), bounded(1).0).is_ok());
        bench.worker.io().set_transmit_capacity(WAN, Some(10));
        let before = bench.drops(LAN, DropReason::TransmitRingFull);
        for port in 0..400 {
            let frame = udp([10, 2, 0, 10], if known { 53 } else { 1000 + port });
            assert!(bench.worker.io().inject(LAN, &frame));
        }
        while bench.round() > 0 {}
        let dropped = bench.drops(LAN, DropReason::TransmitRingFull) - before;
        let records = read(&ring);
        assert!(dropped > 0 && records.len() as u64 == dropped, "{dropped} {}", records.len());
        for record in &records {
            assert_eq!((record.interface, record.what), (0, What::Dropped(DropReason::TransmitRingFull)));
            let came = parse(record.bytes(), LAN).unwrap();
            assert_eq!(came.source(), std::net::IpAddr::from([10, 1, 0, 10]), "as it came");
        }
        while !bench.sent(WAN).is_empty() {
            bench.round();
        }
    }
    bench.assert_balance();
}

#[test]
fn nothing_is_written_or_lost_while_nobody_reads() {
    let mut bench = Bench::new(CONFIG, &facts());
    let (ready, _is_ready) = bounded(2);
    let rings = [false, true].map(|traces| {
        let ring = ring(2);
        let tap = Tap::new(u64::from(traces), host([10, 1, 0, 10]), traces, ring.clone());
        assert!(bench.worker.tap(Box::new(tap), ready.clone()).is_ok());
        ring
    });
    let mut send = || {
        for port in 50..60 {
            bench.receive(LAN, &udp([10, 2, 0, 10], port));
            bench.receive(LAN, &udp([198, 51, 100, 1], port));
        }
    };
    let seen = |ring: &Ring| [0, 1].map(|interface| ring.counts(interface));
    send();
    assert_eq!(rings.each_ref().map(|ring| seen(ring)), [[(0, 0); 2]; 2]);
    rings[1].begin();
    send();
    assert_eq!(seen(&rings[0]), [(0, 0); 2]);
    let [lan, wan] = seen(&rings[1]);
    assert!(lan.0 + wan.0 == 2 && lan.1 > 0 && wan.0 + wan.1 >= 10, "{lan:?} {wan:?}");
    rings[1].end();
    while let Some(record) = rings[1].next() {
        rings[1].give_back(record);
    }
    send();
    assert_eq!(seen(&rings[1]), [lan, wan]);
    assert!(rings[1].next().is_none());
    bench.assert_balance();
}

#[test]
fn there_may_be_four_and_each_sees_its_own() {
    let mut bench = Bench::new(CONFIG, &facts());
    let filter = |port| Filter { destination_port: Some(port), ..Filter::default() };
    let rings: Vec<_> =
        (0..4).map(|number| open(&mut bench, number, filter(50 + number as u16), false)).collect();
    let (ready, is_ready) = bounded(1);
    assert!(bench.worker.tap(Box::new(Tap::new(9, filter(9), false, ring(4))), ready).is_err());
    assert!(is_ready.recv().is_err(), "nobody is told that it is ready");
    for port in 50..54 {
        bench.receive(LAN, &udp([10, 2, 0, 10], port));
    }
    for (port, ring) in (50..).zip(&rings) {
        let records = read(ring);
        assert_eq!(whats(&records), SENT);
        assert_eq!(records[0].bytes(), udp([10, 2, 0, 10], port));
    }
    assert!(bench.worker.untap(1).is_some());
    bench.receive(LAN, &udp([10, 2, 0, 10], 51));
    bench.receive(LAN, &udp([10, 2, 0, 10], 52));
    assert_eq!((read(&rings[1]).len(), read(&rings[2]).len()), (0, 2));
}
