//! ICMP and ICMPv6 errors: their bytes, and when none is sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::packets::frames;
use etherparse::{SlicedPacket, TransportSlice};
use proptest::prelude::*;
use throughway_packet::build::{DESTINATION_MAC, PacketBuilder, SOURCE_MAC};
use throughway_packet::icmp::{IcmpError, MAX_FRAME, build_error};
use throughway_packet::{Flags, Headers, PortId, checksum, parse};

const ROUTER4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254));
const ROUTER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0xfe));
const ALL: [IcmpError; 6] = [
    IcmpError::HopLimitExceeded,
    IcmpError::NetUnreachable,
    IcmpError::HostUnreachable,
    IcmpError::PortUnreachable,
    IcmpError::AdminProhibited,
    IcmpError::TooBig { mtu: 1400 },
];

fn v4() -> PacketBuilder {
    PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7])
}

fn v6() -> PacketBuilder {
    PacketBuilder::ipv6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], [0x2001, 0xdb8, 9, 0, 0, 0, 0, 2])
}

fn answer(received: &[u8], error: IcmpError) -> Option<Vec<u8>> {
    let headers = parse(received, PortId(0)).unwrap();
    let source = if headers.is_ipv4() { ROUTER4 } else { ROUTER6 };
    let mut out = [0xaa; MAX_FRAME];
    let len = build_error(received, &headers, error, source, &mut out)?;
    assert!(out[len..].iter().all(|byte| *byte == 0xaa), "nothing is written behind the frame");
    Some(out[..len].to_vec())
}

fn parsed(frame: &[u8]) -> Headers {
    let headers = parse(frame, PortId(0)).unwrap();
    assert!(checksum::verify(frame, &headers));
    assert!(headers.flags.has(Flags::ICMP_ERROR));
    assert_eq!(usize::from(headers.end), frame.len());
    headers
}

#[test]
fn types_and_codes() {
    let (four, six) = (v4().udp(1, 2).finish(), v6().udp(1, 2).finish());
    let expected = [
        ((11, 0, [0; 4]), (3, 0, [0; 4])),
        ((3, 0, [0; 4]), (1, 0, [0; 4])),
        ((3, 1, [0; 4]), (1, 3, [0; 4])),
        ((3, 3, [0; 4]), (1, 4, [0; 4])),
        ((3, 13, [0; 4]), (1, 1, [0; 4])),
        ((3, 4, [0, 0, 0x05, 0x78]), (2, 0, [0, 0, 0x05, 0x78])),
    ];
    for (error, (icmp4, icmp6)) in ALL.into_iter().zip(expected) {
        for (received, expected) in [(&four, icmp4), (&six, icmp6)] {
            let frame = answer(received, error).unwrap();
            let headers = parsed(&frame);
            let rest = &frame[usize::from(headers.l4) + 4..][..4];
            assert_eq!(
                (headers.icmp_type, headers.icmp_code, rest),
                (expected.0, expected.1, &expected.2[..])
            );
        }
    }
}

#[test]
fn headers_of_an_error() {
    let received =
        v4().tag(0x88a8, 0x6064).vlan(7).traffic_class(0xbb).dont_fragment().udp(1, 2).padded(80).finish();
    let frame = answer(&received, IcmpError::NetUnreachable).unwrap();
    let headers = parsed(&frame);
    assert_eq!(frame[..6], SOURCE_MAC);
    assert_eq!(frame[6..12], DESTINATION_MAC);
    assert_eq!(frame[12..20], received[12..20]);
    assert_eq!((headers.source(), headers.destination()), (ROUTER4, "192.0.2.1".parse().unwrap()));
    assert_eq!((headers.traffic_class, headers.hop_limit), (0xd8, 64));
    assert!(!headers.flags.has(Flags::DONT_FRAGMENT));
    // Quoted as received, without the padding of the link.
    assert_eq!(frame[usize::from(headers.l4) + 8..], received[22..50]);

    let received = v6().traffic_class(0xbb).udp(1, 2).finish();
    let frame = answer(&received, IcmpError::NetUnreachable).unwrap();
    let headers = parsed(&frame);
    assert_eq!((headers.source(), headers.destination()), (ROUTER6, "2001:db8::1".parse().unwrap()));
    assert_eq!((headers.traffic_class, headers.hop_limit), (0, 64));
    assert_eq!(frame[62..], received[14..]);
}

#[test]
fn as_much_is_quoted_as_fits() {
    for (builder, max) in [(v4(), 576), (v6(), 1280)] {
        for len in [max - 100, max, 3000] {
            let received = builder.clone().udp(1, 2).payload(&vec![0x5a; len]).finish();
            let frame = answer(&received, IcmpError::HopLimitExceeded).unwrap();
            let headers = parsed(&frame);
            let whole = usize::from(headers.l4) + 8 + received.len() - 14;
            assert_eq!(frame.len(), whole.min(max + 14));
            let quote = &frame[usize::from(headers.l4) + 8..];
            assert_eq!(quote, &received[14..14 + quote.len()]);
        }
    }
}

#[test]
fn a_link_below_the_minimum_is_never_told_to_ipv6() {
    let frame = answer(&v6().udp(1, 2).finish(), IcmpError::TooBig { mtu: 600 }).unwrap();
    assert_eq!(frame[58..62], [0, 0, 0x05, 0x00]);
    let frame = answer(&v4().udp(1, 2).finish(), IcmpError::TooBig { mtu: 600 }).unwrap();
    assert_eq!(frame[38..42], [0, 0, 0x02, 0x58]);
}

