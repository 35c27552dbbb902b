//! The choice among several next hops: by flow, by weight; and what we send ourselves.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::collections::HashMap;
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use throughway_packet::build::PacketBuilder;
use throughway_packet::{PortId, parse};
use throughway_router::{
    Fib, InterfaceAddress, NextHop, NextHops, Origin, Port, PortSettings, Ports, Route, Tables,
};
use throughway_vnf::{Context, Function, Packet, Verdict};
use world::*;

/// Which of the next hops a packet takes: none of them is resolved, so the router names the one it waits for.
fn choice(packet: &PacketBuilder, ingress: PortId) -> IpAddr {
    let frame = packet.finish();
    let mut judged = Packet::new(&frame, parse(&frame, ingress).unwrap());
    assert_eq!(router().judge(&mut judged, &Context::default()), Verdict::Continue);
    judged.awaited_neighbour().unwrap()
}

fn ends(ipv6: bool, source: u16, destination: u16) -> (IpAddr, IpAddr) {
    if ipv6 {
        (ip(&format!("2001:db8:1::{source:x}")), ip(&format!("2001:db8:a8::{destination:x}")))
    } else {
        let [a, b] = source.to_be_bytes();
        let [c, d] = destination.to_be_bytes();
        (IpAddr::from([198, 18, a, b]), IpAddr::from([10, 8, c, d]))
    }
}

fn config() -> ProptestConfig {
    // Beside this file; the default looks for `lib.rs` above it.
    let persistence = FileFailurePersistence::WithSource("regressions");
    ProptestConfig { failure_persistence: Some(Box::new(persistence)), ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_packets_of_a_flow_stay_together(
        ipv6: bool, source: u16, destination: u16, from_port: u16, to_port: u16,
        hops in 2u8.., class: u8, payload in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let (from, to) = ends(ipv6, source, destination);
        let flow = PacketBuilder::between(from, to);
        let first = choice(&flow.clone().tcp(from_port, to_port, 0x02), LAN);
        let later = flow.clone().tcp(from_port, to_port, 0x10).hop_limit(hops).traffic_class(class).payload(&payload);
        prop_assert_eq!(choice(&later, LAN), first);
        prop_assert_eq!(choice(&later.vlan(9), BARE), first, "by another link");
    }

    #[test]
    fn the_pieces_of_a_datagram_stay_together(
        ipv6: bool, source: u16, destination: u16, from_port: u16, to_port: u16,
    ) {
        let (from, to) = ends(ipv6, source, destination);
        let datagram = PacketBuilder::between(from, to).udp(from_port, to_port).payload(&[1; 64]);
        let first = choice(&datagram.clone().fragment(0, true), LAN);
        prop_assert_eq!(choice(&datagram.clone().fragment(72, true), LAN), first);
        prop_assert_eq!(choice(&datagram.clone().fragment(144, false), LAN), first);
    }
}

/// How often each next hop is taken must be what its weight says, within five standard deviations.
fn shares_follow_weights(choices: impl Iterator<Item = IpAddr>) {
    let mut taken: HashMap<IpAddr, u32> = HashMap::new();
    let mut count = 0;
    for chosen in choices {
        *taken.entry(chosen).or_default() += 1;
        count += 1;
    }
    let total: u16 = several().iter().map(|hop| hop.weight.max(1)).sum();
    for hop in several() {
        let share = f64::from(hop.weight.max(1)) / f64::from(total);
        let expected = f64::from(count) * share;
        let deviation = (expected * (1.0 - share)).sqrt();
        let seen = f64::from(taken.get(&hop.gateway.unwrap()).copied().unwrap_or_default());
        assert!((seen - expected).abs() < 5.0 * deviation, "{hop:?}: {seen} of {count}, expected {expected}");
    }
}

#[test]
fn flows_spread_by_weight_when_only_one_field_varies() {
    for ipv6 in [false, true] {
        let between = |source, destination| {
            let (from, to) = ends(ipv6, source, destination);
            PacketBuilder::between(from, to)
        };
        shares_follow_weights((0..8000).map(|n| choice(&between(1, 1).udp(n, 53), LAN)));
        shares_follow_weights((0..8000).map(|n| choice(&between(1, 1).udp(53, n), LAN)));
        shares_follow_weights((0..8000).map(|n| choice(&between(n, 1).udp(1, 53), LAN)));
        shares_follow_weights((0..8000).map(|n| choice(&between(1, n).udp(1, 53), LAN)));
    }
}

#[test]
fn a_list_of_next_hops_has_at_least_one() {
    assert_eq!(NextHops::new([]), None);
    let only = NextHop::on_link(LAN);
    let list = NextHops::new([only]).unwrap();
    assert_eq!(list, NextHops::from(only));
    assert_eq!(list.iter().collect::<Vec<_>>(), [&only]);
}

/// Which of `hops` each of many flows takes.
fn assignment(hops: &[NextHop]) -> Vec<NextHop> {
    let list = NextHops::new(hops.iter().copied()).unwrap();
    let flow = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..40_000).map(|number| *list.choose(|| flow(number))).collect()
}

