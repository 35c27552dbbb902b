//! Many threads: workers with a cache each, while the control plane changes what their flows were made from.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use common::{Random, SECOND, SEED, action, mark, new_flow, probe};
use throughway_flow::{Dependencies, FlowCache, Generations, Policy, Probe, Round, Slot};

/// Tables that the control plane changes, each with its version.
const TABLES: usize = 24;
const FLOWS: usize = 600;
const ROUNDS: u64 = 4000;
const CHANGES: u64 = 1000;
const BATCH: usize = 32;

/// What one table says, and the latest version that all workers have been told of.
#[derive(Default)]
struct Table {
    version: AtomicU32,
    told: AtomicU32,
}

fn slot(table: usize) -> Slot {
    // Of sessions, neighbours and prefixes.
    match table % 3 {
        0 => Slot::session(table as u64 + 1),
        1 => Slot::neighbour(throughway_packet::PortId(1), [10, 0, 0, table as u8].into()),
        _ => Slot::of_prefix([10, table as u8, 0, 0].into(), 24).next().unwrap(),
    }
}

/// A flow is made of two tables, and its action tells the versions of both.
fn tables_of(flow: usize) -> [usize; 2] {
    [flow % TABLES, (flow / 7) % TABLES]
}

/// The last worker that ends, also by a failure, ends the publishers.
struct Working<'a>(&'a AtomicU64, &'a AtomicBool);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if self.0.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn no_worker_executes_what_a_finished_change_made_untrue_and_no_packet_is_lost_from_the_accounts() {
    const WORKERS: u64 = 3;
    let generations = Generations::default();
    let tables: Vec<Table> = (0..TABLES).map(|_| Table::default()).collect();
    let over = AtomicBool::new(false);
    let running = AtomicU64::new(WORKERS);
    let changes = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for publisher in 0..2 {
            let (generations, tables, over, changes) = (&generations, &tables, &over, &changes);
            scope.spawn(move || {
                let mut random = Random(publisher);
                while !over.load(Ordering::Relaxed) {
                    // Each has tables of its own, as each table has one writer.
                    let number = random.below(TABLES / 2) * 2 + publisher as usize;
                    let table = &tables[number];
                    let version = table.version.load(Ordering::Relaxed) + 1;
                    table.version.store(version, Ordering::Release);
                    generations.bump([slot(number)]);
                    table.told.store(version, Ordering::Release);
                    changes.fetch_add(1, Ordering::Relaxed);
                    std::thread::yield_now();
                }
            });
        }
        for worker in 0..WORKERS {
            let (generations, tables, over) = (&generations, &tables, &over);
            let (running, changes) = (&running, &changes);
            scope.spawn(move || {
                let _working = Working(running, over);
                let mut random = Random(100 + worker);
                // Room for fewer than there are: flows are driven out, too.
                let mut cache = FlowCache::new(FLOWS / 2, SEED, Policy::default());
                let (mut settled, mut now) = (0, 1000 * SECOND);
                let mut rounds = 0;
                while rounds < ROUNDS || changes.load(Ordering::Relaxed) < CHANGES {
                    rounds += 1;
                    now += 10_000_000;
                    let told: Vec<u32> =
                        tables.iter().map(|table| table.told.load(Ordering::Acquire)).collect();
                    let round = Round::new(generations.epoch(), now);
                    let flows: Vec<usize> = (0..BATCH).map(|_| random.below(FLOWS)).collect();
                    let mut probes: Vec<Probe> = flows.iter().map(|flow| probe(*flow as u64)).collect();
                    cache.prepare(&mut probes);
                    for (flow, probe) in flows.iter().zip(&probes) {
                        let [first, second] = tables_of(*flow);
                        match cache.lookup(probe, &round).map(mark) {
                            Some(mark) => {
                                let held = [mark >> 16, mark & 0xffff];
                                for (table, held) in [first, second].into_iter().zip(held) {
                                    // Versions are kept modulo 2¹⁶, and none is half as old as that.
                                    let behind = (told[table] as u16).wrapping_sub(held as u16) as i16;
                                    assert!(behind <= 0, "table {table}: {behind} versions behind");
                                }
                            }
                            None => {
                                let version =
                                    |table: usize| tables[table].version.load(Ordering::Acquire) & 0xffff;
                                let action = action(version(first) << 16 | version(second));
                                let mut dependencies = Dependencies::NONE;
                                dependencies.add(slot(first));
                                dependencies.add(slot(second));
                                let new = new_flow(&action, dependencies, *flow as u32 + 1);
                                cache.install(probe, &new, &round, |gone| settled += gone.packets);
                            }
                        }
                    }
                    cache.age(now, 1, |gone| settled += gone.packets);
                    cache.harvest(now, 2, |told| settled += told.packets);
                }
                for number in 0..FLOWS as u64 {
                    cache.remove(&probe(number), now, |gone| settled += gone.packets);
                }
                assert!(cache.is_empty());
                assert_eq!(settled, cache.stats().hits, "every hit is told once");
                assert!(cache.stats().stale > 100 && cache.stats().hits > 1000, "{:?}", cache.stats());
            });
        }
    });
}
