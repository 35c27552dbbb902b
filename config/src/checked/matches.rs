//! What rules of firewalls and translators match packets by.

use super::sets::{Families, SetTable};
use super::*;
use crate::raw::Given;
use crate::value::{
    AddressRange, Dscp, Icmpv4Message, Icmpv6Message, LengthRange, OrSet, PortRange, Protocol, Value,
    VlanRange, words,
};

/// What a rule matches: every part that is given must. Parts never contradict each other in protocol or family.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
#[non_exhaustive]
pub struct Match {
    /// Where the packet comes from.
    pub from: Option<Several<InterfaceId>>,
    /// Where it leaves.
    pub to: Option<Several<InterfaceId>>,
    /// Source addresses.
    pub source: Option<Several<Addresses>>,
    /// Destination addresses.
    pub destination: Option<Several<Addresses>>,
    /// The family, where the file gives it.
    pub family: Option<Family>,
    /// What the packet carries. Given whenever ports, flags of TCP or messages of ICMP are.
    pub protocol: Option<Several<Protocol>>,
    /// Source ports. `protocol` is then a list of protocols that have ports.
    pub from_port: Option<Several<Ports>>,
    /// Destination ports. `protocol` is then a list of protocols that have ports.
    pub to_port: Option<Several<Ports>>,
    /// Flags of TCP. `protocol` is then TCP.
    pub tcp_flags: Option<TcpFlags>,
    /// Messages of ICMP, of which one must match; empty: not given. `protocol` is then ICMP.
    pub icmp: Vec<Icmpv4Message>,
    /// Messages of ICMPv6, of which one must match; empty: not given. `protocol` is then ICMPv6.
    pub icmpv6: Vec<Icmpv6Message>,
    /// Code points.
    pub dscp: Option<Several<Dscp>>,
    /// Bytes of the IP packet, header included.
    pub length: Option<Several<LengthRange>>,
    /// Whether it is a fragment, the first one included.
    pub fragment: Option<bool>,
    /// The VLAN it came in.
    pub vlan: Option<Several<VlanRange>>,
    /// What it is to the sessions.
    pub state: Option<Several<State>>,
}

/// Values of which one must match, or with `not` none may.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Several<T> {
    /// Whether everything else is meant.
    pub not: bool,
    /// The values in the order of the file, at least one.
    pub any_of: Vec<T>,
}

/// Addresses of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Addresses {
    /// An address, a prefix or a range.
    Range(AddressRange),
    /// All that are in a set of the same firewall.
    Set(SetId),
}

/// Ports of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ports {
    /// A port or a range.
    Range(PortRange),
    /// All that are in a set of the same firewall.
    Set(SetId),
}

/// Flags of TCP as they stand in the 14th byte of its header (RFC 9293, section 3.1). No flag is in both.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct TcpFlags {
    /// The flags that must be set.
    pub set: u8,
    /// The flags that must be clear.
    pub clear: u8,
}

words! {
    /// A flag of TCP (RFC 9293, section 3.1).
    TcpFlag, "TCP flag":
    /// No more data from the sender.
    Fin = "fin",
    /// Synchronise sequence numbers.
    Syn = "syn",
    /// Reset the connection.
    Rst = "rst",
    /// Push.
    Psh = "psh",
    /// The acknowledgement is valid.
    Ack = "ack",
    /// The urgent pointer is valid.
    Urg = "urg",
    /// ECN echo (RFC 3168).
    Ece = "ece",
    /// Congestion window reduced (RFC 3168).
    Cwr = "cwr",
}

impl TcpFlag {
    /// Its bit in the 14th byte of the header.
    pub const fn bit(self) -> u8 {
        match self {
            TcpFlag::Fin => 0x01,
            TcpFlag::Syn => 0x02,
            TcpFlag::Rst => 0x04,
            TcpFlag::Psh => 0x08,
            TcpFlag::Ack => 0x10,
            TcpFlag::Urg => 0x20,
            TcpFlag::Ece => 0x40,
            TcpFlag::Cwr => 0x80,
        }
    }

    /// Every flag, by rising bit.
    pub const ALL: [TcpFlag; 8] = [
        TcpFlag::Fin,
        TcpFlag::Syn,
        TcpFlag::Rst,
        TcpFlag::Psh,
        TcpFlag::Ack,
        TcpFlag::Urg,
        TcpFlag::Ece,
        TcpFlag::Cwr,
    ];
}

