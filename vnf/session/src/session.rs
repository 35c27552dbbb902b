//! What a function sees of a session beside its own state.

use std::time::Duration;

use throughway_vnf::Now;

use crate::card::{Card, Standing};
use crate::key::SessionKey;
use crate::quota::{Census, Class, Counts, QuotaFull};
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

    /// The handle in 56 bits, for [`Credit`](throughway_vnf::Credit): the number of the slot, and 24 bits of how many sessions
    /// have lived in it. See [`SessionTable::credited`](crate::SessionTable::credited).
    pub const fn to_credit(self) -> u64 {
        // The lowest bit of a living session's generation is always set.
        ((self.generation >> 1) as u64 & 0xff_ffff) << 32 | self.index as u64
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
    pub(crate) fn new(id: SessionId, standing: &Standing) -> Self {
        Info {
            id,
            class: standing.class,
            last_seen: beginning(standing.life.seen),
            expires: beginning(standing.deadline()),
        }
    }
}

/// What a function can change of a session beside its own state.
pub struct Meta<'a> {
    id: SessionId,
    card: &'a Card,
    counts: &'a Counts,
    census: &'a Census,
}

impl<'a> Meta<'a> {
    pub(crate) fn new(id: SessionId, card: &'a Card, counts: &'a Counts, census: &'a Census) -> Self {
        Meta { id, card, counts, census }
    }

    /// The session's handle.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// What it is counted as.
    pub fn class(&self) -> Class {
        self.info().class
    }

    /// The last life sign, rounded down to a tick.
    pub fn last_seen(&self) -> Now {
        self.info().last_seen
    }

    /// When it ends without another life sign.
    pub fn expires(&self) -> Now {
        self.info().expires
    }

    /// What the table knows of it.
    pub fn info(&self) -> Info {
        Info::new(self.id, &self.card.under_lock())
    }

    /// A packet was seen: the session ends `timeout` after `now` (or after a later life sign that is known already). The
    /// timeout also holds for life signs to come; it is at most two years.
    pub fn touch(&mut self, now: Now, timeout: Duration) {
        self.card.sign(self.id.generation, tick(now));
        self.card.set_timeout(ticks(timeout));
    }

    /// Counts it as `class` from now on.
    ///
    /// # Errors
    /// When the quota of that class is used up; nothing has changed then.
    pub fn set_class(&mut self, class: Class) -> Result<(), QuotaFull> {
        let before = self.class();
        self.counts.reclass(before, class)?;
        self.census.subtract(before);
        self.census.add(class);
        self.card.set_class(class);
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
    /// An operator cleared it.
    Cleared,
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
