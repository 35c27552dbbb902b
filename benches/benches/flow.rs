//! The flow cache from frame to frame: `cargo bench -p throughway-benches --bench flow -- --table`.
//!
//! 64-byte packets lie in memory in the order in which they come. For each batch they are copied into frames (so the headers
//! are whole again for every pass, and the copy counts), peeked at, prepared, looked up, edited and counted. The action is that
//! of firewall, NAT and router together: addresses, ports, DSCP, MAC addresses, hop limit and all checksums.
//!
//! `--quick` leaves the large tables out, `--only WORD` takes rows with that word.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a program to be run by hand"
)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use throughway_benches::cycles::{Figures, measure, per_nanosecond, timed};
use throughway_benches::random::Random;
use throughway_flow::{
    Credits, Dependencies, FlowCache, Generations, NewFlow, Policy, Probe, Round, Slot, peek,
};
use throughway_packet::build::PacketBuilder;
use throughway_packet::{Action, Edit, Headers, PortId, parse};

const BATCH: usize = 64;
const FRAME: usize = 64;
/// Packets in one run, at least: all flows so often that it is this many.
const PACKETS: usize = 1 << 20;

fn address(ipv4: bool, net: u8, number: u32) -> IpAddr {
    if ipv4 {
        IpAddr::V4(Ipv4Addr::from(u32::from(net) << 24 | number & 0xff_ffff))
    } else {
        IpAddr::V6(Ipv6Addr::from((0x2001_0db8_u128 << 96) | u128::from(net) << 64 | u128::from(number)))
    }
}

/// The packet of one flow. The IPv6 one is 62 bytes without payload, so that it fits.
fn packet(ipv4: bool, number: u32) -> [u8; FRAME] {
    let builder = PacketBuilder::between(address(ipv4, 10, number / 16), address(ipv4, 198, number % 4096));
    let payload: &[u8] = if ipv4 { &[0; 18] } else { &[] };
    let bytes = builder.udp(1024 + (number % 16) as u16, 53).payload(payload).finish();
    let mut frame = [0; FRAME];
    frame[..bytes.len()].copy_from_slice(&bytes);
    frame
}

/// What firewall, NAT and router say together.
fn judge(headers: &Headers) -> Action {
    let (mut view, mut action) = (*headers, Action::nothing());
    for edit in [
        Edit::Source(address(headers.is_ipv4(), 203, 7)),
        Edit::SourcePort(headers.source_port() ^ 0x5555),
        Edit::Dscp(10),
        Edit::DecrementHops,
        Edit::Ethernet { destination: [2, 0, 0, 0, 1, 1], source: [2, 0, 0, 0, 1, 2] },
        Edit::Egress(PortId(1)),
    ] {
        edit.record(&mut view, &mut action);
    }
    action
}

fn dependencies(headers: &Headers) -> Dependencies {
    [Slot::route(headers.destination()), Slot::neighbour(PortId(1), headers.destination()), Slot::session(7)]
        .into_iter()
        .collect()
}

struct Bench {
    cache: FlowCache,
    generations: Generations,
    /// Packets in the order they come.
    traffic: Vec<[u8; FRAME]>,
    frames: Vec<u8>,
    stride: usize,
    probes: [Probe; BATCH],
    now: u64,
    credits: Credits,
}

impl Bench {
    fn new(capacity: usize, traffic: Vec<[u8; FRAME]>, stride: usize) -> Self {
        Bench {
            cache: FlowCache::new(capacity, 0x1234_5678_9abc_def0, Policy::default()),
            generations: Generations::default(),
            traffic,
            frames: vec![0; stride * BATCH],
            stride,
            probes: [Probe::default(); BATCH],
            now: 1 << 40,
            credits: Credits::default(),
        }
    }

    fn install_all(&mut self) {
        let round = Round::new(self.generations.epoch(), self.now);
        for packet in &self.traffic {
            let headers = parse(packet, PortId(0)).unwrap();
            let new = NewFlow {
                action: &judge(&headers),
                tunnel: None,
                dependencies: dependencies(&headers),
                credits: self.credits,
                limit: 1500,
                silence: u64::MAX,
            };
            self.cache.install(&Probe::of(&headers), &new, &round, |_| ());
        }
    }

