//! Packet ports: AF_XDP, memory and capture files behind one trait.
//!
//! * [`PacketIo`]: what a worker sees: the ports of one worker, with the frames they share.
//! * [`Frame`]: one owned buffer with a packet in it.
//! * [`memory`]: ports that are queues in memory, for tests and benchmarks.
//! * [`pcap`]: capture files (pcap and pcapng read, pcapng written), for replay without root.
//! * [`xsk`]: AF_XDP sockets, one UMEM shared by all ports of a worker. The only room with `unsafe`.
//!
//! Frames are owned: a port hands one out at receive, and takes it back at transmit or release. Nothing clones one, so the
//! number of frames is constant, and [`PacketIo::outstanding`] makes a leak a failed test.

pub mod memory;
pub mod pcap;
pub mod xsk;

use throughway_packet::PortId;

pub use throughway_packet::Frame;

/// Room before a received packet, in bytes, that headers may be pushed into.
pub const HEADROOM: usize = 128;

/// The ports of one worker and the frames they share.
pub trait PacketIo {
    /// The frames that these ports exchange.
    type Frame: Frame;

    /// How many ports there are; `PortId`s are below it.
    fn ports(&self) -> usize;

    /// Appends up to `max` received frames of `port` to `into`; returns how many. Never blocks.
    fn receive(&mut self, port: PortId, max: usize, into: &mut Vec<Self::Frame>) -> usize;

    /// Sends frames from the front of `frames` by `port`, as many as it can take now, and removes those from `frames`.
    /// Frames that stay behind may be offered again. Never blocks; the frames sent are not necessarily on the wire before [`PacketIo::flush`].
    fn transmit(&mut self, port: PortId, frames: &mut Vec<Self::Frame>) -> Sent;

    /// Tells the kernel about queued frames, collects the completed ones, refills receive rings. Called once per round.
    fn flush(&mut self);

    /// A free frame of length zero, for packets that the data plane originates; `None` when all are in use.
    fn allocate(&mut self) -> Option<Self::Frame>;

    /// Takes a frame back that will not be sent.
    fn release(&mut self, frame: Self::Frame);

    /// Frames handed out by `receive` and `allocate` that came back neither by `transmit` nor by `release`.
    fn outstanding(&self) -> usize;

    /// Waits until a port may have something to receive, or `timeout` has passed. May return early.
    fn wait(&mut self, timeout: std::time::Duration);

    /// Whether nothing will ever be received again (the capture file has ended). Live ports never finish.
    fn finished(&self) -> bool {
        false
    }
}

/// What became of frames offered to [`PacketIo::transmit`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sent {
    /// Frames taken.
    pub frames: usize,
    /// Their bytes, without the Ethernet frame check sequence.
    pub bytes: u64,
}
