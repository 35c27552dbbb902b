//! Classification as the words say it: rule after rule, condition after condition. Slow, plain, and what the fast one is
//! compared with.

use std::net::IpAddr;

use throughway_packet::parse::{ICMP, ICMPV6, TCP};

use crate::classify::RuleIndex;
use crate::rule::{
    AddressMatch, Ending, Family, Fields, FragmentMatch, Fragmentation, Group, Matches, PortMatch, Rule,
};

/// The first rule that matches at or behind `from`, in flattened order: behind a jump come the rules of its group, then the rule
/// behind the jump. Jumps that do nothing else ([`crate::Actions::is_visible`]) are not handed out. The groups must be free of cycles.
pub fn first_match<'a>(
    rules: &'a [Rule],
    groups: &'a [Group],
    fields: &Fields,
    from: RuleIndex,
) -> Option<(RuleIndex, &'a Rule)> {
    let mut walk = Walk { groups, fields, from: from.0, next: 0 };
    walk.run(rules, true)
}

struct Walk<'a, 'b> {
    groups: &'a [Group],
    fields: &'b Fields,
    from: u32,
    /// The flattened index of the next rule.
    next: u32,
}

impl<'a> Walk<'a, '_> {
    /// `reached`: the jumps that lead here all match. If not, the rules are only counted.
    fn run(&mut self, rules: &'a [Rule], reached: bool) -> Option<(RuleIndex, &'a Rule)> {
        for rule in rules {
            let index = self.next;
            self.next += 1;
            let holds = reached && matches(&rule.matches, self.fields);
            if holds && index >= self.from && rule.actions.is_visible() {
                return Some((RuleIndex(index), rule));
            }
            if let Ending::Jump(group) = rule.actions.ending
                && let Some(group) = self.groups.get(usize::from(group.0))
                && let Some(found) = self.run(&group.rules, holds)
            {
                return Some(found);
            }
        }
        None
    }
}

/// Whether all conditions hold.
pub fn matches(conditions: &Matches, fields: &Fields) -> bool {
    let is = |protocol: u8| fields.protocol == protocol && fields.has_header;
    let icmp = |family| match family {
        Family::Ipv4 => is(ICMP),
        Family::Ipv6 => is(ICMPV6),
    };
    conditions.family.is_none_or(|family| family == fields.family)
        && conditions
            .ingress
            .as_ref()
            .is_none_or(|set| set.ranges().any(|range| range.contains(&fields.ingress.0)))
        && conditions.egress.as_ref().is_none_or(|set| {
            fields.egress.is_some_and(|egress| set.ranges().any(|range| range.contains(&egress.0)))
        })
        && conditions.vlans.as_ref().is_none_or(|set| set.ranges().any(|range| range.contains(&fields.vlan)))
        && conditions.source.as_ref().is_none_or(|list| address(list, fields.family, &fields.source))
        && conditions
            .destination
            .as_ref()
            .is_none_or(|list| address(list, fields.family, &fields.destination))
        && (conditions.protocols.is_empty() || conditions.protocols.contains(&fields.protocol))
        && conditions
            .source_ports
            .as_ref()
            .is_none_or(|list| fields.has_ports && port(list, fields.source_port))
        && conditions
            .destination_ports
            .as_ref()
            .is_none_or(|list| fields.has_ports && port(list, fields.destination_port))
        && (conditions.tcp_flags.is_empty()
            || is(TCP)
                && conditions.tcp_flags.iter().any(|flags| fields.tcp_flags & flags.mask == flags.value))
        && (conditions.icmp.is_empty()
            || conditions.icmp.iter().any(|message| {
                message.family == fields.family
                    && icmp(message.family)
                    && message.kind == fields.icmp_type
                    && message.code.is_none_or(|code| code == fields.icmp_code)
            }))
        && conditions.dscp.is_none_or(|points| points >> (fields.dscp & 63) & 1 != 0)
        && conditions.length.as_ref().is_none_or(|lengths| lengths.contains(&fields.length))
        && conditions.fragment.is_none_or(|wanted| match wanted {
            FragmentMatch::Fragment => fields.fragmentation != Fragmentation::Whole,
            FragmentMatch::Whole => fields.fragmentation == Fragmentation::Whole,
            FragmentMatch::First => fields.fragmentation == Fragmentation::First,
            FragmentMatch::Later => fields.fragmentation == Fragmentation::Later,
        })
        && conditions.states.is_none_or(|states| states.contains(fields.state))
}

fn address(list: &AddressMatch, family: Family, octets: &[u8; 16]) -> bool {
    let address: IpAddr = match (family, octets) {
        (Family::Ipv4, [.., a, b, c, d]) => [*a, *b, *c, *d].into(),
        (Family::Ipv6, octets) => (*octets).into(),
    };
    let listed = list.ranges.iter().any(|range| range.contains(address))
        || list.sets.iter().any(|set| set.ranges().any(|range| range.contains(address)));
    listed != list.negated
}

fn port(list: &PortMatch, port: u16) -> bool {
    let listed = list.ranges.iter().any(|range| range.contains(&port))
        || list.sets.iter().any(|set| set.ranges().any(|range| range.contains(&port)));
    listed != list.negated
}
