//! Firewalls, translators and load balancers: what the file says is what the checked form has, and what is hardly meant is
//! warned of.
#![expect(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use throughway_config::{
    Addresses, Affinity, BalancerSource, Config, DefaultVerdict, Dependence, Firewall, Forwarding,
    FunctionKind, LoadBalancer, MidStream, Nat, Ports, Probe, Refuse, RejectWith, RuleAction, SourceTarget,
    State, Timeouts, Trust, WhenAllDown,
};

fn wrap(body: &str) -> String {
    format!(
        "interfaces:\n  lan: {{ device: eth1 }}\n  wan: {{ device: eth2 }}\nfunctions:\n  core:\n    router: {{}}\n  it:\n{body}\nchains:\n  a: {{ from: lan, run: [it, core] }}\n"
    )
}

fn load(text: &str) -> (Config, Vec<String>) {
    let name = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/test.yaml");
    let (config, warnings) =
        Config::parse(&name.display().to_string(), text).unwrap_or_else(|errors| panic!("{errors}"));
    let place = |span: throughway_config::Span| format!("{}:{}", span.line, span.column);
    let warnings = warnings.into_iter().map(|warning| {
        let help = warning.0.help.map_or(String::new(), |help| format!(" ^ {help}"));
        format!("{} {}{help}", place(warning.0.span.unwrap()), warning.0.message)
    });
    (config, warnings.collect())
}

fn example(name: &str) -> Config {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)).unwrap();
    load(&text).0
}

fn firewall(config: &Config) -> &Firewall {
    let found = config.functions.iter().find_map(|function| match &function.kind {
        FunctionKind::Firewall(firewall) => Some(firewall),
        _ => None,
    });
    found.expect("a firewall")
}

fn nat(config: &Config) -> &Nat {
    let found = config.functions.iter().find_map(|function| match &function.kind {
        FunctionKind::Nat(nat) => Some(nat),
        _ => None,
    });
    found.expect("a translator")
}

fn balancer(config: &Config) -> &LoadBalancer {
    let found = config.functions.iter().find_map(|function| match &function.kind {
        FunctionKind::LoadBalancer(balancer) => Some(balancer),
        _ => None,
    });
    found.expect("a load balancer")
}

#[test]
fn a_firewall_means_what_it_says() {
    let config = example("firewall.yaml");
    let firewall = firewall(&config);
    assert_eq!(firewall.default, DefaultVerdict::Drop);
    let sets: Vec<_> = firewall.sets.iter().map(|set| (&*set.name, set.len(), set.file.is_some())).collect();
    assert_eq!(sets, [("admins", 2, false), ("servers", 2, false), ("bogons", 18, true), ("web", 2, false)]);
    let reserved =
        firewall.sets[2].addresses().iter().find(|range| range.contains("255.0.0.1".parse().unwrap()));
    assert_eq!(reserved.unwrap().to_string(), "224.0.0.0/3");
    assert_eq!(firewall.sets[3].ports().len(), 2);

    let lines: Vec<String> = firewall.rules.iter().map(|rule| config.describe(firewall, rule)).collect();
    assert_eq!(
        lines,
        [
            "drop: { from: wan, source: @bogons }, log: true, name: spoofed",
            "jump: { protocol: [icmp, icmpv6] }, to: icmp-rules",
            "reject: { from: wan, protocol: tcp, to-port: 113 }, with: tcp-reset",
            "allow: { from: wan, destination: @servers, protocol: tcp, to-port: @web }, rate: 200 connections/s per source burst 400, connections: 100 per source",
            "allow: { source: @admins, protocol: tcp, to-port: 22 }, name: ssh",
            "allow: { from: lan, source: { not: @bogons } }",
            "allow: { from: lan, source: 192.168.0.0/16 }",
        ]
    );
    let places: Vec<u32> = firewall.rules.iter().map(|rule| rule.place.line).collect();
    assert_eq!(places, [18, 19, 20, 22, 25, 26, 27]);
    assert_eq!(firewall.rules[2].action, RuleAction::Reject(RejectWith::TcpReset));
    let RuleAction::Jump(group) = firewall.rules[1].action else { panic!("{:?}", firewall.rules[1]) };
    let group = firewall.group(group);
    assert_eq!((&*group.name, group.rules.len(), group.place.line), ("icmp-rules", 3, 29));
    // Messages of ICMP mean their protocol.
    let kinds: Vec<_> = group.rules[1].matches.icmp.iter().map(|icmp| (icmp.kind(), icmp.code())).collect();
    assert_eq!(kinds, [(8, None), (3, Some(4))]);
    assert_eq!(group.rules[1].matches.protocol.as_ref().unwrap().any_of[0].get(), 1);
    assert_eq!(group.rules[2].matches.protocol.as_ref().unwrap().any_of[0].get(), 58);
    assert_eq!((firewall.track.sessions, firewall.track.half_open), (500_000, Some(50_000)));
    assert_eq!(firewall.track.timeouts.tcp_established, Duration::from_secs(7440));
    assert_eq!(firewall.track.timeouts.tcp_close, Timeouts::CONNTRACK.tcp_close);
}

