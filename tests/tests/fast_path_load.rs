//! Changes while the XDP program forwards all that there is: flows go elsewhere from the moment at which the change is told on, and
//! not a packet gets lost. All flows go to one server, then to the other, so that it is seen who got what.

use std::cell::RefCell;
use std::time::Duration;

use throughway_lab::Host;
use throughway_lab::topology::{DMZ, LAN, WAN};
use throughway_tests::backends::{Backend, at};
use throughway_tests::config::Config;
use throughway_tests::pktgen::{Counted, Generator, Sink, bearable_rate, frames, received, until_quiet};
use throughway_tests::{Scene, eventually, note, privileged};

const SERVERS: [Host; 2] = [Host::ServerA, Host::ServerB];
/// Within this time something happens, on a busy machine.
const SOON: Duration = Duration::from_secs(10);
/// What may be under way when a change returns: rings of ours and of the kernel's hold no more.
const UNDER_WAY: u64 = 65_536;
/// Frames that a server gets beside: neighbour discovery and the like.
const CHATTER: u64 = 16;
/// Where the generator sends to, and its flows.
const FLOWS: &str = "--flows 64 --source 198.18.0.0/26 --destination 198.19.0.1 --destination-ports 9-9";
const FLOWS6: &str = "--family ipv6 --size 84 --flows 64 --source 2001:2::/122 --destination 2001:2:0:1::1 --destination-ports 9-9";

fn eager() -> Config {
    Config { fast_path: Some("eager"), ..Config::default() }
}

/// A router with a static route to one server.
fn to(server: usize) -> Config {
    let mut config = eager();
    let via = SERVERS[server].ipv4();
    config.functions[0].1 =
        format!("{{ router: {{ table: main, routes: [ {{ prefix: 198.19.0.0/16, via: {via} }} ] }} }}");
    config
}

fn executed(scene: &Scene) -> f64 {
    scene.page().sum("throughway_fast_path_packets_total", &[])
}

/// What sockets and devices have no room for: a device counts what its sockets lose, too.
fn overrun(scene: &Scene) -> u64 {
    [LAN, WAN, DMZ].iter().map(|link| frames(scene, Host::Box, link.device).1).sum()
}

/// Moves all flows to that server; returns when it is told.
type Change<'a> = dyn FnMut(&mut Scene, usize) + 'a;

/// What a change under load has shown.
#[derive(Debug)]
struct Shown {
    sent: u64,
    arrived: u64,
    duplicates: u64,
    /// Frames that the first server still got after it was told that it would get none.
    stale: u64,
    /// What sockets had no room for while flows were the workers', and rings of devices.
    overrun: u64,
}

impl Shown {
    fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.arrived)
    }
}

/// Sends; does `change`, which returns when it is told and moves all flows from one server to the other; sends on. Without a change
/// it takes as long and shows what the machine loses by itself.
#[track_caller]
fn under_load(
    scene: &mut Scene,
    flows: &str,
    rate: Option<u64>,
    from: usize,
    change: Option<&mut Change<'_>>,
) -> Shown {
    let overrun_before = overrun(scene);
    let sinks = SERVERS.map(|host| Sink::start(scene, host));
    let executed_before = executed(scene);
    let generator = Generator::start(scene, rate, &format!("{flows} --duration 60s"));
    let enough = rate.unwrap_or(400_000) / 4;
    eventually("the XDP program executes", SOON, || {
        (executed(scene) >= executed_before + enough as f64).then_some(())
    });
    let stale = match change {
        None => {
            let until = received(scene, SERVERS[from]) + 4 * enough;
            eventually("packets arrive", SOON, || (received(scene, SERVERS[from]) >= until).then_some(()));
            0
        }
        Some(change) => {
            change(scene, 1 - from);
            // What was under way arrives before this, however long workers and rings take: then the first server gets nothing more while
            // the other gets what there is.
            let mut last = [from, 1 - from].map(|server| received(scene, SERVERS[server]));
            let returned = last[0];
            eventually("what was under way has arrived", SOON, || {
                let now = [from, 1 - from].map(|server| received(scene, SERVERS[server]));
                if now[0] > last[0] + CHATTER {
                    last = now;
                }
                (now[1] >= last[1] + enough / 4).then_some(())
            });
            let (told, executed_before) = (received(scene, SERVERS[from]), executed(scene));
            let late = told - returned;
            assert!(
                late <= UNDER_WAY.min(rate.unwrap_or(u64::MAX)),
                "{late} packets went the old way after the change"
            );
            let until = received(scene, SERVERS[1 - from]) + enough;
            eventually("the other server has all of it, by the XDP program", SOON, || {
                let moved = received(scene, SERVERS[1 - from]) >= until;
                (moved && executed(scene) >= executed_before + enough as f64).then_some(())
            });
            received(scene, SERVERS[from]) - told
        }
    };
    let sent = generator.stop();
    until_quiet(scene);
    let counted = sinks.map(Sink::finish);
    let sum = |of: fn(&Counted) -> u64| counted.iter().map(of).sum();
    Shown {
        sent,
        arrived: sum(|counted| counted.packets),
        duplicates: sum(|counted| counted.duplicates),
        stale,
        overrun: overrun(scene) - overrun_before,
    }
}

