//! What the firewall would say of a packet now, and why. Nothing changes by asking.

use throughway_packet::Flags;
use throughway_session::fragment::Piece;
use throughway_session::{Class, SessionId, SessionKey, Side, WhenFull};
use throughway_vnf::{DropReason, Now, Packet, Verdict};

use crate::ask::{Looked, Purpose, Question};
use crate::fragments::{Entered, Fate};
use crate::function::{Firewall, is_related, verdict_of};
use crate::policy::Policy;
use crate::rule::{Fields, State};
use crate::session::opening_fields;
use crate::shared::Shared;
use crate::track::{Fit, Subject, Track, subject};

/// How a rule met the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Met {
    /// It decides.
    Decided,
    /// It matches and decides nothing: it counts, logs, marks or leads on.
    Passed,
    /// It would match, but its limit is exceeded.
    LimitExceeded,
    /// It would match beyond its limit, and the packet is within.
    WithinLimit,
    /// It would match, but does not name the packet's state, and only rules that do decide about that.
    StateNotNamed,
}

/// Why a fragment is not judged by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// The first: judged as if it were whole.
    First,
    /// Shares the fate of its first: passes, or ends for this reason.
    Follows(Result<(), DropReason>),
    /// It ends by itself.
    Refused(DropReason),
}

/// One step of the way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// It is a fragment.
    Fragment(Fragment),
    /// What it is to the connections that are known.
    State(State),
    /// The session it belongs to.
    Session {
        /// Its handle.
        id: SessionId,
        /// From who opened it, or to him.
        side: Side,
        /// The connection's state before the packet.
        before: &'static str,
        /// … and after it, if it fits.
        after: Option<&'static str>,
        /// The rule that let it in; `None`: the default.
        rule: Option<u32>,
    },
    /// The session is to be judged again, because rules have changed.
    Rejudged,
    /// The packet counts against a limit of its session's rule.
    Policed,
    /// A rule whose conditions all hold.
    Rule {
        /// Its number.
        rule: u32,
        /// The rules that lead to its group, the outermost first.
        path: Vec<u32>,
        /// What came of it.
        met: Met,
    },
    /// No rule decided: the default does.
    Default,
    /// A session would be opened; or not, for this reason.
    Opens(Result<(), DropReason>),
}

/// The answer to "why".
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// In order.
    pub steps: Vec<Step>,
    /// What the firewall would say.
    pub verdict: Verdict,
}

impl Firewall {
    /// What it would say of `packet` at `now`, and why. Changes nothing: no session, no counter, no limit, no log. Of a table
    /// that is full it tells, but not what would be displaced.
    pub fn explain(&self, packet: &Packet<'_>, now: Now) -> Explanation {
        let policy = self.shared().policy();
        let mut steps = Vec::new();
        if packet.received().flags.has(Flags::FRAGMENT) {
            let entered = Piece::of(packet.bytes(), packet.received())
                .map_or(Entered::Refused(DropReason::BadFragment), |piece| {
                    self.shared().fragments.peek(&piece, now)
                });
            let (fragment, verdict) = match entered {
                Entered::First => (Fragment::First, None),
                Entered::Follows(Fate { verdict: Ok(()), .. }) => {
                    (Fragment::Follows(Ok(())), Some(Verdict::Continue))
                }
                Entered::Follows(Fate { verdict: Err(reason), .. }) => {
                    (Fragment::Follows(Err(reason)), Some(Verdict::Drop(reason)))
                }
                Entered::Refused(reason) => (Fragment::Refused(reason), Some(Verdict::Drop(reason))),
            };
            steps.push(Step::Fragment(fragment));
            if let Some(verdict) = verdict {
                return Explanation { steps, verdict };
            }
        }
        let mut verdict = self.explain_whole(&policy, packet, now, &mut steps);
        let fragment = packet.received().flags.has(Flags::FRAGMENT);
        if fragment && verdict == Verdict::Continue && self.shared().fragments.is_full() {
            steps.push(Step::Fragment(Fragment::Refused(DropReason::FragmentTableFull)));
            verdict = Verdict::Drop(DropReason::FragmentTableFull);
        }
        Explanation { steps, verdict }
    }

