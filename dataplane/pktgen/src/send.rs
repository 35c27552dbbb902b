//! Sending: which back end, and what came of it.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use throughway_io::xsk::Umem;
use throughway_traffic::State;

use crate::device::Device;
use crate::live::Live;
use crate::user::{Raw, Ring, drive};
use crate::{Error, Traffic, kernel};

/// How frames get to the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backend {
    /// A BPF program fills in frames of the kernel (BPF_PROG_TEST_RUN with live frames).
    LiveFrames,
    /// An AF_XDP socket.
    AfXdp,
    /// An AF_PACKET socket.
    AfPacket,
    /// The kernel's own generator, `pktgen`.
    Kernel,
}

impl Backend {
    /// The label used in options and output.
    pub const fn label(self) -> &'static str {
        match self {
            Backend::LiveFrames => "live-frames",
            Backend::AfXdp => "af-xdp",
            Backend::AfPacket => "af-packet",
            Backend::Kernel => "kernel",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What was sent.
#[derive(Clone, PartialEq, Debug)]
pub struct Sent {
    /// By which back end.
    pub backend: Backend,
    /// Packets given to the device. It may have refused some: only the receiver knows.
    pub packets: u64,
    /// Bytes of their frames, without the frame check sequence.
    pub bytes: u64,
    /// How long it took.
    pub duration: Duration,
    /// What the sending thread has used of its core, the receiver's softirq included where it ran there.
    pub cpu: Duration,
    /// Flows that there were, one after another.
    pub flows: u64,
    /// Packets that were due and were given up, because the generator came too late: the rate was not kept.
    pub skipped: u64,
    /// Faster back ends that were tried before, and why they were not taken.
    pub refused: Vec<(Backend, String)>,
}

impl Sent {
    /// Packets per second.
    pub fn rate(&self) -> f64 {
        let seconds = self.duration.as_secs_f64();
        if seconds > 0.0 { self.packets as f64 / seconds } else { 0.0 }
    }
}

/// What a back end has done.
pub(crate) struct Effort {
    pub(crate) state: State,
    pub(crate) cpu: Duration,
}

/// Puts the calling thread on `cpu`.
pub(crate) fn pin(cpu: Option<usize>) -> Result<(), Error> {
    match cpu {
        Some(id) if !core_affinity::set_for_current(core_affinity::CoreId { id }) => {
            Err(Error::Impossible(format!("core {id} does not exist, or this process may not use it")))
        }
        _ => Ok(()),
    }
}

/// Sends `traffic` by `backend` (`None`: the fastest that this kernel and device have), until it is all sent or `stop` is
/// set. Looked up and sent in the network namespace of the calling thread.
///
/// # Errors
///
/// When `traffic` contradicts itself, or the kernel refuses.
pub fn send(traffic: &Traffic, backend: Option<Backend>, stop: &AtomicBool) -> Result<Sent, Error> {
    let device = Device::find(&traffic.device)?;
    let plan = traffic.plan(&device)?;
    let by = |backend| match backend {
        Backend::LiveFrames => Live::load(&plan, &device)?.send(traffic.cpu, stop),
        Backend::AfXdp => {
            pin(traffic.cpu)?;
            let mut umem = Umem::new();
            drive(&plan, &mut Ring::open(&mut umem, &device)?, stop)
        }
        Backend::AfPacket => {
            pin(traffic.cpu)?;
            drive(&plan, &mut Raw::open(&device, &plan)?, stop)
        }
        Backend::Kernel => kernel::send(traffic, &plan, &device, stop),
    };
    let mut refused = Vec::new();
    let (backend, effort) = match backend {
        Some(backend) => (backend, by(backend)?),
        None => 'found: {
            for backend in [Backend::LiveFrames, Backend::AfXdp] {
                match by(backend) {
                    Ok(effort) => break 'found (backend, effort),
                    Err(error) => refused.push((backend, error.to_string())),
                }
            }
            (Backend::AfPacket, by(Backend::AfPacket)?)
        }
    };
    let Effort { state, cpu } = effort;
    Ok(Sent {
        backend,
        packets: state.packets,
        bytes: state.bytes,
        duration: Duration::from_nanos(state.duration()),
        cpu,
        flows: state.packets.min(plan.flows + state.created),
        skipped: state.skipped,
        refused,
    })
}
