//! NAT.
//!
//! * [`ports`]: the ports of one address: taken at random in constant time, at rest for a while after use.
#![forbid(unsafe_code)]

pub mod ports;

pub use ports::{Parity, Ports};
