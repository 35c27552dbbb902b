//! The function: one packet's way through sessions, mappings and rules.

use std::net::IpAddr;
use std::sync::Arc;

use throughway_packet::headers::octets;
use throughway_packet::{Flags, Headers};
use throughway_session::connection::Connection;
use throughway_session::tcp::Event;
use throughway_session::{Class, InsertError, SessionId, SessionKey, Side, translate};
use throughway_vnf::credit::session_silence;
use throughway_vnf::{Context, DropReason, Function, Now, Packet, Seen, Snapshot, Verdict};

use crate::pool::Wanted;
use crate::ports::Parity;
use crate::rule::{DestinationRule, Filtering, Mapping, SourceRule, SourceTarget, carry_over};
use crate::shared::{Mapped, Rules, Shared, end_of, inside_key, outside_key};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Sessions that are looked at for their age between two batches.
const AGED: usize = 64;

/// The NAT, as one worker holds it.
#[derive(Debug)]
pub struct Nat {
    shared: Arc<Shared>,
    rules: Snapshot<Rules>,
    /// Unpredictable bits for the choice of ports: xorshift64* (Vigna, 2016), seeded with a secret and the time.
    random: u64,
}

/// What a new connection becomes.
struct Plan {
    /// As it leaves.
    translated: SessionKey,
    /// The mapping it uses, counted up for it.
    mapping: Option<SessionId>,
}

