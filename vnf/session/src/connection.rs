//! The state of a connection of any protocol, as a stateful function keeps it in its session: how long that lives, and what it
//! is counted as.

use std::time::Duration;

use crate::key::Side;
use crate::quota::Class;
use crate::tcp::{Event, Tcp};
use crate::timeouts::{self, TcpTimeouts};
use throughway_packet::{Flags, Headers};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// How long sessions live without a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// TCP, by state (RFC 5382, REQ-5).
    pub tcp: TcpTimeouts,
    /// UDP (RFC 4787, REQ-5).
    pub udp: Duration,
    /// ICMP queries (RFC 5508, REQ-2).
    pub icmp: Duration,
    /// Everything else.
    pub other: Duration,
}

impl Timeouts {
    /// What RFC 5382, 4787 and 5508 ask of a NAT.
    pub const NAT: Timeouts = Timeouts {
        tcp: TcpTimeouts::RFC5382,
        udp: timeouts::UDP,
        icmp: timeouts::ICMP_QUERY,
        other: timeouts::OTHER,
    };
}

/// The state of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Connection {
    /// TCP.
    Tcp(Tcp),
    /// Anything else; `answered` once the other side has spoken, or the opener a second time.
    Stateless {
        /// Whether it has proven itself.
        answered: bool,
    },
}

impl Connection {
    /// The connection that a first packet opens; `None` for a TCP segment that opens none.
    pub fn open(headers: &Headers) -> Option<Connection> {
        if headers.key.protocol == TCP {
            return Tcp::open(headers.tcp_flags, false).map(Connection::Tcp);
        }
        Some(Connection::Stateless { answered: false })
    }

    /// The connection in a byte: to be kept over a restart.
    pub const fn to_bits(self) -> u8 {
        match self {
            Connection::Tcp(tcp) => tcp.to_bits(),
            Connection::Stateless { answered } => 0x10 | answered as u8,
        }
    }

    /// The connection that [`Connection::to_bits`] turned into `bits`.
    pub const fn from_bits(bits: u8) -> Option<Connection> {
        match bits {
            0x10 | 0x11 => Some(Connection::Stateless { answered: bits & 1 != 0 }),
            _ => match Tcp::from_bits(bits) {
                Some(tcp) => Some(Connection::Tcp(tcp)),
                None => None,
            },
        }
    }

    /// Takes note of a packet.
    pub fn packet(&mut self, side: Side, headers: &Headers) -> Event {
        match self {
            Connection::Tcp(tcp) => tcp.segment(side, headers.tcp_flags),
            Connection::Stateless { answered } => {
                *answered = true;
                Event::Fits
            }
        }
    }

    /// What its session is counted as.
    pub const fn class(self) -> Class {
        match self {
            Connection::Tcp(tcp) => tcp.class(),
            Connection::Stateless { answered: true } => Class::Established,
            Connection::Stateless { answered: false } => Class::HalfOpen,
        }
    }

    /// How long its session lives without another packet of this kind.
    pub fn timeout(self, headers: &Headers, timeouts: &Timeouts) -> Duration {
        match self {
            Connection::Tcp(tcp) => tcp.timeout(&timeouts.tcp),
            Connection::Stateless { .. } if headers.key.protocol == UDP => timeouts.udp,
            Connection::Stateless { .. } if headers.flags.has(Flags::ICMP_QUERY) => timeouts.icmp,
            Connection::Stateless { .. } => timeouts.other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_is_a_byte_and_no_other_byte_is_one() {
        let known = (0..=u8::MAX).filter_map(|bits| Some((bits, Connection::from_bits(bits)?)));
        let known: Vec<_> = known.collect();
        assert_eq!(known.len(), 16 + 2);
        assert!(known.iter().all(|(bits, connection)| connection.to_bits() == *bits));
        let distinct = |at: usize| known[..at].iter().all(|(_, before)| *before != known[at].1);
        assert!((0..known.len()).all(distinct));
    }
}
