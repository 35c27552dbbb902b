//! A packet put into another one, and taken out of it: IP in IP, and UDP around IP.

use std::net::IpAddr;

use throughway_shared::action::{Action, Rewrite, edits};
use throughway_shared::flow::{FAMILY_IPV4, FAMILY_IPV6, FlowKey};
use throughway_shared::tunnel::{self, Tunnel, kind};

use crate::headers::{Flags, Headers, octets};
use crate::parse::{IP_IN_IP, IPV6_IN_IP, ParseError, UDP, parse_inner};

/// The UDP port that IANA assigned to Generic UDP Encapsulation, host order.
pub const GUE_PORT: u16 = 6080;

/// What is put around a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Nothing but an IP header: IPIP (RFC 2003), IP6IP6 and 4in6 (RFC 2473), 6in4 (RFC 4213), by the families.
    Ip,
    /// An IP and a UDP header, the packet directly in it: Generic UDP Encapsulation, variant 1. The UDP source port comes
    /// from the packet's flow (RFC 8085, section 5.1.1), so that routers and NICs spread the flows; the UDP checksum is zero
    /// (over IPv6 as RFC 6935 allows tunnels), as the packet has its own.
    Gue {
        /// UDP destination port, host order; [`GUE_PORT`] is IANA's.
        port: u16,
    },
}

/// A packet is put into another one: from this tunnel endpoint to that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encapsulation {
    /// What is put around it.
    pub form: Form,
    /// Outer source address.
    pub source: IpAddr,
    /// Outer destination address, of the same family.
    pub destination: IpAddr,
    /// TTL or hop limit of the outer header.
    pub hop_limit: u8,
    /// DSCP of the outer header, 0 to 63; `None` is the packet's own (RFC 2983).
    pub dscp: Option<u8>,
    /// Sets DF of an outer IPv4 header in any case. Otherwise it is set when the packet has it, as it must be (RFC 2003,
    /// section 3.1); an IPv6 packet counts as having it.
    pub dont_fragment: bool,
}

impl Encapsulation {
    /// IP in IP with a hop limit of 64 (RFC 1700), DSCP and DF from the packet.
    pub const fn ip(source: IpAddr, destination: IpAddr) -> Self {
        Encapsulation { form: Form::Ip, source, destination, hop_limit: 64, dscp: None, dont_fragment: false }
    }

    /// The same with UDP between, to `port` (host order).
    pub const fn gue(source: IpAddr, destination: IpAddr, port: u16) -> Self {
        Encapsulation { form: Form::Gue { port }, ..Self::ip(source, destination) }
    }

    /// Bytes that are put before a packet.
    pub const fn len(&self) -> u16 {
        let ip = if self.source.is_ipv4() { IPV4_LEN } else { IPV6_LEN };
        match self.form {
            Form::Ip => ip,
            Form::Gue { .. } => ip + UDP_LEN,
        }
    }

    /// Always false: something is put before the packet.
    pub const fn is_empty(&self) -> bool {
        false
    }

    /// Records it: `headers` show the outer header from now on. Whoever forwards takes one off the hop limit of the packet
    /// itself before (RFC 2003, section 3.1).
    ///
    /// Returns `false`, and changes nothing, when the packet is in a tunnel already, the two addresses are of different
    /// families, one is IPv4-mapped, or the packet would be longer than one can be.
    #[must_use]
    pub fn record(&self, headers: &mut Headers, rewrite: &mut Rewrite) -> bool {
        let mapped = |address| matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        if rewrite.action.edits & (edits::ENCAPSULATE | edits::TOO_DEEP) != 0
            || self.source.is_ipv4() != self.destination.is_ipv4()
            || mapped(self.source)
            || mapped(self.destination)
        {
            return false;
        }
        let Some(end) = headers.end.checked_add(self.len()) else { return false };
        let ipv4 = self.source.is_ipv4();
        let mut flags = if self.dont_fragment { tunnel::DONT_FRAGMENT } else { 0 };
        if self.dscp.is_some() {
            flags |= tunnel::DSCP;
        }
        let (kind, port) = match self.form {
            Form::Ip => (kind::IP, 0),
            Form::Gue { port } => (kind::GUE, port),
        };
        let tunnel = Tunnel {
            kind,
            family: if ipv4 { FAMILY_IPV4 } else { FAMILY_IPV6 },
            hop_limit: self.hop_limit,
            dscp: self.dscp.unwrap_or(0) & 0x3f,
            flags,
            source: octets(self.source),
            destination: octets(self.destination),
            destination_port: port.to_be_bytes(),
            ..Tunnel::none()
        };
        let outer = outer_headers(&tunnel, headers, end);
        let next = Rewrite { action: Action { edits: edits::ENCAPSULATE, ..Action::nothing() }, tunnel };
        *headers = outer;
        *rewrite = rewrite.then(&next);
        true
    }
}

pub(crate) const IPV4_LEN: u16 = 20;
pub(crate) const IPV6_LEN: u16 = 40;
pub(crate) const UDP_LEN: u16 = 8;

