//! What a marker is configured with: checked when it is made, immutable afterwards.

use std::ops::RangeInclusive;

use throughway_packet::parse::{SCTP, TCP, UDP};
use throughway_packet::{Flags, Headers};
use throughway_vnf::Prefix;

/// A differentiated services code point (RFC 2474), 0 to 63.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dscp(u8);

impl Dscp {
    /// The code point with this number; `None` above 63.
    pub const fn new(number: u8) -> Option<Dscp> {
        if number < 64 { Some(Dscp(number)) } else { None }
    }

    /// Its number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// One rule: every condition that is given must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rule {
    /// The family; `None` for both.
    pub family: Option<Family>,
    /// The upper-layer protocol (IANA number), after IPv6 extension headers.
    pub protocol: Option<u8>,
    /// Where the source address lies.
    pub source: Option<Prefix>,
    /// Where the destination address lies.
    pub destination: Option<Prefix>,
    /// Source ports, any of the ranges; empty for every port.
    pub source_ports: Vec<RangeInclusive<u16>>,
    /// Destination ports, any of the ranges; empty for every port.
    pub destination_ports: Vec<RangeInclusive<u16>>,
    /// The code point of what matches.
    pub dscp: Dscp,
}

/// Why a list of rules is refused. Rules are numbered from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RuleError {
    /// The prefixes and the family are not all of one family.
    #[error("rule {rule} can never match: its addresses are of different families")]
    Families {
        /// The rule.
        rule: usize,
    },
    /// Ports of a protocol without ports.
    #[error("rule {rule} can never match: protocol {protocol} has no ports")]
    NoPorts {
        /// The rule.
        rule: usize,
        /// The protocol.
        protocol: u8,
    },
    /// A range without a port in it.
    #[error("rule {rule} can never match: the port range {first}-{last} is empty")]
    EmptyRange {
        /// The rule.
        rule: usize,
        /// Where the range begins.
        first: u16,
        /// Where it ends.
        last: u16,
    },
}

/// Rules in order, each of which can match something.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules(Vec<Rule>);

impl Rules {
    /// Checks the rules.
    ///
    /// # Errors
    /// [`RuleError`] names the first rule that could never match, and why.
    pub fn new(rules: Vec<Rule>) -> Result<Rules, RuleError> {
        for (index, rule) in rules.iter().enumerate() {
            rule.check(index + 1)?;
        }
        Ok(Rules(rules))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first rule that matches, with its index from 0.
    #[inline]
    pub fn first_match(&self, headers: &Headers) -> Option<(usize, &Rule)> {
        self.0.iter().enumerate().find(|(_, rule)| rule.matches(headers))
    }
}

impl Rule {
    fn check(&self, rule: usize) -> Result<(), RuleError> {
        let of_prefix =
            |prefix: &Prefix| if prefix.address().is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        let [source, destination] =
            [&self.source, &self.destination].map(|prefix| prefix.as_ref().map(of_prefix));
        let families = [self.family, source, destination];
        let mut given = families.iter().flatten();
        if let Some(first) = given.next()
            && given.any(|other| other != first)
        {
            return Err(RuleError::Families { rule });
        }
        let mut ranges = self.source_ports.iter().chain(&self.destination_ports);
        if let Some(empty) = ranges.clone().find(|range| range.is_empty()) {
            return Err(RuleError::EmptyRange { rule, first: *empty.start(), last: *empty.end() });
        }
        match self.protocol {
            Some(protocol) if ![TCP, UDP, SCTP].contains(&protocol) && ranges.next().is_some() => {
                Err(RuleError::NoPorts { rule, protocol })
            }
            _ => Ok(()),
        }
    }

    fn matches(&self, headers: &Headers) -> bool {
        let family = if headers.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 };
        self.family.is_none_or(|wanted| wanted == family)
            && self.protocol.is_none_or(|wanted| wanted == headers.key.protocol)
            && self.source.is_none_or(|wanted| wanted.contains(headers.source()))
            && self.destination.is_none_or(|wanted| wanted.contains(headers.destination()))
            && self.ports_match(headers)
    }

    /// Later fragments have no ports. Had the first one a match where they have none, the pieces of a datagram would be
    /// marked differently and overtake each other: a rule with ports matches no fragment at all.
    fn ports_match(&self, headers: &Headers) -> bool {
        if self.source_ports.is_empty() && self.destination_ports.is_empty() {
            return true;
        }
        headers.flags.has(Flags::PORTS)
            && !headers.flags.has(Flags::FRAGMENT)
            && any_or_in(&self.source_ports, headers.source_port())
            && any_or_in(&self.destination_ports, headers.destination_port())
    }
}

fn any_or_in(ranges: &[RangeInclusive<u16>], port: u16) -> bool {
    ranges.is_empty() || ranges.iter().any(|range| range.contains(&port))
}
