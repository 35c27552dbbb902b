//! TCP resets: their bytes, and when none is sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::packets::frames;
use etherparse::{SlicedPacket, TransportSlice};
use proptest::prelude::*;
use throughway_packet::build::{DESTINATION_MAC, PacketBuilder, SOURCE_MAC};
use throughway_packet::reset::{MAX_FRAME, build_reset};
use throughway_packet::{Flags, PortId, checksum, parse};

fn reset(received: &[u8]) -> Option<Vec<u8>> {
    let headers = parse(received, PortId(0)).unwrap();
    let mut out = [0xaa; MAX_FRAME];
    let len = build_reset(received, &headers, &mut out)?;
    assert!(out[len..].iter().all(|byte| *byte == 0xaa), "nothing is written behind the frame");
    Some(out[..len].to_vec())
}

/// (sequence, acknowledgement, flags) of a reset.
fn numbers(frame: &[u8]) -> (u32, u32, u8) {
    match SlicedPacket::from_ethernet(frame).unwrap().transport {
        Some(TransportSlice::Tcp(tcp)) => {
            (tcp.sequence_number(), tcp.acknowledgment_number(), tcp.slice()[13])
        }
        other => panic!("{other:?}"),
    }
}

fn v4() -> PacketBuilder {
    PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7])
}

/// The builder's segments have sequence number 1 and acknowledgement number 1.
#[test]
fn numbers_are_those_of_rfc_9293() {
    for (flags, payload, expected) in [
        (0x02, &b""[..], (0, 2, 0x14)),
        (0x02, b"fast open", (0, 11, 0x14)),
        (0x01, b"abc", (0, 5, 0x14)),
        (0x00, b"abc", (0, 4, 0x14)),
        (0x12, b"", (1, 0, 0x04)),
        (0x10, b"abc", (1, 0, 0x04)),
        (0x11, b"abc", (1, 0, 0x04)),
    ] {
        let frame = reset(&v4().tcp(1000, 80, flags).payload(payload).finish()).unwrap();
        assert_eq!(numbers(&frame), expected, "{flags:#x}");
    }
}

#[test]
fn a_reset_byte_for_byte() {
    let received = v4().tag(0x88a8, 0x00c8).vlan(30).tcp(1000, 80, 0x02).padded(90).finish();
    let mut expected = PacketBuilder::ipv4([198, 51, 100, 7], [192, 0, 2, 1])
        .ethernet(SOURCE_MAC, DESTINATION_MAC)
        .tag(0x88a8, 0x00c8)
        .vlan(30)
        .dont_fragment()
        .tcp(80, 1000, 0x14)
        .finish();
    // Sequence 0, acknowledgement 2 and window 0 where the builder has 1, 1 and 0x2000.
    let tcp = 14 + 8 + 20;
    expected[tcp + 4..tcp + 12].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 2]);
    expected[tcp + 14..tcp + 16].fill(0);
    let headers = parse(&expected, PortId(0)).unwrap();
    assert!(throughway_packet::apply::recompute_checksums(&headers, &mut expected));
    assert_eq!(reset(&received).unwrap(), expected);
}

#[test]
fn what_is_not_answered() {
    let mut damaged = v4().tcp(1000, 80, 0x02).payload(b"x").finish();
    *damaged.last_mut().unwrap() ^= 1;
    for (name, frame) in [
        ("a reset", v4().tcp(1000, 80, 0x04).finish()),
        ("a reset with ACK", v4().tcp(1000, 80, 0x14).finish()),
        ("UDP", v4().udp(1000, 80).finish()),
        ("a first fragment", v4().tcp(1000, 80, 0x02).payload(&[1; 100]).fragments(64)[0].clone()),
        ("a wrong checksum", damaged),
        ("to a group", PacketBuilder::ipv4([192, 0, 2, 1], [224, 0, 0, 5]).tcp(1, 2, 2).finish()),
        ("from a group", PacketBuilder::ipv4([224, 0, 0, 5], [192, 0, 2, 1]).tcp(1, 2, 2).finish()),
        ("link-layer broadcast", v4().ethernet([0xff; 6], SOURCE_MAC).tcp(1, 2, 2).finish()),
        ("link-layer group", v4().ethernet(DESTINATION_MAC, [1, 0, 0, 0, 0, 1]).tcp(1, 2, 2).finish()),
    ] {
        assert_eq!(reset(&frame), None, "{name}");
    }
    let frame = v4().tcp(1000, 80, 0x02).finish();
    let headers = parse(&frame, PortId(0)).unwrap();
    assert_eq!(build_reset(&frame, &headers, &mut [0; 53]), None, "no room");
    assert_eq!(build_reset(&frame, &headers, &mut [0; 54]), Some(54));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn every_reset_is_a_packet_back_and_is_never_answered(frames in frames()) {
        for frame in frames {
            let headers = parse(&frame, PortId(0)).unwrap();
            let Some(out) = reset(&frame) else { continue };
            let back = parse(&out, PortId(0)).unwrap();
            prop_assert_eq!(back.key.source, headers.key.destination);
            prop_assert_eq!(back.key.destination, headers.key.source);
            prop_assert_eq!(back.key.source_port, headers.key.destination_port);
            prop_assert_eq!(back.key.destination_port, headers.key.source_port);
            prop_assert_eq!(back.key.outer_vlan, headers.key.outer_vlan);
            prop_assert!(back.flags.has(Flags::DONT_FRAGMENT) && checksum::verify(&out, &back));
            prop_assert_eq!(reset(&out), None);
        }
    }
}
