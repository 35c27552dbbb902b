//! What is kept of a rule over reloads: its counters and the gate of its log.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::LogGate;

/// What a rule has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RuleStats {
    /// Packets: those that the rule itself matched, and those of the sessions it let in, both directions.
    pub packets: u64,
    /// Bytes of their IP packets.
    pub bytes: u64,
    /// Sessions it let in.
    pub sessions: u64,
}

/// The state of one rule. Workers share it; it is written on the slow path and when flow caches tell what they saw.
#[derive(Debug, Default)]
pub(crate) struct RuleState {
    packets: AtomicU64,
    bytes: AtomicU64,
    sessions: AtomicU64,
    pub(crate) log: LogGate,
}

impl RuleState {
    pub(crate) fn add(&self, packets: u64, bytes: u64) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn opened(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> RuleStats {
        RuleStats {
            packets: self.packets.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            sessions: self.sessions.load(Ordering::Relaxed),
        }
    }
}
