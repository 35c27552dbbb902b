//! Commands that ask the running service, over its API socket.

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use throughway_packet::Prefix;

use super::output::{complain, print, table};
use super::{Failure, Routes};
use crate::app::RELOAD_PATIENCE;
use crate::control::routes::Query;
use crate::control::show::Options;

/// A service that hangs must not hang its operator.
const PATIENCE: Duration = Duration::from_secs(30);

/// Lets the service read its configuration again.
pub(super) fn reload(socket: &Path) -> Result<ExitCode, Failure> {
    let answer = ask_for(socket, &json!({ "command": "reload" }), RELOAD_PATIENCE)?;
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

/// Ends sessions; prints how many.
pub(super) fn clear_sessions(options: &Options, socket: &Path) -> Result<ExitCode, Failure> {
    let answer = ask(socket, &json!({ "command": "clear-sessions", "options": options }))?;
    if let Some(error) = answer.get("error").and_then(Value::as_str) {
        complain(error);
        return Ok(ExitCode::FAILURE);
    }
    print(&format!("{} sessions cleared", answer.get("cleared").and_then(Value::as_u64).unwrap_or(0)));
    Ok(ExitCode::SUCCESS)
}

/// Drains a backend, or ends that.
pub(super) fn drain(
    function: &str,
    backend: &str,
    on: bool,
    period: Option<Duration>,
    socket: &Path,
) -> Result<ExitCode, Failure> {
    let milliseconds = period.map(|period| u64::try_from(period.as_millis()).unwrap_or(u64::MAX));
    let request = json!({
        "command": "drain", "function": function, "backend": backend, "on": on, "milliseconds": milliseconds,
    });
    let answer = ask(socket, &request)?;
    if let Some(error) = answer.get("error").and_then(Value::as_str) {
        complain(error);
        return Ok(ExitCode::FAILURE);
    }
    let backends = answer.get("backends").and_then(Value::as_array).cloned().unwrap_or_default();
    let what = if on { "gets no new connections" } else { "gets new connections" };
    let lines: Vec<_> =
        backends.iter().filter_map(Value::as_str).map(|backend| format!("{backend} {what}")).collect();
    print(&lines.join("\n"));
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

/// Shows the routers' tables, page by page so that the service is never held up, or explains one address.
pub(super) fn routes(wanted: &Routes, socket: &Path, json: bool) -> Result<ExitCode, Failure> {
    let mut query = Query {
        lookup: wanted.lookup,
        router: wanted.router.clone(),
        within: wanted.within.map(|prefix| (prefix.address(), prefix.len())),
        ..Query::default()
    };
    let mut rows = Vec::new();
    loop {
        let mut answer = ask(socket, &json!({ "command": "show", "what": "routes", "routes": query }))?;
        if let Some(error) = answer.get("error").and_then(Value::as_str) {
            complain(error);
            return Ok(ExitCode::FAILURE);
        }
        if let Some(Value::Array(page)) = answer.get_mut("value") {
            rows.append(page);
        }
        query.after =
            answer.get_mut("next").map(Value::take).and_then(|next| serde_json::from_value(next).ok());
        if query.after.is_none() {
            break;
        }
        if !wanted.all {
            complain(&format!(
                "the first {} only: ask for --all, or narrow it by --within PREFIX",
                rows.len()
            ));
            break;
        }
    }
    let value = Value::Array(rows);
    let text = match (json, wanted.lookup) {
        (true, _) => format!("{value:#}"),
        (false, None) => table(&value),
        (false, Some(_)) => explained(&value),
    };
    print(&text);
    Ok(ExitCode::SUCCESS)
}

/// Reads a prefix; an address alone is itself.
pub(super) fn prefix(text: &str) -> Result<Prefix, String> {
    let (address, len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
    let address: IpAddr = address.parse().map_err(|_| format!("`{address}` is no IP address"))?;
    let Some(len) = len else { return Ok(Prefix::host(address)) };
    let len = len.parse().map_err(|_| format!("`{len}` is no length of a prefix"))?;
    Prefix::containing(address, len).map_err(|error| error.to_string())
}

/// For people: what becomes of an address, by router.
fn explained(value: &Value) -> String {
    let text = |value: &Value, key: &str| match value.get(key) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    let list =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut out = String::new();
    for router in value.as_array().into_iter().flatten() {
        out.push_str(&format!(
            "{} in router {} (table {}): {} {}\n",
            text(router, "address"),
            text(router, "router"),
            text(router, "table"),
            text(router, "does"),
            text(router, "prefix"),
        ));
        for hop in list(router, "next_hops") {
            out.push_str(&format!(
                "  by {} ({}, link {}) to {}, MAC {}, {}; weight {}\n",
                text(&hop, "interface"),
                text(&hop, "device"),
                text(&hop, "link"),
                text(&hop, "neighbour"),
                text(&hop, "mac"),
                text(&hop, "state"),
                text(&hop, "weight"),
            ));
        }
        for known in list(router, "candidates") {
            let used = known.get("used").and_then(Value::as_bool).unwrap_or_default();
            let hops: Vec<_> =
                list(&known, "next_hops").iter().filter_map(|hop| hop.as_str().map(str::to_owned)).collect();
            out.push_str(&format!(
                "  {} {} {} {}, metric {}, from {}",
                if used { "used:" } else { "not: " },
                text(&known, "prefix"),
                text(&known, "kind"),
                hops.join(", "),
                text(&known, "metric"),
                text(&known, "from"),
            ));
            match known.get("why_not").and_then(Value::as_str) {
                Some(reason) => out.push_str(&format!(": {reason}\n")),
                None => out.push('\n'),
            }
        }
    }
    out
}

fn ask(socket: &Path, request: &Value) -> Result<Value, Failure> {
    ask_for(socket, request, PATIENCE)
}

fn ask_for(socket: &Path, request: &Value, patience: Duration) -> Result<Value, Failure> {
    let mut stream = UnixStream::connect(socket)
        .map_err(|error| format!("no service answers at {}: {error}", socket.display()))?;
    stream.set_read_timeout(Some(patience))?;
    writeln!(stream, "{request}")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
            format!("the service has not answered within {} s; it may still be at it", patience.as_secs())
        }
        _ => format!("the service's answer cannot be read: {error}"),
    })?;
    if line.is_empty() {
        return Err("the service closed the connection without an answer".into());
    }
    Ok(serde_json::from_str(&line)?)
}
