//! Ports that are queues in memory, for tests and benchmarks.
//!
//! A test injects packets, runs whatever works on a [`PacketIo`], and reads what was sent. The pool is bounded and its frames
//! go round, so nothing is allocated between [`MemoryIo::inject`] and [`MemoryIo::discard`]; a frame that is dropped instead of
//! given back is lost to the pool and stays visible in [`PacketIo::outstanding`].
//!
//! Queues are as lean as an AF_XDP socket's rings: frames pass as small handles, all that are there at once, and a packet
//! begins on a cache line, as it does in a UMEM.

use std::fmt;
use std::time::Duration;

use throughway_packet::PortId;

use crate::{Frame, HEADROOM, PacketIo, Sent};

/// Bytes of a cache line.
const LINE: usize = 64;

/// A packet in a buffer on the heap, with [`HEADROOM`] bytes before it.
#[must_use = "a frame that is dropped is lost to its pool: transmit or release it"]
pub struct MemoryFrame {
    /// Some bytes up to a cache line (the heap aligns to less), the headroom, the packet, and the rest of those bytes.
    buffer: Box<[u8]>,
    /// Where the packet begins. Buffers are far below 2³² bytes, so 32 bits do.
    start: u32,
    len: u32,
}

impl MemoryFrame {
    fn new(size: usize) -> Self {
        let buffer = vec![0; LINE - 1 + HEADROOM + size].into_boxed_slice();
        let mut frame = Self { buffer, start: 0, len: 0 };
        frame.reset();
        frame
    }

    /// Where the headroom begins: on a cache line.
    #[inline]
    fn front(&self) -> usize {
        self.buffer.as_ptr().addr().wrapping_neg() % LINE
    }

    /// Where the room for the packet ends.
    #[inline]
    fn back(&self) -> usize {
        self.front() + self.buffer.len() - (LINE - 1)
    }

    /// Makes the frame empty, with the whole headroom before it.
    #[inline]
    fn reset(&mut self) {
        self.start = (self.front() + HEADROOM) as u32;
        self.len = 0;
    }

    /// Makes `packet` the frame's content. Returns `false`, and leaves the frame empty, when it does not fit.
    #[must_use]
    pub(crate) fn fill(&mut self, packet: &[u8]) -> bool {
        self.reset();
        if !self.set_len(packet.len()) {
            return false;
        }
        self.bytes_mut().copy_from_slice(packet);
        true
    }
}

impl Frame for MemoryFrame {
    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start as usize..][..self.len as usize]
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start as usize..][..self.len as usize]
    }

    #[inline]
    fn move_start(&mut self, by: isize) -> bool {
        let end = self.start as usize + self.len as usize;
        match (self.start as usize).checked_add_signed(by) {
            Some(start) if (self.front()..=end).contains(&start) => {
                self.start = start as u32;
                self.len = (end - start) as u32;
                true
            }
            _ => false,
        }
    }

    #[inline]
    fn set_len(&mut self, len: usize) -> bool {
        if len > self.back() - self.start as usize {
            return false;
        }
        self.len = len as u32;
        true
    }
}

impl fmt::Debug for MemoryFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryFrame")
            .field("start", &self.start)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

/// A bounded pool of [`MemoryFrame`]s; the other two kinds of port in this crate that live on the heap share it.
#[derive(Debug)]
pub(crate) struct Pool {
    free: Vec<MemoryFrame>,
    total: usize,
}

impl Pool {
    pub(crate) fn new(frames: usize, frame_size: usize) -> Self {
        Self { free: (0..frames).map(|_| MemoryFrame::new(frame_size)).collect(), total: frames }
    }

    pub(crate) fn take(&mut self) -> Option<MemoryFrame> {
        let mut frame = self.free.pop()?;
        frame.reset();
        Some(frame)
    }

    pub(crate) fn give(&mut self, frame: MemoryFrame) {
        self.free.push(frame);
    }

    /// Takes back all of `frames`; returns how many.
    fn give_all(&mut self, frames: &mut Vec<MemoryFrame>) -> usize {
        let count = frames.len();
        self.free.append(frames);
        count
    }

    pub(crate) fn taken(&self) -> usize {
        self.total.saturating_sub(self.free.len())
    }
}

#[derive(Debug, Default)]
struct Port {
    receive: Vec<MemoryFrame>,
    sent: Vec<MemoryFrame>,
    /// How many sent frames may wait to be read; the rest is refused, as a full transmit ring does.
    capacity: Option<usize>,
}

/// Ports that are queues in memory.
#[derive(Debug)]
pub struct MemoryIo {
    pool: Pool,
    ports: Vec<Port>,
}

