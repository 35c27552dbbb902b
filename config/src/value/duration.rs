//! Spans of time.

use std::fmt;
use std::str::FromStr;

use super::{Misread, Value};

/// A span of time: `250ms`, `5s`, `1m30s`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Duration(std::time::Duration);

/// Largest first, which is also the order in which they are written.
const UNITS: &[(&str, u64)] = &[
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl Duration {
    /// The duration of that many nanoseconds.
    pub const fn from_nanos(nanoseconds: u64) -> Self {
        Duration(std::time::Duration::from_nanos(nanoseconds))
    }

    /// As the standard library has it.
    pub const fn get(self) -> std::time::Duration {
        self.0
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_nanos();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, nanoseconds) in UNITS {
            let nanoseconds = u128::from(*nanoseconds);
            if rest >= nanoseconds {
                write!(f, "{}{unit}", rest / nanoseconds)?;
                rest %= nanoseconds;
            }
        }
        Ok(())
    }
}

impl FromStr for Duration {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        const EXPECTED: &str = "expected something like `250ms`, `5s` or `1m30s`";
        let wrong = || Misread::new(format!("`{text}` is not a duration")).help(EXPECTED);
        let long = || Misread::new(format!("the duration `{text}` is too long"));
        let mut rest = text;
        let mut allowed = UNITS;
        let mut total: u64 = 0;
        while !rest.is_empty() {
            let unit_at = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (number, behind) = rest.split_at(unit_at);
            let unit_end = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
            let (unit, behind) = behind.split_at(unit_end);
            if number.is_empty() {
                return Err(wrong());
            }
            if unit.is_empty() {
                return Err(Misread::new(format!("the duration `{text}` has no unit"))
                    .help(format!("did you mean `{text}s`?")));
            }
            let Some(place) = allowed.iter().position(|(known, _)| *known == unit) else {
                return Err(wrong());
            };
            let number: u64 = number.parse().map_err(|_| long())?;
            let nanoseconds = number.checked_mul(allowed[place].1).ok_or_else(long)?;
            total = total.checked_add(nanoseconds).ok_or_else(long)?;
            allowed = &allowed[place + 1..];
            rest = behind;
        }
        if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_nanos(total)) }
    }
}

impl Value for Duration {
    fn schema() -> serde_json::Value {
        serde_json::json!({
            "type": "string",
            "pattern": "^([0-9]+(d|h|m|s|ms|us|ns))+$",
            "examples": ["250ms", "5s", "1m30s"],
        })
    }
}
