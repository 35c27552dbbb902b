//! Established flows outlive a flood of flows that nobody has seen before: in virtual time, the same in every run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{Random, SECOND, SEED, action, new_flow, probe};
use throughway_flow::{Dependencies, FlowCache, Generations, Policy, Probe, Round};

const ESTABLISHED: u64 = 10_000;
const BATCH: usize = 64;

struct World {
    cache: FlowCache,
    generations: Generations,
    known: Vec<Probe>,
    now: u64,
    random: Random,
}

impl World {
    fn new(capacity: usize) -> Self {
        World {
            cache: FlowCache::new(capacity, SEED, Policy::default()),
            generations: Generations::default(),
            known: (0..ESTABLISHED).map(probe).collect(),
            now: 1000 * SECOND,
            random: Random(1),
        }
    }

    /// A batch as a worker runs it; returns which of the packets were hits.
    fn batch(&mut self, probes: &mut [Probe], hit: &mut Vec<bool>) {
        let round = Round::new(self.generations.epoch(), self.now);
        self.cache.prepare(probes);
        hit.clear();
        for probe in probes.iter() {
            hit.push(self.cache.lookup(probe, &round).is_some());
            if hit.last() == Some(&false) {
                let action = action(1);
                self.cache.install(probe, &new_flow(&action, Dependencies::NONE, 0), &round, |_| ());
            }
        }
        self.cache.age(self.now, 1, |_| ());
    }

    /// `seconds` of 1 Mpps of flows of one packet each, with every established flow sending `rate` packets a second among
    /// them. Returns the share of the established flows' packets that were hits.
    fn flood(&mut self, seconds: u64, rate: u64) -> f64 {
        let (mut packets, mut hits) = (0u64, 0u64);
        let per_second = 1_000_000 + ESTABLISHED * rate;
        let share = (ESTABLISHED * rate) as f64 / per_second as f64;
        let mut probes = [Probe::default(); BATCH];
        let (mut ours, mut hit) = (Vec::new(), Vec::new());
        // Every established flow in turn, so that each has its rate.
        let mut turn = 0;
        for _ in 0..seconds * per_second / BATCH as u64 {
            self.now += SECOND * BATCH as u64 / per_second;
            ours.clear();
            for slot in &mut probes {
                let established = (self.random.next() >> 11) as f64 / (1u64 << 53) as f64;
                ours.push(established < share);
                *slot = if established < share {
                    turn = (turn + 1) % self.known.len();
                    self.known[turn]
                } else {
                    probe(ESTABLISHED + self.random.next() % (1 << 31))
                };
            }
            self.batch(&mut probes, &mut hit);
            packets += ours.iter().filter(|ours| **ours).count() as u64;
            hits += ours.iter().zip(&hit).filter(|(ours, hit)| **ours && **hit).count() as u64;
        }
        hits as f64 / packets as f64
    }

    fn establish(&mut self) {
        let mut hit = Vec::new();
        for _ in 0..4 {
            for at in (0..self.known.len()).step_by(BATCH) {
                let mut probes: Vec<_> = self.known[at..].iter().take(BATCH).copied().collect();
                self.batch(&mut probes, &mut hit);
            }
            self.now += SECOND / 10;
        }
    }
}

#[test]
fn ten_thousand_flows_outlive_a_million_packets_a_second() {
    let mut world = World::new(65_536);
    world.establish();
    let rate = world.flood(3, 10);
    let stats = *world.cache.stats();
    assert!(rate > 0.9999, "{rate}: {stats:?}");
    assert!(stats.evicted_probation > 1_000_000, "the flood was there: {stats:?}");
    assert_eq!(stats.evicted_idle + stats.evicted_stale, 0, "{stats:?}");
}

/// A newcomer must come back before the flood takes its way: here every bucket loses a way about every 4 ms, so one on
/// probation lasts some 55 ms on average.
#[test]
fn flows_that_begin_during_the_flood_get_in() {
    let mut world = World::new(65_536);
    world.flood(1, 50);
    let rate = world.flood(1, 50);
    assert!(rate > 0.99, "{rate}: {:?}", world.cache.stats());
}

#[test]
fn a_cache_as_large_as_its_established_flows_still_keeps_them() {
    let mut world = World::new(ESTABLISHED as usize);
    world.establish();
    let rate = world.flood(2, 10);
    let stats = world.cache.stats();
    assert!(rate > 0.99, "{rate}: {stats:?}");
    assert!(stats.refused > 0, "{stats:?}");
}

#[test]
fn flows_that_fell_silent_make_room() {
    let mut world = World::new(65_536);
    world.establish();
    world.now += 11 * SECOND;
    // Nothing of the old ones comes in; the flood fills every bucket.
    world.known = (1 << 32..(1 << 32) + ESTABLISHED).map(probe).collect();
    world.flood(1, 50);
    let rate = world.flood(1, 50);
    let stats = world.cache.stats();
    assert!(stats.evicted_idle > ESTABLISHED * 9 / 10, "{stats:?}");
    assert!(rate > 0.99, "{rate}: {stats:?}");
}
