//! The firewall.

use super::*;
use crate::checked::{DefaultVerdict, MidStream, RejectWith};
use crate::value::{Ceiling, Duration, Flag, Name, Number, Rate};

/// A firewall: ordered rules, sessions, and what becomes of packets that no rule matches.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
// Required for editors; its absence has a better message than serde's.
#[schemars(extend("required" = ["default"]))]
pub(crate) struct Firewall {
    /// What becomes of packets that no rule decides on. Required: nothing fails open.
    #[serde(default)]
    pub(crate) default: Given<Written<DefaultVerdict>>,
    /// Sets of addresses or ports, by name: rules write them "@name".
    pub(crate) sets: Option<Entries<Set>>,
    /// The rules; the first that decides counts.
    pub(crate) rules: Option<Vec<At<Rule>>>,
    /// Lists of rules that rules jump to, by name.
    pub(crate) groups: Option<Entries<Vec<At<Rule>>>>,
    /// How sessions are followed.
    pub(crate) track: Option<Track>,
}

/// A rule: one of `allow`, `drop`, `reject`, `count`, `jump` with what it matches, and what else is done.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Rule {
    /// Lets these packets pass, and those of their sessions.
    pub(crate) allow: Option<At<Match>>,
    /// Drops these packets silently.
    pub(crate) drop: Option<At<Match>>,
    /// Drops these packets and tells the sender.
    pub(crate) reject: Option<At<Match>>,
    /// Counts these packets and goes on with the next rule.
    pub(crate) count: Option<At<Match>>,
    /// Tries the rules of a group on these packets, and goes on here if none of them decides.
    pub(crate) jump: Option<At<Match>>,
    /// The group to jump to.
    #[serde(default)]
    pub(crate) to: Given<Written<Name>>,
    /// What a rejected sender is told. Default: auto.
    #[serde(default)]
    pub(crate) with: Given<Written<RejectWith>>,
    /// The rule matches only within this rate, such as `1000/s per source`; `over 1000/s`: only beyond.
    #[serde(default)]
    pub(crate) rate: Given<Written<Rate>>,
    /// The rule matches only while there are no more sessions than this, such as `20 per source`; `over 20`: only beyond.
    #[serde(default)]
    pub(crate) connections: Given<Written<Ceiling>>,
    /// Whether matches are logged. Default: false.
    #[serde(default)]
    pub(crate) log: Given<Written<Flag>>,
    /// A number that is given to packets.
    #[serde(default)]
    pub(crate) mark: Given<Written<Number<1, { u32::MAX }>>>,
    /// A name for counters and logs.
    #[serde(default)]
    pub(crate) name: Given<Written<Name>>,
}

/// How sessions are followed.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Track {
    /// The most sessions at a time. Default: 1000000.
    pub(crate) sessions: Option<Written<Number<1, { 1 << 30 }>>>,
    /// The most sessions at a time that one source may open. Default: no limit.
    pub(crate) sessions_per_source: Option<Written<Number<1, { 1 << 30 }>>>,
    /// The most sessions at a time whose handshake is not complete. Default: no limit of their own.
    pub(crate) half_open: Option<Written<Number<1, { 1 << 30 }>>>,
    /// What becomes of TCP packets that belong to no session and open none. Default: drop.
    pub(crate) mid_stream: Option<Written<MidStream>>,
    /// Whether TCP sequence numbers must fit the window; this costs the fast path. Default: false.
    pub(crate) sequence_check: Option<Written<Flag>>,
    /// Whether a reload judges established sessions by the new rules. Default: false.
    pub(crate) rejudge: Option<Written<Flag>>,
    /// How long sessions live without a packet.
    pub(crate) timeouts: Option<Timeouts>,
}

/// How long sessions live without a packet.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Timeouts {
    /// SYN seen. Default: 2m.
    pub(crate) tcp_syn_sent: Given<Written<Duration>>,
    /// SYN and its answer seen. Default: 1m.
    pub(crate) tcp_syn_received: Given<Written<Duration>>,
    /// The handshake is complete. Default: 5d.
    pub(crate) tcp_established: Given<Written<Duration>>,
    /// One side has closed. Default: 2m.
    pub(crate) tcp_fin_wait: Given<Written<Duration>>,
    /// One side has closed and the other acknowledged it. Default: 1m.
    pub(crate) tcp_close_wait: Given<Written<Duration>>,
    /// Both sides have closed. Default: 30s.
    pub(crate) tcp_last_ack: Given<Written<Duration>>,
    /// Both sides have closed and it is acknowledged. Default: 2m.
    pub(crate) tcp_time_wait: Given<Written<Duration>>,
    /// Reset. Default: 10s.
    pub(crate) tcp_close: Given<Written<Duration>>,
    /// UDP to which nobody has answered. Default: 30s.
    pub(crate) udp: Given<Written<Duration>>,
    /// UDP with an answer. Default: 2m.
    pub(crate) udp_stream: Given<Written<Duration>>,
    /// ICMP queries. Default: 30s.
    pub(crate) icmp: Given<Written<Duration>>,
    /// Other protocols. Default: 10m.
    pub(crate) other: Given<Written<Duration>>,
}
