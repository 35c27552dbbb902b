//! The table against a naive model: a list of sessions and a clock.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use throughway_session::{
    Class, Config, Cursor, InsertError, NewSession, QuotaFull, Reason, Removed, Seed, SessionId, SessionKey,
    SessionTable, Side, WhenFull,
};
use throughway_vnf::{Credit, FunctionTag, Now};

const TICK: u64 = 1 << 26;

#[derive(Clone, Debug)]
struct Entry {
    number: u64,
    id: SessionId,
    keys: [SessionKey; 2],
    class: Class,
    seen: u64,
    timeout: u64,
}

impl Entry {
    fn deadline(&self) -> u64 {
        self.seen + self.timeout
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert {
        forward: SessionKey,
        reverse: SessionKey,
        class: Class,
        timeout: Duration,
    },
    Lookup(SessionKey),
    Touch {
        pick: usize,
        timeout: Duration,
        class: Option<Class>,
    },
    KeepAlive {
        pick: usize,
        ago: u64,
    },
    Remove(usize),
    Advance(u64),
    Expire(usize),
    Walk,
    /// Ends the sessions of one port.
    Clear(u8),
}

struct World {
    table: SessionTable<u64>,
    config: Config,
    present: Vec<Entry>,
    every: Vec<SessionId>,
    now: u64,
    next: u64,
}

fn ticks(timeout: Duration) -> u64 {
    timeout.as_nanos().div_ceil(u128::from(TICK)) as u64 + 1
}

impl World {
    fn new(config: Config) -> Self {
        World {
            table: SessionTable::new(config),
            config,
            present: vec![],
            every: vec![],
            now: 5 * TICK + 3,
            next: 0,
        }
    }

    fn tick(&self) -> u64 {
        self.now / TICK
    }

    fn pick(&self, pick: usize) -> Option<SessionId> {
        // Out of all there ever were: most handles are stale.
        (!self.every.is_empty()).then(|| self.every[pick % self.every.len()])
    }

    fn entry(&mut self, id: SessionId) -> Option<&mut Entry> {
        self.present.iter_mut().find(|entry| entry.id == id)
    }

    fn of(&self, class: Class) -> usize {
        self.present.iter().filter(|entry| entry.class == class).count()
    }

    /// A session the table has given back: it must be one of ours, as we know it.
    fn forget(&mut self, removed: &Removed<u64>) -> Entry {
        let at = self
            .present
            .iter()
            .position(|entry| entry.id == removed.info.id)
            .expect("unknown session given back");
        let entry = self.present.remove(at);
        assert_eq!(removed.state, entry.number);
        assert_eq!(removed.keys, entry.keys);
        assert_eq!(removed.info.class, entry.class);
        assert_eq!(removed.info.last_seen, Now(entry.seen * TICK));
        assert_eq!(removed.info.expires, Now(entry.deadline() * TICK));
        entry
    }

    fn insert(&mut self, forward: SessionKey, reverse: SessionKey, class: Class, timeout: Duration) {
        let number = self.next;
        self.next += 1;
        let mut gone = vec![];
        let result = if number.is_multiple_of(2) {
            let new = NewSession { forward, reverse, class, timeout, state: number };
            self.table.insert(new, Now(self.now), |removed| gone.push(removed))
        } else {
            let [forward, reverse] = [forward, reverse].map(|key| self.table.probe(key));
            self.table.prepare(&[forward, reverse]);
            let new = NewSession { forward, reverse, class, timeout, state: number };
            self.table.insert(new, Now(self.now), |removed| gone.push(removed))
        };
        let mut gone = gone.into_iter();

        let expected = 'expected: {
            if forward == reverse {
                break 'expected Err(InsertError::SameKey);
            }
            for (side, key) in [(Side::Forward, forward), (Side::Reverse, reverse)] {
                let holder = self.present.iter().find(|entry| entry.keys.contains(&key));
                let Some(&Entry { id: with, .. }) = holder else { continue };
                if holder.unwrap().deadline() > self.tick() {
                    break 'expected Err(InsertError::Conflict { side, with });
                }
                let removed = gone.next().expect("the holder of a key whose time is over has to go");
                assert_eq!((removed.reason, removed.info.id), (Reason::Expired, with));
                self.forget(&removed);
            }
            let quota = self.config.quotas[class as usize].map_or(usize::MAX, |quota| quota as usize);
            let refused = if self.of(class) >= quota {
                Some(InsertError::Quota(QuotaFull(class)))
            } else {
                (self.present.len() >= self.config.capacity as usize).then_some(InsertError::Full)
            };
            let Some(refused) = refused else { break 'expected Ok(()) };
            let displaceable = refused != InsertError::Quota(QuotaFull(Class::Established))
                && refused != InsertError::Quota(QuotaFull(Class::Closing));
            if self.config.when_full == WhenFull::EvictHalfOpen
                && displaceable
                && self.of(Class::HalfOpen) > 0
            {
                let removed = gone.next().expect("a half-open session has to go");
                assert_eq!(removed.reason, Reason::Evicted);
                assert_eq!(self.forget(&removed).class, Class::HalfOpen);
                break 'expected Ok(());
            }
            Err(refused)
        };
        assert_eq!(gone.next().map(|removed| removed.reason), None, "more went than had to");
        assert_eq!(result.map(|_| ()), expected);
        if let Ok(id) = result {
            assert!(!self.every.contains(&id), "a handle was given twice");
            self.every.push(id);
            let (keys, seen, timeout) = ([forward, reverse], self.tick(), ticks(timeout));
            self.present.push(Entry { number, id, keys, class, seen, timeout });
        }
    }

