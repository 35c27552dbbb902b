//! `throughway pktgen` as people and benchmarks call it: a generator in one namespace, a sink in another.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use throughway_tests::binary::{binary, throughway};
use throughway_tests::privileged;

const MAC: &str = "02:00:00:00:00:0b";

/// Two namespaces with a cable between them, `eth0` to `eth0`; removed when dropped.
struct Cable {
    from: String,
    to: String,
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Cable {
    fn new(name: &str) -> Cable {
        let process = std::process::id();
        let (from, to) = (format!("tw-{name}-from-{process}"), format!("tw-{name}-to-{process}"));
        let cable = Cable { from, to };
        for name in [&cable.from, &cable.to] {
            ip(&format!("netns add {name}"));
        }
        let Cable { from, to } = &cable;
        ip(&format!("link add eth0 netns {from} type veth peer name eth0 address {MAC} netns {to}"));
        for name in [from, to] {
            ip(&format!("-n {name} link set eth0 addrgenmode none"));
            ip(&format!("-n {name} link set eth0 up"));
        }
        cable
    }

    fn command(namespace: &str, arguments: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(binary()).arg("pktgen");
        command.args(arguments.split_whitespace());
        command
    }

    /// A sink that counts from now on.
    fn sink(&self) -> Child {
        let mut command = Cable::command(&self.to, "sink --device eth0 --json");
        let mut sink = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a sink starts");
        let mut line = String::new();
        let stderr = sink.stderr.take().expect("its standard error");
        BufReader::new(stderr).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        sink
    }

    fn send(&self, options: &str) -> Value {
        let arguments = format!("send --device eth0 --destination-mac {MAC} --json {options}");
        let output = Cable::command(&self.from, &arguments).output().expect("a generator starts");
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in [&self.from, &self.to] {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }
}

/// Ends the sink as a script does; what it has counted.
fn end(sink: Child) -> Value {
    kill(Pid::from_raw(sink.id() as i32), Signal::SIGTERM).expect("the sink is alive");
    let output = sink.wait_with_output().expect("it ends");
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
fn the_sink_counts_what_the_generator_says_it_has_sent() {
    if !privileged() {
        return;
    }
    let cable = Cable::new("pktgen");
    for backend in ["live-frames", "af-xdp", "af-packet"] {
        for options in ["--size 64", "--family ipv6 --protocol tcp --syn", "--size imix --new-flows 1000"] {
            let sink = cable.sink();
            let sent = cable.send(&format!(
                "{options} --backend {backend} --packets 2000 --rate 20000 --flows 50 --stamp"
            ));
            let received = end(sink);
            let context = format!("{backend} {options}: {sent} {received}");
            assert_eq!(sent["backend"], backend, "{context}");
            assert_eq!(sent["packets"], 2000, "{context}");
            for what in ["packets", "bytes"] {
                assert_eq!(received[what], sent[what], "{what}, {context}");
            }
            for what in ["lost", "duplicates", "reordered", "unknown"] {
                assert_eq!(received[what], 0, "{what}, {context}");
            }
            assert_eq!(received["latency_ns"]["count"], 2000, "{context}");
        }
    }
}

#[test]
fn what_cannot_be_sent_is_refused_with_the_reason() {
    for (options, reason) in [
        ("--size 63", "64 to 3072"),
        ("--size 64 --family ipv6", "70 at least"),
        ("--size 64 --family ipv6 --stamp", "84 at least"),
        ("--syn", "--protocol tcp"),
        ("--flows 100 --source-ports 1-10", "10 flows, not 100"),
        ("--source 2001:db8::/64", "other address family"),
        ("--rate fast", "neither `max` nor a number"),
    ] {
        let arguments = format!("pktgen send --device lo --destination-mac {MAC} --packets 1 {options}");
        let output = throughway(&arguments.split_whitespace().collect::<Vec<_>>());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(reason), "{options}: {said}");
    }
    let output = throughway(&["pktgen", "send", "--device", "no-such", "--destination-mac", MAC]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("no device no-such"));
}
