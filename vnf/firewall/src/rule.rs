//! What a firewall is configured with, and what of a packet it is compared with.
//!
//! Rules are asked in order and the first that matches decides; what none matches gets the default, which is not part of the
//! rules. A rule matches when all its conditions hold; a rule without conditions matches everything.

use std::ops::RangeInclusive;
use std::sync::Arc;

use throughway_packet::headers::octets;
use throughway_packet::parse::{ICMP, ICMPV6, SCTP, TCP, UDP};
use throughway_packet::{Flags, Headers, PortId};
use throughway_vnf::IcmpError;

use crate::set::{AddressRange, AddressSet, NumberSet};

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// A list of address ranges and sets, or everything but them.
///
/// Without entries it contains no address. The complement of IPv4 addresses contains every IPv6 address, and the other way
/// round: who means one family says so ([`Matches::family`]).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AddressMatch {
    /// Matches the addresses that are *not* in the list.
    pub negated: bool,
    /// Single addresses, prefixes and ranges.
    pub ranges: Vec<AddressRange>,
    /// Named sets; shared by all rules that name them.
    pub sets: Vec<Arc<AddressSet>>,
}

/// A list of port ranges and sets, or everything but them. It holds only for packets of TCP, UDP or SCTP whose ports are
/// known, also when negated.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortMatch {
    /// Matches the ports that are *not* in the list.
    pub negated: bool,
    /// Ports, host order.
    pub ranges: Vec<RangeInclusive<u16>>,
    /// Named sets.
    pub sets: Vec<Arc<NumberSet>>,
}

/// Bits of the TCP flags byte (RFC 9293, section 3.1: CWR ECE URG ACK PSH RST SYN FIN) that must have given values. Holds for
/// TCP packets with their header only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TcpFlags {
    /// The bits that are looked at.
    pub mask: u8,
    /// Which of them must be set; bits outside the mask make the condition one that never holds.
    pub value: u8,
}

/// An ICMP (RFC 792) or ICMPv6 (RFC 4443) message. Holds for messages of that protocol in its own family, with their header.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct IcmpMatch {
    /// [`Family::Ipv4`] for ICMP, [`Family::Ipv6`] for ICMPv6.
    pub family: Family,
    /// The type.
    pub kind: u8,
    /// The code; any without.
    pub code: Option<u8>,
}

/// What of fragmentation is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FragmentMatch {
    /// Any fragment: first or later.
    Fragment,
    /// No fragment (or an atomic one, RFC 6946, which is the whole).
    Whole,
    /// The first fragment of a datagram.
    First,
    /// A fragment with an offset.
    Later,
}

/// What a packet is to the connections that are known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum State {
    /// Belongs to no connection and may begin one.
    New = 0,
    /// Belongs to a connection that is known.
    Established = 1,
    /// Is about a known connection: an ICMP error, or a connection that was announced.
    Related = 2,
    /// Fits nothing: cannot begin a connection and belongs to none.
    Invalid = 3,
    /// Connections are not followed for it.
    #[default]
    Untracked = 4,
}

/// A set of states.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct States(u8);

impl States {
    /// Every state.
    pub const ALL: States = States(0b1_1111);

    /// The set of these.
    pub fn of(states: &[State]) -> States {
        States(states.iter().fold(0, |bits, &state| bits | 1 << state as u8))
    }

    /// Whether it holds `state`.
    #[inline]
    pub const fn contains(self, state: State) -> bool {
        self.0 >> state as u8 & 1 != 0
    }

    /// The states of both.
    #[inline]
    pub const fn with(self, others: States) -> States {
        States(self.0 | others.0)
    }

    /// One bit per state, by its number.
    #[inline]
    pub const fn bits(self) -> u8 {
        self.0
    }
}

/// The conditions of a rule. Everything that is given must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Matches {
    /// The family.
    pub family: Option<Family>,
    /// Ports of the data plane ([`PortId`]) on which the packet came in.
    pub ingress: Option<NumberSet>,
    /// Ports of the data plane by which it will leave; never holds while the packet has no egress.
    pub egress: Option<NumberSet>,
    /// Identifiers of the outer VLAN tag; 0 is a packet without.
    pub vlans: Option<NumberSet>,
    /// Where the source address lies.
    pub source: Option<AddressMatch>,
    /// Where the destination address lies.
    pub destination: Option<AddressMatch>,
    /// The upper-layer protocols (IANA numbers), any of them; empty for every protocol.
    pub protocols: Vec<u8>,
    /// The source port.
    pub source_ports: Option<PortMatch>,
    /// The destination port.
    pub destination_ports: Option<PortMatch>,
    /// TCP flags, any of these; empty for no condition.
    pub tcp_flags: Vec<TcpFlags>,
    /// ICMP and ICMPv6 messages, any of these; empty for no condition.
    pub icmp: Vec<IcmpMatch>,
    /// The code points (RFC 2474): bit *n* for DSCP *n*.
    pub dscp: Option<u64>,
    /// Length of the IP packet in bytes, without the link layer.
    pub length: Option<RangeInclusive<u16>>,
    /// Fragments.
    pub fragment: Option<FragmentMatch>,
    /// State of the connection.
    pub states: Option<States>,
}

