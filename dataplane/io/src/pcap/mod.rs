//! Capture files as ports: packets are received from pcap and pcapng files and transmitted into pcapng files, without root and NIC.
//!
//! The packets of all files come in the order of their timestamps, as if they arrived again: [`PacketIo::receive`] gives packets of a port
//! only while that port has the earliest one. [`PcapIo::clock`] is the time in the captures, for whoever needs to know what time it is.
//!
//! [`block`] is for who writes or follows pcapng streams without being a port.
//!
//! Reading and writing cannot fail through [`PacketIo`]: an error ends the file that it is in, [`PcapIo::errors`] has it at once, and
//! [`PcapIo::finish`] returns it.

pub mod block;
mod read;
mod write;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::time::Duration;

use thiserror::Error;
use throughway_packet::PortId;

use crate::memory::{MemoryFrame, Pool};
use crate::{Frame, PacketIo, Sent};

use self::read::{Reader, Record};
use self::write::Writer;

/// The longest packet that is replayed, in bytes: what the length fields of IP allow, and an Ethernet header with VLAN tags.
pub const MAX_PACKET: usize = 65_536 + 64;

/// How much of the captures' time one receive may cover, in nanoseconds, so that [`PcapIo::clock`] is right for all its packets.
const SPAN: u64 = 1_000_000;

