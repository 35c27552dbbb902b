//! What a reload would change, in words.
#![expect(clippy::panic, reason = "a test fails by panicking")]

use throughway_config::Config;

const OLD: &str = r#"
interfaces:
  lan: { device: eth1 }
  wan: { device: eth2, queues: 2 }
  dmz: { device: eth3 }
workers: { cores: [0], frames: 4096 }
functions:
  voice:
    marker:
      rules:
        - { protocol: udp, to-port: 5060, dscp: cs3 }
        - { dscp: ef }
  core:
    router:
      routes:
        - { prefix: 0.0.0.0/0, via: 203.0.113.1 }
        - { prefix: 10.8.0.0/16, interface: wan }
  spare:
    marker: { rules: [ { dscp: cs1 } ] }
chains:
  outbound: { from: lan, run: [voice, core] }
  inbound: { from: wan, run: [core] }
"#;

fn changes(replacements: &[(&str, &str)]) -> Vec<String> {
    let mut new = OLD.to_owned();
    for (from, to) in replacements {
        assert!(new.contains(from), "{from}");
        new = new.replacen(from, to, 1);
    }
    let config = |text| Config::parse("a.yaml", text).unwrap_or_else(|errors| panic!("{errors}")).0;
    let printed = Config::changes(&config(OLD), &config(&new))
        .into_iter()
        .map(|change| format!("{change}{}", if change.needs_restart { " (needs a restart)" } else { "" }));
    printed.collect()
}

#[test]
fn the_same_file_changes_nothing() {
    assert!(changes(&[]).is_empty());
    assert!(
        changes(&[("cores: [0]", "cores: 0"), ("{ device: eth1 }", "{ device: eth1, xdp: auto }")])
            .is_empty()
    );
}

#[test]
fn routes_come_and_go() {
    assert_eq!(
        changes(&[
            ("via: 203.0.113.1 }", "via: 203.0.113.2 }"),
            (
                "- { prefix: 10.8.0.0/16, interface: wan }",
                "- { prefix: 10.9.0.0/16, via: 10.0.0.1, interface: wan, metric: 5 }"
            ),
        ]),
        [
            "functions.core.routes: removed 0.0.0.0/0 via 203.0.113.1",
            "functions.core.routes: removed 10.8.0.0/16 interface wan",
            "functions.core.routes: added 0.0.0.0/0 via 203.0.113.2",
            "functions.core.routes: added 10.9.0.0/16 via 10.0.0.1 interface wan metric 5",
        ]
    );
    assert_eq!(
        changes(&[("    router:\n", "    router:\n      table: 100\n      kernel-routes: true\n")]),
        ["functions.core.table: main → 100"]
    );
}

#[test]
fn the_order_of_rules_counts() {
    assert_eq!(
        changes(&[(
            "- { protocol: udp, to-port: 5060, dscp: cs3 }\n        - { dscp: ef }",
            "- { dscp: ef }\n        - { to-port: 5060, protocol: udp, dscp: cs3 }"
        )]),
        ["functions.voice.rules: put into another order"]
    );
    assert_eq!(
        changes(&[("to-port: 5060,", "to-port: [5060, 5070-5080], source: 10.0.0.0/8,")]),
        [
            "functions.voice.rules: removed udp to-port 5060 dscp cs3",
            "functions.voice.rules: added udp to-port [5060, 5070-5080] source 10.0.0.0/8 dscp cs3",
        ]
    );
}

#[test]
fn functions_and_chains_come_and_go_without_a_restart() {
    assert_eq!(
        changes(&[
            ("  spare:\n    marker: { rules: [ { dscp: cs1 } ] }\n", "  edge:\n    router: {}\n"),
            ("outbound: { from: lan, run: [voice, core] }", "outbound: { from: [lan, dmz], run: [core] }"),
            ("inbound: { from: wan, run: [core] }", "back: { from: wan, run: [edge] }"),
        ]),
        [
            "functions.spare: removed",
            "functions.edge: added (router)",
            "chains.inbound: removed",
            "chains.back: added (from [wan] run [edge])",
            "chains.outbound.from: [lan] → [lan, dmz]",
            "chains.outbound.run: [voice, core] → [core]",
        ]
    );
    assert_eq!(
        changes(&[("  spare:\n    marker: { rules: [ { dscp: cs1 } ] }\n", "  spare:\n    router: {}\n")]),
        ["functions.spare: marker → router, without its state"]
    );
}

