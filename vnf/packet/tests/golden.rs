//! Frames made by another implementation, parsed and edited.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::net::IpAddr;

use common::frames::*;
use common::hex;
use throughway_packet::apply::recompute_checksums;
use throughway_packet::build::PacketBuilder;
use throughway_packet::{Action, Edit, Flags, Headers, ParseError, PortId, apply, checksum, parse};

const NONE: Flags = Flags(0);

struct Expected {
    name: &'static str,
    frame: &'static str,
    offsets: (u16, u16, u16),
    vlans: (u16, u16),
    protocol: u8,
    ports: (u16, u16),
    flags: Flags,
    hop_limit: u8,
    traffic_class: u8,
    tcp_flags: u8,
    icmp: (u8, u8),
}

const fn expected(
    name: &'static str,
    frame: &'static str,
    offsets: (u16, u16, u16),
    protocol: u8,
) -> Expected {
    Expected {
        name,
        frame,
        offsets,
        vlans: (0, 0),
        protocol,
        ports: (0, 0),
        flags: NONE,
        hop_limit: 64,
        traffic_class: 0,
        tcp_flags: 0,
        icmp: (0, 0),
    }
}

fn table() -> Vec<Expected> {
    let udp = Flags::PORTS | Flags::L4_CHECKSUM;
    let v6 = Flags::DONT_FRAGMENT;
    let dns = (5000, 53);
    vec![
        Expected {
            ports: (40000, 443),
            flags: udp | Flags::TCP_CONTROL | Flags::DONT_FRAGMENT,
            tcp_flags: 0x02,
            ..expected("TCP SYN", TCP_SYN, (14, 34, 58), 6)
        },
        Expected { ports: dns, flags: udp, ..expected("padded UDP", UDP_PADDED, (14, 34, 47), 17) },
        Expected {
            ports: dns,
            flags: Flags::PORTS | Flags::UDP_NO_CHECKSUM,
            ..expected("UDP without checksum", UDP_NO_CHECKSUM, (14, 34, 47), 17)
        },
        Expected {
            ports: dns,
            flags: udp | Flags::OPTIONS,
            ..expected("record route", UDP_OPTIONS, (14, 42, 56), 17)
        },
        Expected {
            ports: (0xbeef, 0xbeef),
            flags: Flags::ICMP_QUERY | Flags::L4_CHECKSUM,
            icmp: (8, 0),
            ..expected("echo request", ECHO, (14, 34, 46), 1)
        },
        Expected {
            flags: Flags::ICMP_ERROR | Flags::L4_CHECKSUM,
            icmp: (11, 0),
            ..expected("time exceeded", TIME_EXCEEDED, (14, 34, 70), 1)
        },
        Expected {
            ports: (3868, 3869),
            flags: Flags::PORTS,
            ..expected("SCTP INIT", SCTP_INIT, (14, 34, 66), 132)
        },
        expected("GRE", GRE, (14, 34, 58), 47),
        Expected { ports: dns, flags: udp, vlans: (100, 0), ..expected("VLAN", VLAN_UDP, (18, 38, 51), 17) },
        Expected {
            ports: dns,
            flags: udp | v6,
            vlans: (200, 100),
            ..expected("QinQ", QINQ_UDP6, (22, 62, 75), 17)
        },
        Expected {
            ports: (40000, 443),
            flags: udp | v6,
            traffic_class: 0xb9,
            tcp_flags: 0x18,
            ..expected("TCP over IPv6", TCP6_ACK, (14, 54, 79), 6)
        },
        Expected {
            ports: (0xbeef, 0xbeef),
            flags: Flags::ICMP_QUERY | Flags::L4_CHECKSUM | v6,
            icmp: (128, 0),
            ..expected("ICMPv6 echo request", ECHO6, (14, 54, 66), 58)
        },
        Expected {
            flags: Flags::ICMP_ERROR | Flags::L4_CHECKSUM | v6,
            icmp: (2, 0),
            ..expected("ICMPv6 too big", TOO_BIG6, (14, 54, 110), 58)
        },
        Expected {
            ports: dns,
            flags: udp | v6 | Flags::OPTIONS,
            ..expected("hop-by-hop and destination options", EXTENSIONS6, (14, 70, 83), 17)
        },
        Expected {
            ports: dns,
            flags: udp | v6 | Flags::OPTIONS | Flags::SOURCE_ROUTED,
            ..expected("routing header", ROUTED6, (14, 78, 91), 17)
        },
        Expected {
            ports: dns,
            flags: udp | Flags::FRAGMENT,
            ..expected("first IPv4 fragment", FRAGMENT4_0, (14, 34, 58), 17)
        },
        Expected {
            flags: Flags::FRAGMENT | Flags::LATER_FRAGMENT,
            ..expected("last IPv4 fragment", FRAGMENT4_1, (14, 50, 50), 17)
        },
        Expected {
            ports: dns,
            flags: udp | v6 | Flags::FRAGMENT,
            ..expected("first IPv6 fragment", FRAGMENT6_0, (14, 62, 110), 17)
        },
        Expected {
            flags: v6 | Flags::FRAGMENT | Flags::LATER_FRAGMENT,
            ..expected("last IPv6 fragment", FRAGMENT6_1, (14, 86, 86), 17)
        },
    ]
}

