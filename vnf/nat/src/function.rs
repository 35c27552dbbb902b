//! The function: one packet's way through sessions, mappings and rules.

use std::sync::Arc;

use arrayvec::ArrayVec;
use throughway_packet::checksum::verify;
use throughway_packet::parse::{TCP, UDP};
use throughway_packet::{Edit, Flags, Headers};
use throughway_session::connection::Connection;
use throughway_session::fragment::Piece;
use throughway_session::tcp::{Event, flags::RST};
use throughway_session::{Class, InsertError, Probe, SessionId, SessionKey, Side, translate};
use throughway_vnf::{
    Answer, BATCH, Batch, Context, DropReason, Function, Now, Packet, Seen, Snapshot, Verdict,
};

use crate::ahead::{Ahead, Ends, FEW};
use crate::fragments::Fate;
use crate::plan::{Planner, Prepared, answered};
use crate::related::{session_of, translate_error};
use crate::shared::{Rules, Session, Shared, end_of, flags, inside_key};

/// Sessions that are looked at for their age between two batches.
const AGED: usize = 64;

/// How often a packet begins anew because another worker changed its session meanwhile.
const ROUNDS: usize = 2;

/// The NAT, as one worker holds it.
#[derive(Debug)]
pub struct Nat {
    shared: Arc<Shared>,
    rules: Snapshot<Rules>,
    /// Goes into the choice of ports.
    secret: u64,
}

/// A verdict, and the session that translated the packet.
type Judged = (Verdict, Option<(SessionId, Side)>);

/// What a packet means for its session.
struct Step {
    event: Event,
    /// How long the answer holds while nothing is seen; `None`: for this packet alone.
    silence: Option<u64>,
    /// Whether seeing more of the flow keeps the session alive.
    keeps: bool,
    /// Whether the called host has answered for the first time.
    answers: bool,
    /// The mapping to be kept when the session is made anew; 0: none.
    mapping: u64,
}

impl Nat {
    /// A NAT over what all workers share, by these rules. `worker` tells them apart.
    pub fn new(shared: Arc<Shared>, rules: Snapshot<Rules>, worker: u64) -> Nat {
        let [a, b] = shared.options.seed;
        let secret = a.rotate_left(17) ^ b ^ (worker + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Nat { shared, rules, secret }
    }

    /// What it shares with the others.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The rules in force.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        self.rules.read_owned()
    }

