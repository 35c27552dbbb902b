//! The ways from the load balancer to its backends: direct return and tunnels with backends as Linux hosts are set up for them, and
//! what the paths take.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use throughway_lab::Host;
use throughway_tests::backends::at;
use throughway_tests::config::Config;
use throughway_tests::nginx::{HttpClient, Nginx};
use throughway_tests::pktgen::Sink;
use throughway_tests::raw::{Decapsulator, send_too_big};
use throughway_tests::{Scene, eventually, privileged};

const VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 80);
const SERVERS: [Host; 2] = [Host::ServerA, Host::ServerB];

fn config(services: &[&str]) -> Config {
    let function = format!("{{ load-balancer: {{ services: [ {} ] }} }}", services.join(", "));
    let mut config = Config { run: vec!["front", "core"], ..Config::default() };
    config.functions.push(("front", function));
    config
}

/// The service's address as backends of direct return and of tunnels have it: on the loopback, and not told to neighbours.
fn own_the_vip(scene: &Scene, host: Host) {
    for (setting, value) in [("arp_ignore", 1), ("arp_announce", 2), ("rp_filter", 0)] {
        let write = format!("echo {value} >/proc/sys/net/ipv4/conf/all/{setting}");
        scene.run(host, &["sh", "-c", &write]);
    }
    scene.run(host, &["ip", "address", "add", &format!("{VIP}/32"), "dev", "lo"]);
}

fn connections(scene: &Scene, service: &str) -> Vec<u64> {
    let rows = scene.show(&format!("backends --service {service}"));
    let rows = rows.as_array().expect("a list").clone();
    rows.iter().map(|row| row["connections"].as_u64().expect("a number")).collect()
}

/// Who serves `count` connections of the client to port 80 of the service.
fn ask(scene: &Scene, count: usize) -> Vec<String> {
    let asked = scene.lab.within(Host::Client, || {
        let one = |_| {
            let stream = TcpStream::connect_timeout(&(VIP, 80).into(), Duration::from_secs(3))?;
            stream.set_read_timeout(Some(Duration::from_secs(3)))?;
            HttpClient::over(stream).ask()
        };
        (0..count).map(|number| one(number).expect("it is served")).collect()
    });
    asked.expect("the namespace is there")
}

/// What the client's kernel finds out about the path to an address.
fn path_mtu(scene: &Scene, to: &str) -> Option<u16> {
    let output = scene.run(Host::Client, &["tracepath", "-n", "-m", "4", to]);
    // The last word counts: what is found on the way is told on the way.
    let words: Vec<&str> = output.stdout.split_whitespace().collect();
    words.windows(2).filter(|pair| pair[0] == "pmtu").filter_map(|pair| pair[1].parse().ok()).next_back()
}

/// Sends a megabyte to port 9 of the service, in segments as large as the client's kernel believes; the backend counts.
#[track_caller]
fn upload(scene: &Scene, host: Host) {
    const SIZE: usize = 1 << 20;
    let listener = scene.lab.within(host, || TcpListener::bind((VIP, 9)));
    let listener = listener.expect("the namespace is there").expect("the port is free");
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let (mut buffer, mut count) = (vec![0; 65_536], 0);
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok::<usize, std::io::Error>(count),
                len => count += len,
            }
        }
    });
    let sent = scene.lab.within(Host::Client, || {
        let mut stream = TcpStream::connect_timeout(&(VIP, 9).into(), Duration::from_secs(3))?;
        stream.write_all(&vec![7; SIZE])
    });
    sent.expect("the namespace is there").expect("it is sent");
    assert_eq!(server.join().expect("no panic").expect("it is read"), SIZE);
}