    fn step(&mut self, step: Step) {
        let (now, tick) = (Now(self.now), self.tick());
        match step {
            Step::Insert { forward, reverse, class, timeout } => {
                self.insert(forward, reverse, class, timeout)
            }
            Step::Lookup(key) => {
                let found = self.table.lookup(&key, now);
                let expected = self.present.iter().find(|e| e.keys.contains(&key) && e.deadline() > tick);
                assert_eq!(found.map(|found| found.id), expected.map(|entry| entry.id));
                let (Some(found), Some(entry)) = (found, expected) else { return };
                assert_eq!(entry.keys[found.side as usize], key);
                let state = self.table.lookup_with(&key, now, |side, state, meta| (side, *state, meta.id()));
                assert_eq!(state, Some((found.side, entry.number, entry.id)));
                let probe = self.table.probe(key);
                self.table.prepare(&[probe, self.table.probe(key.reversed())]);
                assert_eq!(self.table.lookup(&probe, now), Some(found));
                assert_eq!(self.table.update(&probe, now, |side, _, _| side), Some((found, found.side)));
            }
            Step::Touch { pick, timeout, class } => {
                let Some(id) = self.pick(pick) else { return };
                let changed = self.table.with(id, |state, meta| {
                    meta.touch(now, timeout);
                    (*state, class.map(|class| meta.set_class(class)))
                });
                let quotas = self.config.quotas;
                let counts = Class::ALL.map(|class| self.of(class));
                let expected = self.entry(id).map(|entry| {
                    entry.seen = entry.seen.max(tick);
                    entry.timeout = ticks(timeout);
                    let moved = class.map(|class| {
                        let quota = quotas[class as usize].map_or(usize::MAX, |quota| quota as usize);
                        if class != entry.class && counts[class as usize] >= quota {
                            return Err(QuotaFull(class));
                        }
                        entry.class = class;
                        Ok(())
                    });
                    (entry.number, moved)
                });
                assert_eq!(changed, expected);
            }
            Step::KeepAlive { pick, ago } => {
                let Some(id) = self.pick(pick) else { return };
                let last_seen = self.now.saturating_sub(ago);
                let expected = self.entry(id).map(|entry| entry.seen = entry.seen.max(last_seen / TICK));
                let kept = if pick.is_multiple_of(2) {
                    self.table.keep_alive(id, Now(last_seen))
                } else {
                    let credit = Credit::new(FunctionTag(7), id.to_credit());
                    self.table.keep_alive_credit(credit.id(), Now(last_seen))
                };
                assert_eq!(kept, expected.is_some());
            }
            Step::Remove(pick) => {
                let Some(id) = self.pick(pick) else { return };
                assert!(self.table.remove_if(id, |_| false).is_none());
                let removed = self.table.remove(id);
                assert_eq!(removed.is_some(), self.entry(id).is_some());
                if let Some(removed) = removed {
                    assert_eq!(removed.reason, Reason::Removed);
                    self.forget(&removed);
                }
            }
            Step::Advance(by) => self.now += by,
            Step::Expire(budget) => {
                let mut gone = vec![];
                let table = &self.table;
                let sweep = table.expire(now, budget, |removed| gone.push(removed));
                assert!(sweep.looked_at <= budget);
                assert_eq!(sweep.expired, gone.len());
                for removed in gone {
                    assert_eq!(removed.reason, Reason::Expired);
                    assert!(self.forget(&removed).deadline() <= tick, "ended early");
                }
                if sweep.done {
                    assert!(
                        self.present.iter().all(|entry| entry.deadline() > tick),
                        "done, but something is overdue"
                    );
                }
                assert!(sweep.done || sweep.looked_at == budget, "stopped for no reason");
            }
            Step::Clear(port) => {
                let (mut gone, mut cursor) = (vec![], Some(Cursor::default()));
                while let Some(at) = cursor {
                    let wanted = |keys: &[SessionKey; 2], _: &_| keys[0].source_port[1] == port;
                    cursor = self.table.clear(at, wanted, |removed| gone.push(removed));
                }
                for removed in gone {
                    assert_eq!(removed.reason, Reason::Cleared);
                    assert_eq!(self.forget(&removed).keys[0].source_port[1], port);
                }
                assert!(self.present.iter().all(|entry| entry.keys[0].source_port[1] != port));
            }
            Step::Walk => {
                let mut shown = vec![];
                let mut cursor = Some(Cursor::default());
                while let Some(at) = cursor {
                    let at = Cursor::from_bits(at.to_bits());
                    cursor = self.table.walk(at, |keys, state, info| shown.push((*state, *keys, *info)));
                }
                assert_eq!(shown.len(), self.present.len());
                let numbers: BTreeSet<u64> = shown.iter().map(|(number, ..)| *number).collect();
                assert_eq!(numbers, self.present.iter().map(|entry| entry.number).collect());
                let (mut few, mut cursor) = (0, Some(Cursor::default()));
                while let Some(at) = cursor {
                    let wanted = |keys: &[SessionKey; 2], _: &_| keys[0].source_port[1] == 0;
                    cursor = self.table.walk_where(at, wanted, |keys, state, info| {
                        assert!(wanted(keys, info) && shown.contains(&(*state, *keys, *info)));
                        few += 1;
                    });
                }
                assert_eq!(few, shown.iter().filter(|(_, keys, _)| keys[0].source_port[1] == 0).count());
                for (_, keys, info) in shown {
                    let entry = self.entry(info.id).expect("shown with a stale handle");
                    assert_eq!((keys, info.class), (entry.keys, entry.class));
                    assert_eq!(info.expires, Now(entry.deadline() * TICK));
                }
            }
        }
    }

