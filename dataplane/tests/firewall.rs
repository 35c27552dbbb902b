//! Every condition and action that a firewall's rules can be written with: text of the file, then packets and what becomes of them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::facts;
use std::sync::Arc;

use throughway::assemble::state::States;
use throughway::assemble::{Blueprint, Figures};
use throughway::chain::Program;
use throughway::explain::{self, Explanation};
use throughway_config::Config;
use throughway_packet::PortId;
use throughway_vnf::{Context, Now};

/// A program, its configuration, and the time.
struct Edge {
    program: Program,
    config: Config,
    now: Now,
}

impl Edge {
    /// A firewall in front of a router, for all three interfaces and some VLANs of the first; `body` is what the firewall says.
    fn new(body: &str) -> Edge {
        let vlans = [7, 8, 199, 200];
        let names: String = vlans.iter().map(|id| format!(", v{id}")).collect();
        let vlan = |id| format!(", v{id}: {{ device: lan0, vlan: {id}, addresses: 10.9.{id}.1/24 }}");
        let vlans: String = vlans.iter().map(vlan).collect();
        let text = format!(
            "interfaces: {{ lan: {{ device: lan0 }}, wan: {{ device: wan0 }}, dmz: {{ device: dmz0 }}{vlans} }}\n\
             functions:\n  edge:\n    firewall:\n{body}\n  core: {{ router: {{}} }}\n\
             chains: {{ all: {{ from: [lan, wan, dmz{names}], run: [edge, core] }} }}\n"
        );
        let (config, _) =
            Config::parse("test.yaml", &text).unwrap_or_else(|error| panic!("{text}\n{error:?}"));
        let program = Blueprint::new(&config, &facts(), &States::new(0, Arc::default()))
            .unwrap()
            .program(0, &mut Figures::default());
        Edge { program, config, now: Now(1_000_000_000) }
    }

    /// One rule, written as a flow mapping; what it does not decide is dropped by default.
    fn rule(rule: &str) -> Edge {
        Edge::new(&format!(
            "      default: drop\n      sets: {{ near: [10.1.0.0/24, 10.1.9.4-10.1.9.6, 'fd00:1::/64'], web: [80, 8000-8010] }}\n      rules:\n        - {rule}\n        - {{ drop: {{ source: '@near', protocol: tcp, from-port: 65000, to-port: '@web' }}, name: unused-sets }}"
        ))
    }

    fn explain(&mut self, packet: &str) -> Explanation {
        let written = explain::packet::read(packet).unwrap_or_else(|error| panic!("{packet}: {error}"));
        let port = self.config.interfaces.iter().position(|port| *port.name == *written.interface).unwrap();
        let context = Context { now: self.now };
        explain::explain(&mut self.program, &self.config, PortId(port as u16), &written.frame, &context)
    }

    fn verdict(&mut self, packet: &str) -> String {
        self.explain(packet).verdict
    }

    /// Whether the firewall lets it pass; what the router then says is its own.
    fn passes(&mut self, packet: &str) -> bool {
        let told = self.explain(packet);
        told.steps.iter().any(|step| step.kind == "router")
    }
}

const TO: &str = "> 10.2.0.10:80";

