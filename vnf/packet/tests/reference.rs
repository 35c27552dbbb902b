//! The parser against etherparse, an independent one, over generated packets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::net::IpAddr;

use common::packets::frames;
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use throughway_packet::{Flags, Headers, PortId, parse};

/// Where a part of a frame begins.
fn offset(frame: &[u8], part: &[u8]) -> usize {
    part.as_ptr() as usize - frame.as_ptr() as usize
}

/// What the reference is shown: it takes all that follows an IPv6 header whose payload length is zero (a jumbogram, which
/// we refuse) for the payload, padding too.
fn shown<'a>(frame: &'a [u8], headers: &Headers) -> &'a [u8] {
    let empty = !headers.is_ipv4() && headers.packet_len() == 40;
    if empty { &frame[..usize::from(headers.end)] } else { frame }
}

fn assert_same(frame: &[u8], headers: &Headers) {
    let frame = shown(frame, headers);
    let reference = SlicedPacket::from_ethernet(frame).unwrap();
    let vlans: Vec<u16> = reference.vlan_ids().iter().map(|id| id.value()).collect();
    let expected = [vlans.first().copied().unwrap_or(0), vlans.get(1).copied().unwrap_or(0)];
    assert_eq!([headers.key.outer_vlan, headers.key.inner_vlan], expected);

    let fragmented = match reference.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert!(headers.is_ipv4());
            assert_eq!(usize::from(headers.l3), offset(frame, header.slice()));
            assert_eq!(headers.source(), IpAddr::V4(header.source_addr()));
            assert_eq!(headers.destination(), IpAddr::V4(header.destination_addr()));
            assert_eq!(headers.hop_limit, header.ttl());
            assert_eq!(headers.dscp(), header.dcp().value());
            assert_eq!(headers.traffic_class & 3, header.ecn().value());
            assert_eq!(headers.key.protocol, header.protocol().0);
            assert_eq!(headers.packet_len(), header.total_len());
            assert_eq!(headers.flags.has(Flags::DONT_FRAGMENT), header.dont_fragment());
            assert_eq!(headers.flags.has(Flags::OPTIONS), !header.options().is_empty());
            assert_eq!(headers.flags.has(Flags::LATER_FRAGMENT), header.fragments_offset().value() > 0);
            ip.is_payload_fragmented()
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            assert!(!headers.is_ipv4());
            assert_eq!(usize::from(headers.l3), offset(frame, header.slice()));
            assert_eq!(headers.source(), IpAddr::V6(header.source_addr()));
            assert_eq!(headers.destination(), IpAddr::V6(header.destination_addr()));
            assert_eq!(headers.hop_limit, header.hop_limit());
            assert_eq!(headers.traffic_class, header.traffic_class());
            assert_eq!(headers.key.protocol, ip.payload().ip_number.0);
            assert_eq!(headers.packet_len(), 40 + header.payload_length());
            ip.is_payload_fragmented()
        }
        NetSlice::Arp(_) => panic!("not IP"),
    };
    assert_eq!(headers.flags.has(Flags::FRAGMENT), fragmented);

    let payload = reference.ip_payload().unwrap().payload;
    if !headers.flags.has(Flags::LATER_FRAGMENT) {
        assert_eq!(usize::from(headers.l4), offset(frame, payload));
    }
    assert_eq!(usize::from(headers.end), offset(frame, payload) + payload.len());
    match reference.transport {
        Some(TransportSlice::Udp(udp)) => {
            assert_eq!(headers.source_port(), udp.source_port());
            assert_eq!(headers.destination_port(), udp.destination_port());
            assert_eq!(headers.flags.has(Flags::UDP_NO_CHECKSUM), udp.checksum() == 0);
        }
        Some(TransportSlice::Tcp(tcp)) => {
            assert_eq!(headers.source_port(), tcp.source_port());
            assert_eq!(headers.destination_port(), tcp.destination_port());
            assert_eq!(headers.tcp_flags, tcp.slice()[13]);
            assert_eq!(headers.flags.has(Flags::TCP_CONTROL), tcp.syn() || tcp.fin() || tcp.rst());
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            assert_eq!((headers.icmp_type, headers.icmp_code), (icmp.type_u8(), icmp.code_u8()));
            assert!(headers.flags.has(Flags::L4_CHECKSUM));
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            assert_eq!((headers.icmp_type, headers.icmp_code), (icmp.type_u8(), icmp.code_u8()));
            assert!(headers.flags.has(Flags::L4_CHECKSUM));
        }
        // IGMP is plain IP here.
        Some(TransportSlice::Igmp(_)) | None => {
            let known = headers.flags.any(Flags::L4_CHECKSUM | Flags::ICMP_QUERY | Flags::ICMP_ERROR);
            assert!(!known || headers.flags.has(Flags::FRAGMENT), "{headers:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn parses_as_etherparse_does(frames in frames()) {
        for frame in frames {
            assert_same(&frame, &parse(&frame, PortId(0)).unwrap());
        }
    }

    /// What etherparse finds malformed after a byte was changed may be fine for us (it looks into what we do not read), but
    /// where both accept, both say the same.
    #[test]
    fn where_both_accept_a_changed_packet_both_agree(
        frames in frames(), at in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let mut frame = frames[0].clone();
        let start = usize::from(parse(&frame, PortId(0)).unwrap().l3);
        let at = start + at.index(frame.len() - start);
        frame[at] = byte;
        if let Ok(headers) = parse(&frame, PortId(0))
            && SlicedPacket::from_ethernet(shown(&frame, &headers)).is_ok()
            && !headers.flags.has(Flags::FRAGMENT)
            // etherparse follows these after IPv4 too, or further than we do.
            && !matches!(headers.key.protocol, 51 | 59 | 135 | 139 | 140)
            && !(headers.is_ipv4() && matches!(headers.key.protocol, 58))
            && (headers.is_ipv4() || headers.key.protocol != 1)
        {
            assert_same(&frame, &headers);
        }
    }
}
