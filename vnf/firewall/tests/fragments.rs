//! Fragments: every order, overlaps, copies, and bounds.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod wall;

use std::time::Duration;

use proptest::prelude::*;
use throughway_vnf::{DropReason, Verdict};
use wall::*;

const BEFORE_FIRST: Verdict = Verdict::Drop(DropReason::FragmentBeforeFirst);
const OVERLAP: Verdict = Verdict::Drop(DropReason::FragmentOverlap);
const COPY: Verdict = Verdict::Drop(DropReason::DuplicateFragment);

/// A datagram with a UDP header and 100 bytes, cut every 32 bytes: four fragments.
fn cut((a, b): (&str, &str), id: u32) -> Vec<Vec<u8>> {
    let datagram = between(a, b).udp(5000, 53).identification(id).payload(&[1; 100]);
    let fragments = datagram.fragments(32);
    assert_eq!(fragments.len(), 4);
    fragments
}

/// One fragment by itself.
fn piece((a, b): (&str, &str), id: u32, offset: u16, len: usize, more: bool) -> Vec<u8> {
    between(a, b).udp(5000, 53).identification(id).fragment(offset, more).payload(&vec![1; len]).finish()
}

fn permutations(of: usize) -> Vec<Vec<usize>> {
    if of == 0 {
        return vec![vec![]];
    }
    let shorter = permutations(of - 1);
    shorter
        .iter()
        .flat_map(|order| (0..of).map(move |at| [&order[..at], &[of - 1], &order[at..]].concat()))
        .collect()
}

#[test]
fn in_every_order_what_follows_the_first_shares_its_fate() {
    for ends in ENDS {
        for (id, order) in permutations(4).into_iter().enumerate() {
            let mut wall = Wall::simple();
            let fragments = cut(ends, id as u32 + 1);
            let first_at = order.iter().position(|&number| number == 0).unwrap();
            for (at, &number) in order.iter().enumerate() {
                let expected = if at < first_at { BEFORE_FIRST } else { PASS };
                let sent = wall.on(0, &fragments[number]);
                assert_eq!((sent.verdict, sent.repeatable), (expected, false), "{order:?} at {at}");
            }
            // Complete ones are forgotten.
            let complete = first_at == 0;
            assert_eq!(wall.shared.overview().datagrams, u32::from(!complete), "{order:?}");
            assert_eq!(wall.sessions()[0].packets, [4 - first_at as u64, 0]);
        }
    }
}

#[test]
fn what_the_first_may_not_the_others_may_not_either() {
    for (a, b) in ENDS {
        let mut wall = Wall::simple();
        let fragments = cut((b, a), 1);
        for fragment in &fragments {
            assert_eq!(wall.raw(fragment), DEFAULT);
        }
        // Fragments of another datagram, sender, or interface have nothing to do with it.
        assert_eq!(wall.raw(&cut((a, b), 1)[0]), PASS);
        assert_eq!(wall.raw(&cut((a, b), 2)[1]), BEFORE_FIRST);
        assert_eq!(wall.on(1, &cut((a, b), 1)[1]).verdict, BEFORE_FIRST);
        assert_eq!(wall.raw(&cut((a, b), 1)[1]), PASS);
    }
}

#[test]
fn an_overlap_ends_the_datagram_and_a_copy_ends_alone() {
    for ends in ENDS {
        let mut wall = Wall::simple();
        assert_eq!(wall.raw(&piece(ends, 1, 0, 24, true)), PASS);
        assert_eq!(wall.raw(&piece(ends, 1, 0, 24, true)), COPY);
        assert_eq!(wall.raw(&piece(ends, 1, 32, 32, true)), PASS);
        assert_eq!(wall.raw(&piece(ends, 1, 32, 32, true)), COPY);
        assert_eq!(wall.raw(&piece(ends, 1, 64, 8, true)), PASS);
        // Over the upper-layer header (RFC 3128), within another, across a border, disagreeing ends.
        let bad =
            [(8, 8, true), (40, 8, true), (56, 16, true), (0, 40, true), (32, 32, false), (40, 8, false)];
        for (number, (offset, len, more)) in bad.into_iter().enumerate() {
            let id = number as u32 + 10;
            assert_eq!(wall.raw(&piece(ends, id, 0, 24, true)), PASS);
            assert_eq!(wall.raw(&piece(ends, id, 32, 32, true)), PASS);
            let len = if offset == 0 { len - 8 } else { len };
            assert_eq!(wall.raw(&piece(ends, id, offset, len, more)), OVERLAP, "{offset} {len} {more}");
            assert_eq!(wall.raw(&piece(ends, id, 64, 8, true)), OVERLAP, "the rest too");
        }
        // Two ends, and more behind the end.
        assert_eq!(wall.raw(&piece(ends, 3, 0, 24, true)), PASS);
        assert_eq!(wall.raw(&piece(ends, 3, 64, 8, false)), PASS);
        assert_eq!(wall.raw(&piece(ends, 3, 72, 8, true)), OVERLAP);
    }
}

