//! Flows that the XDP program executes by itself: which ones, since when, and what it saw of them.
//!
//! The flow cache stays the one place that knows a flow; what the program has is an *execution place* of cached flows. At the
//! end of a round, when what was received is sent,
//!
//! * what the program counted is taken over from the next few flows: functions are told, statistics grow, the cache learns that
//!   the flow lives;
//! * flows that the cache gave up or judged again are taken back from the program;
//! * flows that the cache nominated are handed over.
//!
//! **Order.** Packets of a flow that are still in the receive ring when it is handed over would be overtaken by the next ones.
//! So a flow waits for a round that found nothing to do, when the rings were seen empty a moment ago; after half of its patience
//! for one that found nothing on its device; and 50 ms at most. A flow that comes back needs nothing: what the program sent
//! before is gone already.
//!
//! **Replacement.** When the program has no room for a nominee, flows that sent least in the last turn are taken back, and only
//! heavier ones are handed over: `bar` is what a flow must send in a turn to stay. It doubles while too few flows are below it,
//! and halves while there is room. A flood of new flows is never nominated, and where it is (`eager`), each of its flows
//! falls below the lowest bar. A few find no place in their buckets although there is room: for a heavy one of them a flow there that
//! was silent for a second makes way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;
use throughway_config::FastPath;
use throughway_flow::absorb::{Absorbed, Candidate};
use throughway_flow::entry::Flow;
use throughway_flow::{Epoch, FlowCache, Settled};
use throughway_packet::{FlowKey, PortId, Rewrite, edits};
use throughway_shared::action::VLAN_MASK;
use throughway_shared::fast::Geometry;
use throughway_vnf::credit::FIGURES;
use throughway_vnf::{BATCH, Now};
use throughway_xdp::{FAST_VISIT, FastCount, FastFlow, FastFlows, FastPlace, FastRefusal};

use super::house::{tell, tell_all};
use super::lap::{self, Lap, Visit};
use super::pace::Pace;
use super::recall::Captures;
use super::shadow::{Shadow, Volume};
use crate::chain::Program;
use crate::stats::{FastStats, WorkerStats};

/// How long (ns) a flow waits for empty rings.
const PATIENCE: u64 = 50_000_000;
/// Flows that wait for that at most; others are nominated again by a later packet. Rings that are never empty let so many through
/// twenty times a second.
const WAITING: usize = 1 << 16;
/// While there are packets, those that wait are looked through once in so long (ns).
const LOOK: u64 = 500_000;
/// Flows that are looked at in one such look, and in a round that found nothing: some hundred microseconds, for which packets that
/// come meanwhile have room in the rings.
const AT_ONCE: usize = 256;
/// What a flow has left uncounted is read so long (ns) after it was taken back: far longer than a run of the program, and
/// sooner than its place is used again.
const RUN: u64 = 50_000_000;
/// Flows that are read together.
const SLICE: usize = BATCH;
/// Up to so many flows are gone through once a second, which costs a hundredth of a core at most; more as slowly as functions allow.
const FEW: usize = 1 << 13;
/// At most so large a part of the flows is taken back in one turn for being too light.
const SHARE: usize = 16;
/// Flows whose counts are taken over at once before the functions change, so that the old ones are told.
const LAST_TURN: usize = 1 << 16;
/// A flow must be there for so long (ns) before it is judged too light.
const FAIR: u64 = 1_000_000_000;
/// So many places are made free before somebody comes.
const AHEAD: usize = 256;
/// With so many packets between two harvests of the cache a flow that finds no place may take another one's.
const HEAVY: u64 = 64;

/// Which ports of the data plane the XDP program can send to: a bit of each. Set by the control side.
#[derive(Debug, Default)]
pub struct Egress(AtomicU64);

