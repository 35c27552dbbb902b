//! Each way of being malformed has its own reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use throughway_packet::build::PacketBuilder;
use throughway_packet::{Flags, Headers, ParseError, PortId, checksum, parse};

fn v4() -> PacketBuilder {
    PacketBuilder::ipv4([192, 0, 2, 1], [198, 51, 100, 7])
}

fn v6() -> PacketBuilder {
    PacketBuilder::ipv6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2])
}

/// Writes `bytes` at `at` and makes the IPv4 header checksum right again.
fn patched(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    if frame[12..14] == [0x08, 0x00] {
        let end = (14 + usize::from(frame[14] & 0x0f) * 4).min(frame.len());
        frame[24..26].fill(0);
        let sum = !checksum::sum(&frame[14..end]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

#[track_caller]
fn refused(frame: &[u8], error: ParseError) {
    assert_eq!(parse(frame, PortId(0)), Err(error));
}

#[track_caller]
fn accepted(frame: &[u8]) -> Headers {
    parse(frame, PortId(0)).unwrap()
}

#[test]
fn link_layer() {
    let frame = v4().udp(1, 2).finish();
    refused(&[], ParseError::TruncatedEthernet);
    refused(&frame[..13], ParseError::TruncatedEthernet);
    refused(&v4().vlan(1).udp(1, 2).finish()[..17], ParseError::TruncatedEthernet);
    refused(&v4().vlan(1).vlan(2).vlan(3).udp(1, 2).finish(), ParseError::TooManyTags);
    refused(&patched(frame.clone(), 12, &[0x08, 0x06]), ParseError::NotIp);
    // An 802.3 length is no EtherType.
    refused(&patched(frame, 12, &[0x00, 0x2e]), ParseError::NotIp);
    let priority_tag = accepted(&v4().tag(0x8100, 0xe000).udp(1, 2).finish());
    assert_eq!((priority_tag.key.outer_vlan, priority_tag.l3), (0, 18));
}

#[test]
fn ipv4() {
    let frame = v4().udp(1, 2).payload(&[7; 20]).finish();
    refused(&patched(frame.clone(), 14, &[0x65]), ParseError::BadIpv4Header);
    refused(&patched(frame.clone(), 14, &[0x44]), ParseError::BadIpv4Header);
    refused(&patched(frame.clone(), 16, &[0, 19]), ParseError::BadIpv4Header);
    refused(&patched(frame.clone(), 16, &[0, 0]), ParseError::BadIpv4Header);
    refused(&patched(frame.clone(), 16, &[0, 49]), ParseError::TruncatedIpv4);
    refused(&frame[..33], ParseError::TruncatedIpv4);
    let mut damaged = frame.clone();
    damaged[22] ^= 1;
    refused(&damaged, ParseError::BadIpv4Checksum);
    let mut damaged = v4().options(&[1; 40]).udp(1, 2).finish();
    damaged[73] ^= 1;
    refused(&damaged, ParseError::BadIpv4Checksum);
    // 65535 bytes behind a link layer do not fit 16-bit offsets.
    refused(&v4().protocol(253).payload(&vec![0; 65_515]).finish(), ParseError::BadIpv4Header);
    accepted(&v4().protocol(253).payload(&vec![0; 65_501]).finish());
}

#[test]
fn ipv4_fragments() {
    let refused = |builder: PacketBuilder| refused(&builder.finish(), ParseError::BadFragment);
    refused(v4().fragment(8, true));
    refused(v4().fragment(0, true));
    refused(v4().fragment(8, true).payload(&[0; 12]));
    refused(v4().fragment(65_528, false).payload(&[0; 1]));
    // The header counts: 20 + 65512 + 4 is one byte too many.
    refused(v4().fragment(65_512, false).payload(&[0; 4]));
    accepted(&v4().fragment(65_512, false).payload(&[0; 3]).finish());
    accepted(&v4().fragment(8, false).payload(&[0; 12]).finish());
    // A first fragment too small for the upper-layer header is how filters used to be passed (RFC 1858).
    let tiny = v4().tcp(1, 2, 2).payload(&[0; 20]).fragments(16);
    assert_eq!(parse(&tiny[0], PortId(0)), Err(ParseError::TruncatedTcp));
}

#[test]
fn ipv6() {
    let frame = v6().udp(1, 2).finish();
    refused(&patched(frame.clone(), 14, &[0x40]), ParseError::BadIpv6Header);
    refused(&patched(frame.clone(), 18, &[0, 9]), ParseError::TruncatedIpv6);
    refused(&frame[..53], ParseError::TruncatedIpv6);
    let mapped = [0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201];
    let other = [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1];
    refused(&PacketBuilder::ipv6(mapped, other).udp(1, 2).finish(), ParseError::BadIpv6Header);
    refused(&PacketBuilder::ipv6(other, mapped).udp(1, 2).finish(), ParseError::BadIpv6Header);
    refused(&v6().payload(&vec![0; 65_500]).finish(), ParseError::BadIpv6Header);
    let none = accepted(&v6().protocol(59).payload(&[1; 8]).finish());
    assert_eq!((none.key.protocol, none.l4, none.end), (59, 62, 62));
}

#[test]
fn ipv6_extension_headers() {
    let refused = |frame: &[u8]| refused(frame, ParseError::BadExtensionHeaders);
    let options = |builder: PacketBuilder, count| (0..count).fold(builder, |b, _| b.extension(60, &[0; 6]));
    refused(&v6().extension(60, &[0; 6]).extension(0, &[0; 6]).udp(1, 2).finish());
    refused(&options(v6(), 9).udp(1, 2).finish());
    assert_eq!(accepted(&options(v6(), 8).udp(1, 2).finish()).source_port(), 1);
    // A length that reaches beyond the packet, a header that is not there.
    refused(&patched(v6().extension(60, &[0; 6]).udp(1, 2).finish(), 55, &[2]));
    refused(&v6().protocol(43).payload(&[0; 7]).finish());
    refused(&v6().protocol(0).finish());
    // An authentication header without its fixed fields.
    refused(&v6().extension(51, &[0; 6]).udp(1, 2).finish());
    // Two fragment headers.
    refused(&v6().extension(44, &[0; 6]).fragment(0, true).udp(1, 2).finish());
    let authenticated = accepted(&v6().extension(51, &[9; 14]).udp(1, 2).finish());
    assert_eq!((authenticated.l4, authenticated.key.protocol, authenticated.source_port()), (70, 17, 1));
    let used_up = accepted(&v6().extension(43, &[4, 0, 0, 0, 0, 0]).udp(1, 2).finish());
    assert!(used_up.flags.has(Flags::OPTIONS) && !used_up.flags.has(Flags::SOURCE_ROUTED));
}

#[test]
fn ipv6_fragments() {
    let refused = |builder: PacketBuilder| refused(&builder.finish(), ParseError::BadFragment);
    refused(v6().fragment(8, false));
    refused(v6().fragment(8, true).payload(&[0; 12]));
    refused(v6().fragment(65_528, false).payload(&[0; 8]));
    // Extension headers before the fragment header count.
    refused(v6().extension(0, &[0; 6]).fragment(65_520, false).payload(&[0; 8]));
    accepted(&v6().extension(0, &[0; 6]).fragment(65_520, false).payload(&[0; 7]).finish());
    accepted(&v6().fragment(65_528, false).payload(&[0; 7]).finish());
    // RFC 6946: the whole datagram in one fragment.
    let atomic = v6().fragment(0, false).udp(1, 2).payload(b"whole").finish();
    let headers = accepted(&atomic);
    assert!(!headers.flags.has(Flags::FRAGMENT) && headers.flags.has(Flags::PORTS | Flags::L4_CHECKSUM));
    assert!(checksum::verify(&atomic, &headers));
    // The rest of the header chain is in the first fragment only.
    let later = accepted(&v6().protocol(60).fragment(8, false).payload(&[1; 16]).finish());
    assert_eq!((later.key.protocol, later.l4), (60, later.end));
}

#[test]
fn ipv4_source_routes() {
    let routed =
        |options: &[u8]| accepted(&v4().options(options).udp(1, 2).finish()).flags.has(Flags::SOURCE_ROUTED);
    assert!(routed(&[1, 131, 7, 4, 10, 0, 0, 1]));
    assert!(routed(&[7, 3, 4, 137, 7, 4, 10, 0, 0, 1]));
    assert!(!routed(&[131, 7, 8, 10, 0, 0, 1]), "used up");
    assert!(!routed(&[0, 131, 7, 4, 10, 0, 0, 1]), "after the end of options");
    assert!(!routed(&[7, 0, 131, 7, 4, 0, 0, 0]), "after an option without a length");
    assert!(!routed(&[7, 40, 131, 7]), "after an option that is too long");
}

#[test]
fn tcp() {
    let frame = v4().tcp(1, 2, 0x10).payload(&[0; 4]).finish();
    refused(&patched(frame.clone(), 46, &[0x40]), ParseError::TruncatedTcp);
    refused(&patched(frame.clone(), 46, &[0x70]), ParseError::TruncatedTcp);
    accepted(&patched(frame, 46, &[0x60]));
    refused(&v4().protocol(6).payload(&[0x50; 19]).finish(), ParseError::TruncatedTcp);
    refused(&v6().protocol(6).finish(), ParseError::TruncatedTcp);
}

#[test]
fn udp() {
    let frame = v4().udp(1, 2).payload(&[0; 4]).finish();
    for bad in [0u16, 7, 13] {
        refused(&patched(frame.clone(), 38, &bad.to_be_bytes()), ParseError::TruncatedUdp);
    }
    // A length below that of the packet leaves room for UDP options.
    accepted(&patched(frame, 38, &[0, 8]));
    refused(&v6().protocol(17).payload(&[0; 7]).finish(), ParseError::TruncatedUdp);
    refused(&v6().protocol(17).payload(&[0; 16]).finish(), ParseError::TruncatedUdp);
}

#[test]
fn udp_options_are_not_in_the_checksum() {
    let mut frame = v4().udp(1, 2).payload(b"data").finish();
    frame.extend([3, 3, 3]);
    let len = (frame.len() - 14) as u16;
    let frame = patched(frame, 16, &len.to_be_bytes());
    let headers = accepted(&frame);
    assert_eq!(usize::from(headers.end), frame.len());
    assert!(checksum::verify(&frame, &headers));
}

#[test]
fn udp_without_a_checksum_is_wrong_over_ipv6_only() {
    let frame = v6().udp_without_checksum(1, 2).finish();
    let headers = accepted(&frame);
    assert!(headers.flags.has(Flags::UDP_NO_CHECKSUM));
    assert!(!checksum::verify(&frame, &headers));
    let frame = v4().udp_without_checksum(1, 2).finish();
    assert!(checksum::verify(&frame, &accepted(&frame)));
}

#[test]
fn sctp_and_icmp() {
    refused(&v4().protocol(132).payload(&[0; 11]).finish(), ParseError::TruncatedSctp);
    refused(&v4().protocol(1).payload(&[8; 7]).finish(), ParseError::TruncatedIcmp);
    refused(&v6().protocol(58).payload(&[128; 7]).finish(), ParseError::TruncatedIcmp);
    // ICMP of the other family is plain IP.
    assert_eq!(accepted(&v6().protocol(1).finish()).flags, Flags::DONT_FRAGMENT);
    assert_eq!(accepted(&v4().protocol(58).payload(&[128; 9]).finish()).flags, Flags(0));
}

#[test]
fn icmp_kinds() {
    for kind in 0..=255u8 {
        let four = accepted(&v4().icmp(kind, 0, [1, 2, 3, 4]).finish());
        let six = accepted(&v6().icmp(kind, 0, [1, 2, 3, 4]).finish());
        assert_eq!(four.flags.has(Flags::ICMP_ERROR), [3, 4, 5, 11, 12].contains(&kind), "{kind}");
        assert_eq!(six.flags.has(Flags::ICMP_ERROR), kind < 128, "{kind}");
        let query = [0, 8, 13, 14, 15, 16, 17, 18, 42, 43].contains(&kind);
        let query6 = [128, 129, 160, 161].contains(&kind);
        for (headers, query) in [(four, query), (six, query6)] {
            assert_eq!(headers.flags.has(Flags::ICMP_QUERY), query, "{kind}");
            let port = if query { 0x0102 } else { 0 };
            assert_eq!((headers.source_port(), headers.destination_port()), (port, port), "{kind}");
        }
    }
}
