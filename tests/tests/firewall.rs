//! The firewall as its users meet it: their programs, their scanners, their attackers, their changes of mind.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use throughway_lab::web::{self, FileServer};
use throughway_lab::{Host, Output};
use throughway_tests::config::Config;
use throughway_tests::datagrams::Datagrams;
use throughway_tests::{Scene, echo, eventually, privileged};

/// What the client may ask of server a; everything else is refused in one way or another.
const RULES: &str = "default: drop, rules: [
  { allow: { from: lan, icmp: echo-request } },
  { allow: { from: lan, icmpv6: echo-request } },
  { allow: { from: lan, protocol: tcp, to-port: [7, 5201, 8080] } },
  { allow: { from: lan, protocol: udp, to-port: [5201, 9000] } },
  { reject: { from: lan, protocol: tcp, to-port: 81 } },
  { reject: { from: lan, protocol: tcp, to-port: 82 }, with: admin-prohibited },
  { reject: { from: lan, protocol: udp, to-port: 83 } },
  { reject: { from: lan, protocol: udp, to-port: 84 }, with: host-unreachable },
]";

/// A firewall behind the router, that says this.
fn config(firewall: &str) -> Config {
    let mut config = Config::default();
    // The file is written on one line for each function.
    config.functions.push(("edge", format!("{{ firewall: {{ {} }} }}", firewall.replace('\n', " "))));
    config.run.push("edge");
    config
}

fn exec(scene: &Scene, host: Host, line: &str) -> Output {
    let argv: Vec<&str> = line.split_ascii_whitespace().collect();
    scene.lab.exec(host, &argv).unwrap_or_else(|error| panic!("{error}"))
}

fn url(to: IpAddr, port: u16) -> String {
    if to.is_ipv6() { format!("http://[{to}]:{port}/") } else { format!("http://{to}:{port}/") }
}

/// curl's exit code and what it says of a connection.
fn curl(scene: &Scene, from: Host, to: IpAddr, port: u16) -> (i32, String) {
    let output = exec(scene, from, &format!("curl -sS -o /dev/null --connect-timeout 2 {}", url(to, port)));
    (output.status.code().unwrap_or(-1), output.stderr)
}

// Numbers of Linux.
const EAGAIN: i32 = 11;
const EACCES: i32 = 13;
const ECONNREFUSED: i32 = 111;
const EHOSTUNREACH: i32 = 113;

/// The error with which a connection is not made.
fn connect(scene: &Scene, to: IpAddr, port: u16) -> Option<i32> {
    let patience = Duration::from_secs(2);
    let ask = move || std::net::TcpStream::connect_timeout(&(to, port).into(), patience).err();
    let error = scene.lab.within(Host::Client, ask).unwrap_or_else(|error| panic!("{error}"));
    error.and_then(|error| error.raw_os_error())
}

/// The error that a datagram brings back, if it brings one.
fn datagram(scene: &Scene, to: IpAddr, port: u16) -> Option<i32> {
    let ask = move || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = std::net::UdpSocket::bind(any).expect("a port is free");
        // Without it, only what ends a connection is told.
        if to.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true).expect("errors can be asked for");
        } else {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true).expect("errors can be asked for");
        }
        socket.connect((to, port)).expect("there is a route");
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout can be set");
        socket.send(b"?").expect("it is sent");
        socket.recv(&mut [0; 9]).err().and_then(|error| error.raw_os_error())
    };
    scene.lab.within(Host::Client, ask).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn what_is_allowed_passes_and_what_is_refused_is_told_how() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&config(RULES));
    echo::serve(&scene.lab, Host::ServerA);
    let _web = FileServer::start(&scene.lab, Host::ServerA, 1_000_000).expect("the file server starts");
    let _iperf =
        scene.lab.spawn(Host::ServerA, &["iperf3", "--server"], "iperf3.log").expect("iperf3 starts");
    for to in Host::ServerA.addresses() {
        assert!(scene.pings(Host::Client, &to.to_string(), 5), "ping {to}");
        assert_eq!(curl(&scene, Host::Client, to, web::PORT).0, 0, "curl {to}");
        for options in ["", "--udp --bitrate 5M --length 1200"] {
            eventually("iperf3 is served", Duration::from_secs(20), || {
                let line = format!("iperf3 --client {to} --time 1 {options}");
                exec(&scene, Host::Client, &line).status.success().then_some(())
            });
        }
        // Refused, told by a reset, by ICMP, and not told.
        assert_eq!(connect(&scene, to, 81), Some(ECONNREFUSED), "{to} 81");
        assert_eq!(curl(&scene, Host::Client, to, 81).0, 7, "{to} 81");
        let prohibited = if to.is_ipv4() { EHOSTUNREACH } else { EACCES };
        assert_eq!(connect(&scene, to, 82), Some(prohibited), "{to} 82");
        assert_eq!(curl(&scene, Host::Client, to, 85).0, 28, "{to} 85 is silent");
        assert_eq!(datagram(&scene, to, 83), Some(ECONNREFUSED), "{to} 83");
        assert_eq!(datagram(&scene, to, 84), Some(EHOSTUNREACH), "{to} 84");
        assert_eq!(datagram(&scene, to, 85), Some(EAGAIN), "{to} 85 is silent");
    }
    // Answers came, but nobody outside may begin.
    for to in Host::Client.addresses() {
        assert!(!scene.pings(Host::ServerA, &to.to_string(), 2), "ping {to} from outside");
        assert_eq!(curl(&scene, Host::ServerA, to, 8080).0, 28, "curl {to} from outside");
    }
    let page = scene.page();
    for reason in ["firewall-reject", "firewall-default"] {
        assert!(page.sum("throughway_dropped_packets_total", &[("reason", reason)]) > 0.0, "{reason}");
    }
}

