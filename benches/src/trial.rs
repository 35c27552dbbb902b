//! One trial: a sink counts, the generator sends for a while, and who had the processor is noted.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::command::run;
use crate::cpu::{CpuUse, Snapshot};
use crate::error::{BenchError, Result};
use crate::generator::{Generator, Latency, Rate, Received, Traffic};
use crate::namespaces::{Cores, Namespaces};
use crate::peers::{Peer, Running};

/// How long what is under way may take to arrive after the generator has ended.
const SETTLE: Duration = Duration::from_millis(30);
/// Packets a second while a peer is made to know the flows: slow enough that none is lost.
const WARM_RATE: f64 = 200_000.0;
/// With many flows it is faster: each is sent a packet in so many seconds, as an answer that rests on a session is not repeated after
/// five seconds of silence.
const WARM_GAP: f64 = 3.0;
/// And a round is so many times faster than the last one, if that lost no more than this part.
const WARM_FASTER: f64 = 1.3;
const WARM_LOSS: f64 = 0.02;
/// Rounds of warming up at most, until the flows that stay in the driver become no more.
const WARM_ROUNDS: usize = 20;
/// Nor, for so many times what is planned for it.
const WARM_PATIENCE: f64 = 8.0;

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

/// A trial that was offered less than this part of its rate shows nothing of that rate.
const OFFERED: f64 = 0.98;

impl Trial {
    /// The part that was lost at `rate`; all of it, if the generator could not send as fast.
    pub fn lost_of(&self, rate: f64) -> f64 {
        if self.offered < rate * OFFERED { 1.0 } else { self.loss }
    }
}

/// How many flows stay in the driver, by what this command says.
fn handed_over(ask: &[String]) -> Result<f64> {
    let argv: Vec<&str> = ask.iter().map(String::as_str).collect();
    let said: serde_json::Value = serde_json::from_str(&run(&argv)?)
        .map_err(|error| BenchError::Worthless(format!("{}: {error}", argv.join(" "))))?;
    let workers = said.as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(workers.iter().filter_map(|worker| worker.get("fast_flows")?.as_f64()).sum())
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
    /// Makes the peer know every flow: each is sent a few times, slowly; how long for, [`warm_seconds`] says. With the fast path again, until
    /// all flows are handed over to the driver, or no more are.
    ///
    /// # Errors
    /// When nothing arrives: whatever follows would prove nothing.
    pub fn warm_up(&self, peer: Peer) -> Result<()> {
        let flows = f64::from(self.traffic.flows);
        let Some(ask) = &self.running.ask else {
            return self.warm_up_once(WARM_RATE, warm_seconds(peer, self.traffic.flows)).map(drop);
        };
        let (mut before, mut rate) = (0.0, WARM_RATE.max(flows / WARM_GAP));
        let (begun, patience) = (Instant::now(), warm_seconds(peer, self.traffic.flows) * WARM_PATIENCE);
        for _ in 0..WARM_ROUNDS {
            if begun.elapsed().as_secs_f64() > patience {
                break;
            }
            // Those that stay in the driver by now cost little.
            if self.warm_up_once(rate, (flows * 2.5 / rate).clamp(0.2, 20.0))?.loss < WARM_LOSS {
                rate *= WARM_FASTER;
            }
            let handed_over = handed_over(ask)?;
            if handed_over >= flows * 0.995 || before > 0.0 && handed_over < before * 1.01 {
                break;
            }
            before = handed_over;
        }
        Ok(())
    }

    /// A trial at this rate, for so many seconds.
    fn warm_up_once(&self, rate: f64, seconds: f64) -> Result<Trial> {
        let trial = self.trial(Rate::Pps(rate), Duration::from_secs_f64(seconds), false)?;
        if trial.arrived < trial.offered * 0.01 {
            return Err(BenchError::Worthless(format!(
                "of {:.0} packets a second {:.0} arrived",
                trial.offered, trial.arrived
            )));
        }
        Ok(trial)
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
