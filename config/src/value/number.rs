//! Whole numbers with bounds.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::{Misread, Value};

/// A whole number from `MIN` to `MAX`, written in decimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Number<const MIN: u32, const MAX: u32>(u32);

impl<const MIN: u32, const MAX: u32> Number<MIN, MAX> {
    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<const MIN: u32, const MAX: u32> fmt::Display for Number<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<const MIN: u32, const MAX: u32> FromStr for Number<MIN, MAX> {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Misread::new(format!("`{text}` is not a whole number"))
                .help(format!("expected {MIN} to {MAX}, in decimal")));
        }
        text.parse()
            .ok()
            .filter(|number| (MIN..=MAX).contains(number))
            .map(Number)
            .ok_or_else(|| Misread::new(format!("`{text}` is outside {MIN} to {MAX}")))
    }
}

impl<const MIN: u32, const MAX: u32> Value for Number<MIN, MAX> {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// Something of the standard library that is read with its own `FromStr`.
macro_rules! standard {
    ($name:ident($inner:ty), $complaint:literal, $help:literal, $schema:tt) => {
        #[doc = concat!("A `", stringify!($inner), "` as a scalar of the file.")]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) struct $name(pub(crate) $inner);

        impl FromStr for $name {
            type Err = Misread;

            fn from_str(text: &str) -> Result<Self, Misread> {
                text.parse().map($name).map_err(|_| Misread::new(format!($complaint, text)).help($help))
            }
        }

        impl Value for $name {
            fn schema() -> serde_json::Value {
                serde_json::json!($schema)
            }
        }
    };
}

standard!(
    Address(IpAddr),
    "`{}` is not an IP address",
    "expected something like `192.0.2.1` or `2001:db8::1`",
    { "type": "string", "pattern": "^[0-9A-Fa-f.:]+$", "examples": ["192.0.2.1", "2001:db8::1"] }
);

standard!(
    Listen(SocketAddr),
    "`{}` is not an address with a port",
    "expected something like `127.0.0.1:9464` or `[::1]:9464`; host names are not looked up",
    { "type": "string", "examples": ["127.0.0.1:9464", "[::1]:9464"] }
);
