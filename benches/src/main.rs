//! `throughway-bench`: the command line. Exit codes: 0 done, 1 failed or worse than committed, 2 wrong usage.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    throughway_benches::cli::main()
}
