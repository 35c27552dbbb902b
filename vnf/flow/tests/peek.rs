//! The fast reader against the full parser: three million frames, and the cases by name.
//!
//! The sequence is the same in every run: what fails, fails again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{Random, any_edits};
use throughway_flow::{Probe, cacheable, peek};
use throughway_packet::build::PacketBuilder;
use throughway_packet::{Action, PortId, apply, checksum, parse};

const FRAMES: u64 = 3_000_000;
const PORT: PortId = PortId(0x0102);

fn v4() -> PacketBuilder {
    PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7])
}

fn v6() -> PacketBuilder {
    PacketBuilder::ipv6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], [0x2001, 0xdb8, 9, 0, 0, 0, 0, 2])
}

/// Compares both readers on one frame; whether the fast one took it.
fn compare(frame: &[u8], random: &mut Random) -> bool {
    let full = parse(frame, PORT);
    let fast = peek(frame, PORT);
    let Ok(headers) = full else {
        assert!(fast.is_none(), "taken, but malformed: {full:?} {frame:02x?}");
        return false;
    };
    assert_eq!(fast.is_some(), cacheable(&headers), "{headers:?} {frame:02x?}");
    let Some(probe) = fast else { return false };
    assert_eq!(probe.flow_key(), headers.key, "{frame:02x?}");
    assert_eq!(probe.packet_len(), headers.packet_len());
    assert_eq!(format!("{probe:?}"), format!("{:?}", Probe::of(&headers)));
    let (mut view, mut action) = (headers, Action::nothing());
    for edit in any_edits(random, headers.is_ipv4()) {
        edit.record(&mut view, &mut action);
    }
    let (mut slow, mut quick) = (frame.to_vec(), frame.to_vec());
    apply(&action, &headers, &mut slow);
    probe.apply(&action, &mut quick);
    assert_eq!(slow, quick, "{action:?}");
    assert_eq!(parse(&quick, PORT), Ok(view));
    true
}

#[test]
fn common_packets_of_both_families_are_taken() {
    for shape in [
        v4(),
        v6(),
        v4().dont_fragment(),
        v4().padded(60),
        v6().padded(100),
        v4().traffic_class(0xff),
        v6().hop_limit(2),
        v4().vlan(10),
        v6().vlan(0),
        v4().tag(0x88a8, 2).vlan(3),
        v6().tag(0x9100, 0xe002).tag(0x8100, 0x1003),
    ] {
        for payload in [0usize, 1, 18, 1400] {
            let shape = shape.clone().payload(&vec![7; payload]);
            for flags in [0x10, 0x18, 0x00, 0xd0] {
                assert!(compare(&shape.clone().tcp(40000, 443, flags).finish(), &mut Random(1)));
            }
            assert!(compare(&shape.clone().udp(5000, 53).finish(), &mut Random(2)));
            assert!(compare(&shape.udp_without_checksum(5000, 53).finish(), &mut Random(3)));
        }
    }
}

