//! Port ranges.

use std::fmt;
use std::str::FromStr;

use super::{Misread, Value};

/// One port or a range of ports, both ends included: `443`, `5060-5062`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Ports are written as numbers; these are for advice only.
const SERVICES: &[(&str, u16)] = &[
    ("bgp", 179),
    ("dns", 53),
    ("domain", 53),
    ("http", 80),
    ("https", 443),
    ("imap", 143),
    ("imaps", 993),
    ("ldap", 389),
    ("ntp", 123),
    ("pop3", 110),
    ("radius", 1812),
    ("rdp", 3389),
    ("sip", 5060),
    ("smtp", 25),
    ("snmp", 161),
    ("ssh", 22),
    ("syslog", 514),
    ("telnet", 23),
];

impl PortRange {
    /// The ports from `first` to `last`. `None` if `first` is 0 or `last` is the smaller.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first > 0 && first <= last).then_some(PortRange { first, last })
    }

    /// The lowest port.
    pub const fn first(&self) -> u16 {
        self.first
    }

    /// The highest port.
    pub const fn last(&self) -> u16 {
        self.last
    }

    /// Whether `port` is in the range.
    pub const fn contains(&self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl FromStr for PortRange {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port(first.trim())?, port(last.trim())?),
            None => (port(text)?, port(text)?),
        };
        PortRange::new(first, last).ok_or_else(|| {
            Misread::new(format!("the port range `{text}` ends before it starts"))
                .help(format!("did you mean `{last}-{first}`?"))
        })
    }
}

fn port(text: &str) -> Result<u16, Misread> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        let misread = Misread::new(format!("`{text}` is not a port"));
        return Err(match SERVICES.iter().find(|(name, _)| *name == text) {
            Some((_, port)) => misread.help(format!("did you mean `{port}`?")),
            None => misread.help("expected a number or a range such as `5060-5062`"),
        });
    }
    text.parse()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| Misread::new(format!("port `{text}` is outside 1 to 65535")))
}

impl Value for PortRange {
    fn schema() -> serde_json::Value {
        serde_json::json!({
            "oneOf": [
                { "type": "integer", "minimum": 1, "maximum": 65535 },
                { "type": "string", "pattern": "^[0-9]{1,5}( *- *[0-9]{1,5})?$", "examples": ["5060-5062"] },
            ],
        })
    }
}
