//! Writes pcapng (draft-ietf-opsawg-pcapng): one section with one Ethernet interface and timestamps in nanoseconds, little endian.

use std::io::{self, Write};

use super::PcapError;

/// Writes one capture file.
pub(super) struct Writer {
    name: String,
    stream: Box<dyn Write + Send>,
}

/// Adds an option, filled up to a multiple of four bytes.
fn option(block: &mut Vec<u8>, code: u16, value: &[u8]) {
    // An option's length has sixteen bits; no name or text here is near that.
    let value = &value[..value.len().min(1024)];
    block.extend(code.to_le_bytes());
    block.extend((value.len() as u16).to_le_bytes());
    block.extend(value);
    block.resize(block.len().next_multiple_of(4), 0);
}

/// Puts kind and both lengths around a body.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 12).to_le_bytes();
    [&kind.to_le_bytes(), &length, body, &length].concat()
}

impl Writer {
    /// Writes the file's header.
    pub(super) fn new(name: &str, interface: &str, stream: Box<dyn Write + Send>) -> Result<Self, PcapError> {
        let mut section = Vec::new();
        section.extend(0x1a2b_3c4d_u32.to_le_bytes());
        section.extend(1u16.to_le_bytes());
        section.extend(0u16.to_le_bytes());
        // The section's length is not known.
        section.extend((-1i64).to_le_bytes());
        option(&mut section, 4, concat!("throughway ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(&mut section, 0, &[]);

        let mut description = Vec::new();
        // Ethernet, reserved, no snapshot length.
        description.extend([1, 0, 0, 0, 0, 0, 0, 0]);
        option(&mut description, 2, interface.as_bytes());
        option(&mut description, 9, &[9]);
        option(&mut description, 0, &[]);

        let mut writer = Self { name: name.to_owned(), stream };
        writer.put(&block(0x0a0d_0d0a, &section))?;
        writer.put(&block(1, &description))?;
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
