//! A reload never hurts traffic.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use throughway_lab::Host;
use throughway_tests::config::{self, Config};
use throughway_tests::datagrams::{Datagrams, Report};
use throughway_tests::{Scene, eventually, privileged};

/// What is asked of a machine that can.
const RATE: u64 = 200_000;
/// How often the configuration changes, back and forth: an even number, so that it ends as it began.
const RELOADS: u64 = 6;
/// Less than this shows nothing about reloads under load.
const LEAST_RATE: u64 = 10_000;

fn to() -> IpAddr {
    IpAddr::V4(Host::ServerA.ipv4())
}

fn stream(scene: &Scene, rate: u64) -> Datagrams {
    Datagrams::start(&scene.lab, Host::Client, Host::ServerA, to(), rate)
}

fn clean(report: &Report) -> bool {
    report.lost.is_empty() && report.duplicates == 0 && report.damaged == 0
}

/// The highest rate up to [`RATE`] that passes without loss when nothing is reloaded: above it a loss would not be the
/// reload's.
fn calibrate(scene: &Scene) -> u64 {
    // Only so many packets wait for a neighbour: it has to be known.
    assert!(scene.pings(Host::Client, &to().to_string(), 3));
    let mut rate = RATE;
    loop {
        let datagrams = stream(scene, rate);
        datagrams.let_pass(rate * 2);
        let report = datagrams.finish();
        if clean(&report) && report.sent > 0 {
            // A margin, as a quiet second does not promise the next.
            return if report.rate < rate as f64 * 0.95 || rate < RATE { rate * 3 / 4 } else { rate };
        }
        // Shown when a test is run with --nocapture.
        let _ = writeln!(
            std::io::stderr(),
            "calibrating: at {rate} a second, {} of {} were lost",
            report.sent - report.arrived,
            report.sent
        );
        assert!(rate > LEAST_RATE, "even {rate} datagrams a second are not carried: {report:?}");
        rate = rate * 2 / 3;
    }
}

/// The other configuration: another chain (the marker comes first) and another route to the receiver.
fn changed() -> Config {
    let mut config = Config::default().marked("af41");
    let routes = "[ { prefix: 10.2.0.10/32, via: 10.2.0.10 }, { prefix: 198.51.100.0/24, blackhole: true } ]";
    for (name, function) in &mut config.functions {
        if *name == "core" {
            *function = format!("{{ router: {{ table: main, routes: {routes} }} }}");
        }
    }
    config
}

/// Six reloads under `rate` datagrams a second, back and forth between two configurations.
fn reload_under(scene: &mut Scene, rate: u64) -> Report {
    let datagrams = stream(scene, rate);
    datagrams.let_pass(rate);
    for round in 0..RELOADS {
        let config = if round % 2 == 0 { changed() } else { Config::default() };
        scene.write(&config.yaml());
        let output = scene.reload();
        assert!(output.status.success(), "{}{}", output.stdout, output.stderr);
        assert!(
            output.stdout.contains("mark") && output.stdout.contains("core"),
            "it says what changed: {}",
            output.stdout
        );
        datagrams.let_pass(rate / 2);
        if round % 2 == 0 {
            // What the XDP program executes is counted once a second.
            eventually("the new chain is in use", Duration::from_secs(5), || {
                let marked = scene.page().sum("throughway_function_packets_total", &[("function", "mark")]);
                (marked > rate as f64 / 10.0).then_some(())
            });
        }
    }
    datagrams.finish()
}

/// As long and as fast, without a reload: what is lost here is not the reload's.
fn without_reload(scene: &Scene, rate: u64) -> Report {
    let datagrams = stream(scene, rate);
    datagrams.let_pass(rate * (RELOADS / 2 + 1));
    datagrams.finish()
}

