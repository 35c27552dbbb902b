//! How a packet's service is found.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use throughway_packet::headers::octets;

use crate::service::{Forward, Service, ServiceConfig};

/// All services of a function, as one immutable value.
#[derive(Clone, Debug, Default)]
pub struct Services {
    services: Vec<Arc<Service>>,
    index: Arc<Index>,
}

/// Where services are found, by their place in the list: it stays the same while only health and weights change.
#[derive(Debug, Default)]
struct Index {
    addresses: HashSet<[u8; 16]>,
    /// Addresses at which echo requests are answered.
    pinged: HashSet<[u8; 16]>,
    /// By address: the services there that have more than one port, those with the fewest first.
    wide: HashMap<[u8; 16], Vec<u32>>,
    /// By address, protocol and port.
    exact: HashMap<([u8; 16], u8, u16), u32>,
    /// By backend's address, protocol and port: the one service whose answers come from there.
    answers: HashMap<([u8; 16], u8, u16), Option<u32>>,
    /// Backends that packets are tunnelled to.
    ends: HashSet<[u8; 16]>,
    /// Where answers come from: backends, or services whose backends answer by themselves.
    answering: HashSet<[u8; 16]>,
}

impl Index {
    fn new(services: &[Arc<Service>]) -> Index {
        let mut index = Index::default();
        let mut order: Vec<usize> = (0..services.len()).collect();
        let width = |service: &Arc<Service>| match service.config.ports.as_slice() {
            [] => usize::MAX,
            ports => ports.iter().map(|ports| ports.len()).sum(),
        };
        order.sort_by_key(|number| services.get(*number).map(width));
        for number in order {
            if let Some(service) = services.get(number) {
                index.add(number as u32, &service.config);
            }
        }
        index
    }

    fn add(&mut self, number: u32, config: &ServiceConfig) {
        for address in config.addresses.iter().map(|address| octets(*address)) {
            self.addresses.insert(address);
            if config.answer_ping {
                self.pinged.insert(address);
            }
            let narrow = |ports: &&RangeInclusive<u16>| ports.start() == ports.end();
            for protocol in &config.protocols {
                for port in config.ports.iter().filter(narrow) {
                    self.exact.entry((address, *protocol, *port.start())).or_insert(number);
                }
            }
            if config.protocols.is_empty()
                || config.ports.is_empty()
                || !config.ports.iter().all(|ports| narrow(&ports))
            {
                self.wide.entry(address).or_default().push(number);
            }
        }
        let seats = config.backends.iter().map(|backend| &backend.seat);
        let ends = seats.clone().map(|seat| octets(seat.address));
        let own = config.addresses.iter().map(|address| octets(*address));
        match config.forward {
            Forward::Nat => {
                self.answering.extend(ends);
                for seat in seats {
                    // Answers to all ports cannot be told from the backend's own connections.
                    let Some(port) = seat.port.or_else(|| config.one_port()) else { continue };
                    for protocol in &config.protocols {
                        let whose = self.answers.entry((octets(seat.address), *protocol, port));
                        whose
                            .and_modify(|known| *known = known.filter(|known| *known == number))
                            .or_insert(Some(number));
                    }
                }
            }
            Forward::FullNat => self.answering.extend(ends),
            Forward::Dsr => self.answering.extend(own),
            Forward::Ipip => {
                self.answering.extend(own);
                self.ends.extend(ends);
            }
        }
    }
}

impl Services {
    /// Of services that overlap, the one with fewer ports holds; of equals the first.
    pub fn new(services: Vec<Arc<Service>>) -> Services {
        let index = Arc::new(Index::new(&services));
        Services { services, index }
    }

    /// As [`Services::new`]; what finds services is taken from `before` where it would be the same, as it is when health or
    /// weights have changed: then this costs nothing for each backend of those services that are the very same.
    pub fn after(before: &Services, services: Vec<Arc<Service>>) -> Services {
        let same =
            |(one, other): (&Arc<Service>, &Arc<Service>)| Arc::ptr_eq(one, other) || one.has_face_of(other);
        if before.services.len() == services.len() && before.services.iter().zip(&services).all(same) {
            return Services { services, index: Arc::clone(&before.index) };
        }
        Services::new(services)
    }

    /// The service at an address (in its 16-byte form), protocol and port (0 where there are no ports).
    #[inline]
    pub fn at(&self, address: &[u8; 16], protocol: u8, port: u16) -> Option<&Service> {
        if let Some(number) = self.index.exact.get(&(*address, protocol, port)) {
            return self.get(*number);
        }
        let there = self.index.wide.get(address)?;
        there.iter().filter_map(|number| self.get(*number)).find(|service| {
            let ServiceConfig { protocols, ports, .. } = &service.config;
            (protocols.is_empty() || protocols.contains(&protocol))
                && (ports.is_empty() || ports.iter().any(|ports| ports.contains(&port)))
        })
    }

    /// Whether any service is at an address (in its 16-byte form).
    #[inline]
    pub fn has(&self, address: &[u8; 16]) -> bool {
        self.index.addresses.contains(address)
    }

    /// Whether echo requests to an address (in its 16-byte form) are answered.
    pub fn answers_pings_to(&self, address: &[u8; 16]) -> bool {
        self.index.pinged.contains(address)
    }

    /// Whether packets are tunnelled to a backend at an address (in its 16-byte form).
    pub fn tunnels_to(&self, address: &[u8; 16]) -> bool {
        self.index.ends.contains(address)
    }

    /// Whether packets are tunnelled at all.
    pub fn have_tunnels(&self) -> bool {
        !self.index.ends.is_empty()
    }

    /// The service whose answers come from an address, protocol and port, if there is only one.
    #[inline]
    pub fn answering(&self, address: &[u8; 16], protocol: u8, port: u16) -> Option<&Service> {
        self.get((*self.index.answers.get(&(*address, protocol, port))?)?)
    }

    /// Whether packets from an address may be answers of a connection.
    #[inline]
    pub(crate) fn may_answer_from(&self, address: &[u8; 16]) -> bool {
        self.index.answering.contains(address)
    }

    fn get(&self, number: u32) -> Option<&Service> {
        self.services.get(number as usize).map(Arc::as_ref)
    }

    /// All services, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.iter()
    }
}
