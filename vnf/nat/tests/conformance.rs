//! What the RFCs ask of a NAT, requirement by requirement: `docs/nat-conformance.md` has the table.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
mod world;

use std::net::IpAddr;

use throughway_nat::rule::{Filtering, Mapping, SourceRule, SourceTarget};
use throughway_nat::{BlockConfig, Options, PoolConfig, Pooling, Rules};
use throughway_packet::icmp::{IcmpError, MAX_FRAME, build_error};
use throughway_packet::{Headers, checksum, embedded, parse};
use throughway_vnf::events::{PortBlock, What};
use throughway_vnf::{DropReason, Function, Now, Seen, Verdict};
use world::*;

const SERVER: &str = "198.51.100.1";
const OTHER: &str = "198.51.100.2";
const HOST: &str = "10.0.0.5";
const NEIGHBOUR: &str = "10.0.0.6";
const POOL: &str = "203.0.113.8";
const RST: u8 = 4;
const FIN: u8 = 1;

fn filtering(filtering: Filtering) -> SourceRule {
    SourceRule { filtering, ..to_pool() }
}

fn one(rule: SourceRule) -> World {
    World::new(rules(vec![rule], vec![pool(&[POOL], 1024..=65535)]))
}

/// An ICMP error about a frame that came to whoever reports it.
fn error_about(frame: &[u8], error: IcmpError, reporter: &str) -> Vec<u8> {
    let headers = parse(frame, OUTSIDE).unwrap();
    let mut out = [0; MAX_FRAME];
    let len = build_error(frame, &headers, error, ip(reporter), &mut out).expect("it may be answered");
    out[..len].to_vec()
}

/// The packet quoted in an error, whose checksums must be right as far as they are there.
fn quoted(frame: &[u8]) -> Headers {
    let headers = parse(frame, OUTSIDE).unwrap();
    let quoted = embedded::parse_embedded(frame, &headers).unwrap();
    if quoted.is_ipv4() {
        let header = &frame[usize::from(quoted.l3)..usize::from(quoted.l4)];
        assert_eq!(checksum::sum(header), 0xffff, "the quoted header's checksum");
    }
    if usize::from(quoted.end) <= frame.len() {
        let end = usize::from(quoted.end);
        let mut whole = vec![0; 12];
        whole.extend(if quoted.is_ipv4() { [8, 0] } else { [0x86, 0xdd] });
        whole.extend(&frame[usize::from(quoted.l3)..end]);
        let headers = parse(&whole, OUTSIDE).unwrap();
        assert!(checksum::verify(&whole, &headers), "the quoted packet's checksum");
    }
    quoted
}

// RFC 4787: UDP.

#[test]
fn rfc4787_req1_mapping_is_endpoint_independent() {
    let mut world = one(SourceRule { preserve_port: false, ..to_pool() });
    let first = source_of(&world.passes(INSIDE, &between(HOST, SERVER).udp(5004, 53)));
    for (to, port) in [(SERVER, 54), (OTHER, 53), ("192.0.2.200", 9)] {
        assert_eq!(source_of(&world.passes(INSIDE, &between(HOST, to).udp(5004, port))), first);
    }
    assert_ne!(source_of(&world.passes(INSIDE, &between(HOST, SERVER).udp(5006, 53))), first);
}

#[test]
fn rfc4787_req2_pooling_is_paired() {
    let addresses: Vec<String> = (1..=40).map(|last| format!("203.0.113.{last}")).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut world = World::new(rules(vec![to_pool()], vec![pool(&addresses, 1024..=65535)]));
    let mut used = std::collections::BTreeSet::new();
    for host in 1..=100 {
        let remote = format!("192.0.2.{host}");
        let host = format!("10.0.0.{host}");
        let udp = world.passes(INSIDE, &between(&host, SERVER).udp(1000, 53)).source();
        for packet in [
            between(&host, OTHER).udp(4000, 53),
            between(&host, SERVER).tcp(4000, 80, SYN),
            between(&host, SERVER).echo_request(4, 1),
            between(&host, &remote).protocol(47).payload(b"gre"),
        ] {
            assert_eq!(world.passes(INSIDE, &packet).source(), udp, "{host}");
        }
        used.insert(udp);
    }
    assert!(used.len() > 30, "hosts are spread over the pool: {}", used.len());
}

#[test]
fn rfc4787_req2_arbitrary_pooling_uses_another_address_when_one_is_full() {
    for (pooling, expected) in [(Pooling::Paired, 1), (Pooling::Arbitrary, 3)] {
        let addresses = ["203.0.113.1", "203.0.113.2", "203.0.113.3"];
        let small = PoolConfig { pooling, ..pool(&addresses, 5000..=5000) };
        let mut world = World::new(rules(vec![to_pool()], vec![small]));
        let passed = (1..=4)
            .filter(|port| {
                let packet = between(HOST, SERVER).udp(*port, 53).finish();
                world.pass(INSIDE, &packet).0 == Verdict::Continue
            })
            .count();
        assert_eq!(passed, expected, "{pooling:?}");
    }
}

#[test]
fn rfc4787_req3_no_port_overloading() {
    let mut world = one(to_pool());
    let first = source_of(&world.passes(INSIDE, &between(HOST, SERVER).udp(5004, 53)));
    assert_eq!(first.1, 5004, "preserved where it is free");
    let second = source_of(&world.passes(INSIDE, &between(NEIGHBOUR, OTHER).udp(5004, 53)));
    assert_ne!(first, second, "one outside end has one inside end, whoever it talks to");
}

