//! The packet that an ICMP or ICMPv6 error is about: read and edited.
//!
//! An error carries the start of the packet that caused it (RFC 792, RFC 4443, section 3). Who translates addresses must
//! translate that too (RFC 5508, section 4; RFC 7915, section 4.2), or the host that sent it will not know its own packet.

use throughway_shared::action::{Action, edits};
use throughway_shared::checksum::{delta, update};
use throughway_shared::flow::{FAMILY_IPV4, FAMILY_IPV6, mapped};

use crate::apply::apply;
use crate::checksum::sum;
use crate::headers::{Flags, Headers};
use crate::parse::{ICMP, ICMPV6, MAX_EXTENSIONS, ParseError, SCTP, TCP, UDP, source_routed};

/// Where the embedded packet starts in an ICMP message.
const QUOTE: usize = 8;

/// What may be edited of an embedded packet.
const TRANSLATED: u16 = edits::SOURCE | edits::DESTINATION | edits::SOURCE_PORT | edits::DESTINATION_PORT;

/// Reads the packet embedded in an ICMP error, as far as it is there.
///
/// `headers` are those parsed from `frame`. Of what is returned, offsets are into the same frame, but `end` is where the
/// packet ended when it was whole, which may be beyond the frame. [`Flags::PORTS`], [`Flags::ICMP_QUERY`] and
/// [`Flags::L4_CHECKSUM`] say whether these fields are among the bytes embedded. The key is the packet's own: its source is
/// the host that gets the error. The IPv4 header checksum is not verified: some routers change the header before they quote it.
///
/// What follows the packet by RFC 4884 (extensions) is not taken for a part of it.
///
/// # Errors
///
/// [`ParseError::NotIp`] when the packet is no ICMP error; others when not even its IP header is embedded whole, or is malformed.
pub fn parse_embedded(frame: &[u8], headers: &Headers) -> Result<Headers, ParseError> {
    if !headers.flags.has(Flags::ICMP_ERROR) {
        return Err(ParseError::NotIp);
    }
    let message =
        frame.get(usize::from(headers.l4)..usize::from(headers.end)).ok_or(ParseError::TruncatedIcmp)?;
    let quote = message.get(QUOTE..).ok_or(ParseError::TruncatedIcmp)?;
    let quote = quote.get(..quoted(message, headers).min(quote.len())).unwrap_or(quote);
    let mut embedded = Headers { l3: headers.l4 + QUOTE as u16, ..Headers::default() };
    embedded.key.ingress = headers.key.ingress;
    if headers.is_ipv4() {
        ipv4(&mut embedded, quote)?
    } else {
        ipv6(&mut embedded, quote)?
    }
    Ok(embedded)
}

/// How many bytes of the original datagram the length attribute of RFC 4884 says there are; all, where it says nothing.
fn quoted(message: &[u8], headers: &Headers) -> usize {
    let unit = match (headers.is_ipv4(), headers.icmp_type) {
        (true, 3 | 11 | 12) => message.get(5).map(|words| usize::from(*words) * 4),
        (false, 1 | 3) => message.get(4).map(|words| usize::from(*words) * 8),
        _ => None,
    };
    unit.filter(|len| *len > 0).unwrap_or(usize::MAX)
}

fn ipv4(embedded: &mut Headers, quote: &[u8]) -> Result<(), ParseError> {
    let header = quote.first_chunk::<20>().ok_or(ParseError::TruncatedIpv4)?;
    let header_len = u16::from(header[0] & 0x0f) * 4;
    let total_len = u16::from_be_bytes([header[2], header[3]]);
    if header[0] >> 4 != 4 || header_len < 20 || total_len < header_len {
        return Err(ParseError::BadIpv4Header);
    }
    // What pads the quote is no part of the packet.
    let quote = quote.get(..usize::from(total_len)).unwrap_or(quote);
    let upper = quote.get(usize::from(header_len)..).ok_or(ParseError::TruncatedIpv4)?;
    embedded.key.family = FAMILY_IPV4;
    embedded.key.source = mapped([header[12], header[13], header[14], header[15]]);
    embedded.key.destination = mapped([header[16], header[17], header[18], header[19]]);
    embedded.key.protocol = header[9];
    embedded.traffic_class = header[1];
    embedded.hop_limit = header[8];
    embedded.l4 = embedded.l3 + header_len;
    embedded.end = embedded.l3.saturating_add(total_len);
    if header_len > 20 {
        embedded.flags |= Flags::OPTIONS;
        if quote.get(..usize::from(header_len)).is_some_and(source_routed) {
            embedded.flags |= Flags::SOURCE_ROUTED;
        }
    }
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    if fragment & 0x4000 != 0 {
        embedded.flags |= Flags::DONT_FRAGMENT;
    }
    if fragment & 0x3fff != 0 {
        embedded.flags |= Flags::FRAGMENT;
    }
    if fragment & 0x1fff != 0 {
        embedded.flags |= Flags::LATER_FRAGMENT;
        return Ok(());
    }
    self::upper(embedded, upper);
    Ok(())
}