impl Egress {
    /// Says whether the program can send to a port.
    pub fn set(&self, port: u16, fit: bool) {
        let bit = 1u64.checked_shl(port.into()).unwrap_or(0);
        if fit {
            self.0.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.0.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Whether the program can send to a port.
    pub fn is_fit(&self, port: u16) -> bool {
        1u64.checked_shl(port.into()).is_some_and(|bit| self.0.load(Ordering::Relaxed) & bit != 0)
    }
}

/// Why a flow is not executed by the XDP program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stays {
    /// The interface that it comes from is not switched to the fast path, or there is none.
    Off,
    /// It has not sent enough packets yet.
    Unproven,
    /// The device that it leaves by does not take frames from the program.
    Egress,
    /// The program has no room, and it is not heavy enough to drive others out.
    Light,
    /// The program's table refuses it.
    Refused(FastRefusal),
    /// It is about to be handed over.
    Waiting,
    /// Each of its packets is judged by itself: a function asks for that.
    Each,
    /// A capture asks for its packets.
    Captured,
}

impl Stays {
    /// What metrics and output call it.
    pub const fn label(self) -> &'static str {
        match self {
            Stays::Off => "off",
            Stays::Unproven => "unproven",
            Stays::Egress => "egress",
            Stays::Light => "light",
            Stays::Refused(refusal) => refusal.label(),
            Stays::Waiting => "waiting",
            Stays::Each => "each-packet",
            Stays::Captured => "captured",
        }
    }
}

/// The flows of one worker that the XDP program executes.
#[derive(Debug)]
pub struct Offload {
    table: FastFlows,
    modes: Box<[FastPath]>,
    egress: Arc<Egress>,
    shadows: Box<[Shadow]>,
    /// Places of the cache that wait, with the time since which they do (ns).
    waiting: VecDeque<(u32, u64)>,
    /// When they were looked through last (ns).
    looked: u64,
    /// Taken back, with the time from which on they are read for the last time (ns).
    leaving: VecDeque<(FastPlace, u64)>,
    pace: Pace,
    /// What the last visits cost beyond what was due.
    owed: i64,
    turn: Turn,
    lap: Lap,
    pub(super) captures: Captures,
}

/// One lap, by what flows sent in it.
#[derive(Debug, Default)]
struct Turn {
    /// The number of the lap.
    lap: usize,
    /// Flows for which there was no room.
    refused: usize,
    /// Flows that may still be taken back in this turn for being too light.
    spare: usize,
    /// Packets that a flow must send in a turn to stay.
    bar: u64,
}

/// A flow in a slice.
struct Visited {
    place: FastPlace,
    token: u32,
    count: FastCount,
    /// Functions and cache are told its figures.
    is_told: bool,
}

/// How much of what was counted is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    /// Of each flow the figures when it is its turn, else that it lives.
    InTurn,
    /// All.
    All,
}

/// A flow as the driver is to have it, called `token`, and whether it is calm.
fn for_driver(flow: &Candidate, token: u32) -> (FastFlow<'_>, bool) {
    let (silence, calm) = lap::silence(flow.silence);
    let new = FastFlow {
        key: &flow.key,
        rewrite: &flow.rewrite,
        generation: flow.generation,
        dependencies: flow.dependencies.numbers(),
        limit: limit(flow),
        silence,
        token,
    };
    (new, calm)
}

/// The longest packet of a flow for the driver. The kernel lets frames of the device's MTU, an Ethernet header and one tag
/// be redirected and loses longer ones without a word: under two tags there are four bytes less for the packet.
fn limit(flow: &Candidate) -> u16 {
    let action = &flow.rewrite.action;
    let tags = match action.has(edits::TAGS) {
        true => [action.outer_tag & VLAN_MASK, action.inner_tag & VLAN_MASK],
        false => [flow.key.outer_vlan, flow.key.inner_vlan],
    };
    if tags.contains(&0) { flow.limit } else { flow.limit.saturating_sub(4) }
}

/// What a round works with beside the flows.
pub(super) struct Beside<'a> {
    pub(super) program: &'a mut Program,
    pub(super) stats: &'a WorkerStats,
    pub(super) now: Now,
    pub(super) epoch: &'a Epoch<'a>,
}

