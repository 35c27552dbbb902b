//! Groups are written out where they are jumped to.

use crate::classify::{CompileError, MAX_DEPTH, MAX_RULES};
use crate::rule::{Ending, Group, GroupId, Rule};

/// No jump leads here: a rule of the top.
pub(super) const NO_PARENT: u32 = u32::MAX;

/// A rule in flattened order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Flat {
    /// The group it stands in.
    pub(super) group: Option<GroupId>,
    /// Its index there.
    pub(super) rule: u32,
    /// The flattened index of the jump that leads here, whose conditions must hold too; or [`NO_PARENT`].
    pub(super) parent: u32,
    /// Of a jump, the flattened index of the last rule of its group; of others their own.
    pub(super) last: u32,
}

impl Flat {
    /// The rule itself. The indices were made from these very lists.
    pub(super) fn rule<'a>(&self, rules: &'a [Rule], groups: &'a [Group]) -> &'a Rule {
        let list = match self.group {
            None => rules,
            Some(group) => &groups[usize::from(group.0)].rules,
        };
        &list[self.rule as usize]
    }
}

/// Writes out all groups.
pub(super) fn flatten(rules: &[Rule], groups: &[Group]) -> Result<Vec<Flat>, CompileError> {
    if groups.len() > usize::from(u16::MAX) + 1 {
        return Err(CompileError::TooManyGroups { groups: groups.len() });
    }
    let mut sizes = Sizes { groups, known: vec![Size::Unknown; groups.len()] };
    let mut needed = sizes.of(None, rules, 0)?.rules;
    // Groups that nobody jumps to are checked too.
    for (index, group) in groups.iter().enumerate() {
        let id = GroupId(index as u16);
        needed = needed.max(sizes.of(Some(id), &group.rules, 0)?.rules);
    }
    if needed > MAX_RULES as u64 {
        return Err(CompileError::TooManyRules { needed });
    }
    let mut flat = Vec::with_capacity(needed as usize);
    write(rules, groups, None, NO_PARENT, &mut flat);
    Ok(flat)
}

fn write(rules: &[Rule], groups: &[Group], group: Option<GroupId>, parent: u32, flat: &mut Vec<Flat>) {
    for (number, rule) in rules.iter().enumerate() {
        let index = flat.len();
        flat.push(Flat { group, rule: number as u32, parent, last: index as u32 });
        if let Ending::Jump(target) = rule.actions.ending {
            write(&groups[usize::from(target.0)].rules, groups, Some(target), index as u32, flat);
            flat[index].last = flat.len() as u32 - 1;
        }
    }
}

/// What a list of rules comes to.
#[derive(Clone, Copy)]
struct Sum {
    /// Rules in flattened order, or more than [`MAX_RULES`].
    rules: u64,
    /// How many jumps deep it goes.
    depth: usize,
}

#[derive(Clone, Copy)]
enum Size {
    Unknown,
    /// Being counted: a jump back to it is a circle.
    Open,
    Known(Sum),
}

/// Counts before anything is written: each group once, however often it is jumped to.
struct Sizes<'a> {
    groups: &'a [Group],
    known: Vec<Size>,
}

impl Sizes<'_> {
    /// `above`: how many jumps lead here at least, so that this recursion is as bounded as the jumps.
    fn of(&mut self, group: Option<GroupId>, rules: &[Rule], above: usize) -> Result<Sum, CompileError> {
        let own = group.map(|group| usize::from(group.0));
        if let Some(own) = own {
            if let Size::Known(sum) = self.known[own] {
                return Ok(sum);
            }
            self.known[own] = Size::Open;
        }
        let mut sum = Sum { rules: rules.len() as u64, depth: 0 };
        for (rule, jump) in rules.iter().enumerate() {
            let Ending::Jump(target) = jump.actions.ending else { continue };
            let Some(to) = self.groups.get(usize::from(target.0)) else {
                return Err(CompileError::UnknownGroup { group, rule, target });
            };
            if matches!(self.known[usize::from(target.0)], Size::Open) {
                return Err(CompileError::Cycle { group, rule, target });
            }
            if above >= MAX_DEPTH {
                return Err(CompileError::TooDeep { group, rule });
            }
            let inner = self.of(Some(target), &to.rules, above + 1)?;
            if inner.depth >= MAX_DEPTH {
                return Err(CompileError::TooDeep { group, rule });
            }
            sum = Sum { rules: sum.rules.saturating_add(inner.rules), depth: sum.depth.max(inner.depth + 1) };
        }
        if let Some(own) = own {
            self.known[own] = Size::Known(sum);
        }
        Ok(sum)
    }
}