/// A change at the highest rate that the workers bear, as its flows are theirs for a moment; a loss is held against it only where the
/// machine loses nothing without a change. Then one at the highest rate that there is, where what sockets have no room for is lost,
/// and counted.
fn moves(what: &str, scene: &mut Scene, flows: &str, mut change: impl FnMut(&mut Scene, usize)) {
    for host in SERVERS {
        for address in [host.ipv4().to_string(), host.ipv6().to_string()] {
            eventually("the path", SOON, || scene.pings(Host::Client, &address, 1).then_some(()));
        }
    }
    let (mut rate, mut from, mut blamed) = (bearable_rate(), 0, 0);
    loop {
        let shown = under_load(scene, flows, Some(rate), from, Some(&mut change));
        from = 1 - from;
        note(&format!("{what}, {rate} packets a second: {shown:?}"));
        assert!(shown.stale <= CHATTER && shown.duplicates == 0, "{what}: {shown:?}");
        if shown.lost() == 0 {
            break;
        }
        let control = under_load(scene, flows, Some(rate), from, None);
        if control.lost() == 0 {
            blamed += 1;
            assert!(blamed < 3, "{what} loses packets: {shown:?}");
        } else {
            rate = rate * 2 / 3;
            assert!(rate >= 5_000, "{what}: not even {rate} packets a second are carried");
        }
    }
    let shown = under_load(scene, flows, None, from, Some(&mut change));
    note(&format!("{what}, as many as there can be: {shown:?}"));
    assert!(shown.stale <= CHATTER && shown.duplicates == 0, "{what}: {shown:?}");
    assert_eq!(shown.lost(), shown.overrun, "{what}: nothing is lost that nobody counts: {shown:?}");
}

#[test]
fn a_reload_moves_all_flows() {
    if !privileged() {
        return;
    }
    bearable_rate();
    let mut scene = Scene::running(&to(0));
    moves("reload", &mut scene, FLOWS, |scene, server| {
        scene.write(&to(server).yaml());
        let output = scene.reload();
        assert!(output.status.success(), "{}{}", output.stdout, output.stderr);
    });
}

#[test]
fn a_route_of_the_kernels_moves_all_flows_of_either_family() {
    if !privileged() {
        return;
    }
    bearable_rate();
    let mut scene = Scene::running(&eager());
    let set = |scene: &Scene, prefix: &str, address: &str, via: &str| {
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        scene.run(Host::Box, &["ip", family, "route", "replace", prefix, "via", via]);
        // The service says which route counts once it does.
        eventually("the route counts", SOON, || {
            let said = scene.ask(&["show", "routes", "--lookup", address]).stdout;
            said.contains(via).then_some(())
        });
    };
    let ipv4 = |scene: &Scene, server: usize| {
        set(scene, "198.19.0.0/16", "198.19.0.1", &SERVERS[server].ipv4().to_string());
    };
    let ipv6 = |scene: &Scene, server: usize| {
        set(scene, "2001:2:0:1::/64", "2001:2:0:1::1", &SERVERS[server].ipv6().to_string());
    };
    ipv4(&scene, 0);
    ipv6(&scene, 0);
    moves("route", &mut scene, FLOWS, |scene, server| ipv4(scene, server));
    moves("IPv6 route", &mut scene, FLOWS6, |scene, server| ipv6(scene, server));
}

#[test]
fn the_death_of_a_backend_moves_all_flows() {
    if !privileged() {
        return;
    }
    const HEALTH: u16 = 8001;
    bearable_rate();
    let mut config = eager();
    let backends = SERVERS.map(|host| format!("{{ address: {} }}", host.ipv4())).join(", ");
    let health =
        format!("{{ tcp: true, port: {HEALTH}, interval: 200ms, timeout: 200ms, rise: 1, fall: 3 }}");
    config.functions.push((
        "front",
        format!(
            "{{ load-balancer: {{ services: [ {{ name: all, vip: 198.19.0.1, port: 9, protocol: udp, \
             backends: [ {backends} ], health: {health} }} ] }} }}"
        ),
    ));
    config.run.insert(0, "front");
    let mut scene = Scene::running(&config);
    let alive: RefCell<[Option<Backend>; 2]> = RefCell::new([None, None]);
    let live = |scene: &Scene, server: usize| {
        let host = SERVERS[server];
        alive.borrow_mut()[server] = Some(Backend::start(&scene.lab, host, at(host.ipv4(), HEALTH)));
        until(scene, host, "up");
    };
    live(&scene, 0);
    until(&scene, SERVERS[1], "down");
    moves("backend", &mut scene, FLOWS, |scene, server| {
        live(scene, server);
        alive.borrow_mut()[1 - server] = None;
        until(scene, SERVERS[1 - server], "down");
    });
}

/// Waits until the balancer says so of a backend.
#[track_caller]
fn until(scene: &Scene, host: Host, state: &str) {
    eventually(&format!("{host:?} is {state}"), SOON, || {
        let (rows, name) = (scene.show("backends"), host.ipv4().to_string());
        let mut rows = rows.as_array().expect("rows").iter();
        let is = rows.any(|row| {
            row["backend"].as_str().is_some_and(|backend| backend.starts_with(&name)) && row["state"] == state
        });
        is.then_some(())
    });
}
