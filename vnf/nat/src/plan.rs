//! How a new connection is translated, and what is taken for it.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use throughway_packet::headers::octets;
use throughway_packet::parse::{ICMP, ICMPV6, TCP, UDP};
use throughway_packet::{Flags, Headers, PortId};
use throughway_session::connection::Connection;
use throughway_session::{InsertError, Probe, SessionId, SessionKey, SourceError};
use throughway_vnf::{DropReason, Now};

use crate::address::{Address, has_ports};
use crate::ahead::Ahead;
use crate::pool::{Pool, Wanted};
use crate::ports::Parity;
use crate::rule::{DestinationRule, Filtering, Mapping, Match, SourceRule, SourceTarget, carry_over};
use crate::shared::{
    Mapped, NO_RULE, Permit, Rules, Session, Shared, end_of, flags, inside_key, outside_key, peer_key,
};

/// What a new connection becomes: everything in `session` is taken for it, and to be given back if it does not come about.
pub(crate) struct Plan<'a> {
    /// The packet's key as it leaves.
    pub(crate) translated: SessionKey,
    /// The state of the session.
    pub(crate) session: Session,
    /// The key of its answers, if that was hashed already, and nothing else is translated.
    pub(crate) answers: Option<&'a Probe>,
}

/// Where a plan is being made.
pub(crate) struct Planner<'a, 'r> {
    pub(crate) shared: &'a Shared,
    pub(crate) rules: &'r Rules,
    pub(crate) headers: &'a Headers,
    pub(crate) key: &'a SessionKey,
    pub(crate) egress: Option<PortId>,
    pub(crate) now: Now,
    /// Unpredictable bits.
    pub(crate) random: u64,
    /// What was prepared for the packet.
    pub(crate) prepared: Prepared<'a, 'r>,
    /// Whether the packet came in from outside.
    inbound: bool,
}

/// What was prepared for a packet of a batch.
#[derive(Clone, Copy, Default)]
pub(crate) struct Prepared<'a, 'r> {
    /// Its inside end, hashed for the table of mappings, where that was done.
    pub(crate) inside: Option<&'a Probe>,
    /// A port that may be held for it.
    pub(crate) ahead: Option<&'a Ahead<'r>>,
}

/// What a packet's source becomes by a rule with a pool: the rule with its number, and the pool.
pub(crate) type Early<'r> = (u16, &'r SourceRule, &'r Arc<Pool>);

/// Which source rule a packet has, and what its source becomes.
pub(crate) enum Source<'a> {
    /// It stays.
    Same,
    /// The same host of another prefix.
    Moved(u16, IpAddr),
    /// An address of a pool.
    Of(u16, &'a SourceRule, &'a Arc<Pool>),
}

impl<'a, 'r> Planner<'a, 'r> {
    /// A plan for a packet of these headers, with this key and perhaps an egress, that was received at `now`. `random`: unpredictable
    /// bits, for ports.
    #[inline]
    pub(crate) fn new(
        shared: &'a Shared,
        rules: &'r Rules,
        (headers, key): (&'a Headers, &'a SessionKey),
        egress: Option<PortId>,
        (now, random): (Now, u64),
        prepared: Prepared<'a, 'r>,
    ) -> Planner<'a, 'r> {
        let inbound = rules.outside.contains(&headers.ingress());
        Planner { shared, rules, headers, key, egress, now, random, prepared, inbound }
    }

    /// Whether the packet came in from outside.
    pub(crate) fn is_inbound(&self) -> bool {
        self.inbound
    }

    /// The port that is held for the packet, if it was taken by this rule: it is the caller's now.
    fn held_by(&self, rule: &SourceRule) -> Option<&'a Ahead<'r>> {
        self.prepared.ahead.filter(|ahead| std::ptr::eq(ahead.by.1, rule) && ahead.is_held.replace(false))
    }

    /// The destination rule of the packet, with its number.
    pub(crate) fn destination_rule(&self) -> Option<(u16, &'r DestinationRule)> {
        if !self.is_inbound() && !self.rules.hairpin {
            return None;
        }
        first(&self.rules.destination, |rule| &rule.matches, self.headers, self.egress)
    }

