//! RFC 5508: ICMP.

use super::*;

#[test]
fn req1_queries_are_translated_by_identifier() {
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
fn req1_only_queries_open() {
    let mut world = one(to_pool());
    world.drops(INSIDE, &between(HOST, SERVER).echo_reply(4, 1), DropReason::NatNoSession);
    world.drops(INSIDE, &between(HOST, SERVER).icmp(9, 0, [0; 4]), DropReason::NatNotTranslatable);
    assert_eq!(world.shared.len(), (0, 0));
}

#[test]
fn req2_the_timer_is_sixty_seconds() {
    let mut world = one(to_pool());
    world.passes(INSIDE, &between(HOST, SERVER).echo_request(4000, 1));
    world.wait(59);
    assert_eq!(world.shared.len(), (1, 1));
    world.wait(2);
    assert_eq!(world.shared.len(), (0, 0));
}

#[test]
fn req3_errors_with_a_wrong_or_no_session_are_dropped() {
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
fn req4_errors_from_outside_about_queries() {
    let mut world = one(SourceRule { preserve_port: false, ..to_pool() });
    let (_, sent, _) =
        world.pass(INSIDE, &between(HOST, SERVER).echo_request(4000, 1).payload(b"x").finish());
    let frame = error_about(&sent, IcmpError::HopLimitExceeded, "192.0.2.1");
    let (verdict, back, seen) = world.pass(OUTSIDE, &frame);
    assert_eq!((verdict, seen.destination()), (Verdict::Continue, ip(HOST)));
    assert_eq!(source_of(&quoted(&back)), (ip(HOST), 4000), "traceroute knows its own packet");
}

#[test]
fn req5_errors_from_inside_show_the_outside_address() {
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
fn req7_errors_reach_hosts_behind_hairpins() {
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

#[test]
fn req3_errors_with_a_wrong_checksum_are_dropped() {
    let mut world = one(to_pool());
    let (_, sent, _) = world.pass(INSIDE, &between(HOST, SERVER).udp(5004, 53).finish());
    let mut frame = error_about(&sent, IcmpError::PortUnreachable, SERVER);
    frame[36] ^= 1;
    assert_eq!(world.pass(OUTSIDE, &frame).0, Verdict::Drop(DropReason::NatBadError));
}

#[test]
fn req6_errors_neither_refresh_nor_end_a_session() {
    let mut world = one(to_pool());
    let (_, sent, _) = world.pass(INSIDE, &between(HOST, SERVER).echo_request(4000, 1).finish());
    world.wait(50);
    let frame = error_about(&sent, IcmpError::HostUnreachable, SERVER);
    assert_eq!(world.pass(OUTSIDE, &frame).0, Verdict::Continue);
    assert_eq!(world.shared.len(), (1, 1));
    world.wait(11);
    assert_eq!(world.shared.len(), (0, 0));
}

#[test]
fn req7_queries_are_hairpinned() {
    let mut world = one(filtering(Filtering::EndpointIndependent));
    let id = world.passes(INSIDE, &between(NEIGHBOUR, SERVER).echo_request(77, 1)).source_port();
    let seen = world.passes(INSIDE, &between(HOST, POOL).echo_request(id, 1));
    assert_eq!((source_of(&seen).0, destination_of(&seen)), (ip(POOL), (ip(NEIGHBOUR), 77)));
    let seen = world.passes(INSIDE, &between(NEIGHBOUR, POOL).echo_reply(77, 1));
    assert_eq!((source_of(&seen).0, destination_of(&seen)), (ip(POOL), (ip(HOST), id)));
}

#[test]
fn req7_hairpinned_queries_leave_nothing_behind() {
    let mut world = one(SourceRule { preserve_port: false, ..to_pool() });
    let outside = source_of(&world.passes(INSIDE, &between(NEIGHBOUR, SERVER).echo_request(900, 1))).1;
    // Refused or not: the neighbour has not called this host.
    let frame = between(HOST, POOL).echo_request(outside, 1).finish();
    world.judge(INSIDE, &frame);
    assert_eq!(world.shared.peers(), 2);
    world.wait(70);
    assert_eq!((world.shared.len(), world.shared.peers()), ((0, 0), 0));
}
