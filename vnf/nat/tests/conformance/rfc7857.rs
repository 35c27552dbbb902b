//! RFC 7857: updates to the others.

use super::*;

#[test]
fn section_2_2_a_reset_ends_a_session_four_minutes_later() {
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
fn section_7_1_errors_and_resets_from_inside_refresh_nothing() {
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
fn section_5_mappings_of_each_protocol_are_their_own() {
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