#[test]
fn rfc4787_req4_parity_is_kept() {
    for preserve_port in [true, false] {
        let mut world = one(SourceRule { preserve_port, ..to_pool() });
        for number in 0..200u16 {
            let host = format!("10.0.1.{}", number % 7 + 1);
            let port = 6000 + number / 7;
            let seen = world.passes(INSIDE, &between(&host, SERVER).udp(port, 53));
            assert_eq!(seen.source_port() % 2, port % 2);
        }
    }
}

#[test]
fn rfc4787_req5_the_timer_is_five_minutes() {
    let mut world = one(filtering(Filtering::EndpointIndependent));
    world.passes(INSIDE, &between(HOST, SERVER).udp(5004, 53));
    world.wait(298);
    world.passes(OUTSIDE, &between(OTHER, POOL).udp(9, 5004));
    world.wait(4);
    world.drops(OUTSIDE, &between("192.0.2.9", POOL).udp(9, 5004), DropReason::NatFiltered);
    world.wait(300);
    assert_eq!(world.shared.len(), (0, 0));
    world.drops(OUTSIDE, &between(OTHER, POOL).udp(9, 5004), DropReason::NatNoMapping);
}

#[test]
fn rfc4787_req6_only_outbound_packets_refresh() {
    let mut world = one(filtering(Filtering::EndpointIndependent));
    world.passes(INSIDE, &between(HOST, SERVER).udp(5004, 53));
    let back = between(SERVER, POOL).udp(53, 5004);
    for _ in 0..29 {
        world.wait(10);
        world.passes(OUTSIDE, &back);
    }
    world.wait(11);
    assert_eq!(world.shared.len(), (0, 0), "inbound packets alone keep nothing alive");
    world.drops(OUTSIDE, &back, DropReason::NatNoMapping);

    let mut world = one(filtering(Filtering::EndpointIndependent));
    for _ in 0..60 {
        world.passes(INSIDE, &between(HOST, SERVER).udp(5004, 53));
        world.wait(10);
    }
    world.passes(OUTSIDE, &back);
    assert_eq!(world.shared.len(), (1, 1), "outbound ones do");
}

#[test]
fn rfc4787_req6_what_the_flow_cache_saw_counts_for_its_direction() {
    let mut world = one(to_pool());
    let out = between(HOST, SERVER).udp(5004, 53).finish();
    let back = between(SERVER, POOL).udp(53, 5004).finish();
    world.pass(INSIDE, &out);
    world.pass(OUTSIDE, &back);
    // Both may be repeated by the cache; only the outbound one is credited to the session.
    let (_, packet) = world.judge(OUTSIDE, &back);
    assert!(packet.is_repeatable() && packet.credits().iter().count() == 0);
    let (_, packet) = world.judge(INSIDE, &out);
    assert!(packet.is_repeatable());
    let credit = packet.credits().iter().next().expect("credited").id();
    let dependencies = packet.dependencies();
    let seen = world.generations.epoch().generation();
    world.wait(200);
    let last = Now(world.now);
    world.nat.settle(credit, &Seen { packets: 9, bytes: 900, last });
    world.wait(299);
    assert_eq!(world.shared.len(), (1, 1));
    assert!(world.generations.epoch().unchanged(seen, &dependencies));
    world.wait(2);
    assert_eq!(world.shared.len(), (0, 0));
    // Nobody told the cache of the inbound direction when to stop: the end of the session does.
    assert!(!world.generations.epoch().unchanged(seen, &dependencies));
}

#[test]
fn rfc4787_req6_strangers_cannot_keep_a_mapping_alive() {
    let mut world = one(filtering(Filtering::EndpointIndependent));
    world.passes(INSIDE, &between(HOST, SERVER).udp(5004, 53));
    for port in 1..=29 {
        world.wait(10);
        world.passes(OUTSIDE, &between(OTHER, POOL).udp(port, 5004));
    }
    world.wait(11);
    // Their sessions are still there, but let nobody else in, and none of them is refreshed.
    world.drops(OUTSIDE, &between(OTHER, POOL).udp(99, 5004), DropReason::NatFiltered);
    world.wait(300);
    assert_eq!(world.shared.len(), (0, 0));

    // If the host answers one of them, the mapping lives on.
    let mut world = one(filtering(Filtering::EndpointIndependent));
    world.passes(INSIDE, &between(HOST, SERVER).udp(5004, 53));
    world.wait(200);
    world.passes(OUTSIDE, &between(OTHER, POOL).udp(7, 5004));
    world.passes(INSIDE, &between(HOST, OTHER).udp(5004, 7));
    world.wait(200);
    world.passes(OUTSIDE, &between("192.0.2.9", POOL).udp(9, 5004));
}

#[test]
fn rfc4787_req8_filtering() {
    let cases = [
        (Filtering::EndpointIndependent, [true, true, true]),
        (Filtering::AddressDependent, [true, true, false]),
        (Filtering::AddressAndPortDependent, [true, false, false]),
    ];
    for (mode, expected) in cases {
        for family in
            [[HOST, SERVER, OTHER, POOL], ["fd00::5", "2001:db8::1", "2001:db8::2", "2001:db8:1::8"]]
        {
            let [host, server, other, outside] = family;
            let mut world = World::new(rules(vec![filtering(mode)], vec![pool(&[outside], 1024..=65535)]));
            world.passes(INSIDE, &between(host, server).udp(5004, 53));
            let senders = [(server, 53), (server, 54), (other, 53)];
            for ((from, port), passes) in senders.into_iter().zip(expected) {
                let packet = between(from, outside).udp(port, 5004);
                if passes {
                    assert_eq!(destination_of(&world.passes(OUTSIDE, &packet)), (ip(host), 5004));
                } else {
                    world.drops(OUTSIDE, &packet, DropReason::NatFiltered);
                }
            }
        }
    }
}

