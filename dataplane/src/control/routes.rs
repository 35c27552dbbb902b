//! `show routes`: the routers' tables page by page, and for one address which route won, and why not the others.
//!
//! Nothing is copied but the page that is asked for: a table of a million routes is answered for as fast as a small one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use throughway_config::TableId;
use throughway_kernel::model;
use throughway_packet::{PortId, Prefix};
use throughway_router::{NextHop, Route};

use super::mirror::{View, lock};
use crate::assemble::RouterSpec;
use crate::host::mac_to_text;
use crate::rib::candidate::{self, Candidate, Origin, Unfit};
use crate::rib::{Rib, facts};

/// Rows in one answer, unless it is asked for fewer.
pub const PAGE: usize = 1000;
/// Rows in one answer at most.
const LARGEST_PAGE: usize = 10_000;

/// What is asked about routes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Query {
    /// Explains where packets to this address go.
    pub lookup: Option<IpAddr>,
    /// Of this router only.
    pub router: Option<String>,
    /// Prefixes within this one only, as (address, length).
    pub within: Option<(IpAddr, u8)>,
    /// Rows at most.
    pub limit: Option<usize>,
    /// Goes on behind this place: what the last answer gave as `next`.
    pub after: Option<Place>,
}

/// A place in the list of all routes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    /// The router.
    pub router: String,
    /// The last prefix that was shown of it, as (address, length).
    pub prefix: (IpAddr, u8),
}

/// The answer: `value` is an array of rows, or of explanations; `next` says where to go on, when there is more.
pub fn answer(view: &View<'_>, query: &Query) -> Result<Value, String> {
    let named = |spec: &&RouterSpec| query.router.as_ref().is_none_or(|name| *name == spec.name);
    let routers: Vec<&RouterSpec> = view.routers().iter().filter(named).collect();
    if routers.is_empty() {
        let names: Vec<&str> = view.routers().iter().map(|spec| spec.name.as_str()).collect();
        return Err(match &query.router {
            Some(name) => format!("there is no router `{name}`; there are: {}", names.join(", ")),
            None => "the configuration has no router".to_owned(),
        });
    }
    if let Some(address) = query.lookup {
        let explained = routers.iter().map(|spec| explain(view, spec, address));
        return Ok(json!({ "value": explained.collect::<Vec<_>>() }));
    }
    let within = match query.within {
        None => None,
        Some((address, len)) => Some(Prefix::containing(address, len).map_err(|error| error.to_string())?),
    };
    let limit = query.limit.unwrap_or(PAGE).clamp(1, LARGEST_PAGE);
    let mut rows = Vec::new();
    let mut next = None;
    let mut after = query.after.as_ref();
    'routers: for spec in routers {
        // Those before the place to go on at have been shown.
        if after.is_some_and(|place| place.router != spec.name) {
            continue;
        }
        let after = after.take().map(|place| place.prefix);
        let rib = lock(&spec.rib);
        let mut last = None;
        for prefix in prefixes(view, &rib, within, after) {
            if rows.len() == limit {
                next = last.map(|prefix: Prefix| json!({ "router": spec.name, "prefix": (prefix.address(), prefix.len()) }));
                break 'routers;
            }
            last = Some(prefix);
            let candidates: Vec<_> = rib.candidates(view.kernel(), prefix).collect();
            let others = candidates.len().saturating_sub(1);
            if let Some(best) = candidate::best(candidates.into_iter()) {
                rows.push(row(view, spec, prefix, &best, others));
            }
        }
    }
    Ok(json!({ "value": rows, "next": next }))
}

