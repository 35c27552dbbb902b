//! Counters with one writer, readable from other threads without locks.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter written by one thread and read by any.
///
/// Adding is a plain load and store (no locked instruction): exact as long as only one thread writes, which is why there
/// is no `Clone`.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`; wraps around after 2⁶⁴.
    #[inline]
    pub fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Replaces the value: for figures that somebody else counts (the kernel's).
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The current value.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
