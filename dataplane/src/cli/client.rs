//! Commands that ask the running service, over its API socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};

use super::Failure;
use super::output::{complain, print, table};
use crate::control::show::Options;

/// Longer than any reload takes; a service that hangs must not hang its operator.
const PATIENCE: Duration = Duration::from_secs(30);

/// Lets the service read its configuration again.
pub(super) fn reload(socket: &Path) -> Result<ExitCode, Failure> {
    let answer = ask(socket, &json!({ "command": "reload" }))?;
    if let Some(error) = answer.get("error").and_then(Value::as_str) {
        complain(error);
        complain("the configuration was not changed");
        return Ok(ExitCode::FAILURE);
    }
    let lines = |key: &str| -> Vec<String> {
        let items = answer.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    for warning in lines("warnings") {
        complain(&warning);
    }
    let changes = lines("changes");
    print(&if changes.is_empty() { "nothing changed".to_owned() } else { changes.join("\n") });
    Ok(ExitCode::SUCCESS)
}

/// Shows one aspect of the service's state.
pub(super) fn show(what: &str, options: &Options, socket: &Path, json: bool) -> Result<ExitCode, Failure> {
    let answer = ask(socket, &json!({ "command": "show", "what": what, "options": options }))?;
    if let Some(error) = answer.get("error").and_then(Value::as_str) {
        complain(error);
        return Ok(ExitCode::FAILURE);
    }
    let value = answer.get("value").cloned().unwrap_or_default();
    print(&if json { format!("{value:#}") } else { table(&value) });
    Ok(ExitCode::SUCCESS)
}

fn ask(socket: &Path, request: &Value) -> Result<Value, Failure> {
    let mut stream = UnixStream::connect(socket)
        .map_err(|error| format!("no service answers at {}: {error}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "{request}")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    if line.is_empty() {
        return Err("the service closed the connection without an answer".into());
    }
    Ok(serde_json::from_str(&line)?)
}
