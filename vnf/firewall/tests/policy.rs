//! Rules at work: endings, limits, logs, marks, counters, reloads.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod wall;

use std::time::Duration;

use throughway_firewall::explain::{Met, Step};
use throughway_firewall::show::SessionView;
use throughway_firewall::{
    Actions, DefaultAction, Ending, Group, GroupId, LimitConfig, LimitId, Matches, Measure, Per,
    PolicyConfig, PolicyError, PortMatch, RejectWith, Rule, State, Unit,
};
use throughway_packet::{PortId, parse};
use throughway_vnf::events::{Fate, What};
use throughway_vnf::{Answer, DropReason, IcmpError, Packet, Slot, Verdict};
use wall::*;

const A: &str = "10.0.0.1";
const B: &str = "198.51.100.7";

fn protocol(number: u8) -> Matches {
    Matches { protocols: vec![number], ..Matches::default() }
}

fn port(number: u16) -> PortMatch {
    PortMatch { ranges: vec![number..=number], ..PortMatch::default() }
}

fn limited(id: u32, matches: Matches, ending: Ending, limit: u16) -> Rule {
    let actions = Actions { limit: Some(LimitId(limit)), ..actions(ending) };
    Rule { id, matches, actions }
}

fn limit(name: &str, measure: Measure, per: Per) -> LimitConfig {
    LimitConfig { name: name.into(), measure, over: false, per, capacity: 100 }
}

fn rate(unit: Unit, per_second: u64, burst: u64) -> Measure {
    Measure::Rate { unit, amount: per_second, seconds: 1, burst }
}

const PER_SOURCE: Per = Per::Source { ipv4: 32, ipv6: 64 };

#[test]
fn the_first_rule_that_decides_decides() {
    let reset = Matches { destination_ports: Some(port(113)), ..protocol(6) };
    let rules = vec![
        rule(8, reset, Ending::Reject(RejectWith::TcpReset)),
        rule(1, protocol(6), Ending::Reject(RejectWith::Icmp(IcmpError::PortUnreachable))),
        rule(2, from("10.0.0.0/24"), Ending::Continue),
        rule(3, from("10.0.0.0/24"), Ending::Jump(GroupId(0))),
        rule(4, from("10.0.0.0/8"), Ending::Allow),
    ];
    let groups = vec![Group { name: "g".into(), rules: vec![rule(9, protocol(17), Ending::Drop)] }];
    let default = DefaultAction::Reject(RejectWith::TcpReset);
    let mut wall = Wall::new(options(), PolicyConfig { rules, groups, default, ..inside_out() });
    let reject = |reason, error| Verdict::Reject(reason, Answer::Icmp(error));
    let tcp = wall.send(&between(A, B).tcp(1, 2, SYN));
    assert_eq!(tcp, reject(DropReason::FirewallReject, IcmpError::PortUnreachable));
    let tcp = wall.send(&between(A, B).tcp(1, 113, SYN));
    assert_eq!(tcp, Verdict::Reject(DropReason::FirewallReject, Answer::TcpReset));
    assert_eq!(wall.send(&between(A, B).udp(1, 2)), RULE);
    assert_eq!(wall.send(&between(A, B).protocol(47)), PASS);
    let default = wall.send(&between(B, A).udp(1, 2));
    assert_eq!(default, reject(DropReason::FirewallDefault, IcmpError::AdminProhibited));
    let default = wall.send(&between(B, A).tcp(1, 2, ACK));
    assert_eq!(default, INVALID, "resets are for those who may have opened");
    let counts = [1, 2, 3, 9, 4].map(|rule| wall.packets_of_rule(Some(rule)));
    assert_eq!(counts, [1, 2, 2, 1, 1]);
    assert_eq!(wall.packets_of_rule(None), 1);
}

