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
            ("queues: 2", "queues: 4, on-failure: closed"),
            ("  dmz: { device: eth3 }\n", "  lab: { device: eth3 }\n"),
            ("frames: 4096", "frames: 8192"),
            ("cores: [0]", "cores: [0, 1]"),
            ("functions:", "metrics: off\napi: { socket: /tmp/api.sock }\nfunctions:"),
        ]),
        [
            "interfaces.dmz: removed (needs a restart)",
            "interfaces.lab: added (device eth3) (needs a restart)",
            "interfaces.wan.queues: 2 → 4 (needs a restart)",
            "interfaces.wan.on-failure: open → closed (needs a restart)",
            "workers.cores: [0] → [0, 1] (needs a restart)",
            "workers.frames: 4096 → 8192 (needs a restart)",
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
