//! Address prefixes.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use throughway_packet::PrefixError;

use super::{Misread, Value};

/// An IPv4 or IPv6 prefix whose host bits are zero: `10.0.0.0/8`, `2001:db8::/32`. An address alone means that address only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix(throughway_packet::Prefix);

impl Prefix {
    /// The prefix of `length` bits that `address` lies in. `None` if `length` exceeds the address.
    pub fn containing(address: IpAddr, length: u8) -> Option<Self> {
        throughway_packet::Prefix::containing(address, length).ok().map(Prefix)
    }

    /// The prefix as the packet code knows it.
    pub const fn get(&self) -> throughway_packet::Prefix {
        self.0
    }

    /// Whether it is an IPv4 prefix.
    pub const fn is_ipv4(&self) -> bool {
        self.0.address().is_ipv4()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
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
        match throughway_packet::Prefix::new(address, length) {
            Ok(prefix) => Ok(Prefix(prefix)),
            Err(PrefixError::HostBits { prefix, .. }) => {
                Err(Misread::new(format!("`{text}` has host bits set"))
                    .help(format!("did you mean `{prefix}`?")))
            }
            Err(_) => Err(Misread::new(format!("`{text}` has a prefix length outside 0 to {longest}"))),
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
