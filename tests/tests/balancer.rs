//! The load balancer with real clients and servers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use throughway_lab::Host;
use throughway_tests::backends::{Asked, Backend, Client, Load, at};
use throughway_tests::config::Config;
use throughway_tests::{Scene, eventually, privileged};

const VIP: &str = "198.51.100.80";

/// Backends on each of two servers.
const EACH: u16 = 4;

fn vip() -> SocketAddr {
    at(VIP.parse::<IpAddr>().expect("an address"), 80)
}

fn places() -> Vec<(Host, SocketAddr)> {
    let hosts = [Host::ServerA, Host::ServerB];
    hosts.iter().flat_map(|host| (0..EACH).map(|n| (*host, at(host.ipv4(), 8001 + n)))).collect()
}

fn start_all(scene: &Scene) -> Vec<Backend> {
    places().iter().map(|(host, place)| Backend::start(&scene.lab, *host, *place)).collect()
}

/// A service over these backends, with their weights, in front of the router.
fn balanced(vip: &str, more: &str, backends: impl IntoIterator<Item = (SocketAddr, u16)>) -> Config {
    let backends: Vec<String> = backends
        .into_iter()
        .map(|(place, weight)| {
            format!("{{ address: {}, port: {}, weight: {weight} }}", place.ip(), place.port())
        })
        .collect();
    let service = format!(
        "{{ name: web, vip: {vip}, port: 80, protocol: tcp, backends: [ {} ]{more} }}",
        backends.join(", ")
    );
    let function = format!("{{ load-balancer: {{ services: [ {service} ] }} }}");
    let mut config = Config { run: vec!["front", "core"], ..Config::default() };
    config.functions.push(("front", function));
    config
}

fn even() -> impl Iterator<Item = (SocketAddr, u16)> {
    places().into_iter().map(|(_, place)| (place, 1))
}

const CHECK: &str = ", health: { http: /, body: I am, interval: 100ms, timeout: 100ms, rise: 2, fall: 2 }";

fn row(scene: &Scene, backend: SocketAddr) -> serde_json::Value {
    let rows = scene.show("backends");
    let rows = rows.as_array().expect("a list").clone();
    let name = backend.to_string();
    rows.into_iter().find(|row| row["backend"] == name.as_str()).unwrap_or_default()
}

#[track_caller]
fn becomes(scene: &Scene, backend: SocketAddr, state: &str) {
    eventually(&format!("{backend} is {state}"), Duration::from_secs(5), || {
        (row(scene, backend)["state"] == state).then_some(())
    });
}

fn failures(all: &[Asked]) -> Vec<&Asked> {
    all.iter().filter(|(_, answer)| answer.is_err()).collect()
}

#[test]
fn connections_are_spread_by_weight_and_their_answers_come_from_the_service() {
    if !privileged() {
        return;
    }
    let weights = [1u16, 1, 2, 2, 3, 3, 4, 4];
    let backends = places().into_iter().map(|(_, place)| place).zip(weights);
    let config = balanced(VIP, "", backends);
    let scene = Scene::running(&config);
    let _servers = start_all(&scene);
    // Addresses and ports are always the same, and so is what comes of them.
    const CLIENTS: u8 = 4;
    const PORTS: u16 = 6000;
    let threads = (0..CLIENTS).map(|client| {
        let from: IpAddr = [10, 1, 0, 100 + client].into();
        scene.run(Host::Client, &["ip", "address", "add", &format!("{from}/24"), "dev", "eth0"]);
        scene.lab.thread(Host::Client, move || {
            let mut counts = BTreeMap::<String, u32>::new();
            for port in 10_000..10_000 + PORTS {
                let served = Client::connect(Some(at(from, port)), vip()).and_then(|mut client| client.ask());
                *counts.entry(served.unwrap_or_else(|error| error.to_string())).or_default() += 1;
            }
            counts
        })
    });
    let mut counts = BTreeMap::<String, u32>::new();
    for thread in threads.collect::<Vec<_>>() {
        for (name, count) in thread.join().expect("no panic").expect("the namespace is there") {
            *counts.entry(name).or_default() += count;
        }
    }
    eprintln!("{counts:?}");
    let all = f64::from(CLIENTS) * f64::from(PORTS);
    let whole: u16 = weights.iter().sum();
    for ((_, place), weight) in places().into_iter().zip(weights) {
        let count = f64::from(counts.remove(&place.to_string()).unwrap_or_default());
        let expected = all * f64::from(weight) / f64::from(whole);
        assert!((count / expected - 1.0).abs() < 0.05, "{place}: {count} for {expected}");
        let row = row(&scene, place);
        assert_eq!((row["state"].as_str(), row["connections"].as_f64()), (Some("up"), Some(count)), "{row}");
    }
    assert!(counts.is_empty(), "{counts:?}");
    let page = scene.page();
    assert_eq!(page.sum("throughway_backend_connections_total", &[("service", "web")]), all);
    assert_eq!(page.sum("throughway_balancer_hash_only_packets_total", &[]), 0.0);
}

