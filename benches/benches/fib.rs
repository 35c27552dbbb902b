//! The FIB with a full table: `cargo bench -p throughway-benches --bench fib`.
//!
//! 1,000,000 IPv4 and 250,000 IPv6 prefixes like those of the Internet, 256 different routes; destinations are random
//! addresses of random prefixes, so that nearly every lookup touches memory that none before it did. `single` is one
//! lookup after another, each with the route it leads to; `batch of 64` is what the router does. Beside our trie stand two others:
//! DIR-24-8 (Gupta, Lin and McKeown, INFOCOM 1998) and Poptrie (Asai and Ohara, SIGCOMM 2015), as small as can be: built
//! once, values only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a program to be run by hand"
)]

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use throughway_benches::cycles::{measure, timed};
use throughway_packet::{PortId, Prefix};
use throughway_router::internet::{self, Random};
use throughway_router::{Fib, FibWriter, NextHop, NextHops, Route, RouteId};

const BATCH: usize = 64;
const LOOKUPS: usize = 1 << 20;
const ROUTES: u64 = 256;

fn route(number: u64) -> Route {
    let gateway = |number: u64| IpAddr::from([192, 0, 2, number as u8]);
    let hop = |port: u64| NextHop::gateway(PortId(port as u16), gateway(number));
    if number % 4 == 0 {
        Route::Forward(NextHops::new([hop(number % 8), hop(number % 8 + 1)]).unwrap())
    } else {
        Route::via(hop(number % 8))
    }
}

fn with_routes(prefixes: &[Prefix]) -> Vec<(Prefix, Route)> {
    let mut random = Random(3);
    prefixes.iter().map(|prefix| (*prefix, route(random.below(ROUTES)))).collect()
}

fn single(fib: &Fib, addresses: &[IpAddr]) -> u64 {
    addresses.iter().filter(|address| fib.lookup(**address).is_some()).count() as u64
}

/// One after another within one view: what the lookup itself costs.
fn one_by_one(fib: &Fib, addresses: &[IpAddr]) -> u64 {
    let mut ids = [RouteId::default(); BATCH];
    let mut found = 0;
    for addresses in addresses.chunks(BATCH) {
        let view = fib.lookup_each(addresses, &mut ids);
        found += ids[..addresses.len()].iter().filter(|id| view.get(**id).is_some()).count();
    }
    found as u64
}

fn batched(fib: &Fib, addresses: &[IpAddr]) -> u64 {
    let mut ids = [RouteId::default(); BATCH];
    let mut found = 0;
    for addresses in addresses.chunks(BATCH) {
        let view = fib.lookup_all(addresses, &mut ids);
        found += ids[..addresses.len()].iter().filter(|id| view.get(**id).is_some()).count();
    }
    found as u64
}

fn row(name: &str, work: impl Fn() -> u64) {
    let figures = measure(9, || timed(|| black_box(work())));
    println!("| {name:<46} | {:>8.1} | {:>8.1} |", figures.least, figures.median);
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Changes as BGP brings them: routes change, prefixes go and come back. How many a second.
fn updates(writer: &mut FibWriter, prefixes: &[Prefix], enough: impl Fn(u64) -> bool) -> f64 {
    let mut random = Random(77);
    let (start, mut count) = (Instant::now(), 0);
    while !enough(count) {
        let prefix = prefixes[random.below(prefixes.len() as u64) as usize];
        match random.below(3) {
            0 => {
                writer.remove(prefix);
            }
            _ => {
                writer.insert(prefix, route(random.below(ROUTES))).unwrap();
            }
        }
        count += 1;
    }
    black_box(writer.take_changes());
    count as f64 / start.elapsed().as_secs_f64()
}

fn family(name: &str, prefixes: &[Prefix]) {
    let routes = with_routes(prefixes);
    let addresses = internet::destinations(prefixes, LOOKUPS, 5);
    println!("\n{name}: {} prefixes\n", prefixes.len());

    let before = resident();
    let mut writer = FibWriter::default();
    let (result, time) = timed(|| writer.replace_all(routes));
    assert_eq!(result, Ok(prefixes.len()));
    println!("build {:.0} ms", time.as_secs_f64() * 1e3);
    println!(
        "memory: readers {:.1} MiB, writer {:.1} MiB, resident {:.1} MiB",
        mib(writer.fib().memory()),
        mib(writer.memory()),
        mib(resident() - before)
    );
    println!("\n| {:<46} | {:>8} | {:>8} |", "ns a lookup", "least", "median");
    println!("|{:-<48}|{:->10}|{:->10}|", "", ":", ":");
    let fib = writer.fib().clone();
    row("single, with a view of its own", || single(&fib, &addresses) + 1 - 1);
    row("single", || one_by_one(&fib, &addresses));
    row("batch of 64", || batched(&fib, &addresses));
    let few = &addresses[..256];
    row("batch of 64, 256 destinations", || (0..LOOKUPS / 256).map(|_| batched(&fib, few)).sum());

    let alone = updates(&mut writer, prefixes, |count| count == 500_000);
    println!("\nupdates a second, alone: {:.0}", alone);

    let (stop, lookups) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                lookups.fetch_add(batched(&fib, &addresses[..1 << 14]), Ordering::Relaxed);
            }
        });
        let start = Instant::now();
        let rate = updates(&mut writer, prefixes, |_| start.elapsed() > Duration::from_secs(3));
        stop.store(true, Ordering::Relaxed);
        let each = start.elapsed().as_nanos() as f64 / lookups.load(Ordering::Relaxed) as f64;
        println!(
            "updates a second, while another core looks up: {rate:.0}; its batches: {each:.1} ns a lookup found"
        );
    });
}

fn main() {
    family("IPv4", &internet::ipv4(1_000_000, 1));
    family("IPv6", &internet::ipv6(250_000, 2));
}