words! {
    /// What a packet is to the sessions that are followed.
    State, "state":
    /// It would open a session.
    New = "new",
    /// It belongs to a session.
    Established = "established",
    /// It is an ICMP error about a packet of a session, or opens a session that one announced.
    Related = "related",
    /// It can neither belong to a session nor open one.
    Invalid = "invalid",
}

impl Match {
    /// Whether every packet matches.
    pub fn matches_everything(&self) -> bool {
        *self == Match::default()
    }

    pub(super) fn check(
        raw: &crate::raw::Match,
        known: &Known<'_>,
        sets: &mut SetTable<'_>,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let from = interfaces(&raw.from, known, report);
        let to = interfaces(&raw.to, known, report);
        let source = several(&raw.source, report, |written, report| addresses(written, sets, report));
        let destination =
            several(&raw.destination, report, |written, report| addresses(written, sets, report));
        let family = given(&raw.family, report);
        let protocol = several(&raw.protocol, report, Written::read);
        let from_port = several(&raw.from_port, report, |written, report| ports(written, sets, report));
        let to_port = several(&raw.to_port, report, |written, report| ports(written, sets, report));
        let tcp_flags =
            raw.tcp_flags.as_ref().map_or(Some(None), |raw| TcpFlags::check(raw, report).map(Some));
        let icmp = raw.icmp.as_ref().map_or(Some(Vec::new()), |list| list.read(report));
        let icmpv6 = raw.icmpv6.as_ref().map_or(Some(Vec::new()), |list| list.read(report));
        let dscp = several(&raw.dscp, report, Written::read);
        let length = several(&raw.length, report, Written::read);
        let fragment = given(&raw.fragment, report);
        let vlan = several(&raw.vlan, report, Written::read);
        let state = several(&raw.state, report, Written::read);
        let mut checked = Match {
            from: from?,
            to: to?,
            source: source?,
            destination: destination?,
            family: family?,
            protocol: protocol?,
            from_port: from_port?,
            to_port: to_port?,
            tcp_flags: tcp_flags?,
            icmp: icmp?,
            icmpv6: icmpv6?,
            dscp: dscp?,
            length: length?,
            fragment: fragment?.map(bool::from),
            vlan: vlan?,
            state: state?,
        };
        let spans = Spans {
            family: raw.family.as_ref().map(|written| written.span),
            source: raw.source.as_ref().map(|several| several.span),
            destination: raw.destination.as_ref().map(|several| several.span),
            protocol: raw.protocol.as_ref().map(|several| several.span),
            from_port: ("from-port", raw.from_port.as_ref().map(|several| several.span)),
            to_port: ("to-port", raw.to_port.as_ref().map(|several| several.span)),
            special: [
                ("tcp-flags", Protocol::TCP, raw.tcp_flags.as_ref().map(|flags| flags.span)),
                ("icmp", Protocol::ICMP, raw.icmp.as_ref().map(|list| list.span)),
                ("icmpv6", Protocol::ICMPV6, raw.icmpv6.as_ref().map(|list| list.span)),
            ],
        };
        checked.check_whole(&spans, sets, report)?;
        Some(checked)
    }

