//! The marker: which class of service does this packet belong to?
//!
//! Sets the DSCP (RFC 2474) of packets by the first rule that matches; the others keep theirs. It is also the example of
//! `docs/write-a-function.md`, which quotes these files.
//!
//! * [`rules`]: what is configured: checked when it is made, immutable afterwards.
//! * [`process`]: the function.
#![forbid(unsafe_code)]

pub mod process;
pub mod rules;

pub use process::Marker;
pub use rules::{Dscp, Family, Rule, RuleError, Rules};