#[test]
fn every_key_of_a_match_arrives() {
    let (config, warnings) = load(&wrap(
        r#"    firewall:
      default: reject
      sets: { hosts: "2001:db8::7", odd: [1, 3] }
      rules:
        - allow:
            from: [lan, wan]
            to: { not: lan }
            source: ["@hosts", 10.0.0.1, 10.0.0.8/29, 10.1.0.5-10.1.0.9]
            destination: { not: ["2001:db8::/32", 10.9.0.0/16] }
            protocol: [tcp, 17]
            from-port: { not: ["@odd", 5-9] }
            to-port: 443
            dscp: [ef, 10]
            length: [64, 1000-1500]
            fragment: false
            vlan: { not: 100-199 }
            state: [new, invalid]
          mark: 7
        - { count: { tcp-flags: { set: [syn, cwr], clear: ack }, family: ipv6 }, rate: over 10 Mbit/min per destination /24 /48 }
        - { drop: { icmp: 3/1 }, connections: over 5 }
      track: { mid-stream: pick-up, sequence-check: true, rejudge: true }"#,
    ));
    assert_eq!(warnings, Vec::<String>::new());
    let firewall = firewall(&config);
    let rule = &firewall.rules[0];
    let matches = &rule.matches;
    let (lan, wan) = (config.interface_named("lan").unwrap(), config.interface_named("wan").unwrap());
    assert_eq!(matches.from.as_ref().unwrap().any_of, [lan, wan]);
    assert!(matches.to.as_ref().unwrap().not && !matches.source.as_ref().unwrap().not);
    let source = &matches.source.as_ref().unwrap().any_of;
    assert!(matches!(source[0], Addresses::Set(id) if &*firewall.set(id).name == "hosts"));
    let Addresses::Range(last) = source[3] else { panic!("{source:?}") };
    let prefixes: Vec<String> = last.prefixes().iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["10.1.0.5/32", "10.1.0.6/31", "10.1.0.8/31"]);
    let protocols: Vec<u8> =
        matches.protocol.as_ref().unwrap().any_of.iter().map(|protocol| protocol.get()).collect();
    assert_eq!(protocols, [6, 17]);
    let from_port = matches.from_port.as_ref().unwrap();
    assert!(from_port.not && matches!(from_port.any_of[1], Ports::Range(range) if range.last() == 9));
    assert_eq!(matches.state.as_ref().unwrap().any_of, [State::New, State::Invalid]);
    assert_eq!((matches.fragment, rule.mark), (Some(false), Some(7)));
    let flags = firewall.rules[1].matches.tcp_flags.unwrap();
    assert_eq!((flags.set, flags.clear), (0x82, 0x10));
    let track = &firewall.track;
    assert_eq!((track.mid_stream, track.sequence_check, track.rejudge), (MidStream::PickUp, true, true));

    // What is described is what was written, all of it.
    let lines: Vec<String> = firewall.rules.iter().map(|rule| config.describe(firewall, rule)).collect();
    assert_eq!(
        lines,
        [
            "allow: { from: [lan, wan], to: { not: lan }, source: [@hosts, 10.0.0.1, 10.0.0.8/29, 10.1.0.5-10.1.0.9], \
             destination: { not: [2001:db8::/32, 10.9.0.0/16] }, protocol: [tcp, udp], from-port: { not: [@odd, 5-9] }, \
             to-port: 443, dscp: [ef, af11], length: [64, 1000-1500], fragment: false, vlan: { not: 100-199 }, \
             state: [new, invalid] }, mark: 7",
            "count: { family: ipv6, tcp-flags: { set: [syn, cwr], clear: ack } }, rate: over 1250000 B/min per destination /24 /48",
            "drop: { icmp: destination-unreachable/host-unreachable }, connections: over 5",
        ]
    );
}