    /// Bits that nobody outside can foresee: the keyed hash of the connection, mixed with the time (the finaliser of MurmurHash3). They
    /// do not depend on what came before, so it does not matter which packets a flow cache has spared us.
    fn random(&self, probe: &Probe, now: Now) -> u64 {
        let mut mixed = probe.hash() ^ self.secret ^ now.0.rotate_left(32);
        mixed = (mixed ^ mixed >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        mixed ^ mixed >> 33
    }

    fn probe(&self, packet: &Packet<'_>) -> Probe {
        self.shared.sessions.probe(SessionKey::of(&packet.headers().key, 0))
    }

    fn judge_by(
        &mut self,
        rules: &Rules,
        packet: &mut Packet<'_>,
        probe: &Probe,
        prepared: Prepared<'_, '_>,
        now: Now,
    ) -> Verdict {
        let received = packet.received().flags;
        if received.has(Flags::FRAGMENT) {
            packet.judge_each();
            return self.fragment(rules, packet, probe, now);
        }
        if packet.headers().flags.has(Flags::ICMP_ERROR) {
            packet.judge_each();
            return self.error(rules, packet, now);
        }
        self.whole(rules, packet, probe, prepared, now).0
    }

    /// First fragments are judged as whole packets are, later ones get the same addresses.
    fn fragment(&mut self, rules: &Rules, packet: &mut Packet<'_>, probe: &Probe, now: Now) -> Verdict {
        let Some(Piece { datagram, .. }) = Piece::of(packet.bytes(), &view_of(packet)) else {
            return Verdict::Drop(DropReason::BadFragment);
        };
        if !packet.received().flags.has(Flags::LATER_FRAGMENT) {
            let (verdict, session) = self.whole(rules, packet, probe, Prepared::default(), now);
            let fate = match (verdict, session) {
                (Verdict::Continue, Some((id, side))) => Fate::Session(id, side),
                (Verdict::Continue, None) => Fate::Untouched,
                (Verdict::Drop(reason) | Verdict::Reject(reason, _), _) => Fate::Dropped(reason),
            };
            self.shared.fragments.remember(datagram, fate, now);
            return verdict;
        }
        match self.shared.fragments.find(&datagram, now) {
            None => Verdict::Drop(DropReason::FragmentBeforeFirst),
            Some(Fate::Untouched) => Verdict::Continue,
            Some(Fate::Dropped(reason)) => Verdict::Drop(reason),
            Some(Fate::Session(id, side)) => match self.shared.sessions.keys(id) {
                Some([forward, reverse]) => {
                    let to = if side == Side::Forward { reverse } else { forward }.reversed();
                    if to.source != probe.key().source {
                        packet.edit(Edit::Source(end_of(&to.source, [0; 2]).0));
                    }
                    if to.destination != probe.key().destination {
                        packet.edit(Edit::Destination(end_of(&to.destination, [0; 2]).0));
                    }
                    Verdict::Continue
                }
                None => Verdict::Drop(DropReason::NatNoSession),
            },
        }
    }

    /// An ICMP error: translated with what it quotes, or, if that is of no session, dropped where it would have to be translated.
    fn error(&self, rules: &Rules, packet: &mut Packet<'_>, now: Now) -> Verdict {
        let session = session_of(&self.shared, packet, now);
        if session.is_some() && !verify(packet.bytes(), packet.received()) {
            return Verdict::Drop(DropReason::NatBadError);
        }
        if let Some(session) = session
            && translate_error(&self.shared, packet, session).is_some()
        {
            return Verdict::Continue;
        }
        let headers = *packet.headers();
        let ours = if rules.outside.contains(&headers.ingress()) {
            match rules.pool_with(headers.destination()) {
                // About a packet of the host's own.
                Some(pool) if pool.config().local => return Verdict::Drop(DropReason::LocalDestination),
                pool => pool.is_some(),
            }
        } else {
            let key = SessionKey::of(&headers.key, 0);
            let egress = packet.egress();
            let planner =
                Planner::new(&self.shared, rules, (&headers, &key), egress, (now, 0), Prepared::default());
            !matches!(planner.source_rule(false), Ok(crate::plan::Source::Same))
        };
        if ours { Verdict::Drop(DropReason::NatUnrelatedError) } else { Verdict::Continue }
    }

    /// Takes the port ahead that a packet will most likely want.
    fn ahead<'r>(
        &self,
        rules: &'r Rules,
        packet: &Packet<'_>,
        probe: &Probe,
        inside: &Probe,
        now: Now,
    ) -> Option<Ahead<'r>> {
        let (headers, shared) = (packet.headers(), &*self.shared);
        if headers.flags.has(Flags::FRAGMENT) || headers.flags.has(Flags::ICMP_ERROR) {
            return None;
        }
        let random = self.random(probe, now);
        let (about, when) = ((headers, probe.key()), (now, random));
        Planner::new(shared, rules, about, packet.egress(), when, Prepared::default()).ahead(inside)
    }

    fn whole(
        &mut self,
        rules: &Rules,
        packet: &mut Packet<'_>,
        probe: &Probe,
        prepared: Prepared<'_, '_>,
        now: Now,
    ) -> Judged {
        for _ in 0..ROUNDS {
            let mut kept = None;
            if let Some(judged) = self.known(rules, packet, probe, now, &mut kept) {
                return judged;
            }
            let judged = self.unknown(rules, packet, probe, prepared, now);
            if let Some(mapping) = kept {
                self.shared.leave(mapping, true, true, now);
            }
            if let Some(judged) = judged {
                return judged;
            }
            // Another worker was faster with the same packet sent again: it belongs to that session.
        }
        (Verdict::Drop(DropReason::NatConflict), None)
    }

    /// A packet of a session that exists: translated, and noted. `None`: none does, or it is to be made anew; its mapping is then
    /// `held`, so that the new one has the same.
    fn known(
        &self,
        rules: &Rules,
        packet: &mut Packet<'_>,
        probe: &Probe,
        now: Now,
        held: &mut Option<SessionId>,
    ) -> Option<Judged> {
        let shared = &self.shared;
        let headers = *packet.headers();
        let (found, step) = shared.sessions.update(probe, now, |side, session, meta| {
            let before = session.connection;
            let mut step = Step {
                event: session.connection.packet(side, &headers),
                silence: None,
                keeps: true,
                answers: false,
                mapping: 0,
            };
            if session.has(flags::REFUSED) {
                // Perhaps it is let in now. Nobody answers what was not sent.
                session.connection = before;
                step.event = if side == Side::Forward { Event::Reopens } else { Event::Invalid };
                step.mapping = session.mapping;
            }
            if step.event != Event::Fits {
                return step;
            }
            let class = session.connection.class();
            if meta.class() != class && meta.set_class(class).is_err() {
                session.connection = before;
            }
            let timeout = rules.timeout(session.connection, &headers);
            step.keeps = keeps_alive(session, side);
            if step.keeps {
                meta.touch(now, timeout);
            }
            step.silence = rules.silence(session.connection, &headers).filter(|_| class != Class::HalfOpen);
            if !step.keeps && step.silence.is_some() {
                session.flags |= flags::CACHED;
            }
            // A reset refuses the call (RFC 7857, section 8).
            step.answers = side == Side::Reverse
                && session.target != 0
                && !session.has(flags::ANSWERED)
                && headers.tcp_flags & RST == 0;
            step
        })?;
        let (id, side) = (found.id, found.side);
        match step.event {
            Event::Fits => {}
            Event::Reopens => {
                *held = Some(SessionId::from_bits(step.mapping)).filter(|mapping| shared.hold(*mapping));
                shared.end(id, now);
                return None;
            }
            Event::Invalid => {
                packet.judge_each();
                return Some((Verdict::Drop(DropReason::NatInvalidState), None));
            }
        }
        if step.answers {
            answered(shared, id, now);
        }
        let [forward, reverse] = shared.sessions.keys(id)?;
        let other = if side == Side::Forward { reverse } else { forward };
        translate(packet, &other.reversed());
        packet.depends_on(Shared::slot(id));
        if step.keeps {
            packet.credit(id.to_credit());
        }
        match step.silence {
            Some(silence) => packet.limit_silence(silence),
            None => packet.judge_each(),
        }
        Some((Verdict::Continue, Some((id, side))))
    }

    /// A packet that belongs to no session. `None` if it does meanwhile.
    fn unknown(
        &mut self,
        rules: &Rules,
        packet: &mut Packet<'_>,
        probe: &Probe,
        prepared: Prepared<'_, '_>,
        now: Now,
    ) -> Option<Judged> {
        let key = probe.key();
        let random = self.random(probe, now);
        let shared = &self.shared;
        let headers = *packet.headers();
        let (about, when) = ((&headers, key), (now, random));
        let planner = Planner::new(shared, rules, about, packet.egress(), when, prepared);
        let planned = planner.plan();
        if let Some(ahead) = prepared.ahead {
            ahead.give_back(key, now.0);
        }
        let plan = match planned {
            Ok(Some(plan)) => plan,
            Ok(None) => {
                return passes(shared, packet, probe, now).then_some((Verdict::Continue, None));
            }
            Err(reason) => {
                packet.judge_each();
                return Some((refusal(&planner, reason), None));
            }
        };
        // Nobody has answered yet: the session may have to make room, and nobody would tell the caches.
        packet.judge_each();
        let timeout = rules.timeout(plan.session.connection, &headers);
        let answers = plan.translated.reversed();
        let known = plan.answers.filter(|known| *known.key() == answers);
        let answers = known.copied().unwrap_or_else(|| shared.sessions.probe(answers));
        let keys = [*probe, answers];
        let mut opened = shared.open(keys, timeout, plan.session, now);
        if let Err(InsertError::Conflict { side: Side::Reverse, with }) = opened
            && shared.sessions.read(with, |session, _| session.has(flags::REFUSED)) == Some(true)
        {
            // The called host had called before, and was refused: this is the answer.
            shared.end(with, now);
            opened = shared.open(keys, timeout, plan.session, now);
        }
        let reason = match opened {
            Ok(_) if plan.session.has(flags::REFUSED) => {
                return Some((Verdict::Drop(DropReason::NatFiltered), None));
            }
            Ok(id) => {
                translate(packet, &plan.translated);
                return Some((Verdict::Continue, Some((id, Side::Forward))));
            }
            Err(InsertError::Conflict { side: Side::Forward, .. }) => {
                planner.abandon(&plan);
                return None;
            }
            // To itself by its own outside end, as STUN clients try: each packet is an answer to itself, so there is nothing to remember.
            // Not so later fragments, which are told apart by what is remembered.
            Err(InsertError::SameKey) if !packet.received().flags.has(Flags::FRAGMENT) => {
                planner.abandon(&plan);
                translate(packet, &plan.translated);
                return Some((Verdict::Continue, None));
            }
            // The answer's key belongs to somebody else.
            Err(InsertError::Conflict { .. } | InsertError::SameKey) => DropReason::NatConflict,
            Err(InsertError::Full | InsertError::Quota(_)) => DropReason::NatSessionTableFull,
        };
        planner.abandon(&plan);
        Some((refusal(&planner, reason), None))
    }
}

