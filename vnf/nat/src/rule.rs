//! What the configuration says: which packets are translated, and how.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use throughway_packet::{Headers, PortId};
use throughway_vnf::Prefix;

/// Values of which one must be there, or with `not` none may; without values: whatever is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Several<T> {
    /// Whether everything else is meant.
    pub not: bool,
    /// The values.
    pub any_of: Vec<T>,
}

impl<T> Several<T> {
    /// One of these.
    pub fn of(any_of: impl Into<Vec<T>>) -> Several<T> {
        Several { not: false, any_of: any_of.into() }
    }

    fn accepts(&self, is: impl FnMut(&T) -> bool) -> bool {
        self.any_of.is_empty() || self.any_of.iter().any(is) != self.not
    }
}

impl<T> Default for Several<T> {
    fn default() -> Several<T> {
        Several { not: false, any_of: Vec::new() }
    }
}

/// Which packets a rule is about.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Match {
    /// Interfaces the packet came in on.
    pub ingress: Several<PortId>,
    /// Interfaces it will leave by: known only when the function stands behind a router; until then it matches nothing.
    pub egress: Several<PortId>,
    /// Source addresses.
    pub source: Several<RangeInclusive<IpAddr>>,
    /// Destination addresses.
    pub destination: Several<RangeInclusive<IpAddr>>,
    /// Upper-layer protocols (IANA numbers).
    pub protocols: Several<u8>,
    /// Source ports, host order.
    pub source_ports: Several<RangeInclusive<u16>>,
    /// Destination ports, host order.
    pub destination_ports: Several<RangeInclusive<u16>>,
}

impl Match {
    /// Whether a packet is meant.
    pub fn accepts(&self, headers: &Headers, egress: Option<PortId>) -> bool {
        let is_egress = |port: &PortId| Some(*port) == egress;
        let egress_fits = self.egress.any_of.is_empty() || egress.is_some();
        self.protocols.accepts(|protocol| *protocol == headers.key.protocol)
            && self.ingress.accepts(|port| *port == headers.ingress())
            && (egress_fits && self.egress.accepts(is_egress))
            && self.source.accepts(|range| range.contains(&headers.source()))
            && self.destination.accepts(|range| range.contains(&headers.destination()))
            && self.source_ports.accepts(|ports| ports.contains(&headers.source_port()))
            && self.destination_ports.accepts(|ports| ports.contains(&headers.destination_port()))
    }
}

/// The addresses of a prefix.
pub fn range_of(prefix: Prefix) -> RangeInclusive<IpAddr> {
    prefix.address()..=prefix.last()
}

/// Whether packets to different destinations appear under one outside address and port (RFC 4787, section 4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mapping {
    /// One inside address and port has one outside address and port, whoever it talks to (RFC 4787, REQ-1).
    #[default]
    EndpointIndependent,
    /// One for each address it talks to.
    AddressDependent,
    /// One for each address and port it talks to.
    AddressAndPortDependent,
}

/// Who outside may send to a mapping (RFC 4787, section 5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Filtering {
    /// Everybody.
    EndpointIndependent,
    /// Whoever has been sent to, from any port (RFC 4787, REQ-8, where stringency is wanted).
    #[default]
    AddressDependent,
    /// The address and port that have been sent to.
    AddressAndPortDependent,
}

/// How a source is translated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceTarget {
    /// To the addresses of the pool with this index.
    Pool(usize),
    /// To an address of the interface that the packet leaves by: the pool with this index of each outside port. Where the
    /// egress is not known yet, or none of these, the first.
    Masquerade(Vec<(PortId, usize)>),
    /// To the same host in this prefix, ports unchanged. It is as long as the inside prefix that the rule matches.
    Prefix(Prefix),
    /// Not at all.
    Untranslated,
}

/// A rule for connections that are opened from inside: the first that matches holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceRule {
    /// Which packets.
    pub matches: Match,
    /// Where to.
    pub target: SourceTarget,
    /// See [`Mapping`].
    pub mapping: Mapping,
    /// See [`Filtering`].
    pub filtering: Filtering,
    /// Keep the inside port where it is free outside.
    pub preserve_port: bool,
    /// Keep the parity of the port (RFC 4787, REQ-4), for TCP and UDP.
    pub preserve_parity: bool,
}

impl SourceRule {
    /// A rule for every packet, with what the RFCs recommend for the rest.
    pub fn new(target: SourceTarget) -> SourceRule {
        SourceRule {
            matches: Match::default(),
            target,
            mapping: Mapping::default(),
            filtering: Filtering::default(),
            preserve_port: true,
            preserve_parity: true,
        }
    }
}

/// A rule for connections to an outside address: the first that matches holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DestinationRule {
    /// Which packets.
    pub matches: Match,
    /// The inside addresses: one address, or a prefix as long as that of the match, to which host bits are carried over.
    pub to: Prefix,
    /// The inside ports: one for all of the match's ports, or as many as those, in order. `None`: ports stay.
    pub port: Option<RangeInclusive<u16>>,
    /// Also the source is translated, to the pool with this index: answers then find their way back whatever the inside host's
    /// routes are.
    pub twice: Option<usize>,
}

/// An address moved from one prefix to another of the same family and length: its host bits stay.
pub fn carry_over(address: IpAddr, to: Prefix) -> Option<IpAddr> {
    match (address, to.address()) {
        (IpAddr::V4(address), IpAddr::V4(prefix)) => {
            let host = u32::MAX.checked_shr(u32::from(to.len())).unwrap_or(0);
            Some(IpAddr::V4((prefix.to_bits() | address.to_bits() & host).into()))
        }
        (IpAddr::V6(address), IpAddr::V6(prefix)) => {
            let host = u128::MAX.checked_shr(u32::from(to.len())).unwrap_or(0);
            Some(IpAddr::V6((prefix.to_bits() | address.to_bits() & host).into()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_carried_over() {
        let moved = |address: &str, to: &str| {
            carry_over(address.parse().unwrap(), to.parse().unwrap()).map(|address| address.to_string())
        };
        assert_eq!(moved("10.1.2.3", "192.0.2.0/24").as_deref(), Some("192.0.2.3"));
        assert_eq!(moved("10.1.2.3", "192.0.2.9/32").as_deref(), Some("192.0.2.9"));
        assert_eq!(moved("10.1.2.3", "0.0.0.0/0").as_deref(), Some("10.1.2.3"));
        assert_eq!(moved("fd00::1:2", "2001:db8::/64").as_deref(), Some("2001:db8::1:2"));
        assert_eq!(moved("fd00::1:2", "192.0.2.0/24"), None);
    }
}
