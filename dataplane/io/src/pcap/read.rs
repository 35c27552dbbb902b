//! Reads pcap (draft-ietf-opsawg-pcap) and pcapng (draft-ietf-opsawg-pcapng), in both byte orders.

use std::io::{self, Read};

use super::PcapError;

/// A sanity limit for one packet or block, in bytes; libpcap has the same for packets. More means that the file is damaged.
const MAX_BLOCK: u32 = 16 << 20;
const MAX_CAPTURED: u32 = 262_144;

const ETHERNET: u16 = 1;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE_DESCRIPTION: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

const OPTION_TSRESOL: u16 = 9;
const OPTION_FCSLEN: u16 = 13;
const OPTION_TSOFFSET: u16 = 14;

/// About a packet that was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Record {
    /// Nanoseconds since 1970.
    pub(super) timestamp: u64,
    /// How long the packet was on the wire, in bytes.
    pub(super) original: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    Little,
    Big,
}

impl Order {
    fn u16(self, bytes: [u8; 2]) -> u16 {
        if self == Self::Little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) }
    }

    fn u32(self, bytes: [u8; 4]) -> u32 {
        if self == Self::Little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
    }
}

/// How an interface's timestamps count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Resolution {
    /// Units of 10^-n seconds.
    Decimal(u8),
    /// Units of 2^-n seconds.
    Binary(u8),
}

/// An interface of a pcapng section, or the only one of a pcap file.
#[derive(Clone, Copy, Debug)]
struct Interface {
    snap: u32,
    resolution: Resolution,
    /// Seconds to add.
    offset: i64,
    /// Bytes of frame check sequence at the end of each packet.
    check: u8,
}

impl Interface {
    fn nanoseconds(&self, units: u64) -> u64 {
        const SECOND: u128 = 1_000_000_000;
        let units = u128::from(units);
        let time = match self.resolution {
            Resolution::Decimal(n @ 0..=9) => units * 10u128.pow(9 - u32::from(n)),
            Resolution::Decimal(n) => 10u128.checked_pow(u32::from(n) - 9).map_or(0, |scale| units / scale),
            Resolution::Binary(n) => (units * SECOND).checked_shr(n.into()).unwrap_or(0),
        };
        let offset = i128::from(self.offset) * SECOND as i128;
        // At most 2^64 * 10^9: far from the end of i128.
        let time = i128::try_from(time).unwrap_or(i128::MAX).saturating_add(offset);
        u64::try_from(time.max(0)).unwrap_or(u64::MAX)
    }
}

enum Format {
    Pcap(Interface),
    Pcapng,
}

/// A stream that knows its name and how far it is read.
struct Source {
    name: String,
    stream: Box<dyn Read + Send>,
    offset: u64,
}

impl Source {
    /// Fills `buffer`. `false` when the stream ends before its first byte.
    fn fill(&mut self, buffer: &mut [u8], start: u64, what: &'static str) -> Result<bool, PcapError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.stream.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.truncated(start, what)),
                Ok(count) => {
                    filled += count;
                    self.offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(PcapError::Read { file: self.name.clone(), offset: self.offset, source });
                }
            }
        }
        Ok(true)
    }

    /// Fills `buffer` with what has to be there.
    fn fill_all(&mut self, buffer: &mut [u8], start: u64, what: &'static str) -> Result<(), PcapError> {
        if buffer.is_empty() || self.fill(buffer, start, what)? {
            Ok(())
        } else {
            Err(self.truncated(start, what))
        }
    }

    fn truncated(&self, offset: u64, what: &'static str) -> PcapError {
        PcapError::Truncated { file: self.name.clone(), offset, what }
    }

    fn format(&self, offset: u64, reason: impl Into<String>) -> PcapError {
        PcapError::Format { file: self.name.clone(), offset, reason: reason.into() }
    }

    fn ethernet(&self, offset: u64, link_type: u16) -> Result<(), PcapError> {
        if link_type == ETHERNET {
            return Ok(());
        }
        Err(PcapError::LinkType { file: self.name.clone(), offset, link_type })
    }
}

/// Reads one capture file.
pub(super) struct Reader {
    source: Source,
    format: Format,
    order: Order,
    /// Of the current section.
    interfaces: Vec<Interface>,
    block: Vec<u8>,
    /// For simple packets, which have no timestamp.
    last: u64,
}

/// Bytes `at..at + N` of `bytes`; zeros beyond its end, which callers have checked.
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).unwrap_or([0; N])
}

