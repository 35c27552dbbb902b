//! Which packets are asked for.

use std::net::IpAddr;

use throughway_packet::parse::{IP_IN_IP, IPV6_IN_IP, SCTP, TCP, UDP};
use throughway_packet::{FlowKey, Headers, PortId, Prefix, Rewrite, edits, parse};
use throughway_shared::flow::FAMILY_IPV4;
use throughway_shared::tunnel::kind;
use throughway_vnf::DropReason;

/// Which packets are asked for: all conditions that are given must hold for one of a packet's [forms](Form).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// The source address.
    pub source: Option<Prefix>,
    /// The destination address.
    pub destination: Option<Prefix>,
    /// One of the two.
    pub host: Option<Prefix>,
    /// The source port of TCP, UDP or SCTP, host order.
    pub source_port: Option<u16>,
    /// The destination port, host order.
    pub destination_port: Option<u16>,
    /// One of the two.
    pub port: Option<u16>,
    /// The upper-layer protocol (IANA number).
    pub protocol: Option<u8>,
    /// The interface (its number) that the packet comes in by, or leaves by.
    pub interface: Option<u16>,
    /// Only packets that are dropped.
    pub dropped: bool,
    /// Only packets that are dropped for this reason.
    pub reason: Option<DropReason>,
}

/// A packet as it is seen at one interface: as it comes in, or as it leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Form {
    /// The interface's number.
    pub interface: u16,
    /// What its headers say; `None` when they cannot be read.
    pub headers: Option<Ends>,
}

/// From where to where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ends {
    source: IpAddr,
    destination: IpAddr,
    /// Host order; `None` where there are none.
    ports: Option<(u16, u16)>,
    protocol: u8,
}

impl Form {
    /// A frame at an interface.
    pub fn of(frame: &[u8], interface: PortId) -> Self {
        let headers = parse(frame, interface).ok();
        Form { interface: interface.0, headers: headers.as_ref().map(Ends::of) }
    }

    /// Packets of the flow `key` after `rewrite`, where they leave; without an egress, where they come in.
    pub fn after(key: &FlowKey, rewrite: &Rewrite) -> Self {
        let action = &rewrite.action;
        let interface = if action.has(edits::EGRESS) { action.egress } else { key.ingress };
        Form { interface, headers: Some(Ends::after(key, rewrite)) }
    }
}

impl Ends {
    /// What parsing found.
    fn of(headers: &Headers) -> Self {
        let protocol = headers.key.protocol;
        let ports = (headers.source_port(), headers.destination_port());
        Ends {
            source: headers.source(),
            destination: headers.destination(),
            // The identifiers of ICMP stand in their place, and fragments behind the first have none.
            ports: (matches!(protocol, TCP | UDP | SCTP) && ports != (0, 0)).then_some(ports),
            protocol,
        }
    }

    fn of_key(key: FlowKey) -> Self {
        Ends::of(&Headers { key, ..Headers::default() })
    }

    /// Packets of the flow `key` after `rewrite`.
    fn after(key: &FlowKey, Rewrite { action, tunnel }: &Rewrite) -> Self {
        let mut key = *key;
        if action.has(edits::ENCAPSULATE) {
            key.protocol = match (tunnel.kind, key.family) {
                (kind::IP, FAMILY_IPV4) => IP_IN_IP,
                (kind::IP, _) => IPV6_IN_IP,
                _ => UDP,
            };
            (key.source, key.destination, key.family) = (tunnel.source, tunnel.destination, tunnel.family);
            (key.source_port, key.destination_port) = (tunnel.source_port, tunnel.destination_port);
            return Ends::of_key(key);
        }
        if action.has(edits::SOURCE) {
            key.source = action.source;
        }
        if action.has(edits::DESTINATION) {
            key.destination = action.destination;
        }
        if action.has(edits::SOURCE_PORT) {
            key.source_port = action.source_port;
        }
        if action.has(edits::DESTINATION_PORT) {
            key.destination_port = action.destination_port;
        }
        Ends::of_key(key)
    }
}

