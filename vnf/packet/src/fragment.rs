//! Cuts an IPv4 packet into fragments (RFC 791, section 3.2; RFC 1812, section 5.2.6).

use throughway_shared::flow::FAMILY_IPV4;

use crate::checksum::sum;
use crate::headers::{Flags, Headers};

/// MF in the word of flags and offset.
const MORE: u16 = 0x2000;

/// The fragments of one packet, one after the other. The packet itself is not changed.
///
/// All but the last carry a multiple of eight bytes, as many as fit. The identification stays; a fragment is cut into
/// fragments of the same datagram. The first has all options, later ones those whose copy flag is set (RFC 791, section 3.1).
#[derive(Debug)]
pub struct Fragments<'a> {
    link: &'a [u8],
    first: &'a [u8],
    later: Header,
    payload: &'a [u8],
    /// Where the next fragment starts in `payload`.
    at: usize,
    /// Offset of the packet in its datagram, in units of eight bytes, with its MF.
    position: u16,
    mtu: usize,
}

/// An IPv4 header with the options that later fragments have.
#[derive(Debug)]
struct Header {
    bytes: [u8; 60],
    len: usize,
}

impl<'a> Fragments<'a> {
    /// Cuts the packet of `frame`, of which `headers` were parsed, for a link of `mtu` bytes. VLAN tags and MAC addresses are
    /// those of the frame.
    ///
    /// `None` when it cannot or must not be cut: IPv6 (RFC 8200, section 5), DF, an MTU that leaves no room for eight bytes.
    pub fn new(frame: &'a [u8], headers: &Headers, mtu: u16) -> Option<Fragments<'a>> {
        if headers.key.family != FAMILY_IPV4 || headers.flags.has(Flags::DONT_FRAGMENT) {
            return None;
        }
        let link = frame.get(..usize::from(headers.l3))?;
        let packet = frame.get(usize::from(headers.l3)..usize::from(headers.end))?;
        let header_len = usize::from(packet.first()? & 0x0f) * 4;
        let (first, payload) = packet.split_at_checked(header_len)?;
        let fixed = first.first_chunk::<20>()?;
        let mtu = usize::from(mtu);
        if mtu < header_len + 8 {
            return None;
        }
        let position = u16::from_be_bytes([fixed[6], fixed[7]]);
        Some(Fragments { link, first, later: later_header(fixed, first), payload, at: 0, position, mtu })
    }

    /// Whether there is none left.
    pub const fn is_done(&self) -> bool {
        self.at >= self.payload.len()
    }

    /// Writes the next fragment to `out`, link layer included, and returns its length; `None` when there is none left.
    ///
    /// # Errors
    ///
    /// The length that `out` would need to have; the fragment is not lost.
    pub fn next_into(&mut self, out: &mut [u8]) -> Option<Result<usize, usize>> {
        let rest = self.payload.get(self.at..).filter(|rest| !rest.is_empty())?;
        let header = if self.at == 0 { self.first } else { self.later.bytes.get(..self.later.len)? };
        let room = self.mtu - header.len();
        let (len, more) = if rest.len() <= room { (rest.len(), false) } else { (room & !7, true) };
        let total = header.len() + len;
        let needed = self.link.len() + total;
        let Some(out) = out.get_mut(..needed) else { return Some(Err(needed)) };
        let (link, packet) = out.split_at_mut_checked(self.link.len())?;
        let (new_header, new_payload) = packet.split_at_mut_checked(header.len())?;
        link.copy_from_slice(self.link);
        new_header.copy_from_slice(header);
        new_payload.copy_from_slice(rest.get(..len)?);
        // At most 13 bits: parsing has seen that the datagram is not longer than one can be.
        let offset = (self.position & 0x1fff) + (self.at / 8) as u16;
        let more = more || self.position & MORE != 0;
        let word = offset & 0x1fff | if more { MORE } else { 0 };
        let fixed = new_header.first_chunk_mut::<20>()?;
        [fixed[2], fixed[3]] = u16::try_from(total).ok()?.to_be_bytes();
        [fixed[6], fixed[7]] = word.to_be_bytes();
        [fixed[10], fixed[11]] = [0; 2];
        let checksum = (!sum(new_header)).to_be_bytes();
        new_header.get_mut(10..12)?.copy_from_slice(&checksum);
        self.at += len;
        Some(Ok(needed))
    }
}

/// The header of fragments after the first: options whose copy flag is set, filled up with zeros (end of options).
fn later_header(fixed: &[u8; 20], header: &[u8]) -> Header {
    let mut later = Header { bytes: [0; 60], len: 20 };
    if let Some(start) = later.bytes.first_chunk_mut::<20>() {
        *start = *fixed;
    }
    let mut options = header.get(20..).unwrap_or_default();
    loop {
        let len = match options {
            [] | [0, ..] => break,
            [1, ..] => 1,
            [_, len, ..] if *len >= 2 => usize::from(*len),
            // Malformed: what follows cannot be told apart.
            _ => break,
        };
        let Some((option, rest)) = options.split_at_checked(len) else { break };
        if option.first().is_some_and(|kind| kind & 0x80 != 0)
            && let Some(to) = later.bytes.get_mut(later.len..later.len + len)
        {
            to.copy_from_slice(option);
            later.len += len;
        }
        options = rest;
    }
    later.len = later.len.next_multiple_of(4);
    // At most 60 bytes: 15 words.
    later.bytes[0] = 0x40 | (later.len / 4) as u8;
    later
}
