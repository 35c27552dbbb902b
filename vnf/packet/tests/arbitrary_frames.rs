//! Ten million arbitrary and damaged frames through parse, edit, apply and parse again.
//!
//! The sequence is the same in every run: what fails, fails again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::net::IpAddr;

use common::packets::record;
use throughway_packet::build::PacketBuilder;
use throughway_packet::icmp::{IcmpError, MAX_FRAME, build_error};
use throughway_packet::{Edit, PortId, apply, checksum, parse};

const FRAMES: u64 = 10_000_000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 32) as usize * limit) >> 32
    }
}

/// One packet of every kind: upper layers × families × tags, options, extension headers, fragments.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let v4 = PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7]);
    let v6 = PacketBuilder::ipv6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], [0x2001, 0xdb8, 9, 0, 0, 0, 0, 2]);
    let shapes = [
        v4.clone(),
        v4.clone().vlan(10),
        v4.clone().tag(0x88a8, 20).vlan(10).dont_fragment(),
        v4.options(&[131, 7, 4, 10, 0, 0, 1, 0]),
        v6.clone(),
        v6.clone().tag(0x9100, 20).vlan(10),
        v6.clone().extension(0, &[5, 2, 0, 0, 1, 0]),
        v6.clone().extension(60, &[0; 6]).extension(43, &[4, 1, 0, 0, 0, 0]),
        v6.clone().extension(51, &[0; 14]),
        v6.fragment(0, false),
    ];
    for shape in shapes {
        let shape = shape.payload(b"sixteen bytes...");
        for builder in [
            shape.clone().udp(5000, 53),
            shape.clone().udp_without_checksum(5000, 53),
            shape.clone().tcp(40000, 443, 0x02),
            shape.clone().echo_request(7, 1),
            shape.clone().icmp(3, 1, [0; 4]),
            shape.clone().sctp(3868, 3868),
            shape.clone().protocol(47),
        ] {
            seeds.push(builder.finish());
            seeds.extend(builder.fragments(24));
        }
    }
    seeds
}

/// Makes the checksum of an untagged IPv4 header right, so that damage elsewhere in it gets further than that.
fn repair(frame: &mut [u8]) {
    if let Some(header) = frame.get_mut(14..)
        && let Some(first) = header.first().copied()
        && let Some(header) = header.get_mut(..usize::from(first & 0x0f) * 4)
        && header.len() >= 20
    {
        header[10..12].fill(0);
        let sum = !checksum::sum(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

fn edits(bits: u64) -> [Edit; 3] {
    let [a, b, c, d, e, f, ..] = bits.to_le_bytes();
    let v4 = IpAddr::from([a, b, c, d]);
    let v6 = IpAddr::from([0x20, 1, a, b, c, d, e, f, 0, 0, 0, 0, 0, 0, 0, 1]);
    let word = u16::from_le_bytes([a, b]);
    match bits >> 60 {
        0..4 => [Edit::Source(v4), Edit::Source(v6), Edit::SourcePort(word)],
        4..8 => [Edit::Destination(v4), Edit::Destination(v6), Edit::DestinationPort(word)],
        8..12 => [Edit::Dscp(a), Edit::DecrementHops, Edit::Egress(PortId(word))],
        _ => [
            Edit::DecrementHops,
            Edit::SourcePort(word),
            Edit::Ethernet { destination: [a; 6], source: [b; 6] },
        ],
    }
}

#[test]
fn ten_million_frames() {
    let seeds = seeds();
    let mut random = Random(1);
    let mut buffer = [0u8; 256];
    let mut out = [0u8; MAX_FRAME];
    let (mut accepted, mut answered) = (0u64, 0u64);
    let mut refused = [0u64; 14];
    for number in 0..FRAMES {
        let dice = random.next();
        let frame = if dice & 0x7 == 0 {
            // Arbitrary bytes; most with an EtherType of IP.
            let len = random.below(128);
            for chunk in buffer[..len].chunks_mut(8) {
                let bytes = random.next().to_le_bytes();
                chunk.copy_from_slice(&bytes[..chunk.len()]);
            }
            if len > 14 && dice & 0x38 != 0 {
                let head = if dice & 0x40 == 0 { [0x08, 0x00, 0x45] } else { [0x86, 0xdd, 0x60] };
                buffer[12..15].copy_from_slice(&head);
            }
            &mut buffer[..len]
        } else {
            let seed = &seeds[random.below(seeds.len())];
            buffer[..seed.len()].copy_from_slice(seed);
            for _ in 0..dice >> 3 & 3 {
                let change = random.next();
                buffer[(change >> 8) as usize % seed.len()] = change as u8;
            }
            let len = if dice >> 5 & 0xf == 0 { random.below(seed.len()) } else { seed.len() };
            &mut buffer[..len]
        };
        if dice & 0x300 != 0 && frame.get(12..14) == Some(&[0x08, 0x00]) {
            repair(frame);
        }
        let headers = match parse(frame, PortId(1)) {
            Ok(headers) => headers,
            Err(error) => {
                refused[error as usize] += 1;
                continue;
            }
        };
        accepted += 1;
        if dice & 0xf000 == 0 {
            let source =
                if headers.is_ipv4() { IpAddr::from([192, 0, 2, 254]) } else { IpAddr::from([0xfd; 16]) };
            if let Some(len) = build_error(frame, &headers, IcmpError::HopLimitExceeded, source, &mut out) {
                let error = parse(&out[..len], PortId(1)).unwrap();
                assert!(checksum::verify(&out[..len], &error), "frame {number}");
                answered += 1;
            }
        }
        let right = dice & 0xf_0000 == 0 && checksum::verify(frame, &headers);
        let (view, action) = record(&edits(random.next()), &headers);
        apply(&action, &headers, frame);
        let again = parse(frame, PortId(1));
        assert_eq!(again, Ok(view), "frame {number}: {action:?}");
        assert!(!right || checksum::verify(frame, &view), "frame {number}: {action:?}");
    }
    // The frames must have gone everywhere.
    assert!(accepted > FRAMES / 3, "{accepted} accepted");
    assert!(answered > FRAMES / 200, "{answered} answered");
    assert!(refused.iter().all(|count| *count > 100), "{refused:?}");
}
