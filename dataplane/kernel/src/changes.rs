//! What one [`crate::Mirror::wait`] has changed.

use std::collections::BTreeSet;

use crate::model::{AddressKey, IfIndex, NeighbourKey, RouteKey, State};

/// Keys of everything that was added, altered or removed. Look a key up in [`crate::Mirror::state`]: what is not there any
/// more was removed. The sets are complete, also after an overrun. A key may be among them although its value is as before: it may have gone and
/// come back meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Interfaces.
    pub links: BTreeSet<IfIndex>,
    /// Addresses.
    pub addresses: BTreeSet<AddressKey>,
    /// Slots of the routing tables.
    pub routes: BTreeSet<RouteKey>,
    /// Neighbours.
    pub neighbours: BTreeSet<NeighbourKey>,
    /// Numbers of nexthop objects; routes which use them are in `routes` if their next hops changed.
    pub nexthops: BTreeSet<u32>,
    /// The kernel had more to say than the receive buffer holds; everything was read anew.
    pub overrun: bool,
}

impl Changes {
    /// Nothing is different.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
            && self.addresses.is_empty()
            && self.routes.is_empty()
            && self.neighbours.is_empty()
            && self.nexthops.is_empty()
    }

    /// Adds what differs between two states.
    pub(crate) fn add_difference(&mut self, old: &State, new: &State) {
        difference(&old.links, &new.links, &mut self.links);
        difference(&old.addresses, &new.addresses, &mut self.addresses);
        old.routes.difference(&new.routes, &mut self.routes);
        difference(&old.neighbours, &new.neighbours, &mut self.neighbours);
        difference(&old.nexthops, &new.nexthops, &mut self.nexthops);
    }
}

/// Keys of which the two maps do not say the same.
pub(crate) fn difference<K: Ord + Copy, V: PartialEq>(
    old: &std::collections::BTreeMap<K, V>,
    new: &std::collections::BTreeMap<K, V>,
    out: &mut BTreeSet<K>,
) {
    out.extend(old.iter().filter(|(key, value)| new.get(key) != Some(value)).map(|(key, _)| *key));
    out.extend(new.keys().filter(|key| !old.contains_key(key)));
}
