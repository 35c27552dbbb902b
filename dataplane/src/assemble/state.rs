//! What outlives a configuration: the tables of stateful functions, by name. A reload brings new rules to old sessions.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use throughway_config::Config;
use throughway_session::Seed;
use throughway_vnf::{EventQueue, Generations};

use super::balancer::{BalancerError, Director, Plan};
use super::nat::NatSpec;
use crate::host::HostFacts;

/// Events that may wait for the control side: log lines of rules.
const EVENTS: usize = 8192;

/// The tables of all stateful functions.
#[derive(Debug)]
pub struct States {
    seed: u128,
    generations: Arc<Generations>,
    events: Arc<EventQueue>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    firewalls: HashMap<String, KnownFirewall>,
    nats: HashMap<String, KnownNat>,
    balancers: HashMap<String, Arc<Director>>,
    /// The names of functions, by the number that their events carry.
    names: Vec<String>,
}

#[derive(Debug)]
struct KnownFirewall {
    track: throughway_config::Track,
    shared: Arc<throughway_firewall::Shared>,
}

#[derive(Debug)]
struct KnownNat {
    sessions: u32,
    shared: Arc<throughway_nat::Shared>,
    /// What is in force.
    last: Option<NatSpec>,
}

impl Known {
    /// The number that the events of a function carry. Numbers are never given to others: a name that comes again gets its own.
    fn number_of(&mut self, name: &str) -> u16 {
        let found = self.names.iter().position(|known| known == name).unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        });
        u16::try_from(found).unwrap_or(u16::MAX)
    }
}