#[test]
fn rfc4787_req8_an_address_is_let_in_as_long_as_it_was_sent_to() {
    let mut world = one(filtering(Filtering::AddressDependent));
    world.passes(INSIDE, &between(HOST, SERVER).udp(5004, 53));
    world.wait(200);
    world.passes(INSIDE, &between(HOST, OTHER).udp(5004, 53));
    assert_eq!(world.shared.peers(), 2);
    world.wait(150);
    assert_eq!(world.shared.peers(), 1);
    world.drops(OUTSIDE, &between(SERVER, POOL).udp(99, 5004), DropReason::NatFiltered);
    world.passes(OUTSIDE, &between(OTHER, POOL).udp(99, 5004));
    world.wait(600);
    assert_eq!((world.shared.peers(), world.shared.len()), (0, (0, 0)));
}

#[test]
fn rfc4787_req9_hairpinning_shows_the_external_source() {
    for mode in
        [Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent]
    {
        let mut world = one(filtering(mode));
        let a = source_of(&world.passes(INSIDE, &between(HOST, SERVER).udp(1111, 3478)));
        let b = source_of(&world.passes(INSIDE, &between(NEIGHBOUR, SERVER).udp(2222, 3478)));
        let to_b = between(HOST, POOL).udp(1111, b.1);
        let to_a = between(NEIGHBOUR, POOL).udp(2222, a.1);
        if mode == Filtering::EndpointIndependent {
            let seen = world.passes(INSIDE, &to_b);
            assert_eq!((source_of(&seen), destination_of(&seen)), (a, (ip(NEIGHBOUR), 2222)));
        } else {
            // The other has not sent to this one yet; but having tried, this one may be called by it.
            world.drops(INSIDE, &to_b, DropReason::NatFiltered);
            world.drops(INSIDE, &to_b, DropReason::NatFiltered);
        }
        let seen = world.passes(INSIDE, &to_a);
        assert_eq!((source_of(&seen), destination_of(&seen)), (b, (ip(HOST), 1111)));
        let seen = world.passes(INSIDE, &to_b);
        assert_eq!((source_of(&seen), destination_of(&seen)), (a, (ip(NEIGHBOUR), 2222)));
        assert_eq!(world.shared.len(), (3, 2), "both directions are one session");
        world.wait(310);
        assert_eq!(world.shared.len(), (0, 0));
    }
}

#[test]
fn rfc4787_req9_can_be_turned_off() {
    let (mut made, pools) =
        rules(vec![filtering(Filtering::EndpointIndependent)], vec![pool(&[POOL], 1024..=65535)]);
    made.hairpin = false;
    let mut world = World::new((made, pools));
    world.passes(INSIDE, &between(NEIGHBOUR, SERVER).udp(2222, 3478));
    let seen = world.passes(INSIDE, &between(HOST, POOL).udp(1111, 2222));
    assert_eq!(seen.destination(), ip(POOL));
}

#[test]
fn rfc4787_req10_payloads_are_left_alone() {
    let mut world = one(to_pool());
    let frame = between(HOST, SERVER).tcp(5000, 21, SYN).payload(b"PORT 10,0,0,5,19,136\r\n").finish();
    let (_, sent, _) = world.pass(INSIDE, &frame);
    assert_eq!(sent[54..], frame[54..]);
}

#[test]
fn rfc4787_req11_behaviour_is_deterministic_when_ports_collide() {
    let mut world = one(to_pool());
    for host in 1..=50 {
        let host = format!("10.0.2.{host}");
        let first = source_of(&world.passes(INSIDE, &between(&host, SERVER).udp(5004, 53)));
        let again = source_of(&world.passes(INSIDE, &between(&host, OTHER).udp(5004, 99)));
        assert_eq!(first, again);
        world.passes(OUTSIDE, &between(SERVER, POOL).udp(1, first.1));
        world.drops(OUTSIDE, &between("192.0.2.77", POOL).udp(1, first.1), DropReason::NatFiltered);
    }
}

#[test]
fn rfc4787_req12_icmp_errors_pass_and_end_nothing() {
    let mut world = one(to_pool());
    let (_, sent, _) = world.pass(INSIDE, &between(HOST, SERVER).udp(5004, 53).payload(b"question").finish());
    for (error, reporter) in [
        (IcmpError::PortUnreachable, SERVER),
        (IcmpError::HostUnreachable, "192.0.2.1"),
        (IcmpError::HopLimitExceeded, "192.0.2.1"),
        (IcmpError::TooBig { mtu: 1400 }, "192.0.2.1"),
    ] {
        let (verdict, back, seen) = world.pass(OUTSIDE, &error_about(&sent, error, reporter));
        assert_eq!(verdict, Verdict::Continue, "{error:?}");
        assert_eq!((seen.source(), seen.destination()), (ip(reporter), ip(HOST)));
        let quoted = quoted(&back);
        assert_eq!((source_of(&quoted), destination_of(&quoted)), ((ip(HOST), 5004), (ip(SERVER), 53)));
    }
    assert_eq!(world.shared.len(), (1, 1));
}

