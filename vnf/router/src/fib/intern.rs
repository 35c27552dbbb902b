//! The writer's side of the routes: equal ones share a number, numbers are counted and used again, next hops that are
//! gone are left out of all routes at once.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use throughway_packet::PortId;
use throughway_vnf::Snapshot;

use super::routes::{DEFAULTS, Routes};
use super::writer::{FibError, GroupId, Target};
use crate::route::{NextHop, Route};

/// So many numbers wait before they are used again: a batch that is looked up meanwhile has to be looked up again. In
/// tests few, so that they see it.
const RETIRED: usize = if cfg!(debug_assertions) { 8 } else { 1024 };

/// What one number stands for.
#[derive(Debug)]
struct Cell {
    state: State,
    /// As it was asked for, with all next hops.
    wanted: Arc<Route>,
    /// How many prefixes lead to it.
    users: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Stands for nothing, or not any more.
    Unused,
    /// A route that prefixes share because they asked for the same.
    Shared,
    /// A group, which stays until it is forgotten.
    Group,
}

/// What became unreachable.
#[derive(Debug, Default)]
struct Lost {
    ports: HashSet<PortId>,
    neighbours: HashSet<(PortId, IpAddr)>,
}

impl Lost {
    fn has(&self, hop: &NextHop) -> bool {
        self.ports.contains(&hop.port)
            || hop.gateway.is_some_and(|gateway| self.neighbours.contains(&(hop.port, gateway)))
    }

    /// What is used instead of `wanted`: the same without what is lost, unless nothing would be left.
    fn without(&self, wanted: &Arc<Route>) -> Arc<Route> {
        match &**wanted {
            Route::Forward(hops) if hops.iter().any(|hop| self.has(hop)) => {
                let left = hops.filtered(|hop| !self.has(hop));
                left.map_or_else(|| Arc::clone(wanted), |left| Arc::new(Route::Forward(left)))
            }
            _ => Arc::clone(wanted),
        }
    }
}

#[derive(Debug)]
pub(super) struct Interner {
    published: Snapshot<Routes>,
    routes: Routes,
    /// Whether `routes` is newer than what is published.
    dirty: bool,
    known: HashMap<Arc<Route>, u32>,
    groups: HashMap<GroupId, u32>,
    cells: Vec<Cell>,
    free: Vec<u32>,
    /// Not used any more, but a reader may be about to ask for them.
    retired: Vec<u32>,
    lost: Lost,
    most: usize,
}

impl Interner {
    pub(super) fn new(published: Snapshot<Routes>, most: usize) -> Interner {
        let nothing = Arc::new(Route::Throw);
        let reserved = || Cell { state: State::Unused, wanted: Arc::clone(&nothing), users: 0 };
        Interner {
            routes: Routes::clone(&published.read()),
            published,
            dirty: false,
            known: HashMap::new(),
            groups: HashMap::new(),
            cells: (0..DEFAULTS).map(|_| reserved()).collect(),
            free: Vec::new(),
            retired: Vec::new(),
            lost: Lost::default(),
            // What a word of a trie can hold.
            most: most.min(1 << 25).saturating_add(DEFAULTS),
        }
    }

    /// The number of what `target` says, for one more prefix. Not published yet.
    pub(super) fn acquire(&mut self, target: Target) -> Result<u32, FibError> {
        let number = match target {
            Target::Route(route) => match self.known.get(&route) {
                Some(&number) => number,
                None => {
                    let route = Arc::new(route);
                    let number = self.add(Arc::clone(&route), State::Shared)?;
                    self.known.insert(route, number);
                    number
                }
            },
            Target::Group(group) => *self.groups.get(&group).ok_or(FibError::NoSuchGroup)?,
        };
        if let Some(cell) = self.cells.get_mut(number as usize) {
            cell.users += 1;
        }
        Ok(number)
    }

    fn add(&mut self, wanted: Arc<Route>, state: State) -> Result<u32, FibError> {
        let number = self.vacant()?;
        self.routes.set(number, self.lost.without(&wanted));
        self.dirty = true;
        let cell = Cell { state, wanted, users: 0 };
        match self.cells.get_mut(number as usize) {
            Some(known) => *known = cell,
            None => self.cells.push(cell),
        }
        Ok(number)
    }

