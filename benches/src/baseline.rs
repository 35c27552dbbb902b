//! Figures that are committed, and how far new ones may be from them: ratios to the kernel (`baseline.json`) and instructions a
//! packet (`instructions.json`).

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{BenchError, Result};
use crate::method::Figure;

/// The ratio of the best rates that was committed, by [`crate::results::Results::ratios`].
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
pub struct Ratios {
    /// How much less is still no regression, as a part: wide, since machines are shared.
    pub tolerance: f64,
    /// Where and when.
    pub measured: String,
    /// The ratios.
    pub ratios: BTreeMap<String, f64>,
}

/// Instructions a packet that were committed.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
pub struct Instructions {
    /// How much more or less is still the same, as a part.
    pub tolerance: f64,
    /// `rustc --version`: another compiler makes other instructions.
    pub compiler: String,
    /// The counts, by row of the bench `chain`.
    pub rows: BTreeMap<String, f64>,
}

/// One comparison.
#[derive(Clone, PartialEq, Debug)]
pub struct Verdict {
    /// What was compared.
    pub name: String,
    /// What is committed.
    pub committed: f64,
    /// What was measured; `None` when it is missing now.
    pub measured: Option<f64>,
    /// Whether it is within the tolerance.
    pub holds: bool,
}

impl Verdict {
    /// One line.
    pub fn text(&self) -> String {
        let word = if self.holds { "holds" } else { "FAILS" };
        match self.measured {
            Some(measured) => format!(
                "{word}  {}: {measured:.2}, committed {:.2} ({:+.1} %)",
                self.name,
                self.committed,
                (measured / self.committed - 1.0) * 100.0
            ),
            None => format!("{word}  {}: not measured, committed {:.2}", self.name, self.committed),
        }
    }
}

impl Ratios {
    /// Compares the medians: one below what is tolerated fails, one that is missing, too.
    pub fn compare(&self, now: &BTreeMap<String, Figure>) -> Vec<Verdict> {
        let verdict = |(name, committed): (&String, &f64)| {
            let measured = now.get(name).map(|figure| figure.median);
            let holds = measured.is_some_and(|measured| measured >= committed * (1.0 - self.tolerance));
            Verdict { name: name.clone(), committed: *committed, measured, holds }
        };
        self.ratios.iter().map(verdict).collect()
    }
}

impl Instructions {
    /// Compares both ways: fewer is good news that belongs into the file, too.
    pub fn compare(&self, now: &BTreeMap<String, f64>) -> Vec<Verdict> {
        let verdict = |(name, committed): (&String, &f64)| {
            let measured = now.get(name).copied();
            let holds = measured.is_some_and(|measured| (measured / committed - 1.0).abs() <= self.tolerance);
            Verdict { name: name.clone(), committed: *committed, measured, holds }
        };
        self.rows.iter().map(verdict).collect()
    }
}

/// Reads a committed file.
///
/// # Errors
/// When it is missing or not understood.
pub fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|source| BenchError::file(path, source))?;
    serde_json::from_str(&text)
        .map_err(|error| BenchError::Answer { what: path.display().to_string(), message: error.to_string() })
}

/// Writes one.
///
/// # Errors
/// When it cannot be written.
pub fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|error| BenchError::Answer {
        what: path.display().to_string(),
        message: error.to_string(),
    })?;
    std::fs::write(path, text + "\n").map_err(|source| BenchError::file(path, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(median: f64) -> Figure {
        Figure { median, least: median, most: median, runs: 3 }
    }

    fn named<T>(items: impl IntoIterator<Item = (&'static str, T)>) -> BTreeMap<String, T> {
        items.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    #[test]
    fn only_a_gross_loss_fails_and_so_does_a_missing_one() {
        let ratios = named([("a", 2.0), ("b", 2.0), ("c", 2.0), ("d", 2.0)]);
        let committed = Ratios { tolerance: 0.25, measured: String::new(), ratios };
        let now = named([("a", figure(1.51)), ("b", figure(1.49)), ("c", figure(9.0))]);
        let holds: Vec<bool> = committed.compare(&now).iter().map(|verdict| verdict.holds).collect();
        assert_eq!(holds, [true, false, true, false]);
    }

    #[test]
    fn instructions_are_held_in_both_directions() {
        let rows = named([("a", 100.0), ("b", 100.0), ("c", 100.0)]);
        let committed = Instructions { tolerance: 0.03, compiler: String::new(), rows };
        let verdicts = committed.compare(&named([("a", 103.1), ("b", 96.9), ("c", 102.9)]));
        assert_eq!(verdicts.iter().map(|verdict| verdict.holds).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!(verdicts[0].text(), "FAILS  a: 103.10, committed 100.00 (+3.1 %)");
    }
}