/// For each condition: packets for which it holds, and packets for which it does not.
const CONDITIONS: &[(&str, &[&str], &[&str])] = &[
    (
        "{}",
        &["lan udp 10.1.0.9:1 > 10.2.0.10:2", "wan tcp [fd00:2::9]:1 > [fd00:1::10]:1 syn"],
        &["lan tcp 10.1.0.9:1 > 10.2.0.10:80 ack"],
    ),
    ("{ from: lan }", &["lan udp 10.1.0.9:1 > 10.2.0.10:2"], &["wan udp 10.1.0.9:1 > 10.2.0.10:2"]),
    (
        "{ from: { not: [lan, dmz] } }",
        &["wan udp 10.1.0.9:1 > 10.2.0.10:2"],
        &["lan udp 10.1.0.9:1 > 10.2.0.10:2", "dmz udp 10.1.0.9:1 > 10.2.0.10:2"],
    ),
    // The firewall stands before the router: no packet has an egress yet.
    ("{ to: wan }", &[], &["lan udp 10.1.0.9:1 > 10.2.0.10:2"]),
    (
        "{ source: 10.1.0.9 }",
        &["lan udp 10.1.0.9:1 > 10.2.0.10:2"],
        &["lan udp 10.1.0.8:1 > 10.2.0.10:2", "lan udp 10.1.0.10:1 > 10.2.0.10:2"],
    ),
    (
        "{ source: [10.1.0.0/30, 10.1.1.7-10.1.1.9] }",
        &[
            "lan udp 10.1.0.0:1 > 10.2.0.10:2",
            "lan udp 10.1.0.3:1 > 10.2.0.10:2",
            "lan udp 10.1.1.7:1 > 10.2.0.10:2",
            "lan udp 10.1.1.9:1 > 10.2.0.10:2",
        ],
        &[
            "lan udp 10.0.255.255:1 > 10.2.0.10:2",
            "lan udp 10.1.0.4:1 > 10.2.0.10:2",
            "lan udp 10.1.1.6:1 > 10.2.0.10:2",
            "lan udp 10.1.1.10:1 > 10.2.0.10:2",
        ],
    ),
    (
        "{ source: '@near' }",
        &[
            "lan udp 10.1.0.255:1 > 10.2.0.10:2",
            "lan udp 10.1.9.6:1 > 10.2.0.10:2",
            "lan udp [fd00:1::1]:1 > [fd00:2::1]:2",
        ],
        &[
            "lan udp 10.1.1.0:1 > 10.2.0.10:2",
            "lan udp 10.1.9.7:1 > 10.2.0.10:2",
            "lan udp [fd00:1:0:1::1]:1 > [fd00:2::1]:2",
        ],
    ),
    (
        "{ source: { not: '@near' } }",
        &["lan udp 10.1.1.0:1 > 10.2.0.10:2", "lan udp [fd00:3::1]:1 > [fd00:2::1]:2"],
        &["lan udp 10.1.0.1:1 > 10.2.0.10:2"],
    ),
    (
        "{ destination: { not: 10.2.0.10 } }",
        &["lan udp 10.1.0.1:1 > 10.2.0.11:2", "lan udp [fd00:3::1]:1 > [fd00:2::1]:2"],
        &["lan udp 10.1.0.1:1 > 10.2.0.10:2"],
    ),
    (
        "{ destination: 'fd00:2::/127' }",
        &["lan udp [fd00:1::1]:1 > [fd00:2::1]:2"],
        &["lan udp [fd00:1::1]:1 > [fd00:2::2]:2", "lan udp 10.1.0.1:1 > 10.2.0.10:2"],
    ),
    ("{ family: ipv6 }", &["lan udp [fd00:1::1]:1 > [fd00:2::1]:2"], &["lan udp 10.1.0.1:1 > 10.2.0.10:2"]),
    (
        "{ protocol: [udp, gre] }",
        &["lan udp 10.1.0.1:1 > 10.2.0.10:2", "lan gre 10.1.0.1 > 10.2.0.10"],
        &["lan tcp 10.1.0.1:1 > 10.2.0.10:2 syn", "lan esp 10.1.0.1 > 10.2.0.10"],
    ),
    ("{ protocol: { not: udp } }", &["lan gre 10.1.0.1 > 10.2.0.10"], &["lan udp 10.1.0.1:1 > 10.2.0.10:2"]),
    (
        "{ protocol: tcp, to-port: [22, 80-82] }",
        &[
            "lan tcp 10.1.0.1:1 > 10.2.0.10:22 syn",
            "lan tcp 10.1.0.1:1 > 10.2.0.10:80 syn",
            "lan tcp 10.1.0.1:1 > 10.2.0.10:82 syn",
        ],
        &[
            "lan tcp 10.1.0.1:1 > 10.2.0.10:79 syn",
            "lan tcp 10.1.0.1:1 > 10.2.0.10:83 syn",
            "lan udp 10.1.0.1:1 > 10.2.0.10:80",
        ],
    ),
    (
        "{ protocol: udp, to-port: '@web' }",
        &["lan udp 10.1.0.1:1 > 10.2.0.10:8010"],
        &["lan udp 10.1.0.1:1 > 10.2.0.10:8011"],
    ),
    (
        "{ protocol: udp, from-port: { not: [1-1023] } }",
        &["lan udp 10.1.0.1:1024 > 10.2.0.10:1"],
        &["lan udp 10.1.0.1:1023 > 10.2.0.10:1", "lan gre 10.1.0.1 > 10.2.0.10"],
    ),
    (
        "{ tcp-flags: { set: [syn], clear: [ece] } }",
        &["lan tcp 10.1.0.1:1 > 10.2.0.10:80 syn"],
        &["lan udp 10.1.0.1:1 > 10.2.0.10:80"],
    ),
    ("{ tcp-flags: { clear: [syn] } }", &[], &["lan tcp 10.1.0.1:1 > 10.2.0.10:80 syn"]),
    (
        "{ tcp-flags: { set: [fin, psh, urg] }, state: invalid }",
        &["lan tcp 10.1.0.1:1 > 10.2.0.10:80 fin psh urg"],
        &["lan tcp 10.1.0.1:1 > 10.2.0.10:80 fin psh", "lan tcp 10.1.0.1:1 > 10.2.0.10:80 syn"],
    ),
    (
        "{ icmp: echo-request }",
        &["lan icmp 10.1.0.1 > 10.2.0.10 echo-request"],
        &["lan icmp 10.1.0.1 > 10.2.0.10 type 13", "lan icmpv6 fd00:1::1 > fd00:2::1 echo-request"],
    ),
    (
        "{ icmpv6: [echo-request] }",
        &["lan icmpv6 fd00:1::1 > fd00:2::1 echo-request"],
        &["lan icmp 10.1.0.1 > 10.2.0.10 echo-request"],
    ),
    (
        "{ icmp: [3/4], state: invalid }",
        &["lan icmp 10.1.0.1 > 10.2.0.10 type 3 code 4"],
        &["lan icmp 10.1.0.1 > 10.2.0.10 type 3 code 3"],
    ),
    (
        "{ dscp: [ef, 10] }",
        &["lan udp 10.1.0.1:1 > 10.2.0.10:2 dscp ef", "lan udp 10.1.0.1:1 > 10.2.0.10:2 dscp af11"],
        &["lan udp 10.1.0.1:1 > 10.2.0.10:2"],
    ),
    (
        "{ dscp: { not: ef } }",
        &["lan udp 10.1.0.1:1 > 10.2.0.10:2"],
        &["lan udp 10.1.0.1:1 > 10.2.0.10:2 dscp ef"],
    ),
    (
        "{ length: [100-200, 300, 1000-65535] }",
        &[
            "lan udp 10.1.0.1:1 > 10.2.0.10:2 length 100",
            "lan udp 10.1.0.1:1 > 10.2.0.10:2 length 200",
            "lan udp 10.1.0.1:1 > 10.2.0.10:2 length 300",
            "lan udp 10.1.0.1:1 > 10.2.0.10:2 length 1000",
        ],
        &[
            "lan udp 10.1.0.1:1 > 10.2.0.10:2 length 99",
            "lan udp 10.1.0.1:1 > 10.2.0.10:2 length 201",
            "lan udp 10.1.0.1:1 > 10.2.0.10:2 length 299",
            "lan udp 10.1.0.1:1 > 10.2.0.10:2 length 301",
            "lan udp 10.1.0.1:1 > 10.2.0.10:2 length 999",
        ],
    ),
    (
        "{ length: { not: 100-200 } }",
        &["lan udp 10.1.0.1:1 > 10.2.0.10:2 length 99", "lan udp 10.1.0.1:1 > 10.2.0.10:2 length 201"],
        &["lan udp 10.1.0.1:1 > 10.2.0.10:2 length 100", "lan udp 10.1.0.1:1 > 10.2.0.10:2 length 200"],
    ),
    ("{ length: { not: 0-65535 } }", &[], &["lan udp 10.1.0.1:1 > 10.2.0.10:2 length 100"]),
    (
        "{ fragment: true }",
        &["lan udp 10.1.0.1:1 > 10.2.0.10:2 fragment"],
        &["lan udp 10.1.0.1:1 > 10.2.0.10:2"],
    ),
    (
        "{ fragment: false }",
        &["lan udp 10.1.0.1:1 > 10.2.0.10:2"],
        &["lan udp 10.1.0.1:1 > 10.2.0.10:2 fragment"],
    ),
    (
        "{ vlan: [7, 100-199] }",
        &["v7 udp 10.1.0.1:1 > 10.2.0.10:2 vlan 7", "v199 udp 10.1.0.1:1 > 10.2.0.10:2 vlan 199"],
        &["v200 udp 10.1.0.1:1 > 10.2.0.10:2 vlan 200", "lan udp 10.1.0.1:1 > 10.2.0.10:2"],
    ),
    (
        "{ vlan: { not: 7 } }",
        &["v8 udp 10.1.0.1:1 > 10.2.0.10:2 vlan 8", "lan udp 10.1.0.1:1 > 10.2.0.10:2"],
        &["v7 udp 10.1.0.1:1 > 10.2.0.10:2 vlan 7"],
    ),
    (
        "{ state: new }",
        &["lan tcp 10.1.0.1:1 > 10.2.0.10:80 syn"],
        &["lan tcp 10.1.0.1:1 > 10.2.0.10:80 ack"],
    ),
    (
        "{ state: { not: [new, established, related] } }",
        &["lan tcp 10.1.0.1:1 > 10.2.0.10:80 ack"],
        &["lan tcp 10.1.0.1:1 > 10.2.0.10:80 syn"],
    ),
];

