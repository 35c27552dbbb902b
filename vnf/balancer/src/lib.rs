//! The load balancer.
//!
//! * [`maglev`]: which backend a connection gets, alike on every box with the same configuration.
#![forbid(unsafe_code)]

pub mod maglev;

pub use maglev::{Maglev, MaglevError};
