//! The states of a TCP connection (RFC 9293, section 3.3.2) as somebody in the middle sees them: from flags and directions
//! alone, without sequence numbers.
//!
//! An acknowledgement that crosses a FIN is taken for the FIN's own: the state may be one step ahead of the hosts', which costs
//! nothing but a shorter timeout. A reset is believed whatever its sequence number is; who wants to check it (RFC 5961)
//! does so before asking here.

use std::time::Duration;

use crate::key::Side;
use crate::quota::Class;
use crate::timeouts::TcpTimeouts;

/// Bits of the flags byte of a TCP header (RFC 9293, section 3.1).
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 1 << 0;
    /// Synchronize sequence numbers.
    pub const SYN: u8 = 1 << 1;
    /// Reset the connection.
    pub const RST: u8 = 1 << 2;
    /// The acknowledgement field is significant.
    pub const ACK: u8 = 1 << 4;
}

use flags::{ACK, FIN, RST, SYN};

/// A state of a connection. Names as in conntrack.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// The opener has sent its SYN.
    SynSent,
    /// Both sides have sent a SYN; the handshake is not complete.
    SynReceived,
    /// The handshake is complete.
    Established,
    /// One side has sent a FIN.
    FinWait,
    /// … and the other has acknowledged it, and may go on sending.
    CloseWait,
    /// Both sides have sent a FIN.
    LastAck,
    /// … and the last one is acknowledged.
    TimeWait,
    /// Reset.
    Close,
}

/// What a segment means for its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// It fits; the state may have changed.
    Fits,
    /// It would open a new connection where this one has ended: remove the session and make a new one.
    Reopens,
    /// It cannot belong to the connection; nothing has changed.
    Invalid,
}

/// A connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tcp {
    state: State,
    /// Who has sent the SYN or the FIN that is being waited for an answer to.
    first: Side,
}

/// What a segment is there for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Syn,
    SynAck,
    Fin,
    Ack,
    Rst,
}

/// Sorts a segment by its flags. `None`: combinations no host sends, but scanners do (none at all, SYN with FIN or RST,
/// FIN with RST or without ACK, and so on).
fn kind(tcp_flags: u8) -> Option<Kind> {
    match tcp_flags & (FIN | SYN | RST | ACK) {
        flags if flags == SYN => Some(Kind::Syn),
        flags if flags == SYN | ACK => Some(Kind::SynAck),
        flags if flags == FIN | ACK => Some(Kind::Fin),
        flags if flags == ACK => Some(Kind::Ack),
        flags if flags == RST || flags == RST | ACK => Some(Kind::Rst),
        _ => None,
    }
}

impl Tcp {
    /// The connection that a first segment opens: by a SYN; with `pickup` also one that is under way, by an ACK.
    pub fn open(tcp_flags: u8, pickup: bool) -> Option<Tcp> {
        let first = Side::Forward;
        match kind(tcp_flags)? {
            Kind::Syn => Some(Tcp { state: State::SynSent, first }),
            Kind::Ack if pickup => Some(Tcp { state: State::Established, first }),
            _ => None,
        }
    }

    /// The state.
    pub const fn state(self) -> State {
        self.state
    }

    /// The connection in a byte, below 16: to be kept over a restart.
    pub const fn to_bits(self) -> u8 {
        (self.first as u8) << 3 | self.state as u8
    }

    /// The connection that [`Tcp::to_bits`] turned into `bits`.
    pub const fn from_bits(bits: u8) -> Option<Tcp> {
        let first = match bits >> 3 {
            0 => Side::Forward,
            1 => Side::Reverse,
            _ => return None,
        };
        let state = match bits & 7 {
            0 => State::SynSent,
            1 => State::SynReceived,
            2 => State::Established,
            3 => State::FinWait,
            4 => State::CloseWait,
            5 => State::LastAck,
            6 => State::TimeWait,
            _ => State::Close,
        };
        Some(Tcp { state, first })
    }