#[test]
fn direct_server_return_with_the_address_on_the_loopback() {
    if !privileged() {
        return;
    }
    let both = "backends: [ { address: 10.2.0.10 }, { address: 10.3.0.10 } ]";
    let web = format!(
        "{{ name: direct, vip: {VIP}, forward: dsr, answer-ping: true, port: [7, 9, 80], protocol: [tcp, udp], {both}, health: {{ tcp: true, port: 80, interval: 100ms }} }}"
    );
    // The link to server b takes 1400 bytes.
    let narrow = "{ name: narrow, vip: 198.51.100.81, forward: dsr, protocol: udp, backends: [ { address: 10.3.0.10 } ] }";
    let nat = "{ name: nat, vip: 198.51.100.82, protocol: udp, backends: [ { address: 10.3.0.10 } ] }";
    let full = "{ name: full, vip: 198.51.100.83, protocol: udp, source-nat: true, backends: [ { address: 10.3.0.10 } ] }";
    let dead = "{ name: dead, vip: 198.51.100.84, port: 80, protocol: tcp, backends: [ { address: 10.2.0.10, port: 9, weight: 0 } ] }";
    let scene = Scene::running(&config(&[&web, narrow, nat, full, dead]));
    let mut servers = Vec::new();
    for host in SERVERS {
        own_the_vip(&scene, host);
        servers.push(Nginx::start(&scene.lab, host, at(host.ipv4(), 80)));
        servers.push(Nginx::start(&scene.lab, host, at(VIP, 80)));
    }
    scene.run(Host::ServerB, &["ip", "address", "add", "198.51.100.81/32", "dev", "lo"]);
    eventually("both are up", Duration::from_secs(10), || {
        let rows = scene.show("backends --service direct");
        rows.as_array().expect("a list").iter().all(|row| row["state"] == "up").then_some(())
    });
    assert!(ask(&scene, 60).iter().all(|name| *name == format!("{VIP}:80")));
    let [a, b] = connections(&scene, "direct")[..] else { panic!("two backends") };
    assert!(a > 10 && b > 10 && a + b == 60, "{a} {b}");
    // Nobody at home answers pings to the service's address; the box does.
    assert!(scene.pings(Host::Client, &VIP.to_string(), 3));

    // What the path takes, in each mode that this host's devices decide.
    for vip in ["198.51.100.81", "198.51.100.82", "198.51.100.83"] {
        assert_eq!(path_mtu(&scene, vip), Some(1400), "{vip}");
    }
    // An answer that went past the box is too big for a router before the client: the backend of the flow hears of it.
    let sockets = SERVERS.map(|host| {
        let socket = scene.lab.within(host, || UdpSocket::bind((VIP, 7)));
        socket.expect("the namespace is there").expect("the port is free")
    });
    let port = 40_007;
    let chosen = scene.lab.within(Host::Client, || {
        let socket = UdpSocket::bind((Host::Client.ipv4(), port)).expect("the port is free");
        socket.send_to(b"who?", (VIP, 7)).expect("it is sent");
        sockets.each_ref().map(|socket| {
            socket.set_read_timeout(Some(Duration::from_millis(300))).expect("it can be set");
            socket.recv_from(&mut [0; 16]).is_ok()
        })
    });
    let chosen = chosen.expect("the namespace is there");
    assert_eq!(chosen.iter().filter(|chosen| **chosen).count(), 1, "{chosen:?}");
    let told = scene.lab.within(Host::Client, || {
        send_too_big(SocketAddrV4::new(VIP, 7), SocketAddrV4::new(Host::Client.ipv4(), port), 1200)
    });
    told.expect("the namespace is there").expect("it is sent");
    let hears = |host: Host| {
        let route = ["ip", "route", "get", "10.1.0.10", "from", &VIP.to_string()];
        scene.run(host, &route).stdout.contains("mtu 1200")
    };
    let [yes, no] = if chosen[0] { SERVERS } else { [Host::ServerB, Host::ServerA] };
    eventually("the backend knows the path", Duration::from_secs(3), || hears(yes).then_some(()));
    assert!(!hears(no), "it was not the other one's");

    let refused = scene.lab.within(Host::Client, || {
        TcpStream::connect_timeout(&SocketAddr::new([198, 51, 100, 84].into(), 80), Duration::from_secs(3))
            .err()
    });
    let kind = refused.expect("the namespace is there").map(|error| error.kind());
    assert_eq!(kind, Some(std::io::ErrorKind::ConnectionRefused), "a reset comes at once");
    let page = scene.page();
    assert_eq!(page.sum("throughway_balancer_service_rejected_packets_total", &[("service", "dead")]), 1.0);
    assert!(page.sum("throughway_balancer_service_icmp_errors_total", &[("service", "direct")]) >= 1.0);
}

#[test]
fn tunnels_to_real_servers_and_what_their_paths_take() {
    if !privileged() {
        return;
    }
    let both = format!(
        "{{ name: tunnels, vip: {VIP}, forward: ipip, port: 80, protocol: tcp, backends: [ {{ address: 10.2.0.10 }}, {{ address: 10.3.0.10 }} ] }}"
    );
    let one = |name: &str, port: &str, backend: &str| {
        format!(
            "{{ name: {name}, vip: {VIP}, forward: ipip, port: {port}, protocol: [tcp, udp], backends: [ {{ address: {backend} }} ] }}"
        )
    };
    // tracepath asks high ports.
    let wide = one("wide", "9", "10.2.0.10");
    let far = one("far", "1024-65535", "10.2.0.10");
    let mut scene = Scene::running(&config(&[&both, &wide, &far]));
    let mut servers = Vec::new();
    let mut ends = Vec::new();
    for host in SERVERS {
        own_the_vip(&scene, host);
        servers.push(Nginx::start(&scene.lab, host, at(VIP, 80)));
        ends.push(Decapsulator::start(&scene.lab, host, 1500));
    }
    // Frames that the XDP program sends are merged where they come in, and a raw socket sees packets that no wire has carried. Without
    // GRO a veth takes such frames only with an XDP program, as the sink's, which lets everything else pass.
    let _sinks = SERVERS.map(|host| {
        let sink = Sink::start(&scene, host);
        scene.run(host, &["ethtool", "-K", "eth0", "gro", "off"]);
        sink
    });
    assert!(ask(&scene, 40).iter().all(|name| *name == format!("{VIP}:80")));
    let [a, b] = connections(&scene, "tunnels")[..] else { panic!("two backends") };
    assert!(a > 5 && b > 5 && a + b == 40, "{a} {b}");
    assert!(ends.iter().all(|end| end.counts()[0] >= 5), "{ends:?}");
    // The device's 1500 bytes, less 20 of the tunnel.
    assert_eq!(path_mtu(&scene, &VIP.to_string()), Some(1480));
    upload(&scene, Host::ServerA);
    scene.stop();

    // Somewhere beyond the box the path takes 1300: who says so knows the box alone.
    ends.remove(0);
    let narrow = Decapsulator::start(&scene.lab, Host::ServerA, 1300);
    scene.run(Host::Client, &["ip", "route", "flush", "cache"]);
    scene.start(&config(&[&both, &wide, &far]));
    upload(&scene, Host::ServerA);
    assert_eq!(path_mtu(&scene, &VIP.to_string()), Some(1280));
    let [taken, refused] = narrow.counts();
    eprintln!("{taken} packets through the narrow path, {refused} too big for it");
    assert!(taken > 800 && (1..100).contains(&refused), "{taken} {refused}");
    let page = scene.page();
    assert!(page.sum("throughway_balancer_tunnel_errors_total", &[]) >= 1.0);
}
