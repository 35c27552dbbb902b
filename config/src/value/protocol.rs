//! IP protocol numbers.

use std::fmt;
use std::str::FromStr;

use super::{Misread, Value};

/// What an IP packet carries, by IANA's protocol number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Protocol(u8);

const NAMES: &[(&str, u8)] = &[
    ("icmp", 1),
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("ospf", 89),
    ("pim", 103),
    ("vrrp", 112),
    ("sctp", 132),
];

impl Protocol {
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: Protocol = Protocol(1);
    /// TCP (RFC 9293).
    pub const TCP: Protocol = Protocol(6);
    /// UDP (RFC 768).
    pub const UDP: Protocol = Protocol(17);
    /// ICMP for IPv6 (RFC 4443).
    pub const ICMPV6: Protocol = Protocol(58);
    /// SCTP (RFC 9260).
    pub const SCTP: Protocol = Protocol(132);

    /// The protocol of that number.
    pub const fn new(number: u8) -> Self {
        Protocol(number)
    }

    /// The number.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Whether its header has ports that rules may match.
    pub const fn has_ports(self) -> bool {
        matches!(self, Protocol::TCP | Protocol::UDP | Protocol::SCTP)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Protocol {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        if let Some((_, number)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(Protocol(*number));
        }
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return text
                .parse()
                .map(Protocol)
                .map_err(|_| Misread::new(format!("the protocol number `{text}` is outside 0 to 255")));
        }
        let misread = Misread::new(format!("unknown protocol `{text}`"));
        Err(match crate::suggest::closest(text, NAMES.iter().map(|(name, _)| *name)) {
            Some(name) => misread.help(format!("did you mean `{name}`?")),
            None => misread
                .help("expected a name such as tcp, udp, icmp, icmpv6, sctp, or a number from 0 to 255"),
        })
    }
}

impl Value for Protocol {
    fn schema() -> serde_json::Value {
        let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
        serde_json::json!({
            "oneOf": [
                { "enum": names },
                { "type": "integer", "minimum": 0, "maximum": 255 },
            ],
        })
    }
}
