//! The firewall: which packets may pass?
//!
//! * [`rule`]: what is configured: conditions, endings, groups; and [`Fields`], what of a packet they are compared with.
//! * [`set`]: sets of addresses and of 16-bit numbers, shared by rules, with look-ups whose cost hardly grows.
//! * [`classify`]: rules → [`RuleSet`], which finds the first rule that matches.
//! * [`analyse`](mod@analyse): what is odd about rules, for those who check a configuration.
//! * [`reference`](mod@reference): the same, slow and plain: what the fast one is compared with.
#![forbid(unsafe_code)]

pub mod analyse;
pub mod classify;
pub mod reference;
pub mod rule;
pub mod set;

pub use analyse::{Finding, Place, analyse};
pub use classify::{Classified, CompileError, Match, RuleIndex, RuleSet};
pub use rule::{
    Actions, AddressMatch, Ending, Family, Fields, FragmentMatch, Fragmentation, Group, GroupId, IcmpMatch,
    LimitId, Matches, PacketFields, PortMatch, RejectWith, Rule, State, States, TcpFlags,
};
pub use set::{AddressRange, AddressSet, NumberSet, SetError};
