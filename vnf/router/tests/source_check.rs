//! What a port asks of the sources of its packets: unicast reverse path forwarding, and reserved addresses.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use throughway_packet::build::PacketBuilder;
use throughway_packet::{PortId, parse};
use throughway_router::{PortSettings, Ports, Router, SourceCheck, Tables};
use throughway_vnf::{Batch, Context, DropReason, Function, Packet, Slot, Snapshot, Verdict};
use world::*;

const LOOSE: SourceCheck = SourceCheck::Loose { allow_default: false };
const LOOSE_WITH_DEFAULT: SourceCheck = SourceCheck::Loose { allow_default: true };

/// The world, with the same settings on every port.
fn tables_with(settings: PortSettings) -> Tables {
    let mut tables = tables();
    let ports = tables.ports.iter().map(|(_, port)| {
        let mut port = port.clone();
        port.settings = settings;
        port
    });
    tables.ports = Ports::new(ports.collect()).into();
    tables
}

fn router_with(settings: PortSettings) -> Router {
    Router::new(Snapshot::new(tables_with(settings)))
}

fn checking(source_check: SourceCheck) -> Router {
    router_with(PortSettings { source_check, ..PortSettings::default() })
}

fn frame(source: &str, destination: &str) -> Vec<u8> {
    PacketBuilder::between(ip(source), ip(destination)).udp(5000, 53).finish()
}

fn judge(router: &mut Router, source: &str, destination: &str, ingress: PortId) -> Verdict {
    let frame = frame(source, destination);
    router.judge(&mut Packet::new(&frame, parse(&frame, ingress).unwrap()), &Context::default())
}

/// Name, source, ingress; passes the loose check, that with the default route, the strict one.
fn cases() -> Vec<(&'static str, &'static str, PortId, [bool; 3])> {
    vec![
        ("on the link", "192.0.2.9", LAN, [true, true, true]),
        ("on another link", "192.0.2.9", WAN, [true, true, false]),
        ("by the default route", "8.8.8.8", WAN, [false, true, true]),
        ("by the default route, elsewhere", "8.8.8.8", LAN, [false, true, false]),
        ("behind an IPv6 gateway", "198.51.100.7", BARE, [true, true, true]),
        ("one of several next hops", "10.8.1.1", WAN, [true, true, true]),
        ("none of several next hops", "10.8.1.1", LAN, [true, true, false]),
        ("by a port that is down, which may be seen first here", "10.5.0.1", DOWN, [true, true, true]),
        ("by an interface that is not ours", "10.4.0.1", WAN, [true, true, false]),
        ("blackhole", "10.0.0.1", WAN, [false, false, false]),
        ("prohibit", "10.2.0.1", WAN, [false, false, false]),
        ("throw", "10.3.0.1", WAN, [false, false, false]),
        ("our own address", "192.0.2.1", LAN, [false, false, false]),
        ("directed broadcast", "192.0.2.255", LAN, [false, false, false]),
        ("IPv6, on the link", "2001:db8:1::9", LAN, [true, true, true]),
        ("IPv6, on another link", "2001:db8:1::9", WAN, [true, true, false]),
        ("IPv6, blackhole", "2001:db8:a0::1", WAN, [false, false, false]),
        ("IPv6, no route", "2001:db8:ffff::1", WAN, [false, false, false]),
    ]
}

#[test]
fn every_check_of_every_kind_of_source() {
    for (name, source, ingress, expected) in cases() {
        let destination = if source.contains(':') { "2001:db8:1::77" } else { "192.0.2.77" };
        let checks = [LOOSE, LOOSE_WITH_DEFAULT, SourceCheck::Strict];
        for (check, passes) in checks.into_iter().zip(expected) {
            let verdict = judge(&mut checking(check), source, destination, ingress);
            let expected = if passes { Verdict::Continue } else { Verdict::Drop(DropReason::SpoofedSource) };
            assert_eq!(verdict, expected, "{name}: {check:?}");
        }
        assert_eq!(judge(&mut router(), source, destination, ingress), Verdict::Continue, "{name}: off");
    }
}

/// Nobody may make the router answer to a forged address.
#[test]
fn nothing_is_told_to_a_forged_source() {
    let verdict = judge(&mut checking(SourceCheck::Strict), "192.0.2.9", "10.2.0.1", WAN);
    assert_eq!(verdict, Verdict::Drop(DropReason::SpoofedSource), "prohibited");
}

#[test]
fn a_batch_is_checked_as_its_packets_one_by_one() {
    for check in [SourceCheck::Off, LOOSE, LOOSE_WITH_DEFAULT, SourceCheck::Strict] {
        let frames: Vec<_> = cases()
            .into_iter()
            .map(|(_, source, ingress, _)| {
                let destination = if source.contains(':') { "2001:db8:1::77" } else { "192.0.2.77" };
                (frame(source, destination), ingress)
            })
            .collect();
        let packet = |(frame, ingress)| Packet::new(frame, parse(frame, ingress).unwrap());
        let mut batch = Batch::new();
        // Twice over, so that the batch is full and there are 128 addresses to be looked up.
        for (frame, ingress) in frames.iter().cycle().take(throughway_vnf::BATCH) {
            batch.push(packet((frame, *ingress))).unwrap();
        }
        checking(check).process(&mut batch, &Context::default());
        let mut alone = checking(check);
        for ((frame, ingress), together) in frames.iter().cycle().zip(batch.packets()) {
            let mut single = packet((frame, *ingress));
            let verdict = alone.judge(&mut single, &Context::default());
            single.settle(verdict);
            assert_eq!(single.state(), together.state());
            assert_eq!(single.action(), together.action());
            assert_eq!(single.dependencies(), together.dependencies());
        }
    }
}

/// What the flow cache repeats has to be judged again when the route to the source changes.
#[test]
fn the_answer_depends_on_the_route_to_the_source() {
    let frame = frame("10.8.1.1", "192.0.2.77");
    for (check, depends) in [(SourceCheck::Off, false), (LOOSE, true), (SourceCheck::Strict, true)] {
        let mut packet = Packet::new(&frame, parse(&frame, WAN).unwrap());
        assert_eq!(checking(check).judge(&mut packet, &Context::default()), Verdict::Continue);
        let slots: Vec<Slot> = packet.dependencies().slots().collect();
        assert!(slots.contains(&Slot::route(ip("192.0.2.77"))), "{check:?}");
        assert_eq!(slots.contains(&Slot::route(ip("10.8.1.1"))), depends, "{check:?}");
    }
}

#[test]
fn reserved_addresses_pass_where_that_is_asked_for() {
    let dropped = Verdict::Drop(DropReason::ReservedAddress);
    let mut lenient = router_with(PortSettings { forward_reserved: true, ..PortSettings::default() });
    for (source, destination) in [("240.0.0.1", "8.8.8.8"), ("192.0.2.9", "250.1.2.3")] {
        assert_eq!(judge(&mut router(), source, destination, LAN), dropped);
        assert_eq!(judge(&mut lenient, source, destination, LAN), Verdict::Continue);
    }
    for (source, destination) in [("100::1", "2001:db8:1::77"), ("2001:db8:1::9", "100::7")] {
        assert_eq!(judge(&mut router(), source, destination, LAN), dropped);
        assert_ne!(judge(&mut lenient, source, destination, LAN), dropped);
    }
    // What RFC 1812 forbids stays forbidden.
    let verdict = judge(&mut lenient, "255.255.255.255", "8.8.8.8", LAN);
    assert_eq!(verdict, Verdict::Drop(DropReason::MartianAddress));
}
