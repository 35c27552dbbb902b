//! Generator and sink of test traffic, for `throughway pktgen`, the tests and the benchmarks.
//!
//! * [`Traffic`]: what to send: flows, lengths, rate, how long.
//! * [`send`]: sends it, by the fastest [`Backend`] that there is.
//! * [`Sink`]: counts what arrives, and drops it: loss, duplicates, reordering, latency.
//! * [`Sizes`]: frame lengths and mixes of them.
//!
//! What frames look like, and when one is due, is in `throughway_traffic`: the programs in the kernel and the
//! back ends in user space run the same code.
#![forbid(unsafe_code)]

mod clock;
mod device;
mod error;
mod histogram;
mod kernel;
mod live;
mod plan;
mod send;
mod sink;
mod sizes;
mod user;

pub use error::Error;
pub use histogram::Latency;
pub use plan::{Family, Ports, Protocol, Traffic};
pub use send::{Backend, Sent, send};
pub use sink::{Mode, Received, Sink, Stamped};
pub use sizes::Sizes;

/// The object with both programs, as built by `ebpf/build.sh`.
pub static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../ebpf/object/pktgen.bpf.o"));
