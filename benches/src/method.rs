//! How figures are made of trials: RFC 2544's search for the highest rate without loss, medians, spread.

use serde::Serialize;

/// A median with its spread.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Figure {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub most: f64,
    /// Of so many.
    pub runs: usize,
}

impl Figure {
    /// Of the figures of several runs; `None` of none.
    pub fn of(values: &[f64]) -> Option<Figure> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let median = if sorted.len() % 2 == 1 {
            upper
        } else {
            (upper + sorted.get(middle.checked_sub(1)?).copied()?) / 2.0
        };
        Some(Figure { median, least, most, runs: sorted.len() })
    }

    /// How far apart the runs were: half of the range, as a part of the median.
    pub fn spread(&self) -> f64 {
        if self.median > 0.0 { (self.most - self.least) / 2.0 / self.median } else { 0.0 }
    }
}

/// A trial that was made: the rate that was offered, and the part of the packets that was lost.
pub type Tried = (f64, f64);

/// How a rate is searched for: RFC 2544 section 26.1 with binary search, as most testers do.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Search {
    /// The part of the packets that may be lost: 0 for the non-drop rate.
    pub loss: f64,
    /// How often the interval between two of the rates that are offered anyway is halved: what the answer is exact to.
    pub steps: u32,
    /// A rate passes when one of so many trials passes: on a shared machine a single loss says little.
    pub tries: usize,
}

impl Search {
    /// The highest rate that passes, or 0, and at most the highest of `offered`, the rates that are offered anyway in rising order; `trial`
    /// gives the part that was lost at a rate. `known` are trials that were made before; those of the search are added.
    ///
    /// Without `near`, from the highest rate that passed, each above gets another chance, and the search is between the last
    /// that passes and the first that does not. With `near`, what an earlier run found, it begins there, or at the highest that
    /// passed, and goes up while rates pass, or down until one does, in steps that double, and is between those.
    ///
    /// # Errors
    /// Those of `trial`.
    pub fn run<E>(
        &self,
        offered: &[f64],
        known: &mut Vec<Tried>,
        near: Option<f64>,
        mut trial: impl FnMut(f64) -> Result<f64, E>,
    ) -> Result<f64, E> {
        let most = offered.last().copied().unwrap_or(0.0);
        let passed = known.iter().filter(|(_, lost)| *lost <= self.loss).map(|(rate, _)| *rate);
        let passed = passed.fold(0.0, f64::max);
        let mut above: Vec<f64> = known.iter().map(|(rate, _)| *rate).filter(|rate| *rate > passed).collect();
        above.sort_by(f64::total_cmp);
        let mut passes = |rate: f64| self.passes(rate, known, &mut trial);

        let (mut good, mut bad);
        if let Some(near) = near {
            let near = near.max(passed);
            (good, bad) = (0.0, None);
            let exact = self.exact(offered, near);
            let steps = (0..).map(|doubled: u32| exact * f64::from(1_u32 << doubled.min(16)));
            if near <= 0.0 || passes(near)? {
                good = near;
                for step in steps.take(self.steps as usize) {
                    let rate = good + step;
                    if rate > most {
                        break;
                    }
                    if !passes(rate)? {
                        bad = Some(rate);
                        break;
                    }
                    good = rate;
                }
            } else {
                let mut rate = near;
                for step in steps {
                    bad = Some(rate);
                    rate -= step;
                    if rate <= 0.0 {
                        break;
                    }
                    if passes(rate)? {
                        good = rate;
                        break;
                    }
                }
            }
        } else {
            (good, bad) = (passed, None);
            for rate in above {
                if !passes(rate)? {
                    bad = Some(rate);
                    break;
                }
                good = rate;
            }
        }
        let Some(mut bad) = bad else { return Ok(good) };
        let exact = self.exact(offered, (good + bad) / 2.0);
        while bad - good > exact * 1.01 {
            let rate = (good + bad) / 2.0;
            if passes(rate)? {
                good = rate;
            } else {
                bad = rate;
            }
        }
        Ok(good)
    }

