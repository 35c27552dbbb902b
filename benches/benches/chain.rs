//! Whole chains, from memory port to memory port: `cargo bench -p throughway-benches --bench chain -- --table`.
//!
//! 64-byte packets are copied into frames of the one port, the worker runs its round (receive, flow cache or parse and chain,
//! edit, queue, transmit), and the frames are taken back from the other port: all of it is counted. `walk` is the worker
//! without a flow cache: every packet walks the chain; `new` is a cache that never saw the flow: walk, record, install.
//!
//! Rows with "firewall + NAT + router" have sessions for every flow in both; `opens` is the first packet of each, which makes them,
//! in tables that grow with them; `opens again` where as many sessions have ended before.
//!
//! `mix` is 100,000 established flows with so many packets of flows that are never seen again; `changes` are changes of a route that
//! no flow takes, 1000 in a second of 10 million packets; `batch` is how many packets lie ready when the worker comes round.
//!
//! `told` is what three seconds of housekeeping cost for each flow that the XDP program executes, a packet of each of which came in that
//! time: functions and flow cache are told. The program is played by its model, whose time does not count.
//!
//! `--count ROW --passes N` makes so many passes over 10,000 flows and prints how many packets that were, for
//! `throughway-bench count`, which counts instructions.
//!
//! `--quick` leaves the large tables out, `--only WORD` takes rows with that word.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a program to be run by hand"
)]

use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::bounded;
use throughway::assemble::state::States;
use throughway::assemble::{Blueprint, Figures};
use throughway::host::{HostFacts, NeighbourFacts};
use throughway::stats::WorkerStats;
use throughway::worker::offload::{Egress, Offload};
use throughway::worker::{PortSettings, Setup, Worker};
use throughway_benches::cycles::{measure, per_nanosecond, timed};
use throughway_config::{Config, FastPath};
use throughway_flow::{Generations, Slot};
use throughway_io::memory::MemoryIo;
use throughway_packet::build::PacketBuilder;
use throughway_packet::{Headers, PortId, parse};
use throughway_shared::fast::GENERATION_WORDS;
use throughway_vnf::Now;
use throughway_xdp::{FastFlows, SharedWords};

const LAN: PortId = PortId(0);
const WAN: PortId = PortId(1);
const BATCH: usize = 64;
const FRAME: usize = 64;
/// Packets in one run, at least.
const PACKETS: usize = 1 << 20;

/// Instead of a number of functions: firewall, NAT and router, with sessions for every flow.
const STATEFUL: usize = 0;

