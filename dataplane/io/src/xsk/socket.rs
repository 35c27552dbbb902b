//! One AF_XDP socket: the four rings of one queue of one device, and who has how many frames in them.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue};

use super::umem::{CHUNK, MAX_PACKET, Memory, XskFrame};
use super::{Counters, Error, Granted, Rings, sys};
use crate::{Frame, Sent};

/// How many descriptors go through a ring at a time.
pub(super) const BATCH: usize = 64;

/// How often one flush asks the kernel to go on transmitting while it makes progress.
const KICKS: usize = 64;

/// How many packets one call may transmit in copy mode, where the kernel lets it be chosen.
const TRANSMIT_BUDGET: u32 = 256;

/// An Ethernet header: nothing shorter can be sent. The kernel skips an empty descriptor without completing it.
const MIN_PACKET: usize = 14;

/// A place for descriptors on their way between a ring and frames.
pub(super) type Scratch = [FrameDesc; BATCH];

/// How many frames a socket may have in its rings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares {
    /// In the fill and the receive ring; filled up to this at every flush.
    pub(super) receive: usize,
    /// In the transmit and the completion ring; more are refused.
    pub(super) transmit: usize,
}

/// One AF_XDP socket.
#[derive(Debug)]
pub(super) struct Socket {
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    fd: RawFd,
    queue: u32,
    shares: Shares,
    tx_ring: u32,
    /// Frames given to the fill ring that have not come back by the receive ring.
    receiving: usize,
    /// Frames given to the transmit ring that have not come back by the completion ring.
    sending: usize,
    busy_poll: bool,
    granted: Granted,
    counters: Counters,
}

impl Socket {
    /// Binds a socket of `memory` to a queue.
    pub(super) fn bind(
        memory: &Memory,
        device: &str,
        queue: u32,
        zero_copy: bool,
        rings: Rings,
        shares: Shares,
    ) -> Result<Self, BindError> {
        let size = |size| QueueSize::new(size).map_err(|_| BindError::Config(Error::RingSize { size }));
        let name: Interface = device.parse().map_err(|_| {
            BindError::Config(Error::Device {
                device: device.to_owned(),
                source: io::ErrorKind::InvalidInput.into(),
            })
        })?;
        let mode = if zero_copy { BindFlags::XDP_ZEROCOPY } else { BindFlags::XDP_COPY };
        let config = SocketConfig::builder()
            .rx_queue_size(size(rings.rx)?)
            .tx_queue_size(size(rings.tx)?)
            .bind_flags(mode | BindFlags::XDP_USE_NEED_WAKEUP)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .build();
        // SAFETY: libxdp's own program is inhibited, so binding a queue twice cannot detach it twice.
        let created = unsafe { xsk_rs::Socket::new(config, memory.umem(), &name, queue) };
        let (tx, rx, rings_of_queue) = created.map_err(|error| {
            let source =
                std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
            BindError::Refused(match source.and_then(io::Error::raw_os_error) {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::other(error.to_string()),
            })
        })?;
        let Some((fill, completion)) = rings_of_queue else {
            return Err(BindError::Config(Error::Twice { device: device.to_owned(), queue }));
        };
        let fd = rx.fd().as_raw_fd();
        let zero_copy = sys::zero_copy(fd).map_err(BindError::Refused)?;
        let budget = TRANSMIT_BUDGET.min(rings.tx);
        let transmit_budget = (!zero_copy && sys::set_transmit_budget(fd, budget).is_ok()).then_some(budget);
        Ok(Self {
            rx,
            tx,
            fill,
            completion,
            fd,
            queue,
            shares,
            tx_ring: rings.tx,
            receiving: 0,
            sending: 0,
            busy_poll: false,
            granted: Granted { zero_copy, transmit_budget, ..Granted::default() },
            counters: Counters::default(),
        })
    }

    /// Asks for busy polling; when it is refused, interrupts go on driving the queue and [`Granted`] says why.
    pub(super) fn prefer_busy_poll(&mut self) {
        match sys::prefer_busy_poll(self.fd) {
            Ok(()) => {
                self.busy_poll = true;
                self.granted.busy_poll = true;
            }
            Err(error) => self.granted.busy_poll_refused = Some(error.to_string()),
        }
    }