#[test]
fn a_backend_that_dies_takes_nobody_with_it_and_gets_nobody_new() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&balanced(VIP, CHECK, even()));
    let mut servers = start_all(&scene);
    for (_, place) in places() {
        becomes(&scene, place, "up");
    }
    let held = scene.lab.within(Host::Client, || {
        let mut held = Vec::new();
        for _ in 0..64 {
            let mut client = Client::connect(None, vip()).expect("it is served");
            let name = client.ask().expect("it is served");
            held.push((client, name));
        }
        held
    });
    let mut held = held.expect("the namespace is there");
    let (_, dead) = places()[0];
    let load = Load::start(&scene.lab, Host::Client, vip());
    load.let_pass(200);
    let killed = Instant::now();
    drop(servers.remove(0));
    becomes(&scene, dead, "down");
    let noticed = Instant::now();
    // Two checks in a row, each after an interval and its jitter.
    assert!(noticed - killed < Duration::from_millis(1000), "{:?}", noticed - killed);
    let told = row(&scene, dead);
    assert!(told["why"].as_str().is_some_and(|why| why.contains("refused")), "{told}");
    load.let_pass(2000);
    let all = load.finish();
    let late: Vec<_> = failures(&all).into_iter().filter(|(begun, _)| *begun > noticed).collect();
    assert!(late.is_empty(), "after it was noticed: {late:?}");
    let early = failures(&all);
    assert!(early.iter().all(|(begun, _)| *begun > killed - Duration::from_millis(100)), "{early:?}");
    assert!(all.iter().any(|(_, answer)| *answer == Ok(dead.to_string())), "it had its share before");
    // Those of the others do not notice.
    let mut others = 0;
    for (client, name) in &mut held {
        let answer = client.ask();
        if *name != dead.to_string() {
            others += 1;
            assert_eq!(answer.ok().as_ref(), Some(&*name));
        }
    }
    assert!((40..64).contains(&others), "{others}");
    servers.push(Backend::start(&scene.lab, Host::ServerA, dead));
    becomes(&scene, dead, "up");
    let load = Load::start(&scene.lab, Host::Client, vip());
    load.let_pass(1000);
    let all = load.finish();
    assert!(failures(&all).is_empty(), "{:?}", failures(&all));
    assert!(all.iter().any(|(_, answer)| *answer == Ok(dead.to_string())), "it has its share again");
}

#[test]
fn reloads_and_drains_under_load_fail_no_request() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::running(&balanced(VIP, CHECK, even().skip(1)));
    let _servers = start_all(&scene);
    let (_, first) = places()[0];
    let (_, last) = places()[2 * usize::from(EACH) - 1];
    for (_, place) in &places()[1..] {
        becomes(&scene, *place, "up");
    }
    let held = scene.lab.within(Host::Client, || {
        let connect = |_| Client::connect(None, vip()).expect("it is served");
        (0..64).map(connect).collect::<Vec<_>>()
    });
    let mut held = held.expect("the namespace is there");
    let names: Vec<String> = held.iter_mut().map(|client| client.ask().expect("it is served")).collect();
    assert!(names.contains(&last.to_string()), "{names:?}");
    let load = Load::start(&scene.lab, Host::Client, vip());
    load.let_pass(300);
    for round in 0..6 {
        // One comes and one goes; and back.
        let config = if round % 2 == 0 {
            balanced(VIP, CHECK, even().take(2 * usize::from(EACH) - 1))
        } else {
            balanced(VIP, CHECK, even().skip(1))
        };
        scene.write(&config.yaml());
        let output = scene.reload();
        assert!(output.status.success(), "{}{}", output.stdout, output.stderr);
        load.let_pass(300);
        let gone = if round % 2 == 0 { last } else { first };
        let state = row(&scene, gone);
        assert!(state["state"] == "removed" || state.is_null(), "{state}");
    }
    let drained = places()[4].1;
    let output = scene.ask(&["backend", "drain", "front", &drained.to_string(), "--for", "5m"]);
    assert!(output.status.success() && output.stdout.contains("web/"), "{}{}", output.stdout, output.stderr);
    assert_eq!(row(&scene, drained)["state"], "draining");
    let since = Instant::now();
    load.let_pass(1000);
    let all = load.finish();
    assert!(failures(&all).is_empty(), "{:?}", failures(&all));
    let given = all.iter().filter(|(begun, answer)| *begun > since && *answer == Ok(drained.to_string()));
    assert_eq!(given.count(), 0, "a drained backend gets nobody");
    assert!(all.iter().any(|(_, answer)| *answer == Ok(first.to_string())), "it was there for a while");
    // Whoever was there is where it was: also with the backend that went and came back, and with the drained one.
    assert!(names.contains(&drained.to_string()), "{names:?}");
    for (client, name) in held.iter_mut().zip(&names) {
        assert_eq!(client.ask().ok().as_ref(), Some(name));
    }
    let output = scene.ask(&["backend", "undrain", "front", &format!("web/{drained}")]);
    assert!(output.status.success(), "{}{}", output.stdout, output.stderr);
    becomes(&scene, drained, "up");
    assert_eq!(scene.ask(&["backend", "drain", "front", "192.0.2.1"]).status.code(), Some(1));
    assert_eq!(scene.ask(&["backend", "drain", "core", "192.0.2.1"]).status.code(), Some(1));
}

