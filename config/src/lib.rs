//! The configuration of Throughway: YAML → raw → checked.
//!
//! * [`Config`] is the checked form and the only one that leaves this crate. [`Config::load`] and [`Config::parse`] are the
//!   door: what they return has been checked whole, what they refuse they explain with places in the file.
//! * `raw` mirrors the shape of the file; `checked` gives it meaning, a file for each section in both.
//! * [`value`] has the scalars as people write them.
//! * [`error`] has what is said of a file, and how it is printed.
//! * [`Change`] tells two configurations apart, for a reload.
//! * [`schema`] is the JSON Schema for editors, made of the raw form.
//!
//! This crate knows no network function: it says what was asked for, not how it is done.
#![forbid(unsafe_code)]

mod change;
mod checked;
pub mod error;
mod load;
mod raw;
mod schema;
mod suggest;
pub mod value;

pub use change::Change;
pub use checked::{
    Addresses, Affinity, Api, AtProgram, AtStop, Backend, BalancerSource, CORES, Chain, Checksum, Config,
    DefaultVerdict, Dependence, DestinationNat, EarlyAt, FailMode, Family, FastPath, FastTable, Firewall,
    Forwarding, Function, FunctionId, FunctionKind, Group, GroupId, Health, Interface, InterfaceId,
    LoadBalancer, MarkRule, Marker, Match, Metrics, MidStream, Mss, Nat, Poll, PortBlocks, PortPolicy, Ports,
    Probe, Refuse, RejectWith, Route, Router, Rule, RuleAction, Service, Set, SetContent, SetId, Several,
    SourceNat, SourceTarget, State, TableId, Target, TcpFlag, TcpFlags, Timeouts, Track, Trust, Urpf, Verify,
    Vlan, VlanProtocol, WhenAllDown, Workers, XdpMode, ZeroCopy,
};
pub use error::{Errors, Problem, Severity, Span, Warning};
pub use schema::schema;
