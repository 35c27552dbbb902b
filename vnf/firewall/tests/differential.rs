//! The compiled rules give the answers of the plain ones: for random rules, at every edge, from every place on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{Random, World, packet, probes};
use proptest::prelude::*;
use throughway_firewall::{Fields, Group, PacketFields, Rule, RuleIndex, RuleSet, reference};

/// Asks both for the first match and then again behind each match. Returns how many matches there were.
fn compare(set: &RuleSet, rules: &[Rule], groups: &[Group], fields: &Fields) -> usize {
    let mut from = RuleIndex(0);
    let mut matches = 0;
    loop {
        let slow = reference::first_match(rules, groups, fields, from);
        let fast = match from.0.checked_sub(1) {
            None => set.classify(fields),
            Some(after) => set.classify_after(fields, RuleIndex(after)),
        };
        assert_eq!(
            fast.found.map(|found| (found.index, found.id, found.actions)),
            slow.map(|(index, rule)| (index, rule.id, rule.actions)),
            "from {from:?} for {fields:?}"
        );
        let Some(found) = fast.found else { return matches };
        assert_eq!(set.rule(found.index), slow.map(|(_, rule)| rule));
        matches += 1;
        // Now and then as if the limit of the rule were exceeded, which leads past the group of a jump.
        let after = if found.index.0 % 3 == 0 { found.exceeded } else { found.index };
        assert!(after >= found.index);
        // Each step costs the plain search all rules: behind some matches, go on in strides.
        let stride = if matches > 6 { set.len() as u32 / 8 } else { 0 };
        from = RuleIndex(after.0 + 1 + stride);
    }
}

fn check(seed: u64, count: usize, samples: usize) -> usize {
    let world = World::new(seed, count);
    let set = RuleSet::compile(world.rules.clone(), world.groups.clone()).expect("legal rules");
    let mut random = Random::new(seed ^ 0x5555);
    let inner = world.groups.iter().flat_map(|group| &group.rules);
    let all: Vec<&Rule> = world.rules.iter().chain(inner).collect();
    let step = (all.len() / samples).max(1);
    let mut matches = 0;
    for rule in all.iter().step_by(step) {
        for fields in probes(rule, &mut random) {
            matches += compare(&set, &world.rules, &world.groups, &fields);
        }
    }
    for _ in 0..samples {
        matches += compare(&set, &world.rules, &world.groups, &packet(&mut random));
    }
    matches
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn small_sets_agree(seed in any::<u64>(), count in 0usize..60) {
        check(seed, count, 100);
    }

    #[test]
    fn an_answer_without_dependencies_holds_for_the_whole_flow(seed in any::<u64>(), count in 1usize..25) {
        let world = World::new(seed, count);
        let set = RuleSet::compile(world.rules, world.groups).expect("legal rules");
        let mut random = Random::new(seed ^ 0xaaaa);
        for _ in 0..200 {
            let fields = packet(&mut random);
            let answer = set.classify(&fields);
            prop_assert_eq!(answer.depends.0 & !set.depends_on().0, 0);
            // Everything may change on which the answer does not depend.
            let other = packet(&mut random);
            let free = |field: PacketFields| !answer.depends.any(field);
            let mut changed = fields;
            if free(PacketFields::LENGTH) {
                changed.length = other.length;
            }
            if free(PacketFields::TCP_FLAGS) {
                changed.tcp_flags = other.tcp_flags;
            }
            if free(PacketFields::DSCP) {
                changed.dscp = other.dscp;
            }
            if free(PacketFields::FRAGMENT) {
                changed.fragmentation = other.fragmentation;
            }
            if free(PacketFields::ICMP) {
                (changed.icmp_type, changed.icmp_code) = (other.icmp_type, other.icmp_code);
            }
            if free(PacketFields::STATE) {
                changed.state = other.state;
            }
            if free(PacketFields::EGRESS) {
                changed.egress = other.egress;
            }
            prop_assert_eq!(set.classify(&changed).found, answer.found, "{:?} {:?}", fields, changed);
        }
    }
}

#[test]
fn ten_thousand_rules_agree() {
    let matches = check(11, 10_000, 60);
    assert!(matches > 10_000, "only {matches} matches: the packets miss the rules");
}
