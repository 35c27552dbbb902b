//! Bytes to [`Headers`], once per packet.
//!
//! Link layer and IPv4 are here; IPv6 with its extension headers is in `ipv6`, the upper layers are in `upper`.
//! Every access is checked: bytes that are not there become a [`ParseError`].

mod ipv6;
mod upper;

use throughway_shared::flow::{FAMILY_IPV4, mapped};

use crate::checksum;
use crate::headers::{Flags, Headers, PortId};

/// Why a frame is not a packet that could be forwarded. Each variant has its own drop reason.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum ParseError {
    /// The frame is shorter than an Ethernet header and its tags.
    #[error("the frame is shorter than an Ethernet header and its tags")]
    TruncatedEthernet,
    /// More than two VLAN tags.
    #[error("more than two VLAN tags")]
    TooManyTags,
    /// Neither IPv4 nor IPv6.
    #[error("neither IPv4 nor IPv6")]
    NotIp,
    /// The frame is shorter than the IPv4 header or its total length.
    #[error("the frame is shorter than the IPv4 header or its total length")]
    TruncatedIpv4,
    /// IPv4 version, header length or total length are wrong.
    #[error("the IPv4 version, header length or total length is wrong")]
    BadIpv4Header,
    /// The IPv4 header checksum is wrong.
    #[error("the IPv4 header checksum is wrong")]
    BadIpv4Checksum,
    /// The frame is shorter than the IPv6 header or its payload length.
    #[error("the frame is shorter than the IPv6 header or its payload length")]
    TruncatedIpv6,
    /// The IPv6 version is wrong, or an address is IPv4-mapped (RFC 4291, section 2.5.5.2: never on the wire), which
    /// would be taken for IPv4 in a flow key.
    #[error("the IPv6 version is wrong, or an address is IPv4-mapped")]
    BadIpv6Header,
    /// IPv6 extension headers are truncated, out of order or more than [`MAX_EXTENSIONS`].
    #[error("IPv6 extension headers are truncated, out of order or too many")]
    BadExtensionHeaders,
    /// A fragment is empty, reaches beyond what a datagram can be, or is not the last and not a multiple of eight bytes.
    #[error("the fragment is empty, too long, or not the last and not a multiple of eight bytes")]
    BadFragment,
    /// The packet ends inside its TCP header, or the data offset is wrong.
    #[error("the packet ends inside its TCP header, or the data offset is wrong")]
    TruncatedTcp,
    /// The packet ends inside its UDP header or datagram, or the UDP length is wrong.
    #[error("the packet ends inside its UDP datagram, or the UDP length is wrong")]
    TruncatedUdp,
    /// The packet ends inside its SCTP header.
    #[error("the packet ends inside its SCTP header")]
    TruncatedSctp,
    /// The packet ends inside its ICMP or ICMPv6 header.
    #[error("the packet ends inside its ICMP or ICMPv6 header")]
    TruncatedIcmp,
}

/// How many IPv6 extension headers are followed; a chain that is longer is refused (RFC 8504, section 5.3 allows it).
pub const MAX_EXTENSIONS: usize = 8;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of IPv4 in IP (RFC 2003).
pub const IP_IN_IP: u8 = 4;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of IPv6 in IP (RFC 2473, RFC 4213).
pub const IPV6_IN_IP: u8 = 41;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;
/// Protocol number of SCTP.
pub const SCTP: u8 = 132;

/// Whether an EtherType announces a tag: 802.1Q, 802.1ad, and the 0x9100 that switches used before it.
#[inline]
const fn is_tag(ether_type: u16) -> bool {
    matches!(ether_type, 0x8100 | 0x88a8 | 0x9100)
}

/// Parses a frame (Ethernet II, without FCS) that came in on `ingress`.
///
/// Bytes after the end of the IP packet are Ethernet padding and are ignored. The IPv4 header checksum is verified
/// (RFC 1812, section 5.2.2); upper-layer checksums are the receiver's business. A VLAN identifier of zero (a priority
/// tag) is the same as no tag in the flow key.
///
/// # Errors
///
/// A [`ParseError`] says what is malformed, or that the frame is not IP.
#[inline]
pub fn parse(frame: &[u8], ingress: PortId) -> Result<Headers, ParseError> {
    let Some((ethernet, mut rest)) = frame.split_first_chunk::<14>() else {
        return Err(ParseError::TruncatedEthernet);
    };
    let mut ether_type = u16::from_be_bytes([ethernet[12], ethernet[13]]);
    let mut headers = Headers { l3: 14, ..Headers::default() };
    headers.key.ingress = ingress.0;
    if is_tag(ether_type) {
        (ether_type, rest) = tags(&mut headers, ether_type, rest)?;
    }
    match ether_type {
        ETHERTYPE_IPV4 => ipv4(&mut headers, rest)?,
        ETHERTYPE_IPV6 => ipv6::ipv6(&mut headers, rest)?,
        _ => return Err(ParseError::NotIp),
    }
    Ok(headers)
}

