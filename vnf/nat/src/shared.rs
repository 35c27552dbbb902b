//! What all workers share of a NAT, and what stays over reloads: sessions and mappings.
//!
//! A *session* is a connection: its forward key is that of the packet that opened it, its reverse key that of the answers as
//! they arrive, so a packet of either side is translated into the other side's key, turned round. Source, destination, twice
//! NAT and hairpinning are all this one thing.
//!
//! A *mapping* is an outside address and port that an inside address and port has for a while (RFC 4787): its forward key is
//! the inside end, its reverse key the outside end. It lives as long as it has sessions; then its port rests.
//!
//! A *peer* is an address outside that a mapping has sent to and that may therefore send to it (address-dependent filtering). It
//! lives as long as the sessions that sent there. Most mappings have one: the first is kept with the mapping, only others in a table.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use throughway_packet::headers::octets;
use throughway_packet::parse::UDP;
use throughway_packet::{Headers, PortId};
use throughway_session::connection::{Connection, Timeouts};
use throughway_session::fragment::Datagrams;
use throughway_session::passed::Passed;
use throughway_session::{
    Class, Config, Cursor, InsertError, Keyed, NewSession, Probe, Reason, Removed, Seed, SessionId,
    SessionKey, SessionTable, SourceConfig, SourceCounter, Stats, WhenFull,
};
use throughway_vnf::credit::{session_silence, steady_silence};
use throughway_vnf::events::{Events, PortBlock, What};
use throughway_vnf::{Generations, IcmpError, Now, Slot, nanos};

use crate::address::{Address, Addresses, lock};
use crate::blocks::Block;
use crate::fragments::{Fate, WAIT};
use crate::pool::{Pool, PoolConfig};
use crate::rate::{HostRate, Rates};
use crate::rule::{DestinationRule, Filtering, SourceRule};

/// A mapping never ends by time, only with its last session.
const FOREVER: Duration = Duration::from_secs(1 << 28);

/// How long a port rests after use: RFC 6888, REQ-8.
pub const QUIET: Duration = Duration::from_secs(120);

/// What is fixed for the life of the tables.
#[derive(Clone, Debug)]
pub struct Options {
    /// The most sessions.
    pub sessions: u32,
    /// The most sessions on which nobody has answered yet.
    pub half_open: u32,
    /// What happens when there are that many, or no room at all: the oldest of them makes room for new ones, or, to the letter of
    /// RFC 6888, REQ-11, new ones are refused.
    pub when_full: WhenFull,
    /// The most hosts whose sessions are counted at a time, where there is a limit of sessions per host.
    pub hosts: u32,
    /// The most fragmented datagrams that are followed at a time; the oldest makes room.
    pub datagrams: u32,
    /// How long a port rests after use.
    pub quiet: Duration,
    /// The secret of the tables' hash functions and of the choice of ports.
    pub seed: [u64; 2],
}

impl Options {
    /// For so many sessions, a quarter of them half-open at most.
    pub const fn new(sessions: u32, seed: [u64; 2]) -> Options {
        let hosts = if sessions < 1 << 20 { sessions } else { 1 << 20 };
        let half_open = if sessions < 4 { sessions } else { sessions / 4 };
        let when_full = WhenFull::EvictHalfOpen;
        Options { sessions, half_open, when_full, hosts, datagrams: 1 << 13, quiet: QUIET, seed }
    }
}

/// The rules of one configuration, as workers read them.
#[derive(Debug)]
pub struct Rules {
    /// How long sessions live.
    pub timeouts: Timeouts,
    /// … and those of UDP on which both sides have spoken.
    pub udp_stream: Duration,
    /// For connections opened from inside, in order.
    pub source: Vec<SourceRule>,
    /// For connections to outside addresses, in order.
    pub destination: Vec<DestinationRule>,
    /// The pools that rules name by index. Those that stay the same over a reload are the same object.
    pub pools: Vec<Arc<Pool>>,
    /// The ports of the data plane that lead outside.
    pub outside: Vec<PortId>,
    /// Whether hosts inside reach each other by their outside addresses (RFC 4787, REQ-9).
    pub hairpin: bool,
    /// The most sessions of one host inside (an IPv4 address, an IPv6 /64).
    pub sessions_per_host: Option<u32>,
    /// How fast one host inside may open connections, once [`Shared::limit_rates`] was called.
    pub rate_per_host: Option<HostRate>,
    /// What a host inside is told that gets nothing because too much is taken (RFC 6888, REQ-11; RFC 5508, REQ-8); `None`: nothing.
    pub refuse: Option<IcmpError>,
}

