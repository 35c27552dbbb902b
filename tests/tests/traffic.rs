//! Real traffic through Throughway alone: the kernel of the box forwards nothing.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;
use throughway_lab::topology::LAN;
use throughway_lab::web::{self, FileServer};
use throughway_lab::{Guard, Host, LabOptions};
use throughway_tests::config::Config;
use throughway_tests::{Scene, echo, eventually, privileged};

const FILE: u64 = 100_000_000;

fn box_address(to: IpAddr) -> IpAddr {
    if to.is_ipv4() { IpAddr::V4(LAN.box_ipv4()) } else { IpAddr::V6(LAN.box_ipv6()) }
}

fn ping(scene: &Scene) {
    for server in [Host::ServerA, Host::ServerB] {
        for to in server.addresses() {
            assert!(scene.pings(Host::Client, &to.to_string(), 20), "ping {to}");
        }
    }
}

fn traceroute(scene: &Scene) {
    for to in Host::ServerB.addresses() {
        let output =
            scene.run(Host::Client, &["traceroute", "-n", "-q", "1", "-w", "2", "-m", "4", &to.to_string()]);
        let hops: Vec<_> =
            output.stdout.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().nth(1)).collect();
        assert_eq!(hops, [box_address(to).to_string(), to.to_string()], "{}", output.stdout);
    }
}

fn tracepath(scene: &Scene) {
    for to in Host::ServerB.addresses() {
        let output = scene.run(Host::Client, &["tracepath", "-n", &to.to_string()]).stdout;
        // The box itself must say so: `1:  10.1.0.1 … pmtu 1400`.
        let told = output
            .lines()
            .any(|line| line.contains(&box_address(to).to_string()) && line.contains("pmtu 1400"));
        assert!(told && output.contains("reached"), "{output}");
    }
}

fn file(scene: &Scene) {
    let _web = FileServer::start(&scene.lab, Host::ServerA, FILE).expect("the file server starts");
    let expected = web::sha256(FILE).expect("a checksum");
    for to in Host::ServerA.addresses() {
        let host = if to.is_ipv6() { format!("[{to}]") } else { to.to_string() };
        let script = format!("curl --silent --show-error --fail http://{host}:{}/ | sha256sum", web::PORT);
        let output = scene.run(Host::Client, &["sh", "-c", &script]);
        assert!(output.stdout.starts_with(&expected), "{to}: {}{}", output.stdout, output.stderr);
    }
}

/// An iperf3 server that answers.
fn iperf_server(scene: &Scene, host: Host) -> Guard {
    let server = scene.lab.spawn(host, &["iperf3", "--server"], "iperf3.log").expect("iperf3 starts");
    eventually("iperf3 listens", Duration::from_secs(5), || {
        let sockets = scene.run(host, &["ss", "-Hltn", "sport", "=", ":5201"]).stdout;
        (!sockets.is_empty()).then_some(())
    });
    server
}

fn iperf(scene: &Scene, to: IpAddr, options: &[&str]) -> Value {
    let to = to.to_string();
    let mut argv = vec!["iperf3", "--client", &to, "--time", "1", "--json"];
    argv.extend(options);
    // The server says goodbye to one client before it takes the next.
    eventually(&argv.join(" "), Duration::from_secs(30), || {
        let output = scene.lab.exec(Host::Client, &argv).unwrap_or_else(|error| panic!("{error}"));
        let result: Value = serde_json::from_str(&output.stdout).ok()?;
        output.status.success().then(|| result["end"].clone())
    })
}

/// Datagrams that found no room in a socket of the server's, or were broken (RFC 4113, udpInErrors): not lost by us.
fn refused(scene: &Scene, server: Host) -> f64 {
    let text = scene.run(server, &["nstat", "--zeros", "--ignore", "--noupdate", "--json"]).stdout;
    let kernel: Value = serde_json::from_str(&text).expect("nstat speaks JSON");
    let of = |name: &str| kernel["kernel"][name].as_f64().expect("the kernel counts this");
    of("UdpInErrors") + of("Udp6InErrors")
}

