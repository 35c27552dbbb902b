//! A NAT's rules and pools, from the configuration and, where it masquerades, the host's addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use throughway_config::value::{AddressRange, Forward};
use throughway_config::{Addresses, Dependence, PortPolicy, Ports, Refuse, Several, SourceTarget as Target};
use throughway_kernel::OwnedPort;
use throughway_nat::blocks::BlockConfig;
use throughway_nat::pool::addresses_of;
use throughway_nat::rule::{DestinationRule, Filtering, Mapping, Match, SourceRule, SourceTarget};
use throughway_nat::{HostRate, Options, Pool, PoolConfig, Rules, Shared};
use throughway_packet::PortId;
use throughway_packet::parse::{TCP, UDP};
use throughway_session::connection::Timeouts;
use throughway_vnf::{IcmpError, Prefix, Snapshot};

use super::timeouts;
use crate::clock;
use crate::host::HostFacts;

/// A share of one in so many ports is left to hosts inside at least.
const LEAST: usize = 4;

/// A NAT as it is configured, with its sessions.
#[derive(Clone, Debug)]
pub struct NatSpec {
    /// Its configuration.
    pub config: throughway_config::Nat,
    /// Its sessions and mappings.
    pub shared: Arc<Shared>,
    /// The rules that this configuration makes of the host's addresses.
    pub rules: Snapshot<Rules>,
    /// What of the host it was made for.
    host: Arc<Mutex<Masquerading>>,
}

/// What a NAT that masquerades needs to know of the host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Masquerading {
    /// The addresses that it masquerades as.
    addresses: Vec<IpAddr>,
    /// The ports that the kernel gives to its own sockets.
    ephemeral: Option<(u16, u16)>,
}

