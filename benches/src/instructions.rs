//! Instructions a packet, counted by valgrind's callgrind: a figure that does not depend on who else uses the machine.
//!
//! The bench `chain` is run twice, once with more passes over the same traffic; the difference is what the packets of the further
//! passes took, without anything of setting up. What the worker does by the clock (ageing, telling the functions) falls into a run
//! once or twice, at no fixed place: where a packet costs little, many passes keep that below one in a hundred.

use std::collections::BTreeMap;
use std::path::Path;

use crate::command::{command, run};
use crate::error::{BenchError, Result};

/// Rows of the bench `chain`, as its `--count` knows them, and the passes of the longer run.
const ROWS: [(&str, u64); 6] = [
    ("hit-ipv4", 42),
    ("hit-ipv6", 42),
    ("hit-ipv4-stateful", 42),
    ("walk-ipv4", 6),
    ("walk-ipv6", 6),
    ("opens-ipv4-stateful", 6),
];
/// Passes of the shorter run.
const FEW: u64 = 2;

/// Counts every row; `bench` is the built bench `chain`.
///
/// # Errors
/// When valgrind is missing or the bench fails.
pub fn count(bench: &str, directory: &Path) -> Result<BTreeMap<String, f64>> {
    std::fs::create_dir_all(directory).map_err(|source| BenchError::file(directory, source))?;
    ROWS.iter().map(|(row, many)| Ok(((*row).to_owned(), row_count(bench, row, *many, directory)?))).collect()
}

fn row_count(bench: &str, row: &str, many: u64, directory: &Path) -> Result<f64> {
    let few = callgrind(bench, row, FEW, directory)?;
    let many = callgrind(bench, row, many, directory)?;
    let packets = many.1.saturating_sub(few.1);
    if packets == 0 || many.0 <= few.0 {
        return Err(BenchError::Worthless(format!("{row}: {few:?} and {many:?} instructions and packets")));
    }
    Ok((many.0 - few.0) as f64 / packets as f64)
}

/// Instructions and packets of one run.
fn callgrind(bench: &str, row: &str, passes: u64, directory: &Path) -> Result<(u64, u64)> {
    let out = directory.join(format!("callgrind.{row}.{passes}"));
    let file = format!("--callgrind-out-file={}", out.display());
    let passes = passes.to_string();
    let argv = ["valgrind", "--tool=callgrind", "--quiet", &file, bench, "--count", row, "--passes", &passes];
    let output = command(&argv)?.output().map_err(|source| BenchError::file("valgrind", source))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = || BenchError::Command {
        command: argv.join(" "),
        message: format!("{}{text}", String::from_utf8_lossy(&output.stderr)),
    };
    let packets = text.trim().parse().map_err(|_| failed())?;
    let counted = std::fs::read_to_string(&out).map_err(|source| BenchError::file(&out, source))?;
    // The file is large and only its last lines are wanted.
    let _ = std::fs::remove_file(&out);
    Ok((total(&counted).ok_or_else(failed)?, packets))
}

/// The sum that callgrind writes.
fn total(text: &str) -> Option<u64> {
    let line = text.lines().rev().find(|line| line.starts_with("totals:") || line.starts_with("summary:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The compiler that the counts belong to.
///
/// # Errors
/// When there is none.
pub fn compiler() -> Result<String> {
    Ok(run(&["rustc", "--version"])?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_sum_is_found() {
        assert_eq!(super::total("events: Ir\nfn=(1)\n1 2\ntotals: 1234\n"), Some(1234));
        assert_eq!(super::total("events: Ir\n"), None);
    }
}
