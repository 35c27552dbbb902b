//! A load balancer's services, from the configuration and from what is known of their backends: the control side of
//! [`throughway_balancer`]. It outlives configurations: backends are known by service, address and port, and keep their health,
//! whether they are drained, and their figures.
//!
//! * `known`: what is known of one backend.
//! * `lasting`: connections over a restart.
//! * `place`: what services and backends are called, and by which address of ours backends are reached.
//! * `rows`: backends and services, for people and for metrics.
//! * [`tls`]: how health checks over HTTPS verify certificates.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use throughway_balancer as balancer;
use throughway_balancer::maglev::fitting_size;
use throughway_balancer::{MaglevError, Seat, ServiceFigures, Services, Shared};
use throughway_config::{
    Affinity, BalancerSource, Forwarding, Health as Check, LoadBalancer, Probe, Service, WhenAllDown,
};
use throughway_session::Seed;
use throughway_session::connection::Timeouts;
use throughway_vnf::{Generations, Now};

use crate::host::HostFacts;

mod known;
mod lasting;
mod place;
mod rows;
pub mod tls;

pub use rows::{Row, ServiceRow};

use known::{Known, Status};
use place::{identity, kernel_toward, needs_via, one_port, place, toward};

/// What many checks say is put into force at most this often.
const PACE: Duration = Duration::from_millis(20);

/// Services that are built by more than one thread.
const MANY: usize = 64;

/// Backends of which it is asked each time by which address of ours they are reached, or one service's.
const LOOKED_AT: usize = 256;

/// Of the connections, the share that may be half-open.
const HALF_OPEN: u32 = 4;

/// Why a load balancer cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BalancerError {
    /// The table would be another.
    #[error("`connections` cannot change while the service runs, its connections would be lost: restart it")]
    Connections,
    /// Nothing can be verified against.
    #[error("service {0}: {1}")]
    Certificates(String, String),
    /// A table cannot be filled.
    #[error("service {0}: {1}")]
    Table(String, MaglevError),
}

/// What a backend is known by.
type Place = (IpAddr, Option<u16>);

/// A service with its backends.
#[derive(Clone, Debug)]
struct Desk {
    /// What it stays the same by.
    name: Arc<str>,
    config: Service,
    /// The checks of its backends.
    check: Option<Arc<Check>>,
    backends: Vec<Known>,
    figures: Arc<ServiceFigures>,
    /// As it was last built.
    built: Option<Arc<balancer::Service>>,
    /// Whether it is to be built anew.
    changed: bool,
    /// Whether time will change it: drains that end, backends that start slowly.
    awaits: bool,
}

#[derive(Debug, Default)]
struct Inner {
    desks: Vec<Desk>,
    by_name: HashMap<Arc<str>, usize>,
    table_size: Option<u32>,
    /// Backends that the configuration no longer has, while they have connections.
    leaving: HashMap<(Arc<str>, IpAddr, Option<u16>), Arc<Seat>>,
    /// Goes up when who is to be asked changes.
    epoch: u64,
    /// When services were last put into force.
    published: Option<Instant>,
    /// Whose addresses of ours are looked for next: place in the list of services.
    looked: usize,
}

/// The control side of one load balancer.
#[derive(Debug)]
pub struct Director {
    connections: u32,
    shared: Arc<Shared>,
    inner: Mutex<Inner>,
}

/// A configuration that is ready to be put into force.
#[derive(Debug)]
pub struct Plan {
    config: LoadBalancer,
    facts: Vec<(IpAddr, u8)>,
}

/// Whom to ask, and what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// The service, as the director knows it.
    pub service: Arc<str>,
    /// Where the backend is.
    pub address: IpAddr,
    /// The backend's port, if it has one of its own.
    pub port: Option<u16>,
    /// The port to ask.
    pub asked: u16,
    /// What to ask.
    pub check: Arc<Check>,
}