#[test]
fn an_exceeded_limit_hands_on_to_the_rules_behind() {
    let config = |unit| PolicyConfig {
        rules: vec![limited(1, protocol(17), Ending::Allow, 0), rule(2, from("10.0.0.2/32"), Ending::Allow)],
        limits: vec![limit("l", rate(unit, 10, 3), PER_SOURCE)],
        ..inside_out()
    };
    // New connections: three at once, then one each 100 ms; what is open goes on, on the short way.
    let mut wall = Wall::new(options(), config(Unit::Connections));
    let open = |wall: &mut Wall, source, port| wall.send(&between(source, B).udp(port, 53));
    assert!((1..=3).all(|port| open(&mut wall, A, port) == PASS));
    assert_eq!(open(&mut wall, A, 4), DEFAULT);
    assert!((1..=5).all(|port| open(&mut wall, "10.0.0.2", port) == PASS), "the rule behind");
    assert_eq!((wall.packets_of_rule(Some(1)), wall.packets_of_rule(Some(2))), (6, 2));
    assert!((0..50).all(|_| open(&mut wall, A, 1) == PASS));
    assert!(wall.on(0, &between(A, B).udp(1, 53).finish()).repeatable);
    wall.wait(Duration::from_millis(99));
    assert_eq!(open(&mut wall, A, 5), DEFAULT);
    wall.wait(Duration::from_millis(1));
    assert_eq!(open(&mut wall, A, 5), PASS);
    assert_eq!(open(&mut wall, A, 6), DEFAULT);

    // Packets: those of the opener count, each by itself; answers pass.
    let mut wall = Wall::new(options(), config(Unit::Packets));
    let packet = between(A, B).udp(1, 53);
    for _ in 0..3 {
        let sent = wall.on(0, &packet.finish());
        assert_eq!((sent.verdict, sent.repeatable), (PASS, false));
    }
    assert_eq!(wall.send(&packet), DEFAULT);
    assert!((0..20).all(|_| wall.send(&between(B, A).udp(53, 1)) == PASS));
    assert_eq!(wall.sessions()[0].packets, [3, 20]);
    wall.wait(Duration::from_millis(100));
    assert_eq!((wall.send(&packet), wall.send(&packet)), (PASS, DEFAULT));
    assert_eq!(wall.shared.limits()[0].stats.exceeded, 2);
}

#[test]
fn connections_at_a_time_are_counted_until_they_end() {
    let config = PolicyConfig {
        rules: vec![limited(1, protocol(17), Ending::Allow, 0)],
        limits: vec![limit("l", Measure::Connections { most: 2 }, PER_SOURCE)],
        ..inside_out()
    };
    let mut wall = Wall::new(options(), config.clone());
    let open = |wall: &mut Wall, port| wall.send(&between(A, B).udp(port, 53));
    assert_eq!([open(&mut wall, 1), open(&mut wall, 2), open(&mut wall, 3)], [PASS, PASS, DEFAULT]);
    assert_eq!(wall.send(&between("10.0.0.2", B).udp(1, 53)), PASS);
    let first = |session: &SessionView| session.key.source_port == [0, 1] && session.key.source[15] == 1;
    assert_eq!(wall.shared.clear(first), 1);
    assert_eq!([open(&mut wall, 3), open(&mut wall, 4)], [PASS, DEFAULT]);
    // Judged again, they are not counted twice; those the new rules end are given back.
    let policy = wall.shared.prepare(config.clone(), true).unwrap();
    wall.shared.publish(policy);
    assert_eq!([open(&mut wall, 2), open(&mut wall, 3), open(&mut wall, 4)], [PASS, PASS, DEFAULT]);
    let none = PolicyConfig { rules: vec![], ..config.clone() };
    let policy = wall.shared.prepare(none, true).unwrap();
    wall.shared.publish(policy);
    assert_eq!([open(&mut wall, 2), open(&mut wall, 3)], [DEFAULT, DEFAULT]);
    wall.wait(Duration::from_secs(60));
    assert!(wall.sessions().is_empty());
    let policy = wall.shared.prepare(config, false).unwrap();
    wall.shared.publish(policy);
    assert_eq!([open(&mut wall, 1), open(&mut wall, 2), open(&mut wall, 3)], [PASS, PASS, DEFAULT]);
}

#[test]
fn logs_are_events_limited_per_rule_with_what_was_left_out() {
    let mut logged = rule(5, protocol(17), Ending::Drop);
    logged.actions.log = Some(0);
    let mut wall = Wall::new(options(), PolicyConfig { rules: vec![logged], ..inside_out() });
    for _ in 0..10 {
        assert_eq!(wall.send(&between(A, B).udp(1, 53)), RULE);
    }
    wall.wait(Duration::from_secs(1));
    assert_eq!(wall.send(&between(A, B).udp(2, 53)), RULE);
    let mut events = Vec::new();
    while let Some(event) = wall.events.take() {
        let What::Rule(log) = event.what else { continue };
        assert_eq!((event.function, log.rule, log.fate, log.len), (3, 5, Fate::Dropped, 28));
        events.push((log.suppressed, log.flow.source_port));
    }
    assert_eq!(events, [(0, [0, 1]), (0, [0, 1]), (8, [0, 2])]);
}

