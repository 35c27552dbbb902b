//! Blocks of pcapng (draft-ietf-opsawg-pcapng), little endian: sections of several Ethernet interfaces with times in nanoseconds, and
//! packets with direction, number and comment.
//!
//! Each function adds one block to a buffer. [`read`] reads such blocks again, one at a time, so that a stream of them can be
//! followed; capture files of others are [`PcapIo`](super::PcapIo)'s.

const SECTION: u32 = 0x0a0d_0d0a;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

const COMMENT: u16 = 1;
const SECTION_APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;
const PACKET_NUMBER: u16 = 5;
const STATISTICS_RECEIVED: u16 = 4;
const STATISTICS_DROPPED: u16 = 5;

/// No text here is near what the sixteen bits of an option's length can say.
const LONGEST_OPTION: usize = 1 << 14;
/// A longer block is none that was written here.
const LONGEST_BLOCK: usize = 1 << 20;

/// How a packet went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// It came in by its interface.
    Inbound,
    /// It left by its interface.
    Outbound,
}

/// A packet as it was seen at an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    /// The interface: its place among those that were described.
    pub interface: u32,
    /// When, in nanoseconds since 1970.
    pub time: u64,
    /// How long the frame is, in bytes.
    pub original: u32,
    /// The frame, or its beginning.
    pub bytes: &'a [u8],
    /// How it went, if that is known.
    pub direction: Option<Direction>,
    /// A number that all appearances of the same packet have.
    pub number: Option<u64>,
    /// What is to be said of it; empty: nothing.
    pub comment: &'a str,
}

/// One block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Block<'a> {
    /// A section begins: interfaces are counted from zero again.
    Section,
    /// The next interface: its name.
    Interface(&'a str),
    /// A packet.
    Packet(Packet<'a>),
    /// Figures of an interface: packets that were written, and packets that were lost.
    Statistics {
        /// The interface.
        interface: u32,
        /// Written.
        received: u64,
        /// Lost.
        dropped: u64,
    },
    /// One of another kind.
    Other,
}

/// What is no block that was written here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a pcapng block")]
pub struct NoBlock;

/// Adds the beginning of a section.
pub fn section(out: &mut Vec<u8>) {
    block(out, SECTION, |out| {
        out.extend(BYTE_ORDER.to_le_bytes());
        out.extend(1u16.to_le_bytes());
        out.extend(0u16.to_le_bytes());
        // The section's length is not known.
        out.extend((-1i64).to_le_bytes());
        option(out, SECTION_APPLICATION, concat!("throughway ", env!("CARGO_PKG_VERSION")).as_bytes());
        option(out, 0, &[]);
    });
}

/// Adds the description of an interface, of whose frames up to `snap` bytes are kept; zero: all.
pub fn interface(out: &mut Vec<u8>, name: &str, snap: u32) {
    block(out, INTERFACE, |out| {
        // Ethernet, reserved.
        out.extend([1, 0, 0, 0]);
        out.extend(snap.to_le_bytes());
        option(out, INTERFACE_NAME, name.as_bytes());
        option(out, INTERFACE_RESOLUTION, &[9]);
        option(out, 0, &[]);
    });
}

/// Adds a packet.
pub fn packet(out: &mut Vec<u8>, packet: &Packet<'_>) {
    let Packet { interface, time, original, bytes, direction, number, comment } = *packet;
    block(out, PACKET, |out| {
        for field in [interface, (time >> 32) as u32, time as u32, bytes.len() as u32, original] {
            out.extend(field.to_le_bytes());
        }
        out.extend(bytes);
        pad(out, bytes.len());
        if let Some(direction) = direction {
            let flags = if direction == Direction::Inbound { 1u32 } else { 2 };
            option(out, PACKET_FLAGS, &flags.to_le_bytes());
        }
        if let Some(number) = number {
            option(out, PACKET_NUMBER, &number.to_le_bytes());
        }
        if !comment.is_empty() {
            option(out, COMMENT, comment.as_bytes());
        }
        if direction.is_some() || number.is_some() || !comment.is_empty() {
            option(out, 0, &[]);
        }
    });
}

/// Adds an interface's figures, as of `time` in nanoseconds since 1970.
pub fn statistics(out: &mut Vec<u8>, interface: u32, time: u64, received: u64, dropped: u64) {
    block(out, STATISTICS, |out| {
        for field in [interface, (time >> 32) as u32, time as u32] {
            out.extend(field.to_le_bytes());
        }
        option(out, STATISTICS_RECEIVED, &received.to_le_bytes());
        option(out, STATISTICS_DROPPED, &dropped.to_le_bytes());
        option(out, 0, &[]);
    });
}

/// Puts kind and both lengths around a body.
fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    body(out);
    let length = ((out.len() - start + 4) as u32).to_le_bytes();
    out.extend(length);
    if let Some(field) = out.get_mut(start + 4..start + 8) {
        field.copy_from_slice(&length);
    }
}

/// Adds an option, filled up to a multiple of four bytes.
fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..LONGEST_OPTION).unwrap_or(value);
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend(value);
    pad(out, value.len());
}