#[test]
fn everything_else_is_left_to_the_full_parser() {
    let refused = [
        ("three tags", v6().tag(0x88a8, 2).vlan(3).vlan(4).udp(1, 2)),
        ("tag and options", v4().vlan(10).options(&[7, 7, 4, 0, 0, 0, 0]).udp(1, 2)),
        ("IPv4 options", v4().options(&[7, 7, 4, 0, 0, 0, 0]).udp(1, 2)),
        ("hop-by-hop", v6().extension(0, &[5, 2, 0, 0, 1, 0]).udp(1, 2)),
        ("destination options", v6().extension(60, &[0; 6]).tcp(1, 2, 0x10)),
        ("atomic fragment", v6().fragment(0, false).udp(1, 2)),
        ("first fragment", v4().fragment(0, true).udp(1, 2).payload(&[0; 16])),
        ("later fragment", v4().fragment(64, false).udp(1, 2).payload(&[0; 16])),
        ("SYN", v4().tcp(1, 2, 0x02)),
        ("SYN ACK", v6().tcp(1, 2, 0x12)),
        ("FIN", v4().tcp(1, 2, 0x11)),
        ("RST", v6().tcp(1, 2, 0x04)),
        ("TTL 1", v4().hop_limit(1).udp(1, 2)),
        ("TTL 0", v4().hop_limit(0).udp(1, 2)),
        ("hop limit 1", v6().hop_limit(1).tcp(1, 2, 0x10)),
        ("echo", v4().echo_request(1, 2)),
        ("ICMPv6", v6().icmp(1, 0, [0; 4])),
        ("ICMP number in IPv6", v6().protocol(1).payload(&[0; 8])),
        ("SCTP", v4().sctp(1, 2)),
        ("GRE", v4().protocol(47).payload(&[0; 40])),
    ];
    for (name, builder) in refused {
        let frame = builder.finish();
        assert!(peek(&frame, PORT).is_none(), "{name}");
        compare(&frame, &mut Random(1));
    }
    // The same with one thing broken.
    let mut broken = v4().udp(1, 2).payload(&[1, 2, 3]).finish();
    for len in 0..broken.len() {
        assert!(peek(&broken[..len], PORT).is_none(), "cut to {len}");
    }
    broken[24] ^= 1;
    assert!(peek(&broken, PORT).is_none(), "header checksum");
    let whole = v6().tcp(1, 2, 0x10).payload(&[1, 2, 3]).finish();
    for len in 0..whole.len() {
        assert!(peek(&whole[..len], PORT).is_none(), "cut to {len}");
    }
    assert!(peek(&[], PORT).is_none());
    // IPv4-mapped addresses never stand on the wire, and would be taken for IPv4.
    for at in [22, 38] {
        let mut frame = v6().tcp(1, 2, 0x10).finish();
        frame[at..at + 12].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        assert!(peek(&frame, PORT).is_none(), "mapped address at {at}");
        compare(&frame, &mut Random(1));
        frame[at + 10] = 0xfe;
        assert!(compare(&frame, &mut Random(1)));
    }
}

/// Makes the header checksum right, so that damage elsewhere gets further than that.
fn repair(frame: &mut [u8]) {
    if frame.len() >= 34 && frame[12..15] == [0x08, 0x00, 0x45] {
        frame[24..26].fill(0);
        let sum = !checksum::sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}

#[test]
fn both_readers_agree_on_millions_of_damaged_frames() {
    let mut seeds = Vec::new();
    let tagged = [v4().vlan(5), v6().tag(0x88a8, 2).vlan(3)];
    let plain = [v4(), v4(), v4().options(&[1; 4]), v6(), v6(), v6().extension(60, &[0; 6])];
    for shape in tagged.into_iter().chain(plain) {
        let shape = shape.payload(b"sixteen bytes...");
        seeds.extend([
            shape.clone().udp(5000, 53).finish(),
            shape.clone().udp_without_checksum(5000, 53).finish(),
            shape.clone().tcp(40000, 443, 0x10).finish(),
            shape.clone().tcp(40000, 443, 0x18).padded(90).finish(),
            shape.clone().echo_request(7, 1).finish(),
        ]);
        seeds.extend(shape.udp(1, 2).fragments(16));
    }
    let mut random = Random(1);
    let (mut taken, mut malformed) = (0u64, 0u64);
    let mut frame = Vec::new();
    for _ in 0..FRAMES {
        let dice = random.next();
        frame.clear();
        frame.extend_from_slice(&seeds[random.below(seeds.len())]);
        for _ in 0..dice & 3 {
            // Most damage goes into the headers.
            let at = if dice & 4 == 0 {
                random.below(frame.len())
            } else {
                12 + random.below(50.min(frame.len() - 12))
            };
            frame[at] = match random.next() & 7 {
                0 => 0,
                1 => 0xff,
                2 => frame[at].wrapping_add(1),
                3 => frame[at].wrapping_sub(1),
                4 => frame[at] ^ 1 << (dice >> 8 & 7),
                _ => random.next() as u8,
            };
        }
        if dice >> 16 & 7 == 0 {
            let len = random.below(frame.len() + 1);
            frame.truncate(len);
        }
        if dice >> 20 & 7 != 0 {
            repair(&mut frame);
        }
        malformed += u64::from(parse(&frame, PORT).is_err());
        taken += u64::from(compare(&frame, &mut random));
    }
    assert!(taken > FRAMES / 5, "{taken} taken");
    assert!(malformed > FRAMES / 20, "{malformed} malformed");
}
