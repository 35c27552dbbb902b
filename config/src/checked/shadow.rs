//! What is hardly meant in the rules of a translator.

use super::*;
use crate::raw::SourceRule;
use crate::value::{AddressRange, PortRange};

/// Warns of rules whose packets all go to an earlier one.
pub(super) fn report_shadowed<'a>(
    rules: impl Iterator<Item = (&'a Match, Span)> + Clone,
    report: &mut Report<'_>,
) {
    for (index, (matches, place)) in rules.clone().enumerate() {
        let first = rules.clone().take(index).find(|(earlier, _)| covers(earlier, matches));
        if let Some((_, earlier)) = first {
            let misread = Misread::new("this rule is never reached");
            report
                .warning(place, misread.help(format!("the rule at line {} matches all of it", earlier.line)));
        }
    }
}

/// Warns of pools that share addresses with the pool of an earlier rule.
pub(super) fn report_overlaps(raw: &[At<SourceRule>], rules: &[Option<SourceNat>], report: &mut Report<'_>) {
    let mut seen: Vec<(AddressRange, u32)> = Vec::new();
    for (raw, rule) in raw.iter().zip(rules) {
        let (Some(SourceNat { target: SourceTarget::Pool(pool, _), place, .. }), Some(written)) =
            (rule, raw.value.pool.as_ref())
        else {
            continue;
        };
        for (range, written) in pool.iter().zip(&written.list) {
            if let Some((other, line)) = seen.iter().find(|(other, _)| other.overlaps(range)) {
                let misread = Misread::new(format!("`{range}` overlaps with the pool `{other}`"));
                report.warning(
                    written.span,
                    misread.help(format!("of the rule at line {line}: they compete for ports")),
                );
            }
        }
        seen.extend(pool.iter().map(|range| (*range, place.line)));
    }
}

/// Warns of a limit that a host's ports end before.
pub(super) fn report_unreachable_limit(
    limit: u32,
    place: Span,
    rules: &[Option<SourceNat>],
    report: &mut Report<'_>,
) {
    let ports = rules.iter().flatten().filter_map(|rule| match &rule.target {
        SourceTarget::Masquerade(policy) | SourceTarget::Pool(_, policy) => {
            // A host's ports are all of one address.
            let blocks = policy.blocks.map(|blocks| u32::from(blocks.size) * u32::from(blocks.per_host));
            Some((blocks.unwrap_or(policy.port_count()), rule.place.line))
        }
        SourceTarget::Keep | SourceTarget::OneToOne(_) => None,
    });
    if let Some((ports, line)) = ports.min().filter(|(ports, _)| *ports < limit) {
        let misread =
            Misread::new(format!("`sessions-per-host` is {limit}, but a host has {ports} ports at most"));
        report.warning(place, misread.help(format!("by the ports or blocks of the rule at line {line}")));
    }
}

/// Warns of timeouts below what the RFCs allow a translator.
pub(super) fn report_short_timeouts(
    timeouts: &Timeouts,
    raw: &crate::raw::Timeouts,
    report: &mut Report<'_>,
) {
    for (key, written, timeout, least, source) in [
        (
            "tcp-established",
            &raw.tcp_established,
            timeouts.tcp_established,
            7440,
            "RFC 5382 wants at least 2h4m",
        ),
        ("udp", &raw.udp, timeouts.udp, 120, "RFC 4787 wants at least 2m"),
        ("udp-stream", &raw.udp_stream, timeouts.udp_stream, 120, "RFC 4787 wants at least 2m"),
        ("icmp", &raw.icmp, timeouts.icmp, 60, "RFC 5508 wants at least 60s"),
    ] {
        if let Some(written) = written.as_ref()
            && timeout.as_secs() < least
        {
            report.warning(
                written.span,
                Misread::new(format!("`{key}` is short for a translator")).help(source),
            );
        }
    }
}

/// Whether every packet that `other` matches is matched by `all`, as far as that is easily told.
fn covers(all: &Match, other: &Match) -> bool {
    let range = |addresses: &Addresses| match addresses {
        Addresses::Range(range) => Some(*range),
        Addresses::Set(_) => None,
    };
    let within = |one: &Addresses, all: &Addresses| match (range(one), range(all)) {
        (Some(one), Some(all)) => all.contains(one.first()) && all.contains(one.last()),
        _ => one == all,
    };
    let port = |ports: &Ports| match ports {
        Ports::Range(range) => Some(*range),
        Ports::Set(_) => None,
    };
    let ports_within = |one: &Ports, all: &Ports| match (port(one), port(all)) {
        (Some(one), Some(all)) => covers_ports(all, one),
        _ => one == all,
    };
    covers_part(&all.from, &other.from, |one, all| one == all)
        && covers_part(&all.to, &other.to, |one, all| one == all)
        && covers_part(&all.source, &other.source, within)
        && covers_part(&all.destination, &other.destination, within)
        && covers_part(&all.protocol, &other.protocol, |one, all| one == all)
        && covers_part(&all.to_port, &other.to_port, ports_within)
}

fn covers_ports(all: PortRange, one: PortRange) -> bool {
    all.first() <= one.first() && one.last() <= all.last()
}

fn covers_part<T: PartialEq>(
    all: &Option<Several<T>>,
    other: &Option<Several<T>>,
    within: impl Fn(&T, &T) -> bool,
) -> bool {
    match (all, other) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(all), Some(other)) if !all.not && !other.not => {
            other.any_of.iter().all(|one| all.any_of.iter().any(|all| within(one, all)))
        }
        (Some(all), Some(other)) => all == other,
    }
}
