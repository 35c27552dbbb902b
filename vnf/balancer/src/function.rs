//! The function: one packet's way to its backend, or back to its client.

use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use siphasher::sip::SipHasher13;
use throughway_packet::headers::octets;
use throughway_packet::{Edit, Flags, Headers};
use throughway_session::connection::Connection;
use throughway_session::tcp::Event;
use throughway_session::{
    Class, Config, NewSession, Seed, SessionKey, SessionTable, Side, WhenFull, translate,
};
use throughway_vnf::credit::session_silence;
use throughway_vnf::{Context, DropReason, Function, Now, Packet, Seen, Slot, Snapshot, Verdict};

use crate::service::{Affinity, Backend, Forward, Service, Services};

/// Connections that are looked at for their age between two batches.
const AGED: usize = 64;

/// What is fixed for the life of the connection table.
#[derive(Clone, Debug)]
pub struct Options {
    /// The most connections that are remembered; others are served by the hash alone.
    pub connections: u32,
    /// The most connections that are remembered before both sides have spoken.
    pub half_open: u32,
    /// The secret of the connection table's hash function.
    pub seed: [u64; 2],
}

/// What all workers share, whatever services are configured.
#[derive(Debug)]
pub struct Shared {
    connections: SessionTable<Remembered>,
    hash_only: AtomicU64,
}

/// What is remembered of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Remembered {
    connection: Connection,
    service: u32,
    backend: u32,
}

impl Shared {
    /// With no connections.
    pub fn new(options: Options) -> Shared {
        let [a, b] = options.seed;
        let config =
            Config::new(options.connections, Seed([a, b])).half_open(options.half_open, WhenFull::Refuse);
        Shared { connections: SessionTable::new(config), hash_only: AtomicU64::new(0) }
    }

    /// How many connections are remembered.
    pub fn connections(&self) -> u32 {
        self.connections.len()
    }

    /// Packets that the hash alone decided about, for want of room in the table.
    pub fn hash_only(&self) -> u64 {
        self.hash_only.load(Ordering::Relaxed)
    }
}

/// The load balancer, as one worker holds it.
#[derive(Debug)]
pub struct Balancer {
    shared: Arc<Shared>,
    services: Snapshot<Services>,
}

impl Balancer {
    /// A load balancer over what all workers share, for these services, with what is known of their backends.
    pub fn new(shared: Arc<Shared>, services: Snapshot<Services>) -> Balancer {
        Balancer { shared, services }
    }

    /// A packet of a connection that is remembered.
    fn known(&self, packet: &mut Packet<'_>, key: &SessionKey, now: Now) -> Option<Verdict> {
        let shared = &self.shared;
        let headers = *packet.headers();
        let services = self.services.read();
        let timeouts = services.timeouts();
        let found = shared.connections.lookup_with(key, now, |side, remembered, meta| {
            let before = remembered.connection;
            let event = remembered.connection.packet(side, &headers);
            if event == Event::Fits {
                meta.touch(now, remembered.connection.timeout(&headers, timeouts));
                let class = remembered.connection.class();
                if meta.class() != class && meta.set_class(class).is_err() {
                    remembered.connection = before;
                }
            }
            (meta.id(), side, event, *remembered)
        });
        let (id, side, event, remembered) = found?;
        match event {
            Event::Fits => {}
            Event::Reopens => {
                // A new connection from the same port: chosen anew, as the backend may be gone.
                shared.connections.remove(id);
                return None;
            }
            Event::Invalid => return Some(Verdict::Drop(DropReason::BalancerInvalidState)),
        }
        let [forward, reverse] = shared.connections.keys(id)?;
        let service = services.by_id(remembered.service);
        let backend = service.and_then(|service| service.backend(remembered.backend));
        if let Some(backend) = backend {
            backend.figures.packets(1, u64::from(headers.packet_len()));
        }
        if side == Side::Forward {
            match (service.map(|service| service.config.forward), backend) {
                (Some(Forward::Dsr), Some(backend)) => packet.direct_to(backend.address),
                _ => translate(packet, &reverse.reversed()),
            }
        } else {
            translate(packet, &forward.reversed());
        }
        packet.depends_on(Slot::session(id.to_bits()));
        packet.credit(id.to_credit());
        // One side of a connection is all that is seen of it in direct server return: the opener has to prove it alone.
        let proven = remembered.connection.class() != Class::HalfOpen;
        let timeout = remembered.connection.timeout(&headers, timeouts);
        match session_silence(timeout.as_nanos() as u64).filter(|_| proven) {
            Some(silence) => packet.limit_silence(silence),
            None => packet.judge_each(),
        }
        Some(Verdict::Continue)
    }

