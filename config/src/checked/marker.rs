//! The marker.

use super::*;
use crate::value::{Dscp, PortRange, Prefix, Protocol, Value, words};

/// A marker: the first rule that matches a packet sets its code point; packets that none matches keep theirs.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Marker {
    /// The rules, at least one.
    pub rules: Vec<MarkRule>,
}

/// A rule of a marker: every part that is given must match.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct MarkRule {
    /// What the packet carries.
    pub protocol: Option<Protocol>,
    /// Source ports; empty means any. Given only with a protocol that has ports.
    pub from_port: Vec<PortRange>,
    /// Destination ports; empty means any. Given only with a protocol that has ports.
    pub to_port: Vec<PortRange>,
    /// Source addresses.
    pub source: Option<Prefix>,
    /// Destination addresses; of the same family as `source`.
    pub destination: Option<Prefix>,
    /// The family; never in contradiction to the prefixes.
    pub family: Option<Family>,
    /// The code point that matching packets get.
    pub dscp: Dscp,
}

words! {
    /// The version of the Internet Protocol.
    Family, "address family":
    /// IPv4.
    Ipv4 = "ipv4",
    /// IPv6.
    Ipv6 = "ipv6",
}

impl Family {
    /// The family of a prefix.
    pub const fn of(prefix: &Prefix) -> Self {
        if prefix.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
    }
}

impl MarkRule {
    /// Whether every packet matches.
    pub fn matches_everything(&self) -> bool {
        let MarkRule { protocol, from_port, to_port, source, destination, family, dscp: _ } = self;
        protocol.is_none()
            && from_port.is_empty()
            && to_port.is_empty()
            && source.is_none()
            && destination.is_none()
            && family.is_none()
    }

    fn check(raw: &crate::raw::MarkRule, report: &mut Report<'_>) -> Option<Self> {
        let protocol = optional(raw.protocol.as_ref(), report);
        let from_port =
            check_ports("from-port", raw.from_port.as_ref(), raw.protocol.as_ref(), protocol, report);
        let to_port = check_ports("to-port", raw.to_port.as_ref(), raw.protocol.as_ref(), protocol, report);
        let source = optional(raw.source.as_ref(), report);
        let destination = optional(raw.destination.as_ref(), report);
        let family = optional(raw.family.as_ref(), report);
        let dscp = raw.dscp.read(report);
        let rule = MarkRule {
            protocol: protocol?,
            from_port: from_port?,
            to_port: to_port?,
            source: source?,
            destination: destination?,
            family: family?,
            dscp: dscp?,
        };
        rule.check_families(raw, report)?;
        Some(rule)
    }

    /// Refuses rules that no packet can match, because their parts belong to different families.
    fn check_families(&self, raw: &crate::raw::MarkRule, report: &mut Report<'_>) -> Option<()> {
        let of_protocol = match self.protocol {
            Some(Protocol::ICMP) => Some(Family::Ipv4),
            Some(Protocol::ICMPV6) => Some(Family::Ipv6),
            _ => None,
        };
        let claims = [
            ("family", self.family, raw.family.as_ref().map(|written| written.span)),
            ("protocol", of_protocol, raw.protocol.as_ref().map(|written| written.span)),
            ("source", self.source.as_ref().map(Family::of), raw.source.as_ref().map(|written| written.span)),
            (
                "destination",
                self.destination.as_ref().map(Family::of),
                raw.destination.as_ref().map(|written| written.span),
            ),
        ];
        let mut first: Option<(&str, Family)> = None;
        for (key, family, span) in claims {
            let (Some(family), Some(span)) = (family, span) else { continue };
            match first {
                None => first = Some((key, family)),
                Some((earlier, other)) if other != family => {
                    report.error(
                        span,
                        format!("no packet can match: `{earlier}` is of {other}, `{key}` of {family}"),
                    );
                    return None;
                }
                Some(_) => {}
            }
        }
        Some(())
    }
}

impl Marker {
    pub(super) fn check(raw: &crate::raw::Marker, report: &mut Report<'_>) -> Option<Self> {
        if raw.rules.value.is_empty() {
            report.error(raw.rules.span, "a marker without rules does nothing");
            return None;
        }
        let rules: Vec<_> = raw.rules.value.iter().map(|rule| MarkRule::check(&rule.value, report)).collect();
        let catch_all = rules.iter().position(|rule| rule.as_ref().is_some_and(MarkRule::matches_everything));
        if let Some((catch_all, unreached)) =
            catch_all.and_then(|at| Some((at, raw.rules.value.get(at + 1)?)))
        {
            let line = raw.rules.value[catch_all].span.line;
            report.warning(
                unreached.span,
                Misread::new("this rule is never reached")
                    .help(format!("the rule at line {line} matches every packet")),
            );
        }
        Some(Marker { rules: rules.into_iter().collect::<Option<_>>()? })
    }
}

/// What may be left out: `None` if it is wrong and was reported.
fn optional<V: Value>(written: Option<&Written<V>>, report: &mut Report<'_>) -> Option<Option<V>> {
    written.map_or(Some(None), |written| written.read(report).map(Some))
}

/// `written` and `protocol` are two views of the same key; the inner `None` of the second means that it was left out.
fn check_ports(
    key: &str,
    raw: Option<&OneOrMany<PortRange>>,
    written: Option<&Written<Protocol>>,
    protocol: Option<Option<Protocol>>,
    report: &mut Report<'_>,
) -> Option<Vec<PortRange>> {
    let Some(raw) = raw else { return Some(Vec::new()) };
    let ports = raw.read(report);
    match (written, protocol) {
        (None, _) => {
            let misread = Misread::new(format!("`{key}` without `protocol`"));
            report.error(raw.span, misread.help("add `protocol: tcp`, `udp` or `sctp`"));
            None
        }
        (Some(written), Some(Some(protocol))) if !protocol.has_ports() => {
            let misread =
                Misread::new(format!("`{key}` with protocol `{}`, which has no ports", written.text));
            report.error(raw.span, misread.help("ports are matched of tcp, udp and sctp"));
            None
        }
        _ => ports,
    }
}
