//! What an orderly stop leaves behind.

use super::*;
use crate::value::{Duration, words};

/// What the service leaves behind when it is stopped in an orderly way, for the one that is started next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct AtStop {
    /// What becomes of the XDP program.
    pub program: AtProgram,
    /// For how long sessions wait to be taken over by the next instance; zero: they are not written.
    pub sessions: Duration,
}

words! {
    /// What becomes of the XDP program at an orderly stop.
    AtProgram, "word for the XDP program", default Remove:
    /// It is removed: the kernel has the interfaces.
    Remove = "remove",
    /// It stays, as if the service had died: known flows go on for `fast-path.keep`, for all else `on-failure` holds.
    Keep = "keep",
}

/// How long sessions wait unless it is said.
const SESSIONS: Duration = Duration::from_nanos(300_000_000_000);

/// How long they wait at most.
const LONGEST: Duration = Duration::from_nanos(86_400_000_000_000);

impl AtStop {
    pub(super) fn check(raw: Option<&crate::raw::AtStop>, report: &mut Report<'_>) -> Option<Self> {
        let program =
            raw.map_or(Some(AtProgram::default()), |raw| raw.program.read_or(AtProgram::default(), report));
        let sessions = match raw.and_then(|raw| raw.sessions.as_ref()) {
            None => Some(SESSIONS),
            Some(written) => written.read(report).and_then(|sessions| {
                if sessions > LONGEST {
                    report.error(written.span, format!("at most {LONGEST}"));
                    return None;
                }
                Some(sessions)
            }),
        };
        Some(AtStop { program: program?, sessions: sessions? })
    }
}
