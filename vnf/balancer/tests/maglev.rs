//! Maglev's promises: even shares, weights, few changes, the same on every box.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use throughway_balancer::maglev::{Candidate, LARGEST_SIZE, USUAL_SIZE, is_prime, next_prime};
use throughway_balancer::{Maglev, MaglevError};

fn names(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| format!("10.0.{}.{}:80", number / 250, number % 250).into_bytes()).collect()
}

fn table(size: u32, names: &[Vec<u8>], weights: impl Fn(usize) -> u32) -> Maglev {
    let candidates: Vec<_> =
        names.iter().enumerate().map(|(at, name)| Candidate { name, weight: weights(at) }).collect();
    Maglev::new(size, 7, &candidates).expect("valid")
}

/// Of the entries whose backend is in both tables, how many changed hands; `back` maps the new indices to the old ones.
fn needless(old: &Maglev, new: &Maglev, gone: Option<usize>, back: impl Fn(usize) -> Option<usize>) -> usize {
    let pairs = old.entries().zip(new.entries());
    pairs
        .filter(|(old, new)| *old != gone && new.and_then(&back) != *old && new.and_then(&back).is_some())
        .count()
}

#[test]
fn equal_backends_get_equal_shares() {
    let names = names(1000);
    let shares = table(USUAL_SIZE, &names, |_| 1).shares(1000);
    assert_eq!(shares.iter().sum::<usize>(), USUAL_SIZE as usize);
    // 65.537 on average: turns make that 65 or 66 for everybody.
    assert!(shares.iter().all(|share| (65..=66).contains(share)), "{:?}", shares.iter().minmax());
}

#[test]
fn shares_follow_weights() {
    let names = names(10);
    let shares = table(USUAL_SIZE, &names, |at| at as u32).shares(10);
    for (weight, share) in shares.iter().enumerate() {
        let due = USUAL_SIZE as usize * weight / 45;
        assert!(share.abs_diff(due) <= 2, "weight {weight}: {share} instead of {due}");
    }
}

#[test]
fn the_order_of_the_configuration_does_not_matter() {
    let forward = names(50);
    let mut backward = forward.clone();
    backward.reverse();
    let [a, b] = [&forward, &backward].map(|names| table(5003, names, |_| 1));
    let who = |table: &Maglev, names: &[Vec<u8>]| -> Vec<Vec<u8>> {
        table.entries().map(|entry| names[entry.expect("filled")].clone()).collect()
    };
    assert_eq!(who(&a, &forward), who(&b, &backward));
}

#[test]
fn another_seed_is_another_order() {
    let names = names(50);
    let candidates: Vec<_> = names.iter().map(|name| Candidate { name, weight: 1 }).collect();
    let [a, b] = [1, 2].map(|seed| Maglev::new(5003, seed, &candidates).expect("valid"));
    let same = a.entries().zip(b.entries()).filter(|(a, b)| a == b).count();
    assert!(same < 5003 / 25, "{same} of 5003 agree by chance");
}

#[test]
fn who_goes_takes_few_of_the_others_entries_along() {
    let names = names(100);
    let full = table(USUAL_SIZE, &names, |_| 1);
    let without = table(USUAL_SIZE, &names, |at| u32::from(at != 42));
    assert_eq!(without.shares(100)[42], 0);
    let moved = needless(&full, &without, Some(42), Some);
    // Besides the hundredth that had to move.
    assert!(moved < USUAL_SIZE as usize * 2 / 100, "{moved} moved without need");
}

#[test]
fn who_comes_takes_from_all_and_moves_little_else() {
    let names = names(9);
    let before = table(USUAL_SIZE, &names[..8], |_| 1);
    let after = table(USUAL_SIZE, &names, |_| 1);
    let changed = before.entries().zip(after.entries()).filter(|(old, new)| old != new).count();
    let share = changed as f64 / f64::from(USUAL_SIZE);
    assert!(share < 2.0 / 9.0, "{share} of the entries changed; a ninth had to");
}

