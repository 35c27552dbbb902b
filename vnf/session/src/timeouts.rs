//! Default timeouts and where they come from.

use std::time::Duration;

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// UDP behind a NAT: at least 2 minutes, 5 recommended (RFC 4787, section 4.3, REQ-5).
pub const UDP: Duration = seconds(5 * 60);
/// The least that RFC 4787, REQ-5 allows a NAT to use for UDP (ports outside 0 to 1023).
pub const UDP_LEAST: Duration = seconds(2 * 60);
/// UDP to which nobody has answered yet, as Linux's conntrack does; for a firewall's state, not for a NAT's mapping.
pub const UDP_UNANSWERED: Duration = seconds(30);
/// ICMP queries: at least 60 s (RFC 5508, section 3.2, REQ-2).
pub const ICMP_QUERY: Duration = seconds(60);
/// Other protocols, as Linux's conntrack does.
pub const OTHER: Duration = seconds(10 * 60);

/// How long a TCP connection lives without a packet, by its state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpTimeouts {
    /// SYN seen.
    pub syn_sent: Duration,
    /// SYN and its answer seen.
    pub syn_received: Duration,
    /// The handshake is complete.
    pub established: Duration,
    /// One side has closed.
    pub fin_wait: Duration,
    /// … and the other has acknowledged it.
    pub close_wait: Duration,
    /// Both sides have closed.
    pub last_ack: Duration,
    /// … and it is acknowledged.
    pub time_wait: Duration,
    /// Reset.
    pub close: Duration,
}

impl TcpTimeouts {
    /// What a NAT may use at least: established 2 h 4 min, everything transitory 4 min (RFC 5382, section 5, REQ-5).
    pub const RFC5382: TcpTimeouts = TcpTimeouts {
        syn_sent: seconds(4 * 60),
        syn_received: seconds(4 * 60),
        established: seconds(2 * 3600 + 4 * 60),
        fin_wait: seconds(4 * 60),
        close_wait: seconds(4 * 60),
        last_ack: seconds(4 * 60),
        time_wait: seconds(4 * 60),
        close: seconds(4 * 60),
    };

    /// The defaults of Linux's conntrack, which firewall administrators know.
    pub const CONNTRACK: TcpTimeouts = TcpTimeouts {
        syn_sent: seconds(120),
        syn_received: seconds(60),
        established: seconds(5 * 24 * 3600),
        fin_wait: seconds(120),
        close_wait: seconds(60),
        last_ack: seconds(30),
        time_wait: seconds(120),
        close: seconds(10),
    };
}
