//! What is configured of a firewall beside its rules.

use std::time::Duration;

use throughway_session::timeouts::{self, TcpTimeouts};
use throughway_session::{Seed, WhenFull};

/// How long an SCTP association lives without a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SctpTimeouts {
    /// Until the cookie is acknowledged.
    pub opening: Duration,
    /// Established. Heartbeats come every 30 s (RFC 9260, section 16).
    pub established: Duration,
    /// One side has shut down.
    pub shutdown: Duration,
    /// Shut down or aborted.
    pub closed: Duration,
}

/// How long sessions live without a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// TCP, by state. As conntrack's, but half-open 30 s, and established 2 h 4 min (RFC 5382, REQ-5) instead of five days:
    /// what stands in a bounded table must go in the end.
    pub tcp: TcpTimeouts,
    /// UDP without an answer.
    pub udp: Duration,
    /// UDP with an answer.
    pub udp_stream: Duration,
    /// ICMP queries.
    pub icmp: Duration,
    /// SCTP, by state.
    pub sctp: SctpTimeouts,
    /// Everything else.
    pub other: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Timeouts {
            tcp: TcpTimeouts {
                syn_sent: seconds(30),
                syn_received: seconds(30),
                established: TcpTimeouts::RFC5382.established,
                ..TcpTimeouts::CONNTRACK
            },
            udp: timeouts::UDP_UNANSWERED,
            udp_stream: timeouts::UDP,
            icmp: timeouts::ICMP_QUERY,
            sctp: SctpTimeouts {
                opening: seconds(30),
                established: seconds(210),
                shutdown: seconds(30),
                closed: seconds(10),
            },
            other: timeouts::OTHER,
        }
    }
}

impl Timeouts {
    /// The shortest of a TCP connection after it was established.
    pub(crate) fn shortest_of_closing(&self) -> Duration {
        let TcpTimeouts { fin_wait, close_wait, last_ack, time_wait, close, .. } = self.tcp;
        fin_wait.min(close_wait).min(last_ack).min(time_wait).min(close)
    }
}

/// What is configured of a firewall beside its rules. Fixed when it is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The most sessions.
    pub sessions: u32,
    /// The most sessions that are half-open; of those in [`Options::sessions`].
    pub half_open: u32,
    /// What happens to a new one when there are that many, or the table is full: by default the oldest half-open session makes
    /// room. Nothing else ever does.
    pub when_full: WhenFull,
    /// The most sessions of one source (an IPv4 address, an IPv6 /64); `None`: no limit.
    pub per_source: Option<u32>,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// Whether a TCP connection that is under way may open a session: by default only a SYN does.
    pub pickup: bool,
    /// Whether TCP segments must lie in their windows. Then no TCP packet takes the short way past the function.
    pub check_windows: bool,
    /// The most datagrams of which fragments are awaited.
    pub datagrams: u32,
    /// How long fragments of a datagram are awaited after its first one; at most 60 s (RFC 8200, section 4.5).
    pub fragment_timeout: Duration,
    /// The routing domain: part of every session's key.
    pub zone: u16,
    /// The secret of the hash functions.
    pub seed: Seed,
}

impl Options {
    /// The defaults: 262,144 sessions, an eighth of them half-open.
    pub fn new(seed: Seed) -> Options {
        Options {
            sessions: 1 << 18,
            half_open: 1 << 15,
            when_full: WhenFull::EvictHalfOpen,
            per_source: None,
            timeouts: Timeouts::default(),
            pickup: false,
            check_windows: false,
            datagrams: 4096,
            fragment_timeout: Duration::from_secs(15),
            zone: 0,
            seed,
        }
    }
}
