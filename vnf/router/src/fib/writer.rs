//! Who changes the FIB: prefix by prefix, route by route, while it is read.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use throughway_packet::PortId;
use throughway_vnf::{Prefix, Slot, Snapshot};

use super::Fib;
use super::intern::Interner;
use super::rib::Rib;
use super::routes::Routes;
use super::trie::Trie;
use crate::route::Route;

/// More slots than these to be bumped count as a change of all routes.
const MOST_SLOTS: usize = 4096;

const IPV4: usize = 0;
const IPV6: usize = 1;

/// How much a FIB holds at most.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes for the nodes of the IPv4 trie. Address space that is reserved; memory is taken as it is used.
    pub ipv4: usize,
    /// Bytes for the nodes of the IPv6 trie, likewise.
    pub ipv6: usize,
    /// Different routes (sets of next hops) and groups, together.
    pub routes: usize,
}

impl Default for Limits {
    /// Several times what a full table of the Internet of 2026 takes.
    fn default() -> Self {
        Limits { ipv4: 256 << 20, ipv6: 256 << 20, routes: 1 << 20 }
    }
}

/// Why a change was refused. The table is as it was before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FibError {
    /// [`Limits::ipv4`] or [`Limits::ipv6`].
    #[error("the FIB has no memory left for another prefix of this family")]
    Full,
    /// [`Limits::routes`].
    #[error("the FIB has no room for another set of next hops")]
    TooManyRoutes,
    /// No group has this identifier.
    #[error("no such group of next hops")]
    NoSuchGroup,
    /// Prefixes lead to the group.
    #[error("the group of next hops is in use")]
    GroupInUse,
}

/// The identifier of a group of next hops that is changed as one, given by the caller (such as that of a nexthop object of
/// the kernel).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct GroupId(pub u32);

/// Where a prefix shall lead.
enum Target {
    Route(Route),
    Group(GroupId),
}

/// The one who changes a [`Fib`].
///
/// Readers see each change at once, without being stopped. What the flow caches have to be told is collected:
/// [`FibWriter::take_changes`].
#[derive(Debug)]
pub struct FibWriter {
    fib: Arc<Fib>,
    routes: Interner,
    ipv4: Rib<u32>,
    ipv6: Rib<u128>,
    changes: HashSet<Slot>,
}

impl Default for FibWriter {
    fn default() -> Self {
        FibWriter::new(Limits::default())
    }
}

impl FibWriter {
    /// An empty FIB.
    pub fn new(limits: Limits) -> FibWriter {
        let routes = Snapshot::new(Routes::default());
        let fib = Fib {
            ipv4: Arc::new(Trie::default()),
            ipv6: Arc::new(Trie::default()),
            routes: routes.clone(),
            counts: Default::default(),
        };
        FibWriter {
            fib: Arc::new(fib),
            routes: Interner::new(routes, limits.routes),
            ipv4: Rib::default(),
            ipv6: Rib::default(),
            changes: HashSet::new(),
        }
    }

    /// What readers read, for [`Tables`](crate::Tables): always the same one.
    pub fn fib(&self) -> &Arc<Fib> {
        &self.fib
    }

    /// Adds a prefix, or changes where it leads; says whether anything is different now.
    ///
    /// # Errors
    /// [`FibError::Full`], [`FibError::TooManyRoutes`].
    pub fn insert(&mut self, prefix: Prefix, route: Route) -> Result<bool, FibError> {
        self.lead(prefix, Target::Route(route))
    }

    /// As [`FibWriter::insert`], with a route that [`FibWriter::update_group`] changes for all prefixes at once.
    ///
    /// # Errors
    /// [`FibError::NoSuchGroup`], [`FibError::Full`].
    pub fn insert_via(&mut self, prefix: Prefix, group: GroupId) -> Result<bool, FibError> {
        self.lead(prefix, Target::Group(group))
    }

    fn lead(&mut self, prefix: Prefix, target: Target) -> Result<bool, FibError> {
        let number = match target {
            Target::Route(route) => self.routes.acquire(route)?,
            Target::Group(group) => self.routes.acquire_group(group)?,
        };
        // Before the trie leads to it.
        self.routes.publish();
        let len = prefix.len();
        let before = match prefix.address() {
            IpAddr::V4(address) => {
                let key = address.to_bits();
                if len > 0 {
                    self.fib.ipv4.insert(key, len, number);
                }
                self.ipv4.insert(key, len, number)
            }
            IpAddr::V6(address) => {
                let key = address.to_bits();
                if len > 0 {
                    self.fib.ipv6.insert(key, len, number);
                }
                self.ipv6.insert(key, len, number)
            }
        };
        if len == 0 && before != Some(number) {
            self.routes.set_default(family(&prefix), number);
        }
        if let Some(before) = before {
            self.routes.release(before);
        }
        let changed = before != Some(number);
        if changed {
            self.changed(prefix);
        }
        Ok(changed)
    }

    /// Takes a prefix out; says whether it was there.
    pub fn remove(&mut self, prefix: Prefix) -> bool {
        let len = prefix.len();
        let before = match prefix.address() {
            IpAddr::V4(address) => {
                let key = address.to_bits();
                self.fib.ipv4.remove(key, len);
                self.ipv4.remove(key, len)
            }
            IpAddr::V6(address) => {
                let key = address.to_bits();
                self.fib.ipv6.remove(key, len);
                self.ipv6.remove(key, len)
            }
        };
        let Some(before) = before else { return false };
        if len == 0 {
            self.routes.set_default(family(&prefix), 0);
        }
        self.routes.release(before);
        self.changed(prefix);
        true
    }

