//! The slow side: what runs beside the workers and never touches a packet.
//!
//! * [`mirror`]: follows the kernel over netlink and publishes the routers' tables.
//! * `facts`: the kernel's state as plain facts; `neighbours`: resolving and confirming them.
//! * [`health`]: asks the backends of load balancers whether they are alive.
//! * [`own`]: leaves the host what is its own on addresses that functions use.
//! * [`events`]: writes down what functions tell.
//! * [`api`]: the socket that `throughway reload` and `throughway show` speak to.
//! * [`capture`]: packets that somebody wants to look at, over the same socket.
//! * [`metrics`]: the Prometheus page.
//! * [`routes`]: the routers' tables for the API: pages of them, and why a route is used.
//! * [`show`]: the running state as JSON, for the API.

pub mod api;
pub mod capture;
pub mod events;
pub(crate) mod facts;
pub mod health;
pub mod metrics;
pub mod mirror;
mod neighbours;
pub mod own;
pub mod routes;
pub mod show;