    /// What the source becomes; `turned`: the destination was translated, so the packet need not leave.
    pub(crate) fn source_rule(&self, turned: bool) -> Result<Source<'r>, DropReason> {
        // A packet that leaves by another interface than the outside ones is none of ours.
        let stays = self.egress.is_some_and(|egress| !self.rules.outside.contains(&egress));
        if self.is_inbound() || (stays && !turned) {
            return Ok(Source::Same);
        }
        let rules = self.rules;
        let Some((number, rule)) = first(&rules.source, |rule| &rule.matches, self.headers, self.egress)
        else {
            return Ok(Source::Same);
        };
        let pool = match &rule.target {
            SourceTarget::Untranslated => return Ok(Source::Same),
            SourceTarget::Prefix(outside) => {
                let address = carry_over(self.headers.source(), *outside).ok_or(DropReason::NatNoPort)?;
                return Ok(Source::Moved(number, address));
            }
            SourceTarget::Pool(pool) => *pool,
            SourceTarget::Masquerade(pools) => {
                let by_egress = pools.iter().find(|(port, _)| Some(*port) == self.egress);
                by_egress.or(pools.first()).ok_or(DropReason::NatNoPort)?.1
            }
        };
        let pool = rules.pools.get(pool).ok_or(DropReason::NatNoPort)?;
        Ok(Source::Of(number, rule, pool))
    }

    /// Plans; `None`: the packet is none of ours.
    pub(crate) fn plan(&self) -> Result<Option<Plan<'a>>, DropReason> {
        let destination = self.destination_rule();
        let called = match destination {
            Some(_) => None,
            None if self.is_inbound() || self.rules.hairpin => self.called(),
            None => None,
        };
        let turned = destination.is_some() || called.is_some();
        let source = match self.prepared.ahead {
            Some(Ahead { by: (number, rule, pool), .. }) if !turned => Source::Of(*number, rule, pool),
            _ => self.source_rule(turned)?,
        };
        if !turned && matches!(source, Source::Same) {
            return self.stray();
        }
        // Before anything is taken: who sends stray segments takes no port.
        let connection = opening(self.headers)?;
        let state = if self.is_inbound() { flags::INBOUND } else { 0 };
        // Strangers use up nobody's rate.
        if let Some(rate) = self.rules.rate_per_host.filter(|_| !self.is_inbound())
            && !self.shared.rates.admit(&self.key.source, rate, self.now)
        {
            return Err(DropReason::NatHostRate);
        }
        let mut plan = Plan {
            translated: *self.key,
            session: Session { connection, flags: state, rule: NO_RULE, mapping: 0, target: 0 },
            answers: None,
        };
        let made = self.fill(&mut plan, destination, called, &source);
        made.inspect_err(|_| self.abandon(&plan)).map(|()| Some(plan))
    }

    /// Gives back what was taken for a plan.
    pub(crate) fn abandon(&self, plan: &Plan<'_>) {
        let keys = [*self.key, plan.translated.reversed()];
        self.shared.give_back(&keys, &plan.session, true, self.now);
    }

    fn fill(
        &self,
        plan: &mut Plan<'a>,
        destination: Option<(u16, &'r DestinationRule)>,
        called: Option<SessionKey>,
        source: &Source<'_>,
    ) -> Result<(), DropReason> {
        if let Some((number, rule)) = destination {
            redirect(rule, self.headers, &mut plan.translated);
            plan.session.flags |= flags::BY_DESTINATION;
            plan.session.rule = number;
        }
        let twice = destination.and_then(|(_, rule)| rule.twice);
        if let Some(twice) = twice {
            let pool = self.rules.pools.get(twice).ok_or(DropReason::NatNoPort)?;
            let as_given = SourceRule {
                mapping: Mapping::AddressAndPortDependent,
                filtering: Filtering::AddressAndPortDependent,
                preserve_parity: false,
                ..SourceRule::new(SourceTarget::Pool(twice))
            };
            self.take_source(plan, &as_given, pool)?;
        } else {
            match source {
                Source::Same => {}
                Source::Moved(number, address) => {
                    plan.translated.source = octets(*address);
                    plan.session.rule = *number;
                    plan.session.flags &= !flags::BY_DESTINATION;
                }
                Source::Of(number, rule, pool) => {
                    plan.session.rule = *number;
                    plan.session.flags &= !flags::BY_DESTINATION;
                    self.take_source(plan, rule, pool)?;
                }
            }
        }
        if let Some(outside) = called {
            match self.call(plan, &outside) {
                Err(DropReason::NatFiltered) if plan.session.mapping != 0 => {
                    plan.session.flags |= flags::REFUSED;
                }
                other => other?,
            }
        }
        self.count(plan)
    }

    /// The mapping that the packet is sent to, by the key of its outside end.
    pub(crate) fn called(&self) -> Option<SessionKey> {
        // Most packets go to addresses that were never anybody's outside end.
        if !self.shared.addresses().may_have(&self.key.destination) {
            return None;
        }
        let outside = outside_key(self.key);
        self.shared.mappings.lookup(&outside, self.now).map(|_| outside)
    }

    /// A packet that is not translated: dropped if it would come to nobody.
    pub(crate) fn stray(&self) -> Result<Option<Plan<'a>>, DropReason> {
        if self.is_inbound()
            && let Some(pool) = self.rules.pool_with(self.headers.destination())
        {
            if !pool.config().local {
                return Err(DropReason::NatNoMapping);
            }
            // An answer to a ping of the host's own: pings to it never come here.
            if self.headers.flags.has(Flags::ICMP_QUERY) && !is_request(self.headers) {
                return Err(DropReason::LocalDestination);
            }
        }
        Ok(None)
    }

    /// To the host inside that has the outside end, if it lets the packet in.
    fn call(&self, plan: &mut Plan<'a>, outside: &SessionKey) -> Result<(), DropReason> {
        let shared = self.shared;
        let (id, filtering) = shared.join(outside, false, self.now).ok_or(DropReason::NatFiltered)?;
        // Who sends is known to the called host by its outside address (RFC 4787, REQ-9a).
        let sender = SessionKey {
            source: plan.translated.source,
            source_port: plan.translated.source_port,
            ..*self.key
        };
        let may = match filtering {
            // Who sends to his own outside end has sent to it.
            _ if plan.session.mapping == id.to_bits() => true,
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => {
                shared.is_permitted(id, &peer_key(self.key, &sender.source), self.now)
            }
            // Who has been sent to has a session; of hosts inside, perhaps one that was refused.
            Filtering::AddressAndPortDependent => shared.sessions.lookup(&sender, self.now).is_some(),
        };
        let inside = shared.mappings.keys(id).map(|[inside, _]| inside).filter(|_| may);
        let Some(inside) = inside else {
            shared.leave(id, false, true, self.now);
            return Err(DropReason::NatFiltered);
        };
        plan.session.target = id.to_bits();
        plan.translated.destination = inside.source;
        plan.translated.destination_port = inside.source_port;
        if self.headers.flags.has(Flags::ICMP_QUERY) {
            // One identifier stands for both ports: the called one's, also when a host inside calls (RFC 5508, REQ-7).
            plan.translated.source_port = inside.source_port;
        }
        Ok(())
    }

    /// Counts the session for its host inside.
    fn count(&self, plan: &mut Plan<'a>) -> Result<(), DropReason> {
        let Some(limit) = self.rules.sessions_per_host else { return Ok(()) };
        let inbound = self.is_inbound();
        let host = if inbound { &plan.translated.destination } else { &self.key.source };
        match self.shared.hosts.acquire(host, limit) {
            Ok(_) => {
                plan.session.flags |= flags::COUNTED;
                Ok(())
            }
            Err(SourceError::Limit) => Err(DropReason::NatHostLimit),
            Err(SourceError::TooManySources) => Err(DropReason::NatSessionTableFull),
        }
    }

    /// The outside end for an inside one: the one it has, or a new one.
    fn take_source(
        &self,
        plan: &mut Plan<'a>,
        rule: &SourceRule,
        pool: &Arc<Pool>,
    ) -> Result<(), DropReason> {
        if !has_ports(self.key.protocol) {
            // Told apart by addresses alone: one host inside for each address outside (RFC 5382, RFC 4787 say nothing of these).
            let address = pool.address_for(self.headers.source()).ok_or(DropReason::NatNoPort)?;
            plan.translated.source = octets(address);
            return Ok(());
        }
        let (id, outside, fresh) = self.mapping(plan, rule, pool)?;
        plan.session.mapping = id.to_bits();
        plan.translated.source = outside.destination;
        plan.translated.source_port = outside.destination_port;
        if self.headers.flags.has(Flags::ICMP_QUERY) {
            plan.translated.destination_port = outside.destination_port;
        }
        if rule.filtering == Filtering::AddressDependent {
            // Who makes a mapping has put the address in.
            if !fresh {
                let key = peer_key(&outside, &self.key.destination);
                self.shared.permit(id, &key, self.now).ok_or(DropReason::NatSessionTableFull)?;
            }
            plan.session.flags |= flags::PEER;
        }
        Ok(())
    }

    /// The key of the mapping that the packet's source has by a rule.
    pub(crate) fn inside_of(&self, rule: &SourceRule) -> SessionKey {
        let key = self.key;
        let peer = match rule.mapping {
            Mapping::EndpointIndependent => None,
            Mapping::AddressDependent => Some((key.destination, [0; 2])),
            Mapping::AddressAndPortDependent => Some((key.destination, key.destination_port)),
        };
        inside_key(key, peer)
    }

    /// What the packet wants of a pool.
    pub(crate) fn wanted(&self, rule: &SourceRule) -> Wanted {
        let port = self.headers.source_port();
        let paired = matches!(self.key.protocol, TCP | UDP) && rule.preserve_parity;
        Wanted {
            inside: self.headers.source(),
            protocol: self.key.protocol,
            preferred: rule.preserve_port.then_some(port),
            parity: if paired { Parity::of(port) } else { Parity::Any },
            random: self.random,
            now: self.now.0,
        }
    }

    /// The mapping for the packet's source, counted up, with its outside end, and whether it is new.
    fn mapping(
        &self,
        plan: &mut Plan<'a>,
        rule: &SourceRule,
        pool: &Arc<Pool>,
    ) -> Result<(SessionId, SessionKey, bool), DropReason> {
        let (shared, key, now) = (self.shared, self.key, self.now);
        let known = self.prepared.inside.filter(|_| rule.mapping == Mapping::EndpointIndependent);
        let probe = known.copied().unwrap_or_else(|| shared.mappings.probe(self.inside_of(rule)));
        // Twice at most: another worker may map the same inside end between our look and our insertion.
        for _ in 0..2 {
            if let Some((id, _)) = shared.join(&probe, true, now)
                && let Some([_, outside]) = shared.mappings.keys(id)
            {
                return Ok((id, outside, false));
            }
            let (address, port, outside) = match self.held_by(rule) {
                Some(held) => {
                    plan.answers = Some(&held.answers);
                    (Arc::clone(held.address), held.port, held.outside)
                }
                None => {
                    let taken = pool.take(&self.wanted(rule)).map_err(|_| DropReason::NatNoPort)?;
                    if let Some(block) = &taken.block {
                        shared.tell(block, true, now);
                    }
                    let outside = outside_end(key, &taken.address, taken.port);
                    (taken.address, taken.port, shared.mappings.probe(outside))
                }
            };
            let blocks = pool.keeps_blocks().then(|| Arc::clone(pool));
            let permitted = u32::from(rule.filtering == Filtering::AddressDependent);
            let mapped = Mapped {
                address,
                pool: blocks,
                filtering: rule.filtering,
                sessions: 1,
                own: 1,
                peer: if permitted > 0 { key.destination } else { [0; 16] },
                permitted,
            };
            match shared.map([probe, outside], mapped, now) {
                Ok(id) => return Ok((id, *outside.key(), true)),
                Err(error) => {
                    plan.answers = None;
                    if let Some(address) = pool.address_of(outside.key()) {
                        address.give_back(key.protocol, port, true, now.0);
                    }
                    pool.leave(self.headers.source(), port, now.0);
                    if !matches!(error, InsertError::Conflict { .. }) {
                        return Err(DropReason::NatSessionTableFull);
                    }
                }
            }
        }
        Err(DropReason::NatConflict)
    }
}

