//! A frame's bytes straight to its flow, for the common packets.
//!
//! Whatever is said here of a packet, [`throughway_packet::parse()`] says too; what is not common is left to it: options and
//! extension headers, fragments, ICMP, SCTP, TCP that opens or closes a connection, a hop limit about to run out, and
//! everything malformed.

use throughway_packet::headers::{Flags, Headers, PortId};
use throughway_packet::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, TCP, UDP};
use throughway_shared::action::Action;
use throughway_shared::flow::{FAMILY_IPV4, FAMILY_IPV6, FlowKey, MAPPED_PREFIX};

use crate::key::{Hasher, Key, Way};

/// Where the IP header starts in an untagged frame.
pub(crate) const L3: usize = 14;
/// Bytes of an IPv4 header without options.
pub(crate) const IPV4: usize = 20;
/// Bytes of an IPv6 header without extensions.
pub(crate) const IPV6: usize = 40;
/// FIN, SYN and RST in TCP's flags byte.
const TCP_CONTROL: u8 = 0x07;

/// What [`peek()`] knows of a packet: its flow, and the little that is needed to look it up and to execute an action on it.
/// 64 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Probe {
    pub(crate) key: Key,
    /// Filled in by [`FlowCache::prepare`](crate::FlowCache::prepare), as is `place`.
    pub(crate) hash: u64,
    /// Where the entry seems to be, or `u32::MAX`.
    pub(crate) place: u32,
    /// Length of the IP packet; zero: the packet could not be read.
    pub(crate) len: u16,
    /// TTL or hop limit.
    pub(crate) hop_limit: u8,
    /// Where the IP header starts.
    pub(crate) l3: u8,
}

const _: () = assert!(size_of::<Probe>() == 64);

impl Probe {
    /// For a packet that was parsed: what [`peek()`] would give for it. Only for [`cacheable`] packets.
    pub fn of(headers: &Headers) -> Probe {
        Probe {
            key: Key::from(&headers.key),
            len: headers.packet_len(),
            hop_limit: headers.hop_limit,
            // With two tags it is 22.
            l3: headers.l3 as u8,
            hash: 0,
            place: u32::MAX,
        }
    }

    /// The flow.
    pub fn flow_key(&self) -> FlowKey {
        self.key.flow_key()
    }

    /// Length of the IP packet in bytes.
    #[inline]
    pub const fn packet_len(&self) -> u16 {
        self.len
    }

    /// Whether it holds a packet that could be read.
    #[inline(always)]
    pub const fn is_readable(&self) -> bool {
        self.len != 0
    }

    /// Executes an action on the frame that was peeked at: [`throughway_packet::apply()`] with what is known of its headers.
    pub fn apply(&self, action: &Action, frame: &mut [u8]) {
        throughway_packet::apply(action, &self.headers(frame), frame);
    }

    /// As much of the headers as executing an action needs: offsets, family, protocol and what there is to be edited.
    fn headers(&self, frame: &[u8]) -> Headers {
        let (header, family) = if self.key.is_ipv4() { (IPV4, FAMILY_IPV4) } else { (IPV6, FAMILY_IPV6) };
        let l3 = u16::from(self.l3);
        let l4 = l3 + header as u16;
        let protocol = if self.key.protocol() == TCP { TCP } else { UDP };
        let l4_checksum = l4 + if protocol == TCP { 16 } else { 6 };
        let field = frame.get(usize::from(l4_checksum)..).and_then(|field| field.first_chunk());
        let none = protocol == UDP && field == Some(&[0; 2]);
        Headers {
            key: FlowKey { protocol, family, ..FlowKey::default() },
            flags: Flags::PORTS | if none { Flags::UDP_NO_CHECKSUM } else { Flags::L4_CHECKSUM },
            l3,
            l4,
            end: l3.saturating_add(self.len),
            l4_checksum,
            ..Headers::default()
        }
    }
}

/// Whether a parsed packet is one that the fast reader takes and whose action may be recorded: exactly when [`peek()`] gives
/// `Some` for its bytes.
pub fn cacheable(headers: &Headers) -> bool {
    const NEVER: Flags =
        Flags(Flags::FRAGMENT.0 | Flags::LATER_FRAGMENT.0 | Flags::OPTIONS.0 | Flags::TCP_CONTROL.0);
    let header = if headers.is_ipv4() { IPV4 } else { IPV6 };
    usize::from(headers.l4 - headers.l3) == header
        && matches!(headers.key.protocol, TCP | UDP)
        && !headers.flags.any(NEVER)
        && headers.hop_limit > 1
}

/// The flow of a frame that came in on `ingress`, if the packet is a common one. `None` says nothing but that somebody has
/// to take a full look.
pub fn peek(frame: &[u8], ingress: PortId) -> Option<Probe> {
    let mut probe = Probe { place: u32::MAX, ..Probe::default() };
    read(frame, ingress, &Hasher::NONE, &mut probe).then_some(Probe { hash: 0, ..probe })
}

/// Reads a frame into `probe`, where that lies, and hashes its flow. `false`: somebody has to take a full look.
#[inline(always)]
pub(crate) fn read(frame: &[u8], ingress: PortId, hasher: &Hasher, probe: &mut Probe) -> bool {
    let Some((ethernet, packet)) = frame.split_first_chunk::<L3>() else { return false };
    let way = (ingress.0, [0; 2]);
    match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
        ETHERTYPE_IPV4 => ipv4(packet, L3, way, hasher, probe),
        ETHERTYPE_IPV6 => ipv6(packet, L3, way, hasher, probe),
        tag @ (0x8100 | 0x88a8 | 0x9100) => tagged(packet, tag, ingress, hasher, probe),
        _ => false,
    }
}