#[test]
fn what_needs_a_restart_says_so() {
    assert_eq!(
        changes(&[
            ("queues: 2", "queues: 4, on-failure: closed, fast-path: auto"),
            ("  dmz: { device: eth3 }\n", "  lab: { device: eth3 }\n"),
            ("frames: 4096", "frames: 8192"),
            ("cores: [0]", "cores: [0, 1]"),
            (
                "functions:",
                "fast-path: { flows: 1000, keep: 5m }\nat-stop: { program: keep, sessions: 0s }\nmetrics: off\napi: { socket: /tmp/api.sock }\nfunctions:"
            ),
        ]),
        [
            "interfaces.dmz: removed (needs a restart)",
            "interfaces.lab: added (device eth3) (needs a restart)",
            "interfaces.wan.queues: 2 → 4 (needs a restart)",
            "interfaces.wan.on-failure: open → closed (needs a restart)",
            "interfaces.wan.fast-path: off → auto (needs a restart)",
            "workers.cores: [0] → [0, 1] (needs a restart)",
            "workers.frames: 4096 → 8192 (needs a restart)",
            "fast-path.flows: 65536 → 1000 (needs a restart)",
            "fast-path.keep: 1s → 5m (needs a restart)",
            "at-stop.program: remove → keep",
            "at-stop.sessions: 5m → 0s",
            "metrics.listen: 127.0.0.1:9464 → off (needs a restart)",
            "api.socket: /run/throughway/api.sock → /tmp/api.sock (needs a restart)",
        ]
    );
}

#[test]
fn moved_interfaces_change_their_numbers_and_names_are_what_counts_elsewhere() {
    assert_eq!(
        changes(&[("  lan: { device: eth1 }\n", ""), ("  dmz:", "  lan: { device: eth1 }\n  dmz:")]),
        ["interfaces: put into another order (needs a restart)"]
    );
    assert!(
        changes(&[
            ("  spare:\n    marker: { rules: [ { dscp: cs1 } ] }\n", ""),
            ("  voice:\n", "  spare:\n    marker: { rules: [ { dscp: cs1 } ] }\n  voice:\n"),
        ])
        .is_empty()
    );
}

const FUNCTIONS: &str = r#"
interfaces:
  lan: { device: eth1 }
  wan: { device: eth2 }
functions:
  edge:
    firewall:
      default: drop
      sets: { admins: [10.0.0.1, 10.0.0.2], web: [80] }
      rules:
        - { allow: { from: lan, source: "@admins" } }
        - { jump: { protocol: tcp, to-port: "@web" }, to: more }
      groups:
        more: [ { allow: {}, rate: 5/s } ]
      track: { sessions: 1000 }
  cgnat:
    nat:
      outside: wan
      source:
        - { match: { source: 10.0.0.0/8 }, pool: 203.0.113.1, block-size: 512 }
      destination:
        - { match: { destination: 203.0.113.1, protocol: tcp, port: 80 }, to: "10.0.0.1:8080" }
      limits: { sessions-per-host: 100 }
  front:
    load-balancer:
      services:
        - name: web
          vip: 203.0.113.80
          port: 80
          protocol: tcp
          backends: [ { address: 10.0.1.1 }, { address: 10.0.1.2 } ]
          health: { http: /healthz }
  core:
    router: {}
chains:
  outbound: { from: lan, run: [front, cgnat, edge, core] }
"#;

/// What is printed when `replacements` are made in [`FUNCTIONS`].
fn function_changes(replacements: &[(&str, &str)]) -> Vec<String> {
    let mut new = FUNCTIONS.to_owned();
    for (from, to) in replacements {
        assert!(new.contains(from), "{from}");
        new = new.replacen(from, to, 1);
    }
    let config = |text| Config::parse("a.yaml", text).unwrap_or_else(|errors| panic!("{errors}")).0;
    let changes = Config::changes(&config(FUNCTIONS), &config(&new));
    assert!(changes.iter().all(|change| !change.needs_restart), "{changes:?}");
    changes.iter().map(ToString::to_string).collect()
}