/// A packet that is not translated. `false`: it belongs to a session after all, which another worker has just opened.
fn passes(shared: &Shared, packet: &mut Packet<'_>, probe: &Probe, now: Now) -> bool {
    let key = probe.key();
    // To an outside address: depends on mappings, which come and go. Other protocols are in no cache.
    if !matches!(key.protocol, TCP | UDP) || shared.addresses().knows(&key.destination) {
        packet.judge_each();
        return true;
    }
    let slot = shared.passed.pass(probe, || shared.sessions.lookup(probe, now).is_some());
    slot.map(|slot| packet.depends_on(slot)).is_some()
}

/// Who is inside and gets nothing because too much is taken is told, as the rules say.
fn refusal(planner: &Planner<'_, '_>, reason: DropReason) -> Verdict {
    match (reason, planner.rules.refuse) {
        (DropReason::NatNoPort | DropReason::NatHostLimit | DropReason::NatSessionTableFull, Some(told))
            if !planner.is_inbound() =>
        {
            Verdict::Reject(reason, Answer::Icmp(told))
        }
        _ => Verdict::Drop(reason),
    }
}

/// Whether a packet of this side keeps a session alive. What a host outside sends does not by itself, where a mapping hangs on
/// it (RFC 4787, REQ-6); TCP is there as long as either side speaks (RFC 5382, REQ-5).
fn keeps_alive(session: &Session, side: Side) -> bool {
    let from_inside = match side {
        Side::Forward => !session.has(flags::INBOUND),
        Side::Reverse => session.has(flags::INBOUND) || session.target != 0,
    };
    let mapped = (session.mapping != 0 && !session.has(flags::INBOUND)) || session.target != 0;
    from_inside || !mapped || matches!(session.connection, Connection::Tcp(_))
}

