//! `throughway capture` and `throughway trace` on live traffic: what they write is what happened.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use throughway_io::pcap::block::{self, Block, Direction};
use throughway_lab::Host;
use throughway_lab::web::{self, FileServer};
use throughway_packet::{PortId, checksum, parse};
use throughway_tests::config::Config;
use throughway_tests::echo::{self, Connection};
use throughway_tests::{Scene, binary, eventually, privileged};

const TOLD: Duration = Duration::from_secs(10);

/// A firewall, a NAT that masquerades, and a router with a hole.
fn edge(mode: &'static str) -> String {
    let mut config = Config { fast_path: Some(mode), ..Config::default() };
    let firewall = "{ firewall: { default: drop, rules: [ { drop: { protocol: tcp, to-port: 81 }, name: closed }, { allow: { from: lan } } ] } }";
    let nat = "{ nat: { outside: wan, source: [ { match: { source: 10.1.0.0/16 }, masquerade: true } ] } }";
    config.functions.push(("edge", firewall.to_owned()));
    config.functions.push(("outer", nat.to_owned()));
    config.run = vec!["edge", "outer", "core"];
    config.yaml().replace("from: wan, run: [edge, outer, core]", "from: wan, run: [outer, edge, core]")
}

/// A packet of a capture.
#[derive(Debug)]
struct Seen {
    interface: String,
    outbound: bool,
    number: u64,
    comment: String,
    bytes: Vec<u8>,
}

impl Seen {
    /// Protocol, source and destination; everything in it must be right.
    #[track_caller]
    fn ends(&self) -> (u8, String, String) {
        let headers = parse(&self.bytes, PortId(0)).expect("a packet");
        assert!(checksum::verify(&self.bytes, &headers), "{self:?}");
        (headers.key.protocol, headers.source().to_string(), headers.destination().to_string())
    }
}

/// A capture that goes on until it is ended.
struct Capture {
    child: Child,
    file: PathBuf,
}

impl Capture {
    /// Starts it and waits until it captures.
    fn start(scene: &mut Scene, name: &str, arguments: &str) -> Capture {
        let file = scene.lab.directory().join(format!("{name}.pcapng"));
        let path = file.to_string_lossy().into_owned();
        let errors = scene.lab.directory().join(format!("{name}.err"));
        let mut words: Vec<&str> = arguments.split_whitespace().collect();
        words.extend(["-w", &path]);
        let mut command = command(scene, &words);
        command.stderr(std::fs::File::create(&errors).expect("a file"));
        let child = command.spawn().expect("it starts");
        eventually("it captures", TOLD, || {
            std::fs::read_to_string(&errors).expect("a file").contains("capturing").then_some(())
        });
        Capture { child, file }
    }