impl Rules {
    /// Rules that translate nothing, with the timeouts that the RFCs ask for.
    pub const fn new(outside: Vec<PortId>) -> Rules {
        Rules {
            timeouts: Timeouts::NAT,
            udp_stream: Timeouts::NAT.udp,
            source: Vec::new(),
            destination: Vec::new(),
            pools: Vec::new(),
            outside,
            hairpin: true,
            sessions_per_host: None,
            rate_per_host: None,
            refuse: Some(IcmpError::HostUnreachable),
        }
    }

    /// The pool of this index with the address, whichever.
    pub(crate) fn pool_with(&self, address: IpAddr) -> Option<&Arc<Pool>> {
        self.pools.iter().find(|pool| pool.owns(address))
    }

    pub(crate) fn timeout(&self, connection: Connection, headers: &Headers) -> Duration {
        match connection {
            Connection::Stateless { answered: true } if headers.key.protocol == UDP => self.udp_stream,
            other => other.timeout(headers, &self.timeouts),
        }
    }

    /// How long (ns) a flow of a connection may be silent for what was said of its last packet to hold: see
    /// [`steady_silence`](throughway_vnf::credit::steady_silence).
    pub(crate) fn silence(&self, connection: Connection, headers: &Headers) -> Option<u64> {
        let timeout = self.timeout(connection, headers);
        match connection {
            Connection::Tcp(_) => session_silence(timeout),
            // Once it is answered, the other timeout is its own.
            Connection::Stateless { .. } if headers.key.protocol == UDP => {
                steady_silence(timeout.min(self.udp_stream))
            }
            Connection::Stateless { .. } => steady_silence(timeout),
        }
    }
}

/// Bits of [`Session::flags`].
pub(crate) mod flags {
    /// A host outside opened it; without it, a host inside.
    pub(crate) const INBOUND: u8 = 1 << 0;
    /// Its rule is one of the destination rules.
    pub(crate) const BY_DESTINATION: u8 = 1 << 1;
    /// The host that was called has answered: its mapping counts the session as one of its own.
    pub(crate) const ANSWERED: u8 = 1 << 2;
    /// An answer that does not keep it alive may stand in a flow cache.
    pub(crate) const CACHED: u8 = 1 << 3;
    /// Counted for its host inside.
    pub(crate) const COUNTED: u8 = 1 << 4;
    /// The opener's mapping lets the called address in.
    pub(crate) const PEER: u8 = 1 << 5;
    /// The called one's mapping lets the opener's address in.
    pub(crate) const TARGET_PEER: u8 = 1 << 6;
    /// A host inside has called another one, and was not let in: remembered as any packet to outside, so that the other one may
    /// call back (RFC 4787, REQ-9 with REQ-8), but nothing is sent.
    pub(crate) const REFUSED: u8 = 1 << 7;
}

/// No rule: [`Session::rule`].
pub(crate) const NO_RULE: u16 = u16::MAX;

/// A session's own part.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    pub(crate) connection: Connection,
    pub(crate) flags: u8,
    /// The rule that made it, or [`NO_RULE`].
    pub(crate) rule: u16,
    /// The mapping of who opened it, as [`SessionId::to_bits`]; 0: none (destination NAT, prefixes).
    pub(crate) mapping: u64,
    /// The mapping that was called, where it was one.
    pub(crate) target: u64,
}

