//! Fragments: later ones are translated as their first one was.
//!
//! One that comes before its first changes nothing, since nobody can say yet whose it is: whoever runs the chain may hold it until
//! the first has come. Overlaps and duplicates are for the receiver,
//! or for a firewall in the same chain.

use std::time::Duration;

use throughway_session::{SessionId, Side};
use throughway_vnf::DropReason;

/// How long fragments are waited for. RFC 8200 allows 60 s; identifications come again sooner (RFC 6864, section 4.3).
pub(crate) const WAIT: Duration = Duration::from_secs(30);

/// What became of a first fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It went on as it was.
    Untouched,
    /// It was translated by this session.
    Session(SessionId, Side),
    /// It was dropped.
    Dropped(DropReason),
}
