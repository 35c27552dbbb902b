//! The building blocks of the raw form: scalars, lists and maps that know where they stand.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};
use serde_saphyr::Spanned;

use crate::error::{Report, Span};
use crate::value::{Name, Value};

impl From<serde_saphyr::Location> for Span {
    fn from(location: serde_saphyr::Location) -> Self {
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).max(1);
        Span {
            line: small(location.line()),
            column: small(location.column()),
            length: small(location.span().len()),
        }
    }
}

/// Anything, with its place.
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<T>::deserialize(deserializer)?;
        Ok(At { value: spanned.value, span: spanned.referenced.into() })
    }
}

/// A scalar that is to be read as a `V`.
pub(crate) struct Written<V> {
    pub(crate) text: String,
    pub(crate) span: Span,
    meaning: PhantomData<fn() -> V>,
}

impl<V> Written<V> {
    pub(crate) fn new(text: String, span: Span) -> Self {
        Written { text, span, meaning: PhantomData }
    }
}

impl<V: Value> Written<V> {
    /// The value; reports it if there is none.
    pub(crate) fn read(&self, report: &mut Report<'_>) -> Option<V> {
        self.text.parse().map_err(|misread| report.error(self.span, misread)).ok()
    }
}

/// Reads what may be left out: `Some(default)` if it is, `None` if it is wrong and was reported.
pub(crate) trait ReadOr<V> {
    fn read_or(&self, default: V, report: &mut Report<'_>) -> Option<V>;
}

impl<V: Value> ReadOr<V> for Option<Written<V>> {
    fn read_or(&self, default: V, report: &mut Report<'_>) -> Option<V> {
        self.as_ref().map_or(Some(default), |written| written.read(report))
    }
}

impl<'de, V> Deserialize<'de> for Written<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let At { value, span } = At::<String>::deserialize(deserializer)?;
        Ok(Written::new(value, span))
    }
}

/// A scalar, or a list of them.
pub(crate) struct OneOrMany<V> {
    pub(crate) list: Vec<Written<V>>,
    pub(crate) span: Span,
}

impl<V: Value> OneOrMany<V> {
    /// The values; reports the ones that are wrong, and an empty list.
    pub(crate) fn read(&self, report: &mut Report<'_>) -> Option<Vec<V>> {
        if self.list.is_empty() {
            report.error(self.span, "the list is empty");
            return None;
        }
        let values: Vec<Option<V>> = self.list.iter().map(|written| written.read(report)).collect();
        values.into_iter().collect()
    }
}

impl<'de, V> Deserialize<'de> for OneOrMany<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Shape::<V, false>::read(deserializer).map(|(some, _)| some)
    }
}

/// How values may be written: one, a list of them, and, where `NOT` says so, `{ not: … }` around either.
pub(super) enum Shape<V, const NOT: bool> {
    One(String),
    Many(Vec<Written<V>>),
    Not(OneOrMany<V>),
}

impl<V, const NOT: bool> Shape<V, NOT> {
    /// The values, and whether `not` stood before them.
    pub(super) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(OneOrMany<V>, bool), D::Error> {
        let At { value, span } = At::<Self>::deserialize(deserializer)?;
        Ok(match value {
            Shape::One(text) => (OneOrMany { list: vec![Written::new(text, span)], span }, false),
            Shape::Many(list) => (OneOrMany { list, span }, false),
            Shape::Not(other) => (other, true),
        })
    }
}

impl<'de, V, const NOT: bool> Deserialize<'de> for Shape<V, NOT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor(PhantomData))
    }
}

struct ShapeVisitor<V, const NOT: bool>(PhantomData<V>);

impl<'de, V, const NOT: bool> Visitor<'de> for ShapeVisitor<V, NOT> {
    type Value = Shape<V, NOT>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if NOT {
            "a value, a list of values, or `{ not: … }`"
        } else {
            "a value or a list of values"
        })
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
        if !NOT {
            return Err(A::Error::invalid_type(Unexpected::Map, &self));
        }
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

/// A map from names that the file gives, in the order of the file.
pub(crate) struct Entries<T> {
    pub(crate) list: Vec<Entry<T>>,
    pub(crate) span: Span,
}

/// What a name of the file stands for.
pub(crate) struct Entry<T> {
    pub(crate) name: Written<Name>,
    pub(crate) value: T,
}

impl<T> Entries<T> {
    /// Where `name` stands in the list.
    pub(crate) fn position(&self, name: &str) -> Option<u16> {
        self.list.iter().position(|entry| entry.name.text == name).and_then(|index| u16::try_from(index).ok())
    }

    /// All names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(|entry| entry.name.text.as_str())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Entries<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T>(Vec<Entry<T>>);
        struct ListVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ListVisitor<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from names")
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(List(Vec::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some((name, value)) = access.next_entry()? {
                    list.push(Entry { name, value });
                }
                Ok(List(list))
            }
        }

        impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_map(ListVisitor(PhantomData))
            }
        }

        let At { value: List(list), span } = At::<List<T>>::deserialize(deserializer)?;
        Ok(Entries { list, span })
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
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

/// The schema of a value; an object by the contract of [`Value::schema`].
fn value_schema<V: Value>() -> Schema {
    Schema::try_from(V::schema()).unwrap_or_default()
}

impl<V: Value> JsonSchema for Written<V> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Scalar".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        value_schema::<V>()
    }
}

impl<V: Value> JsonSchema for OneOrMany<V> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "OneOrMany".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let one = value_schema::<V>();
        schemars::json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

impl<T: JsonSchema> JsonSchema for Entries<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Entries".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({
            "type": "object",
            "minProperties": 1,
            "propertyNames": value_schema::<Name>(),
            "additionalProperties": generator.subschema_for::<T>(),
        })
    }
}