impl Reader {
    /// Reads the beginning of a file and finds out its format.
    pub(super) fn new(name: &str, stream: Box<dyn Read + Send>) -> Result<Self, PcapError> {
        let mut source = Source { name: name.to_owned(), stream, offset: 0 };
        let mut magic = [0; 4];
        source.fill_all(&mut magic, 0, "the magic number")?;
        let (order, digits) = match u32::from_le_bytes(magic) {
            0xa1b2_c3d4 => (Order::Little, 6),
            0xd4c3_b2a1 => (Order::Big, 6),
            0xa1b2_3c4d => (Order::Little, 9),
            0x4d3c_b2a1 => (Order::Big, 9),
            SECTION_HEADER => {
                let mut reader = Self {
                    source,
                    format: Format::Pcapng,
                    order: Order::Little,
                    interfaces: Vec::new(),
                    block: Vec::new(),
                    last: 0,
                };
                reader.block(SECTION_HEADER, 0)?;
                return Ok(reader);
            }
            _ => return Err(source.format(0, "neither a pcap nor a pcapng file")),
        };
        let mut header = [0; 20];
        source.fill_all(&mut header, 0, "the file header")?;
        let major = order.u16(part(&header, 0));
        if major != 2 {
            return Err(source.format(4, format!("pcap version {major} is unknown")));
        }
        let link = order.u32(part(&header, 16));
        source.ethernet(20, link as u16)?;
        // Bit 26 says that the highest four bits count the 16-bit words of the frame check sequence.
        let check = if link & 1 << 26 != 0 { 2 * (link >> 28) as u8 } else { 0 };
        let interface = Interface { snap: 0, resolution: Resolution::Decimal(digits), offset: 0, check };
        let format = Format::Pcap(interface);
        Ok(Self { source, format, order, interfaces: Vec::new(), block: Vec::new(), last: 0 })
    }

    /// Reads the next packet into `packet`; `None` at the end of the file.
    pub(super) fn next(&mut self, packet: &mut Vec<u8>) -> Result<Option<Record>, PcapError> {
        match self.format {
            Format::Pcap(interface) => self.pcap(interface, packet),
            Format::Pcapng => self.pcapng(packet),
        }
    }

    fn pcap(&mut self, interface: Interface, packet: &mut Vec<u8>) -> Result<Option<Record>, PcapError> {
        let start = self.source.offset;
        let mut header = [0; 16];
        if !self.source.fill(&mut header, start, "the header of a packet")? {
            return Ok(None);
        }
        let field = |at| self.order.u32(part(&header, at));
        let (seconds, fraction, captured, original) = (field(0), field(4), field(8), field(12));
        self.check_captured(start, captured)?;
        packet.resize(captured as usize, 0);
        self.source.fill_all(packet, start, "a packet")?;
        let units = if interface.resolution == Resolution::Decimal(9) { 1_000_000_000 } else { 1_000_000 };
        let timestamp = interface.nanoseconds(u64::from(seconds) * units + u64::from(fraction));
        Ok(Some(Self::record(&interface, timestamp, original, packet)))
    }

    /// Cuts the frame check sequence off.
    fn record(interface: &Interface, timestamp: u64, original: u32, packet: &mut Vec<u8>) -> Record {
        let check = u32::from(interface.check);
        // A packet captured in part may have lost a part of it already.
        let length = original.saturating_sub(check);
        packet.truncate(length as usize);
        Record { timestamp, original: length }
    }

    fn check_captured(&self, start: u64, captured: u32) -> Result<(), PcapError> {
        if captured <= MAX_CAPTURED {
            return Ok(());
        }
        let reason = format!(
            "a packet of {captured} bytes is beyond the limit of {MAX_CAPTURED}: the file is damaged"
        );
        Err(self.source.format(start, reason))
    }