/// As the others, behind one or two tags.
#[inline(never)]
fn tagged(mut rest: &[u8], tag: u16, ingress: PortId, hasher: &Hasher, probe: &mut Probe) -> bool {
    let (mut tags, mut l3, mut ether_type) = ([0; 2], L3, tag);
    for tag in &mut tags {
        if !matches!(ether_type, 0x8100 | 0x88a8 | 0x9100) {
            break;
        }
        let Some(([c0, c1, e0, e1], after)) = rest.split_first_chunk::<4>() else { return false };
        *tag = u16::from_be_bytes([*c0, *c1]) & 0x0fff;
        ether_type = u16::from_be_bytes([*e0, *e1]);
        rest = after;
        l3 += 4;
    }
    match ether_type {
        ETHERTYPE_IPV4 => ipv4(rest, l3, (ingress.0, tags), hasher, probe),
        ETHERTYPE_IPV6 => ipv6(rest, l3, (ingress.0, tags), hasher, probe),
        _ => false,
    }
}

#[inline(always)]
fn ipv4(packet: &[u8], l3: usize, way: Way, hasher: &Hasher, probe: &mut Probe) -> bool {
    // The shortest of all is UDP.
    let Some(head) = packet.first_chunk::<{ IPV4 + 8 }>() else { return false };
    let len = u16::from_be_bytes([head[2], head[3]]);
    let end = usize::from(len);
    let fragment = u16::from_ne_bytes([head[6], head[7]]) & 0x3fff_u16.to_be();
    let (hop_limit, protocol) = (head[8], head[9]);
    if head[0] != 0x45 || fragment != 0 || hop_limit <= 1 || end > packet.len() || end + l3 > 0xffff {
        return false;
    }
    // The machine's own byte order serves (RFC 1071, section 2), and so do words of 64 bits with the carry brought around, as
    // 2¹⁶ − 1 divides 2⁶⁴ − 1. A valid sum is a multiple of 0xffff, and no header is all zeros.
    let (sum, carry) = word(head, 0).overflowing_add(word(head, 8));
    let (sum, carry) = sum.overflowing_add(u64::from(half_word(head, 16)) + u64::from(carry));
    if !(sum + u64::from(carry)).is_multiple_of(0xffff) {
        return false;
    }
    let fits = match protocol {
        UDP => udp([head[24], head[25]], end, IPV4),
        TCP => tcp(packet, end, IPV4),
        _ => false,
    };
    if !fits {
        return false;
    }
    probe.key = Key::ipv4(word(head, 12), half_word(head, 20), way, protocol);
    probe.hash = hasher.hash_ipv4(&probe.key);
    probe.len = len;
    probe.hop_limit = hop_limit;
    probe.l3 = l3 as u8;
    true
}

/// Eight bytes from `at` on, which is known to the compiler, as is that they are there.
#[inline(always)]
fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

/// Four bytes, likewise.
#[inline(always)]
fn half_word<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

#[inline(always)]
fn ipv6(packet: &[u8], l3: usize, way: Way, hasher: &Hasher, probe: &mut Probe) -> bool {
    let Some(head) = packet.first_chunk::<{ IPV6 + 8 }>() else { return false };
    let end = IPV6 + usize::from(u16::from_be_bytes([head[4], head[5]]));
    let (protocol, hop_limit) = (head[6], head[7]);
    if head[0] >> 4 != 6 || hop_limit <= 1 || end > packet.len() || end + l3 > 0xffff {
        return false;
    }
    let words = [word(head, 8), word(head, 16), word(head, 24), word(head, 32)];
    let mapped = |high: u64, low: u64| {
        let [.., m0, m1, m2, m3] = MAPPED_PREFIX;
        high == 0 && low.to_ne_bytes().starts_with(&[m0, m1, m2, m3])
    };
    let [s0, s1, d0, d1] = words;
    let fits = match protocol {
        UDP => udp([head[44], head[45]], end, IPV6),
        TCP => tcp(packet, end, IPV6),
        _ => false,
    };
    if !fits || mapped(s0, s1) || mapped(d0, d1) {
        return false;
    }
    probe.key = Key::ipv6(words, half_word(head, 40), way, protocol);
    probe.hash = hasher.hash(&probe.key);
    // At most 0xffff, as with what comes before.
    probe.len = end as u16;
    probe.hop_limit = hop_limit;
    probe.l3 = l3 as u8;
    true
}

/// Whether UDP's length is right: a header at least, and no more than the packet that ends at `end` has behind `header`.
#[inline(always)]
fn udp(len: [u8; 2], end: usize, header: usize) -> bool {
    let len = usize::from(u16::from_be_bytes(len));
    len >= 8 && header + len <= end
}

/// Whether TCP behind `header` is whole in the packet that ends at `end`, and neither opens nor closes anything.
#[inline(always)]
fn tcp(packet: &[u8], end: usize, header: usize) -> bool {
    let Some(segment) = packet.get(header..).and_then(|rest| rest.first_chunk::<20>()) else { return false };
    let len = usize::from(segment[12] >> 4) * 4;
    len >= 20 && header + len <= end && segment[13] & TCP_CONTROL == 0
}
