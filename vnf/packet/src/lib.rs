//! Packets: checked once, then read and edited without ever failing.
//!
//! The contract: [`parse()`] reads a frame's bytes once and returns [`Headers`], in which every offset lies inside the
//! frame. Whatever uses `Headers` together with the bytes they were made from cannot go out of bounds. Nothing here
//! panics on any bytes or asks for the time; nothing but [`build`] allocates.
//!
//! * [`headers`]: what is known of a packet after parsing: offsets, flow key, flags.
//! * [`parse`](mod@parse): bytes → `Headers`, or a [`ParseError`] with its reason.
//! * [`edit`]: one change to a packet; composed into an [`Action`].
//! * [`tunnel`]: a packet put into another one, and taken out of it.
//! * [`apply`](mod@apply): executes an action on the bytes of a packet, checksums included.
//! * [`execute`](mod@execute): the same for a whole frame: tags and tunnels make it longer or shorter at its front. These two
//!   are the only code that writes headers.
//! * [`extra`]: what is done to one packet alone: [`mss`] clamps the segment size of a SYN, [`embedded`] edits the packet
//!   that an ICMP error is about.
//! * [`fragment`]: cuts an IPv4 packet into fragments.
//! * [`frame`]: a buffer with a packet in it and room before it.
//! * [`checksum`]: full checksums over bytes.
//! * [`icmp`]: builds ICMP and ICMPv6 errors; [`reset`] builds TCP resets.
//! * [`build`]: builds whole packets, for tests and generators.
#![forbid(unsafe_code)]

pub mod apply;
pub mod build;
pub mod checksum;
pub mod edit;
pub mod embedded;
pub mod execute;
pub mod extra;
pub mod fragment;
pub mod frame;
pub mod headers;
pub mod icmp;
pub mod mss;
pub mod parse;
mod prefix;
pub mod reset;
pub mod tunnel;

pub use apply::apply;
pub use edit::{Edit, Tags};
pub use execute::{ExecuteError, execute};
pub use extra::Extra;
pub use frame::Frame;
pub use headers::{Flags, Headers, PortId};
pub use parse::{ParseError, parse};
pub use prefix::{Prefix, PrefixError};
pub use throughway_shared::action::{Action, Rewrite, edits};
pub use throughway_shared::flow::FlowKey;
pub use throughway_shared::tunnel::Tunnel;
pub use tunnel::Encapsulation;
