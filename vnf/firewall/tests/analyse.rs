//! What is reported is so, and the plain cases are found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::{Random, World, packet, probes};
use proptest::prelude::*;
use throughway_firewall::*;

fn source(text: &str) -> Option<AddressMatch> {
    let prefix: throughway_packet::Prefix = text.parse().unwrap();
    Some(AddressMatch { ranges: vec![prefix.into()], ..AddressMatch::default() })
}

fn ports(ports: &[u16]) -> Option<PortMatch> {
    Some(PortMatch { ranges: ports.iter().map(|&port| port..=port).collect(), ..PortMatch::default() })
}

fn rule(matches: Matches, ending: Ending) -> Rule {
    Rule { id: 0, matches, actions: Actions { ending, ..Actions::default() } }
}

fn top(rule: usize) -> Place {
    Place { group: None, rule }
}

#[test]
fn the_plain_cases_are_found() {
    let net = Matches { source: source("10.0.0.0/8"), ..Matches::default() };
    let host = Matches {
        source: source("10.1.0.0/16"),
        destination_ports: ports(&[80]),
        protocols: vec![6],
        ..Matches::default()
    };
    let never = Matches { protocols: vec![1], destination_ports: ports(&[80]), ..Matches::default() };
    let mixed = Matches { source: source("10.0.0.0/8"), destination: source("::/0"), ..Matches::default() };
    let rules = [
        rule(net.clone(), Ending::Drop),
        rule(host.clone(), Ending::Allow),
        rule(net.clone(), Ending::Drop),
        rule(net, Ending::Allow),
        rule(never, Ending::Allow),
        rule(mixed, Ending::Allow),
        rule(Matches { source: source("2001:db8::/32"), ..Matches::default() }, Ending::Jump(GroupId(1))),
    ];
    let group = |rules| Group { name: String::new(), rules };
    let groups = [group(vec![]), group(vec![rule(host.clone(), Ending::Allow), rule(host, Ending::Allow)])];
    let inner = |rule| Place { group: Some(GroupId(1)), rule };
    assert_eq!(
        analyse(&rules, &groups, &[]),
        [
            Finding::Covered { rule: top(1), by: top(0), same_ending: false },
            Finding::Duplicate { rule: top(2), of: top(0) },
            Finding::Contradiction { rule: top(3), with: top(0) },
            Finding::Never { rule: top(4) },
            Finding::Never { rule: top(5) },
            Finding::Duplicate { rule: inner(1), of: inner(0) },
            Finding::UnreachableGroup { group: GroupId(0) },
        ]
    );
}

#[test]
fn who_may_let_a_packet_go_on_covers_nothing() {
    let all = || Matches::default();
    let limited = Actions { ending: Ending::Drop, limit: Some(LimitId(1)), ..Actions::default() };
    let rules = [
        rule(all(), Ending::Continue),
        Rule { actions: limited, ..Rule::default() },
        // With ports only packets of TCP, UDP and SCTP.
        rule(
            Matches { destination_ports: Some(PortMatch { negated: true, ..PortMatch::default() }), ..all() },
            Ending::Drop,
        ),
        rule(all(), Ending::Allow),
    ];
    assert_eq!(analyse(&rules, &[], &[]), []);
}

#[test]
fn a_large_set_does_not_cover_its_gaps() {
    let host = |number: u8| std::net::IpAddr::from([10, 0, 0, number]);
    let even = Arc::new(AddressSet::new((0..100).map(|number| host(2 * number).into())));
    let wide = AddressMatch { sets: vec![even], ..AddressMatch::default() };
    let pair = AddressMatch {
        ranges: vec![AddressRange::new(host(190), host(191)).unwrap()],
        ..AddressMatch::default()
    };
    let of = |source| Matches { source: Some(source), ..Matches::default() };
    let rules = [rule(of(wide), Ending::Drop), rule(of(pair), Ending::Drop)];
    assert_eq!(analyse(&rules, &[], &[]), []);
}

#[test]
fn overlapping_sets_are_named() {
    let set = |texts: &[&str]| {
        Arc::new(AddressSet::new(
            texts.iter().map(|text| text.parse::<throughway_packet::Prefix>().unwrap().into()),
        ))
    };
    let sets = [
        set(&["10.0.0.0/8", "2001:db8::/32"]),
        set(&["11.0.0.0/8"]),
        set(&["2001:db8:5::/48", "12.0.0.0/8"]),
        set(&["9.0.0.0/8", "10.255.255.255/32"]),
    ];
    assert_eq!(
        analyse(&[], &[], &sets),
        [Finding::OverlappingSets { first: 0, second: 2 }, Finding::OverlappingSets { first: 0, second: 3 },]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_false_alarm(seed in any::<u64>(), count in 1usize..80) {
        let world = World::new(seed, count);
        let mut random = Random::new(seed ^ 0x1234);
        for finding in analyse(&world.rules, &world.groups, &[]) {
            let (place, by) = match finding {
                Finding::Never { rule } => (rule, None),
                Finding::Covered { rule, by, .. } => (rule, Some(by)),
                Finding::Duplicate { rule, of } => (rule, Some(of)),
                Finding::Contradiction { rule, with } => (rule, Some(with)),
                Finding::UnreachableGroup { .. } | Finding::OverlappingSets { .. } => continue,
            };
            let list = |place: Place| match place.group {
                None => &world.rules[place.rule],
                Some(group) => &world.groups[usize::from(group.0)].rules[place.rule],
            };
            let own = list(place);
            let packets = probes(own, &mut random).into_iter().chain((0..50).map(|_| packet(&mut Random::new(seed))));
            for fields in packets {
                if reference::matches(&own.matches, &fields) {
                    let earlier = by.map(list);
                    prop_assert!(
                        earlier.is_some_and(|earlier| reference::matches(&earlier.matches, &fields)),
                        "{:?}: {:?}", finding, fields
                    );
                }
            }
        }
    }
}
