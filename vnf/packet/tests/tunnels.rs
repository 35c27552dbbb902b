//! Tags and tunnels: what holds for every packet, and frames as another implementation makes them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::frames::*;
use common::hex;
use common::packets::{Step, carriers, record_steps, run, steps, without_priority};
use proptest::prelude::*;
use throughway_packet::build::PacketBuilder;
use throughway_packet::frame::VecFrame;
use throughway_packet::{
    Edit, Encapsulation, ExecuteError, PortId, Rewrite, Tags, checksum, edits, execute, parse,
};

fn is_too_deep(rewrite: &Rewrite) -> bool {
    rewrite.action.has(edits::TOO_DEEP)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, max_global_rejects: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn a_rewritten_frame_parses_to_its_view(frame in carriers(), steps in steps()) {
        let headers = parse(&frame, PortId(7)).unwrap();
        let (view, rewrite) = record_steps(&steps, &frame, &headers);
        match run(&rewrite, &headers, &frame) {
            Ok(frame) => {
                let again = parse(&frame, PortId(7)).unwrap();
                prop_assert_eq!(again, view);
                // A tunnel over IPv6 may send UDP without a checksum.
                if view.is_ipv4() || !view.flags.has(throughway_packet::Flags::UDP_NO_CHECKSUM) {
                    prop_assert!(checksum::verify(&frame, &again), "{:?}", rewrite);
                }
            }
            Err(error) => prop_assert_eq!(error, ExecuteError::CongestionMarkLost),
        }
    }

    #[test]
    fn composed_rewrites_equal_one_after_another(
        frame in carriers(), first in steps(), second in steps()
    ) {
        let headers = parse(&frame, PortId(7)).unwrap();
        let (_, rewrite) = record_steps(&first, &frame, &headers);
        if let Ok(one) = run(&rewrite, &headers, &frame) {
            let between = parse(&one, PortId(7)).unwrap();
            let (_, next) = record_steps(&second, &one, &between);
            let both = rewrite.then(&next);
            let composed = run(&both, &headers, &frame);
            if is_too_deep(&both) {
                prop_assert_eq!(composed, Err(ExecuteError::TooDeep));
            } else {
                let one_by_one = run(&next, &between, &one);
                if between.l3 > 14 {
                    prop_assert_eq!(&composed, &one_by_one);
                }
                prop_assert_eq!(composed.map(without_priority), one_by_one.map(without_priority));
            }
        }
    }

    #[test]
    fn composition_is_associative_and_nothing_is_neutral(
        frame in carriers(), lists in [steps(), steps(), steps()], drops in any::<[Option<u8>; 3]>()
    ) {
        let headers = parse(&frame, PortId(0)).unwrap();
        let mut at = 0;
        let [a, b, c] = lists.map(|steps| {
            let mut rewrite = record_steps(&steps, &frame, &headers).1;
            if let Some(reason) = drops[at].filter(|reason| *reason < 64) {
                rewrite.action.edits |= edits::DROP;
                rewrite.action.drop = reason;
            }
            at += 1;
            rewrite
        });
        prop_assert_eq!(a.then(&b).then(&c), a.then(&b.then(&c)));
        prop_assert_eq!(a.then(&Rewrite::nothing()), a);
        prop_assert_eq!(Rewrite::nothing().then(&a), a);
    }

    #[test]
    fn without_room_nothing_is_changed(frame in carriers(), steps in steps(), room in 0..80usize) {
        let headers = parse(&frame, PortId(0)).unwrap();
        let (view, rewrite) = record_steps(&steps, &frame, &headers);
        let mut buffer = VecFrame::new(&frame, room);
        let before = buffer.clone();
        let longer = i32::from(view.end) - i32::from(headers.end);
        match execute(&rewrite, &headers, &mut buffer) {
            Ok(()) => prop_assert!(longer <= room as i32 || view.end < headers.end),
            Err(error) => {
                prop_assert_eq!(&buffer, &before);
                prop_assert!(error == ExecuteError::CongestionMarkLost || longer > room as i32);
            }
        }
    }

    /// In and out again gives the very frame, but for the congestion mark's table.
    #[test]
    fn what_was_put_in_comes_out(frame in carriers(), inside in steps()) {
        let headers = parse(&frame, PortId(0)).unwrap();
        let (_, rewrite) = record_steps(&inside, &frame, &headers);
        let Ok(tunnelled) = run(&rewrite, &headers, &frame) else { return Ok(()) };
        let outer = parse(&tunnelled, PortId(0)).unwrap();
        prop_assume!(rewrite.action.has(edits::ENCAPSULATE) && outer.key.protocol != 17);
        let (view, back) = record_steps(&[Step::Decapsulate], &tunnelled, &outer);
        let out = run(&back, &outer, &tunnelled).unwrap();
        prop_assert_eq!(parse(&out, PortId(0)).unwrap(), view);
        let expected = &tunnelled[usize::from(outer.l4)..usize::from(outer.end)];
        prop_assert_eq!(&out[usize::from(view.l3)..usize::from(view.end)], expected);
    }
}

