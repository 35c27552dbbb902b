//! How the service is watched and spoken to.

use std::borrow::Cow;
use std::fmt;

use schemars::{Schema, SchemaGenerator};
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::*;
use crate::checked::SocketPath;
use crate::value::Listen;

/// Metrics for Prometheus.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Metrics {
    /// Address and port of the HTTP listener. Default: 127.0.0.1:9464.
    pub(crate) listen: Option<Written<Listen>>,
}

/// The socket that the `throughway` command speaks to.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Api {
    /// The Unix socket. Default: /run/throughway/api.sock.
    pub(crate) socket: Option<Written<SocketPath>>,
}

/// `off`, or where they are.
pub(crate) enum MetricsSwitch {
    Off,
    On(Metrics),
    /// Neither.
    Unknown,
}

impl<'de> Deserialize<'de> for MetricsSwitch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SwitchVisitor;

        impl<'de> Visitor<'de> for SwitchVisitor {
            type Value = MetricsSwitch;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`off` or a map with `listen`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(if text == "off" { MetricsSwitch::Off } else { MetricsSwitch::Unknown })
            }

            fn visit_bool<E: Error>(self, on: bool) -> Result<Self::Value, E> {
                Ok(if on { MetricsSwitch::Unknown } else { MetricsSwitch::Off })
            }

            fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
                Ok(MetricsSwitch::Unknown)
            }

            fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
                Ok(MetricsSwitch::Unknown)
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
                Ok(MetricsSwitch::Unknown)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                while access.next_element::<IgnoredAny>()?.is_some() {}
                Ok(MetricsSwitch::Unknown)
            }

            fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<Self::Value, A::Error> {
                Metrics::deserialize(serde::de::value::MapAccessDeserializer::new(access))
                    .map(MetricsSwitch::On)
            }
        }

        deserializer.deserialize_any(SwitchVisitor)
    }
}

impl JsonSchema for MetricsSwitch {
    fn schema_name() -> Cow<'static, str> {
        "MetricsSwitch".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "oneOf": [{ "enum": ["off", false] }, generator.subschema_for::<Metrics>()] })
    }
}
