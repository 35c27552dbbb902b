//! A load balancer's services, from the configuration and from what is known of their backends: the control side of
//! [`throughway_balancer`]. It outlives configurations: backends are known by service, address and port, and keep their health,
//! whether they are drained, and their figures.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use throughway_balancer as balancer;
use throughway_balancer::{FULL_SHARE, Health, MaglevError, Seat, Services, Shared};
use throughway_config::{
    Affinity, Backend, BalancerSource, Forwarding, Health as Check, LoadBalancer, Probe, Service, WhenAllDown,
};
use throughway_session::Seed;
use throughway_session::connection::Timeouts;
use throughway_vnf::Generations;

use crate::host::HostFacts;

/// Of the connections, the share that may be half-open.
const HALF_OPEN: u32 = 4;

/// Why a load balancer cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BalancerError {
    /// The table would be another.
    #[error("`connections` cannot change while the service runs, its connections would be lost: restart it")]
    Connections,
    /// There is no TLS client.
    #[error(
        "service {0}: health checks over https are not there yet: use `http`, `tcp`, or `exec` with a client of your own"
    )]
    Https(String),
    /// A table cannot be filled.
    #[error("service {0}: {1}")]
    Table(String, MaglevError),
}

/// What answers to the checks say of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    /// Nobody asks.
    Unchecked,
    /// No answer yet; whether it counts as up meanwhile: at the start of the service, but not when it joins others that are up.
    Unknown { trusted: bool },
    /// With so many bad answers since the last good one.
    Up { bad: u8 },
    /// With so many good answers since the last bad one.
    Down { good: u8 },
}

/// A backend with what is known of it.
#[derive(Clone, Debug)]
struct Known {
    config: Backend,
    seat: Arc<Seat>,
    status: Status,
    /// What the last bad answer was.
    why: String,
    /// Gets no new connections by an operator's word: until then, or for good.
    drained: Option<Option<Instant>>,
    /// When it came up, while it starts slowly.
    rising: Option<Instant>,
}

/// A service with its backends.
#[derive(Clone, Debug)]
struct Desk {
    /// What it stays the same by.
    name: String,
    config: Service,
    backends: Vec<Known>,
    /// As it was last built.
    built: Option<Arc<balancer::Service>>,
}

#[derive(Debug, Default)]
struct Inner {
    desks: Vec<Desk>,
    table_size: u32,
    /// Backends that the configuration no longer has, while they have connections: service, seat.
    leaving: Vec<(String, Arc<Seat>)>,
    /// Goes up when who is to be asked changes.
    epoch: u64,
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
    pub service: String,
    /// Where the backend is.
    pub address: IpAddr,
    /// The backend's port, if it has one of its own.
    pub port: Option<u16>,
    /// The port to ask.
    pub asked: u16,
    /// What to ask.
    pub check: Check,
}

