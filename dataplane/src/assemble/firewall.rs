//! A firewall's rules, limits and options, from the configuration.

use std::sync::Arc;

use throughway_config::value::{
    AddressRange as ConfiguredRange, Per as ConfiguredPer, PerSide, Rate, RateUnit,
};
use throughway_config::{
    Addresses, DefaultVerdict, Family, MidStream, Ports, RejectWith as Answer, RuleAction, SetContent,
    Several, State as ConfiguredState,
};
use throughway_firewall::{
    Actions, AddressMatch, AddressRange, AddressSet, DefaultAction, Ending, FragmentMatch, Group, GroupId,
    IcmpMatch, LimitConfig, LimitId, LogConfig, Matches, Measure, NumberSet, Options, Origin, Per,
    PolicyConfig, PortMatch, RejectWith, Rule, State, States, TcpFlags, Timeouts, Unit,
};
use throughway_session::{Seed, WhenFull};
use throughway_vnf::IcmpError;

use super::timeouts;

/// Sources or destinations that one limit keeps account of.
const LIMITED: u32 = 65_536;

/// Log entries a rule may write in a second, and at once.
const LOGGED: (u32, u32) = (10, 20);

/// What is fixed for the life of the firewall's tables.
pub fn options(config: &throughway_config::Firewall, seed: Seed) -> Options {
    let track = &config.track;
    let configured = &track.timeouts;
    let mut options = Options::new(seed);
    options.sessions = track.sessions;
    options.half_open = track.half_open.unwrap_or(track.sessions / 8).max(1);
    options.when_full = WhenFull::EvictHalfOpen;
    options.per_source = track.sessions_per_source;
    options.pickup = track.mid_stream == MidStream::PickUp;
    options.check_windows = track.sequence_check;
    options.timeouts = Timeouts {
        tcp: timeouts::tcp(configured),
        udp: configured.udp,
        udp_stream: configured.udp_stream,
        icmp: configured.icmp,
        other: configured.other,
        ..options.timeouts
    };
    options
}

