//! Known flows that the XDP program forwards by itself: they are forwarded right, they count, and they end when they must.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use throughway_lab::web::{self, FileServer};
use throughway_lab::{Host, LabOptions};
use throughway_tests::config::Config;
use throughway_tests::datagrams::Datagrams;
use throughway_tests::echo::{self, Connection};
use throughway_tests::pktgen::{Generator, Sink, until_quiet};
use throughway_tests::{Scene, binary, eventually, privileged};

/// Datagrams a second: what a busy machine can, and far beyond what shows nothing.
const RATE: u64 = 20_000;
/// Within this time what the XDP program counted is told, with a margin for a busy machine.
const TOLD: Duration = Duration::from_secs(10);

fn fast(mode: &'static str) -> Config {
    Config { fast_path: Some(mode), ..Config::default() }
}

/// A router behind a firewall that keeps state and a NAT that masquerades.
fn whole(mode: &'static str) -> String {
    let firewall = "{ firewall: { default: drop, rules: [ { allow: { from: lan } } ] } }";
    let nat = "{ nat: { outside: wan, source: [ { match: { source: 10.1.0.0/16 }, masquerade: true } ] } }";
    let mut config = fast(mode);
    config.functions.push(("edge", firewall.to_owned()));
    config.functions.push(("outer", nat.to_owned()));
    config.run = vec!["edge", "outer", "core"];
    // What comes back is translated first.
    let yaml = config.yaml();
    let inbound = "from: wan, run: [edge, outer, core]";
    assert!(yaml.contains(inbound), "{yaml}");
    yaml.replace(inbound, "from: wan, run: [outer, edge, core]")
}

fn to() -> IpAddr {
    IpAddr::V4(Host::ServerA.ipv4())
}

fn stream(scene: &Scene, to: IpAddr) -> Datagrams {
    // Only so many packets wait for a neighbour: it has to be known.
    eventually("the path", Duration::from_secs(10), || {
        scene.pings(Host::Client, &to.to_string(), 1).then_some(())
    });
    Datagrams::start(&scene.lab, Host::Client, Host::ServerA, to, RATE)
}

fn executed(scene: &Scene) -> f64 {
    scene.page().sum("throughway_fast_path_packets_total", &[])
}

/// Waits until the XDP program has executed so many packets more.
fn until_executed(scene: &Scene, more: f64) {
    let before = executed(scene);
    eventually("the XDP program executes", TOLD, || (executed(scene) >= before + more).then_some(()));
}

/// What the XDP program took for its own or gave to the workers is what the statistics say was received.
fn assert_balance(scene: &Scene) {
    eventually("every frame is counted where it belongs", TOLD, || {
        let page = scene.page();
        let steered = |reason| page.sum("throughway_steered_packets_total", &[("reason", reason)]);
        let ours = steered("to-worker") + steered("fast-path") + steered("fast-drop");
        let received = page.sum("throughway_receive_packets_total", &[]);
        let sent = page.sum("throughway_transmit_packets_total", &[]);
        let dropped = page.sum("throughway_dropped_packets_total", &[]);
        let originated = page.sum("throughway_originated_packets_total", &[]);
        (ours == received && received + originated == sent + dropped).then_some(())
    });
}

#[test]
fn a_flow_is_forwarded_in_the_driver_and_counts_as_ever() {
    if !privileged() {
        return;
    }
    for mode in ["auto", "eager"] {
        let scene = Scene::running(&fast(mode));
        for to in Host::ServerA.addresses() {
            let before = executed(&scene);
            let datagrams = stream(&scene, to);
            datagrams.let_pass(RATE * 2);
            let flows = scene.show("flows --protocol udp");
            let mine = flows.as_array().expect("a list").iter().find(|row| row["egress"] == "wan");
            let mine = mine.unwrap_or_else(|| panic!("{flows:#}"));
            assert_eq!(mine["runs_in"], "xdp 0", "{flows:#}");
            let report = datagrams.finish();
            assert_eq!(
                (report.lost.len(), report.duplicates, report.damaged),
                (0, 0, 0),
                "{mode} {to}: {report:?}"
            );
            eventually("nearly all of it in the driver", TOLD, || {
                (executed(&scene) - before > report.sent as f64 * 0.9).then_some(())
            });
            // Only packets that were in a ring when the flow moved can be overtaken.
            assert!(report.reordered <= 64, "{mode} {to}: {} overtaken", report.reordered);
        }
        let chain = [("chain", "outbound")];
        eventually("the last of it is told of", TOLD, || {
            let left = scene.page().sum("throughway_chain_left_packets_total", &chain);
            (left >= RATE as f64 * 4.0).then_some(())
        });
        assert_balance(&scene);
    }
}