#[test]
fn a_reload_under_load_loses_nothing() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::running(&Config::default());
    let mut rate = calibrate(&scene);
    let (mut attempts, mut blamed) = (0, 0);
    let report = loop {
        attempts += 1;
        let report = reload_under(&mut scene, rate);
        if clean(&report) {
            break report;
        }
        // The machine has other work, too: a loss is the reload's if the same without reloads loses nothing, twice.
        eprintln!("at {rate} a second, {} of {} were lost", report.sent - report.arrived, report.sent);
        if clean(&without_reload(&scene, rate)) {
            blamed += 1;
            assert!(blamed < 2, "reloads lose packets: {report:?}");
        } else {
            rate = rate * 2 / 3;
            assert!(rate > LEAST_RATE, "even {rate} datagrams a second are not carried: {report:?}");
        }
    };
    eprintln!(
        "six reloads at {:.0} datagrams a second: {} sent, {} arrived",
        report.rate, report.sent, report.arrived
    );
    assert!(report.sent > rate * 3 && report.arrived == report.sent, "{report:?}");
    // With a fast path each reload hands the flow over again: what is in a ring at that moment can be overtaken.
    let overtaken = if config::is_fast() { RELOADS * 64 } else { 0 };
    assert!(report.reordered <= overtaken, "{report:?}");
    let page = scene.page();
    let applied = page.sum("throughway_config_reloads_total", &[("result", "applied")]);
    assert_eq!(applied, (attempts * RELOADS) as f64);
    assert_eq!(page.sum("throughway_frames_outstanding", &[]), 0.0);
}

#[test]
fn a_reload_changes_what_packets_see() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::running(&Config::default());
    assert!(scene.pings(Host::Client, "10.3.0.10", 3));
    let mut config = Config::default();
    config.functions[0].1 =
        "{ router: { table: main, routes: [ { prefix: 10.3.0.10/32, prohibit: true } ] } }".to_owned();
    scene.write(&config.yaml());
    // By the signal that systemd would send.
    scene.service().process().signal(Signal::SIGHUP);
    eventually("the signal is heard", Duration::from_secs(10), || {
        (scene.page().sum("throughway_config_reloads_total", &[("result", "applied")]) > 0.0).then_some(())
    });
    let output =
        scene.lab.exec(Host::Client, &["ping", "-n", "-c", "1", "-W", "2", "10.3.0.10"]).expect("ping runs");
    assert!(output.stdout.contains("Packet filtered"), "{}", output.stdout);
    assert!(scene.pings(Host::Client, "10.2.0.10", 3));
}

#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::running(&Config::default());
    // The neighbour is resolved first: what waits for that beyond the queue's length is dropped, which is not the question.
    assert!(scene.pings(Host::Client, "10.2.0.10", 3));
    let datagrams = stream(&scene, 5_000);
    datagrams.let_pass(2_000);
    let good = Config::default().yaml();
    let bad = good.replace("run: [core]", "run: [cor]");
    assert_ne!(good, bad);
    let line = bad.lines().position(|line| line.contains("[cor]")).expect("it is there") + 1;
    scene.write(&bad);
    let output = scene.reload();
    assert_eq!(output.status.code(), Some(1), "{}{}", output.stdout, output.stderr);
    let place = format!("{}:{line}:", scene.config_path().display());
    assert!(output.stderr.contains(&place) && output.stderr.contains("`core`"), "{}", output.stderr);
    scene.write("interfaces: [");
    assert_eq!(scene.reload().status.code(), Some(1));
    std::fs::remove_file(scene.config_path()).expect("it is there");
    assert_eq!(scene.reload().status.code(), Some(1));
    datagrams.let_pass(2_000);
    let report = datagrams.finish();
    assert!(clean(&report) && report.arrived == report.sent, "{report:?}");
    let page = scene.page();
    assert_eq!(page.sum("throughway_config_reloads_total", &[("result", "refused")]), 3.0);
    assert_eq!(page.sum("throughway_config_last_reload_successful", &[]), 0.0);
    scene.write(&good);
    assert!(scene.reload().status.success());
    assert_eq!(scene.page().sum("throughway_config_last_reload_successful", &[]), 1.0);
}
