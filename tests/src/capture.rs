//! Capture files, as far as tests need them: written as pcap, read as pcap or pcapng.

use std::path::Path;

/// Writes Ethernet frames as a pcap file (draft-ietf-opsawg-pcap), a microsecond apart.
pub fn write(path: &Path, frames: &[Vec<u8>]) {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        bytes.extend(word.to_le_bytes());
    }
    for (time, frame) in (0_u32..).zip(frames) {
        for word in [1, time, frame.len() as u32, frame.len() as u32] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(frame);
    }
    std::fs::write(path, bytes).expect("the capture can be written");
}

/// The frames of a pcap or pcapng file (draft-ietf-opsawg-pcapng), of either byte order.
pub fn read(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    match bytes.first_chunk::<4>().map(|magic| u32::from_le_bytes(*magic)) {
        Some(0xa1b2_c3d4 | 0xa1b2_3c4d) => pcap(&bytes, u32::from_le_bytes),
        Some(0xd4c3_b2a1 | 0x4d3c_b2a1) => pcap(&bytes, u32::from_be_bytes),
        Some(0x0a0d_0d0a) => pcapng(&bytes),
        other => panic!("{} is not a capture: {other:x?}", path.display()),
    }
}

type Word = fn([u8; 4]) -> u32;

fn word(bytes: &[u8], at: usize, read: Word) -> usize {
    read(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

fn pcap(bytes: &[u8], read: Word) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut at = 24;
    while at + 16 <= bytes.len() {
        let len = word(bytes, at + 8, read);
        frames.push(bytes[at + 16..at + 16 + len].to_vec());
        at += 16 + len;
    }
    frames
}

fn pcapng(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut at = 0;
    let mut read: Word = u32::from_le_bytes;
    while at + 12 <= bytes.len() {
        if word(bytes, at, u32::from_le_bytes) == 0x0a0d_0d0a {
            let little = word(bytes, at + 8, u32::from_le_bytes) == 0x1a2b_3c4d;
            read = if little { u32::from_le_bytes } else { u32::from_be_bytes };
        }
        let len = word(bytes, at + 4, read);
        // Enhanced packet block: interface, time (two words), captured length, original length, then the frame.
        if word(bytes, at, read) == 6 {
            let captured = word(bytes, at + 20, read);
            frames.push(bytes[at + 28..at + 28 + captured].to_vec());
        }
        assert!(len >= 12, "a block of {len} bytes at {at}");
        at += len;
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let path = std::env::temp_dir().join(format!("throughway-capture-{}.pcap", std::process::id()));
        let frames = vec![vec![1; 60], vec![2; 61], vec![]];
        write(&path, &frames);
        assert_eq!(read(&path), frames);
        std::fs::remove_file(path).expect("it is there");
    }
}
