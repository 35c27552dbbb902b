//! What is refused, and what hostile rules cost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;

use common::{Random, range};
use throughway_firewall::*;

fn jump(to: u16) -> Rule {
    Rule { actions: Actions { ending: Ending::Jump(GroupId(to)), ..Actions::default() }, ..Rule::default() }
}

fn group(rules: Vec<Rule>) -> Group {
    Group { name: String::new(), rules }
}

fn error(rules: Vec<Rule>, groups: Vec<Group>) -> CompileError {
    RuleSet::compile(rules, groups).expect_err("refused")
}

#[test]
fn circles_and_jumps_to_nowhere_are_refused() {
    assert_eq!(
        error(vec![Rule::default(), jump(0)], vec![]),
        CompileError::UnknownGroup { group: None, rule: 1, target: GroupId(0) }
    );
    // Also where nobody jumps to.
    assert_eq!(
        error(vec![], vec![group(vec![jump(1)]), group(vec![Rule::default(), jump(0)])]),
        CompileError::Cycle { group: Some(GroupId(1)), rule: 1, target: GroupId(0) }
    );
    assert_eq!(
        error(vec![jump(0)], vec![group(vec![jump(0)])]),
        CompileError::Cycle { group: Some(GroupId(0)), rule: 0, target: GroupId(0) }
    );
}

#[test]
fn sixteen_jumps_deep_and_no_more() {
    let chain = |depth: u16| {
        let mut groups: Vec<Group> = (1..depth).map(|next| group(vec![jump(next)])).collect();
        groups.push(group(vec![Rule { id: 9, ..Rule::default() }]));
        // The deepest first as well as last: the order of the groups does not matter.
        (vec![jump(0)], groups)
    };
    let (rules, groups) = chain(16);
    let set = RuleSet::compile(rules, groups).expect("sixteen deep");
    let fields = Fields::between([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    assert_eq!(set.classify(&fields).found.map(|found| found.id), Some(9));
    let (rules, groups) = chain(17);
    assert!(matches!(error(rules, groups), CompileError::TooDeep { .. }));
}

#[test]
fn groups_that_multiply_are_counted_before_they_are_written() {
    // Sixteen levels of ten jumps each: ten to the sixteenth rules.
    let groups = (1..16).map(|next| group((0..10).map(|_| jump(next)).collect()));
    let groups = groups.chain([group(vec![Rule::default()])]).collect();
    let CompileError::TooManyRules { needed } = error((0..10).map(|_| jump(0)).collect(), groups) else {
        panic!("another error");
    };
    assert!(needed > 1_000_000_000_000);
}

/// Long lists of scattered ranges on both sides: hundreds of millions of combinations.
#[test]
fn hostile_rules_take_bounded_memory_and_stay_right() {
    let mut random = Random::new(77);
    let scattered = |random: &mut Random, sets: usize| AddressMatch {
        negated: false,
        ranges: (0..100)
            .map(|_| std::net::Ipv4Addr::from_bits(random.next() as u32))
            .map(|a| std::net::IpAddr::from(a).into())
            .collect(),
        sets: (0..sets)
            .map(|_| Arc::new(AddressSet::new((0..50).map(|_| range(random)).collect::<Vec<_>>())))
            .collect(),
    };
    let count = 2000;
    let rules: Vec<Rule> = (0..count)
        .map(|id| {
            let mut matches = Matches {
                source: Some(scattered(&mut random, id as usize % 2)),
                destination: Some(scattered(&mut random, 0)),
                ..Matches::default()
            };
            let odd = (0..2000).map(|n| n * 30 + 1).map(|port| port..=port).collect();
            matches.destination_ports = Some(PortMatch { ranges: odd, ..PortMatch::default() });
            Rule { id, matches, ..Rule::default() }
        })
        .collect();
    let set = RuleSet::compile(rules.clone(), Vec::new()).expect("legal rules");
    let boxes = 65_536 + 2 * rules.len();
    let bound = (2 * boxes + 65_536) * (36 + 96) + 2 * (2 * boxes + 1024) * 64 + rules.len() * 1024;
    assert!(set.memory() <= bound, "{} bytes", set.memory());
    let mut hits = 0;
    for _ in 0..2000 {
        let of = &rules[random.below(rules.len())].matches;
        let pick = |random: &mut Random, list: &Option<AddressMatch>| {
            random.pick(&list.as_ref().unwrap().ranges).first()
        };
        let (source, destination) = (pick(&mut random, &of.source), pick(&mut random, &of.destination));
        let mut fields = Fields::between(source, destination);
        fields.has_ports = true;
        fields.destination_port = random.below(300) as u16 * 10 + 1;
        let slow = reference::first_match(&rules, &[], &fields, RuleIndex(0)).map(|(index, _)| index);
        assert_eq!(set.classify(&fields).found.map(|found| found.index), slow);
        hits += usize::from(slow.is_some());
    }
    assert!(hits > 300, "only {hits} hits");
}
