//! The fast path: packets of flows that a worker handed over are executed here and never leave the driver.
//!
//! Which packets: exactly those that the workers' flow cache takes (`vnf/flow/src/peek.rs`, and the conditions of its
//! lookup). What is done to them: exactly what `throughway_packet::apply` does. A test holds both together
//! (`dataplane/tests/fast_differential.rs`). Whatever is in doubt goes up to the worker as it came.
//!
//! * This file: is the packet a common one, is its flow here and still true, and where does it go.
//! * [`crate::flows`]: the memory that is shared with the workers. [`crate::rewrite`]: the bytes of the packet. [`crate::front`]:
//!   those before it, where tags and outer headers come and go.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{xdp_action, xdp_md},
    programs::XdpContext,
};
use throughway_shared::{
    action::{VLAN_MASK, edits},
    fast::{self, halves},
    flow::{FAMILY_IPV4, FAMILY_IPV6},
    steer::{FAST, Interface, Reason, TAGGED_ONLY, VlanKey},
};

use crate::{
    classify::{ETHERNET, TAG, is_tag},
    door,
    flows::{Found, Region},
    front::{self, Inner},
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

/// A tag and what follows it, as they lie in a frame.
#[repr(C, packed)]
pub(crate) struct Tag {
    /// Priority and VLAN.
    pub(crate) control: u16,
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

/// An IPv4 packet, no options, and what is above it. Words as they lie there.
#[repr(C, packed)]
pub(crate) struct Packet4 {
    /// Version and header length, DSCP and ECN, length.
    pub(crate) first: u32,
    /// Identification, flags, fragment offset.
    pub(crate) second: u32,
    /// TTL, protocol, checksum.
    pub(crate) third: u32,
    /// Source and destination.
    pub(crate) addresses: [u32; 2],
    /// The upper layer.
    pub(crate) upper: Upper,
}

/// An IPv6 packet, no extension headers, and what is above it. Words as they lie there.
#[repr(C, packed)]
pub(crate) struct Packet6 {
    /// Version, traffic class, flow label.
    pub(crate) first: u32,
    /// Length of the payload, next header, hop limit.
    pub(crate) second: u32,
    /// Source and destination.
    pub(crate) addresses: [u64; 4],
    /// The upper layer.
    pub(crate) upper: Upper,
}

/// Bytes of the IP headers.
pub(crate) const IPV4_LEN: usize = 20;
/// See [`IPV4_LEN`].
pub(crate) const IPV6_LEN: usize = 40;
/// EtherTypes as they lie in a frame.
pub(crate) const IPV4: u16 = 0x0800_u16.to_be();
/// See [`IPV4`].
pub(crate) const IPV6: u16 = 0x86dd_u16.to_be();
const TCP: u8 = 6;
const UDP: u8 = 17;
/// FIN, SYN and RST in TCP's flags byte.
const TCP_CONTROL: u8 = 0x07;

/// A frame of an interface of ours, and where its packet starts.
struct Received<'a> {
    context: &'a XdpContext,
    region: Region,
    /// The interface's number.
    number: u32,
    vlans: [u16; 2],
    l3: usize,
}

/// An action that none is: the frame was not touched, and [`at_length`] is to be asked.
const AT_LENGTH: u32 = u32::MAX;

/// Executes the frame that the device of `interface` received on `queue`, if it is of a flow that is here and may be executed: the
/// number of the interface that it is counted at, why, and the action to return. `None`: it was not touched, and is to be
/// judged as if there were no fast path.
///
/// This is the short way, of frames without tags that leave as long as they came; all others go the long one.
#[inline(always)]
pub(crate) fn run(context: &XdpContext, interface: &Interface, queue: u32) -> Option<(u32, Reason, u32)> {
    let region = Region::of(queue)?;
    if interface.flags & FAST == 0 {
        return None;
    }
    let ethernet: &Ethernet = door::at(context, 0)?;
    let kind = ethernet.kind;
    // The most common one first: one comparison instead of three.
    if kind == IPV4 || !is_tag(u16::from_be(kind)) {
        if interface.flags & TAGGED_ONLY != 0 || !is_to(ethernet, &interface.mac) {
            return None;
        }
        let number = interface.number;
        let received = Received { context, region, number, vlans: [0; 2], l3: ETHERNET };
        let (reason, action) = packet::<false>(&received, kind)?;
        if action != AT_LENGTH {
            return Some((number, reason, action));
        }
    }
    let answer = at_length(context.as_ptr().cast(), interface, queue);
    let reason = match answer >> 8 & 0xff {
        0 => Reason::FastPath,
        1 => Reason::FastDrop,
        _ => Reason::FastNoEgress,
    };
    if answer == 0 { None } else { Some(((answer >> 16) as u32, reason, (answer & 0xff) as u32)) }
}

/// As [`run`], of any frame. The answer in one word: action, reason, number; zero is none. A function of its own, so that the short
/// way does not pay for it.
#[inline(never)]
fn at_length(context: *mut xdp_md, interface: &Interface, queue: u32) -> u64 {
    let context = &XdpContext::new(context);
    let Some((number, reason, action)) = any(context, interface, queue) else { return 0 };
    let reason = match reason {
        Reason::FastPath => 0,
        Reason::FastDrop => 1,
        _ => 2,
    };
    u64::from(number) << 16 | reason << 8 | u64::from(action)
}

#[inline(always)]
fn any(context: &XdpContext, interface: &Interface, queue: u32) -> Option<(u32, Reason, u32)> {
    let region = Region::of(queue)?;
    let ethernet: &Ethernet = door::at(context, 0)?;
    let mut kind = ethernet.kind;
    let mut received = Received { context, region, number: interface.number, vlans: [0; 2], l3: ETHERNET };
    let mut mac = &interface.mac;
    if is_tag(u16::from_be(kind)) {
        let tag: &Tag = door::at(context, ETHERNET)?;
        let outer = u16::from_be(tag.control) & VLAN_MASK;
        kind = tag.kind;
        received.l3 = ETHERNET + TAG;
        let mut inner = 0;
        if is_tag(u16::from_be(kind)) {
            let tag: &Tag = door::at(context, ETHERNET + TAG)?;
            inner = u16::from_be(tag.control) & VLAN_MASK;
            kind = tag.kind;
            received.l3 = ETHERNET + 2 * TAG;
        }
        let ifindex = context.ingress_ifindex() as u32;
        let vlan = maps::vlan(VlanKey { ifindex, outer, inner }.words())?;
        received.number = vlan.number;
        received.vlans = [outer, inner];
        mac = &vlan.mac;
    }
    if !is_to(ethernet, mac) {
        return None;
    }
    let (reason, action) = packet::<true>(&received, kind)?;
    Some((received.number, reason, action))
}

/// Whether a frame is sent to this address.
#[inline(always)]
fn is_to(ethernet: &Ethernet, mac: &[u8; 6]) -> bool {
    let [m0, m1, m2, m3, m4, m5] = *mac;
    let [front, middle, _] = ethernet.addresses;
    let [b0, b1, ..] = middle.to_ne_bytes();
    // One branch for all of them.
    let differences = (front ^ u32::from_ne_bytes([m0, m1, m2, m3]))
        | u32::from(u16::from_ne_bytes([b0, b1]) ^ u16::from_ne_bytes([m4, m5]));
    differences == 0
}

/// The packet in a frame. `LONG`: the frame may become longer or shorter.
#[inline(always)]
fn packet<const LONG: bool>(received: &Received<'_>, kind: u16) -> Option<(Reason, u32)> {
    match kind {
        IPV4 => ipv4::<LONG>(received),
        IPV6 => ipv6::<LONG>(received),
        _ => None,
    }
}

#[inline(always)]
fn ipv4<const LONG: bool>(received: &Received<'_>) -> Option<(Reason, u32)> {
    let Received { context, l3, .. } = *received;
    let packet: &mut Packet4 = door::at_mut(context, l3)?;
    let ([_, _, l0, l1], [hop_limit, protocol, ..]) =
        (packet.first.to_ne_bytes(), packet.third.to_ne_bytes());
    let [source, destination] = packet.addresses;
    // Header words are added in the machine's own byte order, which serves (RFC 1071, section 2).
    let words = [packet.first, packet.second, packet.third, source, destination];
    let [w0, w1, w2, w3, w4] = words.map(u64::from);
    // Identification, the reserved bit and "don't fragment" are no matter.
    let whole = u32::from_be(packet.second) & 0x3fff == 0;
    let [version, ..] = packet.first.to_ne_bytes();
    if version != 0x45 || !whole || hop_limit <= 1 || !is_whole(w0 + w1 + w2 + w3 + w4) {
        return None;
    }
    let len = u16::from_be_bytes([l0, l1]);
    let payload = usize::from(len).checked_sub(IPV4_LEN)?;
    let tcp = upper(context, l3 + IPV4_LEN, &packet.upper, payload, protocol)?;
    let key = received.key(protocol, FAMILY_IPV4);
    let found = received.region.find4(halves(source, destination), packet.upper.ports, key)?;
    let again = |l3| {
        let packet: &mut Packet4 = door::at_mut(context, l3)?;
        rewrite::ipv4(packet, rest(context, l3 + IPV4_LEN, protocol)?, &found);
        Some(Inner::of4(packet, len))
    };
    finish::<LONG>(received, &found, len, hop_limit, || rewrite::ipv4(packet, tcp, &found), again)
}

#[inline(always)]
fn ipv6<const LONG: bool>(received: &Received<'_>) -> Option<(Reason, u32)> {
    let Received { context, l3, .. } = *received;
    let packet: &mut Packet6 = door::at_mut(context, l3)?;
    let [version, ..] = packet.first.to_ne_bytes();
    let [l0, l1, protocol, hop_limit] = packet.second.to_ne_bytes();
    let addresses = packet.addresses;
    let [s0, s1, d0, d1] = addresses;
    if version >> 4 != 6 || hop_limit <= 1 || is_mapped(s0, s1) || is_mapped(d0, d1) {
        return None;
    }
    let payload = usize::from(u16::from_be_bytes([l0, l1]));
    let tcp = upper(context, l3 + IPV6_LEN, &packet.upper, payload, protocol)?;
    let key = received.key(protocol, FAMILY_IPV6);
    let found = received.region.find6(&addresses, packet.upper.ports, key)?;
    // A frame holds less than 65,536 bytes.
    let len = (payload + IPV6_LEN) as u16;
    let again = |l3| {
        let packet: &mut Packet6 = door::at_mut(context, l3)?;
        rewrite::ipv6(packet, rest(context, l3 + IPV6_LEN, protocol)?, &found);
        Some(Inner::of6(packet, len))
    };
    finish::<LONG>(received, &found, len, hop_limit, || rewrite::ipv6(packet, tcp, &found), again)
}

/// Of TCP at `l4`, the rest of its header; of what else is executed here, nothing.
#[inline(always)]
fn rest(context: &XdpContext, l4: usize, protocol: u8) -> Option<Option<&mut TcpRest>> {
    if protocol == TCP { Some(Some(door::at_mut(context, l4 + size_of::<Upper>())?)) } else { Some(None) }
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

impl Received<'_> {
    /// The part of a flow's key that is neither address nor port.
    #[inline(always)]
    fn key(&self, protocol: u8, family: u8) -> u64 {
        fast::context(self.number as u16, self.vlans, protocol, family)
    }
}

/// Whether an IPv6 address is an IPv4 one in its mapped form (RFC 4291, section 2.5.5.2).
#[inline(always)]
fn is_mapped(high: u64, low: u64) -> bool {
    let [b0, b1, b2, b3, ..] = low.to_ne_bytes();
    high == 0 && [b0, b1, b2, b3] == [0, 0, 0xff, 0xff]
}

/// Whether a sum of some 32-bit words, not all of them zero, is the one of a header with a right checksum: 16-bit words that add up to
/// 0xffff with end-around carry.
#[inline(always)]
fn is_whole(sum: u64) -> bool {
    // What is left is divided by 0xffff as the sum is, and twice that at most; never zero, as not all words are.
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum == 0xffff || sum == 0x1_fffe
}

/// Folds a sum of 32-bit words into 16 bits with end-around carry.
#[inline(always)]
pub(crate) fn fold(sum: u64) -> u64 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    (sum >> 16) + (sum & 0xffff)
}

