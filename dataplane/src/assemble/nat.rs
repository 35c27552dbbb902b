//! A NAT's rules and pools, from the configuration and, where it masquerades, the host's addresses.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use throughway_config::value::{AddressRange, Forward};
use throughway_config::{Addresses, Dependence, PortPolicy, Ports, Several, SourceTarget as Target};
use throughway_nat::blocks::BlockConfig;
use throughway_nat::pool::addresses_of;
use throughway_nat::rule::{DestinationRule, Filtering, Mapping, Match, SourceRule, SourceTarget};
use throughway_nat::{Options, Pool, PoolConfig, Rules, Shared};
use throughway_packet::PortId;
use throughway_session::connection::Timeouts;
use throughway_vnf::{Prefix, Snapshot};

use super::timeouts;
use crate::host::HostFacts;

/// A NAT as it is configured, with its sessions.
#[derive(Clone, Debug)]
pub struct NatSpec {
    /// Its configuration.
    pub config: throughway_config::Nat,
    /// Its sessions and mappings.
    pub shared: Arc<Shared>,
    /// The rules that this configuration makes of the host's addresses.
    pub rules: Snapshot<Rules>,
    /// The addresses that it masquerades as.
    masquerading: Arc<Mutex<Vec<IpAddr>>>,
}

impl NatSpec {
    /// Rules for the host as it is. Pools of `before` that stay the same keep their blocks.
    pub fn new(
        config: &throughway_config::Nat,
        facts: &HostFacts,
        shared: Arc<Shared>,
        before: Option<&NatSpec>,
    ) -> NatSpec {
        let pools = before.map(|before| before.rules.read_owned());
        let pools = pools.as_ref().map_or(&[][..], |rules| &rules.pools);
        let rules = Snapshot::new(rules(config, facts, &shared, pools));
        let masquerading = Arc::new(Mutex::new(masquerade_addresses(config, facts)));
        NatSpec { config: config.clone(), shared, rules, masquerading }
    }

    /// The host's addresses have changed: says whether that made other rules. Sessions on an address that is lost end.
    pub fn host_changed(&self, facts: &HostFacts) -> bool {
        let now = masquerade_addresses(&self.config, facts);
        let mut known = self.masquerading.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == now {
            return false;
        }
        let before = self.rules.read_owned();
        self.rules.publish(rules(&self.config, facts, &self.shared, &before.pools));
        for lost in known.iter().filter(|address| !now.contains(address)) {
            self.shared.lose(*lost);
        }
        *known = now;
        true
    }

    /// Whether packets to one of the host's own addresses may be for it: then the kernel gets only what its sockets own.
    pub fn claims(&self, address: IpAddr) -> bool {
        let rules = self.rules.read();
        let published = rules.destination.iter().any(|rule| {
            let destination = &rule.matches.destination;
            !destination.not && destination.any_of.iter().any(|range| range.contains(&address))
        });
        published || rules.pools.iter().any(|pool| pool.owns(address))
    }
}

/// What is fixed for the life of the tables.
pub fn options(config: &throughway_config::Nat, seed: [u64; 2]) -> Options {
    Options::new(config.sessions, seed)
}

fn masquerade_addresses(config: &throughway_config::Nat, facts: &HostFacts) -> Vec<IpAddr> {
    if !config.source.iter().any(|rule| matches!(rule.target, Target::Masquerade(_))) {
        return Vec::new();
    }
    config.outside.iter().flat_map(|port| addresses_of_port(facts, port.index())).collect()
}

/// The addresses of a port that packets may be sent from.
fn addresses_of_port(facts: &HostFacts, port: usize) -> Vec<IpAddr> {
    let addresses = facts.ports.get(port).into_iter().flat_map(|port| &port.addresses);
    let global = addresses.map(|(address, _)| *address).filter(|address| match address {
        IpAddr::V4(address) => !address.is_link_local(),
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    });
    global.collect()
}