impl MemoryIo {
    /// Makes `ports` ports that share `frames` frames, each for packets of up to `frame_size` bytes ([`HEADROOM`] comes on top).
    #[must_use]
    pub fn new(ports: usize, frames: usize, frame_size: usize) -> Self {
        let port =
            || Port { receive: Vec::with_capacity(frames), sent: Vec::with_capacity(frames), capacity: None };
        Self { pool: Pool::new(frames, frame_size), ports: (0..ports).map(|_| port()).collect() }
    }

    /// Queues a packet for [`PacketIo::receive`]. Returns `false` when there is no such port, no free frame, or the packet is
    /// larger than a frame.
    #[must_use]
    pub fn inject(&mut self, port: PortId, packet: &[u8]) -> bool {
        let Some(port) = self.ports.get_mut(port.index()) else { return false };
        let Some(mut frame) = self.pool.take() else { return false };
        if frame.fill(packet) {
            port.receive.push(frame);
            true
        } else {
            self.pool.give(frame);
            false
        }
    }

    /// Takes what was transmitted by `port` since the last call, oldest first.
    pub fn sent(&mut self, port: PortId) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        self.drain_sent(port, |packet| packets.push(packet.to_vec()));
        packets
    }

    /// Shows what was transmitted by `port` to `see`, oldest first, and takes the frames back; allocates nothing. Returns how many.
    pub fn drain_sent(&mut self, port: PortId, mut see: impl FnMut(&[u8])) -> usize {
        let Some(port) = self.ports.get_mut(port.index()) else { return 0 };
        port.sent.iter().for_each(|frame| see(frame.bytes()));
        self.pool.give_all(&mut port.sent)
    }

    /// Throws away what was transmitted by `port`; allocates nothing. Returns how many packets there were.
    pub fn discard(&mut self, port: PortId) -> usize {
        self.ports.get_mut(port.index()).map_or(0, |port| self.pool.give_all(&mut port.sent))
    }

    /// Limits how many transmitted frames may wait in `port` before [`PacketIo::transmit`] refuses more; `None` is no limit.
    pub fn set_transmit_capacity(&mut self, port: PortId, capacity: Option<usize>) {
        if let Some(port) = self.ports.get_mut(port.index()) {
            port.capacity = capacity;
        }
    }

    /// Frames that nobody holds: neither the user nor a queue.
    #[must_use]
    pub fn free(&self) -> usize {
        self.pool.free.len()
    }
}

impl PacketIo for MemoryIo {
    type Frame = MemoryFrame;

    fn ports(&self) -> usize {
        self.ports.len()
    }

    fn receive(&mut self, port: PortId, max: usize, into: &mut Vec<MemoryFrame>) -> usize {
        let Some(port) = self.ports.get_mut(port.index()) else { return 0 };
        let count = max.min(port.receive.len());
        pass(&mut port.receive, count, into);
        count
    }

    fn transmit(&mut self, port: PortId, frames: &mut Vec<MemoryFrame>) -> Sent {
        let Some(port) = self.ports.get_mut(port.index()) else { return Sent::default() };
        let room = port.capacity.map_or(usize::MAX, |capacity| capacity.saturating_sub(port.sent.len()));
        let count = room.min(frames.len());
        let bytes = frames.iter().take(count).map(|frame| u64::from(frame.len)).sum();
        pass(frames, count, &mut port.sent);
        Sent { frames: count, bytes }
    }

    fn flush(&mut self) {}

    fn allocate(&mut self) -> Option<MemoryFrame> {
        self.pool.take()
    }

    fn release(&mut self, frame: MemoryFrame) {
        self.pool.give(frame);
    }

    fn outstanding(&self) -> usize {
        let queued: usize = self.ports.iter().map(|port| port.receive.len() + port.sent.len()).sum();
        self.pool.taken().saturating_sub(queued)
    }

    /// Returns at once: whoever injects is not running while this waits.
    fn wait(&mut self, _timeout: Duration) {}
}

