//! Sessions over a restart: what one firewall writes, the next one has.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod wall;

use std::time::Duration;

use proptest::prelude::*;
use throughway_firewall::show::SessionView;
use throughway_firewall::{
    Ending, LimitConfig, LimitId, Measure, NumberSet, Options, Per, PolicyConfig, Rule, Sessions,
};
use throughway_packet::PortId;
use throughway_session::Class;
use throughway_vnf::Now;
use throughway_vnf::save::{Lost, Moment, Restored, SESSION, Save};
use wall::*;

const A: &str = "10.0.0.1";
const B: &str = "198.51.100.7";
const PORTS: &[Option<PortId>] = &[Some(PortId(0))];

fn save(wall: &Wall) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let left = Sessions { shared: &wall.shared, rejudge: false }.save(wall.now, &mut records);
    assert_eq!(left, 0);
    records
}

fn restore(wall: &Wall, records: &[Vec<u8>], rejudge: bool, gap: Duration) -> Restored {
    let moment = Moment { now: wall.now, gap, ports: PORTS };
    let sessions = Sessions { shared: &wall.shared, rejudge };
    sessions.restore(&mut records.iter().map(Vec::as_slice), &moment)
}

/// The next instance, whose clock shows something else.
fn next(options: Options, rules: PolicyConfig) -> Wall {
    let mut wall = Wall::new(options, rules);
    wall.now = Now(5000 * SECOND);
    wall
}

fn lost(lost: Lost, count: u64) -> Restored {
    let mut restored = Restored::default();
    restored.lose(lost, count);
    restored
}

/// What of a session does not depend on the table or the clock.
fn told(wall: &Wall) -> Vec<String> {
    let tell = |session: SessionView| {
        let ago = |then: Now| (wall.now.0 - then.0).div_ceil(SECOND);
        let left = (session.expires.0 - wall.now.0) / SECOND;
        let SessionView { key, state, class, rule, mark, packets, bytes, opened, .. } = session;
        let (opened, seen) = (ago(opened), ago(session.last_seen));
        format!("{key} {state} {class:?} {rule:?} {mark} {packets:?} {bytes:?} {opened} {seen} {left}")
    };
    let mut all: Vec<_> = wall.sessions().into_iter().map(tell).collect();
    all.sort();
    all
}

/// Sessions of every kind and state that packets can make here.
fn busy() -> Wall {
    let mut wall = Wall::new(options(), busy_rules());
    for (a, b) in ENDS {
        wall.establish((a, b), 5000);
        wall.establish((a, b), 5001);
        wall.wait(Duration::from_secs(3));
        assert_eq!(wall.send(&between(b, a).tcp(80, 5001, FIN | ACK)), PASS);
        assert_eq!(wall.send(&between(a, b).tcp(5002, 80, SYN)), PASS);
        assert_eq!(wall.send(&between(a, b).udp(5003, 53)), PASS);
        assert_eq!(wall.send(&between(a, b).udp(5004, 53)), PASS);
        assert_eq!(wall.send(&between(b, a).udp(53, 5004)), PASS);
        assert_eq!(wall.send(&between(a, b).echo_request(7, 1)), PASS);
        wall.wait(Duration::from_secs(2));
    }
    wall
}

#[test]
fn all_sessions_are_there_again_and_go_on() {
    let before = busy();
    let records = save(&before);
    let mut after = next(options(), busy_rules());
    after.now = Now(before.now.0 + (9999 << 26));
    let restored = restore(&after, &records, false, Duration::ZERO);
    assert_eq!((restored.sessions, restored.all_lost()), (12, 0));
    assert_eq!(told(&after), told(&before));
    for class in Class::ALL {
        let count = |wall: &Wall| wall.shared.overview().sessions[class as usize];
        assert_eq!(count(&after), count(&before));
    }
    // What is written of them again says the same, by a clock whose ticks end at the same times.
    let sorted = |mut records: Vec<Vec<u8>>| {
        records.sort();
        records
    };
    assert_eq!(sorted(save(&after)), sorted(records));
    // Their packets pass, which could open nothing; nobody else's do.
    for (a, b) in ENDS {
        assert_eq!(after.send(&between(b, a).tcp(80, 5000, ACK)), PASS);
        assert_eq!(after.send(&between(a, b).tcp(5000, 80, ACK)), PASS);
        assert_eq!(after.send(&between(b, a).udp(53, 5003)), PASS);
        assert_eq!(after.send(&between(b, a).echo_reply(7, 1)), PASS);
        assert_eq!(after.send(&between(b, a).udp(53, 5009)), DEFAULT);
        assert_eq!(after.send(&between(a, b).tcp(5009, 80, ACK)), INVALID);
    }
    assert!(after.packets_of_rule(Some(1)) > 0, "they are counted to their rule");
}

