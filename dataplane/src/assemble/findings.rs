//! What is odd about a firewall's rules: for `throughway check`, and in the log of a start or a reload.

use std::sync::Arc;

use throughway_config::{Firewall, SetContent};
use throughway_firewall::analyse::{Finding, Place, analyse};
use throughway_firewall::{AddressRange, AddressSet, PolicyConfig};

/// A line for each finding; rules are named by their line in the configuration.
pub fn findings(name: &str, config: &Firewall) -> Vec<String> {
    // What cannot be compiled is refused elsewhere.
    let Ok(policy) = super::firewall::policy(config) else { return Vec::new() };
    let sets: Vec<_> =
        config.sets.iter().filter(|set| matches!(set.content, SetContent::Addresses(_))).collect();
    let compiled: Vec<Arc<AddressSet>> = sets
        .iter()
        .map(|set| {
            let ranges = set.addresses().iter();
            let ranges = ranges.filter_map(|range| AddressRange::new(range.first(), range.last()).ok());
            Arc::new(AddressSet::new(ranges))
        })
        .collect();
    let set = |index: usize| sets.get(index).map(|set| set.name.to_string()).unwrap_or_default();
    let group = |id: throughway_firewall::GroupId| {
        policy.groups.get(usize::from(id.0)).map(|group| group.name.clone()).unwrap_or_default()
    };
    let found = analyse(&policy.rules, &policy.groups, &compiled);
    let lines = found.into_iter().filter_map(|finding| {
        let line = |place| line_of(&policy, place);
        Some(match finding {
            Finding::Never { rule } => {
                format!(
                    "the rule at line {} can match nothing: its conditions exclude each other",
                    line(rule)?
                )
            }
            Finding::Covered { rule, by, same_ending: true } => {
                format!(
                    "the rule at line {} is superfluous: line {} decides the same for all its packets",
                    line(rule)?,
                    line(by)?
                )
            }
            Finding::Covered { rule, by, same_ending: false } => {
                format!(
                    "the rule at line {} never matches: line {} decides otherwise for all its packets",
                    line(rule)?,
                    line(by)?
                )
            }
            Finding::Duplicate { rule, of } => {
                format!("the rule at line {} is the same as that at line {}", line(rule)?, line(of)?)
            }
            Finding::Contradiction { rule, with } => {
                format!(
                    "the rule at line {} contradicts that at line {}, which decides first",
                    line(rule)?,
                    line(with)?
                )
            }
            Finding::UnreachableGroup { group: id } => format!("nobody jumps to the group `{}`", group(id)),
            Finding::OverlappingSets { first, second } => {
                format!("the sets `{}` and `{}` have addresses in common", set(first), set(second))
            }
        })
    });
    lines.map(|line| format!("functions.{name}: {line}")).collect()
}

/// Where a rule stands in the file.
fn line_of(policy: &PolicyConfig, place: Place) -> Option<u32> {
    let rules = match place.group {
        None => &policy.rules,
        Some(group) => &policy.groups.get(usize::from(group.0))?.rules,
    };
    let id = rules.get(place.rule)?.id;
    policy.origins.iter().find(|(known, _)| *known == id).map(|(_, origin)| origin.line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use throughway_config::{Config, FunctionKind};

    #[test]
    fn odd_rules_are_named_by_their_lines() {
        let text = "interfaces: { lan: { device: a } }
functions:
  edge:
    firewall:
      default: drop
      sets: { a: [10.0.0.0/8], b: [10.1.0.0/16, 192.0.2.1] }
      rules:
        - allow: { source: 10.0.0.0/8, protocol: tcp }
        - drop: { source: 10.1.0.0/16, protocol: tcp }
        - drop: { source: \"@a\", protocol: udp }
        - allow: { source: \"@a\", protocol: udp }
        - allow: { source: \"@b\", protocol: icmp }
  core: { router: {} }
chains: { out: { from: lan, run: [edge, core] } }
";
        let (config, _) = Config::parse("test.yaml", text).unwrap_or_else(|errors| panic!("{errors}"));
        let FunctionKind::Firewall(firewall) = &config.functions[0].kind else { panic!("a firewall") };
        assert_eq!(
            findings("edge", firewall),
            [
                "functions.edge: the rule at line 9 never matches: line 8 decides otherwise for all its packets",
                "functions.edge: the rule at line 11 contradicts that at line 10, which decides first",
                "functions.edge: the sets `a` and `b` have addresses in common",
            ]
        );
    }
}
