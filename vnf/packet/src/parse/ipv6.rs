//! IPv6 and its extension headers (RFC 8200).

use throughway_shared::flow::{FAMILY_IPV6, MAPPED_PREFIX};

use super::{ICMPV6, MAX_EXTENSIONS, ParseError, TCP, UDP, bad_fragment, upper};
use crate::headers::{Flags, Headers};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NO_NEXT_HEADER: u8 = 59;
const DESTINATION_OPTIONS: u8 = 60;

/// IPv6. `rest` is the frame from the IP header on.
#[inline]
pub(super) fn ipv6(headers: &mut Headers, rest: &[u8]) -> Result<(), ParseError> {
    let Some(header) = rest.first_chunk::<40>() else {
        return Err(ParseError::TruncatedIpv6);
    };
    if header[0] >> 4 != 6 {
        return Err(ParseError::BadIpv6Header);
    }
    let payload_len = u16::from_be_bytes([header[4], header[5]]);
    let Some(payload) = rest.get(40..40 + usize::from(payload_len)) else {
        return Err(ParseError::TruncatedIpv6);
    };
    // Offsets are 16 bits wide: a packet of nearly 64 KiB behind a link layer does not fit.
    let l4 = headers.l3 + 40;
    let Some(end) = l4.checked_add(payload_len) else {
        return Err(ParseError::BadIpv6Header);
    };
    if let Some(source) = header[8..].first_chunk::<16>() {
        headers.key.source = *source;
    }
    if let Some(destination) = header[24..].first_chunk::<16>() {
        headers.key.destination = *destination;
    }
    if headers.key.source.starts_with(&MAPPED_PREFIX) || headers.key.destination.starts_with(&MAPPED_PREFIX) {
        return Err(ParseError::BadIpv6Header);
    }
    headers.key.family = FAMILY_IPV6;
    headers.key.protocol = header[6];
    headers.traffic_class = header[0] << 4 | header[1] >> 4;
    headers.hop_limit = header[7];
    headers.flags |= Flags::DONT_FRAGMENT;
    headers.l4 = l4;
    headers.end = end;
    match header[6] {
        TCP | UDP | ICMPV6 => upper::upper(headers, payload),
        _ => extensions(headers, payload),
    }
}

/// Follows the extension headers to the upper layer. `rest` is the packet after the fixed header.
fn extensions(headers: &mut Headers, mut rest: &[u8]) -> Result<(), ParseError> {
    let mut next = headers.key.protocol;
    let mut fragmented = false;
    for position in 0..=MAX_EXTENSIONS {
        let len = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | AUTHENTICATION | FRAGMENT => {
                // RFC 8200, section 4.1: hop-by-hop options only directly after the fixed header.
                if position == MAX_EXTENSIONS || (next == HOP_BY_HOP && position > 0) {
                    return Err(ParseError::BadExtensionHeaders);
                }
                let Some(&[_, len, _, segments_left, ..]) = rest.first_chunk::<8>() else {
                    return Err(ParseError::BadExtensionHeaders);
                };
                match next {
                    HOP_BY_HOP => headers.flags |= Flags::OPTIONS,
                    ROUTING => {
                        headers.flags |= Flags::OPTIONS;
                        if segments_left > 0 {
                            headers.flags |= Flags::SOURCE_ROUTED;
                        }
                    }
                    _ => {}
                }
                match next {
                    FRAGMENT => 8,
                    // RFC 4302, section 2.2: in 4-byte units, minus 2, and the fixed fields alone are 12 bytes.
                    AUTHENTICATION if len == 0 => return Err(ParseError::BadExtensionHeaders),
                    AUTHENTICATION => (usize::from(len) + 2) * 4,
                    _ => (usize::from(len) + 1) * 8,
                }
            }
            NO_NEXT_HEADER => {
                headers.key.protocol = next;
                headers.l4 = headers.end;
                return Ok(());
            }
            _ => break,
        };
        let Some((extension, after)) = rest.split_at_checked(len) else {
            return Err(ParseError::BadExtensionHeaders);
        };
        let &[following, _, high, low, ..] = extension else {
            return Err(ParseError::BadExtensionHeaders);
        };
        headers.l4 = headers.end - length(after);
        if next == FRAGMENT {
            if fragmented {
                return Err(ParseError::BadExtensionHeaders);
            }
            fragmented = true;
            let word = u16::from_be_bytes([high, low]);
            let (offset, more) = (word & 0xfff8, word & 1 != 0);
            // An atomic fragment (RFC 6946) is the whole datagram: no fragment at all.
            if offset != 0 || more {
                // RFC 8200, section 4.5: the payload length of the whole is at most 65535: fixed and fragment header do
                // not count, the extension headers before them do.
                let unfragmented = usize::from(headers.l4 - headers.l3) - 48;
                if bad_fragment(offset, more, after.len(), unfragmented) {
                    return Err(ParseError::BadFragment);
                }
                headers.flags |= Flags::FRAGMENT;
            }
            if offset != 0 {
                headers.flags |= Flags::LATER_FRAGMENT;
                headers.key.protocol = following;
                headers.l4 = headers.end;
                return Ok(());
            }
        }
        next = following;
        rest = after;
    }
    headers.key.protocol = next;
    upper::upper(headers, rest)
}

/// The length of a part of the packet, which is at most 65535 bytes long.
fn length(part: &[u8]) -> u16 {
    u16::try_from(part.len()).unwrap_or(u16::MAX)
}