/// Fills what has `length` bytes up to a multiple of four.
fn pad(out: &mut Vec<u8>, length: usize) {
    const PADDING: [u8; 3] = [0; 3];
    out.extend(PADDING.iter().take(length.next_multiple_of(4) - length));
}

/// Reads the block at the beginning of `bytes`, and says how many bytes it has; `None`: it is not complete yet.
///
/// # Errors
/// It is no block that was written here.
pub fn read(bytes: &[u8]) -> Result<Option<(Block<'_>, usize)>, NoBlock> {
    let (Some(kind), Some(length)) = (word(bytes, 0), word(bytes, 4)) else { return Ok(None) };
    let whole = length as usize;
    if !(12..=LONGEST_BLOCK).contains(&whole) || !whole.is_multiple_of(4) {
        return Err(NoBlock);
    }
    let Some(body) = bytes.get(8..whole - 4) else { return Ok(None) };
    match word(bytes, whole - 4) {
        None => return Ok(None),
        Some(again) if again != length => return Err(NoBlock),
        Some(_) => {}
    }
    let read = match kind {
        SECTION if word(body, 0) != Some(BYTE_ORDER) => return Err(NoBlock),
        SECTION => Block::Section,
        INTERFACE => {
            let name = options(body, 8).find(|(code, _)| *code == INTERFACE_NAME);
            Block::Interface(name.and_then(|(_, name)| std::str::from_utf8(name).ok()).unwrap_or_default())
        }
        PACKET => Block::Packet(read_packet(body).ok_or(NoBlock)?),
        STATISTICS => {
            let figure = |wanted| {
                let mut found = options(body, 12).filter(|(code, _)| *code == wanted);
                found.next().and_then(|(_, value)| long(value)).unwrap_or_default()
            };
            let interface = word(body, 0).ok_or(NoBlock)?;
            let (received, dropped) = (figure(STATISTICS_RECEIVED), figure(STATISTICS_DROPPED));
            Block::Statistics { interface, received, dropped }
        }
        _ => Block::Other,
    };
    Ok(Some((read, whole)))
}

fn read_packet(body: &[u8]) -> Option<Packet<'_>> {
    let captured = word(body, 12)? as usize;
    let mut packet = Packet {
        interface: word(body, 0)?,
        time: u64::from(word(body, 4)?) << 32 | u64::from(word(body, 8)?),
        original: word(body, 16)?,
        bytes: body.get(20..20usize.checked_add(captured)?)?,
        direction: None,
        number: None,
        comment: "",
    };
    for (code, value) in options(body, 20 + captured.next_multiple_of(4)) {
        match code {
            COMMENT => packet.comment = std::str::from_utf8(value).ok()?,
            PACKET_NUMBER => packet.number = long(value),
            PACKET_FLAGS => {
                packet.direction = match word(value, 0)? & 3 {
                    1 => Some(Direction::Inbound),
                    2 => Some(Direction::Outbound),
                    _ => None,
                };
            }
            _ => {}
        }
    }
    Some(packet)
}

/// The options of a body from byte `at` on.
fn options(body: &[u8], mut at: usize) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head = word(body, at)?;
        let (code, length) = (head as u16, (head >> 16) as usize);
        let value = body.get(at + 4..at + 4 + length).filter(|_| code != 0)?;
        at += 4 + length.next_multiple_of(4);
        Some((code, value))
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

fn long(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|long| u64::from_le_bytes(*long))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Vec<u8> {
        let mut out = Vec::new();
        section(&mut out);
        interface(&mut out, "lan", 64);
        packet(&mut out, &one());
        packet(&mut out, &Packet { direction: None, number: None, comment: "", ..one() });
        statistics(&mut out, 0, 7, 1 << 40, 3);
        out
    }

    fn one() -> Packet<'static> {
        Packet {
            interface: 1,
            time: 0x1234_5678_9abc_def0,
            original: 1500,
            bytes: &[1, 2, 3, 4, 5],
            direction: Some(Direction::Outbound),
            number: Some(99),
            comment: "dropped: no-route by core",
        }
    }

    #[test]
    fn what_is_written_is_read_again_piece_by_piece() {
        let whole = written();
        let (mut blocks, mut start) = (Vec::new(), 0);
        for end in 0..=whole.len() {
            if let Some((block, length)) = read(&whole[start..end]).unwrap() {
                assert_eq!(length, end - start, "as soon as it is complete");
                blocks.push(block);
                start = end;
            }
        }
        let bare = Packet { direction: None, number: None, comment: "", ..one() };
        let expected = [
            Block::Section,
            Block::Interface("lan"),
            Block::Packet(one()),
            Block::Packet(bare),
            Block::Statistics { interface: 0, received: 1 << 40, dropped: 3 },
        ];
        assert_eq!((blocks.as_slice(), start), (&expected[..], whole.len()));
    }

    #[test]
    fn what_is_damaged_is_refused_and_never_a_panic() {
        let whole = written();
        for at in 0..whole.len() {
            for value in [0, 0xff, 0x80] {
                let mut damaged = whole.clone();
                damaged[at] = value;
                let mut rest = damaged.as_slice();
                while let Ok(Some((_, length))) = read(rest) {
                    rest = &rest[length..];
                }
            }
        }
        assert_eq!(read(&[0xff; 64]), Err(NoBlock));
    }
}
