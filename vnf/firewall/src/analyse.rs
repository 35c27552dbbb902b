//! What is odd about rules: some can never match, some say twice the same, some contradict each other.
//!
//! For people who check a configuration. Never a false alarm: what is reported is so; not everything that is so is found. Each list
//! (the top, each group) is looked at by itself, and a rule is compared with single earlier rules, not with several
//! together. Who covers a rule must match any packet of the rule: so one such packet is classified, and only the first
//! [`CANDIDATES`] rules that match it are looked at closely.

use std::sync::Arc;

use throughway_packet::PortId;
use throughway_packet::parse::{ICMP, ICMPV6, SCTP, TCP, UDP};

use crate::classify::lists::{List, Lister, numbers};
use crate::classify::{RuleIndex, RuleSet};
use crate::reference;
use crate::rule::{
    Actions, AddressMatch, Ending, Family, Fields, FragmentMatch, Fragmentation, Group, GroupId, Matches,
    PortMatch, Rule, State,
};
use crate::set::{AddressSet, NumberSet};

/// How many rules that match a packet of a rule are compared with it.
pub const CANDIDATES: usize = 64;

/// How many pairs of sets are reported at most.
pub const SET_PAIRS: usize = 1000;

/// Where a rule stands: numbered from 0 in its group, or at the top.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// The group; `None` for the top.
    pub group: Option<GroupId>,
    /// The index in its list.
    pub rule: usize,
}

/// Something odd.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finding {
    /// The rule's own conditions exclude each other.
    Never {
        /// The rule.
        rule: Place,
    },
    /// The rule never matches: an earlier one decides about all its packets.
    Covered {
        /// The rule.
        rule: Place,
        /// The earlier one.
        by: Place,
        /// Whether the packets would end the same way without the earlier rule: then the rule is superfluous, else it
        /// is probably in the wrong place.
        same_ending: bool,
    },
    /// The rule has the same conditions as an earlier one and ends the same way.
    Duplicate {
        /// The rule.
        rule: Place,
        /// The earlier one.
        of: Place,
    },
    /// The rule has the same conditions as an earlier one, which decides otherwise.
    Contradiction {
        /// The rule.
        rule: Place,
        /// The earlier one.
        with: Place,
    },
    /// No jump leads to the group.
    UnreachableGroup {
        /// The group.
        group: GroupId,
    },
    /// Two sets have addresses in common. By their indices.
    OverlappingSets {
        /// The one.
        first: usize,
        /// The other, behind it.
        second: usize,
    },
}

