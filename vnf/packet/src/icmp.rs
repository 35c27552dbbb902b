//! Builds ICMP (RFC 792) and ICMPv6 (RFC 4443) errors.

use std::net::IpAddr;

use throughway_shared::checksum::add;

use crate::checksum::{pseudo_header_sum, sum};
use crate::headers::{Flags, Headers, octets};
use crate::parse::{ICMP, ICMPV6};

/// What an error says. Each has a type and a code in both families.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IcmpError {
    /// TTL or hop limit ran out (ICMP 11/0, ICMPv6 3/0).
    HopLimitExceeded,
    /// No route to the destination (ICMP 3/0, ICMPv6 1/0).
    NetUnreachable,
    /// The destination or the next hop does not answer (ICMP 3/1, ICMPv6 1/3).
    HostUnreachable,
    /// Nobody listens on the port (ICMP 3/3, ICMPv6 1/4).
    PortUnreachable,
    /// The destination host does not know the protocol (ICMP 3/2); ICMPv6 has no such code for a router: port unreachable
    /// (1/4).
    ProtocolUnreachable,
    /// Communication with the destination network is forbidden (ICMP 3/9, ICMPv6 1/1).
    NetProhibited,
    /// Communication with the destination host is forbidden (ICMP 3/10, ICMPv6 1/1).
    HostProhibited,
    /// Forbidden by policy (ICMP 3/13, ICMPv6 1/1).
    AdminProhibited,
    /// The source address fails a policy (ICMP 3/13, ICMPv6 1/5).
    PolicyFailed,
    /// The route to the destination says to reject (ICMP 3/13, ICMPv6 1/6).
    RejectRoute,
    /// Larger than the next link takes, and not to be fragmented (ICMP 3/4, ICMPv6 2/0).
    TooBig {
        /// The next link's MTU in bytes. ICMPv6 never says less than 1280, as Linux does (RFC 8200, section 5).
        mtu: u16,
    },
}

impl IcmpError {
    /// Type, code, and the four bytes after the checksum, for IPv4 (RFC 792, RFC 1191, RFC 1812).
    const fn ipv4(self) -> (u8, u8, [u8; 4]) {
        match self {
            IcmpError::HopLimitExceeded => (11, 0, [0; 4]),
            IcmpError::NetUnreachable => (3, 0, [0; 4]),
            IcmpError::HostUnreachable => (3, 1, [0; 4]),
            IcmpError::PortUnreachable => (3, 3, [0; 4]),
            IcmpError::ProtocolUnreachable => (3, 2, [0; 4]),
            IcmpError::NetProhibited => (3, 9, [0; 4]),
            IcmpError::HostProhibited => (3, 10, [0; 4]),
            IcmpError::AdminProhibited | IcmpError::PolicyFailed | IcmpError::RejectRoute => (3, 13, [0; 4]),
            IcmpError::TooBig { mtu } => (3, 4, (mtu as u32).to_be_bytes()),
        }
    }

    /// Type, code, and the four bytes after the checksum, for IPv6 (RFC 4443, section 3).
    const fn ipv6(self) -> (u8, u8, [u8; 4]) {
        match self {
            IcmpError::HopLimitExceeded => (3, 0, [0; 4]),
            IcmpError::NetUnreachable => (1, 0, [0; 4]),
            IcmpError::HostUnreachable => (1, 3, [0; 4]),
            IcmpError::PortUnreachable | IcmpError::ProtocolUnreachable => (1, 4, [0; 4]),
            IcmpError::AdminProhibited | IcmpError::NetProhibited | IcmpError::HostProhibited => {
                (1, 1, [0; 4])
            }
            IcmpError::PolicyFailed => (1, 5, [0; 4]),
            IcmpError::RejectRoute => (1, 6, [0; 4]),
            IcmpError::TooBig { mtu } => {
                let mtu = if mtu < 1280 { 1280 } else { mtu };
                (2, 0, (mtu as u32).to_be_bytes())
            }
        }
    }
}

/// TTL or hop limit of an error, as Linux sends it.
const HOP_LIMIT: u8 = 64;
/// An ICMP error is at most this long, IP header included (RFC 1812, section 4.3.2.3).
const MAX_IPV4: usize = 576;
/// An ICMPv6 error is at most this long, IP header included (RFC 4443, section 2.4(c)).
const MAX_IPV6: usize = 1280;
/// ICMPv6 redirect: no error by its type, but never answered (RFC 4443, section 2.4(e.2)).
const ICMPV6_REDIRECT: u8 = 137;

