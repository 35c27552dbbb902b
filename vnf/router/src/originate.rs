//! Routes packets that the data plane sends itself: ICMP errors.

use std::net::{IpAddr, Ipv4Addr};

use throughway_packet::PortId;
use throughway_packet::headers::octets;

use crate::hash;
use crate::martian::is_martian;
use crate::route::{NextHop, Route};
use crate::tables::{InterfaceAddress, Port, Tables};

/// The source of ICMP errors of a router without any IPv4 address of its own (RFC 7600).
const DUMMY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8));

/// How a packet that the data plane sends itself leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The egress port.
    pub port: PortId,
    /// The neighbour it is sent to.
    pub next_hop: IpAddr,
    /// The source address to write into it.
    pub source_address: IpAddr,
    /// The MAC addresses (destination, source); `None` while the neighbour is not resolved.
    pub macs: Option<([u8; 6], [u8; 6])>,
}

impl Tables {
    /// Routes a packet of our own to `destination`. `None` when there is no way to it: no route, a route that leads
    /// nowhere, an egress that is down or not ours, an address that is never forwarded to, or no address to send from.
    pub fn originate(&self, destination: IpAddr) -> Option<Origin> {
        if is_martian(destination) {
            return None;
        }
        let found = self.fib.lookup(destination)?;
        let Route::Forward(next_hops) = &*found else { return None };
        let hop = next_hops.choose(|| hash::of_address(&octets(destination)));
        let port = self.ports.get(hop.port).filter(|port| port.up)?;
        let next_hop = hop.address(destination);
        Some(Origin {
            port: hop.port,
            next_hop,
            source_address: self.source_address(port, hop, destination)?,
            macs: self.ethernet_to(hop.port, next_hop),
        })
    }

    /// An address of the egress (RFC 1812, section 4.3.2.4), best one that the next hop is a neighbour of; else one of
    /// any port; all of global scope, since the destination is (RFC 6724, section 5, rule 2).
    fn source_address(&self, egress: &Port, hop: &NextHop, destination: IpAddr) -> Option<IpAddr> {
        let next_hop = hop.address(destination);
        let fits = |own: &IpAddr| own.is_ipv4() == destination.is_ipv4() && !is_martian(*own);
        let near = egress.addresses.iter().filter(|own| own.prefix().contains(next_hop));
        let others = self.ports.iter().flat_map(|(_, port)| &port.addresses);
        near.chain(&egress.addresses)
            .chain(others)
            .map(InterfaceAddress::address)
            .find(fits)
            .or(destination.is_ipv4().then_some(DUMMY))
    }
}
