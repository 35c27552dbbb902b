//! The fast path: packets of flows that a worker handed over are executed here and never leave the driver.
//!
//! Which packets: exactly those that the workers' flow cache takes (`vnf/flow/src/peek.rs`, and the conditions of its
//! lookup). What is done to them: exactly what `throughway_packet::apply` does. A test holds both together
//! (`dataplane/tests/fast_differential.rs`). Whatever is in doubt goes up to the worker as it came.
//!
//! * This file: is the packet a common one, is its flow here and still true, and where does it go.
//! * [`crate::flows`]: the memory that is shared with the workers. [`crate::rewrite`]: the bytes.

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use throughway_shared::{
    action::edits,
    fast::{self, halves},
    flow::{FAMILY_IPV4, FAMILY_IPV6},
    steer::{FAST, Interface, Reason, TAGGED_ONLY},
};

use crate::{
    door,
    flows::{Found, Region},
    maps, rewrite,
};

/// Destination, source and type of a frame, as they lie there.
#[repr(C, packed)]
pub(crate) struct Ethernet {
    /// Destination and source.
    pub(crate) addresses: [u32; 3],
    /// What follows.
    pub(crate) kind: u16,
}

/// The first eight bytes of TCP and UDP: words as they lie there; of TCP the last four are the sequence number.
#[repr(C, packed)]
pub(crate) struct Upper {
    /// Source and destination port.
    pub(crate) ports: u32,
    /// UDP: the length of header and payload.
    pub(crate) length: u16,
    /// UDP: the checksum.
    pub(crate) checksum: u16,
}

/// The rest of a TCP header without options.
#[repr(C, packed)]
pub(crate) struct TcpRest {
    /// The number acknowledged.
    acknowledged: u32,
    /// Length of the header in words, in the upper four bits.
    offset: u8,
    /// What kind of segment it is.
    flags: u8,
    window: u16,
    /// The checksum.
    pub(crate) checksum: u16,
    urgent: u16,
}

/// A frame with IPv4, no options, and what is above it. Words as they lie there.
#[repr(C, packed)]
pub(crate) struct Frame4 {
    /// The frame's own header.
    pub(crate) ethernet: Ethernet,
    /// Version and header length, DSCP and ECN, length.
    pub(crate) first: u32,
    /// Identification, flags, fragment offset.
    second: u32,
    /// TTL, protocol, checksum.
    pub(crate) third: u32,
    /// Source and destination.
    pub(crate) addresses: [u32; 2],
    /// The upper layer.
    pub(crate) upper: Upper,
}

/// A frame with IPv6, no extension headers, and what is above it. Words as they lie there.
#[repr(C, packed)]
pub(crate) struct Frame6 {
    /// The frame's own header.
    pub(crate) ethernet: Ethernet,
    /// Version, traffic class, flow label.
    pub(crate) first: u32,
    /// Length of the payload, next header, hop limit.
    pub(crate) second: u32,
    /// Source and destination.
    pub(crate) addresses: [u64; 4],
    /// The upper layer.
    pub(crate) upper: Upper,
}

/// Bytes before the upper layer.
const L4_IPV4: usize = 34;
/// See [`L4_IPV4`].
const L4_IPV6: usize = 54;
/// EtherTypes as they lie in a frame.
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();
const TCP: u8 = 6;
const UDP: u8 = 17;
/// FIN, SYN and RST in TCP's flags byte.
const TCP_CONTROL: u8 = 0x07;

/// Executes the frame that `interface` received on `queue`, if it is of a flow that is here and may be executed: why, and
/// the action to return. `None`: it was not touched, and is to be judged as if there were no fast path.
#[inline(always)]
pub(crate) fn run(context: &XdpContext, interface: &Interface, queue: u32) -> Option<(Reason, u32)> {
    let region = Region::of(queue)?;
    if interface.flags & (FAST | TAGGED_ONLY) != FAST {
        return None;
    }
    let ethernet: &Ethernet = door::at(context, 0)?;
    let [m0, m1, m2, m3, m4, m5] = interface.mac;
    let [front, middle, _] = ethernet.addresses;
    let [b0, b1, ..] = middle.to_ne_bytes();
    if front != u32::from_ne_bytes([m0, m1, m2, m3]) || (b0, b1) != (m4, m5) {
        return None;
    }
    match ethernet.kind {
        IPV4 => ipv4(context, interface, region),
        IPV6 => ipv6(context, interface, region),
        _ => None,
    }
}

