//! The kernel's state as plain facts, without its routes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use throughway_config::Vlan;
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
    /// The VLAN of the device that it is.
    pub(super) vlan: Option<Vlan>,
}

/// The kernel's own device for the VLAN with these identifiers (outer, inner) on a device, if there is one.
pub(crate) fn vlan_device(state: &State, parent: u32, tags: (u16, Option<u16>)) -> Option<&model::Link> {
    let on = |parent, id| {
        let mut links = state.links.values();
        links.find(move |link| link.vlan == Some(id) && link.parent == Some(parent) && !link.parent_elsewhere)
    };
    let outer = on(parent, tags.0)?;
    match tags.1 {
        None => Some(outer),
        Some(inner) => on(outer.index, inner),
    }
}

/// The kernel's state as the data plane sees it, without the routes: there may be a million of them.
pub(super) fn facts(state: &State, own: &[OwnPort], silent: &Silent) -> HostFacts {
    // The device under a port, and what the kernel has for the port itself: the same, unless the port is a VLAN.
    let devices: Vec<Option<&model::Link>> = own.iter().map(|port| state.links.get(&port.ifindex)).collect();
    let links: Vec<Option<&model::Link>> = own
        .iter()
        .zip(&devices)
        .map(|(port, device)| match &port.vlan {
            None => *device,
            Some(vlan) => vlan_device(state, (*device)?.index, (vlan.outer, vlan.inner)),
        })
        .collect();
    let port_of = |ifindex: u32| -> Option<u16> {
        let position = links.iter().position(|link| link.is_some_and(|link| link.index == ifindex));
        position.map(|index| index as u16)
    };
    let ports = own.iter().zip(devices.iter().zip(&links)).map(|(own, (device, link))| {
        // A tentative address is no source yet (RFC 4862, section 5.4).
        let addresses = |ifindex| {
            let ready = state.addresses_of(ifindex).filter(|(_, address)| !address.tentative);
            ready.map(|(key, _)| (key.address, key.prefix_len)).collect()
        };
        let mut addresses: Vec<_> = link.map(|link| addresses(link.index)).unwrap_or_default();
        for given in own.vlan.iter().flat_map(|vlan| &vlan.addresses) {
            if !addresses.contains(&(given.address, given.len)) {
                addresses.push((given.address, given.len));
            }
        }
        // A VLAN without a device of the kernel's is what the device under it is; without that it is nothing.
        let like = device.and(link.or(*device));
        PortFacts {
            name: own.name.clone(),
            device: own.device.clone(),
            ifindex: link.map_or(0, |link| link.index),
            mac: like.and_then(|link| link.mac).unwrap_or_default(),
            mtu: like.map_or(0, |link| link.mtu),
            up: like.is_some_and(model::Link::usable) && device.is_some_and(model::Link::usable),
            addresses,
        }
    });
    let ports: Vec<_> = ports.collect();
    let given = (0u16..).zip(own).flat_map(|(port, own)| {
        let given = own.vlan.iter().flat_map(|vlan| &vlan.neighbours);
        given.map(move |(address, mac)| NeighbourFacts {
            port,
            address: *address,
            mac: mac.0,
            state: "permanent".to_owned(),
        })
    });
    let is_given = |port: u16, address| {
        let vlan = own.get(usize::from(port)).and_then(|own| own.vlan.as_ref());
        vlan.is_some_and(|vlan| vlan.neighbours.iter().any(|(given, _)| *given == address))
    };
    let neighbours = state.neighbours.iter().filter_map(|(key, neighbour)| {
        let mac = neighbour.mac.filter(|_| neighbour.state.usable())?;
        let port = port_of(key.ifindex).filter(|port| !is_given(*port, key.address))?;
        let state = format!("{:?}", neighbour.state).to_lowercase();
        Some(NeighbourFacts { port, address: key.address, mac, state })
    });
    let own_addresses = state.addresses.keys().map(|key| key.address);
    let own_addresses =
        own_addresses.chain(ports.iter().flat_map(|port| port.addresses.iter().map(|own| own.0)));
    HostFacts {
        local: own_addresses.collect::<BTreeSet<_>>().into_iter().collect(),
        ports,
        broadcast: broadcasts(state).into_iter().collect(),
        routes: Arc::default(),
        neighbours: neighbours.chain(given).collect(),
        unreachable: silent.iter().filter_map(|key| Some((port_of(key.ifindex)?, key.address))).collect(),
        ephemeral_ports: None,
    }
}

