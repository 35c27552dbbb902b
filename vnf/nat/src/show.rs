//! Sessions, mappings and pools as plain values, for `show`, `clear` and export.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use throughway_session::connection::Connection;
use throughway_session::{Class, Cursor, Reason, SessionId, SessionKey};
use throughway_vnf::Now;

use crate::plan::ends;
use crate::rule::Filtering;
use crate::shared::{NO_RULE, Shared, end_of, flags};

/// The rule that made a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleNumber {
    /// A source rule, by its place.
    Source(u16),
    /// A destination rule, by its place.
    Destination(u16),
}

/// A session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionView {
    /// Its handle.
    pub id: SessionId,
    /// The packet that opened it, as it came in.
    pub key: SessionKey,
    /// … and as it left.
    pub translated: SessionKey,
    /// The connection's state; for TCP the names of conntrack.
    pub state: &'static str,
    /// What it is counted as.
    pub class: Class,
    /// The rule that made it; `None`: a mapping that lets everybody in.
    pub rule: Option<RuleNumber>,
    /// Whether a host outside opened it.
    pub inbound: bool,
    /// Whether a mapping of its opener belongs to it.
    pub mapped: bool,
    /// Its last packet, as far as it is known: flow caches tell within four seconds.
    pub last_seen: Now,
    /// When it ends without another packet.
    pub expires: Now,
}

/// A mapping.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MappingView {
    /// Protocol (IANA number).
    pub protocol: u8,
    /// The inside end: address and port or identifier.
    pub inside: (IpAddr, u16),
    /// The outside end.
    pub outside: (IpAddr, u16),
    /// Who may send to it.
    pub filtering: Filtering,
    /// Sessions that use it.
    pub sessions: u32,
}

/// Which sessions are meant; what is `None` holds for all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// An address of either end, as seen on either side.
    pub address: Option<RangeInclusive<IpAddr>>,
    /// An address that the NAT gave: destination of the answers.
    pub outside: Option<RangeInclusive<IpAddr>>,
    /// A port of either end, as seen on either side.
    pub port: Option<u16>,
    /// The protocol (IANA number).
    pub protocol: Option<u8>,
}

impl Filter {
    /// Whether a session with these keys is meant.
    pub fn accepts(&self, [forward, reverse]: &[SessionKey; 2]) -> bool {
        let ends = [forward, reverse].map(|key| {
            [end_of(&key.source, key.source_port), end_of(&key.destination, key.destination_port)]
        });
        let any = |is: &dyn Fn(&(IpAddr, u16)) -> bool| ends.iter().flatten().any(is);
        let outside = end_of(&reverse.destination, reverse.destination_port).0;
        self.protocol.is_none_or(|protocol| protocol == forward.protocol)
            && self.outside.as_ref().is_none_or(|range| range.contains(&outside))
            && self.address.as_ref().is_none_or(|range| any(&|(address, _)| range.contains(address)))
            && self.port.is_none_or(|wanted| any(&|(_, port)| *port == wanted))
    }
}

impl Shared {
    /// Shows the sessions of a slice that the filter means, and where to go on; `None` at the end. Begin with
    /// `Cursor::default()`. Each session that lives through all of the walk is shown once.
    pub fn sessions(
        &self,
        cursor: Cursor,
        filter: &Filter,
        mut show: impl FnMut(SessionView),
    ) -> Option<Cursor> {
        let wanted = |keys: &[SessionKey; 2], _: &_| filter.accepts(keys);
        self.sessions.walk_where(cursor, wanted, |[forward, reverse], session, info| {
            let by_destination = session.has(flags::BY_DESTINATION);
            let number =
                |rule| if by_destination { RuleNumber::Destination(rule) } else { RuleNumber::Source(rule) };
            show(SessionView {
                id: info.id,
                key: *forward,
                translated: reverse.reversed(),
                state: state_name(session.connection),
                class: info.class,
                rule: Some(session.rule).filter(|rule| *rule != NO_RULE).map(number),
                inbound: session.has(flags::INBOUND),
                mapped: session.mapping != 0,
                last_seen: info.last_seen,
                expires: info.expires,
            });
        })
    }

    /// Ends the sessions of a slice that the filter means, and says where to go on; `None` at the end. `gone` is told of each.
    pub fn clear(
        &self,
        cursor: Cursor,
        filter: &Filter,
        now: Now,
        mut gone: impl FnMut(&[SessionKey; 2]),
    ) -> Option<Cursor> {
        self.sessions.clear(
            cursor,
            |keys, _| filter.accepts(keys),
            |removed| {
                debug_assert_eq!(removed.reason, Reason::Cleared);
                self.closed(&removed, now);
                gone(&removed.keys);
            },
        )
    }

    /// Ends the sessions on an address that the host has [lost](Shared::lose), and says how many; stops if the host has it again. `now`
    /// is asked before each slice.
    pub fn end_lost(&self, address: IpAddr, now: impl Fn() -> Now) -> usize {
        let lost = Filter { outside: Some(address..=address), ..Filter::default() };
        let mut ended = 0;
        let mut cursor = Some(Cursor::default());
        while let Some(at) = cursor.filter(|_| !self.addresses().has(address)) {
            cursor = self.clear(at, &lost, now(), |_| ended += 1);
        }
        ended
    }

    /// Shows the mappings of a slice, and where to go on; `None` at the end.
    pub fn mappings(&self, cursor: Cursor, mut show: impl FnMut(MappingView)) -> Option<Cursor> {
        self.mappings.walk(cursor, |keys, mapped, _| {
            let (inside, outside) = ends(keys);
            let (filtering, sessions) = (mapped.filtering, mapped.sessions);
            show(MappingView { protocol: keys[0].protocol, inside, outside, filtering, sessions });
        })
    }
}

/// How people call the state of a connection.
pub(crate) const fn state_name(connection: Connection) -> &'static str {
    use throughway_session::tcp::State;
    match connection {
        Connection::Stateless { answered: true } => "answered",
        Connection::Stateless { answered: false } => "unanswered",
        Connection::Tcp(tcp) => match tcp.state() {
            State::SynSent => "syn-sent",
            State::SynReceived => "syn-received",
            State::Established => "established",
            State::FinWait => "fin-wait",
            State::CloseWait => "close-wait",
            State::LastAck => "last-ack",
            State::TimeWait => "time-wait",
            State::Close => "close",
        },
    }
}
