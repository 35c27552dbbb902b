//! The packet that an ICMP error is about: read and edited, checksums and all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::net::IpAddr;

use common::frames::{TIME_EXCEEDED, TOO_BIG6};
use common::hex;
use common::packets::{builder, edits, run};
use proptest::prelude::*;
use throughway_packet::build::PacketBuilder;
use throughway_packet::embedded::parse_embedded;
use throughway_packet::{Edit, Extra, Flags, PortId, Rewrite, checksum, parse};

/// An ICMP error from a router about `quote`, of which the router saw the IP packet in a frame.
fn error_about(frame: &[u8], keep: usize, length_attribute: bool) -> Vec<u8> {
    let headers = parse(frame, PortId(0)).unwrap();
    let packet = &frame[usize::from(headers.l3)..usize::from(headers.end)];
    // RFC 4884: at least 128 bytes, or the whole padded to that; in words of 4 (IPv4) or 8 bytes; then the extensions.
    let keep = if length_attribute { keep.max(128).next_multiple_of(8) } else { keep };
    let mut quote = packet[..packet.len().min(keep)].to_vec();
    let mut rest = [0; 4];
    if length_attribute {
        quote.resize(quote.len().next_multiple_of(8).max(128), 0);
        if headers.is_ipv4() {
            rest[1] = (quote.len() / 4) as u8
        } else {
            rest[0] = (quote.len() / 8) as u8
        }
        quote.extend([0x20, 0, 0xdf, 0xff, 0, 8, 1, 1, 0xaa, 0xbb, 0xcc, 0xdd]);
    }
    let builder = match (headers.is_ipv4(), headers.source()) {
        (true, IpAddr::V4(source)) => PacketBuilder::ipv4([203, 0, 113, 1], source).icmp(11, 0, rest),
        (_, IpAddr::V6(source)) => {
            PacketBuilder::ipv6([0x2001, 0xdb8, 0xaa, 0, 0, 0, 0, 1], source).icmp(3, 0, rest)
        }
        _ => panic!("one family"),
    };
    builder.payload(&quote).finish()
}

#[test]
fn errors_of_another_implementation_are_read() {
    let frame = hex(TIME_EXCEEDED);
    let embedded = parse_embedded(&frame, &parse(&frame, PortId(0)).unwrap()).unwrap();
    assert_eq!(embedded.source(), IpAddr::from([198, 51, 100, 7]));
    assert_eq!(embedded.destination(), IpAddr::from([192, 0, 2, 1]));
    assert_eq!((embedded.source_port(), embedded.destination_port()), (1, 33434));
    assert_eq!((embedded.l3, embedded.l4, embedded.l4_checksum), (42, 62, 68));

    let frame = hex(TOO_BIG6);
    let embedded = parse_embedded(&frame, &parse(&frame, PortId(0)).unwrap()).unwrap();
    assert_eq!(embedded.source(), "2001:db8:ff::7".parse::<IpAddr>().unwrap());
    assert_eq!((embedded.source_port(), embedded.destination_port()), (1, 2));
}

/// What a NAT does with an error that comes back: the embedded packet shows the host behind it again.
#[test]
fn an_error_translated_is_the_error_about_the_packet_before_translation() {
    let inside = |source: [u8; 4], port: u16| {
        PacketBuilder::ipv4(source, [198, 51, 100, 7])
            .identification(9)
            .hop_limit(1)
            .payload(b"some data")
            .udp(port, 53)
    };
    let tcp = |source: [u8; 4], port: u16| {
        PacketBuilder::ipv4(source, [198, 51, 100, 7]).tcp(port, 443, 0x18).payload(b"some data")
    };
    let echo = |source: [u8; 4], id: u16| {
        PacketBuilder::ipv4(source, [198, 51, 100, 7]).echo_request(id, 3).payload(b"ping")
    };
    let sctp = |source: [u8; 4], port: u16| {
        PacketBuilder::ipv4(source, [198, 51, 100, 7]).sctp(port, 3868).payload(&[1, 2, 3, 4, 5, 6, 7, 8])
    };
    let nothing = |source: [u8; 4], port: u16| {
        PacketBuilder::ipv4(source, [198, 51, 100, 7]).udp_without_checksum(port, 53)
    };
    let kinds: [&dyn Fn([u8; 4], u16) -> PacketBuilder; 5] = [&inside, &tcp, &echo, &sctp, &nothing];
    for make in kinds {
        for keep in [24, 28, 32, 40, 200] {
            for length_attribute in [false, true] {
                let frame = error_about(&make([203, 0, 113, 9], 50_000).finish(), keep, length_attribute);
                let expected = error_about(&make([10, 0, 0, 5], 5000).finish(), keep, length_attribute);
                let headers = parse(&frame, PortId(0)).unwrap();
                let (mut extra, mut view, mut rewrite) = (Extra::nothing(), headers, Rewrite::nothing());
                extra.edit_embedded(&frame, &headers, Edit::Source([10, 0, 0, 5].into()));
                extra.edit_embedded(&frame, &headers, Edit::SourcePort(5000));
                Edit::Destination([10, 0, 0, 5].into()).record_all(&mut view, &mut rewrite);
                let mut edited = frame.clone();
                extra.execute(&headers, &mut edited);
                let edited = run(&rewrite, &headers, &edited).unwrap();
                // A query's identifier is in the second word: 24 bytes hold ports, but not that.
                let known = extra.embedded(&frame, &headers).unwrap();
                if known.flags.any(Flags::PORTS | Flags::ICMP_QUERY) {
                    assert_eq!(edited, expected, "{keep} bytes");
                    assert_eq!(known.source_port(), 5000);
                } else {
                    assert_eq!(keep, 24);
                }
                assert!(checksum::verify(&edited, &parse(&edited, PortId(0)).unwrap()));
            }
        }
    }
}

