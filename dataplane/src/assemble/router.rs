//! The router's tables, from the host's facts and the static routes of the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use throughway_config::{Router, Target};
use throughway_packet::PortId;
use throughway_router::{
    Fib, FibBuilder, InterfaceAddress, Mss, Neighbours, NextHop, NextHops, Options, Port, Ports, Route,
    Tables, Urpf,
};
use throughway_vnf::Prefix;

use crate::host::{HostFacts, NextHopFacts, RouteFacts, RouteKind};

/// Builds a router's tables. What did not change is taken over from `fib`, if it is given.
pub fn tables(facts: &HostFacts, config: &Router, fib: Option<Arc<Fib>>) -> Tables {
    let ports = Arc::new(ports(facts));
    let fib = fib.unwrap_or_else(|| Arc::new(build_fib(facts, config, &ports)));
    let neighbours =
        facts.neighbours.iter().map(|neighbour| (PortId(neighbour.port), neighbour.address, neighbour.mac));
    Tables { ports, neighbours: Arc::new(neighbours.collect::<Neighbours>()), fib }
}

/// What a router does beside routing.
pub fn options(config: &Router) -> Options {
    let urpf = match config.urpf {
        throughway_config::Urpf::Off => Urpf::Off,
        throughway_config::Urpf::Loose => Urpf::Loose,
        throughway_config::Urpf::Strict => Urpf::Strict,
    };
    let mss = match config.mss {
        throughway_config::Mss::Off => Mss::Keep,
        throughway_config::Mss::Auto => Mss::Links,
        throughway_config::Mss::Bytes(bytes) => Mss::Bytes(bytes),
    };
    Options { urpf, mss }
}

fn ports(facts: &HostFacts) -> Ports {
    let ports = facts.ports.iter().map(|port| Port {
        mac: port.mac,
        mtu: port.mtu,
        up: port.up,
        addresses: port
            .addresses
            .iter()
            .filter_map(|(own, len)| InterfaceAddress::new(*own, *len).ok())
            .collect(),
    });
    Ports::new(ports.collect())
}

/// One line of the table before it is built: which route wins for its prefix.
struct Candidate {
    metric: u32,
    route: Route,
}

fn build_fib(facts: &HostFacts, config: &Router, ports: &Ports) -> Fib {
    let mut best: BTreeMap<Prefix, Candidate> = BTreeMap::new();
    let mut offer = |prefix: Prefix, metric: u32, route: Route| match best.get(&prefix) {
        Some(known) if known.metric <= metric => {}
        _ => {
            best.insert(prefix, Candidate { metric, route });
        }
    };
    // The configuration's routes come first: at the same metric, what the operator wrote here wins.
    for route in &config.routes {
        match static_route(facts, &route.target) {
            Some(target) => offer(route.prefix.get(), route.metric, target),
            None => {
                tracing::warn!(prefix = %route.prefix, "the gateway of a static route is on no link of ours; the route is left out")
            }
        }
    }
    if config.kernel_routes {
        let table = facts.routes.iter().filter(|route| route.table == config.table.0);
        // A route that has lost its last next hop is none: the next metric, or a shorter prefix, gets its turn.
        for route in table.filter(|route| route.kind != RouteKind::Unicast || !route.next_hops.is_empty()) {
            if let Ok(prefix) = Prefix::new(route.prefix.0, route.prefix.1) {
                offer(prefix, route.metric, kernel_route(route));
            }
        }
    }

    let mut builder = FibBuilder::new();
    // Later insertions of the same prefix win: connected prefixes yield to routes, the host's own addresses to nothing.
    let connected = ports.connected_routes();
    for (prefix, route) in connected.iter().filter(|(_, route)| matches!(route, Route::Forward(_))) {
        builder.insert(*prefix, route.clone());
    }
    for (prefix, candidate) in best {
        builder.insert(prefix, candidate.route);
    }
    for (prefix, route) in connected.into_iter().filter(|(_, route)| !matches!(route, Route::Forward(_))) {
        builder.insert(prefix, route);
    }
    for address in &facts.local {
        builder.insert(Prefix::host(*address), Route::Local);
    }
    builder.build()
}

fn static_route(facts: &HostFacts, target: &Target) -> Option<Route> {
    match target {
        Target::Via { gateway, interface } => {
            let port = match interface {
                Some(interface) => interface.index() as u16,
                None => facts.port_on_link(*gateway)?,
            };
            Some(Route::via(NextHop::gateway(PortId(port), *gateway)))
        }
        Target::Interface(interface) => Some(Route::via(NextHop::on_link(PortId(interface.index() as u16)))),
        Target::Blackhole => Some(Route::Blackhole),
        Target::Unreachable => Some(Route::Unreachable),
        Target::Prohibit => Some(Route::Prohibit),
    }
}

fn kernel_route(route: &RouteFacts) -> Route {
    match route.kind {
        RouteKind::Blackhole => Route::Blackhole,
        RouteKind::Unreachable => Route::Unreachable,
        RouteKind::Prohibit => Route::Prohibit,
        RouteKind::Throw => Route::Throw,
        RouteKind::Unicast => {
            let ours = route.next_hops.iter().filter_map(next_hop);
            NextHops::new(ours).map_or(Route::NotOurs, Route::Forward)
        }
    }
}

fn next_hop(hop: &NextHopFacts) -> Option<NextHop> {
    let port = PortId(hop.port?);
    let to = match hop.gateway {
        Some(gateway) => NextHop::gateway(port, gateway),
        None => NextHop::on_link(port),
    };
    Some(to.weighted(hop.weight))
}
