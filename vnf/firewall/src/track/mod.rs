//! Following connections: what a packet is to them.
//!
//! TCP by its states (and windows, if asked for), SCTP by its chunks, ICMP queries by their identifier, everything
//! else by whether somebody has answered.

pub(crate) mod icmp;
pub(crate) mod sctp;
pub(crate) mod window;

use std::time::Duration;

use throughway_packet::parse::{ICMP, ICMPV6, SCTP, TCP, UDP};
use throughway_packet::{Flags, Headers};
use throughway_session::tcp::{self, Tcp};
use throughway_session::{Class, SessionKey, Side};
use throughway_vnf::credit::{session_silence, steady_silence};

use crate::options::{Options, Timeouts};
use icmp::Query;
use sctp::{Association, Chunks};
use window::{Segment, Windows};

/// What of the upper layer decides about a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Upper {
    /// The segment only if windows are checked and it is whole.
    Tcp {
        flags: u8,
        segment: Option<Segment>,
    },
    Udp,
    Query(Query),
    Sctp(Chunks),
    Other,
}

/// What a packet is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject<K> {
    /// A connection, known or not, and its key.
    Connection(K, Upper),
    /// An ICMP error about some other packet.
    Error,
    /// Something that connections are not followed for: neighbour discovery, multicast listeners.
    Untracked,
    /// Nothing that makes sense.
    Nothing,
}

impl<K> Subject<K> {
    /// With the key in another form.
    pub(crate) fn with<L>(self, form: impl FnOnce(K) -> L) -> Subject<L> {
        match self {
            Subject::Connection(key, upper) => Subject::Connection(form(key), upper),
            Subject::Error => Subject::Error,
            Subject::Untracked => Subject::Untracked,
            Subject::Nothing => Subject::Nothing,
        }
    }
}

/// What a packet with these headers is about. `bytes` is the frame, and `received` its headers as it came in; the key is that of
/// the headers as edited so far.
pub(crate) fn subject(
    bytes: &[u8],
    received: &Headers,
    headers: &Headers,
    options: &Options,
) -> Subject<SessionKey> {
    let mut key = SessionKey::of(&headers.key, options.zone);
    let payload = bytes.get(usize::from(received.l4)..usize::from(received.end)).unwrap_or_default();
    let whole = !headers.flags.has(Flags::FRAGMENT);
    let upper = match headers.key.protocol {
        TCP => {
            let segment = if options.check_windows && whole { Segment::parse(payload) } else { None };
            Upper::Tcp { flags: headers.tcp_flags, segment }
        }
        UDP => Upper::Udp,
        ICMP | ICMPV6 => {
            let ipv4 = headers.is_ipv4();
            if (headers.key.protocol == ICMP) != ipv4 {
                return Subject::Nothing;
            }
            if headers.flags.has(Flags::ICMP_ERROR) {
                return Subject::Error;
            }
            if let Some(query) = Query::of(ipv4, headers.icmp_type) {
                query.put_into(&mut key);
                Upper::Query(query)
            } else if icmp::is_untracked(ipv4, headers.icmp_type) {
                return Subject::Untracked;
            } else {
                return Subject::Nothing;
            }
        }
        SCTP => match Chunks::parse(payload, whole) {
            Some(chunks) => Upper::Sctp(chunks),
            None => return Subject::Nothing,
        },
        _ => Upper::Other,
    };
    Subject::Connection(key, upper)
}

/// Whether somebody has answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Exchange {
    /// One packet was seen.
    Opened,
    /// More, all in one direction.
    OneWay,
    /// Packets of both directions.
    Answered,
}

impl Exchange {
    fn packet(&mut self, side: Side) {
        *self = match (*self, side) {
            (_, Side::Reverse) | (Exchange::Answered, _) => Exchange::Answered,
            (Exchange::Opened | Exchange::OneWay, Side::Forward) => Exchange::OneWay,
        };
    }

    fn class(self) -> Class {
        if self == Exchange::Opened { Class::HalfOpen } else { Class::Established }
    }
}

/// A connection as it is followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Track {
    Tcp(Tcp, Option<Box<Windows>>),
    Udp(Exchange),
    Query(Query, Exchange),
    Sctp(Association),
    Other(Exchange),
}

/// What a packet means for its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fit {
    /// It belongs to it.
    Fits,
    /// It opens a new one where this one has ended.
    Reopens,
    /// It does not belong to it; nothing has changed.
    Not,
}