/// A pool, and where the configuration has it.
#[derive(Clone, Debug)]
pub struct NamedPool {
    /// The rule, such as `source 1`, as `show sessions` counts them.
    pub rule: String,
    /// Its addresses as the configuration says, or the interface that is masqueraded as.
    pub name: String,
    /// The pool.
    pub pool: Arc<Pool>,
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
        let host = Arc::new(Mutex::new(masquerading(config, facts)));
        NatSpec { config: config.clone(), shared, rules, host }
    }

    /// The host's addresses have changed: says whether that made other rules. Sessions on an address that is lost end.
    pub fn host_changed(&self, facts: &HostFacts) -> bool {
        let now = masquerading(&self.config, facts);
        let mut known = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == now {
            return false;
        }
        let before = self.rules.read_owned();
        let made = rules(&self.config, facts, &self.shared, &before.pools);
        self.shared.retire(&before.pools, &made.pools);
        self.rules.publish(made);
        let lost = known.addresses.iter().filter(|address| !now.addresses.contains(address));
        let lost: Vec<IpAddr> = lost.copied().collect();
        for address in &lost {
            self.shared.lose(*address);
        }
        *known = now;
        if !lost.is_empty() && !self.shared.is_empty() {
            self.end_lost(lost);
        }
        true
    }

    /// Ends the sessions on addresses that are lost, on a thread of its own: there may be millions. Until then no new session
    /// joins them, so it does not matter when.
    fn end_lost(&self, lost: Vec<IpAddr>) {
        let shared = Arc::clone(&self.shared);
        let end = move || lost.iter().map(|address| shared.end_lost(*address, clock::now)).sum::<usize>();
        let told =
            |ended: usize| tracing::info!(sessions = ended, "the address they were translated to is gone");
        let spawned = std::thread::Builder::new().name("nat-lost".to_owned()).spawn(move || told(end()));
        if let Err(error) = spawned {
            tracing::error!(%error, "sessions on lost addresses end by their timeouts");
        }
    }

    /// This comes after `before`: what that had and this has not any more is given up.
    pub(super) fn succeeds(&self, before: Option<&NatSpec>) {
        let Some(before) = before else { return };
        let pools = before.rules.read_owned();
        self.shared.retire(&pools.pools, &self.rules.read_owned().pools);
    }

    /// Whether it masquerades as addresses of the host.
    pub fn masquerades(&self) -> bool {
        !self.host.lock().unwrap_or_else(PoisonError::into_inner).addresses.is_empty()
    }

    /// Ports that sockets of the host have: hosts inside get others.
    pub fn leave_to_host(&self, owned: &BTreeSet<OwnedPort>) {
        let known = self.host.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for address in known.addresses {
            for protocol in [TCP, UDP] {
                let of = |port: &&OwnedPort| {
                    port.protocol == protocol && port.address.is_none_or(|bound| bound == address)
                };
                let ports = owned.iter().filter(of).map(|owned| owned.port).collect();
                self.shared.addresses().exclude(address, protocol, &ports);
            }
        }
    }

    /// Its pools, by the rules that have them. `interfaces` are the names of the ports.
    pub fn pools(&self, interfaces: &[String]) -> Vec<NamedPool> {
        let rules = self.rules.read_owned();
        let mut named = Vec::new();
        let mut add = |rule: String, name: String, index: usize| {
            if let Some(pool) = rules.pools.get(index) {
                named.push(NamedPool { rule, name, pool: Arc::clone(pool) });
            }
        };
        for (number, (made, rule)) in rules.source.iter().zip(&self.config.source).enumerate() {
            let name = format!("source {}", number + 1);
            match (&made.target, &rule.target) {
                (SourceTarget::Pool(index), Target::Pool(ranges, _)) => {
                    let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
                    add(name, ranges.join(" "), *index);
                }
                (SourceTarget::Masquerade(pools), _) => {
                    for (port, index) in pools {
                        let interface = interfaces.get(usize::from(port.0)).cloned();
                        add(name.clone(), interface.unwrap_or_default(), *index);
                    }
                }
                _ => {}
            }
        }
        for (number, (made, rule)) in rules.destination.iter().zip(&self.config.destination).enumerate() {
            if let (Some(index), Some(address)) = (made.twice, rule.twice) {
                add(format!("destination {}", number + 1), address.to_string(), index);
            }
        }
        named
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

fn masquerading(config: &throughway_config::Nat, facts: &HostFacts) -> Masquerading {
    if !config.source.iter().any(|rule| matches!(rule.target, Target::Masquerade(_))) {
        return Masquerading::default();
    }
    let addresses = config.outside.iter().flat_map(|port| addresses_of_port(facts, port.index())).collect();
    Masquerading { addresses, ephemeral: facts.ephemeral_ports }
}

/// The ports that are left to the host of those that a rule has for masquerading: what the kernel gives to its own sockets. Nothing,
/// if the rule says which ports it wants, or if too few were left.
fn left_to_host(policy: &PortPolicy, facts: &HostFacts) -> Option<RangeInclusive<u16>> {
    let (first, last) = facts.ephemeral_ports.filter(|_| !policy.ports_given)?;
    let wanted = policy.ports.first()..=policy.ports.last();
    let left = first.max(*wanted.start())..=last.min(*wanted.end());
    if (wanted.len() - left.len()) * LEAST < wanted.len() {
        tracing::warn!(
            "net.ipv4.ip_local_port_range ({first} {last}) leaves hosts inside hardly a port: masquerading uses these ports, too, and may \
             take one that a socket of this host gets later; a smaller range, or `ports` in the rule, settles it"
        );
        return None;
    }
    (!left.is_empty()).then_some(left)
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
    rules.refuse = match config.refuse {
        Refuse::Drop => None,
        Refuse::HostUnreachable => Some(IcmpError::HostUnreachable),
        Refuse::AdminProhibited => Some(IcmpError::AdminProhibited),
    };
    rules.rate_per_host =
        config.rate_per_host.map(|rate| HostRate::new(rate.amount(), rate.interval(), rate.burst()));
    if rules.rate_per_host.is_some() {
        shared.limit_rates();
    }
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
                    let mut made = pool_config(addresses, policy, &matches, true);
                    made.left_to_host = left_to_host(policy, facts);
                    (*port, pool(&mut rules, made))
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
