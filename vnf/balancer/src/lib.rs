//! The load balancer: which backend serves a connection, and how its packets get there.
//!
//! * [`function`]: one packet's way to its backend, or back to its client.
//! * [`service`]: services, backends, and how a packet's service is found.
//! * [`maglev`]: which backend a connection gets, alike on every box with the same configuration.
#![forbid(unsafe_code)]

pub mod function;
pub mod maglev;
pub mod service;

pub use function::{Balancer, Options, Shared};
pub use maglev::{Maglev, MaglevError};
pub use service::{Affinity, Backend, Figures, Forward, Health, Service, ServiceConfig, Services};
