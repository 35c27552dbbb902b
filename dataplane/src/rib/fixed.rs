//! The candidates that do not come from the kernel's table: static routes, connected prefixes, the host's own addresses.

use std::collections::{BTreeSet, HashMap};

use throughway_config::{Router as Config, Target};
use throughway_packet::PortId;
use throughway_router::{NextHop, Route};
use throughway_vnf::Prefix;

use crate::assemble::router;
use crate::host::HostFacts;

/// What the configuration and the addresses say of one prefix.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Entry {
    /// One of the host's own addresses, or a directed broadcast address: nothing comes before it.
    pub own: Option<Route>,
    /// Static routes by metric. `None` is one whose gateway is on no link of ours.
    pub statics: Vec<Static>,
    /// The prefix of an address of a port.
    pub connected: Option<Route>,
}

/// A static route.
#[derive(Clone, PartialEq, Debug)]
pub struct Static {
    /// Its position among the configuration's routes, from zero.
    pub position: usize,
    /// Its metric.
    pub metric: u32,
    /// Where it leads; `None` when its gateway is on no link of ours.
    pub route: Option<Route>,
}

/// The fixed candidates by prefix.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Fixed(HashMap<Prefix, Entry>);

impl Fixed {
    /// What follows from a configuration on a host.
    pub fn new(config: &Config, host: &HostFacts) -> Self {
        let mut entries: HashMap<Prefix, Entry> = HashMap::new();
        for (prefix, route) in router::ports(host, config).connected_routes() {
            let entry = entries.entry(prefix).or_default();
            match route {
                // Of several ports with one prefix the last, as the kernel's table has no say here.
                Route::Forward(_) => entry.connected = Some(route),
                // An own address comes after a broadcast address, and wins.
                route => entry.own = Some(route),
            }
        }
        for address in &host.local {
            entries.entry(Prefix::host(*address)).or_default().own = Some(Route::Local);
        }
        for (position, route) in config.routes.iter().enumerate() {
            let target = static_route(host, &route.target);
            if target.is_none() {
                tracing::warn!(prefix = %route.prefix, "the gateway of a static route is on no link of ours; the route is left out");
            }
            let statics = &mut entries.entry(route.prefix.get()).or_default().statics;
            statics.push(Static { position, metric: route.metric, route: target });
            statics.sort_by_key(|route| route.metric);
        }
        Fixed(entries)
    }

    /// What is known of a prefix.
    pub fn get(&self, prefix: Prefix) -> Option<&Entry> {
        self.0.get(&prefix)
    }

    /// All prefixes.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        self.0.keys().copied()
    }

    /// The prefixes of which the two do not say the same.
    pub fn difference(&self, other: &Fixed) -> BTreeSet<Prefix> {
        let all = self.prefixes().chain(other.prefixes());
        all.filter(|prefix| self.get(*prefix) != other.get(*prefix)).collect()
    }
}

fn static_route(host: &HostFacts, target: &Target) -> Option<Route> {
    match target {
        Target::Via { gateway, interface } => {
            let port = match interface {
                Some(interface) => interface.index() as u16,
                None => host.port_on_link(*gateway)?,
            };
            Some(Route::via(NextHop::gateway(PortId(port), *gateway)))
        }
        Target::Interface(interface) => Some(Route::via(NextHop::on_link(PortId(interface.index() as u16)))),
        Target::Blackhole => Some(Route::Blackhole),
        Target::Unreachable => Some(Route::Unreachable),
        Target::Prohibit => Some(Route::Prohibit),
    }
}