impl Director {
    /// A load balancer of that configuration, in force at once.
    pub fn new(
        config: &LoadBalancer,
        facts: &HostFacts,
        seed: Seed,
        generations: Arc<Generations>,
    ) -> Result<Director, BalancerError> {
        let options = balancer::Options {
            connections: config.connections,
            half_open: (config.connections / HALF_OPEN).max(1),
            seed: seed.0,
            timeouts: Timeouts::NAT,
        };
        let shared = Arc::new(Shared::new(options, generations));
        let director = Director { connections: config.connections, shared, inner: Mutex::default() };
        let plan = director.plan(config, facts)?;
        director.apply(plan);
        Ok(director)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the workers share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Makes a configuration ready without putting it into force.
    ///
    /// # Errors
    /// [`BalancerError`]; nothing has changed then.
    pub fn plan(&self, config: &LoadBalancer, facts: &HostFacts) -> Result<Plan, BalancerError> {
        if config.connections != self.connections {
            return Err(BalancerError::Connections);
        }
        for service in &config.services {
            let name = identity(service);
            if let Some(Check { probe: Probe::Http { tls: Some(trust), .. }, .. }) = &service.health
                && let Err(error) = tls::config(trust)
            {
                return Err(BalancerError::Certificates(name, error));
            }
            if config.table_size.is_some_and(|size| service.backends.len() > size as usize) {
                return Err(BalancerError::Table(name, MaglevError::TooMany(service.backends.len())));
            }
        }
        let ports = facts.ports.iter().flat_map(|port| port.addresses.iter().copied());
        Ok(Plan { config: config.clone(), facts: ports.collect() })
    }

    /// Puts a configuration into force. What is known of backends that stay is kept; those that go finish what they have.
    pub fn apply(&self, plan: Plan) {
        let mut inner = self.inner();
        let Plan { config, facts } = plan;
        let fresh = inner.desks.is_empty();
        let mut old: HashMap<Arc<str>, Desk> =
            inner.desks.drain(..).map(|desk| (Arc::clone(&desk.name), desk)).collect();
        let mut desks = Vec::with_capacity(config.services.len());
        for service in config.services {
            let name: Arc<str> = identity(&service).into();
            let before = old.remove(&name);
            let desk = Desk::follow(name, service, before, fresh, &facts, &mut inner.leaving);
            desks.push(desk);
        }
        for desk in old.into_values() {
            inner.leave(&desk.name, desk.backends);
        }
        inner.by_name =
            desks.iter().enumerate().map(|(number, desk)| (Arc::clone(&desk.name), number)).collect();
        inner.desks = desks;
        inner.leaving.retain(|_, seat| seat.figures.active() > 0);
        inner.table_size = config.table_size;
        inner.epoch += 1;
        self.publish(&mut inner, Instant::now());
    }

    /// Builds the services anew, as far as they have changed, and puts them into force.
    fn publish(&self, inner: &mut Inner, now: Instant) {
        let size = inner.table_size;
        let mut waiting: Vec<&mut Desk> = inner.desks.iter_mut().filter(|desk| desk.changed).collect();
        // Many at once only when a configuration is new: they share nothing.
        let threads =
            if waiting.len() < MANY { 1 } else { std::thread::available_parallelism().map_or(1, Into::into) };
        let part = waiting.len().div_ceil(threads).max(1);
        if threads == 1 {
            waiting.iter_mut().for_each(|desk| desk.rebuild(size, now));
        } else {
            std::thread::scope(|scope| {
                for part in waiting.chunks_mut(part) {
                    scope.spawn(move || part.iter_mut().for_each(|desk| desk.rebuild(size, now)));
                }
            });
        }
        let all = inner.desks.iter().filter_map(|desk| desk.built.clone()).collect();
        self.shared.publish(Services::after(&self.shared.services(), all));
        inner.published = Some(now);
    }

    /// Puts what was reported since into force.
    pub fn flush(&self, now: Instant) {
        self.flush_inner(&mut self.inner(), now);
    }

    fn flush_inner(&self, inner: &mut Inner, now: Instant) {
        if inner.desks.iter().any(|desk| desk.changed) {
            self.publish(inner, now);
        }
    }

    /// Whom to ask; `None` if that is still as it was at `epoch`.
    pub fn targets(&self, epoch: &mut Option<u64>) -> Option<Vec<Target>> {
        let inner = self.inner();
        if epoch.replace(inner.epoch) == Some(inner.epoch) {
            return None;
        }
        let mut all = Vec::new();
        for desk in &inner.desks {
            let Some(check) = &desk.check else { continue };
            for known in &desk.backends {
                let Seat { address, port, .. } = &*known.seat;
                all.push(Target {
                    service: Arc::clone(&desk.name),
                    address: *address,
                    port: *port,
                    asked: check.port.or(*port).or_else(|| one_port(&desk.config)).unwrap_or(0),
                    check: Arc::clone(check),
                });
            }
        }
        Some(all)
    }

    /// Takes note of an answer, or of what came instead of one. What follows from it is in force at once, or within
    /// some 20 ms if something was put into force just before.
    pub fn report(&self, target: &Target, answer: Result<(), String>, now: Instant) {
        let mut inner = self.inner();
        let Some(number) = inner.by_name.get(&target.service).copied() else { return };
        let Some(desk) = inner.desks.get_mut(number) else { return };
        let here =
            |known: &&mut Known| (known.seat.address, known.seat.port) == (target.address, target.port);
        let Some(known) = desk.backends.iter_mut().find(here) else { return };
        let (before, was) = (known.health(), known.status);
        known.answered(answer, &target.check, desk.config.slow_start, now);
        if known.health() == before && !matches!(was, Status::Unknown { .. }) {
            return;
        }
        let backend = place(&known.seat);
        match known.status {
            Status::Down { .. } => {
                let why = known.why(Some(&target.check), now);
                tracing::warn!(service = %desk.name, %backend, %why, "the backend is down");
            }
            _ => tracing::info!(service = %desk.name, %backend, "the backend is up"),
        }
        desk.changed |= known.health() != before || known.rising.is_some();
        desk.awaits |= known.rising.is_some();
        if inner.published.is_none_or(|last| now.saturating_duration_since(last) >= PACE) {
            self.flush_inner(&mut inner, now);
        }
    }

    /// What time brings: the end of drains and of slow starts, and of backends that were waited for. To be called about twice a
    /// second.
    pub fn tick(&self, now: Instant) {
        let mut inner = self.inner();
        inner.leaving.retain(|_, seat| seat.figures.active() > 0);
        for desk in &mut inner.desks {
            desk.backends.iter_mut().for_each(|known| known.sample(now));
            if desk.awaits {
                desk.tick(now);
            }
        }
        inner.look();
        self.flush_inner(&mut inner, now);
    }

    /// Whether it has tunnels to backends.
    pub fn has_tunnels(&self) -> bool {
        self.shared.services().have_tunnels()
    }

    /// Hears an ICMP message that came to this host: whether a tunnel's path has become narrow. `packet` is an Ethernet frame.
    pub fn hear(&self, packet: &[u8], now: Now) {
        self.shared.hear(packet, now);
    }

    /// Gives backends no new connections for a time, or for good; or ends that. `what` is `ADDRESS`, `ADDRESS:PORT`, or one of them
    /// after `SERVICE/`. Says which backends these are.
    ///
    /// # Errors
    /// When there is no such backend.
    pub fn drain(&self, what: &str, drained: Option<Option<Duration>>) -> Result<Vec<String>, String> {
        let (service, backend) = match what.split_once('/') {
            Some((service, backend)) => (Some(service), backend),
            None => (None, what),
        };
        let now = Instant::now();
        let mut inner = self.inner();
        let mut found = Vec::new();
        for desk in inner.desks.iter_mut().filter(|desk| service.is_none_or(|name| *desk.name == *name)) {
            for known in &mut desk.backends {
                let full = place(&known.seat);
                if full != backend && known.seat.address.to_string() != backend {
                    continue;
                }
                known.drained = drained.map(|period| period.map(|period| now + period));
                desk.changed = true;
                desk.awaits |= matches!(known.drained, Some(Some(_)));
                found.push(format!("{}/{full}", desk.name));
            }
        }
        if found.is_empty() {
            return Err(format!("there is no backend `{what}`; `throughway show backends` lists them"));
        }
        self.publish(&mut inner, now);
        Ok(found)
    }

    /// Which of the host's own addresses are claimed for the workers: packets to them go to the kernel only where a socket has them.
    pub fn claims(&self, local: &[IpAddr]) -> Vec<IpAddr> {
        let inner = self.inner();
        let claimed = |address: &IpAddr| {
            inner.desks.iter().any(|desk| {
                desk.config.vips.contains(address)
                    || match &desk.config.source_nat {
                        Some(BalancerSource::Egress) => {
                            desk.backends.iter().any(|known| known.seat.via() == Some(*address))
                        }
                        Some(BalancerSource::Pool(pool)) => pool.iter().any(|range| range.contains(*address)),
                        None => false,
                    }
            })
        };
        local.iter().copied().filter(claimed).collect()
    }
}

impl Inner {
    /// Backends that the configuration no longer has.
    fn leave(&mut self, service: &Arc<str>, backends: impl IntoIterator<Item = Known>) {
        leave(&mut self.leaving, service, backends);
    }

