//! The decision: where a frame of an interface of ours goes, and why.
//!
//! Pure: frame and host are behind [`View`], so the same code runs in the kernel and in a test on the build machine.
//! The order of the questions is the order of this file. Header layouts: IEEE 802.3 and 802.1Q, RFC 791, RFC 8200,
//! RFC 4443, RFC 4861.

use throughway_shared::steer::{CLAIMED, FAIL_CLOSED, Interface, MAX_QUEUES, Reason, TAGGED_ONLY, Vlan};

// The types below hold header fields as they lie in the frame, so `to_ne_bytes` gives network order. They are made of
// words because the BPF target moves bytes one by one, and of 8-byte ones where it would otherwise join two words into an
// access to the stack that is not aligned: the verifier refuses those.

/// An address; IPv4 in its mapped form (RFC 4291, section 2.5.5.2). Bytes as in `steer::LocalAddress`.
pub(crate) type Address = [u64; 2];

/// Addresses (source, destination) and ports (source, destination) of an IPv4 packet, without gaps.
#[repr(C, align(8))]
pub(crate) struct Tuple4 {
    /// Source and destination address.
    pub(crate) addresses: [u32; 2],
    /// Source and destination port.
    pub(crate) ports: u32,
}

/// Addresses (source, destination) and ports (source, destination) of an IPv6 packet, without gaps.
#[repr(C)]
pub(crate) struct Tuple6 {
    /// Source and destination address.
    pub(crate) addresses: [u64; 4],
    /// Source and destination port.
    pub(crate) ports: u32,
}

/// A transport protocol whose local sockets can be looked up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// TCP: listening sockets and every state of a connection.
    Tcp,
    /// UDP: connected and unconnected sockets.
    Udp,
}

/// What can be seen of a frame and of the host that received it.
pub(crate) trait View {
    /// The `N` bytes at `at` from the start of the frame; `None` when it is shorter.
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]>;
    /// The `N` words at `at` from the start of the frame; `None` when it is shorter.
    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]>;
    /// The `N` double words at `at` from the start of the frame; `None` when it is shorter.
    fn double_words<const N: usize>(&self, at: usize) -> Option<[u64; N]>;
    /// What is known of the VLAN with these tags (`inner` is zero when there is one) of the device the frame came in on, if an
    /// interface of ours is that VLAN.
    fn vlan(&self, outer: u16, inner: u16) -> Option<Vlan>;
    /// The flags of `address`, if it is one of the host's own.
    fn local_address(&self, address: &Address) -> Option<u32>;
    /// Whether a local socket takes what is sent from the source to the destination of `tuple`.
    fn local_socket4(&self, transport: Transport, tuple: &Tuple4) -> bool;
    /// Whether a local socket takes what is sent from the source to the destination of `tuple`.
    fn local_socket6(&self, transport: Transport, tuple: &Tuple6) -> bool;
    /// Whether a worker is bound to `queue`, its socket being in `slot`.
    fn has_worker(&self, slot: u32, queue: u32) -> bool;
}

/// Bytes of a frame's own header.
pub(crate) const ETHERNET: usize = 14;
/// Bytes of a tag.
pub(crate) const TAG: usize = 4;
/// The bits of a tag that are the VLAN's identifier.
const VLAN_MASK: u16 = 0x0fff;
/// Where BOOTP starts in IPv4 without options: behind that header and UDP's.
const BOOTP: usize = 20 + 8;
/// EtherTypes (IEEE 802).
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
/// See [`ETHERTYPE_IPV4`].
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_8021Q: u16 = 0x8100;
const ETHERTYPE_8021AD: u16 = 0x88a8;
const ETHERTYPE_OLD_QINQ: u16 = 0x9100;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const ICMP: u8 = 1;
/// Types of ICMP (RFC 792) and ICMPv6 (RFC 4443).
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

/// Where a frame received on `queue` of the device of `interface` goes, and the number of the interface that it is counted at.
#[inline(always)]
pub(crate) fn classify<V: View>(view: &V, interface: &Interface, queue: u32) -> (u32, Reason) {
    let (number, reason) = claim(view, interface);
    if reason as u32 != Reason::ToWorker as u32 {
        return (number, reason);
    }
    let reason = if queue < MAX_QUEUES && view.has_worker(interface.first_socket + queue, queue) {
        Reason::ToWorker
    } else if interface.flags & FAIL_CLOSED == 0 {
        Reason::NoSocketPass
    } else {
        Reason::NoSocketDrop
    };
    (number, reason)
}