impl Track {
    /// The connection that a packet opens, if it may.
    pub(crate) fn open(upper: &Upper, options: &Options) -> Option<Track> {
        match upper {
            Upper::Tcp { flags, segment } => {
                let tcp = Tcp::open(*flags, options.pickup)?;
                let windows =
                    options.check_windows.then(|| Box::new(Windows::open(*flags, segment.as_ref())));
                Some(Track::Tcp(tcp, windows))
            }
            Upper::Udp => Some(Track::Udp(Exchange::Opened)),
            Upper::Query(query) => (!query.reply).then_some(Track::Query(*query, Exchange::Opened)),
            Upper::Sctp(chunks) => Association::open(chunks).map(Track::Sctp),
            Upper::Other => Some(Track::Other(Exchange::Opened)),
        }
    }

    /// Takes note of a packet from `side`.
    pub(crate) fn packet(&mut self, side: Side, upper: &Upper) -> Fit {
        match (self, upper) {
            (Track::Tcp(tcp, windows), Upper::Tcp { flags, segment }) => {
                // The last acknowledgement of a close may have taken the short way past us: both sides have closed, so a
                // SYN begins something new.
                let syn_only =
                    flags & (tcp::flags::SYN | tcp::flags::ACK | tcp::flags::RST) == tcp::flags::SYN;
                if tcp.state() == tcp::State::LastAck && syn_only && flags & tcp::flags::FIN == 0 {
                    return Fit::Reopens;
                }
                let mut next = *tcp;
                let event = next.segment(side, *flags);
                match event {
                    tcp::Event::Fits => {}
                    tcp::Event::Reopens => return Fit::Reopens,
                    tcp::Event::Invalid => return Fit::Not,
                }
                if let (Some(windows), Some(segment)) = (windows, segment)
                    && !windows.segment(side, *flags, segment)
                {
                    return Fit::Not;
                }
                *tcp = next;
                Fit::Fits
            }
            (Track::Udp(exchange), Upper::Udp) | (Track::Other(exchange), Upper::Other) => {
                exchange.packet(side);
                Fit::Fits
            }
            (Track::Query(_, exchange), Upper::Query(seen)) => {
                // The kind of question is in the key. That a question is not taken for an answer must be asked: with an
                // identifier that looks like a kind, both have the same key.
                if seen.reply != (side == Side::Reverse) {
                    return Fit::Not;
                }
                exchange.packet(side);
                Fit::Fits
            }
            (Track::Sctp(association), Upper::Sctp(chunks)) => association.packet(side, chunks),
            _ => Fit::Not,
        }
    }

    pub(crate) fn class(&self) -> Class {
        match self {
            Track::Tcp(tcp, _) => tcp.class(),
            Track::Udp(exchange) | Track::Query(_, exchange) | Track::Other(exchange) => exchange.class(),
            Track::Sctp(association) => association.class(),
        }
    }

    pub(crate) fn timeout(&self, timeouts: &Timeouts) -> Duration {
        match self {
            Track::Tcp(tcp, _) => tcp.timeout(&timeouts.tcp),
            Track::Udp(Exchange::Answered) => timeouts.udp_stream,
            Track::Udp(_) => timeouts.udp,
            Track::Query(..) => timeouts.icmp,
            Track::Sctp(association) => association.timeout(&timeouts.sctp),
            Track::Other(_) => timeouts.other,
        }
    }

    /// How long a flow may be silent for the answer "it belongs to a connection in this state" to hold for its next packet
    /// (ns), or `None` if every packet must be looked at: while the connection is half-open or closing, where windows are
    /// checked, of SCTP (its chunks say what happens) and of ICMP queries (their type is not in a flow's key).
    pub(crate) fn silence(&self, timeouts: &Timeouts) -> Option<u64> {
        if self.class() != Class::Established {
            return None;
        }
        match self {
            Track::Tcp(_, Some(_)) | Track::Query(..) | Track::Sctp(_) => None,
            // Its next states have shorter timeouts, and caches do not hear of them.
            Track::Tcp(_, None) => {
                session_silence(timeouts.shortest_of_closing().min(timeouts.tcp.established))
            }
            Track::Udp(_) => steady_silence(timeouts.udp.min(timeouts.udp_stream)),
            Track::Other(_) => steady_silence(timeouts.other),
        }
    }

    /// The state's name, for people.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Track::Tcp(tcp, _) => match tcp.state() {
                tcp::State::SynSent => "syn-sent",
                tcp::State::SynReceived => "syn-received",
                tcp::State::Established => "established",
                tcp::State::FinWait => "fin-wait",
                tcp::State::CloseWait => "close-wait",
                tcp::State::LastAck => "last-ack",
                tcp::State::TimeWait => "time-wait",
                tcp::State::Close => "close",
            },
            Track::Udp(exchange) | Track::Query(_, exchange) | Track::Other(exchange) => match exchange {
                Exchange::Opened | Exchange::OneWay => "unreplied",
                Exchange::Answered => "replied",
            },
            Track::Sctp(association) => association.label(),
        }
    }
}
