//! Functions: a new kind is a variant of `Kind`, a line in `Kind::WORDS` and `Kind::read`, and a file beside this one.

use std::borrow::Cow;
use std::fmt;

use schemars::{Schema, SchemaGenerator};
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::*;
use crate::error::Span;

/// A network function: a map with exactly one key, the kind. Whether that is so is for `checked` to say, because serde's own
/// enums give no good place for what is wrong.
pub(crate) struct Function {
    pub(crate) kinds: Vec<(At<String>, Kind)>,
    pub(crate) span: Span,
}

/// A network function: one kind with its settings.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Finds the next hop of packets by longest prefix match.
    Router(Router),
    /// Sets the code point (DSCP) of packets.
    Marker(Marker),
    /// Decides which packets and sessions may pass.
    Firewall(Firewall),
    /// Translates addresses and ports.
    Nat(Nat),
    /// Spreads connections over servers.
    LoadBalancer(LoadBalancer),
    /// A key that is no kind.
    #[schemars(skip)]
    Unknown,
}

impl Kind {
    /// The keys that name kinds.
    pub(crate) const WORDS: &'static [&'static str] =
        &["router", "marker", "firewall", "nat", "load-balancer"];

    fn read<'de, A: MapAccess<'de>>(key: &str, access: &mut A) -> Result<Self, A::Error> {
        Ok(match key {
            "router" => Kind::Router(access.next_value()?),
            "marker" => Kind::Marker(access.next_value()?),
            "firewall" => Kind::Firewall(access.next_value()?),
            "nat" => Kind::Nat(access.next_value()?),
            "load-balancer" => Kind::LoadBalancer(access.next_value()?),
            _ => {
                access.next_value::<IgnoredAny>()?;
                Kind::Unknown
            }
        })
    }
}

impl<'de> Deserialize<'de> for Function {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Anything but a map has no kinds.
        struct Kinds(Vec<(At<String>, Kind)>);
        struct KindsVisitor;

        impl<'de> Visitor<'de> for KindsVisitor {
            type Value = Kinds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a map with one of {}", crate::suggest::one_of(Kind::WORDS.iter().copied()))
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Kinds(Vec::new()))
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
                Ok(Kinds(Vec::new()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                while access.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Kinds(Vec::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut kinds = Vec::new();
                while let Some(key) = access.next_key::<At<String>>()? {
                    let kind = Kind::read(&key.value, &mut access)?;
                    kinds.push((key, kind));
                }
                Ok(Kinds(kinds))
            }
        }

        impl<'de> Deserialize<'de> for Kinds {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(KindsVisitor)
            }
        }

        let At { value: Kinds(kinds), span } = At::<Kinds>::deserialize(deserializer)?;
        Ok(Function { kinds, span })
    }
}

impl JsonSchema for Function {
    fn schema_name() -> Cow<'static, str> {
        "Function".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Kind::json_schema(generator)
    }
}
