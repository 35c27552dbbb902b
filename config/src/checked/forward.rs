//! Forwards of a translator.

use std::net::IpAddr;

use super::matches::given;
use super::nat::{check_one_to_one, ranges, unusable};
use super::*;
use crate::value::{Forward, PortRange, Protocol};

/// How destinations are translated.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DestinationNat {
    /// Which packets, as [`SourceNat::matches`]; never all.
    pub matches: Match,
    /// Where they go. A range of ports is as long as the only one in `matches.to_port`; a prefix as the only one in
    /// `matches.destination`.
    pub to: Forward,
    /// What their source becomes, of the same family (twice NAT).
    pub twice: Option<IpAddr>,
    /// Where the rule stands in the file.
    pub place: Span,
}

impl DestinationNat {
    pub(super) fn check(
        At { value: raw, span }: &At<crate::raw::DestinationRule>,
        known: &Known<'_>,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let matches = Match::check_nat(&raw.matches.value, known, report);
        let to = raw.to.read(report);
        let twice = given(&raw.twice, report);
        let (matches, to, twice) = (matches?, to?, twice?.map(|address| address.0));
        if matches.matches_everything() {
            let misread = Misread::new("this forwards every packet");
            report.error(raw.matches.span, misread.help("say which: `match: { destination: … }`"));
            return None;
        }
        if let Some(range) = ranges(matches.destination.as_ref())
            .unwrap_or_default()
            .iter()
            .find(|range| range.is_ipv4() != to.is_ipv4())
        {
            let misread = Misread::new(format!("`{range}` and `{to}` are of two families"));
            report.error(raw.to.span, misread.help("families are not translated"));
            return None;
        }
        match to {
            Forward::Prefix(prefix) => {
                check_one_to_one("destination", matches.destination.as_ref(), prefix, raw.to.span, report)?;
            }
            Forward::Address(address, ports) => {
                if let Some(what) = unusable(address) {
                    report.error(raw.to.span, format!("`{address}` is {what}, which no host can be"));
                    return None;
                }
                if let Some(ports) = ports {
                    check_forward_ports(&matches, ports, raw.to.span, report)?;
                }
            }
        }
        if let (Some(twice), Some(written)) = (twice, raw.twice.as_ref()) {
            if twice.is_ipv4() != to.is_ipv4() {
                report.error(written.span, format!("`{twice}` and `{to}` are of two families"));
                return None;
            }
            if let Some(what) = unusable(twice) {
                report.error(written.span, format!("`{twice}` is {what}, which no host can be"));
                return None;
            }
        }
        Some(DestinationNat { matches, to, twice, place: *span })
    }
}

fn check_forward_ports(
    matches: &Match,
    ports: PortRange,
    place: Span,
    report: &mut Report<'_>,
) -> Option<()> {
    let have_ports = matches.protocol.as_ref().is_some_and(|several| {
        !several.not && several.any_of.iter().all(|protocol: &Protocol| protocol.has_ports())
    });
    if !have_ports {
        let misread = Misread::new(format!("the port {ports} for packets that may have none"));
        report.error(place, misread.help("match `protocol: tcp`, `udp` or `sctp`"));
        return None;
    }
    if ports.first() == ports.last() {
        return Some(());
    }
    let length = |range: &PortRange| range.last() - range.first();
    let one = match &matches.to_port {
        Some(Several { not: false, any_of }) => match any_of.as_slice() {
            [Ports::Range(range)] => Some(range),
            _ => None,
        },
        _ => None,
    };
    if one.is_none_or(|range| length(range) != length(&ports)) {
        let misread = Misread::new(format!("the ports {ports} for another number of ports"));
        let count = u32::from(length(&ports)) + 1;
        report
            .error(place, misread.help(format!("match one range of {count} ports, or forward to one port")));
        return None;
    }
    Some(())
}
