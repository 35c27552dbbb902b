//! Packets are conserved, whoever executes their flows: what was sent has arrived or was dropped for a counted reason, and with the
//! fast path off, auto and eager the same becomes of the same packets.

use std::time::{Duration, Instant};

use throughway_lab::topology::{DMZ, LAN, WAN};
use throughway_lab::{Host, LabOptions};
use throughway_tests::config::Config;
use throughway_tests::pktgen::{self, Generator, Sink, bearable_rate, until_quiet};
use throughway_tests::{Scene, eventually, note, privileged};

const MODES: [&str; 3] = ["off", "auto", "eager"];
/// Within this time everything that the XDP program counted is told, with a margin for a busy machine.
const TOLD: Duration = Duration::from_secs(15);
/// How often the machine may lose packets of its own before that is held against us.
const ATTEMPTS: usize = 4;

/// A chain, and traffic for it.
struct Case {
    /// Who gets packets.
    servers: &'static [Host],
    config: fn(&'static str) -> String,
    traffic: [Traffic; 3],
}

/// Packets of one kind.
struct Traffic {
    /// Options of the generator.
    options: &'static str,
    /// Why they are dropped; nothing: they arrive.
    reason: Option<&'static str>,
    /// Whether the XDP program executes them when there is a fast path.
    driven: bool,
}

const fn arrives(options: &'static str) -> Traffic {
    Traffic { options, reason: None, driven: true }
}

const BLACKHOLE: Traffic = Traffic {
    options: "--destination 198.51.100.1 --destination-ports 9-9",
    reason: Some("blackhole-route"),
    driven: true,
};

const SOURCES: &str = "--flows 64 --source 10.1.0.128/26";

const GUARDED: Case = Case {
    servers: &[Host::ServerA],
    config: guarded,
    traffic: [
        arrives("--destination 10.2.0.10 --destination-ports 9-9"),
        // What a rule drops is judged packet by packet: the next one may belong to a connection that was opened from the other side.
        Traffic {
            options: "--destination 10.2.0.10 --destination-ports 10-10",
            reason: Some("firewall-rule"),
            driven: false,
        },
        BLACKHOLE,
    ],
};

const BALANCED: Case = Case {
    servers: &[Host::ServerA, Host::ServerB],
    config: balanced,
    traffic: [
        arrives("--destination 203.0.113.80 --destination-ports 53-53"),
        arrives("--destination 10.3.0.10 --destination-ports 9-9"),
        BLACKHOLE,
    ],
};

fn with(mode: &'static str, functions: &[(&'static str, &str)]) -> Config {
    let mut config = Config { fast_path: Some(mode), ..Config::default() };
    config.functions =
        vec![("core", "{ router: { routes: [ { prefix: 198.51.100.0/24, blackhole: true } ] } }".to_owned())];
    config.run = functions.iter().map(|(name, _)| *name).chain(["core"]).collect();
    config.functions.extend(functions.iter().map(|(name, function)| (*name, (*function).to_owned())));
    config
}

/// Firewall, NAT and router.
fn guarded(mode: &'static str) -> String {
    let rules = "[ { drop: { protocol: udp, to-port: 10 } }, { allow: { from: lan } } ]";
    let firewall = format!("{{ firewall: {{ default: drop, rules: {rules} }} }}");
    let nat = "{ nat: { outside: wan, source: [ { match: { source: 10.1.0.0/16 }, masquerade: true } ] } }";
    let yaml = with(mode, &[("edge", &firewall), ("outer", nat)]).yaml();
    // What comes back is translated first.
    yaml.replace("from: wan, run: [edge, outer, core]", "from: wan, run: [outer, edge, core]")
}

/// Load balancer and router: one backend in each network.
fn balanced(mode: &'static str) -> String {
    let backends = "[ { address: 10.2.0.10, port: 5353 }, { address: 10.3.0.10, port: 5353 } ]";
    let service =
        format!("{{ name: dns, vip: 203.0.113.80, port: 53, protocol: udp, backends: {backends} }}");
    let balancer = format!("{{ load-balancer: {{ services: [ {service} ] }} }}");
    with(mode, &[("front", &balancer)]).yaml()
}

/// What became of packets.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Fate {
    sent: u64,
    /// At both servers.
    arrived: u64,
    duplicates: u64,
    /// Dropped by a chain, for any reason, and for the one that is expected.
    dropped: u64,
    expected: u64,
    /// Lost before or behind the chains, as drivers count; what a socket has no room for, its device counts, too.
    overrun: u64,
    /// Executed by the XDP program.
    driven: u64,
}

