//! The bytes of one frame: Ethernet, IPv4 or IPv6, UDP or TCP, tag. What comes after the tag is not touched: zeros.

use crate::{Packet, Plan, Tuple, tag};
use throughway_shared::checksum;

/// Where the addresses, the transport header and the payload are.
#[inline(always)]
const fn network_length(ipv6: bool) -> usize {
    if ipv6 { 40 } else { 20 }
}

#[inline(always)]
const fn transport_length(tcp: bool) -> usize {
    if tcp { 20 } else { 8 }
}

/// Bytes of the Ethernet header.
pub const ETHERNET: usize = 14;

/// The least length of a frame without its frame check sequence: headers and tag, and Ethernet's minimum.
#[inline(always)]
pub const fn least(ipv6: bool, tcp: bool, stamped: bool) -> usize {
    let tag = if stamped { tag::STAMPED_LENGTH } else { tag::PLAIN_LENGTH };
    let length = ETHERNET + network_length(ipv6) + transport_length(tcp) + tag;
    if length < 60 { 60 } else { length }
}

/// TCP: SYN (RFC 9293, section 3.1).
const SYN: u16 = 0x02;
/// TCP: ACK.
const ACK: u16 = 0x10;

#[inline(always)]
fn put<const W: usize, const N: usize>(frame: &mut [u8; N], at: usize, bytes: [u8; W]) {
    frame[at..at + W].copy_from_slice(&bytes);
}

#[inline(always)]
fn word_sum(word: u32) -> u32 {
    (word >> 16) + (word & 0xffff)
}

#[inline(always)]
fn double_word_sum(word: u64) -> u32 {
    word_sum((word >> 32) as u32) + word_sum(word as u32)
}

/// Writes headers and tag of `packet` to the beginning of `frame`; its length is that of the packet's class. `stamp`:
/// CLOCK_MONOTONIC in ns, when the plan is stamped.
///
/// The constants say the same as the plan's flags; `N` is [`least`] of them.
#[inline(always)]
pub fn write<const IPV6: bool, const TCP: bool, const STAMPED: bool, const N: usize>(
    frame: &mut [u8; N],
    plan: &Plan,
    packet: &Packet,
    stamp: u64,
) {
    const { assert!(N == least(IPV6, TCP, STAMPED)) };
    let class = &plan.classes[packet.class % crate::MAX_CLASSES];
    let Tuple { source, destination, source_port, destination_port } = plan.tuple(packet.flow);
    let addresses = word_sum(source) + word_sum(destination);
    let transport = ETHERNET + const { network_length(IPV6) };
    let payload = transport + const { transport_length(TCP) };

    let [e0, e1, e2, e3, e4, e5, e6, e7, e8, e9, e10, e11, e12, e13, _, _] = plan.ethernet;
    put(frame, 0, [e0, e1, e2, e3, e4, e5, e6, e7]);
    put(frame, 8, [e8, e9, e10, e11]);
    put(frame, 12, [e12, e13]);

    // RFC 8200, section 3, and RFC 791, section 3.1: hop limit and TTL 64, "don't fragment", no options.
    let length = class.length as u16;
    let next: u8 = if TCP { 6 } else { 17 };
    if IPV6 {
        put(frame, 14, 0x6000_0000u32.to_be_bytes());
        put(frame, 18, length.wrapping_sub(54).to_be_bytes());
        put(frame, 20, [next, 64]);
        let high = |address: &[u8; 16]| {
            let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *address;
            ([a, b, c, d, e, f, g, h], [i, j, k, l])
        };
        let (first, second) = high(&plan.source);
        put(frame, 22, first);
        put(frame, 30, second);
        put(frame, 34, source.to_be_bytes());
        let (first, second) = high(&plan.destination);
        put(frame, 38, first);
        put(frame, 46, second);
        put(frame, 50, destination.to_be_bytes());
    } else {
        let sum = !checksum::fold(class.network_sum as u32 + addresses);
        put(frame, 14, [0x45, 0]);
        put(frame, 16, length.wrapping_sub(14).to_be_bytes());
        put(frame, 18, [0, 0, 0x40, 0]);
        put(frame, 22, [64, next]);
        put(frame, 24, sum.to_be_bytes());
        put(frame, 26, source.to_be_bytes());
        put(frame, 30, destination.to_be_bytes());
    }

    let mut sum = class.transport_sum as u32 + addresses + source_port as u32 + destination_port as u32;
    put(frame, payload, (plan.tag as u32).to_be_bytes());
    if STAMPED {
        let numbers = tag::numbers(packet.sequence, packet.flow);
        put(frame, payload + 4, numbers.to_be_bytes());
        let [_, _, t0, t1, t2, t3, t4, t5] = stamp.to_be_bytes();
        put(frame, payload + 12, [t0, t1]);
        put(frame, payload + 14, [t2, t3, t4, t5]);
        sum += double_word_sum(numbers) + double_word_sum(stamp & 0xffff_ffff_ffff);
    }

    put(frame, transport, source_port.to_be_bytes());
    put(frame, transport + 2, destination_port.to_be_bytes());
    if TCP {
        let data = plan.classes[0].length as u32 - payload as u32;
        let sequence = (packet.flow.wrapping_mul(0x9e37_79b1)).wrapping_add(packet.round.wrapping_mul(data));
        let (sequence, acknowledgement, flags) = if packet.first && plan.has(crate::SYN) {
            (sequence.wrapping_sub(1), 0, SYN)
        } else {
            (sequence, 1, ACK)
        };
        let flags = 0x5000 | flags;
        put(frame, transport + 4, sequence.to_be_bytes());
        put(frame, transport + 8, u32::to_be_bytes(acknowledgement));
        put(frame, transport + 12, flags.to_be_bytes());
        put(frame, transport + 14, WINDOW.to_be_bytes());
        sum += word_sum(sequence) + acknowledgement + flags as u32;
        let sum = !checksum::fold(sum);
        put(frame, transport + 16, sum.to_be_bytes());
        put(frame, transport + 18, [0, 0]);
    } else {
        // Zero would say that there is none (RFC 768).
        let sum = match !checksum::fold(sum) {
            0 => 0xffff,
            sum => sum,
        };
        put(frame, transport + 4, (length - transport as u16).to_be_bytes());
        put(frame, transport + 6, sum.to_be_bytes());
    }
}

