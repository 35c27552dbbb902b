//! The routing information base of one router: from all that is known of a prefix to the one route of its forwarding table.
//!
//! It keeps no copy of the kernel's routes. What the best route of a prefix is follows from the mirror's table, the
//! configuration and the ports' addresses whenever one of them changes, for that prefix alone:
//!
//! * [`ports`]: which of the kernel's devices are ours, and whether they can send.
//! * [`candidate`]: all candidates of a prefix in their order, and why each but the first is not used.
//! * [`fixed`]: the candidates that do not come from the kernel's table.
//! * [`facts`]: the kernel's table as plain facts and back, for `show host` and `replay`.

pub mod candidate;
pub mod facts;
pub mod fixed;
pub mod ports;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use throughway_config::Router as Config;
use throughway_kernel::Routes;
use throughway_kernel::model;
use throughway_packet::PortId;
use throughway_router::fib::writer::{FibError, FibWriter, GroupId};
use throughway_router::{Fib, Route};
use throughway_vnf::{Prefix, Slot};

use crate::host::HostFacts;
use candidate::{Candidate, candidates};
use fixed::Fixed;
pub use ports::PortMap;

/// What all routers look at: the kernel's routes, and which devices are ours.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a> {
    /// The routes of all tables.
    pub routes: &'a Routes,
    /// Our ports.
    pub ports: &'a PortMap,
}

/// What a router's table has been through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RibStats {
    /// Prefixes that were looked at since something of them had changed.
    pub updates: u64,
    /// Of these, those whose route in the forwarding table became another.
    pub changed: u64,
    /// Routes that did not fit into the forwarding table.
    pub refused: u64,
    /// Times the whole table was made anew.
    pub rebuilds: u64,
}

/// The control side of one router's forwarding table: the only one who changes it.
#[derive(Debug)]
pub struct Rib {
    config: Config,
    fixed: Fixed,
    writer: FibWriter,
    /// The kernel's nexthop objects that prefixes lead to, and what they stand for now.
    groups: BTreeMap<u32, Route>,
    stats: RibStats,
}

impl Rib {
    /// A table made of everything known now.
    pub fn new(config: &Config, host: &HostFacts, kernel: Kernel<'_>) -> Self {
        let mut writer = FibWriter::default();
        for port in 0..host.ports.len() {
            let port = PortId(port as u16);
            writer.port_lost(port, !kernel.ports.is_up(port));
        }
        let fixed = Fixed::new(config, host);
        let stats = RibStats::default();
        let mut rib = Rib { config: config.clone(), fixed, writer, groups: BTreeMap::new(), stats };
        rib.update_all(kernel);
        rib.writer.take_changes();
        rib
    }

    /// The forwarding table, which changes while it is read.
    pub fn fib(&self) -> &Arc<Fib> {
        self.writer.fib()
    }

    /// The configuration it was made for.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Counters.
    pub fn stats(&self) -> RibStats {
        self.stats
    }

    /// The prefixes of which the configuration or the ports' addresses say something.
    pub fn fixed_prefixes(&self) -> impl Iterator<Item = Prefix> {
        self.fixed.prefixes()
    }

    /// The kernel's table that it follows.
    pub fn table(&self) -> Option<u32> {
        self.config.kernel_routes.then_some(self.config.table.0)
    }