/// The key of the outside end that a packet's source gets.
pub(crate) fn outside_end(of: &SessionKey, address: &Address, port: u16) -> SessionKey {
    outside_key(&SessionKey {
        destination: octets(address.address()),
        destination_port: port.to_be_bytes(),
        protocol: of.protocol,
        zone: of.zone,
        ..SessionKey::default()
    })
}

/// The host that was called answers a session for the first time: its mapping counts it as one of its own, and lets the caller in.
pub(crate) fn answered(shared: &Shared, id: SessionId, now: Now) {
    let Some([forward, reverse]) = shared.sessions.keys(id) else { return };
    let target = shared.sessions.with(id, |session, _| {
        let first = session.target != 0 && !session.has(flags::ANSWERED);
        session.flags |= if first { flags::ANSWERED } else { 0 };
        first.then_some(session.target)
    });
    let Some(Some(target)) = target else { return };
    let target = SessionId::from_bits(target);
    let filtering = shared.mappings.with(target, |mapped, _| {
        mapped.own = mapped.own.saturating_add(1);
        mapped.filtering
    });
    if filtering != Some(Filtering::AddressDependent) {
        return;
    }
    let key = peer_key(&forward, &reverse.destination);
    if let Some(permit) = shared.permit(target, &key, now) {
        let kept = shared.sessions.with(id, |session, _| session.flags |= flags::TARGET_PEER);
        match permit {
            _ if kept.is_some() => {}
            // With the mapping it may be gone, too, and what the table has is not ours.
            Permit::Own => {
                shared.forbid_own(target, &key.source);
            }
            Permit::Listed => shared.forbid_listed(&key),
        }
    }
}