#[test]
fn every_condition_holds_for_what_it_says_and_for_nothing_else() {
    for (condition, held, not_held) in CONDITIONS {
        for (packets, expected) in [(held, true), (not_held, false)] {
            for packet in *packets {
                let passes = Edge::rule(&format!("{{ allow: {condition} }}")).passes(packet);
                assert_eq!(passes, expected, "allow: {condition}: {packet}");
            }
        }
    }
}

#[test]
fn every_refusal_is_answered_as_configured() {
    let (tcp, udp) = ("lan tcp 10.1.0.9:1 > 10.2.0.10:80 syn", "lan udp 10.1.0.9:1 > 10.2.0.10:80");
    let six = "lan udp [fd00:1::9]:1 > [fd00:2::10]:80";
    for (rule, of_tcp, of_udp) in [
        ("{ drop: {} }", "firewall-rule", "firewall-rule"),
        ("{ reject: {} }", "its sender gets a TCP reset", "PortUnreachable"),
        ("{ reject: {}, with: auto }", "its sender gets a TCP reset", "PortUnreachable"),
        ("{ reject: {}, with: port-unreachable }", "PortUnreachable", "PortUnreachable"),
        ("{ reject: {}, with: admin-prohibited }", "AdminProhibited", "AdminProhibited"),
        ("{ reject: {}, with: host-unreachable }", "HostUnreachable", "HostUnreachable"),
        ("{ reject: {}, with: net-unreachable }", "NetUnreachable", "NetUnreachable"),
        ("{ reject: { protocol: tcp }, with: tcp-reset }", "its sender gets a TCP reset", "firewall-default"),
        ("{ count: {} }", "firewall-default", "firewall-default"),
    ] {
        let mut edge = Edge::rule(rule);
        for (packet, expected) in [(tcp, of_tcp), (udp, of_udp), (six, of_udp)] {
            let verdict = edge.verdict(packet);
            assert!(verdict.contains(expected), "{rule}: {packet}: {verdict}");
        }
    }
    for (default, of_tcp, of_udp) in [
        ("allow", "forwarded by wan", "forwarded by wan"),
        ("drop", "firewall-default", "firewall-default"),
        ("reject", "its sender gets a TCP reset", "PortUnreachable"),
    ] {
        let mut edge = Edge::new(&format!("      default: {default}"));
        for (packet, expected) in [(tcp, of_tcp), (udp, of_udp)] {
            let verdict = edge.verdict(packet);
            assert!(verdict.contains(expected), "default {default}: {packet}: {verdict}");
        }
    }
}

