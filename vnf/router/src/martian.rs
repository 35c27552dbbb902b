//! Addresses that are never forwarded (RFC 1812, sections 4.2.2.11 and 5.3.7; RFC 4291, section 2.5).
//!
//! What is reserved and in use nowhere is told apart ([`is_reserved`]), since some do use it: Linux forwards class E. Directed broadcast addresses cannot
//! be told by looking at them: they are routes ([`Route::Broadcast`](crate::Route::Broadcast)).

use std::net::{IpAddr, Ipv4Addr};

/// Whether no packet with this source or destination may be forwarded: unspecified, loopback, multicast, limited
/// broadcast, link-local.
///
/// The list is the same at both ends: multicast and broadcast are no sources (RFC 1122, section 3.2.1.3), and a unicast
/// router forwards none of them as destinations; link-local ones stay on their link at either end (RFC 3927, section 7;
/// RFC 4291, section 2.5.6).
#[inline]
pub fn is_martian(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            // "This network" is all of 0.0.0.0/8 (RFC 1122, section 3.2.1.3).
            address.octets()[0] == 0
                || address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address == Ipv4Addr::BROADCAST
        }
        IpAddr::V6(address) => {
            address.is_unspecified()
                || address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_multicast()
        }
    }
}

/// Whether an address is reserved, so that a packet with it can only be a mistake or a forgery: class E (240.0.0.0/4,
/// RFC 1112, section 4), the discard prefix (100::/64, RFC 6666), IPv4-mapped addresses (::ffff:0:0/96, RFC 4291,
/// section 2.5.5.2).
///
/// These are not forwarded unless [`PortSettings::forward_reserved`](crate::PortSettings::forward_reserved) says so. Of the
/// registry of RFC 6890, what is reserved for documentation is not among them (laboratories use it), nor what is for
/// private use, for benchmarks (RFC 2544) or for shared address space (RFC 6598): all that is routed inside networks.
#[inline]
pub fn is_reserved(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[0] >= 240,
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            bits >> 64 == 0x0100_0000_0000_0000 || bits >> 32 == 0xffff
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edges_of_what_is_reserved() {
        for (text, reserved) in [
            ("239.255.255.255", false),
            ("240.0.0.0", true),
            ("255.255.255.255", true),
            ("192.0.2.1", false),
            ("10.0.0.1", false),
            ("ff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", false),
            ("100::", true),
            ("100::ffff:ffff:ffff:ffff", true),
            ("100:0:0:1::", false),
            ("::fffe:ffff:ffff", false),
            ("::ffff:0.0.0.0", true),
            ("::ffff:255.255.255.255", true),
            ("::1:0:0:0", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_reserved(text.parse().unwrap()), reserved, "{text}");
        }
    }

    #[test]
    fn the_edges_of_every_range() {
        for (text, martian) in [
            ("0.0.0.0", true),
            ("0.255.255.255", true),
            ("1.0.0.0", false),
            ("126.255.255.255", false),
            ("127.0.0.0", true),
            ("127.255.255.255", true),
            ("128.0.0.0", false),
            ("169.253.255.255", false),
            ("169.254.0.0", true),
            ("169.254.255.255", true),
            ("169.255.0.0", false),
            ("223.255.255.255", false),
            ("224.0.0.0", true),
            ("239.255.255.255", true),
            ("240.0.0.0", false),
            ("255.255.255.254", false),
            ("255.255.255.255", true),
            ("::", true),
            ("::1", true),
            ("::2", false),
            ("2001:db8::1", false),
            ("fdff::1", false),
            ("fe7f:ffff::1", false),
            ("fe80::", true),
            ("febf:ffff::1", true),
            ("fec0::1", false),
            ("feff:ffff::1", false),
            ("ff00::", true),
            ("ffff:ffff::1", true),
        ] {
            assert_eq!(is_martian(text.parse().unwrap()), martian, "{text}");
        }
    }
}
