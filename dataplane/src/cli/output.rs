//! The one place that writes to the terminal.

use std::io::Write;

/// Prints to standard output. A closed pipe is not an error: the reader has seen enough.
pub(super) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    if !text.ends_with('\n') {
        let _ = out.write_all(b"\n");
    }
    let _ = out.flush();
}

/// Prints to standard error.
pub(super) fn complain(text: &str) {
    let mut out = std::io::stderr().lock();
    let _ = out.write_all(text.as_bytes());
    if !text.ends_with('\n') {
        let _ = out.write_all(b"\n");
    }
}

/// Lays rows out in columns, the first row being the header.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let width = cell.chars().count();
            match widths.get_mut(column) {
                Some(known) => *known = width.max(*known),
                None => widths.push(width),
            }
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A JSON array of objects as columns: the keys of the first object are the header.
pub(super) fn table(value: &serde_json::Value) -> String {
    let Some(items) = value.as_array().filter(|items| !items.is_empty()) else {
        return "nothing to show\n".to_owned();
    };
    let Some(first) = items.first().and_then(|item| item.as_object()) else {
        return format!("{value:#}\n");
    };
    let keys: Vec<&String> = first.keys().collect();
    let mut rows = vec![keys.iter().map(|key| key.to_uppercase().replace('_', " ")).collect::<Vec<_>>()];
    for item in items {
        rows.push(keys.iter().map(|key| cell(item.get(key.as_str()))).collect());
    }
    columns(&rows)
}

fn cell(value: Option<&serde_json::Value>) -> String {
    match value {
        None | Some(serde_json::Value::Null) => "-".to_owned(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(serde_json::Value::Array(items)) => {
            items.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join(",")
        }
        Some(other) => other.to_string(),
    }
}