    /// One pass over all traffic, `bumps` of whose batches begin with a change of a route that no flow uses.
    fn pass(&mut self, bump_every: usize) -> u64 {
        let mut hits = 0;
        let mut egress = 0u64;
        for (number, packets) in self.traffic.chunks(BATCH).enumerate() {
            if bump_every > 0 && number % bump_every == 0 {
                self.generations.bump([Slot::session(number as u64 + 100_000)]);
            }
            // 64 packets at 10 Mpps.
            self.now += 6_400;
            let round = Round::new(self.generations.epoch(), self.now);
            for (packet, frame) in packets.iter().zip(self.frames.chunks_mut(self.stride)) {
                frame[..FRAME].copy_from_slice(packet);
            }
            for (probe, frame) in
                self.probes.iter_mut().zip(self.frames.chunks(self.stride)).take(packets.len())
            {
                self.cache.read(&frame[..FRAME], PortId(0), probe);
            }
            let probes = &mut self.probes[..packets.len()];
            self.cache.fetch(probes);
            for (probe, frame) in probes.iter().zip(self.frames.chunks_mut(self.stride)) {
                if probe.is_readable()
                    && let Some(plan) = self.cache.execute(probe, &round, &mut frame[..FRAME])
                {
                    egress += u64::from(plan.egress());
                    hits += 1;
                }
            }
        }
        black_box(&mut self.frames);
        black_box(egress);
        hits
    }
}

fn traffic(ipv4: bool, flows: usize, packets: usize) -> Vec<[u8; FRAME]> {
    let mut traffic: Vec<_> = (0..flows as u32).map(|number| packet(ipv4, number)).collect();
    Random(1).shuffle(&mut traffic);
    while traffic.len() < packets {
        let missing = (packets - traffic.len()).min(traffic.len());
        traffic.extend_from_within(..missing);
    }
    traffic
}

struct Table {
    per_nanosecond: f64,
    only: Option<String>,
}

impl Table {
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|word| name.contains(word.as_str()))
    }

    fn row(&self, name: &str, figures: Figures) {
        println!(
            "{name:<44} {:>8.1} {:>8.1} {:>9.2} {:>9.2}",
            figures.least * self.per_nanosecond,
            figures.median * self.per_nanosecond,
            1000.0 / figures.least,
            1000.0 / figures.median,
        );
    }
}

fn hits(table: &Table, ipv4: bool, flows: usize, stride: usize, bump_every: usize, name: &str) {
    if !table.wants(name) {
        return;
    }
    let mut bench = Bench::new(flows, traffic(ipv4, flows, flows.max(BATCH)), stride);
    bench.install_all();
    let passes = PACKETS.div_ceil(bench.traffic.len());
    let packets = bench.traffic.len();
    let expected = packets as u64;
    // A table filled to its capacity loses some three flows in ten thousand.
    let found = bench.pass(0);
    assert!(found >= expected - expected / 1000, "flows are missing: {found} of {expected}");
    let runs = if flows > 1_000_000 { 7 } else { 15 };
    table.row(
        name,
        measure(runs, || {
            let (found, time) = timed(|| (0..passes).map(|_| bench.pass(bump_every)).sum::<u64>());
            black_box(found);
            ((packets * passes) as u64, time)
        }),
    );
}

trait IntoPackets {
    fn into_packets(self, packets: u64) -> (u64, std::time::Duration);
}

impl<T> IntoPackets for (T, std::time::Duration) {
    fn into_packets(self, packets: u64) -> (u64, std::time::Duration) {
        black_box(self.0);
        (packets, self.1)
    }
}

/// New flows: what a miss costs beside the chain itself: peek, failed lookup, parse, judge (six edits), install, apply.
fn installs(table: &Table, ipv4: bool, flows: usize, capacity: usize, name: &str) {
    if !table.wants(name) {
        return;
    }
    let traffic = traffic(ipv4, flows, flows);
    table.row(
        name,
        measure(5, || {
            let mut bench = Bench::new(capacity, Vec::new(), FRAME);
            let (_, time) = timed(|| {
                for packets in traffic.chunks(BATCH) {
                    bench.now += 64_000;
                    let round = Round::new(bench.generations.epoch(), bench.now);
                    let mut probes = [Probe::default(); BATCH];
                    for (number, packet) in packets.iter().enumerate() {
                        let frame = &mut bench.frames[number * FRAME..][..FRAME];
                        frame.copy_from_slice(packet);
                        probes[number] = peek(frame, PortId(0)).unwrap();
                    }
                    bench.cache.prepare(&mut probes[..packets.len()]);
                    for (number, probe) in probes[..packets.len()].iter().enumerate() {
                        let frame = &mut bench.frames[number * FRAME..][..FRAME];
                        if let Some(action) = bench.cache.lookup(probe, &round) {
                            probe.apply(action, frame);
                            continue;
                        }
                        learn(&mut bench.cache, probe, frame, &round);
                    }
                }
            });
            black_box(&bench.frames);
            (traffic.len() as u64, time)
        }),
    );
}