/// The first rule that a packet matches, with its number.
fn first<'a, R>(
    rules: &'a [R],
    matches: impl Fn(&R) -> &Match,
    headers: &Headers,
    egress: Option<PortId>,
) -> Option<(u16, &'a R)> {
    let at = rules.iter().position(|rule| matches(rule).accepts(headers, egress))?;
    Some((u16::try_from(at).unwrap_or(NO_RULE), rules.get(at)?))
}

/// Whether a query of ICMP asks, else it answers (RFC 5508, section 3.1): echo, timestamp, information, address mask, extended echo.
fn is_request(headers: &Headers) -> bool {
    match headers.key.protocol {
        ICMP => matches!(headers.icmp_type, 8 | 13 | 15 | 17 | 42),
        _ => matches!(headers.icmp_type, 128 | 160),
    }
}

/// The connection that a packet opens, if it may.
pub(crate) fn opening(headers: &Headers) -> Result<Connection, DropReason> {
    let protocol = headers.key.protocol;
    if matches!(protocol, ICMP | ICMPV6) {
        if !headers.flags.has(Flags::ICMP_QUERY) {
            return Err(DropReason::NatNotTranslatable);
        }
        if !is_request(headers) {
            return Err(DropReason::NatNoSession);
        }
    }
    Connection::open(headers).ok_or(DropReason::NatNoSession)
}

