//! Capacity, quotas, ageing budgets, memory.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use throughway_session::{
    Class, Config, InsertError, NewSession, QuotaFull, RESOLUTION, Reason, Seed, SessionId, SessionKey,
    SessionTable, WhenFull,
};
use throughway_shared::flow::mapped;
use throughway_vnf::Now;

const SEED: Seed = Seed([0x5eed, 0x0fa1]);

fn seconds(seconds: u64) -> Now {
    Now(seconds * 1_000_000_000)
}

fn key(number: u32) -> SessionKey {
    SessionKey {
        source: mapped(number.to_be_bytes()),
        destination: mapped([192, 0, 2, 1]),
        source_port: [4, 0],
        destination_port: [0, 80],
        zone: 0,
        protocol: 6,
    }
}

fn session<S>(number: u32, class: Class, timeout: u64, state: S) -> NewSession<S> {
    let forward = key(number);
    NewSession { forward, reverse: forward.reversed(), class, timeout: Duration::from_secs(timeout), state }
}

/// Inserts where nothing may have to go.
fn add(table: &SessionTable<u32>, number: u32, class: Class, timeout: u64, now: Now) -> SessionId {
    table.insert(session(number, class, timeout, number), now, |_| panic!("something had to go")).unwrap()
}

#[test]
fn holds_exactly_its_capacity_in_any_number_of_shards() {
    for (capacity, shards) in [(1, 1), (1, 8), (3, 4), (1000, 7), (10_000, 64)] {
        let table = SessionTable::new(Config { shards: Some(shards), ..Config::new(capacity, SEED) });
        let ids: Vec<_> =
            (0..capacity).map(|number| add(&table, number, Class::Established, 60, seconds(1))).collect();
        let refused = table.insert(session(capacity, Class::Established, 60, 0), seconds(1), |_| {});
        assert_eq!(refused, Err(InsertError::Full), "{capacity} in {shards}");
        assert_eq!((table.stats().refused_full, table.len()), (1, capacity));
        for (number, &id) in ids.iter().enumerate() {
            assert_eq!(table.lookup(&key(number as u32).reversed(), seconds(2)).unwrap().id, id);
        }
        assert_eq!(table.remove(ids[0]).unwrap().state, 0);
        add(&table, capacity, Class::Established, 60, seconds(1));
    }
}

#[test]
fn a_flood_of_half_open_sessions_displaces_only_the_oldest_of_its_kind() {
    let table = SessionTable::new(
        Config { shards: Some(1), ..Config::new(1000, SEED) }.half_open(100, WhenFull::EvictHalfOpen),
    );
    let established: Vec<_> =
        (0..900).map(|n| add(&table, n, Class::Established, 7200, seconds(1))).collect();
    let mut evicted = vec![];
    for number in 1000..51_000 {
        // A thousand a second.
        let now = Now(seconds(2).0 + u64::from(number - 1000) * 1_000_000);
        let new = session(number, Class::HalfOpen, 30, number);
        table
            .insert(new, now, |removed| {
                assert_eq!((removed.reason, removed.info.class), (Reason::Evicted, Class::HalfOpen));
                evicted.push(removed.state);
            })
            .unwrap();
        assert!(table.count(Class::HalfOpen) <= 100);
    }
    // With one timeout for all, oldest means first in, first out.
    assert_eq!(evicted, (1000..50_900).collect::<Vec<_>>());
    assert!(established.iter().all(|&id| table.read(id, |_, _| ()).is_some()));
    assert_eq!(table.stats().evicted, 49_900);
}

#[test]
fn a_half_open_session_that_lives_is_not_the_oldest() {
    let table = SessionTable::new(
        Config { shards: Some(1), ..Config::new(10, SEED) }.half_open(3, WhenFull::EvictHalfOpen),
    );
    let first = add(&table, 1, Class::HalfOpen, 30, seconds(1));
    add(&table, 2, Class::HalfOpen, 30, seconds(2));
    add(&table, 3, Class::HalfOpen, 30, seconds(3));
    assert!(table.keep_alive(first, seconds(20)));
    let mut evicted = vec![];
    table
        .insert(session(4, Class::HalfOpen, 30, 4), seconds(21), |removed| evicted.push(removed.state))
        .unwrap();
    assert_eq!(evicted, [2]);
}

