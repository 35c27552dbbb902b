//! NAT: who appears outside under which address and port.
//!
//! * [`function`]: one packet's way through sessions, mappings and rules; `plan`: how a new connection is translated; `related`:
//!   ICMP errors; `fragments`; `passed`: what is not translated; `ahead`:
//!   ports for a whole batch.
//! * [`shared`]: what all workers share: rules, sessions, mappings.
//! * [`rule`]: what the configuration says.
//! * [`pool`]: outside addresses, and who gets their ports; [`blocks`]: ports in blocks.
//! * [`address`]: outside addresses themselves.
//! * [`ports`]: the ports of one address: taken at random in constant time, at rest for a while after use.
//! * [`rate`]: how fast a host may open connections.
//! * [`save`]: sessions, mappings, blocks and resting ports over a restart.
//! * [`show`]: sessions, mappings and pools as plain values; `explain`: what would become of a packet.
#![forbid(unsafe_code)]

pub mod address;
mod ahead;
pub mod blocks;
mod explain;
mod fragments;
pub mod function;
mod plan;
pub mod pool;
pub mod ports;
pub mod rate;
mod related;
pub mod rule;
pub mod save;
pub mod shared;
pub mod show;

pub use address::{Address, Addresses};
pub use blocks::{Block, BlockConfig};
pub use function::Nat;
pub use pool::{AddressUse, Pool, PoolConfig, PoolUse, Pooling, Refusal};
pub use ports::{Parity, Ports};
pub use rate::HostRate;
pub use save::Sessions;
pub use shared::{Options, Rules, Shared};
pub use show::{Filter, MappingView, RuleNumber, SessionView};

/// The example in the README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
