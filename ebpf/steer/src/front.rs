//! Executes what makes a frame longer or shorter at its front, tags and outer headers, as `throughway_packet::execute` does in the
//! workers.
//!
//! Nothing is taken off but tags: packets that come in tunnels are never in the fast path.

use aya_ebpf::{EbpfContext as _, helpers::bpf_xdp_adjust_head, programs::XdpContext};
use throughway_shared::{
    action::{VLAN_MASK, edits},
    fast::{Template, split},
    flow::FAMILY_IPV4,
    tunnel::{self, Tunnel, kind},
};

use crate::{
    classify::{ETHERNET, TAG},
    door,
    fast::{Ethernet, IPV4, IPV4_LEN, IPV6, IPV6_LEN, Packet4, Packet6, Tag, fold},
    flows::Found,
};

/// Bytes of a UDP header.
const UDP_LEN: usize = 8;
/// Protocol numbers (IANA): IPv4 and IPv6 in IP, UDP.
const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;
const UDP: u8 = 17;
/// EtherTypes of tags.
const CUSTOMER: u16 = 0x8100;
const SERVICE: u16 = 0x88a8;
/// Drop eligibility, of a tag (IEEE 802.1Q, section 9.6).
const DEI: u16 = 0x1000;
/// Priority, of a tag.
const PCP: u16 = 0xe000;

/// What an outer header says of the packet behind it, which has its edits.
pub(crate) struct Inner {
    len: u16,
    ipv4: bool,
    class: u8,
    dont_fragment: bool,
    /// Its IPv4 header checksum, as it lies there.
    checksum: u16,
    /// The same for all packets of the flow.
    entropy: u16,
}

impl Inner {
    #[inline(always)]
    pub(crate) fn of4(packet: &Packet4, len: u16) -> Inner {
        let [_, class, ..] = packet.first.to_ne_bytes();
        let [_, _, flags, _] = packet.second.to_ne_bytes();
        let [_, protocol, c0, c1] = packet.third.to_ne_bytes();
        let [source, destination] = packet.addresses;
        // Of the mapped form (RFC 4291, section 2.5.5.2), as it is in a flow's key.
        let mapped = |address| join([0, 0, 0xffff_u32.to_be(), address]);
        Inner {
            len,
            ipv4: true,
            class,
            dont_fragment: flags & 0x40 != 0,
            checksum: u16::from_ne_bytes([c0, c1]),
            entropy: entropy(mapped(source), mapped(destination), packet.upper.ports, protocol),
        }
    }

    #[inline(always)]
    pub(crate) fn of6(packet: &Packet6, len: u16) -> Inner {
        let [first, second, ..] = packet.first.to_ne_bytes();
        let [_, _, protocol, _] = packet.second.to_ne_bytes();
        let [s0, s1, d0, d1] = packet.addresses.map(split);
        let (source, destination) = (join([s0.0, s0.1, s1.0, s1.1]), join([d0.0, d0.1, d1.0, d1.1]));
        Inner {
            len,
            ipv4: false,
            class: first << 4 | second >> 4,
            dont_fragment: true,
            checksum: 0,
            entropy: entropy(source, destination, packet.upper.ports, protocol),
        }
    }
}

/// The words of an address, as they lie in a packet, as one.
#[inline(always)]
fn join(words: [u32; 4]) -> u32 {
    let [a, b, c, d] = words.map(u32::from_be);
    ((a.rotate_left(5) ^ b).rotate_left(5) ^ c).rotate_left(5) ^ d
}

/// As `entropy` in `vnf/packet/src/tunnel.rs`.
#[inline(always)]
fn entropy(source: u32, destination: u32, ports: u32, protocol: u8) -> u16 {
    let mixed = source.rotate_left(16) ^ destination ^ u32::from_be(ports) ^ u32::from(protocol);
    (mixed.wrapping_mul(0x9e37_79b1) >> 16) as u16
}

/// The tags that a frame leaves with: type and control information, host order.
struct Tags {
    first: (u16, u16),
    second: (u16, u16),
    count: usize,
}