/// A next hop goes or comes back: what moves is its share of the flows, within five standard deviations, and no flow
/// between those that stay.
#[test]
fn only_the_flows_of_a_lost_next_hop_move() {
    let equal: Vec<NextHop> = several().iter().map(|hop| hop.weighted(1)).collect();
    for hops in [equal, several()] {
        let all = assignment(&hops);
        let total: u32 = hops.iter().map(|hop| u32::from(hop.weight.max(1))).sum();
        for lost in &hops {
            let left: Vec<NextHop> = hops.iter().filter(|hop| *hop != lost).copied().collect();
            let after = assignment(&left);
            let moved = all.iter().zip(&after).filter(|(before, after)| before != after).count();
            let needless =
                all.iter().zip(&after).filter(|(before, after)| before != after && *before != lost);
            assert_eq!(needless.count(), 0, "{lost:?}");
            let share = f64::from(lost.weight.max(1)) / f64::from(total);
            let expected = share * all.len() as f64;
            let deviation = (expected * (1.0 - share)).sqrt();
            println!(
                "{moved} of {} flows moved, {:.2} % for {:.2} %",
                all.len(),
                100.0 * moved as f64 / all.len() as f64,
                100.0 * share
            );
            assert!(
                (moved as f64 - expected).abs() < 5.0 * deviation,
                "{lost:?}: {moved}, expected {expected}"
            );
        }
    }
}

#[test]
fn a_change_of_weight_moves_flows_to_where_it_grew_only() {
    let before = assignment(&several());
    let mut heavier = several();
    heavier[1].weight = 6;
    for (old, new) in before.iter().zip(assignment(&heavier)) {
        assert!(old.gateway == new.gateway || new.gateway == heavier[1].gateway, "{old:?} to {new:?}");
    }
}

#[test]
fn order_and_repetition_do_not_matter() {
    let mut hops = several();
    hops.reverse();
    assert_eq!(NextHops::new(several()), NextHops::new(hops.clone()));
    let twice = [hops[0], hops[0], hops[1]];
    let merged = NextHops::new(twice).unwrap();
    assert_eq!(merged.iter().map(|hop| hop.weight).collect::<Vec<_>>(), [4, 2], "no weight counts as 1");
}

