//! One change to a packet, and how it becomes part of an action.

use std::net::IpAddr;

use throughway_shared::action::{Action, Rewrite, VLAN_MASK, edits};
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
    /// Replace all VLAN tags of the frame. The priority stays: that of the outer tag as received, or zero.
    Tags(Tags),
    /// Set the priority (PCP, 0 to 7, IEEE 802.1Q) of every tag that the frame leaves with.
    Priority(u8),
}

/// The VLAN tags of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Tags {
    /// VLAN identifier of the outer tag, 1 to 4094; zero for an untagged frame.
    pub outer: u16,
    /// VLAN identifier of the inner tag, 1 to 4094, always with TPID 0x8100; zero when there is one tag at most.
    pub inner: u16,
    /// The outer tag is 802.1ad's service tag (TPID 0x88a8) instead of 802.1Q's (0x8100).
    pub service: bool,
}

impl Tags {
    /// No tags.
    pub const NONE: Tags = Tags { outer: 0, inner: 0, service: false };

    /// One 802.1Q tag.
    pub const fn one(vlan: u16) -> Tags {
        Tags { outer: vlan, inner: 0, service: false }
    }

    /// An outer and an inner 802.1Q tag.
    pub const fn two(outer: u16, inner: u16) -> Tags {
        Tags { outer, inner, service: false }
    }

    /// The same with an 802.1ad service tag outside.
    #[must_use]
    pub const fn service(self) -> Tags {
        Tags { service: true, ..self }
    }

    /// Without bits that are no identifier, and without an inner tag when there is no outer one.
    const fn masked(self) -> Tags {
        let outer = self.outer & VLAN_MASK;
        if outer == 0 {
            return Tags::NONE;
        }
        Tags { outer, inner: self.inner & VLAN_MASK, service: self.service }
    }

    /// Bytes that they take in a frame.
    const fn len(self) -> u16 {
        4 * ((self.outer != 0) as u16 + (self.inner != 0) as u16)
    }
}

impl Edit {
    /// Records the edit: changes the view (`headers`, what later functions see) and adds to `action` what has to be done to
    /// the bytes. Both tell the same story: executing `action` on the bytes and parsing them again gives the view.
    ///
    /// Once the packet is in a tunnel, edits of the packet are for the outer header: [`Edit::record_all`].
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
            Edit::Tags(tags) => {
                let tags = tags.masked();
                if headers.move_packet(14 + tags.len()) {
                    headers.key.outer_vlan = tags.outer;
                    headers.key.inner_vlan = tags.inner;
                    action.outer_tag = action.outer_tag & !VLAN_MASK | tags.outer;
                    action.inner_tag = tags.inner;
                    action.edits &= !edits::SERVICE_TAG;
                    action.edits |= edits::TAGS | if tags.service { edits::SERVICE_TAG } else { 0 };
                }
            }
            Edit::Priority(priority) => {
                action.outer_tag = action.outer_tag & VLAN_MASK | u16::from(priority & 7) << 13;
                action.edits |= edits::PRIORITY;
            }
            Edit::Source(_) | Edit::Destination(_) | Edit::SourcePort(_) | Edit::DestinationPort(_) => {}
        }
    }

    /// [`Edit::record`] for a packet that may be in a tunnel: then `headers` show the outer header, and that is what is edited.
    pub fn record_all(self, headers: &mut Headers, rewrite: &mut Rewrite) {
        if rewrite.action.has(edits::ENCAPSULATE) {
            let mut next = Action::nothing();
            self.record(headers, &mut next);
            *rewrite = rewrite.then(&next.into());
        } else {
            self.record(headers, &mut rewrite.action);
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