/// The prefixes of a router in order, without looking at those that are not asked for.
fn prefixes<'a>(
    view: &'a View<'_>,
    rib: &'a Rib,
    within: Option<Prefix>,
    after: Option<(IpAddr, u8)>,
) -> impl Iterator<Item = Prefix> {
    let order = |prefix: &Prefix| (prefix.address(), prefix.len());
    let first = within.map_or((IpAddr::from([0; 4]), 0), |within| order(&within));
    let from = after.map_or(first, |after| after.max(first));
    let in_range = move |prefix: &Prefix| {
        order(prefix) >= from
            && Some(order(prefix)) != after
            && within.is_none_or(|within| prefix.len() >= within.len() && within.contains(prefix.address()))
    };
    let own: BTreeSet<_> = rib.fixed_prefixes().filter(in_range).map(|prefix| order(&prefix)).collect();
    let mut own = own.into_iter().peekable();
    let start = model::Prefix { address: from.0, len: from.1 };
    let slots = rib
        .table()
        .into_iter()
        .flat_map(move |table| view.kernel().routes.of_table_from(table, start))
        .filter_map(|(key, _)| Prefix::new(key.prefix.address, key.prefix.len).ok())
        .take_while(move |prefix| within.is_none_or(|within| prefix.address() <= within.last()))
        .filter(in_range);
    let mut last = None;
    let mut slots = slots
        .map(move |prefix| (prefix.address(), prefix.len()))
        .filter(move |prefix| last.replace(*prefix) != Some(*prefix))
        .peekable();
    std::iter::from_fn(move || match (own.peek(), slots.peek()) {
        (Some(a), Some(b)) if a == b => {
            own.next();
            slots.next()
        }
        (Some(a), Some(b)) if a > b => slots.next(),
        (Some(_), _) => own.next(),
        (None, _) => slots.next(),
    })
    .filter_map(|(address, len)| Prefix::new(address, len).ok())
}

fn row(view: &View<'_>, spec: &RouterSpec, prefix: Prefix, best: &Candidate<'_>, others: usize) -> Value {
    json!({
        "router": spec.name,
        "prefix": prefix.to_string(),
        "kind": kind(&best.route),
        "next_hops": hops_in_words(view, best),
        "metric": best.metric,
        "from": origin(spec, best),
        "others": others,
    })
}

const fn kind(route: &Route) -> &'static str {
    match route {
        Route::Forward(_) => "unicast",
        Route::Local => "local",
        Route::Broadcast => "broadcast",
        Route::Blackhole => "blackhole",
        Route::Unreachable => "unreachable",
        Route::Prohibit => "prohibit",
        Route::Throw => "throw",
        Route::NotOurs => "not ours",
    }
}

/// Where a candidate comes from, as its operator knows it.
fn origin(spec: &RouterSpec, candidate: &Candidate<'_>) -> String {
    match candidate.origin {
        Origin::Own => "the host's addresses".to_owned(),
        Origin::Static(position) => format!("functions.{}.routes[{position}]", spec.name),
        Origin::Connected => "the port's address".to_owned(),
        Origin::Kernel(key, slot) => {
            let first = slot.first();
            let protocol = first.map_or_else(String::new, |route| facts::protocol(route.protocol));
            let object = first.and_then(|route| route.nexthop_id).map(|id| format!(", nhid {id}"));
            format!("kernel: {protocol}, table {}{}", TableId(key.table), object.unwrap_or_default())
        }
    }
}

fn gateway_in_words(gateway: Option<IpAddr>) -> String {
    gateway.map_or_else(|| "on link".to_owned(), |gateway| format!("via {gateway}"))
}

/// The next hops of a candidate, those that are not ours among them.
fn hops_in_words(view: &View<'_>, candidate: &Candidate<'_>) -> Vec<String> {
    let name = |port: PortId| {
        view.facts().ports.get(port.index()).map_or_else(|| port.0.to_string(), |port| port.name.clone())
    };
    let weighted = |text: String, weight: u16, several: bool| {
        if several { format!("{text} weight {weight}") } else { text }
    };
    if let Origin::Kernel(key, slot) = candidate.origin {
        let hops: Vec<_> = candidate::next_hops(key, slot).collect();
        let several = hops.len() > 1;
        let words = hops.iter().map(|hop| {
            let ours = candidate::next_hop(hop, view.kernel().ports);
            let device = hop.ifindex.and_then(|index| view.state().links.get(&index));
            let device = device.map_or("?", |link| link.name.as_str());
            let to = match ours {
                Some(hop) => name(hop.port),
                None if hop.encapsulates => format!("{device} (not ours: encapsulated)"),
                None => format!("{device} (not ours)"),
            };
            let dead = if hop.dead { " dead" } else { "" };
            weighted(format!("{} {to}{dead}", gateway_in_words(hop.gateway)), hop.weight, several)
        });
        return words.collect();
    }
    match &candidate.route {
        Route::Forward(hops) => {
            let several = hops.iter().count() > 1;
            let words = hops.iter().map(|hop| {
                weighted(format!("{} {}", gateway_in_words(hop.gateway), name(hop.port)), hop.weight, several)
            });
            words.collect()
        }
        _ => Vec::new(),
    }
}

