//! The firewall as a function: a packet's way through sessions and rules.

use std::sync::Arc;

use arrayvec::ArrayVec;
use throughway_packet::parse::TCP;
use throughway_packet::{Flags, Headers};
use throughway_session::fragment::Piece;
use throughway_session::{Class, InsertError, NewSession, Probe, QuotaFull, SessionId, Side, SourceError};
use throughway_vnf::{
    Answer as Reply, BATCH, Batch, Context, DropReason, Function, IcmpError, Now, Packet, Seen, Slot, Verdict,
};

use crate::ask::{Answer, Purpose, Question};
use crate::embedded::session_key;
use crate::fragments::{Entered, Fate};
use crate::limits::{HOLDS, Holds, Limit};
use crate::policy::Policy;
use crate::rule::{Ending, Fields, PacketFields, RejectWith, State};
use crate::session::{Opener, Tracked, from_credit, opening_fields, to_credit};
use crate::shared::Shared;
use crate::track::{Fit, Subject, Track, Upper, subject};

/// How often a packet begins anew because somebody else changed its session meanwhile.
const ROUNDS: usize = 4;

/// The firewall, as one worker holds it.
#[derive(Debug)]
pub struct Firewall {
    shared: Arc<Shared>,
}

/// What a packet is to a session that is known.
enum Step {
    /// It belongs to it.
    Passes { id: SessionId, side: Side, silence: Option<u64> },
    /// It does not.
    Not,
    /// It opens a new one in its place.
    Reopens(SessionId),
    /// The rules are to be asked first: whether the session may stay, or whether this packet is within a limit.
    Ask { id: SessionId, side: Side, again: bool },
}

/// A verdict, and the session that it came from.
type Judged = (Verdict, Option<(SessionId, Side)>);

impl Firewall {
    /// One worker's.
    pub fn new(shared: Arc<Shared>) -> Firewall {
        Firewall { shared }
    }

    /// What it shares with the others.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What a packet is about, with the key's hash.
    fn subject(&self, packet: &Packet<'_>) -> Subject<Probe> {
        let subject = subject(packet.bytes(), packet.received(), packet.headers(), &self.shared.options);
        subject.with(|key| self.shared.sessions.probe(key))
    }

    fn judge_by(
        &self,
        policy: &Policy,
        packet: &mut Packet<'_>,
        subject: &Subject<Probe>,
        now: Now,
    ) -> Verdict {
        if packet.received().flags.has(Flags::FRAGMENT) {
            packet.judge_each();
            return self.fragment(policy, packet, subject, now);
        }
        self.whole(policy, packet, subject, now).0
    }

    /// First fragments are judged as whole packets are, later ones share their fate.
    fn fragment(
        &self,
        policy: &Policy,
        packet: &mut Packet<'_>,
        subject: &Subject<Probe>,
        now: Now,
    ) -> Verdict {
        let Some(piece) = Piece::of(packet.bytes(), packet.received()) else {
            return Verdict::Drop(DropReason::BadFragment);
        };
        match self.shared.fragments.enter(&piece, now) {
            Entered::First => {
                let (verdict, session) = self.whole(policy, packet, subject, now);
                let fate = match verdict {
                    Verdict::Continue => Ok(()),
                    Verdict::Drop(reason) | Verdict::Reject(reason, _) => Err(reason),
                };
                match self.shared.fragments.remember(&piece, Fate { verdict: fate, session }, now) {
                    Ok(()) => verdict,
                    Err(reason) => Verdict::Drop(reason),
                }
            }
            Entered::Follows(Fate { verdict: Ok(()), session }) => {
                if let Some((id, side)) = session {
                    let len = packet.headers().packet_len().into();
                    self.shared.sessions.with(id, |tracked, _| tracked.count(side, 1, len));
                    self.shared.sessions.keep_alive(id, now);
                }
                Verdict::Continue
            }
            Entered::Follows(Fate { verdict: Err(reason), .. }) | Entered::Refused(reason) => {
                Verdict::Drop(reason)
            }
        }
    }

    fn whole(&self, policy: &Policy, packet: &mut Packet<'_>, subject: &Subject<Probe>, now: Now) -> Judged {
        let headers = *packet.headers();
        match subject {
            Subject::Connection(key, upper) => self.connection(policy, packet, &headers, key, upper, now),
            Subject::Error => {
                let known = is_related(&self.shared, packet, now);
                let state = if known { State::Related } else { State::Invalid };
                (self.alone(policy, packet, &headers, state, now), None)
            }
            Subject::Untracked => (self.alone(policy, packet, &headers, State::Untracked, now), None),
            Subject::Nothing => (self.alone(policy, packet, &headers, State::Invalid, now), None),
        }
    }

