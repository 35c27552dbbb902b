//! The last word before a stop: what was seen of flows is told to the functions, whose sessions are about to be saved.

use throughway_io::PacketIo;

use super::offload::Beside;
use super::{Engine, Worker, tell};

impl<I: PacketIo> Worker<I> {
    /// Tells the functions all that was seen of flows up to here, that of the XDP program included: sessions are as old as their last
    /// packet. To be called once no more rounds follow.
    pub fn tell_all_seen(&mut self) {
        let epoch = self.generations.epoch();
        let Engine { offload, flows, program, stats, now, .. } = &mut self.engine;
        let Some(flows) = flows else { return };
        if let Some(offload) = offload {
            offload.end(flows, &mut Beside { program, stats, now: *now, epoch: &epoch });
        }
        let all = flows.buckets();
        flows.harvest(now.0, all, |settled| tell(program, &settled));
    }
}
