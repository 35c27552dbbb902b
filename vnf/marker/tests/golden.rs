//! Golden packets: which rule marks what, to the byte.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::IpAddr;
use std::sync::Arc;

use throughway_marker::{Dscp, Family, Marker, Rule, RuleError, Rules};
use throughway_packet::build::PacketBuilder;
use throughway_packet::{PortId, apply, checksum, parse};
use throughway_vnf::{Context, Function, Packet, Verdict};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;

/// Expedited forwarding (RFC 3246).
const EF: u8 = 46;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn between(source: &str, destination: &str) -> PacketBuilder {
    PacketBuilder::between(ip(source), ip(destination))
}

fn dscp(number: u8) -> Dscp {
    Dscp::new(number).unwrap()
}

fn marker(rules: Vec<Rule>) -> Marker {
    Marker::new(Arc::new(Rules::new(rules).unwrap()))
}

/// The frame as it leaves, after all checksums were found right.
fn through(marker: &mut Marker, frame: &[u8]) -> Vec<u8> {
    let headers = parse(frame, PortId(0)).unwrap_or_else(|error| panic!("{error}"));
    let mut packet = Packet::new(frame, headers);
    assert_eq!(marker.judge(&mut packet, &Context::default()), Verdict::Continue);
    let mut sent = frame.to_vec();
    apply(packet.action(), &headers, &mut sent);
    let seen = parse(&sent, PortId(0)).unwrap();
    assert!(checksum::verify(&sent, &seen));
    assert_eq!(seen, *packet.headers(), "the view is what the bytes say");
    sent
}

fn counts(marker: &Marker) -> Vec<u64> {
    marker.matched().iter().map(|counter| counter.get()).collect()
}

#[test]
fn only_the_dscp_changes_and_ecn_stays() {
    for (source, destination) in [("192.0.2.1", "198.51.100.7"), ("2001:db8::1", "2001:db8:1::7")] {
        let mut marker = marker(vec![Rule { dscp: dscp(EF), ..Rule::default() }]);
        for ecn in 0..4 {
            for before in [0, 10, 63] {
                let packet = between(source, destination).udp(5000, 53).payload(b"mark me");
                let frame = packet.clone().traffic_class(before << 2 | ecn).finish();
                assert_eq!(through(&mut marker, &frame), packet.traffic_class(EF << 2 | ecn).finish());
            }
        }
        assert_eq!(counts(&marker), [12]);
    }
}

#[test]
fn every_condition_counts() {
    let any = Rule { dscp: dscp(EF), ..Rule::default() };
    let prefix = |text: &str| Some(text.parse().unwrap());
    let udp = between("192.0.2.1", "198.51.100.7").udp(5000, 5060);
    let udp6 = between("2001:db8::1", "2001:db8:1::7").udp(5000, 5060);
    let echo = between("192.0.2.1", "198.51.100.7").echo_request(5060, 1);
    for (name, rule, packet, matches) in [
        ("family", Rule { family: Some(Family::Ipv4), ..any.clone() }, &udp, true),
        ("other family", Rule { family: Some(Family::Ipv6), ..any.clone() }, &udp, false),
        ("family, IPv6", Rule { family: Some(Family::Ipv6), ..any.clone() }, &udp6, true),
        ("protocol", Rule { protocol: Some(UDP), ..any.clone() }, &udp, true),
        ("other protocol", Rule { protocol: Some(TCP), ..any.clone() }, &udp6, false),
        ("source", Rule { source: prefix("192.0.2.0/24"), ..any.clone() }, &udp, true),
        ("other source", Rule { source: prefix("198.51.100.0/24"), ..any.clone() }, &udp, false),
        ("destination", Rule { destination: prefix("2001:db8:1::/48"), ..any.clone() }, &udp6, true),
        ("other destination", Rule { destination: prefix("2001:db8::/48"), ..any.clone() }, &udp6, false),
        ("source port", Rule { source_ports: vec![5000..=5000], ..any.clone() }, &udp, true),
        ("other source port", Rule { source_ports: vec![5001..=u16::MAX], ..any.clone() }, &udp, false),
        ("second range", Rule { destination_ports: vec![1..=9, 5060..=5061], ..any.clone() }, &udp6, true),
        ("before the range", Rule { destination_ports: vec![5061..=5062], ..any.clone() }, &udp, false),
        ("behind the range", Rule { destination_ports: vec![5058..=5059], ..any.clone() }, &udp6, false),
        (
            "an ICMP identifier is no port",
            Rule { source_ports: vec![0..=u16::MAX], ..any.clone() },
            &echo,
            false,
        ),
    ] {
        let mut marker = marker(vec![rule]);
        let expected = if matches { packet.clone().traffic_class(EF << 2) } else { packet.clone() };
        assert_eq!(through(&mut marker, &packet.finish()), expected.finish(), "{name}");
        assert_eq!(counts(&marker), [u64::from(matches)], "{name}");
    }
}