    /// A packet that has no session and opens none.
    fn alone(
        &self,
        policy: &Policy,
        packet: &mut Packet<'_>,
        headers: &Headers,
        state: State,
        now: Now,
    ) -> Verdict {
        packet.judge_each();
        let fields = Fields::of(headers, packet.egress(), state);
        let question = Question { fields: &fields, headers, now, purpose: Purpose::Judge, explain: false };
        let Some(answer) = policy.ask(&question, Some(&self.shared.events), |_, _, _| {}) else {
            return if state == State::Related {
                Verdict::Continue
            } else {
                Verdict::Drop(DropReason::InvalidState)
            };
        };
        // Nothing stays that could give it back.
        release(&answer.hold, &fields.source, &fields.destination);
        answer.state.add(1, fields.length.into());
        verdict_of(&answer, headers)
    }

    fn connection(
        &self,
        policy: &Policy,
        packet: &mut Packet<'_>,
        headers: &Headers,
        probe: &Probe,
        upper: &Upper,
        now: Now,
    ) -> Judged {
        let mut policed = false;
        for _ in 0..ROUNDS {
            let step = self.shared.sessions.lookup_with(probe, now, |side, tracked, meta| {
                let id = meta.id();
                let again = tracked.judged_by < policy.rejudge_before;
                if again || (tracked.policed && side == Side::Forward && !policed) {
                    return Step::Ask { id, side, again };
                }
                match tracked.track.packet(side, upper) {
                    Fit::Not => Step::Not,
                    Fit::Reopens => Step::Reopens(id),
                    Fit::Fits => {
                        let options = &self.shared.options;
                        // Only half-open sessions have a quota.
                        let _ = meta.set_class(tracked.track.class());
                        meta.touch(now, tracked.track.timeout(&options.timeouts));
                        tracked.count(side, 1, headers.packet_len().into());
                        let silence = tracked.track.silence(&options.timeouts).filter(|_| !tracked.policed);
                        tracked.cached |= silence.is_some();
                        Step::Passes { id, side, silence }
                    }
                }
            });
            match step {
                Some(Step::Passes { id, side, silence }) => {
                    repeat(packet, id, side, silence);
                    let verdict = self.established(policy, packet, headers, now);
                    return (verdict, Some((id, side)));
                }
                Some(Step::Not) => return (self.alone(policy, packet, headers, State::Invalid, now), None),
                Some(Step::Reopens(id)) => {
                    self.shared.end(id);
                }
                Some(Step::Ask { id, side, again }) => {
                    if let Some(verdict) = self.again(policy, packet, headers, id, again, now) {
                        return (verdict, None);
                    }
                    policed = side == Side::Forward;
                }
                None => match self.open(policy, packet, headers, probe, upper, now) {
                    Some(judged) => return judged,
                    // Another worker was faster: the packet belongs to its session.
                    None => continue,
                },
            }
        }
        packet.judge_each();
        (Verdict::Drop(DropReason::InvalidState), None)
    }

    /// Rules that ask for established packets by name have a say; nobody else has.
    fn established(&self, policy: &Policy, packet: &mut Packet<'_>, headers: &Headers, now: Now) -> Verdict {
        if !policy.names(State::Established) {
            return Verdict::Continue;
        }
        let fields = Fields::of(headers, packet.egress(), State::Established);
        let question = Question { fields: &fields, headers, now, purpose: Purpose::Judge, explain: false };
        let asked = policy.ask(&question, Some(&self.shared.events), |_, _, _| {});
        let Some(answer) = asked else {
            packet.judge_each();
            return Verdict::Continue;
        };
        release(&answer.hold, &fields.source, &fields.destination);
        // The state is the session's, and the egress follows from what the packet depends on already.
        let varies = PacketFields(!(PacketFields::STATE | PacketFields::EGRESS).0 & answer.depends.0);
        if answer.ending != Ending::Allow || answer.policed || !varies.is_none() {
            packet.judge_each();
        }
        answer.state.add(1, fields.length.into());
        verdict_of(&answer, headers)
    }