/// More rules with a limit, or with a log, than can be numbered.
#[derive(Debug, thiserror::Error)]
#[error("more than 65536 rules have {0}")]
pub struct TooMany(&'static str);

/// The rules. They are numbered from 0 as the file lists them: the rules, then those of each group.
///
/// # Errors
/// [`TooMany`].
pub fn policy(config: &throughway_config::Firewall) -> Result<PolicyConfig, TooMany> {
    let mut builder = Builder {
        sets: config.sets.iter().map(set).collect(),
        groups: vec![Group::default(); config.groups.len()],
        ..Builder::default()
    };
    let rules = builder.rules(&config.rules, "");
    for (index, group) in config.groups.iter().enumerate() {
        let rules = builder.rules(&group.rules, &group.name);
        if let Some(slot) = builder.groups.get_mut(index) {
            *slot = Group { name: group.name.to_string(), rules };
        }
    }
    // Numbers of limits, logs and groups have 16 bits.
    let most = usize::from(u16::MAX) + 1;
    let counts = [
        ("a limit", builder.limits.len()),
        ("a log", builder.logs.len()),
        ("both `rate` and `connections`", builder.groups.len()),
    ];
    if let Some((what, _)) = counts.into_iter().find(|(_, count)| *count > most) {
        return Err(TooMany(what));
    }
    Ok(PolicyConfig {
        rules,
        groups: builder.groups,
        limits: builder.limits,
        logs: builder.logs,
        default: match config.default {
            DefaultVerdict::Allow => DefaultAction::Allow,
            DefaultVerdict::Drop => DefaultAction::Drop,
            DefaultVerdict::Reject => DefaultAction::Reject(RejectWith::Auto),
        },
        names: builder.names,
        origins: builder.origins,
    })
}

/// A set, once for all rules that name it.
enum Set {
    Addresses(Arc<AddressSet>),
    Ports(Arc<NumberSet>),
}

fn set(set: &throughway_config::Set) -> Set {
    match &set.content {
        SetContent::Addresses(_) => {
            Set::Addresses(Arc::new(AddressSet::new(set.addresses().iter().filter_map(range))))
        }
        SetContent::Ports(_) => {
            let ports = set.ports().iter().map(|ports| ports.first()..=ports.last());
            Set::Ports(Arc::new(NumberSet::new(ports)))
        }
    }
}

/// Both are checked ranges of one family.
fn range(range: &ConfiguredRange) -> Option<AddressRange> {
    AddressRange::new(range.first(), range.last()).ok()
}

#[derive(Default)]
struct Builder {
    sets: Vec<Set>,
    /// Those of the file, by their number, then those that rules with two limits need.
    groups: Vec<Group>,
    limits: Vec<LimitConfig>,
    logs: Vec<LogConfig>,
    names: Vec<(u32, String)>,
    origins: Vec<(u32, Origin)>,
}

impl Builder {
    fn rules(&mut self, rules: &[throughway_config::Rule], group: &str) -> Vec<Rule> {
        rules.iter().enumerate().flat_map(|(number, rule)| self.rule(rule, group, number)).collect()
    }

    /// The rules that one of the file becomes, which share its number: one for each range of lengths, or none if there is no
    /// such length. A rule with a rate and a limit on connections leads, within its rate, to a group of one rule, that has the
    /// other limit.
    fn rule(&mut self, rule: &throughway_config::Rule, group: &str, number: usize) -> Vec<Rule> {
        let id = self.names.len() as u32;
        let name = match &rule.name {
            Some(name) => name.to_string(),
            // Rules without a name are known by their place among the others.
            None if group.is_empty() => format!("rule {}", number + 1),
            None => format!("{group} {}", number + 1),
        };
        self.names.push((id, name.clone()));
        self.origins.push((id, Origin { line: rule.place.line, column: rule.place.column }));
        let log = rule.log.then(|| {
            let (per_second, burst) = LOGGED;
            self.logs.push(LogConfig { label: name.clone(), per_second, burst });
            (self.logs.len() - 1) as u16
        });
        let rate = rule.rate.as_ref().map(|rate| self.limit(&name, rate.over(), measure(rate), rate.per()));
        let connections = rule.connections.as_ref().map(|ceiling| {
            let measure = Measure::Connections { most: ceiling.count() };
            self.limit(&name, ceiling.over(), measure, ceiling.per())
        });
        let ending = match rule.action {
            RuleAction::Allow => Ending::Allow,
            RuleAction::Drop => Ending::Drop,
            RuleAction::Reject(answer) => Ending::Reject(reject(answer)),
            RuleAction::Count => Ending::Continue,
            RuleAction::Jump(group) => Ending::Jump(GroupId(group.0)),
        };
        let mut actions = Actions { ending, count: true, log, limit: connections.or(rate), mark: rule.mark };
        if let (Some(rate), Some(_)) = (rate, connections) {
            self.groups.push(Group {
                name: name.clone(),
                rules: vec![Rule { id, matches: Matches::default(), actions }],
            });
            let group = GroupId((self.groups.len() - 1) as u16);
            actions = Actions { ending: Ending::Jump(group), limit: Some(rate), ..Actions::default() };
        }
        let matches = self.matches(&rule.matches);
        match numbers(&rule.matches.length, |length| length.first()..=length.last()) {
            None => vec![Rule { id, matches, actions }],
            Some(lengths) => lengths
                .ranges()
                .map(|length| {
                    let matches = Matches { length: Some(length), ..matches.clone() };
                    Rule { id, matches, actions }
                })
                .collect(),
        }
    }

    fn limit(&mut self, name: &str, over: bool, measure: Measure, of: Option<ConfiguredPer>) -> LimitId {
        let limit = LimitConfig { name: name.to_owned(), measure, over, per: per(of), capacity: LIMITED };
        self.limits.push(limit);
        LimitId((self.limits.len() - 1) as u16)
    }

    fn matches(&self, of: &throughway_config::Match) -> Matches {
        Matches {
            family: of.family.map(|family| match family {
                Family::Ipv4 => throughway_firewall::Family::Ipv4,
                Family::Ipv6 => throughway_firewall::Family::Ipv6,
            }),
            ingress: numbers(&of.from, |interface| interface.index() as u16..=interface.index() as u16),
            egress: numbers(&of.to, |interface| interface.index() as u16..=interface.index() as u16),
            vlans: numbers(&of.vlan, |vlan| vlan.first()..=vlan.last()),
            source: of.source.as_ref().map(|source| self.addresses(source)),
            destination: of.destination.as_ref().map(|destination| self.addresses(destination)),
            protocols: of.protocol.as_ref().map(protocols).unwrap_or_default(),
            source_ports: of.from_port.as_ref().map(|ports| self.ports(ports)),
            destination_ports: of.to_port.as_ref().map(|ports| self.ports(ports)),
            tcp_flags: of
                .tcp_flags
                .iter()
                .map(|flags| TcpFlags { mask: flags.set | flags.clear, value: flags.set })
                .collect(),
            icmp: messages(of),
            dscp: of.dscp.as_ref().map(|dscp| {
                let bits = dscp.any_of.iter().fold(0u64, |bits, dscp| bits | 1 << dscp.get());
                if dscp.not { !bits } else { bits }
            }),
            length: None,
            fragment: of.fragment.map(|is| if is { FragmentMatch::Fragment } else { FragmentMatch::Whole }),
            states: of.state.as_ref().map(states),
        }
    }

    fn addresses(&self, of: &Several<Addresses>) -> AddressMatch {
        let mut matches = AddressMatch { negated: of.not, ..AddressMatch::default() };
        for addresses in &of.any_of {
            match addresses {
                Addresses::Range(addresses) => matches.ranges.extend(range(addresses)),
                Addresses::Set(id) => {
                    if let Some(Set::Addresses(set)) = self.sets.get(id.index()) {
                        matches.sets.push(Arc::clone(set));
                    }
                }
            }
        }
        matches
    }

    fn ports(&self, of: &Several<Ports>) -> PortMatch {
        let mut matches = PortMatch { negated: of.not, ..PortMatch::default() };
        for ports in &of.any_of {
            match ports {
                Ports::Range(ports) => matches.ranges.push(ports.first()..=ports.last()),
                Ports::Set(id) => {
                    if let Some(Set::Ports(set)) = self.sets.get(id.index()) {
                        matches.sets.push(Arc::clone(set));
                    }
                }
            }
        }
        matches
    }
}

fn measure(rate: &Rate) -> Measure {
    let unit = match rate.unit() {
        RateUnit::Packets => Unit::Packets,
        RateUnit::Bytes => Unit::Bytes,
        RateUnit::Connections => Unit::Connections,
    };
    // At most a day.
    let seconds = rate.interval().as_secs() as u32;
    Measure::Rate { unit, amount: rate.amount(), seconds, burst: rate.burst() }
}

/// Numbers that one condition names, or all others.
fn numbers<T>(
    of: &Option<Several<T>>,
    range: impl Fn(&T) -> std::ops::RangeInclusive<u16>,
) -> Option<NumberSet> {
    let of = of.as_ref()?;
    let named = NumberSet::new(of.any_of.iter().map(range));
    if !of.not {
        return Some(named);
    }
    let mut gaps = Vec::new();
    let mut next = Some(0u16);
    for range in named.ranges() {
        if let Some(first) = next.filter(|first| first < range.start()) {
            gaps.push(first..=range.start() - 1);
        }
        next = range.end().checked_add(1);
    }
    gaps.extend(next.map(|first| first..=u16::MAX));
    Some(NumberSet::new(gaps))
}

fn protocols(of: &Several<throughway_config::value::Protocol>) -> Vec<u8> {
    let named: Vec<u8> = of.any_of.iter().map(|protocol| protocol.get()).collect();
    if of.not { (0..=u8::MAX).filter(|number| !named.contains(number)).collect() } else { named }
}

fn messages(of: &throughway_config::Match) -> Vec<IcmpMatch> {
    let v4 = of.icmp.iter().map(|message| (message.kind(), message.code()));
    let v6 = of.icmpv6.iter().map(|message| (message.kind(), message.code()));
    let v4 = v4.map(|(kind, code)| IcmpMatch { family: throughway_firewall::Family::Ipv4, kind, code });
    v4.chain(v6.map(|(kind, code)| IcmpMatch { family: throughway_firewall::Family::Ipv6, kind, code }))
        .collect()
}

fn states(of: &Several<ConfiguredState>) -> States {
    let all = [
        (ConfiguredState::New, State::New),
        (ConfiguredState::Established, State::Established),
        (ConfiguredState::Related, State::Related),
        (ConfiguredState::Invalid, State::Invalid),
    ];
    let chosen = all.iter().filter(|(configured, _)| of.any_of.contains(configured) != of.not);
    States::of(&chosen.map(|(_, state)| *state).collect::<Vec<_>>())
}

fn reject(answer: Answer) -> RejectWith {
    match answer {
        Answer::Auto => RejectWith::Auto,
        Answer::TcpReset => RejectWith::TcpReset,
        Answer::PortUnreachable => RejectWith::Icmp(IcmpError::PortUnreachable),
        Answer::AdminProhibited => RejectWith::Icmp(IcmpError::AdminProhibited),
        Answer::HostUnreachable => RejectWith::Icmp(IcmpError::HostUnreachable),
        Answer::NetUnreachable => RejectWith::Icmp(IcmpError::NetUnreachable),
    }
}

fn per(of: Option<ConfiguredPer>) -> Per {
    match of {
        None => Per::All,
        Some(ConfiguredPer { side: PerSide::Source, ipv4, ipv6 }) => Per::Source { ipv4, ipv6 },
        Some(ConfiguredPer { side: PerSide::Destination, ipv4, ipv6 }) => Per::Destination { ipv4, ipv6 },
    }
}
