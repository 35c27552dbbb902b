//! The mirror against a real kernel, one kind of change at a time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::net::IpAddr;
use std::time::Duration;

use common::{Namespace, namespace, until, until_true};
use throughway_kernel::model::table;
use throughway_kernel::{
    Address, AddressKey, NeighbourKey, NextHop, NexthopObject, NudState, OperState, Prefix, Route, RouteKey,
    RouteKind, RouteProtocol, Scope, State,
};

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(prefix: &str, metric: u32) -> RouteKey {
    let (network, len) = prefix.split_once('/').unwrap();
    let prefix = Prefix { address: address(network), len: len.parse().unwrap() };
    RouteKey { table: table::MAIN, prefix, source: None, tos: 0, metric }
}

fn via(gateway: &str, ifindex: u32) -> NextHop {
    NextHop::new(Some(address(gateway)), Some(ifindex))
}

fn hops(state: &State, key: RouteKey) -> Option<Vec<NextHop>> {
    match state.routes.get(&key) {
        None => None,
        Some([route]) => Some(route.next_hops.clone()),
        Some(several) => panic!("{several:?}"),
    }
}

/// Two ends of a cable, `a` with addresses and up; DAD is off so that IPv6 is usable at once.
fn with_cable() -> Option<Namespace> {
    let namespace = namespace()?;
    namespace.run(|| std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap());
    namespace.ip("link add va type veth peer name vb");
    namespace.ip("link set va up");
    namespace.ip("link set vb up");
    namespace.ip("address add 10.1.0.1/24 brd + dev va");
    namespace.ip("address add 2001:db8:1::1/64 dev va");
    Some(namespace)
}

#[test]
fn links_come_change_and_go() {
    let Some(namespace) = namespace() else { return };
    let mut mirror = namespace.mirror();
    assert_eq!(mirror.state().links.len(), 1);
    assert!(mirror.state().links[&1].loopback);

    namespace.ip("link add va numrxqueues 4 numtxqueues 3 address 02:00:00:00:00:0a type veth peer name vb");
    until(&mut mirror, "both ends", |state| state.links.len() == 3);
    let (a, b) = (namespace.index("va"), namespace.index("vb"));
    let link = mirror.state().link_named("va").unwrap().clone();
    assert_eq!((link.index, link.parent), (a, Some(b)));
    assert_eq!(link.mac, Some([2, 0, 0, 0, 0, 10]));
    assert_eq!(link.kind.as_deref(), Some("veth"));
    assert_eq!((link.rx_queues, link.tx_queues, link.mtu), (4, 3, 1500));
    assert!(!link.admin_up && !link.carrier && !link.usable());

    namespace.ip("link set va up");
    until(&mut mirror, "a wanted up", |state| state.links[&a].admin_up);
    assert!(!mirror.state().links[&a].usable());
    namespace.ip("link set vb up");
    until(&mut mirror, "carrier", |state| state.links[&a].usable() && state.links[&b].usable());
    assert_eq!(mirror.state().links[&a].oper_state, OperState::Up);

    namespace.ip("link set va mtu 3000");
    let changes = until(&mut mirror, "mtu", |state| state.links[&a].mtu == 3000);
    assert!(changes.links.contains(&a));
    namespace.ip("link set vb down");
    until(&mut mirror, "no carrier", |state| !state.links[&a].carrier);
    assert!(mirror.state().links[&a].admin_up);

    namespace.ip("link add bridge0 type bridge");
    namespace.ip("link set va master bridge0");
    until(&mut mirror, "master", |state| state.links[&a].master.is_some());
    namespace.ip("link set va nomaster");
    // A bridge announces the end of membership as the deletion of a port with the same index.
    until(&mut mirror, "no master", |state| state.links.get(&a).is_some_and(|link| link.master.is_none()));

    namespace.ip("link set va name renamed");
    until(&mut mirror, "name", |state| state.links[&a].name == "renamed");
    namespace.ip("link delete renamed");
    until(&mut mirror, "deletion", |state| !state.links.contains_key(&a) && !state.links.contains_key(&b));
    until_true(&mut mirror, &namespace);
}