    /// Asks the rules about a session that is known. `again`: whether it may stay at all, else whether this packet may pass.
    /// A verdict if not.
    fn again(
        &self,
        policy: &Policy,
        packet: &mut Packet<'_>,
        headers: &Headers,
        id: SessionId,
        again: bool,
        now: Now,
    ) -> Option<Verdict> {
        let sessions = &self.shared.sessions;
        let [key, _] = sessions.keys(id)?;
        let (fields, held) =
            sessions.read(id, |tracked, _| (opening_fields(&key, tracked, headers), tracked.hold.clone()))?;
        let purpose = if again { Purpose::Again(&held) } else { Purpose::Police };
        let question = Question { fields: &fields, headers, now, purpose, explain: false };
        let answer = policy.ask(&question, Some(&self.shared.events), |_, _, _| {})?;
        if answer.ending != Ending::Allow {
            packet.judge_each();
            release(&answer.hold, &key.source, &key.destination);
            answer.state.add(1, fields.length.into());
            if again {
                self.shared.end(id);
            }
            return Some(verdict_of(&answer, headers));
        }
        if again {
            let (released, updated) = sessions
                .with(id, |tracked, _| {
                    let fresh = tracked.judged_by < policy.rejudge_before;
                    if !fresh {
                        return (Holds::new(), false);
                    }
                    tracked.judged_by = policy.number;
                    tracked.rule = answer.rule;
                    tracked.state = Arc::clone(answer.state);
                    tracked.policed = answer.policed;
                    tracked.mark = answer.mark.unwrap_or(0);
                    let keeps = |limit: &Arc<Limit>| answer.keeps.iter().any(|kept| Arc::ptr_eq(kept, limit));
                    let (kept, old) = tracked.hold.drain(..).partition::<Holds, _>(keeps);
                    // No more together than the answer had room for.
                    tracked.hold = kept.into_iter().chain(answer.hold.iter().cloned()).take(HOLDS).collect();
                    (old, true)
                })
                .unwrap_or((Holds::new(), false));
            release(&released, &key.source, &key.destination);
            if !updated {
                release(&answer.hold, &key.source, &key.destination);
            }
        }
        None
    }

    /// A packet without a session: may it open one? `None` if another worker has just opened it.
    fn open(
        &self,
        policy: &Policy,
        packet: &mut Packet<'_>,
        headers: &Headers,
        probe: &Probe,
        upper: &Upper,
        now: Now,
    ) -> Option<Judged> {
        let (shared, key) = (&self.shared, probe.key());
        let track = Track::open(upper, &shared.options).filter(|_| *key != key.reversed());
        let Some(track) = track else {
            return Some((self.alone(policy, packet, headers, State::Invalid, now), None));
        };
        packet.judge_each();
        let fields = Fields::of(headers, packet.egress(), State::New);
        let question = Question { fields: &fields, headers, now, purpose: Purpose::Judge, explain: false };
        // A new packet always has an answer: the default speaks for it.
        let answer = policy.ask(&question, Some(&shared.events), |_, _, _| {})?;
        let len = fields.length.into();
        if answer.ending != Ending::Allow {
            release(&answer.hold, &key.source, &key.destination);
            answer.state.add(1, len);
            return Some((verdict_of(&answer, headers), None));
        }
        let give_back = |source| {
            release(&answer.hold, &key.source, &key.destination);
            if let (true, Some((_, sources))) = (source, &shared.sources) {
                sources.release(&key.source);
            }
        };
        if let Some((most, sources)) = &shared.sources {
            let reason = match sources.acquire(&key.source, *most) {
                Ok(_) => None,
                Err(SourceError::Limit) => Some(DropReason::TooManySessionsOfSource),
                Err(SourceError::TooManySources) => Some(DropReason::SessionTableFull),
            };
            if let Some(reason) = reason {
                give_back(false);
                return Some((Verdict::Drop(reason), None));
            }
        }
        let vlan = headers.key.outer_vlan;
        let (class, timeout) = (track.class(), track.timeout(&shared.options.timeouts));
        let mut tracked = Tracked {
            track,
            rule: answer.rule,
            state: Arc::clone(answer.state),
            hold: answer.hold.clone(),
            mark: answer.mark.unwrap_or(0),
            judged_by: policy.number,
            opener: Opener { ingress: headers.ingress(), egress: packet.egress(), vlan },
            policed: answer.policed,
            cached: false,
            opened: now,
            packets: [0; 2],
            bytes: [0; 2],
        };
        tracked.packets = [1, 0];
        tracked.bytes = [len, 0];
        let (forward, reverse) = (*probe, probe.reversed());
        let new = NewSession { forward, reverse, class, timeout, state: tracked };
        let reason = match shared.sessions.insert(new, now, |removed| shared.gone(&removed)) {
            Ok(id) => {
                answer.state.add(1, len);
                answer.state.opened();
                return Some((Verdict::Continue, Some((id, Side::Forward))));
            }
            Err(InsertError::Conflict { .. }) => {
                give_back(true);
                return None;
            }
            Err(InsertError::Full) => DropReason::SessionTableFull,
            Err(InsertError::Quota(QuotaFull(Class::HalfOpen))) => DropReason::HalfOpenLimit,
            Err(InsertError::Quota(_)) => DropReason::SessionTableFull,
            Err(InsertError::SameKey) => DropReason::InvalidState,
        };
        give_back(true);
        Some((Verdict::Drop(reason), None))
    }
}

