//! A network in one machine: four namespaces, wired, addressed and removed again.
//!
//! ```text
//!                       ┌───────── box ─────────┐
//!   client ── eth0 ── lan0                    wan0 ── eth0 ── a
//!   10.1.0.10         10.1.0.1            10.2.0.1            10.2.0.10
//!   fd00:1::10        fd00:1::1          fd00:2::1            fd00:2::10
//!                       │        dmz0           │
//!                       └─────────┬─────────────┘
//!                   10.3.0.1, fd00:3::1 (MTU 1400)
//!                                 │
//!                               eth0
//!                   10.3.0.10, fd00:3::10
//!                                 b
//! ```
//!
//! The box does not forward in the kernel: what crosses it crossed Throughway. The demo, the tests and `throughway lab`
//! use the same network, so what a test shows can be looked at by hand.
//!
//! * [`lab`]: brings it up, runs things in it, removes it.
//! * [`topology`]: hosts, links and addresses.
//! * [`process`]: a process that does not outlive its guard.
//! * [`service`]: `throughway run` inside the box.
//! * [`web`]: a file server with known bytes.
//! * [`metrics`]: reads its metrics page.
//! * [`demo`]: `throughway lab demo`.
//! * [`command`]: `throughway lab up|exec|down`.
//!
//! Everything is done by iproute2's `ip`, by `ethtool` and by `/proc/sys`; root is needed.
#![forbid(unsafe_code)]

pub mod command;
pub mod demo;
mod error;
pub mod lab;
pub mod metrics;
pub mod process;
pub mod service;
mod tools;
pub mod topology;
pub mod web;

pub use error::LabError;
pub use lab::{Lab, LabOptions};
pub use process::{Guard, Output};
pub use service::Service;
pub use topology::Host;