#[test]
fn addresses_of_both_families() {
    let Some(namespace) = with_cable() else { return };
    let a = namespace.index("va");
    let mut mirror = namespace.mirror();
    let v4 = AddressKey { ifindex: a, address: address("10.1.0.1"), prefix_len: 24, peer: None };
    let v6 = AddressKey { ifindex: a, address: address("2001:db8:1::1"), prefix_len: 64, peer: None };
    let expected =
        Address { scope: Scope::UNIVERSE, broadcast: Some([10, 1, 0, 255].into()), tentative: false };
    assert_eq!(mirror.state().addresses.get(&v4), Some(&expected));
    until(&mut mirror, "IPv6", |state| state.addresses.get(&v6).is_some_and(|address| !address.tentative));
    let link_local =
        mirror.state().addresses_of(a).find(|(_, address)| address.scope == Scope::LINK).unwrap();
    assert!(link_local.0.address.to_string().starts_with("fe80:"));

    namespace.ip("address add 10.9.0.1 peer 10.9.0.2/32 dev va");
    namespace.ip("address add 10.9.0.1 peer 10.9.0.3/32 dev va");
    let peer = |peer: &str| AddressKey {
        ifindex: a,
        address: address("10.9.0.1"),
        prefix_len: 32,
        peer: Some(address(peer)),
    };
    until(&mut mirror, "two peers", |state| {
        state.addresses.contains_key(&peer("10.9.0.2")) && state.addresses.contains_key(&peer("10.9.0.3"))
    });
    namespace.ip("address delete 10.9.0.1 peer 10.9.0.2/32 dev va");
    let changes = until(&mut mirror, "one peer", |state| !state.addresses.contains_key(&peer("10.9.0.2")));
    assert!(changes.addresses.contains(&peer("10.9.0.2")));
    assert!(mirror.state().addresses.contains_key(&peer("10.9.0.3")));

    namespace.ip("address flush dev va");
    until(&mut mirror, "none", |state| state.addresses_of(a).next().is_none());
    until_true(&mut mirror, &namespace);
}