    pub(super) fn set_fallback(&mut self, reason: Option<String>) {
        self.granted.fallback_reason = reason;
    }

    pub(super) const fn queue(&self) -> u32 {
        self.queue
    }

    pub(super) const fn fd(&self) -> RawFd {
        self.fd
    }

    pub(super) const fn granted(&self) -> &Granted {
        &self.granted
    }

    pub(super) const fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) const fn receiving(&self) -> usize {
        self.receiving
    }

    pub(super) const fn sending(&self) -> usize {
        self.sending
    }

    pub(super) fn xdp_statistics(&self) -> io::Result<xsk_rs::socket::XdpStatistics> {
        self.rx.fd().xdp_statistics()
    }

    /// Takes up to `max` received packets. Chunks with something that is no packet for us go to `free`.
    #[inline]
    pub(super) fn receive<'u>(
        &mut self,
        memory: &'u Memory,
        max: usize,
        into: &mut Vec<XskFrame<'u>>,
        free: &mut Vec<FrameDesc>,
        scratch: &mut Scratch,
    ) -> usize {
        let mut total = 0;
        while total < max {
            let wanted = BATCH.min(max - total);
            // SAFETY: this socket was made with `memory`.
            let count = unsafe { self.rx.consume(&mut scratch[..wanted]) };
            self.receiving -= count;
            for desc in &scratch[..count] {
                let len = desc.lengths().data();
                if len > MAX_PACKET || desc.addr() % CHUNK + len > CHUNK {
                    self.counters.rx_oversized += 1;
                    free.push(memory.home(*desc));
                    continue;
                }
                // SAFETY: the receive ring gave this descriptor out, the scratch copy is not used again, and the length was checked.
                into.push(unsafe { memory.frame(*desc, len) });
                total += 1;
            }
            if count < wanted {
                break;
            }
        }
        if total == 0 && self.busy_poll {
            self.wake_receive();
        }
        total
    }

    /// Queues frames from the front of `frames` while there is room. Returns also how many frames went back to `free`.
    #[inline]
    pub(super) fn transmit(
        &mut self,
        memory: &Memory,
        frames: &mut Vec<XskFrame<'_>>,
        free: &mut Vec<FrameDesc>,
        scratch: &mut Scratch,
    ) -> Transmitted {
        let mut room = self.room(frames.len());
        if room < frames.len() {
            self.reap(memory, free, scratch);
            room = self.room(frames.len());
        }
        let mut done = Transmitted::default();
        let count = room.min(frames.len());
        let mut taken = frames.drain(..count);
        loop {
            let mut ready = 0;
            for frame in taken.by_ref() {
                let len = frame.bytes().len();
                if !memory.owns(&frame) {
                    self.counters.tx_foreign += 1;
                    continue;
                }
                if len < MIN_PACKET {
                    self.counters.tx_short += 1;
                    free.extend(memory.reclaim(frame));
                    done.recycled += 1;
                    continue;
                }
                let (desc, moved) = memory.sendable(frame);
                self.counters.tx_moved += u64::from(moved);
                scratch[ready] = desc;
                ready += 1;
                done.sent.bytes += len as u64;
                if ready == BATCH {
                    break;
                }
            }
            if ready == 0 {
                break;
            }
            // SAFETY: the descriptors are of chunks of this memory that frames owned, and those frames are gone.
            let produced = unsafe { self.tx.produce(&scratch[..ready]) };
            // `room` was free and nobody else produces, and the ring takes all or nothing.
            debug_assert_eq!(produced, ready);
            if produced != ready {
                self.counters.tx_errors += ready as u64;
                free.extend(scratch[..ready].iter().map(|desc| memory.home(*desc)));
                done.recycled += ready;
                continue;
            }
            self.sending += ready;
            done.sent.frames += ready;
        }
        drop(taken);
        self.counters.tx_full += u64::from(!frames.is_empty());
        done
    }

    /// How many frames can be queued for transmission; not necessarily exact above `wanted`.
    #[inline]
    fn room(&mut self, wanted: usize) -> usize {
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX).min(self.tx_ring);
        let ring = self.tx.nb_free(wanted) as usize;
        ring.min(self.shares.transmit.saturating_sub(self.sending))
    }

    /// Frames in the transmit ring that the kernel has not looked at.
    #[inline]
    pub(super) fn pending(&mut self) -> u32 {
        if self.sending == 0 { 0 } else { self.tx_ring.saturating_sub(self.tx.nb_free_exact()) }
    }

    /// Makes the kernel transmit what is queued, as far as it can now.
    #[inline]
    pub(super) fn kick(&mut self) {
        let mut pending = self.pending();
        for _ in 0..KICKS {
            if pending == 0 || !(self.busy_poll || self.tx.needs_wakeup()) {
                return;
            }
            self.counters.tx_wakeups += 1;
            if let Err(error) = sys::kick_transmit(self.fd) {
                match error.raw_os_error() {
                    // Out of budget, of room in the driver, of socket memory, or interrupted.
                    Some(libc::EAGAIN | libc::ENOBUFS | libc::EINTR) => self.counters.tx_retries += 1,
                    // Copy mode: the driver dropped one packet, whose frame is completed nevertheless.
                    Some(libc::EBUSY) if !self.granted.zero_copy => self.counters.tx_dropped += 1,
                    Some(libc::EBUSY) => self.counters.tx_retries += 1,
                    code => {
                        self.counters.tx_errors += 1;
                        self.counters.tx_error = self.counters.tx_error.or(code);
                        return;
                    }
                }
            }
            let left = self.pending();
            if left == pending {
                return;
            }
            pending = left;
        }
    }

    /// Takes the frames whose packets are sent back into `free`.
    #[inline]
    pub(super) fn reap(&mut self, memory: &Memory, free: &mut Vec<FrameDesc>, scratch: &mut Scratch) {
        while self.sending > 0 {
            // SAFETY: this socket was made with `memory`.
            let count = unsafe { self.completion.consume(scratch) };
            self.sending -= count;
            free.extend(scratch[..count].iter().map(|desc| memory.home(*desc)));
            if count < BATCH {
                return;
            }
        }
    }

    /// Gives the kernel free frames to receive into, until it has `of_share` (numerator, denominator) of this socket's share.
    #[inline]
    pub(super) fn refill(&mut self, free: &mut Vec<FrameDesc>, of_share: (usize, usize)) {
        let target = self.shares.receive * of_share.0 / of_share.1;
        let wanted = target.saturating_sub(self.receiving).min(free.len());
        if wanted == 0 {
            return;
        }
        let room = self.fill.nb_free(u32::try_from(wanted).unwrap_or(u32::MAX)) as usize;
        let count = wanted.min(room);
        let rest = free.len() - count;
        // SAFETY: the free list holds descriptors of this memory that nobody else has; they leave it below.
        let given = unsafe { self.fill.produce(&free[rest..]) };
        free.truncate(free.len() - given);
        self.receiving += given;
        self.counters.fill_refills += given as u64;
    }

    /// Tells the kernel about the fill ring when it has asked for that.
    #[inline]
    pub(super) fn wake_fill(&mut self) {
        if self.fill.needs_wakeup() {
            self.wake_receive();
        }
    }

    fn wake_receive(&mut self) {
        self.counters.rx_wakeups += 1;
        if let Err(error) = sys::kick_receive(self.fd) {
            match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => {}
                code => {
                    self.counters.rx_errors += 1;
                    self.counters.rx_error = self.counters.rx_error.or(code);
                }
            }
        }
    }
}

/// Why a socket could not be made.
#[derive(Debug)]
pub(super) enum BindError {
    /// The configuration is wrong in every mode.
    Config(Error),
    /// The kernel refused.
    Refused(io::Error),
}

/// What became of frames offered to [`Socket::transmit`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Transmitted {
    pub(super) sent: Sent,
    /// Frames that were taken but not sent; a counter says why.
    pub(super) recycled: usize,
}