/// One packet in ten of 10,000 established flows, nine of flows never seen again, through a cache of 64k: what a packet costs on
/// average, and the share of the established ones' packets that are hits.
fn flood(table: &Table, name: &str) {
    if !table.wants(name) {
        return;
    }
    let known = traffic(true, 10_000, 10_000);
    let mut bench = Bench::new(65_536, known.clone(), FRAME);
    bench.install_all();
    (0..3).for_each(|_| {
        bench.pass(0);
    });
    let mut random = Random(2);
    let (mut offered, mut found) = (0u64, 0u64);
    let figures = measure(9, || {
        let (mut packets, mut ours) = (Vec::with_capacity(PACKETS / 4), Vec::with_capacity(PACKETS / 4));
        for number in 0..PACKETS / 4 {
            let established = number % 10 == 0;
            ours.push(established);
            // Numbers of 28 bits, which the 10,000 begin: practically never one of these.
            packets.push(if established {
                known[random.below(known.len())]
            } else {
                packet(true, (random.next() as u32) >> 4)
            });
        }
        let (_, time) = timed(|| {
            for (packets, ours) in packets.chunks(BATCH).zip(ours.chunks(BATCH)) {
                // 1 Mpps.
                bench.now += 64_000;
                let round = Round::new(bench.generations.epoch(), bench.now);
                for (packet, frame) in packets.iter().zip(bench.frames.chunks_mut(FRAME)) {
                    frame.copy_from_slice(packet);
                }
                for (probe, frame) in bench.probes.iter_mut().zip(bench.frames.chunks(FRAME)) {
                    *probe = peek(frame, PortId(0)).unwrap();
                }
                let probes = &mut bench.probes[..packets.len()];
                bench.cache.prepare(probes);
                for ((probe, frame), ours) in probes.iter().zip(bench.frames.chunks_mut(FRAME)).zip(ours) {
                    offered += u64::from(*ours);
                    if let Some(action) = bench.cache.lookup(probe, &round) {
                        found += u64::from(*ours);
                        probe.apply(action, frame);
                    } else {
                        learn(&mut bench.cache, probe, frame, &round);
                    }
                }
            }
        });
        (packets.len() as u64, time)
    });
    table.row(name, figures);
    println!(
        "    of the established flows' packets {:.3} % were hits",
        found as f64 * 100.0 / offered as f64
    );
}

/// Going once through the whole table, as the worker does in a second: ageing and telling, for each flow. All were seen since the
/// last time; with `credits` somebody is told of each.
fn sweep(table: &Table, flows: usize, credits: Credits, name: &str) {
    if !table.wants(name) {
        return;
    }
    let mut bench = Bench::new(flows, traffic(true, flows, flows), FRAME);
    bench.credits = credits;
    bench.install_all();
    let mut told = 0;
    let figures = measure(9, || {
        bench.now += 1_000_000_000;
        bench.pass(0);
        let (buckets, now) = (bench.cache.buckets(), bench.now);
        let (_, time) = timed(|| {
            bench.cache.age(now, buckets, |_| ());
            bench.cache.harvest(now, buckets, |settled| told += settled.packets);
        });
        (flows as u64, time)
    });
    table.row(name, figures);
    assert_eq!(told > 0, credits != Credits::default());
    println!("    {:.2} ms each time", figures.median * flows as f64 / 1e6);
}