fn address(headers: &Headers, v4: &str, v6: &str) -> IpAddr {
    if headers.is_ipv4() { v4.parse().unwrap() } else { v6.parse().unwrap() }
}

#[test]
fn parsed_as_expected() {
    for expected in table() {
        let frame = hex(expected.frame);
        let headers = parse(&frame, PortId(3)).unwrap_or_else(|error| panic!("{}: {error}", expected.name));
        let name = expected.name;
        assert_eq!((headers.l3, headers.l4, headers.end), expected.offsets, "{name}");
        assert_eq!(headers.ingress(), PortId(3), "{name}");
        assert_eq!((headers.key.outer_vlan, headers.key.inner_vlan), expected.vlans, "{name}");
        assert_eq!(headers.key.protocol, expected.protocol, "{name}");
        assert_eq!((headers.source_port(), headers.destination_port()), expected.ports, "{name}");
        assert_eq!(headers.flags, expected.flags, "{name}");
        assert_eq!(headers.hop_limit, expected.hop_limit, "{name}");
        assert_eq!(headers.traffic_class, expected.traffic_class, "{name}");
        assert_eq!(headers.tcp_flags, expected.tcp_flags, "{name}");
        assert_eq!((headers.icmp_type, headers.icmp_code), expected.icmp, "{name}");
        assert_eq!(headers.source(), address(&headers, "192.0.2.1", "2001:db8::1"), "{name}");
        assert_eq!(headers.destination(), address(&headers, "198.51.100.7", "2001:db8:ff::7"), "{name}");
        assert!(checksum::verify(&frame, &headers), "{name}");
    }
}

#[test]
fn every_prefix_is_refused_for_a_named_reason() {
    for expected in table() {
        let frame = hex(expected.frame);
        for len in 0..usize::from(expected.offsets.2) {
            let error = parse(&frame[..len], PortId(0)).expect_err(expected.name);
            let layer = if len < 14 || len < usize::from(expected.offsets.0) {
                ParseError::TruncatedEthernet
            } else if expected.frame.contains("86dd6") {
                ParseError::TruncatedIpv6
            } else {
                ParseError::TruncatedIpv4
            };
            assert_eq!(error, layer, "{} cut to {len} bytes", expected.name);
        }
    }
}

#[test]
fn a_damaged_byte_fails_verification() {
    for expected in table() {
        let frame = hex(expected.frame);
        let headers = parse(&frame, PortId(0)).unwrap();
        let checked = headers.flags.has(Flags::L4_CHECKSUM) || headers.key.protocol == 132;
        if !checked || headers.flags.any(Flags::FRAGMENT | Flags::SOURCE_ROUTED) {
            continue;
        }
        for at in usize::from(headers.l4)..usize::from(headers.end) {
            let mut damaged = frame.clone();
            damaged[at] ^= 0x10;
            assert!(!checksum::verify(&damaged, &headers), "{}: byte {at}", expected.name);
        }
    }
}

/// Edits `before` and compares with what another implementation makes of the edited fields.
#[track_caller]
fn assert_edited(before: &str, after: &str, edits: &[Edit]) {
    let mut frame = hex(before);
    let headers = parse(&frame, PortId(0)).unwrap();
    let (mut view, mut action) = (headers, Action::nothing());
    for edit in edits {
        edit.record(&mut view, &mut action);
    }
    apply(&action, &headers, &mut frame);
    assert_eq!(frame, hex(after));
}

fn source_nat() -> [Edit; 4] {
    [
        Edit::Source("203.0.113.9".parse().unwrap()),
        Edit::SourcePort(50000),
        Edit::Dscp(10),
        Edit::DecrementHops,
    ]
}

fn destination_nat6() -> [Edit; 4] {
    [
        Edit::Destination("2001:db8:9::9".parse().unwrap()),
        Edit::DestinationPort(5353),
        Edit::Dscp(10),
        Edit::DecrementHops,
    ]
}