#[test]
fn firewall_nat_and_router_together() {
    if !privileged() {
        return;
    }
    const FILE: u64 = 20_000_000;
    let mut scene = Scene::with(&LabOptions::new("ignored"));
    scene.start_with(&whole("auto"));
    echo::serve(&scene.lab, Host::ServerA);
    let mut connection = Connection::open(&scene.lab, Host::Client, to()).expect("it connects");
    (0..200).for_each(|_| connection.exchange().expect("it is echoed"));
    // It is seen as the box.
    let seen = scene.run(Host::ServerA, &["ss", "-Htn", "state", "established"]).stdout;
    assert!(seen.contains("10.2.0.1:") || seen.contains("10.2.0.1]:"), "{seen}");
    let _web = FileServer::start(&scene.lab, Host::ServerA, FILE).expect("the file server starts");
    let script = format!("curl --silent --show-error --fail http://{}:{}/ | sha256sum", to(), web::PORT);
    let output = scene.run(Host::Client, &["sh", "-c", &script]);
    assert!(
        output.stdout.starts_with(&web::sha256(FILE).expect("a checksum")),
        "{}{}",
        output.stdout,
        output.stderr
    );
    eventually("the file goes by the driver", TOLD, || (executed(&scene) > 1000.0).then_some(()));
    // What the program executes keeps the sessions alive, longer than the caches may be silent.
    let until = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until {
        connection.exchange().expect("it is echoed");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_balance(&scene);
}

/// Datagrams that the receiver's kernel took, IPv4.
fn arrived(scene: &Scene) -> u64 {
    let text = scene.run(Host::ServerA, &["cat", "/proc/net/snmp"]).stdout;
    let mut lines = text.lines().filter(|line| line.starts_with("Udp: ")).skip(1);
    lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a count")
}

/// From here on nothing arrives, while the sender goes on.
#[track_caller]
fn assert_nothing_arrives(scene: &Scene, datagrams: &Datagrams) {
    // What was under way arrives before this.
    std::thread::sleep(Duration::from_millis(50));
    let before = arrived(scene);
    datagrams.let_pass(RATE / 2);
    assert_eq!(arrived(scene), before, "a stale action was executed");
}

#[test]
fn nothing_passes_after_a_reload_that_forbids_it() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::running(&fast("eager"));
    let datagrams = stream(&scene, to());
    until_executed(&scene, RATE as f64);
    let mut forbidding = fast("eager");
    for (_, function) in &mut forbidding.functions {
        *function =
            "{ router: { table: main, routes: [ { prefix: 10.2.0.10/32, blackhole: true } ] } }".to_owned();
    }
    scene.write(&forbidding.yaml());
    let output = scene.reload();
    assert!(output.status.success(), "{}{}", output.stdout, output.stderr);
    assert_nothing_arrives(&scene, &datagrams);
    drop(datagrams.finish());
    let dropped = |scene: &Scene| {
        scene.page().sum("throughway_dropped_packets_total", &[("reason", "blackhole-route")])
    };
    assert!(dropped(&scene) > 0.0);
    assert_balance(&scene);
}