impl Session {
    pub(crate) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A mapping's own part.
#[derive(Clone, Debug)]
pub struct Mapped {
    /// Whose port it has.
    pub(crate) address: Arc<Address>,
    /// The pool, where it has blocks.
    pub(crate) pool: Option<Arc<Pool>>,
    /// Who may send to it.
    pub(crate) filtering: Filtering,
    /// Sessions that use it.
    pub(crate) sessions: u32,
    /// Of these, those that its host has sent to: while there is one, others may be let in (RFC 4787, REQ-6: what comes in alone
    /// keeps nothing alive).
    pub(crate) own: u32,
    /// One address that it has sent to and lets in (address-dependent filtering), while `permitted` is not 0.
    pub(crate) peer: [u8; 16],
    /// Sessions that sent there.
    pub(crate) permitted: u32,
}

impl Mapped {
    /// Whether `address` is the one that is kept here.
    fn lets_in(&self, address: &[u8; 16]) -> bool {
        self.permitted > 0 && self.peer == *address
    }
}

/// Where it is kept that an address may send to a mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Permit {
    /// With the mapping.
    Own,
    /// In the table.
    Listed,
}

/// What all workers share, whatever rules are in force.
#[derive(Debug)]
pub struct Shared {
    pub(crate) options: Options,
    pub(crate) sessions: SessionTable<Session>,
    pub(crate) mappings: SessionTable<Mapped>,
    /// How many sessions of a mapping have sent to an address that is not kept with the mapping.
    pub(crate) peers: SessionTable<u32>,
    pub(crate) fragments: Datagrams<Fate>,
    pub(crate) hosts: SourceCounter,
    pub(crate) rates: Rates,
    pub(crate) passed: Passed,
    addresses: Addresses,
    /// Pools that no rule names any more and that hosts still have blocks of.
    retired: Mutex<Vec<Arc<Pool>>>,
    has_retired: AtomicBool,
    generations: Arc<Generations>,
    events: Option<Events>,
}

impl Shared {
    /// Empty tables.
    pub fn new(options: Options, generations: Arc<Generations>) -> Shared {
        let [a, b] = options.seed;
        let half_open = options.half_open.min(options.sessions);
        let sessions = Config::new(options.sessions, Seed([a, b])).half_open(half_open, options.when_full);
        // No more mappings than sessions, and no more peers: each has one at least.
        let mappings = Config::new(options.sessions, Seed([b, a]));
        let peers = Config::new(options.sessions, Seed([!a, b]));
        let hosts = SourceConfig { capacity: options.hosts, ipv6_prefix: 64, seed: Seed([a, !b]) };
        Shared {
            sessions: SessionTable::new(sessions),
            mappings: SessionTable::new(mappings),
            peers: SessionTable::new(peers),
            fragments: Datagrams::new(options.datagrams, WAIT, Seed([!b, a])),
            hosts: SourceCounter::new(hosts),
            rates: Rates::new(options.hosts, Seed([!a, !b])),
            passed: Passed::new(),
            addresses: Addresses::new(nanos(options.quiet)),
            retired: Mutex::default(),
            has_retired: AtomicBool::new(false),
            options,
            generations,
            events: None,
        }
    }

    /// Tells of blocks that hosts get and give back.
    #[must_use]
    pub fn with_events(mut self, events: Events) -> Shared {
        self.events = Some(events);
        self
    }

    /// The pool for `config`: one of `before` (the pools in force) that was made so, or a new one. Ports that mappings have stay theirs
    /// either way; blocks are kept only by pools that stay.
    pub fn pool(&self, config: PoolConfig, before: &[Arc<Pool>]) -> Arc<Pool> {
        let made = Arc::new(Pool::new(config, &self.addresses, nanos(self.options.quiet)));
        before.iter().find(|pool| pool.config() == made.config()).map_or(made, Arc::clone)
    }

    /// Other pools are in force than `before`: blocks of those that are not used any more are given back one by one, as their ports
    /// are.
    pub fn retire(&self, before: &[Arc<Pool>], now: &[Arc<Pool>]) {
        let is_used = |pool: &Arc<Pool>| now.iter().any(|used| Arc::ptr_eq(used, pool));
        let gone = before.iter().filter(|pool| pool.keeps_blocks() && !is_used(pool));
        let mut retired = lock(&self.retired);
        for pool in gone {
            if !retired.iter().any(|known| Arc::ptr_eq(known, pool)) {
                retired.push(Arc::clone(pool));
            }
        }
        // One that has come back is looked after by whose it is.
        retired.retain(|pool| !is_used(pool));
        self.has_retired.store(!retired.is_empty(), Ordering::Release);
    }

