//! What is written of a link where the kernel has no device that would say it: addresses and neighbours.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{Misread, Prefix, Value};

/// An Ethernet address of one host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.map(|byte| format!("{byte:02x}")).join(":"))
    }
}

impl FromStr for Mac {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        let byte = |part: &str| {
            let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            digits.then(|| u8::from_str_radix(part, 16).ok()).flatten()
        };
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        let Some(bytes) = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok()) else {
            return Err(Misread::new(format!("`{text}` is not a MAC address"))
                .help("expected something like `02:00:00:00:00:0a`"));
        };
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(Misread::new(format!("`{text}` is not the MAC address of one host")));
        }
        Ok(Mac(bytes))
    }
}

impl Value for Mac {
    fn schema() -> serde_json::Value {
        serde_json::json!({
            "type": "string",
            "pattern": "^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$",
            "examples": ["02:00:00:00:00:0a"],
        })
    }
}

/// An address of an interface with the length of its prefix: `192.0.2.1/24`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// Bits of the prefix that is on the link.
    pub len: u8,
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl FromStr for InterfaceAddress {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        let wrong = || {
            Misread::new(format!("`{text}` is not an address with the length of its prefix"))
                .help("expected something like `192.0.2.1/24` or `2001:db8::1/64`")
        };
        let (address, len) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let digits = !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit());
        let len = len.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
        if Prefix::containing(address, len).is_none() {
            let longest = if address.is_ipv4() { 32 } else { 128 };
            return Err(Misread::new(format!("`{text}` has a prefix length outside 0 to {longest}")));
        }
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            return Err(Misread::new(format!("`{address}` cannot be the address of an interface")));
        }
        Ok(InterfaceAddress { address, len })
    }
}

impl Value for InterfaceAddress {
    fn schema() -> serde_json::Value {
        serde_json::json!({
            "type": "string",
            "pattern": "^[0-9A-Fa-f.:]+/[0-9]{1,3}$",
            "examples": ["192.0.2.1/24", "2001:db8::1/64"],
        })
    }
}
