//! Functions that the configuration does not know: of a program that embeds the data plane, or of a test.

use throughway_vnf::{Batch, Context, Function, Packet, Seen, Verdict};

/// A [`Function`] of a kind that is not known when the data plane is built. Called once for each batch.
pub trait Guest: std::fmt::Debug + Send {
    /// See [`Function::judge`].
    fn judge(&mut self, packet: &mut Packet<'_>, context: &Context) -> Verdict;
    /// See [`Function::process`].
    fn process(&mut self, batch: &mut Batch<'_>, context: &Context);
    /// See [`Function::foresee`].
    fn foresee(&self, ids: &[u64]);
    /// See [`Function::settle`].
    fn settle(&mut self, id: u64, seen: &Seen);
    /// See [`Function::tick`].
    fn tick(&mut self, context: &Context);
    /// See [`Function::explain`].
    fn explain(&self, packet: &Packet<'_>, context: &Context) -> Vec<String>;
}

impl<F: Function + std::fmt::Debug + Send> Guest for F {
    fn judge(&mut self, packet: &mut Packet<'_>, context: &Context) -> Verdict {
        Function::judge(self, packet, context)
    }

    fn process(&mut self, batch: &mut Batch<'_>, context: &Context) {
        Function::process(self, batch, context);
    }

    fn foresee(&self, ids: &[u64]) {
        Function::foresee(self, ids);
    }

    fn settle(&mut self, id: u64, seen: &Seen) {
        Function::settle(self, id, seen);
    }

    fn tick(&mut self, context: &Context) {
        Function::tick(self, context);
    }

    fn explain(&self, packet: &Packet<'_>, context: &Context) -> Vec<String> {
        Function::explain(self, packet, context)
    }
}
