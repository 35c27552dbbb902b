//! TCP, UDP, ICMP, ICMPv6 and SCTP. Everything else is plain IP.

use throughway_shared::flow::FAMILY_IPV4;

use super::{ICMP, ICMPV6, ParseError, SCTP, TCP, UDP};
use crate::headers::{Flags, Headers};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;

/// Reads the upper-layer header of a packet that is whole, or a first fragment. `payload` reaches from `headers.l4` to
/// `headers.end`.
///
/// A first fragment must hold the whole header: RFC 1858 and RFC 3128 for IPv4, RFC 7112 for IPv6.
#[inline]
pub(super) fn upper(headers: &mut Headers, payload: &[u8]) -> Result<(), ParseError> {
    match headers.key.protocol {
        TCP => tcp(headers, payload),
        UDP => udp(headers, payload),
        ICMP if headers.key.family == FAMILY_IPV4 => icmp(headers, payload),
        ICMPV6 if headers.key.family != FAMILY_IPV4 => icmp(headers, payload),
        SCTP => sctp(headers, payload),
        _ => Ok(()),
    }
}

/// TCP (RFC 9293). Options are not read.
#[inline]
fn tcp(headers: &mut Headers, payload: &[u8]) -> Result<(), ParseError> {
    let Some(header) = payload.first_chunk::<20>() else {
        return Err(ParseError::TruncatedTcp);
    };
    let header_len = usize::from(header[12] >> 4) * 4;
    if header_len < 20 || header_len > payload.len() {
        return Err(ParseError::TruncatedTcp);
    }
    headers.key.source_port = [header[0], header[1]];
    headers.key.destination_port = [header[2], header[3]];
    headers.tcp_flags = header[13];
    headers.flags |= Flags::PORTS | Flags::L4_CHECKSUM;
    if header[13] & (SYN | FIN | RST) != 0 {
        headers.flags |= Flags::TCP_CONTROL;
    }
    headers.l4_checksum = headers.l4 + 16;
    Ok(())
}

/// UDP (RFC 768). The datagram may be shorter than the IP payload: what follows are UDP options (RFC 9868).
/// A length of zero is a jumbogram's (RFC 2675), which is refused.
#[inline]
fn udp(headers: &mut Headers, payload: &[u8]) -> Result<(), ParseError> {
    let Some(header) = payload.first_chunk::<8>() else {
        return Err(ParseError::TruncatedUdp);
    };
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if len < 8 || (len > payload.len() && !headers.flags.has(Flags::FRAGMENT)) {
        return Err(ParseError::TruncatedUdp);
    }
    headers.key.source_port = [header[0], header[1]];
    headers.key.destination_port = [header[2], header[3]];
    headers.flags |= Flags::PORTS;
    headers.l4_checksum = headers.l4 + 6;
    headers.flags |=
        if (header[6], header[7]) == (0, 0) { Flags::UDP_NO_CHECKSUM } else { Flags::L4_CHECKSUM };
    Ok(())
}

/// SCTP (RFC 9260, section 3.1). Its CRC32c is not a 16-bit checksum.
#[inline]
fn sctp(headers: &mut Headers, payload: &[u8]) -> Result<(), ParseError> {
    let Some(header) = payload.first_chunk::<12>() else {
        return Err(ParseError::TruncatedSctp);
    };
    headers.key.source_port = [header[0], header[1]];
    headers.key.destination_port = [header[2], header[3]];
    headers.flags |= Flags::PORTS;
    Ok(())
}

/// ICMP (RFC 792) and ICMPv6 (RFC 4443).
#[inline]
fn icmp(headers: &mut Headers, payload: &[u8]) -> Result<(), ParseError> {
    let Some(header) = payload.first_chunk::<8>() else {
        return Err(ParseError::TruncatedIcmp);
    };
    headers.icmp_type = header[0];
    headers.icmp_code = header[1];
    headers.flags |= Flags::L4_CHECKSUM;
    headers.l4_checksum = headers.l4 + 2;
    let (error, query) = if headers.key.protocol == ICMP {
        // Unreachable, source quench, redirect, time exceeded, parameter problem (RFC 1122, section 3.2.2); echo,
        // timestamp, information, address mask, and extended echo (RFC 8335) carry an identifier.
        (matches!(header[0], 3 | 4 | 5 | 11 | 12), matches!(header[0], 0 | 8 | 13..=18 | 42 | 43))
    } else {
        // RFC 4443, section 2.1: errors are the types below 128.
        (header[0] < 128, matches!(header[0], 128 | 129 | 160 | 161))
    };
    if error {
        headers.flags |= Flags::ICMP_ERROR;
    }
    if query {
        headers.flags |= Flags::ICMP_QUERY;
        headers.key.source_port = [header[4], header[5]];
        headers.key.destination_port = [header[4], header[5]];
    }
    Ok(())
}
