//! Values as people write them: `5s`, `64MiB`, `10.0.0.0/8`, `5060-5062`, `ef`.
//!
//! Each type here reads one scalar of the file ([`FromStr`]), prints it the same way ([`Display`](std::fmt::Display)), and
//! says what an editor may offer for it (its piece of the JSON Schema).

use std::fmt;
use std::str::FromStr;

use crate::suggest;

mod addresses;
mod dscp;
mod duration;
mod forward;
mod health;
mod icmp;
mod link;
mod name;
mod number;
mod ports;
mod prefix;
mod protocol;
mod range;
mod rate;
mod set;
mod size;

pub use addresses::AddressRange;
pub use dscp::Dscp;
pub use duration::Duration;
pub use forward::Forward;
pub use health::Status;
pub(crate) use health::{HttpPath, SourceAddress, Text, family_of};
pub use icmp::{IcmpMessage, Icmpv4Message, Icmpv6Message};
pub use link::{InterfaceAddress, Mac};
pub(crate) use name::FilePath;
pub use name::{DeviceName, Name};
pub use number::Number;
pub(crate) use number::{Address, Listen};
pub use ports::PortRange;
pub use prefix::Prefix;
pub use protocol::Protocol;
pub use range::{LengthRange, NumberRange, VlanRange};
pub use rate::{Ceiling, Per, PerSide, Rate, RateUnit};
pub(crate) use set::{Early, Element, OrSet};
pub use size::Size;

/// Why a text is not the value it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Misread {
    /// What is wrong, naming the text.
    pub message: String,
    /// What would be right, where that can be said.
    pub help: Option<String>,
}

impl Misread {
    /// A reason without advice.
    pub fn new(message: impl Into<String>) -> Self {
        Misread { message: message.into(), help: None }
    }

    /// Adds advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// `text` is none of the known words.
    pub(crate) fn unknown(what: &str, text: &str, known: &[&str]) -> Self {
        let misread = Misread::new(format!("unknown {what} `{text}`"));
        match suggest::closest(text, known.iter().copied()) {
            Some(word) => misread.help(format!("did you mean `{word}`?")),
            None => misread.help(format!("expected {}", suggest::one_of(known.iter().copied()))),
        }
    }
}

impl fmt::Display for Misread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.help.iter().try_for_each(|help| write!(f, "; {help}"))
    }
}

impl std::error::Error for Misread {}

/// A value that stands in the file as one scalar.
pub trait Value: FromStr<Err = Misread> {
    /// What an editor should know of it: a JSON Schema without a title.
    fn schema() -> serde_json::Value;
}

/// An enum whose variants are words in the file.
macro_rules! words {
    ($(#[$outer:meta])* $name:ident, $what:literal $(, default $default:ident)?: $($(#[doc = $doc:literal])+ $variant:ident = $word:literal,)+) => {
        $(#[$outer])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $name { $($(#[doc = $doc])+ $variant,)+ }

        impl $name {
            /// Every choice, as written in the file.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word for it.
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word,)+ }
            }
        }

        $(impl Default for $name {
            fn default() -> Self {
                $name::$default
            }
        })?

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }

        impl std::str::FromStr for $name {
            type Err = crate::value::Misread;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok($name::$variant),)+
                    _ => Err(crate::value::Misread::unknown($what, text, Self::WORDS)),
                }
            }
        }

        impl crate::value::Value for $name {
            fn schema() -> serde_json::Value {
                serde_json::json!({ "oneOf": [$({ "const": $word, "description": concat!($($doc),+).trim() }),+] })
            }
        }
    };
}
pub(crate) use words;

/// `true` or `false`; the YAML 1.1 spellings (`yes`, `on`) are refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flag {
    True,
    False,
}

impl FromStr for Flag {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        match text {
            "true" => Ok(Flag::True),
            "false" => Ok(Flag::False),
            _ => Err(Misread::unknown("truth value", text, &["true", "false"])),
        }
    }
}

impl Value for Flag {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "boolean" })
    }
}

impl From<Flag> for bool {
    fn from(flag: Flag) -> bool {
        flag == Flag::True
    }
}
