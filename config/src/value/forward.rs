//! Where a forward leads.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::{Misread, PortRange, Prefix, Value};

/// `192.168.1.10`, `192.168.1.10:8443`, `[2001:db8::1]:8000-8099`, `10.0.0.0/24`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Forward {
    /// To one address; ports as given, or kept if `None`.
    Address(IpAddr, Option<PortRange>),
    /// One to one: the bits behind the prefix stay.
    Prefix(Prefix),
}

impl Forward {
    /// Whether the addresses are of IPv4.
    pub const fn is_ipv4(&self) -> bool {
        match self {
            Forward::Address(address, _) => address.is_ipv4(),
            Forward::Prefix(prefix) => prefix.is_ipv4(),
        }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Forward::Address(address, None) => address.fmt(f),
            Forward::Address(IpAddr::V4(address), Some(ports)) => write!(f, "{address}:{ports}"),
            Forward::Address(IpAddr::V6(address), Some(ports)) => write!(f, "[{address}]:{ports}"),
            Forward::Prefix(prefix) => prefix.fmt(f),
        }
    }
}

impl FromStr for Forward {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        if text.contains('/') {
            return text.parse().map(Forward::Prefix);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Forward::Address(address, None));
        }
        let wrong = || {
            Misread::new(format!("`{text}` is not where a forward may lead")).help(
                "expected an address such as `192.168.1.10`, with a port `192.168.1.10:8443`, or a prefix",
            )
        };
        let (address, ports) = text.rsplit_once(':').ok_or_else(wrong)?;
        // The standard library knows the brackets.
        let address = format!("{address}:1").parse::<SocketAddr>().map_err(|_| wrong())?.ip();
        Ok(Forward::Address(address, Some(ports.parse()?)))
    }
}

impl Value for Forward {
    fn schema() -> serde_json::Value {
        serde_json::json!({
            "type": "string",
            "examples": ["192.168.1.10", "192.168.1.10:8443", "[2001:db8::1]:8000-8099", "10.0.0.0/24"],
        })
    }
}
