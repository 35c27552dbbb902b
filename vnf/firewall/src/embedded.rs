//! The packet that an ICMP error is about, as far as the error quotes it.

use throughway_packet::parse::{ICMP, ICMPV6, SCTP, TCP, UDP};
use throughway_packet::{Headers, parse::MAX_EXTENSIONS};
use throughway_session::SessionKey;
use throughway_shared::flow::mapped;

use crate::track::icmp::Query;

/// The key under which the session of the quoted packet is known, if there is one. `received` are the headers of `bytes`, an
/// ICMP or ICMPv6 error. `None` if too little is quoted, or a later fragment, or an error itself.
pub(crate) fn session_key(bytes: &[u8], received: &Headers, zone: u16) -> Option<SessionKey> {
    let error = bytes.get(usize::from(received.l4)..usize::from(received.end))?;
    // Type, code, checksum and four bytes more (RFC 792; RFC 4443, section 3).
    let quoted = error.get(8..)?;
    let mut key = SessionKey { zone, ..SessionKey::default() };
    let ipv4 = received.is_ipv4();
    let upper = if ipv4 { ipv4_header(quoted, &mut key)? } else { ipv6_header(quoted, &mut key)? };
    match key.protocol {
        TCP | UDP | SCTP => {
            let &[a, b, c, d] = upper.first_chunk::<4>()?;
            (key.source_port, key.destination_port) = ([a, b], [c, d]);
        }
        ICMP | ICMPV6 => {
            let &[kind, _, _, _, a, b] = upper.first_chunk::<6>()?;
            let query = Query::of(ipv4, kind).filter(|_| (key.protocol == ICMP) == ipv4)?;
            (key.source_port, key.destination_port) = ([a, b], [a, b]);
            query.put_into(&mut key);
        }
        _ => {}
    }
    Some(key)
}

/// Fills in addresses and protocol; gives back what follows the header.
fn ipv4_header<'a>(quoted: &'a [u8], key: &mut SessionKey) -> Option<&'a [u8]> {
    let header = quoted.first_chunk::<20>()?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let later = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
    if header[0] >> 4 != 4 || header_len < 20 || later {
        return None;
    }
    key.source = mapped([header[12], header[13], header[14], header[15]]);
    key.destination = mapped([header[16], header[17], header[18], header[19]]);
    key.protocol = header[9];
    quoted.get(header_len..)
}

/// As [`ipv4_header`], over extension headers.
fn ipv6_header<'a>(quoted: &'a [u8], key: &mut SessionKey) -> Option<&'a [u8]> {
    let (header, mut rest) = quoted.split_first_chunk::<40>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    key.source = *header.get(8..)?.first_chunk()?;
    key.destination = *header.get(24..)?.first_chunk()?;
    key.protocol = header[6];
    for _ in 0..MAX_EXTENSIONS {
        let &[next, len, high, low, ..] = rest.first_chunk::<8>().unwrap_or(&[0; 8]);
        let skip = match key.protocol {
            // Hop-by-hop options, routing, destination options.
            0 | 43 | 60 => (usize::from(len) + 1) * 8,
            // Authentication (RFC 4302, section 2.2).
            51 => (usize::from(len) + 2) * 4,
            // A fragment: only the first has ports.
            44 if u16::from_be_bytes([high, low]) & 0xfff8 == 0 => 8,
            44 => return None,
            _ => return Some(rest),
        };
        rest = rest.get(skip..)?;
        key.protocol = next;
    }
    None
}
