use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use super::*;

fn v4(text: &str) -> IpAddr {
    IpAddr::V4(text.parse::<Ipv4Addr>().unwrap())
}

fn v6(text: &str) -> IpAddr {
    IpAddr::V6(text.parse::<Ipv6Addr>().unwrap())
}

#[test]
fn a_prefix_names_the_blocks_it_covers() {
    let slots = |prefix, length| Slot::of_prefix(prefix, length).collect::<Vec<_>>();
    assert_eq!(slots(v4("10.1.2.0"), 24), [Slot::route(v4("10.1.200.1"))]);
    assert_eq!(slots(v4("10.1.0.0"), 16), [Slot::route(v4("10.1.0.1"))]);
    assert_eq!(slots(v4("10.3.0.0"), 15), [Slot::route(v4("10.2.0.1")), Slot::route(v4("10.3.9.9"))]);
    assert_eq!(slots(v4("10.0.0.0"), 8).len(), 256);
    assert!(slots(v4("10.0.0.0"), 8).contains(&Slot::route(v4("10.255.0.1"))));
    assert_eq!(slots(v4("10.0.0.0"), 7), [Slot::ROUTES]);
    assert_eq!(slots(v4("0.0.0.0"), 0), [Slot::ROUTES]);
    assert_eq!(slots(v6("2001:db8:1::"), 48), [Slot::route(v6("2001:db8:ffff::1"))]);
    assert_eq!(slots(v6("2001:db8::"), 31).len(), 2);
    assert!(slots(v6("2001:db8::"), 31).contains(&Slot::route(v6("2001:db9::1"))));
    assert_eq!(slots(v6("2001:d00::"), 24).len(), 256);
    assert_eq!(slots(v6("2000::"), 3), [Slot::ROUTES]);
    assert_eq!(slots(v6("::"), 0), [Slot::ROUTES]);
}

#[test]
fn different_things_mostly_have_different_slots() {
    let mut slots: Vec<u16> = (0..1000u64).map(|id| Slot::session(id).number()).collect();
    slots.extend((0..1000u32).map(|n| Slot::route(IpAddr::V4((n << 16).into())).number()));
    slots.extend((0..1000u16).map(|n| Slot::neighbour(PortId(n), v4("192.0.2.1")).number()));
    slots.extend((0..1000u32).map(|n| Slot::neighbour(PortId(0), IpAddr::V4(n.into())).number()));
    assert!(slots.iter().all(|slot| *slot >= Slot::FIRST_HASHED));
    slots.sort_unstable();
    slots.dedup();
    // 4000 of 65520: some 120 collisions are to be expected.
    assert!(slots.len() > 3800, "{}", slots.len());
}

#[test]
fn an_entry_goes_stale_by_what_it_was_made_from_alone() {
    let generations = Generations::default();
    let (mine, other) = (Slot::session(1), Slot::session(2));
    let dependencies = Dependencies::from_iter([mine]);
    let made = generations.epoch().generation();
    assert!(generations.epoch().unchanged(made, &dependencies));
    generations.bump([other]);
    assert!(generations.epoch().unchanged(made, &dependencies));
    generations.bump([mine]);
    assert!(!generations.epoch().unchanged(made, &dependencies));
    assert!(generations.epoch().unchanged(made, &Dependencies::NONE));
    let made = generations.epoch().generation();
    assert!(generations.epoch().unchanged(made, &dependencies));
    for slot in [Slot::CONFIG, Slot::ROUTES] {
        let made = generations.epoch().generation();
        generations.bump([slot]);
        assert!(!generations.epoch().unchanged(made, &Dependencies::NONE), "{slot:?}");
    }
}

#[test]
fn more_slots_than_an_entry_can_name_are_any_change() {
    let generations = Generations::default();
    let mut dependencies = Dependencies::from_iter((0..4).map(Slot::session));
    dependencies.add(Slot::session(3));
    dependencies.add(Slot::CONFIG);
    dependencies.add(Slot::ROUTES);
    assert_eq!(dependencies.slots().collect::<Vec<_>>(), [0, 1, 2, 3].map(Slot::session));
    let made = generations.epoch().generation();
    generations.bump([Slot::session(100)]);
    assert!(generations.epoch().unchanged(made, &dependencies));
    dependencies.add(Slot::session(4));
    dependencies.add(Slot::session(5));
    let made = generations.epoch().generation();
    assert!(generations.epoch().unchanged(made, &dependencies));
    generations.bump([Slot::session(100)]);
    assert!(!generations.epoch().unchanged(made, &dependencies));
    // A change that names nothing is a change, too.
    let made = generations.epoch().generation();
    generations.bump([]);
    assert!(!generations.epoch().unchanged(made, &dependencies));
}

