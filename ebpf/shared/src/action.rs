//! What a chain does to the packets of a flow: one plain value, composed from the edits of all its functions.
//!
//! A worker executes it on the first packet and may execute it again on every later packet of the flow; the XDP program
//! can do the same from the same definition. An action never refers to memory outside itself.

use crate::checksum;
use crate::tunnel::Tunnel;

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
    /// `outer_tag` and `inner_tag` replace whatever VLAN tags the frame has.
    pub const TAGS: u16 = 1 << 8;
    /// With [`TAGS`]: the outer tag is an 802.1ad service tag (TPID 0x88a8), else it is 802.1Q's (0x8100).
    pub const SERVICE_TAG: u16 = 1 << 9;
    /// The upper three bits of `outer_tag` are the priority (PCP) of every tag that the frame leaves with.
    pub const PRIORITY: u16 = 1 << 10;
    /// The IP header is taken off, down to the IP packet in it; the edits are for that packet.
    pub const DECAPSULATE: u16 = 1 << 11;
    /// After the other edits the packet is put into the [`Tunnel`](crate::tunnel::Tunnel) that belongs to the action.
    pub const ENCAPSULATE: u16 = 1 << 12;
    /// The edits were more than one action can hold: two headers put on, two taken off, or one put on and then taken off.
    /// Nothing can be executed.
    pub const TOO_DEEP: u16 = 1 << 13;

    /// Edits of the IP packet: those of its headers that a tunnel hides.
    pub const PACKET: u16 = SOURCE | DESTINATION | SOURCE_PORT | DESTINATION_PORT | DSCP;
    /// Edits by which a frame may become longer or shorter at its front.
    pub const FRONT: u16 = TAGS | PRIORITY | DECAPSULATE | ENCAPSULATE | TOO_DEEP;
}

/// The bits of a tag that are the VLAN identifier.
pub const VLAN_MASK: u16 = 0x0fff;

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
    /// The outer VLAN identifier in the lower twelve bits, host order; zero is no tag at all. With
    /// [`PRIORITY`](edits::PRIORITY), PCP in the upper three bits.
    pub outer_tag: u16,
    /// The inner VLAN identifier, host order; zero is none.
    pub inner_tag: u16,
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
            outer_tag: 0,
            inner_tag: 0,
        }
    }

    /// Whether all of `wanted` (bits of [`edits`]) hold.
    #[inline]
    pub const fn has(&self, wanted: u16) -> bool {
        self.edits & wanted == wanted
    }

    /// This action followed by `next`, as one action. Associative; [`Action::nothing`] is neutral on both sides.
    ///
    /// Later settings win; deltas and hops add up; nothing follows a drop. Edits of the packet that follow an encapsulation
    /// are for the outer header, which is in the [`Tunnel`]: [`Rewrite::then`] takes care of both. Edits that precede a
    /// decapsulation are for the header that goes away.
    #[must_use]
    pub fn then(mut self, next: &Action) -> Action {
        if self.has(edits::DROP) {
            return self;
        }
        let judged = self.judged.saturating_add(next.judged);
        if self.is_too_deep_with(next) {
            return Action { edits: edits::TOO_DEEP, judged, ..Action::nothing() };
        }
        if next.has(edits::DECAPSULATE) {
            self.forget_packet();
        }
        if !self.has(edits::ENCAPSULATE) {
            self.follow_packet(next);
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
        if next.has(edits::TAGS) {
            self.outer_tag = self.outer_tag & !VLAN_MASK | next.outer_tag & VLAN_MASK;
            self.inner_tag = next.inner_tag;
            self.edits &= !edits::SERVICE_TAG;
        }
        if next.has(edits::PRIORITY) {
            self.outer_tag = self.outer_tag & VLAN_MASK | next.outer_tag & !VLAN_MASK;
        }
        self.judged = judged;
        self.edits |= next.edits & !edits::PACKET;
        self
    }

    /// Whether both together need more than one header taken off and then one put on. What is refused stays refused with
    /// whatever comes before or after, which makes composition associative.
    const fn is_too_deep_with(&self, next: &Action) -> bool {
        let tunnels = edits::DECAPSULATE | edits::ENCAPSULATE;
        (self.edits | next.edits) & edits::TOO_DEEP != 0
            || self.has(edits::ENCAPSULATE) && next.edits & tunnels != 0
            || self.has(edits::DECAPSULATE) && next.has(edits::DECAPSULATE)
    }

    /// Takes back the edits of the packet.
    fn forget_packet(&mut self) {
        let nothing = Action::nothing();
        self.edits &= !edits::PACKET;
        self.l3_delta = 0;
        self.l4_delta = 0;
        self.hops = 0;
        self.dscp = 0;
        self.source_port = nothing.source_port;
        self.destination_port = nothing.destination_port;
        self.source = nothing.source;
        self.destination = nothing.destination;
    }

    /// Adds the edits of the packet that `next` holds.
    fn follow_packet(&mut self, next: &Action) {
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
        self.l3_delta = checksum::add(self.l3_delta, next.l3_delta);
        self.l4_delta = checksum::add(self.l4_delta, next.l4_delta);
        self.hops = self.hops.saturating_add(next.hops);
        self.edits |= next.edits & edits::PACKET;
    }
}

/// An action with the tunnel that belongs to it: all that a chain can do to a packet. Two cache lines, of which the second
/// means something only to an action that encapsulates.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rewrite {
    /// What is done to the packet as it came in, and to its frame.
    pub action: Action,
    /// What it is put into; all zeros without [`edits::ENCAPSULATE`].
    pub tunnel: Tunnel,
}

impl Rewrite {
    /// Changes nothing: the neutral element of [`Rewrite::then`].
    pub const fn nothing() -> Self {
        Rewrite { action: Action::nothing(), tunnel: Tunnel::none() }
    }

    /// This rewrite followed by `next`, as one. Associative; [`Rewrite::nothing`] is neutral on both sides.
    #[must_use]
    pub fn then(self, next: &Rewrite) -> Rewrite {
        if self.action.has(edits::DROP) {
            return self;
        }
        let action = self.action.then(&next.action);
        let tunnel = if action.has(edits::TOO_DEEP) {
            Tunnel::none()
        } else if self.action.has(edits::ENCAPSULATE) {
            self.tunnel.edited(&next.action)
        } else {
            next.tunnel
        };
        Rewrite { action, tunnel }
    }
}

impl From<Action> for Rewrite {
    /// For an action that does not encapsulate.
    fn from(action: Action) -> Self {
        Rewrite { action, tunnel: Tunnel::none() }
    }
}