    /// Pools that no rule names any more and that hosts still have blocks of.
    pub(crate) fn retired(&self) -> Vec<Arc<Pool>> {
        lock(&self.retired).clone()
    }

    /// Makes room to keep account of how fast hosts open connections ([`Rules::rate_per_host`]).
    pub fn limit_rates(&self) {
        self.rates.prepare();
    }

    /// The outside addresses.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// How many sessions there are, and how many mappings.
    pub fn len(&self) -> (u32, u32) {
        (self.sessions.len(), self.mappings.len())
    }

    /// Whether there are no sessions.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Of how many addresses mappings remember that they have sent there. Goes through all mappings.
    pub fn peers(&self) -> u32 {
        let (mut cursor, mut with) = (Some(Cursor::default()), 0u32);
        while let Some(at) = cursor {
            cursor = self.mappings.walk(at, |_, mapped, _| with += u32::from(mapped.permitted > 0));
        }
        self.peers.len().saturating_add(with)
    }

    /// What has happened to sessions so far.
    pub fn stats(&self) -> Stats {
        self.sessions.stats()
    }

    /// How many sessions of a class there are.
    pub fn count(&self, class: Class) -> u32 {
        self.sessions.count(class)
    }

    /// Bytes that the tables hold on the heap now.
    pub fn memory(&self) -> usize {
        self.sessions.memory() + self.mappings.memory() + self.peers.memory()
    }

    /// The slot of a session: what caches that remember its translation depend on.
    pub(crate) fn slot(id: SessionId) -> Slot {
        Slot::session(id.to_bits())
    }

    /// Makes a session. On an error the caller gives back what it has taken for it.
    pub(crate) fn open(
        &self,
        keys: [Probe; 2],
        timeout: Duration,
        state: Session,
        now: Now,
    ) -> Result<SessionId, InsertError> {
        let [forward, reverse] = keys;
        let class = state.connection.class();
        let new = NewSession { forward, reverse, class, timeout, state };
        let id = self.sessions.insert(new, now, |gone| self.closed(&gone, now))?;
        let [there, back] = self.passed.ended_by(&keys);
        if there.is_some() || back.is_some() {
            self.generations.bump(there.into_iter().chain(back));
        }
        Ok(id)
    }

    /// A session is gone: everything that was taken for it is given back.
    pub(crate) fn closed(&self, gone: &Removed<Session>, now: Now) {
        if gone.state.has(flags::CACHED) || gone.reason == Reason::Cleared {
            self.generations.bump([Shared::slot(gone.info.id)]);
        }
        self.give_back(&gone.keys, &gone.state, false, now);
    }

    /// Gives back what was taken for a session; `unused`: nothing was sent.
    pub(crate) fn give_back(&self, keys: &[SessionKey; 2], session: &Session, unused: bool, now: Now) {
        let [forward, reverse] = keys;
        // By the mapping's own end: the session's has another identifier where a query was turned round.
        if session.has(flags::PEER)
            && let mapping = SessionId::from_bits(session.mapping)
            && let Some([_, outside]) = self.mappings.keys(mapping)
        {
            self.forbid(mapping, &peer_key(&outside, &forward.destination));
        }
        if session.has(flags::TARGET_PEER) {
            self.forbid(SessionId::from_bits(session.target), &peer_key(forward, &reverse.destination));
        }
        if session.mapping != 0 {
            self.leave(SessionId::from_bits(session.mapping), true, unused, now);
        }
        if session.target != 0 {
            let own = session.has(flags::ANSWERED);
            self.leave(SessionId::from_bits(session.target), own, unused, now);
        }
        if session.has(flags::COUNTED) {
            let inbound = session.has(flags::INBOUND);
            self.hosts.release(if inbound { &reverse.source } else { &forward.source });
        }
    }

