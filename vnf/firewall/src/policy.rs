//! Rules, limits, logs and the default, made ready: what is published as one.

use std::collections::HashMap;
use std::sync::Arc;

use throughway_session::Seed;

use crate::classify::{CompileError, RuleIndex, RuleSet};
use crate::counters::RuleState;
use crate::limits::{Limit, LimitConfig};
use crate::rule::{Ending, Group, GroupId, RejectWith, Rule, State, States};

/// What becomes of a packet that no rule decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DefaultAction {
    /// It passes.
    Allow,
    /// It ends, silently for its sender.
    #[default]
    Drop,
    /// It ends, and its sender is told.
    Reject(RejectWith),
}

impl DefaultAction {
    pub(crate) const fn ending(self) -> Ending {
        match self {
            DefaultAction::Allow => Ending::Allow,
            DefaultAction::Drop => Ending::Drop,
            DefaultAction::Reject(with) => Ending::Reject(with),
        }
    }
}

/// A kind of log. Each rule that uses it is limited by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// A word for the reader of the log.
    pub label: String,
    /// How many entries a second a rule may write; at least 1.
    pub per_second: u32,
    /// How many at once; at least 1.
    pub burst: u32,
}

/// A firewall's rules, as they are configured.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PolicyConfig {
    /// The rules at the top.
    pub rules: Vec<Rule>,
    /// What they jump to.
    pub groups: Vec<Group>,
    /// By [`LimitId`](crate::LimitId).
    pub limits: Vec<LimitConfig>,
    /// By the number in [`Actions::log`](crate::Actions::log).
    pub logs: Vec<LogConfig>,
    /// What becomes of packets that no rule decides.
    pub default: DefaultAction,
    /// By [`Rule::id`]: what identifies the rule over reloads, so that its counters go on. A rule that is not listed is
    /// identified by its number. Rules with one name share their counters.
    pub names: Vec<(u32, String)>,
    /// By [`Rule::id`]: where the rule is written, for reports.
    pub origins: Vec<(u32, Origin)>,
}

/// Where a rule is written: line and column, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Origin {
    /// The line.
    pub line: u32,
    /// The column.
    pub column: u32,
}

/// Why a policy cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PolicyError {
    /// See [`CompileError`].
    #[error(transparent)]
    Rules(#[from] CompileError),
    /// A rule names a limit that is not there.
    #[error("rule {rule} has a limit that does not exist: {limit}")]
    UnknownLimit {
        /// The rule's number.
        rule: u32,
        /// The limit's.
        limit: u16,
    },
    /// A rule names a kind of log that is not there.
    #[error("rule {rule} has a kind of log that does not exist: {log}")]
    UnknownLog {
        /// The rule's number.
        rule: u32,
        /// The log's.
        log: u16,
    },
    /// A limit on connections at a time stands at a rule that lets none through.
    #[error(
        "rule {rule} lets nothing through: a limit on connections at a time ({limit:?}) has nothing to count there"
    )]
    NothingToHold {
        /// The rule's number.
        rule: u32,
        /// The limit's name.
        limit: String,
    },
}

/// What stays over reloads, by name.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    rules: HashMap<String, Arc<RuleState>>,
    limits: HashMap<LimitConfig, Arc<Limit>>,
}

/// A rule where groups are written out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The jump that leads here; [`Place::TOP`] for none.
    pub(crate) parent: u32,
    /// States that the rule or a jump to it asks for by name.
    pub(crate) named: States,
    /// Index into [`Policy::states`].
    state: u32,
}

impl Place {
    pub(crate) const TOP: u32 = u32::MAX;
}

/// A policy ready for use. Made by [`Shared::prepare`](crate::Shared::prepare).
#[derive(Debug)]
pub struct Policy {
    pub(crate) set: RuleSet,
    pub(crate) default: DefaultAction,
    pub(crate) default_state: Arc<RuleState>,
    pub(crate) limits: Vec<Arc<Limit>>,
    pub(crate) logs: Vec<LogConfig>,
    pub(crate) states: Vec<(u32, String, Arc<RuleState>)>,
    places: Vec<Place>,
    origins: HashMap<u32, Origin>,
    /// The number of this policy: the first has [`FIRST`].
    pub(crate) number: u32,
    /// Sessions judged by policies before this one are judged again.
    pub(crate) rejudge_before: u32,
    /// The states that any rule asks for by name.
    named: States,
}

/// The number of a firewall's first policy. Those before it are of an earlier instance: sessions that are restored were judged by
/// them, as long as they are to be judged again.
const FIRST: u32 = 1;

/// The name under which what passes or ends by default is counted.
pub(crate) const DEFAULT: &str = "default";

