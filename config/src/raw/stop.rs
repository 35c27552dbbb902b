//! What an orderly stop leaves behind.

use super::*;
use crate::checked::AtProgram;
use crate::value::Duration;

/// What the service leaves behind when it is stopped in an orderly way, for the one that is started next.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct AtStop {
    /// Whether the XDP program stays on the interfaces. Default: remove.
    pub(crate) program: Option<Written<AtProgram>>,
    /// For how long sessions wait to be taken over by the next instance; 0s: they are not written. Default: 5m.
    pub(crate) sessions: Option<Written<Duration>>,
}
