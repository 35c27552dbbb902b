//! AF_XDP: the sockets of one worker, over packet memory (a UMEM) that they share, so that a packet goes from one port to another
//! without being copied.
//!
//! * [`Umem`] is the memory, and [`XskFrame`] a packet in it. The worker keeps the `Umem` on its stack; sockets and frames borrow it.
//! * [`XskIo`] is the ports of the worker: it owns one socket for each queue, and the list of free frames.
//!
//! No XDP program is loaded here. The caller puts [`XskIo::sockets`] into the map of its program.
//!
//! ```no_run
//! use throughway_io::xsk::{Umem, XskConfig, XskIo, XskPort, ZeroCopy};
//!
//! let port = |device: &str| XskPort { device: device.to_owned(), queues: vec![0], zero_copy: ZeroCopy::Auto };
//! let config = XskConfig { ports: vec![port("eth1"), port("eth2")], ..XskConfig::default() };
//! let mut umem = Umem::new();
//! let io = XskIo::open(&mut umem, &config)?;
//! for (port, queue, socket) in io.sockets() {
//!     // put `socket` into the XSKMAP at `queue`
//! }
//! # Ok::<(), throughway_io::xsk::Error>(())
//! ```
//!
//! # Who may have how many frames
//!
//! A packet that is received leaves its socket one frame short, and gets lost to that socket until a frame is given back. So that a slow transmitter
//! cannot eat the frames of receivers, half of all frames belongs to the receive side (shared evenly between the sockets), at most a quarter may
//! wait in transmit rings, and the rest is for packets in the worker's hands.
#![expect(unsafe_code, reason = "memory shared with the kernel; every block says why it is sound")]

mod config;
mod socket;
mod sys;
mod umem;

#[cfg(test)]
mod tests;

use std::io;
use std::num::NonZeroU32;
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::Duration;

use throughway_packet::PortId;
use xsk_rs::FrameDesc;

use self::config::Rings;
use self::socket::{BATCH, BindError, Scratch, Shares, Socket};
use self::umem::Memory;
use crate::{PacketIo, Sent};

pub use self::config::{Account, Counters, Error, Granted, Statistics, XskConfig, XskPort, ZeroCopy};
pub use self::umem::{CHUNK, MAX_MTU, MAX_PACKET, Umem, XskFrame};

/// The fewest frames that a socket receives into.
const MIN_SHARE: u32 = BATCH as u32;

/// The kernel frees a queue some time after its socket was closed. So long, and so often, a busy queue is tried again.
const BUSY_RETRY: (Duration, u32) = (Duration::from_millis(20), 50);

/// How long a wait may last when packets could not be transmitted yet.
const PENDING_WAIT: Duration = Duration::from_millis(1);

/// One port's sockets, as a range of all sockets, and which is read first next time.
#[derive(Debug)]
struct Port {
    sockets: std::ops::Range<usize>,
    next: usize,
}

/// The AF_XDP ports of one worker.
#[derive(Debug)]
pub struct XskIo<'umem> {
    memory: &'umem Memory,
    sockets: Vec<Socket>,
    ports: Vec<Port>,
    /// Frames that are nowhere else, the last used on top: its memory is the warmest.
    free: Vec<FrameDesc>,
    outstanding: usize,
    /// How many frames may be outstanding for [`PacketIo::allocate`] to hand out another: the rest is for receiving and sending.
    allowance: usize,
    poll: Vec<libc::pollfd>,
    scratch: Box<Scratch>,
}

