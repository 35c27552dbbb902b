//! Captures: opened in every worker, and ended there.

use std::sync::Arc;

use super::Service;
use crate::capture::{Filter, MOST, Ring, room_for};
use crate::worker::live::{WorkerError, tapped};
use crate::worker::tap::Tap;

/// The captures that are under way.
#[derive(Debug, Default)]
pub struct Captures {
    open: Vec<u64>,
    /// Counted up.
    last: u64,
}

/// A capture that was opened.
#[derive(Debug)]
pub struct Opened {
    /// Its number, to [end](Service::close_capture) it by.
    pub number: u64,
    /// Where each worker writes.
    pub rings: Vec<Arc<Ring>>,
}

impl Service {
    /// Has every worker write down what `filter` asks for, up to `longest` bytes of each packet; if it `traces`, what each function made
    /// of it as well. Returns when flows that the XDP program executed have come back for it; workers write when the rings are
    /// [read](Ring::begin).
    ///
    /// # Errors
    /// Too many captures are under way, or a worker does not answer.
    pub fn open_capture(&mut self, filter: Filter, longest: usize, traces: bool) -> Result<Opened, String> {
        if self.stopped {
            return Err("the service has stopped".to_owned());
        }
        if self.captures.open.len() >= MOST {
            return Err(format!("{MOST} captures are under way, and there may not be more: end one of them"));
        }
        self.captures.last += 1;
        let number = self.captures.last;
        self.captures.open.push(number);
        let room = || Ring::new(room_for(longest, traces), longest, traces, self.interfaces.len());
        let rings: Vec<Arc<Ring>> = self.handles.iter().map(|_| Arc::new(room())).collect();
        let taps = rings.iter().map(|ring| Box::new(Tap::new(number, filter, traces, Arc::clone(ring))));
        if let Err(error) = self.tap_workers(taps) {
            self.close_capture(number);
            return Err(error.to_string());
        }
        tracing::info!(capture = number, trace = traces, "a capture has begun");
        Ok(Opened { number, rings })
    }

    /// Every worker is told at once, then all are waited for: each goes through its cache while the others do.
    fn tap_workers(&self, taps: impl Iterator<Item = Box<Tap>>) -> Result<(), WorkerError> {
        let told = self.handles.iter().zip(taps).enumerate();
        let told: Vec<_> =
            told.map(|(worker, (handle, tap))| handle.tap(worker, tap)).collect::<Result<_, _>>()?;
        told.iter().enumerate().try_for_each(|(worker, is_ready)| tapped(worker, is_ready))
    }

    /// Ends a capture: when this returns nothing more is written down for it, and its flows may go back to the XDP program.
    pub fn close_capture(&mut self, number: u64) {
        let Some(place) = self.captures.open.iter().position(|open| *open == number) else { return };
        self.captures.open.remove(place);
        for (worker, handle) in self.handles.iter().enumerate() {
            // What the worker gives back is freed here, off the packets' way.
            if let Err(error) = handle.untap(worker, number) {
                tracing::warn!(%error, "a capture could not be ended");
            }
        }
        tracing::info!(capture = number, "a capture has ended");
    }
}
