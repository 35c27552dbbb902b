//! State that ends or changes while the XDP program forwards by itself: nothing stale is executed, and nothing else is lost.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use throughway_lab::Host;
use throughway_lab::topology::{DMZ, LAN, WAN};
use throughway_tests::backends::{Backend, at};
use throughway_tests::config::Config;
use throughway_tests::pktgen::{Generator, Sink, bearable_rate, frames, until_quiet};
use throughway_tests::stream::Stream;
use throughway_tests::{Scene, eventually, note, privileged};

const VIP: &str = "198.51.100.80";
/// Where backends say that they live.
const HEALTH: u16 = 8001;

fn eager() -> Config {
    Config { fast_path: Some("eager"), ..Config::default() }
}

/// Waits until flows with that port run in the XDP program, so many of them.
fn until_executed(scene: &Scene, port: u16, flows: usize) {
    eventually("the XDP program has the flows", Duration::from_secs(10), || {
        let rows = scene.show(&format!("flows --port {port}"));
        let rows = rows.as_array().expect("rows");
        let executed =
            rows.iter().filter(|row| row["runs_in"].as_str().is_some_and(|at| at.starts_with("xdp")));
        (executed.count() >= flows).then_some(())
    });
}

#[test]
fn a_backend_that_dies_gets_nothing_once_it_is_down() {
    if !privileged() {
        return;
    }
    let mut config = eager();
    let servers = [Host::ServerA, Host::ServerB];
    let backends = servers.map(|host| format!("{{ address: {} }}", host.ipv4())).join(", ");
    let health = format!("{{ tcp: true, port: {HEALTH}, interval: 50ms, timeout: 50ms, rise: 2, fall: 2 }}");
    config.functions.push((
        "front",
        format!(
            "{{ load-balancer: {{ services: [ {{ name: stream, vip: {VIP}, port: 9001, protocol: udp, \
             forward: dsr, backends: [ {backends} ], health: {health} }} ] }} }}"
        ),
    ));
    config.run.insert(0, "front");
    let scene = Scene::running(&config);
    for host in servers {
        scene.run(host, &["ip", "address", "add", &format!("{VIP}/32"), "dev", "lo"]);
        assert!(scene.pings(Host::Client, &host.ipv4().to_string(), 2));
    }
    let mut alive = servers.map(|host| Some(Backend::start(&scene.lab, host, at(host.ipv4(), HEALTH))));
    let state = |host: Host, state: &str| {
        eventually(&format!("{host:?} is {state}"), Duration::from_secs(5), || {
            let rows = scene.show("backends");
            let name = host.ipv4().to_string();
            let mut rows = rows.as_array().expect("rows").iter();
            let is = rows.any(|row| {
                row["backend"].as_str().is_some_and(|backend| backend.starts_with(&name))
                    && row["state"] == state
            });
            is.then_some(())
        });
    };
    servers.iter().for_each(|host| state(*host, "up"));
    let stream = Stream::start(&scene, &servers, VIP.parse().expect("an address"));
    until_executed(&scene, 9001, 1);
    let rows = scene.show("flows --port 9001");
    let egress = rows[0]["egress"].as_str().expect("an egress");
    let (chosen, other) = if egress == "wan" { (0, 1) } else { (1, 0) };
    alive[chosen] = None;
    state(servers[chosen], "down");
    // What was under way arrives before this.
    let told = Instant::now() + Duration::from_millis(20);
    eventually("the stream has moved, and runs in the XDP program again", Duration::from_secs(5), || {
        let rows = scene.show("flows --port 9001");
        let moved = rows.as_array().expect("rows").iter().any(|row| {
            row["egress"] != egress && row["runs_in"].as_str().is_some_and(|at| at.starts_with("xdp"))
        });
        moved.then_some(())
    });
    let arrived = stream.finish();
    assert!(arrived.by_host[chosen].len() > 10, "the first one had it before");
    let stale = arrived.first_after(chosen, told);
    assert!(
        stale.is_none(),
        "a stale action was executed, {:?} after it was told",
        stale.map(|at| at - told)
    );
    assert!(arrived.by_host[other].len() > 10, "the other one has it now");
    assert_eq!(arrived.arrived(), arrived.sent, "none is lost");
}