impl<'umem> XskIo<'umem> {
    /// Opens the sockets. The XDP program should be attached before, and the fds be put into its map afterwards.
    ///
    /// Zero copy is tried first, on all sockets, then copy: the kernel has one mode for all sockets that share memory. See [`XskIo::granted`].
    ///
    /// # Errors
    /// When the configuration cannot work, an MTU is above [`MAX_MTU`], or the kernel refuses. Nothing stays open then.
    pub fn open(umem: &'umem mut Umem, config: &XskConfig) -> Result<Self, Error> {
        let plan = Plan::new(config)?;
        let refused = match plan.mode {
            Mode::Copy => None,
            Mode::ZeroCopy { required } => match plan.bind(umem, config, true) {
                Ok(sockets) => return Self::start(umem, config, plan.shares, sockets, None),
                Err(Failure::Fatal(error)) => {
                    umem.clear();
                    return Err(error);
                }
                Err(Failure::Refused { device, queue, source }) => match required {
                    Some(required) => {
                        umem.clear();
                        return Err(Error::ZeroCopyRefused {
                            required: required.to_owned(),
                            device,
                            queue,
                            source,
                        });
                    }
                    None => Some(format!("{device} queue {queue} refused zero copy: {source}")),
                },
            },
        };
        match plan.bind(umem, config, false) {
            Ok(sockets) => Self::start(umem, config, plan.shares, sockets, refused),
            Err(failure) => {
                umem.clear();
                Err(match failure {
                    Failure::Fatal(error) => error,
                    Failure::Refused { device, queue, source } => Error::Bind { device, queue, source },
                })
            }
        }
    }

    fn start(
        umem: &'umem Umem,
        config: &XskConfig,
        shares: Shares,
        mut sockets: Vec<Socket>,
        fallback: Option<String>,
    ) -> Result<Self, Error> {
        let memory = umem.memory().ok_or_else(|| Error::Umem { reason: "not registered".to_owned() })?;
        let mut ports = Vec::with_capacity(config.ports.len());
        let mut first = 0;
        for port in &config.ports {
            ports.push(Port { sockets: first..first + port.queues.len(), next: 0 });
            first += port.queues.len();
        }
        for socket in &mut sockets {
            if !socket.granted().zero_copy {
                socket.set_fallback(fallback.clone());
            }
            if config.busy_poll {
                socket.prefer_busy_poll();
            }
        }
        let poll = sockets
            .iter()
            .map(|socket| libc::pollfd { fd: socket.fd(), events: libc::POLLIN, revents: 0 })
            .collect();
        let free = memory.all().to_vec();
        let transmitters = ports.iter().filter(|port| !port.sockets.is_empty()).count();
        let allowance = free.len() - sockets.len() * shares.receive - transmitters * shares.transmit;
        let mut io = Self {
            memory,
            sockets,
            ports,
            allowance,
            free,
            outstanding: 0,
            poll,
            scratch: Box::new([FrameDesc::default(); BATCH]),
        };
        // Fills the rings and wakes drivers that found them empty at bind.
        io.flush();
        Ok(io)
    }

    /// Whether `port` has a queue in this worker; without one nothing can be transmitted by it here.
    #[must_use]
    pub fn has_queue(&self, port: PortId) -> bool {
        self.ports.get(port.index()).is_some_and(|port| !port.sockets.is_empty())
    }

    /// The sockets, for the map of the XDP program.
    pub fn sockets(&self) -> impl Iterator<Item = (PortId, u32, BorrowedFd<'_>)> {
        self.ports.iter().enumerate().flat_map(move |(number, port)| {
            self.sockets[port.sockets.clone()].iter().map(move |socket| {
                // SAFETY: the socket is closed by dropping `Socket` (or its UMEM, which outlives `self`), which the borrow of `self` forbids.
                let fd = unsafe { BorrowedFd::borrow_raw(socket.fd()) };
                (PortId(number as u16), socket.queue(), fd)
            })
        })
    }

    /// What the kernel granted to the socket of a queue; `None` when this worker does not have the queue.
    #[must_use]
    pub fn granted(&self, port: PortId, queue: u32) -> Option<&Granted> {
        self.socket(port, queue).map(Socket::granted)
    }

    /// What was counted at a queue. One system call.
    ///
    /// # Errors
    /// `NotFound` when this worker does not have the queue, or what the kernel says.
    pub fn statistics(&self, port: PortId, queue: u32) -> io::Result<Statistics> {
        let socket = self.socket(port, queue).ok_or(io::ErrorKind::NotFound)?;
        let kernel = socket.xdp_statistics()?;
        Ok(Statistics {
            rx_dropped: kernel.rx_dropped(),
            rx_invalid_descs: kernel.rx_invalid_descs(),
            tx_invalid_descs: kernel.tx_invalid_descs(),
            rx_ring_full: kernel.rx_ring_full(),
            rx_fill_ring_empty_descs: kernel.rx_fill_ring_empty_descs(),
            tx_ring_empty_descs: kernel.tx_ring_empty_descs(),
            own: *socket.counters(),
        })
    }

