//! The cache against a map without bounds: the same answers where there is room, never a wrong one where there is not, and
//! every packet credited once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::collections::HashMap;

use common::{SECOND, SEED, action, mark, new_flow, probe};
use proptest::collection::vec;
use proptest::prelude::*;
use throughway_flow::{Dependencies, FlowCache, Generations, NewFlow, Policy, Round, Settled, Slot};

/// What tables say: a version per slot.
const SLOTS: u64 = 8;

#[derive(Clone, Debug)]
enum Step {
    /// A batch of packets of these flows.
    Batch(Vec<u64>),
    /// One table changes, or several at once, or everything.
    Change(Vec<u64>),
    Config,
    /// Milliseconds.
    Wait(u64),
    Age(usize),
    Harvest(usize),
    Remove(u64),
}

fn step(flows: u64) -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => vec(0..flows, 1..64).prop_map(Step::Batch),
        2 => vec(0..SLOTS, 0..3).prop_map(Step::Change),
        1 => Just(Step::Config),
        2 => prop_oneof![0..3_000u64, 0..20_000u64].prop_map(Step::Wait),
        1 => (0..40usize).prop_map(Step::Age),
        1 => (0..40usize).prop_map(Step::Harvest),
        1 => (0..flows).prop_map(Step::Remove),
    ]
}

/// What flow `number` is made from: none to six of the tables.
fn tables_of(number: u64) -> impl Iterator<Item = u64> + Clone {
    (0..number % 7).map(move |n| (number / 7 + n) % SLOTS)
}

/// The truth: an action that says of which versions it was made.
fn judge(number: u64, versions: &[u32]) -> u32 {
    tables_of(number).fold(number as u32 * 31 + versions[SLOTS as usize], |sum, table| {
        sum.wrapping_mul(31).wrapping_add(versions[table as usize])
    })
}

/// How long flow `number` may be silent.
fn silence_of(number: u64) -> u64 {
    [u64::MAX, SECOND, 5 * SECOND, 30 * SECOND][(number / 3 % 4) as usize]
}

#[derive(Default)]
struct Ledger(HashMap<u64, (u64, u64)>);

impl Ledger {
    fn credit(&mut self, settled: Settled) {
        assert!(settled.packets > 0);
        let sum = self.0.entry(settled.credits.0[0]).or_default();
        *sum = (sum.0 + settled.packets, sum.1 + settled.bytes);
    }
}

fn run(flows: u64, capacity: usize, steps: &[Step]) {
    let generations = Generations::default();
    let mut cache = FlowCache::new(capacity, SEED, Policy::default());
    let roomy = cache.ways() > 64 * flows as usize;
    // When a flow was last seen, and the versions it was judged with.
    let mut model: HashMap<u64, (u64, u32)> = HashMap::new();
    let mut versions = vec![0u32; SLOTS as usize + 1];
    let (mut due, mut paid) = (Ledger::default(), Ledger::default());
    let mut now = SECOND * 1000;
    for step in steps {
        match step {
            Step::Batch(numbers) => {
                let round = Round::new(generations.epoch(), now);
                let mut probes: Vec<_> = numbers.iter().map(|number| probe(*number)).collect();
                cache.prepare(&mut probes);
                for (number, probe) in numbers.iter().zip(&probes) {
                    let truth = judge(*number, &versions);
                    let found = cache.lookup(probe, &round).map(mark);
                    assert!(found.is_none_or(|found| found == truth), "a wrong answer for flow {number}");
                    let silent = model.get(number).map_or(0, |(seen, _)| now - seen);
                    if found.is_some() {
                        assert!(silent <= silence_of(*number), "flow {number} was silent for {silent} ns");
                        let sum = due.0.entry(*number).or_default();
                        *sum = (sum.0 + 1, sum.1 + u64::from(probe.packet_len()));
                        if let Some(seen) = model.get_mut(number) {
                            seen.0 = now;
                        }
                        continue;
                    }
                    // Two ticks may be lost in rounding.
                    let may_be_silent = silent > silence_of(*number) - (2 << 28);
                    if roomy
                        && !may_be_silent
                        && let Some((_, judged)) = model.get(number)
                    {
                        // More tables than an entry can name: any change will do, and there is no telling which.
                        assert!(*judged != truth || tables_of(*number).count() > 4, "flow {number} is lost");
                    }
                    let dependencies: Dependencies = tables_of(*number).map(Slot::session).collect();
                    let action = action(truth);
                    let silence = silence_of(*number);
                    let new = NewFlow { silence, ..new_flow(&action, dependencies, *number as u32) };
                    cache.install(probe, &new, &round, |settled| paid.credit(settled));
                    model.insert(*number, (now, truth));
                }
            }
            Step::Change(tables) => {
                tables.iter().for_each(|table| versions[*table as usize] += 1);
                generations.bump(tables.iter().map(|table| Slot::session(*table)));
            }
            Step::Config => {
                versions[SLOTS as usize] += 1;
                generations.bump([Slot::CONFIG]);
            }
            Step::Wait(milliseconds) => now += milliseconds * (SECOND / 1000),
            Step::Age(budget) => {
                cache.age(now, *budget, |settled| paid.credit(settled));
                // The model forgets at once what the cache may forget in its own time.
                let long = cache.policy().forget - (1 << 28);
                model.retain(|_, (seen, _)| now - *seen < long);
            }
            Step::Harvest(budget) => cache.harvest(now, *budget, |settled| paid.credit(settled)),
            Step::Remove(number) => {
                let removed = cache.remove(&probe(*number), now, |settled| paid.credit(settled));
                assert!(!roomy || removed || !model.contains_key(number));
                model.remove(number);
            }
        }
        assert!(cache.len() <= cache.ways());
        let mut shown = 0;
        let mut from = Some(0);
        while let Some(at) = from {
            from = cache.flows(now, at, 7, |_| shown += 1);
        }
        assert_eq!(shown, cache.len());
    }
    let hits: u64 = due.0.values().map(|(packets, _)| packets).sum();
    assert_eq!(hits, cache.stats().hits);
    // Nobody is told of flow zero: it has no credit.
    cache.harvest(now, cache.ways(), |settled| paid.credit(settled));
    for ledger in [&mut due, &mut paid] {
        ledger.0.remove(&0);
    }
    assert_eq!(due.0, paid.0, "every hit is credited once");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn with_room_it_answers_as_a_map_does(steps in vec(step(60), 1..120)) {
        run(60, 8000, &steps);
    }

    #[test]
    fn without_room_it_never_answers_wrongly(steps in vec(step(400), 1..120)) {
        run(400, 1, &steps);
        run(400, 100, &steps);
    }
}
