//! Amounts of memory.

use std::fmt;
use std::str::FromStr;

use super::{Misread, Value};

/// A number of bytes: `64MiB`, `1500`, `10kB`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Size(u64);

/// Binary units first and largest first: the order in which one is chosen for printing.
const UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Size {
    /// That many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Size(bytes)
    }

    /// How many bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |&&(_, bytes): &&(&str, u64)| self.0 >= bytes && self.0.is_multiple_of(bytes);
        match UNITS.iter().find(whole) {
            Some((unit, bytes)) => write!(f, "{}{unit}", self.0 / bytes),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl FromStr for Size {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let unit = unit.trim_start();
        if number.is_empty() {
            return Err(Misread::new(format!("`{text}` is not a size"))
                .help("expected something like `64MiB` or `1500`"));
        }
        let factor = match UNITS.iter().find(|(known, _)| *known == unit) {
            Some((_, bytes)) => *bytes,
            None if unit.is_empty() => 1,
            None => {
                let misread = Misread::new(format!("the size `{text}` has an unknown unit `{unit}`"));
                return Err(match crate::suggest::closest(unit, UNITS.iter().map(|(known, _)| *known)) {
                    Some(known) => misread.help(format!("did you mean `{number}{known}`?")),
                    None => misread.help("expected B, KiB, MiB, GiB, TiB, kB, MB, GB or TB"),
                });
            }
        };
        number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(factor))
            .map(Size)
            .ok_or_else(|| Misread::new(format!("the size `{text}` is too large")))
    }
}

impl Value for Size {
    fn schema() -> serde_json::Value {
        serde_json::json!({
            "oneOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^[0-9]+ *([KMGT]iB|[kMGT]?B)?$", "examples": ["64MiB"] },
            ],
        })
    }
}
