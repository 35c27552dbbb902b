//! What the table's operations cost on one core: `cargo run --release -p throughway-session --example session-cost`.
#![expect(clippy::print_stdout, reason = "prints a table")]
#![expect(clippy::expect_used, reason = "a failure ends the measurement")]

use std::hint::black_box;
use std::time::Duration;

use arrayvec::ArrayVec;
use throughway_session::{Class, Config, NewSession, Probe, Seed, SessionId, SessionKey, SessionTable};
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

/// Nanoseconds this thread has run: other work on the machine disturbs its caches, but does not count.
fn on_cpu() -> f64 {
    let line =
        std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux with scheduler statistics");
    line.split(' ').next().and_then(|ran| ran.parse().ok()).expect("the time on the processor comes first")
}

fn measure(count: u32, mut work: impl FnMut(u32)) -> f64 {
    let begun = on_cpu();
    scattered(count).for_each(&mut work);
    (on_cpu() - begun) / f64::from(count)
}

/// As [`measure`], for batches as functions get them.
fn measure_batches(count: u32, mut work: impl FnMut(&[u32])) -> f64 {
    let mut batch = ArrayVec::<u32, 64>::new();
    let begun = on_cpu();
    for number in scattered(count) {
        batch.push(number);
        if batch.is_full() {
            work(&batch);
            batch.clear();
        }
    }
    (on_cpu() - begun) / f64::from(count)
}

type State = [u64; 4];
type Table = SessionTable<State>;

/// Each part of the measurement has a time of its own.
const fn at(minutes: u64) -> Now {
    Now(minutes * 120_000_000_000)
}

const NOW: Now = at(1);
const TIMEOUT: Duration = Duration::from_secs(60);

fn new<K>(number: u32, [forward, reverse]: [K; 2]) -> NewSession<State, K> {
    NewSession { forward, reverse, class: Class::HalfOpen, timeout: TIMEOUT, state: [u64::from(number); 4] }
}

/// Ends all sessions; the time of each.
fn expire(table: &Table, now: Now) -> f64 {
    let count = f64::from(table.len());
    let begun = on_cpu();
    while !table
        .expire(now, 256, |removed| {
            black_box(removed);
        })
        .done
    {}
    assert!(table.is_empty());
    (on_cpu() - begun) / count
}

/// The same sessions again, found missing before they are made; the slots have been used before.
fn pairs(table: &Table, count: u32, part: u64, keys: impl Fn(u32) -> [SessionKey; 2]) -> [f64; 2] {
    let single = measure(count, |number| {
        let keys = keys(number).map(|key| table.probe(key));
        assert!(table.lookup(&keys[0], at(part)).is_none());
        table.insert(new(number, keys), at(part), |_| {}).expect("there is room");
    });
    expire(table, at(part + 1));
    let prepared = measure_batches(count, |batch| {
        let probes: ArrayVec<Probe, 128> =
            batch.iter().flat_map(|&number| keys(number)).map(|key| table.probe(key)).collect();
        table.prepare(&probes);
        for (&number, keys) in batch.iter().zip(probes.chunks_exact(2)) {
            assert!(table.lookup(&keys[0], at(part + 1)).is_none());
            table.insert(new(number, [keys[0], keys[1]]), at(part + 1), |_| {}).expect("there is room");
        }
    });
    [single, prepared]
}

fn main() {
    println!(
        "ns a session, one thread, table full at the end; state of 32 bytes, IPv4, translated but for `pair, plain`"
    );
    println!("{}", HEADS.map(|head| format!("{head:>9}")).join(""));
    for count in [1 << 16, 1 << 18, 1 << 20, 1 << 22] {
        let config = Config { up_front: true, ..Config::new(count, Seed([0x0123_4567, 0x89ab_cdef])) };
        let table = Table::new(config);
        let mut ids = vec![SessionId::from_bits(0); count as usize];
        let insert = measure(count, |number| {
            ids[number as usize] =
                table.insert(new(number, keys(number)), NOW, |_| {}).expect("there is room");
        });
        let miss = measure(count, |number| {
            let [mut key, _] = keys(number);
            key.zone = 9;
            assert!(table.lookup(black_box(&key), NOW).is_none());
        });
        let miss_batch = measure_batches(count, |batch| {
            let probes: ArrayVec<Probe, 64> =
                batch.iter().map(|&number| table.probe(SessionKey { zone: 9, ..keys(number)[0] })).collect();
            table.prepare(&probes);
            for probe in &probes {
                assert!(table.lookup(probe, NOW).is_none());
            }
        });
        let hit = measure(count, |number| {
            assert!(table.lookup(black_box(&keys(number)[0]), NOW).is_some());
        });
        let side = |side: usize| {
            measure(count, |number| {
                let state = table.lookup_with(black_box(&keys(number)[side]), NOW, |_, state, _| state[0]);
                assert_eq!(state, Some(u64::from(number)));
            })
        };
        let (forward, reverse) = (side(0), side(1));
        let forward_batch = measure_batches(count, |batch| {
            let probes: ArrayVec<Probe, 64> =
                batch.iter().map(|&number| table.probe(keys(number)[0])).collect();
            table.prepare(&probes);
            for (&number, probe) in batch.iter().zip(&probes) {
                let state = table.lookup_with(probe, NOW, |_, state, _| state[0]);
                assert_eq!(state, Some(u64::from(number)));
            }
        });
        let with = measure(count, |number| {
            table.with(ids[number as usize], |_, meta| meta.touch(NOW, TIMEOUT)).expect("lives");
        });
        let keep = measure(count, |number| {
            assert!(table.keep_alive(ids[number as usize], Now(NOW.0 + 1_000_000_000)));
        });
        let bytes = table.memory() as f64 / f64::from(count);
        let ended = expire(&table, at(2));
        let [pair, pair_batch] = pairs(&table, count, 2, keys);
        expire(&table, at(4));
        let plain = |number| {
            let [forward, _] = keys(number);
            [forward, forward.reversed()]
        };
        let [plain, plain_batch] = pairs(&table, count, 4, plain);
        let figures = [
            miss,
            miss_batch,
            insert,
            pair,
            pair_batch,
            plain,
            plain_batch,
            hit,
            forward,
            reverse,
            forward_batch,
            with,
            keep,
            ended,
        ];
        println!("{count:>9}{}{bytes:>9.1}", figures.map(|figure| format!("{figure:>9.0}")).join(""));
    }
}

/// `/64`: prepared, in batches of 64.
const HEADS: [&str; 16] = [
    "sessions", "miss", "/64", "insert", "pair", "/64", "plain", "/64", "hit", "forward", "reverse", "/64",
    "with", "keep", "expire", "bytes",
];