/// TCP: the receive window that is announced.
const WINDOW: u16 = 0xffff;

/// The constant sums of frames of `length` bytes: what [`crate::Class`] holds. `network`: the addresses are not in it.
pub fn sums(plan: &Plan, length: u16) -> crate::Class {
    let (ipv6, tcp) = (plan.has(crate::IPV6), plan.has(crate::TCP));
    let next: u32 = if tcp { 6 } else { 17 };
    let transport = ETHERNET + network_length(ipv6);
    let transport_bytes = length as u32 - transport as u32;
    let mut sum = next + transport_bytes + word_sum(plan.tag as u32);
    sum += if tcp { WINDOW as u32 } else { transport_bytes };
    if ipv6 {
        for address in [&plan.source, &plan.destination] {
            let high = address[..12].as_chunks().0.iter();
            sum += high.map(|&bytes| u16::from_be_bytes(bytes) as u32).sum::<u32>();
        }
    }
    let network = if ipv6 { 0 } else { 0x4500 + (length as u32 - 14) + 0x4000 + ((64 << 8) | next) };
    crate::Class {
        length: length as u64,
        network_sum: checksum::fold(network) as u64,
        transport_sum: checksum::fold(sum) as u64,
    }
}

/// Writes headers and tag of `packet` to the beginning of `frame`, as [`write()`] does, in the form that the plan's flags
/// say. `false` when `frame` is shorter than [`least`] of them: nothing is written then.
pub fn write_any(frame: &mut [u8], plan: &Plan, packet: &Packet, stamp: u64) -> bool {
    macro_rules! form {
        ($ipv6:literal, $tcp:literal, $stamped:literal) => {{
            let Some(frame) = frame.first_chunk_mut::<{ least($ipv6, $tcp, $stamped) }>() else {
                return false;
            };
            write::<$ipv6, $tcp, $stamped, _>(frame, plan, packet, stamp);
            true
        }};
    }
    match (plan.has(crate::IPV6), plan.has(crate::TCP), plan.has(crate::STAMPED)) {
        (false, false, false) => form!(false, false, false),
        (false, false, true) => form!(false, false, true),
        (false, true, false) => form!(false, true, false),
        (false, true, true) => form!(false, true, true),
        (true, false, false) => form!(true, false, false),
        (true, false, true) => form!(true, false, true),
        (true, true, false) => form!(true, true, false),
        (true, true, true) => form!(true, true, true),
    }
}
