//! The candidates of a prefix, in their order.
//!
//! 1. The host's own addresses and directed broadcasts: nothing comes before them.
//! 2. Static routes of the configuration and the kernel's routes by metric, the lowest first; at the same metric what the
//!    operator wrote here wins.
//! 3. The prefixes of the ports' addresses, where no table has them.
//!
//! Used is the first that can send. When none can, it is the first of all: packets are then told that the host is
//! unreachable, and do not go another way by a shorter prefix.

use std::sync::Arc;

use throughway_kernel::model::{self, RouteKey};
use throughway_router::{NextHop, NextHops, Route};
use throughway_vnf::Prefix;

use super::fixed::Fixed;
use super::{Kernel, PortMap, model_prefix};

/// Where a candidate comes from.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// An address of the host, or the broadcast address of one of its prefixes.
    Own,
    /// The configuration; its position among the routes there, from zero.
    Static(usize),
    /// The kernel: the slot of its table, and what is in it.
    Kernel(&'a RouteKey, &'a [Arc<model::Route>]),
    /// The prefix of an address of a port.
    Connected,
}

/// Why a candidate cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unfit {
    /// Every next hop is by a port that is down.
    LinkDown,
    /// The kernel says of every next hop that it is dead.
    Dead,
    /// The gateway of a static route is on no link of ours.
    NoGateway,
    /// The kernel has a kind of route that is not for forwarding (local, broadcast, multicast).
    Kind,
    /// The route is for some sources or some TOS only, which are not looked at.
    Selective,
}

/// One of the routes of a prefix.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// Where it comes from.
    pub origin: Origin<'a>,
    /// Its metric; zero where it has none.
    pub metric: u32,
    /// What it would do; for one that can never be used, as if it were not there.
    pub route: Route,
    /// Why it is passed over.
    pub unfit: Option<Unfit>,
}

impl Candidate<'_> {
    /// The kernel's nexthop object that it goes by.
    pub fn nexthop_id(&self) -> Option<u32> {
        match self.origin {
            Origin::Kernel(key, slot) if slot.len() == 1 || key.prefix.address.is_ipv4() => {
                slot.first()?.nexthop_id
            }
            _ => None,
        }
    }

    /// Can be used when there is nothing better.
    fn is_last_resort(&self) -> bool {
        self.unfit == Some(Unfit::LinkDown)
    }
}

/// The one that is used.
pub fn best<'a>(candidates: impl Iterator<Item = Candidate<'a>>) -> Option<Candidate<'a>> {
    let mut resort = None;
    for candidate in candidates {
        if candidate.unfit.is_none() {
            return Some(candidate);
        }
        if candidate.is_last_resort() && resort.is_none() {
            resort = Some(candidate);
        }
    }
    resort
}

/// The position of the one that is used.
pub fn position(candidates: &[Candidate<'_>]) -> Option<usize> {
    let fit = candidates.iter().position(|candidate| candidate.unfit.is_none());
    fit.or_else(|| candidates.iter().position(Candidate::is_last_resort))
}

/// All of them in order.
pub(super) fn candidates<'a>(
    fixed: &'a Fixed,
    table: Option<u32>,
    kernel: Kernel<'a>,
    prefix: Prefix,
) -> impl Iterator<Item = Candidate<'a>> {
    let entry = fixed.get(prefix);
    let own = entry.and_then(|entry| entry.own.as_ref());
    let own =
        own.map(|route| Candidate { origin: Origin::Own, metric: 0, route: route.clone(), unfit: None });
    let statics = entry.map(|entry| entry.statics.as_slice()).unwrap_or_default();
    let mut statics = statics
        .iter()
        .map(move |known| {
            let unfit = match &known.route {
                None => Some(Unfit::NoGateway),
                Some(route) => link_down(route, kernel.ports),
            };
            let route = known.route.clone().unwrap_or(Route::Throw);
            Candidate { origin: Origin::Static(known.position), metric: known.metric, route, unfit }
        })
        .peekable();
    let slots = table.into_iter().flat_map(move |table| kernel.routes.of_prefix(table, model_prefix(prefix)));
    let mut slots = slots.map(move |(key, slot)| of_kernel(key, slot, kernel.ports)).peekable();
    let merged = std::iter::from_fn(move || match (statics.peek(), slots.peek()) {
        (Some(own), Some(kernel)) if own.metric > kernel.metric => slots.next(),
        (Some(_), _) => statics.next(),
        (None, _) => slots.next(),
    });
    let connected = entry.and_then(|entry| entry.connected.as_ref()).map(move |route| Candidate {
        origin: Origin::Connected,
        metric: 0,
        route: route.clone(),
        unfit: link_down(route, kernel.ports),
    });
    own.into_iter().chain(merged).chain(connected)
}

