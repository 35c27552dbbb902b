//! Flows whose packets a capture asks for: the XDP program, which nobody can look into, does not execute them meanwhile.
//!
//! When a capture begins, the flow cache is gone through, some of it in every round, and those that it asks for are taken back; when
//! it ends, they are nominated again. In between none is handed over.

use arrayvec::ArrayVec;
use crossbeam::channel::Sender;
use throughway_flow::FlowCache;
use throughway_packet::{FlowKey, Rewrite};

use super::offload::Offload;
use crate::capture::{Filter, MOST};

/// Buckets of sixteen flows that are looked at in a round, for each capture that begins or ends.
const SLICE: usize = 16;

/// What captures want of the flows of one worker.
#[derive(Debug, Default)]
pub(super) struct Captures {
    open: ArrayVec<(u64, Filter), MOST>,
    /// Those that began or ended a moment ago.
    sweeps: ArrayVec<Sweep, { 2 * MOST }>,
}

/// Going once through the cache.
#[derive(Debug)]
struct Sweep {
    capture: u64,
    filter: Filter,
    /// The next bucket; `None`: it is done.
    next: Option<usize>,
    /// The capture begins, and this is told when its flows are back.
    ready: Option<Sender<()>>,
}

impl Captures {
    /// Whether one of them asks for the packets of a flow.
    pub(super) fn ask_for(&self, key: &FlowKey, rewrite: &Rewrite) -> bool {
        self.open.iter().any(|(_, filter)| filter.wants_flow(key, rewrite))
    }

    /// Whether the cache is being gone through.
    pub(super) fn are_looked_for(&self) -> bool {
        !self.sweeps.is_empty()
    }

    /// Tells those that wait for it that their flows are back.
    pub(super) fn tell(&mut self) {
        if self.sweeps.is_empty() {
            return;
        }
        for sweep in self.sweeps.iter().filter(|sweep| sweep.next.is_none()) {
            if let Some(ready) = &sweep.ready {
                // Who asked may have given up.
                let _ = ready.try_send(());
            }
        }
        self.sweeps.retain(|sweep| sweep.next.is_some());
    }
}

impl Offload {
    /// A capture begins: what it asks for is taken back, and then `ready` is told.
    pub(super) fn capture_begins(&mut self, capture: u64, filter: Filter, ready: Sender<()>) {
        // Workers have no more captures than there is room for here.
        let _ = self.captures.open.try_push((capture, filter));
        let sweep = Sweep { capture, filter, next: Some(0), ready: Some(ready) };
        if let Err(refused) = self.captures.sweeps.try_push(sweep) {
            // Its flows come back as they are judged anew.
            let _ = refused.element().ready.map(|ready| ready.try_send(()));
        }
    }

    /// A capture ends: what it asked for may be handed over again.
    pub(super) fn capture_ends(&mut self, capture: u64) {
        let Some(place) = self.captures.open.iter().position(|(number, _)| *number == capture) else {
            return;
        };
        let (_, filter) = self.captures.open.remove(place);
        self.captures.sweeps.retain(|sweep| sweep.capture != capture);
        // Without room, later packets of its flows nominate them.
        let _ = self.captures.sweeps.try_push(Sweep { capture, filter, next: Some(0), ready: None });
    }

    /// Goes on through the cache.
    pub(super) fn look_for_captured(&mut self, flows: &mut FlowCache, now: u64) {
        for number in 0..self.captures.sweeps.len() {
            let Some(&Sweep { filter, next: Some(from), .. }) = self.captures.sweeps.get(number) else {
                continue;
            };
            let next = flows.place_again(from, SLICE, now, |flow| match flow.elsewhere {
                Some(_) => !self.captures.ask_for(&flow.key, &flow.rewrite),
                None => {
                    filter.wants_flow(&flow.key, &flow.rewrite)
                        && self.judge(&flow.key, &flow.rewrite, flow.established).is_ok()
                }
            });
            if let Some(sweep) = self.captures.sweeps.get_mut(number) {
                sweep.next = next;
            }
        }
    }
}
