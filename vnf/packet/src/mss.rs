//! Lowers the maximum segment size that a TCP SYN announces (RFC 9293, section 3.7.1; RFC 6691), so that the segments of
//! both sides fit a link that neither of them sees.

use throughway_shared::checksum::{delta, update};

use crate::headers::{Flags, Headers};
use crate::parse::TCP;

/// SYN in TCP's flags byte.
const SYN: u8 = 0x02;
/// Option kinds (RFC 9293, section 3.2).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
/// Length of the MSS option.
const MSS_LEN: usize = 4;

/// The largest segment that fits into IP packets of `mtu` bytes without options (RFC 6691, section 2): what a SYN is clamped
/// to. IPv4 if `ipv4`, else IPv6.
pub const fn of_mtu(mtu: u16, ipv4: bool) -> u16 {
    mtu.saturating_sub(if ipv4 { 40 } else { 60 })
}

/// Lowers the MSS option of a SYN (with or without ACK) to `mss` bytes where it is larger, with the checksum; returns
/// whether anything changed.
///
/// `headers` are those parsed from `frame`. Nothing is changed in packets that are no SYN, that have no such option (RFC 9293:
/// 536 or 1220 is assumed then, and no option is added: the header would grow), and when the options are malformed in any
/// way: then they are for the receiver to judge.
pub fn clamp(headers: &Headers, frame: &mut [u8], mss: u16) -> bool {
    if headers.key.protocol != TCP || !headers.flags.has(Flags::PORTS) || headers.tcp_flags & SYN == 0 {
        return false;
    }
    let Some(tcp) = frame.get_mut(usize::from(headers.l4)..usize::from(headers.end)) else { return false };
    let header_len = tcp.get(12).map_or(0, |byte| usize::from(byte >> 4) * 4);
    let Some(header) = tcp.get_mut(..header_len) else { return false };
    if !well_formed(header) {
        return false;
    }
    let mut changed = false;
    let mut at = 20;
    while let Some((kind, len)) = option(header, at) {
        if kind == MSS
            && let Some(field) =
                header.get_mut(at + 2..at + MSS_LEN).and_then(|field| field.first_chunk_mut())
            && u16::from_be_bytes(*field) > mss
        {
            let old = std::mem::replace(field, mss.to_be_bytes());
            // At an odd offset the two bytes are in two words of the sum, each in the other half (RFC 1071, section 2 B).
            let word =
                |bytes| if at % 2 == 0 { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) };
            let change = delta(word(old), word(mss.to_be_bytes()));
            if let Some(field) = header.get_mut(16..).and_then(|rest| rest.first_chunk_mut()) {
                *field = update(u16::from_be_bytes(*field), change).to_be_bytes();
            }
            changed = true;
        }
        at += len;
    }
    changed
}

/// The option at `at`: its kind and length; `None` at the end of the options. Only for options that are
/// [`well_formed`].
fn option(header: &[u8], at: usize) -> Option<(u8, usize)> {
    match header.get(at..)? {
        [END, ..] | [] => None,
        [NO_OPERATION, ..] => Some((NO_OPERATION, 1)),
        [kind, len, ..] => Some((*kind, usize::from(*len).max(1))),
        [_] => None,
    }
}

/// Whether every option lies inside the header and has a length that it can have.
fn well_formed(header: &[u8]) -> bool {
    let mut options = header.get(20..).unwrap_or_default();
    loop {
        options = match options {
            [] | [END, ..] => return true,
            [NO_OPERATION, rest @ ..] => rest,
            [MSS, len, ..] if usize::from(*len) != MSS_LEN => return false,
            [_, len, ..] if *len >= 2 => match options.get(usize::from(*len)..) {
                Some(rest) => rest,
                None => return false,
            },
            _ => return false,
        }
    }
}