/// A backend, for people and for metrics.
#[derive(Clone, Debug)]
pub struct Row {
    /// The service.
    pub service: String,
    /// The backend: address and port.
    pub backend: String,
    /// Its weight in the configuration.
    pub weight: u16,
    /// Its share of new connections, of the whole service's.
    pub share: f64,
    /// `up`, `starting`, `unknown`, `down`, `draining` or `removed`.
    pub state: &'static str,
    /// Whether it may get new connections.
    pub up: bool,
    /// Why it is down.
    pub why: String,
    /// Connections that are remembered.
    pub active: u32,
    /// Connections, packets and bytes so far.
    pub figures: [u64; 3],
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
            if let Some(Check { probe: Probe::Http { tls: true, .. }, .. }) = &service.health {
                return Err(BalancerError::Https(name));
            }
            if service.backends.len() > config.table_size as usize {
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
        let mut old: HashMap<String, Desk> =
            inner.desks.drain(..).map(|desk| (desk.name.clone(), desk)).collect();
        let mut kept = Vec::new();
        for service in config.services {
            let key = identity(&service);
            let before = old.remove(&key);
            let (mut known, built) = before.map_or_else(Default::default, |desk| (desk.backends, desk.built));
            let mut backends = Vec::with_capacity(service.backends.len());
            for backend in &service.backends {
                let same =
                    |known: &Known| (known.seat.address, known.seat.port) == (backend.address, backend.port);
                let at = known.iter().position(same).map(|at| known.swap_remove(at));
                let returned = || {
                    let mut leaving = inner.leaving.iter();
                    let is = |(of, seat): &&(String, Arc<Seat>)| {
                        *of == key && (seat.address, seat.port) == (backend.address, backend.port)
                    };
                    leaving.find(is).map(|(_, seat)| Arc::clone(seat))
                };
                let mut entry = at.unwrap_or_else(|| {
                    let seat =
                        returned().unwrap_or_else(|| Arc::new(Seat::new(backend.address, backend.port)));
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
                    entry.seat.set_via(toward(&facts, backend.address));
                }
                backends.push(entry);
            }
            let gone = known.into_iter().map(|known| (key.clone(), known.seat));
            inner.leaving.extend(gone);
            kept.push(Desk { name: key, config: service, backends, built });
        }
        for desk in old.into_values() {
            let gone = desk.backends.into_iter().map(|known| (desk.name.clone(), known.seat));
            inner.leaving.extend(gone);
        }
        let present = |key: &String, seat: &Arc<Seat>| {
            kept.iter().any(|desk: &Desk| {
                desk.name == *key && desk.backends.iter().any(|known| Arc::ptr_eq(&known.seat, seat))
            })
        };
        inner.leaving.retain(|(key, seat)| seat.figures.active() > 0 && !present(key, seat));
        inner.desks = kept;
        inner.table_size = config.table_size;
        inner.epoch += 1;
        self.publish(&mut inner, Instant::now());
    }

    /// Builds the services anew, as far as they have changed, and puts them into force.
    fn publish(&self, inner: &mut Inner, now: Instant) {
        let mut all = Vec::with_capacity(inner.desks.len());
        for desk in &mut inner.desks {
            match desk.build(inner.table_size, now) {
                Ok(service) => desk.built = Some(Arc::new(service)),
                // Excluded by the plan.
                Err(error) => tracing::error!(service = %desk.name, %error, "the service stays as it was"),
            }
            all.extend(desk.built.clone());
        }
        self.shared.publish(Services::new(all));
    }

    /// Whom to ask; `None` if that is still as it was at `epoch`.
    pub fn targets(&self, epoch: &mut Option<u64>) -> Option<Vec<Target>> {
        let inner = self.inner();
        if epoch.replace(inner.epoch) == Some(inner.epoch) {
            return None;
        }
        let mut all = Vec::new();
        for desk in &inner.desks {
            let Some(check) = &desk.config.health else { continue };
            for known in &desk.backends {
                let Seat { address, port, .. } = &*known.seat;
                all.push(Target {
                    service: desk.name.clone(),
                    address: *address,
                    port: *port,
                    asked: check.port.or(*port).or_else(|| one_port(&desk.config)).unwrap_or(0),
                    check: check.clone(),
                });
            }
        }
        Some(all)
    }

    /// Takes note of an answer, or of what came instead of one.
    pub fn report(&self, target: &Target, answer: Result<(), String>, now: Instant) {
        let mut inner = self.inner();
        let Some(desk) = inner.desks.iter_mut().find(|desk| desk.name == target.service) else { return };
        let here =
            |known: &&mut Known| (known.seat.address, known.seat.port) == (target.address, target.port);
        let Some(known) = desk.backends.iter_mut().find(here) else { return };
        let slow = desk.config.slow_start;
        let (before, was) = (known.health(), known.status);
        known.answered(answer, &target.check, slow, now);
        if known.health() != before || matches!(was, Status::Unknown { .. }) {
            let backend = place(&known.seat);
            match known.status {
                Status::Down { .. } => {
                    tracing::warn!(service = %desk.name, %backend, why = %known.why, "the backend is down");
                }
                _ => tracing::info!(service = %desk.name, %backend, "the backend is up"),
            }
            self.publish(&mut inner, now);
        }
    }

    /// What time brings: the end of drains and of slow starts, and of backends that were waited for. To be called about once a
    /// second.
    pub fn tick(&self, now: Instant) {
        let mut inner = self.inner();
        inner.leaving.retain(|(_, seat)| seat.figures.active() > 0);
        let mut changed = false;
        for desk in &mut inner.desks {
            let slow = desk.config.slow_start;
            for known in &mut desk.backends {
                if let Some(Some(until)) = known.drained
                    && until <= now
                {
                    known.drained = None;
                    changed = true;
                }
                if let Some(since) = known.rising {
                    changed = true;
                    if now.saturating_duration_since(since) >= slow {
                        known.rising = None;
                    }
                }
                // Replaced by what the kernel says, where there is one to ask.
                if needs_via(&desk.config)
                    && let Some(via) = kernel_toward(known.seat.address)
                {
                    known.seat.set_via(Some(via));
                }
            }
        }
        if changed {
            self.publish(&mut inner, now);
        }
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
                found.push(format!("{}/{full}", desk.name));
            }
        }
        if found.is_empty() {
            return Err(format!("there is no backend `{what}`; `throughway show backends` lists them"));
        }
        self.publish(&mut inner, now);
        Ok(found)
    }

    /// All backends.
    pub fn rows(&self) -> Vec<Row> {
        let inner = self.inner();
        let mut rows = Vec::new();
        for desk in &inner.desks {
            let weights = desk.built.as_ref().map_or(&[][..], |built| built.weights());
            let whole: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            for (known, weight) in desk.backends.iter().zip(weights) {
                let share = if whole == 0 { 0.0 } else { f64::from(*weight) / whole as f64 };
                let why =
                    if matches!(known.health(), Health::Down) { known.why.clone() } else { String::new() };
                rows.push(Row {
                    service: desk.name.clone(),
                    backend: place(&known.seat),
                    weight: known.config.weight,
                    share,
                    state: known.state(),
                    up: known.health() == Health::Up,
                    why,
                    active: known.seat.figures.active(),
                    figures: known.seat.figures.get(),
                });
            }
        }
        for (service, seat) in &inner.leaving {
            rows.push(Row {
                service: service.clone(),
                backend: place(seat),
                weight: 0,
                share: 0.0,
                state: "removed",
                up: false,
                why: String::new(),
                active: seat.figures.active(),
                figures: seat.figures.get(),
            });
        }
        rows
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

impl Known {
    fn new(config: Backend, seat: Arc<Seat>, status: Status) -> Known {
        Known { config, seat, status, why: String::new(), drained: None, rising: None }
    }

    fn health(&self) -> Health {
        match self.status {
            _ if self.drained.is_some() => Health::Draining,
            Status::Down { .. } | Status::Unknown { trusted: false } => Health::Down,
            Status::Unchecked | Status::Unknown { trusted: true } | Status::Up { .. } => Health::Up,
        }
    }

    fn state(&self) -> &'static str {
        match self.status {
            _ if self.drained.is_some() || self.config.weight == 0 => "draining",
            Status::Down { .. } => "down",
            Status::Unknown { .. } => "unknown",
            Status::Unchecked | Status::Up { .. } if self.rising.is_some() => "starting",
            Status::Unchecked | Status::Up { .. } => "up",
        }
    }

    /// The first answer decides at once; after that as many in a row as the check says.
    fn answered(&mut self, answer: Result<(), String>, check: &Check, slow_start: Duration, now: Instant) {
        let good = match answer {
            Ok(()) => true,
            Err(why) => {
                self.why = why;
                false
            }
        };
        self.status = match (self.status, good) {
            (Status::Unchecked, _) => Status::Unchecked,
            (Status::Unknown { trusted }, true) => {
                self.rising = Some(now).filter(|_| !trusted && slow_start > Duration::ZERO);
                Status::Up { bad: 0 }
            }
            (Status::Unknown { .. }, false) => Status::Down { good: 0 },
            (Status::Up { .. }, true) => Status::Up { bad: 0 },
            (Status::Up { bad }, false) if bad + 1 >= check.fall => Status::Down { good: 0 },
            (Status::Up { bad }, false) => Status::Up { bad: bad + 1 },
            (Status::Down { .. }, false) => Status::Down { good: 0 },
            (Status::Down { good }, true) if good + 1 >= check.rise => {
                self.rising = Some(now).filter(|_| slow_start > Duration::ZERO);
                Status::Up { bad: 0 }
            }
            (Status::Down { good }, true) => Status::Down { good: good + 1 },
        };
    }
}

