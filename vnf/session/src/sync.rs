//! Locks and atomics: those of std, or loom's when every interleaving is explored.

use std::sync::PoisonError;

#[cfg(loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU32, AtomicU64, Ordering},
};

/// Locks; a lock that was poisoned by a caller's panicking closure stays usable, because no closure runs while a
/// structure of ours is half changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A counter with several writers. Not one of loom's: it orders nothing, and would only add to what has to be explored.
#[derive(Default)]
pub(crate) struct Count(Plain);

#[cfg(not(loom))]
type Plain = AtomicU64;
#[cfg(loom)]
type Plain = std::sync::atomic::AtomicU64;

impl Count {
    #[inline]
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
