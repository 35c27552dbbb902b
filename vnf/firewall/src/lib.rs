//! The firewall: which packets may pass?
//!
//! * [`rule`]: what is configured: conditions, endings, groups; and [`Fields`], what of a packet they are compared with.
//! * [`set`]: sets of addresses and of 16-bit numbers, shared by rules, with look-ups whose cost hardly grows.
//! * [`classify`]: rules → [`RuleSet`], which finds the first rule that matches.
//! * [`analyse`](mod@analyse): what is odd about rules, for those who check a configuration.
//! * [`reference`](mod@reference): the same, slow and plain: what the fast one is compared with.
//! * [`Policy`]: rules with their limits, logs and default, as published to the workers.
//! * [`Shared`]: what the workers share: sessions, limits, datagrams in pieces, the policy.
//! * [`Firewall`]: the function, as one worker holds it; [`explain`]: what it would say of a packet, and why.
//! * [`save`]: sessions over a restart.
//! * [`show`]: sessions and rules, for people.
#![forbid(unsafe_code)]

pub mod analyse;
pub mod classify;
pub mod explain;
pub mod reference;
pub mod rule;
pub mod save;
pub mod set;
pub mod show;

mod ask;
mod counters;
mod embedded;
mod fragments;
mod function;
mod limits;
mod options;
mod policy;
mod session;
mod shared;
mod track;

pub use analyse::{Finding, Place, analyse};
pub use classify::{Classified, CompileError, Match, RuleIndex, RuleSet};
pub use counters::RuleStats;
pub use function::Firewall;
pub use limits::{LimitConfig, LimitStats, Measure, Per, Unit};
pub use options::{Options, SctpTimeouts, Timeouts};
pub use policy::{DefaultAction, LogConfig, Origin, Policy, PolicyConfig, PolicyError};
pub use rule::{
    Actions, AddressMatch, Ending, Family, Fields, FragmentMatch, Fragmentation, Group, GroupId, IcmpMatch,
    LimitId, Matches, PacketFields, PortMatch, RejectWith, Rule, State, States, TcpFlags,
};
pub use save::Sessions;
pub use set::{AddressRange, AddressSet, NumberSet, SetError};
pub use shared::{Overview, Shared};
