//! One change to a packet, and how it becomes part of an action.

use std::net::IpAddr;

use throughway_shared::action::{Action, edits};
use throughway_shared::checksum;

use crate::headers::{Flags, Headers, PortId, octets};

/// One change to a packet: what functions answer with.
///
/// An edit that does not fit the packet (a port on a packet without ports, an address of the other family, an IPv4-mapped
/// IPv6 address) changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edit {
    /// Replace the source address (same family).
    Source(IpAddr),
    /// Replace the destination address (same family).
    Destination(IpAddr),
    /// Replace the source port, host order; of an ICMP query, the identifier.
    SourcePort(u16),
    /// Replace the destination port, host order; of an ICMP query, the identifier.
    DestinationPort(u16),
    /// Replace the DSCP, 0 to 63 (RFC 2474); ECN stays.
    Dscp(u8),
    /// Take one off TTL or hop limit.
    DecrementHops,
    /// Replace both MAC addresses.
    Ethernet {
        /// The new destination.
        destination: [u8; 6],
        /// The new source.
        source: [u8; 6],
    },
    /// Send to this port.
    Egress(PortId),
}

impl Edit {
    /// Records the edit: changes the view (`headers`, what later functions see) and adds to `action` what has to be done to
    /// the bytes. Both tell the same story: executing `action` on the bytes and parsing them again gives the view.
    pub fn record(self, headers: &mut Headers, action: &mut Action) {
        match self {
            Edit::Source(address) if fits(address, headers) => {
                let new = octets(address);
                let delta = checksum::address_delta(&headers.key.source, &new);
                headers.key.source = new;
                action.source = new;
                action.edits |= edits::SOURCE;
                add_address_delta(headers, action, delta, true);
            }
            Edit::Destination(address) if fits(address, headers) => {
                let new = octets(address);
                let delta = checksum::address_delta(&headers.key.destination, &new);
                headers.key.destination = new;
                action.destination = new;
                action.edits |= edits::DESTINATION;
                // The final destination, not this one, is in the checksum of a source-routed packet (RFC 8200, section 8.1).
                add_address_delta(headers, action, delta, !headers.flags.has(Flags::SOURCE_ROUTED));
            }
            Edit::SourcePort(port) if headers.flags.any(Flags::PORTS | Flags::ICMP_QUERY) => {
                let delta = checksum::delta(headers.source_port(), port);
                headers.key.source_port = port.to_be_bytes();
                action.source_port = port.to_be_bytes();
                action.edits |= edits::SOURCE_PORT;
                if headers.flags.has(Flags::ICMP_QUERY) {
                    headers.key.destination_port = port.to_be_bytes();
                }
                action.l4_delta = checksum::add(action.l4_delta, delta);
            }
            // The one identifier of an ICMP query stands for both ports.
            Edit::DestinationPort(port) if headers.flags.has(Flags::ICMP_QUERY) => {
                Edit::SourcePort(port).record(headers, action);
            }
            Edit::DestinationPort(port) if headers.flags.has(Flags::PORTS) => {
                let delta = checksum::delta(headers.destination_port(), port);
                headers.key.destination_port = port.to_be_bytes();
                action.destination_port = port.to_be_bytes();
                action.edits |= edits::DESTINATION_PORT;
                action.l4_delta = checksum::add(action.l4_delta, delta);
            }
            Edit::Dscp(dscp) => {
                headers.traffic_class = (dscp << 2) | (headers.traffic_class & 0b11);
                action.dscp = dscp & 0x3f;
                action.edits |= edits::DSCP;
            }
            Edit::DecrementHops => {
                headers.hop_limit = headers.hop_limit.saturating_sub(1);
                action.hops = action.hops.saturating_add(1);
            }
            Edit::Ethernet { destination, source } => {
                action.ethernet_destination = destination;
                action.ethernet_source = source;
                action.edits |= edits::ETHERNET;
            }
            Edit::Egress(port) => {
                action.egress = port.0;
                action.edits |= edits::EGRESS;
            }
            Edit::Source(_) | Edit::Destination(_) | Edit::SourcePort(_) | Edit::DestinationPort(_) => {}
        }
    }
}

/// Whether the packet can carry the address: same family, and not an IPv4-mapped one on the wire.
fn fits(address: IpAddr, headers: &Headers) -> bool {
    match address {
        IpAddr::V4(_) => headers.is_ipv4(),
        IpAddr::V6(address) => !headers.is_ipv4() && address.to_ipv4_mapped().is_none(),
    }
}

fn add_address_delta(headers: &Headers, action: &mut Action, delta: u16, covered_by_l4: bool) {
    if headers.is_ipv4() {
        action.l3_delta = checksum::add(action.l3_delta, delta);
    }
    // ICMP over IPv4 has no pseudo header (RFC 792); ICMPv6, TCP and UDP have one. SCTP's CRC covers no address (RFC 9260).
    if covered_by_l4 && !(headers.is_ipv4() && headers.key.protocol == 1) {
        action.l4_delta = checksum::add(action.l4_delta, delta);
    }
}
