//! What is known of a packet after parsing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use throughway_shared::flow::{FAMILY_IPV4, FlowKey};

/// A port of the data plane: the index of an interface in the configuration's order. Not an ifindex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PortId(pub u16);

impl PortId {
    /// The index as a `usize`, for tables with one row per port.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Facts about a packet that decide its way: a bit set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags(pub u16);

impl Flags {
    /// A fragment of a datagram: first, middle or last. Not an atomic fragment (RFC 6946), which is the whole.
    pub const FRAGMENT: Flags = Flags(1 << 0);
    /// A fragment with an offset: it has no upper-layer header.
    pub const LATER_FRAGMENT: Flags = Flags(1 << 1);
    /// IPv4 options, or an IPv6 hop-by-hop or routing header.
    pub const OPTIONS: Flags = Flags(1 << 2);
    /// An ICMP or ICMPv6 error, which carries a part of the packet it is about.
    pub const ICMP_ERROR: Flags = Flags(1 << 3);
    /// An ICMP or ICMPv6 echo request or reply (or another query that carries an identifier).
    pub const ICMP_QUERY: Flags = Flags(1 << 4);
    /// The upper layer has ports (TCP, UDP, SCTP) and the packet holds them.
    pub const PORTS: Flags = Flags(1 << 5);
    /// IPv4 with DF set. IPv6 packets have it always: routers do not fragment them (RFC 8200, section 5).
    pub const DONT_FRAGMENT: Flags = Flags(1 << 6);
    /// UDP without a checksum (RFC 768; over IPv6 only some tunnels may, RFC 6935): it stays zero when the packet is edited.
    pub const UDP_NO_CHECKSUM: Flags = Flags(1 << 7);
    /// TCP with SYN, FIN or RST set: a change of the connection's state.
    pub const TCP_CONTROL: Flags = Flags(1 << 8);
    /// The packet has a 16-bit upper-layer checksum, and its field lies inside the packet.
    pub const L4_CHECKSUM: Flags = Flags(1 << 9);
    /// A source route (IPv4 option or IPv6 routing header) is not used up: the final destination, which upper-layer
    /// checksums cover, is not the one in the IP header. Always with [`Flags::OPTIONS`].
    pub const SOURCE_ROUTED: Flags = Flags(1 << 10);

    /// Whether all bits of `wanted` are set.
    #[inline]
    pub const fn has(self, wanted: Flags) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// Whether any bit of `wanted` is set.
    #[inline]
    pub const fn any(self, wanted: Flags) -> bool {
        self.0 & wanted.0 != 0
    }
}

impl std::ops::BitOr for Flags {
    type Output = Flags;
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Flags) {
        self.0 |= other.0;
    }
}

/// A parsed packet: offsets into its frame, its flow key and the fields that functions read.
///
/// All offsets count bytes from the start of the frame. `l2 ≤ l3 ≤ l4 ≤ end ≤ frame length` always holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Headers {
    /// The flow, as the packet came in (or, in the view that functions get, as edited so far).
    pub key: FlowKey,
    /// See [`Flags`].
    pub flags: Flags,
    /// Where the IP header starts.
    pub l3: u16,
    /// Where the upper-layer header starts (after IPv4 options and IPv6 extension headers); `end` if there is none.
    pub l4: u16,
    /// Where the IP packet ends; what follows in the frame is Ethernet padding.
    pub end: u16,
    /// Where a 16-bit upper-layer checksum lies (TCP, UDP, ICMP, ICMPv6); valid with [`Flags::L4_CHECKSUM`].
    pub l4_checksum: u16,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// IPv4 TOS or IPv6 traffic class: DSCP in the upper six bits, ECN in the lower two.
    pub traffic_class: u8,
    /// The flags byte of the TCP header (RFC 9293: CWR ECE URG ACK PSH RST SYN FIN), or zero.
    pub tcp_flags: u8,
    /// ICMP or ICMPv6 type, or zero.
    pub icmp_type: u8,
    /// ICMP or ICMPv6 code, or zero.
    pub icmp_code: u8,
}

impl Headers {
    /// Whether the packet is IPv4 (else it is IPv6).
    #[inline]
    pub const fn is_ipv4(&self) -> bool {
        self.key.family == FAMILY_IPV4
    }

    /// The port it came in on.
    #[inline]
    pub const fn ingress(&self) -> PortId {
        PortId(self.key.ingress)
    }

    /// Source address.
    #[inline]
    pub fn source(&self) -> IpAddr {
        address(self.is_ipv4(), &self.key.source)
    }

    /// Destination address.
    #[inline]
    pub fn destination(&self) -> IpAddr {
        address(self.is_ipv4(), &self.key.destination)
    }

    /// Source port in host order, or the identifier of an ICMP query, or zero.
    #[inline]
    pub const fn source_port(&self) -> u16 {
        u16::from_be_bytes(self.key.source_port)
    }

    /// Destination port in host order, or the identifier of an ICMP query, or zero.
    #[inline]
    pub const fn destination_port(&self) -> u16 {
        u16::from_be_bytes(self.key.destination_port)
    }

    /// Differentiated services code point (RFC 2474), 0 to 63.
    #[inline]
    pub const fn dscp(&self) -> u8 {
        self.traffic_class >> 2
    }

    /// Length of the IP packet in bytes, without the link layer: what is compared with an MTU.
    #[inline]
    pub const fn packet_len(&self) -> u16 {
        self.end - self.l3
    }

    /// Moves the packet in the frame, so that the IP header starts at `l3`. Returns `false`, and changes nothing, when it
    /// would end beyond what offsets can say.
    #[must_use]
    pub(crate) fn move_packet(&mut self, l3: u16) -> bool {
        let moved = |at: u16| (at - self.l3).checked_add(l3);
        let (Some(l4), Some(end)) = (moved(self.l4), moved(self.end)) else { return false };
        // Zero when there is no such field.
        if self.l4_checksum != 0 {
            self.l4_checksum = self.l4_checksum - self.l3 + l3;
        }
        (self.l3, self.l4, self.end) = (l3, l4, end);
        true
    }
}

fn address(ipv4: bool, bytes: &[u8; 16]) -> IpAddr {
    if ipv4 {
        let [.., a, b, c, d] = *bytes;
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    } else {
        IpAddr::V6(Ipv6Addr::from(*bytes))
    }
}

/// An address in the 16-byte form of keys and actions.
#[inline]
pub fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => throughway_shared::flow::mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}