fn ipv6(embedded: &mut Headers, quote: &[u8]) -> Result<(), ParseError> {
    let (header, mut rest) = quote.split_first_chunk::<40>().ok_or(ParseError::TruncatedIpv6)?;
    let (fixed, addresses) = header.split_first_chunk::<8>().ok_or(ParseError::TruncatedIpv6)?;
    let (source, destination) = addresses.split_first_chunk::<16>().ok_or(ParseError::TruncatedIpv6)?;
    if fixed[0] >> 4 != 6 {
        return Err(ParseError::BadIpv6Header);
    }
    embedded.key.family = FAMILY_IPV6;
    embedded.key.source = *source;
    embedded.key.destination = destination.try_into().map_err(|_| ParseError::TruncatedIpv6)?;
    embedded.traffic_class = fixed[0] << 4 | fixed[1] >> 4;
    embedded.hop_limit = fixed[7];
    embedded.flags |= Flags::DONT_FRAGMENT;
    embedded.l4 = embedded.l3 + 40;
    let payload_len = u16::from_be_bytes([fixed[4], fixed[5]]);
    embedded.end = embedded.l4.saturating_add(payload_len);
    rest = rest.get(..usize::from(payload_len)).unwrap_or(rest);
    let mut next = fixed[6];
    for _ in 0..MAX_EXTENSIONS {
        embedded.key.protocol = next;
        // As in parsing, but what is cut off is no error here: it ends the reading.
        let &[following, len, high, low, ..] = rest else { break };
        let len = match next {
            0 | 43 | 60 => (usize::from(len) + 1) * 8,
            51 => (usize::from(len) + 2) * 4,
            44 => 8,
            _ => break,
        };
        if next == 43 && low > 0 {
            embedded.flags |= Flags::SOURCE_ROUTED | Flags::OPTIONS;
        }
        if next == 44 {
            let word = u16::from_be_bytes([high, low]);
            if word & !0b110 != 0 {
                embedded.flags |= Flags::FRAGMENT;
            }
            if word & 0xfff8 != 0 {
                embedded.flags |= Flags::LATER_FRAGMENT;
                embedded.key.protocol = following;
                return Ok(());
            }
        }
        let Some(after) = rest.get(len..) else { return Ok(()) };
        embedded.l4 += len as u16;
        next = following;
        rest = after;
    }
    embedded.key.protocol = next;
    upper(embedded, rest);
    Ok(())
}

/// Reads what is there of the upper-layer header.
fn upper(embedded: &mut Headers, upper: &[u8]) {
    let protocol = embedded.key.protocol;
    let icmp = if embedded.is_ipv4() { ICMP } else { ICMPV6 };
    let checksum_at = match protocol {
        TCP => 16,
        UDP => 6,
        _ if protocol == icmp => 2,
        _ => usize::MAX,
    };
    if matches!(protocol, TCP | UDP | SCTP)
        && let Some(&[a, b, c, d]) = upper.first_chunk::<4>()
    {
        embedded.key.source_port = [a, b];
        embedded.key.destination_port = [c, d];
        embedded.flags |= Flags::PORTS;
    }
    if protocol == icmp
        && let Some(&[kind, code, _, _, a, b, _, _]) = upper.first_chunk::<8>()
    {
        (embedded.icmp_type, embedded.icmp_code) = (kind, code);
        let query = if icmp == ICMP {
            matches!(kind, 0 | 8 | 13..=18 | 42 | 43)
        } else {
            matches!(kind, 128 | 129 | 160 | 161)
        };
        if query {
            embedded.key.source_port = [a, b];
            embedded.key.destination_port = [a, b];
            embedded.flags |= Flags::ICMP_QUERY;
        }
    }
    if let Some(field) = checksum_at.checked_add(2).and_then(|end| upper.get(checksum_at..end)) {
        embedded.l4_checksum = embedded.l4 + checksum_at as u16;
        let none = protocol == UDP && field == [0; 2];
        embedded.flags |= if none { Flags::UDP_NO_CHECKSUM } else { Flags::L4_CHECKSUM };
    }
}

/// What the headers of a packet are after the edits of its addresses and ports in `action`.
pub fn edited(headers: &Headers, action: &Action) -> Headers {
    let mut view = *headers;
    if action.has(edits::SOURCE) {
        view.key.source = action.source;
    }
    if action.has(edits::DESTINATION) {
        view.key.destination = action.destination;
    }
    if action.has(edits::SOURCE_PORT) {
        view.key.source_port = action.source_port;
        if view.flags.has(Flags::ICMP_QUERY) {
            view.key.destination_port = action.source_port;
        }
    }
    if action.has(edits::DESTINATION_PORT) {
        view.key.destination_port = action.destination_port;
    }
    view
}

/// Executes `action` on the packet embedded in an ICMP error, with every checksum that is there: that of the embedded IPv4
/// header, of the embedded upper layer, and of the error itself. `headers` are those parsed from `frame`.
///
/// `action` holds edits that were recorded on what [`parse_embedded`] gave. A packet without an embedded one is left alone.
pub fn apply_embedded(action: &Action, headers: &Headers, frame: &mut [u8]) {
    let Ok(embedded) = parse_embedded(frame, headers) else { return };
    let (start, end) = (usize::from(embedded.l3), usize::from(headers.end));
    let Some(frame) = frame.get_mut(..end) else { return };
    let Some(before) = frame.get(start..).map(sum) else { return };
    // Only addresses and ports are meant.
    let action = Action { edits: action.edits & TRANSLATED, hops: 0, ..*action };
    apply(&action, &embedded, frame);
    let Some(after) = frame.get(start..).map(sum) else { return };
    // The message's checksum covers it all, and the quote starts at an even offset.
    if before != after
        && headers.flags.has(Flags::L4_CHECKSUM)
        && let Some(field) = frame.get_mut(usize::from(headers.l4_checksum)..)
        && let Some(field) = field.first_chunk_mut()
    {
        *field = update(u16::from_be_bytes(*field), delta(before, after)).to_be_bytes();
    }
}
