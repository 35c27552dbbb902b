//! The firewall.

use std::collections::HashMap;

use super::matches::given;
use super::sets::SetTable;
use super::*;
use crate::value::{Ceiling, Flag, Number, Rate, words};

/// A firewall: rules in order, of which the first that decides counts, and sessions, whose packets follow the decision.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Firewall {
    /// What becomes of packets that no rule decides on.
    pub default: DefaultVerdict,
    /// The sets; a [`SetId`] is an index into this list.
    pub sets: Vec<Set>,
    /// The rules, in order.
    pub rules: Vec<Rule>,
    /// The groups; a [`GroupId`] is an index into this list. No group leads back to itself.
    pub groups: Vec<Group>,
    /// How sessions are followed.
    pub track: Track,
}

/// Rules that others jump to.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Group {
    /// What the file calls it.
    pub name: Name,
    /// The rules, in order.
    pub rules: Vec<Rule>,
    /// Where it is named.
    pub place: Span,
}

/// A group of a firewall: its index in [`Firewall::groups`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct GroupId(pub u16);

impl GroupId {
    /// The index as a `usize`.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Rule {
    /// Its name, which no other rule of the firewall has.
    pub name: Option<Name>,
    /// What is done with packets that match.
    pub action: RuleAction,
    /// Which packets match.
    pub matches: Match,
    /// The rule matches only within this rate (or beyond it).
    pub rate: Option<Rate>,
    /// The rule matches only while this many sessions that it let pass are open (or more).
    pub connections: Option<Ceiling>,
    /// Whether matches are logged.
    pub log: bool,
    /// A number that is given to the packet; never 0.
    pub mark: Option<u32>,
    /// Where it stands in the file.
    pub place: Span,
}

/// What is done with packets that match a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleAction {
    /// They pass, and so do those of the session that they open.
    Allow,
    /// They are dropped.
    Drop,
    /// They are dropped and the sender is told.
    Reject(RejectWith),
    /// They are counted (and logged, and marked), and the next rule is tried.
    Count,
    /// The rules of the group are tried; if none decides, the next rule is.
    Jump(GroupId),
}

impl RuleAction {
    /// The key that names it in the file.
    pub const fn word(&self) -> &'static str {
        match self {
            RuleAction::Allow => "allow",
            RuleAction::Drop => "drop",
            RuleAction::Reject(_) => "reject",
            RuleAction::Count => "count",
            RuleAction::Jump(_) => "jump",
        }
    }
}

words! {
    /// What becomes of packets that no rule decides on.
    DefaultVerdict, "verdict":
    /// They pass, and so do those of the session that they open.
    Allow = "allow",
    /// They are dropped.
    Drop = "drop",
    /// They are dropped and the sender is told, as by [`RejectWith::Auto`].
    Reject = "reject",
}

words! {
    /// What the sender of a rejected packet is told.
    RejectWith, "answer", default Auto:
    /// A TCP reset for TCP, "port unreachable" for everything else.
    Auto = "auto",
    /// A TCP reset (RFC 9293, section 3.10.7.1). Only with `protocol: tcp`.
    TcpReset = "tcp-reset",
    /// ICMP 3/3, ICMPv6 1/4.
    PortUnreachable = "port-unreachable",
    /// ICMP 3/13, ICMPv6 1/1.
    AdminProhibited = "admin-prohibited",
    /// ICMP 3/1, ICMPv6 1/3.
    HostUnreachable = "host-unreachable",
    /// ICMP 3/0, ICMPv6 1/0.
    NetUnreachable = "net-unreachable",
}

/// How many rules a firewall may have, those of its groups included.
const MOST_RULES: usize = 1 << 20;
/// How many groups a firewall may have.
const MOST_GROUPS: usize = 1024;
/// How many jumps may follow each other.
const DEEPEST: u32 = 16;