impl Desk {
    fn build(&self, table_size: u32, now: Instant) -> Result<balancer::Service, MaglevError> {
        let Service {
            vips, ports, protocols, forward, source_nat, affinity, when_all_down, slow_start, ..
        } = &self.config;
        let share = |known: &Known| match known.rising {
            Some(since) => {
                let elapsed = now.saturating_duration_since(since).as_millis();
                let whole = slow_start.as_millis().max(1);
                u32::try_from(elapsed * u128::from(FULL_SHARE) / whole)
                    .map_or(FULL_SHARE, |share| share.clamp(1, FULL_SHARE))
            }
            None => FULL_SHARE,
        };
        let backends = self.backends.iter().map(|known| balancer::Backend {
            seat: Arc::clone(&known.seat),
            weight: known.config.weight.into(),
            share: share(known),
            backup: known.config.backup,
            health: known.health(),
        });
        let config = balancer::ServiceConfig {
            name: self.name.clone(),
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
            affinity: match affinity {
                Affinity::Connection => balancer::Affinity::Connection,
                Affinity::Source => balancer::Affinity::Source,
            },
            all_down: match when_all_down {
                WhenAllDown::Reject => balancer::AllDown::Reject,
                WhenAllDown::Keep => balancer::AllDown::Keep,
                WhenAllDown::Backup => balancer::AllDown::Backup,
            },
            table_size,
            // The same on every box.
            seed: 0,
            backends: backends.collect(),
        };
        balancer::Service::new(config, self.built.as_deref())
    }
}

