//! Builds whole packets, byte by byte and with right checksums: for tests and traffic generators, not for the hot path.
//!
//! ```
//! use throughway_packet::build::PacketBuilder;
//! use throughway_packet::{PortId, checksum, parse};
//!
//! let frame = PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7]).vlan(10).udp(5000, 53).payload(b"hello").finish();
//! let headers = parse(&frame, PortId(0)).unwrap();
//! assert_eq!((headers.key.outer_vlan, headers.destination_port()), (10, 53));
//! assert!(checksum::verify(&frame, &headers));
//! ```
//!
//! What does not go together (a TTL of 0, a fragment that is too long, options of 41 bytes) is built as asked: tests need
//! malformed packets too. Lengths that do not fit their field are written as the largest value.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use throughway_shared::checksum::add;

use crate::checksum::{crc32c, pseudo_header_sum, sum};
use crate::parse::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP, ICMPV6, SCTP, TCP, UDP};

/// The MAC address that frames are sent to unless said otherwise: locally administered.
pub const DESTINATION_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The MAC address that frames come from unless said otherwise: locally administered.
pub const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// IPv6's fragment header.
const FRAGMENT: u8 = 44;

#[derive(Clone, Debug)]
enum Upper {
    Udp { source: u16, destination: u16, checksum: bool },
    Tcp { source: u16, destination: u16, flags: u8 },
    Icmp { kind: u8, code: u8, rest: [u8; 4] },
    Sctp { source: u16, destination: u16 },
    Raw(u8),
}

impl Upper {
    const fn protocol(&self, ipv4: bool) -> u8 {
        match self {
            Upper::Udp { .. } => UDP,
            Upper::Tcp { .. } => TCP,
            Upper::Icmp { .. } if ipv4 => ICMP,
            Upper::Icmp { .. } => ICMPV6,
            Upper::Sctp { .. } => SCTP,
            Upper::Raw(protocol) => *protocol,
        }
    }
}

/// Describes one packet; [`PacketBuilder::finish`] gives its bytes. Without an upper layer it is plain IP with protocol 253
/// (RFC 3692: for experiments).
#[derive(Clone, Debug)]
pub struct PacketBuilder {
    macs: ([u8; 6], [u8; 6]),
    tags: Vec<(u16, u16)>,
    source: IpAddr,
    destination: IpAddr,
    traffic_class: u8,
    hop_limit: u8,
    identification: u32,
    dont_fragment: bool,
    fragment: Option<(u16, bool)>,
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    upper: Upper,
    payload: Vec<u8>,
    pad_to: usize,
}

impl PacketBuilder {
    /// An IPv4 packet.
    pub fn ipv4(source: impl Into<Ipv4Addr>, destination: impl Into<Ipv4Addr>) -> Self {
        Self::between(IpAddr::V4(source.into()), IpAddr::V4(destination.into()))
    }

    /// An IPv6 packet.
    pub fn ipv6(source: impl Into<Ipv6Addr>, destination: impl Into<Ipv6Addr>) -> Self {
        Self::between(IpAddr::V6(source.into()), IpAddr::V6(destination.into()))
    }

    /// A packet of the family of `source`; `destination` must be of the same.
    pub fn between(source: IpAddr, destination: IpAddr) -> Self {
        PacketBuilder {
            macs: (DESTINATION_MAC, SOURCE_MAC),
            tags: Vec::new(),
            source,
            destination,
            traffic_class: 0,
            hop_limit: 64,
            identification: 0,
            dont_fragment: false,
            fragment: None,
            options: Vec::new(),
            extensions: Vec::new(),
            upper: Upper::Raw(253),
            payload: Vec::new(),
            pad_to: 0,
        }
    }

    /// Sets the MAC addresses.
    #[must_use]
    pub fn ethernet(mut self, destination: [u8; 6], source: [u8; 6]) -> Self {
        self.macs = (destination, source);
        self
    }

    /// Adds an 802.1Q tag; the first added is the outer one.
    #[must_use]
    pub fn vlan(self, identifier: u16) -> Self {
        self.tag(0x8100, identifier)
    }

    /// Adds a tag with its EtherType (0x8100, 0x88a8, 0x9100) and control information (priority, DEI, identifier).
    #[must_use]
    pub fn tag(mut self, ether_type: u16, control: u16) -> Self {
        self.tags.push((ether_type, control));
        self
    }

    /// Sets TOS or traffic class: DSCP in the upper six bits, ECN in the lower two.
    #[must_use]
    pub fn traffic_class(mut self, traffic_class: u8) -> Self {
        self.traffic_class = traffic_class;
        self
    }