#[test]
fn rfc4787_req14_fragments_in_both_directions() {
    for payload in [vec![7; 3000], vec![0xa5; 1481]] {
        let mut world = one(to_pool());
        let out = between(HOST, SERVER).identification(77).udp(5004, 53).payload(&payload);
        for (number, fragment) in out.fragments(1480).iter().enumerate() {
            let (verdict, _, seen) = world.pass(INSIDE, fragment);
            assert_eq!((verdict, seen.source()), (Verdict::Continue, ip(POOL)), "fragment {number}");
            assert_eq!(seen.source_port(), if number == 0 { 5004 } else { 0 });
        }
        let back = between(SERVER, POOL).identification(78).udp(53, 5004).payload(&payload);
        for fragment in back.fragments(1480) {
            let (verdict, _, seen) = world.pass(OUTSIDE, &fragment);
            assert_eq!((verdict, seen.destination()), (Verdict::Continue, ip(HOST)));
        }
    }
}

#[test]
fn rfc4787_req14_a_reassembled_datagram_has_a_right_checksum() {
    let mut world = one(SourceRule { preserve_port: false, ..to_pool() });
    let payload: Vec<u8> = (0..4000u32).map(|at| (at * 7) as u8).collect();
    let out = between(HOST, SERVER).identification(77).udp(5004, 53).payload(&payload);
    let sent: Vec<Vec<u8>> = out.fragments(1480).iter().map(|part| world.pass(INSIDE, part).1).collect();
    let port = parse(&sent[0], INSIDE).unwrap().source_port();
    let expected = between(POOL, SERVER).identification(77).udp(port, 53).payload(&payload).fragments(1480);
    assert_eq!(sent, expected);
}

#[test]
fn rfc4787_req14_later_fragments_follow_the_first_and_come_not_before_it() {
    for (host, server, outside) in [(HOST, SERVER, POOL), ("fd00::5", "2001:db8::1", "2001:db8:1::8")] {
        let mut world = World::new(rules(vec![to_pool()], vec![pool(&[outside], 1024..=65535)]));
        let parts = between(host, server).identification(5).udp(5004, 53).payload(&[1; 4000]).fragments(1200);
        assert_eq!(world.pass(INSIDE, &parts[1]).0, Verdict::Drop(DropReason::FragmentBeforeFirst));
        for at in [0, 3, 2, 1] {
            let (verdict, _, seen) = world.pass(INSIDE, &parts[at]);
            assert_eq!((verdict, seen.source()), (Verdict::Continue, ip(outside)));
        }
        // Another datagram is another matter, and so is this one when its time is over.
        let others =
            between(host, server).identification(6).udp(5004, 53).payload(&[1; 4000]).fragments(1200);
        assert_eq!(world.pass(INSIDE, &others[2]).0, Verdict::Drop(DropReason::FragmentBeforeFirst));
        world.wait(31);
        assert_eq!(world.pass(INSIDE, &parts[2]).0, Verdict::Drop(DropReason::FragmentBeforeFirst));
    }
}

#[test]
fn rfc4787_req14_fragments_are_bounded() {
    let options = Options { datagrams: 64, ..Options::new(1 << 12, [1, 2]) };
    let mut world = World::with(options, rules(vec![to_pool()], vec![pool(&[POOL], 1024..=65535)]));
    let datagram =
        |id| between(HOST, SERVER).identification(id).udp(5004, 53).payload(&[1; 3000]).fragments(1200);
    for id in 0..1000 {
        assert_eq!(world.pass(INSIDE, &datagram(id)[0]).0, Verdict::Continue);
    }
    assert_eq!(world.pass(INSIDE, &datagram(0)[1]).0, Verdict::Drop(DropReason::FragmentBeforeFirst));
    assert_eq!(world.pass(INSIDE, &datagram(999)[1]).0, Verdict::Continue);
}

// RFC 5382: TCP.

#[test]
fn rfc5382_req1_mapping_is_endpoint_independent() {
    let mut world = one(SourceRule { preserve_port: false, ..to_pool() });
    let first = source_of(&world.passes(INSIDE, &between(HOST, SERVER).tcp(5004, 80, SYN)));
    for (to, port) in [(SERVER, 81), (OTHER, 80)] {
        assert_eq!(source_of(&world.passes(INSIDE, &between(HOST, to).tcp(5004, port, SYN))), first);
    }
}

/// A three-way handshake from inside.
fn connect(world: &mut World, port: u16) -> (IpAddr, u16) {
    let outside = source_of(&world.passes(INSIDE, &between(HOST, SERVER).tcp(port, 80, SYN)));
    world.passes(OUTSIDE, &between(SERVER, POOL).tcp(80, outside.1, SYN | ACK));
    world.passes(INSIDE, &between(HOST, SERVER).tcp(port, 80, ACK));
    outside
}