    /// Where the frames are.
    #[must_use]
    pub fn account(&self) -> Account {
        Account {
            total: self.memory.all().len(),
            free: self.free.len(),
            receiving: self.sockets.iter().map(Socket::receiving).sum(),
            sending: self.sockets.iter().map(Socket::sending).sum(),
            outstanding: self.outstanding,
        }
    }

    fn socket(&self, port: PortId, queue: u32) -> Option<&Socket> {
        let port = self.ports.get(port.index())?;
        self.sockets[port.sockets.clone()].iter().find(|socket| socket.queue() == queue)
    }

    /// Gives free frames to the fill rings: first everyone gets half of its share, so that a short supply does not go to the first.
    fn refill(&mut self) {
        for part in [(1, 2), (1, 1)] {
            for socket in &mut self.sockets {
                socket.refill(&mut self.free, part);
            }
        }
    }
}

impl<'umem> PacketIo for XskIo<'umem> {
    type Frame = XskFrame<'umem>;

    fn ports(&self) -> usize {
        self.ports.len()
    }

    fn receive(&mut self, port: PortId, max: usize, into: &mut Vec<XskFrame<'umem>>) -> usize {
        let Some(port) = self.ports.get_mut(port.index()) else { return 0 };
        let sockets = &mut self.sockets[port.sockets.clone()];
        let mut total = 0;
        for _ in 0..sockets.len() {
            port.next = if port.next + 1 < sockets.len() { port.next + 1 } else { 0 };
            total +=
                sockets[port.next].receive(self.memory, max - total, into, &mut self.free, &mut self.scratch);
            if total == max {
                break;
            }
        }
        self.outstanding += total;
        total
    }

    fn transmit(&mut self, port: PortId, frames: &mut Vec<XskFrame<'umem>>) -> Sent {
        if frames.is_empty() {
            return Sent::default();
        }
        let Some(socket) = self
            .ports
            .get(port.index())
            .and_then(|port| port.sockets.clone().next())
            .and_then(|first| self.sockets.get_mut(first))
        else {
            return Sent::default();
        };
        let done = socket.transmit(self.memory, frames, &mut self.free, &mut self.scratch);
        self.outstanding -= done.sent.frames + done.recycled;
        done.sent
    }

    fn flush(&mut self) {
        for socket in &mut self.sockets {
            socket.kick();
            socket.reap(self.memory, &mut self.free, &mut self.scratch);
        }
        self.refill();
        for socket in &mut self.sockets {
            socket.wake_fill();
        }
    }

    fn allocate(&mut self) -> Option<XskFrame<'umem>> {
        if self.outstanding >= self.allowance {
            return None;
        }
        let desc = self.free.pop()?;
        self.outstanding += 1;
        // SAFETY: the free list gave the descriptor out.
        Some(unsafe { self.memory.frame(desc, 0) })
    }

    fn release(&mut self, frame: XskFrame<'umem>) {
        if let Some(desc) = self.memory.reclaim(frame) {
            self.free.push(desc);
            self.outstanding -= 1;
        }
    }

    fn outstanding(&self) -> usize {
        self.outstanding
    }

    fn wait(&mut self, timeout: Duration) {
        // The kernel transmits once when it is polled in copy mode; what is left then must not wait for a packet to arrive.
        let pending = self.sockets.iter_mut().any(|socket| socket.pending() > 0);
        let timeout = if pending { timeout.min(PENDING_WAIT) } else { timeout };
        // An interrupted or failed wait is a short one: the caller polls the rings next, and an error of a socket shows there.
        let _ = sys::poll(&mut self.poll, timeout);
    }
}

/// What to try for zero copy.
#[derive(Debug)]
enum Mode<'a> {
    Copy,
    ZeroCopy { required: Option<&'a str> },
}

