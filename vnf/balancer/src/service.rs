//! Services, their backends, and how a packet's service is found.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use throughway_packet::headers::octets;

use crate::maglev::{Candidate, Maglev, MaglevError};
use crate::seat::Seat;

/// How a service's packets reach their backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Forward {
    /// The destination becomes the backend's address and port; answers pass here on their way back and get the service's.
    #[default]
    Nat,
    /// As [`Forward::Nat`], and the source becomes an address of ours, so that answers come here whatever the backend's
    /// routes are.
    FullNat,
    /// The packet stays as it is and goes to the backend's MAC address: direct server return.
    Dsr,
    /// The packet is put into another one that goes to the backend (RFC 2003, RFC 2473), which answers directly.
    Ipip,
}

impl Forward {
    /// Whether only the client's packets are seen here.
    pub const fn is_one_sided(self) -> bool {
        matches!(self, Forward::Dsr | Forward::Ipip)
    }
}

/// How a service tells connections apart when it chooses a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Affinity {
    /// By addresses and ports.
    #[default]
    Connection,
    /// By the source address: all connections of a client go to one backend.
    Source,
}

/// What is done while no backend is up, backups left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AllDown {
    /// New connections are rejected.
    #[default]
    Reject,
    /// All backends are used as if they were up: the checks may be what is broken.
    Keep,
    /// Those backends are used that are backups.
    Backup,
}

/// Whether a backend gets new connections.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Health {
    /// It gets its share.
    #[default]
    Up,
    /// It gets no new connections; those it has go on.
    Draining,
    /// It does not answer its checks.
    Down,
}

/// A share in full: see [`Backend::share`].
pub const FULL_SHARE: u32 = 64;

/// A backend of a service.
#[derive(Clone, Debug)]
pub struct Backend {
    /// What stays the same over reloads.
    pub seat: Arc<Seat>,
    /// Its weight beside the others; 0 gets no new connections.
    pub weight: u32,
    /// How much of its weight it is given yet, in 64ths: less than [`FULL_SHARE`] while it starts slowly.
    pub share: u32,
    /// Used only while all others are down.
    pub backup: bool,
    /// See [`Health`].
    pub health: Health,
}

/// A service as configured, with what is known of its backends.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// What people call it.
    pub name: String,
    /// Its virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// Upper-layer protocols (IANA numbers); empty: all.
    pub protocols: Vec<u8>,
    /// Ports, host order; empty: all.
    pub ports: Vec<RangeInclusive<u16>>,
    /// See [`Forward`].
    pub forward: Forward,
    /// What sources become with [`Forward::FullNat`], first and last address of each range; empty: our address toward the
    /// backend.
    pub sources: Vec<(IpAddr, IpAddr)>,
    /// See [`Affinity`].
    pub affinity: Affinity,
    /// See [`AllDown`].
    pub all_down: AllDown,
    /// Entries of its Maglev table.
    pub table_size: u32,
    /// Shared by boxes that choose alike.
    pub seed: u64,
    /// Its backends.
    pub backends: Vec<Backend>,
}

impl ServiceConfig {
    /// The one port of a service that has only one, host order.
    pub fn one_port(&self) -> Option<u16> {
        match self.ports.as_slice() {
            [ports] if ports.start() == ports.end() => Some(*ports.start()),
            _ => None,
        }
    }

    /// What each backend weighs in the choice: none but those that get new connections.
    fn weights(&self) -> Vec<u32> {
        let weight = |backend: &Backend| backend.weight.saturating_mul(backend.share.clamp(1, FULL_SHARE));
        let when = |chosen: &dyn Fn(&Backend) -> bool| -> Vec<u32> {
            let all = self.backends.iter();
            all.map(|backend| if chosen(backend) { weight(backend) } else { 0 }).collect()
        };
        let usual = when(&|backend| backend.health == Health::Up && !backend.backup);
        if usual.iter().any(|weight| *weight > 0) {
            return usual;
        }
        match self.all_down {
            AllDown::Reject => usual,
            AllDown::Keep => when(&|backend| backend.health != Health::Draining && !backend.backup),
            AllDown::Backup => when(&|backend| backend.health == Health::Up && backend.backup),
        }
    }
}

/// A service, ready to choose.
#[derive(Clone, Debug)]
pub struct Service {
    /// As configured.
    pub config: ServiceConfig,
    weights: Vec<u32>,
    table: Arc<Maglev>,
}

