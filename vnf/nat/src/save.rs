//! Sessions over a restart: with their mappings, the blocks that hosts have, and the ports that rest.
//!
//! Who is known outside under an address and port keeps them, or is not restored: a port that is not free any more, of an address of no pool
//! or that would have to be of a block which the host cannot have again, takes its mapping along, and that its sessions. Rules are not
//! asked again, as over a reload. Not written: fragments, and how fast hosts have opened connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use throughway_packet::headers::octets;
use throughway_session::connection::Connection;
use throughway_session::save::{Life, keys, put_keys, put_life};
use throughway_session::{NewSession, SessionId, SessionKey, SourceError};
use throughway_vnf::save::{Fields, Lost, Moment, Record, Restored, SESSION, Save, Sink};
use throughway_vnf::{Now, nanos};

use crate::address::{PROTOCOLS, has_ports};
use crate::blocks::Block;
use crate::plan::ends;
use crate::pool::Pool;
use crate::rule::Filtering;
use crate::shared::{Mapped, Rules, Session, Shared, end_of, flags, peer_key};

/// A mapping.
const MAPPING: u8 = 1;
/// A block of ports that a host has.
const BLOCK: u8 = 2;
/// Ports of an address that rest.
const RESTING: u8 = 3;

/// Ports in one record.
const TOGETHER: usize = 256;

/// What of a session's flags is written; the others tell of caches.
const KEPT: u8 = flags::INBOUND
    | flags::BY_DESTINATION
    | flags::ANSWERED
    | flags::COUNTED
    | flags::PEER
    | flags::TARGET_PEER
    | flags::REFUSED;
/// Of these, what is true only once it was taken again.
const TAKEN: u8 = flags::COUNTED | flags::PEER | flags::TARGET_PEER;

/// The sessions of a NAT, to be saved and restored.
#[derive(Clone, Copy, Debug)]
pub struct Sessions<'a> {
    /// The NAT.
    pub shared: &'a Shared,
    /// The rules in force.
    pub rules: &'a Rules,
}

impl Save for Sessions<'_> {
    fn save(&self, now: Now, sink: &mut dyn Sink) -> u64 {
        let mut record = Record::default();
        let mut put = |record: &Record| sink.put(record.as_bytes());
        let ago = |then: u64| Duration::from_nanos(now.0.saturating_sub(then));
        // Those of pools that a reload has taken away, too: their hosts' sessions go on.
        let retired = self.shared.retired();
        for pool in self.rules.pools.iter().filter(|pool| pool.keeps_blocks()).chain(&retired) {
            pool.held_blocks(|block, idle| {
                put_address(record.begin(BLOCK), block.inside);
                put_address(&mut record, block.outside);
                record.number(block.first).number(block.last).span(idle.map_or(Duration::ZERO, ago));
                put(&record);
            });
        }
        self.shared.mappings.each(now, |both, mapped, info| {
            put_keys(record.begin(MAPPING).number(info.id.to_bits()), both);
            put(record.byte(mapped.filtering as u8));
        });
        for address in self.addresses() {
            for protocol in PROTOCOLS {
                let resting = self.shared.addresses().get(address).resting(protocol);
                for some in resting.chunks(TOGETHER) {
                    put_address(record.begin(RESTING).byte(protocol), address);
                    for (port, until) in some {
                        record.number(*port).span(Duration::from_nanos(until.saturating_sub(now.0)));
                    }
                    put(&record);
                }
            }
        }
        let mut left = 0;
        self.shared.sessions.each(now, |both, session, info| {
            put_keys(record.begin(SESSION), both);
            put_life(&mut record, info, now);
            record.byte(session.connection.to_bits()).byte(session.flags & KEPT).number(session.rule);
            record.number(session.mapping).number(session.target);
            left += u64::from(!put(&record));
        });
        left
    }

    fn restore(&self, records: &mut dyn Iterator<Item = &[u8]>, moment: &Moment<'_>) -> Restored {
        let mut restored = Restored::default();
        let mut reader = Reader { of: *self, moment, mappings: HashMap::new() };
        for record in records {
            let mut fields = Fields::of(record);
            match fields.byte() {
                Some(SESSION) => restored.count(reader.session(&mut fields)),
                Some(MAPPING) => drop(reader.mapping(&mut fields)),
                Some(BLOCK) => drop(reader.block(&mut fields)),
                Some(RESTING) => drop(reader.resting(&mut fields)),
                _ => restored.lose(Lost::Damaged, 1),
            }
        }
        // Those whose sessions did not come back go, and their ports rest.
        for mapping in reader.mappings.into_values().flatten() {
            self.shared.leave(mapping, false, false, moment.now);
        }
        restored
    }
}

