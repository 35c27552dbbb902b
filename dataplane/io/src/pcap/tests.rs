//! Files written by others are read right, damaged ones are reported, and what is written can be read by others.

use std::io::Cursor;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use super::*;

const A: PortId = PortId(0);
const B: PortId = PortId(1);

const FIRST: u64 = 1_700_000_000_123_456_789;
const SECOND: u64 = 1_700_000_001_500_000_000;

// Two frames, of 19 and 17 bytes, as scapy writes them.
const LITTLE_MICRO: &str = "d4c3b2a1020004000000000000000000ffff00000100000000f1536541e2010013000000130000000200000000020200\
    0000000188b5010203040501f1536520a10700110000001100000002000000000202000000000188b5010203";
const BIG_MICRO: &str = "a1b2c3d40002000400000000000000000000ffff000000016553f1000001e2410000001300000013020000000002020000\
    00000188b501020304056553f1010007a120000000110000001102000000000202000000000188b5010203";
const LITTLE_NANO: &str = "4d3cb2a1020004000000000000000000ffff00000100000000f1536515cd5b0713000000130000000200000000020200\
    0000000188b5010203040501f153650065cd1d110000001100000002000000000202000000000188b5010203";
const BIG_NANO: &str = "a1b23c4d0002000400000000000000000000ffff000000016553f100075bcd150000001300000013020000000002020000\
    00000188b501020304056553f1011dcd6500000000110000001102000000000202000000000188b5010203";
const PCAPNG: &str = "0a0d0d0a1c0000004d3c2b1a0100000000000000000000001c000000010000001400000001000000000004001400000006000000\
    3400000000000000240a060040222018130000001300000002000000000202000000000188b50102030405003400000006000000340000000000000024\
    0a060060233518110000001100000002000000000202000000000188b501020300000034000000";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).expect("text"), 16).expect("hexadecimal"))
        .collect()
}

fn packets() -> [Vec<u8>; 2] {
    [hex("02000000000202000000000188b50102030405"), hex("02000000000202000000000188b5010203")]
}

/// Everything that `port` receives, as time and bytes.
fn drain(io: &mut PcapIo, port: PortId) -> Vec<(u64, Vec<u8>)> {
    let mut all = Vec::new();
    let mut frames = Vec::new();
    while io.receive(port, 8, &mut frames) > 0 {
        for frame in frames.drain(..) {
            all.push((frame.timestamp(), frame.bytes().to_vec()));
            io.release(frame);
        }
    }
    assert_eq!(io.outstanding(), 0);
    all
}

fn open(bytes: &[u8]) -> Result<PcapIo, PcapError> {
    let mut io = PcapIo::new(1, 8);
    io.input_from(A, "test.pcap", Box::new(Cursor::new(bytes.to_vec())))?;
    Ok(io)
}

/// Reads all of a file, to its end or to the first error.
fn read(bytes: &[u8]) -> (Vec<(u64, Vec<u8>)>, Option<String>) {
    match open(bytes) {
        Ok(mut io) => {
            let packets = drain(&mut io, A);
            assert!(io.finished());
            assert!(io.errors().len() <= 1);
            (packets, io.finish().err().map(|error| error.to_string()))
        }
        Err(error) => (Vec::new(), Some(error.to_string())),
    }
}

#[test]
fn files_of_all_formats_and_byte_orders_are_read() {
    let [first, second] = packets();
    // scapy rounds in one format and cuts in the other.
    for (file, nanoseconds) in [
        (LITTLE_MICRO, 123_457_000),
        (BIG_MICRO, 123_457_000),
        (LITTLE_NANO, 123_456_789),
        (BIG_NANO, 123_456_789),
        (PCAPNG, 123_456_000),
    ] {
        let (read, error) = read(&hex(file));
        assert_eq!(error, None);
        let expected = [(1_700_000_000_000_000_000 + nanoseconds, first.clone()), (SECOND, second.clone())];
        assert_eq!(read, expected, "{file}");
    }
}

