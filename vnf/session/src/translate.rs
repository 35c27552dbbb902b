//! From one side's key to the other's: what address translation is.

use std::net::IpAddr;

use throughway_packet::Edit;
use throughway_vnf::Packet;

use crate::key::SessionKey;

/// Edits a packet so that its addresses and ports are those of `to`. Zone and protocol have no part in it.
///
/// A packet with one key of a session leaves with the other one, reversed: source, destination and twice NAT alike.
pub fn translate(packet: &mut Packet<'_>, to: &SessionKey) {
    let address = |octets: &[u8; 16]| IpAddr::from(*octets).to_canonical();
    let now = packet.headers().key;
    if now.source != to.source {
        packet.edit(Edit::Source(address(&to.source)));
    }
    if now.destination != to.destination {
        packet.edit(Edit::Destination(address(&to.destination)));
    }
    if now.source_port != to.source_port {
        packet.edit(Edit::SourcePort(u16::from_be_bytes(to.source_port)));
    }
    // The identifier of an ICMP query stands for both ports: it may be right by now.
    if packet.headers().key.destination_port != to.destination_port {
        packet.edit(Edit::DestinationPort(u16::from_be_bytes(to.destination_port)));
    }
}