/// What can be wrong with a capture file.
#[derive(Debug, Error)]
pub enum PcapError {
    /// The file could not be opened or created.
    #[error("{file}: {source}")]
    Open {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// Reading failed.
    #[error("{file}: reading at byte {offset}: {source}")]
    Read {
        /// The file.
        file: String,
        /// How many bytes were read before.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The file ends inside a header or a packet.
    #[error("{file}: truncated: {what} at byte {offset} is incomplete")]
    Truncated {
        /// The file.
        file: String,
        /// Where the incomplete part begins.
        offset: u64,
        /// What it is.
        what: &'static str,
    },
    /// The file is no capture, or breaks the rules of its format.
    #[error("{file}: at byte {offset}: {reason}")]
    Format {
        /// The file.
        file: String,
        /// Where the wrong part begins.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The packets are not Ethernet frames.
    #[error("{file}: at byte {offset}: link type {link_type}, but only Ethernet (1) can be replayed")]
    LinkType {
        /// The file.
        file: String,
        /// Where the header with the link type begins.
        offset: u64,
        /// The link type, by the registry of tcpdump.org.
        link_type: u16,
    },
    /// Writing failed; what was written before may be incomplete.
    #[error("{file}: writing: {source}")]
    Write {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// There is no such port.
    #[error("{file}: port {port} does not exist: there are {ports}")]
    Port {
        /// The file.
        file: String,
        /// The port.
        port: u16,
        /// How many ports there are.
        ports: usize,
    },
}

/// A packet of a capture file, in a buffer on the heap.
#[derive(Debug)]
#[must_use = "a frame that is dropped is lost to its pool: transmit or release it"]
pub struct PcapFrame {
    frame: MemoryFrame,
    timestamp: u64,
}

impl PcapFrame {
    /// When the packet was captured, in nanoseconds since 1970; of an allocated frame, the clock at that moment.
    #[must_use]
    pub const fn timestamp(&self) -> u64 {
        self.timestamp
    }
}

impl Frame for PcapFrame {
    fn bytes(&self) -> &[u8] {
        self.frame.bytes()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.frame.bytes_mut()
    }

    fn move_start(&mut self, by: isize) -> bool {
        self.frame.move_start(by)
    }

    fn set_len(&mut self, len: usize) -> bool {
        self.frame.set_len(len)
    }
}

/// What was read that cannot be replayed as it once was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Oddities {
    /// Packets that were captured only in part (a short snapshot length). They are replayed as they are.
    pub snapped: u64,
    /// Packets longer than [`MAX_PACKET`]. They are skipped.
    pub oversized: u64,
}

/// A file and its next packet, which waits in `packet`.
struct Input {
    port: PortId,
    reader: Reader,
    next: Record,
    packet: Vec<u8>,
}

/// Capture files as ports.
pub struct PcapIo {
    pool: Pool,
    inputs: Vec<Input>,
    outputs: Vec<Option<Writer>>,
    clock: u64,
    oddities: Oddities,
    errors: Vec<PcapError>,
}

impl PcapIo {
    /// Makes `ports` ports without files, that share `frames` frames of 64 KiB. Nothing comes from a port without input; what goes to
    /// a port without output is discarded.
    #[must_use]
    pub fn new(ports: usize, frames: usize) -> Self {
        Self {
            pool: Pool::new(frames, MAX_PACKET),
            inputs: Vec::new(),
            outputs: std::iter::repeat_with(|| None).take(ports).collect(),
            clock: 0,
            oddities: Oddities::default(),
            errors: Vec::new(),
        }
    }

    /// Has `port` receive the packets of a pcap or pcapng file. A port may have several.
    ///
    /// # Errors
    /// When the file cannot be opened, or its beginning, up to the first packet, is wrong.
    pub fn input(&mut self, port: PortId, path: &Path) -> Result<(), PcapError> {
        let file = path.display().to_string();
        match File::open(path) {
            Ok(opened) => self.input_from(port, &file, Box::new(BufReader::with_capacity(1 << 16, opened))),
            Err(source) => Err(PcapError::Open { file, source }),
        }
    }

    /// Has `port` receive the packets of a pcap or pcapng stream, called `name` in errors.
    ///
    /// # Errors
    /// When the stream's beginning, up to the first packet, is wrong.
    pub fn input_from(
        &mut self,
        port: PortId,
        name: &str,
        stream: Box<dyn Read + Send>,
    ) -> Result<(), PcapError> {
        self.check_port(port, name)?;
        let mut reader = Reader::new(name, stream)?;
        let mut packet = Vec::new();
        if let Some(next) = reader.next(&mut packet)? {
            self.inputs.push(Input { port, reader, next, packet });
        }
        Ok(())
    }

    /// Writes what is transmitted by `port` to a new pcapng file, with `interface` as the name of its interface.
    ///
    /// # Errors
    /// When the file cannot be created or written.
    pub fn output(&mut self, port: PortId, interface: &str, path: &Path) -> Result<(), PcapError> {
        let file = path.display().to_string();
        match File::create(path) {
            Ok(created) => {
                self.output_to(port, interface, &file, Box::new(BufWriter::with_capacity(1 << 16, created)))
            }
            Err(source) => Err(PcapError::Open { file, source }),
        }
    }

    /// Writes what is transmitted by `port` to a pcapng stream, called `name` in errors.
    ///
    /// # Errors
    /// When the stream cannot be written.
    pub fn output_to(
        &mut self,
        port: PortId,
        interface: &str,
        name: &str,
        stream: Box<dyn Write + Send>,
    ) -> Result<(), PcapError> {
        self.check_port(port, name)?;
        let writer = Writer::new(name, interface, stream)?;
        if let Some(output) = self.outputs.get_mut(port.index()) {
            *output = Some(writer);
        }
        Ok(())
    }

    /// Writes what is transmitted by each port to `<interface>.pcapng` in `directory`, which is made when it is missing.
    ///
    /// # Errors
    /// When the directory or a file cannot be created or written.
    pub fn output_directory(&mut self, directory: &Path, interfaces: &[&str]) -> Result<(), PcapError> {
        std::fs::create_dir_all(directory)
            .map_err(|source| PcapError::Open { file: directory.display().to_string(), source })?;
        for (number, interface) in interfaces.iter().enumerate() {
            let port = PortId(u16::try_from(number).unwrap_or(u16::MAX));
            self.output(port, interface, &directory.join(format!("{interface}.pcapng")))?;
        }
        Ok(())
    }

    /// When the last received packet was captured, in nanoseconds since 1970. Never goes back, even where timestamps do; 0 before the first.
    #[must_use]
    pub const fn clock(&self) -> u64 {
        self.clock
    }

    /// When the next packet was captured, in nanoseconds since 1970; `None` after the last.
    #[must_use]
    pub fn next_timestamp(&self) -> Option<u64> {
        self.inputs.iter().map(|input| input.next.timestamp).min()
    }

    /// What was read that cannot be replayed as it once was.
    #[must_use]
    pub const fn oddities(&self) -> Oddities {
        self.oddities
    }

    /// What has gone wrong so far. The file in which it happened has ended there.
    #[must_use]
    pub fn errors(&self) -> &[PcapError] {
        &self.errors
    }

    /// Completes the files that are written.
    ///
    /// # Errors
    /// The first thing that has gone wrong since the files were opened, or goes wrong now.
    pub fn finish(mut self) -> Result<(), PcapError> {
        for writer in self.outputs.iter_mut().flatten() {
            if let Err(error) = writer.flush() {
                self.errors.push(error);
            }
        }
        self.errors.into_iter().next().map_or(Ok(()), Err)
    }

    fn check_port(&self, port: PortId, file: &str) -> Result<(), PcapError> {
        if port.index() < self.outputs.len() {
            return Ok(());
        }
        Err(PcapError::Port { file: file.to_owned(), port: port.0, ports: self.outputs.len() })
    }

    /// The input with the earliest packet; of several, the one that was added first.
    fn earliest(&self) -> Option<usize> {
        (0..self.inputs.len()).min_by_key(|number| self.inputs[*number].next.timestamp)
    }

    /// Reads on in an input, which is closed at its end.
    fn advance(&mut self, number: usize) {
        let input = &mut self.inputs[number];
        match input.reader.next(&mut input.packet) {
            Ok(Some(next)) => {
                input.next = next;
                return;
            }
            Ok(None) => {}
            Err(error) => self.errors.push(error),
        }
        self.inputs.remove(number);
    }
}

impl PacketIo for PcapIo {
    type Frame = PcapFrame;

    fn ports(&self) -> usize {
        self.outputs.len()
    }

    /// Gives packets of `port` while it has the earliest of all, and not more than a millisecond of them.
    fn receive(&mut self, port: PortId, max: usize, into: &mut Vec<PcapFrame>) -> usize {
        let mut count = 0;
        let mut end = None;
        while count < max {
            let Some(number) = self.earliest() else { break };
            let input = &self.inputs[number];
            let Record { timestamp, original } = input.next;
            let end = *end.get_or_insert(timestamp.max(self.clock).saturating_add(SPAN));
            if input.port != port || timestamp > end {
                break;
            }
            let Some(mut frame) = self.pool.take() else { break };
            let snapped = input.packet.len() < original as usize;
            if frame.fill(&input.packet) {
                into.push(PcapFrame { frame, timestamp });
                count += 1;
                self.clock = self.clock.max(timestamp);
                self.oddities.snapped += u64::from(snapped);
            } else {
                self.pool.give(frame);
                self.oddities.oversized += 1;
            }
            self.advance(number);
        }
        count
    }

    fn transmit(&mut self, port: PortId, frames: &mut Vec<PcapFrame>) -> Sent {
        let Some(output) = self.outputs.get_mut(port.index()) else { return Sent::default() };
        let mut sent = Sent { frames: frames.len(), bytes: 0 };
        for PcapFrame { frame, timestamp } in frames.drain(..) {
            sent.bytes += frame.bytes().len() as u64;
            if let Some(writer) = output
                && let Err(error) = writer.write(timestamp, frame.bytes())
            {
                self.errors.push(error);
                *output = None;
            }
            self.pool.give(frame);
        }
        sent
    }

    /// Does nothing: files are written when buffers are full and by [`PcapIo::finish`].
    fn flush(&mut self) {}

    fn allocate(&mut self) -> Option<PcapFrame> {
        Some(PcapFrame { frame: self.pool.take()?, timestamp: self.clock })
    }

    fn release(&mut self, frame: PcapFrame) {
        self.pool.give(frame.frame);
    }

    fn outstanding(&self) -> usize {
        self.pool.taken()
    }

    /// Returns at once: a file has its next packet, or has ended.
    fn wait(&mut self, _timeout: Duration) {}

    fn finished(&self) -> bool {
        self.inputs.is_empty()
    }
}
