//! The command `throughway`: arguments, logs, exit codes; nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    throughway::cli::main()
}