/// [`facts`], and what the kernel does not tell of by itself.
pub(super) fn with_ports(facts: HostFacts) -> HostFacts {
    let ephemeral_ports = throughway_kernel::ephemeral_ports().map(|ports| (*ports.start(), *ports.end()));
    HostFacts { ephemeral_ports, ..facts }
}

/// The directed broadcasts of the host's own prefixes (RFC 919).
fn broadcasts(state: &State) -> BTreeSet<IpAddr> {
    state.addresses.values().filter_map(|address| address.broadcast.map(IpAddr::V4)).collect()
}

/// Says what happened to our ports.
pub(super) fn tell(old: &HostFacts, new: &HostFacts, state: &State, changes: &Changes) {
    for (old, new) in old.ports.iter().zip(&new.ports) {
        let (interface, device) = (&new.name, &new.device);
        // Of a VLAN only the device under it matters, which has an address of its own.
        if old.mac != [0; 6] && new.mac == [0; 6] {
            tracing::error!(%interface, %device, "the device has gone: the interface is down until the service is started again");
            continue;
        }
        if new.mac == [0; 6]
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
        let own = OwnPort { name: "wan".to_owned(), device: "eth1".to_owned(), ifindex: 4, vlan: None };
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

    /// `ip link add link eth1 name NAME type vlan id 200`, and one on top of that.
    #[test]
    fn a_vlan_has_what_the_kernels_device_for_it_has() {
        let text = "\
interfaces:
  wan: { device: eth1, vlan: 200, addresses: 192.0.2.1/24, neighbours: [ { address: 192.0.2.9, mac: \"02:00:00:00:00:09\" } ] }
  inner: { device: eth1, vlan: [200, 30] }
functions: { core: { router: {} } }
chains: { all: { from: wan, run: [core] } }
";
        let (config, _) = throughway_config::Config::parse("test.yaml", text).unwrap();
        let own: Vec<_> = config
            .interfaces
            .iter()
            .map(|interface| OwnPort {
                name: interface.name.to_string(),
                device: interface.device.to_string(),
                ifindex: 4,
                vlan: interface.vlan.clone(),
            })
            .collect();
        let facts = |state: &State| super::facts(state, &own, &Silent::default());
        let up = |index, name: &str, mtu| model::Link {
            mtu,
            admin_up: true,
            carrier: true,
            oper_state: model::OperState::Up,
            ..link(index, name)
        };
        let mut state = State::default();
        let missing = facts(&state);
        assert!(missing.ports.iter().all(|port| port.mac == [0; 6] && !port.up && port.mtu == 0));

        state.links.insert(4, up(4, "eth1", 1500));
        let neighbour = |address: &str| model::NeighbourKey { ifindex: 6, address: address.parse().unwrap() };
        for address in ["192.0.2.8", "192.0.2.9"] {
            let known = model::Neighbour {
                mac: Some([2; 6]),
                state: model::NudState::Reachable,
                ..Default::default()
            };
            state.neighbours.insert(neighbour(address), known);
        }
        let alone = facts(&state);
        for port in &alone.ports {
            assert_eq!((port.ifindex, port.mac, port.mtu, port.up), (0, [2, 0, 0, 0, 0, 1], 1500, true));
        }
        let given = ("192.0.2.1".parse().unwrap(), 24);
        assert_eq!(
            (alone.ports[0].addresses.as_slice(), alone.local.as_slice()),
            (&[given][..], &[given.0][..])
        );
        assert_eq!(
            alone.neighbours.len(),
            1,
            "of another device's neighbours nothing is known: {:?}",
            alone.neighbours
        );

        // One with the right number on another device, one on ours, and one on top of that.
        for (index, parent, vlan, mtu) in [(5, 9, 200, 1), (6, 4, 200, 1400), (7, 6, 30, 1300), (8, 4, 30, 1)]
        {
            let link = up(index, "any", mtu);
            state.links.insert(index, model::Link { vlan: Some(vlan), parent: Some(parent), ..link });
        }
        let known = facts(&state);
        let seen: Vec<_> = known.ports.iter().map(|port| (port.ifindex, port.mtu, port.up)).collect();
        assert_eq!(seen, [(6, 1400, true), (7, 1300, true)]);
        let mut macs: Vec<_> =
            known.neighbours.iter().map(|known| (known.port, known.address, known.mac[5])).collect();
        macs.sort();
        assert_eq!(macs, [(0, "192.0.2.8".parse().unwrap(), 2), (0, "192.0.2.9".parse().unwrap(), 9)]);

        // Without the device under it, the VLAN is down whatever its own device says.
        state.links.get_mut(&4).unwrap().carrier = false;
        assert!(facts(&state).ports.iter().all(|port| !port.up));
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