#[test]
fn refuses_by_quota_when_so_configured_and_frees_it_by_promotion() {
    let table = SessionTable::new(Config::new(10, SEED).half_open(2, WhenFull::Refuse));
    let id = add(&table, 1, Class::HalfOpen, 30, seconds(1));
    add(&table, 2, Class::HalfOpen, 30, seconds(1));
    let refused = Err(InsertError::Quota(QuotaFull(Class::HalfOpen)));
    assert_eq!(table.insert(session(3, Class::HalfOpen, 30, 3), seconds(1), |_| {}), refused);
    assert_eq!(table.stats().refused_quota, 1);
    add(&table, 4, Class::Established, 30, seconds(1));
    table.with(id, |_, meta| meta.set_class(Class::Established)).unwrap().unwrap();
    add(&table, 3, Class::HalfOpen, 30, seconds(1));
}

#[test]
fn a_shorter_timeout_is_not_late() {
    let table = SessionTable::new(Config::new(10, SEED));
    let id = add(&table, 1, Class::Established, 7440, seconds(1));
    table.with(id, |_, meta| meta.touch(seconds(2), Duration::from_secs(10))).unwrap();
    let early = Now(seconds(12).0 - 1);
    assert_eq!(table.expire(early, 100, |_| {}).expired, 0);
    let late = Now(seconds(12).0 + RESOLUTION.as_nanos() as u64);
    assert_eq!(table.expire(late, 100, |_| {}).expired, 1);
}

#[test]
fn ageing_is_bounded_and_pays_for_a_session_a_few_times_in_its_life() {
    let table = SessionTable::new(Config::new(20_000, SEED));
    let ids: Vec<_> = (0..20_000).map(|n| add(&table, n, Class::Established, 300, seconds(1))).collect();
    let (mut looked_at, mut calls, mut expired) = (0, 0, 0);
    for second in 2..700 {
        // Half of them live until second 380.
        if second <= 80 {
            assert!(ids.iter().step_by(2).all(|&id| table.keep_alive(id, seconds(second))));
        }
        for _ in 0..100 {
            let sweep = table.expire(seconds(second), 64, |removed| {
                let due = if removed.state % 2 == 0 { 380 } else { 301 };
                assert!(second >= due, "{} ended in second {second}", removed.state);
            });
            assert!(sweep.looked_at <= 64);
            (looked_at, calls, expired) = (looked_at + sweep.looked_at, calls + 1, expired + sweep.expired);
        }
    }
    assert_eq!((expired, table.len()), (20_000, 0));
    // Sessions are re-filed by level of the wheel; the visits to the four shards in each of 698 ticks come on top.
    assert!(looked_at < 20_000 * 5 + 4 * 698 + calls, "{looked_at} looks");
}