/// What a round found to receive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Whether there was anything.
    pub(super) any: bool,
    /// The devices on which there was something: a bit of each.
    pub(super) devices: u64,
}

impl Load {
    /// Whether packets of a flow may be on their way through this worker: it comes from `device` and waits for so long (ns).
    fn holds_back(self, device: PortId, waited: u64) -> bool {
        if waited < PATIENCE / 2 {
            return self.any;
        }
        waited < PATIENCE && self.devices >> (device.0 % 64) & 1 != 0
    }
}

impl Offload {
    /// For flows that come from ports with these modes, in the order of the ports.
    pub fn new(table: FastFlows, modes: Vec<FastPath>, egress: Arc<Egress>) -> Self {
        let ways = Geometry::of(table.capacity() as u32).ways() as usize;
        Offload {
            table,
            modes: modes.into(),
            egress,
            shadows: vec![Shadow::default(); ways].into_boxed_slice(),
            waiting: VecDeque::with_capacity(WAITING),
            looked: 0,
            leaving: VecDeque::new(),
            pace: Pace::of_many((SLICE * FAST_VISIT) as u64),
            owed: 0,
            turn: Turn::default(),
            lap: Lap::new(ways),
            captures: Captures::default(),
        }
    }

    /// Makes a flow cache nominate what is to be handed over.
    pub(super) fn prepare(&self, flows: &mut FlowCache) {
        flows.open_elsewhere(self.table.capacity(), self.modes.contains(&FastPath::Eager), FIGURES);
    }

    /// The table, to be looked at.
    pub fn table(&self) -> &FastFlows {
        &self.table
    }

    /// The end of a round that found `load`: what the program saw is taken over, flows are taken back and handed over. `device`
    /// tells the device of an interface.
    pub(super) fn round(
        &mut self,
        flows: &mut FlowCache,
        beside: &mut Beside<'_>,
        load: Load,
        device: impl Fn(PortId) -> PortId,
    ) {
        let now = beside.now.0;
        self.look_for_captured(flows, now);
        self.take_back(flows, now);
        self.captures.tell();
        self.bury(beside);
        // The pace is one of three seconds.
        let times = if self.table.used() <= FEW { 3 } else { 1 };
        if self.table.used() == 0 {
            // No lap ends that would lower the bar.
            (self.turn.bar, self.turn.spare) = (0, 0);
        }
        let due = self.pace.due(beside.now, times * self.whole(Told::InTurn)) as i64 - self.owed;
        self.owed = -self.visit(flows, beside, due, Told::InTurn).min(0);
        for place in flows.nominees() {
            if self.waiting.len() < WAITING {
                self.waiting.push_back((place, now));
            }
        }
        self.hand_over_waiting(flows, beside, load, device);
        beside.stats.fast.flows.set(self.table.used() as u64);
    }

    /// Hands over those flows that have waited long enough; with packets about, only the oldest are looked at.
    fn hand_over_waiting(
        &mut self,
        flows: &mut FlowCache,
        beside: &mut Beside<'_>,
        load: Load,
        device: impl Fn(PortId) -> PortId,
    ) {
        let now = beside.now.0;
        if load.any && now.saturating_sub(self.looked) < LOOK {
            return;
        }
        self.looked = now;
        let ripe = match load.any {
            true => self.waiting.partition_point(|(_, since)| now.saturating_sub(*since) >= PATIENCE / 2),
            false => self.waiting.len(),
        };
        let mut held_back = 0;
        for _ in 0..ripe.min(AT_ONCE) {
            let Some((place, since)) = self.waiting.pop_front() else { break };
            let Some(candidate) = flows.candidate(place, now) else { continue };
            if self.mode(candidate.key.ingress) == FastPath::Off {
                continue;
            }
            if load.holds_back(device(PortId(candidate.key.ingress)), now.saturating_sub(since)) {
                self.waiting.push_back((place, since));
                held_back += 1;
                continue;
            }
            if let Some(number) = candidate.elsewhere {
                // It came here after a silence that was too long for the driver, but not for the cache.
                self.table.seen(FastPlace::of_number(number), candidate.last);
                continue;
            }
            let mut handed_over = self.hand_over(place, &candidate, now);
            if handed_over == Err(Stays::Refused(FastRefusal::Crowded))
                && candidate.packets >= HEAVY
                && self.make_place(flows, beside, &candidate)
            {
                handed_over = self.hand_over(place, &candidate, now);
            }
            match handed_over {
                Ok(number) => {
                    flows.moved(place, number);
                    beside.stats.fast.installed.add(1);
                }
                Err(stays) => beside.stats.fast.stays(stays),
            }
        }
        // The oldest are at the front.
        self.waiting.rotate_right(held_back);
    }

