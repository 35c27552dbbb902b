//! The shared toolkit for stateful functions.
//!
//! * [`SessionTable`]: sessions that any worker finds by either of two keys, with capacity, quotas, timeouts, handles and a walk
//!   through all of them.
//! * [`translate()`]: edits a packet of one side into what the other side sees.
//! * [`SourceCounter`]: exact counts per source address or network, for limits per source.
//! * [`connection`]: the state of a connection of any protocol.
//! * [`passed`]: flows that were let pass as they are, and the sessions that end that.
//! * [`save`]: keys and life of a session as records, for a restart.
//! * [`fragment`]: which datagram a fragment is of, and what became of that datagram's first one.
//! * [`tcp`]: the states of a TCP connection as somebody in the middle sees them.
//! * [`timeouts`]: default timeouts with the RFCs they come from.
//!
//! Everything is deterministic: time and the seed of the hash function are arguments. Only the slow path comes here: the second
//! packet of a flow is served by a worker's own cache, which reports what it saw by [`SessionTable::keep_alive`].
#![forbid(unsafe_code)]

mod age;
mod bucket;
mod card;
mod chunks;
pub mod connection;
pub mod fragment;
mod hash;
mod insert;
#[cfg(all(test, loom))]
mod interleavings;
mod key;
pub mod passed;
mod quota;
pub mod save;
mod session;
mod shard;
mod slab;
mod source;
mod sync;
mod table;
pub mod tcp;
mod time;
pub mod timeouts;
mod translate;
mod walk;
mod wheel;

pub use age::Sweep;
pub use hash::Seed;
pub use insert::{InsertError, NewSession};
pub use key::{Keyed, Probe, SessionKey, Side};
pub use quota::{Class, QuotaFull};
pub use session::{Info, Meta, Reason, Removed, SessionId};
pub use source::{SourceConfig, SourceCounter, SourceError};
pub use table::{Config, Found, MAX_CAPACITY, SessionTable, Stats, WhenFull};
pub use time::RESOLUTION;
pub use translate::translate;
pub use walk::Cursor;

/// The example in the README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