/// Whether our own address toward the backends is needed.
fn needs_via(service: &Service) -> bool {
    service.forward == Forwarding::Ipip || service.source_nat == Some(BalancerSource::Egress)
}

fn one_port(service: &Service) -> Option<u16> {
    match service.ports.as_slice() {
        [ports] if ports.first() == ports.last() => Some(ports.first()),
        _ => None,
    }
}

/// Address and port.
fn place(seat: &Seat) -> String {
    match (seat.port, seat.address) {
        (None, address) => address.to_string(),
        (Some(port), address) => std::net::SocketAddr::new(address, port).to_string(),
    }
}

/// What a service stays the same by: its name, else the packets that it takes.
fn identity(service: &Service) -> String {
    match &service.name {
        Some(name) => name.to_string(),
        None => packets_of(service),
    }
}

fn packets_of(service: &Service) -> String {
    let list = |items: Vec<String>| items.join(",");
    let mut text = list(service.vips.iter().map(ToString::to_string).collect());
    if !service.ports.is_empty() {
        text = format!("{text}:{}", list(service.ports.iter().map(ToString::to_string).collect()));
    }
    if !service.protocols.is_empty() {
        text = format!("{text} {}", list(service.protocols.iter().map(ToString::to_string).collect()));
    }
    text
}

/// The host's own address toward another, as its prefixes tell; else any of the family.
fn toward(own: &[(IpAddr, u8)], to: IpAddr) -> Option<IpAddr> {
    let fits = |(address, len): &&(IpAddr, u8)| {
        throughway_packet::Prefix::containing(*address, *len).is_ok_and(|prefix| prefix.contains(to))
    };
    let near = own.iter().filter(fits).max_by_key(|(_, len)| *len);
    let any = || own.iter().find(|(address, _)| address.is_ipv4() == to.is_ipv4());
    near.or_else(any).map(|(address, _)| *address)
}

/// The same, as the kernel would choose it: no packet is sent.
fn kernel_toward(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match to {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
    socket.connect((to, 9)).ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback() && !own.is_unspecified()).then_some(own)
}
