//! Who changes the FIB: prefix by prefix, route by route, while it is read.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use throughway_packet::PortId;
use throughway_vnf::{Prefix, Slot, Snapshot};

use super::Fib;
use super::grow::{Entry, Full};
use super::intern::Interner;
use super::rib::Family;
use super::routes::Routes;
use crate::route::Route;

/// More slots than these to be bumped count as a change of all routes.
const MOST_SLOTS: usize = 4096;

/// So many nodes wait before they are used again: some milliseconds of changes, in which a batch is looked up many times. In
/// tests few, so that they see memory used again.
const RETIRED: usize = if cfg!(debug_assertions) { 8 } else { 4096 };

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
        Limits { ipv4: 64 << 20, ipv6: 64 << 20, routes: 1 << 20 }
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
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// To this route. Prefixes that ask for equal ones share it.
    Route(Route),
    /// To a group that [`FibWriter::update_group`] has made.
    Group(GroupId),
}

impl From<Route> for Target {
    fn from(route: Route) -> Target {
        Target::Route(route)
    }
}

impl From<GroupId> for Target {
    fn from(group: GroupId) -> Target {
        Target::Group(group)
    }
}

/// The one who changes a [`Fib`].
///
/// Readers see each change at once, without being stopped. What the flow caches have to be told is collected:
/// [`FibWriter::take_changes`].
#[derive(Debug)]
pub struct FibWriter {
    fib: Arc<Fib>,
    routes: Interner,
    ipv4: Family<u32>,
    ipv6: Family<u128>,
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
        let (ipv4, ipv6) = (Family::new(limits.ipv4), Family::new(limits.ipv6));
        let fib = Fib {
            ipv4: Arc::clone(ipv4.trie.trie()),
            ipv6: Arc::clone(ipv6.trie.trie()),
            routes: routes.clone(),
            counts: Default::default(),
        };
        let routes = Interner::new(routes, limits.routes);
        FibWriter { fib: Arc::new(fib), routes, ipv4, ipv6, changes: HashSet::new() }
    }

    /// What readers read, for [`Tables`](crate::Tables): always the same one.
    pub fn fib(&self) -> &Arc<Fib> {
        &self.fib
    }

    /// Adds a prefix, or changes where it leads; says whether anything is different now.
    ///
    /// # Errors
    /// [`FibError::Full`], [`FibError::TooManyRoutes`], [`FibError::NoSuchGroup`].
    pub fn insert(&mut self, prefix: Prefix, target: impl Into<Target>) -> Result<bool, FibError> {
        let number = self.routes.acquire(target.into())?;
        // Before the trie leads to it.
        self.routes.publish();
        self.lead(prefix, number)
    }

    /// Lets a prefix lead to a route that was acquired for it.
    fn lead(&mut self, prefix: Prefix, number: u32) -> Result<bool, FibError> {
        let before = match self.try_lead(prefix, number) {
            Err(Full) if self.retired() > 0 => {
                self.recycle();
                self.try_lead(prefix, number)
            }
            result => result,
        };
        let Ok(before) = before else {
            self.routes.release(number);
            return Err(FibError::Full);
        };
        let changed = before != Some(number);
        if changed && prefix.len() == 0 {
            self.routes.set_default(family(&prefix), number);
        }
        if let Some(before) = before {
            self.routes.release(before);
        }
        if changed {
            self.changed(prefix);
        }
        Ok(changed)
    }

    fn try_lead(&mut self, prefix: Prefix, value: u32) -> Result<Option<u32>, Full> {
        let len = prefix.len();
        match prefix.address() {
            IpAddr::V4(address) => self.ipv4.insert(Entry { key: address.to_bits(), len, value }),
            IpAddr::V6(address) => self.ipv6.insert(Entry { key: address.to_bits(), len, value }),
        }
    }

    /// Takes a prefix out; says whether it was there. Where it lies beside one that led to the same, what is left of the two may
    /// need more memory than both: when there is none at all, it stays, and the answer is no.
    pub fn remove(&mut self, prefix: Prefix) -> bool {
        let len = prefix.len();
        let before = match self.try_remove(prefix) {
            Err(Full) if self.retired() > 0 => {
                self.recycle();
                self.try_remove(prefix)
            }
            result => result,
        };
        let Ok(Some(before)) = before else { return false };
        if len == 0 {
            self.routes.set_default(family(&prefix), 0);
        }
        self.routes.release(before);
        self.changed(prefix);
        true
    }

    fn try_remove(&mut self, prefix: Prefix) -> Result<Option<u32>, Full> {
        match prefix.address() {
            IpAddr::V4(address) => self.ipv4.remove(address.to_bits(), prefix.len()),
            IpAddr::V6(address) => self.ipv6.remove(address.to_bits(), prefix.len()),
        }
    }

    /// Makes the table hold `routes` and nothing else, by applying the differences: what stays is not touched, and no address
    /// is without its route meanwhile. Of several routes for the same prefix the last one holds. Groups stay. Returns how
    /// many prefixes came, went or lead elsewhere now.
    ///
    /// # Errors
    /// The first that occurred, which left a prefix out; everything else was done nevertheless.
    pub fn replace_all<T: Into<Target>>(
        &mut self,
        routes: impl IntoIterator<Item = (Prefix, T)>,
    ) -> Result<usize, FibError> {
        let mut first_error = None;
        let mut note = |error| first_error = first_error.or(Some(error));
        let mut wanted: Vec<(Prefix, u32)> = Vec::new();
        for (prefix, target) in routes {
            match self.routes.acquire(target.into()) {
                Ok(number) => wanted.push((prefix, number)),
                Err(error) => note(error),
            }
        }
        self.routes.publish();
        // Stable, so that equal prefixes stay in order. A prefix sorts before all that it contains.
        wanted.sort_by_key(|(prefix, _)| *prefix);
        wanted.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                self.routes.release(std::mem::replace(&mut kept.1, later.1));
            }
            same
        });
        if self.is_empty() {
            let left_out = self.build(&wanted);
            if left_out > 0 {
                note(FibError::Full);
            }
            return first_error.map_or(Ok(wanted.len() - left_out), Err);
        }
        let is_wanted = |prefix: &Prefix| wanted.binary_search_by_key(prefix, |(prefix, _)| *prefix).is_ok();
        let gone: Vec<Prefix> =
            self.numbers().map(|(prefix, _)| prefix).filter(|at| !is_wanted(at)).collect();
        let mut changed = 0;
        for (prefix, number) in wanted {
            match self.lead(prefix, number) {
                Ok(different) => changed += usize::from(different),
                Err(error) => note(error),
            }
        }
        changed += gone.into_iter().filter(|prefix| self.remove(*prefix)).count();
        first_error.map_or(Ok(changed), Err)
    }

    /// Fills the empty table; how many prefixes there was no room for.
    fn build(&mut self, wanted: &[(Prefix, u32)]) -> usize {
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for &(prefix, value) in wanted {
            let len = prefix.len();
            match prefix.address() {
                IpAddr::V4(address) => ipv4.push(Entry { key: address.to_bits(), len, value }),
                IpAddr::V6(address) => ipv6.push(Entry { key: address.to_bits(), len, value }),
            }
        }
        let ipv4 = self.ipv4.build(&ipv4);
        let ipv6 = self.ipv6.build(&ipv6);
        let left_out = ipv4.iter().map(|entry| entry.value).chain(ipv6.iter().map(|entry| entry.value));
        let left_out: Vec<u32> = left_out.collect();
        for number in &left_out {
            self.routes.release(*number);
        }
        for family in [IPV4, IPV6] {
            self.routes.set_default(family, self.default_route(family).unwrap_or(0));
        }
        for &(prefix, _) in wanted {
            self.changed(prefix);
        }
        left_out.len()
    }

    fn default_route(&self, family: usize) -> Option<u32> {
        if family == IPV4 { self.ipv4.rib.get(0, 0) } else { self.ipv6.rib.get(0, 0) }
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
            IpAddr::V4(address) => self.ipv4.rib.get(address.to_bits(), prefix.len()),
            IpAddr::V6(address) => self.ipv6.rib.get(address.to_bits(), prefix.len()),
        }?;
        self.routes.wanted(number)
    }

    /// All prefixes with their routes as they were asked for, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, &Route)> {
        self.numbers().filter_map(|(prefix, number)| Some((prefix, self.routes.wanted(number)?)))
    }

    fn numbers(&self) -> impl Iterator<Item = (Prefix, u32)> {
        let ipv4 =
            self.ipv4.rib.iter().map(|(key, len, route)| (Ipv4Addr::from_bits(key).into(), len, route));
        let ipv6 =
            self.ipv6.rib.iter().map(|(key, len, route)| (Ipv6Addr::from_bits(key).into(), len, route));
        // No length is above what the family has.
        ipv4.chain(ipv6)
            .filter_map(|(address, len, number)| Some((Prefix::containing(address, len).ok()?, number)))
    }

    /// How many prefixes there are.
    pub fn len(&self) -> usize {
        self.ipv4.rib.len() + self.ipv6.rib.len()
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
        self.ipv4.rib.memory() + self.ipv6.rib.memory()
    }

    /// How many nodes wait to be used again.
    fn retired(&self) -> usize {
        self.ipv4.trie.retired() + self.ipv6.trie.retired()
    }

    /// Uses again what was retired; batches that are looked up just now are looked up once more.
    fn recycle(&mut self) {
        self.routes.recycle();
        self.ipv4.trie.recycle();
        self.ipv6.trie.recycle();
    }

    fn changed(&mut self, prefix: Prefix) {
        if self.retired() >= RETIRED {
            self.recycle();
        }
        self.fib.count(self.ipv4.rib.len(), self.ipv6.rib.len());
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
