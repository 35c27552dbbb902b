//! Many threads on one table: no session is lost, doubled or mistaken for another.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use throughway_session::{
    Class, Config, Cursor, InsertError, NewSession, Removed, Seed, SessionId, SessionKey, SessionTable,
    WhenFull,
};
use throughway_shared::flow::mapped;
use throughway_vnf::Now;

/// The state knows its keys: whoever reaches it can tell whether it is the right one.
type State = ([SessionKey; 2], u64);

/// A small generator; the run is the same but for the scheduling.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn keys(number: u64, translation: u64) -> [SessionKey; 2] {
    let forward = SessionKey {
        source: mapped((number as u32).to_be_bytes()),
        destination: mapped([192, 0, 2, 1]),
        source_port: [4, 0],
        destination_port: [0, 80],
        zone: 0,
        protocol: 17,
    };
    // Different sessions want the same outside port now and then.
    let outside = [[0x20; 12].as_slice(), &(translation as u32).to_be_bytes()].concat();
    let outside: [u8; 16] = outside.try_into().unwrap();
    let reverse = SessionKey { destination: outside, ..forward.reversed() };
    [
        forward,
        if translation == 0 { forward.reversed() } else { SessionKey { source_port: [7, 7], ..reverse } },
    ]
}

#[test]
fn churn_from_all_sides_keeps_the_table_whole() {
    const THREADS: u64 = 4;
    const STEPS: u64 = 60_000;
    let config = Config { shards: Some(8), ..Config::new(300, Seed([3, 4])) };
    let table = SessionTable::<State>::new(config.half_open(100, WhenFull::EvictHalfOpen));
    let clock = AtomicU64::new(1_000_000_000);
    let (made, ended) = (AtomicU64::new(0), AtomicU64::new(0));
    let gone = |removed: Removed<State>| {
        assert_eq!(removed.keys, removed.state.0, "keys and state of different sessions");
        ended.fetch_add(removed.state.1, Ordering::Relaxed);
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (table, clock, made, gone) = (&table, &clock, &made, &gone);
            scope.spawn(move || {
                let mut random = Random(thread + 1);
                let mut ids: Vec<(SessionId, State)> = vec![];
                for step in 0..STEPS {
                    let now = Now(clock.fetch_add(200_000, Ordering::Relaxed));
                    let [forward, reverse] = keys(random.below(2000), random.below(400));
                    match random.below(10) {
                        0..4 => {
                            let stamp = thread * STEPS + step + 1;
                            let class = Class::ALL[random.below(3) as usize];
                            let timeout = Duration::from_millis(random.below(2000));
                            let state = ([forward, reverse], stamp);
                            match table.insert(
                                NewSession { forward, reverse, class, timeout, state },
                                now,
                                gone,
                            ) {
                                Ok(id) => {
                                    made.fetch_add(stamp, Ordering::Relaxed);
                                    ids.push((id, state));
                                }
                                Err(InsertError::SameKey) => panic!("keys differ"),
                                Err(_) => {}
                            }
                        }
                        4 | 5 => {
                            let key = if random.below(2) == 0 { forward } else { reverse };
                            // Without a lock: whatever is found has had this key.
                            if let Some(found) = table.lookup(&key, now)
                                && let Some(keys) = table.keys(found.id)
                            {
                                assert_eq!(keys[found.side as usize], key, "found another's session");
                            }
                            table.lookup_with(&key, now, |side, state, meta| {
                                assert_eq!(state.0[side as usize], key, "found another's session");
                                meta.touch(now, Duration::from_millis(random.below(2000)));
                                let _ = meta.set_class(Class::ALL[random.below(3) as usize]);
                            });
                        }
                        6 if !ids.is_empty() => {
                            let (id, expected) = ids[random.below(ids.len() as u64) as usize];
                            if let Some(state) = table.read(id, |state, _| *state) {
                                assert_eq!(state, expected, "a handle reached another session");
                            }
                            table.keep_alive(id, now);
                        }
                        7 if ids.len() > 200 => {
                            let (id, expected) = ids.swap_remove(random.below(ids.len() as u64) as usize);
                            if let Some(removed) = table.remove(id) {
                                assert_eq!(removed.state, expected, "a handle removed another session");
                                gone(removed);
                            }
                            assert!(table.remove(id).is_none() && !table.keep_alive(id, now));
                        }
                        8 if step % 64 == 0 => {
                            let at = Cursor::from_bits(random.below(8) << 32);
                            table.clear(at, |keys, _| keys[0].source[15] % 8 == thread as u8, gone);
                        }
                        _ => {
                            table.expire(now, 16, gone);
                        }
                    }
                    assert!(table.count(Class::HalfOpen) <= 100, "more than the quota");
                }
            });
        }
    });

    let stats = table.stats();
    let now = Now(clock.load(Ordering::Relaxed));
    assert!(stats.expired > 0 && stats.evicted > 0 && stats.conflicts > 0 && stats.removed > 0, "{stats:?}");
    let mut left: HashMap<SessionId, [SessionKey; 2]> = HashMap::new();
    let mut cursor = Some(Cursor::default());
    while let Some(at) = cursor {
        cursor = table.walk(at, |keys, _, info| {
            assert!(left.insert(info.id, *keys).is_none(), "shown twice");
        });
    }
    assert_eq!(left.len() as u32, table.len());
    assert_eq!(Class::ALL.map(|class| table.count(class)).iter().sum::<u32>(), table.len());
    let ends = stats.removed + stats.expired + stats.evicted + stats.cleared;
    assert!(stats.cleared > 0);
    assert_eq!(stats.inserted - ends, u64::from(table.len()));
    for (&id, keys) in &left {
        table.with(id, |_, meta| meta.touch(now, Duration::from_secs(5))).unwrap();
        for (key, side) in keys.iter().zip([0, 1]) {
            let found = table.lookup(key, now).expect("a session without one of its keys");
            assert_eq!((found.id, found.side as usize), (id, side));
        }
    }
    // Everything that was made comes out exactly once.
    while !table.is_empty() {
        let later = Now(now.0 + 10_000_000_000);
        assert!(table.expire(later, 1000, gone).looked_at > 0, "sessions are left that nothing ends");
    }
    assert_eq!(made.load(Ordering::Relaxed), ended.load(Ordering::Relaxed));
    assert_eq!(Class::ALL.map(|class| table.count(class)), [0; 3], "of quotas and of counts nothing is left");
    // Handles of all generations that were are stale.
    for id in left.into_keys() {
        assert!(table.read(id, |_, _| ()).is_none() && table.keys(id).is_none());
        assert!(!table.keep_alive(id, now) && table.remove(id).is_none());
    }
}