#[test]
fn edited_as_another_implementation_writes_it() {
    assert_edited(TCP_SYN, TCP_SYN_EDITED, &source_nat());
    assert_edited(UDP_PADDED, UDP_PADDED_EDITED, &source_nat());
    assert_edited(UDP_NO_CHECKSUM, UDP_NO_CHECKSUM_EDITED, &source_nat());
    assert_edited(ECHO, ECHO_EDITED, &source_nat());
    assert_edited(SCTP_INIT, SCTP_INIT_EDITED, &source_nat());
    assert_edited(FRAGMENT4_0, FRAGMENT4_0_EDITED, &source_nat());
    assert_edited(FRAGMENT4_1, FRAGMENT4_1_EDITED, &source_nat());
    assert_edited(QINQ_UDP6, QINQ_UDP6_EDITED, &destination_nat6());
    assert_edited(ECHO6, ECHO6_EDITED, &destination_nat6());
}

#[test]
fn the_checksum_of_a_source_routed_packet_covers_its_final_destination() {
    let edits =
        [Edit::Source("2001:db8:1::1".parse().unwrap()), Edit::Destination("2001:db8:9::9".parse().unwrap())];
    assert_edited(ROUTED6, ROUTED6_EDITED, &edits);
}

#[test]
fn a_drop_changes_nothing() {
    let before = hex(UDP_PADDED);
    let mut frame = before.clone();
    let headers = parse(&frame, PortId(0)).unwrap();
    let (mut view, mut action) = (headers, Action::nothing());
    source_nat().iter().for_each(|edit| edit.record(&mut view, &mut action));
    action.edits |= throughway_packet::edits::DROP;
    apply(&action, &headers, &mut frame);
    assert_eq!(frame, before);
}

#[test]
fn an_unfinished_checksum_is_recomputed() {
    for (before, at) in [
        (TCP_SYN, 50),
        (UDP_PADDED, 40),
        (ECHO, 36),
        (SCTP_INIT, 42),
        (QINQ_UDP6, 68),
        (TCP6_ACK, 70),
        (ECHO6, 56),
        (EXTENSIONS6, 76),
    ] {
        let frame = hex(before);
        let mut unfinished = frame.clone();
        unfinished[at] ^= 0x55;
        unfinished[24] ^= if frame[14] == 0x45 { 0x55 } else { 0 };
        assert_ne!(unfinished, frame);
        assert!(recompute_checksums(&parse(&frame, PortId(0)).unwrap(), &mut unfinished));
        assert_eq!(unfinished, frame);
    }
}

#[test]
fn what_cannot_be_recomputed_is_left_alone() {
    for before in [FRAGMENT4_0, FRAGMENT4_1, FRAGMENT6_0, FRAGMENT6_1, ROUTED6] {
        let mut frame = hex(before);
        let headers = parse(&frame, PortId(0)).unwrap();
        assert!(!recompute_checksums(&headers, &mut frame));
        assert_eq!(frame, hex(before));
    }
    let mut frame = hex(UDP_NO_CHECKSUM);
    let headers = parse(&frame, PortId(0)).unwrap();
    assert!(recompute_checksums(&headers, &mut frame));
    assert_eq!(frame, hex(UDP_NO_CHECKSUM));
}

#[test]
fn a_crc_that_is_none_or_covers_more_than_the_packet_is_left_alone() {
    let packet = PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7]).sctp(1, 2).payload(&[9; 40]);
    let fragment = packet.fragments(32)[0].clone();
    let mut none = packet.finish();
    none[42..46].fill(0);
    for before in [fragment, none] {
        let mut frame = before.clone();
        let headers = parse(&frame, PortId(0)).unwrap();
        let (mut view, mut action) = (headers, Action::nothing());
        Edit::SourcePort(0x1234).record(&mut view, &mut action);
        apply(&action, &headers, &mut frame);
        assert_eq!(frame[34..36], [0x12, 0x34]);
        assert_eq!(frame[36..], before[36..]);
    }
}

#[test]
fn an_edit_that_does_not_fit_changes_nothing() {
    let cases = [
        (UDP_PADDED, Edit::Source("2001:db8::9".parse().unwrap())),
        (UDP_PADDED, Edit::Destination("::ffff:192.0.2.9".parse().unwrap())),
        (TCP6_ACK, Edit::Source("192.0.2.9".parse().unwrap())),
        (TCP6_ACK, Edit::Destination("::ffff:192.0.2.9".parse().unwrap())),
        (GRE, Edit::SourcePort(9)),
        (TIME_EXCEEDED, Edit::DestinationPort(9)),
        (FRAGMENT4_1, Edit::SourcePort(9)),
        (FRAGMENT6_1, Edit::DestinationPort(9)),
    ];
    for (frame, edit) in cases {
        let headers = parse(&hex(frame), PortId(0)).unwrap();
        let (mut view, mut action) = (headers, Action::nothing());
        edit.record(&mut view, &mut action);
        assert_eq!((view, action), (headers, Action::nothing()), "{edit:?}");
    }
}
