//! `show rules`, `show sessions`: what the firewalls know.

use serde_json::{Value, json};
use throughway_config::FunctionKind;
use throughway_config::value::Protocol;
use throughway_firewall::show::SessionView;
use throughway_firewall::{Policy, Shared};
use throughway_session::{Cursor, SessionKey};
use throughway_shared::flow::{FAMILY_IPV4, FAMILY_IPV6, MAPPED_PREFIX};

use super::Options;
use super::flows::end;
use crate::app::Service;
use crate::clock;

const SECOND: u64 = 1_000_000_000;

/// The rules of every firewall with what they have counted.
pub(super) fn rules(service: &Service) -> Value {
    let mut rows = Vec::new();
    for (name, shared) in service.firewalls() {
        let policy = shared.policy();
        for rule in shared.rules() {
            rows.push(json!({
                "function": name,
                "rule": rule.name,
                "line": rule.rule.and_then(|rule| policy.origin(rule)).map(|origin| origin.line),
                "packets": rule.stats.packets,
                "bytes": rule.stats.bytes,
                "sessions": rule.stats.sessions,
            }));
        }
    }
    Value::Array(rows)
}

/// The sets of every firewall, and what was dropped for those with `early`.
pub(super) fn sets(service: &Service) -> Value {
    let early = service.early();
    let mut rows = Vec::new();
    for function in &service.config().functions {
        let FunctionKind::Firewall(firewall) = &function.kind else { continue };
        for set in &firewall.sets {
            let early = early.iter().find(|view| *view.function == *function.name && *view.set == *set.name);
            rows.push(json!({
                "function": function.name.as_str(),
                "set": set.name.as_str(),
                "of": if set.ports().is_empty() { "addresses" } else { "ports" },
                "elements": set.len(),
                "file": set.file.as_ref().map(|file| file.display().to_string()),
                "early": early.map(|view| view.interfaces.join(",")),
                "early_prefixes": early.map(|view| view.prefixes),
                "early_drops": early.map(|view| view.drops),
            }));
        }
    }
    Value::Array(rows)
}

/// Whether a session is one of those that `options` ask for.
pub fn wanted(options: &Options, key: &SessionKey) -> bool {
    let port = options.port.map(u16::to_be_bytes);
    options
        .address
        .map(throughway_packet::headers::octets)
        .is_none_or(|address| key.source == address || key.destination == address)
        && port.is_none_or(|port| key.source_port == port || key.destination_port == port)
        && options.protocol.is_none_or(|protocol| key.protocol == protocol)
}

/// Adds the sessions that `options` ask for, up to `limit` rows.
pub(super) fn sessions(name: &str, shared: &Shared, options: &Options, limit: usize, rows: &mut Vec<Value>) {
    let (now, policy) = (clock::now(), shared.policy());
    let mut cursor = Some(Cursor::default());
    while let Some(at) = cursor.filter(|_| rows.len() < limit) {
        cursor = shared.sessions(at, |session| {
            if rows.len() < limit && wanted(options, &session.key) {
                rows.push(row(name, &session, &policy, now.0));
            }
        });
    }
}

fn row(function: &str, session: &SessionView, policy: &Policy, now: u64) -> Value {
    let key = &session.key;
    let family = if key.source.starts_with(&MAPPED_PREFIX) { FAMILY_IPV4 } else { FAMILY_IPV6 };
    json!({
        "function": function,
        "protocol": Protocol::new(key.protocol).to_string(),
        "source": end(family, &key.source, key.source_port),
        "destination": end(family, &key.destination, key.destination_port),
        "state": session.state,
        "class": session.class.label(),
        "rule_line": session.rule.and_then(|rule| policy.origin(rule)).map(|origin| origin.line),
        "packets": session.packets,
        "bytes": session.bytes,
        "age_seconds": now.saturating_sub(session.opened.0) / SECOND,
        "idle_seconds": now.saturating_sub(session.last_seen.0) / SECOND,
        "expires_seconds": session.expires.0.saturating_sub(now) / SECOND,
    })
}