#[inline(always)]
fn ipv4(context: &XdpContext, interface: &Interface, region: Region) -> Option<(Reason, u32)> {
    let frame: &mut Frame4 = door::at_mut(context, 0)?;
    let ([_, _, l0, l1], [hop_limit, protocol, ..]) = (frame.first.to_ne_bytes(), frame.third.to_ne_bytes());
    let [source, destination] = frame.addresses;
    // Header words are added in the machine's own byte order, which serves (RFC 1071, section 2).
    let words = [frame.first, frame.second, frame.third, source, destination];
    let [w0, w1, w2, w3, w4] = words.map(u64::from);
    // Identification, the reserved bit and "don't fragment" are no matter.
    let whole = u32::from_be(frame.second) & 0x3fff == 0;
    let [version, ..] = frame.first.to_ne_bytes();
    if version != 0x45 || !whole || hop_limit <= 1 || fold(w0 + w1 + w2 + w3 + w4) != 0xffff {
        return None;
    }
    let len = u16::from_be_bytes([l0, l1]);
    let payload = usize::from(len).checked_sub(20)?;
    let tcp = upper(context, L4_IPV4, &frame.upper, payload, protocol)?;
    let key = self::key(interface, protocol, FAMILY_IPV4);
    let found = region.find4(halves(source, destination), frame.upper.ports, key)?;
    finish(context, &found, len, hop_limit, || rewrite::ipv4(frame, tcp, &found))
}

#[inline(always)]
fn ipv6(context: &XdpContext, interface: &Interface, region: Region) -> Option<(Reason, u32)> {
    let frame: &mut Frame6 = door::at_mut(context, 0)?;
    let [version, ..] = frame.first.to_ne_bytes();
    let [l0, l1, protocol, hop_limit] = frame.second.to_ne_bytes();
    let addresses = frame.addresses;
    let [s0, s1, d0, d1] = addresses;
    if version >> 4 != 6 || hop_limit <= 1 || is_mapped(s0, s1) || is_mapped(d0, d1) {
        return None;
    }
    let payload = usize::from(u16::from_be_bytes([l0, l1]));
    let tcp = upper(context, L4_IPV6, &frame.upper, payload, protocol)?;
    let key = self::key(interface, protocol, FAMILY_IPV6);
    let found = region.find6(&addresses, frame.upper.ports, key)?;
    // A frame holds less than 65,536 bytes.
    finish(context, &found, (payload + 40) as u16, hop_limit, || rewrite::ipv6(frame, tcp, &found))
}

/// Whether the upper layer, of `payload` bytes at `l4`, is one that may be executed here; of TCP, the rest of its header.
#[inline(always)]
fn upper<'a>(
    context: &'a XdpContext,
    l4: usize,
    upper: &Upper,
    payload: usize,
    protocol: u8,
) -> Option<Option<&'a mut TcpRest>> {
    if l4 + payload > door::len(context) {
        return None;
    }
    if protocol == UDP {
        let len = usize::from(u16::from_be(upper.length));
        return if len >= 8 && len <= payload { Some(None) } else { None };
    }
    if protocol != TCP {
        return None;
    }
    let rest: &mut TcpRest = door::at_mut(context, l4 + size_of::<Upper>())?;
    let len = usize::from(rest.offset >> 4) * 4;
    if len < 20 || len > payload || rest.flags & TCP_CONTROL != 0 {
        return None;
    }
    Some(Some(rest))
}

/// The part of a flow's key that is neither address nor port.
#[inline(always)]
fn key(interface: &Interface, protocol: u8, family: u8) -> u64 {
    fast::context(interface.number as u16, [0; 2], protocol, family)
}

/// Whether an IPv6 address is an IPv4 one in its mapped form (RFC 4291, section 2.5.5.2).
#[inline(always)]
fn is_mapped(high: u64, low: u64) -> bool {
    let [b0, b1, b2, b3, ..] = low.to_ne_bytes();
    high == 0 && [b0, b1, b2, b3] == [0, 0, 0xff, 0xff]
}

/// Folds a sum of 32-bit words into 16 bits with end-around carry.
#[inline(always)]
fn fold(sum: u64) -> u64 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    (sum >> 16) + (sum & 0xffff)
}

/// If the flow still holds for this packet and there is a way out: counts it, edits it, and sends it.
#[inline(always)]
fn finish(
    context: &XdpContext,
    found: &Found,
    len: u16,
    hop_limit: u8,
    rewrite: impl FnOnce(),
) -> Option<(Reason, u32)> {
    if !found.admits(len, hop_limit) {
        return None;
    }
    if found.template().edits & edits::DROP != 0 {
        found.count(len);
        return Some((Reason::FastDrop, xdp_action::XDP_DROP));
    }
    let port = u32::from(found.template().egress);
    let device = maps::egress(port)?;
    found.count(len);
    rewrite();
    if device == context.ingress_ifindex() as u32 {
        return Some((Reason::FastPath, xdp_action::XDP_TX));
    }
    match maps::send(port) {
        xdp_action::XDP_REDIRECT => Some((Reason::FastPath, xdp_action::XDP_REDIRECT)),
        // Only for the instant in which a device goes between the look at the map and here.
        _ => Some((Reason::FastNoEgress, xdp_action::XDP_DROP)),
    }
}
