//! IPv4 packets cut into fragments: joined again they are the datagram.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::packets::builder;
use etherparse::{NetSlice, SlicedPacket};
use proptest::prelude::*;
use throughway_packet::build::PacketBuilder;
use throughway_packet::fragment::Fragments;
use throughway_packet::{Flags, PortId, checksum, parse};

fn cut(frame: &[u8], mtu: u16) -> Option<Vec<Vec<u8>>> {
    let headers = parse(frame, PortId(0)).unwrap();
    let mut fragments = Fragments::new(frame, &headers, mtu)?;
    let mut all = Vec::new();
    // As long as the whole: no fragment may need more.
    let mut out = vec![0xaa; frame.len()];
    while let Some(made) = fragments.next_into(&mut out) {
        all.push(out[..made.unwrap()].to_vec());
    }
    assert!(fragments.is_done());
    Some(all)
}

/// What the independent parser says of an IPv4 packet: offset in bytes, MF, header, payload.
fn read(frame: &[u8]) -> (usize, bool, Vec<u8>, Vec<u8>) {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv4(ip)) = sliced.net else { panic!("not IPv4") };
    let header = ip.header();
    assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
    let offset = usize::from(header.fragments_offset().byte_offset());
    (offset, header.more_fragments(), header.slice().to_vec(), ip.payload().payload.to_vec())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, max_global_rejects: 40_000, ..ProptestConfig::default() })]

    #[test]
    fn fragments_joined_are_the_datagram(
        builder in builder(), more in 0..1500usize, mtu in 68..600u16, piece in prop::option::of(24..400usize)
    ) {
        let whole = builder.clone().payload(&(0..more).map(|at| (at * 7) as u8).collect::<Vec<_>>());
        // Sometimes what comes in is a fragment itself: any one of a datagram.
        let received = match piece {
            Some(size) => whole.fragments(size),
            None => vec![whole.finish()],
        };
        for frame in received {
            let headers = parse(&frame, PortId(0)).unwrap();
            if !headers.is_ipv4() || headers.flags.has(Flags::DONT_FRAGMENT) {
                prop_assert!(cut(&frame, mtu).is_none());
                continue;
            }
            let (start, last_more, header, payload) = read(&frame);
            let Some(fragments) = cut(&frame, mtu) else {
                prop_assert!(usize::from(mtu) < header.len() + 8);
                continue;
            };
            let mut at = start;
            let mut joined = Vec::new();
            for (number, fragment) in fragments.iter().enumerate() {
                let last = number + 1 == fragments.len();
                let parsed = parse(fragment, PortId(0)).map(|headers| headers.packet_len());
                // The first of a datagram may be too short for its upper layer's header: for the receiver to judge.
                prop_assert!(!matches!(parsed, Ok(len) if len > mtu));
                let (offset, more, own, part) = read(fragment);
                prop_assert!(fragment.len() - usize::from(headers.l3) <= usize::from(mtu));
                prop_assert_eq!(offset, at);
                prop_assert_eq!(more, !last || last_more);
                prop_assert!(last || part.len() % 8 == 0);
                // As much as fits: another eight bytes would not.
                prop_assert!(last || own.len() + part.len() + 8 > usize::from(mtu));
                prop_assert_eq!(&fragment[..usize::from(headers.l3)], &frame[..usize::from(headers.l3)]);
                prop_assert_eq!(&own[4..6], &header[4..6], "identification");
                prop_assert_eq!((own[1], &own[8..10], &own[12..20]), (header[1], &header[8..10], &header[12..20]));
                if number == 0 {
                    prop_assert_eq!(&own[20..], &header[20..], "the first has all options");
                }
                at += part.len();
                joined.extend(part);
            }
            prop_assert_eq!(joined, payload);
        }
    }
}

#[test]
fn later_fragments_have_the_options_that_are_to_be_copied() {
    // No operation, record route (not copied), router alert (copied), security as if (copied), end.
    let options = [1, 7, 7, 4, 192, 0, 2, 9, 148, 4, 0, 0, 130, 3, 5, 0];
    let frame = PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7])
        .identification(0x1234)
        .options(&options)
        .udp(1, 2)
        .payload(&[7; 100])
        .finish();
    let fragments = cut(&frame, 88).unwrap();
    let (_, _, first, part) = read(&fragments[0]);
    assert_eq!((&first[20..], part.len()), (options.as_slice(), 48));
    let (offset, more, later, part) = read(&fragments[1]);
    assert_eq!(later[20..], [148, 4, 0, 0, 130, 3, 5, 0]);
    assert_eq!((offset, more, part.len()), (48, false, 60));
    assert_eq!(fragments.len(), 2);
}

#[test]
fn malformed_options_end_the_copying() {
    let frame = PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7])
        .options(&[148, 4, 0, 0, 130, 1, 9, 9])
        .udp(1, 2)
        .payload(&[7; 100])
        .finish();
    let fragments = cut(&frame, 68).unwrap();
    assert_eq!(read(&fragments[0]).2[20..], [148, 4, 0, 0, 130, 1, 9, 9]);
    assert_eq!(read(&fragments[1]).2[20..], [148, 4, 0, 0]);
}

/// As Linux's ip_fragment() cuts a datagram of 2000 bytes for an MTU of 1500 and then of 576.
#[test]
fn a_fragment_is_cut_again() {
    let frame = PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7])
        .identification(7)
        .vlan(30)
        .udp(1, 2)
        .payload(&[7; 1972])
        .finish();
    let layout = |fragments: &[Vec<u8>]| -> Vec<(usize, bool, usize)> {
        fragments
            .iter()
            .map(|frame| read(frame))
            .map(|(offset, more, _, payload)| (offset, more, payload.len()))
            .collect()
    };
    let once = cut(&frame, 1500).unwrap();
    assert_eq!(layout(&once), [(0, true, 1480), (1480, false, 500)]);
    let again: Vec<_> = once.iter().flat_map(|frame| cut(frame, 576).unwrap()).collect();
    assert_eq!(layout(&again), [(0, true, 552), (552, true, 552), (1104, true, 376), (1480, false, 500)]);
    for fragment in again {
        let headers = parse(&fragment, PortId(0)).unwrap();
        assert!(headers.flags.has(Flags::FRAGMENT) && headers.key.outer_vlan == 30);
        assert!(checksum::verify(&fragment, &headers));
    }
}

#[test]
fn a_buffer_that_is_too_small_loses_nothing() {
    let frame = PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7]).udp(1, 2).payload(&[7; 100]).finish();
    let headers = parse(&frame, PortId(0)).unwrap();
    let mut fragments = Fragments::new(&frame, &headers, 68).unwrap();
    let mut out = [0; 200];
    assert_eq!(fragments.next_into(&mut out[..81]), Some(Err(82)));
    assert_eq!(fragments.next_into(&mut out), Some(Ok(82)));
}
