//! Whatever is done to the kernel, the mirror ends up as a fresh reading.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::fmt::Write as _;
use std::time::Duration;

use common::{comparable, namespace, until_true};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use throughway_kernel::{Mirror, Options, model::table};

#[test]
fn a_flood_beyond_the_receive_buffer_costs_nothing_but_time() {
    let Some(namespace) = namespace() else { return };
    namespace.ip("link add va type veth peer name vb");
    namespace.ip("link set va up");
    namespace.ip("address add 10.1.0.1/24 dev va");
    namespace.ip("address add 2001:db8:1::1/64 dev va nodad");
    let options = Options { receive_buffer: 8 << 10 };
    let mut mirror = namespace.run(move || Mirror::open_with(options)).unwrap();
    let before = mirror.state().routes_of(table::MAIN).count();
    let mut lines = String::new();
    for i in 0..10_000 {
        writeln!(lines, "route add 10.{}.{}.0/24 via 10.1.0.2", 16 + i / 256, i % 256).unwrap();
        writeln!(lines, "route add 2001:db8:{i:x}:8000::/49 via 2001:db8:1::2").unwrap();
    }
    namespace.batch(lines, false);
    let mut overrun = false;
    while mirror.state().routes_of(table::MAIN).count() < before + 20_000 {
        let changes = mirror.wait(Duration::from_secs(2)).unwrap();
        assert!(!changes.is_empty() || changes.overrun, "stuck at {:?}", mirror.stats());
        // Complete even then: what the sets name is what is different.
        if changes.overrun {
            overrun = true;
            assert!(changes.routes.len() > 5_000);
        }
    }
    assert!(overrun && mirror.stats().overruns > 0, "{:?}", mirror.stats());
    until_true(&mut mirror, &namespace);

    // With a proper buffer the same is followed step by step.
    let mut mirror = namespace.mirror();
    namespace.batch(
        (0..10_000).map(|i| format!("route del 10.{}.{}.0/24\n", 16 + i / 256, i % 256)).collect(),
        false,
    );
    let mut deleted = 0;
    while deleted < 10_000 {
        let changes = mirror.wait(Duration::from_secs(2)).unwrap();
        assert!(!changes.routes.is_empty(), "stuck at {deleted}");
        deleted += changes.routes.len();
    }
    assert_eq!(mirror.stats().overruns, 0);
    until_true(&mut mirror, &namespace);
}