    /// The functions are about to change: those that are there now are told what was counted up to here.
    pub(super) fn change(&mut self, flows: &mut FlowCache, beside: &mut Beside<'_>) {
        let most = LAST_TURN * FAST_VISIT + self.shadows.len();
        self.visit(flows, beside, self.whole(Told::All).min(most) as i64, Told::All);
    }

    /// Takes over all that was counted up to here, also of flows that were taken back a moment ago.
    pub(super) fn end(&mut self, flows: &mut FlowCache, beside: &mut Beside<'_>) {
        self.visit(flows, beside, self.whole(Told::All) as i64, Told::All);
        self.leaving.iter_mut().for_each(|(_, due)| *due = 0);
        self.bury(beside);
    }

    /// Whether flows wait to be handed over.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether more flows are due already than the last round could visit.
    pub(super) fn is_behind(&self) -> bool {
        self.pace.is_behind() || self.captures.are_looked_for()
    }

    /// What it costs to go through the whole table.
    fn whole(&self, told: Told) -> usize {
        self.lap.cost(self.table.used(), self.shadows.len(), told == Told::All)
    }

    fn mode(&self, ingress: u16) -> FastPath {
        self.modes.get(usize::from(ingress)).copied().unwrap_or(FastPath::Off)
    }

    /// Whether a flow may be handed over, as far as that does not depend on the table.
    pub(super) fn judge(&self, key: &FlowKey, rewrite: &Rewrite, established: bool) -> Result<(), Stays> {
        let action = &rewrite.action;
        match self.mode(key.ingress) {
            FastPath::Off => return Err(Stays::Off),
            FastPath::Auto if !established => return Err(Stays::Unproven),
            FastPath::Auto | FastPath::Eager => {}
        }
        if !action.has(edits::DROP) && !self.egress.is_fit(action.egress) {
            return Err(Stays::Egress);
        }
        if self.captures.ask_for(key, rewrite) {
            return Err(Stays::Captured);
        }
        Ok(())
    }

    /// Hands a flow over; the number under which it is executed from now on.
    fn hand_over(&mut self, place: u32, flow: &Candidate, now: u64) -> Result<u32, Stays> {
        self.judge(&flow.key, &flow.rewrite, flow.established)?;
        if flow.packets < self.turn.bar {
            return Err(Stays::Light);
        }
        let (new, calm) = for_driver(flow, place);
        let at = self.table.install(&new, now).map_err(|refusal| {
            self.turn.refused += usize::from(refusal == FastRefusal::Full);
            Stays::Refused(refusal)
        })?;
        if let Some(shadow) = self.shadows.get_mut(at.number() as usize) {
            *shadow = Shadow::new(flow, now);
        }
        self.lap.begin(at, calm);
        Ok(at.number())
    }

    /// Takes back a flow that takes the place of this heavy one and was silent for a while; whether there was one.
    fn make_place(&mut self, flows: &mut FlowCache, beside: &mut Beside<'_>, heavy: &Candidate) -> bool {
        let (new, _) = for_driver(heavy, 0);
        let Some((place, token, count)) = self.table.idlest_before(&new) else { return false };
        if beside.now.0.saturating_sub(count.last) < FAIR {
            return false;
        }
        if let Some(shadow) = self.shadows.get_mut(place.number() as usize) {
            take_over(shadow, &count, beside);
        }
        self.drive_out(flows, (place, token), count.last, beside);
        true
    }