/// Whether the frame is a chain's, regardless of whether a worker is there to take it; and whose it is.
#[inline(always)]
fn claim<V: View>(view: &V, interface: &Interface) -> (u32, Reason) {
    let number = interface.number;
    let Some([d0, d1, d2, d3, d4, d5, .., t0, t1]) = view.bytes::<ETHERNET>(0) else {
        return (number, Reason::Truncated);
    };
    let destination = [d0, d1, d2, d3, d4, d5];
    let ethertype = u16::from_be_bytes([t0, t1]);
    if is_tag(ethertype) {
        return tagged(view, number, &destination);
    }
    let reason = if destination != interface.mac {
        Reason::OtherMac
    } else if interface.flags & TAGGED_ONLY != 0 {
        Reason::UnclaimedVlan
    } else {
        packet(view, ETHERNET, ethertype, &interface.mac)
    };
    (number, reason)
}

/// Whether an EtherType announces a tag.
#[inline(always)]
pub(crate) fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, ETHERTYPE_8021Q | ETHERTYPE_8021AD | ETHERTYPE_OLD_QINQ)
}

/// A frame with one tag or two; those with more are nobody's. What no VLAN of ours claims is counted at `number`.
#[inline(always)]
fn tagged<V: View>(view: &V, number: u32, destination: &[u8; 6]) -> (u32, Reason) {
    let Some([c0, c1, t0, t1]) = view.bytes::<TAG>(ETHERNET) else {
        return (number, Reason::Truncated);
    };
    let outer = u16::from_be_bytes([c0, c1]) & VLAN_MASK;
    let ethertype = u16::from_be_bytes([t0, t1]);
    if !is_tag(ethertype) {
        return of_vlan(view, number, destination, (outer, 0), ETHERNET + TAG, ethertype);
    }
    let Some([c0, c1, t0, t1]) = view.bytes::<TAG>(ETHERNET + TAG) else {
        return (number, Reason::Truncated);
    };
    let inner = u16::from_be_bytes([c0, c1]) & VLAN_MASK;
    let ethertype = u16::from_be_bytes([t0, t1]);
    // A priority tag inside is none: as `parse` and the flow key see it.
    of_vlan(view, number, destination, (outer, inner), ETHERNET + 2 * TAG, ethertype)
}

/// A frame of a VLAN, whose packet starts at `l3`.
#[inline(always)]
fn of_vlan<V: View>(
    view: &V,
    number: u32,
    destination: &[u8; 6],
    tags: (u16, u16),
    l3: usize,
    ethertype: u16,
) -> (u32, Reason) {
    let Some(vlan) = view.vlan(tags.0, tags.1) else {
        return (number, Reason::UnclaimedVlan);
    };
    if *destination != vlan.mac {
        return (vlan.number, Reason::OtherMac);
    }
    (vlan.number, packet(view, l3, ethertype, &vlan.mac))
}

/// The packet that starts at `l3`, on an interface with the address `mac`.
#[inline(always)]
fn packet<V: View>(view: &V, l3: usize, ethertype: u16, mac: &[u8; 6]) -> Reason {
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(view, l3, mac),
        ETHERTYPE_IPV6 => ipv6(view, l3),
        _ => Reason::NotIp,
    }
}

#[inline(always)]
fn ipv4<V: View>(view: &V, l3: usize, mac: &[u8; 6]) -> Reason {
    let Some([first, fragment, protocol, source, destination]) = view.words::<5>(l3) else {
        return Reason::Truncated;
    };
    match destination.to_ne_bytes() {
        // Groups, "this network" (RFC 1122, section 3.2.1.3) and limited broadcast.
        [224..=239, ..] | [0, ..] | [255, 255, 255, 255] => return Reason::Multicast,
        // RFC 3927, section 7: never forwarded.
        [169, 254, ..] => return Reason::LinkLocal,
        _ => {}
    }
    let mapped = u64::from_be(0xffff << 32 | u64::from(u32::from_be(destination)));
    let Some(flags) = view.local_address(&[0, mapped]) else {
        if is_dhcp_reply(view, l3, mac, first, fragment, protocol) {
            return Reason::DhcpReply;
        }
        return Reason::ToWorker;
    };
    if flags & CLAIMED == 0 {
        return Reason::LocalAddress;
    }
    let protocol = protocol.to_ne_bytes()[1];
    let transport = transport(protocol);
    if transport.is_none() && protocol != ICMP {
        return Reason::ToWorker;
    }
    // A fragment has no ports or is not all of its packet: whether a socket owns it is known after reassembly only.
    // So everything but the identification, the reserved bit and "don't fragment" must be zero.
    let length = (first.to_ne_bytes()[0] & 0x0f) as usize * 4;
    if u32::from_be(fragment) & 0x3fff != 0 || length < 20 {
        return Reason::ToWorker;
    }
    let Some([ports]) = view.words::<1>(l3 + length) else {
        return Reason::Truncated;
    };
    let Some(transport) = transport else {
        return asked(ports.to_ne_bytes()[0] == ECHO_REQUEST);
    };
    owner(view.local_socket4(transport, &Tuple4 { addresses: [source, destination], ports }))
}