fn busy_rules() -> PolicyConfig {
    let mut marking = rule(9, Default::default(), Ending::Continue);
    marking.actions.mark = Some(0xbeef);
    PolicyConfig { rules: [vec![marking], inside_out().rules].concat(), ..inside_out() }
}

#[test]
fn a_restart_keeps_sessions_or_judges_them_again_as_a_reload_does() {
    for rejudge in [false, true] {
        let mut before = Wall::simple();
        before.establish((A, B), 5000);
        before.establish(("10.1.0.1", B), 5001);
        let only = PolicyConfig { rules: vec![rule(8, from("10.1.0.0/16"), Ending::Allow)], ..inside_out() };
        let mut after = next(options(), only);
        assert_eq!(restore(&after, &save(&before), rejudge, Duration::ZERO).sessions, 2);
        let expected = if rejudge { DEFAULT } else { PASS };
        assert_eq!(after.send(&between(B, A).tcp(80, 5000, ACK)), expected);
        let second = if rejudge { INVALID } else { PASS };
        assert_eq!(after.send(&between(A, B).tcp(5000, 80, ACK)), second);
        assert_eq!(after.send(&between(B, "10.1.0.1").tcp(80, 5001, ACK)), PASS);
        assert_eq!(after.sessions().len(), if rejudge { 1 } else { 2 });
        // The rule that let it in is gone, and nobody else is called so.
        let rules: Vec<_> = after.sessions().iter().map(|session| session.rule).collect();
        assert_eq!(rules.contains(&Some(8)), rejudge);
        assert_eq!(after.packets_of_rule(Some(8)), u64::from(rejudge));
    }
}

#[test]
fn who_was_to_be_judged_again_still_is() {
    let mut before = Wall::simple();
    before.establish((A, B), 5000);
    let none = PolicyConfig { rules: vec![], ..inside_out() };
    before.shared.publish(before.shared.prepare(none.clone(), true).unwrap());
    let mut after = next(options(), none);
    assert_eq!(restore(&after, &save(&before), false, Duration::ZERO).sessions, 1);
    assert_eq!(after.send(&between(B, A).tcp(80, 5000, ACK)), DEFAULT);
}

#[test]
fn rules_are_found_by_name() {
    let named = |id: u32| PolicyConfig {
        rules: vec![rule(id, from("10.0.0.0/8"), Ending::Allow)],
        names: vec![(id, "inside".into())],
        ..inside_out()
    };
    let mut before = Wall::new(options(), named(3));
    before.establish((A, B), 5000);
    let mut after = next(options(), named(70));
    assert_eq!(restore(&after, &save(&before), false, Duration::ZERO).sessions, 1);
    assert_eq!(after.sessions()[0].rule, Some(70));
    assert_eq!(after.send(&between(B, A).tcp(80, 5000, ACK)), PASS);
    assert_eq!(after.packets_of_rule(Some(70)), 1);
}

#[test]
fn the_time_between_counts() {
    let mut before = Wall::simple();
    assert_eq!(before.send(&between(A, B).udp(1, 53)), PASS);
    before.wait(Duration::from_secs(10));
    assert_eq!(before.send(&between(A, B).udp(2, 53)), PASS);
    let timeout = before.shared.options().timeouts.udp;
    let records = save(&before);
    let after = next(options(), inside_out());
    let restored = restore(&after, &records, false, timeout - Duration::from_secs(9));
    assert_eq!(restored, Restored { sessions: 1, ..lost(Lost::Expired, 1) });
    let session = &after.sessions()[0];
    let left = (session.expires.0 - after.now.0).div_ceil(SECOND);
    assert!((9..=10).contains(&left), "{left}");
    // What is over when it is written is not written.
    before.now = Now(before.now.0 + 1000 * SECOND);
    assert!(save(&before).iter().all(|record| record[0] != SESSION));
}

#[test]
fn interfaces_are_what_they_are_called_now() {
    let mut before = Wall::simple();
    assert_eq!(before.on(1, &between(A, B).udp(1, 53).finish()).verdict, PASS);
    assert_eq!(before.on(0, &between(A, B).udp(2, 53).finish()).verdict, PASS);
    let records = save(&before);
    let after = next(options(), inside_out());
    let ports = [None, Some(PortId(5))];
    let moment = Moment { now: after.now, gap: Duration::ZERO, ports: &ports };
    let sessions = Sessions { shared: &after.shared, rejudge: true };
    let restored = sessions.restore(&mut records.iter().map(Vec::as_slice), &moment);
    assert_eq!(restored, Restored { sessions: 1, ..lost(Lost::Interface, 1) });
    // The number of the interface is what the rules see when they judge again.
    let only = PolicyConfig {
        rules: vec![Rule {
            matches: throughway_firewall::Matches {
                ingress: Some(NumberSet::of(&[5])),
                ..Default::default()
            },
            ..rule(1, Default::default(), Ending::Allow)
        }],
        ..inside_out()
    };
    let mut wall = next(options(), only);
    let sessions = Sessions { shared: &wall.shared, rejudge: true };
    assert_eq!(sessions.restore(&mut records.iter().map(Vec::as_slice), &moment).sessions, 1);
    assert_eq!(wall.send(&between(B, A).udp(53, 1)), PASS);
}

