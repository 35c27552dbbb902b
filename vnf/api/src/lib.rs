//! How a network function speaks.
//!
//! A function reads a parsed packet and its own state, and answers with edits and a verdict: that is the trait
//! [`Function`]. It opens no socket, starts no thread, reads no clock: time is an argument. `docs/write-a-function.md`
//! shows a complete small one.
//!
//! * [`packet`]: the packet as a function sees it, and the batch.
//! * [`verdict`]: what a function says of a packet; [`DropReason`], the one list of reasons why packets die.
//! * [`credit`]: whom the packets of a flow are credited to, when they take the short way past the functions.
//! * [`counters`]: single-writer counters that other threads may read.
//! * [`events`]: what functions tell the control side, through a bounded queue.
//! * [`save`]: what functions want to have again after a restart.
//! * [`snapshot`]: immutable tables, published by the control side and read once per batch.
#![forbid(unsafe_code)]

pub mod counters;
pub mod credit;
pub mod events;
pub mod packet;
pub mod save;
pub mod snapshot;
pub mod verdict;

use std::time::Duration;

pub use credit::{Credit, Credits, FunctionTag, Seen};
pub use events::{Event, EventQueue, Events};
pub use packet::{BATCH, Batch, Packet};
pub use snapshot::Snapshot;
pub use throughway_flow::{Dependencies, Generations, Slot};
pub use throughway_packet::{Prefix, PrefixError};
pub use verdict::{Answer, DropReason, IcmpError, Verdict};

/// A point in time: nanoseconds of a monotonic clock, read once per batch by whoever runs the chain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Now(pub u64);

/// A length of time in nanoseconds; the longest that can be said for one of more than five hundred years.
pub const fn nanos(time: Duration) -> u64 {
    let nanos = time.as_nanos();
    if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }
}

/// What a function is told beside the packets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Context {
    /// When the batch was received.
    pub now: Now,
}

/// A virtual network function: one configured instance, as one worker holds it.
///
/// What several workers share of it (sessions, tables) sits behind an `Arc` inside; what only this worker uses (counters,
/// caches) is plain.
pub trait Function {
    /// The key that names the kind of function in the configuration, such as `router`.
    const KIND: &'static str;

    /// Judges one packet: reads it, edits it, says what shall become of it.
    fn judge(&mut self, packet: &mut Packet<'_>, context: &Context) -> Verdict;

    /// Judges the packets of a batch that are still alive. Functions that gain from seeing several at once (to issue
    /// look-ups together) replace it; the result must be the same as judging one by one.
    fn process(&mut self, batch: &mut Batch<'_>, context: &Context) {
        for packet in batch.living() {
            let verdict = self.judge(packet, context);
            packet.settle(verdict);
        }
    }

    /// Is about to be [told](Function::settle) of these `ids`: may have what it will need then fetched into the processor's cache, for
    /// all of them side by side. Changes nothing.
    fn foresee(&self, ids: &[u64]) {
        let _ = ids;
    }

    /// Is told what the flow cache saw of a flow for which the function left the credit `id`: sessions live on, counters add
    /// up. Called between batches, from any worker's cache, at the latest [`credit::HARVEST`] after the packets; possibly after
    /// what `id` stood for is gone. Without packets it only says when the last one was seen, and they are told of later, within
    /// [`credit::FIGURES`]: of very many flows that the XDP program executes.
    fn settle(&mut self, id: u64, seen: &Seen) {
        let _ = (id, seen);
    }

    /// Tells people how it would judge the packet: the rules it tries, the state it finds, a line each. Changes nothing, and is
    /// never called for traffic.
    fn explain(&self, packet: &Packet<'_>, context: &Context) -> Vec<String> {
        let _ = (packet, context);
        Vec::new()
    }

    /// Does a small, bounded slice of housekeeping (ageing); called between batches.
    fn tick(&mut self, context: &Context) {
        let _ = context;
    }
}
