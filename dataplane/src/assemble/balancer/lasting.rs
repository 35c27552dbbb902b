//! Connections over a restart, with the backends that are leaving.

use std::cell::RefCell;
use std::sync::Arc;

use throughway_balancer::Connections;
use throughway_vnf::save::Save;

use super::Director;

impl Director {
    /// Works on the connections. Backends that the configuration does not have and that still have connections afterwards are leaving.
    pub fn lasting<R>(&self, work: impl FnOnce(&dyn Save) -> R) -> R {
        let mut leaving = Vec::new();
        for ((service, ..), seat) in &self.inner().leaving {
            leaving.push((Arc::clone(service), Arc::clone(seat)));
        }
        let connections = Connections { shared: &self.shared, leaving: RefCell::new(leaving) };
        let result = work(&connections);
        let mut inner = self.inner();
        for (service, seat) in connections.leaving.into_inner() {
            inner.leaving.entry((service, seat.address, seat.port)).or_insert(seat);
        }
        result
    }
}
