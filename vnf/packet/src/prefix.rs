//! Address prefixes of both families.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address prefix in canonical form: no bit is set behind its length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// Why something is not a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PrefixError {
    /// Not `address/length`.
    #[error("not a prefix: expected ADDRESS/LENGTH, such as 192.0.2.0/24")]
    Syntax,
    /// Longer than an address of the family.
    #[error("a prefix of {address} has at most {max} bits, not {len}")]
    TooLong {
        /// The address part.
        address: IpAddr,
        /// The length that was asked for.
        len: u8,
        /// 32 or 128.
        max: u8,
    },
    /// Bits are set behind the length.
    #[error("{address}/{len} has bits set behind its length; the prefix is {prefix}")]
    HostBits {
        /// The address part.
        address: IpAddr,
        /// The length.
        len: u8,
        /// What was probably meant.
        prefix: Prefix,
    },
}

impl Prefix {
    /// The prefix `address/len`.
    ///
    /// # Errors
    /// [`PrefixError::TooLong`], and [`PrefixError::HostBits`] when `address` is not the first of the prefix.
    pub fn new(address: IpAddr, len: u8) -> Result<Prefix, PrefixError> {
        let prefix = Prefix::containing(address, len)?;
        if prefix.address == address {
            Ok(prefix)
        } else {
            Err(PrefixError::HostBits { address, len, prefix })
        }
    }

    /// The prefix of `len` bits in which `address` lies.
    ///
    /// # Errors
    /// [`PrefixError::TooLong`].
    pub fn containing(address: IpAddr, len: u8) -> Result<Prefix, PrefixError> {
        let max = width(address);
        if len > max {
            return Err(PrefixError::TooLong { address, len, max });
        }
        let address = match address {
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask4(len))),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask6(len))),
        };
        Ok(Prefix { address, len })
    }

    /// The prefix that holds one address only.
    pub const fn host(address: IpAddr) -> Prefix {
        Prefix { address, len: width(address) }
    }

    /// Its first address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Its length in bits.
    #[expect(
        clippy::len_without_is_empty,
        reason = "the length of a prefix is a number of bits, not of elements"
    )]
    pub const fn len(&self) -> u8 {
        self.len
    }

    /// Whether `address` lies in it; never for an address of the other family.
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => own.to_bits() == other.to_bits() & mask4(self.len),
            (IpAddr::V6(own), IpAddr::V6(other)) => own.to_bits() == other.to_bits() & mask6(self.len),
            _ => false,
        }
    }

    /// Its last address. Of an IPv4 network this is the directed broadcast address (RFC 919).
    pub fn last(&self) -> IpAddr {
        match self.address {
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() | !mask4(self.len))),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() | !mask6(self.len))),
        }
    }
}

const fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

// A shift by the whole width overflows: that is the mask of length zero.
fn mask4(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
}

fn mask6(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Prefix, PrefixError> {
        let (address, len) = text.split_once('/').ok_or(PrefixError::Syntax)?;
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Syntax)?;
        // `parse` would take a sign.
        if !len.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(PrefixError::Syntax);
        }
        Prefix::new(address, len.parse().map_err(|_| PrefixError::Syntax)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn contains_its_first_and_last_address_and_not_their_neighbours() {
        for (text, before, first, last, after) in [
            ("10.1.0.0/16", "10.0.255.255", "10.1.0.0", "10.1.255.255", "10.2.0.0"),
            ("192.0.2.4/31", "192.0.2.3", "192.0.2.4", "192.0.2.5", "192.0.2.6"),
            ("192.0.2.4/32", "192.0.2.3", "192.0.2.4", "192.0.2.4", "192.0.2.5"),
            (
                "2001:db8::/33",
                "2001:db7:ffff::1",
                "2001:db8::",
                "2001:db8:7fff:ffff:ffff:ffff:ffff:ffff",
                "2001:db8:8000::",
            ),
        ] {
            let prefix = prefix(text);
            assert_eq!(prefix.address(), address(first));
            assert_eq!(prefix.last(), address(last), "{text}");
            assert!(prefix.contains(address(first)) && prefix.contains(address(last)), "{text}");
            assert!(!prefix.contains(address(before)) && !prefix.contains(address(after)), "{text}");
            assert_eq!(prefix.to_string(), text);
        }
    }

    #[test]
    fn the_empty_prefix_contains_its_own_family_only() {
        assert!(prefix("0.0.0.0/0").contains(address("255.255.255.255")));
        assert!(!prefix("0.0.0.0/0").contains(address("::")));
        assert!(prefix("::/0").contains(address("ffff::1")));
        assert!(!prefix("::/0").contains(address("0.0.0.0")));
    }

    #[test]
    fn what_is_no_prefix_is_refused() {
        for text in
            ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/+8", "10.0.0/8", "10.0.0.0/8/8", "10.0.0.0/999", "/8"]
        {
            assert_eq!(text.parse::<Prefix>(), Err(PrefixError::Syntax), "{text}");
        }
        assert_eq!(
            "10.0.0.0/33".parse::<Prefix>(),
            Err(PrefixError::TooLong { address: address("10.0.0.0"), len: 33, max: 32 })
        );
        assert_eq!(
            "10.0.0.1/8".parse::<Prefix>().unwrap_err().to_string(),
            "10.0.0.1/8 has bits set behind its length; the prefix is 10.0.0.0/8"
        );
    }
}
