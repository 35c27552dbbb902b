//! What the router knows: ports, neighbours and the FIB, published together as one value.
//!
//! The control side builds new tables beside the old ones and publishes them; parts that did not change are shared. A
//! worker reads one consistent value for a whole batch.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use throughway_packet::PortId;
use throughway_packet::headers::octets;
use throughway_vnf::{Prefix, PrefixError};

use crate::fib::Fib;
use crate::hash::FoldHasher;
use crate::route::{NextHop, Route};

/// Everything the router knows at one time.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// The ports of the data plane.
    pub ports: Arc<Ports>,
    /// The neighbours that are resolved.
    pub neighbours: Arc<Neighbours>,
    /// The routes.
    pub fib: Arc<Fib>,
}

impl Tables {
    /// The MAC addresses (destination, source) of a frame from `port` to `next_hop`; `None` while the neighbour is not
    /// resolved.
    #[inline]
    pub fn ethernet_to(&self, port: PortId, next_hop: IpAddr) -> Option<([u8; 6], [u8; 6])> {
        Some((self.neighbours.get(port, next_hop)?, self.ports.get(port)?.mac))
    }
}

/// An address of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterfaceAddress {
    address: IpAddr,
    prefix: Prefix,
}

impl InterfaceAddress {
    /// An address with the length in bits of the prefix that is on the link.
    ///
    /// # Errors
    /// [`PrefixError::TooLong`].
    pub fn new(address: IpAddr, prefix_len: u8) -> Result<InterfaceAddress, PrefixError> {
        Ok(InterfaceAddress { address, prefix: Prefix::containing(address, prefix_len)? })
    }

    /// The address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// The prefix on the link.
    pub const fn prefix(&self) -> Prefix {
        self.prefix
    }

    /// The directed broadcast address (RFC 919); IPv6 has none, nor have prefixes of 31 (RFC 3021) and 32 bits.
    pub fn broadcast(&self) -> Option<IpAddr> {
        (self.address.is_ipv4() && self.prefix.len() < 31).then(|| self.prefix.last())
    }
}

/// A port as the router sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The largest IP packet it sends, in bytes, without the link layer.
    pub mtu: u32,
    /// Whether it is up and has a carrier.
    pub up: bool,
    /// Its addresses, most preferred first. Those that are no source (tentative, deprecated) are left out.
    pub addresses: Vec<InterfaceAddress>,
    /// What is checked of packets that come in by it.
    pub settings: PortSettings,
}

/// What a port's packets have to obey, from the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortSettings {
    /// Whether the source of a packet that comes in has to be reachable.
    pub source_check: SourceCheck,
    /// Whether packets from and to addresses that are reserved and in use nowhere
    /// ([`is_reserved`](crate::martian::is_reserved)) are forwarded.
    pub forward_reserved: bool,
}

/// Unicast reverse path forwarding: whether there has to be a route back to the source (RFC 3704; RFC 2827).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SourceCheck {
    /// Nothing is asked.
    #[default]
    Off,
    /// There has to be a route to the source that forwards, by whichever port (RFC 3704, section 2.4).
    Loose {
        /// Whether the default route is one.
        allow_default: bool,
    },
    /// The best route to the source has to leave by the port that the packet came in on, with one of its next hops at least
    /// (RFC 3704, sections 2.2 and 2.3).
    Strict,
}

/// The ports of the data plane, by [`PortId`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ports(Vec<Port>);

impl Ports {
    /// The ports in the order of their numbers.
    pub const fn new(ports: Vec<Port>) -> Ports {
        Ports(ports)
    }

    /// The port with this number.
    #[inline]
    pub fn get(&self, port: PortId) -> Option<&Port> {
        self.0.get(port.index())
    }

    /// All ports with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (PortId, &Port)> {
        (0..=u16::MAX).map(PortId).zip(&self.0)
    }

    /// The routes that follow from the addresses alone, as a kernel would make them: the connected prefixes, the host's
    /// own addresses and the directed broadcast addresses. For use where no kernel is mirrored (replay, tests).
    ///
    /// Own addresses come last, so that they win against connected prefixes of full length in
    /// [`FibWriter::replace_all`](crate::FibWriter::replace_all).
    pub fn connected_routes(&self) -> Vec<(Prefix, Route)> {
        let mut routes = Vec::new();
        let addresses = || self.iter().flat_map(|(id, port)| port.addresses.iter().map(move |own| (id, own)));
        for (id, own) in addresses() {
            routes.push((own.prefix, Route::via(NextHop::on_link(id))));
        }
        for (_, own) in addresses() {
            routes.extend(own.broadcast().map(|address| (Prefix::host(address), Route::Broadcast)));
        }
        for (_, own) in addresses() {
            routes.push((Prefix::host(own.address), Route::Local));
        }
        routes
    }
}

/// The neighbours whose MAC address is known, and those that did not answer when they were last asked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Neighbours {
    known: HashMap<NeighbourKey, [u8; 6], BuildHasherDefault<FoldHasher>>,
    silent: HashSet<NeighbourKey, BuildHasherDefault<FoldHasher>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct NeighbourKey {
    port: PortId,
    /// IPv4 in its mapped form, which no IPv6 neighbour has.
    address: [u8; 16],
}

impl Hash for NeighbourKey {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        let bits = u128::from_be_bytes(self.address);
        state.write_u64((bits >> 64) as u64);
        state.write_u64(bits as u64);
        state.write_u64(u64::from(self.port.0));
    }
}

impl Neighbours {
    /// The MAC address of `address` on the link of `port`.
    #[inline]
    pub fn get(&self, port: PortId, address: IpAddr) -> Option<[u8; 6]> {
        self.known.get(&NeighbourKey { port, address: octets(address) }).copied()
    }

    /// Whether `address` was asked for on the link of `port` not long ago and nobody answered.
    pub fn is_silent(&self, port: PortId, address: IpAddr) -> bool {
        !self.silent.is_empty() && self.silent.contains(&NeighbourKey { port, address: octets(address) })
    }

    /// The same neighbours, and these that did not answer.
    #[must_use]
    pub fn with_silent(mut self, silent: impl IntoIterator<Item = (PortId, IpAddr)>) -> Self {
        let key = |(port, address)| NeighbourKey { port, address: octets(address) };
        self.silent = silent.into_iter().map(key).collect();
        self
    }

    /// How many are known.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

impl FromIterator<(PortId, IpAddr, [u8; 6])> for Neighbours {
    fn from_iter<T: IntoIterator<Item = (PortId, IpAddr, [u8; 6])>>(neighbours: T) -> Neighbours {
        let entry = |(port, address, mac)| (NeighbourKey { port, address: octets(address) }, mac);
        Neighbours { known: neighbours.into_iter().map(entry).collect(), ..Neighbours::default() }
    }
}