/// Everything that could have decided about an address, in order of what comes first.
fn explain(view: &View<'_>, spec: &RouterSpec, address: IpAddr) -> Value {
    let rib = lock(&spec.rib);
    let width = if address.is_ipv4() { 32 } else { 128 };
    let mut used: Option<Prefix> = None;
    let mut rows = Vec::new();
    for prefix in (0..=width).rev().filter_map(|len| Prefix::containing(address, len).ok()) {
        let candidates: Vec<_> = rib.candidates(view.kernel(), prefix).collect();
        let winner = candidate::position(&candidates).filter(|_| used.is_none());
        for (position, known) in candidates.iter().enumerate() {
            let is_used = winner == Some(position);
            let why_not = why_not(known, is_used, used.is_some());
            rows.push(json!({
                "prefix": prefix.to_string(),
                "from": origin(spec, known),
                "kind": kind(&known.route),
                "metric": known.metric,
                "next_hops": hops_in_words(view, known),
                "used": is_used,
                "why_not": why_not,
            }));
        }
        used = used.or(winner.map(|_| prefix));
    }
    // What packets are in fact looked up in.
    let found = rib.fib().lookup(address);
    let in_force = found.as_deref().map_or("no route", kind);
    let hops: Vec<_> = match found.as_deref() {
        Some(Route::Forward(hops)) => hops.iter().map(|hop| next_hop(view, hop, address)).collect(),
        _ => Vec::new(),
    };
    let table = rib.table().map_or_else(|| "none".to_owned(), |table| TableId(table).to_string());
    json!({
        "router": spec.name,
        "table": table,
        "address": address,
        "prefix": used.map(|prefix| prefix.to_string()),
        "does": in_force,
        "next_hops": hops,
        "candidates": rows,
    })
}

/// Why a candidate is not used, or why it is in spite of something.
fn why_not(known: &Candidate<'_>, is_used: bool, longer: bool) -> Option<&'static str> {
    let unfit = known.unfit.map(|unfit| match unfit {
        Unfit::LinkDown => "the link is down",
        Unfit::Dead => "the kernel says that its next hops are dead",
        Unfit::NoGateway => "its gateway is on no link of ours",
        Unfit::Kind => "a kind of route that nothing is forwarded by",
        Unfit::Selective => "for some sources or a TOS only, which is not looked at",
    });
    match unfit {
        Some(_) => unfit,
        None if is_used => None,
        None if longer => Some("a longer prefix is used"),
        None => Some("another comes before it: a lower metric, or the configuration's at the same metric"),
    }
}

fn next_hop(view: &View<'_>, hop: &NextHop, destination: IpAddr) -> Value {
    let port = view.facts().ports.get(hop.port.index());
    let address = hop.address(destination);
    let neighbour =
        view.kernel().ports.ifindex(hop.port).and_then(|index| view.state().neighbour(index, address));
    json!({
        "interface": port.map(|port| port.name.as_str()),
        "device": port.map(|port| port.device.as_str()),
        "link": if port.is_some_and(|port| port.up) { "up" } else { "down" },
        "gateway": hop.gateway,
        "weight": hop.weight,
        "neighbour": address,
        "mac": neighbour.and_then(|known| known.mac).map(mac_to_text),
        "state": neighbour.map_or_else(|| "unknown".to_owned(), |known| format!("{:?}", known.state).to_lowercase()),
    })
}
