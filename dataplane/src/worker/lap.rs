//! When flows in the driver are visited: once in a lap, or, of many, once in some laps.
//!
//! What a flow counted is taken over by looking at memory that is far away, and functions are told of it in memory that is farther. So the more
//! flows there are, the more seldom they are told figures. Most must show in every lap that they live, or their sessions end: those of
//! TCP, and of short timeouts. The others are *calm*, and pay for it with a shorter silence: they are left alone until they are told.

use throughway_vnf::credit::{FIGURES, HARVEST, LONGEST_SESSION_SILENCE};
use throughway_xdp::{FAST_VISIT, FastPlace};

/// Of so many flows functions and cache are told the figures in every lap; of twice as many in every other one, and so on.
const MANY: usize = 1 << 16;
/// But in one of so many laps at least: figures are no older than [`FIGURES`], with a lap to spare.
const RAREST: usize = 4;

/// Once round all places.
#[derive(Debug)]
pub(super) struct Lap {
    /// Counted up.
    pub(super) number: usize,
    /// The place that was looked at last.
    last: u32,
    /// In one of so many laps functions and cache are told the figures of a flow: a power of two, so that a flow whose turn it is in a slower
    /// rhythm has it in a faster one, too, and none waits for longer while the rhythm changes.
    rhythm: usize,
    /// By place: whether the flow there is calm, a bit each; and how many are.
    calm: Box<[u64]>,
    count: usize,
}

/// What is asked of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Visit {
    /// Whether it lives.
    Sign,
    /// How much there was.
    Figures,
}

/// How long (ns) a flow may be silent in the driver that may be so for `silence` where functions hear of it within [`HARVEST`], and
/// whether it is calm.
pub(super) const fn silence(silence: u64) -> (u64, bool) {
    const LATER: u64 = FIGURES - HARVEST;
    match silence {
        u64::MAX => (u64::MAX, true),
        // No shorter than what sessions of TCP get.
        _ if silence >= LATER + LONGEST_SESSION_SILENCE => (silence - LATER, true),
        _ => (silence, false),
    }
}

impl Lap {
    /// Round so many places.
    pub(super) fn new(places: usize) -> Lap {
        let calm = vec![0; places.div_ceil(u64::BITS as usize)].into_boxed_slice();
        Lap { number: 0, last: 0, rhythm: 1, calm, count: 0 }
    }

    /// A flow came to `place`.
    pub(super) fn begin(&mut self, place: FastPlace, calm: bool) {
        self.set(place, calm);
    }

    /// A flow left `place`.
    pub(super) fn end(&mut self, place: FastPlace) {
        self.set(place, false);
    }

    fn set(&mut self, place: FastPlace, calm: bool) {
        let (word, bit) = split(place);
        let Some(word) = self.calm.get_mut(word) else { return };
        self.count -= usize::from(*word & bit != 0);
        *word = if calm { *word | bit } else { *word & !bit };
        self.count += usize::from(calm);
    }

    fn is_calm(&self, place: FastPlace) -> bool {
        let (word, bit) = split(place);
        self.calm.get(word).is_some_and(|word| word & bit != 0)
    }

    /// The next place with a flow is looked at, of so many flows. What is asked of the one there: `None`, it is left alone.
    pub(super) fn visit(&mut self, place: FastPlace, used: usize) -> Option<Visit> {
        let number = place.number();
        if number <= self.last {
            self.number = self.number.wrapping_add(1);
            self.rhythm = used.div_ceil(MANY).clamp(1, RAREST).next_power_of_two();
        }
        self.last = number;
        if (number as usize).wrapping_add(self.number).is_multiple_of(self.rhythm) {
            Some(Visit::Figures)
        } else {
            (!self.is_calm(place)).then_some(Visit::Sign)
        }
    }

    /// How many laps go by from one visit of the flow there to the next.
    pub(super) fn between(&self, place: FastPlace) -> u64 {
        if self.is_calm(place) { self.rhythm as u64 } else { 1 }
    }