#[test]
fn a_walk_shows_each_session_that_stays_exactly_once() {
    let table = SessionTable::<u64>::new(Config { shards: Some(4), ..Config::new(4000, Seed([1, 1])) });
    let add = |number: u64| {
        let [forward, reverse] = keys(number, 0);
        let (class, timeout) = (Class::Established, Duration::from_secs(3600));
        table.insert(NewSession { forward, reverse, class, timeout, state: number }, Now(1), |_| {})
    };
    let mut stay = vec![];
    for number in 0..2000 {
        let id = add(number).unwrap();
        if number % 2 == 0 {
            stay.push(number);
        } else {
            table.remove(id);
        }
    }
    let over = AtomicBool::new(false);
    let churned = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..2u64 {
            let (add, table, over, churned) = (&add, &table, &over, &churned);
            scope.spawn(move || {
                let mut random = Random(thread + 9);
                let mut ids = vec![];
                while !over.load(Ordering::Relaxed) {
                    if ids.len() < 1000 {
                        ids.extend(add(10_000 * (thread + 1) + random.below(10_000)));
                    } else {
                        let at = random.below(ids.len() as u64) as usize;
                        assert!(table.remove(ids.swap_remove(at)).is_some());
                    }
                    churned.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut walks = 0;
        while walks < 50 || churned.load(Ordering::Relaxed) < 20_000 {
            let mut shown: HashMap<SessionId, u64> = HashMap::new();
            let mut cursor = Some(Cursor::default());
            while let Some(at) = cursor {
                cursor = table.walk(at, |_, number, info| {
                    assert!(shown.insert(info.id, *number).is_none(), "shown twice");
                });
            }
            let mut stayed: Vec<u64> = shown.into_values().filter(|number| *number < 2000).collect();
            stayed.sort_unstable();
            assert_eq!(stayed, stay);
            walks += 1;
        }
        over.store(true, Ordering::Relaxed);
    });
}