/// Whether an ICMP error is about a session: about a packet of it, and sent to the host that has sent that packet.
pub(crate) fn is_related(shared: &Shared, packet: &Packet<'_>, now: Now) -> bool {
    let key = packet.embedded().and_then(|embedded| session_key(&embedded, shared.options.zone));
    let right = key.filter(|key| key.source == packet.headers().key.destination);
    right.is_some_and(|key| shared.sessions.lookup(&key, now).is_some())
}

/// Says how long the answer of a session holds, and on what it depends.
fn repeat(packet: &mut Packet<'_>, id: SessionId, side: Side, silence: Option<u64>) {
    match (silence, to_credit(id, side)) {
        (Some(silence), Some(credit)) => {
            packet.depends_on(Slot::session(id.to_bits()));
            packet.credit(credit);
            packet.limit_silence(silence);
        }
        _ => packet.judge_each(),
    }
}

fn release(held: &Holds, source: &[u8; 16], destination: &[u8; 16]) {
    for limit in held {
        limit.release(source, destination);
    }
}

/// What the function says when the rules say this.
pub(crate) fn verdict_of(answer: &Answer<'_>, headers: &Headers) -> Verdict {
    let by_rule = answer.by.is_some();
    match answer.ending {
        Ending::Allow => Verdict::Continue,
        Ending::Reject(with) => {
            let reason = if by_rule { DropReason::FirewallReject } else { DropReason::FirewallDefault };
            let reply = match with {
                RejectWith::Icmp(error) => Reply::Icmp(error),
                RejectWith::TcpReset | RejectWith::Auto if headers.key.protocol == TCP => Reply::TcpReset,
                RejectWith::TcpReset => Reply::Icmp(IcmpError::AdminProhibited),
                RejectWith::Auto => Reply::Icmp(IcmpError::PortUnreachable),
            };
            Verdict::Reject(reason, reply)
        }
        // Answers are final; these would be drops if they were not.
        Ending::Drop | Ending::Jump(_) | Ending::Continue => {
            Verdict::Drop(if by_rule { DropReason::FirewallRule } else { DropReason::FirewallDefault })
        }
    }
}

impl Function for Firewall {
    const KIND: &'static str = "firewall";

    fn judge(&mut self, packet: &mut Packet<'_>, context: &Context) -> Verdict {
        let policy = self.shared.policy.read();
        let subject = self.subject(packet);
        self.judge_by(&policy, packet, &subject, context.now)
    }

    /// As one by one; but the rules are read once, and what the session table will be asked is fetched together.
    fn process(&mut self, batch: &mut Batch<'_>, context: &Context) {
        let policy = self.shared.policy.read();
        let subjects: ArrayVec<_, BATCH> = batch.living().map(|packet| self.subject(packet)).collect();
        let connection = |subject: &Subject<Probe>| match subject {
            Subject::Connection(probe, _) => Some(*probe),
            _ => None,
        };
        let probes: ArrayVec<Probe, BATCH> = subjects.iter().filter_map(connection).collect();
        self.shared.sessions.prepare(&probes);
        for (packet, subject) in batch.living().zip(&subjects) {
            let verdict = self.judge_by(&policy, packet, subject, context.now);
            packet.settle(verdict);
        }
    }

    fn foresee(&self, ids: &[u64]) {
        self.shared.sessions.fetch(ids.iter().map(|id| from_credit(*id).0));
    }

    fn settle(&mut self, id: u64, seen: &Seen) {
        let (id, side) = from_credit(id);
        if seen.packets > 0 {
            self.shared.sessions.with(id, |tracked, _| tracked.count(side, seen.packets, seen.bytes));
        }
        self.shared.sessions.keep_alive(id, seen.last);
    }

    fn tick(&mut self, context: &Context) {
        self.shared.tick(context.now);
    }
}
