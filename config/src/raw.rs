//! The file as written: a mirror of its shape, with the place of everything in it.
//!
//! What is decided here is only the shape: which keys there are, what is a map and what a list. Scalars stay text
//! ([`Written`]) until `checked` reads them, so that all that is wrong with them is reported at once. The doc comments of
//! the structs are the descriptions that editors show: they go into the JSON Schema.

use schemars::JsonSchema;
use serde::Deserialize;

mod balancer;
mod chains;
mod firewall;
mod functions;
mod given;
mod interfaces;
mod marker;
mod matches;
mod nat;
mod router;
mod services;
mod sets;
mod shape;
mod stop;
mod workers;

pub(crate) use balancer::{Backend, Health, LoadBalancer, Service};
pub(crate) use chains::Chain;
pub(crate) use firewall::{Firewall, Rule, Timeouts, Track};
pub(crate) use functions::{Function, Kind};
pub(crate) use given::{Given, Several};
pub(crate) use interfaces::{Interface, Neighbour};
pub(crate) use marker::{MarkRule, Marker};
pub(crate) use matches::{Match, NatMatch, TcpFlags};
pub(crate) use nat::{DestinationRule, Nat, SourceRule};
pub(crate) use router::{Route, Router};
pub(crate) use services::{Api, MetricsSwitch};
pub(crate) use sets::{Set, SetSource};
pub(crate) use shape::{At, Entries, Entry, OneOrMany, ReadOr, Written};
pub(crate) use stop::AtStop;
pub(crate) use workers::{FastTable, Workers};

/// The configuration of Throughway.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[schemars(title = "Throughway configuration")]
pub(crate) struct Raw {
    /// The network devices of which packets are taken, by name.
    pub(crate) interfaces: Entries<Interface>,
    /// The worker threads.
    pub(crate) workers: Option<Workers>,
    /// The flows that the XDP program forwards by itself.
    pub(crate) fast_path: Option<FastTable>,
    /// What an orderly stop leaves behind.
    pub(crate) at_stop: Option<AtStop>,
    /// The network functions, by name. A function may stand in several chains; its state is shared between them.
    pub(crate) functions: Entries<Function>,
    /// Which functions packets walk, by the interface they come from.
    pub(crate) chains: Entries<Chain>,
    /// Metrics for Prometheus.
    pub(crate) metrics: Option<At<MetricsSwitch>>,
    /// The socket that the `throughway` command speaks to.
    pub(crate) api: Option<Api>,
}

impl Raw {
    /// The sections that must be there.
    pub(crate) const SECTIONS: &'static [&'static str] = &["interfaces", "functions", "chains"];
}
