//! One trial: a sink counts, the generator sends for a while, and who had the processor is noted.

use std::time::Duration;

use serde::Serialize;

use crate::cpu::{CpuUse, Snapshot};
use crate::error::{BenchError, Result};
use crate::generator::{Generator, Latency, Rate, Received, Traffic};
use crate::namespaces::{Cores, Namespaces};
use crate::peers::{Peer, Running};

/// How long what is under way may take to arrive after the generator has ended.
const SETTLE: Duration = Duration::from_millis(30);
/// Packets a second while a peer is made to know the flows: slow enough that none is lost.
const WARM_RATE: f64 = 200_000.0;

/// How long a peer is sent `flows` flows before it is measured, in seconds. One that knows nothing of flows needs but a moment.
pub fn warm_seconds(peer: Peer, flows: u32) -> f64 {
    let flows = if peer.knows_flows() { flows } else { 1 };
    (f64::from(flows) * 2.5 / WARM_RATE).clamp(0.2, 20.0)
}

/// What one trial showed.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Trial {
    /// Packets a second that were sent.
    pub offered: f64,
    /// Packets a second that arrived.
    pub arrived: f64,
    /// The part of the packets that did not arrive: 0 to 1.
    pub loss: f64,
    /// Packets that arrived more than once, where they were stamped.
    pub duplicates: Option<u64>,
    /// Packets that overtook another, where they were stamped.
    pub reordered: Option<u64>,
    /// How long packets took, where they were stamped.
    pub latency: Option<Latency>,
    /// Who had the processor.
    pub cpu: CpuUse,
    /// How the generator sent.
    pub backend: String,
}

impl Trial {
    /// From what generator and sink said.
    pub fn new(sent: &crate::generator::Sent, received: &Received, cpu: CpuUse) -> Self {
        let seconds = sent.seconds.max(1e-6);
        let unique = received.packets.saturating_sub(received.duplicates.unwrap_or(0));
        Trial {
            offered: sent.packets as f64 / seconds,
            arrived: unique as f64 / seconds,
            loss: 1.0 - unique as f64 / sent.packets.max(1) as f64,
            duplicates: received.duplicates,
            reordered: received.reordered,
            latency: received.latency_ns,
            cpu,
            backend: sent.backend.clone(),
        }
    }
}

/// What trials are run with.
pub struct Bench<'a> {
    /// The namespaces, with a peer in them.
    pub at: &'a Namespaces,
    /// The generator and sink.
    pub generator: &'a Generator,
    /// The cores.
    pub cores: Cores,
    /// The peer.
    pub running: &'a Running,
    /// What is sent.
    pub traffic: &'a Traffic,
}

impl Bench<'_> {
    /// Makes the peer know every flow: each is sent a few times, slowly; how long for, [`warm_seconds`] says.
    ///
    /// # Errors
    /// When nothing arrives: whatever follows would prove nothing.
    pub fn warm_up(&self, peer: Peer) -> Result<()> {
        let seconds = warm_seconds(peer, self.traffic.flows);
        let trial = self.trial(Rate::Pps(WARM_RATE), Duration::from_secs_f64(seconds), false)?;
        if trial.arrived < trial.offered * 0.01 {
            return Err(BenchError::Worthless(format!(
                "of {:.0} packets a second {:.0} arrived",
                trial.offered, trial.arrived
            )));
        }
        Ok(())
    }

    /// One trial.
    ///
    /// # Errors
    /// When generator or sink fail.
    pub fn trial(&self, rate: Rate, duration: Duration, stamp: bool) -> Result<Trial> {
        let sink = self.generator.sink(self.at)?;
        let pids = self.running.pids();
        let before = Snapshot::take(self.cores, &pids, self.at.napi());
        let sent = self.generator.send(self.at, self.traffic, rate, duration, stamp)?;
        let after = Snapshot::take(self.cores, &pids, self.at.napi());
        std::thread::sleep(SETTLE);
        let received = sink.finish()?;
        let cpu = before.until(&after, sent.cpu_seconds);
        Ok(Trial::new(&sent, &received, cpu))
    }
}