/// Parses the packet that the packet of `headers` carries (IP in IP: RFC 2003, RFC 2473, RFC 4213), as if it were the frame's
/// own: offsets are into the same frame, ingress and tags are those of the frame.
///
/// # Errors
///
/// [`ParseError::NotIp`] when the upper layer is no IP packet, or it is not all there: a fragment, an outer packet whose
/// source route is not used up (RFC 2473, section 3.3: not yet at the end of the tunnel). Otherwise as [`parse`].
pub fn parse_inner(frame: &[u8], headers: &Headers) -> Result<Headers, ParseError> {
    let at = headers.l4;
    let Some(rest) = frame.get(usize::from(at)..usize::from(headers.end)) else {
        return Err(ParseError::NotIp);
    };
    if headers.flags.any(Flags::FRAGMENT | Flags::SOURCE_ROUTED) {
        return Err(ParseError::NotIp);
    }
    let mut inner = Headers { l3: at, ..Headers::default() };
    inner.key.ingress = headers.key.ingress;
    inner.key.outer_vlan = headers.key.outer_vlan;
    inner.key.inner_vlan = headers.key.inner_vlan;
    match headers.key.protocol {
        IP_IN_IP => ipv4(&mut inner, rest)?,
        IPV6_IN_IP => ipv6::ipv6(&mut inner, rest)?,
        _ => return Err(ParseError::NotIp),
    }
    Ok(inner)
}

/// Reads one or two tags; gives back the EtherType after them and the rest of the frame.
fn tags<'a>(
    headers: &mut Headers,
    mut ether_type: u16,
    mut rest: &'a [u8],
) -> Result<(u16, &'a [u8]), ParseError> {
    let mut count = 0;
    while is_tag(ether_type) {
        let Some((tag, after)) = rest.split_first_chunk::<4>() else {
            return Err(ParseError::TruncatedEthernet);
        };
        let vlan = u16::from_be_bytes([tag[0], tag[1]]) & 0x0fff;
        match count {
            0 => headers.key.outer_vlan = vlan,
            1 => headers.key.inner_vlan = vlan,
            _ => return Err(ParseError::TooManyTags),
        }
        count += 1;
        headers.l3 += 4;
        ether_type = u16::from_be_bytes([tag[2], tag[3]]);
        rest = after;
    }
    Ok((ether_type, rest))
}

/// IPv4 (RFC 791). `rest` is the frame from the IP header on.
#[inline]
fn ipv4(headers: &mut Headers, rest: &[u8]) -> Result<(), ParseError> {
    let Some(header) = rest.first_chunk::<20>() else {
        return Err(ParseError::TruncatedIpv4);
    };
    let header_len = u16::from(header[0] & 0x0f) * 4;
    let total_len = u16::from_be_bytes([header[2], header[3]]);
    if header[0] >> 4 != 4 || header_len < 20 || total_len < header_len {
        return Err(ParseError::BadIpv4Header);
    }
    let Some(packet) = rest.get(..usize::from(total_len)) else {
        return Err(ParseError::TruncatedIpv4);
    };
    let Some((whole_header, payload)) = packet.split_at_checked(usize::from(header_len)) else {
        return Err(ParseError::TruncatedIpv4);
    };
    // Offsets are 16 bits wide: a packet of nearly 64 KiB behind a link layer does not fit.
    let Some(end) = headers.l3.checked_add(total_len) else {
        return Err(ParseError::BadIpv4Header);
    };
    let sum =
        if header_len == 20 { checksum::sum_of_ipv4_header(header) } else { checksum::sum(whole_header) };
    if sum != 0xffff {
        return Err(ParseError::BadIpv4Checksum);
    }

    headers.key.family = FAMILY_IPV4;
    headers.key.source = mapped([header[12], header[13], header[14], header[15]]);
    headers.key.destination = mapped([header[16], header[17], header[18], header[19]]);
    headers.key.protocol = header[9];
    headers.traffic_class = header[1];
    headers.hop_limit = header[8];
    headers.l4 = headers.l3 + header_len;
    headers.end = end;
    if header_len > 20 {
        headers.flags |= Flags::OPTIONS;
        if source_routed(whole_header) {
            headers.flags |= Flags::SOURCE_ROUTED;
        }
    }

    let fragment = u16::from_be_bytes([header[6], header[7]]);
    if fragment & 0x4000 != 0 {
        headers.flags |= Flags::DONT_FRAGMENT;
    }
    if fragment & 0x3fff != 0 {
        let (offset, more) = ((fragment & 0x1fff) * 8, fragment & 0x2000 != 0);
        // RFC 791: the whole datagram, header included, is at most 65535 bytes.
        if bad_fragment(offset, more, payload.len(), usize::from(header_len)) {
            return Err(ParseError::BadFragment);
        }
        headers.flags |= Flags::FRAGMENT;
        if offset != 0 {
            headers.flags |= Flags::LATER_FRAGMENT;
            headers.l4 = end;
            return Ok(());
        }
    }
    upper::upper(headers, payload)
}

/// Whether a fragment of `len` bytes cannot be part of any datagram: empty, reaching beyond 65535 bytes together with the
/// `unfragmented` bytes that count towards that limit, or not the last and not a multiple of eight bytes.
fn bad_fragment(offset: u16, more: bool, len: usize, unfragmented: usize) -> bool {
    len == 0
        || unfragmented + usize::from(offset) + len > usize::from(u16::MAX)
        || (more && !len.is_multiple_of(8))
}

/// Whether IPv4 options hold a source route (loose or strict) that is not yet used up: the header's destination is then
/// not the one that upper-layer checksums cover (RFC 791, section 3.1).
///
/// Options are not ours to judge: what is malformed ends the search.
#[cold]
pub(crate) fn source_routed(header: &[u8]) -> bool {
    let mut options = header.get(20..).unwrap_or_default();
    loop {
        match options {
            [] | [0, ..] => return false,
            [1, rest @ ..] => options = rest,
            [131 | 137, len, pointer, ..] => return pointer < len,
            [_, len, ..] if *len >= 2 => options = options.get(usize::from(*len)..).unwrap_or_default(),
            _ => return false,
        }
    }
}