/// The rules without port 7, under which an open echo connection lives or dies.
fn changed(rejudge: bool) -> Config {
    let track = format!(", track: {{ rejudge: {rejudge} }}");
    config(&(RULES.replace("[7, 5201, 8080]", "[5201, 8080]") + &track))
}

#[test]
fn a_reload_keeps_or_cuts_connections_as_it_says_and_loses_nothing_else() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::running(&config(RULES));
    echo::serve(&scene.lab, Host::ServerA);
    let to = IpAddr::V4(Host::ServerA.ipv4());
    let mut connection = echo::Connection::open(&scene.lab, Host::Client, to).expect("port 7 is allowed");
    connection.exchange().expect("an echo");
    let datagrams = Datagrams::start(&scene.lab, Host::Client, Host::ServerA, to, 5_000);
    datagrams.let_pass(2_000);

    // A bad file changes nothing.
    scene.write(&config("default: drop, rules: [ { allow: { protocol: tcp, to-port: 99999 } } ]").yaml());
    let output = scene.reload();
    assert_eq!(output.status.code(), Some(1), "{}{}", output.stdout, output.stderr);
    assert!(output.stderr.contains("99999"), "{}", output.stderr);
    connection.exchange().expect("the old rules are in force");
    echo::Connection::open(&scene.lab, Host::Client, to).expect("the old rules are in force");

    for (rejudge, lives) in [(false, true), (true, false)] {
        scene.write(&changed(rejudge).yaml());
        let output = scene.reload();
        assert!(output.status.success(), "{}{}", output.stdout, output.stderr);
        datagrams.let_pass(1_000);
        assert!(echo::Connection::open(&scene.lab, Host::Client, to).is_err(), "port 7 is closed");
        assert_eq!(connection.exchange().is_ok(), lives, "rejudge: {rejudge}");
    }
    datagrams.let_pass(2_000);
    let report = datagrams.finish();
    assert!(report.lost.is_empty() && report.duplicates == 0, "{report:?}");
}

/// The ports in each of these states, as nmap calls them.
fn scan<const N: usize>(scene: &Scene, options: &str, states: [&str; N]) -> [BTreeSet<u16>; N] {
    let to = Host::ServerA.ipv4();
    let line = format!("nmap -n -Pn --max-retries 2 -T4 {options} -oG - {to}");
    let output = exec(scene, Host::Client, &line);
    assert!(output.status.success(), "{line}: {}{}", output.stdout, output.stderr);
    let ports = output.stdout.lines().filter_map(|line| line.split_once("Ports: "));
    let ports = ports.flat_map(|(_, ports)| ports.split('\t').next().unwrap_or_default().split(", "));
    // NUMBER/STATE/PROTOCOL/…
    let ports: Vec<Vec<&str>> = ports.map(|port| port.trim().split('/').collect()).collect();
    states.map(|state| {
        let there = ports.iter().filter(|port| port.get(1) == Some(&state));
        there.filter_map(|port| port.first()?.parse().ok()).collect()
    })
}

