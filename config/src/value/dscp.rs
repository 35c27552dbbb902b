//! Differentiated services code points.

use std::fmt;
use std::str::FromStr;

use super::{Misread, Value};

/// A differentiated services code point (RFC 2474): the upper six bits of the traffic class.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Dscp(u8);

/// IANA's registry: RFC 2474 (class selectors), 2597 (assured forwarding), 3246 (expedited forwarding), 5865, 8622.
const NAMES: &[(&str, u8)] = &[
    ("cs0", 0),
    ("cs1", 8),
    ("cs2", 16),
    ("cs3", 24),
    ("cs4", 32),
    ("cs5", 40),
    ("cs6", 48),
    ("cs7", 56),
    ("af11", 10),
    ("af12", 12),
    ("af13", 14),
    ("af21", 18),
    ("af22", 20),
    ("af23", 22),
    ("af31", 26),
    ("af32", 28),
    ("af33", 30),
    ("af41", 34),
    ("af42", 36),
    ("af43", 38),
    ("ef", 46),
    ("voice-admit", 44),
    ("le", 1),
];

impl Dscp {
    /// The code point of that number. `None` above 63.
    pub const fn new(number: u8) -> Option<Self> {
        if number < 64 { Some(Dscp(number)) } else { None }
    }

    /// The number, 0 to 63.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Dscp {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        if let Some((_, number)) = NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(Dscp(*number));
        }
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return text
                .parse()
                .ok()
                .and_then(Dscp::new)
                .ok_or_else(|| Misread::new(format!("the code point `{text}` is outside 0 to 63")));
        }
        let misread = Misread::new(format!("unknown code point `{text}`"));
        Err(match crate::suggest::closest(text, NAMES.iter().map(|(name, _)| *name)) {
            Some(name) => misread.help(format!("did you mean `{name}`?")),
            None => misread.help("expected ef, af11 to af43, cs0 to cs7, or 0 to 63"),
        })
    }
}

impl Value for Dscp {
    fn schema() -> serde_json::Value {
        let names: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
        serde_json::json!({
            "oneOf": [
                { "enum": names },
                { "type": "integer", "minimum": 0, "maximum": 63 },
            ],
        })
    }
}
