//! The outer header that an action may put before a packet.
//!
//! It is apart from the [`Action`], as few flows need it: an action stays one cache line.

use crate::action::{Action, edits};

/// What is put between the outer IP header and the packet: see [`Tunnel::kind`].
pub mod kind {
    /// No tunnel.
    pub const NONE: u8 = 0;
    /// Nothing: IP in IP (RFC 2003, RFC 2473, RFC 4213).
    pub const IP: u8 = 1;
    /// UDP, and the packet directly in it: Generic UDP Encapsulation, variant 1 (draft-ietf-intarea-gue, section 4).
    pub const GUE: u8 = 2;
    /// UDP, VXLAN and an Ethernet header (RFC 7348). Nothing makes or executes it yet.
    pub const VXLAN: u8 = 3;
}

/// Bit of [`Tunnel::flags`]: the outer header has DF set, whatever the packet has.
pub const DONT_FRAGMENT: u8 = 1 << 0;
/// Bit of [`Tunnel::flags`]: the outer DSCP is `dscp`, else it is the packet's own.
pub const DSCP: u8 = 1 << 1;
/// Bit of [`Tunnel::flags`]: the outer UDP source port is `source_port`, else it comes from the packet's flow.
pub const SOURCE_PORT: u8 = 1 << 2;

/// An outer header: 64 bytes, one cache line.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tunnel {
    /// See [`kind`].
    pub kind: u8,
    /// Family of the outer header: [`FAMILY_IPV4`](crate::flow::FAMILY_IPV4) or
    /// [`FAMILY_IPV6`](crate::flow::FAMILY_IPV6).
    pub family: u8,
    /// TTL or hop limit of the outer header.
    pub hop_limit: u8,
    /// DSCP of the outer header, 0 to 63; valid with [`DSCP`].
    pub dscp: u8,
    /// See [`DONT_FRAGMENT`], [`DSCP`] and [`SOURCE_PORT`].
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// Outer source address; IPv4 in its mapped form.
    pub source: [u8; 16],
    /// Outer destination address; IPv4 in its mapped form.
    pub destination: [u8; 16],
    /// UDP source port, network order; valid with [`SOURCE_PORT`].
    pub source_port: [u8; 2],
    /// UDP destination port, network order.
    pub destination_port: [u8; 2],
    /// VXLAN network identifier, network order.
    pub vni: [u8; 4],
    /// Destination of the inner Ethernet header (VXLAN).
    pub ethernet_destination: [u8; 6],
    /// Source of the inner Ethernet header (VXLAN).
    pub ethernet_source: [u8; 6],
    /// Zero.
    pub reserved_tail: [u8; 4],
}

const _: () = assert!(size_of::<Tunnel>() == 64);

impl Tunnel {
    /// No tunnel: all zeros.
    pub const fn none() -> Self {
        Tunnel {
            kind: kind::NONE,
            family: 0,
            hop_limit: 0,
            dscp: 0,
            flags: 0,
            reserved: [0; 3],
            source: [0; 16],
            destination: [0; 16],
            source_port: [0; 2],
            destination_port: [0; 2],
            vni: [0; 4],
            ethernet_destination: [0; 6],
            ethernet_source: [0; 6],
            reserved_tail: [0; 4],
        }
    }

    /// The tunnel after the edits of the packet in `action`, which are for the outer header.
    #[must_use]
    pub fn edited(mut self, action: &Action) -> Tunnel {
        if action.has(edits::SOURCE) {
            self.source = action.source;
        }
        if action.has(edits::DESTINATION) {
            self.destination = action.destination;
        }
        if action.has(edits::SOURCE_PORT) {
            self.source_port = action.source_port;
            self.flags |= SOURCE_PORT;
        }
        if action.has(edits::DESTINATION_PORT) {
            self.destination_port = action.destination_port;
        }
        if action.has(edits::DSCP) {
            self.dscp = action.dscp;
            self.flags |= DSCP;
        }
        self.hop_limit = self.hop_limit.saturating_sub(action.hops);
        self
    }
}