#[test]
fn rfc5382_req2_all_valid_sequences_pass() {
    let mut world = one(to_pool());
    connect(&mut world, 5000);
    // Simultaneous open: both send a SYN, both answer with SYN and ACK.
    let (out, back) = (between(HOST, OTHER), between(OTHER, POOL));
    world.passes(INSIDE, &out.clone().tcp(5001, 80, SYN));
    world.passes(OUTSIDE, &back.clone().tcp(80, 5001, SYN));
    world.passes(INSIDE, &out.clone().tcp(5001, 80, SYN | ACK));
    world.passes(OUTSIDE, &back.clone().tcp(80, 5001, SYN | ACK));
    world.passes(INSIDE, &out.clone().tcp(5001, 80, ACK));
    world.passes(OUTSIDE, &back.clone().tcp(80, 5001, ACK));
    // Orderly close, half-closed for a while, and opened again.
    world.passes(INSIDE, &out.clone().tcp(5001, 80, FIN | ACK));
    world.passes(OUTSIDE, &back.clone().tcp(80, 5001, ACK));
    world.passes(OUTSIDE, &back.clone().tcp(80, 5001, ACK).payload(b"more"));
    world.passes(OUTSIDE, &back.clone().tcp(80, 5001, FIN | ACK));
    world.passes(INSIDE, &out.clone().tcp(5001, 80, ACK));
    world.passes(INSIDE, &out.tcp(5001, 80, SYN));
}

#[test]
fn rfc5382_req3_filtering() {
    let cases = [
        (Filtering::EndpointIndependent, [true, true]),
        (Filtering::AddressDependent, [true, false]),
        (Filtering::AddressAndPortDependent, [false, false]),
    ];
    for (mode, expected) in cases {
        let mut world = one(filtering(mode));
        let outside = connect(&mut world, 5000);
        for ((from, port), passes) in [(SERVER, 81), (OTHER, 80)].into_iter().zip(expected) {
            let packet = between(from, POOL).tcp(port, outside.1, SYN);
            if passes {
                assert_eq!(destination_of(&world.passes(OUTSIDE, &packet)), (ip(HOST), 5000));
            } else {
                world.drops(OUTSIDE, &packet, DropReason::NatFiltered);
            }
        }
    }
}

#[test]
fn rfc5382_req4_unsolicited_syns_are_not_answered() {
    let mut world = one(to_pool());
    // Silently: a Drop, no Reject. The opener's own SYN then finds its way, as in a simultaneous open.
    world.drops(OUTSIDE, &between(SERVER, POOL).tcp(80, 5000, SYN), DropReason::NatNoMapping);
    world.passes(INSIDE, &between(HOST, SERVER).tcp(5000, 80, SYN));
    world.passes(OUTSIDE, &between(SERVER, POOL).tcp(80, 5000, SYN));
}

#[test]
fn rfc5382_req5_timers() {
    let mut world = one(to_pool());
    connect(&mut world, 5000);
    world.wait(2 * 3600 + 4 * 60 - 1);
    assert_eq!(world.shared.len(), (1, 1), "established: not before 2 hours 4 minutes");
    world.wait(2);
    assert_eq!(world.shared.len(), (0, 0));
    for transitory in [vec![], vec![(INSIDE, FIN | ACK)], vec![(OUTSIDE, RST)]] {
        let mut world = one(to_pool());
        if transitory.is_empty() {
            world.passes(INSIDE, &between(HOST, SERVER).tcp(5000, 80, SYN));
        } else {
            connect(&mut world, 5000);
        }
        for (from, flags) in transitory {
            let packet = if from == INSIDE { between(HOST, SERVER) } else { between(SERVER, POOL) };
            let ports = if from == INSIDE { (5000, 80) } else { (80, 5000) };
            world.passes(from, &packet.tcp(ports.0, ports.1, flags));
        }
        world.wait(239);
        assert_eq!(world.shared.len(), (1, 1), "transitory: not before 4 minutes");
        world.wait(2);
        assert_eq!(world.shared.len(), (0, 0));
    }
}

#[test]
fn rfc5382_req7_no_port_assignment_of_many_to_one() {
    let mut world = one(to_pool());
    let mut seen = std::collections::BTreeSet::new();
    for host in 1..=200 {
        let host = format!("10.0.3.{host}");
        assert!(seen.insert(source_of(&world.passes(INSIDE, &between(&host, SERVER).tcp(5000, 80, SYN)))));
    }
}

#[test]
fn rfc5382_req8_hairpinning() {
    let mut world = one(filtering(Filtering::EndpointIndependent));
    let a = source_of(&world.passes(INSIDE, &between(HOST, SERVER).tcp(1111, 80, SYN)));
    let b = source_of(&world.passes(INSIDE, &between(NEIGHBOUR, SERVER).tcp(2222, 80, SYN)));
    let seen = world.passes(INSIDE, &between(HOST, POOL).tcp(1111, b.1, SYN));
    assert_eq!((source_of(&seen), destination_of(&seen)), (a, (ip(NEIGHBOUR), 2222)));
    let seen = world.passes(INSIDE, &between(NEIGHBOUR, POOL).tcp(2222, a.1, SYN | ACK));
    assert_eq!((source_of(&seen), destination_of(&seen)), (b, (ip(HOST), 1111)));
}

#[test]
fn rfc5382_req9_icmp_errors_are_translated() {
    let mut world = one(to_pool());
    let (_, sent, _) = world.pass(INSIDE, &between(HOST, SERVER).tcp(5004, 80, SYN).finish());
    let error = error_about(&sent, IcmpError::TooBig { mtu: 1280 }, "192.0.2.1");
    let (verdict, back, seen) = world.pass(OUTSIDE, &error);
    assert_eq!((verdict, seen.destination()), (Verdict::Continue, ip(HOST)));
    assert_eq!(source_of(&quoted(&back)), (ip(HOST), 5004));
    // The error has ended nothing (REQ-10).
    world.passes(OUTSIDE, &between(SERVER, POOL).tcp(80, 5004, SYN | ACK));
}