#[test]
fn scanners_see_what_the_rules_say() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&config(RULES));
    echo::serve(&scene.lab, Host::ServerA);
    // Neighbours have to be known, or the first packets wait.
    assert!(scene.pings(Host::Client, &Host::ServerA.ipv4().to_string(), 3));
    let set = |ports: &[u16]| ports.iter().copied().collect::<BTreeSet<_>>();
    let tcp = "-p 7,81,82,85,5201,8080";
    // Allowed and served, allowed and not served or reset by the firewall, silent or prohibited.
    let states = ["open", "closed", "filtered"];
    let expected = [set(&[7]), set(&[81, 5201, 8080]), set(&[82, 85])];
    assert_eq!(scan(&scene, &format!("-sS {tcp}"), states), expected, "SYN");
    assert_eq!(scan(&scene, &format!("-sT {tcp}"), states), expected, "connect");
    // What no host sends, or nobody has asked for, is dropped whatever the port.
    let all = set(&[7, 81, 82, 85, 5201, 8080]);
    for kind in ["-sF", "-sX", "-sN"] {
        let [seen] = scan(&scene, &format!("{kind} {tcp}"), ["open|filtered"]);
        assert_eq!(seen, all, "{kind}");
    }
    assert_eq!(
        scan(&scene, &format!("-sA {tcp}"), ["filtered", "unfiltered"]),
        [all.clone(), set(&[])],
        "ACK"
    );
    // In pieces that cut the TCP header (RFC 1858, RFC 3128): nothing gets through.
    let pieces = scan(&scene, &format!("-sS -f {tcp}"), states);
    assert_eq!(pieces, [set(&[]), set(&[]), all], "tiny fragments");
    // What the box tells is not what the host tells: nmap looks at who sent it.
    let states = ["closed", "filtered", "open|filtered"];
    let expected = [set(&[9000]), set(&[83, 84]), set(&[85])];
    assert_eq!(scan(&scene, "-sU -p 83,84,85,9000", states), expected, "UDP");
}

#[test]
fn a_flood_of_syns_does_not_stop_others() {
    if !privileged() {
        return;
    }
    const FILE: u64 = 40_000_000;
    let rules = format!("{RULES}, track: {{ sessions: 20000, half-open: 2000 }}");
    let scene = Scene::running(&config(&rules));
    let to = Host::ServerA.ipv4();
    let _web = FileServer::start(&scene.lab, Host::ServerA, FILE).expect("the file server starts");
    let _iperf =
        scene.lab.spawn(Host::ServerA, &["iperf3", "--server"], "iperf3.log").expect("iperf3 starts");
    assert!(scene.pings(Host::Client, &to.to_string(), 3));
    let expected = web::sha256(FILE).expect("a checksum");
    let script = format!("curl -sS --fail --limit-rate 5M {} | sha256sum", url(to.into(), web::PORT));
    let mut download =
        scene.lab.spawn(Host::Client, &["sh", "-c", &script], "download.log").expect("curl starts");
    let line = format!("iperf3 --client {to} --time 8 --bitrate 20M --json");
    let argv: Vec<&str> = line.split(' ').collect();
    let mut stream = scene.lab.spawn(Host::Client, &argv, "stream.log").expect("iperf3 starts");
    eventually("the stream is open", Duration::from_secs(5), || {
        let sockets = scene.run(Host::Client, &["ss", "-Htn", "state", "established"]).stdout;
        (sockets.lines().count() >= 3).then_some(())
    });
    let line = format!("hping3 --quiet --syn --flood --rand-source --destport 8080 {to}");
    let argv: Vec<&str> = line.split(' ').collect();
    let mut flood = scene.lab.spawn(Host::Client, &argv, "flood.log").expect("hping3 starts");
    std::thread::sleep(Duration::from_secs(1));
    const TRIES: u32 = 10;
    let answered = (0..TRIES).filter(|_| curl_head(&scene, to.into())).count();
    let open = scene.page().sum("throughway_receive_packets_total", &[]);
    // While the flood goes on.
    let status = stream.wait(Duration::from_secs(60)).expect("iperf3 ends");
    let log = std::fs::read_to_string(scene.lab.directory().join("stream.log")).unwrap_or_default();
    assert!(status.success(), "iperf3: {log}");
    assert!(flood.ended().is_none(), "the flood goes on");
    let _ = flood.stop();
    let status = download.wait(Duration::from_secs(120)).expect("curl ends");
    let log = std::fs::read_to_string(scene.lab.directory().join("download.log")).unwrap_or_default();
    assert!(status.success() && log.starts_with(&expected), "the download: {log}");
    use std::io::Write as _;
    let _ = writeln!(
        std::io::stderr(),
        "under a flood of SYNs ({open:.0} packets so far), {answered} of {TRIES} new connections were served"
    );
    assert!(answered > 0, "nobody else gets through");
    let page = scene.page();
    let dropped = page.sum("throughway_dropped_packets_total", &[("reason", "half-open-limit")]);
    let sessions = page.sum("throughway_chain_left_packets_total", &[("chain", "outbound")]);
    assert!(sessions > 10_000.0, "the flood did not reach the firewall: {sessions}, {dropped}");
}

/// Whether a new connection is served within a few seconds.
fn curl_head(scene: &Scene, to: IpAddr) -> bool {
    let line = format!(
        "curl -sS -o /dev/null --range 0-9 --max-filesize 200000000 --connect-timeout 3 --max-time 4 -w %{{time_connect}} {}",
        url(to, web::PORT)
    );
    let connected = exec(scene, Host::Client, &line).stdout;
    connected.trim().parse::<f64>().is_ok_and(|seconds| seconds > 0.0)
}
