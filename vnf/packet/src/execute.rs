//! Executes what a chain recorded on a whole frame: tags and tunnels make it longer or shorter at its front.

use throughway_shared::action::{Action, Rewrite, VLAN_MASK, edits};
use throughway_shared::checksum::{delta, update};
use throughway_shared::flow::FAMILY_IPV4;
use throughway_shared::tunnel::{self, Tunnel, kind};

use crate::apply::apply;
use crate::checksum::sum;
use crate::embedded::edited;
use crate::frame::Frame;
use crate::headers::Headers;
use crate::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ParseError, UDP, parse_inner};
use crate::tunnel::{combined_class, entropy, flow_port, outer_class, protocol_of};

/// Why a rewrite could not be executed. The frame is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The frame has no room for what is to be put before the packet, or the packet would be longer than one can be.
    #[error("no room for a header before the packet")]
    NoHeadroom,
    /// More headers are to be put on or taken off than a rewrite can hold, or of a kind that is not known.
    #[error("the tunnels are nested too deep")]
    TooDeep,
    /// The packet that is to be taken out of its tunnel is not there or malformed.
    #[error("{0}")]
    Inner(#[from] ParseError),
    /// The tunnel met congestion and the packet's transport would not understand (RFC 6040, section 4.2: it is dropped).
    #[error("the tunnel met congestion and the packet cannot carry the mark")]
    CongestionMarkLost,
}

/// The longest head that is ever put before a packet: Ethernet, two tags, IPv6, UDP.
const LONGEST_HEAD: usize = 14 + 2 * 4 + 40 + 8;

/// EtherType of an 802.1Q tag.
const TAG: u16 = 0x8100;
/// EtherType of an 802.1ad service tag.
const SERVICE_TAG: u16 = 0x88a8;

/// Executes `rewrite` on the frame that `headers` were parsed from (the headers as received, not the edited view). See
/// [`apply()`] for the packet itself.
///
/// * Tags: the frame's priority and drop eligibility are those of its outer tag, and go over to the new tags.
/// * Encapsulation: DSCP, DF and hop limit as [`crate::tunnel::Encapsulation`] says, ECN by RFC 6040 (normal mode). Outer
///   IPv4 identification: zero with DF (RFC 6864, section 4.1); otherwise the packet's own header checksum, a function of its
///   content (its own identification included), so that no counter is needed. Outer IPv6 flow label: from the flow (RFC 6438).
/// * Decapsulation: the packet keeps its DSCP; ECN by RFC 6040, section 4.2.
///
/// # Errors
///
/// Nothing was changed then, and an [`ExecuteError`] says why.
#[inline(always)]
pub fn execute(rewrite: &Rewrite, headers: &Headers, frame: &mut impl Frame) -> Result<(), ExecuteError> {
    if rewrite.action.edits & edits::FRONT == 0 {
        apply(&rewrite.action, headers, frame.bytes_mut());
        return Ok(());
    }
    reshape(rewrite, headers, frame)
}

fn reshape(rewrite: &Rewrite, headers: &Headers, frame: &mut impl Frame) -> Result<(), ExecuteError> {
    let Rewrite { action, tunnel } = rewrite;
    if action.has(edits::DROP) {
        return Ok(());
    }
    if action.has(edits::TOO_DEEP) {
        return Err(ExecuteError::TooDeep);
    }
    let mut packet = *headers;
    let mut class = None;
    if action.has(edits::DECAPSULATE) {
        packet = parse_inner(frame.bytes(), headers)?;
        let combined = combined_class(headers.traffic_class, packet.traffic_class);
        class = Some(combined.ok_or(ExecuteError::CongestionMarkLost)?);
    }
    let start = usize::from(packet.l3);
    let tags = Tagging::of(action, headers, frame.bytes());
    let outer_len = if action.has(edits::ENCAPSULATE) { outer_len(tunnel)? } else { 0 };
    let len = usize::from(packet.packet_len());
    let head_len = 14 + tags.len() + outer_len;
    if head_len + len > usize::from(u16::MAX) || frame.bytes().len() < usize::from(packet.end) {
        return Err(ExecuteError::NoHeadroom);
    }
    // Longer: room is made before anything is written. Shorter: the start moves when all is written.
    let longer = head_len.saturating_sub(start);
    if longer > 0 && !frame.move_start(-(longer as isize)) {
        return Err(ExecuteError::NoHeadroom);
    }

    let bytes = frame.bytes_mut().get_mut(longer..).unwrap_or_default();
    if let Some(class) = class {
        set_class(&packet, class, bytes);
    }
    apply(action, &packet, bytes);
    let mut head = Head { bytes: [0; LONGEST_HEAD], len: 0 };
    head.push(bytes.get(..12).unwrap_or_default());
    tags.write(&mut head);
    let inner = bytes.get(start..start + len).unwrap_or_default();
    let ipv4 = if outer_len > 0 { tunnel.family == FAMILY_IPV4 } else { packet.is_ipv4() };
    head.push(&if ipv4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 }.to_be_bytes());
    if outer_len > 0 {
        outer(&mut head, tunnel, &edited(&packet, action), inner);
    }
    let at = longer + start;
    if let (Some(to), Some(from)) =
        (frame.bytes_mut().get_mut(at.saturating_sub(head_len)..at), head.bytes.get(..head_len))
    {
        to.copy_from_slice(from);
    }
    // The start moves inside the packet, which always succeeds.
    let shorter = start.saturating_sub(head_len);
    if shorter > 0 && !frame.move_start(shorter as isize) {
        return Err(ExecuteError::NoHeadroom);
    }
    Ok(())
}

/// What is written before a packet.
struct Head {
    bytes: [u8; LONGEST_HEAD],
    len: usize,
}

