//! Sessions over a restart.
//!
//! A restart is to sessions what a reload is: rules are found again by their names, limits by their names and figures, and whether the
//! rules in force judge a session again at its next packet is the same setting. Of rules that are gone the sessions stay, or not, as
//! over a reload.
//!
//! What is not written: fragments, budgets of rates, counters of rules. Where windows are checked, the scales are kept; the numbers are
//! learnt anew from the next packets, as others may have forwarded meanwhile.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use throughway_session::save::{Life, key, put_key, put_life};
use throughway_session::tcp::Tcp;
use throughway_session::{Info, NewSession, SessionKey, SourceError};
use throughway_vnf::Now;
use throughway_vnf::save::{Fields, Lost, Moment, Record, Restored, SESSION, Save, Sink};

use crate::classify::RuleIndex;
use crate::counters::RuleState;
use crate::limits::{Holds, Limit, LimitConfig, Load, Measure, Per};
use crate::policy::{DEFAULT, Policy};
use crate::session::{Opener, Tracked};
use crate::shared::Shared;
use crate::track::icmp::Query;
use crate::track::sctp::Association;
use crate::track::window::Windows;
use crate::track::{Exchange, Track};

/// The name of a rule, in the order of the numbers by which sessions mean it.
const RULE: u8 = 1;
/// A limit on connections at a time, in the same way.
const LIMIT: u8 = 2;

/// Bits of a session's flags.
mod flags {
    /// Packets of the opener are subject to a limit.
    pub(super) const POLICED: u8 = 1 << 0;
    /// The rules were to judge it again already.
    pub(super) const STALE: u8 = 1 << 1;
    /// The egress of the first packet was known.
    pub(super) const EGRESS: u8 = 1 << 2;
    pub(super) const ALL: u8 = POLICED | STALE | EGRESS;
}

/// The sessions of a firewall, to be saved and restored.
#[derive(Clone, Copy, Debug)]
pub struct Sessions<'a> {
    /// The firewall.
    pub shared: &'a Shared,
    /// Whether the rules judge sessions again that were there before: as [`Shared::prepare`] is told at a reload.
    pub rejudge: bool,
}

impl Save for Sessions<'_> {
    fn save(&self, now: Now, sink: &mut dyn Sink) -> u64 {
        let policy = self.shared.policy();
        let mut record = Record::default();
        let names = policy.states.iter().map(|(_, name, state)| (name.as_str(), state));
        let mut rules = HashMap::new();
        for (name, state) in names.chain([(DEFAULT, &policy.default_state)]) {
            let number = rules.len() as u64 + 1;
            // A rule that is called as the default is, counts with it.
            if let Entry::Vacant(place) = rules.entry(Arc::as_ptr(state)) {
                place.insert(number);
                sink.put(record.begin(RULE).text(name).as_bytes());
            }
        }
        let mut limits = HashMap::new();
        for limit in policy.limits.iter().filter(|limit| limit.is_held()) {
            limits.insert(Arc::as_ptr(limit), limits.len() as u64);
            put_limit(record.begin(LIMIT), limit.config());
            sink.put(record.as_bytes());
        }
        let mut left = 0;
        self.shared.sessions.each(now, |[forward, _], tracked, info| {
            let rule = rules.get(&Arc::as_ptr(&tracked.state)).copied().unwrap_or(0);
            let stale = tracked.judged_by < policy.rejudge_before;
            let holds = tracked.hold.iter().filter_map(|limit| limits.get(&Arc::as_ptr(limit)).copied());
            put_session(record.begin(SESSION), forward, tracked, info, now, [rule, stale.into()], holds);
            left += u64::from(!sink.put(record.as_bytes()));
        });
        left
    }

    fn restore(&self, records: &mut dyn Iterator<Item = &[u8]>, moment: &Moment<'_>) -> Restored {
        let mut restored = Restored::default();
        let policy = self.shared.policy();
        let mut reader = Reader::new(self, &policy, moment);
        for record in records {
            let mut fields = Fields::of(record);
            match fields.byte() {
                Some(SESSION) => {
                    let outcome = reader.session(&mut fields);
                    restored.count(outcome);
                }
                Some(RULE) => reader.rule(&mut fields),
                Some(LIMIT) => reader.limit(&mut fields),
                _ => restored.lose(Lost::Damaged, 1),
            }
        }
        restored
    }
}

