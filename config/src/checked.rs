//! What the file means: the only form in which the rest of the program sees a configuration.
//!
//! Everything here has been checked: names exist, values are in range, prefixes have no host bits. The types cannot be
//! built outside this crate; the door is [`Config::load`] and [`Config::parse`].
//!
//! Each section has its file, which holds its checked types and how they are made of the raw ones.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::{Report, Span};
use crate::raw::{At, Entries, Entry, OneOrMany, Raw, ReadOr, Written};
use crate::suggest;
use crate::value::{Misread, Name};

mod balancer;
mod chains;
mod firewall;
mod forward;
mod functions;
mod health;
mod interfaces;
mod marker;
mod matches;
mod nat;
mod router;
mod services;
mod sets;
mod shadow;
mod stop;
mod track;
mod vlan;
mod workers;

pub use balancer::{Affinity, Backend, BalancerSource, Forwarding, LoadBalancer, Service, WhenAllDown};
pub use chains::Chain;
pub use firewall::{DefaultVerdict, Firewall, Group, GroupId, RejectWith, Rule, RuleAction};
pub use forward::DestinationNat;
pub use functions::{Function, FunctionKind};
pub use health::{Health, Probe, Trust, Verify};
pub use interfaces::{Checksum, FailMode, FastPath, Interface, XdpMode, ZeroCopy};
pub use marker::{Family, MarkRule, Marker};
pub use matches::{Addresses, Match, Ports, Several, State, TcpFlag, TcpFlags};
pub use nat::{Dependence, Nat, PortBlocks, PortPolicy, Refuse, SourceNat, SourceTarget};
pub use router::{Mss, Route, Router, TableId, Target, Urpf};
pub(crate) use services::SocketPath;
pub use services::{Api, Metrics};
pub use sets::{EarlyAt, Set, SetContent, SetId};
pub use stop::{AtProgram, AtStop};
pub use track::{MidStream, Timeouts, Track};
pub use vlan::{Vlan, VlanProtocol};
pub use workers::{CORES, FastTable, Poll, Workers};
pub(crate) use workers::{CoreRange, FrameCount, MOST_FAST_FLOWS, MOST_FLOWS};

/// A whole configuration. Lists are in the order of the file.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Config {
    /// The interfaces, at least one; an [`InterfaceId`] is an index into this list.
    pub interfaces: Vec<Interface>,
    /// The worker threads.
    pub workers: Workers,
    /// What the XDP program may hold of flows.
    pub fast_path: FastTable,
    /// What an orderly stop leaves behind.
    pub at_stop: AtStop,
    /// The functions; a [`FunctionId`] is an index into this list.
    pub functions: Vec<Function>,
    /// The chains, at least one. No interface starts more than one of them.
    pub chains: Vec<Chain>,
    /// Where metrics are served; `None` if turned off.
    pub metrics: Option<Metrics>,
    /// Where the service is spoken to.
    pub api: Api,
    folder: PathBuf,
}

/// An interface of the configuration: its index in [`Config::interfaces`], which is also the number of its port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InterfaceId(pub u16);

/// A function of the configuration: its index in [`Config::functions`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FunctionId(pub u16);

impl InterfaceId {
    /// The index as a `usize`.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl FunctionId {
    /// The index as a `usize`.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl Config {
    /// The interface of that number. Numbers found in a configuration are valid in that configuration only.
    pub fn interface(&self, id: InterfaceId) -> &Interface {
        &self.interfaces[id.index()]
    }

    /// The function of that number. Numbers found in a configuration are valid in that configuration only.
    pub fn function(&self, id: FunctionId) -> &Function {
        &self.functions[id.index()]
    }

    /// The number of the interface called `name`.
    pub fn interface_named(&self, name: &str) -> Option<InterfaceId> {
        (0u16..)
            .zip(&self.interfaces)
            .find(|(_, interface)| *interface.name == *name)
            .map(|(index, _)| InterfaceId(index))
    }

    /// The number of the function called `name`.
    pub fn function_named(&self, name: &str) -> Option<FunctionId> {
        (0u16..)
            .zip(&self.functions)
            .find(|(_, function)| *function.name == *name)
            .map(|(index, _)| FunctionId(index))
    }

    /// The chain that packets from `interface` walk.
    pub fn chain_from(&self, interface: InterfaceId) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.from.contains(&interface))
    }

    /// Where a path written in the file leads: relative ones start at the folder of the configuration file.
    pub fn resolve(&self, path: impl AsRef<Path>) -> PathBuf {
        self.folder.join(path)
    }

    /// Checks the sections one after the other; `None` after an error, which is then in `report`.
    pub(crate) fn check(raw: &Raw, folder: PathBuf, report: &mut Report<'_>) -> Option<Self> {
        let interfaces = interfaces::check(&raw.interfaces, report);
        let workers = Workers::check(raw.workers.as_ref(), report);
        if let (Some(interfaces), Some(workers)) = (&interfaces, &workers) {
            interfaces::check_queues(interfaces, &raw.interfaces, workers.cores.len(), report);
        }
        let fast_path = FastTable::check(raw.fast_path.as_ref(), report);
        let at_stop = AtStop::check(raw.at_stop.as_ref(), report);
        let known = Known { interfaces: &raw.interfaces, functions: &raw.functions, folder: &folder };
        let functions = functions::check(&raw.functions, &known, report);
        let chains = chains::check(&raw.chains, &known, report);
        let metrics = Metrics::check(raw.metrics.as_ref(), report);
        let api = Api::check(raw.api.as_ref(), &folder, report);
        Some(Config {
            interfaces: interfaces?,
            workers: workers?,
            fast_path: fast_path?,
            at_stop: at_stop?,
            functions: functions?,
            chains: chains?,
            metrics: metrics?,
            api: api?,
            folder,
        })
    }
}

/// The names that sections may refer to, whether or not what they name is right.
pub(crate) struct Known<'a> {
    pub(crate) interfaces: &'a Entries<crate::raw::Interface>,
    pub(crate) functions: &'a Entries<crate::raw::Function>,
    /// Where relative paths start.
    pub(crate) folder: &'a Path,
}

impl Known<'_> {
    /// The interface called `name`; reports it if there is none.
    fn interface(&self, name: &Written<Name>, report: &mut Report<'_>) -> Option<InterfaceId> {
        find(self.interfaces, name, "interface", report).map(InterfaceId)
    }

    /// The function called `name`; reports it if there is none.
    fn function(&self, name: &Written<Name>, report: &mut Report<'_>) -> Option<FunctionId> {
        find(self.functions, name, "function", report).map(FunctionId)
    }
}

fn find<T>(entries: &Entries<T>, name: &Written<Name>, what: &str, report: &mut Report<'_>) -> Option<u16> {
    let found = entries.position(&name.text);
    // An empty map was reported as such.
    if found.is_none() && !entries.list.is_empty() {
        let names: Vec<&str> = entries.names().collect();
        report.error(name.span, Misread::unknown(what, &name.text, &names));
    }
    found
}
