//! Sets of a firewall.

use std::borrow::Cow;
use std::fmt;

use schemars::{Schema, SchemaGenerator};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::*;
use crate::error::Span;
use crate::value::{Early, Element, FilePath};

/// A set of addresses or of ports.
pub(crate) struct Set {
    pub(crate) source: SetSource,
    pub(crate) span: Span,
}

/// Where the elements stand.
pub(crate) enum SetSource {
    Inline(Vec<Written<Element>>),
    Map(SetMap),
}

/// A set with more to say than its elements, which are in a file or here.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct SetMap {
    /// The file: one address, prefix, range or port on each line, comments behind `#`. Relative to this file.
    #[serde(default)]
    pub(crate) file: Given<Written<FilePath>>,
    /// The elements themselves, instead of a file.
    #[serde(default)]
    pub(crate) elements: Given<OneOrMany<Element>>,
    /// Where packets from these addresses are dropped by the XDP program, before anything else: `true` for the interfaces whose
    /// chains run this firewall, or names of interfaces.
    #[serde(default)]
    pub(crate) early: Given<OneOrMany<Early>>,
}

/// A set as it stands in the file.
enum Shape {
    One(String),
    Many(SetSource),
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SourceVisitor;

        impl<'de> Visitor<'de> for SourceVisitor {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of addresses or ports, `{ file: … }` or `{ elements: … }`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Shape::One(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Shape::One(number.to_string()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(written) = access.next_element()? {
                    list.push(written);
                }
                Ok(Shape::Many(SetSource::Inline(list)))
            }

            fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Self::Value, A::Error> {
                SetMap::deserialize(serde::de::value::MapAccessDeserializer::new(access))
                    .map(|map| Shape::Many(SetSource::Map(map)))
            }
        }

        deserializer.deserialize_any(SourceVisitor)
    }
}

impl<'de> Deserialize<'de> for Set {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let At { value, span } = At::<Shape>::deserialize(deserializer)?;
        let source = match value {
            Shape::One(text) => SetSource::Inline(vec![Written::new(text, span)]),
            Shape::Many(source) => source,
        };
        Ok(Set { source, span })
    }
}

impl JsonSchema for Set {
    fn schema_name() -> Cow<'static, str> {
        "Set".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let list = OneOrMany::<Element>::json_schema(generator);
        schemars::json_schema!({ "anyOf": [list, generator.subschema_for::<SetMap>()] })
    }
}