/// What a rule may refer to.
struct Scope<'a, 'k> {
    known: &'a Known<'k>,
    sets: SetTable<'a>,
    groups: Option<&'a Entries<Vec<At<crate::raw::Rule>>>>,
    names: HashMap<String, u32>,
}

impl Firewall {
    /// `key` is where the word `firewall` stands.
    pub(super) fn check(
        raw: &crate::raw::Firewall,
        key: Span,
        known: &Known<'_>,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let default = match raw.default.as_ref() {
            Some(written) => written.read(report),
            None => {
                let misread = Misread::new("the firewall has no `default`");
                report.error(
                    key,
                    misread.help("say what becomes of packets that no rule decides on: `default: drop`"),
                );
                None
            }
        };
        let mut scope = Scope {
            known,
            sets: SetTable::check(raw.sets.as_ref(), known, report),
            groups: raw.groups.as_ref(),
            names: HashMap::new(),
        };
        let rules = Rule::check_list(raw.rules.as_deref().unwrap_or_default(), &mut scope, report);
        let entries = raw.groups.as_ref().map_or(&[][..], |groups| &groups.list);
        if let Some(entry) = entries.get(MOST_GROUPS) {
            report.error(entry.name.span, format!("there are more than {MOST_GROUPS} groups"));
            return None;
        }
        let groups: Vec<_> = entries.iter().map(|entry| Group::check(entry, &mut scope, report)).collect();
        let all = raw.rules.iter().chain(entries.iter().map(|entry| &entry.value)).flatten();
        if let Some(rule) = all.clone().nth(MOST_RULES) {
            report.error(rule.span, format!("the firewall has more than {MOST_RULES} rules"));
        }
        let jumps = Jumps::check(raw, report);
        let track = Track::check(raw.track.as_ref(), report);
        let sets = scope.sets.finish(report);
        jumps?;
        Some(Firewall {
            default: default?,
            sets: sets?,
            rules: rules?,
            groups: groups.into_iter().collect::<Option<_>>()?,
            track: track?,
        })
    }

    /// The set of that number. Numbers found in a firewall are valid in that firewall only.
    pub fn set(&self, id: SetId) -> &Set {
        &self.sets[id.index()]
    }

    /// The group of that number. Numbers found in a firewall are valid in that firewall only.
    pub fn group(&self, id: GroupId) -> &Group {
        &self.groups[id.index()]
    }
}

impl Group {
    fn check(
        Entry { name, value: rules }: &Entry<Vec<At<crate::raw::Rule>>>,
        scope: &mut Scope<'_, '_>,
        report: &mut Report<'_>,
    ) -> Option<Self> {
        let rules = Rule::check_list(rules, scope, report);
        Some(Group { name: name.read(report)?, rules: rules?, place: name.span })
    }
}

impl Rule {
    fn check_list(
        raw: &[At<crate::raw::Rule>],
        scope: &mut Scope<'_, '_>,
        report: &mut Report<'_>,
    ) -> Option<Vec<Self>> {
        let rules: Vec<_> = raw.iter().map(|rule| Rule::check(rule, scope, report)).collect();
        let catch_all = rules.iter().position(|rule| rule.as_ref().is_some_and(Rule::decides_everything));
        if let Some((catch_all, unreached)) = catch_all.and_then(|at| Some((raw.get(at)?, raw.get(at + 1)?)))
        {
            let misread = Misread::new("this rule is never reached");
            let line = catch_all.span.line;
            report.warning(
                unreached.span,
                misread.help(format!("the rule at line {line} decides on every packet")),
            );
        }
        rules.into_iter().collect()
    }

    /// Whether no packet reaches the next rule.
    pub fn decides_everything(&self) -> bool {
        let decides = match self.action {
            RuleAction::Allow | RuleAction::Drop | RuleAction::Reject(_) => true,
            RuleAction::Count | RuleAction::Jump(_) => false,
        };
        decides && self.rate.is_none() && self.connections.is_none() && self.matches.matches_everything()
    }

