//! What all workers share of one firewall: sessions, rules, limits, datagrams in pieces.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use throughway_session::{
    Class, Config, Removed, SessionId, SessionTable, SourceConfig, SourceCounter, Stats,
};
use throughway_vnf::{Events, Generations, Now, Slot, Snapshot};

use crate::fragments::Fragments;
use crate::options::Options;
use crate::policy::{Policy, PolicyConfig, PolicyError, Registry};
use crate::session::Tracked;

/// How many sessions, and how many datagrams, are looked at in one slice of ageing.
const AGEING: usize = 64;

/// What all workers share of one firewall.
pub struct Shared {
    pub(crate) options: Options,
    pub(crate) policy: Snapshot<Policy>,
    pub(crate) sessions: SessionTable<Tracked>,
    pub(crate) sources: Option<(u32, SourceCounter)>,
    pub(crate) fragments: Fragments,
    pub(crate) generations: Arc<Generations>,
    pub(crate) events: Events,
    registry: Mutex<Registry>,
}

/// What a firewall holds and has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Overview {
    /// Sessions there are, by [`Class`]: half-open, established, closing.
    pub sessions: [u32; 3],
    /// What the session table has counted.
    pub table: Stats,
    /// Sources that have sessions; 0 without a limit per source.
    pub sources: u32,
    /// Datagrams of which fragments are awaited.
    pub datagrams: u32,
    /// Bytes of the session table.
    pub memory: usize,
}

impl Shared {
    /// A firewall without sessions. `generations` is the data plane's; `events` takes log entries.
    ///
    /// # Errors
    /// [`PolicyError`]: the rules cannot be compiled.
    pub fn new(
        options: Options,
        rules: PolicyConfig,
        generations: Arc<Generations>,
        events: Events,
    ) -> Result<Arc<Shared>, PolicyError> {
        let registry = Registry::default();
        let policy = Policy::new(rules, &registry, options.seed)?;
        let registry = policy.registry();
        let half_open = options.half_open.min(options.sessions);
        let config = Config::new(options.sessions, options.seed).half_open(half_open, options.when_full);
        let counter = SourceConfig { capacity: options.sessions, ipv6_prefix: 64, seed: options.seed };
        Ok(Arc::new(Shared {
            options,
            policy: Snapshot::new(policy),
            sessions: SessionTable::new(config),
            sources: options.per_source.map(|most| (most, SourceCounter::new(counter))),
            fragments: Fragments::new(options.datagrams, options.fragment_timeout, options.seed),
            generations,
            events,
            registry: Mutex::new(registry),
        }))
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a policy ready without putting it into force. Rules and limits that stay as they are named (and limits, as they
    /// are) keep their counters and budgets. With `rejudge`, every session is judged by the new rules at its next
    /// packet; else those that are there stay.
    ///
    /// # Errors
    /// [`PolicyError`]; nothing has changed then.
    pub fn prepare(&self, rules: PolicyConfig, rejudge: bool) -> Result<Policy, PolicyError> {
        let registry = self.registry();
        let mut policy = Policy::new(rules, &registry, self.options.seed)?;
        let current = self.policy.read();
        policy.number = current.number.wrapping_add(1);
        policy.rejudge_before = if rejudge { policy.number } else { current.rejudge_before };
        Ok(policy)
    }

    /// Puts a policy into force for all workers, and lets the flow caches judge anew. Policies are to be published in the order
    /// they were prepared in.
    pub fn publish(&self, policy: Policy) {
        *self.registry() = policy.registry();
        self.policy.publish(policy);
        self.generations.bump([Slot::CONFIG]);
    }

    /// What is in force.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.read_owned()
    }

    /// What it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What it holds and has done.
    pub fn overview(&self) -> Overview {
        Overview {
            sessions: Class::ALL.map(|class| self.sessions.count(class)),
            table: self.sessions.stats(),
            sources: self.sources.as_ref().map_or(0, |(_, sources)| sources.sources()),
            datagrams: self.fragments.len(),
            memory: self.sessions.memory(),
        }
    }

    /// Gives back what a session has held.
    pub(crate) fn gone(&self, removed: &Removed<Tracked>) {
        let [forward, _] = &removed.keys;
        if let Some((_, sources)) = &self.sources {
            sources.release(&forward.source);
        }
        for limit in &removed.state.hold {
            limit.release(&forward.source, &forward.destination);
        }
    }

    /// Ends a session before its time: the flow caches forget what it answered.
    pub(crate) fn end(&self, id: SessionId) -> bool {
        let Some(removed) = self.sessions.remove(id) else { return false };
        self.gone(&removed);
        if removed.state.cached {
            self.generations.bump([Slot::session(id.to_bits())]);
        }
        true
    }

    /// A bounded slice of ageing.
    pub(crate) fn tick(&self, now: Now) {
        self.sessions.expire(now, AGEING, |removed| self.gone(&removed));
        self.fragments.expire(now, AGEING);
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("sessions", &self.sessions).finish_non_exhaustive()
    }
}
