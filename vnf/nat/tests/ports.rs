//! Ports against a slow model: a set of the free, a list of those at rest.

use std::collections::BTreeSet;

use proptest::prelude::*;
use throughway_nat::{Parity, Ports};

const SECOND: u64 = 1_000_000_000;

/// A generator for tests: SplitMix64 (Steele, Lea, Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[test]
fn every_port_is_given_once_and_then_none() {
    let mut ports = Ports::new(1024..=65535, 0);
    let mut random = Random(1);
    let mut seen = BTreeSet::new();
    while let Some(port) = ports.take_any(Parity::Any, random.next(), 0) {
        assert!(port >= 1024 && seen.insert(port), "{port}");
    }
    assert_eq!(seen.len(), 64512);
    assert_eq!(ports.available(), 0);
    for port in seen {
        ports.give_back(port, 0);
    }
    assert_eq!(ports.available(), ports.owned());
}

#[test]
fn parity_is_kept_to_the_last_port() {
    for parity in [Parity::Even, Parity::Odd] {
        let mut ports = Ports::new(0..=65535, 0);
        let mut random = Random(2);
        for _ in 0..32768 {
            let port = ports.take_any(parity, random.next(), 0).expect("there are more");
            assert_eq!(Parity::of(port), parity);
        }
        assert_eq!(ports.take_any(parity, 3, 0), None);
        assert_eq!(ports.available(), 32768);
        assert!(ports.take_any(Parity::Any, 3, 0).is_some_and(|port| Parity::of(port) != parity));
    }
}

#[test]
fn a_port_rests_for_its_quiet_time() {
    let mut ports = Ports::new(5000..=5000, 120 * SECOND);
    assert_eq!(ports.take_any(Parity::Any, 9, 0), Some(5000));
    ports.give_back(5000, 10 * SECOND);
    assert_eq!((ports.available(), ports.resting()), (0, 1));
    assert_eq!(ports.take_any(Parity::Any, 9, 130 * SECOND - 1), None);
    assert!(!ports.take(5000, 130 * SECOND - 1), "nor as the preferred one");
    // Rounded up to a tick, never down.
    assert_eq!(ports.take_any(Parity::Any, 9, 130 * SECOND + SECOND / 3), Some(5000));
}

#[test]
fn ports_are_spread_over_the_range() {
    let mut ports = Ports::new(0..=65535, 0);
    let mut random = Random(3);
    let mut quarters = [0; 4];
    for _ in 0..4000 {
        let port = ports.take_any(Parity::Any, random.next(), 0).expect("plenty");
        quarters[usize::from(port) / 16384] += 1;
    }
    assert!(quarters.iter().all(|count| (850..1150).contains(count)), "{quarters:?}");
}

#[test]
fn a_range_is_given_to_its_last_port_and_no_further() {
    let mut random = Random(4);
    for (first, last) in
        [(70, 70), (64, 127), (65, 126), (100, 700), (4000, 4200), (8191, 8192), (65000, 65535), (1, 9000)]
    {
        let mut ports = Ports::new(0..=65535, 0);
        let count = usize::from(last - first) + 1;
        assert_eq!(ports.available_in(&(first..=last)), count);
        let mut seen = BTreeSet::new();
        while let Some(port) = ports.take_in(first..=last, Parity::Any, random.next(), 0) {
            assert!((first..=last).contains(&port) && seen.insert(port), "{port} of {first}-{last}");
            assert_eq!(ports.available_in(&(first..=last)), count - seen.len());
        }
        assert_eq!((seen.len(), ports.available()), (count, 65536 - count));
    }
}

#[test]
fn every_port_of_a_block_may_come_first() {
    let mut random = Random(5);
    let mut seen = BTreeSet::new();
    for _ in 0..4000 {
        let mut ports = Ports::new(0..=65535, 0);
        seen.extend(ports.take_in(1000..=1127, Parity::Any, random.next(), 0));
    }
    assert_eq!(seen.len(), 128);
}

#[test]
fn what_is_excluded_is_never_given() {
    let mut ports = Ports::new(100..=103, 0);
    assert!(ports.exclude(101) && !ports.exclude(101) && !ports.exclude(99));
    assert_eq!(ports.owned(), 3);
    let mut given: Vec<_> = (0..4).filter_map(|turn| ports.take_any(Parity::Any, turn, 0)).collect();
    given.sort_unstable();
    assert_eq!(given, [100, 102, 103]);
}

#[derive(Clone, Debug)]
enum Step {
    Any(u8, u64),
    This(u16),
    Back(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..3, any::<u64>()).prop_map(|(parity, random)| Step::Any(parity, random)),
        1 => (990u16..1300).prop_map(Step::This),
        3 => any::<usize>().prop_map(Step::Back),
        1 => (0..3 * SECOND).prop_map(Step::Wait),
    ]
}

proptest! {
    /// A take succeeds exactly if the model has a port for it; ports at rest come back in time, and never early.
    #[test]
    fn agrees_with_the_model(first in 1000u16..1100, count in 0u16..200, quiet in 0..4 * SECOND, steps in proptest::collection::vec(step(), 0..600)) {
        let mut ports = Ports::new(first..=first + count, quiet);
        let mut taken: Vec<u16> = Vec::new();
        let mut resting: Vec<(u16, u64)> = Vec::new();
        let mut now = 0;
        for step in steps {
            match step {
                Step::Wait(time) => now += time,
                Step::Back(at) => if !taken.is_empty() {
                    let port = taken.swap_remove(at % taken.len());
                    ports.give_back(port, now);
                    resting.push((port, now + quiet));
                }
                Step::Any(parity, random) => {
                    let parity = [Parity::Any, Parity::Even, Parity::Odd][usize::from(parity)];
                    let got = ports.take_any(parity, random, now);
                    if let Some(port) = got {
                        prop_assert!(parity == Parity::Any || Parity::of(port) == parity);
                        prop_assert!((first..=first + count).contains(&port) && !taken.contains(&port));
                        prop_assert!(!resting.iter().any(|(at_rest, until)| *at_rest == port && *until > now), "{port} is at rest");
                        resting.retain(|(at_rest, _)| *at_rest != port);
                        taken.push(port);
                    } else {
                        // None only if what is neither taken nor at rest is of the other parity, but for those that wake later.
                        let free = (first..=first + count).filter(|port| !taken.contains(port) && !resting.iter().any(|(at_rest, _)| at_rest == port));
                        prop_assert_eq!(free.filter(|port| parity == Parity::Any || Parity::of(*port) == parity).count(), 0);
                    }
                }
                Step::This(port) => {
                    let got = ports.take(port, now);
                    let inside = (first..=first + count).contains(&port) && !taken.contains(&port);
                    prop_assert!(!got || inside);
                    if got {
                        prop_assert!(!resting.iter().any(|(at_rest, until)| *at_rest == port && *until > now));
                        resting.retain(|(at_rest, _)| *at_rest != port);
                        taken.push(port);
                    } else if inside {
                        prop_assert!(resting.iter().any(|(at_rest, _)| *at_rest == port), "{port} was free");
                    }
                }
            }
            prop_assert!(ports.available() + taken.len() + ports.resting() == ports.owned());
        }
    }
}
