//! Asking the rules: classification, and what stands between a match and its effect: limits, logs, counts.

use std::sync::Arc;

use throughway_packet::Headers;
use throughway_vnf::events::{Fate, RuleLog, What};
use throughway_vnf::{Events, Now};

use crate::classify::RuleIndex;
use crate::counters::RuleState;
use crate::limits::{HOLDS, Holds, Limit, Load};
use crate::policy::Policy;
use crate::rule::{Ending, Fields, PacketFields, State};

/// Why the rules are asked.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose<'a> {
    /// For a packet by itself, or one that opens a session.
    Judge,
    /// Whether a session may stay. New connections are not charged again; limits on connections that count it are kept.
    Again(&'a [Arc<Limit>]),
    /// For one packet of a session whose rule limits packets or bytes.
    Police,
}

/// What the rules are asked about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) fields: &'a Fields,
    pub(crate) headers: &'a Headers,
    pub(crate) now: Now,
    pub(crate) purpose: Purpose<'a>,
    /// Only to tell what would happen: nothing changes.
    pub(crate) explain: bool,
}

/// What the rules say.
#[derive(Debug)]
pub(crate) struct Answer<'p> {
    pub(crate) ending: Ending,
    /// The rule that decided; `None`: the default.
    pub(crate) by: Option<RuleIndex>,
    /// The number of the rule.
    pub(crate) rule: Option<u32>,
    pub(crate) state: &'p Arc<RuleState>,
    pub(crate) mark: Option<u32>,
    /// Limits on connections that were charged.
    pub(crate) hold: Holds,
    /// Limits on connections that count the session already and go on to.
    pub(crate) keeps: Holds,
    /// A limit on packets or bytes was met on the way: every packet counts.
    pub(crate) policed: bool,
    /// What else of the packet it depends on.
    pub(crate) depends: PacketFields,
}

/// A rule that was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Looked {
    /// Its limit is exceeded: as if it did not match.
    Exceeded,
    /// Its limit is not exceeded, and it matches only what is over: as if it did not match.
    Within,
    /// It matches, but does not name the state, which only rules that do decide about.
    NotNamed,
    /// It matches and decides nothing.
    Passed,
    /// It decides.
    Decided,
}

impl Policy {
    /// Asks the rules, and the default if none decides. `None`: none decided, and the default does not speak for the state
    /// (established, related, invalid).
    pub(crate) fn ask(
        &self,
        question: &Question<'_>,
        events: Option<&Events>,
        mut look: impl FnMut(RuleIndex, u32, Looked),
    ) -> Option<Answer<'_>> {
        let Question { fields, headers, now, purpose, explain } = *question;
        let load = Load { source: &fields.source, destination: &fields.destination, len: fields.length, now };
        let must_name = matches!(fields.state, State::Established | State::Related | State::Invalid);
        if must_name && !self.names(fields.state) {
            return None;
        }
        let mut answer = Answer {
            ending: self.default.ending(),
            by: None,
            rule: None,
            state: &self.default_state,
            mark: None,
            hold: Holds::new(),
            keeps: Holds::new(),
            policed: false,
            depends: PacketFields::NONE,
        };
        let mut next = self.set.classify(fields);
        // Every turn goes on behind the last match, so there are at most as many as there are rules.
        loop {
            answer.depends |= next.depends;
            let Some(found) = next.found else { break };
            if must_name && !self.place(found.index).is_some_and(|place| place.named.contains(fields.state)) {
                // A jump that does not name it may lead to rules that do.
                look(found.index, found.id, Looked::NotNamed);
                next = self.set.classify_after(fields, found.index);
                continue;
            }
            let limit = found.actions.limit.and_then(|id| self.limits.get(usize::from(id.0)));
            if let Some(limit) = limit {
                answer.policed |= limit.counts_every_packet();
                let over = limit.config().over;
                if within(limit, &load, purpose, explain, &mut answer) == over {
                    look(found.index, found.id, if over { Looked::Within } else { Looked::Exceeded });
                    next = self.set.classify_after(fields, found.exceeded);
                    continue;
                }
            }
            let state = self.state(found.index);
            answer.mark = found.actions.mark.or(answer.mark);
            if let (Some(kind), Some(events), false) = (found.actions.log, events, explain) {
                self.log(kind, found.id, found.actions.ending, state, headers, now, events);
            }
            if found.actions.ending.is_final() {
                look(found.index, found.id, Looked::Decided);
                answer.ending = found.actions.ending;
                answer.by = Some(found.index);
                answer.rule = Some(found.id);
                answer.state = state;
                return Some(answer);
            }
            look(found.index, found.id, Looked::Passed);
            if !explain {
                state.add(1, u64::from(fields.length));
            }
            next = self.set.classify_after(fields, found.index);
        }
        (!must_name).then_some(answer)
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one log line")]
    fn log(
        &self,
        kind: u16,
        rule: u32,
        ending: Ending,
        state: &RuleState,
        headers: &Headers,
        now: Now,
        events: &Events,
    ) {
        let Some(config) = self.logs.get(usize::from(kind)) else { return };
        let Some(suppressed) = state.log.pass(config.per_second, config.burst, now) else { return };
        let fate = match ending {
            Ending::Allow => Fate::Allowed,
            Ending::Drop => Fate::Dropped,
            Ending::Reject(_) => Fate::Rejected,
            Ending::Jump(_) | Ending::Continue => Fate::Undecided,
        };
        let log = RuleLog {
            rule,
            log: kind,
            fate,
            flow: headers.key,
            len: headers.packet_len(),
            tcp_flags: headers.tcp_flags,
            icmp: [headers.icmp_type, headers.icmp_code],
            suppressed,
        };
        events.tell(now, What::Rule(log));
    }
}

/// Whether a packet is within a limit; charges it as far as the purpose wants.
fn within(
    limit: &Arc<Limit>,
    load: &Load<'_>,
    purpose: Purpose<'_>,
    explain: bool,
    answer: &mut Answer<'_>,
) -> bool {
    let held = limit.is_held();
    match purpose {
        Purpose::Police if !limit.counts_every_packet() => true,
        Purpose::Again(known) if held && known.iter().any(|known| Arc::ptr_eq(known, limit)) => {
            keep(&mut answer.keeps, limit);
            true
        }
        // Two rules may share it.
        _ if held && answer.hold.iter().any(|held| Arc::ptr_eq(held, limit)) => true,
        // No room to remember another: as if it were exceeded.
        _ if held && answer.hold.len() + answer.keeps.len() >= HOLDS => false,
        Purpose::Again(_) if !held && !limit.counts_every_packet() => true,
        _ if explain => limit.peek(load),
        Purpose::Judge | Purpose::Again(_) | Purpose::Police => {
            let within = limit.take(load);
            if within && held {
                keep(&mut answer.hold, limit);
            }
            within
        }
    }
}

fn keep(held: &mut Holds, limit: &Arc<Limit>) {
    if !held.iter().any(|held| Arc::ptr_eq(held, limit)) {
        // There is room: it was asked for, and a session keeps no more than it has.
        let _ = held.try_push(Arc::clone(limit));
    }
}
