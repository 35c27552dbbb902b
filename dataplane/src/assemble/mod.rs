//! Checked configuration → functions and chains: the one place where the YAML meets the functions.
//!
//! Each kind of function has its file. [`Blueprint`] holds what all workers share of the functions; from it every worker gets
//! a [`Program`] of its own.

pub mod marker;
pub mod router;

use std::collections::HashMap;
use std::sync::Arc;

use throughway_config::{Config, FunctionKind};
use throughway_vnf::{FunctionTag, Snapshot};

use crate::chain::{AnyFunction, Chain, NamedFunction, Program};
use crate::host::HostFacts;
use crate::stats::{ChainStats, FunctionStats};

/// A function that cannot be built although its configuration is valid.
#[derive(Debug, thiserror::Error)]
#[error("functions.{function}: {source}")]
pub struct AssembleError {
    function: String,
    source: throughway_marker::RuleError,
}

/// What is shared by all workers: made once per configuration.
#[derive(Debug)]
pub struct Blueprint {
    functions: Vec<(String, Shared)>,
    chains: Vec<(String, Vec<usize>)>,
    chain_of: Vec<Option<usize>>,
}

#[derive(Debug)]
enum Shared {
    Router(RouterSpec),
    Marker(Arc<throughway_marker::Rules>),
}

/// A router that the kernel mirror keeps up to date.
#[derive(Clone, Debug)]
pub struct RouterSpec {
    /// Its name in the configuration.
    pub name: String,
    /// Its configuration.
    pub config: throughway_config::Router,
    /// Where its tables are published.
    pub tables: Snapshot<throughway_router::Tables>,
}

impl Blueprint {
    /// Builds everything of `config` that workers share, from what is known of the host.
    pub fn new(config: &Config, facts: &HostFacts) -> Result<Self, AssembleError> {
        let functions = config.functions.iter().map(|function| {
            let name = function.name.to_string();
            let shared = match &function.kind {
                FunctionKind::Router(router) => Shared::Router(RouterSpec {
                    name: name.clone(),
                    config: router.clone(),
                    tables: Snapshot::new(router::tables(facts, router, None)),
                }),
                FunctionKind::Marker(marker) => Shared::Marker(
                    marker::rules(marker)
                        .map_err(|error| AssembleError { function: name.clone(), source: error })?,
                ),
            };
            Ok((name, shared))
        });
        let functions = functions.collect::<Result<Vec<_>, AssembleError>>()?;
        let chains = config.chains.iter();
        let chains = chains
            .map(|chain| (chain.name.to_string(), chain.run.iter().map(|id| id.index()).collect()))
            .collect();
        let mut chain_of = vec![None; config.interfaces.len()];
        for (index, chain) in config.chains.iter().enumerate() {
            for from in &chain.from {
                if let Some(slot) = chain_of.get_mut(from.index()) {
                    *slot = Some(index);
                }
            }
        }
        Ok(Blueprint { functions, chains, chain_of })
    }

    /// The routers, for the kernel mirror.
    pub fn routers(&self) -> Vec<RouterSpec> {
        let routers = self.functions.iter().filter_map(|(_, shared)| match shared {
            Shared::Router(spec) => Some(spec.clone()),
            Shared::Marker(_) => None,
        });
        routers.collect()
    }

    /// What worker `worker` runs. Figures of functions and chains that were there before go on.
    pub fn program(&self, worker: usize, figures: &mut Figures) -> Program {
        let functions = self.functions.iter().map(|(name, shared)| {
            let function = match shared {
                Shared::Router(spec) => {
                    let router = throughway_router::Router::new(spec.tables.clone());
                    AnyFunction::Router(router.with_options(router::options(&spec.config)))
                }
                Shared::Marker(rules) => {
                    AnyFunction::Marker(throughway_marker::Marker::new(Arc::clone(rules)))
                }
            };
            let stats = figures.function(worker, name, function.kind());
            let tag = figures.tag(name, function.kind());
            NamedFunction { name: name.clone(), tag, function, stats }
        });
        let functions = functions.collect();
        let chains = self.chains.iter().map(|(name, run)| Chain {
            name: name.clone(),
            run: run.clone(),
            stats: figures.chain(worker, name),
        });
        Program { functions, chains: chains.collect(), chain_of: self.chain_of.clone() }
    }
}

/// The figures of functions and chains, by worker and name: they outlive a reload while name and kind stay.
#[derive(Debug, Default)]
pub struct Figures {
    functions: HashMap<(usize, String, &'static str), Arc<FunctionStats>>,
    chains: HashMap<(usize, String), Arc<ChainStats>>,
    tags: HashMap<(String, &'static str), FunctionTag>,
    last_tag: u8,
}

/// The figures of one function in one worker.
#[derive(Clone, Debug)]
pub struct FunctionFigures {
    /// The worker.
    pub worker: usize,
    /// The function.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// What was counted.
    pub stats: Arc<FunctionStats>,
}

/// The figures of one chain in one worker.
#[derive(Clone, Debug)]
pub struct ChainFigures {
    /// The worker.
    pub worker: usize,
    /// The chain.
    pub name: String,
    /// What was counted.
    pub stats: Arc<ChainStats>,
}

impl Figures {
    fn function(&mut self, worker: usize, name: &str, kind: &'static str) -> Arc<FunctionStats> {
        Arc::clone(self.functions.entry((worker, name.to_owned(), kind)).or_default())
    }

    /// The tag of a function: the one it has, or the one that was free for longest. There are at most 200 functions.
    fn tag(&mut self, name: &str, kind: &'static str) -> FunctionTag {
        if let Some(tag) = self.tags.get(&(name.to_owned(), kind)) {
            return *tag;
        }
        let mut next = (1..=u8::MAX).map(|step| FunctionTag(self.last_tag.wrapping_add(step)));
        let free = next.find(|tag| tag.0 != 0 && !self.tags.values().any(|taken| taken == tag));
        let tag = free.unwrap_or_default();
        self.last_tag = tag.0;
        self.tags.insert((name.to_owned(), kind), tag);
        tag
    }

    fn chain(&mut self, worker: usize, name: &str) -> Arc<ChainStats> {
        Arc::clone(self.chains.entry((worker, name.to_owned())).or_default())
    }

    /// Forgets functions and chains that `config` no longer has.
    pub fn retain(&mut self, config: &Config) {
        self.functions.retain(|(_, name, kind), _| {
            config.functions.iter().any(|function| *function.name == **name && function.kind.word() == *kind)
        });
        self.tags.retain(|(name, kind), _| {
            config.functions.iter().any(|function| *function.name == **name && function.kind.word() == *kind)
        });
        self.chains.retain(|(_, name), _| config.chains.iter().any(|chain| *chain.name == **name));
    }

    /// All functions, by worker and name.
    pub fn functions(&self) -> Vec<FunctionFigures> {
        let all = self.functions.iter().map(|((worker, name, kind), stats)| FunctionFigures {
            worker: *worker,
            name: name.clone(),
            kind,
            stats: Arc::clone(stats),
        });
        let mut all: Vec<_> = all.collect();
        all.sort_by(|a, b| (a.worker, &a.name).cmp(&(b.worker, &b.name)));
        all
    }

    /// All chains, by worker and name.
    pub fn chains(&self) -> Vec<ChainFigures> {
        let all = self.chains.iter().map(|((worker, name), stats)| ChainFigures {
            worker: *worker,
            name: name.clone(),
            stats: Arc::clone(stats),
        });
        let mut all: Vec<_> = all.collect();
        all.sort_by(|a, b| (a.worker, &a.name).cmp(&(b.worker, &b.name)));
        all
    }
}
