//! Services and their backends.

use std::hash::Hasher;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use siphasher::sip::SipHasher13;
use throughway_packet::headers::octets;

use crate::maglev::{Candidate, Maglev, MaglevError, USUAL_SIZE};
use crate::seat::{Seat, ServiceFigures};

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

impl Backend {
    /// What it is on every box: its address in the 16-byte form, and its port.
    fn name(&self) -> [u8; 18] {
        let mut name = [0; 18];
        let (address, port) = name.split_at_mut(16);
        address.copy_from_slice(&octets(self.seat.address));
        port.copy_from_slice(&self.seat.port.unwrap_or(0).to_be_bytes());
        name
    }
}

/// Tells a service of this name from others.
fn tag(name: &str) -> [u8; 16] {
    let half = |which: u64| {
        let mut hasher = SipHasher13::new_with_keys(0, which);
        hasher.write(name.as_bytes());
        hasher.finish()
    };
    (u128::from(half(0)) << 64 | u128::from(half(1))).to_be_bytes()
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
    /// For how long after it last opened a connection a client stays with its backend, whoever comes or goes; zero: the hash
    /// alone decides. For [`Affinity::Source`].
    pub affinity_timeout: Duration,
    /// Whether echo requests to its addresses are answered, where they are not balanced.
    pub answer_ping: bool,
    /// See [`AllDown`].
    pub all_down: AllDown,
    /// Entries of its Maglev table.
    pub table_size: u32,
    /// Shared by boxes that choose alike.
    pub seed: u64,
    /// Its backends.
    pub backends: Vec<Backend>,
    /// What became of its packets.
    pub figures: Arc<ServiceFigures>,
}

impl ServiceConfig {
    /// A service of which nothing else is said: no address yet, every protocol and port, connections spread one by one, refused when
    /// nobody is there.
    pub fn new(name: &str, forward: Forward, backends: Vec<Backend>) -> Self {
        ServiceConfig {
            name: name.to_owned(),
            addresses: Vec::new(),
            protocols: Vec::new(),
            ports: Vec::new(),
            forward,
            sources: Vec::new(),
            affinity: Affinity::Connection,
            affinity_timeout: Duration::ZERO,
            answer_ping: false,
            all_down: AllDown::Reject,
            table_size: USUAL_SIZE,
            seed: 0,
            backends,
            figures: Arc::default(),
        }
    }

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
    tag: [u8; 16],
}

impl Service {
    /// Fills the table from those backends that get new connections; or takes the table of `before`, if it would be the same.
    ///
    /// # Errors
    /// See [`MaglevError`].
    pub fn new(config: ServiceConfig, before: Option<&Service>) -> Result<Service, MaglevError> {
        let weights = config.weights();
        let tag = tag(&config.name);
        let seat = |backend: &Backend| (backend.seat.address, backend.seat.port);
        let same = |before: &&Service| {
            before.weights == weights
                && before.config.table_size == config.table_size
                && before.config.seed == config.seed
                && before.config.backends.iter().map(seat).eq(config.backends.iter().map(seat))
        };
        if let Some(before) = before.filter(same) {
            let table = Arc::clone(&before.table);
            return Ok(Service { config, weights, table, tag });
        }
        let names: Vec<[u8; 18]> = config.backends.iter().map(|backend| backend.name()).collect();
        let candidates = weights.iter().zip(&names);
        let candidates: Vec<_> =
            candidates.map(|(weight, name)| Candidate { name, weight: *weight }).collect();
        let table = Arc::new(Maglev::new(config.table_size, config.seed, &candidates)?);
        Ok(Service { config, weights, table, tag })
    }

    /// Tells it from other services.
    pub(crate) fn tag(&self) -> &[u8; 16] {
        &self.tag
    }

    /// Whether the same packets find both, and the same answers.
    pub(crate) fn has_face_of(&self, other: &Service) -> bool {
        let (one, other) = (&self.config, &other.config);
        let seat = |backend: &Backend| (backend.seat.address, backend.seat.port);
        one.addresses == other.addresses
            && one.protocols == other.protocols
            && one.ports == other.ports
            && one.forward == other.forward
            && one.answer_ping == other.answer_ping
            && one.backends.iter().map(seat).eq(other.backends.iter().map(seat))
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