/// What is sent back to the sender of a rejected packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RejectWith {
    /// An ICMP or ICMPv6 error, by the family of the packet.
    Icmp(IcmpError),
    /// A TCP segment with RST (RFC 9293, section 3.10.7); other protocols get "administratively prohibited".
    TcpReset,
    /// A TCP segment with RST; other protocols get "port unreachable", as from a host where nobody listens (RFC 1122, section
    /// 3.2.2.1; RFC 4443, section 3.1).
    Auto,
}

/// What becomes of a packet that a rule matched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Ending {
    /// It passes.
    Allow,
    /// It ends, silently for its sender.
    #[default]
    Drop,
    /// It ends, and its sender is told.
    Reject(RejectWith),
    /// The group's rules are asked; if none of them decides, the rules behind this one.
    Jump(GroupId),
    /// The rules behind this one are asked: the rule only counts, logs or marks.
    Continue,
}

impl Ending {
    /// Whether nothing is asked after it.
    pub const fn is_final(self) -> bool {
        matches!(self, Ending::Allow | Ending::Drop | Ending::Reject(_))
    }
}

/// A limit of the function, by number. A rule whose limit is exceeded does not match, as in nftables: the search goes on
/// with [`crate::RuleSet::classify_after`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LimitId(pub u16);

/// A group, by its index in the list of groups.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId(pub u16);

/// What the function does for a packet that a rule matched. Numbers are the function's; the classifier hands them back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Actions {
    /// What becomes of the packet.
    pub ending: Ending,
    /// Counts, also if the rule does not decide. A jump is handed out only if there is something to do for it: a count, a
    /// log, a limit or a mark.
    pub count: bool,
    /// Writes a log entry of this kind.
    pub log: Option<u16>,
    /// Matches only as long as the limit is not exceeded; with [`LimitConfig::over`](crate::LimitConfig::over), only when it is.
    pub limit: Option<LimitId>,
    /// Marks the packet.
    pub mark: Option<u32>,
}

impl Actions {
    /// Whether the function has to see it: everything but a jump that does nothing else.
    pub const fn is_visible(&self) -> bool {
        !matches!(self.ending, Ending::Jump(_))
            || self.count
            || self.log.is_some()
            || self.limit.is_some()
            || self.mark.is_some()
    }
}

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rule {
    /// The caller's number of the rule: for counters, logs and reports. Need not be unique.
    pub id: u32,
    /// When it matches.
    pub matches: Matches,
    /// What it does.
    pub actions: Actions,
}

/// Rules that are asked together, when another rule jumps to them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Group {
    /// The name, for reports.
    pub name: String,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// What a packet is to its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Fragmentation {
    /// No fragment.
    #[default]
    Whole,
    /// The fragment with offset zero.
    First,
    /// A fragment with an offset: without upper-layer header.
    Later,
}

/// What of a packet the rules are compared with; made once per packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fields {
    /// Source address in network order; IPv4 in its mapped form.
    pub source: [u8; 16],
    /// Destination address in network order; IPv4 in its mapped form.
    pub destination: [u8; 16],
    /// Source port, host order; with [`Fields::has_ports`].
    pub source_port: u16,
    /// Destination port, host order; with [`Fields::has_ports`].
    pub destination_port: u16,
    /// The port of the data plane on which it came in.
    pub ingress: PortId,
    /// The port by which it will leave, once that is known.
    pub egress: Option<PortId>,
    /// Identifier of the outer VLAN tag, or 0.
    pub vlan: u16,
    /// Length of the IP packet in bytes, without the link layer.
    pub length: u16,
    /// The family.
    pub family: Family,
    /// The upper-layer protocol (IANA number) after IPv6 extension headers.
    pub protocol: u8,
    /// The flags byte of the TCP header; with [`Fields::has_header`].
    pub tcp_flags: u8,
    /// ICMP or ICMPv6 type; with [`Fields::has_header`].
    pub icmp_type: u8,
    /// ICMP or ICMPv6 code; with [`Fields::has_header`].
    pub icmp_code: u8,
    /// Differentiated services code point, 0 to 63.
    pub dscp: u8,
    /// Whether it is a fragment.
    pub fragmentation: Fragmentation,
    /// What it is to the connections that are known.
    pub state: State,
    /// TCP, UDP or SCTP, and the ports are known (for later fragments: from the first one).
    pub has_ports: bool,
    /// The upper-layer header is in the packet: TCP flags or ICMP type and code hold.
    pub has_header: bool,
}