#[test]
fn a_mapping_ends_in_silence_and_its_port_is_closed() {
    if !privileged() {
        return;
    }
    let mut config = eager();
    let nat = "{ nat: { outside: wan, source: [ { match: { source: 10.1.0.0/16 }, masquerade: true, \
               filtering: endpoint-independent } ], timeouts: { udp: 6s, udp-stream: 6s } } }";
    config.functions.push(("outer", nat.to_owned()));
    config.run.insert(0, "outer");
    let rate = bearable_rate();
    let scene = Scene::running(&config);
    let [to, _] = Host::ServerA.addresses();
    eventually("the path", Duration::from_secs(10), || {
        scene.pings(Host::Client, &to.to_string(), 1).then_some(())
    });
    // Other flows are there all the time, as many packets as the machine bears, and notice nothing.
    let sink = Sink::start(&scene, Host::ServerA);
    let flows = format!("--duration 60s --flows 64 --source 10.1.0.128/26 --destination {to}");
    // Of sockets, and of devices, whose rings hold but 256 frames: what a busy machine loses is nobody's fault here.
    let overrun = || {
        let devices: u64 = [LAN, WAN, DMZ].iter().map(|link| frames(&scene, Host::Box, link.device).1).sum();
        scene.page().sum("throughway_xsk_rx_dropped_total", &[]) as u64 + devices
    };
    let before = overrun();
    let beside = Generator::start(&scene, Some(rate), &flows);
    // While they are new they are the workers', who may have no room for all.
    eventually("the XDP program has them", Duration::from_secs(10), || {
        let executed = scene.page().sum("throughway_fast_path_packets_total", &[]);
        (executed >= rate as f64 / 4.0).then_some(())
    });
    let bound = |host: Host, port: u16| {
        let socket = scene.lab.within(host, || UdpSocket::bind((IpAddr::V4(host.ipv4()), port)));
        let socket = socket.expect("the host is there").expect("the port is free");
        socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout can be set");
        socket
    };
    let (client, server) = (bound(Host::Client, 4000), bound(Host::ServerA, 5000));
    client.connect(SocketAddr::new(to, 5000)).expect("there is a route");
    let exchange = |number: u8| {
        client.send(&[number]).expect("it is sent");
        let mut byte = [0];
        let (_, from) = server.recv_from(&mut byte).expect("it arrives");
        server.send_to(&byte, from).expect("it is sent");
        assert_eq!((client.recv(&mut byte).ok(), byte), (Some(1), [number]), "the answer comes back");
        from
    };
    let mapped = exchange(0);
    assert_eq!(mapped.ip(), "10.2.0.1".parse::<IpAddr>().expect("an address"));
    (1..50).for_each(|number| assert_eq!(exchange(number), mapped));
    until_executed(&scene, 5000, 2);
    assert_eq!(exchange(50), mapped);
    let silent_since = Instant::now();
    eventually("the session ends", Duration::from_secs(15), || {
        scene.show("sessions --port 5000").as_array().expect("rows").is_empty().then_some(())
    });
    let ended = silent_since.elapsed();
    assert!(ended < Duration::from_secs(15), "a session of six seconds ended after {ended:?} of silence");
    server.send_to(b"late", mapped).expect("it is sent");
    let mut late = [0; 4];
    assert!(client.recv(&mut late).is_err(), "the mapping is no more, and its packets passed");
    // And it begins anew.
    exchange(51);
    let sent = beside.stop();
    until_quiet(&scene);
    let counted = sink.finish();
    note(&format!("beside {rate} packets a second: {sent} sent, {counted:?}"));
    assert!(sent > rate, "{sent} at {rate} a second");
    let overrun = overrun() - before;
    assert_eq!(
        (counted.packets + overrun, counted.duplicates),
        (sent, 0),
        "the other flows lose nothing else"
    );
}