impl Tags {
    #[inline(always)]
    fn of(context: &XdpContext, l3: usize, template: &Template) -> Option<Tags> {
        let (mut first, mut second, mut count) = ((0, 0), (0, 0), 0);
        if l3 > ETHERNET {
            let (ethernet, tag): (&Ethernet, &Tag) = (door::at(context, 0)?, door::at(context, ETHERNET)?);
            first = (u16::from_be(ethernet.kind), u16::from_be(tag.control));
            count = 1;
            if l3 > ETHERNET + TAG {
                let next: &Tag = door::at(context, ETHERNET + TAG)?;
                second = (u16::from_be(tag.kind), u16::from_be(next.control));
                count = 2;
            }
        }
        let prioritised = template.edits & edits::PRIORITY != 0;
        let priority = template.outer_tag & PCP;
        if template.edits & edits::TAGS == 0 {
            if prioritised {
                first.1 = priority | first.1 & !PCP;
                second.1 = priority | second.1 & !PCP;
            }
            return Some(Tags { first, second, count });
        }
        // Without a tag there is neither priority nor eligibility: zeros.
        let control = if prioritised { priority | first.1 & DEI } else { first.1 & (PCP | DEI) };
        let (outer, inner) = (template.outer_tag & VLAN_MASK, template.inner_tag & VLAN_MASK);
        let kind = if template.edits & edits::SERVICE_TAG != 0 { SERVICE } else { CUSTOMER };
        let count = match (outer, inner) {
            (0, _) => 0,
            (_, 0) => 1,
            _ => 2,
        };
        Some(Tags { first: (kind, control | outer), second: (CUSTOMER, control | inner), count })
    }
}

/// The outer header; words as they lie there.
#[repr(C, packed)]
struct Outer4 {
    words: [u32; 5],
}

/// See [`Outer4`].
#[repr(C, packed)]
struct Outer6 {
    words: [u32; 2],
    addresses: [u64; 4],
}

/// See [`Outer4`].
#[repr(C, packed)]
struct OuterUdp {
    ports: [u16; 2],
    len: u16,
    checksum: u16,
}

/// Executes the action of a flow on a frame whose packet, of `len` bytes, starts at `l3`; `edit` does so on the packet, where it starts
/// afterwards. `None`: there is no room before it, and nothing was touched. False: never.
#[inline(always)]
pub(crate) fn execute(
    context: &XdpContext,
    l3: usize,
    len: u16,
    found: &Found,
    edit: impl FnOnce(usize) -> Option<Inner>,
) -> Option<bool> {
    let template = found.template();
    let tags = Tags::of(context, l3, template)?;
    let tunnel = (template.edits & edits::ENCAPSULATE != 0).then(|| tunnel(template));
    let outer = match tunnel {
        None => 0,
        Some(tunnel) => {
            let ip = if tunnel.family == FAMILY_IPV4 { IPV4_LEN } else { IPV6_LEN };
            ip + if tunnel.kind == kind::GUE { UDP_LEN } else { 0 }
        }
    };
    let head = ETHERNET + TAG * tags.count + outer;
    if head + usize::from(len) > usize::from(u16::MAX) {
        return None;
    }
    let ethernet: &Ethernet = door::at(context, 0)?;
    let addresses =
        if template.edits & edits::ETHERNET != 0 { template.ethernet } else { ethernet.addresses };
    if head != l3 {
        // SAFETY: `context` is the program's own. All pointers into the frame are made anew behind this.
        let refused = unsafe { bpf_xdp_adjust_head(context.as_ptr().cast(), l3 as i32 - head as i32) };
        if refused != 0 {
            return None;
        }
    }
    Some(write(context, head, addresses, &tags, tunnel, edit).is_some())
}

/// Edits the packet at `head`, and writes all that is before it.
#[inline(always)]
fn write(
    context: &XdpContext,
    head: usize,
    addresses: [u32; 3],
    tags: &Tags,
    tunnel: Option<&Tunnel>,
    edit: impl FnOnce(usize) -> Option<Inner>,
) -> Option<()> {
    let inner = edit(head)?;
    let ipv4 = tunnel.map_or(inner.ipv4, |tunnel| tunnel.family == FAMILY_IPV4);
    let kind = if ipv4 { IPV4 } else { IPV6 };
    let ethernet: &mut Ethernet = door::at_mut(context, 0)?;
    ethernet.addresses = addresses;
    ethernet.kind = if tags.count == 0 { kind } else { tags.first.0.to_be() };
    let mut at = ETHERNET;
    if tags.count > 0 {
        let tag: &mut Tag = door::at_mut(context, ETHERNET)?;
        tag.control = tags.first.1.to_be();
        tag.kind = if tags.count == 1 { kind } else { tags.second.0.to_be() };
        at = ETHERNET + TAG;
        if tags.count > 1 {
            let tag: &mut Tag = door::at_mut(context, ETHERNET + TAG)?;
            tag.control = tags.second.1.to_be();
            tag.kind = kind;
            at = ETHERNET + 2 * TAG;
        }
    }
    match tunnel {
        None => Some(()),
        Some(tunnel) => encapsulate(context, at, tunnel, &inner),
    }
}

