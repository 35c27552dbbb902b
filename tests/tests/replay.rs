//! The pcap port: the same chain gives the same packets as on the wire.

use std::path::{Path, PathBuf};
use std::time::Duration;

use throughway_lab::Host;
use throughway_lab::topology::LAN;
use throughway_tests::binary::throughway;
use throughway_tests::config::Config;
use throughway_tests::{Scene, capture, eventually, privileged};

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("throughway-replay-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).expect("a folder can be made");
    path
}

fn replay(config: &Path, host: &Path, input: &Path, output: &Path) -> String {
    let arguments = [
        "replay".to_owned(),
        "--config".to_owned(),
        config.to_string_lossy().into_owned(),
        "--host".to_owned(),
        host.to_string_lossy().into_owned(),
        "--in".to_owned(),
        format!("lan={}", input.display()),
        "--out".to_owned(),
        output.to_string_lossy().into_owned(),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = throughway(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A UDP datagram from 10.1.0.10 in an Ethernet frame to 02:00:00:00:00:01.
fn frame(destination: [u8; 4], ttl: u8) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 32, 0, 1, 0, 0, ttl, 17, 0, 0, 10, 1, 0, 10];
    ip.extend(destination);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    // Ports 1000 and 2000, length 12, no checksum (allowed over IPv4, RFC 768), four bytes.
    ip.extend([0x03, 0xe8, 0x07, 0xd0, 0, 12, 0, 0, b'd', b'a', b't', b'a']);
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 10, 8, 0];
    bytes.extend(ip);
    // Ethernet's shortest frame, without its check sequence.
    bytes.resize(60, 0);
    bytes
}

const HOST: &str = r#"{
  "ports": [
    { "name": "lan", "device": "lan0", "mac": "02:00:00:00:00:01", "mtu": 1500, "up": true, "addresses": [["10.1.0.1", 24]] },
    { "name": "wan", "device": "wan0", "mac": "02:00:00:00:00:02", "mtu": 1500, "up": true, "addresses": [["10.2.0.1", 24]] },
    { "name": "dmz", "device": "dmz0", "mac": "02:00:00:00:00:03", "mtu": 1400, "up": true, "addresses": [["10.3.0.1", 24]] }
  ],
  "local": ["10.1.0.1", "10.2.0.1", "10.3.0.1"],
  "routes": [
    { "table": 254, "prefix": ["10.1.0.0", 24], "kind": "unicast", "metric": 0, "protocol": "kernel", "next_hops": [{ "port": 0, "gateway": null, "weight": 1 }] },
    { "table": 254, "prefix": ["10.2.0.0", 24], "kind": "unicast", "metric": 0, "protocol": "kernel", "next_hops": [{ "port": 1, "gateway": null, "weight": 1 }] }
  ],
  "neighbours": [
    { "port": 0, "address": "10.1.0.10", "mac": "02:00:00:00:01:0a", "state": "reachable" },
    { "port": 1, "address": "10.2.0.10", "mac": "02:00:00:00:02:0a", "state": "reachable" }
  ]
}"#;

