//! The state and how notifications alter it.
//!
//! What a notification does to a routing slot depends on the family: IPv4 keeps a list in which a new route takes a place
//! (`fib_table_insert`), IPv6 merges gateway routes of one slot into one multipath route and announces it whole
//! (`fib6_add_rt2node`, `ip6_route_multipath_add`). Notifications of what a dump already showed may follow that dump, so
//! every step gives the same result when done twice.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::changes::{Changes, difference};
use crate::model::{IfIndex, NextHop, NexthopObject, Route, RouteKey, RouteKind, Routes, State};
use crate::socket::{NLM_F_APPEND, NLM_F_EXCL, NLM_F_REPLACE};

/// Address family of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn of(key: &RouteKey) -> Self {
        if key.prefix.address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// The notification cannot be told apart from what is known: only reading the family's routes anew helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Fit {
    Clear,
    Unclear,
}

/// The state with what helps to alter it.
#[derive(Debug, Default)]
pub(crate) struct Store {
    state: State,
    /// Number of routes by the nexthop object they refer to.
    users: HashMap<u32, usize>,
}

impl Store {
    pub(crate) fn new(state: State) -> Self {
        let mut users = HashMap::new();
        for id in state.routes.iter().flat_map(|(_, slot)| slot).filter_map(|route| route.nexthop_id) {
            *users.entry(id).or_default() += 1;
        }
        Self { state, users }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// Links, addresses, neighbours: the last word counts.
    pub(crate) fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    fn set_slot(&mut self, key: RouteKey, mut routes: Vec<Arc<Route>>, changes: &mut Changes) {
        if Family::of(&key) == Family::V6 {
            routes.sort_unstable();
        }
        let old = self.state.routes.get(&key).unwrap_or_default();
        if old == routes {
            return;
        }
        for id in old.iter().filter_map(|route| route.nexthop_id) {
            if let Some(count) = self.users.get_mut(&id) {
                *count = count.saturating_sub(1);
            }
        }
        for id in routes.iter().filter_map(|route| route.nexthop_id) {
            *self.users.entry(id).or_default() += 1;
        }
        changes.routes.insert(key);
        self.state.routes.set(key, routes);
    }

    /// The routes of a slot, to be altered and set again.
    fn slot(&self, key: &RouteKey) -> Vec<Arc<Route>> {
        self.state.routes.get(key).unwrap_or_default().to_vec()
    }

    /// `RTM_NEWROUTE` with the flags of its message.
    pub(crate) fn new_route(
        &mut self,
        key: RouteKey,
        mut route: Route,
        flags: u16,
        changes: &mut Changes,
    ) -> Fit {
        expand(&self.state.nexthops, &mut route);
        let (old, route) = (self.slot(&key), Arc::new(route));
        let placed = match Family::of(&key) {
            Family::V4 => Some(place_v4(old, route, flags)),
            Family::V6 => place_v6(old, route, flags),
        };
        match placed {
            Some(slot) => {
                self.set_slot(key, slot, changes);
                Fit::Clear
            }
            None => Fit::Unclear,
        }
    }

    /// `RTM_DELROUTE`.
    pub(crate) fn delete_route(&mut self, key: RouteKey, mut route: Route, changes: &mut Changes) -> Fit {
        expand(&self.state.nexthops, &mut route);
        // A slot that is not there was emptied by what the kernel does not announce and we have seen already.
        let Some(mut slot) = self.state.routes.get(&key).map(<[_]>::to_vec) else {
            return Fit::Clear;
        };
        if let Some(position) = slot.iter().position(|other| same_route(other, &route)) {
            slot.remove(position);
        } else if Family::of(&key) == Family::V6
            && let Some(group) = slot.iter_mut().find(|other| {
                other.nexthop_id == route.nexthop_id && other.kind == route.kind && within(&route, other)
            })
        {
            Arc::make_mut(group)
                .next_hops
                .retain(|hop| !route.next_hops.iter().any(|gone| gone.same_way(hop)));
        } else {
            return Fit::Unclear;
        }
        self.set_slot(key, slot, changes);
        Fit::Clear
    }

    /// Takes the routes of one family from a whole dump.
    pub(crate) fn replace_family(&mut self, family: Family, dump: &Routes, changes: &mut Changes) {
        let gone: Vec<RouteKey> = self
            .state
            .routes
            .keys()
            .filter(|key| Family::of(key) == family && !dump.contains_key(key))
            .copied()
            .collect();
        for key in gone {
            self.set_slot(key, Vec::new(), changes);
        }
        for (key, slot) in dump.iter() {
            self.set_slot(*key, slot.to_vec(), changes);
        }
    }

    /// Takes the routes of one family that use interface `ifindex` from a dump of just those. That does not tell their
    /// order among others of the same slot, which IPv4 heeds: a route that went silently and came back stands last.
    pub(crate) fn replace_routes_by(
        &mut self,
        ifindex: IfIndex,
        family: Family,
        dump: &Routes,
        changes: &mut Changes,
    ) -> Fit {
        let mut fit = Fit::Clear;
        let concerned: BTreeSet<RouteKey> = self
            .state
            .routes
            .iter()
            .filter(|(key, slot)| Family::of(key) == family && slot.iter().any(|route| uses(route, ifindex)))
            .map(|(key, _)| *key)
            .chain(dump.keys().copied())
            .collect();
        for key in concerned {
            let mut fresh = dump.get(&key).unwrap_or_default().to_vec();
            let old = self.slot(&key);
            let mut slot: Vec<Arc<Route>> = old
                .into_iter()
                .filter_map(|route| {
                    let position = fresh.iter().position(|other| same_route(other, &route));
                    match position {
                        Some(position) => Some(fresh.remove(position)),
                        None if uses(&route, ifindex) => None,
                        None => Some(route),
                    }
                })
                .collect();
            slot.append(&mut fresh);
            if family == Family::V4 && slot.len() > 1 && slot.iter().any(|route| uses(route, ifindex)) {
                fit = Fit::Unclear;
            }
            self.set_slot(key, slot, changes);
        }
        fit
    }

    /// Interface `ifindex` has ceased to be, and with it the routes over it. Unclear for a family of which a route has
    /// other ways left.
    pub(crate) fn remove_routes_by(&mut self, ifindex: IfIndex, changes: &mut Changes) -> BTreeSet<Family> {
        let mut unclear = BTreeSet::new();
        let concerned: Vec<RouteKey> = self
            .state
            .routes
            .iter()
            .filter(|(_, slot)| slot.iter().any(|route| uses(route, ifindex)))
            .map(|(key, _)| *key)
            .collect();
        for key in concerned {
            let mut slot = self.slot(&key);
            slot.retain(|route| {
                if !uses(route, ifindex) {
                    return true;
                }
                let only_way = route.next_hops.iter().all(|hop| hop.ifindex == Some(ifindex));
                if !only_way {
                    unclear.insert(Family::of(&key));
                }
                !only_way
            });
            self.set_slot(key, slot, changes);
        }
        unclear
    }

    /// Those of `candidates` over which a route goes.
    pub(crate) fn used_by_routes(&self, candidates: &BTreeSet<IfIndex>) -> BTreeSet<IfIndex> {
        self.hops().filter_map(|(_, hop)| hop.ifindex).filter(|index| candidates.contains(index)).collect()
    }

    /// Interfaces of routes which send from one of `addresses`.
    pub(crate) fn interfaces_of_sources(&self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<IfIndex> {
        self.hops()
            .filter(|(route, _)| route.preferred_source.is_some_and(|source| addresses.contains(&source)))
            .filter_map(|(_, hop)| hop.ifindex)
            .collect()
    }

    /// Those of `candidates` which are in another state than a next hop over them.
    pub(crate) fn interfaces_out_of_step(&self, candidates: &BTreeSet<IfIndex>) -> BTreeSet<IfIndex> {
        let out_of_step = |hop: &NextHop| {
            let link = hop.ifindex.filter(|index| candidates.contains(index));
            let link = link.and_then(|index| self.state.links.get(&index))?;
            (hop.dead == link.admin_up || hop.linkdown == link.carrier).then_some(link.index)
        };
        self.hops()
            .filter(|(route, _)| route.kind == RouteKind::Unicast)
            .filter_map(|(_, hop)| out_of_step(hop))
            .collect()
    }

    fn hops(&self) -> impl Iterator<Item = (&Arc<Route>, &NextHop)> {
        self.state
            .routes
            .iter()
            .flat_map(|(_, slot)| slot)
            .flat_map(|route| route.next_hops.iter().map(move |hop| (route, hop)))
    }

    /// `RTM_NEWNEXTHOP`.
    pub(crate) fn new_nexthop(&mut self, id: u32, object: NexthopObject, changes: &mut Changes) {
        if self.state.nexthops.get(&id) != Some(&object) {
            self.state.nexthops.insert(id, object);
            changes.nexthops.insert(id);
            self.follow(id, changes);
        }
    }

    /// `RTM_DELNEXTHOP`. The routes over it go too, of which the kernel says nothing (IPv4).
    pub(crate) fn delete_nexthop(&mut self, id: u32, changes: &mut Changes) {
        if self.state.nexthops.remove(&id).is_some() {
            changes.nexthops.insert(id);
        }
        self.alter_users(id, changes, |slot| slot.retain(|route| route.nexthop_id != Some(id)));
    }

    /// Takes the nexthop objects from a dump.
    pub(crate) fn replace_nexthops(&mut self, dump: BTreeMap<u32, NexthopObject>, changes: &mut Changes) {
        let mut differing = BTreeSet::new();
        difference(&self.state.nexthops, &dump, &mut differing);
        for id in &differing {
            if !dump.contains_key(id) {
                self.delete_nexthop(*id, changes);
            }
        }
        self.state.nexthops = dump;
        for id in differing {
            changes.nexthops.insert(id);
            self.follow(id, changes);
        }
    }

    /// Gives the routes over object `id`, or over a group that it is in, their next hops anew.
    fn follow(&mut self, id: u32, changes: &mut Changes) {
        let nexthops = &self.state.nexthops;
        let concerned: Vec<u32> = nexthops
            .iter()
            .filter(|(group, object)| {
                **group == id
                    || matches!(object, NexthopObject::Group(members) if members.iter().any(|member| member.0 == id))
            })
            .map(|(group, _)| *group)
            .collect();
        for id in concerned {
            let nexthops = self.state.nexthops.clone();
            self.alter_users(id, changes, |slot| {
                slot.iter_mut().for_each(|route| expand(&nexthops, Arc::make_mut(route)))
            });
        }
    }

    fn alter_users(&mut self, id: u32, changes: &mut Changes, alter: impl Fn(&mut Vec<Arc<Route>>)) {
        if self.users.get(&id).is_none_or(|count| *count == 0) {
            return;
        }
        let concerned: Vec<RouteKey> = self
            .state
            .routes
            .iter()
            .filter(|(_, slot)| slot.iter().any(|route| route.nexthop_id == Some(id)))
            .map(|(key, _)| *key)
            .collect();
        for key in concerned {
            let mut slot = self.slot(&key);
            alter(&mut slot);
            self.set_slot(key, slot, changes);
        }
    }
}

/// Adds a route of a dump to its slot, behind those which the dump gave before.
pub(crate) fn add_dumped(
    slots: &mut Routes,
    nexthops: &BTreeMap<u32, NexthopObject>,
    key: RouteKey,
    mut route: Route,
) {
    expand(nexthops, &mut route);
    let known = slots.get(&key).unwrap_or_default();
    // A dump continued after a change under it may say a thing twice.
    if known.iter().any(|other| same_route(other, &route)) {
        return;
    }
    let mut slot = known.to_vec();
    slot.push(Arc::new(route));
    if Family::of(&key) == Family::V6 {
        slot.sort_unstable();
    }
    slots.set(key, slot);
}

/// Gives a route the next hops of its nexthop object, whether the kernel has spelt them out or not
/// (`net.ipv4.nexthop_compat_mode`).
fn expand(nexthops: &BTreeMap<u32, NexthopObject>, route: &mut Route) {
    let Some((kind, next_hops)) = route.nexthop_id.and_then(|id| ways(nexthops, id)) else {
        return;
    };
    if kind == RouteKind::Blackhole {
        route.kind = kind;
    }
    route.next_hops = next_hops;
}

/// What a nexthop object stands for: the next hops of a unicast route, or a blackhole.
pub(crate) fn ways(nexthops: &BTreeMap<u32, NexthopObject>, id: u32) -> Option<(RouteKind, Vec<NextHop>)> {
    let mut hops: Vec<NextHop> = match nexthops.get(&id)? {
        NexthopObject::Blackhole => return Some((RouteKind::Blackhole, Vec::new())),
        NexthopObject::Single(hop) => vec![*hop],
        NexthopObject::Group(members) => members
            .iter()
            .filter_map(|(id, weight)| match nexthops.get(id) {
                Some(NexthopObject::Single(hop)) => Some(NextHop { weight: *weight, ..*hop }),
                _ => None,
            })
            .collect(),
    };
    hops.sort_unstable();
    Some((RouteKind::Unicast, hops))
}

fn uses(route: &Route, ifindex: IfIndex) -> bool {
    route.next_hops.iter().any(|hop| hop.ifindex == Some(ifindex))
}

/// Same route, apart from what may change without its being another: health of next hops, weights, path MTU.
fn same_route(a: &Route, b: &Route) -> bool {
    let same_ways = match (a.nexthop_id, b.nexthop_id) {
        (None, None) => a.next_hops.len() == b.next_hops.len() && within(a, b),
        (a, b) => a == b,
    };
    same_ways
        && a.kind == b.kind
        && a.scope == b.scope
        && a.protocol == b.protocol
        && a.preferred_source == b.preferred_source
}

/// Every way of `a` is one of `b`.
fn within(a: &Route, b: &Route) -> bool {
    a.next_hops.iter().all(|hop| b.next_hops.iter().any(|other| other.same_way(hop)))
}

/// Position of the route which a replacing one takes the place of.
fn replaced(slot: &[Arc<Route>], route: &Route) -> Option<usize> {
    // Announced for each route over a nexthop object when the object changes.
    route.nexthop_id.and_then(|id| slot.iter().position(|other| other.nexthop_id == Some(id)))
}

fn place_v4(mut slot: Vec<Arc<Route>>, route: Arc<Route>, flags: u16) -> Vec<Arc<Route>> {
    if flags & NLM_F_REPLACE != 0 {
        let position = replaced(&slot, &route).unwrap_or(0);
        match slot.get_mut(position) {
            Some(old) => *old = route,
            None => slot.push(route),
        }
    } else if let Some(known) = slot.iter_mut().find(|other| same_route(other, &route)) {
        *known = route;
    } else if flags & NLM_F_APPEND != 0 {
        slot.push(route);
    } else if flags & NLM_F_EXCL != 0 {
        // The kernel found the slot empty.
        slot = vec![route];
    } else {
        slot.insert(0, route);
    }
    slot
}

fn place_v6(mut slot: Vec<Arc<Route>>, route: Arc<Route>, flags: u16) -> Option<Vec<Arc<Route>>> {
    if flags & NLM_F_REPLACE != 0 {
        if slot.len() <= 1 {
            return Some(vec![route]);
        }
        // Which of several is replaced depends on whether each could be part of a multipath route.
        let position = replaced(&slot, &route)?;
        slot[position] = route;
        return Some(slot);
    }
    if let Some(known) = slot.iter_mut().find(|other| same_route(other, &route)) {
        *known = route;
        return Some(slot);
    }
    let mergeable = |other: &Route| {
        other.kind == route.kind
            && other.nexthop_id.is_none()
            && route.nexthop_id.is_none()
            && !other.next_hops.is_empty()
            && !route.next_hops.is_empty()
            && other.next_hops.iter().chain(&route.next_hops).all(|hop| hop.gateway.is_some())
    };
    if slot.iter().any(|other| mergeable(other) && within(&route, other)) {
        // An earlier stage of a multipath route that a dump has shown complete.
        return Some(slot);
    }
    slot.retain(|other| !(mergeable(other) && within(other, &route)));
    slot.push(route);
    Some(slot)
}