#[test]
fn a_file_cut_anywhere_is_reported_with_the_place() {
    for (file, headers, first, second) in
        [(LITTLE_MICRO, 24, 59, 92), (BIG_NANO, 24, 59, 92), (PCAPNG, 48, 100, 152)]
    {
        let bytes = hex(file);
        assert_eq!(bytes.len(), second);
        for length in 0..bytes.len() {
            let (packets, error) = read(&bytes[..length]);
            let whole = usize::from(length >= first);
            assert_eq!(packets.len(), whole, "{length} bytes");
            let begin = match length {
                // Between two parts: a file may end there.
                _ if [headers, first].contains(&length) || file == PCAPNG && length == 28 => {
                    assert_eq!(error, None, "{length} bytes");
                    continue;
                }
                _ if length > first => first,
                _ if length > headers => headers,
                _ if file == PCAPNG && length > 28 => 28,
                _ => 0,
            };
            let error = error.expect("an error");
            assert!(error.starts_with("test.pcap: truncated: "), "{error}");
            assert!(error.ends_with(&format!(" at byte {begin} is incomplete")), "{length} bytes: {error}");
        }
    }
}

#[test]
fn files_that_are_no_captures_of_ethernet_are_refused() {
    let with = |file: &str, at: usize, byte: u8| {
        let mut bytes = hex(file);
        bytes[at] = byte;
        read(&bytes).1.expect("an error")
    };
    assert_eq!(
        read(b"#!/bin/sh\n").1.expect("an error"),
        "test.pcap: at byte 0: neither a pcap nor a pcapng file"
    );
    let raw = "link type 101, but only Ethernet (1) can be replayed";
    assert_eq!(with(LITTLE_MICRO, 20, 101), format!("test.pcap: at byte 20: {raw}"));
    assert_eq!(with(PCAPNG, 36, 101), format!("test.pcap: at byte 28: {raw}"));
    assert_eq!(with(LITTLE_MICRO, 4, 3), "test.pcap: at byte 4: pcap version 3 is unknown");
    assert_eq!(with(PCAPNG, 12, 2), "test.pcap: at byte 0: pcapng version 2 is unknown");
    assert_eq!(with(PCAPNG, 8, 0), "test.pcap: at byte 0: the section header has no byte order");
    assert!(
        with(LITTLE_MICRO, 34, 9).starts_with("test.pcap: at byte 24: a packet of 589843 bytes is beyond")
    );
    assert_eq!(with(PCAPNG, 96, 56), "test.pcap: at byte 48: the block's two lengths differ: 52 and 56");
    assert_eq!(with(PCAPNG, 52, 53), "test.pcap: at byte 48: a block of 53 bytes cannot be");
    assert_eq!(with(PCAPNG, 56, 1), "test.pcap: at byte 48: interface 1 was not described");
    assert_eq!(with(PCAPNG, 68, 21), "test.pcap: at byte 48: a packet of 21 bytes does not fit in its block");
    let missing =
        PcapIo::new(1, 1).input(A, Path::new("/no/such/file.pcap")).expect_err("an error").to_string();
    assert!(missing.starts_with("/no/such/file.pcap: No such file"), "{missing}");
    let port =
        PcapIo::new(1, 1).input_from(B, "x", Box::new(Cursor::new(hex(PCAPNG)))).expect_err("an error");
    assert_eq!(port.to_string(), "x: port 1 does not exist: there are 1");
}

/// A pcapng block in the given byte order.
fn block(big: bool, kind: u32, body: &[u8]) -> Vec<u8> {
    let number = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut body = body.to_vec();
    body.resize(body.len().next_multiple_of(4), 0);
    let length = number(body.len() as u32 + 12);
    [&number(kind)[..], &length, &body, &length].concat()
}

/// An enhanced packet block.
fn enhanced(big: bool, interface: u32, time: u64, original: u32, packet: &[u8]) -> Vec<u8> {
    let fields = [interface, (time >> 32) as u32, time as u32, packet.len() as u32, original];
    let mut body: Vec<u8> =
        fields.iter().flat_map(|field| if big { field.to_be_bytes() } else { field.to_le_bytes() }).collect();
    body.extend(packet);
    block(big, 6, &body)
}