    /// A packet of no remembered connection: the hash chooses.
    fn unknown(&mut self, packet: &mut Packet<'_>, key: &SessionKey, now: Now) -> Verdict {
        let shared = &self.shared;
        let services = self.services.read();
        let headers = *packet.headers();
        let Some(service) = services.at(&key.destination, key.protocol, headers.destination_port()) else {
            if let Some(service) = services.answering(&key.source, key.protocol, headers.source_port()) {
                answer(packet, service, &headers);
            }
            return Verdict::Continue;
        };
        let hash = hash(service, key);
        let Some(backend) = service.choose(hash) else { return Verdict::Drop(DropReason::NoBackend) };
        let mut translated = *key;
        toward(service, backend, &mut translated);
        // A segment in the middle of a connection may come from another box with the same configuration, which chose alike.
        let connection = Connection::open(&headers);
        let remembered = connection.and_then(|connection| {
            let (service, backend) = (service.config.id, backend.id);
            let state = Remembered { connection, service, backend };
            let timeout = connection.timeout(&headers, services.timeouts());
            let (forward, reverse) = (*key, translated.reversed());
            let new = NewSession { forward, reverse, class: connection.class(), timeout, state };
            shared.connections.insert(new, now, |_| ()).ok()
        });
        if remembered.is_none() {
            shared.hash_only.fetch_add(1, Ordering::Relaxed);
        } else {
            backend.figures.connection();
        }
        backend.figures.packets(1, u64::from(headers.packet_len()));
        match service.config.forward {
            Forward::Dsr => packet.direct_to(backend.address),
            Forward::Nat | Forward::FullNat(_) => translate(packet, &translated),
        }
        packet.judge_each();
        Verdict::Continue
    }
}

impl Function for Balancer {
    const KIND: &'static str = "load-balancer";

    fn judge(&mut self, packet: &mut Packet<'_>, context: &Context) -> Verdict {
        let headers = packet.headers();
        if !headers.flags.has(Flags::PORTS) {
            return Verdict::Continue;
        }
        let key = SessionKey::of(&headers.key, 0);
        match self.known(packet, &key, context.now) {
            Some(verdict) => verdict,
            None => self.unknown(packet, &key, context.now),
        }
    }

    fn settle(&mut self, credit: u64, seen: &Seen) {
        let connections = &self.shared.connections;
        if connections.keep_alive_credit(credit, seen.last)
            && let Some(id) = connections.credited(credit)
            && let Some(remembered) = connections.read(id, |remembered, _| *remembered)
        {
            let services = self.services.read();
            let service = services.by_id(remembered.service);
            if let Some(backend) = service.and_then(|service| service.backend(remembered.backend)) {
                backend.figures.packets(seen.packets, seen.bytes);
            }
        }
    }

    fn tick(&mut self, context: &Context) {
        self.shared.connections.expire(context.now, AGED, |_| ());
    }
}

/// The hash by which a service chooses: alike on boxes with the same configuration.
fn hash(service: &Service, key: &SessionKey) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(service.config.seed, 0);
    hasher.write(&key.source);
    if service.config.affinity == Affinity::Connection {
        hasher.write(&key.source_port);
        hasher.write(&key.destination);
        hasher.write(&key.destination_port);
        hasher.write_u8(key.protocol);
    }
    hasher.finish()
}

/// The key of a packet as it goes to its backend.
fn toward(service: &Service, backend: &Backend, key: &mut SessionKey) {
    if service.config.forward == Forward::Dsr {
        return;
    }
    key.destination = octets(backend.address);
    if let Some(port) = backend.port {
        key.destination_port = port.to_be_bytes();
    }
    if let Forward::FullNat(address) = service.config.forward {
        key.source = octets(address);
    }
}

/// An answer of a connection that is not remembered: its source becomes the service's, if that can be told.
fn answer(packet: &mut Packet<'_>, service: &Service, headers: &Headers) {
    if service.config.ports.len() == 1 {
        packet.edit(Edit::Source(service.config.address));
        packet.edit(Edit::SourcePort(*service.config.ports.start()));
        debug_assert!(headers.flags.has(Flags::PORTS));
        packet.judge_each();
    }
}