#[test]
fn numbers_that_wrap_around_stay_right() {
    let generations = Generations::starting_at(u32::MAX - 2);
    let dependencies = Dependencies::from_iter([Slot::session(1)]);
    let made = generations.epoch().generation();
    for _ in 0..5 {
        generations.bump([Slot::session(2)]);
        assert!(generations.epoch().unchanged(made, &dependencies));
    }
    assert_eq!(generations.epoch().generation(), 2);
    generations.bump([Slot::session(1)]);
    assert!(!generations.epoch().unchanged(made, &dependencies));
}

#[test]
fn what_is_very_old_is_neither_true_forever_nor_false_forever() {
    let generations = Generations::default();
    let dependencies = Dependencies::from_iter([Slot::session(1)]);
    let made = generations.epoch().generation();
    // Three quarters of the way round in eight jumps, with the bumps that would have come to every slot between.
    for step in 1..=8u32 {
        generations.parts().0.store(step * (HORIZON / 8 * 3), Ordering::Release);
        for _ in 0..SLOTS {
            generations.bump([]);
        }
    }
    assert!(!generations.epoch().unchanged(made, &dependencies), "too old to tell");
    let made = generations.epoch().generation();
    generations.bump([]);
    // Its slot has not changed for ages, and must not seem to lie in the future.
    assert!(generations.epoch().unchanged(made, &dependencies));
}

/// One publisher of the exhaustive test: a table, then the two halves of a bump.
#[derive(Clone, Copy, PartialEq)]
enum Writer {
    Publish,
    Read,
    Mark(u32),
    Commit(u32),
    Done,
}

/// A worker: batches, each of which takes an epoch, then looks at its entry, and reads the tables if it must.
#[derive(Clone, Copy)]
enum Reader {
    Epoch,
    Validate(u32),
    Make(u32),
}

#[derive(Clone)]
struct World {
    /// Versions of two tables, and the real slots' values as they would be restored.
    tables: [u32; 2],
    writers: [Writer; 2],
    reader: Reader,
    batches: u32,
    /// The generation and table versions of the entry.
    entry: Option<(u32, [u32; 2])>,
    /// Set when a batch began after a writer was done.
    done_at_epoch: [bool; 2],
    current: u32,
    slots: [u32; 3],
}

const SLOT: [Slot; 2] = [Slot(100), Slot(200)];

/// All interleavings of two publishers and a worker with three batches, on the real `mark`, `commit` and `unchanged`. Steps
/// are whole: what the memory model adds to that is argued in the module's documentation.
#[test]
fn every_interleaving_of_publishers_and_a_worker() {
    let generations = Generations::default();
    let both = Dependencies::from_iter(SLOT);
    let mut stack = vec![World {
        tables: [0; 2],
        writers: [Writer::Publish; 2],
        reader: Reader::Epoch,
        batches: 0,
        entry: None,
        done_at_epoch: [false; 2],
        current: 0,
        slots: [0; 3],
    }];
    let (mut ends, mut hits, mut conflicts) = (0u64, 0u64, 0u64);
    let cells = [SLOT[0].0, SLOT[1].0, Slot::ANY.0];
    while let Some(world) = stack.pop() {
        let restore = |world: &World| {
            generations.parts().0.store(world.current, Ordering::Relaxed);
            for (cell, value) in cells.iter().zip(world.slots) {
                generations.parts().1[usize::from(*cell)].store(value, Ordering::Relaxed);
            }
        };
        let save = |world: &mut World| {
            world.current = generations.parts().0.load(Ordering::Relaxed);
            world.slots = cells.map(|cell| generations.parts().1[usize::from(cell)].load(Ordering::Relaxed));
        };
        for (number, slot) in SLOT.into_iter().enumerate() {
            let mut next = world.clone();
            restore(&next);
            next.writers[number] = match next.writers[number] {
                Writer::Publish => {
                    next.tables[number] += 1;
                    Writer::Read
                }
                Writer::Read => Writer::Mark(generations.read()),
                Writer::Mark(seen) => {
                    generations.mark(seen, [slot]);
                    Writer::Commit(seen)
                }
                Writer::Commit(seen) => match generations.commit(seen) {
                    Ok(()) => Writer::Done,
                    Err(newer) => {
                        conflicts += 1;
                        Writer::Mark(newer)
                    }
                },
                Writer::Done => continue,
            };
            save(&mut next);
            stack.push(next);
        }
        if world.batches == 3 {
            ends += 1;
            continue;
        }
        let mut next = world;
        restore(&next);
        match next.reader {
            Reader::Epoch => {
                next.done_at_epoch = next.writers.map(|writer| writer == Writer::Done);
                next.reader = Reader::Validate(generations.read());
            }
            Reader::Validate(generation) => {
                let epoch = Epoch { generation, slots: generations.parts().1 };
                next.reader = Reader::Make(generation);
                if let Some((made, tables)) = next.entry
                    && (made == generation || epoch.unchanged(made, &both))
                {
                    hits += 1;
                    // Whoever was done before the batch began must be seen.
                    for (table, done) in tables.iter().zip(next.done_at_epoch) {
                        assert!(*table == 1 || !done, "a stale answer");
                    }
                    next.entry = Some((generation, tables));
                    next.reader = Reader::Epoch;
                    next.batches += 1;
                }
            }
            Reader::Make(generation) => {
                next.entry = Some((generation, next.tables));
                next.reader = Reader::Epoch;
                next.batches += 1;
            }
        }
        save(&mut next);
        stack.push(next);
    }
    assert!(ends > 1000 && hits > 1000 && conflicts > 100, "{ends} {hits} {conflicts}");
}