#[test]
fn what_is_hardly_meant_in_a_firewall_is_a_warning() {
    let (_, warnings) = load(&wrap(
        r#"    firewall:
      default: drop
      sets: { used: [10.0.0.1], spare: [80] }
      rules:
        - { count: {}, log: true }
        - { allow: { source: "@used" }, rate: 5/s }
        - { allow: {}, rate: 5/s }
        - { drop: {} }
        - { allow: { from: lan } }
      groups:
        alone: [ { jump: {}, to: of-alone } ]
        of-alone: [ { drop: {} }, { drop: {} } ]
      track: { sessions: 10, half-open: 20 }"#,
    ));
    assert_eq!(
        warnings,
        [
            "10:33 no rule uses the set `spare`",
            "16:11 this rule is never reached ^ the rule at line 15 decides on every packet",
            "18:9 no rule jumps to the group `alone`",
            "19:35 this rule is never reached ^ the rule at line 19 decides on every packet",
            "20:41 `half-open` is more than all 10 sessions ^ it limits nothing",
        ]
    );
}

#[test]
fn sixteen_jumps_may_follow_each_other() {
    let groups: String =
        (1..16).map(|n| format!("        g{n}: [ {{ jump: {{}}, to: g{} }} ]\n", n + 1)).collect();
    let (config, warnings) = load(&wrap(&format!(
        "    firewall:\n      default: drop\n      rules: [ {{ jump: {{}}, to: g1 }} ]\n      groups:\n{groups}        g16: [ {{ drop: {{}} }} ]"
    )));
    assert_eq!((firewall(&config).groups.len(), warnings), (16, Vec::new()));
}

/// A folder of its own that is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("throughway-config-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn files_of_sets_are_read_beside_the_configuration_and_anew_at_every_load() {
    let folder = Folder::new("sets");
    let body = "    firewall:\n      default: drop\n      sets: { a: { file: a.txt } }\n      rules: [ { drop: { source: \"@a\" } } ]";
    let path = folder.0.join("it.yaml");
    fs::write(&path, wrap(body)).unwrap();
    let write = |text: &[u8]| fs::write(folder.0.join("a.txt"), text).unwrap();

    write(b"\xef\xbb\xbf# comment\r\n10.0.0.0/8\r\n\r\n  2001:db8::1-2001:db8::9 # range\n");
    let (old, warnings) = Config::load(&path).unwrap();
    assert_eq!(warnings, []);
    let ranges: Vec<String> = firewall(&old).sets[0].addresses().iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.0.0.0/8", "2001:db8::1-2001:db8::9"]);

    write(b"10.0.0.0/8\n192.0.2.1\n192.0.2.2\n");
    let (new, _) = Config::load(&path).unwrap();
    let changes: Vec<String> = Config::changes(&old, &new).iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["functions.it.sets.a: 1 elements removed, 2 added"]);

    write(b"# nothing\n");
    let (_, warnings) = Config::load(&path).unwrap();
    assert!(warnings[0].to_string().contains("a.txt has no elements"), "{warnings:?}");

    // Not text, one endless line, more errors than anybody reads, ports where addresses are matched.
    write(b"\xff\xfe\x00\n");
    let errors = Config::load(&path).unwrap_err();
    assert!(errors.to_string().contains("a.txt:1:1: error:"), "{errors}");
    write(&vec![b'7'; 1 << 20]);
    let errors = Config::load(&path).unwrap_err();
    assert!(errors.to_string().contains("the line is too long") && errors.to_string().len() < 1000);
    write(&b"x\n".repeat(1000));
    assert_eq!(Config::load(&path).unwrap_err().problems().len(), 20);
    write(b"80\n443\n");
    let errors = Config::load(&path).unwrap_err();
    assert!(errors.to_string().contains("the set `a` has ports, not addresses"), "{errors}");
}

