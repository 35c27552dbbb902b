//! How many sessions there may be, in all and of each class: counted exactly, whatever the number of workers.

use crate::sync::{AtomicU32, Ordering};

/// What kind of life a session leads: what it is counted as, and whether it may be displaced.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// Not proven yet: nobody has answered, or the handshake is not complete. The only class that can be displaced.
    HalfOpen,
    /// Both sides have spoken.
    Established,
    /// Being closed, or closed and kept for stragglers.
    Closing,
}

impl Class {
    /// Every class, in the order of its number.
    pub const ALL: [Class; 3] = [Class::HalfOpen, Class::Established, Class::Closing];

    /// The label used in metrics and output.
    pub const fn label(self) -> &'static str {
        match self {
            Class::HalfOpen => "half-open",
            Class::Established => "established",
            Class::Closing => "closing",
        }
    }
}

/// The quota of a class is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no more {} sessions allowed", .0.label())]
pub struct QuotaFull(pub Class);

/// What is missing for one session more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lacking {
    Quota(Class),
    Room,
}

/// Exact counts with their limits. A place is reserved before a session is made and released after it is gone.
pub(crate) struct Counts {
    all: AtomicU32,
    classes: [AtomicU32; 3],
    capacity: u32,
    quotas: [u32; 3],
}

impl Counts {
    pub(crate) fn new(capacity: u32, quotas: [u32; 3]) -> Self {
        Counts {
            all: AtomicU32::new(0),
            classes: std::array::from_fn(|_| AtomicU32::new(0)),
            capacity,
            quotas,
        }
    }

    pub(crate) fn all(&self) -> u32 {
        self.all.load(Ordering::Relaxed)
    }

    pub(crate) fn of(&self, class: Class) -> u32 {
        self.classes[class as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn reserve(&self, class: Class) -> Result<(), Lacking> {
        self.enter(class).map_err(|QuotaFull(class)| Lacking::Quota(class))?;
        if rise(&self.all, self.capacity) {
            return Ok(());
        }
        self.leave(class);
        Err(Lacking::Room)
    }

    pub(crate) fn release(&self, class: Class) {
        self.leave(class);
        self.all.fetch_sub(1, Ordering::Relaxed);
    }

    /// Releases a session whose slot will never be used again: the capacity shrinks by one.
    pub(crate) fn release_retired(&self, class: Class) {
        self.leave(class);
    }

    /// Moves one session from class to class.
    pub(crate) fn reclass(&self, from: Class, to: Class) -> Result<(), QuotaFull> {
        if from != to {
            self.enter(to)?;
            self.leave(from);
        }
        Ok(())
    }

    fn enter(&self, class: Class) -> Result<(), QuotaFull> {
        let index = class as usize;
        rise(&self.classes[index], self.quotas[index]).then_some(()).ok_or(QuotaFull(class))
    }

    fn leave(&self, class: Class) {
        self.classes[class as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds one unless that would exceed `limit`.
fn rise(count: &AtomicU32, limit: u32) -> bool {
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < limit).then(|| count + 1))
        .is_ok()
}