fn put_session(
    record: &mut Record,
    forward: &SessionKey,
    tracked: &Tracked,
    info: &Info,
    now: Now,
    [rule, stale]: [u64; 2],
    holds: impl Iterator<Item = u64>,
) {
    let Opener { ingress, egress, vlan } = tracked.opener;
    let is = |flag: u8, set: bool| if set { flag } else { 0 };
    let set = is(flags::POLICED, tracked.policed)
        | is(flags::STALE, stale != 0)
        | is(flags::EGRESS, egress.is_some());
    put_key(record, forward);
    put_life(record, info, now);
    put_track(record, &tracked.track);
    record.byte(set).number(rule).number(tracked.rule.map_or(0, |rule| u64::from(rule) + 1));
    record.number(tracked.mark).number(ingress.0);
    if let Some(egress) = egress {
        record.number(egress.0);
    }
    record.number(vlan).span(Duration::from_nanos(now.0.saturating_sub(tracked.opened.0)));
    for count in tracked.packets.into_iter().chain(tracked.bytes) {
        record.number(count);
    }
    for limit in holds {
        record.number(limit);
    }
}

fn put_track(record: &mut Record, track: &Track) {
    match track {
        Track::Tcp(tcp, None) => record.byte(0).byte(tcp.to_bits()),
        Track::Tcp(tcp, Some(windows)) => record.byte(1).byte(tcp.to_bits()).bytes(&windows.scales()),
        Track::Udp(exchange) => record.byte(2).byte(*exchange as u8),
        Track::Query(query, exchange) => {
            record.byte(3).byte(query.request).byte(query.reply.into()).byte(*exchange as u8)
        }
        Track::Sctp(association) => {
            record.byte(4);
            association.write(record);
            record
        }
        Track::Other(exchange) => record.byte(5).byte(*exchange as u8),
    };
}

/// `windows`: whether they are checked now.
fn track(fields: &mut Fields<'_>, windows: bool) -> Option<Track> {
    let exchange = |fields: &mut Fields<'_>| {
        [Exchange::Opened, Exchange::OneWay, Exchange::Answered].get(usize::from(fields.byte()?)).copied()
    };
    Some(match fields.byte()? {
        known @ (0 | 1) => {
            let tcp = Tcp::from_bits(fields.byte()?)?;
            let kept = if known == 1 { Windows::of_scales(fields.bytes()?)? } else { Windows::unknown() };
            Track::Tcp(tcp, windows.then(|| Box::new(kept)))
        }
        2 => Track::Udp(exchange(fields)?),
        3 => {
            let query = Query { request: fields.byte()?, reply: fields.byte()? != 0 };
            Track::Query(query, exchange(fields)?)
        }
        4 => Track::Sctp(Association::read(fields)?),
        5 => Track::Other(exchange(fields)?),
        _ => return None,
    })
}

fn put_limit(record: &mut Record, config: &LimitConfig) {
    let Measure::Connections { most } = config.measure else { return };
    let (per, ipv4, ipv6) = match config.per {
        Per::All => (0, 0, 0),
        Per::Source { ipv4, ipv6 } => (1, ipv4, ipv6),
        Per::Destination { ipv4, ipv6 } => (2, ipv4, ipv6),
    };
    record.text(&config.name).number(most).byte(config.over.into()).number(config.capacity);
    record.byte(per).byte(ipv4).byte(ipv6);
}

fn limit(fields: &mut Fields<'_>) -> Option<LimitConfig> {
    let name = fields.text()?.to_owned();
    let measure = Measure::Connections { most: fields.small()? };
    let (over, capacity) = (fields.byte()? != 0, fields.small()?);
    let per = match (fields.byte()?, fields.byte()?, fields.byte()?) {
        (0, ..) => Per::All,
        (1, ipv4, ipv6) => Per::Source { ipv4, ipv6 },
        (2, ipv4, ipv6) => Per::Destination { ipv4, ipv6 },
        _ => return None,
    };
    Some(LimitConfig { name, measure, over, per, capacity })
}

/// What of the policy in force is meant by what was written.
struct Reader<'a> {
    shared: &'a Shared,
    moment: &'a Moment<'a>,
    /// Sessions are as judged by this one, and by this one where they are to be judged again.
    judged_by: u32,
    stale: u32,
    /// By name: what is counted, and the first rule of that name.
    by_name: HashMap<&'a str, (&'a Arc<RuleState>, Option<u32>)>,
    /// By rule: what is counted.
    by_rule: HashMap<u32, &'a Arc<RuleState>>,
    limits: &'a [Arc<Limit>],
    /// What was written, by number.
    rules: Vec<(Arc<RuleState>, Option<u32>)>,
    held: Vec<Option<&'a Arc<Limit>>>,
}

