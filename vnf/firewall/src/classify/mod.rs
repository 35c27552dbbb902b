//! Rules → the first one that matches.
//!
//! Groups are written out where they are jumped to (`flatten`); each rule becomes boxes (`boxes`, from `lists`) and a check of what
//! boxes cannot say (`check`); a decision tree for each family finds the candidates (`tree`). Why a tree: ADR 8.

mod boxes;
mod check;
mod flatten;
pub(crate) mod lists;
mod tree;

use crate::rule::{Actions, Family, Fields, Group, GroupId, PacketFields, Rule};
use check::Check;
use flatten::Flat;
use tree::Tree;

/// How deep jumps may lead from group to group.
pub const MAX_DEPTH: usize = 16;

/// How many rules there may be once the groups are written out where they are jumped to.
pub const MAX_RULES: usize = 1 << 20;

/// The place of a rule in flattened order: behind a jump come the rules of its group, then the rule behind the jump.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RuleIndex(pub u32);

/// Why rules cannot be compiled. Rules are numbered from 0; `group` is where the rule stands, `None` for the top.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CompileError {
    /// A jump to a group that is not there.
    #[error("rule {rule} jumps to a group that does not exist: {target:?}")]
    UnknownGroup {
        /// The group of the jump.
        group: Option<GroupId>,
        /// The jump.
        rule: usize,
        /// Where it would lead.
        target: GroupId,
    },
    /// A group leads back to itself.
    #[error("the group {target:?} leads back to itself by rule {rule} of {group:?}")]
    Cycle {
        /// The group of the jump.
        group: Option<GroupId>,
        /// The jump that closes the circle.
        rule: usize,
        /// Where it leads.
        target: GroupId,
    },
    /// Jumps are nested too deep.
    #[error("jumps are nested more than {MAX_DEPTH} deep by rule {rule} of {group:?}")]
    TooDeep {
        /// The group of the jump.
        group: Option<GroupId>,
        /// The jump.
        rule: usize,
    },
    /// More groups than [`GroupId`] can number.
    #[error("{groups} groups; at most 65536 are possible")]
    TooManyGroups {
        /// How many there are.
        groups: usize,
    },
    /// Too many rules, with each group counted where it is jumped to.
    #[error("{needed} rules, counting each group at each jump to it; at most {MAX_RULES} are possible")]
    TooManyRules {
        /// How many there would be; a lower bound if very many.
        needed: u64,
    },
}

/// A rule that matched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Match {
    /// Where it stands. The search goes on behind it with [`RuleSet::classify_after`], for a jump in its group.
    pub index: RuleIndex,
    /// Where the search goes on ([`RuleSet::classify_after`]) if its limit is exceeded: for a jump, behind its group.
    pub exceeded: RuleIndex,
    /// The caller's number of the rule.
    pub id: u32,
    /// What it does.
    pub actions: Actions,
}

/// What a look-up found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Classified {
    /// The first rule that matches, or `None`: the default.
    pub found: Option<Match>,
    /// Fields that the answer may have depended on and that may differ between packets of one flow. Without any, the answer
    /// holds for every packet with the same addresses, protocol, ports, ingress and VLAN. Never less than the truth.
    pub depends: PacketFields,
}

/// Compiled rules. Immutable; shared by all workers.
#[derive(Debug)]
pub struct RuleSet {
    rules: Vec<Rule>,
    groups: Vec<Group>,
    flat: Vec<Flat>,
    /// What a search hands out, close together.
    outcomes: Vec<Match>,
    /// Of each rule in flattened order, its number among the checks: what a group's rule asks for is kept once.
    sources: Vec<u32>,
    checks: Vec<Check>,
    ipv4: Tree<u32>,
    ipv6: Tree<u128>,
    depends: PacketFields,
}

