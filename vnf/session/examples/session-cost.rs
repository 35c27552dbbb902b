//! What the table's operations cost on one core: `cargo run --release -p throughway-session --example session-cost`.
#![expect(clippy::print_stdout, reason = "prints a table")]
#![expect(clippy::expect_used, reason = "a failure ends the measurement")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use throughway_session::{Class, Config, NewSession, Seed, SessionKey, SessionTable};
use throughway_shared::flow::mapped;
use throughway_vnf::Now;

/// Numbers in an order that no cache foresees: an odd factor modulo a power of two visits each once.
fn scattered(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(move |number| number.wrapping_mul(2_654_435_761) & (count - 1))
}

fn keys(number: u32) -> [SessionKey; 2] {
    let forward = SessionKey {
        source: mapped(number.to_be_bytes()),
        destination: mapped([198, 51, 100, 1]),
        source_port: [4, 0],
        destination_port: [1, 187],
        zone: 0,
        protocol: 6,
    };
    // Translated to one of some outside addresses and a port.
    let [a, b, c, d] = number.to_be_bytes();
    let reverse =
        SessionKey { destination: mapped([203, 0, a, b]), destination_port: [c, d], ..forward.reversed() };
    [forward, reverse]
}

fn measure(count: u32, mut work: impl FnMut(u32)) -> f64 {
    let begun = Instant::now();
    scattered(count).for_each(&mut work);
    begun.elapsed().as_nanos() as f64 / f64::from(count)
}

fn main() {
    println!("ns a session, one thread, table full at the end; state of 32 bytes");
    println!(
        "{:>9} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "sessions", "miss", "insert", "forward", "reverse", "with", "keep", "expire", "bytes"
    );
    for count in [1 << 13, 1 << 16, 1 << 20, 1 << 22] {
        let config = Config { up_front: true, ..Config::new(count, Seed([0x0123_4567, 0x89ab_cdef])) };
        let table = SessionTable::<[u64; 4]>::new(config);
        let now = Now(1_000_000_000);
        let mut ids = Vec::with_capacity(count as usize);
        let (class, timeout) = (Class::Established, Duration::from_secs(60));
        let insert = measure(count, |number| {
            let [forward, reverse] = keys(number);
            let new = NewSession { forward, reverse, class, timeout, state: [u64::from(number); 4] };
            ids.push(table.insert(new, now, |_| {}).expect("there is room"));
        });
        let miss = measure(count, |number| {
            let [mut key, _] = keys(number);
            key.zone = 9;
            assert!(table.lookup(black_box(&key), now).is_none());
        });
        let side = |side: usize| {
            measure(count, |number| {
                let state = table.lookup_with(black_box(&keys(number)[side]), now, |_, state, _| state[0]);
                assert_eq!(state, Some(u64::from(number)));
            })
        };
        let (forward, reverse) = (side(0), side(1));
        let with = measure(count, |number| {
            table.with(ids[number as usize], |_, meta| meta.touch(now, timeout)).expect("lives");
        });
        let keep = measure(count, |number| {
            assert!(table.keep_alive(ids[number as usize], Now(2_000_000_000)));
        });
        let bytes = table.memory() as f64 / f64::from(count);
        let begun = Instant::now();
        while !table
            .expire(Now(100_000_000_000), 256, |removed| {
                black_box(removed);
            })
            .done
        {}
        let expire = begun.elapsed().as_nanos() as f64 / f64::from(count);
        assert!(table.is_empty());
        println!(
            "{count:>9} {miss:>8.0} {insert:>8.0} {forward:>8.0} {reverse:>8.0} {with:>8.0} {keep:>8.0} {expire:>8.0} {bytes:>8.1}"
        );
    }
}
