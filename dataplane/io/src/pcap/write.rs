//! Writes pcapng (draft-ietf-opsawg-pcapng): one section with one Ethernet interface and timestamps in nanoseconds, little endian.

use std::io::{self, Write};

use super::{PcapError, block};

/// Writes one capture file.
pub(super) struct Writer {
    name: String,
    stream: Box<dyn Write + Send>,
}

impl Writer {
    /// Writes the file's header.
    pub(super) fn new(name: &str, interface: &str, stream: Box<dyn Write + Send>) -> Result<Self, PcapError> {
        let mut head = Vec::new();
        block::section(&mut head);
        block::interface(&mut head, interface, 0);
        let mut writer = Self { name: name.to_owned(), stream };
        writer.put(&head)?;
        Ok(writer)
    }

    /// Writes a packet with its time in nanoseconds since 1970.
    pub(super) fn write(&mut self, timestamp: u64, packet: &[u8]) -> Result<(), PcapError> {
        const PADDING: [u8; 3] = [0; 3];
        let length = packet.len() as u32;
        let padding = &PADDING[..packet.len().next_multiple_of(4) - packet.len()];
        let total = 32 + length.next_multiple_of(4);
        let mut head = [0; 28];
        let fields = [6, total, 0, (timestamp >> 32) as u32, timestamp as u32, length, length];
        for (to, field) in head.chunks_exact_mut(4).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        self.put(&head)?;
        self.put(packet)?;
        self.put(padding)?;
        self.put(&total.to_le_bytes())
    }

    pub(super) fn flush(&mut self) -> Result<(), PcapError> {
        self.stream.flush().map_err(|source| self.error(source))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), PcapError> {
        self.stream.write_all(bytes).map_err(|source| self.error(source))
    }

    fn error(&self, source: io::Error) -> PcapError {
        PcapError::Write { file: self.name.clone(), source }
    }
}
