//! Packets that are too long for a link, cut as Linux cuts them.

use std::path::Path;
use std::time::Duration;

use throughway_lab::Host;
use throughway_tests::config::Config;
use throughway_tests::{Scene, capture, eventually, privileged};

/// Bytes of data in each ping. Server b has an MTU of 1400: fits, one too many, nearly and just what the client's own MTU of
/// 1500 takes, and two that the client cuts itself, so that fragments have to be cut again.
const SIZES: [usize; 6] = [1372, 1373, 1450, 1472, 3000, 8000];

/// What is the same however the identification is chosen: length, flags and offset, hop limit, protocol, and the data.
type Cut = ([u8; 2], [u8; 2], [u8; 2], Vec<u8>);

fn cut(frame: &[u8]) -> Cut {
    let header = usize::from(frame[14] & 0x0f) * 4;
    let len = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    let mut data = frame[14 + header..14 + len].to_vec();
    if frame[20] & 0x1f == 0 && frame[21] == 0 {
        // Checksum and identifier of the echo, then the time that ping writes into it.
        data[2..6].fill(0);
        data[8..24].fill(0);
    }
    ([frame[16], frame[17]], [frame[20], frame[21]], [frame[22], frame[23]], data)
}

/// Pings server b with every size, all of which must be answered, and tells what arrives there.
fn arriving(scene: &Scene, name: &str) -> Vec<Cut> {
    let file = scene.lab.directory().join(name);
    let path = file.to_str().expect("a path in UTF-8");
    let argv = [
        "tcpdump",
        "--immediate-mode",
        "-U",
        "-Z",
        "root",
        "-i",
        "eth0",
        "-w",
        path,
        "ip and dst host 10.3.0.10",
    ];
    let listener = scene.lab.spawn(Host::ServerB, &argv, "tcpdump.log").expect("tcpdump starts");
    eventually("tcpdump listens", Duration::from_secs(5), || {
        std::fs::metadata(&file).is_ok_and(|file| file.len() >= 24).then_some(())
    });
    for size in SIZES {
        let size = size.to_string();
        let argv = ["ping", "-n", "-M", "dont", "-c", "1", "-W", "5", "-s", &size, "10.3.0.10"];
        let output = scene.run(Host::Client, &argv);
        assert!(output.stdout.contains(" 0% packet loss"), "{size}: {}", output.stdout);
    }
    let all = collected(&file);
    drop(listener);
    all
}

/// The capture, once the last fragment of the last ping is in it.
fn collected(file: &Path) -> Vec<Cut> {
    eventually("the last fragment is captured", Duration::from_secs(5), || {
        let cuts: Vec<Cut> = capture::read(file).iter().map(|frame| cut(frame)).collect();
        let data: usize = cuts.iter().map(|cut| cut.3.len()).sum();
        (data >= SIZES.iter().map(|size| size + 8).sum()).then_some(cuts)
    })
}

#[test]
fn packets_are_cut_as_linux_cuts_them() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::new();
    let forward = |scene: &Scene, value: u8| {
        let script = format!("echo {value} > /proc/sys/net/ipv4/ip_forward");
        scene.run(Host::Box, &["sh", "-c", &script]);
    };
    forward(&scene, 1);
    let by_linux = arriving(&scene, "linux.pcap");
    forward(&scene, 0);

    scene.start(&Config::default());
    let by_us = arriving(&scene, "throughway.pcap");
    for (ours, linux) in by_us.iter().zip(&by_linux) {
        assert_eq!((ours.0, ours.1, ours.2), (linux.0, linux.1, linux.2), "length, offset, hop limit");
        assert_eq!(ours.3, linux.3);
    }
    assert_eq!(by_us.len(), by_linux.len());
    assert!(by_us.len() > SIZES.len() + 8, "only {} fragments: what was cut at all?", by_us.len());
    let page = scene.page();
    assert!(page.sum("throughway_fragmented_packets_total", &[]) >= 5.0);
}