// RFC 5508: ICMP.

#[test]
fn rfc5508_req1_queries_are_translated_by_identifier() {
    for (host, neighbour, server, outside) in
        [(HOST, NEIGHBOUR, SERVER, POOL), ("fd00::5", "fd00::6", "2001:db8::1", "2001:db8:1::8")]
    {
        let mut world = World::new(rules(vec![to_pool()], vec![pool(&[outside], 1024..=65535)]));
        let mut seen = std::collections::BTreeSet::new();
        for host in [host, neighbour] {
            let out = world.passes(INSIDE, &between(host, server).echo_request(4000, 1).payload(b"ping"));
            assert!(seen.insert(out.source_port()), "each has its own identifier outside");
            let reply = between(server, outside).echo_reply(out.source_port(), 1).payload(b"ping");
            let back = world.passes(OUTSIDE, &reply);
            assert_eq!((back.destination(), back.source_port()), (ip(host), 4000));
        }
        // The same identifier to another host: the same mapping (RFC 5508, section 3.1).
        let elsewhere = if ip(host).is_ipv4() { OTHER } else { "2001:db8::2" };
        let again = world.passes(INSIDE, &between(host, elsewhere).echo_request(4000, 2));
        assert!(seen.contains(&again.source_port()));
    }
}

#[test]
fn rfc5508_req1_only_queries_open() {
    let mut world = one(to_pool());
    world.drops(INSIDE, &between(HOST, SERVER).echo_reply(4, 1), DropReason::NatNoSession);
    world.drops(INSIDE, &between(HOST, SERVER).icmp(9, 0, [0; 4]), DropReason::NatNotTranslatable);
    assert_eq!(world.shared.len(), (0, 0));
}

#[test]
fn rfc5508_req2_the_timer_is_sixty_seconds() {
    let mut world = one(to_pool());
    world.passes(INSIDE, &between(HOST, SERVER).echo_request(4000, 1));
    world.wait(59);
    assert_eq!(world.shared.len(), (1, 1));
    world.wait(2);
    assert_eq!(world.shared.len(), (0, 0));
}

#[test]
fn rfc5508_req3_errors_with_a_wrong_or_no_session_are_dropped() {
    let mut world = one(to_pool());
    let (_, sent, _) = world.pass(INSIDE, &between(HOST, SERVER).udp(5004, 53).finish());
    let forged = between(POOL, SERVER).udp(5005, 53).finish();
    let frame = error_about(&forged, IcmpError::PortUnreachable, SERVER);
    assert_eq!(world.pass(OUTSIDE, &frame).0, Verdict::Drop(DropReason::NatUnrelatedError));
    // About a session, but sent to somebody else.
    let mut frame = error_about(&sent, IcmpError::PortUnreachable, SERVER);
    frame[33] ^= 1;
    let sum = checksum::sum(&frame[14..24]);
    let rest = checksum::sum(&frame[26..34]);
    let whole = u32::from(sum) + u32::from(rest);
    let folded = ((whole & 0xffff) + (whole >> 16)) as u16;
    frame[24..26].copy_from_slice(&(!folded).to_be_bytes());
    assert_eq!(
        world.pass(OUTSIDE, &frame).0,
        Verdict::Continue,
        "to an address that is none of ours: as it is"
    );
    // From inside, about nothing.
    let stray = between(SERVER, HOST).udp(1, 2).finish();
    let frame = error_about(&stray, IcmpError::PortUnreachable, HOST);
    assert_eq!(world.pass(INSIDE, &frame).0, Verdict::Drop(DropReason::NatUnrelatedError));
}

#[test]
fn rfc5508_req4_errors_from_outside_about_queries() {
    let mut world = one(SourceRule { preserve_port: false, ..to_pool() });
    let (_, sent, _) =
        world.pass(INSIDE, &between(HOST, SERVER).echo_request(4000, 1).payload(b"x").finish());
    let frame = error_about(&sent, IcmpError::HopLimitExceeded, "192.0.2.1");
    let (verdict, back, seen) = world.pass(OUTSIDE, &frame);
    assert_eq!((verdict, seen.destination()), (Verdict::Continue, ip(HOST)));
    assert_eq!(source_of(&quoted(&back)), (ip(HOST), 4000), "traceroute knows its own packet");
}

#[test]
fn rfc5508_req5_errors_from_inside_show_the_outside_address() {
    for reporter in [HOST, "10.0.0.1"] {
        let mut world = one(SourceRule { preserve_port: false, ..to_pool() });
        let outside = source_of(&world.passes(INSIDE, &between(HOST, SERVER).udp(5004, 53)));
        let (_, delivered, _) =
            world.pass(OUTSIDE, &between(SERVER, POOL).udp(53, outside.1).payload(b"a").finish());
        let frame = error_about(&delivered, IcmpError::PortUnreachable, reporter);
        let (verdict, sent, seen) = world.pass(INSIDE, &frame);
        assert_eq!(verdict, Verdict::Continue);
        assert_eq!((seen.source(), seen.destination()), (ip(POOL), ip(SERVER)), "from {reporter}");
        let quoted = quoted(&sent);
        assert_eq!((source_of(&quoted), destination_of(&quoted)), ((ip(SERVER), 53), outside));
    }
}

