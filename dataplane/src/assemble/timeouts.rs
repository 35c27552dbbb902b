//! How long connections are remembered, from the configuration.

use throughway_session::timeouts::TcpTimeouts;

/// Those of TCP, by state.
pub(super) fn tcp(configured: &throughway_config::Timeouts) -> TcpTimeouts {
    TcpTimeouts {
        syn_sent: configured.tcp_syn_sent,
        syn_received: configured.tcp_syn_received,
        established: configured.tcp_established,
        fin_wait: configured.tcp_fin_wait,
        close_wait: configured.tcp_close_wait,
        last_ack: configured.tcp_last_ack,
        time_wait: configured.tcp_time_wait,
        close: configured.tcp_close,
    }
}