/// The view of a packet whose offsets are those of its bytes.
fn view_of(packet: &Packet<'_>) -> Headers {
    let received = packet.received();
    Headers { key: packet.headers().key, ..*received }
}

impl Function for Nat {
    const KIND: &'static str = "nat";

    fn judge(&mut self, packet: &mut Packet<'_>, context: &Context) -> Verdict {
        let rules = self.rules();
        let probe = self.probe(packet);
        self.judge_by(&rules, packet, &probe, Prepared::default(), context.now)
    }

    /// As one by one; but the rules are read once, and what the session table will be asked is fetched together.
    fn process(&mut self, batch: &mut Batch<'_>, context: &Context) {
        let rules = self.rules();
        let probes: ArrayVec<Probe, BATCH> = batch.living().map(|packet| self.probe(packet)).collect();
        let shared = &self.shared;
        shared.sessions.prepare(&probes);
        // Most of those that have no session come from inside and look for a mapping next, or make one.
        let new = |probe: &&Probe| shared.sessions.lookup(*probe, context.now).is_none();
        let inside =
            |probe: &Probe| new(&probe).then(|| shared.mappings.probe(inside_key(probe.key(), None)));
        let inside: ArrayVec<Option<Probe>, BATCH> = probes.iter().map(inside).collect();
        let wanted: ArrayVec<Probe, BATCH> = inside.iter().flatten().copied().collect();
        if !wanted.is_empty() {
            shared.mappings.prepare(&wanted);
        }
        let mut ahead = ArrayVec::<Option<Ahead<'_>>, BATCH>::new();
        if wanted.len() >= FEW && rules.pools.iter().any(|pool| pool.gives_early()) {
            let mut ends = Ends::default();
            for ((packet, probe), inside) in batch.living().zip(&probes).zip(&inside) {
                // Others of the same inside end have the same mapping.
                let inside = inside.as_ref().filter(|inside| ends.add(inside.hash()));
                ahead.push(inside.and_then(|inside| self.ahead(&rules, packet, probe, inside, context.now)));
            }
            let held = || ahead.iter().flatten();
            shared.mappings.prepare_reverse(&held().map(|held| held.outside).collect::<ArrayVec<_, BATCH>>());
            shared.sessions.prepare_reverse(&held().map(|held| held.answers).collect::<ArrayVec<_, BATCH>>());
        }
        let mut ahead = ahead.iter();
        for ((packet, probe), inside) in batch.living().zip(&probes).zip(&inside) {
            let ahead = ahead.next().and_then(Option::as_ref);
            let prepared = Prepared { inside: inside.as_ref(), ahead };
            let verdict = self.judge_by(&rules, packet, probe, prepared, context.now);
            packet.settle(verdict);
            if let Some(ahead) = ahead {
                ahead.give_back(probe.key(), context.now.0);
            }
        }
    }

    fn foresee(&self, ids: &[u64]) {
        self.shared.sessions.fetch_credits(ids);
    }

    fn settle(&mut self, id: u64, seen: &Seen) {
        self.shared.sessions.keep_alive_credit(id, seen.last);
    }

    fn explain(&self, packet: &Packet<'_>, context: &Context) -> Vec<String> {
        crate::explain::explain(self, packet, context.now)
    }

    fn tick(&mut self, context: &Context) {
        let rules = self.rules.read();
        self.shared.tick(&rules.pools, context.now, AGED);
    }
}
