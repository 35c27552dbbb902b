//! The MSS option of a SYN, lowered.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::frames::TCP_SYN;
use common::hex;
use proptest::collection::vec;
use proptest::prelude::*;
use throughway_packet::apply::recompute_checksums;
use throughway_packet::build::PacketBuilder;
use throughway_packet::{PortId, checksum, mss, parse};

/// A segment with TCP options (a multiple of four bytes), with right checksums.
fn segment(ipv4: bool, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let builder = if ipv4 {
        PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7])
    } else {
        PacketBuilder::ipv6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], [0x2001, 0xdb8, 9, 0, 0, 0, 0, 2])
    };
    let mut frame = builder.vlan(7).tcp(1000, 80, flags).payload(&[options, payload].concat()).finish();
    let tcp = 18 + if ipv4 { 20 } else { 40 };
    frame[tcp + 12] = ((20 + options.len()) / 4) as u8 * 16;
    let headers = parse(&frame, PortId(0)).unwrap();
    assert!(recompute_checksums(&headers, &mut frame));
    frame
}

fn clamped(frame: &[u8], to: u16) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let headers = parse(&frame, PortId(0)).unwrap();
    let before = frame.clone();
    let changed = mss::clamp(&headers, &mut frame, to);
    assert_eq!(changed, frame != before);
    frame
}

#[test]
fn a_larger_one_is_lowered_and_the_checksum_follows() {
    for ipv4 in [true, false] {
        // Alone, behind others, at an odd offset (where the sum's halves change places), twice.
        for (options, at) in [
            (vec![2, 4, 5, 0xb4], vec![2]),
            (vec![4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4, 5, 0xb4], vec![14]),
            (vec![1, 2, 4, 5, 0xb4, 3, 3, 7], vec![3]),
            (vec![1, 2, 4, 0xff, 0xff, 2, 4, 5, 0xb4, 0, 0, 0], vec![3, 7]),
        ] {
            for flags in [0x02, 0x12, 0xc2] {
                for (to, payload) in [(1360u16, &b""[..]), (0x00ff, b"fast open"), (1, b"x"), (0, b"")] {
                    let mut expected = options.clone();
                    for &at in &at {
                        expected[at..at + 2].copy_from_slice(&to.to_be_bytes());
                    }
                    let out = clamped(&segment(ipv4, flags, &options, payload), to);
                    assert_eq!(out, segment(ipv4, flags, &expected, payload), "{options:?} to {to}");
                }
            }
        }
    }
}

/// A SYN as another implementation makes it: MSS 1460.
#[test]
fn only_a_larger_one_is_lowered() {
    let frame = hex(TCP_SYN);
    assert_eq!(clamped(&frame, 1460), frame);
    assert_eq!(clamped(&frame, 9000), frame);
    assert_ne!(clamped(&frame, 1459), frame);
}

#[test]
fn what_is_left_alone() {
    let mss = [2, 4, 5, 0xb4];
    for (name, frame) in [
        ("no SYN", segment(true, 0x10, &mss, b"")),
        ("no option", segment(true, 0x02, &[], b"")),
        ("others only", segment(true, 0x02, &[3, 3, 7, 0], b"")),
        ("behind the end", segment(true, 0x02, &[0, 2, 4, 5, 0xb4, 0, 0, 0], b"")),
        ("in the payload", segment(true, 0x02, &[], &mss)),
        ("a wrong length", segment(true, 0x02, &[2, 3, 5, 1], b"")),
        ("cut off", segment(true, 0x02, &[1, 1, 2, 4], b"")),
        ("followed by a malformed one", segment(true, 0x02, &[2, 4, 5, 0xb4, 8, 0, 0, 0], b"")),
        ("followed by one cut off", segment(true, 0x02, &[2, 4, 5, 0xb4, 8, 10, 0, 0], b"")),
    ] {
        assert_eq!(clamped(&frame, 536), frame, "{name}");
    }
}

#[test]
fn what_fits_a_link() {
    assert_eq!((mss::of_mtu(1500, true), mss::of_mtu(1500, false), mss::of_mtu(30, false)), (1460, 1440, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn any_options_keep_the_checksum_right(
        words in vec(any::<[u8; 4]>(), 0..10), flags in any::<u8>(), to in any::<u16>(), ipv4 in any::<bool>()
    ) {
        let frame = segment(ipv4, flags, &words.concat(), b"payload");
        let out = clamped(&frame, to);
        let headers = parse(&out, PortId(0)).unwrap();
        prop_assert!(checksum::verify(&out, &headers));
        prop_assert_eq!(out.len(), frame.len());
        prop_assert_eq!(clamped(&out, to), out);
    }
}