    /// Whether a rate passes, from what is known of it and, if that does not say, more trials.
    fn passes<E>(
        &self,
        rate: f64,
        known: &mut Vec<Tried>,
        trial: &mut impl FnMut(f64) -> Result<f64, E>,
    ) -> Result<bool, E> {
        let of_it = |(tried, _): &&Tried| (tried - rate).abs() < 1.0;
        if known.iter().filter(of_it).any(|(_, lost)| *lost <= self.loss) {
            return Ok(true);
        }
        for _ in known.iter().filter(of_it).count()..self.tries.max(1) {
            let lost = trial(rate)?;
            known.push((rate, lost));
            if lost <= self.loss {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What a search near a rate is exact to: the interval of the offered rates around it, halved as often as without it.
    fn exact(&self, offered: &[f64], near: f64) -> f64 {
        let below = offered.iter().rev().find(|rate| **rate < near).copied().unwrap_or(0.0);
        let above = offered.iter().find(|rate| **rate >= near && **rate > below).copied();
        // A search for nothing at all, or without any rate offered, still ends.
        (above.unwrap_or(near) - below).max(1.0) / f64::from(1_u32 << self.steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn search(loss: f64, most: f64, lost: impl Fn(f64) -> f64) -> f64 {
        let search = Search { loss, steps: 10, tries: 1 };
        let mut known: Vec<Tried> = [0.5, 1.0].map(|part| (most * part, lost(most * part))).to_vec();
        let offered = known.iter().map(|(rate, _)| *rate).collect::<Vec<_>>();
        search.run(&offered, &mut known, None, |rate| Ok::<_, Infallible>(lost(rate))).unwrap()
    }

    #[test]
    fn the_search_finds_where_loss_begins() {
        // A device that carries 1.3 million.
        let lost = |rate: f64| (1.0 - 1.3e6 / rate).max(0.0);
        assert!((search(0.0, 2e6, lost) - 1.3e6).abs() < 4e3);
        assert!((search(0.1, 2e6, lost) - 1.3e6 / 0.9).abs() < 4e3);
        assert_eq!(search(0.0, 1e6, lost), 1e6);
        assert_eq!(search(0.0, 2e6, |_| 0.5), 0.0);
    }

    #[test]
    fn a_loss_that_is_not_seen_again_does_not_count() {
        let mut count = 0;
        let search = Search { loss: 0.0, steps: 6, tries: 2 };
        let mut known = vec![(0.5e6, 0.0), (1e6, 0.1)];
        let found = search.run(&[0.5e6, 1e6], &mut known, None, |_| {
            count += 1;
            Ok::<_, Infallible>(0.0)
        });
        assert_eq!((found, count), (Ok(1e6), 1));
    }

    #[test]
    fn a_second_loss_counts_and_no_trial_is_made_twice() {
        let carried = 1.3e6;
        let lost = |rate: f64| (1.0 - carried / rate).max(0.0);
        let offered = [0.8e6, 1.2e6, 1.6e6];
        let mut known: Vec<Tried> = offered.map(|rate| (rate, lost(rate))).to_vec();
        let mut tried = Vec::new();
        let mut found = [0.0; 2];
        for (found, loss) in found.iter_mut().zip([0.0, 0.001]) {
            let search = Search { loss, steps: 3, tries: 2 };
            *found = search
                .run(&offered, &mut known, None, |rate| {
                    tried.push(rate);
                    Ok::<_, Infallible>(lost(rate))
                })
                .unwrap();
        }
        assert_eq!(found, [1.3e6, 1.3e6]);
        // 1.6 and 1.4 and 1.35 fail twice each, the first of them once before; 1.3 passes; the second search knows all.
        assert_eq!(tried, [1.6e6, 1.4e6, 1.4e6, 1.3e6, 1.35e6, 1.35e6]);
    }

    #[test]
    fn a_search_that_knows_where_to_look_takes_few_trials_and_follows_what_changed() {
        let rates = [0.4e6, 0.8e6, 1.2e6, 1.6e6, 2.0e6];
        let after = |near: f64, carried: f64| {
            let lost = |rate: f64| (1.0 - carried / rate).max(0.0);
            let mut known: Vec<Tried> = rates.map(|rate| (rate, lost(rate))).to_vec();
            let (search, mut count) = (Search { loss: 0.0, steps: 3, tries: 2 }, 0);
            let found = search.run(&rates, &mut known, Some(near), |rate| {
                count += 1;
                Ok::<_, Infallible>(lost(rate))
            });
            (found.unwrap(), count)
        };
        // As before: what was found passes, one step above fails twice.
        assert_eq!(after(1.3e6, 1.32e6), (1.3e6, 3));
        // Faster, and slower.
        assert_eq!(after(1.3e6, 1.5e6).0, 1.5e6);
        assert_eq!(after(1.3e6, 1.06e6).0, 1.05e6);
        assert!((0.15e6..=0.2e6).contains(&after(1.3e6, 0.2e6).0));
        // Nothing passed, and still nothing does; all that is offered passes.
        assert_eq!(after(0.0, 1.0).0, 0.0);
        assert_eq!(after(2.0e6, 9e6), (2.0e6, 0));
        assert_eq!(after(0.0, 9e6), (2.0e6, 0));
    }

    #[test]
    fn medians_of_odd_and_even_runs() {
        let figure = Figure::of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((figure.median, figure.least, figure.most, figure.runs), (2.0, 1.0, 3.0, 3));
        assert_eq!(figure.spread(), 0.5);
        assert_eq!(Figure::of(&[1.0, 2.0, 9.0, 4.0]).unwrap().median, 3.0);
        assert_eq!(Figure::of(&[f64::NAN]), None);
    }
}
