//! Locks and atomics: those of std, or loom's when every interleaving is explored.

use std::sync::{PoisonError, TryLockError};

#[cfg(loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering, fence},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering, fence},
};

/// Locks; a lock that was poisoned by a caller's panicking closure stays usable, because no closure runs while a
/// structure of ours is half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As [`lock`], but `None` if somebody else has it.
pub(crate) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Stores, for readers who then see all that was written before.
#[inline]
pub(crate) fn publish(cell: &AtomicU64, value: u64) {
    #[cfg(not(loom))]
    cell.store(value, Ordering::Release);
    // Loom lets a `fetch_max` that changes nothing end up after a store it came before. No processor does, nor the language: a
    // read-modify-write directly follows what it has read.
    #[cfg(loom)]
    cell.swap(value, Ordering::Release);
}

/// Not loom's: they order nothing, and would only add to what has to be explored.
pub(crate) use std::sync::atomic::AtomicU32 as PlainU32;
use std::sync::atomic::AtomicU64 as PlainU64;

/// A counter with several writers.
#[derive(Default)]
pub(crate) struct Count(PlainU64);

impl Count {
    #[inline]
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// As [`Count::add`], for a counter that changes under a lock only.
    #[inline]
    pub(crate) fn add_locked(&self) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
