//! What the load balancer costs on one core: `cargo run --release -p throughway-balancer --example balancer-cost`.
#![expect(clippy::print_stdout, reason = "prints a table")]
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a failure ends the measurement")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use throughway_balancer::maglev::{Candidate, USUAL_SIZE};
use throughway_balancer::{
    Affinity, AllDown, Backend, Balancer, FULL_SHARE, Forward, Health, Maglev, Options, Seat, Service,
    ServiceConfig, Services, Shared,
};
use throughway_packet::build::PacketBuilder;
use throughway_packet::{Headers, PortId, parse};
use throughway_session::connection::Timeouts;
use throughway_vnf::{BATCH, Batch, Context, Function, Now, Packet};

const CONNECTIONS: u32 = 1 << 18;

/// Nanoseconds this thread has run: other work on the machine disturbs its caches, but does not count.
fn on_cpu() -> f64 {
    let line =
        std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux with scheduler statistics");
    line.split(' ').next().and_then(|ran| ran.parse().ok()).expect("the time on the processor comes first")
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn world(forward: Forward, backends: u32, half_open: u32) -> (Balancer, Arc<Shared>) {
    let options = Options { connections: CONNECTIONS, half_open, seed: [1, 2], timeouts: Timeouts::NAT };
    let shared = Arc::new(Shared::new(options, Arc::default()));
    let backend = |number: u32| {
        let seat = Arc::new(Seat::new(Ipv4Addr::from(0x0a01_0000 + number).into(), Some(8080)));
        seat.set_via(Some(Ipv4Addr::new(10, 1, 255, 254).into()));
        Backend { seat, weight: 1, share: FULL_SHARE, backup: false, health: Health::Up }
    };
    let config = ServiceConfig {
        name: "web".to_owned(),
        addresses: vec![vip()],
        protocols: vec![6],
        ports: vec![80..=80],
        forward,
        sources: Vec::new(),
        affinity: Affinity::Connection,
        affinity_timeout: Duration::ZERO,
        answer_ping: false,
        all_down: AllDown::Reject,
        table_size: USUAL_SIZE,
        seed: 0,
        backends: (1..=backends).map(backend).collect(),
        figures: Arc::default(),
    };
    let service = Service::new(config, None).expect("a table");
    shared.publish(Services::new(vec![Arc::new(service)]));
    (Balancer::new(Arc::clone(&shared)), shared)
}

fn vip() -> IpAddr {
    Ipv4Addr::new(203, 0, 113, 80).into()
}

/// The same frame with headers of `count` clients, in an order that no cache foresees.
fn clients(flags: u8, count: u32) -> (Vec<u8>, Vec<Headers>) {
    let frame =
        PacketBuilder::between(Ipv4Addr::new(192, 0, 2, 7).into(), vip()).tcp(5000, 80, flags).finish();
    let headers = parse(&frame, PortId(0)).expect("well formed");
    let client = |number: u32| {
        let scattered = number.wrapping_mul(2_654_435_761) & (count - 1);
        let mut headers = headers;
        headers.key.source[12..].copy_from_slice(&(0x0b00_0000 + scattered).to_be_bytes());
        headers
    };
    (frame, (0..count).map(client).collect())
}

/// Nanoseconds a packet.
fn pass(balancer: &mut Balancer, (frame, all): &(Vec<u8>, Vec<Headers>)) -> f64 {
    let context = Context { now: Now(1_000_000_000) };
    let begun = on_cpu();
    for some in all.chunks(BATCH) {
        let mut batch = Batch::new();
        for headers in some {
            let _ = batch.push(Packet::new(frame, *headers));
        }
        balancer.process(&mut batch, &context);
    }
    (on_cpu() - begun) / all.len() as f64
}

fn main() {
    println!(
        "One worker, batches of {BATCH}, {CONNECTIONS} clients in scattered order, 100 backends; medians of five."
    );
    println!();
    println!("| packet | ns |");
    println!("| --- | --- |");
    let (syn, ack) = (clients(2, CONNECTIONS), clients(16, CONNECTIONS));
    for (name, forward) in
        [("NAT", Forward::Nat), ("full NAT", Forward::FullNat), ("direct return", Forward::Dsr)]
    {
        let (mut opens, mut known, mut bytes) = (Vec::new(), Vec::new(), 0.0);
        for _ in 0..5 {
            let (mut balancer, shared) = world(forward, 100, CONNECTIONS);
            opens.push(pass(&mut balancer, &syn));
            // The client's acknowledgement alone does not fit before the backend's answer; with direct return it does.
            let again = if forward == Forward::Dsr { &ack } else { &syn };
            known.push(pass(&mut balancer, again));
            let overview = shared.overview();
            bytes = overview.memory as f64 / f64::from(overview.connections.iter().sum::<u32>());
        }
        let opens = median(opens);
        println!("| {name}: opens a connection ({:.1} million a second) | {opens:.0} |", 1000.0 / opens);
        println!(
            "| {name}: of a connection that is remembered ({bytes:.0} bytes each) | {:.0} |",
            median(known)
        );
    }
    let flood = (0..5).map(|_| pass(&mut world(Forward::Nat, 100, 1000).0, &syn));
    println!("| a flood: the half-open share is used up | {:.0} |", median(flood.collect()));
    println!();

    println!("| Maglev table | entries | backends | ms |");
    println!("| --- | --- | --- | --- |");
    for (size, count) in [(USUAL_SIZE, 10), (USUAL_SIZE, 100), (USUAL_SIZE, 1000), (655_373, 1000)] {
        // Too short for the scheduler's statistics.
        let times = (0..15).map(|_| {
            let begun = Instant::now();
            std::hint::black_box(table(size, count, None));
            begun.elapsed().as_secs_f64() * 1e3
        });
        println!("| filled | {size} | {count} | {:.1} |", median(times.collect()));
    }
    println!();
    println!("| entries that change hands | backends | of those that stay | the least possible |");
    println!("| --- | --- | --- | --- |");
    for (size, count) in [(USUAL_SIZE, 10), (USUAL_SIZE, 100), (USUAL_SIZE, 1000), (655_373, 1000)] {
        let (before, after) = (table(size, count, None), table(size, count, Some(count / 2)));
        let pairs = before.entries().zip(after.entries());
        let moved = pairs.filter(|(was, is)| was != is && *was != Some(count / 2)).count();
        let percent = moved as f64 * 100.0 / size as f64;
        println!("| one of {count} goes, {size} entries | {count} | {percent:.2} % | 0 % |");
    }
}

/// A table of so many equal backends, without one of them.
fn table(size: u32, count: usize, without: Option<usize>) -> Maglev {
    let names: Vec<String> =
        (0..count).map(|number| format!("10.1.{}.{}/8080", number / 250, number % 250)).collect();
    let candidates = names.iter().enumerate();
    let candidates: Vec<_> = candidates
        .map(|(number, name)| Candidate { name: name.as_bytes(), weight: u32::from(without != Some(number)) })
        .collect();
    Maglev::new(size, 0, &candidates).expect("a table")
}
