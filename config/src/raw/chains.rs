//! Chains.

use super::*;
use crate::value::Name;

/// Where packets come from and which functions they walk.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Chain {
    /// The interface, or a list of them. Each interface starts one chain only.
    pub(crate) from: OneOrMany<Name>,
    /// The functions, in order. One of them must be able to send packets (a router).
    pub(crate) run: OneOrMany<Name>,
}
