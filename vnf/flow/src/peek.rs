//! A frame's bytes straight to its flow, for the common packets.
//!
//! Whatever is said here of a packet, [`throughway_packet::parse()`] says too; what is not common is left to it: tags, options
//! and extension headers, fragments, ICMP, SCTP, TCP that opens or closes a connection, a hop limit about to run out, and
//! everything malformed.

use throughway_packet::headers::{Flags, Headers, PortId};
use throughway_packet::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, TCP, UDP};
use throughway_shared::action::Action;
use throughway_shared::flow::{FAMILY_IPV4, FAMILY_IPV6, FlowKey, MAPPED_PREFIX};

use crate::key::Key;

/// Where the IP header starts in an untagged frame.
const L3: usize = 14;
/// Where the upper layer starts behind IPv4 without options.
const L4_IPV4: usize = L3 + 20;
/// Where the upper layer starts behind IPv6 without extension headers.
const L4_IPV6: usize = L3 + 40;
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
    /// Length of the IP packet.
    pub(crate) len: u16,
    /// TTL or hop limit.
    pub(crate) hop_limit: u8,
    /// Whether the upper layer has a checksum: all but some UDP.
    checksum: bool,
}

const _: () = assert!(size_of::<Probe>() == 64);

impl Probe {
    /// For a packet that was parsed: what [`peek()`] would give for it. Only for [`cacheable`] packets.
    pub fn of(headers: &Headers) -> Probe {
        Probe {
            key: Key::from(&headers.key),
            len: headers.packet_len(),
            hop_limit: headers.hop_limit,
            checksum: headers.flags.has(Flags::L4_CHECKSUM),
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

    /// Executes an action on the frame that was peeked at: [`throughway_packet::apply()`] with what is known of its headers.
    #[inline(always)]
    pub fn apply(&self, action: &Action, frame: &mut [u8]) {
        let protocol = self.key.protocol();
        if self.key.is_ipv4() {
            throughway_packet::apply(action, &self.headers(L4_IPV4 as u16, protocol, FAMILY_IPV4), frame);
        } else {
            throughway_packet::apply(action, &self.headers(L4_IPV6 as u16, protocol, FAMILY_IPV6), frame);
        }
    }

    /// As much of the headers as executing an action needs: offsets, family, protocol and what there is to be edited.
    #[inline(always)]
    fn headers(&self, l4: u16, protocol: u8, family: u8) -> Headers {
        let protocol = if protocol == TCP { TCP } else { UDP };
        let checksum = if self.checksum { Flags::L4_CHECKSUM } else { Flags::UDP_NO_CHECKSUM };
        Headers {
            key: FlowKey { protocol, family, ..FlowKey::default() },
            flags: Flags::PORTS | checksum,
            l3: L3 as u16,
            l4,
            end: (L3 as u16).saturating_add(self.len),
            l4_checksum: l4 + if protocol == TCP { 16 } else { 6 },
            ..Headers::default()
        }
    }
}

/// Whether a parsed packet is one that the fast reader takes and whose action may be recorded: exactly when [`peek()`] gives
/// `Some` for its bytes.
pub fn cacheable(headers: &Headers) -> bool {
    const NEVER: Flags =
        Flags(Flags::FRAGMENT.0 | Flags::LATER_FRAGMENT.0 | Flags::OPTIONS.0 | Flags::TCP_CONTROL.0);
    let l4 = if headers.is_ipv4() { L4_IPV4 } else { L4_IPV6 };
    usize::from(headers.l3) == L3
        && usize::from(headers.l4) == l4
        && matches!(headers.key.protocol, TCP | UDP)
        && !headers.flags.any(NEVER)
        && headers.hop_limit > 1
}

/// The flow of a frame that came in on `ingress`, if the packet is a common one. `None` says nothing but that somebody has
/// to take a full look.
#[inline(always)]
pub fn peek(frame: &[u8], ingress: PortId) -> Option<Probe> {
    // The shortest of all is IPv4 with UDP.
    let head = frame.first_chunk::<{ L4_IPV4 + 8 }>()?;
    match u16::from_be_bytes([head[12], head[13]]) {
        ETHERTYPE_IPV4 => ipv4(frame, head, ingress),
        ETHERTYPE_IPV6 => ipv6(frame, ingress),
        _ => None,
    }
}

#[inline(always)]
fn ipv4(frame: &[u8], head: &[u8; L4_IPV4 + 8], ingress: PortId) -> Option<Probe> {
    let (_, header) = head.split_first_chunk::<L3>()?;
    let (header, upper) = header.split_first_chunk::<20>()?;
    let [first, _, t0, t1, _, _, f0, f1, hop_limit, protocol, ..] = *header;
    let len = u16::from_be_bytes([t0, t1]);
    let end = L3 + usize::from(len);
    let fragment = u16::from_be_bytes([f0, f1]) & 0x3fff;
    let (words, _) = header.as_chunks::<4>();
    let [w0, w1, w2, w3, w4] = *words.first_chunk::<5>()?;
    // The machine's own byte order serves (RFC 1071, section 2). A valid sum is a multiple of 0xffff, and no header is all
    // zeros.
    let sum: u64 = [w0, w1, w2, w3, w4].map(|word| u64::from(u32::from_ne_bytes(word))).iter().sum();
    let fits = (first == 0x45) & (fragment == 0) & (hop_limit > 1) & (end <= frame.len()) & (end <= 0xffff);
    if !fits || !sum.is_multiple_of(0xffff) {
        return None;
    }
    let [p0, p1, p2, p3, l0, l1, c0, c1] = *upper.first_chunk::<8>()?;
    let checksum = match protocol {
        UDP => udp([l0, l1, c0, c1], end.checked_sub(L4_IPV4)?)?,
        TCP => tcp(frame.get(L4_IPV4..end)?)?,
        _ => return None,
    };
    Some(Probe {
        key: Key::ipv4(w3, w4, [p0, p1, p2, p3], ingress.0, protocol),
        hash: 0,
        place: u32::MAX,
        len,
        hop_limit,
        checksum,
    })
}

#[inline(always)]
fn ipv6(frame: &[u8], ingress: PortId) -> Option<Probe> {
    let head = frame.first_chunk::<{ L4_IPV6 + 8 }>()?;
    let (_, header) = head.split_first_chunk::<L3>()?;
    let (header, upper) = header.split_first_chunk::<40>()?;
    let [first, _, _, _, n0, n1, protocol, hop_limit, addresses @ ..] = *header;
    let payload = usize::from(u16::from_be_bytes([n0, n1]));
    let end = L4_IPV6 + payload;
    let (words, _) = addresses.as_chunks::<8>();
    let words = words.first_chunk::<4>()?.map(u64::from_ne_bytes);
    let mapped = |high: u64, low: u64| {
        let [.., m0, m1, m2, m3] = MAPPED_PREFIX;
        high == 0 && low.to_ne_bytes().starts_with(&[m0, m1, m2, m3])
    };
    let [s0, s1, d0, d1] = words;
    let fits = (first >> 4 == 6) & (hop_limit > 1) & (end <= frame.len()) & (end <= 0xffff);
    if !fits || mapped(s0, s1) || mapped(d0, d1) {
        return None;
    }
    let [p0, p1, p2, p3, l0, l1, c0, c1] = *upper.first_chunk::<8>()?;
    let checksum = match protocol {
        UDP => udp([l0, l1, c0, c1], payload)?,
        TCP => tcp(frame.get(L4_IPV6..end)?)?,
        _ => return None,
    };
    Some(Probe {
        key: Key::ipv6(words, [p0, p1, p2, p3], ingress.0, protocol),
        hash: 0,
        place: u32::MAX,
        // At most 0xffff, as `end` is.
        len: (end - L3) as u16,
        hop_limit,
        checksum,
    })
}

/// UDP's length and checksum: whether there is a checksum, if the length is right.
#[inline(always)]
fn udp([l0, l1, c0, c1]: [u8; 4], payload: usize) -> Option<bool> {
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    ((len >= 8) & (len <= payload)).then_some((c0, c1) != (0, 0))
}

/// TCP from its header on: there is always a checksum, if the packet is whole and neither opens nor closes anything.
#[inline(always)]
fn tcp(payload: &[u8]) -> Option<bool> {
    let header = payload.first_chunk::<20>()?;
    let len = usize::from(header[12] >> 4) * 4;
    ((len >= 20) & (len <= payload.len()) & (header[13] & TCP_CONTROL == 0)).then_some(true)
}
