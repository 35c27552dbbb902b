//! Which datagram a fragment is of, and what is remembered of datagrams.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::time::Duration;

use throughway_packet::PortId;
use throughway_packet::headers::octets;
use throughway_packet::parse;
use throughway_session::fragment::{Datagrams, Piece};
use throughway_session::{Seed, SessionKey};
use throughway_vnf::Now;

const SECOND: u64 = 1_000_000_000;

/// A frame with this packet.
fn frame(ethertype: [u8; 2], packet: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &ethertype, packet].concat()
}

/// 24 bytes of UDP in IPv4: identification 0xabcd, the given flags and offset in 8 bytes.
fn ipv4(word: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 44, 0xab, 0xcd];
    packet.extend(word.to_be_bytes());
    packet.extend([64, 17, 0, 0, 10, 0, 0, 1, 192, 0, 2, 1]);
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([0x12, 0x34, 0, 53, 0, 24, 0, 0]);
    packet.extend([0; 16]);
    frame([0x08, 0x00], &packet)
}

/// 16 bytes of UDP in IPv6 behind destination options and a fragment header with identification 0x01020304.
fn ipv6(word: u16) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 32, 60, 64];
    packet.extend("fd00::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    packet.extend("fd00::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
    packet.extend([44, 0, 1, 4, 0, 0, 0, 0]);
    packet.extend([17, 0]);
    packet.extend(word.to_be_bytes());
    packet.extend([1, 2, 3, 4]);
    packet.extend([0x12, 0x34, 0, 53, 0, 16, 0, 1]);
    packet.extend([0; 8]);
    frame([0x86, 0xdd], &packet)
}

fn piece(frame: &[u8]) -> Option<Piece> {
    Piece::of(frame, &parse(frame, PortId(3)).expect("a packet"))
}

#[test]
fn a_piece_says_where_it_belongs() {
    let key = |source: &str, destination: &str, id: [u8; 4], protocol| SessionKey {
        source: octets(source.parse().unwrap()),
        destination: octets(destination.parse().unwrap()),
        source_port: [id[0], id[1]],
        destination_port: [id[2], id[3]],
        zone: 3,
        protocol,
    };
    let datagram = key("10.0.0.1", "192.0.2.1", [0, 0, 0xab, 0xcd], 17);
    assert_eq!(piece(&ipv4(0x2000)), Some(Piece { datagram, start: 0, end: 24, last: false }));
    assert_eq!(piece(&ipv4(0x2003)), Some(Piece { datagram, start: 24, end: 48, last: false }));
    assert_eq!(piece(&ipv4(0x0010)), Some(Piece { datagram, start: 128, end: 152, last: true }));
    assert_eq!(piece(&ipv4(0x0000)), None, "no fragment");
    assert_eq!(piece(&ipv4(0x4000)), None, "DF alone makes none");
    let datagram = key("fd00::1", "fd00::2", [1, 2, 3, 4], 0);
    assert_eq!(piece(&ipv6(0x0001)), Some(Piece { datagram, start: 0, end: 16, last: false }));
    assert_eq!(piece(&ipv6(0x0010)), Some(Piece { datagram, start: 16, end: 32, last: true }));
}

#[test]
fn what_became_of_the_first_holds_for_a_while_and_the_oldest_makes_room() {
    let datagrams = Datagrams::new(64, Duration::from_secs(30), Seed([1, 2]));
    let key = |number: u16| SessionKey { destination_port: number.to_be_bytes(), ..SessionKey::default() };
    datagrams.remember(key(0), 'a', Now(0));
    assert_eq!(datagrams.find(&key(0), Now(29 * SECOND)), Some('a'));
    assert_eq!(datagrams.find(&key(1), Now(0)), None);
    datagrams.remember(key(0), 'b', Now(20 * SECOND));
    assert_eq!(datagrams.find(&key(0), Now(49 * SECOND)), Some('b'), "sent again, it counts anew");
    assert_eq!(datagrams.find(&key(0), Now(51 * SECOND)), None);
    for number in 0..1000 {
        datagrams.remember(key(number), 'c', Now(100 * SECOND + u64::from(number)));
        assert_eq!(
            datagrams.find(&key(number), Now(101 * SECOND)),
            Some('c'),
            "{number}: there is always room"
        );
    }
}
