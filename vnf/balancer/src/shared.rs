//! What all workers share of one load balancer: connections, services, datagrams in pieces.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use throughway_session::connection::Timeouts;
use throughway_session::fragment::Datagrams;
use throughway_session::passed::Passed;
use throughway_session::{Class, Config, Probe, Removed, Seed, SessionId, SessionTable, Stats, WhenFull};
use throughway_vnf::{Generations, Now, Slot, Snapshot};

use crate::affinity::Clients;
use crate::function::Way;
use crate::path::{self, Paths};
use crate::seat::Seat;
use crate::service::{Forward, Service};
use crate::services::Services;
use crate::track::Track;

/// Connections that are looked at for their age between two batches.
const AGED: usize = 64;

/// Datagrams in pieces that are remembered at a time.
const DATAGRAMS: u32 = 8192;

/// How long fragments are waited for: as Linux reassembles.
const WAIT: Duration = Duration::from_secs(30);

/// For so long after the hash alone has decided (ns), answers without a connection are taken for those of such packets: as long
/// as the connections of a flood may last that never found room.
const HASH_ONLY_LASTS: u64 = 600_000_000_000;

/// What is fixed for the life of the connection table.
#[derive(Clone, Debug)]
pub struct Options {
    /// The most connections that are remembered; others are served by the hash alone.
    pub connections: u32,
    /// The most connections that are remembered before both sides have spoken.
    pub half_open: u32,
    /// The secret of the connection table's hash function.
    pub seed: [u64; 2],
    /// How long connections are remembered without a packet.
    pub timeouts: Timeouts,
}

/// What all workers share of one load balancer.
#[derive(Debug)]
pub struct Shared {
    pub(crate) options: Options,
    pub(crate) connections: SessionTable<Remembered>,
    pub(crate) fragments: Datagrams<Way>,
    pub(crate) clients: Clients,
    pub(crate) paths: Paths,
    /// What came from where answers come from and belonged to no connection.
    pub(crate) passed: Passed,
    services: Snapshot<Services>,
    generations: Arc<Generations>,
    hash_only: AtomicU64,
    pub(crate) tunnel_errors: AtomicU64,
    /// When the hash alone last decided, plus one; 0: never.
    hash_only_at: AtomicU64,
}

/// What is remembered of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Remembered {
    pub(crate) track: Track,
    pub(crate) forward: Forward,
    pub(crate) seat: Arc<Seat>,
}

/// What a load balancer holds and has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Overview {
    /// Connections that are remembered, by [`Class`]: half-open, established, closing.
    pub connections: [u32; 3],
    /// The most there may be.
    pub capacity: u32,
    /// What the connection table has counted.
    pub table: Stats,
    /// Packets that the hash alone decided about: the table was full, or its half-open share, or the packet can open nothing.
    pub hash_only: u64,
    /// ICMP errors about packets in tunnels to backends.
    pub tunnel_errors: u64,
    /// Bytes of the connection table.
    pub memory: usize,
    /// Clients that are remembered for their affinity.
    pub clients: u32,
    /// Bytes of their table.
    pub clients_memory: usize,
}

impl Shared {
    /// With no connections, and no services until they are published. `generations` is the data plane's.
    pub fn new(options: Options, generations: Arc<Generations>) -> Shared {
        let [a, b] = options.seed;
        let half_open = options.half_open.min(options.connections);
        let config = Config::new(options.connections, Seed([a, b])).half_open(half_open, WhenFull::Refuse);
        Shared {
            connections: SessionTable::new(config),
            fragments: Datagrams::new(DATAGRAMS, WAIT, Seed([b, a])),
            clients: Clients::new(Seed([!a, b])),
            paths: Paths::new(Seed([a, !b])),
            passed: Passed::new(),
            options,
            services: Snapshot::new(Services::default()),
            generations,
            hash_only: AtomicU64::new(0),
            tunnel_errors: AtomicU64::new(0),
            hash_only_at: AtomicU64::new(0),
        }
    }

    /// The services in force.
    pub fn services(&self) -> Arc<Services> {
        self.services.read_owned()
    }

    pub(crate) fn snapshot(&self) -> &Snapshot<Services> {
        &self.services
    }

