//! The slow side: what runs beside the workers and never touches a packet.
//!
//! * [`mirror`]: follows the kernel over netlink and publishes the routers' tables.
//! * [`api`]: the socket that `throughway reload` and `throughway show` speak to.
//! * [`metrics`]: the Prometheus page.
//! * [`show`]: the running state as JSON, for the API.

pub mod api;
pub mod metrics;
pub mod mirror;
pub mod show;
