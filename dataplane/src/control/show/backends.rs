//! The backends of load balancers.

use serde_json::{Value, json};

use crate::app::Service;

/// A row for every backend of every service.
pub(super) fn backends(service: &Service) -> Value {
    let mut rows = Vec::new();
    for (function, director) in service.balancers() {
        for row in director.rows() {
            let [connections, packets, bytes] = row.figures;
            rows.push(json!({
                "function": function,
                "service": row.service,
                "backend": row.backend,
                "weight": row.weight,
                "share": format!("{:.1}%", row.share * 100.0),
                "state": row.state,
                "active": row.active,
                "connections": connections,
                "packets": packets,
                "bytes": bytes,
                "why": row.why,
            }));
        }
    }
    Value::Array(rows)
}