    /// Ends it as Ctrl-C does; what was captured, and what was said at the end.
    fn end(mut self) -> (Vec<Seen>, String) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
        self.wait()
    }

    /// Waits until it ends by itself.
    fn wait(&mut self) -> (Vec<Seen>, String) {
        let status = self.child.wait().expect("it ends");
        let said = std::fs::read_to_string(self.file.with_extension("err")).expect("a file");
        assert!(status.success(), "{status} {said}");
        (read(&self.file), said)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

/// `throughway ARGUMENTS` in the box; what it prints is kept.
fn command(scene: &mut Scene, arguments: &[&str]) -> Command {
    let socket = scene.service().socket().to_string_lossy().into_owned();
    let binary = binary().to_string_lossy();
    let mut argv = vec![&*binary];
    argv.extend(arguments);
    argv.extend(["--api", &socket]);
    let mut command = scene.lab.command(Host::Box, &argv).expect("a command");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// What our own reader finds in a file.
fn read(file: &std::path::Path) -> Vec<Seen> {
    let bytes = std::fs::read(file).expect("a file");
    let (mut rest, mut names, mut all) = (bytes.as_slice(), Vec::new(), Vec::new());
    while let Some((block, length)) = block::read(rest).expect("a block") {
        match block {
            Block::Interface(name) => names.push(name.to_owned()),
            Block::Packet(packet) => all.push(Seen {
                interface: names[packet.interface as usize].clone(),
                outbound: packet.direction == Some(Direction::Outbound),
                number: packet.number.expect("a number"),
                comment: packet.comment.to_owned(),
                bytes: packet.bytes.to_vec(),
            }),
            _ => {}
        }
        rest = &rest[length..];
    }
    assert!(rest.is_empty(), "whole blocks");
    assert_eq!(names, ["lan", "wan", "dmz"]);
    all
}

fn flows(scene: &Scene, options: &str) -> Vec<serde_json::Value> {
    scene.show(&format!("flows {options}")).as_array().expect("rows").clone()
}

#[test]
fn both_forms_of_what_is_asked_for_and_nothing_else() {
    if !privileged() {
        return;
    }
    for mode in ["off", "eager"] {
        let mut scene = Scene::with(&throughway_lab::LabOptions::new("ignored"));
        scene.start_with(&edge(mode));
        let _web = FileServer::start(&scene.lab, Host::ServerA, 200_000).expect("the file server starts");
        assert!(scene.pings(Host::Client, "10.2.0.10", 1));
        let capture = Capture::start(&mut scene, "host", "capture --host 10.1.0.10 --interface lan");
        assert!(scene.pings(Host::Client, "10.2.0.10", 3));
        let script = format!("curl --silent --show-error --fail http://10.2.0.10:{}/ | sha256sum", web::PORT);
        let output = scene.run(Host::Client, &["sh", "-c", &script]);
        assert!(output.stdout.starts_with(&web::sha256(200_000).expect("a checksum")), "{output:?}");
        let refused = scene.lab.exec(Host::Client, &["curl", "--max-time", "1", "http://10.2.0.10:81/"]);
        assert!(!refused.expect("it runs").status.success());
        // The box's own traffic is none of this.
        let (seen, said) = capture.end();
        assert!(said.contains(&format!("{} captured, 0 lost", seen.len())), "{said}");

        let (client, server, masked) =
            ("10.1.0.10".to_owned(), "10.2.0.10".to_owned(), "10.2.0.1".to_owned());
        let there = |seen: &Seen| (seen.interface == "lan") != seen.outbound;
        let mut forwarded = 0;
        for (first, second) in
            seen.iter().zip(seen.iter().skip(1)).filter(|(first, _)| first.comment == "received")
        {
            assert_eq!((second.comment.as_str(), second.number), ("sent", first.number), "{mode}");
            let (before, after) = (first.ends(), second.ends());
            if there(first) {
                assert_eq!((&before.1, &before.2), (&client, &server));
                assert_eq!((&after.1, &after.2), (&masked, &server), "{mode}: translated");
            } else {
                assert_eq!((&before.1, &before.2), (&server, &masked));
                assert_eq!((&after.1, &after.2), (&server, &client), "{mode}: translated back");
            }
            assert_eq!(before.0, after.0);
            forwarded += 1;
        }
        let of = |protocol| seen.iter().filter(move |seen| seen.ends().0 == protocol).count();
        assert_eq!(of(1), 12, "{mode}: three echoes and their replies, in two forms each");
        assert!(forwarded > 50 && of(6) > 100, "{mode}: {forwarded}");
        let dropped: Vec<_> = seen.iter().filter(|seen| seen.comment.starts_with("dropped")).collect();
        assert!(!dropped.is_empty(), "{mode}");
        for one in &dropped {
            assert_eq!(one.comment, "dropped: firewall-rule by edge");
            assert_eq!((one.interface.as_str(), one.outbound, one.ends().2), ("lan", false, server.clone()));
        }
        assert_eq!(2 * forwarded + dropped.len(), seen.len());
        // Others can read it, too.
        let file = scene.lab.directory().join("host.pcapng");
        let argv = ["tcpdump", "-n", "-v", "-r", &file.to_string_lossy()];
        let tcpdump = scene.run(Host::Box, &argv).stdout;
        assert!(tcpdump.contains("10.2.0.1 > 10.2.0.10: ICMP echo request"), "{tcpdump}");
        assert!(!tcpdump.contains("incorrect"), "{tcpdump}");
    }
}

#[test]
fn a_captured_flow_comes_back_from_the_driver_and_goes_there_again() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::with(&throughway_lab::LabOptions::new("ignored"));
    scene.start_with(&edge("eager"));
    echo::serve(&scene.lab, Host::ServerA);
    let to = Host::ServerA.ipv4().into();
    let open = || Connection::open(&scene.lab, Host::Client, to).expect("it connects");
    let (mut mine, mut other) = (open(), open());
    let (port, others) = (mine.port(), other.port());
    let place = |scene: &Scene, port: u16| {
        let rows = flows(scene, &format!("--interface lan --port {port}"));
        assert_eq!(rows.len(), 1, "{rows:#?}");
        (rows[0]["runs_in"].clone(), rows[0]["not_in_xdp"].clone())
    };
    let in_driver = (serde_json::json!("xdp 0"), serde_json::Value::Null);
    eventually("both are handed over", TOLD, || {
        mine.exchange().expect("it is echoed");
        other.exchange().expect("it is echoed");
        (place(&scene, port) == in_driver && place(&scene, others) == in_driver).then_some(())
    });
    let capture = Capture::start(&mut scene, "flow", &format!("capture --port {port}"));
    let captured = (serde_json::json!("worker 0"), serde_json::json!("captured"));
    assert_eq!((place(&scene, port), place(&scene, others)), (captured.clone(), in_driver.clone()));
    for _ in 0..100 {
        mine.exchange().expect("it is echoed");
        other.exchange().expect("it is echoed");
    }
    assert_eq!((place(&scene, port), place(&scene, others)), (captured, in_driver.clone()));
    let (seen, _) = capture.end();
    // 8000 bytes there and back again, a hundred times, in two forms.
    let bytes: usize = seen.iter().map(|seen| seen.bytes.len()).sum();
    assert!(bytes > 100 * 2 * 2 * 8000, "{bytes}");
    for one in &seen {
        let headers = parse(&one.bytes, PortId(0)).expect("a packet");
        assert!([headers.source_port(), headers.destination_port()].contains(&7), "{one:?}");
    }
    // Without a packet of its own.
    eventually("it goes back", TOLD, || (place(&scene, port) == in_driver).then_some(()));
    mine.exchange().expect("it is echoed");
}

#[test]
fn a_trace_tells_the_way_and_a_line_is_for_people() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::with(&throughway_lab::LabOptions::new("ignored"));
    scene.start_with(&edge("eager"));
    assert!(scene.pings(Host::Client, "10.2.0.10", 1));
    let mut trace =
        command(&mut scene, &["trace", "--host", "10.1.0.10", "--protocol", "icmp", "--count", "2"]);
    let trace = trace.stderr(Stdio::null()).spawn().expect("it starts");
    eventually("two are traced", TOLD, || {
        // Until it has begun, and then enough.
        scene.pings(Host::Client, "10.2.0.10", 2);
        let left = std::fs::read_to_string(format!("/proc/{}/stat", trace.id())).unwrap_or_default();
        left.contains(") Z ").then_some(())
    });
    let output = trace.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let at =
        lines.iter().position(|line| line.contains("lan in  icmp 10.1.0.10 > 10.2.0.10")).expect("an echo");
    assert!(lines[at].ends_with("type 8 code 0 98 bytes: received"), "{text}");
    assert_eq!(lines[at + 1], "    edge: passes", "{text}");
    assert!(lines[at + 2].starts_with("    outer: source becomes 10.2.0.1:"), "{text}");
    assert!(lines[at + 3].starts_with("    core: ttl becomes 63, leaves by wan"), "{text}");
    assert!(lines[at + 4].contains("wan out icmp 10.2.0.1 > 10.2.0.10"), "{text}");
    assert_eq!(lines.iter().filter(|line| line.contains(": received")).count(), 2, "{text}");
    assert_eq!(lines.iter().filter(|line| line.ends_with(": sent")).count(), 2, "{text}");
}

