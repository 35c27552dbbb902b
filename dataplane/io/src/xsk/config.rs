//! What to open, what was granted, what was counted, and what can go wrong.

use std::io;

use thiserror::Error;

use super::MAX_MTU;

/// Whether a port's queues shall share their packets with the driver instead of being copied to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ZeroCopy {
    /// Zero copy where the driver can, else copy; [`Granted`] says which, and why.
    #[default]
    Auto,
    /// Zero copy, or an error.
    Require,
    /// Copy.
    Off,
}

/// One port: a device with those of its queues that this worker serves.
#[derive(Clone, Debug)]
pub struct XskPort {
    /// The device's name in the network namespace of the calling thread.
    pub device: String,
    /// Queue numbers. All are received from; the first is transmitted by. None: the port exists but nothing passes it.
    pub queues: Vec<u32>,
    /// Zero copy for this port. The kernel has one mode for a whole UMEM, so the strictest port decides for all.
    pub zero_copy: ZeroCopy,
}

/// The ports of a worker, and the size of what they share.
#[derive(Clone, Debug)]
pub struct XskConfig {
    /// The ports, by `PortId`.
    pub ports: Vec<XskPort>,
    /// Frames of 4096 bytes that the ports share. A half is kept for receiving, a quarter is the most that may wait for transmission, so a
    /// quarter is always there for the packets being worked on.
    pub frames: u32,
    /// Entries of each receive ring: a power of two.
    pub rx_ring: u32,
    /// Entries of each transmit and completion ring: a power of two.
    pub tx_ring: u32,
    /// Entries of each fill ring: a power of two.
    pub fill_ring: u32,
    /// Has the kernel work on the queues in this thread's calls instead of in interrupts, where it can.
    pub busy_poll: bool,
}

impl Default for XskConfig {
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            frames: 16384,
            rx_ring: 4096,
            tx_ring: 2048,
            fill_ring: 4096,
            busy_poll: false,
        }
    }
}

/// Ring sizes, in entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rings {
    pub(super) rx: u32,
    pub(super) tx: u32,
    pub(super) fill: u32,
}

/// What the kernel granted to one socket.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Granted {
    /// Whether packets are shared with the driver (as the kernel says, not as was asked for).
    pub zero_copy: bool,
    /// Why zero copy was not granted although it was wanted.
    pub fallback_reason: Option<String>,
    /// Whether busy polling is on.
    pub busy_poll: bool,
    /// Why busy polling was not granted although it was wanted.
    pub busy_poll_refused: Option<String>,
    /// Copy mode: how many packets one system call may transmit, where the kernel (Linux 6.17) lets it be raised above 32.
    pub transmit_budget: Option<u32>,
}

/// What one socket counted since it was opened. Never reset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Received packets that the kernel dropped for want of anything but the two below (`rx_dropped`); above all packets that are too long.
    pub rx_dropped: u64,
    /// Received packets that the kernel dropped because of a bad descriptor in the fill ring (`rx_invalid_descs`).
    pub rx_invalid_descs: u64,
    /// Descriptors that the kernel refused to transmit (`tx_invalid_descs`).
    pub tx_invalid_descs: u64,
    /// Received packets dropped because the receive ring was full: this worker was too slow (`rx_ring_full`).
    pub rx_ring_full: u64,
    /// How often the kernel found no frame to receive into (`rx_fill_ring_empty_descs`).
    pub rx_fill_ring_empty_descs: u64,
    /// How often the kernel found nothing to transmit (`tx_ring_empty_descs`); not a fault.
    pub tx_ring_empty_descs: u64,
    /// What this program counted.
    pub own: Counters,
}