impl RuleSet {
    /// Compiles rules and the groups that they jump to.
    ///
    /// # Errors
    /// [`CompileError`]: jumps to nowhere, in circles or too deep; too many rules.
    pub fn compile(rules: Vec<Rule>, groups: Vec<Group>) -> Result<RuleSet, CompileError> {
        let flat = flatten::flatten(&rules, &groups)?;
        let all = || rules.iter().chain(groups.iter().flat_map(|group| &group.rules));
        let checks: Vec<Check> = all().map(|rule| Check::of(&rule.matches)).collect();
        let mut first = rules.len() as u32;
        let starts: Vec<u32> = groups
            .iter()
            .map(|group| {
                let start = first;
                first += group.rules.len() as u32;
                start
            })
            .collect();
        let start = |flat: &Flat| flat.group.map_or(0, |group| starts[usize::from(group.0)]);
        let sources = flat.iter().map(|flat| start(flat) + flat.rule).collect();
        let depends = flat
            .iter()
            .fold(PacketFields::NONE, |all, flat| all | flat.rule(&rules, &groups).matches.packet_fields());
        let ipv4 = Tree::build(&boxes::boxes(&rules, &groups, &flat));
        let ipv6 = Tree::build(&boxes::boxes(&rules, &groups, &flat));
        let outcomes = flat.iter().enumerate().map(|(index, flat)| {
            let rule = flat.rule(&rules, &groups);
            Match {
                index: RuleIndex(index as u32),
                exceeded: RuleIndex(flat.last),
                id: rule.id,
                actions: rule.actions,
            }
        });
        let outcomes = outcomes.collect();
        Ok(RuleSet { rules, groups, flat, outcomes, sources, checks, ipv4, ipv6, depends })
    }

    /// The first rule that matches. Does not allocate.
    #[inline]
    pub fn classify(&self, fields: &Fields) -> Classified {
        self.search(fields, 0)
    }

    /// The first rule behind `after` that matches: the search goes on behind a rule that did not decide. Does not allocate.
    #[inline]
    pub fn classify_after(&self, fields: &Fields, after: RuleIndex) -> Classified {
        self.search(fields, after.0.saturating_add(1))
    }

    #[inline]
    fn search(&self, fields: &Fields, from: u32) -> Classified {
        let check = |index| boxes::holds(&self.flat, &self.checks, &self.sources, index, fields);
        let best = match fields.family {
            Family::Ipv4 => self.ipv4.search(fields, from, check),
            Family::Ipv6 => self.ipv6.search(fields, from, check),
        };
        Classified { found: self.outcomes.get(best.index as usize).copied(), depends: best.depends }
    }

    /// Bytes of what a look-up reads, besides the allocations of single checks: trees, checks and outcomes. Sets are shared and tell their own ([`crate::AddressSet::memory`]).
    ///
    /// The trees are bounded whatever the rules are. With *r* rules there are at most *b* = 65,536 + 2*r* boxes in each family; a tree has at
    /// most 2*b* + 65,536 entries of 36 (IPv4) or 96 (IPv6) bytes and 2*b* + 1024 nodes of 64. What does not fit is searched in longer
    /// leaves: slower, never wrong.
    pub fn memory(&self) -> usize {
        self.ipv4.memory()
            + self.ipv6.memory()
            + size_of_val(&*self.flat)
            + size_of_val(&*self.sources)
            + size_of_val(&*self.checks)
            + size_of_val(&*self.outcomes)
    }

    /// The fields in the conditions of any rule that may differ between packets of one flow. Without any, every answer holds
    /// for its whole flow.
    pub fn depends_on(&self) -> PacketFields {
        self.depends
    }

    /// How many rules there are in flattened order.
    pub fn len(&self) -> usize {
        self.flat.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.flat.is_empty()
    }

    /// The rule at `index` in flattened order.
    pub fn rule(&self, index: RuleIndex) -> Option<&Rule> {
        self.flat.get(index.0 as usize).map(|flat| flat.rule(&self.rules, &self.groups))
    }
}
