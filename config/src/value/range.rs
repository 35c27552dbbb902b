//! Ranges of small numbers.

use std::fmt;
use std::str::FromStr;

use super::{Misread, Value};

/// One number or a range of numbers from `MIN` to `MAX`, both ends included: `100`, `64-1500`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NumberRange<const MIN: u16, const MAX: u16> {
    first: u16,
    last: u16,
}

/// The length of an IP packet in bytes, header included.
pub type LengthRange = NumberRange<0, 65535>;
/// VLAN identifiers (IEEE 802.1Q).
pub type VlanRange = NumberRange<1, 4094>;

impl<const MIN: u16, const MAX: u16> NumberRange<MIN, MAX> {
    /// The numbers from `first` to `last`. `None` if they are out of bounds, or `last` is the smaller.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (MIN <= first && first <= last && last <= MAX).then_some(NumberRange { first, last })
    }

    /// The lowest number.
    pub const fn first(&self) -> u16 {
        self.first
    }

    /// The highest number.
    pub const fn last(&self) -> u16 {
        self.last
    }
}

impl<const MIN: u16, const MAX: u16> fmt::Display for NumberRange<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl<const MIN: u16, const MAX: u16> FromStr for NumberRange<MIN, MAX> {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        let number = |text: &str| -> Result<u16, Misread> {
            if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
                return Err(Misread::new(format!("`{text}` is not a whole number"))
                    .help(format!("expected {MIN} to {MAX}, or a range such as `{MIN}-{MAX}`")));
            }
            text.parse()
                .ok()
                .filter(|number| (MIN..=MAX).contains(number))
                .ok_or_else(|| Misread::new(format!("`{text}` is outside {MIN} to {MAX}")))
        };
        let (first, last) = match text.split_once('-') {
            Some((first, last)) if !first.is_empty() => (number(first.trim())?, number(last.trim())?),
            _ => (number(text)?, number(text)?),
        };
        if first > last {
            return Err(Misread::new(format!("the range `{text}` ends before it starts"))
                .help(format!("did you mean `{last}-{first}`?")));
        }
        Ok(NumberRange { first, last })
    }
}

impl<const MIN: u16, const MAX: u16> Value for NumberRange<MIN, MAX> {
    fn schema() -> serde_json::Value {
        serde_json::json!({
            "oneOf": [
                { "type": "integer", "minimum": MIN, "maximum": MAX },
                { "type": "string", "pattern": "^[0-9]{1,5}( *- *[0-9]{1,5})?$" },
            ],
        })
    }
}