/// What this program counted at one socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// System calls to make the kernel transmit.
    pub tx_wakeups: u64,
    /// Those that could not finish now (EAGAIN, ENOBUFS, EINTR) and were tried again; nothing is lost.
    pub tx_retries: u64,
    /// Packets that the driver dropped in copy mode, for instance because the peer's ring was full (EBUSY).
    pub tx_dropped: u64,
    /// Other failures of transmission.
    pub tx_errors: u64,
    /// The first of those, as an errno.
    pub tx_error: Option<i32>,
    /// How often frames were left behind because the transmit ring, or this socket's share of the frames, was full.
    pub tx_full: u64,
    /// Packets that were moved in memory before they were sent, because their start had moved.
    pub tx_moved: u64,
    /// Packets not sent because they are shorter than an Ethernet header.
    pub tx_short: u64,
    /// Frames of another packet memory that were offered here: a bug of the caller. Not sent, and lost to their memory.
    pub tx_foreign: u64,
    /// Received packets thrown away because they do not fit in a frame.
    pub rx_oversized: u64,
    /// System calls to make the kernel receive.
    pub rx_wakeups: u64,
    /// Failures of those.
    pub rx_errors: u64,
    /// The first of those, as an errno.
    pub rx_error: Option<i32>,
    /// Frames given to the kernel to receive into.
    pub fill_refills: u64,
}

/// Where the frames are. The parts add up to `total`, else one was lost or exists twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Account {
    /// All frames.
    pub total: usize,
    /// In the free list.
    pub free: usize,
    /// Given to the kernel to receive into, or received and not taken yet.
    pub receiving: usize,
    /// Given to the kernel to transmit, and not completed.
    pub sending: usize,
    /// In the hands of whoever uses the ports.
    pub outstanding: usize,
}

impl Account {
    /// Whether every frame is in exactly one place.
    #[must_use]
    pub const fn balances(&self) -> bool {
        self.total == self.free + self.receiving + self.sending + self.outstanding
    }
}

/// Why the sockets of a worker could not be opened.
#[derive(Debug, Error)]
pub enum Error {
    /// The device does not exist, or could not be asked for its MTU.
    #[error("device {device}: {source}")]
    Device {
        /// The device.
        device: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Packets of the device may not fit in a frame.
    #[error(
        "device {device} has MTU {mtu}, and {MAX_MTU} is the largest supported: lower it (ip link set dev {device} mtu {MAX_MTU})"
    )]
    Mtu {
        /// The device.
        device: String,
        /// Its MTU, in bytes.
        mtu: u32,
    },
    /// The same queue is configured more than once.
    #[error("queue {queue} of device {device} is configured twice")]
    Twice {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
    },
    /// No port has a queue.
    #[error("no port has a queue: there is nothing to open")]
    NoQueues,
    /// A ring's size is not a power of two.
    #[error("ring size {size} is not a power of two")]
    RingSize {
        /// The size, in entries.
        size: u32,
    },
    /// There are too few frames for the sockets.
    #[error("{frames} frames are too few for {sockets} sockets: at least {needed} are needed")]
    TooFewFrames {
        /// The frames configured.
        frames: u32,
        /// The sockets to share them.
        sockets: usize,
        /// The smallest number that works.
        needed: u32,
    },
    /// One port requires zero copy and another forbids it, but the kernel has one mode for all sockets that share memory.
    #[error(
        "port {required} requires zero copy and port {refused} has it off: the ports of one worker share memory, and the kernel has one mode for it"
    )]
    ZeroCopyConflict {
        /// The device that requires it.
        required: String,
        /// The device that has it off.
        refused: String,
    },
    /// Zero copy is required, and a device refused it.
    #[error("zero copy is required for {required}, but {device} queue {queue} refused it: {source}")]
    ZeroCopyRefused {
        /// The device that requires it.
        required: String,
        /// The device that refused; another one than `required` when both share memory.
        device: String,
        /// The queue that refused.
        queue: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The packet memory could not be made.
    #[error("packet memory: {reason}")]
    Umem {
        /// What failed.
        reason: String,
    },
    /// A socket could not be bound.
    #[error("AF_XDP socket on {device} queue {queue}: {source}{}", hint(source))]
    Bind {
        /// The device.
        device: String,
        /// The queue.
        queue: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What usually is behind a refusal to bind.
fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EBUSY) => " (another program has an AF_XDP socket on this queue)",
        Some(libc::EINVAL) => " (the device may not have this queue)",
        Some(libc::EPERM | libc::EACCES) => " (CAP_NET_RAW is needed)",
        _ => "",
    }
}
