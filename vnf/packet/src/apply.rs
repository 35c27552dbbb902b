//! Executes an action on the bytes of a packet, checksums included.

use throughway_shared::action::{Action, edits};
use throughway_shared::checksum::{fold, update};

use crate::checksum::{self, crc32c};
use crate::headers::{Flags, Headers};
use crate::parse::{ICMP, SCTP, UDP};

/// Edits that change what an upper-layer checksum covers.
const COVERED: u16 = edits::SOURCE | edits::DESTINATION | edits::SOURCE_PORT | edits::DESTINATION_PORT;

/// Executes `action` on the bytes that `headers` were parsed from (the headers as received, not the edited view).
///
/// Checksums are updated by deltas (RFC 1624), so a packet that was damaged on its way stays recognisable to its receiver:
/// * a UDP checksum of zero stays zero (RFC 768, RFC 6936); one that becomes zero is sent as 0xffff;
/// * later fragments have neither ports nor a checksum; in a first fragment both are updated, as the delta is the same;
/// * SCTP's CRC32c follows its ports. In a first fragment it cannot: how many bytes follow is not known. A zero CRC is none
///   (RFC 9653) and stays.
///
/// An action with a drop changes nothing. Egress is for whoever sends the packet.
#[inline(always)]
pub fn apply(action: &Action, headers: &Headers, frame: &mut [u8]) {
    if action.has(edits::DROP) {
        return;
    }
    if action.has(edits::ETHERNET)
        && let Some(macs) = frame.first_chunk_mut::<12>()
    {
        let [d0, d1, d2, d3, d4, d5] = action.ethernet_destination;
        let [s0, s1, s2, s3, s4, s5] = action.ethernet_source;
        *macs = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5];
    }
    let Some(packet) = frame.get_mut(usize::from(headers.l3)..) else { return };
    if headers.is_ipv4() {
        if let Some(header) = packet.first_chunk_mut::<20>() {
            apply_ipv4(action, header);
        }
    } else if let Some(header) = packet.first_chunk_mut::<40>() {
        apply_ipv6(action, header);
    }
    if action.edits & COVERED != 0 {
        apply_upper(action, headers, frame);
    }
}

#[inline(always)]
fn apply_ipv4(action: &Action, header: &mut [u8; 20]) {
    // Added up in 32 bits and folded once: at most six words of 16 bits.
    let mut sum = u32::from(action.l3_delta);
    if action.has(edits::DSCP) {
        let old = header[1];
        header[1] = action.dscp << 2 | old & 0b11;
        sum += u32::from(!u16::from(old)) + u32::from(header[1]);
    }
    if action.hops > 0 {
        let old = header[8];
        header[8] = old.saturating_sub(action.hops);
        sum += u32::from(!(u16::from(old) << 8)) + (u32::from(header[8]) << 8);
    }
    if action.has(edits::SOURCE) {
        let [.., a, b, c, d] = action.source;
        [header[12], header[13], header[14], header[15]] = [a, b, c, d];
    }
    if action.has(edits::DESTINATION) {
        let [.., a, b, c, d] = action.destination;
        [header[16], header[17], header[18], header[19]] = [a, b, c, d];
    }
    // RFC 1624, equation 3.
    sum += u32::from(!u16::from_be_bytes([header[10], header[11]]));
    [header[10], header[11]] = (!fold(sum)).to_be_bytes();
}

#[inline(always)]
fn apply_ipv6(action: &Action, header: &mut [u8; 40]) {
    if action.has(edits::DSCP) {
        // The traffic class lies across two bytes, between version and flow label.
        let class = action.dscp << 2 | header[1] >> 4 & 0b11;
        header[0] = header[0] & 0xf0 | class >> 4;
        header[1] = class << 4 | header[1] & 0x0f;
    }
    header[7] = header[7].saturating_sub(action.hops);
    if action.has(edits::SOURCE)
        && let Some(source) = header[8..].first_chunk_mut()
    {
        *source = action.source;
    }
    if action.has(edits::DESTINATION)
        && let Some(destination) = header[24..].first_chunk_mut()
    {
        *destination = action.destination;
    }
}