#[test]
fn a_local_address_is_a_service_and_its_sources_are_ours() {
    if !privileged() {
        return;
    }
    // The box's own address on the LAN: what a socket of the box owns is still the box's.
    let own = Host::Box.ipv4();
    let scene = Scene::running(&balanced(&own.to_string(), ", source-nat: true", even()));
    let _servers = start_all(&scene);
    let served = scene.lab.within(Host::Client, || {
        let asked = (0..50).map(|_| Client::connect(None, at(own, 80)).and_then(|mut client| client.ask()));
        asked.collect::<Vec<_>>()
    });
    let served = served.expect("the namespace is there");
    assert!(served.iter().all(Result::is_ok), "{served:?}");
    assert!(served.iter().flatten().any(|name| name.starts_with("10.2.")), "{served:?}");
    assert!(served.iter().flatten().any(|name| name.starts_with("10.3.")), "{served:?}");
    let _socket = Backend::start(&scene.lab, Host::Box, at(own, 2222));
    let answer = scene
        .lab
        .within(Host::Client, || Client::connect(None, at(own, 2222)).and_then(|mut client| client.ask()));
    assert_eq!(answer.expect("the namespace is there").ok(), Some(format!("{own}:2222")));
}

#[test]
fn direct_server_return_and_no_backend_at_all() {
    if !privileged() {
        return;
    }
    let service = format!(
        "{{ name: direct, vip: {VIP}, port: 80, protocol: tcp, forward: dsr, backends: [ {{ address: 10.2.0.10 }}, {{ address: 10.3.0.10 }} ] }}"
    );
    let dead = "{ name: dead, vip: 198.51.100.81, port: 80, protocol: tcp, backends: [ { address: 10.2.0.10, port: 9, weight: 0 } ] }";
    let function = format!("{{ load-balancer: {{ services: [ {service}, {dead} ] }} }}");
    let mut config = Config { run: vec!["front", "core"], ..Config::default() };
    config.functions.push(("front", function));
    let scene = Scene::running(&config);
    let mut servers = Vec::new();
    for host in [Host::ServerA, Host::ServerB] {
        scene.run(host, &["ip", "address", "add", &format!("{VIP}/32"), "dev", "lo"]);
        servers.push(Backend::start(&scene.lab, host, vip()));
    }
    let served = scene.lab.within(Host::Client, || {
        let asked = (0..50).map(|_| Client::connect(None, vip()).and_then(|mut client| client.ask()));
        asked.collect::<Vec<_>>()
    });
    let served = served.expect("the namespace is there");
    assert!(served.iter().all(Result::is_ok), "{served:?}");
    for backend in ["10.2.0.10", "10.3.0.10"] {
        let rows = scene.show("backends");
        let row = rows.as_array().and_then(|rows| rows.iter().find(|row| row["backend"] == backend).cloned());
        assert!(row.as_ref().and_then(|row| row["connections"].as_u64()) > Some(5), "{row:?}");
    }
    let refused = scene.lab.within(Host::Client, || {
        Client::connect(None, at("198.51.100.81".parse::<IpAddr>().expect("an address"), 80)).err()
    });
    let kind = refused.expect("the namespace is there").map(|error| error.kind());
    assert_eq!(kind, Some(std::io::ErrorKind::ConnectionRefused), "a reset comes at once");
}