/// Writes a whole Ethernet frame to `out` that tells the sender of `received` about `error`, and returns its length.
///
/// `headers` are those parsed from `received`, which is quoted as it came in; `source` is the address that the error is
/// sent from. VLAN tags are those of `received`, its MAC addresses are swapped; the caller may overwrite both. How often
/// errors are sent is the caller's business too (RFC 1812, section 4.3.2.8; RFC 4443, section 2.4(f)).
///
/// IPv4 header as Linux fills it: TTL 64, DF clear, the precedence internetwork control with the type of service of
/// `received` (RFC 1812, section 4.3.2.5), ECN not set. The identification is the ICMP checksum: a function of the content,
/// so that no counter is needed and two errors that could be mixed up while fragmented (RFC 6864) are the same. ICMPv6:
/// hop limit 64, traffic class and flow label 0.
///
/// `None` when no error may be sent (RFC 1122, section 3.2.2; RFC 1812, section 4.3.2.7; RFC 4443, section 2.4(e)): about
/// ICMP errors and redirects, later fragments, packets to a group of hosts (a too big IPv6 packet is the exception) or
/// from something that is not one host, at the IP or the link layer. Also when `source` is of the other family or `out` is
/// too small; [`MAX_FRAME`] bytes are always enough.
pub fn build_error(
    received: &[u8],
    headers: &Headers,
    error: IcmpError,
    source: IpAddr,
    out: &mut [u8],
) -> Option<usize> {
    if source.is_ipv4() != headers.is_ipv4() || !answerable(received, headers, error) {
        return None;
    }
    let link = received.get(..usize::from(headers.l3))?;
    let packet = received.get(usize::from(headers.l3)..usize::from(headers.end))?;
    let (ip_len, max) = if headers.is_ipv4() { (20, MAX_IPV4) } else { (40, MAX_IPV6) };
    let quote = packet.get(..packet.len().min(max - ip_len - 8))?;

    let frame = out.get_mut(..link.len() + ip_len + 8 + quote.len())?;
    let len = frame.len();
    let (ethernet, ip) = frame.split_at_mut_checked(link.len())?;
    let (ip, icmp) = ip.split_at_mut_checked(ip_len)?;
    let (macs, tags) = link.split_first_chunk::<12>()?;
    let (new_macs, new_tags) = ethernet.split_first_chunk_mut::<12>()?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = *macs;
    *new_macs = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5];
    new_tags.copy_from_slice(tags);
    if headers.is_ipv4() {
        write_ipv4(ip.first_chunk_mut()?, icmp, quote, headers, error, source)?;
    } else {
        write_ipv6(ip.first_chunk_mut()?, icmp, quote, headers, error, source)?;
    }
    Some(len)
}

/// The longest frame that [`build_error`] writes: an ICMPv6 error behind two tags.
pub const MAX_FRAME: usize = 14 + 2 * 4 + MAX_IPV6;

/// Whether the sender of a packet may be told at all: the rules that [`build_error`] names.
pub fn answerable(received: &[u8], headers: &Headers, error: IcmpError) -> bool {
    let Some(&[destination_mac, _, _, _, _, _, source_mac, ..]) = received.first_chunk::<12>() else {
        return false;
    };
    let redirect = headers.key.protocol == ICMPV6 && headers.icmp_type == ICMPV6_REDIRECT;
    if headers.flags.any(Flags::ICMP_ERROR | Flags::LATER_FRAGMENT) || redirect || source_mac & 1 != 0 {
        return false;
    }
    let one_sender = match headers.source() {
        // RFC 1812, section 4.3.2.7: zero prefix, loopback, multicast, class E with the broadcast address.
        IpAddr::V4(source) => !matches!(source.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(source) => !(source.is_unspecified() || source.is_loopback() || source.is_multicast()),
    };
    let to_group = destination_mac & 1 != 0
        || match headers.destination() {
            IpAddr::V4(destination) => destination.is_multicast() || destination.is_broadcast(),
            IpAddr::V6(destination) => destination.is_multicast(),
        };
    // RFC 4443, section 2.4(e.3) to (e.5): path MTU discovery works for multicast too.
    let group_allowed = !headers.is_ipv4() && matches!(error, IcmpError::TooBig { .. });
    one_sender && (!to_group || group_allowed)
}

/// Writes the ICMP message, its checksum being over `pseudo` too; returns the checksum.
fn write_icmp(icmp: &mut [u8], head: (u8, u8, [u8; 4]), quote: &[u8], pseudo: u16) -> Option<[u8; 2]> {
    let (header, body) = icmp.split_first_chunk_mut::<8>()?;
    let (kind, code, [a, b, c, d]) = head;
    *header = [kind, code, 0, 0, a, b, c, d];
    body.copy_from_slice(quote);
    let checksum = !add(sum(icmp), pseudo);
    let field = icmp.get_mut(2..4)?;
    field.copy_from_slice(&checksum.to_be_bytes());
    Some(checksum.to_be_bytes())
}

fn write_ipv4(
    ip: &mut [u8; 20],
    icmp: &mut [u8],
    quote: &[u8],
    headers: &Headers,
    error: IcmpError,
    source: IpAddr,
) -> Option<()> {
    let [i0, i1] = write_icmp(icmp, error.ipv4(), quote, 0)?;
    let [l0, l1] = u16::try_from(ip.len() + icmp.len()).ok()?.to_be_bytes();
    let [.., s0, s1, s2, s3] = octets(source);
    let [.., d0, d1, d2, d3] = headers.key.source;
    let tos = 0xc0 | headers.traffic_class & 0x1c;
    *ip = [0x45, tos, l0, l1, i0, i1, 0, 0, HOP_LIMIT, ICMP, 0, 0, s0, s1, s2, s3, d0, d1, d2, d3];
    [ip[10], ip[11]] = (!sum(ip)).to_be_bytes();
    Some(())
}

fn write_ipv6(
    ip: &mut [u8; 40],
    icmp: &mut [u8],
    quote: &[u8],
    headers: &Headers,
    error: IcmpError,
    source: IpAddr,
) -> Option<()> {
    let len = u16::try_from(icmp.len()).ok()?;
    let [l0, l1] = len.to_be_bytes();
    let (fixed, addresses) = ip.split_first_chunk_mut::<8>()?;
    *fixed = [0x60, 0, 0, 0, l0, l1, ICMPV6, HOP_LIMIT];
    let (from, to) = addresses.split_first_chunk_mut::<16>()?;
    *from = octets(source);
    to.copy_from_slice(&headers.key.source);
    write_icmp(icmp, error.ipv6(), quote, pseudo_header_sum(addresses, ICMPV6, len))?;
    Some(())
}
