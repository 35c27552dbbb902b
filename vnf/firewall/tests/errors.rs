//! ICMP errors: those about a session pass, forged ones do not.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod wall;

use throughway_firewall::{Ending, Matches, PolicyConfig, State};
use throughway_packet::build::PacketBuilder;
use wall::*;

/// An error from `router` to `to` about a frame: as much of it as `quote` bytes.
fn error(router: &str, to: &str, frame: &[u8], quote: usize) -> Vec<u8> {
    let quoted = &frame[14..(14 + quote).min(frame.len())];
    let (kind, code) = if router.contains(':') { (1, 3) } else { (3, 1) };
    between(router, to).icmp(kind, code, [0; 4]).payload(quoted).finish()
}

const ROUTERS: [&str; 2] = ["203.0.113.1", "2001:db8:ffff::1"];

fn all() -> impl Iterator<Item = ((&'static str, &'static str), &'static str, usize)> {
    // The least that is quoted: IP header and eight bytes.
    ENDS.into_iter().zip(ROUTERS).zip([28, 48]).map(|((ends, router), quote)| (ends, router, quote))
}

#[test]
fn errors_about_packets_of_a_session_pass_in_both_directions() {
    for ((a, b), router, quote) in all() {
        let mut wall = Wall::simple();
        wall.establish((a, b), 5000);
        let out = between(a, b).tcp(5000, 80, ACK).finish();
        let back = between(b, a).tcp(80, 5000, ACK).finish();
        for frame in [&out, &back] {
            let to = if frame == &out { a } else { b };
            let sent = wall.on(1, &error(router, to, frame, quote));
            assert_eq!((sent.verdict, sent.repeatable), (PASS, false));
        }
        // They are no life sign, and change no state.
        assert_eq!((wall.state(), wall.sessions()[0].packets), ("established", [2, 1]));
    }
}

#[test]
fn forged_errors_are_invalid() {
    for ((a, b), router, quote) in all() {
        let mut wall = Wall::simple();
        wall.establish((a, b), 5000);
        let real = between(a, b).tcp(5000, 80, ACK).finish();
        let forged = [
            ("another port", between(a, b).tcp(5001, 80, ACK).finish(), a),
            ("ports exchanged", between(a, b).tcp(80, 5000, ACK).finish(), a),
            ("another protocol", between(a, b).udp(5000, 80).finish(), a),
            ("addresses exchanged", between(b, a).tcp(5000, 80, ACK).finish(), b),
            ("not to who has sent it", real.clone(), b),
            ("to a third", real.clone(), router),
        ];
        for (name, quoted, to) in forged {
            assert_eq!(wall.raw(&error(router, to, &quoted, quote)), INVALID, "{name}");
        }
        for len in 0..quote - 4 {
            assert_eq!(wall.raw(&error(router, a, &real, len)), INVALID, "{len} bytes quoted");
        }
        assert_eq!(wall.raw(&error(router, a, &real, quote)), PASS);
        // About an error, about a later fragment.
        let nested = error(router, a, &real, quote);
        assert_eq!(wall.raw(&error(router, router, &nested, 80)), INVALID);
        let fragment = between(a, b).tcp(5000, 80, ACK).fragment(64, false).payload(&[0; 32]).finish();
        assert_eq!(wall.raw(&error(router, a, &fragment, 80)), INVALID);
    }
}

#[test]
fn errors_about_queries_and_over_extension_headers() {
    for ((a, b), router, _) in all() {
        let mut wall = Wall::simple();
        let request = between(a, b).echo_request(7, 1).finish();
        assert_eq!(wall.raw(&error(router, a, &request, 100)), INVALID);
        assert_eq!(wall.raw(&request), PASS);
        assert_eq!(wall.raw(&error(router, a, &request, 100)), PASS);
        let other = between(a, b).echo_request(8, 1).finish();
        assert_eq!(wall.raw(&error(router, a, &other, 100)), INVALID);
        assert_eq!(wall.raw(&error(router, a, &between(a, b).echo_reply(7, 1).finish(), 100)), INVALID);
    }
    let (a, b) = ENDS[1];
    let mut wall = Wall::simple();
    let packet = between(a, b).extension(60, &[0; 6]).extension(43, &[0; 6]).udp(5000, 53);
    assert_eq!(wall.send(&packet), PASS);
    assert_eq!(wall.raw(&error(ROUTERS[1], a, &packet.finish(), 200)), PASS);
    let first = &packet.clone().payload(&[0; 100]).fragments(64)[0];
    assert_eq!(wall.raw(&error(ROUTERS[1], a, first, 200)), PASS, "a first fragment has ports");
    // One extension header more than is followed.
    let endless = (0..9).fold(between(a, b), |packet, _| packet.extension(60, &[0; 6]));
    assert_eq!(wall.raw(&error(ROUTERS[1], a, &endless.udp(5000, 53).finish(), 200)), INVALID);
}

#[test]
fn rules_that_name_the_state_have_the_last_word() {
    let (a, b) = ENDS[0];
    let refuse = PolicyConfig {
        rules: [vec![rule(7, in_state(&[State::Related]), Ending::Drop)], inside_out().rules].concat(),
        ..inside_out()
    };
    let mut wall = Wall::new(options(), refuse);
    let packet: PacketBuilder = between(a, b).udp(5000, 53);
    assert_eq!(wall.send(&packet), PASS);
    assert_eq!(wall.raw(&error(ROUTERS[0], a, &packet.finish(), 28)), RULE);
    assert_eq!(wall.packets_of_rule(Some(7)), 1);

    // A rule that allows everything does not allow what is invalid; one that says so does.
    let everything = rule(1, Default::default(), Ending::Allow);
    let mut wall = Wall::new(options(), PolicyConfig { rules: vec![everything.clone()], ..inside_out() });
    assert_eq!(wall.send(&between(a, b).tcp(5000, 80, ACK)), INVALID);
    // … also where some rule names it, for other packets.
    let udp = Matches { protocols: vec![17], ..in_state(&[State::Invalid]) };
    let rules = vec![everything.clone(), rule(3, udp, Ending::Allow)];
    let mut wall = Wall::new(options(), PolicyConfig { rules, ..inside_out() });
    assert_eq!(wall.send(&between(a, b).tcp(5000, 80, ACK)), INVALID);
    assert_eq!(wall.send(&between(a, a).udp(5000, 5000)), PASS);
    let named = vec![rule(2, in_state(&[State::Invalid]), Ending::Allow), everything];
    let mut wall = Wall::new(options(), PolicyConfig { rules: named, ..inside_out() });
    let sent = wall.on(0, &between(a, b).tcp(5000, 80, ACK).finish());
    assert_eq!((sent.verdict, sent.repeatable), (PASS, false));
    assert!(wall.sessions().is_empty());
    assert_eq!(wall.packets_of_rule(Some(2)), 1);
}