impl<'a> Reader<'a> {
    fn new(sessions: &Sessions<'a>, policy: &'a Policy, moment: &'a Moment<'a>) -> Reader<'a> {
        let indices = (0..policy.set.len() as u32).map(RuleIndex);
        let ids = indices.filter_map(|index| Some((policy.set.rule(index)?.id, policy.state(index))));
        let names = policy.states.iter().map(|(rule, name, state)| (name.as_str(), (state, Some(*rule))));
        let stale = policy.rejudge_before.saturating_sub(1);
        Reader {
            shared: sessions.shared,
            moment,
            judged_by: if sessions.rejudge { stale } else { policy.number },
            stale,
            by_name: [(DEFAULT, (&policy.default_state, None))].into_iter().chain(names).collect(),
            by_rule: ids.collect(),
            limits: &policy.limits,
            rules: Vec::new(),
            held: Vec::new(),
        }
    }

    fn rule(&mut self, fields: &mut Fields<'_>) {
        let known = fields.text().and_then(|name| self.by_name.get(name));
        // What sessions of a rule that is gone see is counted to nobody.
        let rule = known.map_or_else(Default::default, |(state, rule)| (Arc::clone(state), *rule));
        self.rules.push(rule);
    }

    fn limit(&mut self, fields: &mut Fields<'_>) {
        let config = limit(fields);
        let same = |limit: &&Arc<Limit>| config.as_ref() == Some(limit.config());
        self.held.push(self.limits.iter().find(same));
    }

    fn session(&self, fields: &mut Fields<'_>) -> Result<(), Lost> {
        let shared = self.shared;
        let (forward, life, mut tracked) = self.read(fields).ok_or(Lost::Damaged)?;
        let seen = life.last_seen(self.moment)?;
        let Opener { ingress, egress, .. } = &mut tracked.opener;
        *ingress = self.moment.port(ingress.0).ok_or(Lost::Interface)?;
        if let Some(egress) = egress {
            *egress = self.moment.port(egress.0).ok_or(Lost::Interface)?;
        }
        let source = &forward.source;
        let give_back = |hold: &Holds, counted: bool| {
            for limit in hold {
                limit.release(source, &forward.destination);
            }
            if let (true, Some((_, sources))) = (counted, &shared.sources) {
                sources.release(source);
            }
        };
        let load = Load { source, destination: &forward.destination, len: 0, now: self.moment.now };
        tracked.hold.retain(|limit| limit.take(&load));
        if let Some((most, sources)) = &shared.sources
            && let Err(error) = sources.acquire(source, *most)
        {
            give_back(&tracked.hold, false);
            return Err(match error {
                SourceError::Limit => Lost::Limit,
                SourceError::TooManySources => Lost::Full,
            });
        }
        let (class, hold) = (tracked.track.class(), tracked.hold.clone());
        let reverse = forward.reversed();
        let new = NewSession { forward, reverse, class, timeout: life.timeout, state: tracked };
        match shared.sessions.insert(new, seen, |removed| shared.gone(&removed)) {
            Ok(_) => Ok(()),
            Err(error) => {
                give_back(&hold, true);
                Err(error.into())
            }
        }
    }

    fn read(&self, fields: &mut Fields<'_>) -> Option<(SessionKey, Life, Tracked)> {
        let forward = key(fields)?;
        let life = Life::read(fields)?;
        let track = track(fields, self.shared.options.check_windows)?;
        let set = fields.byte().filter(|set| set & !flags::ALL == 0)?;
        let number = fields.number()?;
        let rule = fields.small::<u32>()?.checked_sub(1);
        let mark = fields.small()?;
        let ingress = throughway_packet::PortId(fields.small()?);
        let egress =
            if set & flags::EGRESS != 0 { Some(throughway_packet::PortId(fields.small()?)) } else { None };
        let vlan = fields.small()?;
        let opened = self.moment.before(fields.span()?);
        let packets = [fields.number()?, fields.number()?];
        let bytes = [fields.number()?, fields.number()?];
        let mut hold = Holds::new();
        while fields.end().is_none() {
            let limit = self.held.get(fields.small::<usize>()?)?;
            // One that is gone counts nobody.
            if let Some(limit) = limit {
                hold.try_push(Arc::clone(limit)).ok()?;
            }
        }
        let (state, first) = match number.checked_sub(1) {
            None => Default::default(),
            Some(number) => self.rules.get(usize::try_from(number).ok()?)?.clone(),
        };
        // The very rule, if it still has that name.
        let same = rule.filter(|rule| self.by_rule.get(rule).is_some_and(|known| Arc::ptr_eq(known, &state)));
        let judged_by = if set & flags::STALE != 0 { self.stale } else { self.judged_by };
        let tracked = Tracked {
            track,
            rule: same.or(first),
            state,
            hold,
            mark,
            judged_by,
            opener: Opener { ingress, egress, vlan },
            policed: set & flags::POLICED != 0,
            cached: false,
            opened,
            packets,
            bytes,
        };
        Some((forward, life, tracked))
    }
}
