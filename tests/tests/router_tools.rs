//! The tools that networks are looked at with show the same behind Throughway as behind a Linux router: each is run over both, and
//! what it prints is compared.

use throughway_lab::Host;
use throughway_tests::config::Config;
use throughway_tests::{Scene, privileged};

/// Server b is behind a link with an MTU of 1400, the others have 1500.
const NEAR: &str = "10.2.0.10";
const NARROW: &str = "10.3.0.10";
const NEAR6: &str = "fd00:2::10";
const NARROW6: &str = "fd00:3::10";

/// What the box has no route to, and what its routes refuse.
const NOWHERE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const REFUSED: [(&str, &str, &str); 3] = [
    ("unreachable", "198.51.100.1", "2001:db8:1::1"),
    ("prohibit", "198.51.100.2", "2001:db8:2::1"),
    ("blackhole", "198.51.100.3", "2001:db8:3::1"),
];

/// Without what is different each time: how long things took.
fn timeless(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.starts_with("rtt "));
    let lines = lines.map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_time = |at: usize| {
            let word = words[at].trim_end_matches("ms");
            let number = word.parse::<f64>().is_ok();
            words[at].starts_with("time=")
                || (number && (word != words[at] || words.get(at + 1) == Some(&"ms")))
                || words[at] == "ms"
        };
        let kept = (0..words.len()).filter(|at| !is_time(*at)).map(|at| words[at]);
        kept.collect::<Vec<_>>().join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Of mtr's report the hops: number, address, loss, how many were sent.
fn hops(text: &str) -> String {
    let lines = text.lines().filter(|line| line.contains("|--"));
    let lines = lines.map(|line| line.split_whitespace().take(4).collect::<Vec<_>>().join(" "));
    lines.collect::<Vec<_>>().join("\n")
}

/// A command line, and what is kept of its output.
type Comparison = (String, fn(&str) -> String);

/// Everything that is run, in steps. Where a step has several, they are run at once: tools that wait by themselves however
/// quickly they are answered, each to another destination.
fn commands() -> Vec<Vec<Comparison>> {
    let mut all: Vec<Comparison> = Vec::new();
    let mut tracepath: Vec<Comparison> = Vec::new();
    let mut mtr: Vec<Comparison> = Vec::new();
    for to in [NEAR, NARROW, NEAR6, NARROW6] {
        all.push((format!("traceroute -n -q 3 -w 2 -m 4 {to}"), timeless));
        all.push((format!("traceroute -n -I -q 1 -w 2 -m 4 {to}"), timeless));
        tracepath.push((format!("tracepath -n -m 4 {to}"), timeless));
        mtr.push((format!("mtr -n --report -c 3 -i 0.1 -G 0.5 -Z 1 {to}"), hops));
        all.push((format!("ping -n -c 1 -W 2 -t 1 {to}"), timeless));
    }
    for to in NOWHERE {
        all.push((format!("traceroute -n -q 1 -w 1 -m 2 {to}"), timeless));
        all.push((format!("ping -n -c 1 -W 1 {to}"), timeless));
        all.push((format!("ping -n -c 1 -W 1 -t 1 {to}"), timeless));
    }
    // With its header: 1399, 1400, 1401, 1500 and 1501 bytes.
    for (to, sizes) in [(NARROW, [1371, 1372, 1373, 1472, 1473]), (NARROW6, [1351, 1352, 1353, 1452, 1453])] {
        for size in sizes {
            for mode in ["do", "want"] {
                all.push((format!("ping -n -M {mode} -c 2 -i 0.1 -W 2 -s {size} {to}"), timeless));
            }
        }
    }
    // Last, since Linux limits errors about its own routes to five at once and one a second, for the whole machine.
    for (_, ipv4, ipv6) in REFUSED {
        all.push((format!("ping -n -c 1 -W 0.5 {ipv4}"), timeless));
        all.push((format!("ping -n -c 1 -W 0.5 {ipv6}"), timeless));
    }
    [tracepath, mtr].into_iter().chain(all.into_iter().map(|one| vec![one])).collect()
}

fn shown(scene: &Scene) -> Vec<String> {
    for to in [NEAR, NARROW, NEAR6, NARROW6] {
        assert!(scene.pings(Host::Client, to, 2), "{to}");
    }
    let run = |(command, keep): &Comparison| {
        let argv: Vec<&str> = command.split(' ').collect();
        let output = scene.lab.exec(Host::Client, &argv).unwrap_or_else(|error| panic!("{error}"));
        format!("$ {command}\n{}\n{}", keep(&output.stdout), output.stderr.trim())
    };
    let mut shown = Vec::new();
    for step in commands() {
        // What the client has learned of MTUs would hide what the router says.
        scene.run(Host::Client, &["ip", "route", "flush", "cache"]);
        scene.run(Host::Client, &["ip", "-6", "route", "flush", "cache"]);
        std::thread::scope(|scope| {
            let running: Vec<_> = step.iter().map(|one| scope.spawn(|| run(one))).collect();
            shown.extend(running.into_iter().map(|one| one.join().expect("the tool ran")));
        });
    }
    shown
}

#[test]
fn tools_show_what_they_show_behind_linux() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::new();
    for (kind, ipv4, ipv6) in REFUSED {
        scene.run(Host::Box, &["ip", "route", "add", kind, ipv4]);
        scene.run(Host::Box, &["ip", "-6", "route", "add", kind, ipv6]);
    }
    let forward = |scene: &Scene, value: u8| {
        let script = format!(
            "cd /proc/sys/net; echo {value} > ipv4/ip_forward; echo {value} > ipv6/conf/all/forwarding; \
             echo 0 > ipv4/icmp_ratemask; echo 0 > ipv6/icmp/ratelimit"
        );
        scene.run(Host::Box, &["sh", "-c", &script]);
    };
    forward(&scene, 1);
    let by_linux = shown(&scene);
    forward(&scene, 0);
    scene.start(&Config::default());
    let by_us = shown(&scene);
    let different: Vec<String> = by_us
        .iter()
        .zip(&by_linux)
        .filter(|(ours, linux)| ours != linux)
        .map(|(ours, linux)| format!("--- Throughway\n{ours}\n--- Linux\n{linux}\n"))
        .collect();
    assert!(different.is_empty(), "{} of {} differ\n{}", different.len(), by_us.len(), different.concat());
    // That anything was seen at all.
    let all = by_us.concat();
    for word in ["pmtu 1400", "!N", "10.1.0.1", "fd00:1::1", "Packet filtered", "Frag needed", "too big"] {
        assert!(all.contains(word), "{word} is in none of\n{all}");
    }
    let drops = |reason: &str| scene.page().sum("throughway_dropped_packets_total", &[("reason", reason)]);
    for reason in [
        "hop-limit-exceeded",
        "no-route",
        "too-big",
        "prohibit-route",
        "unreachable-route",
        "blackhole-route",
    ] {
        assert!(drops(reason) > 0.0, "{reason} was not counted");
    }
}
