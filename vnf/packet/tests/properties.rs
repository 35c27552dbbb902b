//! What holds for every packet and every edit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::packets::{builder, edits, frames, record, run, without_priority};
use proptest::collection::vec;
use proptest::prelude::*;
use throughway_packet::apply::recompute_checksums;
use throughway_packet::{Action, Flags, Headers, PortId, Rewrite, checksum, parse};

/// Every offset lies where the documentation says.
fn assert_offsets(headers: &Headers, frame: &[u8]) {
    let Headers { l3, l4, end, l4_checksum, flags, .. } = *headers;
    assert!(14 <= l3 && l3 <= l4 && l4 <= end && usize::from(end) <= frame.len(), "{headers:?}");
    if flags.has(Flags::L4_CHECKSUM) {
        assert!(l4 < l4_checksum && l4_checksum + 2 <= end, "{headers:?}");
    }
    if flags.any(Flags::PORTS | Flags::ICMP_QUERY) {
        assert!(l4 + 8 <= end, "{headers:?}");
    }
    assert!(!flags.has(Flags::LATER_FRAGMENT) || flags.has(Flags::FRAGMENT) && l4 == end, "{headers:?}");
    assert!(!flags.has(Flags::SOURCE_ROUTED) || flags.has(Flags::OPTIONS), "{headers:?}");
    assert!(!flags.has(Flags::L4_CHECKSUM | Flags::UDP_NO_CHECKSUM), "{headers:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, max_global_rejects: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(frame in vec(any::<u8>(), 0..200), at in 12..16usize, ipv6 in any::<bool>()) {
        let mut frame = frame;
        if let Some(header) = frame.get_mut(at..at + 3) {
            header.copy_from_slice(if ipv6 { &[0x86, 0xdd, 0x60] } else { &[0x08, 0x00, 0x45] });
        }
        if let Ok(headers) = parse(&frame, PortId(0)) {
            assert_offsets(&headers, &frame);
        }
    }

    #[test]
    fn well_formed_packets_are_accepted(frames in frames()) {
        for frame in frames {
            let headers = parse(&frame, PortId(7)).unwrap();
            assert_offsets(&headers, &frame);
            prop_assert!(checksum::verify(&frame, &headers), "{headers:?}");
        }
    }

    #[test]
    fn an_edited_packet_parses_to_its_view(frames in frames(), edits in edits()) {
        for frame in frames {
            let headers = parse(&frame, PortId(7)).unwrap();
            let (view, action) = record(&edits, &headers);
            let frame = run(&action.into(), &headers, &frame).unwrap();
            let again = parse(&frame, PortId(7)).unwrap();
            prop_assert_eq!(again, view);
            prop_assert!(checksum::verify(&frame, &again), "{:?}", action);
        }
    }

    #[test]
    fn the_checksum_of_edited_fragments_is_right_once_they_are_joined(
        builder in builder(), size in 24..60usize, edits in edits()
    ) {
        let mut whole = builder.finish();
        let headers = parse(&whole, PortId(0)).unwrap();
        // The CRC of a fragmented SCTP packet cannot be updated.
        prop_assume!(headers.key.protocol != 132);
        let (_, action) = record(&edits, &headers);
        whole = run(&action.into(), &headers, &whole).unwrap();
        let mut joined = Vec::new();
        for (number, fragment) in builder.fragments(size).into_iter().enumerate() {
            let headers = parse(&fragment, PortId(0)).unwrap();
            let (_, action) = record(&edits, &headers);
            let fragment = run(&action.into(), &headers, &fragment).unwrap();
            let mut headers = parse(&fragment, PortId(0)).unwrap();
            if headers.flags.has(Flags::LATER_FRAGMENT) {
                // Later fragments say nothing of where their payload starts: it is as far in as that of the first.
                prop_assert!(number > 0);
                let header_len = 8 * usize::from(!headers.is_ipv4()) + usize::from(parse(&whole, PortId(0)).unwrap().l4);
                headers.l4 = header_len as u16;
            }
            joined.extend(&fragment[usize::from(headers.l4)..usize::from(headers.end)]);
        }
        let headers = parse(&whole, PortId(0)).unwrap();
        prop_assert_eq!(&whole[usize::from(headers.l4)..usize::from(headers.end)], joined);
    }

    /// Byte for byte, with no regard to the two zeros of one's complement: adding deltas is associative, gives 0x0000 only
    /// when all are 0x0000, and so an intermediate checksum carries the same number on as the sum of the deltas would.
    #[test]
    fn composed_equals_one_after_another(frames in frames(), first in edits(), second in edits()) {
        for frame in frames {
            let headers = parse(&frame, PortId(7)).unwrap();

            let (_, action) = record(&first, &headers);
            let one = run(&action.into(), &headers, &frame).unwrap();
            let between = parse(&one, PortId(7)).unwrap();
            let (_, next) = record(&second, &between);
            let one_by_one = run(&next.into(), &between, &one).unwrap();

            let composed = run(&action.then(&next).into(), &headers, &frame).unwrap();
            if between.l3 > 14 {
                prop_assert_eq!(&composed, &one_by_one);
            }
            prop_assert_eq!(without_priority(composed), without_priority(one_by_one));

            let both: Vec<_> = first.iter().chain(&second).copied().collect();
            prop_assert_eq!(record(&both, &headers).1, action.then(&next));
        }
    }

    #[test]
    fn composition_is_associative_and_nothing_is_neutral(
        builder in builder(), lists in [edits(), edits(), edits()], drops in any::<[Option<u8>; 3]>()
    ) {
        let frame = builder.finish();
        let headers = parse(&frame, PortId(0)).unwrap();
        let mut at = 0;
        let [a, b, c] = lists.map(|edits| {
            let mut action = record(&edits, &headers).1;
            if let Some(reason) = drops[at].filter(|reason| *reason < 64) {
                action.edits |= throughway_packet::edits::DROP;
                action.drop = reason;
            }
            at += 1;
            action
        });
        prop_assert_eq!(a.then(&b).then(&c), a.then(&b.then(&c)));
        prop_assert_eq!(a.then(&Action::nothing()), a);
        prop_assert_eq!(Action::nothing().then(&a), a);
        let untouched = run(&Rewrite::nothing(), &headers, &frame).unwrap();
        prop_assert_eq!(untouched, frame);
    }

    /// Checksums are updated, not made anew: what was damaged on the way stays recognisable.
    #[test]
    fn an_edit_does_not_heal_a_damaged_packet(
        builder in builder(), edits in edits(), at in any::<prop::sample::Index>(), bits in 1..=255u8
    ) {
        let mut frame = builder.payload(b"some payload to be damaged").finish();
        let headers = parse(&frame, PortId(0)).unwrap();
        let checked = headers.flags.has(Flags::L4_CHECKSUM) || headers.key.protocol == 132;
        prop_assume!(checked && !headers.flags.has(Flags::SOURCE_ROUTED));
        let end = usize::from(headers.end);
        frame[end - 26 + at.index(26)] ^= bits;
        prop_assert!(!checksum::verify(&frame, &headers));
        let (view, action) = record(&edits, &headers);
        let frame = run(&action.into(), &headers, &frame).unwrap();
        prop_assert!(!checksum::verify(&frame, &view));
    }

    #[test]
    fn recomputing_gives_what_the_builder_made(builder in builder(), garbage in any::<[u8; 4]>()) {
        let frame = builder.finish();
        let headers = parse(&frame, PortId(0)).unwrap();
        prop_assume!(!headers.flags.has(Flags::SOURCE_ROUTED));
        let mut unfinished = frame.clone();
        if headers.flags.has(Flags::L4_CHECKSUM) {
            let at = usize::from(headers.l4_checksum);
            unfinished[at..at + 2].copy_from_slice(&garbage[..2]);
        } else if headers.key.protocol == 132 {
            let at = usize::from(headers.l4) + 8;
            unfinished[at..at + 4].copy_from_slice(&garbage);
        }
        prop_assert!(recompute_checksums(&headers, &mut unfinished));
        prop_assert!(checksum::verify(&unfinished, &headers));
        // ICMP over IPv4 has two right checksums when the rest adds up to zero.
        if headers.key.protocol != 1 {
            prop_assert_eq!(unfinished, frame);
        }
    }
}