    fn check(&self) {
        assert_eq!(self.table.len() as usize, self.present.len());
        for class in Class::ALL {
            assert_eq!(self.table.count(class) as usize, self.of(class), "{class:?}");
        }
        for &id in &self.every {
            let id = SessionId::from_bits(id.to_bits());
            let entry = self.present.iter().find(|entry| entry.id == id);
            assert_eq!(self.table.read(id, |state, _| *state), entry.map(|entry| entry.number));
            assert_eq!(self.table.keys(id), entry.map(|entry| entry.keys));
        }
        let stats = self.table.stats();
        let left = stats.inserted - stats.removed - stats.expired - stats.evicted - stats.cleared;
        assert_eq!(left as usize, self.present.len());
    }
}

fn key() -> impl Strategy<Value = SessionKey> {
    (0u8..3, 0u8..3, 0u8..2, any::<bool>()).prop_map(|(source, destination, port, v6)| {
        let address = |last| {
            let mut address = if v6 { [0x20; 16] } else { throughway_shared::flow::mapped([192, 0, 2, 0]) };
            address[15] = last;
            address
        };
        SessionKey {
            source: address(source),
            destination: address(destination),
            source_port: [0, port],
            destination_port: [0, 80],
            zone: 1,
            protocol: 6,
        }
    })
}

fn class() -> impl Strategy<Value = Class> {
    prop::sample::select(&Class::ALL[..])
}

fn timeout() -> impl Strategy<Value = Duration> {
    prop_oneof![Just(0), 0u64..3 * TICK, 0u64..100 * TICK, 0u64..10_000 * TICK].prop_map(Duration::from_nanos)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (key(), key(), any::<bool>(), class(), timeout()).prop_map(|(forward, other, mirror, class, timeout)| {
            Step::Insert { forward, reverse: if mirror { forward.reversed() } else { other }, class, timeout }
        }),
        3 => key().prop_map(Step::Lookup),
        3 => (any::<usize>(), timeout(), prop::option::of(class()))
            .prop_map(|(pick, timeout, class)| Step::Touch { pick, timeout, class }),
        2 => (any::<usize>(), 0u64..20 * TICK).prop_map(|(pick, ago)| Step::KeepAlive { pick, ago }),
        1 => any::<usize>().prop_map(Step::Remove),
        3 => prop_oneof![0u64..3 * TICK, 0u64..100 * TICK, 0u64..20_000 * TICK].prop_map(Step::Advance),
        3 => prop_oneof![0usize..4, Just(1000)].prop_map(Step::Expire),
        1 => Just(Step::Walk),
        1 => (0u8..2).prop_map(Step::Clear),
    ]
}

fn config() -> impl Strategy<Value = Config> {
    let quota = || prop::option::of(0u32..6);
    (1u32..12, 1u32..5, [quota(), quota(), quota()], any::<bool>(), any::<bool>()).prop_map(
        |(capacity, shards, quotas, evict, up_front)| Config {
            quotas,
            when_full: if evict { WhenFull::EvictHalfOpen } else { WhenFull::Refuse },
            shards: Some(shards),
            up_front,
            ..Config::new(capacity, Seed([1, 2]))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_a_list_and_a_clock(config in config(), steps in prop::collection::vec(step(), 1..150)) {
        let mut world = World::new(config);
        for step in steps {
            world.step(step);
            world.check();
        }
    }
}
