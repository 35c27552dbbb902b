//! What a chain does to the packets of a flow: one plain value, composed from the edits of all its functions.
//!
//! A worker executes it on the first packet and may execute it again on every later packet of the flow; the XDP program
//! can do the same from the same definition. An action never refers to memory outside itself.

use crate::checksum;

/// Which fields of an [`Action`] hold an edit: a bit set.
pub mod edits {
    /// `source` replaces the source address.
    pub const SOURCE: u16 = 1 << 0;
    /// `destination` replaces the destination address.
    pub const DESTINATION: u16 = 1 << 1;
    /// `source_port` replaces the source port, or the identifier of an ICMP query.
    pub const SOURCE_PORT: u16 = 1 << 2;
    /// `destination_port` replaces the destination port.
    pub const DESTINATION_PORT: u16 = 1 << 3;
    /// `dscp` replaces the six DSCP bits; the ECN bits stay (RFC 2474, RFC 3168).
    pub const DSCP: u16 = 1 << 4;
    /// `ethernet_destination` and `ethernet_source` replace the MAC addresses.
    pub const ETHERNET: u16 = 1 << 5;
    /// `egress` is the port to send to.
    pub const EGRESS: u16 = 1 << 6;
    /// The packet is dropped for the reason in `drop`; nothing else is executed.
    pub const DROP: u16 = 1 << 7;
}

/// The consolidated edits and the egress of one flow: 64 bytes, one cache line.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Action {
    /// Which fields below hold: see [`edits`].
    pub edits: u16,
    /// Egress port of the data plane (an index, not an ifindex).
    pub egress: u16,
    /// Delta to the IPv4 header checksum for all that is known when the action is made: the addresses.
    /// Hop limit and DSCP depend on the packet and are accounted for when the action is executed.
    pub l3_delta: u16,
    /// Delta to the checksum of the upper layer: addresses of the pseudo header, ports, ICMP identifier.
    pub l4_delta: u16,
    /// How much to take off TTL or hop limit.
    pub hops: u8,
    /// The DSCP to set, 0 to 63.
    pub dscp: u8,
    /// The drop reason's number.
    pub drop: u8,
    /// How many functions of the chain judged the packet, from the first on: who is to be credited.
    pub judged: u8,
    /// New source port, network order.
    pub source_port: [u8; 2],
    /// New destination port, network order.
    pub destination_port: [u8; 2],
    /// New destination MAC address.
    pub ethernet_destination: [u8; 6],
    /// New source MAC address.
    pub ethernet_source: [u8; 6],
    /// New source address; IPv4 in its mapped form.
    pub source: [u8; 16],
    /// New destination address; IPv4 in its mapped form.
    pub destination: [u8; 16],
    /// Zero; room for tags.
    pub reserved_tail: [u8; 4],
}

const _: () = assert!(size_of::<Action>() == 64);

impl Action {
    /// The action that changes nothing and sends nowhere: the neutral element of [`Action::then`].
    pub const fn nothing() -> Self {
        Action {
            edits: 0,
            egress: 0,
            l3_delta: 0,
            l4_delta: 0,
            hops: 0,
            dscp: 0,
            drop: 0,
            judged: 0,
            source_port: [0; 2],
            destination_port: [0; 2],
            ethernet_destination: [0; 6],
            ethernet_source: [0; 6],
            source: [0; 16],
            destination: [0; 16],
            reserved_tail: [0; 4],
        }
    }

    /// Whether all of `wanted` (bits of [`edits`]) hold.
    #[inline]
    pub const fn has(&self, wanted: u16) -> bool {
        self.edits & wanted == wanted
    }

    /// This action followed by `next`, as one action. Associative; [`Action::nothing`] is neutral on both sides.
    ///
    /// Later settings win; deltas and hops add up; nothing follows a drop.
    #[must_use]
    pub fn then(mut self, next: &Action) -> Action {
        if self.has(edits::DROP) {
            return self;
        }
        if next.has(edits::SOURCE) {
            self.source = next.source;
        }
        if next.has(edits::DESTINATION) {
            self.destination = next.destination;
        }
        if next.has(edits::SOURCE_PORT) {
            self.source_port = next.source_port;
        }
        if next.has(edits::DESTINATION_PORT) {
            self.destination_port = next.destination_port;
        }
        if next.has(edits::DSCP) {
            self.dscp = next.dscp;
        }
        if next.has(edits::ETHERNET) {
            self.ethernet_destination = next.ethernet_destination;
            self.ethernet_source = next.ethernet_source;
        }
        if next.has(edits::EGRESS) {
            self.egress = next.egress;
        }
        if next.has(edits::DROP) {
            self.drop = next.drop;
        }
        self.l3_delta = checksum::add(self.l3_delta, next.l3_delta);
        self.l4_delta = checksum::add(self.l4_delta, next.l4_delta);
        self.hops = self.hops.saturating_add(next.hops);
        self.judged = self.judged.saturating_add(next.judged);
        self.edits |= next.edits;
        self
    }
}