    /// The same of a translator's rule.
    pub(super) fn check_nat(
        raw: &crate::raw::NatMatch,
        known: &Known<'_>,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        fn range(written: &Written<AddressRange>, report: &mut Report<'_>) -> Option<Addresses> {
            written.read(report).map(Addresses::Range)
        }
        let from = interfaces(&raw.from, known, report);
        let to = interfaces(&raw.to, known, report);
        let source = several(&raw.source, report, range);
        let destination = several(&raw.destination, report, range);
        let protocol = several(&raw.protocol, report, Written::read);
        let to_port = several(&raw.port, report, |written, report| written.read(report).map(Ports::Range));
        let mut checked = Match {
            from: from?,
            to: to?,
            source: source?,
            destination: destination?,
            protocol: protocol?,
            to_port: to_port?,
            ..Match::default()
        };
        let spans = Spans {
            family: None,
            source: raw.source.as_ref().map(|several| several.span),
            destination: raw.destination.as_ref().map(|several| several.span),
            protocol: raw.protocol.as_ref().map(|several| several.span),
            from_port: ("from-port", None),
            to_port: ("port", raw.port.as_ref().map(|several| several.span)),
            special: [
                ("tcp-flags", Protocol::TCP, None),
                ("icmp", Protocol::ICMP, None),
                ("icmpv6", Protocol::ICMPV6, None),
            ],
        };
        checked.check_whole(&spans, &SetTable::none(), report)?;
        Some(checked)
    }

    /// Refuses parts that no packet can have together, and completes `protocol`.
    fn check_whole(&mut self, spans: &Spans, sets: &SetTable<'_>, report: &mut Report<'_>) -> Option<()> {
        self.check_special(spans, report)?;
        self.check_ports(spans, report)?;
        self.check_families(spans, sets, report)
    }

    /// Flags of TCP and messages of ICMP mean their protocol.
    fn check_special(&mut self, spans: &Spans, report: &mut Report<'_>) -> Option<()> {
        let mut given =
            spans.special.iter().filter_map(|(key, protocol, span)| Some((*key, *protocol, (*span)?)));
        let Some((key, protocol, span)) = given.next() else { return Some(()) };
        if let Some((other, _, second)) = given.next() {
            report.error(second, format!("no packet can match: `{key}` and `{other}` are of two protocols"));
            return None;
        }
        match &self.protocol {
            None => self.protocol = Some(Several { not: false, any_of: vec![protocol] }),
            Some(Several { not: false, any_of }) if any_of.iter().all(|one| *one == protocol) => {}
            Some(_) => {
                let misread = Misread::new(format!("`{key}` with another `protocol` than {protocol}"));
                report.error(
                    span,
                    misread.help(format!("leave `protocol` out, or write `protocol: {protocol}`")),
                );
                return None;
            }
        }
        Some(())
    }

    fn check_ports(&self, spans: &Spans, report: &mut Report<'_>) -> Option<()> {
        for (key, span) in [spans.from_port, spans.to_port] {
            let Some(span) = span else { continue };
            let misread = match &self.protocol {
                None => Misread::new(format!("`{key}` without `protocol`"))
                    .help("add `protocol: tcp`, `udp`, `sctp`, or a list of them"),
                Some(Several { not: true, .. }) => {
                    Misread::new(format!("`{key}` with `protocol: {{ not: … }}`"))
                        .help("name the protocols: tcp, udp or sctp")
                }
                Some(Several { any_of, .. }) => {
                    let Some(protocol) = any_of.iter().find(|protocol| !protocol.has_ports()) else {
                        continue;
                    };
                    Misread::new(format!("`{key}` with protocol `{protocol}`, which has no ports"))
                        .help("ports are matched of tcp, udp and sctp")
                }
            };
            report.error(span, misread);
            return None;
        }
        Some(())
    }

    fn check_families(&self, spans: &Spans, sets: &SetTable<'_>, report: &mut Report<'_>) -> Option<()> {
        let special = spans.special.iter().find_map(|(key, _, span)| span.map(|span| (*key, span)));
        let protocol = spans.protocol.map(|span| ("protocol", span)).or(special);
        let claims = [
            (spans.family.map(|span| ("family", span)), self.family.map(Family::families)),
            (protocol, self.protocol.as_ref().map(protocol_families)),
            (
                spans.source.map(|span| ("source", span)),
                self.source.as_ref().map(|source| address_families(source, sets)),
            ),
            (
                spans.destination.map(|span| ("destination", span)),
                self.destination.as_ref().map(|destination| address_families(destination, sets)),
            ),
        ];
        let mut all = Families::BOTH;
        let mut narrowed = "";
        for (place, families) in claims {
            let (Some((key, span)), Some(families)) = (place, families) else { continue };
            if all.and(families).is_none() {
                report.error(
                    span,
                    format!(
                        "no packet can match: `{narrowed}` is of {}, `{key}` of {}",
                        all.word(),
                        families.word()
                    ),
                );
                return None;
            }
            if all.and(families) != all {
                narrowed = key;
            }
            all = all.and(families);
        }
        Some(())
    }
}