    fn check(raw: &At<crate::raw::Rule>, scope: &mut Scope<'_, '_>, report: &mut Report<'_>) -> Option<Self> {
        let At { value: raw, span } = raw;
        let verdicts = [
            ("allow", &raw.allow),
            ("drop", &raw.drop),
            ("reject", &raw.reject),
            ("count", &raw.count),
            ("jump", &raw.jump),
        ];
        let mut named = verdicts.iter().filter_map(|(word, matches)| Some((*word, matches.as_ref()?)));
        let Some((word, matches)) = named.next() else {
            let misread = Misread::new("the rule does not say what is done");
            let help = "expected one of `allow`, `drop`, `reject`, `count`, `jump` with what it matches; `allow: {}` matches every packet";
            report.error(*span, misread.help(help));
            return None;
        };
        if let Some((other, _)) = named.next() {
            let misread = Misread::new(format!("the rule has `{word}` and `{other}`"));
            report.error(*span, misread.help("make two rules of them"));
            return None;
        }
        let action = Rule::check_action(word, raw, *span, scope, report);
        let matches = Match::check(&matches.value, scope.known, &mut scope.sets, report);
        let rate = given(&raw.rate, report);
        let connections = given(&raw.connections, report);
        let log = given(&raw.log, report);
        let mark = given(&raw.mark, report);
        let name = given(&raw.name, report);
        if let Some(written) = raw.name.as_ref()
            && let Some(first) = scope.names.insert(written.text.clone(), written.span.line)
        {
            let misread = Misread::new(format!("a second rule is called `{}`", written.text));
            report.error(written.span, misread.help(format!("the first is at line {first}")));
        }
        let (action, matches) = (action?, matches?);
        if let (RuleAction::Reject(RejectWith::TcpReset), Some(with)) = (action, raw.with.as_ref())
            && !matches.protocol.as_ref().is_some_and(|protocols| {
                !protocols.not
                    && protocols.any_of.iter().all(|protocol| *protocol == crate::value::Protocol::TCP)
            })
        {
            let misread = Misread::new("`with: tcp-reset` for more than TCP");
            report.error(
                with.span,
                misread.help("match `protocol: tcp`, or leave `with` out: TCP is then reset anyway"),
            );
            return None;
        }
        if let (RuleAction::Drop | RuleAction::Reject(_), Some(Some(ceiling)), Some(written)) =
            (action, &connections, raw.connections.as_ref())
            && !ceiling.over()
        {
            let misread = Misread::new(format!("`connections` beside `{word}`, which opens none"));
            report.error(written.span, misread.help(format!("write `over {}`", written.text)));
            return None;
        }
        Some(Rule {
            name: name?,
            action,
            matches,
            rate: rate?,
            connections: connections?,
            log: log?.is_some_and(|flag| flag == Flag::True),
            mark: mark?.map(Number::get),
            place: *span,
        })
    }

    fn check_action(
        word: &str,
        raw: &crate::raw::Rule,
        span: Span,
        scope: &Scope<'_, '_>,
        report: &mut Report<'_>,
    ) -> Option<RuleAction> {
        if let Some(with) = raw.with.as_ref().filter(|_| word != "reject") {
            report.error(
                with.span,
                Misread::new(format!("`with` beside `{word}`")).help("only `reject` answers"),
            );
            return None;
        }
        if let Some(to) = raw.to.as_ref().filter(|_| word != "jump") {
            let help =
                format!("for packets that leave by an interface, write `{word}: {{ to: {} }}`", to.text);
            report.error(to.span, Misread::new(format!("`to` beside `{word}`, which is no jump")).help(help));
            return None;
        }
        Some(match word {
            "allow" => RuleAction::Allow,
            "drop" => RuleAction::Drop,
            "reject" => RuleAction::Reject(given(&raw.with, report)?.unwrap_or_default()),
            "count" => RuleAction::Count,
            _ => {
                let Some(to) = raw.to.as_ref() else {
                    let misread = Misread::new("the jump leads nowhere");
                    report.error(span, misread.help("write `to: GROUP` beside `jump`"));
                    return None;
                };
                RuleAction::Jump(find_group(scope.groups, to, report)?)
            }
        })
    }
}