/// Tags: EtherType and control information.
type Tagged = Vec<(u16, u16)>;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn packet() -> PacketBuilder {
    PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7]).udp(5000, 53).payload(b"query")
}

fn after(frame: &[u8], steps: &[Step]) -> Vec<u8> {
    let headers = parse(frame, PortId(0)).unwrap();
    let (_, rewrite) = record_steps(steps, frame, &headers);
    run(&rewrite, &headers, frame).unwrap()
}

#[test]
fn a_packet_received_with_any_tags_leaves_with_any_tags() {
    let received: [&[(u16, u16)]; 4] =
        [&[], &[(0x8100, 0x7064)], &[(0x88a8, 0xb0c8), (0x8100, 0x0064)], &[(0x9100, 0x2001)]];
    for tags in received {
        let build = |tags: &[(u16, u16)]| {
            tags.iter().fold(packet(), |packet, (kind, control)| packet.tag(*kind, *control)).finish()
        };
        let frame = build(tags);
        // Priority and drop eligibility come from the outer tag.
        let kept = tags.first().map_or(0, |(_, control)| control & 0xf000);
        let eligible = kept & 0x1000;
        let cases: [(&[Step], Tagged); 6] = [
            (&[Step::Edit(Edit::Tags(Tags::NONE))], vec![]),
            (&[Step::Edit(Edit::Tags(Tags::one(30)))], vec![(0x8100, kept | 30)]),
            (&[Step::Edit(Edit::Tags(Tags::two(200, 30)))], vec![(0x8100, kept | 200), (0x8100, kept | 30)]),
            (
                &[Step::Edit(Edit::Tags(Tags::two(200, 30).service()))],
                vec![(0x88a8, kept | 200), (0x8100, kept | 30)],
            ),
            (
                &[Step::Edit(Edit::Priority(5)), Step::Edit(Edit::Tags(Tags::one(4094)))],
                vec![(0x8100, 0xa000 | eligible | 4094)],
            ),
            (
                &[Step::Edit(Edit::Priority(1))],
                tags.iter().map(|(kind, control)| (*kind, 0x2000 | control & 0x1fff)).collect(),
            ),
        ];
        for (steps, expected) in cases {
            assert_eq!(after(&frame, steps), build(&expected), "{tags:x?} {steps:?}");
        }
    }
}

#[test]
fn a_tag_goes_with_new_addresses_and_leaves_padding_where_it_is() {
    let frame = packet().padded(60).finish();
    let steps = [
        Step::Edit(Edit::Ethernet { destination: MAC, source: [2; 6] }),
        Step::Edit(Edit::Tags(Tags::one(7))),
        Step::Edit(Edit::DecrementHops),
    ];
    let expected = packet().ethernet(MAC, [2; 6]).vlan(7).hop_limit(63).padded(64).finish();
    assert_eq!(after(&frame, &steps), expected);
}

#[test]
fn tunnelled_as_another_implementation_writes_it() {
    let outer4 = Encapsulation::ip([203, 0, 113, 1].into(), [203, 0, 113, 2].into());
    let outer6 = Encapsulation::ip("2001:db8:aa::1".parse().unwrap(), "2001:db8:aa::2".parse().unwrap());
    let gue = Encapsulation::gue(outer4.source, outer4.destination, 6080);
    let tags = Step::Edit(Edit::Tags(Tags::two(200, 30).service()));
    let cases: [(&str, &[Step], &str); 6] = [
        (PACKET4, &[Step::Encapsulate(outer4)], IPV4_IN_IPV4),
        (PACKET6, &[Step::Encapsulate(Encapsulation { dscp: Some(10), ..outer4 })], IPV6_IN_IPV4),
        (PACKET4, &[Step::Encapsulate(outer6)], IPV4_IN_IPV6),
        (PACKET6, &[Step::Encapsulate(outer6)], IPV6_IN_IPV6),
        (PACKET4, &[Step::Encapsulate(gue), Step::Edit(Edit::SourcePort(4242))], GUE),
        (PACKET4, &[tags, Step::Encapsulate(outer4)], TAGGED_IPV4_IN_IPV4),
    ];
    for (before, steps, expected) in cases {
        let steps = [&[Step::Edit(Edit::DecrementHops)], steps].concat();
        let mut out = after(&hex(before), &steps);
        if out[14] >> 4 == 6 {
            // The flow label, which the other implementation leaves zero.
            assert_ne!(out[16..18], [0, 0]);
            out[16..18].fill(0);
        }
        assert_eq!(out, hex(expected), "{steps:?}");
        if !expected.contains("17c0") {
            let mut inside = after(&hex(expected), &[Step::Decapsulate, Step::Edit(Edit::Tags(Tags::NONE))]);
            inside.splice(..14, hex(before)[..14].to_vec());
            assert_eq!(inside, after(&hex(before), &steps[..1]));
        }
    }
}

