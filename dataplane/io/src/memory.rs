//! Ports that are queues in memory, for tests and benchmarks.
//!
//! A test injects packets, runs whatever works on a [`PacketIo`], and reads what was sent. The pool is bounded and its frames
//! go round, so nothing is allocated between [`MemoryIo::inject`] and [`MemoryIo::discard`]; a frame that is dropped instead of
//! given back is lost to the pool and stays visible in [`PacketIo::outstanding`].

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use throughway_packet::PortId;

use crate::{Frame, HEADROOM, PacketIo, Sent};

/// A packet in a buffer on the heap, with [`HEADROOM`] bytes before it.
#[must_use = "a frame that is dropped is lost to its pool: transmit or release it"]
pub struct MemoryFrame {
    buffer: Box<[u8]>,
    start: usize,
    len: usize,
}

impl MemoryFrame {
    fn new(size: usize) -> Self {
        Self { buffer: vec![0; HEADROOM + size].into_boxed_slice(), start: HEADROOM, len: 0 }
    }

    /// Makes the frame empty, with the whole headroom before it.
    fn reset(&mut self) {
        self.start = HEADROOM;
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
        &self.buffer[self.start..self.start + self.len]
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.start + self.len]
    }

    #[inline]
    fn move_start(&mut self, by: isize) -> bool {
        let end = self.start + self.len;
        match self.start.checked_add_signed(by) {
            Some(start) if start <= end => {
                self.start = start;
                self.len = end - start;
                true
            }
            _ => false,
        }
    }

    #[inline]
    fn set_len(&mut self, len: usize) -> bool {
        if len > self.buffer.len() - self.start {
            return false;
        }
        self.len = len;
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

    pub(crate) fn taken(&self) -> usize {
        self.total.saturating_sub(self.free.len())
    }
}

#[derive(Debug, Default)]
struct Port {
    receive: VecDeque<MemoryFrame>,
    sent: VecDeque<MemoryFrame>,
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
        let port = || Port {
            receive: VecDeque::with_capacity(frames),
            sent: VecDeque::with_capacity(frames),
            capacity: None,
        };
        Self { pool: Pool::new(frames, frame_size), ports: (0..ports).map(|_| port()).collect() }
    }

    /// Queues a packet for [`PacketIo::receive`]. Returns `false` when there is no such port, no free frame, or the packet is
    /// larger than a frame.
    #[must_use]
    pub fn inject(&mut self, port: PortId, packet: &[u8]) -> bool {
        let Some(port) = self.ports.get_mut(port.index()) else { return false };
        let Some(mut frame) = self.pool.take() else { return false };
        if frame.fill(packet) {
            port.receive.push_back(frame);
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
        let count = port.sent.len();
        for frame in port.sent.drain(..) {
            see(frame.bytes());
            self.pool.give(frame);
        }
        count
    }

    /// Throws away what was transmitted by `port`; allocates nothing. Returns how many packets there were.
    pub fn discard(&mut self, port: PortId) -> usize {
        self.drain_sent(port, |_| ())
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
        into.extend(port.receive.drain(..count));
        count
    }

    fn transmit(&mut self, port: PortId, frames: &mut Vec<MemoryFrame>) -> Sent {
        let Some(port) = self.ports.get_mut(port.index()) else { return Sent::default() };
        let room = port.capacity.map_or(usize::MAX, |capacity| capacity.saturating_sub(port.sent.len()));
        let count = room.min(frames.len());
        let mut sent = Sent { frames: count, bytes: 0 };
        for frame in frames.drain(..count) {
            sent.bytes += frame.bytes().len() as u64;
            port.sent.push_back(frame);
        }
        sent
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
