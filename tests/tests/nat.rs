//! NAT between real hosts: who is seen from outside, what comes back, what is published.

use std::time::Duration;

use throughway_lab::Host;
use throughway_tests::config::Config;
use throughway_tests::echo::{self, Connection};
use throughway_tests::{Scene, eventually, privileged};

/// Masquerades towards the WAN and publishes the client's port 7 as the box's port 7007 there.
fn masquerading() -> Config {
    let mut config = Config::default();
    let nat = "{ nat: { outside: wan, \
        source: [ { match: { source: 10.1.0.0/16 }, masquerade: true }, { match: { source: \"fd00:1::/32\" }, masquerade: true } ], \
        destination: [ { match: { from: wan, destination: 10.2.0.1, protocol: tcp, port: 7007 }, to: \"10.1.0.10:7\" } ] } }";
    config.functions.push(("outer", nat.to_owned()));
    config.run.insert(0, "outer");
    config
}

#[test]
fn hosts_inside_are_seen_as_the_box() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&masquerading());
    // Without a way back to the client's own address, only what is translated can be answered.
    for argv in [
        &["ip", "route", "del", "10.1.0.0/24"][..],
        &["ip", "route", "del", "default"],
        &["ip", "-6", "route", "del", "default"],
    ] {
        let _ = scene.lab.exec(Host::ServerA, argv);
    }
    assert!(scene.pings(Host::Client, "10.2.0.10", 5), "ICMP queries of IPv4");
    assert!(scene.pings(Host::Client, "fd00:2::10", 5), "and of IPv6");
    echo::serve(&scene.lab, Host::ServerA);
    for address in ["10.2.0.10", "fd00:2::10"] {
        let to = address.parse().expect("an address");
        let mut connection = Connection::open(&scene.lab, Host::Client, to).expect("it connects");
        (0..50).for_each(|_| connection.exchange().expect("it is echoed"));
        let seen = scene.run(Host::ServerA, &["ss", "-Htn", "state", "established"]).stdout;
        let boxed = if address.contains(':') { "[fd00:2::1]" } else { "10.2.0.1" };
        assert!(seen.contains(boxed), "{seen}");
    }
    // What cannot go on is told to who sent it, with his own addresses inside.
    let traced = scene.run(Host::Client, &["traceroute", "-n", "-q", "1", "-w", "1", "10.2.0.10"]).stdout;
    assert!(traced.contains("10.2.0.10"), "{traced}");
    // The box itself is still there for both sides.
    assert!(scene.pings(Host::Client, "10.1.0.1", 3));
}

#[test]
fn a_host_inside_is_reached_by_a_published_port() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&masquerading());
    echo::serve(&scene.lab, Host::Client);
    let script = "import socket; s = socket.create_connection(('10.2.0.1', 7007), 3); s.sendall(b'hello'); print(s.recv(5).decode())";
    let heard = scene.run(Host::ServerA, &["python3", "-c", script]).stdout;
    assert_eq!(heard.trim(), "hello");
}

#[test]
fn a_new_address_outside_is_masqueraded_as() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&masquerading());
    assert!(scene.pings(Host::Client, "10.2.0.10", 2));
    scene.run(Host::Box, &["ip", "address", "add", "10.2.0.77/24", "dev", "wan0"]);
    scene.run(Host::Box, &["ip", "address", "del", "10.2.0.1/24", "dev", "wan0"]);
    scene.run(Host::Box, &["ip", "address", "add", "10.2.0.77/24", "dev", "wan0"]);
    eventually("the new address is used", Duration::from_secs(5), || {
        scene.pings(Host::Client, "10.2.0.10", 1).then_some(())
    });
}

#[test]
fn sessions_are_cleared_by_what_is_asked_for_and_no_others() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::new();
    scene.start_with(
        "interfaces: { lan: { device: lan0 }, wan: { device: wan0 } }\n\
         workers: { cores: [0] }\nfunctions:\n  \
         edge: { firewall: { default: drop, rules: [ { allow: { from: lan } } ] } }\n  \
         outer: { nat: { outside: wan, source: [ { match: { source: 10.1.0.0/16 }, masquerade: true }, \
         { match: { source: \"fd00:1::/32\" }, masquerade: true } ] } }\n  \
         core: { router: { table: main } }\nchains:\n  \
         outbound: { from: lan, run: [edge, outer, core] }\n  inbound: { from: wan, run: [outer, edge, core] }\n",
    );
    echo::serve(&scene.lab, Host::ServerA);
    let open = |to: &str| {
        let to = to.parse().expect("an address");
        let mut connection = Connection::open(&scene.lab, Host::Client, to).expect("it connects");
        connection.exchange().expect("it is echoed");
        connection
    };
    let (mut first, _second) = (open("10.2.0.10"), open("fd00:2::10"));
    assert!(scene.pings(Host::Client, "10.2.0.10", 1));
    let count = |what: &str| scene.show(&format!("sessions {what}")).as_array().map_or(0, Vec::len);
    let cleared = |arguments: &[&str]| {
        let output = scene.ask(&[&["sessions", "clear"], arguments].concat());
        assert!(output.status.success(), "{}", output.stderr);
        output.stdout.trim().to_owned()
    };
    // Each connection and the ping: a session in the NAT and one in the firewall.
    let all = ["--function outer --protocol 6", "--function edge --protocol 6", "--protocol 1"].map(count);
    assert_eq!(all, [2, 2, 2]);
    // Without a word nothing goes.
    let nothing = scene.ask(&["sessions", "clear"]);
    assert_eq!(
        (nothing.status.code(), all),
        (
            Some(2),
            ["--function outer --protocol 6", "--function edge --protocol 6", "--protocol 1"].map(count)
        )
    );
    assert!(nothing.stderr.contains("--all"), "{}", nothing.stderr);
    assert_eq!(cleared(&["--function", "nobody"]), "0 sessions cleared");
    // What all conditions hold for goes: one connection's session in one function.
    assert_eq!(
        cleared(&["--function", "outer", "--protocol", "6", "--address", "fd00:2::10"]),
        "1 sessions cleared"
    );
    assert_eq!(count("--function outer --protocol 6"), 1);
    assert_eq!(count("--function edge --protocol 6"), 2);
    first.exchange().expect("the other connection goes on");
    assert_eq!(cleared(&["--protocol", "1"]), "2 sessions cleared");
    assert_eq!(count("--protocol 1"), 0);
    let all = scene.show("sessions").as_array().map_or(0, Vec::len);
    assert_eq!(cleared(&["--all"]), format!("{all} sessions cleared"));
    assert_eq!(count("--function outer"), 0);
}
