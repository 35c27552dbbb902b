//! RFC 4787: UDP, and what holds for all protocols.

use super::*;

#[test]
fn req1_mapping_is_endpoint_independent() {
    let mut world = one(SourceRule { preserve_port: false, ..to_pool() });
    let first = source_of(&world.passes(INSIDE, &between(HOST, SERVER).udp(5004, 53)));
    for (to, port) in [(SERVER, 54), (OTHER, 53), ("192.0.2.200", 9)] {
        assert_eq!(source_of(&world.passes(INSIDE, &between(HOST, to).udp(5004, port))), first);
    }
    assert_ne!(source_of(&world.passes(INSIDE, &between(HOST, SERVER).udp(5006, 53))), first);
}

#[test]
fn req2_pooling_is_paired() {
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
fn req2_arbitrary_pooling_uses_another_address_when_one_is_full() {
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
fn req3_no_port_overloading() {
    let mut world = one(to_pool());
    let first = source_of(&world.passes(INSIDE, &between(HOST, SERVER).udp(5004, 53)));
    assert_eq!(first.1, 5004, "preserved where it is free");
    let second = source_of(&world.passes(INSIDE, &between(NEIGHBOUR, OTHER).udp(5004, 53)));
    assert_ne!(first, second, "one outside end has one inside end, whoever it talks to");
}

#[test]
fn req4_parity_is_kept() {
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
fn req5_the_timer_is_five_minutes() {
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
fn req6_only_outbound_packets_refresh() {
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
fn req6_what_the_flow_cache_saw_counts_for_its_direction() {
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
fn req6_strangers_cannot_keep_a_mapping_alive() {
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
fn req8_filtering() {
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
fn req8_an_address_is_let_in_as_long_as_it_was_sent_to() {
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
fn req8_who_is_answered_is_let_in_as_long_as_that_session_lives() {
    let mut world = one(filtering(Filtering::AddressDependent));
    world.passes(INSIDE, &between(HOST, SERVER).udp(5004, 53));
    world.wait(250);
    world.passes(OUTSIDE, &between(SERVER, POOL).udp(99, 5004));
    world.passes(INSIDE, &between(HOST, SERVER).udp(5004, 99));
    world.wait(100);
    assert_eq!((world.shared.len(), world.shared.peers()), ((1, 1), 1), "the first session is over");
    world.passes(OUTSIDE, &between(SERVER, POOL).udp(100, 5004));
    world.wait(400);
    assert_eq!((world.shared.len(), world.shared.peers()), ((0, 0), 0));
}

#[test]
fn req9_hairpinning_shows_the_external_source() {
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
fn req9_can_be_turned_off() {
    let (mut made, pools) =
        rules(vec![filtering(Filtering::EndpointIndependent)], vec![pool(&[POOL], 1024..=65535)]);
    made.hairpin = false;
    let mut world = World::new((made, pools));
    world.passes(INSIDE, &between(NEIGHBOUR, SERVER).udp(2222, 3478));
    let seen = world.passes(INSIDE, &between(HOST, POOL).udp(1111, 2222));
    assert_eq!(seen.destination(), ip(POOL));
}

#[test]
fn req10_payloads_are_left_alone() {
    let mut world = one(to_pool());
    let frame = between(HOST, SERVER).tcp(5000, 21, SYN).payload(b"PORT 10,0,0,5,19,136\r\n").finish();
    let (_, sent, _) = world.pass(INSIDE, &frame);
    assert_eq!(sent[54..], frame[54..]);
}

#[test]
fn req11_behaviour_is_deterministic_when_ports_collide() {
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
fn req12_icmp_errors_pass_and_end_nothing() {
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
fn req14_fragments_in_both_directions() {
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
fn req14_a_reassembled_datagram_has_a_right_checksum() {
    let mut world = one(SourceRule { preserve_port: false, ..to_pool() });
    let payload: Vec<u8> = (0..4000u32).map(|at| (at * 7) as u8).collect();
    let out = between(HOST, SERVER).identification(77).udp(5004, 53).payload(&payload);
    let sent: Vec<Vec<u8>> = out.fragments(1480).iter().map(|part| world.pass(INSIDE, part).1).collect();
    let port = parse(&sent[0], INSIDE).unwrap().source_port();
    let expected = between(POOL, SERVER).identification(77).udp(port, 53).payload(&payload).fragments(1480);
    assert_eq!(sent, expected);
}

#[test]
fn req14_later_fragments_follow_the_first_and_come_not_before_it() {
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
fn req14_fragments_are_bounded() {
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

#[test]
fn req9_a_host_reaches_itself_by_its_own_outside_end() {
    for kind in
        [Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent]
    {
        let mut world = one(filtering(kind));
        world.passes(INSIDE, &between(HOST, SERVER).udp(5004, 53));
        for _ in 0..3 {
            let seen = world.passes(INSIDE, &between(HOST, POOL).udp(5004, 5004));
            assert_eq!((source_of(&seen), destination_of(&seen)), ((ip(POOL), 5004), (ip(HOST), 5004)));
        }
        assert_eq!(world.shared.len(), (1, 1), "nothing is kept for it");
        // It opens nothing for others.
        world.drops(INSIDE, &between(NEIGHBOUR, SERVER).tcp(1, 2, ACK), DropReason::NatNoSession);
        world.wait(301);
        assert_eq!((world.shared.len(), world.shared.peers()), ((0, 0), 0));
    }
}
