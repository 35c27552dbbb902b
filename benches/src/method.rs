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

/// How a rate is searched for: RFC 2544 section 26.1 with binary search, as most testers do.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Search {
    /// The part of the packets that may be lost: 0 for the non-drop rate.
    pub loss: f64,
    /// How often the interval is halved.
    pub steps: usize,
    /// A rate passes when one of so many trials passes: on a shared machine a single loss says little.
    pub tries: usize,
}

impl Search {
    /// The highest rate that passes, or 0; `trial` gives the part that was lost at a rate. `known` are rates that were tried before, with
    /// what was lost: from the highest of them that passed, each above gets another chance, and the search is between the last that
    /// passes and the first that does not.
    ///
    /// # Errors
    /// Those of `trial`.
    pub fn run<E>(
        &self,
        known: &[(f64, f64)],
        mut trial: impl FnMut(f64) -> Result<f64, E>,
    ) -> Result<f64, E> {
        let mut passes = |rate: f64| -> Result<bool, E> {
            for _ in 0..self.tries.max(1) {
                if trial(rate)? <= self.loss {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        let passed = known.iter().filter(|(_, lost)| *lost <= self.loss).map(|(rate, _)| *rate);
        let mut good = passed.fold(0.0, f64::max);
        let mut above: Vec<f64> = known.iter().map(|(rate, _)| *rate).filter(|rate| *rate > good).collect();
        above.sort_by(f64::total_cmp);
        let mut bad = None;
        for rate in above {
            if !passes(rate)? {
                bad = Some(rate);
                break;
            }
            good = rate;
        }
        let Some(mut bad) = bad else { return Ok(good) };
        for _ in 0..self.steps {
            let rate = (good + bad) / 2.0;
            if passes(rate)? {
                good = rate;
            } else {
                bad = rate;
            }
        }
        Ok(good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn search(loss: f64, most: f64, lost: impl Fn(f64) -> f64) -> f64 {
        let search = Search { loss, steps: 10, tries: 1 };
        let known: Vec<(f64, f64)> = [0.5, 1.0].map(|part| (most * part, lost(most * part))).to_vec();
        search.run(&known, |rate| Ok::<_, Infallible>(lost(rate))).unwrap()
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
        let found = search.run(&[(0.5e6, 0.0), (1e6, 0.1)], |_| {
            count += 1;
            Ok::<_, Infallible>(f64::from(count % 2))
        });
        assert_eq!((found, count), (Ok(1e6), 2));
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
