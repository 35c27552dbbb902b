//! RFC 5382: TCP.

use super::*;

#[test]
fn req1_mapping_is_endpoint_independent() {
    let mut world = one(SourceRule { preserve_port: false, ..to_pool() });
    let first = source_of(&world.passes(INSIDE, &between(HOST, SERVER).tcp(5004, 80, SYN)));
    for (to, port) in [(SERVER, 81), (OTHER, 80)] {
        assert_eq!(source_of(&world.passes(INSIDE, &between(HOST, to).tcp(5004, port, SYN))), first);
    }
}

#[test]
fn req2_all_valid_sequences_pass() {
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
fn req3_filtering() {
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
fn req4_unsolicited_syns_are_not_answered() {
    let mut world = one(to_pool());
    // Silently: a Drop, no Reject. The opener's own SYN then finds its way, as in a simultaneous open.
    world.drops(OUTSIDE, &between(SERVER, POOL).tcp(80, 5000, SYN), DropReason::NatNoMapping);
    world.passes(INSIDE, &between(HOST, SERVER).tcp(5000, 80, SYN));
    world.passes(OUTSIDE, &between(SERVER, POOL).tcp(80, 5000, SYN));
}

#[test]
fn req5_timers() {
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
fn req7_no_port_assignment_of_many_to_one() {
    let mut world = one(to_pool());
    let mut seen = std::collections::BTreeSet::new();
    for host in 1..=200 {
        let host = format!("10.0.3.{host}");
        assert!(seen.insert(source_of(&world.passes(INSIDE, &between(&host, SERVER).tcp(5000, 80, SYN)))));
    }
}

#[test]
fn req8_hairpinning() {
    let mut world = one(filtering(Filtering::EndpointIndependent));
    let a = source_of(&world.passes(INSIDE, &between(HOST, SERVER).tcp(1111, 80, SYN)));
    let b = source_of(&world.passes(INSIDE, &between(NEIGHBOUR, SERVER).tcp(2222, 80, SYN)));
    let seen = world.passes(INSIDE, &between(HOST, POOL).tcp(1111, b.1, SYN));
    assert_eq!((source_of(&seen), destination_of(&seen)), (a, (ip(NEIGHBOUR), 2222)));
    let seen = world.passes(INSIDE, &between(NEIGHBOUR, POOL).tcp(2222, a.1, SYN | ACK));
    assert_eq!((source_of(&seen), destination_of(&seen)), (b, (ip(HOST), 1111)));
}

#[test]
fn req9_icmp_errors_are_translated() {
    let mut world = one(to_pool());
    let (_, sent, _) = world.pass(INSIDE, &between(HOST, SERVER).tcp(5004, 80, SYN).finish());
    let error = error_about(&sent, IcmpError::TooBig { mtu: 1280 }, "192.0.2.1");
    let (verdict, back, seen) = world.pass(OUTSIDE, &error);
    assert_eq!((verdict, seen.destination()), (Verdict::Continue, ip(HOST)));
    assert_eq!(source_of(&quoted(&back)), (ip(HOST), 5004));
    // The error has ended nothing (REQ-10).
    world.passes(OUTSIDE, &between(SERVER, POOL).tcp(80, 5004, SYN | ACK));
}
