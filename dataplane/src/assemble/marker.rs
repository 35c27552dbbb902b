//! The marker's rules, from the configuration.

use std::sync::Arc;

use throughway_config::Family;
use throughway_marker::{Dscp, Rule, RuleError, Rules};

/// Compiles the rules. The configuration was checked, so an error here is one of ours.
pub fn rules(config: &throughway_config::Marker) -> Result<Arc<Rules>, RuleError> {
    let rules = config.rules.iter().map(|rule| Rule {
        family: rule.family.map(|family| match family {
            Family::Ipv4 => throughway_marker::Family::Ipv4,
            Family::Ipv6 => throughway_marker::Family::Ipv6,
        }),
        protocol: rule.protocol.map(|protocol| protocol.get()),
        source: rule.source.map(|prefix| prefix.get()),
        destination: rule.destination.map(|prefix| prefix.get()),
        source_ports: rule.from_port.iter().map(|range| range.first()..=range.last()).collect(),
        destination_ports: rule.to_port.iter().map(|range| range.first()..=range.last()).collect(),
        dscp: Dscp::new(rule.dscp.get()).unwrap_or_default(),
    });
    Rules::new(rules.collect()).map(Arc::new)
}