    /// Ends a session before its time: caches must not go on translating.
    pub(crate) fn end(&self, id: SessionId, now: Now) {
        if let Some(gone) = self.sessions.remove(id) {
            if !gone.state.has(flags::REFUSED) {
                self.generations.bump([Shared::slot(id)]);
            }
            self.give_back(&gone.keys, &gone.state, false, now);
        }
    }

    /// Counts a session of a mapping down; the last one takes the mapping along, and its port rests.
    pub(crate) fn leave(&self, id: SessionId, own: bool, unused: bool, now: Now) {
        let left = self.mappings.with(id, |mapped, _| {
            mapped.sessions = mapped.sessions.saturating_sub(1);
            mapped.own = mapped.own.saturating_sub(u32::from(own));
            mapped.sessions
        });
        if left != Some(0) {
            return;
        }
        // Another worker may have found it meanwhile and counted it up.
        if let Some(gone) = self.mappings.remove_if(id, |mapped| mapped.sessions == 0) {
            let [inside, outside] = gone.keys;
            let (host, _) = end_of(&inside.source, inside.source_port);
            let (_, port) = end_of(&outside.destination, outside.destination_port);
            gone.state.address.give_back(outside.protocol, port, unused, now.0);
            if let Some(pool) = &gone.state.pool {
                pool.leave(host, port, now.0);
            }
        }
    }

    /// Counts a mapping up for one more session of its own; says whether it is still there.
    pub(crate) fn hold(&self, id: SessionId) -> bool {
        let held = self.mappings.with(id, |mapped, _| {
            mapped.sessions = mapped.sessions.saturating_add(1);
            mapped.own = mapped.own.saturating_add(1);
        });
        held.is_some()
    }

    /// The mapping with this key, counted up for one more session; `own`: one that its host opens.
    pub(crate) fn join(&self, key: &impl Keyed, own: bool, now: Now) -> Option<(SessionId, Filtering)> {
        let found = self.mappings.lookup_with(key, now, |_, mapped, meta| {
            if mapped.address.is_lost() || (!own && mapped.own == 0) {
                return None;
            }
            mapped.sessions = mapped.sessions.saturating_add(1);
            mapped.own = mapped.own.saturating_add(u32::from(own));
            Some((meta.id(), mapped.filtering))
        });
        found.flatten()
    }

    /// Makes a mapping with one session of its own.
    pub(crate) fn map(&self, keys: [Probe; 2], mapped: Mapped, now: Now) -> Result<SessionId, InsertError> {
        let [forward, reverse] = keys;
        let new = NewSession { forward, reverse, class: Class::Established, timeout: FOREVER, state: mapped };
        self.mappings.insert(new, now, |_| ())
    }

