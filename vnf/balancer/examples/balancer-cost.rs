//! What the load balancer costs on one core: `cargo run --release -p throughway-balancer --example balancer-cost`.
#![expect(clippy::print_stdout, reason = "prints a table")]
#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "a failure ends the measurement")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use throughway_balancer::maglev::{Candidate, USUAL_SIZE, fitting_size};
use throughway_balancer::{
    Backend, Balancer, FULL_SHARE, Forward, Health, Maglev, Options, Seat, Service, ServiceConfig, Services,
    Shared,
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
    let service =
        Service::new(config(forward, (1..=backends).map(backend).collect()), None).expect("a table");
    shared.publish(Services::new(vec![Arc::new(service)]));
    (Balancer::new(Arc::clone(&shared)), shared)
}

fn config(forward: Forward, backends: Vec<Backend>) -> ServiceConfig {
    ServiceConfig {
        addresses: vec![vip()],
        protocols: vec![6],
        ports: vec![80..=80],
        ..ServiceConfig::new("web", forward, backends)
    }
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
            std::hint::black_box(table(size, count));
            begun.elapsed().as_secs_f64() * 1e3
        });
        println!("| filled | {size} | {count} | {:.1} |", median(times.collect()));
    }
    println!();
    many();
}

/// Milliseconds that all threads of this process have run.
fn on_all_cpus() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    // In hundredths of a second (proc_pid_stat(5)), whatever the kernel's own clock.
    [11, 12].iter().map(|field| fields[*field].parse::<f64>().expect("a number") * 10.0).sum()
}

/// Ten thousand services of a hundred backends each, by as many threads as there are cores.
fn many() {
    const SERVICES: u32 = 10_000;
    const BACKENDS: u32 = 100;
    let service = |number: u32| {
        let backend = |other: u32| {
            let address = Ipv4Addr::from(0x0a00_0000 + number * BACKENDS + other);
            let seat = Arc::new(Seat::new(address.into(), Some(8080)));
            Backend { seat, weight: 1, share: FULL_SHARE, backup: false, health: Health::Up }
        };
        let mut config = config(Forward::Nat, (1..=BACKENDS).map(backend).collect());
        config.addresses = vec![Ipv4Addr::from(0xc612_0000 + number).into()];
        config.table_size = fitting_size((0..BACKENDS).map(|_| 1));
        Arc::new(Service::new(config, None).expect("a table"))
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    let (begun, ran) = (Instant::now(), on_all_cpus());
    let share = SERVICES.div_ceil(threads);
    let parts: Vec<Vec<Arc<Service>>> = std::thread::scope(|scope| {
        let part = |thread: u32| {
            let last = ((thread + 1) * share).min(SERVICES);
            scope.spawn(move || (thread * share..last).map(service).collect())
        };
        let parts: Vec<_> = (0..threads).map(part).collect();
        parts.into_iter().map(|part| part.join().expect("no panic")).collect()
    });
    let tell = |what: &str, begun: Instant, ran: f64| {
        let (elapsed, ran) = (begun.elapsed().as_secs_f64() * 1e3, on_all_cpus() - ran);
        println!("| {what} | {elapsed:.0} | {ran:.0} |");
    };
    println!("| {SERVICES} services, {BACKENDS} backends each, {threads} threads | ms | ms on all cores |");
    println!("| --- | --- | --- |");
    tell("tables filled", begun, ran);
    let options = Options { connections: 1000, half_open: 1000, seed: [1, 2], timeouts: Timeouts::NAT };
    let shared = Shared::new(options, Arc::default());
    let (begun, ran) = (Instant::now(), on_all_cpus());
    shared.publish(Services::new(parts.into_iter().flatten().collect()));
    tell("found by address, and in force", begun, ran);
    let mut all: Vec<Arc<Service>> = shared.services().iter().cloned().collect();
    let (begun, ran) = (Instant::now(), on_all_cpus());
    let mut config = all[0].config.clone();
    config.backends[0].health = Health::Down;
    all[0] = Arc::new(Service::new(config, Some(&all[0])).expect("a table"));
    shared.publish(Services::after(&shared.services(), all));
    tell("one backend goes down", begun, ran);
}

/// A table of so many equal backends.
fn table(size: u32, count: usize) -> Maglev {
    let names: Vec<String> =
        (0..count).map(|number| format!("10.1.{}.{}/8080", number / 250, number % 250)).collect();
    let candidates: Vec<_> =
        names.iter().map(|name| Candidate { name: name.as_bytes(), weight: 1 }).collect();
    Maglev::new(size, 0, &candidates).expect("a table")
}