#[test]
fn a_capture_runs_through_the_chains_without_root() {
    let folder = folder("offline");
    let (config, host, input, output) =
        (folder.join("a.yaml"), folder.join("host.json"), folder.join("lan.pcap"), folder.join("out"));
    std::fs::write(&config, Config::default().marked("ef").yaml()).expect("a file can be written");
    std::fs::write(&host, HOST).expect("a file can be written");
    capture::write(&input, &[frame([10, 2, 0, 10], 64), frame([10, 2, 0, 10], 1), frame([192, 0, 2, 1], 64)]);
    let said = replay(&config, &host, &input, &output);
    assert!(said.contains("hop-limit-exceeded") && said.contains("no-route"), "{said}");

    let sent = capture::read(&output.join("wan.pcapng"));
    assert_eq!(sent.len(), 1);
    let mut expected = frame([10, 2, 0, 10], 63);
    expected[..12].copy_from_slice(&[2, 0, 0, 0, 2, 10, 2, 0, 0, 0, 0, 2]);
    // DSCP 46 is "expedited forwarding" (RFC 3246); the header checksum follows.
    expected[15] = 46 << 2;
    expected[24..26].fill(0);
    let sum = checksum(&expected[14..34]);
    expected[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(sent[0], expected);

    // Two ICMP errors go back: time exceeded (11) and unreachable (3), from the box's address on the LAN.
    let back = capture::read(&output.join("lan.pcapng"));
    let kinds: Vec<u8> = back.iter().map(|frame| frame[34]).collect();
    assert_eq!(kinds, [11, 3]);
    for frame in &back {
        assert_eq!(frame[26..34], [10, 1, 0, 1, 10, 1, 0, 10]);
        assert_eq!(checksum(&frame[14..34]), 0, "the IPv4 checksum");
        let end = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        assert_eq!(checksum(&frame[34..end]), 0, "the ICMP checksum");
    }
    std::fs::remove_dir_all(folder).expect("it is there");
}

#[test]
fn the_replay_gives_the_frames_that_the_wire_saw() {
    if !privileged() {
        return;
    }
    let config = Config::default().marked("af11");
    let scene = Scene::running(&config);
    // Neighbours first, so that what follows goes straight through.
    for to in Host::ServerA.addresses() {
        assert!(scene.pings(Host::Client, &to.to_string(), 2));
    }
    let directory = scene.lab.directory().to_owned();
    let (before, after) = (directory.join("before.pcap"), directory.join("after.pcap"));
    let filter = format!("src host {} or src host {}", Host::Client.ipv4(), Host::Client.ipv6());
    let dump = |host: Host, direction: &str, path: &Path| {
        let path = path.to_string_lossy().into_owned();
        let argv = ["tcpdump", "--immediate-mode", "-U", "-i", "eth0", "-Q", direction, "-w", &path, &filter];
        let guard =
            scene.lab.spawn(host, &argv, &format!("tcpdump-{direction}.log")).expect("tcpdump starts");
        let log = scene.lab.directory().join(format!("tcpdump-{direction}.log"));
        eventually("tcpdump listens", Duration::from_secs(5), || {
            std::fs::read_to_string(&log).unwrap_or_default().contains("listening").then_some(())
        });
        guard
    };
    let mut dumps = [dump(Host::Client, "out", &before), dump(Host::ServerA, "in", &after)];
    throughway_tests::echo::serve(&scene.lab, Host::ServerA);
    for to in Host::ServerA.addresses() {
        assert!(scene.pings(Host::Client, &to.to_string(), 10));
        // With fragments.
        scene.run(Host::Client, &["ping", "-n", "-c", "2", "-i", "0.1", "-s", "3000", &to.to_string()]);
        let mut connection =
            throughway_tests::echo::Connection::open(&scene.lab, Host::Client, to).expect("a connection");
        connection.exchange().expect("an echo");
    }
    std::thread::sleep(Duration::from_millis(500));
    for dump in &mut dumps {
        dump.stop().expect("tcpdump ends");
    }
    let facts = scene.lab.directory().join("host.json");
    let lab = scene.lab.directory().join("out");
    std::fs::write(&facts, scene.show("host").to_string()).expect("a file can be written");
    replay(&scene.config_path(), &facts, &before, &lab);

    let live: Vec<Vec<u8>> = capture::read(&after).into_iter().filter(|frame| !discovery(frame)).collect();
    let replayed = capture::read(&lab.join("wan.pcapng"));
    assert!(live.len() > 30, "only {} frames crossed from {}", live.len(), LAN.device);
    assert_eq!(replayed.len(), live.len());
    for (number, (replayed, live)) in replayed.iter().zip(&live).enumerate() {
        assert_eq!(replayed, live, "frame {number}");
    }
}

/// Neighbour discovery (RFC 4861) is the kernel's business, not a chain's.
fn discovery(frame: &[u8]) -> bool {
    frame[12..14] == [0x86, 0xdd] && frame[20] == 58 && (133..=137).contains(&frame[54])
}
