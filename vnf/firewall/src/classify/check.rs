//! The last word on a candidate: every condition of a rule, exactly.

use std::sync::Arc;

use throughway_packet::parse::{ICMP, ICMPV6, TCP};

use crate::rule::{Family, Fields, FragmentMatch, Fragmentation, Matches, PacketFields, PortMatch, TcpFlags};
use crate::set::{AddressSet, NumberSet};

/// The conditions of a rule, made ready.
#[derive(Debug)]
pub(super) struct Check {
    family: Option<Family>,
    ingress: Option<NumberSet>,
    egress: Option<NumberSet>,
    vlans: Option<NumberSet>,
    source: Option<Addresses>,
    destination: Option<Addresses>,
    /// One bit per protocol.
    protocols: Option<[u64; 4]>,
    source_ports: Option<Ports>,
    destination_ports: Option<Ports>,
    tcp_flags: Box<[TcpFlags]>,
    icmp: Box<[(Family, u8, Option<u8>)]>,
    dscp: u64,
    length: (u16, u16),
    fragment: Option<FragmentMatch>,
    states: u8,
    packet_fields: PacketFields,
}

#[derive(Debug)]
struct Addresses {
    negated: bool,
    own: AddressSet,
    sets: Box<[Arc<AddressSet>]>,
}

impl Addresses {
    #[inline]
    fn contains(&self, family: Family, address: &[u8; 16]) -> bool {
        let listed =
            self.own.contains(family, address) || self.sets.iter().any(|set| set.contains(family, address));
        listed != self.negated
    }
}

#[derive(Debug)]
struct Ports {
    negated: bool,
    own: NumberSet,
    sets: Box<[Arc<NumberSet>]>,
}

impl Ports {
    fn of(list: &PortMatch) -> Ports {
        Ports {
            negated: list.negated,
            own: NumberSet::new(list.ranges.iter().cloned()),
            sets: list.sets.iter().cloned().collect(),
        }
    }

    #[inline]
    fn contains(&self, port: u16) -> bool {
        let listed = self.own.contains(port) || self.sets.iter().any(|set| set.contains(port));
        listed != self.negated
    }
}

impl Check {
    pub(super) fn of(matches: &Matches) -> Check {
        let addresses = |list: &crate::rule::AddressMatch| Addresses {
            negated: list.negated,
            own: AddressSet::new(list.ranges.iter().copied()),
            sets: list.sets.iter().cloned().collect(),
        };
        let protocols = |list: &Vec<u8>| {
            let mut bits = [0u64; 4];
            list.iter().for_each(|&protocol| bits[usize::from(protocol >> 6)] |= 1 << (protocol & 63));
            bits
        };
        let length = matches.length.as_ref().map_or((0, u16::MAX), |range| (*range.start(), *range.end()));
        Check {
            family: matches.family,
            ingress: matches.ingress.clone(),
            egress: matches.egress.clone(),
            vlans: matches.vlans.clone(),
            source: matches.source.as_ref().map(addresses),
            destination: matches.destination.as_ref().map(addresses),
            protocols: (!matches.protocols.is_empty()).then(|| protocols(&matches.protocols)),
            source_ports: matches.source_ports.as_ref().map(Ports::of),
            destination_ports: matches.destination_ports.as_ref().map(Ports::of),
            tcp_flags: matches.tcp_flags.clone().into(),
            icmp: matches.icmp.iter().map(|message| (message.family, message.kind, message.code)).collect(),
            dscp: matches.dscp.unwrap_or(u64::MAX),
            length,
            fragment: matches.fragment,
            states: matches.states.map_or(u8::MAX, |states| states.bits()),
            packet_fields: matches.packet_fields(),
        }
    }

    pub(super) fn packet_fields(&self) -> PacketFields {
        self.packet_fields
    }

    /// Whether what all packets of a flow have in common fits.
    #[inline]
    pub(super) fn flow_holds(&self, fields: &Fields) -> bool {
        let [word, bit] = [usize::from(fields.protocol >> 6), usize::from(fields.protocol & 63)];
        self.family.is_none_or(|family| family == fields.family)
            && self.protocols.is_none_or(|bits| bits[word] >> bit & 1 != 0)
            && self.source_ports.as_ref().is_none_or(|p| fields.has_ports && p.contains(fields.source_port))
            && self
                .destination_ports
                .as_ref()
                .is_none_or(|p| fields.has_ports && p.contains(fields.destination_port))
            && self.ingress.as_ref().is_none_or(|set| set.contains(fields.ingress.0))
            && self.vlans.as_ref().is_none_or(|set| set.contains(fields.vlan))
            && self.source.as_ref().is_none_or(|list| list.contains(fields.family, &fields.source))
            && self.destination.as_ref().is_none_or(|list| list.contains(fields.family, &fields.destination))
    }

    /// Whether the rest fits.
    #[inline]
    pub(super) fn packet_holds(&self, fields: &Fields) -> bool {
        self.states >> fields.state as u8 & 1 != 0
            && (self.length.0..=self.length.1).contains(&fields.length)
            && self.dscp >> (fields.dscp & 63) & 1 != 0
            && self.egress.as_ref().is_none_or(|set| fields.egress.is_some_and(|port| set.contains(port.0)))
            && self.fragment.is_none_or(|wanted| fragment(wanted, fields.fragmentation))
            && (self.tcp_flags.is_empty() || self.tcp_flags_hold(fields))
            && (self.icmp.is_empty() || self.icmp_holds(fields))
    }

    fn tcp_flags_hold(&self, fields: &Fields) -> bool {
        fields.protocol == TCP
            && fields.has_header
            && self.tcp_flags.iter().any(|flags| fields.tcp_flags & flags.mask == flags.value)
    }

    fn icmp_holds(&self, fields: &Fields) -> bool {
        let protocol = match fields.family {
            Family::Ipv4 => ICMP,
            Family::Ipv6 => ICMPV6,
        };
        fields.protocol == protocol
            && fields.has_header
            && self.icmp.iter().any(|&(family, kind, code)| {
                family == fields.family
                    && kind == fields.icmp_type
                    && code.is_none_or(|code| code == fields.icmp_code)
            })
    }
}

fn fragment(wanted: FragmentMatch, is: Fragmentation) -> bool {
    match wanted {
        FragmentMatch::Fragment => is != Fragmentation::Whole,
        FragmentMatch::Whole => is == Fragmentation::Whole,
        FragmentMatch::First => is == Fragmentation::First,
        FragmentMatch::Later => is == Fragmentation::Later,
    }
}
