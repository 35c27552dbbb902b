//! Texts of health checks.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{AddressRange, Misread, NumberRange, Value};

/// Status codes of HTTP (RFC 9110, section 15).
pub type Status = NumberRange<100, 599>;

/// The path of an HTTP request, query included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct HttpPath(pub(crate) String);

/// A text that is sent or looked for, not empty, up to 1024 bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Text(pub(crate) String);

/// The source of translated packets: `true` or addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SourceAddress {
    Off,
    Egress,
    Range(AddressRange),
}

const LONGEST: usize = 1024;

impl FromStr for HttpPath {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        if text.len() > LONGEST {
            return Err(Misread::new(format!("the path is longer than {LONGEST} bytes")));
        }
        // It goes into a request line: no white space, nothing beyond ASCII.
        if text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(HttpPath(text.to_owned()));
        }
        Err(Misread::new(format!("`{text}` is not a path")).help("expected something like `/healthz`"))
    }
}

impl Value for HttpPath {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "string", "pattern": "^/[!-~]*$", "examples": ["/healthz"] })
    }
}

impl FromStr for Text {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        match text.len() {
            0 => Err(Misread::new("the text is empty")),
            1..=LONGEST => Ok(Text(text.to_owned())),
            _ => Err(Misread::new(format!("the text is longer than {LONGEST} bytes"))),
        }
    }
}

impl Value for Text {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "string" })
    }
}

impl fmt::Display for SourceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SourceAddress::Off => f.write_str("false"),
            SourceAddress::Egress => f.write_str("true"),
            SourceAddress::Range(range) => range.fmt(f),
        }
    }
}

impl FromStr for SourceAddress {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        match text {
            "true" => Ok(SourceAddress::Egress),
            "false" => Ok(SourceAddress::Off),
            _ => text.parse().map(SourceAddress::Range),
        }
    }
}

impl Value for SourceAddress {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "anyOf": [{ "type": "boolean" }, AddressRange::schema()] })
    }
}

/// Whether `address` is of IPv4, in words.
pub(crate) const fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}