/// Whether this is a DHCP reply to the interface itself (RFC 2131): servers send offers to the offered address, which is
/// not the host's yet. Replies to other clients, forwarded by this box, name another hardware address.
///
/// `first`, `fragment` and `protocol` are the first three words of the IPv4 header.
#[inline(always)]
fn is_dhcp_reply<V: View>(
    view: &V,
    l3: usize,
    mac: &[u8; 6],
    first: u32,
    fragment: u32,
    protocol: u32,
) -> bool {
    // Only headers without options and whole packets: a DHCP server sends no others.
    if protocol.to_ne_bytes()[1] != UDP
        || first.to_ne_bytes()[0] != 0x45
        || u32::from_be(fragment) & 0x3fff != 0
    {
        return false;
    }
    // Words, because of bytes the compiler joins some before it has looked whether they are there.
    let (Some([ports]), Some([bootp])) = (view.words::<1>(l3 + 20), view.words::<1>(l3 + BOOTP)) else {
        return false;
    };
    // BOOTREPLY, Ethernet, six bytes of hardware address (RFC 951, section 3); the fourth byte counts relays.
    if ports.to_ne_bytes() != [0, 67, 0, 68] || u32::from_be(bootp) >> 8 != 0x02_01_06 {
        return false;
    }
    let (Some([front]), Some([back])) = (view.words::<1>(l3 + BOOTP + 28), view.words::<1>(l3 + BOOTP + 30))
    else {
        return false;
    };
    let [m0, m1, m2, m3, m4, m5] = *mac;
    front == u32::from_ne_bytes([m0, m1, m2, m3]) && back == u32::from_ne_bytes([m2, m3, m4, m5])
}

#[inline(always)]
fn ipv6<V: View>(view: &V, l3: usize) -> Reason {
    let Some([first, s0, s1, d0, d1]) = view.double_words::<5>(l3) else {
        return Reason::Truncated;
    };
    match d0.to_ne_bytes() {
        [0xff, ..] => return Reason::Multicast,
        [0xfe, 0x80..=0xbf, ..] => return Reason::LinkLocal,
        _ => {}
    }
    let [.., protocol, _] = first.to_ne_bytes();
    if protocol == ICMPV6 {
        match view.bytes::<1>(l3 + 40) {
            // Router and neighbour discovery, redirects (RFC 4861, section 4): sent to global addresses, too.
            Some([133..=137]) => return Reason::LinkLocal,
            Some(_) => {}
            None => return Reason::Truncated,
        }
    }
    let Some(flags) = view.local_address(&[d0, d1]) else {
        return Reason::ToWorker;
    };
    if flags & CLAIMED == 0 {
        return Reason::LocalAddress;
    }
    // Behind extension headers, the fragment header among them, no socket is looked for.
    let transport = transport(protocol);
    if transport.is_none() && protocol != ICMPV6 {
        return Reason::ToWorker;
    }
    let Some([ports]) = view.words::<1>(l3 + 40) else {
        return Reason::Truncated;
    };
    let Some(transport) = transport else {
        return asked(ports.to_ne_bytes()[0] == ECHO_REQUEST_V6);
    };
    owner(view.local_socket6(transport, &Tuple6 { addresses: [s0, s1, d0, d1], ports }))
}

/// Whose an ICMP message is to an address of the host that a function claims: the host answers pings itself, all else may be about
/// what the function sends.
#[inline(always)]
fn asked(echo_request: bool) -> Reason {
    if echo_request { Reason::LocalAddress } else { Reason::ToWorker }
}

/// The protocols of which sockets can be looked up.
#[inline(always)]
fn transport(protocol: u8) -> Option<Transport> {
    match protocol {
        TCP => Some(Transport::Tcp),
        UDP => Some(Transport::Udp),
        _ => None,
    }
}

/// Whose a packet is to an address of the host that a function claims.
#[inline(always)]
fn owner(local_socket: bool) -> Reason {
    if local_socket { Reason::LocalSocket } else { Reason::ToWorker }
}