impl Fields {
    /// Those of a parsed packet.
    #[inline]
    pub fn of(headers: &Headers, egress: Option<PortId>, state: State) -> Fields {
        let key = &headers.key;
        let fragmentation = if headers.flags.has(Flags::LATER_FRAGMENT) {
            Fragmentation::Later
        } else if headers.flags.has(Flags::FRAGMENT) {
            Fragmentation::First
        } else {
            Fragmentation::Whole
        };
        Fields {
            source: key.source,
            destination: key.destination,
            source_port: headers.source_port(),
            destination_port: headers.destination_port(),
            ingress: headers.ingress(),
            egress,
            vlan: key.outer_vlan,
            length: headers.packet_len(),
            family: if headers.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 },
            protocol: key.protocol,
            tcp_flags: headers.tcp_flags,
            icmp_type: headers.icmp_type,
            icmp_code: headers.icmp_code,
            dscp: headers.dscp(),
            fragmentation,
            state,
            has_ports: headers.flags.has(Flags::PORTS) && matches!(key.protocol, TCP | UDP | SCTP),
            has_header: match key.protocol {
                TCP => headers.flags.has(Flags::PORTS),
                ICMP | ICMPV6 => fragmentation != Fragmentation::Later,
                _ => false,
            },
        }
    }

    /// A whole packet between two addresses of one family, with everything else zero: a start for tests and tools. If the
    /// families differ, the source's counts.
    pub fn between(source: std::net::IpAddr, destination: std::net::IpAddr) -> Fields {
        Fields {
            source: octets(source),
            destination: octets(destination),
            source_port: 0,
            destination_port: 0,
            ingress: PortId(0),
            egress: None,
            vlan: 0,
            length: 0,
            family: if source.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 },
            protocol: 0,
            tcp_flags: 0,
            icmp_type: 0,
            icmp_code: 0,
            dscp: 0,
            fragmentation: Fragmentation::Whole,
            state: State::Untracked,
            has_ports: false,
            has_header: false,
        }
    }
}

/// Fields that may differ between packets of one flow, as the flow cache knows it, or that come from elsewhere: an answer that
/// depends on none of them holds for the whole flow. A bit set.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PacketFields(pub u8);

impl PacketFields {
    /// None: the answer follows from the flow key.
    pub const NONE: PacketFields = PacketFields(0);
    /// The length of the packet.
    pub const LENGTH: PacketFields = PacketFields(1 << 0);
    /// The TCP flags.
    pub const TCP_FLAGS: PacketFields = PacketFields(1 << 1);
    /// The DSCP.
    pub const DSCP: PacketFields = PacketFields(1 << 2);
    /// Whether it is a fragment.
    pub const FRAGMENT: PacketFields = PacketFields(1 << 3);
    /// ICMP type or code.
    pub const ICMP: PacketFields = PacketFields(1 << 4);
    /// The state of the connection.
    pub const STATE: PacketFields = PacketFields(1 << 5);
    /// The egress.
    pub const EGRESS: PacketFields = PacketFields(1 << 6);

    /// Whether it holds any of `others`.
    #[inline]
    pub const fn any(self, others: PacketFields) -> bool {
        self.0 & others.0 != 0
    }

    /// Whether it is empty.
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl std::ops::BitOr for PacketFields {
    type Output = PacketFields;
    #[inline]
    fn bitor(self, other: PacketFields) -> PacketFields {
        PacketFields(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for PacketFields {
    #[inline]
    fn bitor_assign(&mut self, other: PacketFields) {
        self.0 |= other.0;
    }
}

impl Matches {
    /// The fields of its conditions that may differ between packets of one flow.
    pub fn packet_fields(&self) -> PacketFields {
        let given = [
            (self.length.is_some(), PacketFields::LENGTH),
            (!self.tcp_flags.is_empty(), PacketFields::TCP_FLAGS),
            (self.dscp.is_some(), PacketFields::DSCP),
            (self.fragment.is_some(), PacketFields::FRAGMENT),
            (!self.icmp.is_empty(), PacketFields::ICMP),
            (self.states.is_some(), PacketFields::STATE),
            (self.egress.is_some(), PacketFields::EGRESS),
        ];
        given.iter().filter(|(given, _)| *given).fold(PacketFields::NONE, |all, (_, field)| all | *field)
    }
}