#[test]
fn ipv4_routes_are_added_replaced_and_deleted() {
    let Some(namespace) = with_cable() else { return };
    let a = namespace.index("va");
    let mut mirror = namespace.mirror();
    let connected = mirror.state().routes[&key("10.1.0.0/24", 0)][0].clone();
    let expected = Route {
        scope: Scope::LINK,
        protocol: RouteProtocol::KERNEL,
        preferred_source: Some(address("10.1.0.1")),
        next_hops: vec![NextHop::new(None, Some(a))],
        ..Route::default()
    };
    assert_eq!(*connected, expected);
    let local = RouteKey { table: table::LOCAL, ..key("10.1.0.1/32", 0) };
    assert_eq!(mirror.state().routes[&local][0].kind, RouteKind::Local);
    let broadcast = RouteKey { table: table::LOCAL, ..key("10.1.0.255/32", 0) };
    assert_eq!(mirror.state().routes[&broadcast][0].kind, RouteKind::Broadcast);

    let default = key("0.0.0.0/0", 7);
    namespace.ip("route add default via 10.1.0.254 metric 7 proto 186 mtu 1400");
    let changes = until(&mut mirror, "default", |state| state.routes.contains_key(&default));
    assert!(changes.routes.contains(&default));
    let route = &mirror.state().routes[&default][0];
    assert_eq!((route.protocol, route.mtu), (RouteProtocol::BGP, Some(1400)));
    assert_eq!(route.next_hops, [via("10.1.0.254", a)]);

    namespace.ip("route replace default via 10.1.0.253 metric 7");
    until(&mut mirror, "replaced", |state| hops(state, default) == Some(vec![via("10.1.0.253", a)]));
    namespace.ip(
        "route replace default metric 7 nexthop via 10.1.0.252 weight 3 nexthop via 192.0.2.1 dev va onlink",
    );
    let heavy = NextHop { weight: 3, ..via("10.1.0.252", a) };
    let onlink = NextHop { onlink: true, ..via("192.0.2.1", a) };
    until(&mut mirror, "multipath", |state| hops(state, default) == Some(vec![heavy, onlink]));

    // RFC 8950: the gateway of an IPv4 route is an IPv6 address.
    namespace.ip("route add 198.51.100.0/24 via inet6 fe80::1 dev va");
    let through_v6 = key("198.51.100.0/24", 0);
    until(&mut mirror, "IPv6 gateway", |state| hops(state, through_v6) == Some(vec![via("fe80::1", a)]));

    for (word, kind) in [
        ("blackhole", RouteKind::Blackhole),
        ("unreachable", RouteKind::Unreachable),
        ("prohibit", RouteKind::Prohibit),
        ("throw", RouteKind::Throw),
    ] {
        namespace.ip(&format!("route replace {word} 203.0.113.0/24 table 1000"));
        let slot = RouteKey { table: 1000, ..key("203.0.113.0/24", 0) };
        until(&mut mirror, word, |state| {
            state.routes.get(&slot).is_some_and(|routes| routes[0].kind == kind)
        });
        assert_eq!(mirror.state().routes_of(1000).count(), 1);
        assert!(mirror.state().routes[&slot][0].next_hops.is_empty());
    }

    // Equal slots keep the kernel's order.
    namespace.ip("route add 10.5.0.0/16 via 10.1.0.2");
    namespace.ip("route append 10.5.0.0/16 via 10.1.0.3");
    namespace.ip("route prepend 10.5.0.0/16 via 10.1.0.4");
    let gateways = |state: &State| -> Vec<String> {
        let routes = state.routes.get(&key("10.5.0.0/16", 0)).unwrap_or_default();
        routes.iter().map(|route| route.next_hops[0].gateway.unwrap().to_string()).collect()
    };
    until(&mut mirror, "order", |state| gateways(state) == ["10.1.0.4", "10.1.0.2", "10.1.0.3"]);
    namespace.ip("route del 10.5.0.0/16 via 10.1.0.2");
    until(&mut mirror, "middle gone", |state| gateways(state) == ["10.1.0.4", "10.1.0.3"]);

    namespace.ip("route del default metric 7");
    let changes = until(&mut mirror, "deleted", |state| !state.routes.contains_key(&default));
    assert!(changes.routes.contains(&default));
    until_true(&mut mirror, &namespace);
    assert_eq!((mirror.stats().undecodable, mirror.stats().resyncs), (0, 0));
}

#[test]
fn ipv6_multipath_grows_and_shrinks() {
    let Some(namespace) = with_cable() else { return };
    let (a, b) = (namespace.index("va"), namespace.index("vb"));
    let mut mirror = namespace.mirror();
    let prefix = key("2001:db8:ff::/48", 1024);
    let is = |hops_: &[NextHop]| {
        let wanted = hops_.to_vec();
        move |state: &State| hops(state, prefix) == Some(wanted.clone())
    };
    let way = |last: u8| via(&format!("2001:db8:1::{last}"), a);

    namespace.ip("-6 route add 2001:db8:ff::/48 via 2001:db8:1::2");
    until(&mut mirror, "one way", is(&[way(2)]));
    namespace.ip("-6 route append 2001:db8:ff::/48 via 2001:db8:1::3");
    until(&mut mirror, "two ways", is(&[way(2), way(3)]));
    namespace.ip("-6 route append 2001:db8:ff::/48 nexthop via 2001:db8:1::4 nexthop via 2001:db8:1::5");
    until(&mut mirror, "four ways", is(&[way(2), way(3), way(4), way(5)]));
    namespace.ip("-6 route del 2001:db8:ff::/48 via 2001:db8:1::4");
    until(&mut mirror, "three ways", is(&[way(2), way(3), way(5)]));
    namespace
        .ip("-6 route replace 2001:db8:ff::/48 nexthop via 2001:db8:1::6 weight 2 nexthop via 2001:db8:1::7");
    until(&mut mirror, "replaced", is(&[NextHop { weight: 2, ..way(6) }, way(7)]));
    namespace.ip("-6 route del 2001:db8:ff::/48");
    until(&mut mirror, "deleted", |state| !state.routes.contains_key(&prefix));

    // One link-local prefix for each interface, in one slot.
    let shared = &mirror.state().routes[&key("fe80::/64", 256)];
    let mut interfaces: Vec<_> = shared.iter().map(|route| route.next_hops[0].ifindex.unwrap()).collect();
    interfaces.sort_unstable();
    let mut both = [a, b];
    both.sort_unstable();
    assert_eq!(interfaces, both);

    namespace.ip("-6 route add unreachable 2001:db8:ee::/48");
    let rejecting = key("2001:db8:ee::/48", 1024);
    until(&mut mirror, "unreachable", |state| state.routes.contains_key(&rejecting));
    assert_eq!(mirror.state().routes[&rejecting][0].kind, RouteKind::Unreachable);
    assert!(mirror.state().routes[&rejecting][0].next_hops.is_empty());
    until_true(&mut mirror, &namespace);
    assert_eq!(mirror.stats().undecodable, 0);
}