#[test]
fn a_set_has_up_to_a_million_elements() {
    let folder = Folder::new("million");
    let body = "    firewall:\n      default: drop\n      sets: { a: { file: a.txt } }\n      rules: [ { drop: { source: \"@a\" } } ]";
    let path = folder.0.join("it.yaml");
    fs::write(&path, wrap(body)).unwrap();
    let mut text: String =
        (0..1_000_000u32).map(|n| format!("{}\n", std::net::Ipv4Addr::from(0x0a00_0000 + n))).collect();
    fs::write(folder.0.join("a.txt"), &text).unwrap();
    let (config, _) = Config::load(&path).unwrap();
    assert_eq!(firewall(&config).sets[0].len(), 1_000_000);
    text += "192.0.2.1\n192.0.2.2\n";
    fs::write(folder.0.join("a.txt"), &text).unwrap();
    let errors = Config::load(&path).unwrap_err();
    assert!(errors.to_string().contains("a.txt:1000001:1: error: the set has more than 1000000"), "{errors}");
    assert_eq!(errors.problems().len(), 1);
}

#[test]
fn thousands_of_rules_are_read() {
    let rules: String = (0..20_000u32)
        .map(|n| {
            format!(
                "        - {{ allow: {{ source: 10.{}.{}.0/24, protocol: tcp, to-port: [{}, 443] }}, log: true }}\n",
                n >> 8 & 255,
                n & 255,
                n % 60_000 + 1
            )
        })
        .collect();
    let (config, _) = load(&wrap(&format!("    firewall:\n      default: drop\n      rules:\n{rules}")));
    assert_eq!(firewall(&config).rules.len(), 20_000);
}

#[test]
fn a_translator_means_what_it_says() {
    let config = example("nat.yaml");
    let nat = nat(&config);
    assert_eq!(nat.outside, [config.interface_named("wan").unwrap()]);
    assert_eq!((nat.sessions, nat.sessions_per_host, nat.hairpin), (500_000, Some(1000), true));
    assert_eq!(nat.refuse, Refuse::AdminProhibited);
    assert_eq!(nat.timeouts.udp, Duration::from_secs(120));
    assert_eq!(nat.timeouts.icmp, Timeouts::NAT.icmp);
    let [keep, pool, masquerade, one, _] = nat.source.as_slice() else { panic!("{:?}", nat.source) };
    assert_eq!(keep.target, SourceTarget::Keep);
    let SourceTarget::Pool(ranges, policy) = &pool.target else { panic!("{pool:?}") };
    assert_eq!((ranges[0].count(), policy.port_count()), (8, 64_512));
    let blocks = policy.blocks.unwrap();
    assert_eq!((blocks.size, blocks.per_host, blocks.deterministic), (512, 2, true));
    assert_eq!(
        (policy.mapping, policy.filtering),
        (Dependence::EndpointIndependent, Dependence::AddressDependent)
    );
    assert!(!policy.preserve_port);
    let SourceTarget::Masquerade(policy) = &masquerade.target else { panic!("{masquerade:?}") };
    assert!(policy.preserve_port && policy.filtering == Dependence::EndpointIndependent);
    assert!(matches!(one.target, SourceTarget::OneToOne(prefix) if prefix.to_string() == "203.0.113.32/28"));
    let forwards: Vec<String> =
        nat.destination.iter().map(|rule| config.describe_destination_nat(rule)).collect();
    assert_eq!(
        forwards,
        [
            "match: { destination: 203.0.113.20, protocol: tcp, to-port: 443 }, to: 192.168.1.10:8443",
            "match: { destination: 203.0.113.20, protocol: udp, to-port: 5000-5099 }, to: 192.168.1.11:6000-6099",
            "match: { destination: 203.0.113.21 }, to: 192.168.1.12, twice: 192.168.1.1",
            "match: { destination: 203.0.113.32/28 }, to: 192.0.2.32/28",
        ]
    );
}