#[test]
fn never_about_errors_redirects_and_later_fragments() {
    for kind in [3, 4, 5, 11, 12] {
        assert_eq!(answer(&v4().icmp(kind, 0, [0; 4]).finish(), IcmpError::HopLimitExceeded), None, "{kind}");
    }
    for kind in [1, 2, 3, 4, 100, 137] {
        assert_eq!(answer(&v6().icmp(kind, 0, [0; 4]).finish(), IcmpError::HopLimitExceeded), None, "{kind}");
    }
    for builder in [v4(), v6()] {
        let fragments = builder.udp(1, 2).payload(&[0; 64]).fragments(32);
        assert!(answer(&fragments[0], IcmpError::HopLimitExceeded).is_some());
        assert_eq!(answer(&fragments[1], IcmpError::HopLimitExceeded), None);
    }
    assert!(answer(&v4().echo_request(1, 1).finish(), IcmpError::HopLimitExceeded).is_some());
    assert!(answer(&v6().echo_request(1, 1).finish(), IcmpError::HopLimitExceeded).is_some());
}

#[test]
fn never_to_or_about_a_group() {
    let bad_sources = [[0, 0, 0, 0], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]];
    for source in bad_sources {
        let received = PacketBuilder::ipv4(source, [198, 51, 100, 7]).udp(1, 2).finish();
        assert_eq!(answer(&received, IcmpError::NetUnreachable), None, "from {source:?}");
    }
    for destination in [[224, 0, 0, 5], [239, 1, 1, 1], [255; 4]] {
        let received = PacketBuilder::ipv4([192, 0, 2, 1], destination).udp(1, 2).finish();
        for error in ALL {
            assert_eq!(answer(&received, error), None, "to {destination:?}");
        }
    }
    let host = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1];
    for source in [[0; 8], [0, 0, 0, 0, 0, 0, 0, 1], [0xff02, 0, 0, 0, 0, 0, 0, 1]] {
        for error in ALL {
            assert_eq!(
                answer(&PacketBuilder::ipv6(source, host).udp(1, 2).finish(), error),
                None,
                "{source:x?}"
            );
        }
    }
    let group = PacketBuilder::ipv6(host, [0xff0e, 0, 0, 0, 0, 0, 0, 1]).udp(1, 2);
    let groups = [
        group.clone().finish(),
        group.ethernet([0x33, 0x33, 0, 0, 0, 1], SOURCE_MAC).finish(),
        v6().ethernet([0xff; 6], SOURCE_MAC).udp(1, 2).finish(),
    ];
    for received in groups {
        for error in ALL {
            // Path MTU discovery works for groups too.
            let expected = matches!(error, IcmpError::TooBig { .. });
            assert_eq!(answer(&received, error).is_some(), expected, "{error:?}");
        }
    }
    for received in [
        v4().ethernet([0xff; 6], SOURCE_MAC).udp(1, 2).finish(),
        v4().ethernet([0x01, 0, 0x5e, 0, 0, 1], SOURCE_MAC).udp(1, 2).finish(),
        v4().ethernet(DESTINATION_MAC, [3, 0, 0, 0, 0, 1]).udp(1, 2).finish(),
        v6().ethernet(DESTINATION_MAC, [0xff; 6]).udp(1, 2).finish(),
    ] {
        for error in ALL {
            assert_eq!(answer(&received, error), None);
        }
    }
}

#[test]
fn never_into_too_small_a_buffer_or_from_the_other_family() {
    let received = v4().udp(1, 2).finish();
    let headers = parse(&received, PortId(0)).unwrap();
    for len in 0..70 {
        let mut out = vec![0; len];
        assert_eq!(build_error(&received, &headers, IcmpError::NetUnreachable, ROUTER4, &mut out), None);
    }
    let mut out = [0; 70];
    assert_eq!(build_error(&received, &headers, IcmpError::NetUnreachable, ROUTER6, &mut out), None);
    assert_eq!(build_error(&received, &headers, IcmpError::NetUnreachable, ROUTER4, &mut out), Some(70));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn an_error_is_a_packet_for_another_implementation_too(
        frames in frames(), which in 0..ALL.len(), mtu in any::<u16>()
    ) {
        for received in frames {
            let error = if let IcmpError::TooBig { .. } = ALL[which] { IcmpError::TooBig { mtu } } else { ALL[which] };
            let Some(frame) = answer(&received, error) else { continue };
            let headers = parsed(&frame);
            let quote = &frame[usize::from(headers.l4) + 8..];
            prop_assert!(received[usize::from(headers.l3)..].starts_with(quote));
            let reference = SlicedPacket::from_ethernet(&frame).unwrap();
            match reference.transport.unwrap() {
                TransportSlice::Icmpv4(icmp) => {
                    prop_assert_eq!(icmp.header().icmp_type.calc_checksum(icmp.payload()), icmp.checksum());
                    prop_assert!(headers.packet_len() <= 576);
                }
                TransportSlice::Icmpv6(icmp) => {
                    let (IpAddr::V6(source), IpAddr::V6(destination)) = (headers.source(), headers.destination())
                    else { panic!("ICMPv6 over IPv4") };
                    prop_assert!(icmp.is_checksum_valid(source.octets(), destination.octets()));
                    prop_assert!(headers.packet_len() <= 1280);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
