//! What the XDP program and the workers must agree on, to the byte.
//!
//! * [`steer`]: how the XDP program is told what is ours, and how it counts what it decides alone.
//! * [`fast`]: the flows that the XDP program executes by itself, in memory shared with the workers.
//! * [`early`]: the sources that it drops before anything else.
//! * [`flow`]: the key of a flow.
//! * [`action`]: what a chain does to a packet, as a plain value.
//! * [`tunnel`]: the outer header that an action may put before a packet.
//! * [`checksum`]: one's complement arithmetic (RFC 1071, RFC 1624) used to make and apply an action.
//!
//! Everything is `no_std`, `repr(C)` and free of padding that is not named; addresses and ports are in network order.
#![no_std]
#![forbid(unsafe_code)]

pub mod action;
pub mod checksum;
pub mod early;
pub mod fast;
pub mod flow;
pub mod steer;
pub mod tunnel;