impl Head {
    fn push(&mut self, part: &[u8]) {
        if let Some(to) = self.bytes.get_mut(self.len..self.len + part.len()) {
            to.copy_from_slice(part);
            self.len += part.len();
        }
    }
}

/// The tags that a frame leaves with: (EtherType, control information).
struct Tagging {
    tags: [(u16, u16); 2],
    count: usize,
}

impl Tagging {
    fn of(action: &Action, headers: &Headers, frame: &[u8]) -> Tagging {
        let word = |at: usize| match frame.get(at..at + 2) {
            Some(&[high, low]) => u16::from_be_bytes([high, low]),
            _ => 0,
        };
        // Parsing has found at most two tags.
        let count = (usize::from(headers.l3).saturating_sub(14) / 4).min(2);
        let priority = match action.has(edits::PRIORITY) {
            true => action.outer_tag & !(1 << 12),
            false => word(14),
        };
        if !action.has(edits::TAGS) {
            let kept = |number: usize| {
                let control = word(14 + 4 * number);
                let new =
                    if action.has(edits::PRIORITY) { priority & 0xe000 | control & 0x1fff } else { control };
                (word(12 + 4 * number), new)
            };
            return Tagging { tags: [kept(0), kept(1)], count };
        }
        // Drop eligibility (DEI) is kept in any case.
        let control = match (action.has(edits::PRIORITY), count) {
            (true, 0) => priority & 0xe000,
            (true, _) => priority & 0xe000 | word(14) & 0x1000,
            (false, 0) => 0,
            (false, _) => priority & 0xf000,
        };
        let outer = action.outer_tag & VLAN_MASK;
        let inner = action.inner_tag & VLAN_MASK;
        let kind = if action.has(edits::SERVICE_TAG) { SERVICE_TAG } else { TAG };
        let count = usize::from(outer != 0) + usize::from(outer != 0 && inner != 0);
        Tagging { tags: [(kind, control | outer), (TAG, control | inner)], count }
    }

    const fn len(&self) -> usize {
        4 * self.count
    }

    fn write(&self, head: &mut Head) {
        for (ether_type, control) in self.tags.iter().take(self.count) {
            head.push(&ether_type.to_be_bytes());
            head.push(&control.to_be_bytes());
        }
    }
}

/// Bytes of the outer headers.
const fn outer_len(tunnel: &Tunnel) -> Result<usize, ExecuteError> {
    let ip = if tunnel.family == FAMILY_IPV4 { 20 } else { 40 };
    match tunnel.kind {
        kind::IP => Ok(ip),
        kind::GUE => Ok(ip + 8),
        _ => Err(ExecuteError::TooDeep),
    }
}

/// Writes the outer headers of `inner`, the packet after its edits.
fn outer(head: &mut Head, tunnel: &Tunnel, view: &Headers, inner: &[u8]) {
    let udp = tunnel.kind == kind::GUE;
    let udp_len = if udp { 8 } else { 0 };
    let protocol = if udp { UDP } else { protocol_of(view.is_ipv4()) };
    let payload = inner.len() + udp_len;
    let &[first, second, _, _, _, _, fragment, _, _, _, c0, c1, ..] = inner else { return };
    let class = if view.is_ipv4() { second } else { first << 4 | second >> 4 };
    let class = outer_class(tunnel, class);
    if tunnel.family == FAMILY_IPV4 {
        let [l0, l1] = u16::try_from(20 + payload).unwrap_or(u16::MAX).to_be_bytes();
        let own = !view.is_ipv4() || fragment & 0x40 != 0;
        let dont_fragment = own || tunnel.flags & tunnel::DONT_FRAGMENT != 0;
        let [i0, i1, flags] = if dont_fragment { [0, 0, 0x40] } else { [c0, c1, 0] };
        let [.., s0, s1, s2, s3] = tunnel.source;
        let [.., d0, d1, d2, d3] = tunnel.destination;
        let mut header = [
            0x45,
            class,
            l0,
            l1,
            i0,
            i1,
            flags,
            0,
            tunnel.hop_limit,
            protocol,
            0,
            0,
            s0,
            s1,
            s2,
            s3,
            d0,
            d1,
            d2,
            d3,
        ];
        [header[10], header[11]] = (!sum(&header)).to_be_bytes();
        head.push(&header);
    } else {
        let [l0, l1] = u16::try_from(payload).unwrap_or(u16::MAX).to_be_bytes();
        let [f0, f1] = entropy(&view.key).to_be_bytes();
        head.push(&[0x60 | class >> 4, class << 4, f0, f1, l0, l1, protocol, tunnel.hop_limit]);
        head.push(&tunnel.source);
        head.push(&tunnel.destination);
    }
    if udp {
        let fixed = tunnel.flags & tunnel::SOURCE_PORT != 0;
        head.push(&if fixed { tunnel.source_port } else { flow_port(view) });
        head.push(&tunnel.destination_port);
        head.push(&u16::try_from(payload).unwrap_or(u16::MAX).to_be_bytes());
        head.push(&[0; 2]);
    }
}

/// Sets the traffic class of a packet.
fn set_class(packet: &Headers, class: u8, frame: &mut [u8]) {
    let Some(header) = frame.get_mut(usize::from(packet.l3)..) else { return };
    if !packet.is_ipv4() {
        if let Some([first, second, ..]) = header.first_chunk_mut::<2>() {
            *first = *first & 0xf0 | class >> 4;
            *second = class << 4 | *second & 0x0f;
        }
    } else if let Some(header) = header.first_chunk_mut::<20>() {
        let change = delta(u16::from(header[1]), u16::from(class));
        header[1] = class;
        [header[10], header[11]] = update(u16::from_be_bytes([header[10], header[11]]), change).to_be_bytes();
    }
}
