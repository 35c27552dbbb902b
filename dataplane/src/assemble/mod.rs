//! Checked configuration → functions and chains: the one place where the YAML meets the functions.
//!
//! Each kind of function has its file. [`Blueprint`] holds what all workers share of the functions; from it every worker gets
//! a [`Program`] of its own.

pub mod balancer;
pub mod early;
pub mod findings;
pub mod firewall;
mod lasting;
pub mod marker;
pub mod nat;
pub mod router;
pub mod state;
mod timeouts;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use throughway_config::{Config, FunctionKind};
use throughway_vnf::{FunctionTag, Snapshot};

use crate::chain::{AnyFunction, Chain, NamedFunction, Program};
use crate::host::HostFacts;
use crate::rib::{Kernel, Rib};
use crate::stats::{ChainStats, FunctionStats};
use state::States;

/// A function that cannot be built although its configuration is valid.
#[derive(Debug, thiserror::Error)]
#[error("functions.{function}: {source}")]
pub struct AssembleError {
    function: String,
    source: AssembleReason,
}

/// Why it cannot be built.
#[derive(Debug, thiserror::Error)]
enum AssembleReason {
    #[error(transparent)]
    Rules(#[from] throughway_marker::RuleError),
    #[error(transparent)]
    Firewall(#[from] state::FirewallError),
    #[error(transparent)]
    Nat(#[from] state::SessionsChanged),
    #[error(transparent)]
    Balancer(#[from] balancer::BalancerError),
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
    Firewall(FirewallSpec),
    Nat(nat::NatSpec),
    Balancer(BalancerSpec),
}

/// A load balancer, and the services that this blueprint brings to it.
#[derive(Debug)]
struct BalancerSpec {
    director: Arc<balancer::Director>,
    plan: Mutex<Option<balancer::Plan>>,
}

/// A firewall with its sessions, and the rules that this blueprint brings to them.
struct FirewallSpec {
    shared: Arc<throughway_firewall::Shared>,
    policy: Mutex<Option<throughway_firewall::Policy>>,
}

impl std::fmt::Debug for FirewallSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.shared.fmt(f)
    }
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
    /// The side of its forwarding table that changes it.
    pub rib: Arc<Mutex<Rib>>,
}

/// Where a blueprint gets the kernel's routes from.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// The host.
    pub facts: &'a HostFacts,
    /// The kernel's routes.
    pub kernel: Kernel<'a>,
    /// Routers that run: one that is configured as before stays what it is, with its table.
    pub running: &'a [RouterSpec],
}

impl Blueprint {
    /// Builds everything of `config` that workers share, from what is known of the host: its routes among the facts. Stateful
    /// functions keep their tables, which are in `states`.
    pub fn new(config: &Config, facts: &HostFacts, states: &States) -> Result<Self, AssembleError> {
        let (routes, ports) = crate::rib::facts::routes(facts);
        let kernel = Kernel { routes: &routes, ports: &ports };
        Blueprint::on(config, Ground { facts, kernel, running: &[] }, states)
    }

    /// Builds everything of `config` that workers share; stateful functions keep their tables, which are in `states`.
    pub fn on(config: &Config, ground: Ground<'_>, states: &States) -> Result<Self, AssembleError> {
        let functions = config.functions.iter().map(|function| {
            let name = function.name.to_string();
            let shared = match &function.kind {
                FunctionKind::Router(router) => {
                    let same = |spec: &&RouterSpec| spec.name == name && spec.config == *router;
                    let running = ground.running.iter().find(same).cloned();
                    Shared::Router(
                        running.unwrap_or_else(|| router::follow(&name, router, ground.facts, ground.kernel)),
                    )
                }
                FunctionKind::Marker(marker) => Shared::Marker(
                    marker::rules(marker)
                        .map_err(|error| AssembleError { function: name.clone(), source: error.into() })?,
                ),
                FunctionKind::Nat(nat) => Shared::Nat(
                    states
                        .nat(&name, nat, ground.facts)
                        .map_err(|error| AssembleError { function: name.clone(), source: error.into() })?,
                ),
                FunctionKind::LoadBalancer(config) => {
                    let (director, plan) = states
                        .balancer(&name, config, ground.facts)
                        .map_err(|error| AssembleError { function: name.clone(), source: error.into() })?;
                    Shared::Balancer(BalancerSpec { director, plan: Mutex::new(plan) })
                }
                FunctionKind::Firewall(firewall) => {
                    let (shared, policy) = states
                        .firewall(&name, firewall)
                        .map_err(|error| AssembleError { function: name.clone(), source: error.into() })?;
                    Shared::Firewall(FirewallSpec { shared, policy: Mutex::new(policy) })
                }
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
            _ => None,
        });
        routers.collect()
    }

    /// Brings the rules of this blueprint to the sessions of functions that run already, and follows the host for those that
    /// depend on its addresses. Cannot fail; to be called once the programs are in force.
    pub fn publish(&self, states: &States) {
        for (name, shared) in &self.functions {
            if let Shared::Nat(spec) = shared {
                states.in_force(name, spec);
            }
            if let Shared::Firewall(spec) = shared
                && let Some(policy) = spec.policy.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                spec.shared.publish(policy);
            }
            if let Shared::Balancer(spec) = shared
                && let Some(plan) = spec.plan.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                spec.director.apply(plan);
            }
        }
    }

    /// What worker `worker` runs. Figures of functions and chains that were there before go on.
    pub fn program(&self, worker: usize, figures: &mut Figures) -> Program {
        let functions = self.functions.iter().map(|(name, shared)| {
            let function = match shared {
                Shared::Router(spec) => {
                    let router = throughway_router::Router::new(spec.tables.clone());
                    let router = router.counting(figures.router(worker, name));
                    AnyFunction::Router(router.with_options(router::options(&spec.config)))
                }
                Shared::Marker(rules) => {
                    AnyFunction::Marker(throughway_marker::Marker::new(Arc::clone(rules)))
                }
                Shared::Nat(spec) => {
                    let (shared, rules) = (Arc::clone(&spec.shared), spec.rules.clone());
                    AnyFunction::Nat(throughway_nat::Nat::new(shared, rules, worker as u64))
                }
                Shared::Balancer(spec) => AnyFunction::Balancer(throughway_balancer::Balancer::new(
                    Arc::clone(spec.director.shared()),
                )),
                Shared::Firewall(spec) => {
                    AnyFunction::Firewall(throughway_firewall::Firewall::new(Arc::clone(&spec.shared)))
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
    routers: HashMap<(usize, String), Arc<throughway_router::Counters>>,
}

/// What one worker saw of one router.
#[derive(Clone, Debug)]
pub struct RouterFigures {
    /// The worker.
    pub worker: usize,
    /// The router.
    pub name: String,
    /// What was counted.
    pub counters: Arc<throughway_router::Counters>,
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

    fn router(&mut self, worker: usize, name: &str) -> Arc<throughway_router::Counters> {
        Arc::clone(self.routers.entry((worker, name.to_owned())).or_default())
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
        self.routers.retain(|(_, name), _| {
            let is_router = |kind: &FunctionKind| matches!(kind, FunctionKind::Router(_));
            config.functions.iter().any(|function| *function.name == **name && is_router(&function.kind))
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

    /// All routers, by worker and name.
    pub fn routers(&self) -> Vec<RouterFigures> {
        let all = self.routers.iter().map(|((worker, name), counters)| RouterFigures {
            worker: *worker,
            name: name.clone(),
            counters: Arc::clone(counters),
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
