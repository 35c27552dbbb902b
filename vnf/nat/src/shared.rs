//! What all workers share of a NAT, and what stays over reloads: sessions and mappings.
//!
//! A *session* is a connection: its forward key is that of the packet that opened it, its reverse key that of the answers as
//! they arrive, so a packet of either side is translated into the other side's key, turned round. Source, destination, twice
//! NAT and hairpinning are all this one thing.
//!
//! A *mapping* is an outside address and port that an inside address and port has for a while (RFC 4787): its forward key is
//! the inside end, its reverse key the outside end. It lives as long as it has sessions; then its port rests.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use throughway_packet::headers::octets;
use throughway_session::connection::{Connection, Timeouts};
use throughway_session::{
    Class, Config, InsertError, NewSession, Removed, Seed, SessionId, SessionKey, SessionTable, WhenFull,
};
use throughway_vnf::{Generations, Now, Slot};

use crate::pool::Pool;
use crate::rule::{DestinationRule, Filtering, SourceRule};

/// A mapping never ends by time, only with its last session.
const FOREVER: Duration = Duration::from_secs(1 << 28);

/// What is fixed for the life of the tables.
#[derive(Clone, Debug)]
pub struct Options {
    /// The most sessions.
    pub sessions: u32,
    /// The most sessions on which nobody has answered yet; the oldest of them makes room for new ones.
    pub half_open: u32,
    /// The secret of the tables' hash functions and of the choice of ports.
    pub seed: [u64; 2],
}

/// The rules of one configuration, as workers read them.
#[derive(Debug)]
pub struct Rules {
    /// How long sessions live.
    pub timeouts: Timeouts,
    /// For connections opened from inside, in order.
    pub source: Vec<SourceRule>,
    /// For connections to outside addresses, in order.
    pub destination: Vec<DestinationRule>,
    /// The pools that source rules name by index. Those that stay the same over a reload are the same object.
    pub pools: Vec<Arc<Pool>>,
    /// The ports of the data plane that lead outside.
    pub outside: Vec<throughway_packet::PortId>,
}

/// A session's own part.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// The state of the connection.
    pub connection: Connection,
    /// The mapping it belongs to, as [`SessionId::to_bits`]; 0: none (destination NAT, prefixes).
    pub mapping: u64,
}

/// A mapping's own part.
#[derive(Clone, Debug)]
pub struct Mapped {
    /// Where its port came from.
    pub pool: Arc<Pool>,
    /// Who may send to it.
    pub filtering: Filtering,
    /// Sessions that use it.
    pub sessions: u32,
}

/// What all workers share, whatever rules are in force.
#[derive(Debug)]
pub struct Shared {
    pub(crate) options: Options,
    pub(crate) sessions: SessionTable<Session>,
    pub(crate) mappings: SessionTable<Mapped>,
    generations: Arc<Generations>,
}

impl Shared {
    /// Empty tables.
    pub fn new(options: Options, generations: Arc<Generations>) -> Shared {
        let [a, b] = options.seed;
        let sessions =
            Config::new(options.sessions, Seed([a, b])).half_open(options.half_open, WhenFull::EvictHalfOpen);
        // No more mappings than sessions: each has one at least.
        let mappings = Config::new(options.sessions, Seed([b, a]));
        Shared {
            sessions: SessionTable::new(sessions),
            mappings: SessionTable::new(mappings),
            options,
            generations,
        }
    }

    /// How many sessions there are, and how many mappings.
    pub fn len(&self) -> (u32, u32) {
        (self.sessions.len(), self.mappings.len())
    }

    /// Whether there are no sessions.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// The slot of a session: what caches that remember its translation depend on.
    pub(crate) fn slot(id: SessionId) -> Slot {
        Slot::session(id.to_bits())
    }

    /// Makes a session that uses `mapping` (which must have been counted up for it; on an error the caller counts it down).
    pub(crate) fn open(
        &self,
        keys: [SessionKey; 2],
        connection: Connection,
        timeout: Duration,
        mapping: Option<SessionId>,
        now: Now,
    ) -> Result<SessionId, InsertError> {
        let [forward, reverse] = keys;
        let state = Session { connection, mapping: mapping.map_or(0, SessionId::to_bits) };
        let class = connection.class();
        self.sessions.insert(NewSession { forward, reverse, class, timeout, state }, now, |gone| {
            self.closed(&gone, now)
        })
    }

    /// A session is gone: its mapping has one less, and goes with its last.
    pub(crate) fn closed(&self, gone: &Removed<Session>, now: Now) {
        if gone.state.mapping != 0 {
            self.leave(SessionId::from_bits(gone.state.mapping), now);
        }
    }

    /// Ends a session before its time: caches must not go on translating.
    pub(crate) fn end(&self, id: SessionId, now: Now) {
        if let Some(gone) = self.sessions.remove(id) {
            self.generations.bump([Shared::slot(id)]);
            self.closed(&gone, now);
        }
    }

    /// Counts a session of a mapping down; the last one takes the mapping along, and its port rests.
    pub(crate) fn leave(&self, id: SessionId, now: Now) {
        let left = self.mappings.with(id, |mapped, _| {
            mapped.sessions = mapped.sessions.saturating_sub(1);
            mapped.sessions
        });
        if left != Some(0) {
            return;
        }
        // Another worker may have found it meanwhile and counted it up.
        if let Some(gone) = self.mappings.remove_if(id, |mapped| mapped.sessions == 0) {
            let [_, outside] = gone.keys;
            if let Some((address, port)) = end_of(&outside.destination, outside.destination_port) {
                gone.state.pool.give_back(address, outside.protocol, port, now.0);
            }
        }
    }

    /// The mapping with this key, counted up for one more session.
    pub(crate) fn join(&self, key: &SessionKey, now: Now) -> Option<(SessionId, Filtering)> {
        self.mappings.lookup_with(key, now, |_, mapped, meta| {
            mapped.sessions = mapped.sessions.saturating_add(1);
            (meta.id(), mapped.filtering)
        })
    }

    /// Makes a mapping with one session.
    pub(crate) fn map(
        &self,
        keys: [SessionKey; 2],
        mapped: Mapped,
        now: Now,
    ) -> Result<SessionId, InsertError> {
        let [forward, reverse] = keys;
        let new = NewSession { forward, reverse, class: Class::Established, timeout: FOREVER, state: mapped };
        self.mappings.insert(new, now, |_| ())
    }

    /// Ages sessions: a bounded slice.
    pub(crate) fn tick(&self, now: Now, budget: usize) {
        self.sessions.expire(now, budget, |gone| self.closed(&gone, now));
    }
}

/// The inside end of a mapping as a key. `peer` holds what a mapping depends on beside it: the destination's address, or that and
/// its port.
pub(crate) fn inside_key(of: &SessionKey, peer: Option<([u8; 16], [u8; 2])>) -> SessionKey {
    let (destination, destination_port) = peer.unwrap_or_default();
    SessionKey { destination, destination_port, ..*of }
}

/// The outside end of a mapping as a key.
pub(crate) fn outside_key(address: IpAddr, port: u16, protocol: u8, zone: u16) -> SessionKey {
    SessionKey {
        destination: octets(address),
        destination_port: port.to_be_bytes(),
        protocol,
        zone,
        ..SessionKey::default()
    }
}

/// An address and port in their usual form.
pub(crate) fn end_of(address: &[u8; 16], port: [u8; 2]) -> Option<(IpAddr, u16)> {
    let address = std::net::Ipv6Addr::from(*address).to_canonical();
    Some((address, u16::from_be_bytes(port)))
}
