//! What is known of a connection: with both sides' packets, with the client's alone, or from its middle on.

use std::time::Duration;

use throughway_packet::Headers;
use throughway_session::connection::{Connection, Timeouts};
use throughway_session::tcp::{Event, Tcp, flags};
use throughway_session::{Class, Side};

const TCP: u8 = 6;

/// A connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Track {
    /// Seen from its beginning. For other protocols than TCP the client's packets are enough.
    Both(Connection),
    /// TCP whose beginning was not seen: this box or its service was started meanwhile. The backend has not answered yet.
    PickedUp,
    /// TCP of which only the client's packets pass here.
    Client(Half),
}

/// A TCP connection as the client's packets tell it. The state is behind the hosts' or ahead of it by what the backend says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Half {
    /// The client has sent its SYN.
    Opening,
    /// It has acknowledged: the backend has answered.
    Open,
    /// Nothing but its middle was seen.
    PickedUp,
    /// It has sent a FIN: it still acknowledges what the backend sends.
    Closing,
    /// It has sent a reset.
    Reset,
}

impl Track {
    /// The connection that a first packet of the client opens; `None` for segments that can belong to none.
    pub(crate) fn open(headers: &Headers, one_sided: bool) -> Option<Track> {
        if headers.key.protocol != TCP {
            return Connection::open(headers).map(Track::Both);
        }
        match headers.tcp_flags & (flags::SYN | flags::ACK | flags::RST | flags::FIN) {
            flags::SYN if one_sided => Some(Track::Client(Half::Opening)),
            flags::SYN => Connection::open(headers).map(Track::Both),
            flags::ACK if one_sided => Some(Track::Client(Half::PickedUp)),
            flags::ACK => Some(Track::PickedUp),
            _ => None,
        }
    }

    /// Takes note of a packet.
    pub(crate) fn packet(&mut self, side: Side, headers: &Headers) -> Event {
        let tcp_flags = headers.tcp_flags;
        match self {
            Track::Both(connection) => connection.packet(side, headers),
            Track::PickedUp if side == Side::Forward && is_syn(tcp_flags) => Event::Reopens,
            Track::PickedUp if side == Side::Forward && tcp_flags & (flags::RST | flags::FIN) == 0 => {
                Event::Fits
            }
            Track::PickedUp => match Tcp::open(flags::ACK, true) {
                Some(mut tcp) => {
                    let event = tcp.segment(side, tcp_flags);
                    if event == Event::Fits {
                        *self = Track::Both(Connection::Tcp(tcp));
                    }
                    event
                }
                None => Event::Invalid,
            },
            Track::Client(half) => half.segment(side, tcp_flags),
        }
    }

    /// What its session is counted as. What has not proven that the backend answers is half-open.
    pub(crate) const fn class(self) -> Class {
        match self {
            Track::Both(connection) => connection.class(),
            Track::PickedUp | Track::Client(Half::Opening | Half::PickedUp) => Class::HalfOpen,
            Track::Client(Half::Open) => Class::Established,
            Track::Client(Half::Closing | Half::Reset) => Class::Closing,
        }
    }

    /// Whether the next packet that is no SYN, FIN or RST tells nothing new: the flow cache may answer for it.
    pub(crate) const fn is_settled(self) -> bool {
        match self {
            Track::Both(connection) => !matches!(connection.class(), Class::HalfOpen),
            Track::PickedUp | Track::Client(Half::Opening) => false,
            Track::Client(_) => true,
        }
    }

    /// Whether it may still be moved to another backend: that one has not answered, or has no state to lose.
    pub(crate) const fn is_movable(self) -> bool {
        match self {
            Track::Both(connection) => {
                matches!(connection, Connection::Stateless { .. })
                    || matches!(connection.class(), Class::HalfOpen)
            }
            Track::Client(Half::Opening) => true,
            Track::PickedUp | Track::Client(_) => false,
        }
    }

    /// How long its session lives without another packet of this kind.
    pub(crate) fn timeout(self, headers: &Headers, timeouts: &Timeouts) -> Duration {
        match self {
            Track::Both(connection) => connection.timeout(headers, timeouts),
            Track::PickedUp => timeouts.tcp.syn_received,
            Track::Client(Half::Opening) => timeouts.tcp.syn_sent,
            Track::Client(Half::Open | Half::PickedUp) => timeouts.tcp.established,
            Track::Client(Half::Closing) => timeouts.tcp.fin_wait,
            Track::Client(Half::Reset) => timeouts.tcp.close,
        }
    }
}

const fn is_syn(tcp_flags: u8) -> bool {
    tcp_flags & (flags::SYN | flags::ACK | flags::RST | flags::FIN) == flags::SYN
}

impl Half {
    fn segment(&mut self, side: Side, tcp_flags: u8) -> Event {
        // The backend's, if they pass here at all, prove nothing that the client's do not.
        if side == Side::Reverse {
            return Event::Fits;
        }
        let next = match (*self, tcp_flags & (flags::SYN | flags::ACK | flags::RST | flags::FIN)) {
            (_, with) if with & flags::RST != 0 => Half::Reset,
            (Half::Closing | Half::Reset, flags::SYN) => return Event::Reopens,
            (Half::PickedUp, flags::SYN) => return Event::Reopens,
            // Sent again; or after a crash, and the backend knows what to say (RFC 9293, section 3.5.1).
            (state, flags::SYN) => state,
            (Half::Opening, flags::ACK) => Half::Open,
            (state, flags::ACK) => state,
            (_, with) if with == flags::FIN | flags::ACK => Half::Closing,
            _ => return Event::Invalid,
        };
        *self = next;
        Event::Fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flags::{ACK, FIN, RST, SYN};

    #[test]
    fn the_clients_packets_alone_tell_the_state() {
        let steps: &[(u8, Event, Half)] = &[
            (SYN, Event::Fits, Half::Opening),
            (ACK, Event::Fits, Half::Open),
            (SYN, Event::Fits, Half::Open),
            (FIN, Event::Invalid, Half::Open),
            (FIN | ACK, Event::Fits, Half::Closing),
            (ACK, Event::Fits, Half::Closing),
            (SYN, Event::Reopens, Half::Closing),
            (RST | ACK, Event::Fits, Half::Reset),
            (SYN, Event::Reopens, Half::Reset),
        ];
        let mut half = Half::Opening;
        for (flags, event, after) in steps {
            assert_eq!((half.segment(Side::Forward, *flags), half), (*event, *after), "{flags:#x}");
        }
    }

    #[test]
    fn what_was_picked_up_is_proven_by_the_backend_alone() {
        let segment = |tcp_flags| {
            let mut headers = Headers { tcp_flags, ..Headers::default() };
            headers.key.protocol = TCP;
            headers
        };
        let mut track = Track::open(&segment(ACK), false).unwrap();
        for _ in 0..3 {
            assert_eq!(track.packet(Side::Forward, &segment(ACK)), Event::Fits);
            assert_eq!((track.class(), track.is_settled()), (Class::HalfOpen, false));
        }
        assert_eq!(track.packet(Side::Reverse, &segment(ACK)), Event::Fits);
        assert_eq!((track.class(), track.is_settled()), (Class::Established, true));
        let mut track = Track::open(&segment(ACK), false).unwrap();
        assert_eq!(track.packet(Side::Reverse, &segment(RST)), Event::Fits);
        assert_eq!(track.class(), Class::Closing);
        assert_eq!(Track::open(&segment(RST), false), None);
        assert_eq!(Track::open(&segment(FIN | ACK), true), None);
    }
}
