//! The kernel's routes as plain facts, for `show host`, and back from them, for `replay`.

use std::sync::Arc;

use throughway_kernel::Routes;
use throughway_kernel::model::{self, RouteKey, RouteProtocol};

use super::candidate::next_hops;
use super::{Kernel, PortMap};
use crate::host::{HostFacts, NextHopFacts, RouteFacts, RouteKind};

/// The routes of all tables but the kernel's own `local`.
pub fn facts(kernel: Kernel<'_>) -> Vec<RouteFacts> {
    let mut facts = Vec::new();
    for (key, slot) in kernel.routes.iter() {
        // Routes by source or TOS need policy routing, which is not followed.
        if key.table == model::table::LOCAL || key.source.is_some() || key.tos != 0 {
            continue;
        }
        let Some((kind, first)) = slot.first().and_then(|route| Some((kind(route.kind)?, route))) else {
            continue;
        };
        let hops = next_hops(key, slot).filter(|hop| !hop.dead).map(|hop| NextHopFacts {
            // What the kernel would encapsulate is not for us to send.
            port: hop
                .ifindex
                .filter(|_| !hop.encapsulates)
                .and_then(|ifindex| kernel.ports.port(ifindex))
                .map(|port| port.0),
            gateway: hop.gateway,
            weight: hop.weight,
        });
        facts.push(RouteFacts {
            table: key.table,
            prefix: (key.prefix.address, key.prefix.len),
            kind,
            metric: key.metric,
            protocol: protocol(first.protocol),
            next_hops: hops.collect(),
        });
    }
    facts
}

/// The kernel's routes as facts describe them, with the ports of [`PortMap::numbered`].
pub fn routes(host: &HostFacts) -> (Routes, PortMap) {
    let mut routes = Routes::default();
    for fact in host.routes.iter() {
        let hops = fact.next_hops.iter().map(|hop| model::NextHop {
            weight: hop.weight,
            // No device has this number: what is not ours stays so.
            ..model::NextHop::new(hop.gateway, Some(hop.port.map_or(u32::MAX, |port| u32::from(port) + 1)))
        });
        let route = model::Route {
            kind: match fact.kind {
                RouteKind::Unicast => model::RouteKind::Unicast,
                RouteKind::Blackhole => model::RouteKind::Blackhole,
                RouteKind::Unreachable => model::RouteKind::Unreachable,
                RouteKind::Prohibit => model::RouteKind::Prohibit,
                RouteKind::Throw => model::RouteKind::Throw,
            },
            protocol: protocol_number(&fact.protocol),
            next_hops: hops.collect(),
            ..model::Route::default()
        };
        let (address, len) = fact.prefix;
        let prefix = model::Prefix { address, len };
        let key = RouteKey { table: fact.table, prefix, source: None, tos: 0, metric: fact.metric };
        // The first of several holds, as in the kernel.
        if !routes.contains_key(&key) {
            routes.set(key, vec![Arc::new(route)]);
        }
    }
    (routes, PortMap::numbered(host))
}

fn kind(kind: model::RouteKind) -> Option<RouteKind> {
    match kind {
        model::RouteKind::Unicast => Some(RouteKind::Unicast),
        model::RouteKind::Blackhole => Some(RouteKind::Blackhole),
        model::RouteKind::Unreachable => Some(RouteKind::Unreachable),
        model::RouteKind::Prohibit => Some(RouteKind::Prohibit),
        model::RouteKind::Throw => Some(RouteKind::Throw),
        model::RouteKind::Local
        | model::RouteKind::Broadcast
        | model::RouteKind::Anycast
        | model::RouteKind::Multicast
        | model::RouteKind::Other(_) => None,
    }
}

/// Names as iproute2's `rt_protos` has them.
const PROTOCOLS: [(RouteProtocol, &str); 14] = [
    (RouteProtocol::REDIRECT, "redirect"),
    (RouteProtocol::KERNEL, "kernel"),
    (RouteProtocol::BOOT, "boot"),
    (RouteProtocol::STATIC, "static"),
    (RouteProtocol::RA, "ra"),
    (RouteProtocol(11), "zebra"),
    (RouteProtocol::BIRD, "bird"),
    (RouteProtocol::DHCP, "dhcp"),
    (RouteProtocol(18), "keepalived"),
    (RouteProtocol(42), "babel"),
    (RouteProtocol::BGP, "bgp"),
    (RouteProtocol(187), "isis"),
    (RouteProtocol(188), "ospf"),
    (RouteProtocol(189), "rip"),
];

/// The name of a protocol, or its number.
pub fn protocol(protocol: RouteProtocol) -> String {
    let name = PROTOCOLS.iter().find(|(number, _)| *number == protocol);
    name.map_or_else(|| protocol.0.to_string(), |(_, name)| (*name).to_owned())
}

fn protocol_number(name: &str) -> RouteProtocol {
    let known = PROTOCOLS.iter().find(|(_, known)| *known == name).map(|(number, _)| *number);
    known.unwrap_or_else(|| RouteProtocol(name.parse().unwrap_or_default()))
}