/// Looks for oddities. `sets`: those with names, which findings number.
pub fn analyse(rules: &[Rule], groups: &[Group], sets: &[Arc<AddressSet>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut lister = Lister::default();
    analyse_list(None, rules, &mut lister, &mut findings);
    for (index, group) in groups.iter().enumerate() {
        analyse_list(Some(GroupId(index as u16)), &group.rules, &mut lister, &mut findings);
    }
    unreachable(rules, groups, &mut findings);
    overlaps(sets, &mut findings);
    findings
}

fn analyse_list(group: Option<GroupId>, rules: &[Rule], lister: &mut Lister, findings: &mut Vec<Finding>) {
    let place = |rule: usize| Place { group, rule };
    // Only who decides, and always decides, takes packets from later rules.
    let decides = |actions: &Actions| actions.ending.is_final() && actions.limit.is_none();
    let deciding: Vec<usize> = (0..rules.len()).filter(|&rule| decides(&rules[rule].actions)).collect();
    let bare = deciding.iter().map(|&rule| Rule { actions: Actions::default(), ..rules[rule].clone() });
    // Fails only for more rules than can be compiled, of which the user is told elsewhere.
    let compiled = RuleSet::compile(bare.collect(), Vec::new()).ok();
    for (number, rule) in rules.iter().enumerate() {
        let families = families(&rule.matches, lister);
        if families == [false, false] {
            findings.push(Finding::Never { rule: place(number) });
            continue;
        }
        let Some(compiled) = &compiled else { continue };
        let Some(sample) = sample(&rule.matches, families, lister) else { continue };
        let mut found = compiled.classify(&sample).found;
        for _ in 0..CANDIDATES {
            let Some(RuleIndex(index)) = found.map(|found| found.index) else { break };
            let Some(&earlier) = deciding.get(index as usize).filter(|&&earlier| earlier < number) else {
                break;
            };
            let other = &rules[earlier];
            if covers(&other.matches, &rule.matches, families, lister) {
                let same_ending = other.actions.ending == rule.actions.ending;
                let (rule, by) = (place(number), place(earlier));
                findings.push(match (other.matches == rules[number].matches, same_ending) {
                    (true, true) => Finding::Duplicate { rule, of: by },
                    (true, false) => Finding::Contradiction { rule, with: by },
                    (false, _) => Finding::Covered { rule, by, same_ending },
                });
                break;
            }
            found = compiled.classify_after(&sample, RuleIndex(index)).found;
        }
    }
}

const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

/// In which families the conditions can hold. Too many rather than too few.
fn families(matches: &Matches, lister: &mut Lister) -> [bool; 2] {
    let protocols = |any: &[u8]| {
        matches.protocols.is_empty() || any.iter().any(|protocol| matches.protocols.contains(protocol))
    };
    let full = |list: &Option<PortMatch>, lister: &mut Lister| {
        list.as_ref().is_none_or(|list| !lister.ports(list).ranges.is_empty())
    };
    let some = |set: &Option<NumberSet>| set.as_ref().is_none_or(|set| !set.is_empty());
    let ports = matches.source_ports.is_some() || matches.destination_ports.is_some();
    let possible = full(&matches.source_ports, lister)
        && full(&matches.destination_ports, lister)
        && (!ports || protocols(&[TCP, UDP, SCTP]))
        && (matches.tcp_flags.is_empty()
            || protocols(&[TCP]) && matches.tcp_flags.iter().any(|flags| flags.value & !flags.mask == 0))
        && (matches.icmp.is_empty() || !ports && matches.tcp_flags.is_empty())
        && [&matches.ingress, &matches.egress, &matches.vlans].into_iter().all(some)
        && matches.dscp != Some(0)
        && matches.length.as_ref().is_none_or(|lengths| !lengths.is_empty())
        && matches.states.is_none_or(|states| states.bits() != 0);
    FAMILIES.map(|family| {
        let icmp = if family == Family::Ipv4 { ICMP } else { ICMPV6 };
        possible
            && matches.family.is_none_or(|wanted| wanted == family)
            && (matches.icmp.is_empty()
                || protocols(&[icmp]) && matches.icmp.iter().any(|message| message.family == family))
            && [&matches.source, &matches.destination].into_iter().all(|list| {
                list.as_ref().is_none_or(|list| !lister.addresses(list, family).ranges.is_empty())
            })
    })
}

/// A packet that the conditions hold for, if one is easily found.
fn sample(matches: &Matches, families: [bool; 2], lister: &mut Lister) -> Option<Fields> {
    let family = if families[0] { Family::Ipv4 } else { Family::Ipv6 };
    let mut address = |list: &Option<AddressMatch>| -> Option<std::net::IpAddr> {
        let bits = match list {
            Some(list) => lister.addresses(list, family).ranges.first()?.0,
            None => 0,
        };
        Some(match family {
            Family::Ipv4 => std::net::Ipv4Addr::from_bits(bits as u32).into(),
            Family::Ipv6 => std::net::Ipv6Addr::from_bits(bits).into(),
        })
    };
    let (source, destination) = (address(&matches.source)?, address(&matches.destination)?);
    let mut port = |list: &Option<PortMatch>| {
        list.as_ref().map_or(Some(0), |list| Some(lister.ports(list).ranges.first()?.0 as u16))
    };
    let number = |set: &NumberSet| set.ranges().next().map(|range| *range.start());
    let flags = matches.tcp_flags.iter().find(|flags| flags.value & !flags.mask == 0);
    let message = matches.icmp.iter().find(|message| message.family == family);
    let ports = matches.source_ports.is_some() || matches.destination_ports.is_some();
    let protocol = match matches.protocols.iter().find(|protocol| match (ports, flags, message) {
        (_, Some(_), _) => **protocol == TCP,
        (true, ..) => [TCP, UDP, SCTP].contains(protocol),
        (_, _, Some(_)) => [ICMP, ICMPV6].contains(protocol),
        _ => true,
    }) {
        Some(protocol) => *protocol,
        None if message.is_some() => [ICMP, ICMPV6][usize::from(family == Family::Ipv6)],
        None => TCP,
    };
    let fields = Fields {
        source_port: port(&matches.source_ports)?,
        destination_port: port(&matches.destination_ports)?,
        ingress: PortId(matches.ingress.as_ref().map_or(Some(0), number)?),
        egress: matches.egress.as_ref().and_then(number).map(PortId),
        vlan: matches.vlans.as_ref().map_or(Some(0), number)?,
        length: matches.length.as_ref().map_or(0, |lengths| *lengths.start()),
        protocol,
        tcp_flags: flags.map_or(0, |flags| flags.value),
        icmp_type: message.map_or(0, |message| message.kind),
        icmp_code: message.and_then(|message| message.code).unwrap_or(0),
        dscp: matches.dscp.map_or(0, |points| points.trailing_zeros() as u8),
        fragmentation: match matches.fragment {
            None | Some(FragmentMatch::Whole) => Fragmentation::Whole,
            Some(FragmentMatch::Fragment | FragmentMatch::First) => Fragmentation::First,
            Some(FragmentMatch::Later) => Fragmentation::Later,
        },
        state: STATES
            .into_iter()
            .find(|&state| matches.states.is_none_or(|states| states.contains(state)))?,
        has_ports: ports || flags.is_some(),
        has_header: flags.is_some() || message.is_some(),
        ..Fields::between(source, destination)
    };
    reference::matches(matches, &fields).then_some(fields)
}

const STATES: [State; 5] = [State::New, State::Established, State::Related, State::Invalid, State::Untracked];

/// Whether `wide` holds for every packet for which `narrow` holds, which can be of these families. May say no although it is so.
fn covers(wide: &Matches, narrow: &Matches, families: [bool; 2], lister: &mut Lister) -> bool {
    let number = |wide: &Option<NumberSet>, narrow: &Option<NumberSet>| match (wide, narrow) {
        (None, _) => true,
        (Some(wide), Some(narrow)) => within(&numbers(narrow), &numbers(wide)),
        (Some(_), None) => false,
    };
    let has_ports = narrow.source_ports.is_some() || narrow.destination_ports.is_some();
    let port =
        |wide: &Option<PortMatch>, narrow: &Option<PortMatch>, lister: &mut Lister| match (wide, narrow) {
            (None, _) => true,
            (Some(wide), Some(narrow)) => {
                wide == narrow || within(&lister.ports(narrow), &lister.ports(wide))
            }
            (Some(wide), None) => has_ports && within(&List::all(u128::from(u16::MAX)), &lister.ports(wide)),
        };
    let implied = if narrow.protocols.is_empty() && !narrow.tcp_flags.is_empty() { &[TCP][..] } else { &[] };
    let protocols = if narrow.protocols.is_empty() { implied } else { &narrow.protocols };
    let fits = (wide.protocols.is_empty()
        || !protocols.is_empty() && protocols.iter().all(|protocol| wide.protocols.contains(protocol)))
        && number(&wide.ingress, &narrow.ingress)
        && number(&wide.egress, &narrow.egress)
        && number(&wide.vlans, &narrow.vlans)
        && port(&wide.source_ports, &narrow.source_ports, lister)
        && port(&wide.destination_ports, &narrow.destination_ports, lister)
        && (wide.tcp_flags.is_empty()
            || !narrow.tcp_flags.is_empty()
                && narrow.tcp_flags.iter().all(|own| {
                    wide.tcp_flags
                        .iter()
                        .any(|flags| flags.mask & !own.mask == 0 && own.value & flags.mask == flags.value)
                }))
        && (wide.icmp.is_empty()
            || !narrow.icmp.is_empty()
                && narrow.icmp.iter().all(|own| {
                    wide.icmp.iter().any(|message| {
                        message.family == own.family
                            && message.kind == own.kind
                            && (message.code.is_none() || message.code == own.code)
                    })
                }))
        && wide.dscp.is_none_or(|points| narrow.dscp.unwrap_or(u64::MAX) & !points == 0)
        && wide.length.as_ref().is_none_or(|lengths| {
            let own = narrow.length.clone().unwrap_or(0..=u16::MAX);
            lengths.start() <= own.start() && own.end() <= lengths.end()
        })
        && wide.fragment.is_none_or(|wanted| {
            narrow.fragment == Some(wanted)
                || wanted == FragmentMatch::Fragment
                    && matches!(narrow.fragment, Some(FragmentMatch::First | FragmentMatch::Later))
        })
        && wide.states.is_none_or(|states| {
            narrow.states.is_some_and(|own| own.bits() & !states.bits() == 0) || states == crate::States::ALL
        });
    fits && FAMILIES.into_iter().zip(families).filter(|(_, possible)| *possible).all(|(family, _)| {
        wide.family.is_none_or(|wanted| wanted == family)
            && address(&wide.source, &narrow.source, family, lister)
            && address(&wide.destination, &narrow.destination, family, lister)
    })
}

fn address(
    wide: &Option<AddressMatch>,
    narrow: &Option<AddressMatch>,
    family: Family,
    lister: &mut Lister,
) -> bool {
    let Some(wide) = wide else { return true };
    let all = List::all(crate::classify::lists::address_max(family));
    match narrow {
        Some(narrow) if same(wide, narrow) => true,
        Some(narrow) => within(&lister.addresses(narrow, family), &lister.addresses(wide, family)),
        None => within(&all, &lister.addresses(wide, family)),
    }
}

/// The same lists, without comparing sets entry by entry.
fn same(a: &AddressMatch, b: &AddressMatch) -> bool {
    a.negated == b.negated
        && a.ranges == b.ranges
        && a.sets.len() == b.sets.len()
        && a.sets.iter().zip(&b.sets).all(|(a, b)| Arc::ptr_eq(a, b))
}

/// Whether every value of `inner` (or more) is in `outer`, which must be exact.
fn within(inner: &List, outer: &List) -> bool {
    outer.exact
        && inner.ranges.iter().all(|&(first, last)| {
            let at = outer.ranges.partition_point(|&(_, end)| end < first);
            outer.ranges.get(at).is_some_and(|&(start, end)| start <= first && last <= end)
        })
}

fn unreachable(rules: &[Rule], groups: &[Group], findings: &mut Vec<Finding>) {
    let mut reached = vec![false; groups.len()];
    let mut lists = vec![rules];
    while let Some(list) = lists.pop() {
        for rule in list {
            if let Ending::Jump(target) = rule.actions.ending
                && let Some(group) = groups.get(usize::from(target.0))
                && !std::mem::replace(&mut reached[usize::from(target.0)], true)
            {
                lists.push(&group.rules);
            }
        }
    }
    let missed = reached.iter().enumerate().filter(|(_, reached)| !**reached);
    findings.extend(missed.map(|(group, _)| Finding::UnreachableGroup { group: GroupId(group as u16) }));
}

fn overlaps(sets: &[Arc<AddressSet>], findings: &mut Vec<Finding>) {
    let mut pairs = std::collections::BTreeSet::new();
    for family in FAMILIES {
        let of = |(number, set): (usize, &Arc<AddressSet>)| {
            set.bits(family).into_iter().map(move |(first, last)| (first, last, number))
        };
        let mut all: Vec<(u128, u128, usize)> = sets.iter().enumerate().flat_map(of).collect();
        all.sort_unstable();
        // At most one range of each set: its ranges are disjoint.
        let mut open: Vec<(u128, usize)> = Vec::new();
        for (first, last, number) in all {
            open.retain(|&(end, _)| end >= first);
            for &(_, other) in &open {
                if pairs.len() < SET_PAIRS {
                    pairs.insert((other.min(number), other.max(number)));
                }
            }
            open.push((last, number));
        }
    }
    findings.extend(pairs.into_iter().map(|(first, second)| Finding::OverlappingSets { first, second }));
}
