//! A full table from the kernel to the forwarding table: `cargo run --release -p throughway --example full-table -- 1000000`.
//!
//! In a network namespace of its own (needs root) it fills the kernel's table and measures, one after the other:
//!
//! * reading the kernel's dump and looking at nothing but message headers: what nobody can be faster than;
//! * opening the mirror: the dump, decoded and kept;
//! * making a router's forwarding table of it;
//! * news of changes, from the socket to the forwarding table;
//! * finding a route's explanation, and the memory of each part.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a program to be run by hand"
)]

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use throughway::host::HostFacts;
use throughway::rib::{Kernel, PortMap, Rib};
use throughway_config::{Config, FunctionKind};
use throughway_kernel::{Mirror, count_routes};
use throughway_packet::Prefix;

/// Gateways: so many different routes there are.
const GATEWAYS: u32 = 200;

fn ip(lines: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("iproute2 is installed");
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// From 1.0.0.0/24 on; without 127/8 and what is multicast there is room for 14 million.
fn prefix(number: u32) -> std::net::Ipv4Addr {
    let address = (1 << 24) + (number << 8);
    std::net::Ipv4Addr::from_bits(if address >= 127 << 24 { address + (1 << 24) } else { address })
}

fn gateway(number: u32) -> String {
    format!("198.18.0.{}", 2 + number % GATEWAYS)
}

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn megabytes(bytes: usize) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn main() {
    let size: u32 =
        std::env::args().nth(1).map_or(1_000_000, |text| text.parse().expect("a number of prefixes"));
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a network namespace (needs root)");
    ip("link set lo up\nlink add wan0 type veth peer name far0\nlink set wan0 up\nlink set far0 up\n\
        address add 198.18.0.1/24 dev wan0\n");
    let mut lines = String::new();
    for number in 0..size {
        let _ = writeln!(lines, "route add {}/24 via {} proto bird", prefix(number), gateway(number));
    }
    let begun = Instant::now();
    ip(&lines);
    println!("{size} routes put into the kernel in {:?}", begun.elapsed());

    let mut raw = Vec::new();
    for _ in 0..3 {
        let begun = Instant::now();
        let routes = count_routes().unwrap();
        raw.push(begun.elapsed());
        assert!(routes >= size as usize);
    }
    raw.sort_unstable();
    println!("reading the dump and nothing else: {:?} (median of 3)", raw[1]);

    let before = resident();
    let begun = Instant::now();
    let mut mirror = Mirror::open().unwrap();
    let opened = begun.elapsed();
    println!("opening the mirror: {opened:?}, {:?} more than reading", opened.saturating_sub(raw[1]));
    println!(
        "  memory: {} resident, {} at most by its own account",
        megabytes(resident() - before),
        megabytes(mirror.state().routes.memory())
    );

    let mut host = HostFacts::invented([("wan".to_owned(), "wan0".to_owned())]);
    host.ports[0].ifindex = mirror.state().link_named("wan0").unwrap().index;
    let ports = PortMap::of(&host);
    let text = "interfaces: { wan: { device: wan0 } }\nfunctions: { core: { router: {} } }\nchains: { all: { from: wan, run: [core] } }\n";
    let (config, _) = Config::parse("example.yaml", text).unwrap();
    let FunctionKind::Router(config) = &config.functions[0].kind else { return };
    let before = resident();
    let begun = Instant::now();
    let mut rib = Rib::new(config, &host, Kernel { routes: &mirror.state().routes, ports: &ports });
    println!(
        "making the forwarding table: {:?}, {} resident",
        begun.elapsed(),
        megabytes(resident() - before)
    );
    assert!(rib.fib().ipv4_prefixes() >= size as usize);

    // Changes wait in the socket, so that what is measured is our side alone.
    let flaps = size.min(50_000);
    let mut rates = Vec::new();
    for round in 1..=5 {
        let mut lines = String::new();
        for number in (0..flaps).map(|number| number * (size / flaps)) {
            // Never the gateway that it has: of that the kernel says nothing.
            let gateway = gateway(number + round);
            let _ = writeln!(lines, "route replace {}/24 via {gateway} proto bird", prefix(number));
        }
        ip(&lines);
        let begun = Instant::now();
        let before = mirror.stats().notifications;
        while mirror.stats().notifications < before + u64::from(flaps) {
            let changes = mirror.wait(Duration::from_secs(5)).unwrap();
            assert!(!changes.overrun);
            let prefixes = changes.routes.iter();
            let prefixes: Vec<_> =
                prefixes.filter_map(|key| Prefix::new(key.prefix.address, key.prefix.len).ok()).collect();
            rib.update(Kernel { routes: &mirror.state().routes, ports: &ports }, prefixes);
            rib.take_changes();
        }
        rates.push(f64::from(flaps) / begun.elapsed().as_secs_f64());
    }
    rates.sort_by(f64::total_cmp);
    println!("changes from the socket to the forwarding table: {:.0} a second (median of 5)", rates[2]);

    let kernel = Kernel { routes: &mirror.state().routes, ports: &ports };
    let begun = Instant::now();
    let mut found = 0;
    for len in 0..=32 {
        let at = Prefix::containing(prefix(size / 2).into(), len).unwrap();
        found += rib.candidates(kernel, at).count();
    }
    println!("all candidates of one address: {found} in {:?}", begun.elapsed());
}