#[test]
fn limits_count_who_comes_back() {
    let limit = |most| LimitConfig {
        name: "l".into(),
        measure: Measure::Connections { most },
        over: false,
        per: Per::Source { ipv4: 32, ipv6: 64 },
        capacity: 100,
    };
    let config = |most| {
        let mut limited = rule(1, from("10.0.0.0/8"), Ending::Allow);
        limited.actions.limit = Some(LimitId(0));
        PolicyConfig { rules: vec![limited], limits: vec![limit(most)], ..inside_out() }
    };
    let mut before = Wall::new(options(), config(2));
    let open = |wall: &mut Wall, port| wall.send(&between(A, B).udp(port, 53));
    assert_eq!([open(&mut before, 1), open(&mut before, 2), open(&mut before, 3)], [PASS, PASS, DEFAULT]);
    let records = save(&before);
    let mut after = next(options(), config(2));
    assert_eq!(restore(&after, &records, false, Duration::ZERO).sessions, 2);
    assert_eq!(open(&mut after, 3), DEFAULT);
    // … and are given back.
    after.wait(Duration::from_secs(400));
    assert_eq!([open(&mut after, 3), open(&mut after, 4), open(&mut after, 5)], [PASS, PASS, DEFAULT]);
    // Another limit begins with nobody, as over a reload.
    let mut other = next(options(), config(3));
    assert_eq!(restore(&other, &records, false, Duration::ZERO).sessions, 2);
    assert_eq!([3, 4, 5, 6].map(|port| open(&mut other, port)), [PASS, PASS, PASS, DEFAULT]);
}

#[test]
fn what_has_no_room_is_left_out_and_counted() {
    let mut before = Wall::new(Options { per_source: Some(9), ..options() }, inside_out());
    for port in 1..=9 {
        before.establish((A, B), port);
    }
    let records = save(&before);
    let few = next(Options { per_source: Some(4), ..options() }, inside_out());
    let restored = restore(&few, &records, false, Duration::ZERO);
    assert_eq!(restored, Restored { sessions: 4, ..lost(Lost::Limit, 5) });
    assert_eq!(few.shared.overview().sources, 1);
    let small = next(Options { sessions: 5, per_source: Some(9), ..options() }, inside_out());
    let restored = restore(&small, &records, false, Duration::ZERO);
    assert_eq!(restored, Restored { sessions: 5, ..lost(Lost::Full, 4) });
    // Twice the same: the second finds its keys taken, and nobody is counted twice.
    let twice = next(Options { per_source: Some(10), ..options() }, inside_out());
    assert_eq!(restore(&twice, &records, false, Duration::ZERO).sessions, 9);
    let again = restore(&twice, &records, false, Duration::ZERO);
    assert_eq!((again.sessions, again.all_lost()), (0, 9));
    let mut twice = twice;
    twice.wait(Duration::from_secs(3 * 3600));
    assert_eq!((twice.sessions().len(), twice.shared.overview().sources), (0, 0));
}

/// A change here is a change of the file's format: its version goes up.
#[test]
fn the_records_are_these_bytes() {
    let mut wall = Wall::simple();
    wall.establish((A, B), 5000);
    wall.wait(Duration::from_secs(1));
    let records = save(&wall);
    let text: Vec<String> = records
        .iter()
        .map(|record| record.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(""))
        .collect();
    assert_eq!(text, GOLDEN);
}

const GOLDEN: [&str; 4] = [
    "01022331",
    "01022332",
    "010764656661756c74",
    "0001060a000001c633640713880050f207988dc6030002000102000000e80702015028",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_are_too_odd(
        changes in prop::collection::vec((0usize..40, 0usize..80, any::<u8>(), any::<bool>()), 1..20),
        noise in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..10),
    ) {
        let mut records = save(&busy());
        let count = records.len();
        for (number, at, byte, cut) in changes {
            let record = &mut records[number % count];
            if cut {
                record.truncate(at);
            } else if let Some(old) = record.get_mut(at) {
                *old = byte;
            }
        }
        records.extend(noise);
        let mut wall = next(options(), busy_rules());
        let restored = restore(&wall, &records, true, Duration::ZERO);
        prop_assert!(restored.sessions <= records.len() as u64);
        prop_assert_eq!(wall.sessions().len() as u64, restored.sessions);
        // It can be worked with, and everything is given back in the end.
        for (a, b) in ENDS {
            let _ = wall.send(&between(b, a).tcp(80, 5000, ACK));
        }
        let _ = save(&wall);
    }
}