    /// What a lap costs, as [`FastFlows::sweep`] has it, of so many flows in so many places: with `all` flows, or with calm ones left
    /// alone.
    ///
    /// [`FastFlows::sweep`]: throughway_xdp::FastFlows::sweep
    pub(super) fn cost(&self, used: usize, places: usize, all: bool) -> usize {
        let left_alone = if all { 0 } else { self.count - self.count.div_ceil(self.rhythm) };
        used.saturating_sub(left_alone) * FAST_VISIT + places
    }
}

/// The word of a place, and its bit there.
const fn split(place: FastPlace) -> (usize, u64) {
    let place = place.number() as usize;
    (place / u64::BITS as usize, 1 << (place % u64::BITS as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn calm_is_who_may_be_told_of_later_and_still_be_silent_for_a_while() {
        assert_eq!(silence(5 * SECOND), (5 * SECOND, false));
        assert_eq!(silence(20 * SECOND), (20 * SECOND, false));
        assert_eq!(silence(26 * SECOND), (10 * SECOND, true));
        assert_eq!(silence(u64::MAX), (u64::MAX, true));
        // A session of 30 s that was seen last just after a visit is told of in time.
        let (silence, _) = silence(30 * SECOND - HARVEST);
        assert!(silence + FIGURES <= 30 * SECOND);
    }

    #[test]
    fn calm_flows_are_asked_once_in_so_many_laps_and_the_others_always() {
        let places = 1000u32;
        for (used, rhythm) in [(1000, 1), (2 * MANY, 2), (3 * MANY, 4), (9 * MANY, RAREST)] {
            let mut lap = Lap::new(places as usize);
            (0..places).for_each(|place| lap.begin(FastPlace::of_number(place), place % 2 == 0));
            let mut asked = vec![[0; 2]; places as usize];
            for _ in 0..rhythm {
                for place in 0..places {
                    match lap.visit(FastPlace::of_number(place), used) {
                        Some(Visit::Figures) => asked[place as usize][1] += 1,
                        Some(Visit::Sign) => asked[place as usize][0] += 1,
                        None => {}
                    }
                }
            }
            for (place, asked) in asked.into_iter().enumerate() {
                let signs = if place % 2 == 0 { 0 } else { rhythm - 1 };
                assert_eq!(asked, [signs, 1], "{used} flows, place {place}");
                let laps = if place % 2 == 0 { rhythm as u64 } else { 1 };
                assert_eq!(lap.between(FastPlace::of_number(place as u32)), laps);
            }
            let cost = lap.cost(1000, 1000, false);
            assert_eq!(cost, (500 + 500usize.div_ceil(rhythm)) * FAST_VISIT + 1000);
            assert_eq!(lap.cost(1000, 1000, true), 1000 * FAST_VISIT + 1000);
        }
    }

    #[test]
    fn no_flow_waits_for_longer_while_there_are_more_flows_and_fewer() {
        let (places, mut lap) = (100u32, Lap::new(100));
        (0..places).for_each(|place| lap.begin(FastPlace::of_number(place), true));
        let mut waited = vec![0; places as usize];
        let mut state = 1u32;
        for _ in 0..10_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let used = (state >> 24) as usize * MANY / 32;
            for (place, waited) in (0..places).map(FastPlace::of_number).zip(&mut waited) {
                *waited = if lap.visit(place, used).is_some() { 0 } else { *waited + 1 };
                assert!(*waited < RAREST, "{place:?}");
            }
        }
    }

    #[test]
    fn a_place_is_calm_as_long_as_its_flow_is() {
        let (mut lap, place) = (Lap::new(70), FastPlace::of_number(69));
        lap.begin(place, true);
        lap.begin(place, true);
        assert!(lap.is_calm(place) && lap.count == 1);
        lap.end(place);
        lap.end(place);
        assert!(!lap.is_calm(place) && lap.count == 0);
    }
}
