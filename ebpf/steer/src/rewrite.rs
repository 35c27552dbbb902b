//! Executes a flow's action on the bytes of a packet, as `throughway_packet::apply` does in the workers.
//!
//! Checksums are sums in the machine's own byte order (RFC 1071, section 2) and are updated by deltas (RFC 1624, equation 3).

use throughway_shared::{
    action::edits,
    checksum::fold,
    fast::{Template, split},
};

use crate::{
    fast::{Ethernet, Packet4, Packet6, TcpRest, Upper},
    flows::Found,
};

/// Edits that change what an upper-layer checksum covers.
const COVERED: u16 = edits::SOURCE | edits::DESTINATION | edits::SOURCE_PORT | edits::DESTINATION_PORT;

#[inline(always)]
pub(crate) fn ipv4(packet: &mut Packet4, tcp: Option<&mut TcpRest>, found: &Found) {
    let (entry, template) = (found.entry(), found.template());
    let mut sum = u32::from(entry.l3_delta);
    if template.edits & edits::DSCP != 0 {
        let [version, class, l0, l1] = packet.first.to_ne_bytes();
        let new = template.dscp << 2 | class & 0b11;
        sum += word(!version, !class) + word(version, new);
        packet.first = u32::from_ne_bytes([version, new, l0, l1]);
    }
    // Not more hops than there are: that was looked at. So nothing is borrowed, and the word changes by as much as its first byte.
    let third = packet.third - u32::from_ne_bytes([template.hops, 0, 0, 0]);
    let [hops, protocol, c0, c1] = third.to_ne_bytes();
    sum += word(!template.hops, !0) + word(!c0, !c1);
    let [c0, c1] = (!fold(sum)).to_ne_bytes();
    packet.third = u32::from_ne_bytes([hops, protocol, c0, c1]);
    if template.edits & COVERED == 0 {
        return;
    }
    let (source, destination) = split(entry.new_addresses);
    if template.edits & edits::SOURCE != 0 {
        packet.addresses[0] = source;
    }
    if template.edits & edits::DESTINATION != 0 {
        packet.addresses[1] = destination;
    }
    upper(&mut packet.upper, tcp, found);
}

#[inline(always)]
pub(crate) fn ipv6(packet: &mut Packet6, tcp: Option<&mut TcpRest>, found: &Found) {
    let template = found.template();
    if template.edits & edits::DSCP != 0 {
        // The traffic class lies across two bytes, between version and flow label.
        let [first, second, third, fourth] = packet.first.to_ne_bytes();
        let class = template.dscp << 2 | second >> 4 & 0b11;
        packet.first =
            u32::from_ne_bytes([first & 0xf0 | class >> 4, class << 4 | second & 0x0f, third, fourth]);
    }
    let [l0, l1, protocol, hops] = packet.second.to_ne_bytes();
    packet.second = u32::from_ne_bytes([l0, l1, protocol, hops - template.hops]);
    if template.edits & COVERED == 0 {
        return;
    }
    if let Some(wide) = found.wide() {
        let [s0, s1, d0, d1] = wide.new_addresses;
        if template.edits & edits::SOURCE != 0 {
            packet.addresses[0] = s0;
            packet.addresses[1] = s1;
        }
        if template.edits & edits::DESTINATION != 0 {
            packet.addresses[2] = d0;
            packet.addresses[3] = d1;
        }
    }
    upper(&mut packet.upper, tcp, found);
}

/// The frame's own addresses.
#[inline(always)]
pub(crate) fn ethernet(ethernet: &mut Ethernet, template: &Template) {
    if template.edits & edits::ETHERNET != 0 {
        // Word by word: the whole would be copied by a function, whose frame on the stack is too much for kernel 6.1.
        let [m0, m1, m2] = template.ethernet;
        ethernet.addresses[0] = m0;
        ethernet.addresses[1] = m1;
        ethernet.addresses[2] = m2;
    }
}

/// Ports, and the checksum of the upper layer.
#[inline(always)]
fn upper(upper: &mut Upper, tcp: Option<&mut TcpRest>, found: &Found) {
    let (entry, template) = (found.entry(), found.template());
    let ([s0, s1, d0, d1], [n0, n1, n2, n3]) = (upper.ports.to_ne_bytes(), entry.new_ports.to_ne_bytes());
    let source = if template.edits & edits::SOURCE_PORT != 0 { [n0, n1] } else { [s0, s1] };
    let destination = if template.edits & edits::DESTINATION_PORT != 0 { [n2, n3] } else { [d0, d1] };
    upper.ports = u32::from_ne_bytes([source[0], source[1], destination[0], destination[1]]);
    match tcp {
        Some(tcp) => tcp.checksum = update(tcp.checksum, entry.l4_delta),
        // Of UDP, zero is none and stays so (RFC 768, RFC 6936); and one that becomes zero is sent as 0xffff.
        None if upper.checksum != 0 => {
            let checksum = update(upper.checksum, entry.l4_delta);
            upper.checksum = if checksum == 0 { 0xffff } else { checksum };
        }
        None => {}
    }
}

/// The new checksum field after what it covers changed by `delta`; both as they lie in the packet.
#[inline(always)]
fn update(checksum: u16, delta: u16) -> u16 {
    // Two words leave one carry at most, and adding that leaves none.
    let sum = u32::from(!checksum) + u32::from(delta);
    !((sum + (sum >> 16)) as u16)
}

/// A word of two bytes as they lie in the packet.
#[inline(always)]
fn word(first: u8, second: u8) -> u32 {
    u32::from(u16::from_ne_bytes([first, second]))
}
