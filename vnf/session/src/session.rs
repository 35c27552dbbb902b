//! What a function sees of a session beside its own state.

use std::time::Duration;

use throughway_vnf::Now;

use crate::key::SessionKey;
use crate::quota::{Class, Counts, QuotaFull};
use crate::slab::{Life, Live};
use crate::sync::{AtomicU64, Ordering};
use crate::time::{beginning, tick, ticks};

/// The handle of a session. It outlives its session harmlessly: the table never takes it for another one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl SessionId {
    /// The handle as a number, for keeping it in a plain value. Never 0.
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | self.index as u64
    }

    /// The handle that [`SessionId::to_bits`] turned into `bits`. Of other numbers: a handle that reaches no session, or one
    /// that the table happens to have.
    pub const fn from_bits(bits: u64) -> Self {
        SessionId { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// What the table knows of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Info {
    /// Its handle.
    pub id: SessionId,
    /// What it is counted as.
    pub class: Class,
    /// The last life sign, rounded down to a tick.
    pub last_seen: Now,
    /// When it ends without another one.
    pub expires: Now,
}

impl Info {
    pub(crate) fn new<S>(id: SessionId, life: Life, live: &Live<S>) -> Self {
        Info {
            id,
            class: live.class,
            last_seen: beginning(life.seen),
            expires: beginning(life.seen.saturating_add(live.timeout)),
        }
    }
}

/// What a function can change of a session beside its own state.
pub struct Meta<'a> {
    id: SessionId,
    life: &'a AtomicU64,
    counts: &'a Counts,
    class: &'a mut Class,
    timeout: &'a mut u32,
}

impl<'a> Meta<'a> {
    pub(crate) fn new(
        id: SessionId,
        life: &'a AtomicU64,
        counts: &'a Counts,
        class: &'a mut Class,
        timeout: &'a mut u32,
    ) -> Self {
        Meta { id, life, counts, class, timeout }
    }

    /// The session's handle.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// What it is counted as.
    pub fn class(&self) -> Class {
        *self.class
    }

    /// The last life sign, rounded down to a tick.
    pub fn last_seen(&self) -> Now {
        beginning(Life::load(self.life).seen)
    }

    /// When it ends without another life sign.
    pub fn expires(&self) -> Now {
        beginning(Life::load(self.life).seen.saturating_add(*self.timeout))
    }

    /// A packet was seen: the session ends `timeout` after `now` (or after a later life sign that is known already). The
    /// timeout also holds for life signs to come.
    pub fn touch(&mut self, now: Now, timeout: Duration) {
        *self.timeout = ticks(timeout);
        let sign = Life { generation: self.id.generation, seen: tick(now) };
        self.life.fetch_max(sign.word(), Ordering::Relaxed);
    }

    /// Counts it as `class` from now on.
    ///
    /// # Errors
    /// When the quota of that class is used up; nothing has changed then.
    pub fn set_class(&mut self, class: Class) -> Result<(), QuotaFull> {
        self.counts.reclass(*self.class, class)?;
        *self.class = class;
        Ok(())
    }
}

/// Why a session is gone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// The function removed it.
    Removed,
    /// Its timeout was over.
    Expired,
    /// Half-open, it had to make room for another.
    Evicted,
}

/// A session that is gone, given back to its function.
#[derive(Clone, Copy, Debug)]
pub struct Removed<S> {
    /// The forward key, the reverse key.
    pub keys: [SessionKey; 2],
    /// The function's own part.
    pub state: S,
    /// What the table knew of it; the handle is stale.
    pub info: Info,
    /// Why it is gone.
    pub reason: Reason,
}
