//! Back ends in user space: the plan carried out by a thread instead of by the program in the kernel.
//!
//! * [`drive`]: turn by turn, by the same code that the program runs.
//! * [`Ring`]: frames into an AF_XDP socket.
//! * [`Raw`]: frames into an AF_PACKET socket, which every device has.

use std::hint;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockProtocol, SockType, bind, sendmmsg, socket,
};
use throughway_io::xsk::{Umem, XskConfig, XskFrame, XskIo, XskPort, ZeroCopy};
use throughway_io::{Frame as _, PacketIo as _};
use throughway_packet::PortId;
use throughway_traffic::{Packet, Plan, State, Turn, frame};

use crate::device::Device;
use crate::send::Effort;
use crate::{Error, clock};

/// Above this time to the next burst, in ns, the thread sleeps instead of reading the clock again and again.
const WORTH_SLEEPING: u64 = 300_000;
/// It wakes up so many ns before: sleep is not exact.
const WAKE_EARLY: u64 = 150_000;

/// Where frames go.
pub(crate) trait Output {
    /// Takes one frame of `length` bytes that `write` fills in; all bytes are zero before. May keep it until
    /// [`Output::flush`].
    fn put(
        &mut self,
        length: usize,
        write: &mut dyn FnMut(&mut [u8]),
        stop: &AtomicBool,
    ) -> Result<(), Error>;

    /// Sends what was kept.
    fn flush(&mut self, stop: &AtomicBool) -> Result<(), Error>;
}

/// Sends what `plan` says until all is sent or `stop` is set, in the calling thread.
pub(crate) fn drive(plan: &Plan, output: &mut dyn Output, stop: &AtomicBool) -> Result<Effort, Error> {
    let before = clock::thread_cpu();
    let mut state = State::default();
    while !stop.load(Ordering::Relaxed) {
        let now = clock::now();
        match state.turn(plan, now) {
            Turn::Finished => break,
            Turn::Wait => {
                let left = (state.due >> 8).saturating_sub(state.elapsed).min(plan.end - state.elapsed);
                if left > WORTH_SLEEPING {
                    thread::sleep(Duration::from_nanos((left - WAKE_EARLY).min(10_000_000)));
                } else {
                    hint::spin_loop();
                }
            }
            Turn::Send => {
                for _ in 0..plan.burst {
                    let Some(packet) = state.next(plan) else { break };
                    put(plan, &packet, output, stop)?;
                }
                output.flush(stop)?;
            }
        }
    }
    Ok(Effort { state, cpu: clock::thread_cpu().saturating_sub(before) })
}

fn put(plan: &Plan, packet: &Packet, output: &mut dyn Output, stop: &AtomicBool) -> Result<(), Error> {
    let length = plan.classes.get(packet.class).map_or(0, |class| class.length as usize);
    let mut written = true;
    let mut write = |bytes: &mut [u8]| written = frame::write_any(bytes, plan, packet, clock::now());
    output.put(length, &mut write, stop)?;
    // Never: no plan has a class that is shorter.
    if written { Ok(()) } else { Err(Error::Impossible(format!("a frame of {length} bytes is too short"))) }
}

/// An AF_XDP socket on queue 0.
pub(crate) struct Ring<'umem> {
    io: XskIo<'umem>,
    waiting: Vec<XskFrame<'umem>>,
}

const PORT: PortId = PortId(0);

impl<'umem> Ring<'umem> {
    pub(crate) fn open(umem: &'umem mut Umem, device: &Device) -> Result<Self, Error> {
        let port = XskPort { device: device.name.clone(), queues: vec![0], zero_copy: ZeroCopy::Auto };
        let config = XskConfig { ports: vec![port], frames: 8192, ..XskConfig::default() };
        let io = XskIo::open(umem, &config)
            .map_err(|error| Error::Impossible(format!("no AF_XDP socket on {}: {error}", device.name)))?;
        Ok(Ring { io, waiting: Vec::new() })
    }
}

impl Output for Ring<'_> {
    fn put(
        &mut self,
        length: usize,
        write: &mut dyn FnMut(&mut [u8]),
        stop: &AtomicBool,
    ) -> Result<(), Error> {
        let mut frame = loop {
            if let Some(frame) = self.io.allocate() {
                break frame;
            }
            // All of them are on their way.
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.io.transmit(PORT, &mut self.waiting);
            self.io.flush();
        };
        if frame.set_len(length) {
            let bytes = frame.bytes_mut();
            bytes.fill(0);
            write(bytes);
            self.waiting.push(frame);
        } else {
            self.io.release(frame);
        }
        Ok(())
    }

    fn flush(&mut self, stop: &AtomicBool) -> Result<(), Error> {
        loop {
            self.io.transmit(PORT, &mut self.waiting);
            self.io.flush();
            if self.waiting.is_empty() {
                return Ok(());
            }
            if stop.load(Ordering::Relaxed) {
                for frame in self.waiting.drain(..) {
                    self.io.release(frame);
                }
                return Ok(());
            }
        }
    }
}

/// An AF_PACKET socket.
pub(crate) struct Raw {
    socket: OwnedFd,
    frames: Vec<Vec<u8>>,
    /// How many of `frames` are to be sent.
    filled: usize,
}

impl Raw {
    pub(crate) fn open(device: &Device, plan: &Plan) -> Result<Raw, Error> {
        let what = || format!("no AF_PACKET socket on {}", device.name);
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // No protocol: it receives nothing.
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None::<SockProtocol>)
            .map_err(Error::errno(what()))?;
        bind(socket.as_raw_fd(), &device.address).map_err(Error::errno(what()))?;
        let longest = plan.classes.first().map_or(0, |class| class.length as usize);
        let frames = (0..plan.burst).map(|_| Vec::with_capacity(longest)).collect();
        Ok(Raw { socket, frames, filled: 0 })
    }
}

impl Output for Raw {
    fn put(&mut self, length: usize, write: &mut dyn FnMut(&mut [u8]), _: &AtomicBool) -> Result<(), Error> {
        if let Some(frame) = self.frames.get_mut(self.filled) {
            frame.clear();
            frame.resize(length, 0);
            write(frame);
            self.filled += 1;
        }
        Ok(())
    }

    fn flush(&mut self, stop: &AtomicBool) -> Result<(), Error> {
        let frames = self.frames.get(..self.filled).unwrap_or_default();
        let slices: Vec<[IoSlice<'_>; 1]> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
        let nobody: Vec<Option<LinkAddr>> = vec![None; slices.len()];
        let mut headers = MultiHeaders::<LinkAddr>::preallocate(slices.len(), None);
        let mut sent = 0;
        while let (Some(rest @ [_, ..]), Some(nobody)) = (slices.get(sent..), nobody.get(sent..)) {
            let fd = self.socket.as_raw_fd();
            match sendmmsg(fd, &mut headers, rest, nobody, [], MsgFlags::empty()) {
                Ok(results) => sent += results.count(),
                Err(Errno::EAGAIN | Errno::EINTR) if !stop.load(Ordering::Relaxed) => hint::spin_loop(),
                Err(Errno::EAGAIN | Errno::EINTR) => break,
                // The device did not want this one; it counts so itself.
                Err(Errno::ENOBUFS) => sent += 1,
                Err(error) => {
                    return Err(Error::System {
                        what: "cannot send".to_owned(),
                        source: io::Error::from(error),
                    });
                }
            }
        }
        self.filled = 0;
        Ok(())
    }
}