    fn explain_whole(
        &self,
        policy: &Policy,
        packet: &Packet<'_>,
        now: Now,
        steps: &mut Vec<Step>,
    ) -> Verdict {
        let shared = self.shared();
        let (received, headers) = (packet.received(), packet.headers());
        let by_state = |state| Fields::of(headers, packet.egress(), state);
        let (key, upper) = match subject(packet.bytes(), received, headers, &shared.options) {
            Subject::Connection(key, upper) => (key, upper),
            Subject::Error => {
                let known = is_related(shared, packet, now);
                let state = if known { State::Related } else { State::Invalid };
                return consult(policy, packet, &by_state(state), Purpose::Judge, now, steps);
            }
            Subject::Untracked => {
                return consult(policy, packet, &by_state(State::Untracked), Purpose::Judge, now, steps);
            }
            Subject::Nothing => {
                return consult(policy, packet, &by_state(State::Invalid), Purpose::Judge, now, steps);
            }
        };
        let found = shared.sessions.lookup(&key, now);
        let known = found.and_then(|found| {
            let [forward, _] = shared.sessions.keys(found.id)?;
            let tracked = shared.sessions.read(found.id, |tracked, _| tracked.clone())?;
            Some((found, forward, tracked))
        });
        if let Some((found, forward, tracked)) = known {
            let mut track = tracked.track.clone();
            let fit = track.packet(found.side, &upper);
            steps.push(Step::Session {
                id: found.id,
                side: found.side,
                before: tracked.track.label(),
                after: (fit == Fit::Fits).then(|| track.label()),
                rule: tracked.rule,
            });
            let again = tracked.judged_by < policy.rejudge_before;
            if again || (tracked.policed && found.side == Side::Forward) {
                steps.push(if again { Step::Rejudged } else { Step::Policed });
                let fields = opening_fields(&forward, &tracked, headers);
                let purpose = if again { Purpose::Again(&tracked.hold) } else { Purpose::Police };
                let verdict = consult(policy, packet, &fields, purpose, now, steps);
                if verdict != Verdict::Continue {
                    return verdict;
                }
            }
            match fit {
                Fit::Not => {
                    return consult(policy, packet, &by_state(State::Invalid), Purpose::Judge, now, steps);
                }
                Fit::Fits if policy.names(State::Established) => {
                    return consult(
                        policy,
                        packet,
                        &by_state(State::Established),
                        Purpose::Judge,
                        now,
                        steps,
                    );
                }
                Fit::Fits => {
                    steps.push(Step::State(State::Established));
                    return Verdict::Continue;
                }
                Fit::Reopens => {}
            }
        }
        let opened = Track::open(&upper, &shared.options).filter(|_| key != key.reversed());
        let Some(opened) = opened else {
            return consult(policy, packet, &by_state(State::Invalid), Purpose::Judge, now, steps);
        };
        let verdict = consult(policy, packet, &by_state(State::New), Purpose::Judge, now, steps);
        if verdict != Verdict::Continue {
            return verdict;
        }
        let room = self.room(&key, opened.class(), found.is_some());
        steps.push(Step::Opens(room));
        room.map_or_else(Verdict::Drop, |()| Verdict::Continue)
    }

    /// Whether there is room for a session of this class more. `replaces`: one makes room that has ended.
    fn room(&self, key: &SessionKey, class: Class, replaces: bool) -> Result<(), DropReason> {
        let Shared { options, sessions, sources, .. } = &**self.shared();
        let half_open = sessions.count(Class::HalfOpen);
        match sources {
            Some((most, sources)) if sources.count(&key.source) >= *most + u32::from(replaces) => {
                return Err(DropReason::TooManySessionsOfSource);
            }
            _ => {}
        }
        let displaces = options.when_full == WhenFull::EvictHalfOpen && half_open > 0;
        if class == Class::HalfOpen && half_open >= options.half_open.min(options.sessions) && !displaces {
            return Err(DropReason::HalfOpenLimit);
        }
        if sessions.len() >= options.sessions && !displaces && !replaces {
            return Err(DropReason::SessionTableFull);
        }
        Ok(())
    }
}

/// Asks the rules, and writes down which were met.
fn consult(
    policy: &Policy,
    packet: &Packet<'_>,
    fields: &Fields,
    purpose: Purpose<'_>,
    now: Now,
    steps: &mut Vec<Step>,
) -> Verdict {
    steps.push(Step::State(fields.state));
    let question = Question { fields, headers: packet.headers(), now, purpose, explain: true };
    let answer = policy.ask(&question, None, |index, rule, looked| {
        let met = match looked {
            Looked::Decided => Met::Decided,
            Looked::Passed => Met::Passed,
            Looked::Exceeded => Met::LimitExceeded,
            Looked::Within => Met::WithinLimit,
            Looked::NotNamed => Met::StateNotNamed,
        };
        steps.push(Step::Rule { rule, path: policy.path(index), met });
    });
    match answer {
        Some(answer) => {
            if answer.by.is_none() {
                steps.push(Step::Default);
            }
            verdict_of(&answer, packet.headers())
        }
        None if matches!(fields.state, State::Related | State::Established) => Verdict::Continue,
        None => Verdict::Drop(DropReason::InvalidState),
    }
}
