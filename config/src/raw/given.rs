//! Keys that may be left out, but not be empty: what a rule matches must not become "everything" by a forgotten value.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{At, OneOrMany, Written};
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
        enum Shape<V> {
            One(String),
            Many(Vec<Written<V>>),
            Not(OneOrMany<V>),
        }

        struct ShapeVisitor<V>(PhantomData<V>);

        impl<'de, V> Visitor<'de> for ShapeVisitor<V> {
            type Value = Shape<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value, a list of values, or `{ not: … }`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Shape::One(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Shape::One(number.to_string()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Shape::One(number.to_string()))
            }

            fn visit_bool<E: Error>(self, truth: bool) -> Result<Self::Value, E> {
                Ok(Shape::One(truth.to_string()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
                Ok(Shape::One(number.to_string()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(written) = access.next_element()? {
                    list.push(written);
                }
                Ok(Shape::Many(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut not = None;
                while let Some(key) = access.next_key::<String>()? {
                    if key != "not" {
                        return Err(A::Error::unknown_field(&key, &["not"]));
                    }
                    not = Some(access.next_value()?);
                }
                not.map(Shape::Not).ok_or_else(|| A::Error::missing_field("not"))
            }
        }

        impl<'de, V> Deserialize<'de> for Shape<V> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(ShapeVisitor(PhantomData))
            }
        }

        let At { value, span } = At::<Shape<V>>::deserialize(deserializer)?;
        let (not, list, span) = match value {
            Shape::One(text) => (false, vec![Written::new(text, span)], span),
            Shape::Many(list) => (false, list, span),
            Shape::Not(OneOrMany { list, span }) => (true, list, span),
        };
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
