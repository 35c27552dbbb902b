//! How many sessions there may be, in all and of each class: counted exactly, whatever the number of workers.

use crate::sync::{AtomicU32, Ordering, PlainU32 as Plain};

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

/// Exact counts of the classes that have a quota. The others are counted in their shards only, so that workers do not meet in a
/// counter without need.
pub(crate) struct Counts {
    classes: [AtomicU32; 3],
    quotas: [Option<u32>; 3],
}

impl Counts {
    pub(crate) fn new(quotas: [Option<u32>; 3]) -> Self {
        Counts { classes: std::array::from_fn(|_| AtomicU32::new(0)), quotas }
    }

    /// How many there are of a class, if it has a quota.
    pub(crate) fn of(&self, class: Class) -> Option<u32> {
        let index = class as usize;
        self.quotas[index].map(|_| self.classes[index].load(Ordering::Relaxed))
    }

    /// Moves one session from class to class.
    pub(crate) fn reclass(&self, from: Class, to: Class) -> Result<(), QuotaFull> {
        if from != to {
            self.enter(to)?;
            self.leave(from);
        }
        Ok(())
    }

    /// Reserves a place before a session is made.
    #[inline]
    pub(crate) fn enter(&self, class: Class) -> Result<(), QuotaFull> {
        let index = class as usize;
        match self.quotas[index] {
            Some(quota) if !rise(&self.classes[index], quota) => Err(QuotaFull(class)),
            _ => Ok(()),
        }
    }

    /// Gives a place back after a session is gone.
    #[inline]
    pub(crate) fn leave(&self, class: Class) {
        let index = class as usize;
        if self.quotas[index].is_some() {
            self.classes[index].fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// How many sessions of each class lie in one shard: changed under its lock, read by anybody.
#[derive(Default)]
pub(crate) struct Census([Plain; 3]);

impl Census {
    pub(crate) fn of(&self, class: Class) -> u32 {
        self.0[class as usize].load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn add(&self, class: Class) {
        let count = &self.0[class as usize];
        count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn subtract(&self, class: Class) {
        let count = &self.0[class as usize];
        count.store(count.load(Ordering::Relaxed).wrapping_sub(1), Ordering::Relaxed);
    }
}

/// Adds one unless that would exceed `limit`.
fn rise(count: &AtomicU32, limit: u32) -> bool {
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < limit).then(|| count + 1))
        .is_ok()
}