#[test]
fn nobody_is_chosen_where_nobody_is() {
    assert_eq!(table(5003, &[], |_| 1).choose(1), None);
    assert_eq!(table(5003, &names(3), |_| 0).choose(1), None);
}

#[test]
fn what_cannot_be_is_refused() {
    let names = names(4);
    let candidates: Vec<_> = names.iter().map(|name| Candidate { name, weight: 1 }).collect();
    let new = |size, candidates: &[Candidate<'_>]| Maglev::new(size, 0, candidates).map(|_| ());
    for size in [0, 1, 4, 65_536, LARGEST_SIZE + 1] {
        assert_eq!(new(size, &candidates), Err(MaglevError::Size(size)));
    }
    assert_eq!(new(3, &candidates), Err(MaglevError::TooMany(4)));
    assert_eq!(new(2, &candidates[..2]), Ok(()));
    let heavy = [Candidate { weight: 65_536, ..candidates[0] }];
    assert_eq!(new(5, &heavy), Err(MaglevError::Weight(65_536)));
    let twins = [candidates[1], candidates[0], candidates[1]];
    assert_eq!(new(5, &twins), Err(MaglevError::SameName(0, 2)));
    assert!(MaglevError::Size(65_536).to_string().contains("65537 is one"));
    assert!(is_prime(LARGEST_SIZE) && is_prime(USUAL_SIZE));
}

#[test]
fn primes_agree_with_a_sieve() {
    let mut sieve = vec![true; 10_000];
    (sieve[0], sieve[1]) = (false, false);
    for at in 2..100 {
        (at * at..10_000).step_by(at).for_each(|multiple| sieve[multiple] = false);
    }
    for (number, prime) in sieve.iter().enumerate() {
        assert_eq!(is_prime(number as u32), *prime, "{number}");
    }
    assert_eq!(next_prime(4), Some(5));
    assert_eq!(next_prime(5), Some(7));
}

trait MinMax: Iterator + Sized {
    fn minmax(self) -> (Option<Self::Item>, Option<Self::Item>)
    where
        Self: Clone,
        Self::Item: Ord,
    {
        (self.clone().min(), self.max())
    }
}

impl<I: Iterator> MinMax for I {}

proptest! {
    /// Whatever the weights: every entry is somebody's, nobody without weight has one, and shares are within two entries and
    /// a fraction of what the weights say.
    #[test]
    fn tables_are_full_and_fair(weights in proptest::collection::vec(0u32..200, 1..60), size in prop::sample::select(vec![251u32, 5003, 65_537])) {
        let names = names(weights.len());
        let table = table(size, &names, |at| weights[at]);
        let sum: u32 = weights.iter().sum();
        if sum == 0 {
            prop_assert!(table.entries().all(|entry| entry.is_none()));
            return Ok(());
        }
        prop_assert!(table.entries().all(|entry| entry.is_some()));
        for (share, weight) in table.shares(weights.len()).iter().zip(&weights) {
            let due = f64::from(size) * f64::from(*weight) / f64::from(sum);
            prop_assert!((*share as f64 - due).abs() <= 2.5, "weight {} of {}: {} instead of {}", weight, sum, share, due);
        }
    }
}

#[test]
fn a_table_fits_its_backends_and_its_lightest_one() {
    let size = |weights: &[u32]| throughway_balancer::maglev::fitting_size(weights.iter().copied());
    assert_eq!([size(&[]), size(&[0, 0]), size(&[1; 8]), size(&[1; 100])], [10_007; 4]);
    assert_eq!([size(&[1; 101]), size(&[1; 655]), size(&[1, 1000])], [65_537; 3]);
    assert_eq!([size(&[1; 656]), size(&[3; 1000])], [262_139; 2]);
    assert_eq!(size(&[1; 4096]), 1_048_573);
    for size in throughway_balancer::maglev::SIZES {
        assert!(is_prime(size));
    }
}
