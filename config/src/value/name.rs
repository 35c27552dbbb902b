//! Names that the file gives to things.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use super::{Misread, Value};

/// What the file calls an interface, a function or a chain: a lower-case letter or a digit, then also dashes; up to 32.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name(String);

/// A network device of the kernel, such as `eth1`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceName(String);

/// The longest name of a device: the kernel's `IFNAMSIZ` less the final zero.
const LONGEST_DEVICE: usize = 15;
const LONGEST_NAME: usize = 32;

impl FromStr for Name {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let rule = format!(
            "a name starts with a-z or 0-9, goes on with a-z, 0-9 or `-`, and has up to {LONGEST_NAME} characters"
        );
        if text.len() > LONGEST_NAME {
            return Err(Misread::new(format!("the name `{text}` is too long")).help(rule));
        }
        if text.as_bytes().first().copied().is_some_and(allowed)
            && text.bytes().all(|b| allowed(b) || b == b'-')
        {
            return Ok(Name(text.to_owned()));
        }
        let mended: String = text
            .to_lowercase()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect::<String>()
            .trim_matches('-')
            .to_owned();
        let misread = Misread::new(format!("`{text}` is not a name"));
        Err(if mended.is_empty() {
            misread.help(rule)
        } else {
            misread.help(format!("{rule}; did you mean `{mended}`?"))
        })
    }
}

impl Value for Name {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,31}$" })
    }
}

impl FromStr for DeviceName {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        let problem = if text.is_empty() {
            "is empty"
        } else if text.len() > LONGEST_DEVICE {
            "is longer than the kernel's 15 bytes"
        } else if text.contains(['/', ':']) || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            "contains `/`, `:`, white space or a control character"
        } else if text == "." || text == ".." {
            "is not a name"
        } else {
            return Ok(DeviceName(text.to_owned()));
        };
        Err(Misread::new(format!("the device name `{text}` {problem}"))
            .help("`ip link` lists the devices of this host"))
    }
}

impl Value for DeviceName {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "string", "pattern": "^[^/:\\s]{1,15}$", "examples": ["eth1"] })
    }
}

/// A file beside the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FilePath(pub(crate) String);

impl FromStr for FilePath {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        if text.trim().is_empty() || text.ends_with('/') || text.contains('\0') {
            return Err(Misread::new(format!("`{text}` is not the name of a file")));
        }
        Ok(FilePath(text.to_owned()))
    }
}

impl Value for FilePath {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "type": "string", "examples": ["bogons.txt"] })
    }
}

macro_rules! text {
    ($($name:ident)+) => {$(
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    )+};
}

text!(Name DeviceName);