impl States {
    /// No state yet. `seed` keys hash functions: secret in the service, anything in tests.
    pub fn new(seed: u128, generations: Arc<Generations>) -> States {
        States { seed, generations, events: EventQueue::new(EVENTS), known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What functions tell.
    pub fn events(&self) -> &Arc<EventQueue> {
        &self.events
    }

    /// The function whose events carry this number.
    pub fn name_of(&self, number: u16) -> Option<String> {
        self.known().names.get(usize::from(number)).cloned()
    }

    /// A seed for the tables of a function: another for each.
    pub(super) fn seed_of(&self, name: &str) -> Seed {
        let salt = name.bytes().fold(0u64, |salt, byte| salt.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte));
        Seed([self.seed as u64 ^ salt, (self.seed >> 64) as u64])
    }

    /// The firewall of that name with its sessions, and rules that are ready to be published to it; a new one has them at
    /// once.
    pub(super) fn firewall(
        &self,
        name: &str,
        config: &throughway_config::Firewall,
    ) -> Result<(Arc<throughway_firewall::Shared>, Option<throughway_firewall::Policy>), FirewallError> {
        let mut known = self.known();
        let policy = super::firewall::policy(config)?;
        if let Some(there) = known.firewalls.get(name) {
            let mut track = config.track.clone();
            track.rejudge = there.track.rejudge;
            if there.track != track {
                return Err(FirewallError::Track);
            }
            let policy = there.shared.prepare(policy, config.track.rejudge)?;
            return Ok((Arc::clone(&there.shared), Some(policy)));
        }
        let number = known.number_of(name);
        let shared = throughway_firewall::Shared::new(
            super::firewall::options(config, self.seed_of(name)),
            policy,
            Arc::clone(&self.generations),
            self.events.of_function(number),
        )?;
        let entry = KnownFirewall { track: config.track.clone(), shared: Arc::clone(&shared) };
        known.firewalls.insert(name.to_owned(), entry);
        Ok((shared, None))
    }

    /// The firewalls, by name.
    pub fn firewalls(&self) -> Vec<(String, Arc<throughway_firewall::Shared>)> {
        let known = self.known();
        let all = known.firewalls.iter().map(|(name, entry)| (name.clone(), Arc::clone(&entry.shared)));
        let mut all: Vec<_> = all.collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    /// Whether a firewall's rules judge sessions again that were there before them.
    pub(super) fn rejudges(&self, firewall: &str) -> bool {
        self.known().firewalls.get(firewall).is_some_and(|entry| entry.track.rejudge)
    }

    /// Where a rule of a firewall stands in the configuration.
    pub fn origin(&self, firewall: &str, rule: u32) -> Option<throughway_firewall::Origin> {
        self.known().firewalls.get(firewall)?.shared.policy().origin(rule)
    }

    /// What a kind of log of a firewall is called: the name of its rule.
    pub fn log_label(&self, firewall: &str, log: u16) -> Option<String> {
        self.known().firewalls.get(firewall)?.shared.policy().log_label(log).map(str::to_owned)
    }

    /// The NAT of that name with its sessions, and rules for the host as it is.
    pub(super) fn nat(
        &self,
        name: &str,
        config: &throughway_config::Nat,
        facts: &HostFacts,
    ) -> Result<NatSpec, SessionsChanged> {
        let mut known = self.known();
        let Seed(seed) = self.seed_of(name);
        let number = known.number_of(name);
        let entry = known.nats.entry(name.to_owned()).or_insert_with(|| {
            let options = super::nat::options(config, seed);
            let shared = throughway_nat::Shared::new(options, Arc::clone(&self.generations));
            let shared = Arc::new(shared.with_events(self.events.of_function(number)));
            KnownNat { sessions: config.sessions, shared, last: None }
        });
        if entry.sessions != config.sessions {
            return Err(SessionsChanged);
        }
        Ok(NatSpec::new(config, facts, Arc::clone(&entry.shared), entry.last.as_ref()))
    }

    /// This is now in force.
    pub(super) fn in_force(&self, name: &str, spec: &NatSpec) {
        if let Some(entry) = self.known().nats.get_mut(name) {
            spec.succeeds(entry.last.as_ref());
            entry.last = Some(spec.clone());
        }
    }

    /// The NATs in force, by name.
    pub fn nats(&self) -> Vec<(String, NatSpec)> {
        let known = self.known();
        let all = known.nats.iter().filter_map(|(name, entry)| Some((name.clone(), entry.last.clone()?)));
        let mut all: Vec<_> = all.collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    /// The load balancer of that name with its connections, and services that are ready to be put into force; a new one has them
    /// at once.
    pub(super) fn balancer(
        &self,
        name: &str,
        config: &throughway_config::LoadBalancer,
        facts: &HostFacts,
    ) -> Result<(Arc<Director>, Option<Plan>), BalancerError> {
        let mut known = self.known();
        if let Some(there) = known.balancers.get(name) {
            let plan = there.plan(config, facts)?;
            return Ok((Arc::clone(there), Some(plan)));
        }
        let generations = Arc::clone(&self.generations);
        let director = Arc::new(Director::new(config, facts, self.seed_of(name), generations)?);
        known.balancers.insert(name.to_owned(), Arc::clone(&director));
        Ok((director, None))
    }

    /// The load balancers, by name.
    pub fn balancers(&self) -> Vec<(String, Arc<Director>)> {
        let known = self.known();
        let all = known.balancers.iter().map(|(name, director)| (name.clone(), Arc::clone(director)));
        let mut all: Vec<_> = all.collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    /// Which of the host's own addresses functions claim for the workers.
    pub fn claims(&self, local: &[IpAddr]) -> HashSet<IpAddr> {
        let nats = self.nats();
        let nats = local.iter().filter(|address| nats.iter().any(|(_, nat)| nat.claims(**address))).copied();
        nats.chain(self.balancers().iter().flat_map(|(_, director)| director.claims(local))).collect()
    }

    /// Forgets functions that `config` no longer has.
    pub fn retain(&self, config: &Config) {
        let is = |name: &str, kind: &str| {
            config.functions.iter().any(|function| *function.name == *name && function.kind.word() == kind)
        };
        let mut known = self.known();
        known.firewalls.retain(|name, _| is(name, "firewall"));
        known.nats.retain(|name, _| is(name, "nat"));
        known.balancers.retain(|name, _| is(name, "load-balancer"));
    }
}

/// A NAT's table cannot change its size while it has sessions.
#[derive(Debug, thiserror::Error)]
#[error("`limits.sessions` cannot change while the service runs, its sessions would be lost: restart it")]
pub(super) struct SessionsChanged;

/// Why a firewall cannot be built.
#[derive(Debug, thiserror::Error)]
pub(super) enum FirewallError {
    #[error(transparent)]
    Policy(#[from] throughway_firewall::PolicyError),
    #[error(transparent)]
    TooMany(#[from] super::firewall::TooMany),
    #[error("`track` cannot change while the service runs, its sessions would be lost: restart it")]
    Track,
}