#[test]
fn an_egress_is_known_behind_the_router() {
    let text = "interfaces: { lan: { device: lan0 }, wan: { device: wan0 }, dmz: { device: dmz0 } }\n\
        functions:\n  edge: { firewall: { default: drop, rules: [ allow: { from: lan, to: wan } ] } }\n  core: { router: {} }\n\
        chains: { all: { from: [lan, wan, dmz], run: [core, edge] } }\n";
    let (config, _) = Config::parse("test.yaml", text).unwrap();
    let program = Blueprint::new(&config, &facts(), &States::new(0, Arc::default()))
        .unwrap()
        .program(0, &mut Figures::default());
    let mut edge = Edge { program, config, now: Now(1_000_000_000) };
    assert_eq!(edge.verdict("lan udp 10.1.0.9:1 > 10.2.0.10:80"), "forwarded by wan");
    assert!(edge.verdict("lan udp 10.1.0.9:1 > 10.3.0.10:80").contains("firewall-default"));
}

#[test]
fn groups_are_entered_and_left() {
    let mut edge = Edge::new(
        "      default: drop\n      rules:\n        - { jump: { protocol: udp }, to: datagrams }\n        - allow: { destination: 10.2.0.10 }\n      groups:\n        datagrams:\n          - drop: { protocol: udp, to-port: 1 }\n          - jump: {}\n            to: deep\n        deep:\n          - allow: { protocol: udp, to-port: 2 }",
    );
    assert!(edge.verdict("lan udp 10.1.0.9:1 > 10.2.0.10:1").contains("firewall-rule"));
    assert!(edge.passes("lan udp 10.1.0.9:1 > 10.2.0.99:2"));
    assert!(edge.passes("lan udp 10.1.0.9:1 > 10.2.0.10:3"), "behind the group");
    assert!(!edge.passes("lan udp 10.1.0.9:1 > 10.2.0.99:3"));
}