#[test]
fn routes_that_vanish_silently_are_noticed() {
    let Some(namespace) = with_cable() else { return };
    let (a, b) = (namespace.index("va"), namespace.index("vb"));
    namespace.ip("address add 10.2.0.1/24 dev vb");
    namespace.ip("route add 10.5.0.0/16 via 10.1.0.2");
    namespace.ip("route add 10.6.0.0/16 nexthop via 10.1.0.2 nexthop via 10.2.0.2");
    namespace.ip("route add 10.7.0.0/16 via 10.2.0.2 src 10.1.0.1");
    let mut mirror = namespace.mirror();
    let (single, multi, sourced) = (key("10.5.0.0/16", 0), key("10.6.0.0/16", 0), key("10.7.0.0/16", 0));
    assert!(mirror.state().routes.contains_key(&single));

    // No RTM_DELROUTE is sent for 10.5.0.0/16, no RTM_NEWROUTE for 10.6.0.0/16.
    namespace.ip("link set va down");
    let changes = until(&mut mirror, "route gone", |state| !state.routes.contains_key(&single));
    assert!(changes.routes.contains(&single) && changes.routes.contains(&multi));
    let ways = hops(mirror.state(), multi).unwrap();
    assert!(ways.iter().any(|hop| hop.ifindex == Some(a) && hop.dead), "{ways:?}");
    assert!(ways.iter().any(|hop| hop.ifindex == Some(b) && !hop.dead), "{ways:?}");
    until_true(&mut mirror, &namespace);

    namespace.ip("link set va up");
    until(&mut mirror, "alive again", |state| {
        hops(state, multi).is_some_and(|ways| ways.iter().all(|hop| !hop.dead))
    });
    // A route over the other interface loses its source address and goes with it.
    namespace.ip("address del 10.1.0.1/24 dev va");
    until(&mut mirror, "source gone", |state| !state.routes.contains_key(&sourced));
    until_true(&mut mirror, &namespace);
    namespace.ip("link delete va");
    until(&mut mirror, "all gone", |state| !state.routes.contains_key(&multi));
    until_true(&mut mirror, &namespace);
}