/// Counters of the service and the drivers that only grow: `dropped`, `expected`, `overrun` and `driven`.
fn counters(scene: &Scene, reason: &str) -> [u64; 4] {
    let page = scene.page();
    let sum = |name: &str, labels: &[(&str, &str)]| page.sum(name, labels) as u64;
    // What a ring has no room for, the devices at both ends count.
    let overrun = [LAN, WAN, DMZ].map(|link| pktgen::frames(scene, Host::Box, link.device).1);
    [
        sum("throughway_dropped_packets_total", &[]),
        sum("throughway_dropped_packets_total", &[("reason", reason)]),
        overrun.iter().sum(),
        sum("throughway_fast_path_packets_total", &[]),
    ]
}

/// Sends, and waits until everything is told and balances.
#[track_caller]
fn send(scene: &Scene, rate: Option<u64>, options: &str, reason: Option<&str>) -> Fate {
    let reason = reason.unwrap_or("none");
    let before = counters(scene, reason);
    let sinks = [Host::ServerA, Host::ServerB].map(|host| Sink::start(scene, host));
    let (sent, _) = Generator::start(scene, rate, &format!("{SOURCES} {options}")).wait();
    until_quiet(scene);
    let counted = sinks.map(Sink::finish);
    let arrived = counted.iter().map(|counted| counted.packets).sum();
    let duplicates = counted.iter().map(|counted| counted.duplicates).sum();
    let deadline = Instant::now() + TOLD;
    loop {
        // First: what balances does not change any more, and is read after that.
        let balanced = is_balanced(scene);
        let now = counters(scene, reason);
        let [dropped, expected, overrun, driven] = std::array::from_fn(|index| now[index] - before[index]);
        let fate = Fate { sent, arrived, duplicates, dropped, expected, overrun, driven };
        let whole = sent == arrived + dropped + overrun;
        if whole && balanced {
            return fate;
        }
        assert!(Instant::now() < deadline, "packets are not conserved ({whole}): {fate:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What the XDP program took for its own or gave to the workers is what the service says was received, and that was sent, dropped,
/// or given to the box itself.
fn is_balanced(scene: &Scene) -> bool {
    let page = scene.page();
    let steered = |reason| page.sum("throughway_steered_packets_total", &[("reason", reason)]);
    let ours = steered("to-worker") + steered("fast-path") + steered("fast-drop");
    let sum = |name| page.sum(name, &[]);
    let received = sum("throughway_receive_packets_total");
    ours == received + sum("throughway_xsk_rx_dropped_total")
        && received + sum("throughway_originated_packets_total")
            == sum("throughway_transmit_packets_total")
                + sum("throughway_dropped_packets_total")
                + sum("throughway_given_to_host_packets_total")
}

fn conserves(case: &Case) {
    if !privileged() {
        return;
    }
    let rate = bearable_rate() / 2;
    for mode in MODES {
        let mut scene = Scene::with(&LabOptions::new("ignored"));
        scene.start_with(&(case.config)(mode));
        for host in case.servers {
            eventually("the path", TOLD, || {
                scene.pings(Host::Client, &host.ipv4().to_string(), 1).then_some(())
            });
        }
        for &Traffic { options, reason, driven } in &case.traffic {
            // At a rate that the workers bear, every packet has the fate that is meant for it.
            for attempt in 1.. {
                let fate = send(&scene, Some(rate), &format!("{options} --packets 20000"), reason);
                let meant = if reason.is_some() { (0, 20_000) } else { (20_000, 0) };
                if (fate.arrived, fate.expected) == meant && (fate.duplicates, fate.sent) == (0, 20_000) {
                    break;
                }
                assert!(fate.overrun > 0 && attempt < ATTEMPTS, "{mode}, {options}: {fate:?}");
            }
            // At whatever rate, every packet is counted.
            let fate = send(&scene, None, &format!("{options} --duration 300ms"), reason);
            note(&format!("{mode}, {options}: {:.1} Mpps, {fate:?}", fate.sent as f64 / 0.3e6));
            assert!(fate.duplicates == 0 && fate.sent > 0, "{mode}, {options}: {fate:?}");
            if mode == "off" || !driven {
                assert_eq!(fate.driven, 0, "{mode}, {options}");
            } else {
                let judged = fate.arrived + fate.dropped;
                assert!(fate.driven > judged / 2, "{mode}, {options}: {fate:?}");
            }
        }
    }
}

#[test]
fn firewall_nat_and_router_conserve_packets_in_every_mode() {
    conserves(&GUARDED);
}

#[test]
fn balancer_and_router_conserve_packets_in_every_mode() {
    conserves(&BALANCED);
}