#[inline(always)]
fn apply_upper(action: &Action, headers: &Headers, frame: &mut [u8]) {
    let Some(upper) = frame.get_mut(usize::from(headers.l4)..) else { return };
    if headers.flags.has(Flags::PORTS) {
        if let Some(ports) = upper.first_chunk_mut::<4>() {
            let old = *ports;
            if action.has(edits::SOURCE_PORT) {
                [ports[0], ports[1]] = action.source_port;
            }
            if action.has(edits::DESTINATION_PORT) {
                [ports[2], ports[3]] = action.destination_port;
            }
            if headers.key.protocol == SCTP {
                let difference = u32::from_ne_bytes(old) ^ u32::from_ne_bytes(*ports);
                update_crc32c(headers, upper, difference.to_ne_bytes());
            }
        }
    } else if headers.flags.has(Flags::ICMP_QUERY)
        && action.has(edits::SOURCE_PORT)
        && let Some(header) = upper.first_chunk_mut::<8>()
    {
        [header[4], header[5]] = action.source_port;
    }
    if headers.flags.has(Flags::L4_CHECKSUM)
        && let Some(field) = frame.get_mut(usize::from(headers.l4_checksum)..)
        && let Some(field) = field.first_chunk_mut()
    {
        let checksum = update(u16::from_be_bytes(*field), action.l4_delta);
        // UDP: zero would mean that there is none. ICMP: without a pseudo header the rest may be all zeros, and then zero
        // would be wrong. Everywhere else zero can stand for itself.
        let zero = checksum == 0 && matches!(headers.key.protocol, UDP | ICMP);
        *field = if zero { [0xff; 2] } else { checksum.to_be_bytes() };
    }
}

/// Updates the CRC32c of the SCTP packet that begins at `sctp` after its ports changed by `difference`.
fn update_crc32c(headers: &Headers, sctp: &mut [u8], difference: [u8; 4]) {
    let following = headers.end.saturating_sub(headers.l4).saturating_sub(4);
    if difference != [0; 4]
        && !headers.flags.has(Flags::FRAGMENT)
        && let Some(field) = sctp.get_mut(8..)
        && let Some(field) = field.first_chunk_mut()
        && *field != [0; 4]
    {
        let crc = u32::from_le_bytes(*field) ^ crc32c::difference(difference, following);
        *field = crc.to_le_bytes();
    }
}

/// Computes the IPv4 header checksum and the upper-layer checksum (SCTP: the CRC32c) from scratch and writes them.
///
/// For ports whose received checksums are not finished: a veth peer leaves that to a device that is not there. `headers`
/// are those parsed from these bytes. UDP without a checksum stays without.
///
/// Returns whether every checksum is right now. It cannot be for fragments, which do not hold what their checksum covers,
/// nor for packets whose source route is not used up; their upper layer is left as it is.
pub fn recompute_checksums(headers: &Headers, frame: &mut [u8]) -> bool {
    if headers.is_ipv4() && !recompute_ipv4(headers, frame) {
        return false;
    }
    if headers.key.protocol == SCTP && !headers.flags.has(Flags::FRAGMENT) {
        let crc = checksum::sctp_checksum(frame, headers);
        let field = frame.get_mut(usize::from(headers.l4) + 8..).and_then(|rest| rest.first_chunk_mut());
        return write(field, crc);
    }
    if headers.flags.has(Flags::L4_CHECKSUM) {
        let checksum = checksum::upper_checksum(frame, headers).map(u16::to_be_bytes);
        let field = frame.get_mut(usize::from(headers.l4_checksum)..).and_then(|rest| rest.first_chunk_mut());
        return write(field, checksum);
    }
    !headers.flags.has(Flags::FRAGMENT)
}

fn recompute_ipv4(headers: &Headers, frame: &mut [u8]) -> bool {
    let Some(packet) = frame.get_mut(usize::from(headers.l3)..usize::from(headers.end)) else {
        return false;
    };
    let header_len = packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
    let Some(header) = packet.get_mut(..header_len) else { return false };
    if let Some(field) = header.get_mut(10..12) {
        field.fill(0);
    }
    let checksum = !checksum::sum(header);
    write(header.get_mut(10..).and_then(|rest| rest.first_chunk_mut()), Some(checksum.to_be_bytes()))
}

/// Writes `value` to `field` if both are there; whether it did.
fn write<const N: usize>(field: Option<&mut [u8; N]>, value: Option<[u8; N]>) -> bool {
    match (field, value) {
        (Some(field), Some(value)) => {
            *field = value;
            true
        }
        _ => false,
    }
}