/// Where the parts stand that are compared with each other.
struct Spans {
    family: Option<Span>,
    source: Option<Span>,
    destination: Option<Span>,
    protocol: Option<Span>,
    from_port: (&'static str, Option<Span>),
    to_port: (&'static str, Option<Span>),
    special: [(&'static str, Protocol, Option<Span>); 3],
}

impl Family {
    const fn families(self) -> Families {
        match self {
            Family::Ipv4 => Families::IPV4,
            Family::Ipv6 => Families::IPV6,
        }
    }
}

fn protocol_families(protocols: &Several<Protocol>) -> Families {
    if protocols.not {
        return Families::BOTH;
    }
    protocols.any_of.iter().fold(Families::NONE, |sum, protocol| {
        sum.or(match *protocol {
            Protocol::ICMP => Families::IPV4,
            Protocol::ICMPV6 => Families::IPV6,
            _ => Families::BOTH,
        })
    })
}

fn address_families(addresses: &Several<Addresses>, sets: &SetTable<'_>) -> Families {
    if addresses.not {
        return Families::BOTH;
    }
    addresses.any_of.iter().fold(Families::NONE, |sum, addresses| {
        sum.or(match addresses {
            Addresses::Range(range) => Families::of(range),
            Addresses::Set(id) => sets.families(*id),
        })
    })
}

impl TcpFlags {
    fn check(raw: &At<crate::raw::TcpFlags>, report: &mut Report<'_>) -> Option<Self> {
        let bits = |list: &Given<OneOrMany<TcpFlag>>, report: &mut Report<'_>| {
            let Some(list) = list.as_ref() else { return Some(0) };
            Some(list.read(report)?.iter().fold(0, |bits, flag| bits | flag.bit()))
        };
        let set = bits(&raw.value.set, report);
        let clear = bits(&raw.value.clear, report);
        let (set, clear) = (set?, clear?);
        if set | clear == 0 {
            let misread = Misread::new("`tcp-flags` names no flags");
            report.error(raw.span, misread.help("write for example `{ set: syn, clear: ack }`"));
            return None;
        }
        if let Some(flag) = TcpFlag::ALL.into_iter().find(|flag| set & clear & flag.bit() != 0) {
            let misread = Misread::new(format!("no packet can match: `{flag}` is to be set and clear"));
            report.error(raw.span, misread);
            return None;
        }
        Some(TcpFlags { set, clear })
    }
}

/// What may be left out: `None` if it is wrong and was reported.
pub(super) fn given<V: Value>(written: &Given<Written<V>>, report: &mut Report<'_>) -> Option<Option<V>> {
    written.as_ref().map_or(Some(None), |written| written.read(report).map(Some))
}

/// Reads every value of a list; `None` after an error.
fn several<V, T>(
    raw: &Given<crate::raw::Several<V>>,
    report: &mut Report<'_>,
    mut read: impl FnMut(&Written<V>, &mut Report<'_>) -> Option<T>,
) -> Option<Option<Several<T>>> {
    let Some(raw) = raw.as_ref() else { return Some(None) };
    if raw.list.is_empty() {
        report.error(raw.span, "the list is empty");
        return None;
    }
    let values: Vec<Option<T>> = raw.list.iter().map(|written| read(written, report)).collect();
    Some(Some(Several { not: raw.not, any_of: values.into_iter().collect::<Option<_>>()? }))
}

fn interfaces(
    raw: &Given<crate::raw::Several<Name>>,
    known: &Known<'_>,
    report: &mut Report<'_>,
) -> Option<Option<Several<InterfaceId>>> {
    several(raw, report, |written, report| known.interface(written, report))
}

fn addresses(
    written: &Written<OrSet<AddressRange>>,
    sets: &mut SetTable<'_>,
    report: &mut Report<'_>,
) -> Option<Addresses> {
    match written.read(report)? {
        OrSet::Value(range) => Some(Addresses::Range(range)),
        OrSet::Set(name) => {
            let id = sets.find(&name, written.span, report)?;
            sets.check_kind(id, false, written.span, report).map(|()| Addresses::Set(id))
        }
    }
}

fn ports(
    written: &Written<OrSet<PortRange>>,
    sets: &mut SetTable<'_>,
    report: &mut Report<'_>,
) -> Option<Ports> {
    match written.read(report)? {
        OrSet::Value(range) => Some(Ports::Range(range)),
        OrSet::Set(name) => {
            let id = sets.find(&name, written.span, report)?;
            sets.check_kind(id, true, written.span, report).map(|()| Ports::Set(id))
        }
    }
}