    /// Sets TTL or hop limit.
    #[must_use]
    pub fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.hop_limit = hop_limit;
        self
    }

    /// Sets the identification: IPv4's has 16 bits, that of IPv6's fragment header has 32.
    #[must_use]
    pub fn identification(mut self, identification: u32) -> Self {
        self.identification = identification;
        self
    }

    /// Sets DF (IPv4).
    #[must_use]
    pub fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    /// Makes this a fragment at `offset` (bytes, a multiple of eight). With an offset there is no upper-layer header, only the
    /// payload; without one the checksum covers this packet only. [`PacketBuilder::fragments`] cuts a whole datagram.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = Some((offset, more));
        self
    }

    /// Sets IPv4 options, filled up to a multiple of four bytes with zeros (end of options).
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an IPv6 extension header by its number. `content` is what follows its next header and length bytes, filled up
    /// with zeros to the multiple of eight bytes that the header must be (so six bytes make the shortest).
    #[must_use]
    pub fn extension(mut self, number: u8, content: &[u8]) -> Self {
        self.extensions.push((number, content.to_vec()));
        self
    }

    /// UDP.
    #[must_use]
    pub fn udp(mut self, source: u16, destination: u16) -> Self {
        self.upper = Upper::Udp { source, destination, checksum: true };
        self
    }

    /// UDP with a checksum of zero.
    #[must_use]
    pub fn udp_without_checksum(mut self, source: u16, destination: u16) -> Self {
        self.upper = Upper::Udp { source, destination, checksum: false };
        self
    }

    /// TCP without options. `flags` as in [`Headers::tcp_flags`](crate::Headers::tcp_flags).
    #[must_use]
    pub fn tcp(mut self, source: u16, destination: u16, flags: u8) -> Self {
        self.upper = Upper::Tcp { source, destination, flags };
        self
    }

    /// ICMP or ICMPv6, by the family: type, code, and the four bytes after the checksum.
    #[must_use]
    pub fn icmp(mut self, kind: u8, code: u8, rest: [u8; 4]) -> Self {
        self.upper = Upper::Icmp { kind, code, rest };
        self
    }

    /// An echo request.
    #[must_use]
    pub fn echo_request(self, identifier: u16, sequence: u16) -> Self {
        let kind = if self.source.is_ipv4() { 8 } else { 128 };
        self.echo(kind, identifier, sequence)
    }

    /// An echo reply.
    #[must_use]
    pub fn echo_reply(self, identifier: u16, sequence: u16) -> Self {
        let kind = if self.source.is_ipv4() { 0 } else { 129 };
        self.echo(kind, identifier, sequence)
    }

    fn echo(self, kind: u8, identifier: u16, sequence: u16) -> Self {
        let [i0, i1] = identifier.to_be_bytes();
        let [s0, s1] = sequence.to_be_bytes();
        self.icmp(kind, 0, [i0, i1, s0, s1])
    }

    /// SCTP: the common header; chunks are the payload.
    #[must_use]
    pub fn sctp(mut self, source: u16, destination: u16) -> Self {
        self.upper = Upper::Sctp { source, destination };
        self
    }

    /// Any other protocol, by its number: the payload follows the IP header.
    #[must_use]
    pub fn protocol(mut self, number: u8) -> Self {
        self.upper = Upper::Raw(number);
        self
    }

    /// What follows the upper-layer header.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Pads the frame with zeros to `len` bytes, as Ethernet does to 60.
    #[must_use]
    pub fn padded(mut self, len: usize) -> Self {
        self.pad_to = len;
        self
    }

    /// The frame.
    pub fn finish(&self) -> Vec<u8> {
        let upper = match self.fragment {
            Some((offset, _)) if offset > 0 => self.payload.clone(),
            _ => self.upper_bytes(),
        };
        self.frame(self.fragment, &upper)
    }

    /// The whole datagram cut into fragments, each with `size` bytes (rounded down to a multiple of eight, at least eight) of
    /// it, in order. The upper-layer checksum covers the whole. A datagram of one part is not fragmented.
    pub fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        let upper = self.upper_bytes();
        let size = (size / 8 * 8).max(8);
        let count = upper.len().div_ceil(size);
        if count < 2 {
            return vec![self.frame(None, &upper)];
        }
        let cut = |(number, part): (usize, &[u8])| {
            let offset = u16::try_from(number * size).unwrap_or(u16::MAX);
            self.frame(Some((offset, number + 1 < count)), part)
        };
        upper.chunks(size).enumerate().map(cut).collect()
    }

    fn frame(&self, fragment: Option<(u16, bool)>, upper: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.macs.0);
        frame.extend(self.macs.1);
        for (ether_type, control) in &self.tags {
            frame.extend(ether_type.to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend(ETHERTYPE_IPV4.to_be_bytes());
                frame.extend(self.ipv4_header(source, destination, fragment, upper.len()));
            }
            (source, destination) => {
                frame.extend(ETHERTYPE_IPV6.to_be_bytes());
                frame.extend(self.ipv6_headers(ipv6(source), ipv6(destination), fragment, upper.len()));
            }
        }
        frame.extend(upper);
        frame.resize(frame.len().max(self.pad_to), 0);
        frame
    }

    fn ipv4_header(
        &self,
        source: Ipv4Addr,
        destination: Ipv4Addr,
        fragment: Option<(u16, bool)>,
        upper_len: usize,
    ) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let (offset, more) = fragment.unwrap_or_default();
        let flags = u16::from(self.dont_fragment) << 14 | u16::from(more) << 13;
        let mut header = vec![0x40 | (header_len / 4).min(15) as u8, self.traffic_class];
        header.extend(length(header_len + upper_len).to_be_bytes());
        header.extend((self.identification as u16).to_be_bytes());
        header.extend((flags | offset >> 3).to_be_bytes());
        header.extend([self.hop_limit, self.upper.protocol(true), 0, 0]);
        header.extend(source.octets());
        header.extend(destination.octets());
        header.extend(&self.options);
        let checksum = !sum(&header);
        put_checksum(&mut header, 10, checksum);
        header
    }

    fn ipv6_headers(
        &self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        fragment: Option<(u16, bool)>,
        upper_len: usize,
    ) -> Vec<u8> {
        // The fragment header comes last; what is before it is in every fragment.
        let mut extensions: Vec<(u8, Vec<u8>)> = self.extensions.clone();
        if let Some((offset, more)) = fragment {
            let mut content = (offset & 0xfff8 | u16::from(more)).to_be_bytes().to_vec();
            content.extend(self.identification.to_be_bytes());
            extensions.push((FRAGMENT, content));
        }
        let upper = self.upper.protocol(false);
        let mut chain = Vec::new();
        for (at, (number, content)) in extensions.iter().enumerate() {
            let next = extensions.get(at + 1).map_or(upper, |(number, _)| *number);
            let len = (content.len() + 2).next_multiple_of(8);
            // The length byte: 8-byte units after the first; of AH, 4-byte units minus two; reserved in a fragment header.
            let units = match *number {
                FRAGMENT => 0,
                51 => len / 4 - 2,
                _ => len / 8 - 1,
            };
            chain.extend([next, units.min(255) as u8]);
            chain.extend(content);
            chain.resize(chain.len() + len - content.len() - 2, 0);
        }
        let first = extensions.first().map_or(upper, |(number, _)| *number);
        let mut headers = vec![0x60 | self.traffic_class >> 4, self.traffic_class << 4, 0, 0];
        headers.extend(length(chain.len() + upper_len).to_be_bytes());
        headers.extend([first, self.hop_limit]);
        headers.extend(source.octets());
        headers.extend(destination.octets());
        headers.extend(chain);
        headers
    }

    /// The upper-layer header and the payload, with the checksum of both.
    fn upper_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.upper {
            Upper::Udp { source, destination, .. } => {
                bytes.extend(source.to_be_bytes());
                bytes.extend(destination.to_be_bytes());
                bytes.extend(length(8 + self.payload.len()).to_be_bytes());
                bytes.extend([0; 2]);
            }
            Upper::Tcp { source, destination, flags } => {
                bytes.extend(source.to_be_bytes());
                bytes.extend(destination.to_be_bytes());
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0x20, 0, 0, 0, 0, 0]);
            }
            Upper::Icmp { kind, code, rest } => {
                bytes.extend([kind, code, 0, 0]);
                bytes.extend(rest);
            }
            Upper::Sctp { source, destination } => {
                bytes.extend(source.to_be_bytes());
                bytes.extend(destination.to_be_bytes());
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 0]);
            }
            Upper::Raw(_) => {}
        }
        bytes.extend(&self.payload);
        let covered = add(self.pseudo_header(bytes.len()), sum(&bytes));
        match self.upper {
            Upper::Udp { checksum: true, .. } => {
                let checksum = if covered == 0xffff { 0xffff } else { !covered };
                put_checksum(&mut bytes, 6, checksum);
            }
            Upper::Tcp { .. } => put_checksum(&mut bytes, 16, !covered),
            Upper::Icmp { .. } if self.is_ipv4() => {
                let checksum = !sum(&bytes);
                put_checksum(&mut bytes, 2, checksum);
            }
            Upper::Icmp { .. } => put_checksum(&mut bytes, 2, !covered),
            Upper::Sctp { .. } => {
                let crc = crc32c::finish(crc32c::extend(crc32c::START, &bytes));
                if let Some(field) = bytes.get_mut(8..12) {
                    field.copy_from_slice(&crc.to_le_bytes());
                }
            }
            Upper::Udp { .. } | Upper::Raw(_) => {}
        }
        bytes
    }

    fn is_ipv4(&self) -> bool {
        self.source.is_ipv4() && self.destination.is_ipv4()
    }

    fn pseudo_header(&self, len: usize) -> u16 {
        let mut addresses = Vec::new();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                addresses.extend(source.octets());
                addresses.extend(destination.octets());
            }
            (source, destination) => {
                addresses.extend(ipv6(source).octets());
                addresses.extend(ipv6(destination).octets());
            }
        }
        pseudo_header_sum(&addresses, self.upper.protocol(self.is_ipv4()), length(len))
    }
}

fn ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn length(len: usize) -> u16 {
    u16::try_from(len).unwrap_or(u16::MAX)
}

/// Writes a checksum; bytes that are not there (a first fragment that ends before its checksum) are left alone.
fn put_checksum(bytes: &mut [u8], at: usize, checksum: u16) {
    if let Some(field) = bytes.get_mut(at..at + 2) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
}