/// The same with real threads: two publishers, each with a table of its own, and two workers with a cached pair.
#[test]
fn no_worker_keeps_what_a_finished_bump_made_untrue() {
    const CHANGES: u64 = 20_000;
    let generations = Arc::new(Generations::default());
    let tables = Arc::new([Mutex::new(0u64), Mutex::new(0u64)]);
    let finished = Arc::new([Mutex::new(0u64), Mutex::new(0u64)]);
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2usize)
            .map(|number| {
                let (generations, tables, finished) = (&generations, &tables, &finished);
                scope.spawn(move || {
                    for version in 1..=CHANGES {
                        *tables[number].lock().unwrap() = version;
                        generations.bump([SLOT[number]]);
                        *finished[number].lock().unwrap() = version;
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                let both = Dependencies::from_iter(SLOT);
                let mut entry = None;
                while !stop.load(Ordering::Relaxed) {
                    let least = [0, 1].map(|number| *finished[number].lock().unwrap());
                    let epoch = generations.epoch();
                    let seen = match entry {
                        Some((made, seen)) if epoch.unchanged(made, &both) => seen,
                        _ => [0, 1].map(|number| *tables[number].lock().unwrap()),
                    };
                    entry = Some((epoch.generation(), seen));
                    assert!(seen[0] >= least[0] && seen[1] >= least[1], "{seen:?} after {least:?}");
                }
            });
        }
        for writer in writers {
            writer.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(generations.epoch().generation(), 2 * CHANGES as u32);
}

#[test]
fn who_shares_the_words_sees_a_change_where_the_workers_see_it() {
    let words: Arc<Box<[AtomicU32]>> =
        Arc::new((0..fast::GENERATION_WORDS).map(|_| AtomicU32::new(77)).collect());
    let generations = Generations::over(words.clone()).unwrap();
    let see = |word: usize| words[word].load(Ordering::Relaxed);
    assert!((0..words.len()).all(|word| see(word) == 0), "what lay there does not count");
    let slot = Slot::session(5);
    let made = generations.epoch().generation();
    assert_eq!(generations.bump([slot]), 1);
    assert_eq!((see(fast::CURRENT), see(usize::from(slot.number()))), (1, 1));
    assert_eq!(see(fast::SLOT_CONFIG), 0);
    assert!(!generations.epoch().unchanged(made, &Dependencies::from_iter([slot])));
    generations.bump([Slot::CONFIG]);
    assert_eq!((see(fast::CURRENT), see(fast::SLOT_CONFIG)), (2, 2));
    let short: Arc<Box<[AtomicU32]>> = Arc::new((0..SLOTS).map(|_| AtomicU32::new(0)).collect());
    assert!(Generations::over(short).is_none());
}
