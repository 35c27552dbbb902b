//! Damaged packets through everything that makes frames longer, shorter, or others of them: nothing panics, and what comes
//! out of a well-formed packet is well-formed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::packets::{carriers, edits, record_steps, run, steps};
use proptest::prelude::*;
use throughway_packet::fragment::Fragments;
use throughway_packet::reset::{MAX_FRAME, build_reset};
use throughway_packet::{Extra, PortId, checksum, mss, parse};

/// Makes the checksum of an IPv4 header at `at` right, so that damage elsewhere in it gets further than that.
fn repair(frame: &mut [u8], at: usize) {
    if let Some(first) = frame.get(at).copied()
        && first >> 4 == 4
        && let Some(header) = frame.get_mut(at..at + usize::from(first & 0x0f) * 4)
        && header.len() >= 20
    {
        header[10..12].fill(0);
        let sum = !checksum::sum(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_panics(
        frame in carriers(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
        (steps, list, size, mtu) in (steps(), edits(), any::<u16>(), any::<u16>()),
    ) {
        let mut frame = frame;
        let l3 = usize::from(parse(&frame, PortId(0)).unwrap().l3);
        for (at, byte) in damage {
            let at = l3 + at.index(frame.len() - l3);
            frame[at] = byte;
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len()));
        }
        repair(&mut frame, l3);
        repair(&mut frame, l3 + 20);
        let Ok(headers) = parse(&frame, PortId(0)) else { return Ok(()) };

        let (view, rewrite) = record_steps(&steps, &frame, &headers);
        if let Ok(out) = run(&rewrite, &headers, &frame) {
            prop_assert_eq!(parse(&out, PortId(0)), Ok(view));
        }
        let mut extra = Extra::nothing();
        extra.clamp_mss(size);
        list.into_iter().for_each(|edit| extra.edit_embedded(&frame, &headers, edit));
        let whole = checksum::verify(&frame, &headers);
        let mut edited = frame.clone();
        extra.execute(&headers, &mut edited);
        let again = parse(&edited, PortId(0)).unwrap();
        prop_assert_eq!(&again, &headers);
        prop_assert!(!whole || checksum::verify(&edited, &again));
        prop_assert!(!mss::clamp(&headers, &mut edited, size), "nothing is left to be lowered");

        let mut out = [0; MAX_FRAME];
        if let Some(len) = build_reset(&frame, &headers, &mut out) {
            let reset = parse(&out[..len], PortId(0)).unwrap();
            prop_assert!(checksum::verify(&out[..len], &reset));
        }
        let mut fragment = vec![0; frame.len()];
        let mut carried = 0;
        if let Some(mut fragments) = Fragments::new(&frame, &headers, mtu % 700) {
            while let Some(made) = fragments.next_into(&mut fragment) {
                let len = made.unwrap();
                let own = usize::from(fragment[usize::from(headers.l3)] & 0x0f) * 4;
                carried += len - usize::from(headers.l3) - own;
            }
            let own = usize::from(frame[usize::from(headers.l3)] & 0x0f) * 4;
            prop_assert_eq!(carried, usize::from(headers.packet_len()) - own);
        }
    }
}