/// If the flow still holds for this packet and there is a way out: counts it, edits it, and sends it. `rewrite` edits the packet where
/// it lies; `again` does when it lies elsewhere, and tells what it is then.
#[inline(always)]
fn finish<const LONG: bool>(
    received: &Received<'_>,
    found: &Found,
    len: u16,
    hop_limit: u8,
    rewrite: impl FnOnce(),
    again: impl FnOnce(usize) -> Option<Inner>,
) -> Option<(Reason, u32)> {
    let context = received.context;
    if !found.admits(len, hop_limit) {
        return None;
    }
    let template = found.template();
    if template.edits & edits::DROP != 0 {
        found.count(len);
        return Some((Reason::FastDrop, xdp_action::XDP_DROP));
    }
    let port = u32::from(template.egress);
    let device = maps::egress(port)?;
    if template.edits & edits::FRONT == 0 {
        rewrite::ethernet(door::at_mut(context, 0)?, template);
        rewrite();
    } else if !LONG {
        return Some((Reason::FastPath, AT_LENGTH));
    } else if !front::execute(context, received.l3, len, found, again)? {
        // What was made room for is there: never.
        return Some((Reason::FastNoEgress, xdp_action::XDP_DROP));
    }
    found.count(len);
    if device == context.ingress_ifindex() as u32 {
        return Some((Reason::FastPath, xdp_action::XDP_TX));
    }
    match maps::send(port) {
        xdp_action::XDP_REDIRECT => Some((Reason::FastPath, xdp_action::XDP_REDIRECT)),
        // Only for the instant in which a device goes between the look at the map and here.
        _ => Some((Reason::FastNoEgress, xdp_action::XDP_DROP)),
    }
}
