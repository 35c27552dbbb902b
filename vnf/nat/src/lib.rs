//! NAT: who appears outside under which address and port.
//!
//! * [`function`]: one packet's way through sessions, mappings and rules.
//! * [`shared`]: what all workers share: rules, sessions, mappings.
//! * [`rule`]: what the configuration says.
//! * [`pool`]: outside addresses and their ports.
//! * [`ports`]: the ports of one address: taken at random in constant time, at rest for a while after use.
#![forbid(unsafe_code)]

pub mod function;
pub mod pool;
pub mod ports;
pub mod rule;
pub mod shared;

pub use function::Nat;
pub use pool::{Pool, PoolConfig, PoolUse, Pooling};
pub use ports::{Parity, Ports};
pub use shared::{Options, Rules, Shared};
