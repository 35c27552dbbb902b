//! Going through the flow cache, some of it in every round: what was silent for too long is forgotten, functions are told of what was
//! seen, and what flows depend on is marked as used. How much a round does, [`super::pace`] says.

use arrayvec::ArrayVec;
use throughway_flow::Settled;
use throughway_io::PacketIo;
use throughway_vnf::{BATCH, Credit, Now, Seen};

use super::offload::Offload;
use super::{Engine, Worker};
use crate::chain::Program;

impl<I: PacketIo> Worker<I> {
    /// Whether more of the flow cache, or of the flows that the XDP program executes, is due already than the last round could do.
    pub fn is_behind(&self) -> bool {
        let Engine { flows, pace, marking, offload, .. } = &self.engine;
        let offload = || offload.as_ref().is_some_and(Offload::is_behind);
        flows.is_some() && (pace.is_behind() || marking.is_behind() || offload())
    }
}

impl<I: PacketIo> Engine<I> {
    /// This round's share.
    pub(super) fn keep_house(&mut self, now: Now) {
        let Some(flows) = &mut self.flows else { return };
        let program = &mut self.program;
        let due = self.pace.due(now, flows.buckets());
        flows.age(now.0, due, |settled| tell(program, &settled));
        let mut told: ArrayVec<Settled, BATCH> = ArrayVec::new();
        flows.harvest(now.0, due, |settled| {
            told.push(settled);
            if told.is_full() {
                tell_all(program, &mut told);
            }
        });
        tell_all(program, &mut told);
        let due = self.marking.due(now, flows.buckets());
        flows.in_use(now.0, due, |dependencies| self.stats.uses.mark(dependencies));
    }
}

/// Tells the functions of a chain what the flow cache saw of a flow that they gave the answers for.
pub(super) fn tell(program: &mut Program, settled: &Settled) {
    let seen = Seen { packets: settled.packets, bytes: settled.bytes, last: Now(settled.last) };
    for credit in settled.credits.0.map(Credit).into_iter().filter(|credit| *credit != Credit::default()) {
        program.settle(credit, &seen);
    }
}

/// [`tell`] of many flows: what the functions will need is fetched for all of them first.
pub(super) fn tell_all(program: &mut Program, told: &mut ArrayVec<Settled, BATCH>) {
    let credits = told.iter().flat_map(|settled| settled.credits.0.map(Credit));
    let credits: ArrayVec<Credit, { 2 * BATCH }> =
        credits.filter(|credit| *credit != Credit::default()).take(2 * BATCH).collect();
    program.foresee(&credits);
    for settled in told.drain(..) {
        tell(program, &settled);
    }
}