#[test]
fn a_session_takes_at_most_128_bytes_with_both_keys() {
    const SESSIONS: u32 = 200_000;
    let address = |number: u32| {
        let mut address = [0x20; 16];
        address[12..].copy_from_slice(&number.to_be_bytes());
        address
    };
    let v4_translated = |number| {
        let forward = key(number);
        (forward, SessionKey { destination: mapped([203, 0, 113, 1]), ..forward.reversed() })
    };
    let v6 = |number| {
        let forward = SessionKey { source: address(number), destination: [0x30; 16], ..key(0) };
        (forward, forward.reversed())
    };
    let v6_translated = |number| {
        let (forward, reverse) = v6(number);
        (forward, SessionKey { destination: [0x40; 16], source_port: [1, 1], ..reverse })
    };
    let bytes = |keys: &dyn Fn(u32) -> (SessionKey, SessionKey), up_front| {
        let table = SessionTable::<[u64; 4]>::new(Config { up_front, ..Config::new(SESSIONS, SEED) });
        for number in 0..SESSIONS {
            let (forward, mut reverse) = keys(number);
            // Distinct also where the translation would make them alike.
            reverse.zone = 1;
            reverse.source = if forward.source[0] == 0 { reverse.source } else { forward.destination };
            reverse.destination_port =
                if forward.source[0] == 0 { (number as u16).to_be_bytes() } else { [4, 0] };
            if reverse.destination != forward.source {
                reverse.source_port = ((number >> 16) as u16).to_be_bytes();
                reverse.destination_port = (number as u16).to_be_bytes();
            }
            let (class, timeout) = (Class::Established, Duration::from_secs(60));
            table
                .insert(NewSession { forward, reverse, class, timeout, state: [1; 4] }, seconds(1), |_| {})
                .unwrap();
        }
        table.memory() as f64 / f64::from(SESSIONS)
    };
    let measured = [
        bytes(&v4_translated, false),
        bytes(&v4_translated, true),
        bytes(&v6, false),
        bytes(&v6_translated, false),
    ];
    println!(
        "bytes a session with a state of 32: IPv4 translated {:.1}, up front {:.1}, IPv6 {:.1}, IPv6 translated {:.1}",
        measured[0], measured[1], measured[2], measured[3]
    );
    assert!(measured[..3].iter().all(|&bytes| bytes > 100.0 && bytes <= 128.0), "{measured:?}");
    // A state that leaves a bit pattern unused needs no word beside it to mark a vacant place.
    let table =
        SessionTable::<([u64; 3], bool)>::new(Config { up_front: true, ..Config::new(SESSIONS, SEED) });
    assert!(table.memory() as f64 / f64::from(SESSIONS) <= 117.5);
    // The second pair of addresses is kept apart.
    assert!(measured[3] <= 172.0, "{measured:?}");
}

#[test]
fn a_credit_is_56_bits_and_reaches_its_session_only() {
    let table = SessionTable::new(Config::new(4, SEED));
    let mut before = add(&table, 1, Class::Established, 60, seconds(1));
    let mut credits = vec![before.to_credit()];
    for _ in 0..100 {
        table.remove(before).unwrap();
        // The same slot again: only the generation differs.
        let id = add(&table, 1, Class::Established, 60, seconds(1));
        assert_eq!(id.to_credit() as u32, before.to_credit() as u32);
        before = id;
        credits.push(id.to_credit());
    }
    let last = credits.pop().unwrap();
    assert!(credits.iter().all(|&credit| credit >> 56 == 0 && table.credited(credit).is_none()));
    assert!(credits.iter().all(|&credit| !table.keep_alive_credit(credit, seconds(50))));
    assert_eq!(table.credited(last), Some(before));
    assert!(table.keep_alive_credit(last, seconds(50)));
    assert_eq!(table.expire(seconds(100), 1000, |_| {}).expired, 0);
    assert_eq!(table.credited(u64::MAX), None);
    assert_eq!(table.expire(seconds(111), 1000, |_| {}).expired, 1);
    assert_eq!((table.credited(last), table.keep_alive_credit(last, seconds(112))), (None, false));
}

#[test]
fn a_session_finds_a_slot_elsewhere_when_the_shards_of_its_keys_have_none() {
    // Hash values decide where a slot is looked for first; all of them must be given out.
    for seed in 0..50 {
        let config = Config { shards: Some(256), ..Config::new(300, Seed([seed, 1])) };
        let table = SessionTable::new(config);
        for number in 0..300 {
            add(&table, number, Class::Established, 60, seconds(1));
        }
        assert!((0..300).all(|number| table.lookup(&key(number), seconds(2)).is_some()));
        let mut gone = 0;
        let mut cursor = Some(throughway_session::Cursor::default());
        while let Some(at) = cursor {
            cursor = table.clear(
                at,
                |_, _| true,
                |removed| {
                    assert_eq!(removed.reason, Reason::Cleared);
                    gone += 1;
                },
            );
        }
        assert_eq!((gone, table.len(), table.stats().cleared), (300, 0, 300));
    }
}