    /// All candidates of a prefix in their order: the first one that can send is used, and the first of all when none can.
    pub fn candidates<'a>(
        &'a self,
        kernel: Kernel<'a>,
        prefix: Prefix,
    ) -> impl Iterator<Item = Candidate<'a>> {
        candidates(&self.fixed, self.table(), kernel, prefix)
    }

    /// The route of a prefix.
    pub fn best(&self, kernel: Kernel<'_>, prefix: Prefix) -> Option<Route> {
        candidate::best(self.candidates(kernel, prefix)).map(|best| best.route)
    }

    /// Prefixes of which something is known, from `from` on in the order of the kernel's table; those that the kernel does
    /// not have come first.
    pub fn prefixes<'a>(&'a self, kernel: Kernel<'a>) -> impl Iterator<Item = Prefix> {
        let table = self.table();
        let known = table.into_iter().flat_map(move |table| {
            let slots = kernel.routes.of_table_from(table, model::Prefix::DEFAULT_V4);
            let mut last = None;
            slots.filter_map(move |(key, _)| {
                let first = last.replace(key.prefix) != Some(key.prefix);
                first.then(|| Prefix::new(key.prefix.address, key.prefix.len).ok()).flatten()
            })
        });
        let own = self.fixed.prefixes().filter(move |prefix| {
            table.is_none_or(|table| kernel.routes.of_prefix(table, model_prefix(*prefix)).next().is_none())
        });
        own.chain(known)
    }

    /// Brings every prefix up to date.
    pub fn update_all(&mut self, kernel: Kernel<'_>) {
        self.stats.rebuilds += 1;
        let gone: Vec<_> = self.writer.iter().map(|(prefix, _)| prefix).collect();
        let gone: Vec<_> =
            gone.into_iter().filter(|prefix| self.candidates(kernel, *prefix).next().is_none()).collect();
        let prefixes: Vec<_> = self.prefixes(kernel).collect();
        self.update(kernel, prefixes.into_iter().chain(gone));
    }

    /// Brings the routes of `prefixes` up to date.
    pub fn update(&mut self, kernel: Kernel<'_>, prefixes: impl IntoIterator<Item = Prefix>) {
        for prefix in prefixes {
            self.stats.updates += 1;
            let best = candidate::best(candidates(&self.fixed, self.table(), kernel, prefix));
            let best = best.map(|best| (best.nexthop_id(), best.route));
            let result = match best {
                None => Ok(self.writer.remove(prefix)),
                Some((Some(id), route)) => self.lead_via(prefix, id, route),
                Some((None, route)) => self.writer.insert(prefix, route),
            };
            match result {
                Ok(changed) => self.stats.changed += u64::from(changed),
                Err(error) => self.refused(error),
            }
        }
    }

    /// Leads a prefix to a nexthop object, so that a change of the object is one change.
    fn lead_via(&mut self, prefix: Prefix, id: u32, route: Route) -> Result<bool, FibError> {
        if self.groups.get(&id) != Some(&route) {
            self.writer.update_group(GroupId(id), route.clone())?;
            self.groups.insert(id, route);
        }
        self.writer.insert(prefix, GroupId(id))
    }

    /// Nexthop objects have changed: `now` says what each stands for, of those that are still there.
    pub fn update_groups(&mut self, now: impl Fn(u32) -> Option<Route>) {
        let ids: Vec<u32> = self.groups.keys().copied().collect();
        for id in ids {
            match now(id) {
                Some(route) if self.groups.get(&id) == Some(&route) => {}
                Some(route) => match self.writer.update_group(GroupId(id), route.clone()) {
                    Ok(_) => {
                        self.groups.insert(id, route);
                    }
                    Err(error) => self.refused(error),
                },
                // Prefixes may lead to it until the kernel's word that their routes are gone, too, has come.
                None => {
                    if self.writer.remove_group(GroupId(id)).is_ok() {
                        self.groups.remove(&id);
                    }
                }
            }
        }
    }

    /// A port has lost its link, or has it again: its next hops go out of use, or into it, for all prefixes at once.
    pub fn port_lost(&mut self, port: PortId, lost: bool) {
        self.writer.port_lost(port, lost);
    }

    /// The ports' addresses or the host's own ones have changed: brings what follows from them up to date.
    pub fn host_changed(&mut self, host: &HostFacts, kernel: Kernel<'_>) {
        let fixed = Fixed::new(&self.config, host);
        let prefixes = self.fixed.difference(&fixed);
        self.fixed = fixed;
        self.update(kernel, prefixes);
    }

    /// Brings the prefixes with several candidates up to date: whose route depends on which of them can send.
    pub fn update_contested(&mut self, kernel: Kernel<'_>) {
        let table = self.table().into_iter();
        let slots = table.flat_map(|table| kernel.routes.of_table_from(table, model::Prefix::DEFAULT_V4));
        let mut last = None;
        let several = slots.filter_map(|(key, _)| {
            let again = last.replace(key.prefix) == Some(key.prefix);
            again.then(|| Prefix::new(key.prefix.address, key.prefix.len).ok()).flatten()
        });
        let prefixes: Vec<_> = several.chain(self.fixed.prefixes()).collect();
        self.update(kernel, prefixes);
    }

    /// What the flow caches have to be told since the last call: everything is in effect already.
    pub fn take_changes(&mut self) -> Vec<Slot> {
        self.writer.take_changes()
    }

    /// The memory of this side of the table, in bytes; what packets walk through comes on top.
    pub fn memory(&self) -> usize {
        self.writer.memory()
    }

    fn refused(&mut self, error: FibError) {
        if self.stats.refused == 0 {
            tracing::error!(%error, "a route does not fit into the forwarding table");
        }
        self.stats.refused += 1;
    }
}

/// A prefix as the kernel crate has it.
pub fn model_prefix(prefix: Prefix) -> model::Prefix {
    model::Prefix { address: prefix.address(), len: prefix.len() }
}
