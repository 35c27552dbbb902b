//! Packets: checked once, then read and edited without ever failing.
//!
//! The contract: [`parse()`] reads a frame's bytes once and returns [`Headers`], in which every offset lies inside the
//! frame. Whatever uses `Headers` together with the bytes they were made from cannot go out of bounds. Nothing here
//! panics on any bytes or asks for the time; nothing but [`build`] allocates.
//!
//! * [`headers`]: what is known of a packet after parsing: offsets, flow key, flags.
//! * [`parse`](mod@parse): bytes → `Headers`, or a [`ParseError`] with its reason.
//! * [`edit`]: one change to a packet; composed into an [`Action`].
//! * [`apply`](mod@apply): executes an action on the bytes, checksums included. The only code that writes headers.
//! * [`checksum`]: full checksums over bytes.
//! * [`icmp`]: builds ICMP and ICMPv6 errors.
//! * [`build`]: builds whole packets, for tests and generators.
#![forbid(unsafe_code)]

pub mod apply;
pub mod build;
pub mod checksum;
pub mod edit;
pub mod headers;
pub mod icmp;
pub mod parse;
mod prefix;

pub use apply::apply;
pub use edit::Edit;
pub use headers::{Flags, Headers, PortId};
pub use parse::{ParseError, parse};
pub use prefix::{Prefix, PrefixError};
pub use throughway_shared::action::{Action, edits};
pub use throughway_shared::flow::FlowKey;
