//! The load balancer with clients that notice everything.

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