/// Passes the first `count` frames on, in one piece if these are all.
fn pass(from: &mut Vec<MemoryFrame>, count: usize, to: &mut Vec<MemoryFrame>) {
    if count == from.len() {
        to.append(from);
    } else {
        to.extend(from.drain(..count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PortId = PortId(0);
    const B: PortId = PortId(1);

    #[test]
    fn packets_pass_in_order_and_frames_go_round() {
        let mut io = MemoryIo::new(2, 4, 64);
        let mut frames = Vec::new();
        for round in 0..100u8 {
            for packet in 0..4 {
                assert!(io.inject(A, &[round, packet, 0xaa]));
            }
            assert!(!io.inject(A, &[0]), "the pool is bounded");
            assert_eq!(io.outstanding(), 0, "queued packets are not outstanding");
            assert_eq!(io.receive(A, 3, &mut frames), 3);
            assert_eq!(io.receive(A, 3, &mut frames), 1);
            assert_eq!(io.outstanding(), 4);
            assert!(io.allocate().is_none());
            let sent = io.transmit(B, &mut frames);
            assert_eq!(sent, Sent { frames: 4, bytes: 12 });
            assert!(frames.is_empty());
            assert_eq!(io.outstanding(), 0);
            assert!(io.sent(A).is_empty());
            let expected: Vec<Vec<u8>> = (0..4).map(|packet| vec![round, packet, 0xaa]).collect();
            assert_eq!(io.sent(B), expected);
            assert_eq!(io.free(), 4);
        }
    }

    #[test]
    fn a_full_port_leaves_frames_behind() {
        let mut io = MemoryIo::new(1, 8, 64);
        io.set_transmit_capacity(A, Some(3));
        let mut frames: Vec<_> = (0..5u8)
            .map(|number| {
                let mut frame = io.allocate().expect("a free frame");
                assert!(frame.fill(&[number]));
                frame
            })
            .collect();
        assert_eq!(io.transmit(A, &mut frames), Sent { frames: 3, bytes: 3 });
        assert_eq!(io.transmit(A, &mut frames), Sent::default());
        assert_eq!(frames.iter().map(|frame| frame.bytes()[0]).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(io.sent(A), [[0], [1], [2]]);
        assert_eq!(io.transmit(A, &mut frames).frames, 2);
        assert_eq!(io.sent(A), [[3], [4]]);
        assert_eq!(io.outstanding(), 0);
    }

    #[test]
    fn a_dropped_frame_stays_outstanding() {
        let mut io = MemoryIo::new(1, 2, 64);
        drop(io.allocate());
        assert_eq!(io.outstanding(), 1);
        let frame = io.allocate().expect("a free frame");
        io.release(frame);
        assert_eq!(io.outstanding(), 1);
        assert_eq!(io.free(), 1);
    }

    #[test]
    fn headroom_and_tail_are_bounded() {
        let mut io = MemoryIo::new(1, 1, 64);
        assert!(!io.inject(A, &[0; 65]));
        assert!(io.inject(A, &[7; 64]), "the frame of the refused packet is free again");
        let mut frames = Vec::new();
        io.receive(A, 1, &mut frames);
        let frame = &mut frames[0];
        assert!(!frame.set_len(65));
        assert!(!frame.move_start(-(HEADROOM as isize) - 1));
        assert!(frame.move_start(-(HEADROOM as isize)));
        assert_eq!(frame.bytes().len(), 64 + HEADROOM);
        assert_eq!(frame.bytes()[HEADROOM..], [7; 64]);
        assert!(!frame.move_start(64 + HEADROOM as isize + 1));
        assert!(frame.move_start(HEADROOM as isize + 60));
        assert_eq!(frame.bytes(), [7; 4]);
        assert!(frame.set_len(0));
        assert!(frame.bytes().is_empty());
    }

    #[test]
    fn a_used_frame_comes_back_with_its_headroom() {
        let mut io = MemoryIo::new(1, 1, 64);
        let mut frame = io.allocate().expect("a free frame");
        assert!(frame.set_len(10) && frame.move_start(10));
        io.release(frame);
        let mut frame = io.allocate().expect("a free frame");
        assert!(frame.bytes().is_empty());
        assert!(frame.set_len(64) && frame.move_start(-(HEADROOM as isize)));
    }

    #[test]
    fn packets_begin_on_a_cache_line() {
        let mut io = MemoryIo::new(1, 9, 61);
        for _ in 0..9 {
            assert!(io.inject(A, &[1; 61]));
        }
        let mut frames = Vec::new();
        assert_eq!(io.receive(A, 9, &mut frames), 9);
        assert!(frames.iter().all(|frame| frame.bytes().as_ptr().addr().is_multiple_of(LINE)));
    }

    #[test]
    fn unknown_ports_take_and_give_nothing() {
        let mut io = MemoryIo::new(1, 1, 64);
        let mut frames = vec![io.allocate().expect("a free frame")];
        assert!(!io.inject(B, &[1]));
        assert_eq!(io.receive(B, 1, &mut frames), 0);
        assert_eq!(io.transmit(B, &mut frames), Sent::default());
        assert_eq!(frames.len(), 1);
        assert!(io.sent(B).is_empty());
    }
}