impl Filter {
    /// Whether a form of a packet is one that is asked for. What becomes of the packet is not looked at.
    pub fn accepts(&self, form: &Form) -> bool {
        if self.interface.is_some_and(|wanted| wanted != form.interface) {
            return false;
        }
        // Of what cannot be read nobody can say that it is not meant, unless something of it is asked for.
        form.headers.as_ref().map_or(!self.asks_for_headers(), |ends| self.accepts_ends(ends))
    }

    fn accepts_ends(&self, ends: &Ends) -> bool {
        let within = |prefix: Option<Prefix>, address| prefix.is_none_or(|prefix| prefix.contains(address));
        let either = |address| self.host.is_some_and(|host| host.contains(address));
        let ports = |wanted: Option<u16>, is: fn((u16, u16), u16) -> bool| {
            wanted.is_none_or(|wanted| ends.ports.is_some_and(|ports| is(ports, wanted)))
        };
        within(self.source, ends.source)
            && within(self.destination, ends.destination)
            && (self.host.is_none() || either(ends.source) || either(ends.destination))
            && ports(self.source_port, |(source, _), wanted| source == wanted)
            && ports(self.destination_port, |(_, destination), wanted| destination == wanted)
            && ports(self.port, |(source, destination), wanted| source == wanted || destination == wanted)
            && self.protocol.is_none_or(|wanted| wanted == ends.protocol)
    }

    fn asks_for_headers(&self) -> bool {
        *self
            != Filter {
                interface: self.interface,
                dropped: self.dropped,
                reason: self.reason,
                ..Filter::default()
            }
    }

    /// Whether packets that are sent are asked for.
    pub fn wants_sent(&self) -> bool {
        !self.dropped && self.reason.is_none()
    }

    /// Whether packets that are dropped for `reason` are asked for.
    pub fn wants_dropped(&self, reason: DropReason) -> bool {
        self.reason.is_none_or(|wanted| wanted == reason)
    }