#[test]
fn what_is_hardly_meant_in_a_translator_is_a_warning() {
    let (_, warnings) = load(&wrap(
        r#"    nat:
      outside: wan
      source:
        - { match: { source: 10.0.0.0/8 }, pool: 203.0.113.0/29, block-size: 1000 }
        - { match: { source: 10.1.0.0/16, protocol: tcp }, none: true }
        - { match: {}, pool: [203.0.113.16, 203.0.113.7-203.0.113.9] }
      destination:
        - { match: { destination: 203.0.113.1, protocol: [tcp, udp], port: 80-90 }, to: 10.0.0.1 }
        - { match: { destination: 203.0.113.1, protocol: tcp, port: 79-80 }, to: 10.0.0.2 }
        - { match: { destination: 203.0.113.1, protocol: udp, port: [81, 85-90] }, to: 10.0.0.3 }
        - { match: { destination: 203.0.113.1, protocol: udp, port: 85-95 }, to: 10.0.0.4 }
      limits: { sessions-per-host: 2000 }
      timeouts: { udp: 30s }"#,
    ));
    assert_eq!(
        warnings,
        [
            "11:78 512 of 64512 ports are in no block of 1000",
            "12:11 this rule is never reached ^ the rule at line 11 matches all of it",
            "13:45 `203.0.113.7-203.0.113.9` overlaps with the pool `203.0.113.0/29` ^ of the rule at line 11: they compete for ports",
            "17:11 this rule is never reached ^ the rule at line 15 matches all of it",
            "19:36 `sessions-per-host` is 2000, but a host has 1000 ports at most ^ by the ports or blocks of the rule at line 11",
            "20:24 `udp` is short for a translator ^ RFC 4787 wants at least 2m",
        ]
    );
}

#[test]
fn a_limit_that_few_ports_never_allow_is_a_warning() {
    let nat = |ports: &str| {
        let rule = format!("{{ match: {{}}, pool: 203.0.113.1, ports: {ports} }}");
        wrap(&format!(
            "    nat: {{ outside: wan, source: [ {rule} ], limits: {{ sessions-per-host: 200 }} }}"
        ))
    };
    let (_, warnings) = load(&nat("5000-5198"));
    let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
    assert!(warning.contains("`sessions-per-host` is 200, but a host has 199 ports at most"), "{warning}");
    assert_eq!(load(&nat("5000-5199")).1, Vec::<String>::new());
}

