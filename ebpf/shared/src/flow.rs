//! The key of a flow: packets of one 5-tuple in one direction, as they enter.

/// IPv4 addresses are kept in 16 bytes in their IPv4-mapped form (RFC 4291, section 2.5.5.2).
pub const MAPPED_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// An IPv4 address (network order) in the 16-byte form used by every key and action.
#[inline]
pub const fn mapped(address: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The family of a flow, as written in [`FlowKey::family`].
pub const FAMILY_IPV4: u8 = 4;
/// See [`FAMILY_IPV4`].
pub const FAMILY_IPV6: u8 = 6;

/// A flow as it enters: ingress, tags and 5-tuple. 44 bytes, no padding, so that it can be hashed and compared as bytes.
///
/// Ports are those of TCP, UDP, SCTP; for ICMP and ICMPv6 queries both hold the identifier;
/// everything else (ICMP errors, other protocols, fragments after the first) has zeros.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowKey {
    /// Source address; IPv4 in its mapped form.
    pub source: [u8; 16],
    /// Destination address; IPv4 in its mapped form.
    pub destination: [u8; 16],
    /// Source port, network order.
    pub source_port: [u8; 2],
    /// Destination port, network order.
    pub destination_port: [u8; 2],
    /// The port of the data plane (an index, not an ifindex) on which the packet came in.
    pub ingress: u16,
    /// VLAN identifier of the outer tag (12 bits), or 0 when untagged.
    pub outer_vlan: u16,
    /// VLAN identifier of the inner tag (12 bits), or 0 when there is none.
    pub inner_vlan: u16,
    /// The upper-layer protocol (IANA number) after IPv6 extension headers.
    pub protocol: u8,
    /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`].
    pub family: u8,
}

const _: () = assert!(size_of::<FlowKey>() == 44);
