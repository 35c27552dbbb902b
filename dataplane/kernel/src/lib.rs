//! The kernel as our control plane: what it knows about links, addresses, routes and neighbours, mirrored over netlink.
//!
//! - [`Mirror`] keeps a [`State`] of one network namespace up to date and tells what changed.
//! - [`Resolver`] has the kernel resolve and confirm neighbours.
//! - [`Sockets`] tells which ports the host's own sockets have, [`Delivery`] gives the host packets that are its own.
//! - [`device`] tells what a device has (queues, driver) and switches its offloads, to be put back at exit.
//!
//! It knows nothing of our interfaces or our forwarding table, starts no thread and blocks only where it says so. Every
//! socket belongs to the network namespace of the thread which opened it.

#![forbid(unsafe_code)]

mod changes;
mod decode;
mod deliver;
pub mod device;
mod dump;
mod error;
mod ethtool;
mod message;
mod mirror;
pub mod model;
mod resolver;
mod route;
mod routes;
mod socket;
mod sockets;
mod store;
#[cfg(test)]
mod tests;

pub use changes::Changes;
pub use deliver::Delivery;
pub use dump::{count_routes, snapshot};
pub use error::KernelError;
pub use mirror::{Mirror, MirrorStats, Options, Waiter};
pub use model::{
    Address, AddressKey, IfIndex, Link, Neighbour, NeighbourKey, NextHop, NexthopObject, NudState, OperState,
    Prefix, Route, RouteKey, RouteKind, RouteProtocol, Routes, Scope, State,
};
pub use resolver::{ResolveError, Resolver};
pub use sockets::{MOST_PORTS, OwnedPort, Sockets, ephemeral_ports};