#[test]
fn a_load_balancer_means_what_it_says() {
    let config = example("load-balancer.yaml");
    let balancer = balancer(&config);
    assert_eq!((balancer.connections, balancer.table_size), (500_000, Some(65_537)));
    let [web, api, dns] = balancer.services.as_slice() else { panic!("{balancer:?}") };
    assert_eq!((web.vips.len(), web.protocols.len(), web.forward), (2, 2, Forwarding::Ipip));
    assert_eq!((web.affinity, web.when_all_down), (Affinity::Source, WhenAllDown::Backup));
    assert_eq!((web.backends[0].weight, web.backends[2].backup), (2, true));
    assert_eq!(web.slow_start, Duration::from_secs(30));
    let health = web.health.as_ref().unwrap();
    let Probe::Http { tls: Some(Trust::Nothing), path, host, status, body: None } = &health.probe else {
        panic!("{health:?}")
    };
    assert_eq!((path.as_str(), host.as_deref(), status.len()), ("/healthz", Some("www.example.com"), 2));
    assert_eq!((health.interval, health.jitter), (Duration::from_secs(2), Duration::from_millis(200)));
    assert_eq!((health.timeout, health.rise, health.fall), (Duration::from_secs(1), 2, 3));
    assert_eq!(
        (api.source_nat.clone(), api.when_all_down),
        (Some(BalancerSource::Egress), WhenAllDown::Keep)
    );
    assert_eq!((api.backends[1].port, api.forward), (Some(8081), Forwarding::Nat));
    assert!(matches!(&dns.health.as_ref().unwrap().probe, Probe::Exec(words) if words.len() == 2));
    assert_eq!((dns.name.as_ref(), dns.forward, dns.place.line), (None, Forwarding::Dsr, 34));
}

#[test]
fn what_is_hardly_meant_in_a_load_balancer_is_a_warning() {
    let (_, warnings) = load(&wrap(
        r#"    load-balancer:
      table-size: 251
      services:
        - { vip: 203.0.113.1, backends: [ { address: 10.0.0.1 }, { address: 10.0.0.2 }, { address: 10.0.0.3 } ] }
        - { vip: 203.0.113.2, backends: [ { address: 10.0.0.1, weight: 0 } ] }
        - { vip: 203.0.113.3, when-all-down: keep, backends: [ { address: 10.0.0.1 }, { address: 10.0.0.2, backup: true } ] }"#,
    ));
    assert_eq!(
        warnings,
        [
            "11:41 3 backends are many for a table of 251 ^ shares will be uneven: `table-size` should be 300 or more",
            "12:41 no backend gets new connections: all have weight 0 or are backups",
            "13:46 with `when-all-down: keep` the backups are never used",
        ]
    );
}

#[test]
fn what_a_load_balancer_knows_of_certificates_and_clients_is_refused_where_it_means_nothing() {
    let service = |more: &str| {
        wrap(&format!(
            "    load-balancer: {{ services: [ {{ vip: 203.0.113.1, port: 443, protocol: tcp, backends: [ {{ address: 10.0.0.1 }} ], {more} }} ] }}"
        ))
    };
    let trust = |health: &str| {
        let (config, _) = load(&service(&format!("health: {{ {health} }}")));
        match &balancer(&config).services[0].health.as_ref().unwrap().probe {
            Probe::Http { tls: Some(trust), .. } => trust.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(trust("https: /"), Trust::Nothing);
    assert_eq!(trust("https: /, verify: none"), Trust::Nothing);
    assert_eq!(trust("https: /, verify: system"), Trust::System);
    assert!(matches!(trust("https: /, ca-file: ca.pem"), Trust::File(path) if path.ends_with("ca.pem")));
    let (config, _) = load(&service("affinity: source, affinity-timeout: 10m, answer-ping: true"));
    let web = &balancer(&config).services[0];
    assert_eq!((web.affinity_timeout, web.answer_ping), (Duration::from_secs(600), true));
    assert_eq!(balancer(&config).table_size, None);
    for (more, told) in [
        ("health: { http: /, verify: system }", "`verify` beside `http`"),
        ("health: { tcp: true, ca-file: a.pem }", "`ca-file` beside `tcp`"),
        ("health: { https: /, verify: none, ca-file: a.pem }", "`ca-file` beside `verify: none`"),
        ("health: { https: /, verify: maybe }", "maybe"),
        ("affinity-timeout: 10m", "without `affinity: source`"),
        ("affinity: source, affinity-timeout: 8d", "longer than 7d"),
    ] {
        let errors = Config::parse("test.yaml", &service(more)).unwrap_err().to_string();
        assert!(errors.contains(told), "{more}: {errors}");
    }
}