/// What parsing gives for a packet of `inner` in `tunnel`.
fn outer_headers(tunnel: &Tunnel, inner: &Headers, end: u16) -> Headers {
    let ipv4 = tunnel.family == FAMILY_IPV4;
    let l4 = inner.l3 + if ipv4 { IPV4_LEN } else { IPV6_LEN };
    let mut flags = Flags::default();
    if !ipv4 || tunnel.flags & tunnel::DONT_FRAGMENT != 0 || inner.flags.has(Flags::DONT_FRAGMENT) {
        flags |= Flags::DONT_FRAGMENT;
    }
    let (protocol, ports, l4_checksum) = if tunnel.kind == kind::GUE {
        flags |= Flags::PORTS | Flags::UDP_NO_CHECKSUM;
        (UDP, (flow_port(inner), tunnel.destination_port), l4 + 6)
    } else {
        (protocol_of(inner.is_ipv4()), Default::default(), 0)
    };
    Headers {
        key: FlowKey {
            source: tunnel.source,
            destination: tunnel.destination,
            source_port: ports.0,
            destination_port: ports.1,
            protocol,
            family: tunnel.family,
            ..inner.key
        },
        flags,
        l3: inner.l3,
        l4,
        end,
        l4_checksum,
        hop_limit: tunnel.hop_limit,
        traffic_class: outer_class(tunnel, inner.traffic_class),
        ..Headers::default()
    }
}

/// The protocol number by which an IP packet is announced in another.
pub(crate) const fn protocol_of(ipv4: bool) -> u8 {
    if ipv4 { IP_IN_IP } else { IPV6_IN_IP }
}

/// The traffic class of the outer header: its own DSCP or the packet's, and the packet's ECN (RFC 6040, section 4.1, normal
/// mode).
pub(crate) const fn outer_class(tunnel: &Tunnel, inner: u8) -> u8 {
    if tunnel.flags & tunnel::DSCP != 0 { tunnel.dscp << 2 | inner & 0b11 } else { inner }
}

/// 16 bits that are the same for all packets of a flow, later fragments aside.
pub(crate) fn entropy(key: &FlowKey) -> u16 {
    let word = |bytes: &[u8; 16]| {
        let (words, _) = bytes.as_chunks::<4>();
        words.iter().fold(0u32, |sum, word| sum.rotate_left(5) ^ u32::from_be_bytes(*word))
    };
    let ports = u32::from(u16::from_be_bytes(key.source_port)) << 16
        | u32::from(u16::from_be_bytes(key.destination_port));
    let mixed = word(&key.source).rotate_left(16) ^ word(&key.destination) ^ ports ^ u32::from(key.protocol);
    // Multiplicative hashing (Knuth, volume 3, section 6.4): the upper bits depend on all.
    (mixed.wrapping_mul(0x9e37_79b1) >> 16) as u16
}

/// The UDP source port that stands for a flow: from the dynamic range (RFC 6335, section 6; RFC 8085, section 5.1.1).
pub(crate) fn flow_port(inner: &Headers) -> [u8; 2] {
    (0xc000 | entropy(&inner.key) & 0x3fff).to_be_bytes()
}

/// Records that the packet is taken out of the one it is in; `headers` show it from now on.
///
/// `frame` are the bytes as received, `received` their headers. What was recorded of the outer header is forgotten. How the
/// congestion marks of both are brought together is known when it is executed (RFC 6040, section 4.2).
///
/// # Errors
///
/// [`ParseError::NotIp`] when there is no packet in it, or one has been taken off or put on already; another one when the
/// packet in it is malformed.
pub fn decapsulate(
    frame: &[u8],
    received: &Headers,
    headers: &mut Headers,
    rewrite: &mut Rewrite,
) -> Result<(), ParseError> {
    if rewrite.action.edits & (edits::DECAPSULATE | edits::ENCAPSULATE | edits::TOO_DEEP) != 0 {
        return Err(ParseError::NotIp);
    }
    let mut inner = parse_inner(frame, received)?;
    inner.traffic_class =
        combined_class(received.traffic_class, inner.traffic_class).unwrap_or(inner.traffic_class);
    inner.key.outer_vlan = headers.key.outer_vlan;
    inner.key.inner_vlan = headers.key.inner_vlan;
    if !inner.move_packet(headers.l3) {
        return Err(ParseError::NotIp);
    }
    *headers = inner;
    let next = Action { edits: edits::DECAPSULATE, ..Action::nothing() };
    *rewrite = rewrite.then(&next.into());
    Ok(())
}

/// The traffic class of a packet that is taken out of another: its DSCP, and ECN by the table of RFC 6040, section 4.2.
/// `None` when the packet is to be dropped: congestion was met on the way, and its transport would not understand.
pub(crate) const fn combined_class(outer: u8, inner: u8) -> Option<u8> {
    const NOT_ECT: u8 = 0b00;
    const ECT_1: u8 = 0b01;
    const ECT_0: u8 = 0b10;
    const CE: u8 = 0b11;
    let ecn = match (inner & 0b11, outer & 0b11) {
        (NOT_ECT, CE) => return None,
        (NOT_ECT, _) => NOT_ECT,
        (_, CE) => CE,
        (ECT_0, ECT_1) => ECT_1,
        (own, _) => own,
    };
    Some(inner & !0b11 | ecn)
}