    /// Whether packets of the flow `key`, to whose packets `rewrite` is done, are asked for.
    pub fn wants_flow(&self, key: &FlowKey, rewrite: &Rewrite) -> bool {
        let action = &rewrite.action;
        let comes = Form { interface: key.ingress, headers: Some(Ends::of_key(*key)) };
        if action.has(edits::DROP) {
            let reason = DropReason::ALL.get(usize::from(action.drop));
            return reason.is_none_or(|reason| self.wants_dropped(*reason)) && self.accepts(&comes);
        }
        self.wants_sent() && (self.accepts(&comes) || self.accepts(&Form::after(key, rewrite)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use throughway_packet::Action;
    use throughway_packet::build::PacketBuilder;
    use throughway_shared::flow::mapped;
    use throughway_shared::tunnel::Tunnel;

    fn form(interface: u16, frame: &[u8]) -> Form {
        Form::of(frame, PortId(interface))
    }

    fn prefix(address: &str, len: u8) -> Option<Prefix> {
        Some(Prefix::new(address.parse().unwrap(), len).unwrap())
    }

    fn tcp() -> Vec<u8> {
        PacketBuilder::ipv4([10, 1, 0, 10], [10, 2, 0, 10]).tcp(4000, 443, 0x10).finish()
    }

    #[test]
    fn every_condition_must_hold_for_one_form() {
        let accepts = |filter: Filter| filter.accepts(&form(1, &tcp()));
        let all = Filter::default();
        assert!(accepts(all));
        assert!(accepts(Filter { source: prefix("10.1.0.0", 16), ..all }));
        assert!(!accepts(Filter { destination: prefix("10.1.0.0", 16), ..all }));
        for host in ["10.1.0.10", "10.2.0.10"] {
            assert!(accepts(Filter { host: prefix(host, 32), port: Some(443), ..all }));
            assert!(!accepts(Filter { host: prefix(host, 32), port: Some(444), ..all }));
        }
        assert!(!accepts(Filter { host: prefix("10.3.0.0", 16), ..all }));
        assert!(!accepts(Filter { host: prefix("::", 0), ..all }), "another family");
        assert!(accepts(Filter { source_port: Some(4000), destination_port: Some(443), ..all }));
        assert!(!accepts(Filter { source_port: Some(443), ..all }));
        assert!(!accepts(Filter { destination_port: Some(4000), ..all }));
        assert!(accepts(Filter { port: Some(4000), protocol: Some(6), interface: Some(1), ..all }));
        assert!(!accepts(Filter { protocol: Some(17), ..all }));
        assert!(!accepts(Filter { interface: Some(0), ..all }));
    }

    #[test]
    fn identifiers_are_no_ports_and_what_cannot_be_read_has_none() {
        let ping = PacketBuilder::ipv4([10, 1, 0, 10], [10, 2, 0, 10]).icmp(8, 0, [0, 7, 0, 1]).finish();
        let seven = Filter { port: Some(7), ..Filter::default() };
        assert!(!seven.accepts(&form(0, &ping)));
        assert!(Filter { protocol: Some(1), ..Filter::default() }.accepts(&form(0, &ping)));
        let broken = form(0, &tcp()[..20]);
        assert_eq!(broken.headers, None);
        assert!(Filter::default().accepts(&broken));
        assert!(Filter { dropped: true, interface: Some(0), ..Filter::default() }.accepts(&broken));
        assert!(!seven.accepts(&broken));
        assert!(!Filter { interface: Some(1), ..Filter::default() }.accepts(&broken));
    }

    #[test]
    fn a_flow_is_asked_for_by_what_comes_and_by_what_leaves() {
        let key = FlowKey {
            source: mapped([10, 1, 0, 10]),
            destination: mapped([10, 2, 0, 10]),
            source_port: 4000u16.to_be_bytes(),
            destination_port: 443u16.to_be_bytes(),
            protocol: 6,
            family: FAMILY_IPV4,
            ..FlowKey::default()
        };
        let mut rewrite = Rewrite::nothing();
        rewrite.action = Action {
            edits: edits::SOURCE | edits::SOURCE_PORT | edits::EGRESS,
            source: mapped([203, 0, 113, 1]),
            source_port: 5000u16.to_be_bytes(),
            egress: 1,
            ..Action::nothing()
        };
        let wants = |filter: Filter| filter.wants_flow(&key, &rewrite);
        let all = Filter::default();
        assert!(wants(Filter {
            source: prefix("10.1.0.10", 32),
            source_port: Some(4000),
            interface: Some(0),
            ..all
        }));
        assert!(wants(Filter {
            source: prefix("203.0.113.1", 32),
            source_port: Some(5000),
            interface: Some(1),
            ..all
        }));
        // Half of one form and half of the other are no form.
        assert!(!wants(Filter { source: prefix("203.0.113.1", 32), source_port: Some(4000), ..all }));
        assert!(!wants(Filter { dropped: true, ..all }), "it is sent");
        assert!(!wants(Filter { reason: Some(DropReason::NoRoute), ..all }));

        let mut tunnelled = rewrite;
        tunnelled.action.edits |= edits::ENCAPSULATE;
        tunnelled.tunnel = Tunnel {
            kind: kind::GUE,
            family: FAMILY_IPV4,
            source: mapped([192, 0, 2, 1]),
            destination: mapped([192, 0, 2, 9]),
            destination_port: 6080u16.to_be_bytes(),
            ..Tunnel::none()
        };
        let backend = Filter { host: prefix("192.0.2.9", 32), protocol: Some(UDP), port: Some(6080), ..all };
        assert!(backend.wants_flow(&key, &tunnelled) && !backend.wants_flow(&key, &rewrite));

        let drop = DropReason::NoRoute as u8;
        let mut dropped = Rewrite::nothing();
        dropped.action = Action { edits: edits::DROP, drop, ..Action::nothing() };
        for (filter, wanted) in [
            (all, true),
            (Filter { dropped: true, ..all }, true),
            (Filter { reason: Some(DropReason::NoRoute), ..all }, true),
            (Filter { reason: Some(DropReason::TooBig), ..all }, false),
            (Filter { dropped: true, port: Some(444), ..all }, false),
        ] {
            assert_eq!(filter.wants_flow(&key, &dropped), wanted, "{filter:?}");
        }
    }
}