#[test]
fn sections_interfaces_and_resolutions_are_kept_apart() {
    let mut file = block(false, 0x0a0d_0d0a, &hex("4d3c2b1a 0100 0000 ffffffffffffffff"));
    // Snapshot length 20 and microseconds; nanoseconds, 4 bytes of check sequence and a name; 2^-10 seconds, 100 seconds late.
    file.extend(block(false, 1, &hex("0100 0000 14000000")));
    file.extend(block(
        false,
        1,
        &hex("0100 0000 00000000 0200 0300 65746800 0900 0100 09000000 0d00 0100 04000000 0000 0000"),
    ));
    file.extend(block(false, 1, &hex("0100 0000 00000000 0900 0100 8a000000 0e00 0800 6400000000000000")));
    // A name resolution block, which is none of ours.
    file.extend(block(false, 4, &[0; 8]));
    file.extend(enhanced(false, 2, 1536, 18, &[2; 18]));
    file.extend(enhanced(false, 1, 101_600_000_000, 24, &[1; 24]));
    file.extend(enhanced(false, 0, 101_700_000, 99, &[0; 20]));
    // Simple packets: cut at the snapshot length, without a time of their own.
    file.extend(block(false, 3, &[&30u32.to_le_bytes()[..], &[3; 20]].concat()));
    file.extend(block(false, 3, &[&18u32.to_le_bytes()[..], &[4; 18]].concat()));
    // The obsolete packet block: interface and drops share a word.
    file.extend(block(false, 2, &hex("0100 0700 00000000 ffffffff 02000000 02000000 abcd")));
    // A new section in the other byte order with its own interface zero.
    file.extend(block(true, 0x0a0d_0d0a, &hex("1a2b3c4d 0001 0000 ffffffffffffffff")));
    file.extend(block(true, 1, &hex("0001 0000 00000000 0009 0001 03000000 0000 0000")));
    file.extend(enhanced(true, 0, 200_001, 18, &[5; 18]));
    file.extend(enhanced(true, 1, 0, 18, &[6; 18]));

    let mut io = open(&file).expect("a capture");
    let received = drain(&mut io, A);
    let expected = [
        (101_500_000_000, vec![2; 18]),
        (101_600_000_000, vec![1; 20]),
        (101_700_000_000, vec![0; 20]),
        (101_700_000_000, vec![3; 20]),
        (101_700_000_000, vec![4; 18]),
        (4_294_967_295, vec![]),
        (200_001_000_000, vec![5; 18]),
    ];
    assert_eq!(received, expected);
    assert_eq!(io.oddities(), Oddities { snapped: 2, oversized: 0 });
    assert_eq!(io.clock(), 200_001_000_000);
    let error = io.finish().expect_err("an unknown interface").to_string();
    let start = file.len() - 52;
    assert_eq!(error, format!("test.pcap: at byte {start}: interface 1 was not described"));
}

/// A nanosecond pcap file.
fn pcap(packets: &[(u64, &[u8])]) -> Box<dyn Read + Send> {
    let mut file = hex("4d3cb2a1020004000000000000000000ffff000001000000");
    for (time, packet) in packets {
        for field in [(time / 1_000_000_000) as u32, (time % 1_000_000_000) as u32] {
            file.extend(field.to_le_bytes());
        }
        for _ in 0..2 {
            file.extend((packet.len() as u32).to_le_bytes());
        }
        file.extend(*packet);
    }
    Box::new(Cursor::new(file))
}

#[test]
fn packets_of_all_files_come_in_the_order_of_time() {
    const MILLISECOND: u64 = 1_000_000;
    let mut io = PcapIo::new(2, 8);
    io.input_from(A, "a", pcap(&[(10, &[1]), (20, &[2]), (50, &[5]), (3 * MILLISECOND + 1, &[7])]))
        .expect("a capture");
    io.input_from(B, "b", pcap(&[(30, &[3]), (50, &[6])])).expect("a capture");
    io.input_from(A, "c", pcap(&[(40, &[4]), (2 * MILLISECOND, &[8])])).expect("a capture");
    io.input_from(B, "empty", pcap(&[])).expect("a capture");
    assert_eq!((io.clock(), io.next_timestamp()), (0, Some(10)));
    let mut order = Vec::new();
    let mut frames = Vec::new();
    while !io.finished() {
        for port in [B, A] {
            let count = io.receive(port, 8, &mut frames);
            if count > 0 {
                order.push((
                    port.0,
                    frames.iter().map(|frame| frame.bytes()[0]).collect::<Vec<_>>(),
                    io.clock(),
                ));
            }
            for frame in frames.drain(..) {
                io.release(frame);
            }
        }
    }
    assert_eq!(
        order,
        [
            (0, vec![1, 2], 20),
            (1, vec![3], 30),
            (0, vec![4, 5], 50),
            (1, vec![6], 50),
            // Further apart than a millisecond: not in one burst with a clock that is wrong for most.
            (0, vec![8], 2 * MILLISECOND),
            (0, vec![7], 3 * MILLISECOND + 1),
        ]
    );
    assert_eq!(io.next_timestamp(), None);
    io.finish().expect("no error");
}

