//! Services, their backends, and how a packet's service is found.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use throughway_packet::headers::octets;
use throughway_session::connection::Timeouts;

use crate::maglev::{Candidate, Maglev, MaglevError};

/// How a service's packets reach their backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Forward {
    /// The destination becomes the backend's address and port; answers pass here on their way back and get the service's.
    #[default]
    Nat,
    /// As [`Forward::Nat`], and the source becomes this address, so that answers come here whatever the backend's routes are.
    FullNat(IpAddr),
    /// The packet stays as it is and goes to the backend's MAC address: direct server return.
    Dsr,
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

/// What a backend was given. Written by all workers, on their slow path only.
#[derive(Debug, Default)]
pub struct Figures {
    connections: AtomicU64,
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Figures {
    /// One more connection.
    pub fn connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Packets of both directions as far as they pass here, and their IP packets' bytes.
    pub fn packets(&self, packets: u64, bytes: u64) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Connections, packets and bytes so far.
    pub fn get(&self) -> [u64; 3] {
        [&self.connections, &self.packets, &self.bytes].map(|figure| figure.load(Ordering::Relaxed))
    }
}

/// A backend of a service.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Stays the same over reloads as long as service, address and port do.
    pub id: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its port, host order; `None`: that of the packet.
    pub port: Option<u16>,
    /// Its share beside the others.
    pub weight: u32,
    /// See [`Health`].
    pub health: Health,
    /// Goes on over reloads.
    pub figures: Arc<Figures>,
}

/// A service as configured, with what is known of its backends.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// Stays the same over reloads as long as the name does.
    pub id: u32,
    /// Its virtual address.
    pub address: IpAddr,
    /// Upper-layer protocols (IANA numbers).
    pub protocols: Vec<u8>,
    /// Ports, host order; the whole range for all of them.
    pub ports: RangeInclusive<u16>,
    /// See [`Forward`].
    pub forward: Forward,
    /// See [`Affinity`].
    pub affinity: Affinity,
    /// Entries of its Maglev table.
    pub table_size: u32,
    /// Shared by boxes that choose alike.
    pub seed: u64,
    /// Its backends.
    pub backends: Vec<Backend>,
}

/// A service, ready to choose.
#[derive(Clone, Debug)]
pub struct Service {
    /// As configured.
    pub config: ServiceConfig,
    table: Maglev,
}

impl Service {
    /// Fills the table from those backends that get new connections.
    ///
    /// # Errors
    /// See [`MaglevError`].
    pub fn new(config: ServiceConfig) -> Result<Service, MaglevError> {
        let names: Vec<String> = config
            .backends
            .iter()
            .map(|backend| format!("{}/{}", backend.address, backend.port.unwrap_or(0)))
            .collect();
        let candidates = config.backends.iter().zip(&names).map(|(backend, name)| Candidate {
            name: name.as_bytes(),
            weight: if backend.health == Health::Up { backend.weight } else { 0 },
        });
        let table = Maglev::new(config.table_size, config.seed, &candidates.collect::<Vec<_>>())?;
        Ok(Service { config, table })
    }

    /// The backend for a new connection.
    #[inline]
    pub fn choose(&self, hash: u64) -> Option<&Backend> {
        self.config.backends.get(self.table.choose(hash)?)
    }

    /// One of its backends, by identifier.
    pub fn backend(&self, id: u32) -> Option<&Backend> {
        self.config.backends.iter().find(|backend| backend.id == id)
    }

    /// Who has which share of new connections.
    pub fn table(&self) -> &Maglev {
        &self.table
    }
}

/// All services of a function, as one immutable value.
#[derive(Clone, Debug)]
pub struct Services {
    timeouts: Timeouts,
    services: Vec<Service>,
    by_id: HashMap<u32, u32>,
    /// By address and protocol: the services there, those with one port first.
    at: HashMap<([u8; 16], u8), Vec<u32>>,
    /// By address, protocol and port, for those with one port.
    exact: HashMap<([u8; 16], u8, u16), u32>,
    /// By backend's address, protocol and port: the one service whose answers come from there.
    answers: HashMap<([u8; 16], u8, u16), Option<u32>>,
}

impl Services {
    /// Of services that overlap, the one with fewer ports holds; of equals the first. Connections are remembered for
    /// `timeouts`.
    pub fn new(services: Vec<Service>, timeouts: Timeouts) -> Services {
        let mut all = Services {
            timeouts,
            services,
            by_id: HashMap::new(),
            at: HashMap::new(),
            exact: HashMap::new(),
            answers: HashMap::new(),
        };
        let mut order: Vec<usize> = (0..all.services.len()).collect();
        let width =
            |service: &Service| service.config.ports.end().saturating_sub(*service.config.ports.start());
        order.sort_by_key(|index| all.services.get(*index).map(width));
        for index in order {
            let Some(service) = all.services.get(index) else { continue };
            let ServiceConfig { address, protocols, ports, backends, forward, .. } = &service.config;
            let (index, address) = (index as u32, octets(*address));
            all.by_id.insert(service.config.id, index);
            for protocol in protocols {
                if ports.start() == ports.end() {
                    all.exact.entry((address, *protocol, *ports.start())).or_insert(index);
                } else {
                    all.at.entry((address, *protocol)).or_default().push(index);
                }
                for backend in backends.iter().filter(|_| *forward == Forward::Nat) {
                    // Answers to all ports cannot be told from the backend's own connections.
                    let Some(port) = backend.port.or_else(|| (ports.len() == 1).then(|| *ports.start()))
                    else {
                        continue;
                    };
                    let whose = all.answers.entry((octets(backend.address), *protocol, port));
                    whose
                        .and_modify(|known| *known = known.filter(|known| *known == index))
                        .or_insert(Some(index));
                }
            }
        }
        all
    }

    /// How long connections are remembered.
    pub const fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// The service at an address (in its 16-byte form), protocol and port.
    #[inline]
    pub fn at(&self, address: &[u8; 16], protocol: u8, port: u16) -> Option<&Service> {
        if let Some(index) = self.exact.get(&(*address, protocol, port)) {
            return self.services.get(*index as usize);
        }
        let there = self.at.get(&(*address, protocol))?;
        let mut there = there.iter().filter_map(|index| self.services.get(*index as usize));
        there.find(|service| service.config.ports.contains(&port))
    }

    /// The service whose answers come from an address, protocol and port, if there is only one.
    #[inline]
    pub fn answering(&self, address: &[u8; 16], protocol: u8, port: u16) -> Option<&Service> {
        self.services.get((*self.answers.get(&(*address, protocol, port))?)? as usize)
    }

    /// A service by its identifier.
    pub fn by_id(&self, id: u32) -> Option<&Service> {
        self.services.get(*self.by_id.get(&id)? as usize)
    }

    /// All services, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Service> {
        self.services.iter()
    }
}
