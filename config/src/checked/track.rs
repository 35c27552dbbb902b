//! How a firewall follows sessions.

use std::time::Duration;

use super::*;
use crate::raw::Given;
use crate::value::{Flag, Number, words};

/// How sessions are followed.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Track {
    /// The most sessions at a time.
    pub sessions: u32,
    /// The most sessions at a time that one source address may open; `None`: no limit.
    pub sessions_per_source: Option<u32>,
    /// The most sessions at a time whose handshake is not complete; `None`: no limit of their own.
    pub half_open: Option<u32>,
    /// What becomes of TCP packets that belong to no session and open none.
    pub mid_stream: MidStream,
    /// Whether sequence numbers of TCP must fit the window.
    pub sequence_check: bool,
    /// Whether a reload judges established sessions by the new rules.
    pub rejudge: bool,
    /// How long sessions live without a packet.
    pub timeouts: Timeouts,
}

/// How long sessions live without a packet. None is zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Timeouts {
    /// SYN seen.
    pub tcp_syn_sent: Duration,
    /// SYN and its answer seen.
    pub tcp_syn_received: Duration,
    /// The handshake is complete.
    pub tcp_established: Duration,
    /// One side has closed.
    pub tcp_fin_wait: Duration,
    /// … and the other has acknowledged it.
    pub tcp_close_wait: Duration,
    /// Both sides have closed.
    pub tcp_last_ack: Duration,
    /// … and it is acknowledged.
    pub tcp_time_wait: Duration,
    /// Reset.
    pub tcp_close: Duration,
    /// UDP to which nobody has answered.
    pub udp: Duration,
    /// UDP with an answer.
    pub udp_stream: Duration,
    /// Queries of ICMP.
    pub icmp: Duration,
    /// Everything else.
    pub other: Duration,
}

words! {
    /// What becomes of TCP packets that belong to no session and open none.
    MidStream, "way", default Drop:
    /// They are invalid, and dropped.
    Drop = "drop",
    /// They open a session, as after a restart, if the rules allow it.
    PickUp = "pick-up",
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Timeouts {
    /// The defaults of a firewall: those of Linux's conntrack.
    pub const CONNTRACK: Timeouts = Timeouts {
        tcp_syn_sent: seconds(120),
        tcp_syn_received: seconds(60),
        tcp_established: seconds(5 * 24 * 3600),
        tcp_fin_wait: seconds(120),
        tcp_close_wait: seconds(60),
        tcp_last_ack: seconds(30),
        tcp_time_wait: seconds(120),
        tcp_close: seconds(10),
        udp: seconds(30),
        udp_stream: seconds(120),
        icmp: seconds(30),
        other: seconds(600),
    };

    /// The longest: what a timer wheel can count to.
    pub const LONGEST: Duration = seconds(30 * 24 * 3600);

    pub(super) fn check(
        raw: Option<&crate::raw::Timeouts>,
        defaults: Timeouts,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let Some(raw) = raw else { return Some(defaults) };
        let mut timeouts = defaults;
        let mut wrong = false;
        let mut read = |written: &Given<Written<crate::value::Duration>>, place: &mut Duration| {
            let Some(written) = written.as_ref() else { return };
            match written.read(report).map(crate::value::Duration::get) {
                Some(duration) if (seconds(1)..=Timeouts::LONGEST).contains(&duration) => *place = duration,
                Some(_) => {
                    report
                        .error(written.span, format!("the timeout `{}` is outside 1s to 30d", written.text));
                    wrong = true;
                }
                None => wrong = true,
            }
        };
        read(&raw.tcp_syn_sent, &mut timeouts.tcp_syn_sent);
        read(&raw.tcp_syn_received, &mut timeouts.tcp_syn_received);
        read(&raw.tcp_established, &mut timeouts.tcp_established);
        read(&raw.tcp_fin_wait, &mut timeouts.tcp_fin_wait);
        read(&raw.tcp_close_wait, &mut timeouts.tcp_close_wait);
        read(&raw.tcp_last_ack, &mut timeouts.tcp_last_ack);
        read(&raw.tcp_time_wait, &mut timeouts.tcp_time_wait);
        read(&raw.tcp_close, &mut timeouts.tcp_close);
        read(&raw.udp, &mut timeouts.udp);
        read(&raw.udp_stream, &mut timeouts.udp_stream);
        read(&raw.icmp, &mut timeouts.icmp);
        read(&raw.other, &mut timeouts.other);
        (!wrong).then_some(timeouts)
    }
}

impl Default for Track {
    fn default() -> Self {
        Track {
            sessions: Track::SESSIONS,
            sessions_per_source: None,
            half_open: None,
            mid_stream: MidStream::default(),
            sequence_check: false,
            rejudge: false,
            timeouts: Timeouts::CONNTRACK,
        }
    }
}

impl Track {
    /// The most sessions at a time, where the file says nothing.
    pub const SESSIONS: u32 = 1_000_000;

    pub(super) fn check(raw: Option<&crate::raw::Track>, report: &mut Report<'_>) -> Option<Self> {
        let Some(raw) = raw else { return Some(Track::default()) };
        let sessions = number(raw.sessions.as_ref(), report);
        let per_source = number(raw.sessions_per_source.as_ref(), report);
        let half_open = number(raw.half_open.as_ref(), report);
        let mid_stream = raw.mid_stream.read_or(MidStream::default(), report);
        let sequence_check = raw.sequence_check.read_or(Flag::False, report);
        let rejudge = raw.rejudge.read_or(Flag::False, report);
        let timeouts = Timeouts::check(raw.timeouts.as_ref(), Timeouts::CONNTRACK, report);
        let sessions = sessions?.unwrap_or(Track::SESSIONS);
        for (key, written, limit) in [
            ("sessions-per-source", &raw.sessions_per_source, per_source?),
            ("half-open", &raw.half_open, half_open?),
        ] {
            if let (Some(written), Some(limit)) = (written, limit)
                && limit > sessions
            {
                let misread = Misread::new(format!("`{key}` is more than all {sessions} sessions"));
                report.warning(written.span, misread.help("it limits nothing"));
            }
        }
        Some(Track {
            sessions,
            sessions_per_source: per_source?,
            half_open: half_open?,
            mid_stream: mid_stream?,
            sequence_check: sequence_check?.into(),
            rejudge: rejudge?.into(),
            timeouts: timeouts?,
        })
    }
}

/// A number that may be left out; `None` if it is wrong and was reported.
pub(super) fn number<const MIN: u32, const MAX: u32>(
    written: Option<&Written<Number<MIN, MAX>>>,
    report: &mut Report<'_>,
) -> Option<Option<u32>> {
    written.map_or(Some(None), |written| written.read(report).map(|number| Some(number.get())))
}