#[test]
fn the_first_match_wins_and_counts() {
    let mut marker = marker(vec![
        Rule { protocol: Some(TCP), dscp: dscp(10), ..Rule::default() },
        Rule { destination_ports: vec![80..=80], dscp: dscp(20), ..Rule::default() },
        Rule { protocol: Some(TCP), dscp: dscp(30), ..Rule::default() },
    ]);
    let packet = between("192.0.2.1", "198.51.100.7");
    for (carries, expected) in
        [(packet.clone().tcp(1, 80, 2), 10), (packet.clone().udp(1, 80), 20), (packet.clone().udp(1, 81), 0)]
    {
        let sent = through(&mut marker, &carries.finish());
        assert_eq!(sent, carries.traffic_class(expected << 2).finish());
    }
    assert_eq!(counts(&marker), [1, 1, 0]);
}

#[test]
fn the_fragments_of_a_datagram_are_marked_alike() {
    let rules = vec![
        Rule { destination_ports: vec![53..=53], dscp: dscp(10), ..Rule::default() },
        Rule { protocol: Some(UDP), dscp: dscp(20), ..Rule::default() },
    ];
    for (source, destination) in [("192.0.2.1", "198.51.100.7"), ("2001:db8::1", "2001:db8:1::7")] {
        let mut marker = marker(rules.clone());
        let datagram = between(source, destination).udp(53, 53).payload(&[7; 100]);
        let marked = datagram.clone().traffic_class(20 << 2);
        let fragments = datagram.fragments(40);
        assert_eq!(fragments.len(), 3);
        for (fragment, expected) in fragments.iter().zip(marked.fragments(40)) {
            assert_eq!(through(&mut marker, fragment), expected);
        }
        assert_eq!(counts(&marker), [0, 3]);
    }
}

#[test]
fn what_could_never_match_is_refused() {
    let good = Rule::default();
    let v4 = || Some("192.0.2.0/24".parse().unwrap());
    let v6 = || Some("2001:db8::/32".parse().unwrap());
    for (bad, error) in [
        (Rule { source: v4(), destination: v6(), ..Rule::default() }, RuleError::Families { rule: 2 }),
        (
            Rule { family: Some(Family::Ipv4), destination: v6(), ..Rule::default() },
            RuleError::Families { rule: 2 },
        ),
        (
            Rule { family: Some(Family::Ipv6), source: v4(), ..Rule::default() },
            RuleError::Families { rule: 2 },
        ),
        (
            Rule { protocol: Some(ICMP), source_ports: vec![1..=2], ..Rule::default() },
            RuleError::NoPorts { rule: 2, protocol: ICMP },
        ),
        (
            #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
            Rule { destination_ports: vec![1..=2, 9..=8], ..Rule::default() },
            RuleError::EmptyRange { rule: 2, first: 9, last: 8 },
        ),
    ] {
        assert_eq!(Rules::new(vec![good.clone(), bad]), Err(error));
    }
    assert_eq!(Dscp::new(64), None);
}