    /// Replaces what the prefixes of interfaces told about our own addresses by what the kernel says, where there is one to ask: of
    /// a part of the backends each time.
    fn look(&mut self) {
        let count = self.desks.len();
        let mut left = LOOKED_AT;
        for _ in 0..count {
            let Some(desk) = self.desks.get(self.looked % count.max(1)) else { return };
            self.looked = (self.looked + 1) % count;
            if !needs_via(&desk.config) {
                continue;
            }
            for known in &desk.backends {
                if let Some(via) = kernel_toward(known.seat.address) {
                    known.seat.set_via(Some(via));
                }
            }
            left = left.saturating_sub(desk.backends.len());
            if left == 0 {
                return;
            }
        }
    }
}

type Leaving = HashMap<(Arc<str>, IpAddr, Option<u16>), Arc<Seat>>;

fn leave(leaving: &mut Leaving, service: &Arc<str>, backends: impl IntoIterator<Item = Known>) {
    for known in backends {
        let Seat { address, port, .. } = *known.seat;
        leaving.insert((Arc::clone(service), address, port), known.seat);
    }
}

impl Desk {
    /// The service as the configuration now has it, with what was known of it.
    fn follow(
        name: Arc<str>,
        service: Service,
        before: Option<Desk>,
        fresh: bool,
        facts: &[(IpAddr, u8)],
        leaving: &mut Leaving,
    ) -> Desk {
        let (known, figures, built) = match before {
            Some(desk) => (desk.backends, desk.figures, desk.built),
            None => Default::default(),
        };
        let place_of = |known: Known| -> (Place, Known) { ((known.seat.address, known.seat.port), known) };
        let mut known: HashMap<Place, Known> = known.into_iter().map(place_of).collect();
        let mut backends = Vec::with_capacity(service.backends.len());
        for backend in &service.backends {
            let (address, port) = (backend.address, backend.port);
            let mut entry = known.remove(&(address, port)).unwrap_or_else(|| {
                let returned = leaving.remove(&(Arc::clone(&name), address, port));
                let seat = returned.unwrap_or_else(|| Arc::new(Seat::new(address, port)));
                Known::new(*backend, seat, Status::Unknown { trusted: fresh })
            });
            entry.config = *backend;
            entry.status = match (&service.health, entry.status) {
                (None, _) => Status::Unchecked,
                // It was used without being asked; it is not taken away before it has been.
                (Some(_), Status::Unchecked) => Status::Unknown { trusted: true },
                (Some(_), status) => status,
            };
            if needs_via(&service) && entry.seat.via().is_none() {
                entry.seat.set_via(toward(facts, address));
            }
            backends.push(entry);
        }
        leave(leaving, &name, known.into_values());
        let check = service.health.clone().map(Arc::new);
        let awaits = backends.iter().any(|known| known.rising.is_some() || known.drained.is_some());
        Desk { name, config: service, check, backends, figures, built, changed: true, awaits }
    }

