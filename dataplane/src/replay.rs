//! Runs the chains over capture files: the live worker's very code, without root and without a NIC.

use std::path::PathBuf;
use std::sync::Arc;

use crossbeam::channel::bounded;
use throughway_config::Config;
use throughway_flow::Generations;
use throughway_io::PacketIo as _;
use throughway_io::pcap::PcapIo;
use throughway_packet::PortId;
use throughway_vnf::{DropReason, Now};

use crate::assemble::state::States;
use crate::assemble::{Blueprint, Figures};
use crate::cli::Failure;
use crate::host::HostFacts;
use crate::stats::WorkerStats;
use crate::worker::{PortSettings, Setup, Worker};

/// Frames in use at a time: enough for full queues of every kind.
const FRAMES: usize = 8192;

/// What a replay is made of.
#[derive(Debug)]
pub struct Inputs {
    /// (interface, capture file).
    pub captures: Vec<(String, PathBuf)>,
    /// Where the sent packets go.
    pub output: PathBuf,
    /// The host's state.
    pub host: HostFacts,
}

/// What came out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// By interface: name, packets read, packets sent.
    pub interfaces: Vec<(String, u64, u64)>,
    /// By reason: label, packets.
    pub drops: Vec<(&'static str, u64)>,
    /// ICMP errors that the data plane sent.
    pub originated: u64,
}

/// Runs `config` over `inputs`.
pub fn replay(config: &Config, inputs: &Inputs) -> Result<Summary, Failure> {
    let names: Vec<String> = config.interfaces.iter().map(|interface| interface.name.to_string()).collect();
    let devices = config.device_numbers();
    let first: Vec<&str> = config.devices().map(|interface| interface.name.as_str()).collect();
    let mut io = PcapIo::new(first.len(), FRAMES);
    for (interface, file) in &inputs.captures {
        let port = names.iter().position(|name| name == interface).ok_or_else(|| {
            format!(
                "--in {interface}=…: the configuration has no interface `{interface}`; it has: {}",
                names.join(", ")
            )
        })?;
        let device = devices.get(port).copied().unwrap_or(port);
        io.input(PortId(device as u16), file)?;
    }
    // What leaves by a device stands in one file, as it would be captured there.
    io.output_directory(&inputs.output, &first)?;
    let stats = WorkerStats::new(names.len());
    let generations: Arc<Generations> = Arc::default();
    let states = States::new(0, Arc::clone(&generations));
    let blueprint = Blueprint::new(config, &inputs.host, &states)?;
    let program = blueprint.program(0, &mut Figures::default());
    // Nobody resolves neighbours here: what waits for one ends as unreachable, after its time in the capture.
    let (wanted, _nobody) = bounded(1);
    let setup = Setup {
        settings: PortSettings::of(config),
        stats: Arc::clone(&stats),
        wanted,
        generations,
        flows: config.workers.flows as usize,
        // Nobody attacks a replay, and two of the same capture are the same.
        seed: 0,
    };
    let mut worker = Worker::new(io, program, setup);
    // Not before one second: to the worker, zero is "never".
    let mut now = Now(worker.io().next_timestamp().unwrap_or_default().max(1_000_000_000));
    while !worker.io().finished() {
        worker.round(now);
        now = Now(now.0.max(worker.io().clock()));
    }
    // One more round a long time later: whoever waits for a neighbour is told that it does not answer.
    worker.round(Now(now.0.saturating_add(60_000_000_000)));
    worker.finish().finish()?;

    let interfaces = names.into_iter().zip(&stats.ports);
    let interfaces =
        interfaces.map(|(name, port)| (name, port.received.packets.get(), port.sent.packets.get())).collect();
    let drops = DropReason::ALL.iter().enumerate().map(|(index, reason)| {
        let counts = stats.ports.iter().filter_map(|port| port.drops.get(index));
        (reason.label(), counts.map(throughway_vnf::counters::Counter::get).sum())
    });
    let drops = drops.filter(|(_, count)| *count > 0).collect();
    Ok(Summary { interfaces, drops, originated: stats.originated.get() })
}