impl Policy {
    /// Compiles. Rules and limits that the registry knows keep their state; the registry is not changed.
    pub(crate) fn new(config: PolicyConfig, registry: &Registry, seed: Seed) -> Result<Policy, PolicyError> {
        let PolicyConfig { rules, groups, limits, logs, default, names, origins } = config;
        for rule in rules.iter().chain(groups.iter().flat_map(|group| &group.rules)) {
            check(rule, &limits, &logs)?;
        }
        let names: HashMap<u32, String> = names.into_iter().collect();
        let mut states = Named::default();
        let lists = Lists {
            top: rules.iter().map(|rule| states.skeleton(rule, &names, registry)).collect(),
            groups: groups
                .iter()
                .map(|group| group.rules.iter().map(|rule| states.skeleton(rule, &names, registry)).collect())
                .collect(),
        };
        // First the check that jumps end somewhere, then following them.
        let set = RuleSet::compile(rules, groups)?;
        let mut places = Vec::with_capacity(set.len());
        lists.write(None, Place::TOP, States::default(), &mut places);
        let limits: Vec<_> = limits
            .into_iter()
            .map(|limit| match registry.limits.get(&limit) {
                Some(known) => Arc::clone(known),
                None => Arc::new(Limit::new(limit, seed)),
            })
            .collect();
        let named = places.iter().fold(States::default(), |all, place| all.with(place.named));
        Ok(Policy {
            set,
            default,
            default_state: registry.rules.get(DEFAULT).cloned().unwrap_or_default(),
            limits,
            logs,
            states: states.list,
            places,
            origins: origins.into_iter().collect(),
            number: FIRST,
            rejudge_before: FIRST,
            named,
        })
    }

    /// What a kind of log is called: the name of its rule.
    pub fn log_label(&self, log: u16) -> Option<&str> {
        self.logs.get(usize::from(log)).map(|log| log.label.as_str())
    }

    /// Where the rule of this number is written, if that was said.
    pub fn origin(&self, rule: u32) -> Option<Origin> {
        self.origins.get(&rule).copied()
    }

    /// Whether any rule asks for `state` by name.
    pub(crate) const fn names(&self, state: State) -> bool {
        self.named.contains(state)
    }

    pub(crate) fn place(&self, index: RuleIndex) -> Option<Place> {
        self.places.get(index.0 as usize).copied()
    }

    pub(crate) fn state(&self, index: RuleIndex) -> &Arc<RuleState> {
        let state = self.place(index).and_then(|place| self.states.get(place.state as usize));
        state.map_or(&self.default_state, |(_, _, state)| state)
    }

    /// The numbers of the jumps that lead to a rule, the outermost first.
    pub(crate) fn path(&self, index: RuleIndex) -> Vec<u32> {
        let mut path = Vec::new();
        let mut at = self.place(index).map_or(Place::TOP, |place| place.parent);
        while let Some(rule) = self.set.rule(RuleIndex(at)) {
            path.push(rule.id);
            at = self.place(RuleIndex(at)).map_or(Place::TOP, |place| place.parent);
        }
        path.reverse();
        path
    }

    /// What the registry shall know once this policy is in force: no more than it uses.
    pub(crate) fn registry(&self) -> Registry {
        let rules = self.states.iter().map(|(_, name, state)| (name.clone(), Arc::clone(state)));
        let default = (DEFAULT.to_owned(), Arc::clone(&self.default_state));
        Registry {
            rules: rules.chain([default]).collect(),
            limits: self.limits.iter().map(|limit| (limit.config().clone(), Arc::clone(limit))).collect(),
        }
    }
}

fn check(rule: &Rule, limits: &[LimitConfig], logs: &[LogConfig]) -> Result<(), PolicyError> {
    if let Some(id) = rule.actions.limit {
        let Some(limit) = limits.get(usize::from(id.0)) else {
            return Err(PolicyError::UnknownLimit { rule: rule.id, limit: id.0 });
        };
        let held = matches!(limit.measure, crate::limits::Measure::Connections { .. });
        let refuses = matches!(rule.actions.ending, Ending::Drop | Ending::Reject(_));
        if held && !limit.over && refuses {
            return Err(PolicyError::NothingToHold { rule: rule.id, limit: limit.name.clone() });
        }
    }
    match rule.actions.log {
        Some(log) if usize::from(log) >= logs.len() => Err(PolicyError::UnknownLog { rule: rule.id, log }),
        _ => Ok(()),
    }
}

/// What of a rule is needed to write out the places.
struct Skeleton {
    jump: Option<GroupId>,
    named: States,
    state: u32,
}

#[derive(Default)]
struct Named {
    list: Vec<(u32, String, Arc<RuleState>)>,
    by_name: HashMap<String, u32>,
}

impl Named {
    fn skeleton(&mut self, rule: &Rule, names: &HashMap<u32, String>, registry: &Registry) -> Skeleton {
        let name = names.get(&rule.id).cloned().unwrap_or_else(|| format!("#{}", rule.id));
        let state = *self.by_name.entry(name.clone()).or_insert_with(|| {
            let state = registry.rules.get(&name).cloned().unwrap_or_default();
            self.list.push((rule.id, name, state));
            self.list.len() as u32 - 1
        });
        let jump = match rule.actions.ending {
            Ending::Jump(group) => Some(group),
            _ => None,
        };
        Skeleton { jump, named: rule.matches.states.unwrap_or_default(), state }
    }
}

struct Lists {
    top: Vec<Skeleton>,
    groups: Vec<Vec<Skeleton>>,
}

impl Lists {
    /// In the order of [`RuleIndex`]: behind a jump come the rules of its group.
    fn write(&self, group: Option<GroupId>, parent: u32, named: States, places: &mut Vec<Place>) {
        let list = match group {
            None => Some(&self.top),
            Some(group) => self.groups.get(usize::from(group.0)),
        };
        for rule in list.into_iter().flatten() {
            let index = places.len() as u32;
            let named = named.with(rule.named);
            places.push(Place { parent, named, state: rule.state });
            if rule.jump.is_some() {
                self.write(rule.jump, index, named, places);
            }
        }
    }
}
