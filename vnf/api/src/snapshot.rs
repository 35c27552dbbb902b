//! Immutable tables, published by the control side, read by workers once per batch.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

/// The one place where a table is published: cheap to clone, every clone sees the same current value.
///
/// Reading takes no lock and does not touch the reference count; the old value is freed by whoever drops it last, which
/// is normally the publisher.
#[derive(Debug)]
pub struct Snapshot<T>(Arc<ArcSwap<T>>);

impl<T> Clone for Snapshot<T> {
    fn clone(&self) -> Self {
        Snapshot(Arc::clone(&self.0))
    }
}

impl<T> Snapshot<T> {
    /// A snapshot with its first value.
    pub fn new(value: T) -> Self {
        Snapshot(Arc::new(ArcSwap::from_pointee(value)))
    }

    /// The current value, to be held for one batch.
    pub fn read(&self) -> Guard<Arc<T>> {
        self.0.load()
    }

    /// The current value, to be held for long.
    pub fn read_owned(&self) -> Arc<T> {
        self.0.load_full()
    }

    /// Replaces the value for all readers; returns the old one.
    pub fn publish(&self, value: T) -> Arc<T> {
        self.0.swap(Arc::new(value))
    }
}
