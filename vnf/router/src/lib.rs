//! The router: where does this packet go next?
//!
//! Pure: it reads tables that the control side publishes as one [`Snapshot`](throughway_vnf::Snapshot) and answers with
//! edits and a verdict. It opens no socket, resolves no neighbour and builds no ICMP error itself.
//!
//! * [`tables`]: what it knows: ports, neighbours and the FIB, published together.
//! * [`fib`]: longest prefix match for IPv4 and IPv6, changed in place while it is read.
//! * [`internet`]: tables like those of the Internet, for tests and benchmarks.
//! * [`route`]: what a lookup leads to, and the choice among several next hops.
//! * [`martian`]: addresses that are never forwarded.
//! * [`options`]: the MSS of TCP connections.
//! * [`process`]: the function: one packet's way through the checks, in their order.
//! * [`originate`]: routes packets that the data plane sends itself (ICMP errors).
#![forbid(unsafe_code)]

pub mod fib;
mod hash;
pub mod internet;
pub mod martian;
pub mod options;
pub mod originate;
pub mod process;
pub mod route;
pub mod tables;

pub use fib::routes::{RouteId, View};
pub use fib::writer::{FibError, FibWriter, GroupId, Limits, Target};
pub use fib::{Fib, Found};
pub use options::{Mss, Options};
pub use originate::Origin;
pub use process::{Counters, Router};
pub use route::{NextHop, NextHops, Route};
pub use tables::{InterfaceAddress, Neighbours, Port, PortSettings, Ports, SourceCheck, Tables};
