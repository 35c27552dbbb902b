//! Addresses that are never forwarded (RFC 1812, sections 4.2.2.11 and 5.3.7; RFC 4291, section 2.5).
//!
//! Class E (240.0.0.0/4) is not among them: it is in use, and Linux forwards it too. Directed broadcast addresses cannot
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

#[cfg(test)]
mod tests {
    use super::*;

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