    /// Makes the table hold `routes` and nothing else, by applying the differences: what stays is not touched, and no address
    /// is without its route meanwhile. Of several routes for the same prefix the last one holds. Returns how many prefixes
    /// came, went or lead elsewhere now. Groups stay.
    ///
    /// # Errors
    /// The first that occurred; the others were applied nevertheless.
    pub fn replace_all(
        &mut self,
        routes: impl IntoIterator<Item = (Prefix, Route)>,
    ) -> Result<usize, FibError> {
        let wanted: HashMap<Prefix, Route> = routes.into_iter().collect();
        let gone: Vec<Prefix> =
            self.iter().map(|(prefix, _)| prefix).filter(|prefix| !wanted.contains_key(prefix)).collect();
        let (mut changed, mut first_error) = (0, None);
        for (prefix, route) in wanted {
            match self.insert(prefix, route) {
                Ok(different) => changed += usize::from(different),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        changed += gone.iter().filter(|prefix| self.remove(**prefix)).count();
        first_error.map_or(Ok(changed), Err)
    }

    /// Makes a group of next hops, or changes it for all prefixes that lead to it, without touching these. Says whether
    /// any prefix is concerned.
    ///
    /// # Errors
    /// [`FibError::TooManyRoutes`].
    pub fn update_group(&mut self, group: GroupId, route: Route) -> Result<bool, FibError> {
        let concerned = self.routes.update_group(group, route)?;
        if concerned {
            self.note([Slot::ROUTES]);
        }
        Ok(concerned)
    }

    /// Forgets a group.
    ///
    /// # Errors
    /// [`FibError::NoSuchGroup`], [`FibError::GroupInUse`].
    pub fn remove_group(&mut self, group: GroupId) -> Result<(), FibError> {
        self.routes.remove_group(group)
    }

    /// Says that a port has lost its link, or has it again: its next hops are left out of all routes that have others, or
    /// taken in again, for all prefixes at once. A route whose next hops are all lost keeps them. Holds for routes added
    /// later, too. Returns how many different routes have changed.
    pub fn port_lost(&mut self, port: PortId, lost: bool) -> usize {
        let changed = self.routes.port_lost(port, lost);
        self.note((changed > 0).then_some(Slot::ROUTES));
        changed
    }

    /// As [`FibWriter::port_lost`], for one gateway behind a port (BFD, neighbours that do not answer).
    pub fn gateway_lost(&mut self, port: PortId, gateway: IpAddr, lost: bool) -> usize {
        let changed = self.routes.neighbour_lost(port, gateway, lost);
        self.note((changed > 0).then_some(Slot::ROUTES));
        changed
    }

    /// What has changed since the last call, for [`Generations::bump`](throughway_vnf::Generations::bump), which has to
    /// come after the changes: they are in effect already. Empty: nothing.
    pub fn take_changes(&mut self) -> Vec<Slot> {
        self.changes.drain().collect()
    }

    /// The route of exactly this prefix, as it was asked for: with next hops that are lost.
    pub fn get(&self, prefix: Prefix) -> Option<&Route> {
        let number = match prefix.address() {
            IpAddr::V4(address) => self.ipv4.get(address.to_bits(), prefix.len()),
            IpAddr::V6(address) => self.ipv6.get(address.to_bits(), prefix.len()),
        }?;
        self.routes.wanted(number)
    }

    /// All prefixes with their routes as they were asked for, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, &Route)> {
        let ipv4 = self.ipv4.iter().map(|(key, len, route)| (Ipv4Addr::from_bits(key).into(), len, route));
        let ipv6 = self.ipv6.iter().map(|(key, len, route)| (Ipv6Addr::from_bits(key).into(), len, route));
        ipv4.chain(ipv6).filter_map(|(address, len, number)| {
            Some((Prefix::containing(address, len).ok()?, self.routes.wanted(number)?))
        })
    }

    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.ipv4.len() + self.ipv6.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many different routes and groups there are.
    pub fn routes(&self) -> usize {
        self.routes.len()
    }

    /// The memory that the writer needs for itself, beside [`Fib::memory`], in bytes: the prefixes as they were added.
    pub fn memory(&self) -> usize {
        self.ipv4.memory() + self.ipv6.memory()
    }

    fn changed(&mut self, prefix: Prefix) {
        self.fib.count(self.ipv4.len(), self.ipv6.len());
        self.note(Slot::of_prefix(prefix.address(), prefix.len()));
    }

    fn note(&mut self, slots: impl IntoIterator<Item = Slot>) {
        if self.changes.contains(&Slot::ROUTES) {
            return;
        }
        self.changes.extend(slots);
        if self.changes.len() > MOST_SLOTS || self.changes.contains(&Slot::ROUTES) {
            self.changes.clear();
            self.changes.insert(Slot::ROUTES);
        }
    }
}

const fn family(prefix: &Prefix) -> usize {
    if prefix.address().is_ipv4() { IPV4 } else { IPV6 }
}