impl Nat {
    /// A NAT over what all workers share, by these rules. `worker` tells them apart.
    pub fn new(shared: Arc<Shared>, rules: Snapshot<Rules>, worker: u64) -> Nat {
        let [a, b] = shared.options.seed;
        let random = a.rotate_left(17) ^ b ^ (worker + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Nat { shared, rules, random: random | 1 }
    }

    fn random(&mut self, now: Now) -> u64 {
        self.random ^= now.0.rotate_left(32);
        self.random |= u64::from(self.random == 0);
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A packet of a session that exists: translated, and noted.
    fn known(&self, packet: &mut Packet<'_>, key: &SessionKey, now: Now) -> Option<Verdict> {
        let shared = &self.shared;
        let rules = self.rules.read();
        let headers = *packet.headers();
        let found = shared.sessions.lookup_with(key, now, |side, session, meta| {
            let before = session.connection;
            let event = session.connection.packet(side, &headers);
            if event == Event::Fits {
                let timeout = session.connection.timeout(&headers, &rules.timeouts);
                meta.touch(now, timeout);
                let class = session.connection.class();
                if meta.class() != class && meta.set_class(class).is_err() {
                    session.connection = before;
                }
            }
            let timeout = session.connection.timeout(&headers, &rules.timeouts);
            (meta.id(), side, event, session.connection.class(), timeout)
        });
        let (id, side, event, class, timeout) = found?;
        match event {
            Event::Fits => {}
            Event::Reopens => {
                shared.end(id, now);
                return None;
            }
            Event::Invalid => return Some(Verdict::Drop(DropReason::NatInvalidState)),
        }
        let keys = shared.sessions.keys(id)?;
        let [forward, reverse] = keys;
        let other = if side == Side::Forward { reverse } else { forward };
        translate(packet, &other.reversed());
        packet.depends_on(Shared::slot(id));
        packet.credit(id.to_credit());
        let silence = session_silence(timeout.as_nanos() as u64);
        match silence.filter(|_| class != Class::HalfOpen) {
            Some(silence) => packet.limit_silence(silence),
            None => packet.judge_each(),
        }
        Some(Verdict::Continue)
    }

    /// A packet that belongs to no session.
    fn unknown(&mut self, packet: &mut Packet<'_>, key: &SessionKey, now: Now) -> Verdict {
        let shared = Arc::clone(&self.shared);
        let rules = self.rules.read_owned();
        let headers = *packet.headers();
        let from_outside = rules.outside.contains(&headers.ingress());
        let plan = match self.plan(&rules, packet, &headers, key, from_outside, now) {
            Ok(Some(plan)) => plan,
            Ok(None) => return Verdict::Continue,
            Err(reason) => return Verdict::Drop(reason),
        };
        let give_up = |reason| {
            if let Some(mapping) = plan.mapping {
                shared.leave(mapping, now);
            }
            Verdict::Drop(reason)
        };
        let Some(connection) = Connection::open(&headers) else { return give_up(DropReason::NatNoSession) };
        let timeout = connection.timeout(&headers, &rules.timeouts);
        let keys = [*key, plan.translated.reversed()];
        match shared.open(keys, connection, timeout, plan.mapping, now) {
            Ok(_) => {
                translate(packet, &plan.translated);
                // Nobody has answered yet: the session may have to make room, and nobody would tell the caches.
                packet.judge_each();
                Verdict::Continue
            }
            // Another worker was faster with the same packet sent again, or the answer's key belongs to somebody else.
            Err(InsertError::Conflict { .. } | InsertError::SameKey) => give_up(DropReason::NatConflict),
            Err(InsertError::Full | InsertError::Quota(_)) => give_up(DropReason::NatSessionTableFull),
        }
    }

    /// How a new connection is to be translated; `None`: not at all.
    fn plan(
        &mut self,
        rules: &Rules,
        packet: &mut Packet<'_>,
        headers: &Headers,
        key: &SessionKey,
        from_outside: bool,
        now: Now,
    ) -> Result<Option<Plan>, DropReason> {
        let mut translated = *key;
        let egress = packet.egress();
        // The destination first: from outside to what is published, from inside to the same (hairpinning).
        let destination = rules.destination.iter().find(|rule| rule.matches.accepts(headers, egress));
        let published = match destination {
            Some(rule) => {
                redirect(rule, headers, &mut translated);
                true
            }
            None => self.to_mapping(&mut translated, key, headers, now)?,
        };
        if let Some(twice) = destination.and_then(|rule| rule.twice) {
            translated.source = octets(twice);
            return Ok(Some(Plan { translated, mapping: None }));
        }
        if from_outside {
            return Ok(published.then_some(Plan { translated, mapping: None }));
        }
        // A packet that leaves by another interface than the outside ones is none of ours.
        let leaves_inside = egress.is_some_and(|egress| !rules.outside.contains(&egress));
        if leaves_inside && !published {
            return Ok(None);
        }
        let source = rules.source.iter().find(|rule| rule.matches.accepts(headers, egress));
        let Some(rule) = source else {
            return Ok(published.then_some(Plan { translated, mapping: None }));
        };
        match &rule.target {
            SourceTarget::Untranslated => Ok(published.then_some(Plan { translated, mapping: None })),
            SourceTarget::Prefix { outside, .. } => {
                let address = carry_over(headers.source(), *outside).ok_or(DropReason::NatNoPort)?;
                translated.source = octets(address);
                Ok(Some(Plan { translated, mapping: None }))
            }
            SourceTarget::Masquerade => Err(DropReason::NatNoPort),
            SourceTarget::Pool(pool) => {
                let pool = rules.pools.get(*pool).ok_or(DropReason::NatNoPort)?;
                let (mapping, address, port) = self.source(rule, pool, headers, key, now)?;
                translated.source = octets(address);
                translated.source_port = port.to_be_bytes();
                if headers.flags.has(Flags::ICMP_QUERY) {
                    translated.destination_port = port.to_be_bytes();
                }
                Ok(Some(Plan { translated, mapping: Some(mapping) }))
            }
        }
    }

    /// A packet to an outside address and port that a host inside has: to that host, if the mapping lets it in.
    fn to_mapping(
        &self,
        translated: &mut SessionKey,
        key: &SessionKey,
        headers: &Headers,
        now: Now,
    ) -> Result<bool, DropReason> {
        let shared = &self.shared;
        let outside = outside_key(headers.destination(), headers.destination_port(), key.protocol, key.zone);
        let found =
            shared.mappings.lookup_with(&outside, now, |_, mapped, meta| (meta.id(), mapped.filtering));
        let Some((id, filtering)) = found else { return Ok(false) };
        let Some([inside, _]) = shared.mappings.keys(id) else { return Ok(false) };
        match filtering {
            Filtering::EndpointIndependent => {}
            Filtering::AddressDependent | Filtering::AddressAndPortDependent => {
                return Err(DropReason::NatFiltered);
            }
        }
        translated.destination = inside.source;
        translated.destination_port = inside.source_port;
        if headers.flags.has(Flags::ICMP_QUERY) {
            translated.source_port = inside.source_port;
        }
        Ok(true)
    }

    /// The outside end for an inside one: the one it has, or a new one. Counted up.
    fn source(
        &mut self,
        rule: &SourceRule,
        pool: &Arc<crate::pool::Pool>,
        headers: &Headers,
        key: &SessionKey,
        now: Now,
    ) -> Result<(SessionId, IpAddr, u16), DropReason> {
        let peer = match rule.mapping {
            Mapping::EndpointIndependent => None,
            Mapping::AddressDependent => Some((key.destination, [0; 2])),
            Mapping::AddressAndPortDependent => Some((key.destination, key.destination_port)),
        };
        let inside = inside_key(key, peer);
        // Twice at most: another worker may map the same inside end between our look and our insertion.
        for _ in 0..2 {
            if let Some((id, _)) = self.shared.join(&inside, now)
                && let Some([_, outside]) = self.shared.mappings.keys(id)
                && let Some((address, port)) = end_of(&outside.destination, outside.destination_port)
            {
                return Ok((id, address, port));
            }
            let paired = matches!(key.protocol, TCP | UDP) && rule.preserve_parity;
            let wanted = Wanted {
                inside: headers.source(),
                protocol: key.protocol,
                preferred: rule.preserve_port.then(|| headers.source_port()),
                parity: if paired { Parity::of(headers.source_port()) } else { Parity::Any },
                random: self.random(now),
                now: now.0,
            };
            let (address, port) = pool.take(&wanted).ok_or(DropReason::NatNoPort)?;
            let outside = outside_key(address, port, key.protocol, key.zone);
            let mapped = Mapped { pool: Arc::clone(pool), filtering: rule.filtering, sessions: 1 };
            match self.shared.map([inside, outside], mapped, now) {
                Ok(id) => return Ok((id, address, port)),
                Err(error) => {
                    pool.give_back(address, key.protocol, port, now.0);
                    if !matches!(error, InsertError::Conflict { .. }) {
                        return Err(DropReason::NatSessionTableFull);
                    }
                }
            }
        }
        Err(DropReason::NatConflict)
    }
}

impl Function for Nat {
    const KIND: &'static str = "nat";

    fn judge(&mut self, packet: &mut Packet<'_>, context: &Context) -> Verdict {
        let key = SessionKey::of(&packet.headers().key, 0);
        match self.known(packet, &key, context.now) {
            Some(verdict) => verdict,
            None => self.unknown(packet, &key, context.now),
        }
    }

    fn settle(&mut self, id: u64, seen: &Seen) {
        self.shared.sessions.keep_alive_credit(id, seen.last);
    }

    fn tick(&mut self, context: &Context) {
        self.shared.tick(context.now, AGED);
    }
}

/// Moves a packet to where a destination rule says.
fn redirect(rule: &DestinationRule, headers: &Headers, translated: &mut SessionKey) {
    if let Some(address) = carry_over(headers.destination(), rule.to) {
        translated.destination = octets(address);
    }
    if let (Some(first), true) = (rule.port, headers.flags.has(Flags::PORTS)) {
        let port = headers.destination_port();
        let ranges = &rule.matches.destination_ports;
        // The match's ports, one range after the other, are moved to as many from `first` on.
        let mut before = 0u16;
        for range in ranges {
            if range.contains(&port) {
                before = before.wrapping_add(port - range.start());
                break;
            }
            before = before.wrapping_add(range.end() - range.start()).wrapping_add(1);
        }
        translated.destination_port = first.wrapping_add(before).to_be_bytes();
    }
}
