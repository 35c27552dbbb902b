//! Runs programs, here or in a namespace.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::error::{BenchError, Result};

/// Directories that a user's `PATH` often lacks.
const SYSTEM: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Where `program` is.
pub fn find(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(SYSTEM.map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// A command; `program` is looked for in the system's directories too.
///
/// # Errors
/// [`BenchError::Unavailable`] when it is not installed.
pub fn command(argv: &[&str]) -> Result<Command> {
    let [program, arguments @ ..] = argv else {
        return Err(BenchError::Worthless("an empty command line".to_owned()));
    };
    let path = find(program).ok_or_else(|| {
        BenchError::Unavailable(format!("{program} is not installed (packaging/install-packages.sh bench)"))
    })?;
    let mut command = Command::new(path);
    command.args(arguments).stdin(Stdio::null());
    Ok(command)
}

/// Runs a program to its end and gives what it wrote to its standard output.
///
/// # Errors
/// When it cannot be run, or fails.
pub fn run(argv: &[&str]) -> Result<String> {
    let line = || argv.join(" ");
    let output = command(argv)?
        .output()
        .map_err(|error| BenchError::Command { command: line(), message: error.to_string() })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let message = format!("{}{}", text(&output.stderr), text(&output.stdout)).trim().to_owned();
    let message = if message.is_empty() { output.status.to_string() } else { message };
    Err(BenchError::Command { command: line(), message })
}
