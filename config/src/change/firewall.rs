//! Firewalls: their differences, and their rules in words.

use std::fmt::Display;

use super::{Changes, list};
use crate::checked::{
    Addresses, Config, EarlyAt, Firewall, Group, Match, Ports, Rule, RuleAction, Set, SetContent, Several,
    TcpFlag, TcpFlags, Timeouts, Track,
};
use crate::value::Duration;

impl Config {
    /// A rule of `firewall`, which is one of this configuration, as the file may have it, on one line:
    /// `allow: { protocol: tcp, to-port: [80, 443] }, rate: 1000/s per source`.
    pub fn describe(&self, firewall: &Firewall, rule: &Rule) -> String {
        let Rule { name, action, matches, rate, connections, log, mark, place: _ } = rule;
        let mut text = format!("{}: {}", action.word(), describe_match(self, Some(firewall), matches));
        let mut push = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                text += &format!(", {key}: {value}");
            }
        };
        match action {
            RuleAction::Reject(with) => push("with", Some(with.to_string())),
            RuleAction::Jump(group) => push("to", Some(firewall.group(*group).name.to_string())),
            RuleAction::Allow | RuleAction::Drop | RuleAction::Count => {}
        }
        push("rate", rate.map(|rate| rate.to_string()));
        push("connections", connections.map(|connections| connections.to_string()));
        push("log", log.then(|| "true".to_owned()));
        push("mark", mark.map(|mark| mark.to_string()));
        push("name", name.as_ref().map(|name| name.to_string()));
        text
    }
}

/// What is matched, as the file may have it.
pub(super) fn describe_match(config: &Config, firewall: Option<&Firewall>, matches: &Match) -> String {
    let Match {
        from,
        to,
        source,
        destination,
        family,
        protocol,
        from_port,
        to_port,
        tcp_flags,
        icmp,
        icmpv6,
        dscp,
        length,
        fragment,
        vlan,
        state,
    } = matches;
    let set = |index: usize| {
        let set = firewall.and_then(|firewall| firewall.sets.get(index));
        format!("@{}", set.map_or("?", |set| set.name.as_str()))
    };
    let addresses = |addresses: &Addresses| match addresses {
        Addresses::Range(range) => range.to_string(),
        Addresses::Set(id) => set(id.index()),
    };
    let ports = |ports: &Ports| match ports {
        Ports::Range(range) => range.to_string(),
        Ports::Set(id) => set(id.index()),
    };
    let interfaces =
        |interfaces: &Option<Several<_>>| several(interfaces, |id| config.interface(*id).name.to_string());
    // These mean their protocol, which is then not said.
    let special = tcp_flags.is_some() || !icmp.is_empty() || !icmpv6.is_empty();
    let parts = [
        ("from", interfaces(from)),
        ("to", interfaces(to)),
        ("source", several(source, addresses)),
        ("destination", several(destination, addresses)),
        ("family", family.map(|family| family.to_string())),
        ("protocol", several(protocol, ToString::to_string).filter(|_| !special)),
        ("from-port", several(from_port, ports)),
        ("to-port", several(to_port, ports)),
        ("tcp-flags", tcp_flags.map(describe_flags)),
        ("icmp", one_or_many(icmp.iter().map(ToString::to_string).collect())),
        ("icmpv6", one_or_many(icmpv6.iter().map(ToString::to_string).collect())),
        ("dscp", several(dscp, ToString::to_string)),
        ("length", several(length, ToString::to_string)),
        ("fragment", fragment.map(|fragment| fragment.to_string())),
        ("vlan", several(vlan, ToString::to_string)),
        ("state", several(state, ToString::to_string)),
    ];
    let parts: Vec<String> =
        parts.into_iter().filter_map(|(key, value)| Some(format!("{key}: {}", value?))).collect();
    if parts.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", parts.join(", ")) }
}

fn one_or_many(items: Vec<String>) -> Option<String> {
    match items.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        _ => Some(list(items)),
    }
}

fn several<T>(several: &Option<Several<T>>, describe: impl Fn(&T) -> String) -> Option<String> {
    let Several { not, any_of } = several.as_ref()?;
    let items = one_or_many(any_of.iter().map(describe).collect())?;
    Some(if *not { format!("{{ not: {items} }}") } else { items })
}

fn describe_flags(TcpFlags { set, clear }: TcpFlags) -> String {
    let names = |bits: u8| {
        one_or_many(
            TcpFlag::ALL.iter().filter(|flag| bits & flag.bit() != 0).map(ToString::to_string).collect(),
        )
    };
    let parts = [("set", names(set)), ("clear", names(clear))];
    let parts: Vec<String> =
        parts.into_iter().filter_map(|(key, names)| Some(format!("{key}: {}", names?))).collect();
    format!("{{ {} }}", parts.join(", "))
}

/// A limit that may be left out.
pub(super) fn limit<T: Display>(limit: Option<T>) -> String {
    limit.map_or("none".to_owned(), |limit| limit.to_string())
}

pub(super) fn time(duration: std::time::Duration) -> String {
    Duration::from_nanos(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)).to_string()
}

