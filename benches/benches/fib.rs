//! The FIB with a full table: `cargo bench -p throughway-benches --bench fib`.
//!
//! 1,000,000 IPv4 and 250,000 IPv6 prefixes like those of the Internet, 256 different routes; destinations are random
//! addresses of random prefixes, a million of them, so that nearly every lookup touches memory that none shortly before it did.
//! All lookups go on to the route. `single, with a view of its own` is what a packet looked up alone costs; `single` is one
//! lookup after another within one view; `batch of 64` is what the router does.
//!
//! Runs are short, a few hundred microseconds, and there are many: the least is nearest to what the machine does when it is
//! not shared. As in the systemd unit, `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` is set, so that the tables lie in huge pages where
//! the kernel allows it: unless the variable has another value (`GLIBC_TUNABLES=` is small pages). The first line says what it is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::panic,
    missing_docs,
    reason = "a program to be run by hand"
)]

use std::cell::Cell;
use std::hint::black_box;
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use throughway_benches::cycles::{measure, timed};
use throughway_packet::{PortId, Prefix};
use throughway_router::internet::{self, Random};
use throughway_router::{Fib, FibWriter, NextHop, NextHops, Route, RouteId, View};

const BATCH: usize = 64;
const DESTINATIONS: usize = 1 << 20;
/// Lookups in one run.
const RUN: usize = 1 << 14;
const RUNS: usize = 400;
const ROUTES: u64 = 256;

fn route(number: u64) -> Route {
    let gateway = |number: u64| IpAddr::from([192, 0, 2, number as u8]);
    let hop = |port: u64| NextHop::gateway(PortId(port as u16), gateway(number));
    if number.is_multiple_of(4) {
        Route::Forward(NextHops::new([hop(number % 8), hop(number % 8 + 1)]).unwrap())
    } else {
        Route::via(hop(number % 8))
    }
}

fn with_routes(prefixes: &[Prefix]) -> Vec<(Prefix, Route)> {
    let mut random = Random(3);
    prefixes.iter().map(|prefix| (*prefix, route(random.below(ROUTES)))).collect()
}

fn single(fib: &Fib, addresses: &[IpAddr]) -> usize {
    addresses.iter().filter(|address| fib.lookup(**address).is_some()).count()
}

/// In batches, by either way to look a batch up.
fn batches(addresses: &[IpAddr], lookup: impl Fn(&[IpAddr], &mut [RouteId]) -> View) -> usize {
    let mut ids = [RouteId::default(); BATCH];
    let batch = |addresses: &[IpAddr]| {
        let view = lookup(addresses, &mut ids);
        ids.iter().zip(addresses).filter(|(id, _)| view.get(**id).is_some()).count()
    };
    addresses.chunks(BATCH).map(batch).sum()
}

fn row(name: &str, addresses: &[IpAddr], work: impl Fn(&[IpAddr]) -> usize) {
    let at = Cell::new(0);
    let figures = measure(RUNS, || {
        let run = &addresses[at.get()..][..RUN.min(addresses.len())];
        at.set((at.get() + run.len()) % addresses.len());
        timed(|| (0..RUN / run.len()).map(|_| black_box(work(run))).sum::<usize>().max(RUN) as u64)
    });
    println!("| {name:<32} | {:>8.1} | {:>8.1} |", figures.least, figures.median);
}

/// How long this process was on a processor.
fn on_processor() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
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
    let addresses = internet::destinations(prefixes, DESTINATIONS, 5);
    println!("\n{name}: {} prefixes\n", prefixes.len());

    let (before, busy) = (resident(), on_processor());
    let mut writer = FibWriter::default();
    let (result, time) = timed(|| writer.replace_all(routes));
    let busy = on_processor() - busy;
    assert_eq!(result, Ok(prefixes.len()));
    println!("build {:.0} ms, {:.0} ms on the processor", time.as_secs_f64() * 1e3, busy.as_secs_f64() * 1e3);
    println!(
        "memory: readers {:.1} MiB, writer {:.1} MiB, resident {:.1} MiB",
        mib(writer.fib().memory()),
        mib(writer.memory()),
        mib(resident().saturating_sub(before))
    );
    println!("\n| {:<32} | {:>8} | {:>8} |", "ns a lookup", "least", "median");
    println!("|{:-<34}|{:->10}|{:->10}|", "", ":", ":");
    let fib = writer.fib().clone();
    row("single, with a view of its own", &addresses, |run| single(&fib, run));
    row("single", &addresses, |run| batches(run, |batch, ids| fib.lookup_each(batch, ids)));
    row("batch of 64", &addresses, |run| batches(run, |batch, ids| fib.lookup_all(batch, ids)));
    let few = &addresses[..256];
    row("batch of 64, 256 destinations", few, |run| batches(run, |batch, ids| fib.lookup_all(batch, ids)));

    let alone = updates(&mut writer, prefixes, |count| count == 500_000);
    println!("\nupdates a second, alone: {alone:.0}");

    let (stop, lookups) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let found = batches(&addresses[..RUN], |batch, ids| fib.lookup_all(batch, ids));
                lookups.fetch_add(found as u64, Ordering::Relaxed);
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

/// What the systemd unit sets.
const TUNABLES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");

fn main() {
    let Some(tunables) = std::env::var_os(TUNABLES.0) else {
        // It is read when a program starts.
        let own = std::env::current_exe().unwrap();
        panic!("{}", Command::new(own).args(std::env::args_os().skip(1)).env(TUNABLES.0, TUNABLES.1).exec());
    };
    let kernel = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    println!("{}={}; transparent huge pages: {}", TUNABLES.0, tunables.display(), kernel.trim());
    family("IPv4", &internet::ipv4(1_000_000, 1));
    family("IPv6", &internet::ipv6(250_000, 2));
}