#[test]
fn marks_stay_with_the_session() {
    let mut mark = rule(5, protocol(17), Ending::Continue);
    mark.actions.mark = Some(0xbeef);
    let rules = [vec![mark], inside_out().rules].concat();
    let mut wall = Wall::new(options(), PolicyConfig { rules, ..inside_out() });
    assert_eq!(wall.send(&between(A, B).udp(1, 53)), PASS);
    assert_eq!((wall.sessions()[0].mark, wall.sessions()[0].rule), (0xbeef, Some(1)));
}

#[test]
fn a_reload_keeps_sessions_or_judges_them_again() {
    for rejudge in [false, true] {
        let mut wall = Wall::simple();
        wall.establish((A, B), 5000);
        wall.establish(("10.1.0.1", B), 5001);
        let cached = wall.on(0, &between(A, B).tcp(5000, 80, ACK).finish());
        assert!(cached.repeatable);
        let generation = wall.generations.epoch().generation();
        let only = PolicyConfig { rules: vec![rule(8, from("10.1.0.0/16"), Ending::Allow)], ..inside_out() };
        let policy = wall.shared.prepare(only, rejudge).unwrap();
        assert_eq!(wall.generations.epoch().generation(), generation, "preparing changes nothing");
        wall.shared.publish(policy);
        let config = [Slot::CONFIG].into_iter().collect();
        assert!(!wall.generations.epoch().unchanged(generation, &config), "caches judge anew");

        // The reply, first: its session is judged by how it was opened.
        let expected = if rejudge { DEFAULT } else { PASS };
        assert_eq!(wall.send(&between(B, A).tcp(80, 5000, ACK)), expected);
        let after = if rejudge { INVALID } else { PASS };
        assert_eq!(wall.send(&between(A, B).tcp(5000, 80, ACK)), after);
        assert_eq!(wall.send(&between(B, "10.1.0.1").tcp(80, 5001, ACK)), PASS);
        assert_eq!(wall.sessions().len(), if rejudge { 1 } else { 2 });
        let rules: Vec<_> = wall.sessions().iter().map(|session| session.rule).collect();
        assert!(rules.contains(&Some(if rejudge { 8 } else { 1 })));
        // New connections are judged by the new rules in any case.
        assert_eq!(wall.send(&between(A, B).tcp(6000, 80, SYN)), DEFAULT);
    }
}

#[test]
fn counters_and_budgets_go_on_by_name() {
    let config = |id: u32, name: &str, per_second| PolicyConfig {
        rules: vec![limited(id, protocol(17), Ending::Allow, 0)],
        limits: vec![limit("l", rate(Unit::Connections, per_second, 2), Per::All)],
        names: vec![(id, name.into())],
        ..inside_out()
    };
    let mut wall = Wall::new(options(), config(1, "dns", 1));
    let open = |wall: &mut Wall, port| wall.send(&between(A, B).udp(port, 53));
    assert_eq!([open(&mut wall, 1), open(&mut wall, 2), open(&mut wall, 3)], [PASS, PASS, DEFAULT]);
    // Another number, the same name; the same limit.
    wall.shared.publish(wall.shared.prepare(config(77, "dns", 1), false).unwrap());
    assert_eq!(open(&mut wall, 3), DEFAULT);
    assert_eq!(wall.packets_of_rule(Some(77)), 2);
    assert_eq!(wall.shared.limits()[0].stats.exceeded, 2);
    // What old sessions see is counted to the rule of that name.
    assert_eq!(open(&mut wall, 1), PASS);
    assert_eq!(wall.packets_of_rule(Some(77)), 3);
    // Another name; another rate: a new budget.
    wall.shared.publish(wall.shared.prepare(config(77, "else", 2), false).unwrap());
    assert_eq!(wall.packets_of_rule(Some(77)), 0);
    assert_eq!(open(&mut wall, 4), PASS);
    assert_eq!(wall.packets_of_rule(None), 2);
}

