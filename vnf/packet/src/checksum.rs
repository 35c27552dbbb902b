//! Full checksums over bytes: the Internet checksum (RFC 1071) and SCTP's CRC32c (RFC 9260, appendix A).
//!
//! Updates by deltas are in [`throughway_shared::checksum`].

pub mod crc32c;

use throughway_shared::checksum::{add, fold};

use crate::headers::{Flags, Headers};
use crate::parse::{ICMP, SCTP, UDP};

/// The one's complement sum of the big-endian 16-bit words of `bytes`; an odd last byte is padded with zero.
///
/// The sum does not depend on byte order (RFC 1071, section 2), so it is made in the machine's own, 32 bits at a time.
/// At most 2³² bytes.
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0u8; 4];
    for (to, from) in last.iter_mut().zip(rest) {
        *to = *from;
    }
    sum += u64::from(u32::from_ne_bytes(last));
    // 64 bits to 33, then to 32 with the carry brought around.
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    u16::from_be_bytes(fold(sum as u32).to_ne_bytes())
}

/// [`sum`] of an IPv4 header without options.
#[inline]
pub(crate) fn sum_of_ipv4_header(header: &[u8; 20]) -> u16 {
    let (words, _) = header.as_chunks::<4>();
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    // Five words: the carries are at most 4.
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    u16::from_be_bytes(fold(sum as u32).to_ne_bytes())
}

/// The sum of a pseudo header (RFC 9293, section 3.1; RFC 8200, section 8.1): addresses, as they stand in the IP header,
/// upper-layer protocol and length. Both families have the same form.
#[inline]
pub fn pseudo_header_sum(addresses: &[u8], protocol: u8, len: u16) -> u16 {
    add(sum(addresses), add(u16::from(protocol), len))
}

/// The addresses of a packet as they stand in its IP header: source, then destination.
fn addresses<'a>(frame: &'a [u8], headers: &Headers) -> Option<&'a [u8]> {
    let header = frame.get(usize::from(headers.l3)..usize::from(headers.l4))?;
    if headers.is_ipv4() { header.get(12..20) } else { header.get(8..40) }
}

/// What the upper-layer checksum of a packet covers, and the sum of its pseudo header.
fn covered<'a>(frame: &'a [u8], headers: &Headers) -> Option<(&'a [u8], u16)> {
    let mut bytes = frame.get(usize::from(headers.l4)..usize::from(headers.end))?;
    let protocol = headers.key.protocol;
    if protocol == UDP {
        // What follows the datagram is not covered (RFC 9868, section 8).
        let len = u16::from_be_bytes([*bytes.get(4)?, *bytes.get(5)?]);
        bytes = bytes.get(..usize::from(len))?;
    }
    if headers.is_ipv4() && protocol == ICMP {
        return Some((bytes, 0));
    }
    let len = u16::try_from(bytes.len()).ok()?;
    Some((bytes, pseudo_header_sum(addresses(frame, headers)?, protocol, len)))
}

/// The upper-layer checksum of a packet, computed from scratch over its bytes as if the field were zero; `None` when the packet has none,
/// or when it does not hold all that the checksum covers: fragments, source routes that are not used up.
pub(crate) fn upper_checksum(frame: &[u8], headers: &Headers) -> Option<u16> {
    if !headers.flags.has(Flags::L4_CHECKSUM) || headers.flags.any(Flags::FRAGMENT | Flags::SOURCE_ROUTED) {
        return None;
    }
    let (bytes, pseudo) = covered(frame, headers)?;
    let at = usize::from(headers.l4_checksum);
    let field = u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]);
    // Adding the complement of a word takes it out of a one's complement sum; what is left may be 0xffff for zero, which
    // is right unless all bytes are zero.
    let checksum = !add(add(sum(bytes), pseudo), !field);
    Some(if checksum == 0 && matches!(headers.key.protocol, UDP | ICMP) { 0xffff } else { checksum })
}

/// The CRC32c of an SCTP packet, computed from scratch as if the field were zero, in the order of its bytes on the wire.
/// `None` when it is not SCTP or a fragment.
pub(crate) fn sctp_checksum(frame: &[u8], headers: &Headers) -> Option<[u8; 4]> {
    if headers.key.protocol != SCTP || headers.flags.has(Flags::FRAGMENT) {
        return None;
    }
    let packet = frame.get(usize::from(headers.l4)..usize::from(headers.end))?;
    let (before, rest) = packet.split_at_checked(8)?;
    let (_, after) = rest.split_at_checked(4)?;
    let register = crc32c::extend(crc32c::extend(crc32c::START, before), &[0; 4]);
    Some(crc32c::finish(crc32c::extend(register, after)).to_le_bytes())
}

/// Whether all checksums of a packet are right: IPv4 header, TCP, UDP, ICMP, ICMPv6, and the CRC32c of SCTP.
///
/// `headers` are those parsed from `frame`. UDP without a checksum is right over IPv4, wrong over IPv6. What cannot be
/// checked counts as right: the upper layer of fragments and of packets whose source route is not used up.
pub fn verify(frame: &[u8], headers: &Headers) -> bool {
    verify_checked(frame, headers).unwrap_or(false)
}

fn verify_checked(frame: &[u8], headers: &Headers) -> Option<bool> {
    if headers.is_ipv4() {
        let packet = frame.get(usize::from(headers.l3)..usize::from(headers.end))?;
        let header_len = usize::from(packet.first()? & 0x0f) * 4;
        if sum(packet.get(..header_len)?) != 0xffff {
            return Some(false);
        }
    }
    if headers.flags.any(Flags::FRAGMENT | Flags::SOURCE_ROUTED) {
        return Some(true);
    }
    if headers.flags.has(Flags::UDP_NO_CHECKSUM) {
        return Some(headers.is_ipv4());
    }
    if headers.key.protocol == SCTP {
        let at = usize::from(headers.l4) + 8;
        return Some(sctp_checksum(frame, headers)? == frame.get(at..at + 4)?);
    }
    if headers.flags.has(Flags::L4_CHECKSUM) {
        let (bytes, pseudo) = covered(frame, headers)?;
        return Some(add(sum(bytes), pseudo) == 0xffff);
    }
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum as RFC 1071 writes it.
    fn slow(bytes: &[u8]) -> u16 {
        bytes
            .chunks(2)
            .fold(0, |sum, word| add(sum, u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)])))
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn equals_the_slow_sum_for_every_length() {
        let bytes: Vec<u8> = (0..600u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for len in 0..bytes.len() {
            assert_eq!(sum(&bytes[..len]), slow(&bytes[..len]), "{len} bytes");
        }
        let ones = vec![0xff; 65_535];
        assert_eq!(sum(&ones), slow(&ones));
        assert_eq!(sum_of_ipv4_header(&[0xff; 20]), 0xffff);
        assert_eq!(sum_of_ipv4_header(bytes[7..].first_chunk().unwrap()), slow(&bytes[7..27]));
    }

    #[test]
    fn a_zero_sum_means_nothing_but_zeros() {
        assert_eq!(sum(&[0; 20]), 0);
        assert_eq!(sum(&[0xff, 0xfe, 0, 1]), 0xffff);
    }

    #[test]
    fn the_mapped_prefix_does_not_count() {
        let wire = [192, 0, 2, 1, 198, 51, 100, 7];
        let mut mapped = Vec::from(throughway_shared::flow::mapped([192, 0, 2, 1]));
        mapped.extend(throughway_shared::flow::mapped([198, 51, 100, 7]));
        assert_eq!(pseudo_header_sum(&wire, 6, 20), pseudo_header_sum(&mapped, 6, 20));
    }
}