/// The slow path of this benchmark: parse, six edits, install, apply.
fn learn(cache: &mut FlowCache, probe: &Probe, frame: &mut [u8], round: &Round<'_>) {
    let headers = parse(frame, PortId(0)).unwrap();
    let action = judge(&headers);
    let new = NewFlow {
        action: &action,
        tunnel: None,
        dependencies: dependencies(&headers),
        credits: Credits::default(),
        limit: 1500,
        silence: u64::MAX,
    };
    cache.install(probe, &new, round, |_| ());
    probe.apply(&action, frame);
}

/// Where the time of a hit goes, step by step, at one number of flows.
fn steps(table: &Table, ipv4: bool, flows: usize, name: &str) {
    if !table.wants(name) {
        return;
    }
    let mut bench = Bench::new(flows, traffic(ipv4, flows, flows), FRAME);
    bench.install_all();
    let packets = bench.traffic.len() as u64;
    table.row(
        &format!("{name}: copy"),
        measure(9, || {
            timed(|| {
                for packets in bench.traffic.chunks(BATCH) {
                    for (packet, frame) in packets.iter().zip(bench.frames.chunks_mut(FRAME)) {
                        frame.copy_from_slice(packet);
                    }
                    black_box(&mut bench.frames);
                }
            })
            .into_packets(packets)
        }),
    );
    for (prepare, what) in [(false, "copy, peek"), (true, "copy, peek, prepare")] {
        table.row(
            &format!("{name}: {what}"),
            measure(9, || {
                timed(|| {
                    for packets in bench.traffic.chunks(BATCH) {
                        let mut probes = [Probe::default(); BATCH];
                        let mut known = 0;
                        for (packet, frame) in packets.iter().zip(bench.frames.chunks_mut(FRAME)) {
                            frame.copy_from_slice(packet);
                        }
                        for (_, frame) in packets.iter().zip(bench.frames.chunks(FRAME)) {
                            if let Some(probe) = peek(frame, PortId(0)) {
                                probes[known] = probe;
                                known += 1;
                            }
                        }
                        if prepare {
                            bench.cache.prepare(&mut probes[..known]);
                        }
                        black_box(&mut probes);
                    }
                })
                .into_packets(packets)
            }),
        );
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let only =
        arguments.iter().position(|argument| argument == "--only").and_then(|at| arguments.get(at + 1));
    let table = Table { per_nanosecond: per_nanosecond().unwrap_or(1.0), only: only.cloned() };
    println!("counter: {:.3} cycles a nanosecond", table.per_nanosecond);
    println!("{:<44} {:>8} {:>8} {:>9} {:>9}", "per packet", "cycles", "", "Mpps", "");
    println!("{:<44} {:>8} {:>8} {:>9} {:>9}", "", "least", "median", "least", "median");
    let sizes = [(1, "1"), (10_000, "10k"), (100_000, "100k"), (1_000_000, "1M"), (4_000_000, "4M")];
    let sizes = if has("--quick") { &sizes[..3] } else { &sizes[..] };
    for &(flows, label) in sizes {
        for (ipv4, family) in [(true, "IPv4"), (false, "IPv6")] {
            hits(&table, ipv4, flows, FRAME, 0, &format!("hit, {family}, {label} flows"));
        }
    }
    for &(flows, label) in sizes {
        hits(&table, true, flows, 2048, 0, &format!("hit, IPv4, {label} flows, frames 2 KiB apart"));
    }
    for &(flows, label) in sizes {
        hits(&table, true, flows, FRAME, 1, &format!("hit, IPv4, {label} flows, change every batch"));
    }
    if !has("--quick") {
        // At some 10 Mpps, 156 batches are a millisecond.
        hits(&table, true, 1_000_000, FRAME, 156, "hit, IPv4, 1M flows, 1000 changes a second");
    }
    flood(&table, "flood, 10k established flows, 9 in 10 new");
    for &(flows, label) in &sizes[1..] {
        installs(&table, true, flows, flows, &format!("new flows, IPv4, {label}"));
    }
    if !has("--quick") {
        installs(&table, true, 4_000_000, 65_536, "new flows, IPv4, 4M through 64k (evicting)");
    }
    if !has("--quick") {
        sweep(&table, 1_000_000, Credits::default(), "sweep, 1M flows, none with credits");
        sweep(&table, 1_000_000, Credits([1, 2, 3]), "sweep, 1M flows, all with credits");
    }
    steps(&table, true, 10_000, "steps, IPv4, 10k");
    steps(&table, false, 10_000, "steps, IPv6, 10k");
}