#[test]
fn the_pool_bounds_what_is_received_and_time_does_not_go_back() {
    let mut io = PcapIo::new(1, 2);
    let long = vec![9; MAX_PACKET + 1];
    io.input_from(A, "a", pcap(&[(30, &[1]), (20, &[2]), (30, &long), (40, &[3])])).expect("a capture");
    let mut frames = Vec::new();
    assert_eq!(io.receive(A, 8, &mut frames), 2);
    assert_eq!((io.outstanding(), io.clock(), frames[1].timestamp()), (2, 30, 20));
    assert!(io.allocate().is_none());
    assert_eq!(io.receive(A, 8, &mut frames), 0);
    assert!(!io.finished());
    assert_eq!(io.transmit(A, &mut frames), Sent { frames: 2, bytes: 2 }, "a port without a file discards");
    assert_eq!(io.receive(A, 8, &mut frames), 1);
    assert_eq!(frames[0].bytes(), [3]);
    assert_eq!(io.oddities(), Oddities { snapped: 0, oversized: 1 });
    drop(frames);
    assert_eq!(io.outstanding(), 1, "a leak is visible");
}

/// A stream that can be looked at while it is written.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("the lock").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sends the packets of the golden file and one that was allocated after them to a stream.
fn written() -> Vec<u8> {
    let file = Shared::default();
    let mut io = PcapIo::new(2, 8);
    io.input_from(A, "a", Box::new(Cursor::new(hex(LITTLE_NANO)))).expect("a capture");
    io.output_to(B, "wan", "b", Box::new(file.clone())).expect("an output");
    let mut frames = Vec::new();
    while !io.finished() {
        io.receive(A, 1, &mut frames);
    }
    let mut own = io.allocate().expect("a free frame");
    assert!(own.set_len(16) && own.move_start(-2));
    own.bytes_mut().fill(0xee);
    frames.push(own);
    assert_eq!(io.transmit(B, &mut frames), Sent { frames: 3, bytes: 19 + 17 + 18 });
    assert!(frames.is_empty());
    assert_eq!(io.outstanding(), 0);
    io.finish().expect("no error");
    file.0.lock().expect("the lock").clone()
}

#[test]
fn what_is_written_is_read_again_with_its_times() {
    let (read, error) = read(&written());
    assert_eq!(error, None);
    let [first, second] = packets();
    assert_eq!(read, [(FIRST, first), (SECOND, second), (SECOND, vec![0xee; 18])]);
}

#[test]
fn tcpdump_reads_what_is_written() {
    let command = Command::new("tcpdump")
        .args(["-r", "-", "-nn", "-tt", "-e", "--nano"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut tcpdump) = command else {
        println!("skipped: needs tcpdump");
        return;
    };
    tcpdump.stdin.take().expect("a pipe").write_all(&written()).expect("tcpdump reads");
    let output = tcpdump.wait_with_output().expect("tcpdump ends");
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('\t')).collect();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("1700000000.123456789 02:00:00:00:00:01 > 02:00:00:00:00:02"), "{text}");
    assert!(lines[0].contains("(0x88b5), length 19"), "{text}");
    assert!(lines[1].starts_with("1700000001.500000000 ") && lines[1].contains("length 17"), "{text}");
    assert!(lines[2].contains("ee:ee:ee:ee:ee:ee") && lines[2].contains("length 18"), "{text}");
}

#[test]
fn outputs_go_to_a_directory_and_errors_are_kept() {
    let directory = std::env::temp_dir().join(format!("throughway-io-{}", std::process::id()));
    let mut io = PcapIo::new(2, 4);
    io.output_directory(&directory, &["lan", "wan"]).expect("outputs");
    let mut frame = vec![io.allocate().expect("a free frame")];
    assert!(frame[0].set_len(60));
    io.transmit(B, &mut frame);
    io.finish().expect("no error");
    let mut io = PcapIo::new(2, 4);
    io.input(A, &directory.join("lan.pcapng")).expect("a capture");
    assert!(io.finished(), "nothing went there");
    io.input(A, &directory.join("wan.pcapng")).expect("a capture");
    assert_eq!(drain(&mut io, A), [(0, vec![0; 60])]);
    std::fs::remove_dir_all(&directory).expect("the directory was ours");

    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut io = PcapIo::new(1, 4);
    io.output_to(A, "lan", "full", Box::new(Full(200))).expect("an output");
    let mut frames: Vec<_> = std::iter::from_fn(|| io.allocate()).collect();
    assert!(frames.iter_mut().all(|frame| frame.set_len(60)));
    io.transmit(A, &mut frames);
    assert!(frames.is_empty() && io.outstanding() == 0);
    assert_eq!(io.errors().len(), 1);
    assert!(io.finish().expect_err("an error").to_string().starts_with("full: writing: "));
}