#[test]
fn what_we_send_ourselves() {
    let tables = tables();
    let origin = |port, next_hop, source, macs| {
        Some(Origin { port, next_hop: ip(next_hop), source_address: ip(source), macs })
    };
    for (name, destination, expected) in [
        ("a neighbour", "192.0.2.77", origin(LAN, "192.0.2.77", "192.0.2.1", Some((HOST_MAC, LAN_MAC)))),
        ("unresolved", "192.0.2.78", origin(LAN, "192.0.2.78", "192.0.2.1", None)),
        (
            "from the address in the gateway's network, not the first one",
            "8.8.8.8",
            origin(WAN, "203.0.113.1", "203.0.113.2", Some((GATEWAY_MAC, WAN_MAC))),
        ),
        (
            "from a global address, though the gateway is link-local",
            "2001:db8:b000::1",
            origin(WAN, "fe80::99", "2001:db8:2::2", Some((GATEWAY_MAC, WAN_MAC))),
        ),
        (
            "from another port's address, IPv4 by an IPv6 gateway",
            "198.51.100.1",
            origin(BARE, "fe80::9", "192.0.2.1", Some((SIX_MAC, BARE_MAC))),
        ),
        (
            "from another port's address, IPv6",
            "2001:db8:c000::1",
            origin(BARE, "fe80::9", "2001:db8:1::1", Some((SIX_MAC, BARE_MAC))),
        ),
        ("to ourselves", "192.0.2.1", None),
        ("blackhole", "10.0.0.1", None),
        ("throw", "10.3.0.1", None),
        ("not ours", "10.4.0.1", None),
        ("down", "10.5.0.1", None),
        ("no such port", "10.6.0.1", None),
        ("no route", "2001:db8:ffff::1", None),
        ("martian", "169.254.0.1", None),
        ("directed broadcast", "192.0.2.255", None),
    ] {
        assert_eq!(tables.originate(ip(destination)), expected, "{name}");
    }
}

#[test]
fn a_router_without_addresses_still_reports_ipv4_errors() {
    let ports = Ports::new(vec![Port {
        mac: BARE_MAC,
        mtu: 1500,
        up: true,
        addresses: vec![],
        settings: PortSettings::default(),
    }]);
    let routes = [("0.0.0.0/0", "192.0.2.9"), ("::/0", "fe80::9")];
    let route = |(to, by)| (prefix(to), Route::via(NextHop::gateway(PortId(0), ip(by))));
    let fib = Fib::fixed(routes.into_iter().map(route));
    let tables = Tables { ports: ports.into(), fib, ..Tables::default() };
    assert_eq!(tables.originate(ip("8.8.8.8")).unwrap().source_address, ip("192.0.0.8"));
    // For IPv6 there is no such address (RFC 7600 knows one for IPv4 only).
    assert_eq!(tables.originate(ip("2001:db8::1")), None);
}

#[test]
fn neighbours_are_told_apart_by_port_and_family() {
    let tables = tables();
    assert_eq!(tables.ethernet_to(WAN, ip("fe80::99")), Some((GATEWAY_MAC, WAN_MAC)));
    assert_eq!(tables.ethernet_to(LAN, ip("fe80::99")), None);
    assert_eq!(tables.ethernet_to(WAN, ip("fe80::98")), None);
    assert_eq!(tables.ethernet_to(PortId(99), ip("fe80::99")), None);
    assert_eq!(tables.ethernet_to(LAN, ip("::c000:24d")), None, "192.0.2.77, were it IPv6");
    assert_eq!(tables.neighbours.len(), 5);
}

#[test]
fn addresses_make_routes() {
    let own = |text, len| InterfaceAddress::new(ip(text), len).unwrap();
    let addresses =
        vec![own("192.0.2.1", 24), own("198.51.100.0", 31), own("203.0.113.9", 32), own("2001:db8::1", 64)];
    let ports = Ports::new(vec![Port {
        mac: LAN_MAC,
        mtu: 1500,
        up: true,
        addresses,
        settings: PortSettings::default(),
    }]);
    let fib = Fib::fixed(ports.connected_routes());
    let on_link = Route::via(NextHop::on_link(LAN));
    for (address, expected) in [
        ("192.0.2.1", Some(&Route::Local)),
        ("192.0.2.2", Some(&on_link)),
        ("192.0.2.255", Some(&Route::Broadcast)),
        ("192.0.3.0", None),
        ("198.51.100.0", Some(&Route::Local)),
        ("198.51.100.1", Some(&on_link)),
        ("203.0.113.9", Some(&Route::Local)),
        ("203.0.113.10", None),
        ("2001:db8::1", Some(&Route::Local)),
        ("2001:db8::ffff:ffff:ffff:ffff", Some(&on_link)),
        ("2001:db8:0:1::", None),
    ] {
        assert_eq!(fib.lookup(ip(address)).as_deref(), expected, "{address}");
    }
    assert!(InterfaceAddress::new(ip("192.0.2.1"), 33).is_err());
}