#[test]
fn rfc5508_req6_errors_reach_hosts_behind_hairpins() {
    let mut world = one(filtering(Filtering::EndpointIndependent));
    let a = source_of(&world.passes(INSIDE, &between(HOST, SERVER).udp(1111, 80)));
    let b = source_of(&world.passes(INSIDE, &between(NEIGHBOUR, SERVER).udp(2222, 80)));
    let (_, delivered, _) = world.pass(INSIDE, &between(HOST, POOL).udp(1111, b.1).finish());
    let (verdict, back, seen) =
        world.pass(INSIDE, &error_about(&delivered, IcmpError::PortUnreachable, NEIGHBOUR));
    assert_eq!(verdict, Verdict::Continue);
    assert_eq!((seen.source(), seen.destination()), (ip(POOL), ip(HOST)));
    let quoted = quoted(&back);
    assert_eq!((source_of(&quoted), destination_of(&quoted)), ((ip(HOST), 1111), b));
    assert_eq!(a.0, ip(POOL));
}

// RFC 6888: carrier-grade NAT.

fn blocks(size: u16, per_host: u16) -> PoolConfig {
    let blocks = Some(BlockConfig { size, per_host, hosts: Vec::new() });
    PoolConfig { blocks, ..pool(&["203.0.113.8", "203.0.113.9"], 1024..=5119) }
}

fn no_preference() -> SourceRule {
    SourceRule { preserve_port: false, preserve_parity: false, ..to_pool() }
}

#[test]
fn rfc6888_req3_and_4_a_host_has_a_limit_of_ports_and_sessions() {
    let mut world = World::new(rules(vec![no_preference()], vec![blocks(64, 2)]));
    for port in 0..128 {
        world.passes(INSIDE, &between(HOST, SERVER).udp(10_000 + port, 53));
    }
    world.drops(INSIDE, &between(HOST, SERVER).udp(9999, 53), DropReason::NatNoPort);
    world.passes(INSIDE, &between(NEIGHBOUR, SERVER).udp(9999, 53));

    let (made, pools) = rules(vec![to_pool()], vec![pool(&[POOL], 1024..=65535)]);
    let mut world = World::new((Rules { sessions_per_host: Some(10), ..made }, pools));
    for port in 1..=10 {
        world.passes(INSIDE, &between(HOST, SERVER).udp(5004, port));
    }
    world.drops(INSIDE, &between(HOST, SERVER).udp(5004, 11), DropReason::NatHostLimit);
    world.passes(INSIDE, &between(NEIGHBOUR, SERVER).udp(5004, 11));
    world.wait(301);
    world.passes(INSIDE, &between(HOST, SERVER).udp(5004, 11));
}

#[test]
fn rfc6888_req8_ports_rest_for_two_minutes() {
    let small = pool(&[POOL], 7000..=7000);
    let mut world = World::new(rules(vec![no_preference()], vec![small]));
    world.passes(INSIDE, &between(HOST, SERVER).udp(1, 1));
    world.wait(301);
    assert_eq!(world.shared.len(), (0, 0));
    world.wait(118);
    world.drops(INSIDE, &between(NEIGHBOUR, SERVER).udp(1, 1), DropReason::NatNoPort);
    world.wait(3);
    assert_eq!(world.passes(INSIDE, &between(NEIGHBOUR, SERVER).udp(1, 1)).source_port(), 7000);
}

#[test]
fn rfc6888_blocks_are_logged_when_given_and_when_given_back() {
    let mut world = World::new(rules(vec![no_preference()], vec![blocks(64, 2)]));
    let mut ports = Vec::new();
    for port in 0..65 {
        ports.push(source_of(&world.passes(INSIDE, &between(HOST, SERVER).udp(10_000 + port, 53))));
        world.passes(INSIDE, &between(HOST, SERVER).tcp(10_000 + port, 53, SYN));
    }
    let logged = |world: &World| -> Vec<PortBlock> {
        std::iter::from_fn(|| world.events.take())
            .map(|event| {
                assert_eq!(event.function, 7);
                match event.what {
                    What::Block(block) => block,
                    other => panic!("{other:?}"),
                }
            })
            .collect()
    };
    let given = logged(&world);
    assert_eq!(given.len(), 2, "two lines for 130 mappings");
    for (outside, port) in ports {
        assert!(given.iter().any(|block| {
            block.allocated
                && block.inside == throughway_packet::headers::octets(ip(HOST))
                && block.outside == throughway_packet::headers::octets(outside)
                && (block.first..=block.last).contains(&port)
        }));
    }
    world.wait(300 + 120 + 20);
    let back = logged(&world);
    assert_eq!(back.len(), 2);
    assert!(
        back.iter().all(|block| !block.allocated && given.iter().any(|given| given.first == block.first))
    );
    let usage = world.rules.read().pools[0].usage(world.now);
    assert_eq!((usage.blocks, usage.of_addresses.taken), ((128, 128), 0));
}

#[test]
fn rfc6888_the_last_blocks_are_for_hosts_that_have_none() {
    let blocks = Some(BlockConfig { size: 64, per_host: 64, hosts: Vec::new() });
    let config = PoolConfig { blocks, ..pool(&[POOL], 1024..=5119) };
    let mut world = World::new(rules(vec![no_preference()], vec![config]));
    let mut got = 0;
    for port in 0..5000 {
        let frame = between(HOST, SERVER).udp(10_000 + port, 53).finish();
        got += usize::from(world.pass(INSIDE, &frame).0 == Verdict::Continue);
    }
    assert_eq!(got, 60 * 64, "four of 64 blocks are kept");
    for host in 1..=4 {
        world.passes(INSIDE, &between(&format!("10.0.7.{host}"), SERVER).udp(1, 53));
    }
    world.drops(INSIDE, &between("10.0.7.9", SERVER).udp(1, 53), DropReason::NatNoPort);
}