/// One line for `ip -batch`; many of them fail, as they do for people.
fn operation() -> impl Strategy<Value = String> {
    let device = || prop_oneof![Just("va"), Just("vb")];
    let gateway4 = || (1..3u8, 2..6u8).prop_map(|(net, host)| format!("10.{net}.0.{host}"));
    let gateway6 = || (1..3u8, 2..6u8).prop_map(|(net, host)| format!("2001:db8:{net}::{host}"));
    let verb = || prop_oneof![4 => Just("add"), 2 => Just("append"), 2 => Just("replace"), 1 => Just("prepend"), 3 => Just("del")];
    let place = || {
        (0..3u8, 0..2u32).prop_map(|(metric, far)| {
            let metric = if metric == 0 { String::new() } else { format!(" metric {metric}") };
            let table = if far == 1 { " table 1000" } else { "" };
            format!("{metric}{table}")
        })
    };
    let way4 = prop_oneof![
        4 => gateway4().prop_map(|gateway| format!("via {gateway}")),
        1 => device().prop_map(|device| format!("dev {device}")),
        2 => (gateway4(), gateway4(), 1..4u8).prop_map(|(a, b, weight)| format!(
            "nexthop via {a} weight {weight} nexthop via {b}"
        )),
        1 => (gateway4(), 1..3u8).prop_map(|(gateway, net)| format!("via {gateway} src 10.{net}.0.1")),
        1 => (1..6u8).prop_map(|id| format!("nhid {id}")),
    ];
    let way6 = prop_oneof![
        4 => gateway6().prop_map(|gateway| format!("via {gateway}")),
        1 => device().prop_map(|device| format!("dev {device}")),
        2 => (gateway6(), gateway6(), 1..4u8).prop_map(|(a, b, weight)| format!(
            "nexthop via {a} weight {weight} nexthop via {b}"
        )),
        1 => (1..6u8).prop_map(|id| format!("nhid {id}")),
    ];
    let up = || prop_oneof![Just("up"), Just("down")];
    let add = || prop_oneof![Just("add"), Just("del")];
    prop_oneof![
        8 => (verb(), 0..4u8, way4, place())
            .prop_map(|(verb, net, way, place)| format!("route {verb} 10.10{net}.0.0/16{place} {way}")),
        8 => (verb(), 0..4u8, way6, place())
            .prop_map(|(verb, net, way, place)| format!("route {verb} 2001:db8:10{net}::/48{place} {way}")),
        1 => (verb(), 0..4u8, place())
            .prop_map(|(verb, net, place)| format!("route {verb} blackhole 10.10{net}.0.0/16{place}")),
        1 => (verb(), 0..4u8, place())
            .prop_map(|(verb, net, place)| format!("route {verb} unreachable 2001:db8:10{net}::/48{place}")),
        3 => (add(), 1..3u8, 1..4u8, device())
            .prop_map(|(verb, net, host, device)| format!("address {verb} 10.{net}.0.{host}/24 dev {device}")),
        3 => (add(), 1..3u8, 1..4u8, device())
            .prop_map(|(verb, net, host, device)| format!("address {verb} 2001:db8:{net}::{host}/64 dev {device}")),
        3 => (device(), up()).prop_map(|(device, up)| format!("link set {device} {up}")),
        1 => (device(), 1280..3000u32).prop_map(|(device, mtu)| format!("link set {device} mtu {mtu}")),
        2 => (prop_oneof![Just("add"), Just("replace"), Just("del")], device(), gateway4(), 0..10u8)
            .prop_map(|(verb, device, address, mac)| format!(
                "neighbour {verb} {address} lladdr 02:00:00:00:00:0{mac} dev {device} nud permanent"
            )),
        3 => (prop_oneof![Just("add"), Just("replace"), Just("del")], 1..4u8, gateway4(), device()).prop_map(
            |(verb, id, gateway, device)| if verb == "del" {
                format!("nexthop del id {id}")
            } else {
                format!("nexthop {verb} id {id} via {gateway} dev {device}")
            }
        ),
        1 => (1..4u8, 1..4u8, 2..9u8).prop_map(|(a, b, weight)| format!("nexthop replace id 5 group {a},{weight}/{b}")),
        1 => prop_oneof![
            Just("nexthop del id 5".to_owned()),
            Just("link delete va".to_owned()),
            Just("link add va type veth peer name vb".to_owned()),
        ],
    ]
}

#[test]
fn any_sequence_of_changes_is_followed() {
    if namespace().is_none() {
        return;
    }
    // More by PROPTEST_CASES.
    let defaults = Config::default();
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { defaults.cases } else { 40 };
    let config = Config { cases, max_shrink_iters: 30, failure_persistence: None, ..defaults };
    let steps = prop::collection::vec(prop::collection::vec(operation(), 1..25), 1..8);
    TestRunner::new(config)
        .run(&(steps, any::<bool>()), |(steps, small)| {
            let namespace = namespace().unwrap();
            namespace.run(|| std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap());
            namespace.batch(
                "link add va type veth peer name vb\nlink set va up\nlink set vb up\n\
                 address add 10.1.0.1/24 dev va\naddress add 10.2.0.1/24 dev vb\n\
                 address add 2001:db8:1::1/64 dev va\naddress add 2001:db8:2::1/64 dev vb\n\
                 nexthop add id 1 via 10.1.0.2 dev va\nnexthop add id 2 via 10.2.0.2 dev vb\n\
                 nexthop add id 5 group 1/2\n"
                    .to_owned(),
                false,
            );
            let options = Options { receive_buffer: if small { 8 << 10 } else { 1 << 20 } };
            let mut mirror = namespace.run(move || Mirror::open_with(options)).unwrap();
            for step in steps {
                let before = comparable(mirror.state());
                namespace.batch(step.join("\n") + "\n", true);
                let changes = mirror.wait(Duration::from_millis(1)).unwrap();
                let after = comparable(mirror.state());
                // What differs is named, what is not named does not differ.
                for (key, slot) in after.routes.iter().chain(before.routes.iter()) {
                    let same = before.routes.get(key) == after.routes.get(key);
                    prop_assert!(same || changes.routes.contains(key), "{key:?} {slot:?}");
                }
            }
            until_true(&mut mirror, &namespace);
            prop_assert_eq!(mirror.stats().undecodable, 0);
            Ok(())
        })
        .unwrap();
}
