//! `show restart`: what was taken over of the instance before.

use serde_json::{Value, json};
use throughway_vnf::save::Lost;

use crate::app::Service;

/// A row for each function that has left sessions; one for the file, if it was refused.
pub(super) fn restart(service: &Service) -> Value {
    let report = service.restored();
    let refused = report.refused.iter().map(|(label, why)| {
        json!({
            "function": null, "kind": null, "sessions": 0, "lost": null,
            "reasons": label, "explanation": why, "age_ms": null, "took_ms": null,
        })
    });
    let functions = report.functions.iter().map(|function| {
        let restored = &function.restored;
        let lost = Lost::ALL.iter().zip(restored.lost).filter(|(_, count)| *count > 0);
        let reasons: Vec<String> = lost.map(|(lost, count)| format!("{} {count}", lost.label())).collect();
        json!({
            "function": function.name,
            "kind": function.kind,
            "sessions": restored.sessions,
            "lost": restored.all_lost(),
            "reasons": reasons.join(", "),
            "explanation": null,
            "age_ms": report.age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            "took_ms": u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
        })
    });
    refused.chain(functions).collect()
}