#[test]
fn it_ends_by_itself_refuses_what_cannot_be_and_leaves_nothing_behind() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::running(&Config::default());
    for (arguments, error) in [
        ("capture --interface dmx", "there is no interface `dmx`"),
        ("capture --reason no-rout", "there is no drop reason `no-rout`"),
        ("capture --reason early-drop", "cannot be captured"),
        ("capture --snaplen 10", "expected 96 to 9728"),
    ] {
        let output = scene.ask(&arguments.split(' ').collect::<Vec<_>>());
        assert!(!output.status.success() && output.stderr.contains(error), "{output:?}");
    }
    let mut all: Vec<_> =
        (0..4).map(|number| Capture::start(&mut scene, &format!("{number}"), "capture")).collect();
    let output = scene.ask(&["capture"]);
    assert!(!output.status.success() && output.stderr.contains("4 captures are under way"), "{output:?}");
    // One whose client dies makes room.
    all.pop().expect("there are four").child.kill().expect("it runs");
    let mut limited = eventually("there is room again", TOLD, || {
        let file = scene.lab.directory().join("limited.pcapng");
        let path = file.to_string_lossy().into_owned();
        let mut command = command(&mut scene, &["capture", "--count", "3", "-w", &path]);
        let errors = std::fs::File::create(file.with_extension("err")).expect("a file");
        let mut capture = Capture { child: command.stderr(errors).spawn().expect("it starts"), file };
        std::thread::sleep(Duration::from_millis(300));
        capture.child.try_wait().expect("it can be asked").is_none().then_some(capture)
    });
    assert!(scene.pings(Host::Client, "10.2.0.10", 4));
    let (seen, _) = limited.wait();
    assert_eq!(seen.len(), 6, "three packets in two forms: {seen:#?}");
    for capture in all {
        let (seen, said) = capture.end();
        assert!(seen.len() >= 16 && said.contains(", 0 lost"), "{said}");
    }
    // It can be piped, and ends with who reads it.
    let socket = scene.service().socket().to_string_lossy().into_owned();
    let binary = binary().to_string_lossy();
    let script = format!("{binary} capture -w - --seconds 20 --api {socket} | tcpdump -n -c 2 -r -");
    let piped = scene.lab.command(Host::Box, &["sh", "-c", &script]).expect("a command");
    let piped = { piped }.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    eventually("tcpdump has seen two", TOLD, || {
        scene.pings(Host::Client, "10.2.0.10", 2);
        let state = std::fs::read_to_string(format!("/proc/{}/stat", piped.id())).unwrap_or_default();
        state.contains(") Z ").then_some(())
    });
    let text = String::from_utf8_lossy(&piped.wait_with_output().expect("it ends").stdout).into_owned();
    assert_eq!(text.lines().filter(|line| line.contains("ICMP echo")).count(), 2, "{text}");
    // And by time.
    let output = scene.ask(&["capture", "--seconds", "1"]);
    assert!(output.status.success() && output.stderr.contains("0 captured"), "{output:?}");
}
