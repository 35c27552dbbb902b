//! The load balancer: which backend serves a connection, and how its packets get there.
//!
//! * [`function`]: one packet's way to its backend, or back to its client.
//! * [`service`]: services and backends.
//! * [`services`]: how a packet's service is found.
//! * [`seat`]: what of a backend outlives a configuration.
//! * [`shared`]: what all workers share: the connections and the services in force.
//! * [`save`]: connections over a restart.
//! * [`maglev`]: which backend a connection gets, alike on every box with the same configuration.
#![forbid(unsafe_code)]

mod affinity;
mod errors;
pub mod function;
pub mod maglev;
mod path;
pub mod save;
pub mod seat;
pub mod service;
pub mod services;
pub mod shared;
mod track;

pub use function::Balancer;
pub use maglev::{Maglev, MaglevError};
pub use save::Connections;
pub use seat::{Figures, Seat, ServiceCounts, ServiceFigures};
pub use service::{Affinity, AllDown, Backend, FULL_SHARE, Forward, Health, Service, ServiceConfig};
pub use services::Services;
pub use shared::{Options, Overview, Shared};
