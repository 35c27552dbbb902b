//! Threads.

use super::*;
use crate::checked::{CoreRange, FrameCount, Poll};
use crate::value::{Duration, Number};

/// The worker threads: one per core, each with one queue of every interface.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Workers {
    /// The cores to pin workers to: numbers or ranges such as `2-5`. Default: [0].
    pub(crate) cores: Option<OneOrMany<CoreRange>>,
    /// What a worker does when there is nothing to do. Default: adaptive.
    pub(crate) poll: Option<Written<Poll>>,
    /// Frames of packet memory per worker: a power of two. Default: 16384.
    pub(crate) frames: Option<Written<FrameCount>>,
    /// Flows that each worker remembers; 0: every packet walks its chain. Default: 131072.
    pub(crate) flows: Option<Written<Number<0, { crate::checked::MOST_FLOWS }>>>,
}

/// What the XDP program may hold of the flows that it forwards by itself: see `fast-path` of an interface.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct FastTable {
    /// Flows of each worker that the program has room for. Default: 65536.
    pub(crate) flows: Option<Written<Number<16, { crate::checked::MOST_FAST_FLOWS }>>>,
    /// How long the program goes on forwarding known flows when the service has died. Default: 0s, which means a second.
    pub(crate) keep: Option<Written<Duration>>,
}