impl Service {
    /// Fills the table from those backends that get new connections; or takes the table of `before`, if it would be the same.
    ///
    /// # Errors
    /// See [`MaglevError`].
    pub fn new(config: ServiceConfig, before: Option<&Service>) -> Result<Service, MaglevError> {
        let weights = config.weights();
        let seat = |backend: &Backend| (backend.seat.address, backend.seat.port);
        let same = |before: &&Service| {
            before.weights == weights
                && before.config.table_size == config.table_size
                && before.config.seed == config.seed
                && before.config.backends.iter().map(seat).eq(config.backends.iter().map(seat))
        };
        if let Some(before) = before.filter(same) {
            let table = Arc::clone(&before.table);
            return Ok(Service { config, weights, table });
        }
        let names: Vec<String> = config
            .backends
            .iter()
            .map(|backend| format!("{}/{}", backend.seat.address, backend.seat.port.unwrap_or(0)))
            .collect();
        let candidates = weights.iter().zip(&names);
        let candidates: Vec<_> =
            candidates.map(|(weight, name)| Candidate { name: name.as_bytes(), weight: *weight }).collect();
        let table = Arc::new(Maglev::new(config.table_size, config.seed, &candidates)?);
        Ok(Service { config, weights, table })
    }

    /// The backend for a new connection.
    #[inline]
    pub fn choose(&self, hash: u64) -> Option<&Backend> {
        self.config.backends.get(self.table.choose(hash)?)
    }

    /// Who has which share of new connections.
    pub fn table(&self) -> &Maglev {
        &self.table
    }

    /// What each backend weighs in the choice at the moment, in 64ths; in the order of the configuration.
    pub fn weights(&self) -> &[u32] {
        &self.weights
    }
}

/// All services of a function, as one immutable value.
#[derive(Clone, Debug, Default)]
pub struct Services {
    services: Vec<Arc<Service>>,
    addresses: HashSet<[u8; 16]>,
    /// By address: the services there that have more than one port, those with the fewest first.
    wide: HashMap<[u8; 16], Vec<u32>>,
    /// By address, protocol and port.
    exact: HashMap<([u8; 16], u8, u16), u32>,
    /// By backend's address, protocol and port: the one service whose answers come from there.
    answers: HashMap<([u8; 16], u8, u16), Option<u32>>,
}

impl Services {
    /// Of services that overlap, the one with fewer ports holds; of equals the first.
    pub fn new(services: Vec<Arc<Service>>) -> Services {
        let mut all = Services { services, ..Services::default() };
        let mut order: Vec<usize> = (0..all.services.len()).collect();
        let width = |service: &Arc<Service>| match service.config.ports.as_slice() {
            [] => usize::MAX,
            ports => ports.iter().map(|ports| ports.len()).sum(),
        };
        order.sort_by_key(|index| all.services.get(*index).map(width));
        for index in order {
            let Some(service) = all.services.get(index) else { continue };
            let config = &service.config;
            let index = index as u32;
            for address in config.addresses.iter().map(|address| octets(*address)) {
                all.addresses.insert(address);
                let narrow = |ports: &&RangeInclusive<u16>| ports.start() == ports.end();
                for protocol in &config.protocols {
                    for port in config.ports.iter().filter(narrow) {
                        all.exact.entry((address, *protocol, *port.start())).or_insert(index);
                    }
                }
                if config.protocols.is_empty()
                    || config.ports.is_empty()
                    || !config.ports.iter().all(|ports| narrow(&ports))
                {
                    all.wide.entry(address).or_default().push(index);
                }
            }
            for backend in config.backends.iter().filter(|_| config.forward == Forward::Nat) {
                // Answers to all ports cannot be told from the backend's own connections.
                let Some(port) = backend.seat.port.or_else(|| config.one_port()) else { continue };
                for protocol in &config.protocols {
                    let whose = all.answers.entry((octets(backend.seat.address), *protocol, port));
                    whose
                        .and_modify(|known| *known = known.filter(|known| *known == index))
                        .or_insert(Some(index));
                }
            }
        }
        all
    }

    /// The service at an address (in its 16-byte form), protocol and port (0 where there are no ports).
    #[inline]
    pub fn at(&self, address: &[u8; 16], protocol: u8, port: u16) -> Option<&Service> {
        if let Some(index) = self.exact.get(&(*address, protocol, port)) {
            return self.get(*index);
        }
        let there = self.wide.get(address)?;
        there.iter().filter_map(|index| self.get(*index)).find(|service| {
            let ServiceConfig { protocols, ports, .. } = &service.config;
            (protocols.is_empty() || protocols.contains(&protocol))
                && (ports.is_empty() || ports.iter().any(|ports| ports.contains(&port)))
        })
    }

    /// Whether any service is at an address (in its 16-byte form).
    #[inline]
    pub fn has(&self, address: &[u8; 16]) -> bool {
        self.addresses.contains(address)
    }

    /// The service whose answers come from an address, protocol and port, if there is only one.
    #[inline]
    pub fn answering(&self, address: &[u8; 16], protocol: u8, port: u16) -> Option<&Service> {
        self.get((*self.answers.get(&(*address, protocol, port))?)?)
    }

    fn get(&self, index: u32) -> Option<&Service> {
        self.services.get(index as usize).map(Arc::as_ref)
    }

    /// All services, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter()
    }
}
