//! Sets of a firewall.

use std::borrow::Cow;
use std::fmt;

use schemars::{Schema, SchemaGenerator};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::*;
use crate::error::Span;
use crate::value::{Element, FilePath, Flag};

/// A set of addresses or of ports.
pub(crate) struct Set {
    pub(crate) source: SetSource,
    pub(crate) span: Span,
}

/// Where the elements stand.
pub(crate) enum SetSource {
    Inline(Vec<Written<Element>>),
    File(SetFile),
}

/// A file of elements.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct SetFile {
    /// The file: one address, prefix, range or port on each line, comments behind `#`. Relative to this file.
    pub(crate) file: Written<FilePath>,
    /// Reserved: whether packets from these addresses are dropped before anything else.
    #[serde(default)]
    pub(crate) early: Given<Written<Flag>>,
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
                f.write_str("a list of addresses or ports, or `{ file: … }`")
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
                SetFile::deserialize(serde::de::value::MapAccessDeserializer::new(access))
                    .map(|file| Shape::Many(SetSource::File(file)))
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
        schemars::json_schema!({ "anyOf": [list, generator.subschema_for::<SetFile>()] })
    }
}