/// Writes the outer headers at `at`: IP in IP (RFC 2003, RFC 2473, RFC 4213), or UDP between; ECN by RFC 6040, section 4.1, normal mode.
#[inline(always)]
fn encapsulate(context: &XdpContext, at: usize, tunnel: &Tunnel, inner: &Inner) -> Option<()> {
    let udp = tunnel.kind == kind::GUE;
    let protocol = match (udp, inner.ipv4) {
        (true, _) => UDP,
        (false, true) => IPV4_IN_IP,
        (false, false) => IPV6_IN_IP,
    };
    let payload = inner.len + if udp { UDP_LEN as u16 } else { 0 };
    let own = tunnel.flags & tunnel::DSCP != 0;
    let class = if own { tunnel.dscp << 2 | inner.class & 0b11 } else { inner.class };
    let l4 = if tunnel.family == FAMILY_IPV4 {
        let [l0, l1] = (payload + IPV4_LEN as u16).to_be_bytes();
        let dont_fragment = inner.dont_fragment || tunnel.flags & tunnel::DONT_FRAGMENT != 0;
        let [c0, c1] = inner.checksum.to_ne_bytes();
        let second = if dont_fragment { [0, 0, 0x40, 0] } else { [c0, c1, 0, 0] };
        let last = |[.., a, b, c, d]: [u8; 16]| u32::from_ne_bytes([a, b, c, d]);
        let words = [
            u32::from_ne_bytes([0x45, class, l0, l1]),
            u32::from_ne_bytes(second),
            u32::from_ne_bytes([tunnel.hop_limit, protocol, 0, 0]),
            last(tunnel.source),
            last(tunnel.destination),
        ];
        let [w0, w1, w2, w3, w4] = words.map(u64::from);
        let [c0, c1] = (!fold(w0 + w1 + w2 + w3 + w4) as u16).to_ne_bytes();
        let header: &mut Outer4 = door::at_mut(context, at)?;
        header.words = [
            words[0],
            words[1],
            u32::from_ne_bytes([tunnel.hop_limit, protocol, c0, c1]),
            words[3],
            words[4],
        ];
        at + IPV4_LEN
    } else {
        let ([l0, l1], [f0, f1]) = (payload.to_be_bytes(), inner.entropy.to_be_bytes());
        let ([s0, s1], [d0, d1]) = (double(tunnel.source), double(tunnel.destination));
        let header: &mut Outer6 = door::at_mut(context, at)?;
        header.words = [
            u32::from_ne_bytes([0x60 | class >> 4, class << 4, f0, f1]),
            u32::from_ne_bytes([l0, l1, protocol, tunnel.hop_limit]),
        ];
        header.addresses = [s0, s1, d0, d1];
        at + IPV6_LEN
    };
    if udp {
        // From the dynamic range (RFC 6335, section 6).
        let own = (0xc000 | inner.entropy & 0x3fff).to_be();
        let fixed = tunnel.flags & tunnel::SOURCE_PORT != 0;
        let source = if fixed { u16::from_ne_bytes(tunnel.source_port) } else { own };
        let header: &mut OuterUdp = door::at_mut(context, l4)?;
        *header = OuterUdp {
            ports: [source, u16::from_ne_bytes(tunnel.destination_port)],
            len: payload.to_be(),
            checksum: 0,
        };
    }
    Some(())
}

/// An address as two words, as it lies in a packet.
#[inline(always)]
fn double([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]: [u8; 16]) -> [u64; 2] {
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

/// What packets with this template are put into.
#[inline(always)]
fn tunnel(template: &Template) -> &Tunnel {
    const { assert!(size_of::<Tunnel>() == size_of::<[u64; 8]>() && align_of::<Tunnel>() <= 8) };
    // SAFETY: as long, no stricter in alignment, and made of bytes alone, of which any are valid. The loader's words are these bytes.
    unsafe { &*(&raw const template.tunnel).cast::<Tunnel>() }
}
