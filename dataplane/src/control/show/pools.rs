//! The pools of NATs and their addresses: what is taken, what is left, who was refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Map, Value, json};
use throughway_nat::address::{PROTOCOLS, PortUse};
use throughway_nat::{Refusal, Shared};
use throughway_packet::parse::{ICMP, ICMPV6, SCTP, TCP, UDP};
use throughway_session::Cursor;

use super::{Options, USUAL_LIMIT};
use crate::app::Service;
use crate::clock;

/// What a row is about: function, rule, pool.
type Place<'a> = (&'a str, &'a str, &'a str);

/// What a row says of ports.
struct Figures {
    /// Ports that there are for each protocol.
    ports: usize,
    used: [PortUse; PROTOCOLS.len()],
    free: [usize; PROTOCOLS.len()],
    blocks: (usize, usize),
    hosts: usize,
}

/// A row for every pool with all its addresses, followed by one for each of them. An address that is meant has its row alone.
pub(super) fn pools(service: &Service, options: &Options) -> Value {
    let limit = options.limit.unwrap_or(USUAL_LIMIT);
    let interfaces: Vec<String> =
        service.interfaces().iter().map(|interface| interface.name.clone()).collect();
    let now = clock::now().0;
    let mut rows = Vec::new();
    for (function, nat) in service.nats() {
        if !options.is_of(&function) || rows.len() >= limit {
            continue;
        }
        let hosts = hosts(&nat.shared);
        for named in nat.pools(&interfaces) {
            let place = (&*function, &*named.rule, &*named.name);
            let usage = named.pool.usage(now);
            let mut all = Figures {
                ports: usage.addresses * usage.ports,
                used: usage.of_addresses,
                free: [0; PROTOCOLS.len()],
                blocks: usage.blocks,
                hosts: 0,
            };
            let mut of_all: BTreeSet<IpAddr> = BTreeSet::new();
            let mut single = Vec::new();
            named.pool.addresses(now, |of| {
                for (sum, free) in all.free.iter_mut().zip(of.free) {
                    *sum += free;
                }
                let here = hosts.get(&of.address);
                of_all.extend(here.into_iter().flatten());
                let figures = Figures {
                    ports: usage.ports,
                    used: of.of_protocols,
                    free: of.free,
                    blocks: of.blocks,
                    hosts: here.map_or(0, BTreeSet::len),
                };
                let wanted = options.address.is_none_or(|wanted| wanted == of.address);
                if wanted && single.len() < limit {
                    single.push(row(place, Some(of.address), &figures, None));
                }
            });
            all.hosts = of_all.len();
            if options.address.is_none() {
                rows.push(row(place, None, &all, Some(usage.refused)));
            }
            rows.append(&mut single);
        }
    }
    rows.truncate(limit);
    Value::Array(rows)
}

/// The hosts inside that have a mapping at each outside address.
fn hosts(shared: &Shared) -> BTreeMap<IpAddr, BTreeSet<IpAddr>> {
    let mut hosts: BTreeMap<IpAddr, BTreeSet<IpAddr>> = BTreeMap::new();
    let mut cursor = Some(Cursor::default());
    while let Some(at) = cursor {
        cursor = shared.mappings(at, |mapping| {
            hosts.entry(mapping.outside.0).or_default().insert(mapping.inside.0);
        });
    }
    hosts
}

fn row(
    (function, rule, pool): Place<'_>,
    address: Option<IpAddr>,
    figures: &Figures,
    refused: Option<[u64; Refusal::ALL.len()]>,
) -> Value {
    let mut row = Map::new();
    let mut set = |key: String, value: Value| row.insert(key, value);
    set("function".to_owned(), json!(function));
    set("rule".to_owned(), json!(rule));
    set("pool".to_owned(), json!(pool));
    set("address".to_owned(), address.map_or_else(|| json!("all"), |address| json!(address)));
    set("ports".to_owned(), json!(figures.ports));
    let of = |protocols: &[u8]| {
        let all = PROTOCOLS.iter().zip(&figures.used).zip(&figures.free);
        let of = all.filter(|((protocol, _), _)| protocols.contains(protocol));
        of.fold((0, 0), |(used, free), ((_, usage), available)| (used + usage.taken, free + available))
    };
    for (name, protocols) in [("tcp", &[TCP][..]), ("udp", &[UDP])] {
        let (used, free) = of(protocols);
        set(format!("{name}_used"), json!(used));
        set(format!("{name}_free"), json!(free));
    }
    for (name, protocols) in [("icmp", &[ICMP, ICMPV6][..]), ("sctp", &[SCTP])] {
        set(format!("{name}_used"), json!(of(protocols).0));
    }
    let resting: usize = figures.used.iter().map(|used| used.resting).sum();
    set("resting".to_owned(), json!(resting));
    let (blocks, free) = figures.blocks;
    let of_blocks = |count: usize| if blocks > 0 { json!(count) } else { Value::Null };
    set("blocks".to_owned(), of_blocks(blocks));
    set("blocks_free".to_owned(), of_blocks(free));
    set("hosts".to_owned(), json!(figures.hosts));
    for (at, refusal) in Refusal::ALL.iter().enumerate() {
        let count = refused.and_then(|refused| refused.get(at).copied());
        set(format!("refused_{}", refusal.label().replace('-', "_")), json!(count));
    }
    Value::Object(row)
}