    fn pcapng(&mut self, packet: &mut Vec<u8>) -> Result<Option<Record>, PcapError> {
        loop {
            let start = self.source.offset;
            let mut kind = [0; 4];
            if !self.source.fill(&mut kind, start, "a block")? {
                return Ok(None);
            }
            let kind = self.order.u32(kind);
            self.block(kind, start)?;
            let field = |at| self.order.u32(part(&self.block, at));
            let (number, units, captured, original, data) = match kind {
                INTERFACE_DESCRIPTION => {
                    self.interface(start)?;
                    continue;
                }
                ENHANCED_PACKET => {
                    self.at_least(20, start)?;
                    (field(0) as usize, Some((field(4), field(8))), field(12), field(16), 20)
                }
                OBSOLETE_PACKET => {
                    self.at_least(20, start)?;
                    let number = self.order.u16(part(&self.block, 0));
                    (usize::from(number), Some((field(4), field(8))), field(12), field(16), 20)
                }
                SIMPLE_PACKET => {
                    self.at_least(4, start)?;
                    let snap = self.interfaces.first().map_or(0, |interface| interface.snap);
                    let original = field(0);
                    let captured = if snap == 0 { original } else { original.min(snap) };
                    (0, None, captured, original, 4)
                }
                _ => continue,
            };
            let Some(interface) = self.interfaces.get(number).copied() else {
                return Err(self.source.format(start, format!("interface {number} was not described")));
            };
            self.check_captured(start, captured)?;
            let Some(bytes) = self.block.get(data..data + captured as usize) else {
                let reason = format!("a packet of {captured} bytes does not fit in its block");
                return Err(self.source.format(start, reason));
            };
            packet.clear();
            packet.extend_from_slice(bytes);
            if let Some((high, low)) = units {
                self.last = interface.nanoseconds(u64::from(high) << 32 | u64::from(low));
            }
            return Ok(Some(Self::record(&interface, self.last, original, packet)));
        }
    }

    /// Reads the block of the given kind whose kind was just read, and leaves its body in `self.block`. A section header begins anew.
    fn block(&mut self, kind: u32, start: u64) -> Result<(), PcapError> {
        let mut length = [0; 4];
        self.source.fill_all(&mut length, start, "a block")?;
        let section = kind == SECTION_HEADER;
        let mut order = [0; 4];
        if section {
            // The length can only be understood after what follows it.
            self.source.fill_all(&mut order, start, "a section header")?;
            self.order = match u32::from_le_bytes(order) {
                BYTE_ORDER => Order::Little,
                order if order.swap_bytes() == BYTE_ORDER => Order::Big,
                _ => return Err(self.source.format(start, "the section header has no byte order")),
            };
            self.interfaces.clear();
        }
        let length = self.order.u32(length);
        let (head, least) = if section { (12, 28) } else { (8, 12) };
        if length < least || !length.is_multiple_of(4) || length > MAX_BLOCK {
            return Err(self.source.format(start, format!("a block of {length} bytes cannot be")));
        }
        self.block.resize((length - head) as usize, 0);
        self.source.fill_all(&mut self.block, start, "a block")?;
        let body = self.block.len() - 4;
        let again = self.order.u32(part(&self.block, body));
        if again != length {
            let reason = format!("the block's two lengths differ: {length} and {again}");
            return Err(self.source.format(start, reason));
        }
        self.block.truncate(body);
        if section {
            let major = self.order.u16(part(&self.block, 0));
            if major != 1 {
                return Err(self.source.format(start, format!("pcapng version {major} is unknown")));
            }
        }
        Ok(())
    }

    fn at_least(&self, length: usize, start: u64) -> Result<(), PcapError> {
        if self.block.len() >= length {
            return Ok(());
        }
        Err(self.source.format(start, format!("the block is too short: {} bytes", self.block.len())))
    }

    /// Takes the interface description in `self.block`.
    fn interface(&mut self, start: u64) -> Result<(), PcapError> {
        self.at_least(8, start)?;
        self.source.ethernet(start, self.order.u16(part(&self.block, 0)))?;
        let snap = self.order.u32(part(&self.block, 4));
        let mut interface = Interface { snap, resolution: Resolution::Decimal(6), offset: 0, check: 0 };
        let mut at = 8;
        while at + 4 <= self.block.len() {
            let code = self.order.u16(part(&self.block, at));
            let length = usize::from(self.order.u16(part(&self.block, at + 2)));
            if code == 0 {
                break;
            }
            let Some(value) = self.block.get(at + 4..at + 4 + length) else {
                return Err(self.source.format(start, format!("option {code} is longer than its block")));
            };
            match (code, value) {
                (OPTION_TSRESOL, [value]) if value & 0x80 != 0 => {
                    interface.resolution = Resolution::Binary(value & 0x7f);
                }
                (OPTION_TSRESOL, [value]) => interface.resolution = Resolution::Decimal(*value),
                (OPTION_FCSLEN, [value]) => interface.check = *value,
                (OPTION_TSOFFSET, value) if value.len() == 8 => {
                    let bytes = part(value, 0);
                    interface.offset = if self.order == Order::Little {
                        i64::from_le_bytes(bytes)
                    } else {
                        i64::from_be_bytes(bytes)
                    };
                }
                _ => {}
            }
            at += 4 + length.next_multiple_of(4);
        }
        self.interfaces.push(interface);
        Ok(())
    }
}