fn link_down(route: &Route, ports: &PortMap) -> Option<Unfit> {
    match route {
        Route::Forward(hops) if !hops.iter().any(|hop| ports.is_up(hop.port)) => Some(Unfit::LinkDown),
        _ => None,
    }
}

/// The next hops that a slot of the kernel's table stands for: IPv6 lists the paths of a multipath route one by one; of
/// equal IPv4 routes the kernel uses the first.
pub fn next_hops<'a>(
    key: &RouteKey,
    slot: &'a [Arc<model::Route>],
) -> impl Iterator<Item = &'a model::NextHop> {
    let used = if key.prefix.address.is_ipv4() { 1 } else { slot.len() };
    slot.iter().take(used).flat_map(|route| &route.next_hops)
}

/// Where one of the kernel's next hops leads to; `None` when that is not ours: another device, or what the kernel would
/// encapsulate.
pub fn next_hop(hop: &model::NextHop, ports: &PortMap) -> Option<NextHop> {
    let port = ports.port(hop.ifindex.filter(|_| !hop.encapsulates)?)?;
    Some(NextHop { port, gateway: hop.gateway, weight: hop.weight })
}

/// What unicast over these next hops comes to; `None` when all are dead.
pub fn forward<'a>(hops: impl Iterator<Item = &'a model::NextHop>, ports: &PortMap) -> Option<Route> {
    let mut alive = hops.filter(|hop| !hop.dead).peekable();
    alive.peek()?;
    let ours = NextHops::new(alive.filter_map(|hop| next_hop(hop, ports)));
    Some(ours.map_or(Route::NotOurs, Route::Forward))
}

fn of_kernel<'a>(key: &'a RouteKey, slot: &'a [Arc<model::Route>], ports: &PortMap) -> Candidate<'a> {
    let kind = slot.first().map_or(model::RouteKind::Other(0), |route| route.kind);
    let simple = match kind {
        model::RouteKind::Unicast => None,
        model::RouteKind::Blackhole => Some((Route::Blackhole, None)),
        model::RouteKind::Unreachable => Some((Route::Unreachable, None)),
        model::RouteKind::Prohibit => Some((Route::Prohibit, None)),
        model::RouteKind::Throw => Some((Route::Throw, None)),
        model::RouteKind::Local
        | model::RouteKind::Broadcast
        | model::RouteKind::Anycast
        | model::RouteKind::Multicast
        | model::RouteKind::Other(_) => Some((Route::Throw, Some(Unfit::Kind))),
    };
    let (route, unfit) = simple.unwrap_or_else(|| {
        // A route that has lost its last next hop is none: the next metric, or a shorter prefix, gets its turn.
        let Some(route) = forward(next_hops(key, slot), ports) else {
            return (Route::Throw, Some(Unfit::Dead));
        };
        let unfit = link_down(&route, ports);
        (route, unfit)
    });
    let selective = key.source.is_some() || key.tos != 0;
    let unfit = if selective { Some(Unfit::Selective) } else { unfit };
    Candidate { origin: Origin::Kernel(key, slot), metric: key.metric, route, unfit }
}