    /// Puts services into force for all workers. Connections that are there keep their backends; only what is no connection yet,
    /// or has none, leaves a backend that went down.
    pub fn publish(&self, services: Services) {
        let mut moved = false;
        let before = self.services();
        let kept: HashSet<*const Service> = before.iter().map(Arc::as_ptr).collect();
        let stay: HashSet<*const Service> = services.iter().map(Arc::as_ptr).collect();
        for service in before.iter().filter(|service| !stay.contains(&Arc::as_ptr(service))) {
            service.config.backends.iter().for_each(|backend| backend.seat.set_taking(false));
        }
        for service in services.iter().filter(|service| !kept.contains(&Arc::as_ptr(service))) {
            for (backend, weight) in service.config.backends.iter().zip(service.weights()) {
                let avoided = backend.health == crate::service::Health::Down && *weight == 0;
                moved |= backend.seat.set_avoided(avoided) && avoided;
                backend.seat.set_taking(*weight > 0);
            }
        }
        self.services.publish(services);
        if moved {
            // Flows that the caches know are judged again, so that they can leave.
            self.generations.bump([Slot::CONFIG]);
        }
    }

    /// What it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// What it holds and has done.
    pub fn overview(&self) -> Overview {
        Overview {
            connections: Class::ALL.map(|class| self.connections.count(class)),
            capacity: self.options.connections,
            table: self.connections.stats(),
            hash_only: self.hash_only.load(Ordering::Relaxed),
            tunnel_errors: self.tunnel_errors.load(Ordering::Relaxed),
            memory: self.connections.memory(),
            clients: self.clients.len(),
            clients_memory: self.clients.memory(),
        }
    }

    /// A router says that no more than `mtu` bytes get through the tunnel to the backend `end` (16-byte form).
    pub(crate) fn learn_path(&self, end: &[u8; 16], ipv4: bool, mtu: u16, now: Now) {
        if self.paths.learn(end, ipv4, mtu, now) {
            self.generations.bump([path::slot(end)]);
        }
    }

    /// The hash alone has decided about a packet.
    pub(crate) fn decided_by_hash(&self, service: &Service, now: Now) {
        service.config.figures.hash_only();
        self.hash_only.fetch_add(1, Ordering::Relaxed);
        self.hash_only_at.store(now.0.saturating_add(1), Ordering::Relaxed);
    }

    /// Whether answers may come of packets that the hash alone decided about.
    pub(crate) fn expects_answers(&self, now: Now) -> bool {
        match self.hash_only_at.load(Ordering::Relaxed) {
            0 => false,
            at => now.0.saturating_sub(at) < HASH_ONLY_LASTS,
        }
    }

    pub(crate) fn gone(removed: &Removed<Remembered>) {
        removed.state.seat.figures.ended();
    }

    /// Ends a connection before its time: the flow caches forget what it answered.
    pub(crate) fn end(&self, id: SessionId) {
        if let Some(removed) = self.connections.remove(id) {
            Shared::gone(&removed);
            self.generations.bump([Slot::session(id.to_bits())]);
        }
    }

    /// A bounded slice of ageing.
    pub(crate) fn tick(&self, now: Now) {
        self.connections.expire(now, AGED, |removed| Shared::gone(&removed));
        self.fragments.expire(now);
        self.clients.expire(now, AGED);
    }

    /// Makes a connection.
    pub(crate) fn open<K: throughway_session::Keyed>(
        &self,
        new: throughway_session::NewSession<Remembered, K>,
        now: Now,
    ) -> Result<SessionId, throughway_session::InsertError> {
        let seat = Arc::clone(&new.state.seat);
        let id = self.connections.insert(new, now, |removed| Shared::gone(&removed))?;
        seat.figures.opened();
        Ok(id)
    }

    /// A connection with these keys is in the table: what passed as it is with one of them does so no longer.
    pub(crate) fn is_open(&self, keys: &[Probe; 2]) {
        let [there, back] = self.passed.ended_by(keys);
        if there.is_some() || back.is_some() {
            self.generations.bump(there.into_iter().chain(back));
        }
    }
}