/// RFC 6040, section 4.2, figure 4: rows are the packet's mark, columns that of the tunnel.
#[test]
fn congestion_marks_are_combined() {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    let table = [
        (NOT_ECT, [(NOT_ECT, Some(NOT_ECT)), (ECT_0, Some(NOT_ECT)), (ECT_1, Some(NOT_ECT)), (CE, None)]),
        (ECT_0, [(NOT_ECT, Some(ECT_0)), (ECT_0, Some(ECT_0)), (ECT_1, Some(ECT_1)), (CE, Some(CE))]),
        (ECT_1, [(NOT_ECT, Some(ECT_1)), (ECT_0, Some(ECT_1)), (ECT_1, Some(ECT_1)), (CE, Some(CE))]),
        (CE, [(NOT_ECT, Some(CE)), (ECT_0, Some(CE)), (ECT_1, Some(CE)), (CE, Some(CE))]),
    ];
    for (outer4, inner4) in [(true, true), (true, false), (false, true), (false, false)] {
        let between = |ipv4: bool| {
            if ipv4 {
                PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7])
            } else {
                PacketBuilder::ipv6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2])
            }
        };
        for (inner, row) in table {
            for (outer, expected) in row {
                let inside =
                    |ecn: u8| between(inner4).traffic_class(0xb8 | ecn).udp(1, 2).payload(b"x").finish();
                let frame = between(outer4)
                    .traffic_class(0x28 | outer)
                    .protocol(if inner4 { 4 } else { 41 })
                    .payload(&inside(inner)[14..])
                    .finish();
                let headers = parse(&frame, PortId(0)).unwrap();
                let (_, rewrite) = record_steps(&[Step::Decapsulate], &frame, &headers);
                let expected = expected.map(inside).ok_or(ExecuteError::CongestionMarkLost);
                assert_eq!(run(&rewrite, &headers, &frame), expected, "{inner} in {outer}");
            }
        }
    }
}

#[test]
fn the_identification_of_an_outer_header_follows_rfc_6864() {
    let tunnel = Encapsulation::ip([203, 0, 113, 1].into(), [203, 0, 113, 2].into());
    for (builder, flags, zero) in [
        (packet().identification(7), 0x00, false),
        (packet().identification(7).dont_fragment(), 0x40, true),
        (packet().identification(7).fragment(0, true).payload(b"8 bytes."), 0x00, false),
    ] {
        let frame = builder.finish();
        let out = after(&frame, &[Step::Encapsulate(tunnel)]);
        assert_eq!(out[20], flags);
        assert_eq!(out[18..20] == [0, 0], zero);
        if !zero {
            assert_eq!(out[18..20], frame[24..26], "the packet's own header checksum");
        }
    }
    let forced = Encapsulation { dont_fragment: true, ..tunnel };
    let out = after(&packet().identification(7).finish(), &[Step::Encapsulate(forced)]);
    assert_eq!(out[18..21], [0, 0, 0x40]);
}

#[test]
fn a_flow_keeps_its_outer_port_and_flows_differ() {
    let tunnel = Encapsulation::gue([203, 0, 113, 1].into(), [203, 0, 113, 2].into(), 6080);
    let port = |source: u16, payload: &[u8]| {
        let frame =
            PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7]).tcp(source, 80, 0x10).payload(payload);
        let out = after(&frame.finish(), &[Step::Encapsulate(tunnel)]);
        u16::from_be_bytes([out[34], out[35]])
    };
    let ports: std::collections::BTreeSet<u16> = (1000..2000).map(|source| port(source, b"a")).collect();
    assert!(ports.len() > 900, "{} ports for 1000 flows", ports.len());
    assert!(ports.iter().all(|port| *port >= 0xc000));
    assert_eq!(port(1234, b"a"), port(1234, b"another"));
}

#[test]
fn two_tunnels_at_once_are_refused() {
    let tunnel = Encapsulation::ip([203, 0, 113, 1].into(), [203, 0, 113, 2].into());
    let frame = packet().finish();
    let headers = parse(&frame, PortId(0)).unwrap();
    let (mut view, mut rewrite) = (headers, Rewrite::nothing());
    assert!(tunnel.record(&mut view, &mut rewrite));
    let once = (view, rewrite);
    assert!(!tunnel.record(&mut view, &mut rewrite));
    assert!(throughway_packet::tunnel::decapsulate(&frame, &headers, &mut view, &mut rewrite).is_err());
    assert_eq!((view, rewrite), once);
    assert_eq!(run(&rewrite.then(&rewrite), &headers, &frame), Err(ExecuteError::TooDeep));
}