impl Changes {
    pub(super) fn firewall(&mut self, path: &str, old: (&Config, &Firewall), new: (&Config, &Firewall)) {
        let Firewall { default, sets, rules, groups, track } = new.1;
        self.value(format!("{path}.default"), old.1.default, *default);
        let describe = |set: &Set| format!("{} elements", set.len());
        let stayed = self.named(&format!("{path}.sets"), &old.1.sets, sets, |set| &set.name, describe);
        for (was, is) in stayed {
            self.set(&format!("{path}.sets.{}", is.name), (old.0, was), (new.0, is));
        }
        let lines = |(config, firewall): (&Config, &Firewall), rules: &[Rule]| -> Vec<String> {
            rules.iter().map(|rule| config.describe(firewall, rule)).collect()
        };
        self.lines(&format!("{path}.rules"), &lines(old, &old.1.rules), &lines(new, rules), true);
        let describe = |group: &Group| format!("{} rules", group.rules.len());
        let stayed =
            self.named(&format!("{path}.groups"), &old.1.groups, groups, |group| &group.name, describe);
        for (was, is) in stayed {
            let path = format!("{path}.groups.{}", is.name);
            self.lines(&path, &lines(old, &was.rules), &lines(new, &is.rules), true);
        }
        self.track(&format!("{path}.track"), &old.1.track, track);
    }

    fn set(&mut self, path: &str, old: (&Config, &Set), new: (&Config, &Set)) {
        let early = |(config, set): (&Config, &Set)| match &set.early {
            None => "false".to_owned(),
            Some(EarlyAt::Chains) => "true".to_owned(),
            Some(EarlyAt::Interfaces(at)) => list(at.iter().map(|id| config.interface(*id).name.as_str())),
        };
        self.value(format!("{path}.early"), early(old), early(new));
        let (old, Set { name: _, content, file, early: _, place: _ }) = (old.1, new.1);
        let source = |file: &Option<std::path::PathBuf>| {
            file.as_ref().map_or("this file".to_owned(), |file| file.display().to_string())
        };
        self.value(format!("{path}.file"), source(&old.file), source(file));
        let (removed, added) = match (&old.content, content) {
            (SetContent::Addresses(old), SetContent::Addresses(new)) => difference(old, new),
            (SetContent::Ports(old), SetContent::Ports(new)) => difference(old, new),
            (old_content, new_content) if old_content != new_content => (old.len(), new.1.len()),
            _ => (0, 0),
        };
        if (removed, added) != (0, 0) {
            self.push(path, format!("{removed} elements removed, {added} added"));
        }
    }

    fn track(&mut self, path: &str, old: &Track, new: &Track) {
        let Track { sessions, sessions_per_source, half_open, mid_stream, sequence_check, rejudge, timeouts } =
            new;
        self.value(format!("{path}.sessions"), old.sessions, *sessions);
        self.value(
            format!("{path}.sessions-per-source"),
            limit(old.sessions_per_source),
            limit(*sessions_per_source),
        );
        self.value(format!("{path}.half-open"), limit(old.half_open), limit(*half_open));
        self.value(format!("{path}.mid-stream"), old.mid_stream, *mid_stream);
        self.value(format!("{path}.sequence-check"), old.sequence_check, *sequence_check);
        self.value(format!("{path}.rejudge"), old.rejudge, *rejudge);
        self.timeouts(&format!("{path}.timeouts"), &old.timeouts, timeouts);
    }

    pub(super) fn timeouts(&mut self, path: &str, old: &Timeouts, new: &Timeouts) {
        let Timeouts {
            tcp_syn_sent,
            tcp_syn_received,
            tcp_established,
            tcp_fin_wait,
            tcp_close_wait,
            tcp_last_ack,
            tcp_time_wait,
            tcp_close,
            udp,
            udp_stream,
            icmp,
            other,
        } = new;
        for (key, old, new) in [
            ("tcp-syn-sent", old.tcp_syn_sent, tcp_syn_sent),
            ("tcp-syn-received", old.tcp_syn_received, tcp_syn_received),
            ("tcp-established", old.tcp_established, tcp_established),
            ("tcp-fin-wait", old.tcp_fin_wait, tcp_fin_wait),
            ("tcp-close-wait", old.tcp_close_wait, tcp_close_wait),
            ("tcp-last-ack", old.tcp_last_ack, tcp_last_ack),
            ("tcp-time-wait", old.tcp_time_wait, tcp_time_wait),
            ("tcp-close", old.tcp_close, tcp_close),
            ("udp", old.udp, udp),
            ("udp-stream", old.udp_stream, udp_stream),
            ("icmp", old.icmp, icmp),
            ("other", old.other, other),
        ] {
            self.value(format!("{path}.{key}"), time(old), time(*new));
        }
    }
}

/// How many elements are only in `old`, and how many only in `new`.
fn difference<T: Ord + Copy>(old: &[T], new: &[T]) -> (usize, usize) {
    let sorted = |list: &[T]| -> Vec<T> {
        let mut list = list.to_vec();
        list.sort_unstable();
        list.dedup();
        list
    };
    let (old, new) = (sorted(old), sorted(new));
    let common = old.iter().filter(|element| new.binary_search(element).is_ok()).count();
    (old.len() - common, new.len() - common)
}
