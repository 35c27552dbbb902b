//! Keys that may be left out, but not be empty: what a rule matches must not become "everything" by a forgotten value.

use std::borrow::Cow;
use std::ops::Deref;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer};

use super::shape::Shape;
use super::{OneOrMany, Written};
use crate::error::Span;
use crate::value::Value;

/// A key that is there with a value, or not there; `key:` alone is refused. Fields of this type need `#[serde(default)]`.
pub(crate) struct Given<T>(Option<T>);

impl<T> Default for Given<T> {
    fn default() -> Self {
        Given(None)
    }
}

impl<T> Deref for Given<T> {
    type Target = Option<T>;

    fn deref(&self) -> &Option<T> {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(|value| Given(Some(value)))
    }
}

impl<T: JsonSchema> JsonSchema for Given<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// What a field of a packet may be: a value, a list of values, or `{ not: … }` for everything else.
pub(crate) struct Several<V> {
    pub(crate) not: bool,
    pub(crate) list: Vec<Written<V>>,
    pub(crate) span: Span,
}

impl<'de, V> Deserialize<'de> for Several<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (OneOrMany { list, span }, not) = Shape::<V, true>::read(deserializer)?;
        Ok(Several { not, list, span })
    }
}

impl<V: Value> JsonSchema for Several<V> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Several".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let some = OneOrMany::<V>::json_schema(generator);
        schemars::json_schema!({
            "anyOf": [
                some,
                {
                    "type": "object",
                    "properties": {
                        "not": { "description": "Everything but this.", "anyOf": some.get("anyOf") },
                    },
                    "required": ["not"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}
