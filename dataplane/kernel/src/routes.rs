//! The routes of all tables, kept small: a full table has a million slots and a few hundred different routes.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::{Bound, Index};
use std::sync::Arc;

use crate::model::{Prefix, Route, RouteKey};

/// Below so many different routes nobody looks for those out of use.
const FEW: usize = 1024;

/// Routes by slot. Equal routes are one value, so a slot costs its key and a pointer: some 100 bytes in all.
///
/// A slot holds more than one route where the kernel lets equal ones stand side by side (`fe80::/64` of each interface,
/// `ip route append`): IPv4 ones in its order, of which the first is used; IPv6 ones sorted, since it has no such
/// preference. There are no empty slots.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    slots: BTreeMap<RouteKey, Slot>,
    /// Every different route once.
    shared: HashSet<Arc<Route>>,
    /// With so many different ones, those out of use are let go.
    sweep_at: usize,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Slot {
    One(Arc<Route>),
    Several(Box<[Arc<Route>]>),
}

const _: () = assert!(size_of::<(RouteKey, Slot)>() <= 64);

impl Slot {
    fn routes(&self) -> &[Arc<Route>] {
        match self {
            Slot::One(route) => std::slice::from_ref(route),
            Slot::Several(routes) => routes,
        }
    }
}

impl PartialEq for Routes {
    fn eq(&self, other: &Self) -> bool {
        self.slots == other.slots
    }
}

impl Eq for Routes {}

impl Index<&RouteKey> for Routes {
    type Output = [Arc<Route>];

    /// The routes of a slot; none when there is no such slot.
    fn index(&self, key: &RouteKey) -> &[Arc<Route>] {
        self.get(key).unwrap_or_default()
    }
}

impl Routes {
    /// How many slots there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The routes of a slot.
    pub fn get(&self, key: &RouteKey) -> Option<&[Arc<Route>]> {
        self.slots.get(key).map(Slot::routes)
    }

    /// Whether there is such a slot.
    pub fn contains_key(&self, key: &RouteKey) -> bool {
        self.slots.contains_key(key)
    }

    /// All slots in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&RouteKey, &[Arc<Route>])> {
        self.slots.iter().map(|(key, slot)| (key, slot.routes()))
    }

    /// All keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &RouteKey> {
        self.slots.keys()
    }

    /// The slots of one table, from those of prefix `from` on, in order: by prefix, and of one prefix by what wins.
    pub fn of_table_from(
        &self,
        table: u32,
        from: Prefix,
    ) -> impl Iterator<Item = (&RouteKey, &[Arc<Route>])> {
        let first = RouteKey { table, prefix: from, source: None, tos: 0, metric: 0 };
        let slots = self.slots.range((Bound::Included(first), Bound::Unbounded));
        slots.take_while(move |(key, _)| key.table == table).map(|(key, slot)| (key, slot.routes()))
    }

    /// The slots of one prefix of one table, in order of what wins; those for some sources or some TOS last.
    pub fn of_prefix(&self, table: u32, prefix: Prefix) -> impl Iterator<Item = (&RouteKey, &[Arc<Route>])> {
        self.of_table_from(table, prefix).take_while(move |(key, _)| key.prefix == prefix)
    }

    /// Puts routes into a slot, or empties it; returns whether something else was there.
    pub fn set(&mut self, key: RouteKey, routes: Vec<Arc<Route>>) -> bool {
        if self.get(&key).unwrap_or_default() == routes {
            return false;
        }
        let mut shared: Vec<Arc<Route>> = routes.into_iter().map(|route| self.share(route)).collect();
        let slot = match shared.len() {
            0 => None,
            1 => shared.pop().map(Slot::One),
            _ => Some(Slot::Several(shared.into_boxed_slice())),
        };
        match slot {
            Some(slot) => self.slots.insert(key, slot),
            None => self.slots.remove(&key),
        };
        true
    }

    /// Adds the slots of other keys.
    pub(crate) fn append(&mut self, mut other: Routes) {
        self.slots.append(&mut other.slots);
        self.shared.extend(other.shared);
    }

    /// The one value that stands for all routes like this.
    fn share(&mut self, route: Arc<Route>) -> Arc<Route> {
        if let Some(known) = self.shared.get(&route) {
            return Arc::clone(known);
        }
        if self.shared.len() >= self.sweep_at {
            self.shared.retain(|route| Arc::strong_count(route) > 1);
            self.sweep_at = (2 * self.shared.len()).max(FEW);
        }
        self.shared.insert(Arc::clone(&route));
        route
    }

    /// How many different routes there are, those out of use among them.
    pub fn different(&self) -> usize {
        self.shared.len()
    }

    /// What the slots take, in bytes: entries, and the room that a B-tree leaves between them at most.
    pub fn memory(&self) -> usize {
        // At least 5 of 11 places of a node are taken.
        self.slots.len() * size_of::<(RouteKey, Slot)>() * 11 / 5
            + self.shared.len() * (size_of::<Route>() + size_of::<usize>() * 4)
    }

    /// Keys of slots of which the two do not say the same.
    pub(crate) fn difference(&self, other: &Routes, out: &mut BTreeSet<RouteKey>) {
        let (mut mine, mut theirs) = (self.slots.iter().peekable(), other.slots.iter().peekable());
        loop {
            match (mine.peek(), theirs.peek()) {
                (Some((key, slot)), Some((other, there))) if key == other => {
                    if slot != there {
                        out.insert(**key);
                    }
                    mine.next();
                    theirs.next();
                }
                (Some((key, _)), Some((other, _))) if key > other => {
                    out.insert(**other);
                    theirs.next();
                }
                (Some((key, _)), _) => {
                    out.insert(**key);
                    mine.next();
                }
                (None, Some((other, _))) => {
                    out.insert(**other);
                    theirs.next();
                }
                (None, None) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(last: u8) -> RouteKey {
        let prefix = Prefix { address: [10, 0, last, 0].into(), len: 24 };
        RouteKey { table: 254, prefix, source: None, tos: 0, metric: 0 }
    }

    fn route(mtu: u32) -> Arc<Route> {
        Arc::new(Route { mtu: Some(mtu), ..Route::default() })
    }

    #[test]
    fn equal_routes_are_one_and_those_out_of_use_are_let_go() {
        let mut routes = Routes::default();
        for last in 0..200 {
            assert!(routes.set(key(last), vec![route(1500)]));
        }
        assert!(!routes.set(key(7), vec![route(1500)]));
        assert_eq!((routes.len(), routes.different()), (200, 1));
        for mtu in 0..100_000 {
            assert!(routes.set(key(7), vec![route(2000 + mtu)]));
        }
        assert!(routes.different() <= 2 * FEW, "{}", routes.different());
        assert!(routes.set(key(7), Vec::new()) && !routes.contains_key(&key(7)));
        assert_eq!(routes[&key(7)].len(), 0);
    }

    #[test]
    fn the_difference_names_what_is_there_in_one_only_or_different() {
        let (mut a, mut b) = (Routes::default(), Routes::default());
        for last in [1, 2, 3, 5] {
            a.set(key(last), vec![route(1500)]);
        }
        for last in [2, 3, 4, 5, 6] {
            b.set(key(last), vec![route(if last == 5 { 1400 } else { 1500 })]);
        }
        for (left, right) in [(&a, &b), (&b, &a)] {
            let mut out = BTreeSet::new();
            left.difference(right, &mut out);
            assert_eq!(out, [1, 4, 5, 6].map(key).into());
        }
    }
}