#[test]
fn what_embeds_no_packet_that_can_be_read() {
    let v4 = || PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7]);
    for (name, frame) in [
        ("no error", v4().echo_request(1, 2).payload(&[0x45; 40]).finish()),
        ("nothing", v4().icmp(3, 1, [0; 4]).finish()),
        ("half a header", v4().icmp(3, 1, [0; 4]).payload(&[0x45; 19]).finish()),
        ("half of its options", v4().icmp(3, 1, [0; 4]).payload(&[0x4f; 30]).finish()),
        ("another family", v4().icmp(3, 1, [0; 4]).payload(&[0x60; 60]).finish()),
    ] {
        let headers = parse(&frame, PortId(0)).unwrap();
        assert!(parse_embedded(&frame, &headers).is_err(), "{name}");
        let mut extra = Extra::nothing();
        extra.edit_embedded(&frame, &headers, Edit::Source([10, 0, 0, 5].into()));
        assert!(extra.is_nothing(), "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, max_global_rejects: 20_000, ..ProptestConfig::default() })]

    /// Whatever is embedded, however much of it: the error's own checksum stays right, nothing but the embedded packet and
    /// that checksum changes, and reading it again gives what was recorded.
    #[test]
    fn an_edited_error_stays_right(
        builder in builder(), keep in 0..300usize, attribute in any::<bool>(), list in edits()
    ) {
        let about = builder.finish();
        let whole = usize::from(parse(&about, PortId(0)).unwrap().packet_len()) <= keep;
        let frame = error_about(&about, keep, attribute);
        let headers = parse(&frame, PortId(0)).unwrap();
        prop_assume!(headers.flags.has(Flags::ICMP_ERROR));
        let mut extra = Extra::nothing();
        for edit in list {
            extra.edit_embedded(&frame, &headers, edit);
        }
        let mut edited = frame.clone();
        extra.execute(&headers, &mut edited);
        let again = parse(&edited, PortId(0)).unwrap();
        prop_assert_eq!(again, headers);
        prop_assert!(checksum::verify(&edited, &again));
        prop_assert_eq!(&edited[..usize::from(headers.l4) + 2], &frame[..usize::from(headers.l4) + 2]);
        let view = extra.embedded(&frame, &headers);
        prop_assert_eq!(view, parse_embedded(&edited, &again).ok());
        // Where all of the packet is there, its own checksums are right too.
        if let Some(embedded) = view && whole {
            let mut alone = edited[..14].to_vec();
            alone[12..14].copy_from_slice(if embedded.is_ipv4() { &[8, 0] } else { &[0x86, 0xdd] });
            alone.extend(&edited[usize::from(embedded.l3)..usize::from(embedded.end)]);
            if let Ok(parsed) = parse(&alone, PortId(0)) {
                prop_assert!(checksum::verify(&alone, &parsed));
            }
        }
    }

    #[test]
    fn arbitrary_quotes_never_panic(quote in prop::collection::vec(any::<u8>(), 0..120), first in any::<bool>()) {
        let mut quote = quote;
        for (ipv4, kind) in [(true, 3), (false, 1)] {
            if let Some(byte) = quote.first_mut() && first {
                *byte = if ipv4 { 0x45 } else { 0x60 };
            }
            let builder = if ipv4 {
                PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7])
            } else {
                PacketBuilder::ipv6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], [0x2001, 0xdb8, 9, 0, 0, 0, 0, 2])
            };
            let frame = builder.icmp(kind, 0, [0; 4]).payload(&quote).finish();
            let headers = parse(&frame, PortId(0)).unwrap();
            let mut extra = Extra::nothing();
            extra.edit_embedded(&frame, &headers, Edit::Source([10, 0, 0, 5].into()));
            extra.edit_embedded(&frame, &headers, Edit::Destination("2001:db8::9".parse().unwrap()));
            extra.edit_embedded(&frame, &headers, Edit::DestinationPort(9));
            let mut edited = frame.clone();
            extra.execute(&headers, &mut edited);
            prop_assert!(checksum::verify(&edited, &parse(&edited, PortId(0)).unwrap()));
        }
    }
}
