//! What is not translated: caches may repeat it, until a session has the same addresses and ports.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod world;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use throughway_nat::rule::{DestinationRule, Match, Several};
use throughway_nat::{Nat, Rules};
use throughway_packet::build::PacketBuilder;
use throughway_packet::{PortId, parse};
use throughway_vnf::{Context, Function, Now, Packet, Prefix, Verdict};
use world::*;

/// Calls to `public` are for `private`; nothing else is translated.
fn forward(public: &str, private: &str) -> World {
    let to = DestinationRule {
        matches: Match {
            ingress: Several::of([OUTSIDE]),
            destination: Several::of([ip(public)..=ip(public)]),
            ..Match::default()
        },
        to: Prefix::new(ip(private), if ip(private).is_ipv4() { 32 } else { 128 }).unwrap(),
        port: None,
        twice: None,
    };
    let (made, pools) = rules(Vec::new(), vec![pool(&["203.0.113.8"], 1024..=65535)]);
    World::new((Rules { destination: vec![to], ..made }, pools))
}

/// A packet passes as it is; returns what tells whether a cache may still say so.
fn passes_untouched(world: &mut World, packet: &PacketBuilder) -> impl Fn(&World) -> bool + use<> {
    let made = world.generations.epoch().generation();
    let frame = packet.finish();
    let (verdict, packet) = world.judge(INSIDE, &frame);
    assert_eq!(verdict, Verdict::Continue);
    assert_eq!(packet.headers(), packet.received());
    let (repeatable, dependencies) = (packet.is_repeatable(), packet.dependencies());
    move |world| repeatable && world.generations.epoch().unchanged(made, &dependencies)
}

#[test]
fn is_repeated_until_a_session_has_its_key() {
    for (public, private, client, other) in [
        ("203.0.113.80", "10.0.0.10", "192.0.2.1", "192.0.2.2"),
        ("2001:db8:9::80", "fd00::10", "2001:db8::1", "2001:db8::2"),
    ] {
        let mut world = forward(public, private);
        let stranger = if ip(public).is_ipv4() { "198.51.100.9" } else { "2001:db8:7::9" };
        let from_service = between(private, client).udp(53, 5000);
        let of_nobody = between(private, other).udp(53, 5000);
        let holds = passes_untouched(&mut world, &from_service);
        let holds_for_others = passes_untouched(&mut world, &of_nobody);
        assert!(holds(&world) && holds_for_others(&world));
        // Somebody else calls: nothing changes for these two.
        world.passes(OUTSIDE, &between(stranger, public).udp(7, 53));
        assert!(holds(&world) && holds_for_others(&world));
        // What was no answer is one from now on.
        world.passes(OUTSIDE, &between(client, public).udp(5000, 53));
        assert!(!holds(&world));
        assert!(holds_for_others(&world));
        assert_eq!(source_of(&world.passes(INSIDE, &from_service)), (ip(public), 53));
        // Who calls where nobody has passed as he is has nothing to tell.
        let before = world.generations.epoch().generation();
        world.passes(OUTSIDE, &between(stranger, public).udp(8, 53));
        assert_eq!(world.generations.epoch().generation(), before);
    }
}

#[test]
fn what_depends_on_mappings_is_not_repeated() {
    let mut world = forward("203.0.113.80", "10.0.0.10");
    // To an outside address, from inside: nobody's today.
    assert!(!passes_untouched(&mut world, &between("10.0.0.10", "203.0.113.8").udp(1, 2))(&world));
    // No cache holds these.
    assert!(!passes_untouched(&mut world, &between("10.0.0.10", "192.0.2.1").echo_request(1, 1))(&world));
    assert!(!passes_untouched(&mut world, &between("10.0.0.10", "192.0.2.1").sctp(1, 2))(&world));
}

/// One worker lets flows pass while another opens the connections that they are the answers of: who has let one pass and sees no change
/// afterwards must not have overlooked the session.
#[test]
fn no_session_is_overlooked_when_workers_race() {
    let world = forward("203.0.113.80", "10.0.0.10");
    let (shared, rules, generations) = (&world.shared, &world.rules, &world.generations);
    let (turn, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let context = Context { now: Now(world.now) };
    let judge = |nat: &mut Nat, ingress: PortId, frame: &[u8]| {
        let mut packet = Packet::new(frame, parse(frame, ingress).unwrap());
        assert_eq!(nat.judge(&mut packet, &context), Verdict::Continue);
        let untouched = packet.headers() == packet.received();
        (untouched, packet.is_repeatable(), packet.dependencies())
    };
    let port = |number: usize| number as u16 + 1;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut nat = Nat::new(shared.clone(), rules.clone(), 1);
            for number in 1..=20_000 {
                turn.store(number, Ordering::Release);
                judge(
                    &mut nat,
                    OUTSIDE,
                    &between("192.0.2.1", "203.0.113.80").udp(port(number), 53).finish(),
                );
            }
            done.store(true, Ordering::Release);
        });
        let mut nat = Nat::new(shared.clone(), rules.clone(), 2);
        let mut passed = Vec::new();
        while !done.load(Ordering::Acquire) {
            let number = turn.load(Ordering::Acquire);
            let frame = between("10.0.0.10", "192.0.2.1").udp(53, port(number)).finish();
            let made = generations.epoch().generation();
            if let (true, true, dependencies) = judge(&mut nat, INSIDE, &frame) {
                passed.push((number, made, dependencies));
            }
        }
        for (number, made, dependencies) in passed.into_iter().filter(|passed| passed.0 > 0) {
            assert!(!generations.epoch().unchanged(made, &dependencies), "{number}");
        }
    });
}