    /// Drains and slow starts that end, or go on.
    fn tick(&mut self, now: Instant) {
        let slow = self.config.slow_start;
        self.awaits = false;
        for known in &mut self.backends {
            if let Some(Some(until)) = known.drained {
                let over = until <= now;
                known.drained = known.drained.filter(|_| !over);
                self.changed |= over;
                self.awaits |= !over;
            }
            if let Some(since) = known.rising {
                let over = now.saturating_duration_since(since) >= slow;
                known.rising = known.rising.filter(|_| !over);
                self.changed = true;
                self.awaits |= !over;
            }
        }
    }

    fn rebuild(&mut self, table_size: Option<u32>, now: Instant) {
        match self.build(table_size, now) {
            Ok(service) => self.built = Some(Arc::new(service)),
            // Excluded by the plan.
            Err(error) => tracing::error!(service = %self.name, %error, "the service stays as it was"),
        }
        self.changed = false;
    }

    fn build(&self, table_size: Option<u32>, now: Instant) -> Result<balancer::Service, MaglevError> {
        let Service { vips, ports, protocols, forward, source_nat, when_all_down, slow_start, .. } =
            &self.config;
        let backends = self.backends.iter().map(|known| balancer::Backend {
            seat: Arc::clone(&known.seat),
            weight: known.config.weight.into(),
            share: known.share(*slow_start, now),
            backup: known.config.backup,
            health: known.health(),
        });
        let config = balancer::ServiceConfig {
            name: self.name.to_string(),
            addresses: vips.clone(),
            protocols: protocols.iter().map(|protocol| protocol.get()).collect(),
            ports: ports.iter().map(|ports| ports.first()..=ports.last()).collect(),
            forward: match (forward, source_nat) {
                (Forwarding::Nat, None) => balancer::Forward::Nat,
                (Forwarding::Nat, Some(_)) => balancer::Forward::FullNat,
                (Forwarding::Dsr, _) => balancer::Forward::Dsr,
                (Forwarding::Ipip, _) => balancer::Forward::Ipip,
            },
            sources: match source_nat {
                Some(BalancerSource::Pool(pool)) => {
                    pool.iter().map(|range| (range.first(), range.last())).collect()
                }
                _ => Vec::new(),
            },
            affinity: match self.config.affinity {
                Affinity::Connection => balancer::Affinity::Connection,
                Affinity::Source => balancer::Affinity::Source,
            },
            affinity_timeout: self.config.affinity_timeout,
            answer_ping: self.config.answer_ping,
            all_down: match when_all_down {
                WhenAllDown::Reject => balancer::AllDown::Reject,
                WhenAllDown::Keep => balancer::AllDown::Keep,
                WhenAllDown::Backup => balancer::AllDown::Backup,
            },
            table_size: table_size.unwrap_or_else(|| {
                let weights = self.backends.iter().filter(|known| !known.config.backup);
                fitting_size(weights.map(|known| known.config.weight.into()))
            }),
            // The same on every box.
            seed: 0,
            backends: backends.collect(),
            figures: Arc::clone(&self.figures),
        };
        balancer::Service::new(config, self.built.as_deref())
    }
}