#[test]
fn a_route_that_goes_takes_its_flows_along() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&fast("eager"));
    let datagrams = stream(&scene, to());
    until_executed(&scene, RATE as f64);
    scene.run(Host::Box, &["ip", "route", "add", "blackhole", "10.2.0.10/32"]);
    let dropped = || scene.page().sum("throughway_dropped_packets_total", &[("reason", "blackhole-route")]);
    eventually("the route counts", TOLD, || (dropped() > 0.0).then_some(()));
    assert_nothing_arrives(&scene, &datagrams);
    scene.run(Host::Box, &["ip", "route", "del", "blackhole", "10.2.0.10/32"]);
    let before = arrived(&scene);
    eventually("it goes on", TOLD, || (arrived(&scene) > before + RATE / 4).then_some(()));
    let report = datagrams.finish();
    assert_eq!((report.duplicates, report.damaged), (0, 0), "{report:?}");
    assert_balance(&scene);
}

#[test]
fn reloads_under_load_lose_nothing() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::running(&fast("eager"));
    let datagrams = stream(&scene, to());
    for round in 0..6 {
        until_executed(&scene, RATE as f64 / 4.0);
        let config = if round % 2 == 0 { fast("eager").marked("af41") } else { fast("eager") };
        scene.write(&config.yaml());
        let output = scene.reload();
        assert!(output.status.success(), "{}{}", output.stdout, output.stderr);
    }
    let report = datagrams.finish();
    assert_eq!((report.lost.len(), report.duplicates, report.damaged), (0, 0, 0), "{report:?}");
    assert_balance(&scene);
}

#[test]
fn the_fail_mode_holds_a_moment_after_a_kill() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::running(&Config { on_failure: "closed", ..fast("eager") });
    let datagrams = stream(&scene, to());
    until_executed(&scene, RATE as f64 / 4.0);
    scene.kill();
    let killed = datagrams.sent();
    // The program goes on for a second at most.
    datagrams.let_pass(RATE * 3);
    let report = datagrams.finish();
    let first = report.lost.first().copied().unwrap_or(report.sent);
    assert!(first <= killed + RATE * 2, "packets were forwarded for too long: {first} of {killed}");
    assert!(report.arrived <= killed + RATE * 2, "{report:?}");
    scene.start(&fast("eager"));
    let datagrams = stream(&scene, to());
    until_executed(&scene, RATE as f64 / 4.0);
    drop(datagrams.finish());
}

/// What `throughway doctor` says of the service's configuration, in the box.
fn doctor(scene: &Scene) -> String {
    let (binary, config) = (binary().to_string_lossy(), scene.config_path().to_string_lossy().into_owned());
    scene.lab.exec(Host::Box, &[&*binary, "doctor", &config]).expect("it runs").stdout
}

#[test]
fn a_device_that_does_not_take_frames_is_found_out() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::with(&LabOptions::new("ignored"));
    scene.run(Host::ServerA, &["ethtool", "-K", "eth0", "gro", "off"]);
    scene.start(&fast("eager"));
    let fit = || scene.page().sum("throughway_fast_path_egress", &[("interface", "wan")]);
    let found = |is: f64| eventually("the device is found out", TOLD, || (fit() == is).then_some(()));
    found(0.0);
    // It is said at start, by `doctor`, and in `show`, with what would help.
    let said = std::fs::read_to_string(scene.lab.directory().join("throughway-1.log")).expect("a log");
    let said = said.lines().find(|line| line.contains("stay with the workers") && line.contains("wan"));
    assert!(said.is_some_and(|line| line.contains("ethtool -K PEER gro on")), "{said:?}");
    let interfaces = scene.show("interfaces");
    let row = |name: &str| {
        interfaces.as_array().expect("rows").iter().find(|row| row["interface"] == name).cloned()
    };
    let (lan, wan) = (row("lan").expect("a row"), row("wan").expect("a row"));
    assert_ne!(lan["fast_egress"], wan["fast_egress"], "{interfaces:#}");
    let doctor = doctor(&scene);
    let of = |name: &str| doctor.lines().filter(|line| line.contains(name)).collect::<Vec<_>>().join("\n");
    assert!(of("wan (wan0)").contains("flows that leave by it stay with the workers"), "{doctor}");
    assert!(of("wan (wan0)").contains("ethtool -K PEER gro on"), "{doctor}");
    assert!(of("lan (lan0)").contains("known flows can leave by it in the driver"), "{doctor}");
    let datagrams = stream(&scene, to());
    datagrams.let_pass(RATE);
    let flows = scene.show("flows --protocol udp");
    let mine = flows.as_array().expect("a list").iter().find(|row| row["egress"] == "wan");
    assert_eq!(mine.expect("a flow")["not_in_xdp"], "egress", "{flows:#}");
    let report = datagrams.finish();
    assert_eq!(report.lost.len(), 0, "{report:?}");
    scene.run(Host::ServerA, &["ethtool", "-K", "eth0", "gro", "on"]);
    found(1.0);
    let datagrams = stream(&scene, to());
    until_executed(&scene, RATE as f64 / 4.0);
    let report = datagrams.finish();
    assert_eq!(report.lost.len(), 0, "{report:?}");
    assert_balance(&scene);
}