    /// Takes a flow back for others, with its last packet seen at `last`.
    fn drive_out(
        &mut self,
        flows: &mut FlowCache,
        (place, token): (FastPlace, u32),
        last: u64,
        beside: &mut Beside<'_>,
    ) {
        // The cache takes no figures of a flow that is not elsewhere.
        let figures = self.shadows.get_mut(place.number() as usize).and_then(|shadow| shadow.figures(last));
        if let Some(figures) = figures {
            tell_cache(flows, place, token, &figures, beside);
            tell(beside.program, &figures);
        }
        self.remove(place, beside.now.0);
        flows.returned(token, place.number());
        beside.stats.fast.driven_out.add(1);
    }

    /// Takes flows back that are no more.
    fn take_back(&mut self, flows: &mut FlowCache, now: u64) {
        for number in flows.ended() {
            let place = FastPlace::of_number(number);
            self.remove(place, now);
        }
    }

    fn remove(&mut self, place: FastPlace, now: u64) {
        self.table.remove(place, now);
        self.lap.end(place);
        self.leaving.push_back((place, now + RUN));
    }

    /// Takes over what flows have left that were taken back a while ago.
    fn bury(&mut self, beside: &mut Beside<'_>) {
        while let Some(&(place, _)) = self.leaving.front().filter(|(_, due)| *due <= beside.now.0) {
            self.leaving.pop_front();
            let count = self.table.read(place);
            if let Some(shadow) = self.shadows.get_mut(place.number() as usize) {
                take_over(shadow, &count, beside);
                if let Some(settled) = shadow.figures(count.last.min(beside.now.0)) {
                    tell(beside.program, &settled);
                }
            }
            beside.stats.fast.removed.add(1);
        }
    }

    /// Takes over what was counted of the next flows, for what `due` is worth. Returns what is left of it, below zero if that was too
    /// little.
    fn visit(&mut self, flows: &mut FlowCache, beside: &mut Beside<'_>, due: i64, told: Told) -> i64 {
        let mut left = due;
        let mut volume = Volume::default();
        while left > 0 {
            let mut seen: ArrayVec<Visited, SLICE> = ArrayVec::new();
            let (lap, used) = (&mut self.lap, self.table.used());
            let asked = |place| {
                // Always counted, so that it is known where the lap stands.
                let asked = lap.visit(place, used);
                if told == Told::All { Some(Visit::Figures) } else { asked }
            };
            left = self.table.sweep(left, SLICE, asked, |place, token, count, asked| {
                let _ = seen.try_push(Visited { place, token, count, is_told: asked == Visit::Figures });
            });
            // Those whose figures are told, and those that only live.
            let whose = |told| seen.iter().filter(move |seen| seen.is_told == told).map(|seen| seen.token);
            flows.foresee(whose(true));
            flows.foresee_stamps(whose(false));
            let mut settled: ArrayVec<Settled, BATCH> = ArrayVec::new();
            for Visited { place, token, count, is_told } in seen {
                let Some(shadow) = self.shadows.get_mut(place.number() as usize) else { continue };
                let (new, last) = (shadow.take_over(&count), count.last.min(beside.now.0));
                volume.add(shadow.way, &new, beside);
                // One that fell silent may be at its end: told later, its figures would find no session.
                let is_told = is_told || new.packets == 0 && shadow.has_untold();
                let figures = if is_told { shadow.figures(last) } else { None };
                if let Some(figures) = &figures {
                    tell_cache(flows, place, token, figures, beside);
                } else if new.packets > 0 {
                    flows.seen_elsewhere(token, place.number(), last, beside.now.0);
                }
                let lives = || Settled { packets: 0, bytes: 0, ..shadow.settled(last) };
                if let Some(told) = figures.or_else(|| (new.packets > 0).then(lives)) {
                    let _ = settled.try_push(told);
                }
                // Out of turn it has had less time than others to send.
                if told == Told::InTurn {
                    self.weigh(flows, (place, token), (new.packets, is_told), last, beside);
                }
            }
            tell_all(beside.program, &mut settled);
            if self.turn.lap != self.lap.number {
                self.turn.lap = self.lap.number;
                self.turn.end(self.table.capacity());
            }
        }
        volume.count(beside);
        left
    }