#[test]
fn the_number_of_fragments_and_datagrams_is_bounded_and_so_is_the_time() {
    let ends = ENDS[0];
    let mut wall = Wall::simple();
    assert_eq!(wall.raw(&piece(ends, 1, 0, 0, true)), PASS);
    let passed = (1..100).filter(|n| wall.raw(&piece(ends, 1, n * 8, 8, true)) == PASS).count();
    assert_eq!(passed, 63);
    assert_eq!(wall.raw(&piece(ends, 1, 8000, 8, true)), Verdict::Drop(DropReason::TooManyFragments));

    let passed = (2..100).filter(|&id| wall.raw(&cut(ends, id)[0]) == PASS).count();
    assert_eq!(passed, 15);
    assert_eq!(wall.raw(&cut(ends, 99)[0]), Verdict::Drop(DropReason::FragmentTableFull));
    assert_eq!(wall.shared.overview().datagrams, 16);
    wall.wait(Duration::from_secs(14));
    assert_eq!(wall.raw(&cut(ends, 2)[1]), PASS);
    // Its first fragment began the clock, and what was heard since prolongs nothing.
    wall.wait(Duration::from_secs(2));
    assert_eq!(wall.raw(&cut(ends, 2)[2]), BEFORE_FIRST);
    assert_eq!(wall.shared.overview().datagrams, 0);
}

#[test]
fn what_is_dropped_anyway_cannot_fill_the_table() {
    let (a, b) = ENDS[0];
    let mut wall = Wall::simple();
    for id in 0..100 {
        assert_eq!(wall.raw(&cut((b, a), id)[0]), DEFAULT);
    }
    assert_eq!(wall.shared.overview().datagrams, 8);
    assert_eq!(wall.raw(&cut((b, a), 0)[1]), DEFAULT);
    assert_eq!(wall.raw(&cut((b, a), 99)[1]), BEFORE_FIRST);
    assert_eq!(wall.raw(&cut((a, b), 1)[0]), PASS);
}

#[test]
fn the_identification_may_be_used_again_at_once() {
    for ends in ENDS {
        let mut wall = Wall::simple();
        for _ in 0..3 {
            for fragment in cut(ends, 5) {
                assert_eq!(wall.raw(&fragment), PASS);
            }
        }
    }
}

proptest! {
    /// Against bytes: no byte of a datagram passes twice, none before the first fragment, none after an overlap.
    #[test]
    fn no_byte_passes_twice(pieces in prop::collection::vec((0u16..12, 1usize..6, any::<bool>()), 1..20)) {
        let mut wall = Wall::simple();
        let mut passed = [false; 256];
        let (mut first, mut spoilt, mut end) = (false, false, None::<usize>);
        for (offset, len, more) in pieces {
            let start = usize::from(offset) * 8;
            let bytes = if more { len * 8 } else { len * 8 - 3 };
            let payload = if offset == 0 { bytes.saturating_sub(8) } else { bytes };
            let frame = piece(ENDS[0], 1, offset * 8, payload, more);
            // A fragment with offset zero and no more is no fragment.
            if offset == 0 && !more {
                continue;
            }
            let verdict = wall.raw(&frame);
            if verdict == PASS {
                prop_assert!(first || offset == 0);
                prop_assert!(!spoilt);
                first = true;
                prop_assert!(passed[start..start + bytes].iter().all(|seen| !seen));
                passed[start..start + bytes].fill(true);
                prop_assert!(end.is_none_or(|end| start + bytes <= end));
                if !more {
                    end = Some(start + bytes);
                }
            }
            spoilt |= verdict == OVERLAP;
            // A complete datagram is forgotten: the next is another one.
            if end.is_some_and(|end| passed[..end].iter().all(|seen| *seen)) {
                break;
            }
        }
    }
}