/// A configuration that could work.
#[derive(Debug)]
struct Plan<'a> {
    frames: NonZeroU32,
    rings: Rings,
    shares: Shares,
    mode: Mode<'a>,
}

#[derive(Debug)]
enum Failure {
    Fatal(Error),
    Refused { device: String, queue: u32, source: io::Error },
}

impl<'a> Plan<'a> {
    fn new(config: &'a XskConfig) -> Result<Self, Error> {
        let rings = Rings { rx: config.rx_ring, tx: config.tx_ring, fill: config.fill_ring };
        for size in [rings.rx, rings.tx, rings.fill] {
            if !size.is_power_of_two() {
                return Err(Error::RingSize { size });
            }
        }
        let mut queues: Vec<(&str, u32)> = Vec::new();
        for port in &config.ports {
            for queue in &port.queues {
                if queues.contains(&(&port.device, *queue)) {
                    return Err(Error::Twice { device: port.device.clone(), queue: *queue });
                }
                queues.push((&port.device, *queue));
            }
        }
        let sockets = queues.len();
        if sockets == 0 {
            return Err(Error::NoQueues);
        }
        let transmitters = config.ports.iter().filter(|port| !port.queues.is_empty()).count();
        let needed = u32::try_from(sockets).unwrap_or(u32::MAX).saturating_mul(4 * MIN_SHARE);
        let too_few = || Error::TooFewFrames { frames: config.frames, sockets, needed };
        let frames =
            NonZeroU32::new(config.frames).filter(|frames| frames.get() >= needed).ok_or_else(too_few)?;
        let shares = Shares {
            receive: (config.frames as usize / 2 / sockets).min(rings.fill as usize),
            transmit: (config.frames as usize / 4 / transmitters).min(rings.tx as usize),
        };
        for port in config.ports.iter().filter(|port| !port.queues.is_empty()) {
            let device = &port.device;
            match sys::mtu(device) {
                Ok(mtu) if mtu <= MAX_MTU => {}
                Ok(mtu) => return Err(Error::Mtu { device: device.clone(), mtu }),
                Err(source) => return Err(Error::Device { device: device.clone(), source }),
            }
        }
        let who = |wish| config.ports.iter().find(|port| port.zero_copy == wish && !port.queues.is_empty());
        let mode = match (who(ZeroCopy::Require), who(ZeroCopy::Off)) {
            (Some(required), Some(refused)) => {
                return Err(Error::ZeroCopyConflict {
                    required: required.device.clone(),
                    refused: refused.device.clone(),
                });
            }
            (None, Some(_)) => Mode::Copy,
            (required, None) => Mode::ZeroCopy { required: required.map(|port| port.device.as_str()) },
        };
        Ok(Self { frames, rings, shares, mode })
    }

    /// Makes the memory and all sockets, in the order of ports and queues, in one mode.
    fn bind(&self, umem: &mut Umem, config: &XskConfig, zero_copy: bool) -> Result<Vec<Socket>, Failure> {
        let memory = umem.create(self.frames, self.rings).map_err(Failure::Fatal)?;
        let mut sockets = Vec::new();
        for port in &config.ports {
            for queue in &port.queues {
                sockets.push(self.bind_one(memory, &port.device, *queue, zero_copy)?);
            }
        }
        Ok(sockets)
    }

    fn bind_one(
        &self,
        memory: &Memory,
        device: &str,
        queue: u32,
        zero_copy: bool,
    ) -> Result<Socket, Failure> {
        let mut tries = BUSY_RETRY.1;
        loop {
            match Socket::bind(memory, device, queue, zero_copy, self.rings, self.shares) {
                Ok(socket) => return Ok(socket),
                Err(BindError::Config(error)) => return Err(Failure::Fatal(error)),
                Err(BindError::Refused(source))
                    if source.raw_os_error() == Some(libc::EBUSY) && tries > 0 =>
                {
                    tries -= 1;
                    thread::sleep(BUSY_RETRY.0);
                }
                Err(BindError::Refused(source)) => {
                    return Err(Failure::Refused { device: device.to_owned(), queue, source });
                }
            }
        }
    }
}