fn find_group(
    groups: Option<&Entries<Vec<At<crate::raw::Rule>>>>,
    to: &Written<Name>,
    report: &mut Report<'_>,
) -> Option<GroupId> {
    let Some(groups) = groups.filter(|groups| !groups.list.is_empty()) else {
        report.error(
            to.span,
            Misread::new(format!("unknown group `{}`", to.text)).help("there are no `groups`"),
        );
        return None;
    };
    find(groups, to, "group", report).map(GroupId)
}

/// Which groups lead to which.
struct Jumps<'a> {
    groups: &'a [Entry<Vec<At<crate::raw::Rule>>>],
    /// What is known of each: nothing, that it is on the way, or how many jumps follow at most.
    seen: Vec<Option<Seen>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Seen {
    OnTheWay,
    Depth(u32),
}

impl<'a> Jumps<'a> {
    /// Refuses circles and what is too deep; warns of groups that nothing jumps to.
    fn check(raw: &'a crate::raw::Firewall, report: &mut Report<'_>) -> Option<()> {
        let groups = raw.groups.as_ref().map_or(&[][..], |groups| &groups.list);
        let mut jumps = Jumps { groups, seen: vec![None; groups.len()] };
        let mut way = Vec::new();
        for jump in raw.rules.iter().flatten().filter_map(|rule| rule.value.to.as_ref()) {
            let Some(group) = jumps.position(jump) else { continue };
            if jumps.depth(group, jump, &mut way, report)? >= DEEPEST {
                let misread = Misread::new(format!("more than {DEEPEST} jumps follow each other from here"));
                report.error(jump.span, misread);
                return None;
            }
        }
        // Circles among groups that are not jumped to are errors as well.
        for group in 0..groups.len() {
            if jumps.seen[group].is_none() {
                let name = &groups[group].name;
                let jumped_to = groups
                    .iter()
                    .flat_map(|entry| &entry.value)
                    .any(|rule| rule.value.to.as_ref().is_some_and(|to| to.text == name.text));
                jumps.depth(group, name, &mut way, report)?;
                if !jumped_to {
                    report.warning(name.span, format!("no rule jumps to the group `{}`", name.text));
                }
            }
        }
        Some(())
    }

    fn position(&self, name: &Written<Name>) -> Option<usize> {
        self.groups.iter().position(|entry| entry.name.text == name.text)
    }

    /// How many jumps follow the one to `group`; recursion ends, as there are at most [`MOST_GROUPS`].
    fn depth(
        &mut self,
        group: usize,
        jump: &Written<Name>,
        way: &mut Vec<usize>,
        report: &mut Report<'_>,
    ) -> Option<u32> {
        match self.seen[group] {
            Some(Seen::Depth(depth)) => return Some(depth),
            Some(Seen::OnTheWay) => {
                let start = way.iter().position(|passed| *passed == group).unwrap_or(0);
                let circle: Vec<&str> = way[start..]
                    .iter()
                    .chain([&group])
                    .map(|passed| self.groups[*passed].name.text.as_str())
                    .collect();
                let misread = Misread::new(format!("the jumps go in a circle: {}", circle.join(" → ")));
                report.error(jump.span, misread.help("a group may not lead back to itself"));
                return None;
            }
            None => {}
        }
        self.seen[group] = Some(Seen::OnTheWay);
        way.push(group);
        let groups = self.groups;
        let mut depth = 0;
        for to in groups[group].value.iter().filter_map(|rule| rule.value.to.as_ref()) {
            if let Some(next) = self.position(to) {
                depth = depth.max(1 + self.depth(next, to, way, report)?);
            }
        }
        way.pop();
        self.seen[group] = Some(Seen::Depth(depth));
        Some(depth)
    }
}