    /// Lets the address of a [`peer_key`] send to its mapping, once more. `None`: there was no room.
    pub(crate) fn permit(&self, mapping: SessionId, key: &SessionKey, now: Now) -> Option<Permit> {
        let own = self.mappings.with(mapping, |mapped, _| {
            let own = mapped.permitted == 0 || mapped.peer == key.source;
            if own {
                mapped.peer = key.source;
                mapped.permitted = mapped.permitted.saturating_add(1);
            }
            own
        });
        if own == Some(true) {
            return Some(Permit::Own);
        }
        let probe = self.peers.probe(*key);
        for _ in 0..2 {
            let known = self.peers.lookup_with(&probe, now, |_, count, _| *count = count.saturating_add(1));
            if known.is_some() {
                return Some(Permit::Listed);
            }
            // The reverse key is never looked up. It has a source port, which no forward key has, and lies in the same bucket.
            let reverse = probe.reversed();
            let (class, timeout) = (Class::Established, FOREVER);
            let new = NewSession { forward: probe, reverse, class, timeout, state: 1 };
            match self.peers.insert(new, now, |_| ()) {
                Ok(_) => return Some(Permit::Listed),
                // Another worker was faster.
                Err(InsertError::Conflict { .. }) => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// Takes back one [`Shared::permit`], wherever it is kept: an address that is kept in both places may go from either.
    pub(crate) fn forbid(&self, mapping: SessionId, key: &SessionKey) {
        if !self.forbid_own(mapping, &key.source) {
            self.forbid_listed(key);
        }
    }

    /// Takes back one that is kept with the mapping; says whether it was.
    pub(crate) fn forbid_own(&self, mapping: SessionId, address: &[u8; 16]) -> bool {
        let own = self.mappings.with(mapping, |mapped, _| {
            let own = mapped.lets_in(address);
            mapped.permitted -= u32::from(own);
            own
        });
        own == Some(true)
    }

    /// Takes back one that is kept in the table.
    pub(crate) fn forbid_listed(&self, key: &SessionKey) {
        let left = self.peers.lookup_with(key, Now(0), |_, count, meta| {
            *count = count.saturating_sub(1);
            (*count, meta.id())
        });
        if let Some((0, id)) = left {
            self.peers.remove_if(id, |count| *count == 0);
        }
    }

    /// Whether an address may send to a mapping with address-dependent filtering.
    pub(crate) fn is_permitted(&self, mapping: SessionId, key: &SessionKey, now: Now) -> bool {
        self.mappings.read(mapping, |mapped, _| mapped.lets_in(&key.source)) == Some(true)
            || self.peers.lookup(key, now).is_some()
    }

    /// The host has lost an outside address: no new session uses it. Its sessions end by [`Shared::clear`], which the caller goes
    /// through next. Rules that still name the address take it back when they are made.
    pub fn lose(&self, address: IpAddr) {
        self.addresses.lose(address);
    }

    /// Tells of a block.
    pub(crate) fn tell(&self, block: &Block, allocated: bool, now: Now) {
        if let Some(events) = &self.events {
            let (inside, outside) = (octets(block.inside), octets(block.outside));
            let (first, last) = (block.first, block.last);
            events.tell(now, What::Block(PortBlock { inside, outside, first, last, allocated }));
        }
    }

    /// Ages sessions, datagrams and blocks: a bounded slice.
    pub(crate) fn tick(&self, pools: &[Arc<Pool>], now: Now, budget: usize) {
        self.sessions.expire(now, budget, |gone| self.closed(&gone, now));
        self.fragments.expire(now);
        self.rates.expire(now);
        for pool in pools {
            pool.tick(now.0, |block| self.tell(&block, false, now));
        }
        if self.has_retired.load(Ordering::Acquire)
            && let Ok(mut retired) = self.retired.try_lock()
        {
            retired.retain(|pool| {
                pool.tick(now.0, |block| self.tell(&block, false, now));
                let (all, free) = pool.usage_of_blocks();
                free < all
            });
            self.has_retired.store(!retired.is_empty(), Ordering::Release);
        }
    }
}

/// The inside end of a mapping as a key. `peer` holds what a mapping depends on beside it: the destination's address, or that and
/// its port. The identifier of a query, which stands for both ports, is the source's.
pub(crate) fn inside_key(of: &SessionKey, peer: Option<([u8; 16], [u8; 2])>) -> SessionKey {
    let (destination, destination_port) = peer.unwrap_or((nobody(&of.source), [0; 2]));
    SessionKey { destination, destination_port, ..*of }
}

/// The outside end of a mapping as a key: where a packet with this key is sent to.
pub(crate) fn outside_key(packet: &SessionKey) -> SessionKey {
    SessionKey { source: nobody(&packet.destination), source_port: [0; 2], ..*packet }
}

/// The unspecified address of the same family: keys of IPv4 alone take less room and time than those of both families.
fn nobody(of: &[u8; 16]) -> [u8; 16] {
    (if is_ipv4(of) { 0xffff << 32 } else { 0u128 }).to_be_bytes()
}

/// Whether an address is an IPv4 one, in its mapped form.
const fn is_ipv4(address: &[u8; 16]) -> bool {
    u128::from_be_bytes(*address) >> 32 == 0xffff
}

/// An address that may send to the outside end that packets with this key are sent to.
pub(crate) fn peer_key(packet: &SessionKey, address: &[u8; 16]) -> SessionKey {
    SessionKey { source: *address, source_port: [0; 2], ..*packet }
}

/// An address and port in their usual form.
pub(crate) fn end_of(address: &[u8; 16], port: [u8; 2]) -> (IpAddr, u16) {
    (Ipv6Addr::from(*address).to_canonical(), u16::from_be_bytes(port))
}
