//! The backends of load balancers.

use serde_json::{Value, json};

use super::Options;
use crate::app::Service;

/// A row for every backend of every service, or of those that are meant.
pub(super) fn backends(service: &Service, options: &Options) -> Result<Value, String> {
    let limit = options.limit.unwrap_or(usize::MAX);
    let mut rows = Vec::new();
    let mut there = false;
    for (function, director) in service.balancers() {
        if !options.is_of(&function) {
            continue;
        }
        for row in director.rows(options.service.as_deref()) {
            there = true;
            let address = options.address.map(|address| address.to_string());
            if rows.len() >= limit || address.is_some_and(|address| !is_at(&row.backend, &address)) {
                continue;
            }
            let [connections, packets, bytes] = row.figures;
            let [connection_rate, packet_rate, byte_rate] = row.rates.map(f64::round);
            rows.push(json!({
                "function": function,
                "service": row.service,
                "backend": row.backend,
                "weight": row.weight,
                "share": format!("{:.1}%", row.share * 100.0),
                "state": row.state,
                "since_s": row.since,
                "active": row.active,
                "connections": connections,
                "packets": packets,
                "bytes": bytes,
                "connections/s": connection_rate as u64,
                "packets/s": packet_rate as u64,
                "bits/s": (byte_rate * 8.0) as u64,
                "why": row.why,
            }));
        }
    }
    match &options.service {
        Some(name) if !there => {
            Err(format!("there is no service `{name}`; `throughway show backends` lists them"))
        }
        _ => Ok(Value::Array(rows)),
    }
}

/// Whether a backend, written as address or address and port, is at an address.
fn is_at(backend: &str, address: &str) -> bool {
    let host = backend.parse::<std::net::SocketAddr>().map(|place| place.ip().to_string());
    host.as_deref().unwrap_or(backend) == address
}
