//! Benchmarks anyone can run: `make bench`, and what the benches in `benches/` share.
//!
//! In namespaces, side by side with what people would use instead ([docs/benchmarks.md](../../docs/benchmarks.md)):
//!
//! * [`cli`]: the command `throughway-bench`.
//! * [`namespaces`]: source, device under test, sink, and which core pays for what.
//! * [`peers`]: what is measured.
//! * [`generator`]: `throughway pktgen` as a subprocess.
//! * [`trial`]: one trial; [`method`]: from trials to figures; [`cpu`]: who had the processor.
//! * [`early`]: sets that are dropped early, beside nftables'; [`tcp`]: iperf3, beside the kernel's forwarding.
//! * [`plan`]: what is measured; [`run`]: carries it out; [`results`] and [`report`]: what comes out; [`machine`]: on what.
//! * [`baseline`]: what is committed; [`instructions`]: callgrind's count; [`micro`]: criterion's benches.
//!
//! For the benches that run in one process:
//!
//! * [`cycles`]: a clock in cycles. [`random`]: random numbers that are the same in every run.
#![forbid(unsafe_code)]

pub mod baseline;
pub mod cli;
pub mod command;
pub mod cpu;
pub mod cycles;
pub mod early;
pub mod error;
pub mod generator;
pub mod instructions;
pub mod machine;
pub mod method;
pub mod micro;
pub mod namespaces;
pub mod peers;
pub mod plan;
pub mod random;
pub mod report;
pub mod results;
pub mod run;
pub mod tcp;
pub mod trial;
