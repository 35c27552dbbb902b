//! Workers on live traffic: a pinned thread with AF_XDP sockets, and the loop that decides when to sleep.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use nix::unistd::Pid;
use throughway_io::PacketIo;
use throughway_io::xsk::{Granted, Umem, XskConfig, XskIo};
use throughway_packet::PortId;

use super::idle::{Idle, Rest, Shared};
use super::inspect::{FlowFilter, Found, Inspection};
use super::offload::Offload;
use super::own::OwnPacket;
use super::progress::Thread;
use super::tap::Tap;
use super::{Setup, Worker};
use crate::chain::Program;
use crate::stats::SocketStats;

/// How long an idle worker sleeps at most before it looks for commands.
const IDLE_SLEEP: Duration = Duration::from_millis(20);
/// The same while packets wait for a neighbour or for room in a ring.
const WAITING_SLEEP: Duration = Duration::from_millis(1);
/// How long an order may take: a worker looks for orders every round, so this one hangs.
const ORDER_PATIENCE: Duration = Duration::from_secs(5);
/// How often the sockets' figures are read from the kernel.
const FIGURES_EVERY: u64 = 250_000_000;

/// What a worker is started with.
pub struct Launch {
    /// Its number, from zero.
    pub number: usize,
    /// The core it is pinned to.
    pub core: usize,
    /// Its sockets.
    pub xsk: XskConfig,
    /// Poll without ever sleeping.
    pub busy: bool,
    /// Told when the kernel's receiving shares its core.
    pub shared: Shared,
    /// What it runs.
    pub program: Program,
    /// Where it puts what is the host's own.
    pub own: Option<Sender<OwnPacket>>,
    /// The rest.
    pub setup: Setup,
    /// What the XDP program executes for it, if it does.
    pub offload: Option<Offload>,
}

/// A socket that a started worker opened.
#[derive(Debug)]
pub struct OpenSocket {
    /// Its port.
    pub port: PortId,
    /// Its queue of the device.
    pub queue: u32,
    /// The socket, to be put into the steering program's map.
    pub fd: OwnedFd,
    /// The mode it was granted.
    pub granted: Granted,
}

enum Command {
    Install(Box<Program>, Sender<Box<Program>>),
    Inspect(Inspection),
    Tap(Box<Tap>, Sender<()>),
    Untap(u64, Sender<Option<Box<Tap>>>),
    Stop,
}

/// A running worker.
#[derive(Debug)]
pub struct Handle {
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
    /// The kernel's number of the thread.
    id: Pid,
}

/// Why a worker did not start or did not do as told.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The thread could not be made.
    #[error("worker {0}: the thread could not be started: {1}")]
    Thread(usize, std::io::Error),
    /// Its core does not exist or may not be used.
    #[error("worker {0}: cannot run on core {1}: it does not exist, or this process may not use it")]
    Core(usize, usize),
    /// Its sockets could not be opened.
    #[error("worker {0}: {1}")]
    Sockets(usize, String),
    /// It does not listen.
    #[error("worker {0} makes no progress")]
    Stuck(usize),
    /// It ended by itself.
    #[error("worker {0} has ended unexpectedly")]
    Gone(usize),
}

/// Starts a worker; returns when its sockets are open.
pub fn start(launch: Launch) -> Result<(Handle, Vec<OpenSocket>), WorkerError> {
    let number = launch.number;
    let (commands, orders) = bounded(4);
    let (ready, started) = bounded(1);
    let thread = std::thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(move || work(launch, &orders, &ready))
        .map_err(|error| WorkerError::Thread(number, error))?;
    let (id, sockets) = started.recv().map_err(|_| WorkerError::Gone(number))??;
    Ok((Handle { commands, thread: Some(thread), id }, sockets))
}

/// Waits until a worker's packets come to a capture that it was [told](Handle::tap) of.
pub fn tapped(number: usize, is_ready: &Receiver<()>) -> Result<(), WorkerError> {
    is_ready.recv_timeout(ORDER_PATIENCE).map_err(|error| late(number, error))
}

impl Handle {
    /// Replaces the program at the next batch boundary; returns the old one when the new one is in force.
    pub fn install(&self, number: usize, program: Program) -> Result<Program, WorkerError> {
        let (done, installed) = bounded(1);
        self.commands
            .send(Command::Install(Box::new(program), done))
            .map_err(|_| WorkerError::Gone(number))?;
        installed.recv_timeout(ORDER_PATIENCE).map(|old| *old).map_err(|error| late(number, error))
    }

    /// Looks for at most `most` flows in its cache; waits until it has been gone through.
    pub fn flows(&self, number: usize, filter: FlowFilter, most: usize) -> Result<Vec<Found>, WorkerError> {
        let (answer, found) = bounded(1);
        let inspection = Inspection::new(filter, most, answer);
        self.commands.send(Command::Inspect(inspection)).map_err(|_| WorkerError::Gone(number))?;
        found.recv_timeout(ORDER_PATIENCE).map_err(|error| late(number, error))
    }

    /// Has a capture see its packets. What it gives back tells when those that the XDP program executed come to it: see [`tapped`].
    pub fn tap(&self, number: usize, tap: Box<Tap>) -> Result<Receiver<()>, WorkerError> {
        let (ready, is_ready) = bounded(1);
        self.commands.send(Command::Tap(tap, ready)).map_err(|_| WorkerError::Gone(number))?;
        Ok(is_ready)
    }