    /// Takes note of a segment that came from `side`.
    pub fn segment(&mut self, side: Side, tcp_flags: u8) -> Event {
        use State::{Close, CloseWait, Established, FinWait, LastAck, SynReceived, SynSent, TimeWait};
        let Some(kind) = kind(tcp_flags) else { return Event::Invalid };
        let by_first = side == self.first;
        let next = match (self.state, kind) {
            (Close | TimeWait, Kind::Syn) => return Event::Reopens,
            (_, Kind::Rst) => Close,

            // Sent again.
            (SynSent, Kind::Syn) if by_first => SynSent,
            // Both open at the same time (RFC 9293, figure 7).
            (SynSent, Kind::Syn) => SynReceived,
            (SynSent, Kind::SynAck) if !by_first => SynReceived,
            (SynSent, _) => return Event::Invalid,

            (SynReceived, Kind::Syn | Kind::SynAck) => SynReceived,
            (SynReceived, Kind::Ack) if by_first => Established,
            // Data of the other side that overtook the opener's acknowledgement.
            (SynReceived, Kind::Ack) => SynReceived,
            // Sent again, or late: answered by the hosts (RFC 5961, section 4), no change here.
            (state, Kind::Syn | Kind::SynAck) => state,

            (SynReceived | Established, Kind::Fin) => {
                self.first = side;
                FinWait
            }
            (Established, Kind::Ack) => Established,

            (FinWait | CloseWait, Kind::Fin) if !by_first => LastAck,
            (FinWait, Kind::Ack) if !by_first => CloseWait,
            (LastAck, Kind::Ack) if by_first => TimeWait,
            (state @ (FinWait | CloseWait | LastAck | TimeWait | Close), Kind::Fin | Kind::Ack) => state,
        };
        self.state = next;
        Event::Fits
    }

    /// What the session is counted as.
    pub const fn class(self) -> Class {
        match self.state {
            State::SynSent | State::SynReceived => Class::HalfOpen,
            State::Established => Class::Established,
            State::FinWait | State::CloseWait | State::LastAck | State::TimeWait | State::Close => {
                Class::Closing
            }
        }
    }