/// Moves a packet to where a destination rule says.
pub(crate) fn redirect(rule: &DestinationRule, headers: &Headers, translated: &mut SessionKey) {
    if let Some(address) = carry_over(headers.destination(), rule.to) {
        translated.destination = octets(address);
    }
    if let (Some(to), true) = (&rule.port, headers.flags.has(Flags::PORTS)) {
        let port = headers.destination_port();
        let after = if to.len() > 1 { position(&rule.matches.destination_ports.any_of, port) } else { 0 };
        translated.destination_port = to.start().wrapping_add(after).to_be_bytes();
    }
}

/// How many ports are before this one, in ranges one after the other.
fn position(ranges: &[RangeInclusive<u16>], port: u16) -> u16 {
    let mut before = 0u16;
    for range in ranges {
        if range.contains(&port) {
            return before.wrapping_add(port - range.start());
        }
        before = before.wrapping_add(range.end() - range.start()).wrapping_add(1);
    }
    before
}

/// The host inside and the outside end of a mapping's keys.
pub(crate) fn ends(keys: &[SessionKey; 2]) -> ((IpAddr, u16), (IpAddr, u16)) {
    let [inside, outside] = keys;
    (end_of(&inside.source, inside.source_port), end_of(&outside.destination, outside.destination_port))
}
