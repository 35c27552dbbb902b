//! Address prefixes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::{Misread, Value};

/// An IPv4 or IPv6 prefix whose host bits are zero: `10.0.0.0/8`, `2001:db8::/32`. An address alone means that address only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix of `length` bits that `address` lies in: host bits are cleared. `None` if `length` exceeds the address.
    pub fn containing(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
            }
            IpAddr::V6(v6) if length <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
            }
            _ => return None,
        };
        Some(Prefix { address, length })
    }

    /// The first address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits count: 0 to 32, or 0 to 128.
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Whether it is an IPv4 prefix.
    pub const fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// Whether `address` lies in it; never for the other family.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && Prefix::containing(address, self.length) == Some(*self)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| {
            Misread::new(format!("`{text}` is not an address prefix"))
                .help("expected something like `10.0.0.0/8` or `2001:db8::/32`")
        })?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => longest,
            // `parse` alone would let `+8` pass.
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().filter(|length| *length <= longest).ok_or_else(|| {
                    Misread::new(format!("`{text}` has a prefix length outside 0 to {longest}"))
                })?
            }
            Some(digits) => {
                return Err(Misread::new(format!("`{digits}` is not a prefix length"))
                    .help(format!("expected 0 to {longest}, such as `{address}/{longest}`")));
            }
        };
        match Prefix::containing(address, length) {
            Some(prefix) if prefix.address == address => Ok(prefix),
            Some(prefix) => {
                Err(Misread::new(format!("`{text}` has host bits set"))
                    .help(format!("did you mean `{prefix}`?")))
            }
            None => Err(Misread::new(format!("`{text}` has a prefix length outside 0 to {longest}"))),
        }
    }
}

impl Value for Prefix {
    fn schema() -> serde_json::Value {
        serde_json::json!({
            "type": "string",
            "pattern": "^[0-9A-Fa-f.:]+(/[0-9]{1,3})?$",
            "examples": ["10.0.0.0/8", "2001:db8::/32"],
        })
    }
}