    /// Ends a capture; what the worker had of it, if it knows it, is the caller's to free.
    pub fn untap(&self, number: usize, capture: u64) -> Result<Option<Box<Tap>>, WorkerError> {
        let (done, ended) = bounded(1);
        self.commands.send(Command::Untap(capture, done)).map_err(|_| WorkerError::Gone(number))?;
        ended.recv_timeout(ORDER_PATIENCE).map_err(|error| late(number, error))
    }

    /// Whether its thread still runs.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// What the kernel says of its thread.
    pub fn thread(&self) -> Option<Thread> {
        Thread::look(self.id)
    }

    /// Stops the worker and waits for it.
    pub fn stop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Why a worker did not answer in time.
fn late(number: usize, error: RecvTimeoutError) -> WorkerError {
    match error {
        RecvTimeoutError::Timeout => WorkerError::Stuck(number),
        RecvTimeoutError::Disconnected => WorkerError::Gone(number),
    }
}

/// A thread that is ready, with its sockets; or why it is not.
type Started = Result<(Pid, Vec<OpenSocket>), WorkerError>;

fn work(launch: Launch, orders: &Receiver<Command>, ready: &Sender<Started>) {
    let Launch { number, core, xsk, busy, shared, program, own, setup, offload } = launch;
    if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        let _ = ready.send(Err(WorkerError::Core(number, core)));
        return;
    }
    // The memory is made here so that it lies near the core, and lives on this stack: frames cannot outlive it.
    let mut umem = Umem::new();
    let opened = open(&mut umem, &xsk);
    let (io, sockets) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            let _ = ready.send(Err(WorkerError::Sockets(number, error)));
            return;
        }
    };
    let figures = sockets.iter().map(|socket| (socket.port, socket.queue, SocketStats::default())).collect();
    let _ = setup.stats.sockets.set(figures);
    let mut worker = Worker::new(io, program, setup);
    worker.bound(xsk.frames as usize);
    if let Some(own) = own {
        worker = worker.giving(own);
    }
    if let Some(offload) = offload {
        worker.offload(offload);
    }
    // From now on packets may come: the first round is next.
    let _ = ready.send(Ok((nix::unistd::gettid(), sockets)));
    run(worker, orders, Idle::new(busy, shared));
}

fn open<'umem>(umem: &'umem mut Umem, xsk: &XskConfig) -> Result<(XskIo<'umem>, Vec<OpenSocket>), String> {
    let io = XskIo::open(umem, xsk).map_err(|error| error.to_string())?;
    let mut sockets = Vec::new();
    for (port, queue, fd) in io.sockets() {
        let fd = fd.try_clone_to_owned().map_err(|error| error.to_string())?;
        let granted = io.granted(port, queue).cloned().unwrap_or_default();
        sockets.push(OpenSocket { port, queue, fd, granted });
    }
    Ok((io, sockets))
}

fn run(mut worker: Worker<XskIo<'_>>, orders: &Receiver<Command>, mut idle: Idle) {
    let mut figures_at = 0;
    let mut inspection = None;
    loop {
        match orders.try_recv() {
            Ok(Command::Install(program, done)) => {
                let old = worker.install(*program);
                let _ = done.send(Box::new(old));
            }
            // One at a time: an earlier one that is not finished is given up, and who asked is told.
            Ok(Command::Inspect(wanted)) => inspection = Some(wanted),
            // The service opens no more than a worker takes; of one more, who asked is told that nobody is ready.
            Ok(Command::Tap(tap, ready)) => drop(worker.tap(tap, ready)),
            Ok(Command::Untap(capture, done)) => {
                let _ = done.send(worker.untap(capture));
            }
            Ok(Command::Stop) | Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {}
        }
        // The one clock reading of the round.
        let now = crate::clock::now();
        let received = worker.round(now);
        inspection = inspection.take().and_then(|inspection| worker.inspect(inspection, now));
        if now.0 >= figures_at {
            figures_at = now.0 + FIGURES_EVERY;
            publish_figures(&mut worker);
        }
        match idle.after(now, received) {
            Rest::Spin if received > 0 => {}
            Rest::Spin => std::hint::spin_loop(),
            Rest::Sleep => {
                let sleep = if inspection.is_some() || worker.is_behind() {
                    Duration::ZERO
                } else if worker.has_waiting() {
                    WAITING_SLEEP
                } else {
                    IDLE_SLEEP
                };
                worker.io().wait(sleep);
            }
        }
    }
    worker.tell_all_seen();
    publish_figures(&mut worker);
    worker.finish();
}

fn publish_figures(worker: &mut Worker<XskIo<'_>>) {
    worker.publish_flows();
    let stats = Arc::clone(worker.stats());
    stats.outstanding.set(worker.io().outstanding() as u64);
    for (port, queue, figures) in stats.sockets.get().into_iter().flatten() {
        let Ok(values) = worker.io().statistics(*port, *queue) else { continue };
        let values = [
            values.rx_dropped,
            values.rx_invalid_descs,
            values.tx_invalid_descs,
            values.rx_ring_full,
            values.rx_fill_ring_empty_descs,
            values.tx_ring_empty_descs,
            values.own.tx_wakeups,
            values.own.tx_retries,
            values.own.tx_errors,
            values.own.tx_dropped,
            values.own.tx_full,
            values.own.tx_moved,
            values.own.tx_short,
            values.own.tx_foreign,
            values.own.rx_wakeups,
            values.own.rx_oversized,
            values.own.rx_errors,
            values.own.fill_refills,
        ];
        for (counter, value) in figures.values.iter().zip(values) {
            counter.set(value);
        }
    }
}