fn rules(config: &throughway_config::Nat, facts: &HostFacts, shared: &Shared, before: &[Arc<Pool>]) -> Rules {
    let outside: Vec<PortId> = config.outside.iter().map(|port| PortId(port.index() as u16)).collect();
    let mut rules = Rules::new(outside.clone());
    rules.timeouts = timeouts_of(&config.timeouts);
    rules.udp_stream = config.timeouts.udp_stream;
    rules.hairpin = config.hairpin;
    rules.sessions_per_host = config.sessions_per_host;
    let pool = |rules: &mut Rules, made: PoolConfig| {
        let pool = shared.pool(made, before);
        match rules.pools.iter().position(|known| Arc::ptr_eq(known, &pool)) {
            Some(known) => known,
            None => {
                rules.pools.push(pool);
                rules.pools.len() - 1
            }
        }
    };
    for rule in &config.source {
        let matches = matches(&rule.matches);
        let (target, policy) = match &rule.target {
            Target::Keep => (SourceTarget::Untranslated, None),
            Target::OneToOne(prefix) => (SourceTarget::Prefix(prefix.get()), None),
            Target::Pool(ranges, policy) => {
                let ranges: Vec<_> = ranges.iter().map(range).collect();
                let made = pool_config(addresses_of(&ranges), policy, &matches, false);
                (SourceTarget::Pool(pool(&mut rules, made)), Some(policy))
            }
            Target::Masquerade(policy) => {
                let pools = outside.iter().map(|port| {
                    let addresses = addresses_of_port(facts, port.index());
                    (*port, pool(&mut rules, pool_config(addresses, policy, &matches, true)))
                });
                (SourceTarget::Masquerade(pools.collect()), Some(policy))
            }
        };
        let mut made = SourceRule { matches, ..SourceRule::new(target) };
        if let Some(policy) = policy {
            made.mapping = match policy.mapping {
                Dependence::EndpointIndependent => Mapping::EndpointIndependent,
                Dependence::AddressDependent => Mapping::AddressDependent,
                Dependence::AddressAndPortDependent => Mapping::AddressAndPortDependent,
            };
            made.filtering = match policy.filtering {
                Dependence::EndpointIndependent => Filtering::EndpointIndependent,
                Dependence::AddressDependent => Filtering::AddressDependent,
                Dependence::AddressAndPortDependent => Filtering::AddressAndPortDependent,
            };
            made.preserve_port = policy.preserve_port;
            made.preserve_parity = policy.parity;
        }
        rules.source.push(made);
    }
    for rule in &config.destination {
        let (to, port) = match rule.to {
            Forward::Address(address, ports) => {
                (Prefix::host(address), ports.map(|ports| ports.first()..=ports.last()))
            }
            Forward::Prefix(prefix) => (prefix.get(), None),
        };
        let twice = rule.twice.map(|address| pool(&mut rules, PoolConfig::new(vec![address])));
        rules.destination.push(DestinationRule { matches: matches(&rule.matches), to, port, twice });
    }
    rules
}

fn pool_config(addresses: Vec<IpAddr>, policy: &PortPolicy, matches: &Match, local: bool) -> PoolConfig {
    let mut made = PoolConfig::new(addresses);
    made.ports = policy.ports.first()..=policy.ports.last();
    made.local = local;
    made.blocks = policy.blocks.map(|blocks| BlockConfig {
        size: blocks.size,
        per_host: blocks.per_host,
        hosts: if blocks.deterministic { matches.source.any_of.clone() } else { Vec::new() },
    });
    made
}

fn timeouts_of(configured: &throughway_config::Timeouts) -> Timeouts {
    Timeouts {
        tcp: timeouts::tcp(configured),
        udp: configured.udp,
        icmp: configured.icmp,
        other: configured.other,
    }
}

fn range(range: &AddressRange) -> RangeInclusive<IpAddr> {
    range.first()..=range.last()
}

fn matches(of: &throughway_config::Match) -> Match {
    fn several<T, U>(
        of: &Option<Several<T>>,
        make: impl Fn(&T) -> Option<U>,
    ) -> throughway_nat::rule::Several<U> {
        of.as_ref().map_or_else(throughway_nat::rule::Several::default, |of| throughway_nat::rule::Several {
            not: of.not,
            any_of: of.any_of.iter().filter_map(make).collect(),
        })
    }
    // A NAT's rules have no sets.
    let addresses = |addresses: &Addresses| match addresses {
        Addresses::Range(addresses) => Some(range(addresses)),
        Addresses::Set(_) => None,
    };
    let ports = |ports: &Ports| match ports {
        Ports::Range(ports) => Some(ports.first()..=ports.last()),
        Ports::Set(_) => None,
    };
    Match {
        ingress: several(&of.from, |port| Some(PortId(port.index() as u16))),
        egress: several(&of.to, |port| Some(PortId(port.index() as u16))),
        source: several(&of.source, addresses),
        destination: several(&of.destination, addresses),
        protocols: several(&of.protocol, |protocol| Some(protocol.get())),
        source_ports: several(&of.from_port, ports),
        destination_ports: several(&of.to_port, ports),
    }
}