impl Sessions<'_> {
    /// The addresses of all pools, each once.
    fn addresses(&self) -> Vec<IpAddr> {
        let mut all: Vec<_> =
            self.rules.pools.iter().flat_map(|pool| pool.config().addresses.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The pools with an address.
    fn pools_with(&self, address: IpAddr) -> impl Iterator<Item = &Arc<Pool>> {
        self.rules.pools.iter().filter(move |pool| pool.owns(address))
    }
}

fn put_address(record: &mut Record, address: IpAddr) {
    record.bytes(&octets(address));
}

fn address(fields: &mut Fields<'_>) -> Option<IpAddr> {
    Some(end_of(&fields.bytes()?, [0; 2]).0)
}

/// What was written, as far as it is there again.
struct Reader<'a> {
    of: Sessions<'a>,
    moment: &'a Moment<'a>,
    /// By their old handles. Each is counted up once by us, so that it stays until all sessions are there.
    mappings: HashMap<u64, Result<SessionId, Lost>>,
}

impl Reader<'_> {
    fn block(&self, fields: &mut Fields<'_>) -> Option<()> {
        let (inside, outside) = (address(fields)?, address(fields)?);
        let (first, last) = (fields.small()?, fields.small()?);
        let idle = self.moment.before(fields.span()?);
        fields.end()?;
        let block = Block { inside, outside, first, last };
        let mut pools = self.of.pools_with(outside);
        if !pools.any(|pool| pool.reclaim_block(&block, idle.0)) {
            // Whoever reads the log must not take it for the host's any longer.
            self.of.shared.tell(&block, false, self.moment.now);
        }
        Some(())
    }

    fn resting(&self, fields: &mut Fields<'_>) -> Option<()> {
        let (protocol, address) = (fields.byte()?, address(fields)?);
        self.of.pools_with(address).next()?;
        let address = self.of.shared.addresses().get(address);
        while fields.end().is_none() {
            let (port, rest) = (fields.small()?, fields.span()?.saturating_sub(self.moment.gap));
            let rest = nanos(rest.min(self.of.shared.options.quiet));
            address.rest(protocol, port, self.moment.now.0.saturating_add(rest));
        }
        Some(())
    }

    fn mapping(&mut self, fields: &mut Fields<'_>) -> Option<()> {
        let old = fields.number()?;
        let made = self.map(fields);
        // Two of one handle cannot be: the first counts.
        if let Some(Ok(before)) = self.mappings.insert(old, made) {
            self.of.shared.leave(before, false, false, self.moment.now);
        }
        Some(())
    }

    /// Gives a host the outside end back that it had.
    fn map(&self, fields: &mut Fields<'_>) -> Result<SessionId, Lost> {
        let both = keys(fields).ok_or(Lost::Damaged)?;
        let filtering = match fields.byte() {
            Some(0) => Filtering::EndpointIndependent,
            Some(1) => Filtering::AddressDependent,
            Some(2) => Filtering::AddressAndPortDependent,
            _ => return Err(Lost::Damaged),
        };
        let (shared, now) = (self.of.shared, self.moment.now);
        let ((inside, _), (outside, port)) = ends(&both);
        let protocol = both[1].protocol;
        if fields.end().is_none() || both[0].protocol != protocol || !has_ports(protocol) {
            return Err(Lost::Damaged);
        }
        self.of.pools_with(outside).next().ok_or(Lost::Address)?;
        // That of the port, if several have the address; of none, it stays until it ends, as over a reload.
        let (of_port, others): (Vec<_>, Vec<_>) =
            self.of.pools_with(outside).partition(|pool| pool.config().ports.contains(&port));
        let mut pools = of_port.into_iter().chain(others);
        let pool = pools.find(|pool| pool.rejoin(inside, outside, port)).ok_or(Lost::Block)?;
        let address = shared.addresses().get(outside);
        let leave = || pool.leave(inside, port, now.0);
        if address.take(protocol, |ports| ports.take(port, now.0).then_some(port)).is_none() {
            leave();
            return Err(Lost::Port);
        }
        let mapped = Mapped {
            address: Arc::clone(&address),
            pool: pool.keeps_blocks().then(|| Arc::clone(pool)),
            filtering,
            sessions: 1,
            own: 0,
            peer: [0; 16],
            permitted: 0,
        };
        shared.map(both.map(|key| shared.mappings.probe(key)), mapped, now).map_err(|error| {
            address.give_back(protocol, port, true, now.0);
            leave();
            error.into()
        })
    }

    /// The mapping that a session means.
    fn mapping_of(&self, old: u64) -> Result<u64, Lost> {
        match old {
            0 => Ok(0),
            _ => self.mappings.get(&old).ok_or(Lost::Damaged)?.map(SessionId::to_bits),
        }
    }

    fn session(&self, fields: &mut Fields<'_>) -> Result<(), Lost> {
        let (both, life, mut session) = read(fields).ok_or(Lost::Damaged)?;
        let seen = life.last_seen(self.moment)?;
        session.mapping = self.mapping_of(session.mapping)?;
        session.target = self.mapping_of(session.target)?;
        let wanted = session.flags & TAKEN;
        session.flags &= !TAKEN;
        let (shared, now) = (self.of.shared, self.moment.now);
        for (mapping, own) in [(session.mapping, true), (session.target, session.has(flags::ANSWERED))] {
            shared.mappings.with(SessionId::from_bits(mapping), |mapped, _| {
                mapped.sessions = mapped.sessions.saturating_add(1);
                mapped.own = mapped.own.saturating_add(u32::from(own));
            });
        }
        let made = self.take(&both, &mut session, wanted).and_then(|()| {
            let [forward, reverse] = both;
            let (class, timeout) = (session.connection.class(), life.timeout);
            let new = NewSession { forward, reverse, class, timeout, state: session };
            Ok(shared.sessions.insert(new, seen, |gone| shared.closed(&gone, now))?)
        });
        made.map(drop).inspect_err(|_| shared.give_back(&both, &session, true, now))
    }

    /// Takes what a session had beside its mappings; what was taken stands in its flags.
    fn take(&self, both: &[SessionKey; 2], session: &mut Session, wanted: u8) -> Result<(), Lost> {
        let (shared, now) = (self.of.shared, self.moment.now);
        let [forward, reverse] = both;
        if wanted & flags::COUNTED != 0
            && let Some(limit) = self.of.rules.sessions_per_host
        {
            let host = if session.has(flags::INBOUND) { &reverse.source } else { &forward.source };
            shared.hosts.acquire(host, limit).map_err(|error| match error {
                SourceError::Limit => Lost::Limit,
                SourceError::TooManySources => Lost::Full,
            })?;
            session.flags |= flags::COUNTED;
        }
        let mapping = SessionId::from_bits(session.mapping);
        if wanted & flags::PEER != 0
            && let Some([_, outside]) = shared.mappings.keys(mapping)
        {
            let key = peer_key(&outside, &forward.destination);
            shared.permit(mapping, &key, now).ok_or(Lost::Full)?;
            session.flags |= flags::PEER;
        }
        if wanted & flags::TARGET_PEER != 0 && session.target != 0 {
            let key = peer_key(forward, &reverse.destination);
            shared.permit(SessionId::from_bits(session.target), &key, now).ok_or(Lost::Full)?;
            session.flags |= flags::TARGET_PEER;
        }
        Ok(())
    }
}

fn read(fields: &mut Fields<'_>) -> Option<([SessionKey; 2], Life, Session)> {
    let both = keys(fields)?;
    let life = Life::read(fields)?;
    let connection = Connection::from_bits(fields.byte()?)?;
    let flags = fields.byte().filter(|flags| flags & !KEPT == 0)?;
    let rule = fields.small()?;
    let (mapping, target) = (fields.number()?, fields.number()?);
    fields.end()?;
    Some((both, life, Session { connection, flags, rule, mapping, target }))
}
