//! Golden packets: every verdict, both families, to the byte.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod world;

use throughway_packet::build::PacketBuilder;
use throughway_packet::{Action, PortId, apply, checksum, edits, parse};
use throughway_router::martian::{is_martian, is_reserved};
use throughway_vnf::packet::State;
use throughway_vnf::{Answer, Batch, Context, DropReason, Function, IcmpError, Packet, Verdict};
use world::*;

/// What has to become of a packet.
enum Expected {
    /// Out by this port, with these MAC addresses (destination, source), one hop less, and nothing else changed.
    Sent(PortId, [u8; 6], [u8; 6]),
    /// Out by this port when this neighbour is resolved; until then one hop less, and nothing else changed.
    Awaits(PortId, &'static str),
    Dropped(DropReason),
    Rejected(DropReason, IcmpError),
}

use Expected::*;

fn builder(source: &str, destination: &str) -> PacketBuilder {
    PacketBuilder::between(ip(source), ip(destination)).udp(5000, 53).payload(b"throughway")
}

fn check(name: &str, packet: PacketBuilder, expected: &Expected) {
    let frame = packet.finish();
    let headers = parse(&frame, LAN).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut judged = Packet::new(&frame, headers);
    let verdict = router().judge(&mut judged, &Context::default());
    match *expected {
        Dropped(reason) => assert_eq!(verdict, Verdict::Drop(reason), "{name}"),
        Rejected(reason, error) => {
            assert_eq!(verdict, Verdict::Reject(reason, Answer::Icmp(error)), "{name}")
        }
        Sent(..) | Awaits(..) => assert_eq!(verdict, Verdict::Continue, "{name}"),
    }

    let mut sent = frame.clone();
    apply(judged.action(), &headers, &mut sent);
    let one_hop_less = packet.clone().hop_limit(headers.hop_limit.saturating_sub(1));
    match *expected {
        Sent(port, destination, source) => {
            assert_eq!((judged.egress(), judged.awaited_neighbour()), (Some(port), None), "{name}");
            assert_eq!(sent, one_hop_less.ethernet(destination, source).finish(), "{name}");
        }
        Awaits(port, neighbour) => {
            assert_eq!(
                (judged.egress(), judged.awaited_neighbour()),
                (Some(port), Some(ip(neighbour))),
                "{name}"
            );
            assert!(!judged.action().has(edits::ETHERNET), "{name}");
            assert_eq!(sent, one_hop_less.finish(), "{name}");
        }
        Dropped(_) | Rejected(..) => {
            assert_eq!(*judged.action(), Action::nothing(), "{name}");
            assert_eq!(judged.awaited_neighbour(), None, "{name}");
        }
    }
    let seen = parse(&sent, LAN).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(checksum::verify(&sent, &seen), "{name}");
    assert_eq!(seen, *judged.headers(), "{name}: the view is what the bytes say");
}

/// One case: its name, source, destination, and what has to become of it.
fn cases() -> Vec<(&'static str, &'static str, &'static str, Expected)> {
    let host = || Sent(LAN, HOST_MAC, LAN_MAC);
    let no_route = || Rejected(DropReason::NoRoute, IcmpError::NetUnreachable);
    let unreachable = || Rejected(DropReason::UnreachableRoute, IcmpError::HostUnreachable);
    let unreachable6 = || Rejected(DropReason::UnreachableRoute, IcmpError::NetUnreachable);
    let prohibited = || Rejected(DropReason::ProhibitRoute, IcmpError::AdminProhibited);
    let down = || Rejected(DropReason::EgressDown, IcmpError::HostUnreachable);
    vec![
        ("to a neighbour", "198.18.0.1", "192.0.2.77", host()),
        ("to a neighbour, IPv6", "2001:db8:2::5", "2001:db8:1::77", host()),
        ("to a gateway", "192.0.2.77", "8.8.8.8", Sent(WAN, GATEWAY_MAC, WAN_MAC)),
        ("to a link-local gateway", "2001:db8:1::77", "2001:db8:b123::1", Sent(WAN, GATEWAY_MAC, WAN_MAC)),
        ("IPv4 by an IPv6 gateway", "192.0.2.77", "198.51.100.1", Sent(BARE, SIX_MAC, BARE_MAC)),
        ("class E", "192.0.2.77", "240.0.0.1", Dropped(DropReason::ReservedAddress)),
        ("unresolved neighbour", "198.18.0.1", "192.0.2.78", Awaits(LAN, "192.0.2.78")),
        ("unresolved neighbour, IPv6", "2001:db8:2::5", "2001:db8:1::78", Awaits(LAN, "2001:db8:1::78")),
        ("unresolved gateway", "192.0.2.77", "10.7.0.1", Awaits(WAN, "203.0.113.254")),
        ("unresolved gateway, IPv6", "2001:db8:1::77", "2001:db8:a7::1", Awaits(WAN, "2001:db8:2::254")),
        ("own address", "192.0.2.77", "203.0.113.2", Dropped(DropReason::LocalDestination)),
        ("own address, IPv6", "2001:db8:1::77", "2001:db8:2::2", Dropped(DropReason::LocalDestination)),
        ("blackhole", "192.0.2.77", "10.0.0.1", Dropped(DropReason::BlackholeRoute)),
        ("blackhole, IPv6", "2001:db8:1::77", "2001:db8:a0::1", Dropped(DropReason::BlackholeRoute)),
        ("unreachable", "192.0.2.77", "10.1.0.1", unreachable()),
        ("unreachable, IPv6", "2001:db8:1::77", "2001:db8:a1::1", unreachable6()),
        ("prohibit", "192.0.2.77", "10.2.0.1", prohibited()),
        ("prohibit, IPv6", "2001:db8:1::77", "2001:db8:a2::1", prohibited()),
        ("throw, though there is a default route", "192.0.2.77", "10.3.0.1", no_route()),
        ("throw, IPv6", "2001:db8:1::77", "2001:db8:a3::1", no_route()),
        ("no route, IPv6", "2001:db8:1::77", "2001:db8:ffff::1", no_route()),
        ("not ours", "192.0.2.77", "10.4.0.1", Dropped(DropReason::EgressNotOurs)),
        ("not ours, IPv6", "2001:db8:1::77", "2001:db8:a4::1", Dropped(DropReason::EgressNotOurs)),
        ("down", "192.0.2.77", "10.5.0.1", down()),
        ("down, IPv6", "2001:db8:1::77", "2001:db8:a5::1", down()),
        ("a port that does not exist", "192.0.2.77", "10.6.0.1", Dropped(DropReason::EgressNotOurs)),
        (
            "a port that does not exist, IPv6",
            "2001:db8:1::77",
            "2001:db8:a6::1",
            Dropped(DropReason::EgressNotOurs),
        ),
        ("from this network", "0.1.2.3", "8.8.8.8", Dropped(DropReason::MartianAddress)),
        ("from unspecified", "0.0.0.0", "8.8.8.8", Dropped(DropReason::MartianAddress)),
        ("from loopback", "127.0.0.1", "8.8.8.8", Dropped(DropReason::MartianAddress)),
        ("from multicast", "224.0.0.5", "8.8.8.8", Dropped(DropReason::MartianAddress)),
        ("from broadcast", "255.255.255.255", "8.8.8.8", Dropped(DropReason::MartianAddress)),
        ("from link-local", "169.254.1.1", "8.8.8.8", Dropped(DropReason::MartianAddress)),
        ("to unspecified", "192.0.2.77", "0.0.0.0", Dropped(DropReason::MartianAddress)),
        ("to loopback", "192.0.2.77", "127.0.0.1", Dropped(DropReason::MartianAddress)),
        ("to multicast", "192.0.2.77", "239.1.2.3", Dropped(DropReason::MartianAddress)),
        ("to broadcast", "192.0.2.77", "255.255.255.255", Dropped(DropReason::MartianAddress)),
        ("to link-local", "192.0.2.77", "169.254.1.1", Dropped(DropReason::MartianAddress)),
        ("to a directed broadcast", "8.8.8.8", "192.0.2.255", Dropped(DropReason::MartianAddress)),
        ("from unspecified, IPv6", "::", "2001:db8:b000::1", Dropped(DropReason::MartianAddress)),
        ("from loopback, IPv6", "::1", "2001:db8:b000::1", Dropped(DropReason::MartianAddress)),
        ("from multicast, IPv6", "ff02::1", "2001:db8:b000::1", Dropped(DropReason::MartianAddress)),
        ("from link-local, IPv6", "fe80::77", "2001:db8:b000::1", Dropped(DropReason::MartianAddress)),
        ("to unspecified, IPv6", "2001:db8:1::77", "::", Dropped(DropReason::MartianAddress)),
        ("to loopback, IPv6", "2001:db8:1::77", "::1", Dropped(DropReason::MartianAddress)),
        ("to multicast, IPv6", "2001:db8:1::77", "ff0e::1", Dropped(DropReason::MartianAddress)),
        ("to link-local, IPv6", "2001:db8:1::77", "fe80::9", Dropped(DropReason::MartianAddress)),
    ]
}

#[test]
fn every_verdict() {
    for (name, source, destination, expected) in cases() {
        check(name, builder(source, destination), &expected);
    }
}

#[test]
fn what_the_packet_carries_does_not_matter() {
    for (source, destination, expected) in [
        ("192.0.2.77", "8.8.8.8", Sent(WAN, GATEWAY_MAC, WAN_MAC)),
        ("2001:db8:1::77", "2001:db8:b000::1", Sent(WAN, GATEWAY_MAC, WAN_MAC)),
    ] {
        let plain = PacketBuilder::between(ip(source), ip(destination));
        check("plain IP", plain.clone(), &expected);
        check("TCP", plain.clone().tcp(5000, 80, 0x02), &expected);
        check("UDP", plain.clone().udp(5000, 53), &expected);
        check("SCTP", plain.clone().sctp(5000, 53).payload(&[0; 4]), &expected);
        check("echo request", plain.clone().echo_request(7, 1).payload(b"ping"), &expected);
        check("tagged", plain.clone().vlan(10).udp(1, 2), &expected);
        check("first fragment", plain.clone().udp(1, 2).payload(&[7; 64]).fragment(0, true), &expected);
        check("later fragment", plain.clone().udp(1, 2).payload(&[7; 64]).fragment(72, false), &expected);
        check("padded", plain.clone().udp(1, 2).padded(60), &expected);
    }
}

#[test]
fn hops_run_out_only_for_what_would_be_forwarded() {
    let exceeded = Rejected(DropReason::HopLimitExceeded, IcmpError::HopLimitExceeded);
    for hops in [0, 1] {
        for (name, source, destination, expected) in cases() {
            // With hops to spare, it would leave the box, or would be about to.
            let would_leave = matches!(
                expected,
                Sent(..)
                    | Awaits(..)
                    | Dropped(DropReason::EgressNotOurs)
                    | Rejected(DropReason::EgressDown, _)
            );
            let expected = if would_leave { &exceeded } else { &expected };
            check(name, builder(source, destination).hop_limit(hops), expected);
        }
    }
    check("two hops", builder("192.0.2.77", "8.8.8.8").hop_limit(2), &Sent(WAN, GATEWAY_MAC, WAN_MAC));
}

#[test]
fn the_egress_mtu_is_compared_with_the_ip_packet() {
    let too_big = Rejected(DropReason::TooBig, IcmpError::TooBig { mtu: WAN_MTU });
    let sent = Sent(WAN, GATEWAY_MAC, WAN_MAC);
    for (source, destination, headers) in
        [("192.0.2.77", "8.8.8.8", 20 + 8), ("2001:db8:1::77", "2001:db8:b000::1", 40 + 8)]
    {
        let of = |len: usize| builder(source, destination).payload(&vec![0; len - headers]);
        let mtu = usize::from(WAN_MTU);
        check("fits", of(mtu), &sent);
        check("fits, with a tag, which does not count", of(mtu).vlan(7), &sent);
        check("fits, with padding, which does not count", of(mtu).padded(1600), &sent);
        // IPv6 packets are never cut (RFC 8200, section 5), and IPv4's without DF are.
        let without_df = if headers == 28 { &sent } else { &too_big };
        check("one more", of(mtu + 1), without_df);
        check("one more, a fragment", of(mtu + 9).fragment(72, false), without_df);
        check("one more, with DF", of(mtu + 1).dont_fragment(), &too_big);
    }
    for (len, cut_to) in [(usize::from(WAN_MTU), None), (usize::from(WAN_MTU) + 1, Some(WAN_MTU))] {
        let frame = builder("192.0.2.77", "8.8.8.8").payload(&vec![0; len - 28]).finish();
        let mut judged = Packet::new(&frame, parse(&frame, LAN).unwrap());
        assert_eq!(router().judge(&mut judged, &Context::default()), Verdict::Continue);
        assert_eq!((judged.extra().fragments_of(), judged.limit()), (cut_to, WAN_MTU), "{len} bytes");
    }
    check(
        "a hop limit that runs out comes first",
        builder("192.0.2.77", "8.8.8.8").payload(&[0; 1400]).hop_limit(1),
        &Rejected(DropReason::HopLimitExceeded, IcmpError::HopLimitExceeded),
    );
}

#[test]
fn a_batch_is_judged_as_its_packets_one_by_one() {
    let frames: Vec<Vec<u8>> = cases().iter().map(|(_, from, to, _)| builder(from, to).finish()).collect();
    let packet = |frame| Packet::new(frame, parse(frame, LAN).unwrap());
    let context = Context::default();

    let mut batch = Batch::new();
    for frame in &frames {
        batch.push(packet(frame)).unwrap();
    }
    // One that an earlier function dropped stays as it is.
    batch.packets_mut()[0].settle(Verdict::Drop(DropReason::NoChain));
    let mut router = router();
    router.process(&mut batch, &context);
    assert_eq!(router.counters().lookups.get(), (frames.len() - 1 - martians(&frames)) as u64);

    let mut alone = world::router();
    for (index, (frame, together)) in frames.iter().zip(batch.packets()).enumerate() {
        let mut single = packet(frame);
        if index == 0 {
            assert_eq!(together.state(), State::Dropped(DropReason::NoChain, None));
            assert_eq!(*together.action(), Action::nothing());
            continue;
        }
        let verdict = alone.judge(&mut single, &context);
        single.settle(verdict);
        assert_eq!(single.state(), together.state());
        assert_eq!(single.action(), together.action());
        assert_eq!(single.headers(), together.headers());
        assert_eq!(single.awaited_neighbour(), together.awaited_neighbour());
    }
    for (one, other) in [
        (alone.counters().lookups.get(), router.counters().lookups.get()),
        (alone.counters().misses.get(), router.counters().misses.get()),
        (alone.counters().unresolved.get(), router.counters().unresolved.get()),
    ] {
        assert_eq!(one, other);
    }
    assert_eq!((router.counters().misses.get(), router.counters().unresolved.get()), (3, 4));
}

/// How many frames are dropped before a lookup.
fn martians(frames: &[Vec<u8>]) -> usize {
    let martian = |address| is_martian(address) || is_reserved(address);
    let headers = frames.iter().map(|frame| parse(frame, LAN).unwrap());
    headers.filter(|headers| martian(headers.source()) || martian(headers.destination())).count()
}

#[test]
fn new_tables_hold_from_the_next_packet_on() {
    let mut router = router();
    let frame = builder("192.0.2.77", "8.8.8.8").finish();
    let headers = parse(&frame, LAN).unwrap();
    let verdict = |router: &mut throughway_router::Router| {
        router.judge(&mut Packet::new(&frame, headers), &Context::default())
    };
    assert_eq!(verdict(&mut router), Verdict::Continue);
    let before = router.tables().publish(throughway_router::Tables::default());
    assert!(before.fib.ipv4_prefixes() > 0);
    assert_eq!(
        verdict(&mut router),
        Verdict::Reject(DropReason::NoRoute, Answer::Icmp(IcmpError::NetUnreachable))
    );
}
