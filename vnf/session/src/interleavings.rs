//! Every interleaving of small scenes, explored by loom:
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p throughway-session --lib --target-dir target/loom interleavings`
//!
//! (A target directory of its own, because the flag changes how every crate is built.)
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says how much it explored"
)]

use std::sync::atomic::AtomicU32 as Explored;
use std::time::Duration;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use throughway_shared::flow::mapped;
use throughway_vnf::Now;

use crate::{
    Class, Config, InsertError, Keyed, NewSession, Removed, Seed, SessionId, SessionKey, SessionTable, Side,
    WhenFull,
};

const SECOND: u64 = 1_000_000_000;
const START: Now = Now(100 * SECOND);
const LATER: Now = Now(200 * SECOND);

type Table = SessionTable<u32>;

fn table(capacity: u32) -> Arc<Table> {
    Arc::new(SessionTable::new(Config { shards: Some(2), ..Config::new(capacity, Seed([1, 2])) }))
}

/// A key whose place is as wanted.
fn key_where(number: u8, wanted: impl Fn(&SessionKey) -> bool) -> SessionKey {
    (0..=u16::MAX)
        .map(|port| SessionKey {
            source: mapped([10, 0, 0, number]),
            destination: mapped([192, 0, 2, 1]),
            source_port: port.to_be_bytes(),
            destination_port: [0, 80],
            zone: 0,
            protocol: 6,
        })
        .find(wanted)
        .unwrap()
}

/// A key that lies in the given one of two shards.
fn key(table: &Table, shard: usize, number: u8) -> SessionKey {
    key_where(number, |key| table.address(key.hash_with(&table.seed)).shard == shard)
}

fn new(forward: SessionKey, reverse: SessionKey, state: u32) -> NewSession<u32> {
    NewSession { forward, reverse, class: Class::HalfOpen, timeout: Duration::from_secs(30), state }
}

fn nothing(_: Removed<u32>) {
    panic!("nothing had to go");
}

/// Runs a scene in all orders that can make a difference.
fn explore(scene: impl Fn() + Sync + Send + 'static) {
    let explored = std::sync::Arc::new(Explored::new(0));
    let count = std::sync::Arc::clone(&explored);
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 20_000;
    // All orders would take days: a lookup reads a dozen words without a lock. Errors of this kind need few preemptions.
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        scene();
    });
    let explored = explored.load(Ordering::Relaxed);
    println!("{explored} interleavings");
    assert!(explored >= 4, "nothing was interleaved");
}

#[test]
fn of_two_that_make_the_same_session_one_wins_and_the_other_learns_of_it() {
    explore(|| {
        let table = table(4);
        let (a, b) = (key(&table, 0, 1), key(&table, 1, 2));
        let other = Arc::clone(&table);
        // The other direction first: the locks are wanted in opposite order.
        let racer = thread::spawn(move || other.insert(new(b, a, 2), START, nothing));
        let mine = table.insert(new(a, b, 1), START, nothing);
        let theirs = racer.join().unwrap();
        let (winner, loser) = if mine.is_ok() { (mine, theirs) } else { (theirs, mine) };
        let id = winner.unwrap();
        assert!(matches!(loser, Err(InsertError::Conflict { with, .. }) if with == id), "{loser:?}");
        assert_eq!([a, b].map(|key| table.lookup(&key, START).map(|found| found.id)), [Some(id); 2]);
        assert_eq!((table.len(), table.count(Class::HalfOpen)), (1, 1));
    });
}

#[test]
fn a_session_that_is_being_removed_is_found_whole_or_not_at_all() {
    explore(|| {
        let table = table(2);
        let (a, b) = (key(&table, 0, 1), key(&table, 1, 2));
        let id = table.insert(new(a, b, 7), START, nothing).unwrap();
        let other = Arc::clone(&table);
        let remover = thread::spawn(move || {
            assert_eq!(other.remove(id).map(|removed| removed.state), Some(7));
            // Its slot and one of its keys are used again at once.
            let c = key(&other, 0, 3);
            other.insert(new(c, b, 8), START, nothing).unwrap()
        });
        let seen = table.lookup_with(&b, START, |_, state, meta| (*state, meta.id()));
        match seen {
            Some((7, found)) => assert_eq!(found, id),
            Some((8, found)) => assert_ne!(found, id),
            other => assert_eq!(other, None),
        }
        assert!(matches!(table.read(id, |state, _| *state), Some(7) | None));
        let next = remover.join().unwrap();
        assert_eq!(table.lookup(&a, START), None);
        assert_eq!(table.lookup(&b, START).map(|found| found.id), Some(next));
    });
}

#[test]
fn of_two_that_remove_a_session_one_gets_it() {
    explore(|| {
        let table = table(2);
        let (a, b) = (key(&table, 0, 1), key(&table, 1, 2));
        let id = table.insert(new(a, b, 7), START, nothing).unwrap();
        let other = Arc::clone(&table);
        let racer = thread::spawn(move || other.remove(id).is_some());
        let mut mine = 0;
        table.expire(LATER, 8, |_| mine += 1);
        assert_eq!(mine + u32::from(racer.join().unwrap()), 1);
        assert_eq!((table.len(), table.lookup(&a, START), table.lookup(&b, START)), (0, None, None));
    });
}

#[test]
fn a_life_sign_saves_a_session_or_comes_too_late() {
    explore(|| {
        let table = table(1);
        let (a, b) = (key(&table, 0, 1), key(&table, 0, 2));
        let id = table.insert(new(a, b, 7), START, nothing).unwrap();
        let other = Arc::clone(&table);
        let cache = thread::spawn(move || other.keep_alive(id, LATER));
        let mut ended = 0;
        table.expire(LATER, 8, |removed| {
            assert_eq!(removed.info.last_seen.0 >> 26, START.0 >> 26, "ended although it was seen");
            ended += 1;
        });
        let reached = cache.join().unwrap();
        assert_eq!(reached, ended == 0);
        assert_eq!(
            table.read(id, |_, info| info.last_seen >= Now(LATER.0 - SECOND)),
            (ended == 0).then_some(true)
        );
        // The wheel has not forgotten the survivor.
        table.expire(Now(300 * SECOND), 64, |_| ended += 1);
        assert_eq!((ended, table.len()), (1, 0));
    });
}

#[test]
fn a_late_life_sign_does_not_prolong_the_next_session_in_the_slot() {
    explore(|| {
        let table = table(1);
        let (a, b) = (key(&table, 0, 1), key(&table, 0, 2));
        let id = table.insert(new(a, b, 7), START, nothing).unwrap();
        let other = Arc::clone(&table);
        let cache = thread::spawn(move || other.keep_alive(id, LATER));
        table.remove(id).unwrap();
        let next = table.insert(new(a, b, 8), START, nothing).unwrap();
        cache.join().unwrap();
        assert_eq!((next.index, next == id), (id.index, false));
        assert_eq!(table.read(next, |_, info| info.last_seen < LATER), Some(true));
    });
}

#[test]
fn touching_against_ageing_loses_nobody() {
    explore(|| {
        let table = table(2);
        let (a, b) = (key(&table, 0, 1), key(&table, 1, 2));
        let id = table.insert(new(a, b, 7), START, nothing).unwrap();
        let other = Arc::clone(&table);
        let worker = thread::spawn(move || {
            other.with(id, |_, meta| {
                meta.touch(LATER, Duration::from_secs(5));
                meta.set_class(Class::Established).unwrap();
            })
        });
        let mut ended = 0;
        table.expire(LATER, 8, |_| ended += 1);
        let touched = worker.join().unwrap().is_some();
        assert_eq!((ended, table.len()), if touched { (0, 1) } else { (1, 0) });
        assert_eq!(table.count(Class::Established), u32::from(touched));
        table.expire(Now(300 * SECOND), 64, |_| ended += 1);
        assert_eq!((ended, table.len()), (1, 0));
    });
}

#[test]
fn the_last_place_is_given_once() {
    explore(|| {
        let config =
            Config { shards: Some(2), ..Config::new(2, Seed([1, 2])) }.half_open(1, WhenFull::EvictHalfOpen);
        let table: Arc<Table> = Arc::new(SessionTable::new(config));
        let keys = [1, 2].map(|n| (key(&table, 0, n), key(&table, 1, n + 10)));
        let gone = Arc::new(AtomicU32::new(0));
        let (other, other_gone) = (Arc::clone(&table), Arc::clone(&gone));
        let racer: thread::JoinHandle<Result<SessionId, InsertError>> = thread::spawn(move || {
            other.insert(new(keys[1].0, keys[1].1, 2), START, |_| {
                other_gone.fetch_add(1, Ordering::Relaxed);
            })
        });
        let mine = table.insert(new(keys[0].0, keys[0].1, 1), START, |_| {
            gone.fetch_add(1, Ordering::Relaxed);
        });
        let theirs = racer.join().unwrap();
        let made = u32::from(mine.is_ok()) + u32::from(theirs.is_ok());
        assert!(made >= 1);
        assert_eq!(table.count(Class::HalfOpen), 1);
        assert_eq!(table.len(), 1);
        assert_eq!(made - gone.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn making_removing_and_finding_at_once_in_one_chain() {
    explore(|| {
        // One slot in each shard, so few buckets: keys of different sessions may share chains.
        let table = table(2);
        let old = (key(&table, 0, 1), key(&table, 1, 2));
        let young = (key(&table, 1, 3), key(&table, 0, 4));
        let id = table.insert(new(old.0, old.1, 1), START, nothing).unwrap();
        let (maker, remover) = (Arc::clone(&table), Arc::clone(&table));
        let maker = thread::spawn(move || maker.insert(new(young.0, young.1, 2), START, nothing).unwrap());
        let remover = thread::spawn(move || remover.remove(id).map(|removed| removed.state));
        let seen = table.lookup_with(&young.1, START, |_, state, _| *state);
        assert!(matches!(seen, None | Some(2)), "{seen:?}");
        let made = maker.join().unwrap();
        assert_eq!(remover.join().unwrap(), Some(1));
        assert_eq!([old.0, old.1].map(|key| table.lookup(&key, START)), [None; 2]);
        for key in [young.0, young.1] {
            assert_eq!(table.lookup(&key, START).map(|found| found.id), Some(made));
        }
    });
}

// In the scenes below the reader is the second thread: loom looks for a race at a load if the store before it came from elsewhere,
// but at a store only if the very last access did, and who changes a word has read it before.

#[test]
fn a_session_is_found_while_others_in_its_bucket_come_and_go() {
    explore(|| {
        // One bucket for all.
        let table: Arc<Table> = Arc::new(SessionTable::new(Config::new(3, Seed([1, 2]))));
        let at = |number| key_where(number, |_| true);
        let before = table.insert(new(at(1), at(2), 1), START, nothing).unwrap();
        let id = table.insert(new(at(3), at(4), 2), START, nothing).unwrap();
        let other = Arc::clone(&table);
        let reader = thread::spawn(move || {
            assert_eq!(other.lookup(&at(3), START).map(|found| found.id), Some(id));
        });
        table.remove(before).unwrap();
        table.insert(new(at(5), at(6), 3), START, nothing).unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn who_reads_without_a_lock_mistakes_no_key_for_another() {
    explore(|| {
        // One slot: the next session's keys are written over those of the last one. Read in the middle, half of each would be
        // another key: the source of one, the port of the other.
        let table: Arc<Table> = Arc::new(SessionTable::new(Config::new(1, Seed([1, 2]))));
        let key = |host, port: u8| SessionKey { source_port: [0, port], ..key_where(host, |_| true) };
        let id = table.insert(new(key(1, 1), key(9, 9), 1), START, nothing).unwrap();
        let other = Arc::clone(&table);
        let reader = thread::spawn(move || {
            // Asked as the index would, were the tags alike.
            let card = other.shards[0].cards.get(0).unwrap();
            assert!(card.find(Side::Forward, &key(2, 1).words(), |_| None).is_none());
            assert!(card.find(Side::Forward, &key(1, 2).words(), |_| None).is_none());
            if let Some(keys) = other.keys(id) {
                assert_eq!(keys, [key(1, 1), key(9, 9)]);
            }
        });
        table.remove(id).unwrap();
        let next = table.insert(new(key(2, 2), key(9, 8), 2), START, nothing).unwrap();
        reader.join().unwrap();
        assert_eq!(table.keys(next), Some([key(2, 2), key(9, 8)]));
    });
}

#[test]
fn a_new_session_is_found_by_both_keys_or_by_none() {
    explore(|| {
        let table = table(2);
        let (a, b) = (key(&table, 0, 1), key(&table, 1, 2));
        let other = Arc::clone(&table);
        let reader = thread::spawn(move || {
            let first = other.lookup(&a, START);
            // Found by one, it is found by the other from then on.
            if let Some(found) = first {
                assert_eq!(other.lookup(&b, START).map(|found| found.id), Some(found.id));
            }
        });
        table.insert(new(a, b, 1), START, nothing).unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn a_full_bucket_leads_to_another_that_comes_and_goes() {
    use crate::bucket::Entry;
    use crate::shard::{Address, Shard};
    use crate::sync::lock;

    explore(|| {
        let shard: Arc<Shard<u32>> = Arc::new(Shard::new(1, true));
        let address = |tag| Address { shard: 0, bucket: 0, tag };
        let entry = |index| Entry { index, side: Side::Forward };
        let seen = |shard: &Shard<u32>, tag| {
            shard.chain(0).flat_map(|bucket| bucket.entries(tag)).map(|entry| entry.index).next()
        };
        for index in 0..11 {
            assert!(shard.enlist(&mut lock(&shard.slab), address(index as u16 + 1), entry(index)));
        }
        let other = Arc::clone(&shard);
        let reader = thread::spawn(move || {
            assert_eq!(seen(&other, 10), Some(9));
            // Old tag, new entry: the card would tell.
            assert!(matches!(seen(&other, 11), Some(10 | 11) | None));
        });
        // The last one goes, and its bucket with it; another one comes into the same.
        shard.delist(&mut lock(&shard.slab), address(11), entry(10));
        assert!(shard.enlist(&mut lock(&shard.slab), address(12), entry(11)));
        reader.join().unwrap();
        assert_eq!((seen(&shard, 11), seen(&shard, 12)), (None, Some(11)));
    });
}
