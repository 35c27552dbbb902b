//! The data plane: everything that touches the world.
//!
//! A frame enters at [`worker`], walks [`chain`] through the functions in the order of the YAML, and leaves by its verdict.
//! A YAML key becomes true in `throughway-config` and meets the functions in [`assemble`], and nowhere else.
//!
//! * [`app`]: start, reload, stop, in order.
//! * [`assemble`]: checked configuration → functions and chains.
//! * [`chain`]: the order of functions; static dispatch.
//! * [`guest`]: functions that the configuration does not know.
//! * [`worker`]: the loop, on pinned threads.
//! * [`capture`]: looking at packets on their way.
//! * [`clock`]: the one clock of the process.
//! * [`host`]: what is known of the host: links, addresses, routes, neighbours, as plain data.
//! * [`rib`]: from all that is known of a prefix to the one route of a forwarding table.
//! * [`control`]: the slow side: kernel mirror, API, metrics.
//! * [`explain`]: why a packet goes where it goes, for people.
//! * [`stats`]: what workers count.
//! * [`cli`]: the command line.
#![forbid(unsafe_code)]

pub mod app;
pub mod assemble;
pub mod capture;
pub mod chain;
pub mod cli;
pub mod clock;
pub mod control;
pub mod explain;
pub mod guest;
pub mod host;
pub mod replay;
pub mod rib;
pub mod stats;
pub mod worker;
