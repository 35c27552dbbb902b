//! `show sessions` of a NAT, and clearing them.

use serde_json::{Value, json};
use throughway_config::value::Protocol;
use throughway_nat::Shared;
use throughway_nat::show::{Filter, RuleNumber, SessionView};
use throughway_session::{Cursor, SessionKey};
use throughway_shared::flow::{FAMILY_IPV4, FAMILY_IPV6, MAPPED_PREFIX};

use super::Options;
use super::flows::end;
use crate::clock;

const SECOND: u64 = 1_000_000_000;

fn filter(options: &Options) -> Filter {
    Filter {
        address: options.address.map(|address| address..=address),
        outside: None,
        port: options.port,
        protocol: options.protocol,
    }
}

/// Adds the sessions that `options` ask for, up to `limit` rows.
pub(super) fn sessions(name: &str, shared: &Shared, options: &Options, limit: usize, rows: &mut Vec<Value>) {
    let (filter, now) = (filter(options), clock::now());
    let mut cursor = Some(Cursor::default());
    while let Some(at) = cursor.filter(|_| rows.len() < limit) {
        cursor = shared.sessions(at, &filter, |session| {
            if rows.len() < limit {
                rows.push(row(name, &session, now.0));
            }
        });
    }
}

/// Ends the sessions that `options` ask for; says how many.
pub fn clear(shared: &Shared, options: &Options) -> usize {
    let (filter, now) = (filter(options), clock::now());
    let mut cleared = 0;
    let mut cursor = Some(Cursor::default());
    while let Some(at) = cursor {
        cursor = shared.clear(at, &filter, now, |_| cleared += 1);
    }
    cleared
}

fn row(function: &str, session: &SessionView, now: u64) -> Value {
    let ends = |key: &SessionKey| {
        let family = if key.source.starts_with(&MAPPED_PREFIX) { FAMILY_IPV4 } else { FAMILY_IPV6 };
        (end(family, &key.source, key.source_port), end(family, &key.destination, key.destination_port))
    };
    let (source, destination) = ends(&session.key);
    let (as_source, as_destination) = ends(&session.translated);
    let rule = session.rule.map(|rule| match rule {
        RuleNumber::Source(number) => format!("source {}", number + 1),
        RuleNumber::Destination(number) => format!("destination {}", number + 1),
    });
    json!({
        "function": function,
        "protocol": Protocol::new(session.key.protocol).to_string(),
        "source": source,
        "destination": destination,
        "translated_source": as_source,
        "translated_destination": as_destination,
        "state": session.state,
        "class": session.class.label(),
        "rule": rule,
        "idle_seconds": now.saturating_sub(session.last_seen.0) / SECOND,
        "expires_seconds": session.expires.0.saturating_sub(now) / SECOND,
    })
}
