//! The kernel's state as plain facts, without its routes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use throughway_io::xsk::MAX_MTU;
use throughway_kernel::Changes;
use throughway_kernel::model::{self, State};

use super::neighbours::Silent;
use crate::host::{HostFacts, NeighbourFacts, PortFacts};

/// One of our ports.
#[derive(Clone, Debug)]
pub(super) struct OwnPort {
    /// Its name in the configuration.
    pub(super) name: String,
    /// Its device, as the configuration calls it.
    pub(super) device: String,
    /// The kernel's number of the device that our program and sockets are on. Names may change or be given to other devices
    /// while we run; this stays.
    pub(super) ifindex: u32,
}

/// The kernel's state as the data plane sees it, without the routes: there may be a million of them.
pub(super) fn facts(state: &State, own: &[OwnPort], silent: &Silent) -> HostFacts {
    let links: Vec<Option<&model::Link>> = own.iter().map(|port| state.links.get(&port.ifindex)).collect();
    let port_of = |ifindex: u32| -> Option<u16> {
        let position = links.iter().position(|link| link.is_some_and(|link| link.index == ifindex));
        position.map(|index| index as u16)
    };
    let ports = own.iter().zip(&links).map(|(own, link)| {
        // A tentative address is no source yet (RFC 4862, section 5.4).
        let addresses = |ifindex| {
            let ready = state.addresses_of(ifindex).filter(|(_, address)| !address.tentative);
            ready.map(|(key, _)| (key.address, key.prefix_len)).collect()
        };
        PortFacts {
            name: own.name.clone(),
            device: own.device.clone(),
            ifindex: link.map_or(0, |link| link.index),
            mac: link.and_then(|link| link.mac).unwrap_or_default(),
            mtu: link.map_or(0, |link| link.mtu),
            up: link.is_some_and(model::Link::usable),
            addresses: link.map(|link| addresses(link.index)).unwrap_or_default(),
        }
    });
    let neighbours = state.neighbours.iter().filter_map(|(key, neighbour)| {
        let mac = neighbour.mac.filter(|_| neighbour.state.usable())?;
        let port = port_of(key.ifindex)?;
        let state = format!("{:?}", neighbour.state).to_lowercase();
        Some(NeighbourFacts { port, address: key.address, mac, state })
    });
    HostFacts {
        ports: ports.collect(),
        local: state.addresses.keys().map(|key| key.address).collect::<BTreeSet<_>>().into_iter().collect(),
        broadcast: broadcasts(state).into_iter().collect(),
        routes: Arc::default(),
        neighbours: neighbours.collect(),
        unreachable: silent.iter().filter_map(|key| Some((port_of(key.ifindex)?, key.address))).collect(),
    }
}

/// The directed broadcasts of the host's own prefixes (RFC 919).
fn broadcasts(state: &State) -> BTreeSet<IpAddr> {
    state.addresses.values().filter_map(|address| address.broadcast.map(IpAddr::V4)).collect()
}

/// Says what happened to our ports.
pub(super) fn tell(old: &HostFacts, new: &HostFacts, state: &State, changes: &Changes) {
    for (old, new) in old.ports.iter().zip(&new.ports) {
        let (interface, device) = (&new.name, &new.device);
        if old.ifindex != 0 && new.ifindex == 0 {
            tracing::error!(%interface, %device, "the device has gone: the interface is down until the service is started again");
            continue;
        }
        if new.ifindex == 0
            && state.link_named(device).is_some_and(|link| changes.links.contains(&link.index))
        {
            // It has no program: its packets go to the kernel, whatever `on-failure` says.
            tracing::error!(%interface, %device, "a new device has this name, and it is not ours: start the service again to use it");
        }
        if old.up != new.up {
            tracing::info!(%interface, %device, "the interface is {}", if new.up { "up" } else { "down" });
        }
        if old.mac != new.mac {
            tracing::info!(%interface, %device, mac = %crate::host::mac_to_text(new.mac), "the interface has a new MAC address");
        }
        if old.mtu != new.mtu {
            tracing::info!(%interface, %device, mtu = new.mtu, "the interface has a new MTU");
            if new.mtu > MAX_MTU {
                tracing::error!(%interface, %device, mtu = new.mtu, "packets above {MAX_MTU} bytes will be lost: they do not fit into one buffer");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> model::Link {
        model::Link { index, name: name.to_owned(), mac: Some([2, 0, 0, 0, 0, 1]), ..model::Link::default() }
    }

    fn facts(state: &State) -> HostFacts {
        let own = OwnPort { name: "wan".to_owned(), device: "eth1".to_owned(), ifindex: 4 };
        super::facts(state, &[own], &Silent::default())
    }

    #[test]
    fn a_device_that_took_the_name_of_ours_is_not_ours() {
        let mut state = State::default();
        state.links.insert(9, link(9, "eth1"));
        let port = facts(&state).ports.remove(0);
        assert_eq!((port.ifindex, port.up), (0, false));
        // And ours stays ours under another name.
        state.links.insert(4, link(4, "renamed"));
        assert_eq!(facts(&state).ports[0].ifindex, 4);
    }

    #[test]
    fn tentative_addresses_are_no_sources() {
        let mut state = State::default();
        state.links.insert(4, link(4, "eth1"));
        for (last, tentative) in [(1, false), (2, true)] {
            let key = model::AddressKey {
                ifindex: 4,
                address: format!("fd00::{last}").parse().unwrap(),
                prefix_len: 64,
                peer: None,
            };
            state.addresses.insert(key, model::Address { tentative, ..model::Address::default() });
        }
        let facts = facts(&state);
        assert_eq!(facts.ports[0].addresses, [("fd00::1".parse().unwrap(), 64)]);
        assert_eq!(facts.local.len(), 2, "what is sent to it is the kernel's all the same");
    }
}