/// Rates count packets, sequence checks look at each segment, and what a rule drops may be allowed the next time: none of it leaves
/// the worker, and `show flows` says so.
#[test]
fn what_must_be_seen_packet_by_packet_stays_with_the_worker() {
    if !privileged() {
        return;
    }
    const LIMITED: &str = "--destination 10.2.0.10 --destination-ports 9001-9001 --packets 20000";
    let rules = "[ { allow: { from: lan, protocol: udp, to-port: 9001 }, rate: 1000/s }, \
                 { drop: { protocol: udp, to-port: 9001 }, log: true, name: beyond }, { allow: { from: lan } } ]";
    let mut config = fast("eager");
    let firewall =
        format!("{{ firewall: {{ default: drop, track: {{ sequence-check: true }}, rules: {rules} }} }}");
    config.functions.push(("edge", firewall));
    config.run = vec!["edge", "core"];
    let mut scene = Scene::running(&config);
    eventually("the path", TOLD, || scene.pings(Host::Client, &to().to_string(), 1).then_some(()));
    echo::serve(&scene.lab, Host::ServerA);
    let mut connection = Connection::open(&scene.lab, Host::Client, to()).expect("it connects");
    (0..50).for_each(|_| connection.exchange().expect("it is echoed"));
    let sink = Sink::start(&scene, Host::ServerA);
    let limited = |port: u16| format!("{LIMITED} --source 10.1.0.77 --source-ports {port}-{port}");
    let (sent, seconds) = Generator::start(&scene, Some(20_000), &limited(4000)).wait();
    until_quiet(&scene);
    let arrived = sink.finish().packets as f64;
    // What may come at once, and what the time gives.
    assert!((900.0..=2100.0 + seconds * 1000.0).contains(&arrived), "{arrived} of {sent} in {seconds} s");
    let row = |port: u16| {
        let rows = scene.show(&format!("flows --interface lan --port {port}"));
        let rows = rows.as_array().expect("rows").clone();
        assert_eq!(rows.len(), 1, "{rows:#?}");
        rows[0].clone()
    };
    let (limited, checked) = (row(9001), row(7));
    for row in [&limited, &checked] {
        assert_eq!(
            (&row["runs_in"], &row["not_in_xdp"]),
            (&"worker 0".into(), &"each-packet".into()),
            "{row:#}"
        );
    }
    assert_eq!(limited["verdict"], "drop: firewall-rule");
    // A machine with other work may lose some before the worker.
    let judged = limited["packets"].as_u64().unwrap_or(0) as f64;
    assert!((sent as f64 * 0.9..=sent as f64).contains(&judged), "{judged} of {sent}");
    assert!(checked["packets"].as_u64().is_some_and(|packets| packets >= 50), "{checked:#}");
    assert_eq!(executed(&scene), 0.0, "nothing of it is the driver's");
    let log = scene.service().log();
    assert!(log.lines().any(|line| line.contains("\"rule\":\"beyond\"")), "{log}");
    // And beside it another flow is.
    let datagrams = stream(&scene, to());
    until_executed(&scene, RATE as f64 / 4.0);
    drop(datagrams.finish());
    assert_balance(&scene);
}
