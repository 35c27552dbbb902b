//! Clients that stay with their backend for a time, whoever comes or goes: source affinity with a timeout. Without a timeout the
//! hash of the source decides, and needs no memory.

use std::sync::Arc;
use std::time::Duration;

use throughway_session::{Class, Config, Info, NewSession, Seed, SessionKey, SessionTable, WhenFull};
use throughway_vnf::Now;

use crate::seat::Seat;
use crate::service::Service;

/// Clients that are remembered at a time, over all services of a function; the oldest make room.
pub(crate) const CLIENTS: u32 = 1 << 18;

/// Clients and their backends.
#[derive(Debug)]
pub(crate) struct Clients {
    seats: SessionTable<Arc<Seat>>,
}

impl Clients {
    pub(crate) fn new(seed: Seed) -> Clients {
        let config = Config::new(CLIENTS, seed).half_open(CLIENTS, WhenFull::EvictHalfOpen);
        Clients { seats: SessionTable::new(config) }
    }

    fn keys(service: &Service, client: &[u8; 16]) -> [SessionKey; 2] {
        let key = SessionKey { source: *client, destination: *service.tag(), ..SessionKey::default() };
        // Never looked up; the zone keeps it apart from every forward key.
        [key, SessionKey { zone: 1, ..key.reversed() }]
    }

    /// The backend that a client has, if that gets new connections; it has it for the timeout again.
    pub(crate) fn seat(&self, service: &Service, client: &[u8; 16], now: Now) -> Option<Arc<Seat>> {
        let timeout = service.config.affinity_timeout;
        if timeout.is_zero() {
            return None;
        }
        let [key, _] = Clients::keys(service, client);
        self.seats.lookup_with(&key, now, |_, seat, meta| {
            let taking = seat.is_taking();
            if taking {
                meta.touch(now, timeout);
            }
            taking.then(|| Arc::clone(seat))
        })?
    }

    /// A client has proven itself with a backend.
    pub(crate) fn remember(&self, service: &Service, client: &[u8; 16], seat: &Arc<Seat>, now: Now) {
        let timeout = service.config.affinity_timeout;
        if timeout.is_zero() {
            return;
        }
        let [key, reverse] = Clients::keys(service, client);
        let known = self.seats.lookup_with(&key, now, |_, known, meta| {
            // Connections that were open before do not take a client back from where it went meanwhile.
            if !known.is_taking() {
                *known = Arc::clone(seat);
            }
            meta.touch(now, timeout);
        });
        if known.is_none() {
            let state = Arc::clone(seat);
            let new = NewSession { forward: key, reverse, class: Class::HalfOpen, timeout, state };
            // Another worker may have been faster: with the same backend, as the hash is the same.
            let _ = self.seats.insert(new, now, |_| ());
        }
    }

    /// Shows all clients that are remembered at `now`.
    pub(crate) fn each(&self, now: Now, mut show: impl FnMut(&SessionKey, &Arc<Seat>, &Info)) {
        self.seats.each(now, |[client, _], seat, info| show(client, seat, info));
    }

    /// A client that an earlier instance remembered.
    pub(crate) fn restore(&self, client: SessionKey, seat: Arc<Seat>, timeout: Duration, seen: Now) {
        let reverse = SessionKey { zone: 1, ..client.reversed() };
        let new = NewSession { forward: client, reverse, class: Class::HalfOpen, timeout, state: seat };
        // Who has no room is chosen for by the hash, as anybody new.
        let _ = self.seats.insert(new, seen, |_| ());
    }

    pub(crate) fn len(&self) -> u32 {
        self.seats.len()
    }

    pub(crate) fn memory(&self) -> usize {
        self.seats.memory()
    }

    pub(crate) fn expire(&self, now: Now, budget: usize) {
        self.seats.expire(now, budget, |_| ());
    }
}