#[test]
fn nexthop_objects_lead_their_routes() {
    let Some(namespace) = with_cable() else { return };
    let a = namespace.index("va");
    let mut mirror = namespace.mirror();
    let prefix = key("10.5.0.0/16", 0);
    let is = |hops_: &[NextHop]| {
        let wanted = hops_.to_vec();
        move |state: &State| hops(state, prefix) == Some(wanted.clone())
    };
    namespace.ip("nexthop add id 1 via 10.1.0.2 dev va");
    namespace.ip("nexthop add id 2 via 10.1.0.3 dev va");
    namespace.ip("nexthop add id 10 group 1,5/2");
    namespace.ip("route add 10.5.0.0/16 nhid 10");
    let heavy = NextHop { weight: 5, ..via("10.1.0.2", a) };
    until(&mut mirror, "group", is(&[heavy, via("10.1.0.3", a)]));
    assert_eq!(mirror.state().nexthops[&10], NexthopObject::Group(vec![(1, 5), (2, 1)]));
    assert_eq!(mirror.state().routes[&prefix][0].nexthop_id, Some(10));

    namespace.ip("nexthop replace id 2 via 10.1.0.9 dev va");
    let changes = until(&mut mirror, "member replaced", is(&[heavy, via("10.1.0.9", a)]));
    assert!(changes.routes.contains(&prefix) && changes.nexthops.contains(&2));
    // A group that shrinks is announced, its routes are not.
    namespace.ip("nexthop del id 2");
    until(&mut mirror, "member gone", is(&[heavy]));
    until_true(&mut mirror, &namespace);
    namespace.ip("nexthop del id 10");
    until(&mut mirror, "group gone", |state| !state.routes.contains_key(&prefix));
    namespace.ip("nexthop add id 3 blackhole");
    namespace.ip("route add 10.5.0.0/16 nhid 3");
    until(&mut mirror, "blackhole", |state| {
        state.routes.get(&prefix).is_some_and(|routes| routes[0].kind == RouteKind::Blackhole)
    });
    // The kernel may be told not to spell next hops out.
    namespace.run(|| std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", "0").unwrap());
    namespace.ip("route replace 10.5.0.0/16 nhid 1");
    until(&mut mirror, "unspelt", is(&[via("10.1.0.2", a)]));
    until_true(&mut mirror, &namespace);
    // Neither the object nor its route is announced when the link goes.
    namespace.ip("link set va down");
    until(&mut mirror, "gone with its link", |state| {
        !state.routes.contains_key(&prefix) && !state.nexthops.contains_key(&1)
    });
    until_true(&mut mirror, &namespace);
}

#[test]
fn neighbours_set_by_hand() {
    let Some(namespace) = with_cable() else { return };
    let a = namespace.index("va");
    let mut mirror = namespace.mirror();
    for (text, mac) in [("10.1.0.7", [2, 0, 0, 0, 0, 7]), ("2001:db8:1::7", [2, 0, 0, 0, 6, 7])] {
        let key = NeighbourKey { ifindex: a, address: address(text) };
        let lladdr = mac.map(|byte| format!("{byte:02x}")).join(":");
        namespace.ip(&format!("neighbour add {text} lladdr {lladdr} dev va"));
        let changes = until(&mut mirror, text, |state| state.neighbours.contains_key(&key));
        assert!(changes.neighbours.contains(&key));
        let neighbour = mirror.state().neighbour(a, address(text)).unwrap();
        assert_eq!((neighbour.mac, neighbour.state), (Some(mac), NudState::Permanent));
        assert!(neighbour.state.usable());
        namespace.ip(&format!("neighbour del {text} dev va"));
        until(&mut mirror, "deletion", |state| !state.neighbours.contains_key(&key));
    }
    namespace.ip("neighbour add proxy 10.1.0.8 dev va");
    namespace.ip("neighbour add 10.1.0.9 lladdr 02:00:00:00:00:09 dev va");
    until(&mut mirror, "the one behind", |state| state.neighbour(a, address("10.1.0.9")).is_some());
    assert!(mirror.state().neighbour(a, address("10.1.0.8")).is_none());
    until_true(&mut mirror, &namespace);
}

#[test]
fn silence_is_waited_for_and_told() {
    let Some(namespace) = namespace() else { return };
    let mut mirror = namespace.mirror();
    until_true(&mut mirror, &namespace);
    let begin = std::time::Instant::now();
    let changes = mirror.wait(Duration::from_millis(120)).unwrap();
    assert!(changes.is_empty() && !changes.overrun);
    assert!(begin.elapsed() >= Duration::from_millis(120));
}
