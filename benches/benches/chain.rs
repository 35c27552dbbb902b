//! Whole chains, from memory port to memory port: `cargo bench -p throughway-benches --bench chain -- --table`.
//!
//! 64-byte packets are copied into frames of the one port, the worker runs its round (receive, flow cache or parse and chain,
//! edit, queue, transmit), and the frames are taken back from the other port: all of it is counted. `walk` is the worker
//! without a flow cache: every packet walks the chain; `new` is a cache that never saw the flow: walk, record, install.
//!
//! `--quick` leaves the large tables out.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a program to be run by hand"
)]

use std::sync::Arc;

use crossbeam::channel::bounded;
use throughway::assemble::{Blueprint, Figures};
use throughway::host::{HostFacts, NeighbourFacts};
use throughway::stats::WorkerStats;
use throughway::worker::{PortSettings, Setup, Worker};
use throughway_benches::cycles::{measure, per_nanosecond, timed};
use throughway_config::Config;
use throughway_io::memory::MemoryIo;
use throughway_packet::PortId;
use throughway_packet::build::PacketBuilder;
use throughway_vnf::Now;

const LAN: PortId = PortId(0);
const WAN: PortId = PortId(1);
const BATCH: usize = 64;
const FRAME: usize = 64;
/// Packets in one run, at least.
const PACKETS: usize = 1 << 20;

/// A chain of `functions` functions, the last of them the router.
fn config(functions: usize, flows: usize) -> String {
    let markers: Vec<_> = (1..functions).map(|number| format!("m{number}")).collect();
    let sections = markers.iter().map(|name| {
        format!("  {name}: {{ marker: {{ rules: [ {{ protocol: tcp, to-port: 1-99, dscp: cs1 }}, {{ dscp: ef }} ] }} }}\n")
    });
    let sections: String = sections.collect();
    let run: Vec<_> = markers.iter().map(String::as_str).chain(["core"]).collect();
    format!(
        "interfaces: {{ lan: {{ device: lan0 }}, wan: {{ device: wan0 }} }}\nworkers: {{ flows: {flows} }}\n\
         functions:\n{sections}  core: {{ router: {{}} }}\nchains: {{ out: {{ from: lan, run: [{}] }} }}\n",
        run.join(", ")
    )
}

fn facts() -> HostFacts {
    let mut facts = HostFacts::invented(["lan", "wan"].map(|name| (name.to_owned(), format!("{name}0"))));
    for (port, address, len) in [(0, "10.0.0.1", 9), (1, "198.18.0.1", 24), (1, "fd00:2::1", 64)] {
        facts.ports[port].addresses.push((address.parse().unwrap(), len));
    }
    for address in ["198.18.0.2", "fd00:2::2"] {
        let (address, state) = (address.parse().unwrap(), "reachable".to_owned());
        facts.neighbours.push(NeighbourFacts { port: 1, address, mac: [2, 0, 0, 0, 9, 9], state });
    }
    facts
}

fn packet(ipv4: bool, number: u32) -> [u8; FRAME] {
    let port = 1024 + (number % 16) as u16;
    let bytes = if ipv4 {
        let source = std::net::Ipv4Addr::from((10 << 24) | (number / 16 + 16));
        PacketBuilder::ipv4(source, [198, 18, 0, 2])
            .ethernet([2, 0, 0, 0, 0, 0], [2; 6])
            .udp(port, 53)
            .payload(&[0; 18])
            .finish()
    } else {
        let source = std::net::Ipv6Addr::from((0xfd00_u128 << 112) | u128::from(number / 16 + 16));
        let to = std::net::Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 2);
        PacketBuilder::ipv6(source, to).ethernet([2, 0, 0, 0, 0, 0], [2; 6]).udp(port, 53).finish()
    };
    let mut frame = [0; FRAME];
    frame[..bytes.len()].copy_from_slice(&bytes);
    frame
}

struct Bench {
    worker: Worker<MemoryIo>,
    now: u64,
}

impl Bench {
    fn new(functions: usize, flows: usize) -> Self {
        let (config, _) = Config::parse("bench.yaml", &config(functions, flows)).unwrap();
        let program = Blueprint::new(&config, &facts()).unwrap().program(0, &mut Figures::default());
        let (wanted, _) = bounded(1);
        let setup = Setup {
            settings: vec![PortSettings::default(); 2],
            stats: WorkerStats::new(2),
            wanted,
            generations: Arc::default(),
            flows,
            seed: 7,
        };
        Bench { worker: Worker::new(MemoryIo::new(2, 512, 256), program, setup), now: 1_000_000_000 }
    }

    /// Runs all of `traffic` through once; how many packets came out.
    fn pass(&mut self, traffic: &[[u8; FRAME]]) -> u64 {
        let mut sent = 0;
        for batch in traffic.chunks(BATCH) {
            for packet in batch {
                assert!(self.worker.io().inject(LAN, packet));
            }
            // As if at 10 Mpps.
            self.now += 100 * batch.len() as u64;
            self.worker.round(Now(self.now));
            sent += self.worker.io().discard(WAN) as u64;
        }
        sent
    }
}

/// One packet of each flow; of few flows so many that batches are full.
fn traffic(ipv4: bool, flows: usize) -> Vec<[u8; FRAME]> {
    (0..flows.max(16 * BATCH)).map(|number| packet(ipv4, (number % flows) as u32)).collect()
}

fn row(name: &str, nanoseconds: throughway_benches::cycles::Figures) {
    let cycles = |ns: f64| per_nanosecond().map_or("-".to_owned(), |per| format!("{:.0}", ns * per));
    let mpps = 1000.0 / nanoseconds.median;
    println!(
        "| {name:<44} | {:>6} | {:>6} | {mpps:>6.2} |",
        cycles(nanoseconds.least),
        cycles(nanoseconds.median)
    );
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    println!("| {:<44} | {:>6} | {:>6} | {:>6} |", "cycles a packet", "least", "median", "Mpps");
    println!("|{:-<46}|{:->8}|{:->8}|{:->8}|", "", ":", ":", ":");
    let sizes: &[usize] = if quick { &[1, 10_000] } else { &[1, 10_000, 100_000, 1_000_000] };
    for (ipv4, family) in [(true, "IPv4"), (false, "IPv6")] {
        for &flows in sizes {
            for functions in [1, 4] {
                let traffic = traffic(ipv4, flows);
                let mut bench = Bench::new(functions, flows.max(1024) * 5 / 4);
                let times = (PACKETS / traffic.len()).max(1);
                for _ in 0..3 {
                    assert_eq!(bench.pass(&traffic), traffic.len() as u64);
                }
                let figures = measure(7, || timed(|| (0..times).map(|_| bench.pass(&traffic)).sum::<u64>()));
                row(&format!("hit, {family}, {flows} flows, {functions} function(s)"), figures);
            }
        }
        let traffic = traffic(ipv4, 100_000);
        for functions in [1, 2, 3, 4] {
            let mut bench = Bench::new(functions, 0);
            let figures = measure(5, || timed(|| bench.pass(&traffic)));
            row(&format!("walk, {family}, {functions} function(s)"), figures);
        }
        for functions in [1, 4] {
            let figures = measure(5, || {
                let mut bench = Bench::new(functions, 125_000);
                timed(|| bench.pass(&traffic))
            });
            row(&format!("new, {family}, 100000 flows, {functions} function(s)"), figures);
        }
    }
}
