//! What becomes of packets on their way out and back.
mod world;

use throughway_nat::rule::{DestinationRule, Filtering, Mapping, Match, Several};
use throughway_vnf::{DropReason, Verdict};
use world::{ACK, INSIDE, OUTSIDE, SYN, World, between, ip, pool, rules, to_pool};

#[test]
fn a_connection_goes_out_and_its_answers_come_back() {
    let mut world = World::new(rules(vec![to_pool()], vec![pool(&["203.0.113.8"], 1024..=65535)]));
    let out = world.passes(INSIDE, &between("10.0.0.5", "198.51.100.1").tcp(40000, 443, SYN));
    assert_eq!((out.source(), out.source_port()), (ip("203.0.113.8"), 40000), "the port is kept");
    assert_eq!((out.destination(), out.destination_port()), (ip("198.51.100.1"), 443));
    let back = world.passes(OUTSIDE, &between("198.51.100.1", "203.0.113.8").tcp(443, 40000, SYN | ACK));
    assert_eq!((back.destination(), back.destination_port()), (ip("10.0.0.5"), 40000));
    assert_eq!(back.source(), ip("198.51.100.1"));
    assert_eq!(world.shared.len(), (1, 1));
}

#[test]
fn an_inside_end_has_one_outside_end_whoever_it_talks_to() {
    let mut world = World::new(rules(vec![to_pool()], vec![pool(&["203.0.113.8"], 1024..=65535)]));
    // Somebody else has the port already, so that it cannot be kept by chance.
    world.passes(INSIDE, &between("10.0.0.9", "198.51.100.1").udp(5004, 53));
    let ports: Vec<u16> = ["198.51.100.1", "198.51.100.2", "192.0.2.7"]
        .map(|server| world.passes(INSIDE, &between("10.0.0.5", server).udp(5004, 53)).source_port())
        .into();
    assert!(ports.iter().all(|port| *port == ports[0] && *port != 5004 && port % 2 == 0), "{ports:?}");
    assert_eq!(world.shared.len(), (4, 2));

    let symmetric = throughway_nat::rule::SourceRule {
        mapping: Mapping::AddressAndPortDependent,
        preserve_port: false,
        ..to_pool()
    };
    let mut world = World::new(rules(vec![symmetric], vec![pool(&["203.0.113.8"], 1024..=65535)]));
    let mut ports: Vec<u16> = (1..=20)
        .map(|port| world.passes(INSIDE, &between("10.0.0.5", "198.51.100.1").udp(5004, port)).source_port())
        .collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 20, "one for each destination");
}

#[test]
fn who_outside_may_send_is_configured() {
    let open = throughway_nat::rule::SourceRule { filtering: Filtering::EndpointIndependent, ..to_pool() };
    for (rule, passes) in [(open, true), (to_pool(), false)] {
        let mut world = World::new(rules(vec![rule], vec![pool(&["203.0.113.8"], 1024..=65535)]));
        world.passes(INSIDE, &between("10.0.0.5", "198.51.100.1").udp(5004, 53));
        let stranger = between("192.0.2.7", "203.0.113.8").udp(9, 5004);
        if passes {
            let seen = world.passes(OUTSIDE, &stranger);
            assert_eq!((seen.destination(), seen.destination_port()), (ip("10.0.0.5"), 5004));
        } else {
            assert_eq!(world.pass(OUTSIDE, &stranger.finish()).0, Verdict::Drop(DropReason::NatFiltered));
        }
    }
}

#[test]
fn a_service_inside_is_reached_from_outside() {
    let forward = DestinationRule {
        matches: Match {
            destination: Several::of([ip("203.0.113.8")..=ip("203.0.113.8")]),
            protocols: Several::of([6]),
            destination_ports: Several::of([443..=444]),
            ..Match::default()
        },
        to: "10.0.0.10/32".parse().unwrap(),
        port: Some(8443..=8444),
        twice: None,
    };
    let (rules, pools) = rules(vec![to_pool()], vec![pool(&["203.0.113.8"], 1024..=65535)]);
    let mut world = World::new((throughway_nat::Rules { destination: vec![forward], ..rules }, pools));
    for (outside, inside) in [(443, 8443), (444, 8444)] {
        let seen = world.passes(OUTSIDE, &between("192.0.2.7", "203.0.113.8").tcp(5000, outside, SYN));
        assert_eq!((seen.destination(), seen.destination_port()), (ip("10.0.0.10"), inside));
        let back = world.passes(INSIDE, &between("10.0.0.10", "192.0.2.7").tcp(inside, 5000, SYN | ACK));
        assert_eq!((back.source(), back.source_port()), (ip("203.0.113.8"), outside));
    }
    let other = between("192.0.2.7", "203.0.113.8").tcp(5000, 445, SYN);
    world.drops(OUTSIDE, &other, DropReason::NatNoMapping);
}

#[test]
fn a_port_is_reused_only_after_its_rest() {
    let rule = throughway_nat::rule::SourceRule { preserve_parity: false, ..to_pool() };
    let mut world = World::new(rules(vec![rule], vec![pool(&["203.0.113.8"], 7000..=7000)]));
    let packet = |host: &str| between(host, "198.51.100.1").echo_request(1, 1);
    assert_eq!(world.passes(INSIDE, &packet("10.0.0.5")).source_port(), 7000);
    world.drops(INSIDE, &packet("10.0.0.6"), DropReason::NatNoPort);
    // The session ends a minute after its packet, the port rests for two more.
    world.wait(175);
    assert_eq!(world.shared.len(), (0, 0));
    world.drops(INSIDE, &packet("10.0.0.6"), DropReason::NatNoPort);
    world.wait(10);
    assert_eq!(world.passes(INSIDE, &packet("10.0.0.6")).source_port(), 7000);
}

#[test]
fn a_segment_that_opens_nothing_is_dropped() {
    let mut world = World::new(rules(vec![to_pool()], vec![pool(&["203.0.113.8"], 1024..=65535)]));
    let stray = between("10.0.0.5", "198.51.100.1").tcp(40000, 443, ACK).finish();
    assert_eq!(world.pass(INSIDE, &stray).0, Verdict::Drop(DropReason::NatNoSession));
    assert_eq!(world.shared.len(), (0, 0), "and its mapping is given back");
}
