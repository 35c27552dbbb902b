//! The flow cache: what a chain did to the first packet of a flow, ready for the next.
//!
//! A worker owns one [`FlowCache`]. For a batch it asks [`peek()`] for the flow of every packet, lets [`FlowCache::prepare`]
//! fetch the entries of all of them together, and then takes each answer from [`FlowCache::lookup`]: an
//! [`Action`](throughway_shared::action::Action) that is still true, or nothing, and then the packet walks the chain and
//! what the chain did is recorded by [`FlowCache::install`]. A worker does the same with less ado: [`FlowCache::read`],
//! [`FlowCache::fetch`], [`FlowCache::execute`].
//!
//! * [`generation`]: how an entry knows that it is still true, without anybody sweeping the cache.
//! * [`key`]: a flow key as machine words, and its hash.
//! * [`peek`](mod@peek): a frame's bytes straight to its flow, for the common packets; the rest are for the full parser.
//! * [`entry`]: what is kept of a flow, to the byte; `own`: a flow's own part of its action; `template` and `shared`: what flows
//!   have in common; `plan`: an action made ready, and its execution.
//! * [`cache`]: the table; `bucket`: sixteen flows at a glance; `install`: how flows come in and go.
//! * [`absorb`]: flows that are executed elsewhere, as by the XDP program.
//! * [`sweep`]: ageing, harvesting of counters and showing, in bounded slices.
//!
//! Nothing here reads a clock, draws a random number, takes a lock or, once the cache is made, allocates.
#![forbid(unsafe_code)]

pub mod absorb;
mod bucket;
pub mod cache;
mod cold;
pub mod entry;
pub mod generation;
mod install;
pub mod key;
mod own;
pub mod peek;
mod plan;
mod records;
mod shared;
pub mod sweep;
mod template;

pub use absorb::{Absorbed, Candidate};
pub use cache::{FlowCache, Installed, Policy, Round, Stats};
pub use entry::{Credits, NewFlow, Settled};
pub use generation::{Dependencies, Epoch, Generations, SharedWords, Slot};
pub use key::Key;
pub use peek::{Probe, cacheable, peek};
pub use plan::Done;
