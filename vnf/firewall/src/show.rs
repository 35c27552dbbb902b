//! Sessions and rules as plain values, for `show` and for export.

use std::time::Duration;

use throughway_session::{Class, Cursor, SessionId, SessionKey};
use throughway_vnf::{Now, Slot};

use crate::counters::RuleStats;
use crate::limits::{LimitConfig, LimitStats};
use crate::policy::Origin;
use crate::shared::Shared;
use crate::track::Track;

/// A session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionView {
    /// Its handle.
    pub id: SessionId,
    /// Source and destination of the packet that opened it; of ICMP queries, both ports are the identifier.
    pub key: SessionKey,
    /// The connection's state; for TCP and SCTP the names of conntrack.
    pub state: &'static str,
    /// What it is counted as.
    pub class: Class,
    /// The number of the rule that let it in; `None`: the default.
    pub rule: Option<u32>,
    /// The mark that rules have set, or 0.
    pub mark: u32,
    /// The number of the policy that judged it last.
    pub policy: u32,
    /// Since when it is there.
    pub opened: Now,
    /// Its last packet, as far as it is known: flow caches tell within four seconds.
    pub last_seen: Now,
    /// When it ends without another packet.
    pub expires: Now,
    /// Packets from who opened it, and to him.
    pub packets: [u64; 2],
    /// Bytes of their IP packets.
    pub bytes: [u64; 2],
}

impl SessionView {
    /// How long it is still there without another packet.
    pub const fn remaining(&self, now: Now) -> Duration {
        Duration::from_nanos(self.expires.0.saturating_sub(now.0))
    }
}

/// A rule's counters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleView {
    /// Its number; `None`: the default.
    pub rule: Option<u32>,
    /// What identifies it over reloads.
    pub name: String,
    /// Where it is written.
    pub origin: Option<Origin>,
    /// What it has seen.
    pub stats: RuleStats,
}

/// A limit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LimitView {
    /// As it is configured.
    pub config: LimitConfig,
    /// What it has seen.
    pub stats: LimitStats,
}

impl Shared {
    /// Shows a slice of the sessions, and where to go on; `None` at the end. Begin with `Cursor::default()`. Each session that
    /// lives through all of the walk is shown once.
    pub fn sessions(&self, cursor: Cursor, mut show: impl FnMut(SessionView)) -> Option<Cursor> {
        self.sessions.walk(cursor, |[forward, _], tracked, info| {
            let mut key = *forward;
            if matches!(tracked.track, Track::Query(..)) {
                key.destination_port = key.source_port;
            }
            show(SessionView {
                id: info.id,
                key,
                state: tracked.track.label(),
                class: info.class,
                rule: tracked.rule,
                mark: tracked.mark,
                policy: tracked.judged_by,
                opened: tracked.opened,
                last_seen: info.last_seen,
                expires: info.expires,
                packets: tracked.packets,
                bytes: tracked.bytes,
            });
        })
    }

    /// Ends the sessions for which `which` holds; says how many. Their flows are judged anew with their next packet.
    pub fn clear(&self, mut which: impl FnMut(&SessionView) -> bool) -> usize {
        let mut cursor = Some(Cursor::default());
        let mut cleared = 0;
        while let Some(at) = cursor {
            let mut slots = Vec::new();
            let mut ids = Vec::new();
            cursor = self.sessions(at, |session| {
                if which(&session) {
                    ids.push(session.id);
                }
            });
            for id in ids {
                if let Some(removed) = self.sessions.remove(id) {
                    self.gone(&removed);
                    slots.push(Slot::session(id.to_bits()));
                    cleared += 1;
                }
            }
            if !slots.is_empty() {
                self.generations.bump(slots.iter().copied());
            }
        }
        cleared
    }

    /// The rules in force, in the order they are written, the default last. Rules that share a name share their counters and
    /// are shown once.
    pub fn rules(&self) -> Vec<RuleView> {
        let policy = self.policy.read();
        let rules = policy.states.iter().map(|(rule, name, state)| RuleView {
            rule: Some(*rule),
            name: name.clone(),
            origin: policy.origin(*rule),
            stats: state.stats(),
        });
        let stats = policy.default_state.stats();
        let default = RuleView { rule: None, name: "default".into(), origin: None, stats };
        rules.chain([default]).collect()
    }

    /// The limits in force.
    pub fn limits(&self) -> Vec<LimitView> {
        let policy = self.policy.read();
        let view = |limit: &std::sync::Arc<crate::limits::Limit>| LimitView {
            config: limit.config().clone(),
            stats: limit.stats(),
        };
        policy.limits.iter().map(view).collect()
    }
}