    /// Takes a flow back that is too light to stay, by the packets of this turn, the last of which came at `last`, or, where the cache
    /// `is_told`, no longer true.
    fn weigh(
        &mut self,
        flows: &mut FlowCache,
        (place, token): (FastPlace, u32),
        (packets, is_told): (u64, bool),
        last: u64,
        beside: &mut Beside<'_>,
    ) {
        let now = beside.now.0;
        let bar = self.turn.bar.saturating_mul(self.lap.between(place));
        let light = packets < bar || is_told && !flows.renew(token, beside.epoch);
        if self.turn.spare > 0
            && light
            // Refused flows come again and again: those that there is room for now are waited for.
            && self.table.capacity().saturating_sub(self.table.used()) < AHEAD
            && let Some(shadow) = self.shadows.get(place.number() as usize)
            && shadow.age(now) >= FAIR
        {
            self.turn.spare -= 1;
            self.drive_out(flows, (place, token), last, beside);
        }
    }

    /// Why a flow that is in the cache is not executed by the program.
    pub(super) fn why_not(&self, flow: &Flow) -> Stays {
        let rewrite = Rewrite { action: flow.action, tunnel: flow.tunnel };
        if let Err(stays) = self.judge(&flow.key, &rewrite, flow.established) {
            return stays;
        }
        let new = FastFlow {
            key: &flow.key,
            rewrite: &rewrite,
            generation: 0,
            dependencies: [0; 4],
            limit: u16::MAX,
            silence: u64::MAX,
            token: 0,
        };
        match new.check() {
            Err(why) => Stays::Refused(why.into()),
            Ok(()) if self.table.used() >= self.table.capacity() && self.turn.bar == 0 => {
                Stays::Refused(FastRefusal::Full)
            }
            Ok(()) if !self.table.has_place(&new) => Stays::Refused(FastRefusal::Crowded),
            Ok(()) if self.turn.bar > 0 => Stays::Light,
            Ok(()) => Stays::Waiting,
        }
    }
}

impl Turn {
    /// The bar of the next one, where there is room for `capacity` flows.
    fn end(&mut self, capacity: usize) {
        let refused = std::mem::take(&mut self.refused);
        if refused == 0 {
            (self.spare, self.bar) = (0, self.bar / 2);
        } else {
            // Too few were below the bar: it was too low. Flows of a flood all are, so they raise it for nobody; but those of
            // one packet must not take all the room that was made.
            self.bar = if self.spare > 0 { self.bar.saturating_mul(2) } else { self.bar }.max(2);
            // No more than wanted to come: where all are of one weight, each that goes only takes the place of another.
            self.spare = refused.min((capacity / SHARE).max(1));
        }
    }
}

/// Adds to the statistics what the program counted of a flow since the last time.
fn take_over(shadow: &mut Shadow, count: &FastCount, beside: &Beside<'_>) {
    let new = shadow.take_over(count);
    Volume { way: shadow.way, packets: new.packets, bytes: new.bytes }.count(beside);
}

/// Tells the cache what was counted of a flow.
fn tell_cache(flows: &mut FlowCache, place: FastPlace, token: u32, figures: &Settled, beside: &Beside<'_>) {
    let seen = Absorbed { packets: figures.packets, bytes: figures.bytes, last: figures.last };
    if let Some(made_from) = flows.absorb(token, place.number(), &seen, beside.now.0) {
        beside.stats.uses.mark(&made_from);
    }
}

impl FastStats {
    fn stays(&self, why: Stays) {
        if let Some(position) = FastStats::STAYS.iter().position(|label| *label == why.label())
            && let Some(counter) = self.stays.get(position)
        {
            counter.add(1);
        }
    }
}