/// A second of UDP at 20 Mbit/s, of which less than one per cent is lost on the way: in one of three, on a machine that may be kept from its work for
/// a moment.
fn datagrams(scene: &Scene, server: Host, to: IpAddr) {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let before = refused(scene, server);
        let end = iperf(scene, to, &["--udp", "--bitrate", "20M", "--length", "1200"]);
        let (lost, all) = (end["sum"]["lost_packets"].as_f64(), end["sum"]["packets"].as_f64());
        let (lost, all) = (lost.expect("a count"), all.expect("a count"));
        let refused = refused(scene, server) - before;
        if all > 1000.0 && (lost - refused) / all < 0.01 {
            return;
        }
        seen.push(format!("{lost} of {all}, {refused} by the server"));
    }
    panic!("UDP {to}: lost {}", seen.join("; "));
}

fn streams(scene: &Scene) {
    for server in [Host::ServerA, Host::ServerB] {
        let _server = iperf_server(scene, server);
        for to in server.addresses() {
            for direction in [&[][..], &["--reverse"]] {
                let end = iperf(scene, to, direction);
                let received = end["sum_received"]["bits_per_second"].as_f64().expect("a rate") / 1e6;
                assert!(received > 20.0, "TCP {direction:?} {to}: {received:.1} Mbit/s");
            }
            datagrams(scene, server, to);
        }
    }
}

fn everything(scene: &Scene) {
    ping(scene);
    traceroute(scene);
    tracepath(scene);
    file(scene);
    streams(scene);
    let page = scene.page();
    let crossed = page.sum("throughway_chain_left_packets_total", &[("chain", "outbound")]);
    assert!(crossed > 10_000.0, "only {crossed} packets went through the chain: what carried the rest?");
}

#[test]
fn one_worker_carries_everything() {
    if privileged() {
        everything(&Scene::running(&Config::default()));
    }
}

#[test]
fn two_workers_with_two_queues_carry_everything() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&Config { workers: 2, ..Config::default() });
    everything(&scene);
    let page = scene.page();
    for worker in ["0", "1"] {
        let received = page.sum("throughway_receive_packets_total", &[("worker", worker)]);
        assert!(received > 0.0, "worker {worker} received nothing");
    }
}

#[test]
fn partial_checksums_are_completed_where_asked_for() {
    if !privileged() {
        return;
    }
    let options = LabOptions { checksum_offload: true, ..LabOptions::new("ignored") };
    let mut scene = Scene::with(&options);
    echo::serve(&scene.lab, Host::ServerA);
    scene.start(&Config { checksum: "recompute", ..Config::default() });
    everything(&scene);
    for to in Host::ServerA.addresses() {
        let mut connection = echo::Connection::open(&scene.lab, Host::Client, to).expect("a connection");
        connection.exchange().expect("an echo");
    }
    scene.stop();
    // Without, the servers refuse what arrives: that the lab tests anything at all.
    scene.start(&Config::default());
    assert!(scene.pings(Host::Client, "10.2.0.10", 3), "ICMP has no offload");
    let refused = echo::Connection::open(&scene.lab, Host::Client, Host::ServerA.addresses()[0]);
    assert!(refused.is_err(), "a partial checksum was accepted");
}

#[test]
fn what_cannot_go_on_is_told_to_its_sender() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&Config::default());
    for (to, says) in
        [("192.0.2.1", "Destination Net Unreachable"), ("2001:db8::1", "Destination unreachable: No route")]
    {
        let output =
            scene.lab.exec(Host::Client, &["ping", "-n", "-c", "1", "-W", "2", to]).expect("ping runs");
        assert!(output.stdout.contains(says), "{}", output.stdout);
    }
    for (to, gateway) in
        [("10.2.0.10", LAN.box_ipv4().to_string()), ("fd00:2::10", LAN.box_ipv6().to_string())]
    {
        let output = scene
            .lab
            .exec(Host::Client, &["ping", "-n", "-c", "1", "-t", "1", "-W", "2", to])
            .expect("ping runs");
        assert!(output.stdout.contains(&format!("From {gateway}")), "{}", output.stdout);
    }
    // Nobody is at this address: the box finds out and says so.
    let output =
        scene.lab.exec(Host::Client, &["ping", "-n", "-c", "1", "-W", "8", "10.3.0.77"]).expect("ping runs");
    assert!(output.stdout.contains("Destination Host Unreachable"), "{}", output.stdout);
    let page = scene.page();
    for reason in ["no-route", "hop-limit-exceeded", "neighbour-unreachable"] {
        assert!(
            page.sum("throughway_dropped_packets_total", &[("reason", reason)]) > 0.0,
            "{reason} was not counted"
        );
    }
}