/// A chain of `functions` functions, the last of them the router.
fn config(functions: usize, flows: usize) -> String {
    if functions == STATEFUL {
        // Enough half-open ones, too: a quarter of them.
        let sessions = flows.max(1 << 17) * 5;
        return format!(
            "interfaces: {{ lan: {{ device: lan0 }}, wan: {{ device: wan0 }} }}\nworkers: {{ flows: {flows} }}\n\
             functions:\n  edge: {{ firewall: {{ default: drop, track: {{ sessions: {sessions}, half-open: {sessions} }},\
             rules: [ {{ drop: {{ protocol: tcp, to-port: 25 }} }}, {{ allow: {{ from: lan, protocol: udp }} }} ] }} }}\n  \
             outer: {{ nat: {{ outside: wan, limits: {{ sessions: {sessions} }}, source: [\
             {{ match: {{ source: 10.0.0.0/8 }}, pool: 203.0.113.0-203.0.113.255 }}, \
             {{ match: {{ source: \"fd00::/64\" }}, to: \"2001:db8::/64\" }} ] }} }}\n  core: {{ router: {{}} }}\n\
             chains: {{ out: {{ from: lan, run: [edge, outer, core] }} }}\n"
        );
    }
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

/// Packets of these flows, made from one by exchanging what differs, in few instructions: they are counted, too.
fn packets(ipv4: bool, numbers: std::ops::Range<u32>) -> Vec<[u8; FRAME]> {
    let base = packet(ipv4, numbers.start);
    // The last four bytes of the source, its port, and the checksums that cover them.
    let (address, port, header, upper) = if ipv4 { (26, 34, Some(24), 40) } else { (34, 54, None, 60) };
    let exchange = |frame: &mut [u8; FRAME], at: usize, word: [u8; 2], checksums: [Option<usize>; 2]| {
        let read = |frame: &[u8; FRAME], at: usize| u32::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
        let before = read(frame, at);
        frame[at..at + 2].copy_from_slice(&word);
        for at in checksums.into_iter().flatten() {
            // RFC 1624, equation 3.
            let sum = (read(frame, at) ^ 0xffff) + (before ^ 0xffff) + u32::from(u16::from_be_bytes(word));
            let sum = (sum & 0xffff) + (sum >> 16);
            let sum = (sum & 0xffff) + (sum >> 16);
            frame[at..at + 2].copy_from_slice(&(!sum as u16).to_be_bytes());
        }
    };
    let make = |number: u32| {
        let mut frame = base;
        let host = (number / 16 + 16) | if ipv4 { 10 << 24 } else { 0 };
        let [a, b, c, d] = host.to_be_bytes();
        exchange(&mut frame, address, [a, b], [header, Some(upper)]);
        exchange(&mut frame, address + 2, [c, d], [header, Some(upper)]);
        exchange(&mut frame, port, (1024 + (number % 16) as u16).to_be_bytes(), [None, Some(upper)]);
        debug_assert_eq!(frame, packet(ipv4, number));
        frame
    };
    numbers.map(make).collect()
}

struct Bench {
    worker: Worker<MemoryIo>,
    generations: Arc<Generations>,
    now: u64,
    /// Packets that lie ready in each round.
    batch: usize,
    /// Nanoseconds from one change of a route to the next; zero for none.
    change_every: u64,
    changed: u64,
}

impl Bench {
    fn new(functions: usize, flows: usize) -> Self {
        Bench::over(functions, flows, Arc::default())
    }

    fn over(functions: usize, flows: usize, generations: Arc<Generations>) -> Self {
        let (config, _) = Config::parse("bench.yaml", &config(functions, flows)).unwrap();
        let states = States::new(7, Arc::clone(&generations));
        let program = Blueprint::new(&config, &facts(), &states).unwrap().program(0, &mut Figures::default());
        let (wanted, _) = bounded(1);
        let setup = Setup {
            settings: vec![PortSettings::default(); 2],
            stats: WorkerStats::new(2),
            wanted,
            generations: Arc::clone(&generations),
            flows,
            seed: 7,
        };
        let worker = Worker::new(MemoryIo::new(2, 512, 256), program, setup);
        Bench { worker, generations, now: 1_000_000_000, batch: BATCH, change_every: 0, changed: 0 }
    }

    /// Runs all of `traffic` through once; how many packets came out.
    fn pass(&mut self, traffic: &[[u8; FRAME]]) -> u64 {
        let mut sent = 0;
        for batch in traffic.chunks(self.batch) {
            for packet in batch {
                assert!(self.worker.io().inject(LAN, packet));
            }
            // As if at 10 Mpps.
            self.now += 100 * batch.len() as u64;
            if self.change_every > 0 && self.now - self.changed >= self.change_every {
                self.changed = self.now;
                self.generations.bump(Slot::of_prefix([203, 0, 113, 0].into(), 24).collect::<Vec<_>>());
            }
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

struct Table {
    only: Option<String>,
}

impl Table {
    /// Measures a row and prints it, if it is wanted; `work` says how many packets it handled, and how long that took.
    fn row<B>(
        &self,
        name: &str,
        runs: usize,
        make: impl FnOnce() -> B,
        mut work: impl FnMut(&mut B) -> (u64, Duration),
    ) {
        if self.only.as_ref().is_some_and(|word| !name.contains(word.as_str())) {
            return;
        }
        let mut made = make();
        let figures = measure(runs, || work(&mut made));
        let cycles = |ns: f64| per_nanosecond().map_or("-".to_owned(), |per| format!("{:.0}", ns * per));
        let (least, median) = (cycles(figures.least), cycles(figures.median));
        println!("| {name:<48} | {least:>6} | {median:>6} | {:>6.2} |", 1000.0 / figures.median);
    }
}

/// Packets of known flows: a worker that knows them all, and enough of them.
fn hit(
    table: &Table,
    name: &str,
    ipv4: bool,
    flows: usize,
    functions: usize,
    change: impl FnOnce(&mut Bench),
) {
    let make = || {
        let (traffic, mut bench) = (traffic(ipv4, flows), Bench::new(functions, flows.max(1024) * 5 / 4));
        for _ in 0..3 {
            assert_eq!(bench.pass(&traffic), traffic.len() as u64);
        }
        change(&mut bench);
        (bench, traffic)
    };
    table.row(name, 7, make, |(bench, traffic)| {
        let times = (PACKETS / traffic.len()).max(1);
        timed(|| (0..times).map(|_| bench.pass(traffic)).sum::<u64>())
    });
}

/// Established flows, with one packet in `share` of a flow that is never seen again.
fn mix(table: &Table, name: &str, ipv4: bool, functions: usize, share: usize) {
    const FLOWS: usize = 100_000;
    let make = || {
        let (known, mut bench) = (traffic(ipv4, FLOWS), Bench::new(functions, FLOWS * 5 / 4));
        for _ in 0..4 {
            bench.pass(&known);
        }
        (bench, known, FLOWS as u32)
    };
    table.row(name, 7, make, |(bench, known, fresh)| {
        let mut traffic: Vec<_> = known.iter().cycle().take(PACKETS / 2).copied().collect();
        for place in traffic.iter_mut().step_by(share) {
            *fresh += 1;
            *place = packet(ipv4, *fresh);
        }
        timed(|| bench.pass(&traffic))
    });
}

/// First packets of flows where as many sessions as these have come and gone before: a box that has run for a while.
fn opens_again(table: &Table, family: &str, ipv4: bool) {
    const FLOWS: u32 = 100_000;
    let name = format!("opens again, {family}, 100000 flows, firewall + NAT + router");
    let make = || {
        let mut bench = Bench::new(STATEFUL, 125_000);
        bench.pass(&packets(ipv4, 0..FLOWS));
        (bench, FLOWS)
    };
    table.row(&name, 5, make, |(bench, next)| {
        let traffic = packets(ipv4, *next..*next + FLOWS);
        *next += FLOWS;
        // An hour without a packet: all that there was ages.
        bench.now += 3_600_000_000_000;
        for _ in 0..8 * FLOWS / 64 {
            bench.now += 50_000_000;
            bench.worker.round(Now(bench.now));
        }
        timed(|| bench.pass(&traffic))
    });
}

/// Flows that the XDP program executes: all that is done about them in three seconds.
fn told(table: &Table, flows: usize) {
    const SPAN: u64 = 3_000_000_000;
    /// From one round to the next.
    const STEP: u64 = 50_000;
    let make = || {
        let words = Arc::new(SharedWords::in_memory(GENERATION_WORDS));
        let generations = Arc::new(Generations::over(words.clone()).unwrap());
        let mut bench = Bench::over(STATEFUL, flows * 5 / 4, generations);
        let egress = Arc::new(Egress::default());
        egress.set(WAN.0, true);
        let fast = FastFlows::in_memory(flows as u32 * 5 / 4);
        bench.worker.offload(Offload::new(fast, vec![FastPath::Auto; 2], egress));
        let traffic = packets(true, 0..flows as u32);
        for _ in 0..8 {
            for some in traffic.chunks(1 << 14) {
                bench.pass(some);
                // Flows are handed over when nothing comes.
                for _ in 0..128 {
                    bench.worker.round(Now(bench.now));
                }
            }
        }
        let headers: Vec<Headers> = traffic.iter().map(|frame| parse(frame, LAN).unwrap()).collect();
        (bench, headers, words)
    };
    table.row(&format!("told, IPv4, {flows} flows"), 7, make, |(bench, headers, words)| {
        let table = bench.worker.offloaded().unwrap().table();
        let mut executed = 0;
        for headers in headers.iter() {
            let (len, words) = (headers.packet_len(), (**words).as_ref());
            executed += u64::from(table.pretend(&headers.key, len, bench.now, words).is_some());
        }
        assert!(executed * 100 > headers.len() as u64 * 99, "{executed} of {}", headers.len());
        let end = bench.now + SPAN;
        let ((), time) = timed(|| {
            while bench.now < end {
                bench.now += STEP;
                bench.worker.round(Now(bench.now));
            }
        });
        (executed, time)
    });
}

/// So many passes of one kind, and nothing else; how many packets they were.
fn count(row: &str, passes: usize) -> u64 {
    const FLOWS: usize = 10_000;
    let (kind, rest) = row.split_once('-').expect("a kind and a family");
    let (ipv4, functions) = (rest.starts_with("ipv4"), if rest.ends_with("stateful") { STATEFUL } else { 4 });
    let mut bench = Bench::new(functions, if kind == "walk" { 0 } else { 125_000 });
    if kind == "opens" {
        let fresh = |pass: usize| packets(ipv4, (pass * FLOWS) as u32..((pass + 1) * FLOWS) as u32);
        return (0..passes).map(|pass| bench.pass(&fresh(pass))).sum();
    }
    assert!(kind == "hit" || kind == "walk", "no such row");
    let traffic = traffic(ipv4, FLOWS);
    (0..3).for_each(|_| assert_eq!(bench.pass(&traffic), FLOWS as u64));
    (0..passes).map(|_| bench.pass(&traffic)).sum()
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |name: &str| arguments.iter().skip_while(|argument| *argument != name).nth(1);
    if let Some(row) = after("--count") {
        println!("{}", count(row, after("--passes").and_then(|passes| passes.parse().ok()).unwrap_or(1)));
        return;
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let table = Table { only: after("--only").cloned() };
    println!("| {:<48} | {:>6} | {:>6} | {:>6} |", "cycles a packet", "least", "median", "Mpps");
    println!("|{:-<50}|{:->8}|{:->8}|{:->8}|", "", ":", ":", ":");
    let sizes: &[usize] = if quick { &[1, 10_000] } else { &[1, 10_000, 100_000, 1_000_000, 4_000_000] };
    let nothing = |_: &mut Bench| ();
    for &flows in sizes.iter().filter(|flows| (10_000..=1_000_000).contains(*flows)) {
        told(&table, flows);
    }
    for (ipv4, family) in [(true, "IPv4"), (false, "IPv6")] {
        for &flows in sizes {
            for functions in [1, 4] {
                let name = format!("hit, {family}, {flows} flows, {functions} function(s)");
                hit(&table, &name, ipv4, flows, functions, nothing);
            }
        }
        for &flows in sizes.iter().filter(|flows| **flows <= 1_000_000) {
            let name = format!("hit, {family}, {flows} flows, firewall + NAT + router");
            hit(&table, &name, ipv4, flows, STATEFUL, nothing);
        }
        let name = format!("opens, {family}, 100000 flows, firewall + NAT + router");
        table.row(
            &name,
            5,
            || traffic(ipv4, 100_000),
            |traffic| {
                let mut bench = Bench::new(STATEFUL, 125_000);
                timed(|| bench.pass(traffic))
            },
        );
        if !quick {
            opens_again(&table, family, ipv4);
        }
        for batch in [1, 8, 32, 64] {
            let name = format!("hit, {family}, 10000 flows, batch {batch}");
            hit(&table, &name, ipv4, 10_000, 4, |bench| bench.batch = batch);
        }
        if !quick {
            let name = format!("hit, {family}, 1000000 flows, 1000 changes/s");
            hit(&table, &name, ipv4, 1_000_000, 4, |bench| bench.change_every = 1_000_000);
        }
        for (share, percent) in [(100, 1), (10, 10)] {
            mix(&table, &format!("mix, {family}, {percent} % new, 4 functions"), ipv4, 4, share);
        }
        for functions in [1, 2, 3, 4] {
            let make = || (Bench::new(functions, 0), traffic(ipv4, 100_000));
            let name = format!("walk, {family}, {functions} function(s)");
            table.row(&name, 5, make, |(bench, traffic)| timed(|| bench.pass(traffic)));
        }
        for functions in [1, 4] {
            let name = format!("new, {family}, 100000 flows, {functions} function(s)");
            table.row(
                &name,
                5,
                || traffic(ipv4, 100_000),
                |traffic| {
                    let mut bench = Bench::new(functions, 125_000);
                    timed(|| bench.pass(traffic))
                },
            );
        }
    }
}