    fn vacant(&mut self) -> Result<u32, FibError> {
        let full = self.cells.len() >= self.most;
        if self.free.is_empty() && (self.retired.len() >= RETIRED || full) {
            self.recycle();
        }
        match self.free.pop() {
            Some(number) => Ok(number),
            None if full => Err(FibError::TooManyRoutes),
            None => Ok(self.cells.len() as u32),
        }
    }

    /// Readers that started before do not take what they find for an answer: what was retired may be used again.
    pub(super) fn recycle(&mut self) {
        self.free.append(&mut self.retired);
        self.routes.next_epoch();
        self.dirty = true;
        self.publish();
    }

    /// One prefix less leads there. No reader must be able to find the number any more, but for those under way.
    pub(super) fn release(&mut self, number: u32) {
        let Some(cell) = self.cells.get_mut(number as usize) else { return };
        cell.users = cell.users.saturating_sub(1);
        if cell.users == 0 && cell.state == State::Shared {
            cell.state = State::Unused;
            self.known.remove(&cell.wanted);
            self.retired.push(number);
        }
    }

    /// Makes a group or changes it, for all prefixes that lead to it; says whether there are any.
    pub(super) fn update_group(&mut self, group: GroupId, route: Route) -> Result<bool, FibError> {
        let route = Arc::new(route);
        let Some(&number) = self.groups.get(&group) else {
            let number = self.add(route, State::Group)?;
            self.groups.insert(group, number);
            return Ok(false);
        };
        let Some(cell) = self.cells.get_mut(number as usize).filter(|cell| cell.wanted != route) else {
            return Ok(false);
        };
        cell.wanted = Arc::clone(&route);
        let used = cell.users != 0;
        self.routes.set(number, self.lost.without(&route));
        self.routes.next_epoch();
        self.dirty = true;
        self.publish();
        Ok(used)
    }

    /// Forgets a group that no prefix leads to.
    pub(super) fn remove_group(&mut self, group: GroupId) -> Result<(), FibError> {
        let number = *self.groups.get(&group).ok_or(FibError::NoSuchGroup)?;
        match self.cells.get_mut(number as usize) {
            Some(cell) if cell.users == 0 => cell.state = State::Unused,
            _ => return Err(FibError::GroupInUse),
        }
        self.groups.remove(&group);
        self.retired.push(number);
        Ok(())
    }

    pub(super) fn port_lost(&mut self, port: PortId, lost: bool) -> usize {
        let changed = if lost { self.lost.ports.insert(port) } else { self.lost.ports.remove(&port) };
        if changed { self.refresh(|hop| hop.port == port) } else { 0 }
    }

    pub(super) fn neighbour_lost(&mut self, port: PortId, address: IpAddr, lost: bool) -> usize {
        let key = (port, address);
        let changed = if lost { self.lost.neighbours.insert(key) } else { self.lost.neighbours.remove(&key) };
        if changed { self.refresh(|hop| hop.port == port && hop.gateway == Some(address)) } else { 0 }
    }

    /// Chooses anew which next hops are used of all routes with one that `concerned` names; how many have changed.
    fn refresh(&mut self, concerned: impl Fn(&NextHop) -> bool) -> usize {
        let mut changed = 0;
        for (number, cell) in self.cells.iter().enumerate().filter(|(_, cell)| cell.state != State::Unused) {
            let Route::Forward(hops) = &*cell.wanted else { continue };
            if !hops.iter().any(&concerned) {
                continue;
            }
            let used = self.lost.without(&cell.wanted);
            if self.routes.get(number as u32) != Some(&*used) {
                self.routes.set(number as u32, used);
                changed += 1;
            }
        }
        if changed > 0 {
            self.routes.next_epoch();
            self.dirty = true;
            self.publish();
        }
        changed
    }

    /// Sets or takes away (0) the default route of a family.
    pub(super) fn set_default(&mut self, family: usize, number: u32) {
        self.routes.set_default(family, number);
        self.routes.next_epoch();
        self.dirty = true;
        self.publish();
    }

    /// Shows readers what has changed. To be called before a trie leads to a new number.
    pub(super) fn publish(&mut self) {
        if std::mem::take(&mut self.dirty) {
            self.published.publish(self.routes.clone());
        }
    }

    /// The route as it was asked for.
    pub(super) fn wanted(&self, number: u32) -> Option<&Route> {
        self.cells.get(number as usize).filter(|cell| cell.state != State::Unused).map(|cell| &*cell.wanted)
    }

    /// How many different routes and groups there are.
    pub(super) fn len(&self) -> usize {
        self.known.len() + self.groups.len()
    }
}