#[test]
fn a_rule_over_its_limit_matches_only_what_exceeds_it() {
    let over = |measure| LimitConfig { over: true, ..limit("l", measure, PER_SOURCE) };
    let config = PolicyConfig {
        rules: vec![limited(1, protocol(17), Ending::Drop, 0), rule(2, protocol(17), Ending::Allow)],
        limits: vec![over(Measure::Connections { most: 2 })],
        ..inside_out()
    };
    let mut wall = Wall::new(options(), config.clone());
    let open = |wall: &mut Wall, port| wall.send(&between(A, B).udp(port, 53));
    assert_eq!([open(&mut wall, 1), open(&mut wall, 2), open(&mut wall, 3)], [PASS, PASS, RULE]);
    assert_eq!(wall.send(&between("10.0.0.2", B).udp(1, 53)), PASS);
    let first = |session: &SessionView| session.key.source_port == [0, 1] && session.key.source[15] == 1;
    assert_eq!(wall.shared.clear(first), 1);
    assert_eq!([open(&mut wall, 3), open(&mut wall, 4)], [PASS, RULE]);
    let policy = wall.shared.prepare(config, true).unwrap();
    wall.shared.publish(policy);
    assert_eq!([open(&mut wall, 2), open(&mut wall, 3), open(&mut wall, 4)], [PASS, PASS, RULE]);

    // What a later rule drops is not counted; a session counts for every limit that it met.
    let two = || {
        vec![over(Measure::Connections { most: 2 }), limit("m", Measure::Connections { most: 1 }, PER_SOURCE)]
    };
    let rules = vec![limited(1, protocol(17), Ending::Drop, 0), limited(2, protocol(17), Ending::Allow, 1)];
    let mut wall = Wall::new(options(), PolicyConfig { rules, limits: two(), ..inside_out() });
    let opened: Vec<_> = (1..=4).map(|port| open(&mut wall, port)).collect();
    assert_eq!(opened, [PASS, DEFAULT, DEFAULT, DEFAULT]);
    assert_eq!(wall.shared.limits()[0].stats.exceeded, 0);
    assert_eq!(wall.shared.clear(|_| true), 1);
    assert_eq!([open(&mut wall, 5), open(&mut wall, 6)], [PASS, DEFAULT]);

    let config = PolicyConfig {
        rules: vec![limited(1, protocol(17), Ending::Drop, 0), rule(2, protocol(17), Ending::Allow)],
        limits: vec![over(rate(Unit::Packets, 10, 2))],
        ..inside_out()
    };
    let mut wall = Wall::new(options(), config);
    assert_eq!([open(&mut wall, 1), open(&mut wall, 1), open(&mut wall, 1)], [PASS, PASS, RULE]);
    wall.wait(Duration::from_millis(100));
    assert_eq!([open(&mut wall, 1), open(&mut wall, 1)], [PASS, RULE]);
}

#[test]
fn what_cannot_be_is_refused() {
    let wall = Wall::simple();
    let refused = |rules: Vec<Rule>| {
        let limits = vec![limit("l", Measure::Connections { most: 1 }, Per::All)];
        wall.shared.prepare(PolicyConfig { rules, limits, ..inside_out() }, false).unwrap_err()
    };
    let unknown = refused(vec![limited(3, protocol(17), Ending::Allow, 1)]);
    assert_eq!(unknown, PolicyError::UnknownLimit { rule: 3, limit: 1 });
    let held = refused(vec![limited(3, protocol(17), Ending::Drop, 0)]);
    assert_eq!(held, PolicyError::NothingToHold { rule: 3, limit: "l".into() });
    let mut logged = rule(3, protocol(17), Ending::Drop);
    logged.actions.log = Some(1);
    assert_eq!(refused(vec![logged]), PolicyError::UnknownLog { rule: 3, log: 1 });
    assert!(matches!(refused(vec![rule(3, protocol(17), Ending::Jump(GroupId(0)))]), PolicyError::Rules(_)));
}

