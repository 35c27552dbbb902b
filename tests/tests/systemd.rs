//! The service under systemd itself, installed by `make install`, with all of the unit's hardening.

use std::time::Duration;

use throughway_lab::Host;
use throughway_tests::config::{self, Config};
use throughway_tests::echo::{self, Connection};
use throughway_tests::systemd::Systemd;
use throughway_tests::{Scene, eventually, privileged};

fn crosses(scene: &Scene) -> [bool; 2] {
    Host::ServerA.addresses().map(|to| scene.pings(Host::Client, &to.to_string(), 5))
}

/// A service in a scene of its own.
fn started() -> (Scene, Systemd) {
    let scene = Scene::new();
    let systemd = Systemd::boot(&scene, Host::Box);
    write(&systemd, &Config::default().yaml());
    systemd.control(&["start"]);
    (scene, systemd)
}

fn write(systemd: &Systemd, yaml: &str) {
    std::fs::write(systemd.config(), config::with_fast_path(yaml)).expect("a configuration can be written");
}

#[test]
fn starts_reloads_restarts_and_stops() {
    if !privileged() {
        return;
    }
    let (scene, systemd) = started();
    // `start` returned, so it has said that it is ready: traffic crosses at once.
    assert_eq!(crosses(&scene), [true, true]);
    assert_eq!(systemd.property("ActiveState"), "active");

    write(&systemd, &Config::default().marked("cs1").yaml());
    systemd.control(&["reload"]);
    let chains = systemd.exec(&["throughway", "show", "chains"]);
    assert!(chains.stdout.contains("mark"), "{chains:?}");

    write(&systemd, "interfaces: {}\n");
    let refused = systemd.exec(&["systemctl", "reload", "throughway"]);
    assert!(!refused.status.success(), "a bad file must be told");
    assert_eq!(systemd.property("ActiveState"), "active");
    assert_eq!(crosses(&scene), [true, true], "and changes nothing");
    let chains = systemd.exec(&["throughway", "show", "chains"]);
    assert!(chains.stdout.contains("mark"), "{chains:?}");

    // A connection that only the firewall's session lets through goes on over a restart.
    let mut stateful = Config::default();
    let firewall = "{ firewall: { default: drop, rules: [ { allow: { from: lan } } ] } }";
    stateful.functions.push(("edge", firewall.to_owned()));
    stateful.run.insert(0, "edge");
    write(&systemd, &stateful.yaml());
    systemd.control(&["reload"]);
    echo::serve(&scene.lab, Host::ServerA);
    let server = Host::ServerA.addresses()[0];
    let mut connection = Connection::open(&scene.lab, Host::Client, server).expect("it opens");
    connection.exchange().expect("it works");
    let before = systemd.property("MainPID");
    systemd.control(&["restart"]);
    assert_ne!(systemd.property("MainPID"), before);
    connection.exchange().expect("it goes on");
    let restored = systemd.exec(&["throughway", "show", "restart", "--json"]).stdout;
    let restored: serde_json::Value = serde_json::from_str(&restored).expect("JSON");
    assert_eq!(restored[0]["function"], "edge", "{restored}");
    assert!(restored[0]["sessions"].as_u64() >= Some(1), "{restored}");

    systemd.control(&["stop"]);
    assert_eq!(systemd.property("ActiveState"), "inactive");
    assert_eq!(systemd.property("Result"), "success", "{}", systemd.log());
    let links = scene.run(Host::Box, &["ip", "link"]).stdout;
    assert!(!links.contains("xdp"), "an orderly stop leaves nothing behind: {links}");
}

#[test]
fn a_bad_configuration_fails_the_start_and_says_where() {
    if !privileged() {
        return;
    }
    let scene = Scene::new();
    let systemd = Systemd::boot(&scene, Host::Box);
    write(&systemd, "interfaces:\n  lan: { devise: lan0 }\n");
    let refused = systemd.exec(&["systemctl", "start", "throughway"]);
    assert!(!refused.status.success());
    let log = systemd.log();
    assert!(log.contains("throughway.yaml:2:10"), "{log}");
}

#[test]
fn comes_back_when_it_is_killed_and_when_it_hangs() {
    if !privileged() {
        return;
    }
    let (scene, systemd) = started();
    for signal in ["KILL", "STOP"] {
        let before = systemd.property("MainPID");
        // Stopped, it says no more that it is alive: the watchdog's business.
        systemd.control(&["kill", "--kill-who=main", &format!("--signal={signal}")]);
        eventually("the next one runs", Duration::from_secs(20), || {
            let (state, main) = (systemd.property("ActiveState"), systemd.property("MainPID"));
            (state == "active" && main != "0" && main != before).then_some(())
        });
        assert_eq!(crosses(&scene), [true, true], "after {signal}");
    }
    assert_eq!(systemd.property("NRestarts"), "2");
}