    /// How long the session lives without another segment.
    pub const fn timeout(self, timeouts: &TcpTimeouts) -> Duration {
        match self.state {
            State::SynSent => timeouts.syn_sent,
            State::SynReceived => timeouts.syn_received,
            State::Established => timeouts.established,
            State::FinWait => timeouts.fin_wait,
            State::CloseWait => timeouts.close_wait,
            State::LastAck => timeouts.last_ack,
            State::TimeWait => timeouts.time_wait,
            State::Close => timeouts.close,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use State::*;

    const SA: u8 = SYN | ACK;
    const FA: u8 = FIN | ACK;
    const RA: u8 = RST | ACK;
    const PSH: u8 = 1 << 3;
    const URG: u8 = 1 << 5;
    const ECE_CWR: u8 = 3 << 6;

    /// `>` is a segment of the opener, `<` one of the other side; with the state afterwards.
    type Steps = &'static [(char, u8, State)];

    #[test]
    fn follows_conversations() {
        let conversations: &[(&str, Steps)] = &[
            (
                "three-way handshake, data, orderly close",
                &[
                    ('<', SA, SynReceived),
                    ('>', ACK, Established),
                    ('>', ACK | PSH, Established),
                    ('<', ACK, Established),
                    ('>', FA, FinWait),
                    ('<', ACK, CloseWait),
                    ('<', ACK | PSH, CloseWait),
                    ('<', FA, LastAck),
                    ('>', ACK, TimeWait),
                ],
            ),
            (
                "the other side closes first",
                &[
                    ('<', SA, SynReceived),
                    ('>', ACK, Established),
                    ('<', FA, FinWait),
                    ('>', ACK, CloseWait),
                    ('>', FA, LastAck),
                    ('<', ACK, TimeWait),
                ],
            ),
            (
                "close in three segments",
                &[
                    ('<', SA, SynReceived),
                    ('>', ACK, Established),
                    ('>', FA, FinWait),
                    ('<', FA, LastAck),
                    ('>', ACK, TimeWait),
                ],
            ),
            (
                "simultaneous close",
                &[
                    ('<', SA, SynReceived),
                    ('>', ACK, Established),
                    ('>', FA, FinWait),
                    ('<', FA, LastAck),
                    ('<', ACK, LastAck),
                    ('>', ACK, TimeWait),
                ],
            ),
            (
                "simultaneous open",
                &[
                    ('<', SYN, SynReceived),
                    ('>', SA, SynReceived),
                    ('<', SA, SynReceived),
                    ('>', ACK, Established),
                ],
            ),
            (
                "everything sent twice",
                &[
                    ('>', SYN, SynSent),
                    ('<', SA, SynReceived),
                    ('<', SA, SynReceived),
                    ('>', ACK, Established),
                    ('<', SA, Established),
                    ('>', ACK, Established),
                    ('>', FA, FinWait),
                    ('>', FA, FinWait),
                    ('<', ACK, CloseWait),
                    ('>', FA, CloseWait),
                    ('<', FA, LastAck),
                    ('<', FA, LastAck),
                    ('>', ACK, TimeWait),
                    ('<', FA, TimeWait),
                    ('>', ACK, TimeWait),
                ],
            ),
            ("refused", &[('<', RA, Close)]),
            (
                "aborted",
                &[('<', SA, SynReceived), ('>', ACK, Established), ('>', RST, Close), ('<', ACK, Close)],
            ),
            ("closed during the handshake", &[('<', SA, SynReceived), ('>', FA, FinWait)]),
            (
                "explicit congestion notification (RFC 3168)",
                &[('<', SA | ECE_CWR, SynReceived), ('>', ACK | ECE_CWR, Established)],
            ),
        ];
        for (name, steps) in conversations {
            let mut tcp = Tcp::open(SYN | ECE_CWR, false).unwrap();
            assert_eq!((tcp.state(), tcp.class()), (SynSent, Class::HalfOpen));
            for (number, &(direction, flags, expected)) in steps.iter().enumerate() {
                let side = if direction == '>' { Side::Forward } else { Side::Reverse };
                assert_eq!(tcp.segment(side, flags), Event::Fits, "{name}: segment {number}");
                assert_eq!(tcp.state(), expected, "{name}: segment {number}");
            }
        }
    }

    #[test]
    fn scanners_segments_open_nothing_and_change_nothing() {
        let xmas = FIN | PSH | URG;
        for flags in [
            0,
            FIN,
            xmas,
            SYN | FIN,
            SYN | RST,
            SYN | FIN | ACK,
            SYN | RST | ACK,
            FIN | RST,
            FIN | RST | ACK,
            URG,
            PSH,
        ] {
            assert_eq!(Tcp::open(flags, true), None, "{flags:#04x}");
            let mut tcp = Tcp::open(ACK, true).unwrap();
            for side in [Side::Forward, Side::Reverse] {
                assert_eq!(tcp.segment(side, flags), Event::Invalid, "{flags:#04x}");
            }
            assert_eq!(tcp.state(), Established);
        }
    }

    #[test]
    fn only_a_syn_opens_unless_pickup_is_on() {
        for flags in [ACK, SA, FA, RST, RA] {
            assert_eq!(Tcp::open(flags, false), None, "{flags:#04x}");
        }
        for flags in [SA, FA, RST, RA] {
            assert_eq!(Tcp::open(flags, true), None, "{flags:#04x}");
        }
    }

    #[test]
    fn a_syn_that_was_not_answered_lets_nothing_else_through() {
        for (side, flags) in [
            (Side::Forward, ACK),
            (Side::Reverse, ACK),
            (Side::Forward, SA),
            (Side::Forward, FA),
            (Side::Reverse, FA),
        ] {
            let mut tcp = Tcp::open(SYN, false).unwrap();
            assert_eq!(tcp.segment(side, flags), Event::Invalid, "{side:?} {flags:#04x}");
            assert_eq!(tcp.state(), SynSent);
        }
    }

    #[test]
    fn an_ended_connection_is_opened_anew_by_a_syn_of_either_side() {
        for (flags, ended) in [(RST, Close), (ACK, TimeWait)] {
            let mut tcp = Tcp { state: LastAck, first: Side::Forward };
            assert_eq!(tcp.segment(Side::Forward, flags), Event::Fits);
            assert_eq!(tcp.state(), ended);
            assert_eq!(tcp.segment(Side::Forward, SYN), Event::Reopens);
            assert_eq!(tcp.segment(Side::Reverse, SYN), Event::Reopens);
            assert_eq!(tcp.state(), ended);
        }
    }

    #[test]
    fn every_state_has_its_class_and_timeout() {
        let timeouts = TcpTimeouts::CONNTRACK;
        for (state, class, seconds) in [
            (SynSent, Class::HalfOpen, 120),
            (SynReceived, Class::HalfOpen, 60),
            (Established, Class::Established, 432_000),
            (FinWait, Class::Closing, 120),
            (CloseWait, Class::Closing, 60),
            (LastAck, Class::Closing, 30),
            (TimeWait, Class::Closing, 120),
            (Close, Class::Closing, 10),
        ] {
            let tcp = Tcp { state, first: Side::Forward };
            assert_eq!((tcp.class(), tcp.timeout(&timeouts).as_secs()), (class, seconds), "{state:?}");
        }
        assert_eq!(TcpTimeouts::RFC5382.established.as_secs(), 7440);
    }
}
