//! Names of sets in the place of values.

use std::fmt;
use std::str::FromStr;

use super::{AddressRange, Flag, Misread, Name, PortRange, Value};

/// A value, or the name of a set of them: `@bogons`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum OrSet<V> {
    Set(Name),
    Value(V),
}

impl<V: Value> FromStr for OrSet<V> {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        match text.strip_prefix('@') {
            Some(name) => Ok(OrSet::Set(name.parse()?)),
            None => text.parse().map(OrSet::Value).map_err(|misread: Misread| {
                // Where a word stands for a value, the `@` was forgotten.
                let word = text.len() > 1 && text.starts_with(|c: char| c.is_ascii_alphabetic());
                match text.parse::<Name>() {
                    Ok(name) if word && !misread.to_string().contains("did you mean") => {
                        Misread::new(misread.message).help(format!("a set is written `\"@{name}\"`"))
                    }
                    _ => misread,
                }
            }),
        }
    }
}

impl<V: Value> Value for OrSet<V> {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "anyOf": [{ "type": "string", "pattern": "^@[a-z0-9][a-z0-9-]{0,31}$" }, V::schema()] })
    }
}

/// An element of a set.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Element {
    Addresses(AddressRange),
    Ports(PortRange),
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Addresses(range) => range.fmt(f),
            Element::Ports(range) => range.fmt(f),
        }
    }
}

impl FromStr for Element {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'-' || b == b' ') {
            return text.parse().map(Element::Ports);
        }
        text.parse().map(Element::Addresses)
    }
}

impl Value for Element {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "anyOf": [AddressRange::schema(), PortRange::schema()] })
    }
}

/// Where a set is matched before anything else.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Early {
    /// At all interfaces whose chains run its firewall, or nowhere.
    Switch(bool),
    /// At the interface of that name.
    Interface(Name),
}

impl FromStr for Early {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        match text.parse::<Flag>() {
            Ok(flag) => Ok(Early::Switch(flag == Flag::True)),
            Err(_) => text.parse().map(Early::Interface),
        }
    }
}

impl Value for Early {
    fn schema() -> serde_json::Value {
        serde_json::json!({ "anyOf": [Flag::schema(), Name::schema()] })
    }
}
