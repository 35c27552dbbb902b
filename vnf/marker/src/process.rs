//! The function.

use std::sync::Arc;

use throughway_packet::Edit;
use throughway_vnf::counters::Counter;
use throughway_vnf::{Context, Function, Packet, Verdict};

use crate::rules::Rules;

/// The marker, as one worker holds it.
#[derive(Debug)]
pub struct Marker {
    /// Shared by all workers.
    rules: Arc<Rules>,
    /// One per rule, written by this worker only.
    matched: Arc<[Counter]>,
}

impl Marker {
    /// A marker with these rules. Every worker makes its own.
    pub fn new(rules: Arc<Rules>) -> Marker {
        let matched = (0..rules.len()).map(|_| Counter::default()).collect();
        Marker { rules, matched }
    }

    /// How many packets each rule has matched in this worker, for other threads to read.
    pub fn matched(&self) -> Arc<[Counter]> {
        Arc::clone(&self.matched)
    }
}

impl Function for Marker {
    const KIND: &'static str = "marker";

    fn judge(&mut self, packet: &mut Packet<'_>, _: &Context) -> Verdict {
        if let Some((index, rule)) = self.rules.first_match(packet.headers()) {
            packet.edit(Edit::Dscp(rule.dscp.get()));
            if let Some(counter) = self.matched.get(index) {
                counter.add(1);
            }
        }
        Verdict::Continue
    }
}