#[test]
fn rfc7422_computed_blocks_need_no_log() {
    let hosts = vec![ip("10.0.0.0")..=ip("10.0.0.99"), ip("10.9.0.0")..=ip("10.9.0.27")];
    let blocks = Some(BlockConfig { size: 32, per_host: 2, hosts });
    let config = PoolConfig { blocks, ..pool(&["203.0.113.8", "203.0.113.9"], 1024..=5119) };
    let mut world = World::new(rules(vec![no_preference()], vec![config]));
    let pool = std::sync::Arc::clone(&world.rules.read().pools[0]);
    // 64 hosts for each address, in the order of the list.
    let expected = [
        ("10.0.0.0", "203.0.113.8", 1024),
        ("10.0.0.1", "203.0.113.8", 1088),
        ("10.0.0.63", "203.0.113.8", 5056),
        ("10.0.0.64", "203.0.113.9", 1024),
        ("10.9.0.0", "203.0.113.9", 1024 + 36 * 64),
        ("10.9.0.27", "203.0.113.9", 5056),
    ];
    for (host, outside, first) in expected {
        let block = pool.block_of(ip(host)).expect("listed");
        assert_eq!((block.outside, block.first, block.last), (ip(outside), first, first + 63), "{host}");
        for port in [first, first + 63] {
            assert_eq!(pool.host_of(ip(outside), port), Some(ip(host)));
        }
        for port in 0..64 {
            let seen = source_of(&world.passes(INSIDE, &between(host, SERVER).udp(20_000 + port, 53)));
            assert_eq!(pool.host_of(seen.0, seen.1), Some(ip(host)));
        }
        world.drops(INSIDE, &between(host, SERVER).udp(1, 53), DropReason::NatNoPort);
    }
    world.drops(INSIDE, &between("10.9.0.28", SERVER).udp(1, 53), DropReason::NatNoPort);
    assert!(world.events.take().is_none());
}

// RFC 7857: updates.

#[test]
fn rfc7857_2_2_a_reset_ends_a_session_four_minutes_later() {
    let mut world = one(to_pool());
    connect(&mut world, 5000);
    world.passes(OUTSIDE, &between(SERVER, POOL).tcp(80, 5000, RST));
    world.wait(200);
    world.passes(INSIDE, &between(HOST, SERVER).tcp(5000, 80, ACK));
    world.wait(200);
    assert_eq!(world.shared.len(), (1, 1), "packets seen meanwhile keep it");
    world.wait(41);
    assert_eq!(world.shared.len(), (0, 0));
}

#[test]
fn rfc7857_8_errors_and_resets_from_inside_refresh_nothing() {
    let mut world = one(filtering(Filtering::EndpointIndependent));
    world.passes(INSIDE, &between(HOST, SERVER).udp(5004, 53));
    world.passes(INSIDE, &between(HOST, SERVER).tcp(5004, 80, SYN));
    world.wait(150);
    let (_, delivered, _) = world.pass(OUTSIDE, &between(OTHER, POOL).udp(9, 5004).finish());
    world.pass(INSIDE, &error_about(&delivered, IcmpError::PortUnreachable, HOST));
    world.passes(OUTSIDE, &between(OTHER, POOL).tcp(9, 5004, SYN));
    // A SYN that was not answered with a SYN: the reset closes its session, and does not count as the host's own.
    world.pass(INSIDE, &between(HOST, OTHER).tcp(5004, 9, RST | ACK).finish());
    world.wait(91);
    world.drops(OUTSIDE, &between("192.0.2.4", POOL).tcp(9, 5004, SYN), DropReason::NatFiltered);
    world.wait(60);
    world.drops(OUTSIDE, &between("192.0.2.4", POOL).udp(9, 5004), DropReason::NatFiltered);
}

#[test]
fn rfc7857_5_mappings_of_each_protocol_are_their_own() {
    let mut world = one(to_pool());
    world.passes(INSIDE, &between(HOST, SERVER).udp(5004, 53));
    world.drops(OUTSIDE, &between(SERVER, POOL).tcp(53, 5004, SYN), DropReason::NatNoMapping);
    assert_eq!(world.passes(INSIDE, &between(NEIGHBOUR, SERVER).tcp(5004, 53, SYN)).source_port(), 5004);
}

#[test]
fn other_mappings_are_configured() {
    for (mapping, expected) in [(Mapping::AddressDependent, 2), (Mapping::AddressAndPortDependent, 3)] {
        let mut world = one(SourceRule { mapping, preserve_port: false, ..to_pool() });
        let mut seen = std::collections::BTreeSet::new();
        for (to, port) in [(SERVER, 1), (SERVER, 2), (OTHER, 1)] {
            seen.insert(source_of(&world.passes(INSIDE, &between(HOST, to).udp(5004, port))));
        }
        assert_eq!(seen.len(), expected);
    }
}

#[test]
fn what_is_to_stay_stays() {
    let mut world = one(SourceRule::new(SourceTarget::Untranslated));
    assert_eq!(source_of(&world.passes(INSIDE, &between(HOST, SERVER).udp(5004, 53))), (ip(HOST), 5004));
    assert_eq!(world.shared.len(), (0, 0));
}