#[test]
fn rules_that_name_established_judge_sessions_too() {
    let rules =
        [vec![rule(1, in_state(&[State::Established, State::Related]), Ending::Allow)], inside_out().rules]
            .concat();
    let mut wall = Wall::new(options(), PolicyConfig { rules, ..inside_out() });
    wall.establish((A, B), 5000);
    assert!(wall.on(0, &between(A, B).tcp(5000, 80, ACK).finish()).repeatable, "as if it were not there");
    let dropped = Matches { length: Some(100..=u16::MAX), ..in_state(&[State::Established]) };
    let rules = [vec![rule(3, dropped, Ending::Drop)], inside_out().rules].concat();
    let mut wall = Wall::new(options(), PolicyConfig { rules, ..inside_out() });
    wall.establish((A, B), 5000);
    let short = wall.on(0, &between(A, B).tcp(5000, 80, ACK).finish());
    assert_eq!((short.verdict, short.repeatable), (PASS, false), "it depends on the length");
    assert_eq!(wall.send(&between(A, B).tcp(5000, 80, ACK).payload(&[0; 100])), RULE);
}

#[test]
fn it_says_why() {
    let rules = vec![
        limited(1, protocol(17), Ending::Allow, 0),
        rule(2, from("10.0.0.0/8"), Ending::Jump(GroupId(0))),
        rule(3, Matches::default(), Ending::Drop),
    ];
    let groups = vec![Group { name: "g".into(), rules: vec![rule(9, protocol(17), Ending::Allow)] }];
    let limits = vec![limit("l", rate(Unit::Connections, 1, 1), Per::All)];
    let mut wall = Wall::new(options(), PolicyConfig { rules, groups, limits, ..inside_out() });
    let why = |wall: &Wall, port| {
        let frame = between(A, B).udp(port, 53).finish();
        wall.firewall.explain(&Packet::new(&frame, parse(&frame, PortId(0)).unwrap()), wall.now)
    };
    let met = |rule, path: &[u32], met| Step::Rule { rule, path: path.to_vec(), met };
    let first = why(&wall, 1);
    assert_eq!(first, why(&wall, 1), "asking changes nothing");
    assert_eq!(first.steps, [Step::State(State::New), met(1, &[], Met::Decided), Step::Opens(Ok(()))]);
    assert_eq!(wall.send(&between(A, B).udp(1, 53)), PASS);
    let known = why(&wall, 1);
    assert!(matches!(known.steps[0], Step::Session { before: "unreplied", rule: Some(1), .. }));
    let second = why(&wall, 2);
    assert_eq!(second.verdict, PASS);
    let expected = [
        Step::State(State::New),
        met(1, &[], Met::LimitExceeded),
        met(2, &[], Met::Passed),
        met(9, &[2], Met::Decided),
        Step::Opens(Ok(())),
    ];
    assert_eq!(second.steps, expected);
    assert_eq!(wall.sessions().len(), 1);
    assert_eq!(wall.packets_of_rule(Some(2)), 0);
}

#[test]
fn caches_hear_of_forced_ends_and_of_nothing_else() {
    let mut wall = Wall::simple();
    let generation = |wall: &Wall| wall.generations.epoch().generation();
    let slot = |wall: &Wall| -> throughway_vnf::Dependencies {
        wall.sessions().iter().map(|session| Slot::session(session.id.to_bits())).collect()
    };
    let begin = generation(&wall);
    wall.establish((A, B), 5000);
    assert!(wall.on(0, &between(A, B).tcp(5000, 80, ACK).finish()).repeatable);
    let depends = slot(&wall);
    wall.send(&between(A, B).tcp(5000, 80, FIN | ACK));
    wall.send(&between(B, A).tcp(80, 5000, RST));
    wall.send(&between(A, B).udp(1, 53));
    assert_eq!(generation(&wall), begin);
    // The ports are used again: packets of the old connection's flows are not to be credited to it.
    assert_eq!(wall.send(&between(A, B).tcp(5000, 80, SYN)), PASS);
    assert!(!wall.generations.epoch().unchanged(begin, &depends));
    let reopened = generation(&wall);
    // Ageing tells nobody, nor does the end of what no cache can know.
    wall.wait(Duration::from_secs(40));
    assert!(wall.sessions().is_empty());
    assert_eq!(generation(&wall), reopened);
    wall.establish((A, B), 5000);
    wall.on(0, &between(A, B).tcp(5000, 80, ACK).finish());
    let (depends, before) = (slot(&wall), generation(&wall));
    assert_eq!(wall.shared.clear(|_| true), 1);
    assert!(!wall.generations.epoch().unchanged(before, &depends));
}
