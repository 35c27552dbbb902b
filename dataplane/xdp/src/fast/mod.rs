//! The fast path, seen by a worker: the flows that the XDP program executes by itself.
//!
//! A worker owns one [`FastFlows`]. What it has proven and recorded of a flow it hands over by [`FastFlows::install`]; from
//! then on the program executes the flow's packets in the driver, and counts them; [`FastFlows::sweep`] reads what it
//! counted. None of this is a system call: the table is memory that process and program share (`throughway_shared::fast`).
//!
//! * [`FastFlows`] (`flows.rs`): the table of one worker; `places.rs`: where they lie; `templates.rs`: what they have in common.
//! * `flow.rs`: what is said of a flow, and how it lies in the table.
//! * [`SharedWords`] (`memory.rs`): shared memory as atomic words; the only unsafe code of this crate.
//! * `maps.rs`: the maps behind all of it.
//! * `model.rs`: what the program does with a packet, for tests.
//!
//! Both [`FastFlows::in_memory`] and [`SharedWords::in_memory`] do without a kernel, for tests.

mod flow;
mod flows;
mod maps;
mod memory;
mod model;
mod places;
mod templates;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "a failed test")]
mod tests;

pub use flow::{FastCount, FastFlow, FastRefusal, NotExecutable};
pub use flows::{FAST_VISIT, FastFlows, FastPlace};
pub use maps::Back;
pub(crate) use maps::{FastMaps, FastPlan, mapped, take};
pub use memory::{SharedWords, Word};

/// How much of a fast path there is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FastConfig {
    /// How many workers there are: queue *q* of every interface belongs to worker *q* modulo this number. 1 to
    /// [`MAX_WORKERS`](throughway_shared::fast::MAX_WORKERS).
    pub workers: u32,
    /// How many flows each worker may have there. 1 to [`MAX_FLOWS`](throughway_shared::fast::MAX_FLOWS); each takes some
    /// 220 bytes, taken at once.
    pub flows: u32,
}