#[test]
fn a_moved_rule_is_no_change_and_another_is_named() {
    // Places in the file are not what a reload is about.
    assert!(function_changes(&[("      rules:\n", "      rules:\n\n        # moved\n")]).is_empty());
    assert_eq!(
        function_changes(&[
            ("default: drop", "default: reject"),
            ("10.0.0.2]", "10.0.0.3, 10.0.0.4]"),
            ("web: [80]", "www: [80, 443]"),
            ("\"@web\"", "\"@www\""),
            ("rate: 5/s", "rate: 6/s"),
            ("sessions: 1000", "timeouts: { udp: 1m }"),
        ]),
        [
            "functions.edge.default: drop → reject",
            "functions.edge.sets.web: removed",
            "functions.edge.sets.www: added (2 elements)",
            "functions.edge.sets.admins: 1 elements removed, 2 added",
            "functions.edge.rules: removed jump: { protocol: tcp, to-port: @web }, to: more",
            "functions.edge.rules: added jump: { protocol: tcp, to-port: @www }, to: more",
            "functions.edge.groups.more: removed allow: {}, rate: 5/s",
            "functions.edge.groups.more: added allow: {}, rate: 6/s",
            "functions.edge.track.sessions: 1000 → 1000000",
            "functions.edge.track.timeouts.udp: 30s → 1m",
        ]
    );
}

#[test]
fn where_a_set_is_dropped_early_is_a_change_that_needs_no_restart() {
    assert_eq!(
        function_changes(&[(
            "admins: [10.0.0.1, 10.0.0.2]",
            "admins: { elements: [10.0.0.1, 10.0.0.2], early: [wan, lan] }"
        )]),
        ["functions.edge.sets.admins.early: false → [wan, lan]"]
    );
    assert_eq!(
        function_changes(&[(
            "admins: [10.0.0.1, 10.0.0.2]",
            "admins: { elements: [10.0.0.1, 10.0.0.2], early: true }"
        )]),
        ["functions.edge.sets.admins.early: false → true"]
    );
}

#[test]
fn translators_and_balancers_say_what_is_different() {
    assert_eq!(
        function_changes(&[
            ("outside: wan", "outside: [wan, lan]"),
            ("block-size: 512", "port-parity: true"),
            ("to: \"10.0.0.1:8080\"", "to: 10.0.0.1"),
            ("sessions-per-host: 100", "sessions: 5, refuse: drop"),
            ("{ address: 10.0.1.2 }", "{ address: 10.0.1.3, weight: 2 }"),
            ("{ http: /healthz }", "{ tcp: true, interval: 5s }"),
        ]),
        [
            "functions.cgnat.outside: [wan] → [wan, lan]",
            "functions.cgnat.source: removed match: { source: 10.0.0.0/8 }, pool: [203.0.113.1], ports: 1024-65535 by default, block-size: 512, blocks-per-host: 1, deterministic: false, mapping: endpoint-independent, filtering: address-dependent, port-parity: false, preserve-port: false",
            "functions.cgnat.source: added match: { source: 10.0.0.0/8 }, pool: [203.0.113.1], ports: 1024-65535 by default, mapping: endpoint-independent, filtering: address-dependent, port-parity: true, preserve-port: true",
            "functions.cgnat.destination: removed match: { destination: 203.0.113.1, protocol: tcp, to-port: 80 }, to: 10.0.0.1:8080",
            "functions.cgnat.destination: added match: { destination: 203.0.113.1, protocol: tcp, to-port: 80 }, to: 10.0.0.1",
            "functions.cgnat.limits.sessions: 1000000 → 5",
            "functions.cgnat.limits.sessions-per-host: 100 → none",
            "functions.cgnat.limits.refuse: host-unreachable → drop",
            "functions.front.services.web.backends: removed 10.0.1.2 weight 1",
            "functions.front.services.web.backends: added 10.0.1.3 weight 2",
            "functions.front.services.web.health: http /healthz status [200-399] every 2s (+200ms) timeout 1s rise 2 fall 3 → tcp every 5s (+500ms) timeout 1s rise 2 fall 3",
        ]
    );
}