/// Sends `count` first packets of flows of their own from one source; how many pass?
fn passing(edge: &mut Edge, source: &str, ports: std::ops::Range<u16>) -> usize {
    ports.filter(|port| edge.passes(&format!("lan udp {source}:{port} {TO}"))).count()
}

#[test]
fn limits_are_kept_alone_and_together() {
    // Within, beyond; alone, per source.
    let mut edge = Edge::rule("{ allow: {}, rate: '10/min, burst 3' }");
    assert_eq!(passing(&mut edge, "10.1.0.9", 1..21), 3);
    edge.now.0 += 5_990_000_000;
    assert_eq!(passing(&mut edge, "10.1.0.9", 100..120), 0);
    edge.now.0 += 10_000_000;
    assert_eq!(passing(&mut edge, "10.1.0.9", 200..220), 1, "one in six seconds, neither more nor less");
    let drop_beyond = |limit: &str| {
        Edge::new(&format!("      default: allow\n      rules:\n        - {{ drop: {{}}, {limit} }}"))
    };
    for (limit, first, second) in [
        ("rate: 'over 10/min burst 3'", 3, 0),
        ("rate: 'over 10/min per source burst 3'", 3, 3),
        ("rate: 'over 7 connections/h per source /24'", 7, 0),
        ("connections: over 5", 5, 0),
        ("connections: over 5 per source", 5, 5),
        ("connections: over 5 per destination", 5, 0),
    ] {
        let mut edge = drop_beyond(limit);
        let passed = [passing(&mut edge, "10.1.0.9", 1..21), passing(&mut edge, "10.1.0.8", 1..21)];
        assert_eq!(passed, [first, second], "drop: {limit}");
    }
    // Both: within both.
    for (limits, first, second) in [
        ("rate: '10 connections/s, burst 4', connections: 8 per source", 4, 4),
        ("rate: '100 connections/s', connections: 8 per source", 8, 8),
        ("rate: '100 connections/s', connections: 8", 8, 0),
    ] {
        let mut edge = Edge::rule(&format!("{{ allow: {{}}, {limits} }}"));
        let passed = passing(&mut edge, "10.1.0.9", 1..21);
        edge.now.0 += 1_000_000_000;
        let passed = [passed, passing(&mut edge, "10.1.0.8", 1..21)];
        assert_eq!(passed, [first, second], "allow: {limits}");
    }
    // Several ranges of lengths share the limit.
    let mut edge = Edge::rule("{ allow: { length: [60, 70, 80] }, rate: '1/d, burst 2' }");
    let packets = [60, 70, 80].map(|length| format!("lan udp 10.1.0.9:{length} {TO} length {length}"));
    assert_eq!(packets.iter().filter(|packet| edge.passes(packet)).count(), 2);
}

#[test]
fn rules_of_one_line_are_told_apart() {
    let mut edge = Edge::new(
        "      { default: drop, rules: [ { allow: { protocol: udp, to-port: 1 } }, { allow: { protocol: udp, to-port: 2 } } ] }",
    );
    let decided = |edge: &mut Edge, port: u16| {
        let told = edge.explain(&format!("lan udp 10.1.0.9:9 > 10.2.0.10:{port}"));
        told.steps[0].reasons.iter().find(|reason| reason.contains("decides")).cloned().unwrap()
    };
    let (one, two) = (decided(&mut edge, 1), decided(&mut edge, 2));
    assert!(one.starts_with("rule at line 5:") && two.starts_with("rule at line 5:"), "{one} {two}");
    assert_ne!(one, two);
}

#[test]
fn connections_are_limited_only_where_some_get_through() {
    let text = "interfaces: { lan: { device: lan0 } }\nfunctions: { edge: { firewall: { default: drop, rules: [ { drop: {}, connections: 5 } ] } }, core: { router: {} } }\nchains: { all: { from: lan, run: [edge, core] } }\n";
    let errors = Config::parse("test.yaml", text).unwrap_err();
    let told = format!("{errors:?}");
    assert!(
        told.contains("`connections` beside `drop`, which opens none") && told.contains("over 5"),
        "{told}"
    );
}
