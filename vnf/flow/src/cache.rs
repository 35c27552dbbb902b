//! The table: sets of sixteen ways, two sets a flow, one owner.
//!
//! A flow's hash names two buckets. It is put into the first unless that is crowded and the second is not. Where there is
//! no room in either, one way is given up, in this order:
//!
//! 1. a flow that was not seen for [`Policy::protect`] (counted as `evicted_idle`);
//! 2. a flow on probation, that is, with less than [`Policy::prove`] hits so far (`evicted_probation`);
//! 3. of the established, one taken at random, if it is stale (`evicted_stale`);
//! 4. nothing: the new flow is refused (`refused`), and its packets keep walking the chain.
//!
//! So a flood of flows that never send a second packet fights for the ways on probation among itself.

use throughway_packet::PortId;
use throughway_shared::action::{Action, Rewrite};

use crate::absorb::Elsewhere;
use crate::bucket::{Bucket, CREDITED, ESTABLISHED, Matches, WAYS, elapsed, scale, tag, tick, ticks};
use crate::cold::Colds;
use crate::entry::{ENDLESS, Entry};
use crate::generation::Epoch;
use crate::key::{Hasher, Key};
use crate::own::Records;
use crate::peek::{self, Probe};
use crate::plan::{Done, Plan};
use crate::sweep::Standing;
use crate::template::Templates;

/// There is room for one template (`template.rs`) for so many flows, and for [`FEWEST_TEMPLATES`] at least.
const FLOWS_PER_TEMPLATE: usize = 64;
/// See [`FLOWS_PER_TEMPLATE`].
const FEWEST_TEMPLATES: usize = 1024;

/// A flow that has proven itself is nominated for being executed elsewhere once in so many packets.
const NOMINATING: u16 = 64;

/// No place.
const NOWHERE: u32 = u32::MAX;

/// When a flow may be given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// So many hits make a flow established.
    pub prove: u16,
    /// So long (ns) after its last packet an established flow cannot be driven out. At most half an hour.
    pub protect: u64,
    /// So long (ns) after its last packet a flow is forgotten. At most half an hour.
    pub forget: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Policy { prove: 2, protect: 10_000_000_000, forget: 60_000_000_000 }
    }
}

/// What the cache counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Packets that took the short way.
    pub hits: u64,
    /// Of these, packets for which something had changed, but nothing of what their flow was made from.
    pub revalidated: u64,
    /// Packets of flows that are not here.
    pub misses: u64,
    /// Packets of flows that are here but no longer true.
    pub stale: u64,
    /// Packets of flows that were silent for longer than their action holds.
    pub silent: u64,
    /// Packets longer than the action holds for, or without enough hops left.
    pub unfit: u64,
    /// Flows taken in.
    pub installed: u64,
    /// Flows that were here and were judged again.
    pub replaced: u64,
    /// Flows driven out before they had proven themselves.
    pub evicted_probation: u64,
    /// Flows driven out after a long silence.
    pub evicted_idle: u64,
    /// Flows driven out because they were stale.
    pub evicted_stale: u64,
    /// Flows not taken in, for want of room.
    pub refused: u64,
    /// Flows not taken in, because there are too many different actions.
    pub diverse: u64,
    /// Flows forgotten after their time.
    pub forgotten: u64,
    /// Flows taken out by name.
    pub removed: u64,
}

/// What one batch of lookups is measured against: the epoch, taken before any table was read, and the time.
#[derive(Clone, Copy, Debug)]
pub struct Round<'a> {
    pub(crate) epoch: Epoch<'a>,
    pub(crate) now: u64,
    pub(crate) tick: u16,
}

impl<'a> Round<'a> {
    /// For a batch received at `now` (ns of a monotonic clock).
    #[inline]
    pub const fn new(epoch: Epoch<'a>, now: u64) -> Self {
        Round { epoch, now, tick: tick(now) }
    }

    /// The epoch.
    #[inline]
    pub const fn epoch(&self) -> &Epoch<'a> {
        &self.epoch
    }
}

/// What became of a flow that was offered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Installed {
    /// Taken in.
    New,
    /// It was here already; what was there is replaced.
    Replaced,
    /// No room.
    Refused,
}

/// The flow cache of one worker.
#[derive(Debug)]
pub struct FlowCache {
    pub(crate) buckets: Box<[Bucket]>,
    pub(crate) entries: Box<[Entry]>,
    pub(crate) cold: Colds,
    pub(crate) templates: Templates,
    pub(crate) records: Records,
    pub(crate) hasher: Hasher,
    policy: Policy,
    pub(crate) protect: u16,
    pub(crate) forget: u16,
    pub(crate) stats: Stats,
    pub(crate) live: usize,
    pub(crate) ageing: usize,
    pub(crate) harvesting: Standing,
    pub(crate) marking: Standing,
    pub(crate) elsewhere: Elsewhere,
    /// The action of the last hit that needed it, made whole.
    composed: Rewrite,
    /// Where loads that only fetch go, so that nobody thinks them useless.
    pub(crate) fetched: u64,
}

impl FlowCache {
    /// Room for `capacity` flows of whichever family (at least one bucket, at most 2³¹ flows), all of it allocated now, and
    /// written to but for what only few flows need (see `entry.rs`). With an eighth more ways than flows, nearly every set
    /// of flows of that number fits.
    ///
    /// `seed` keys the hash: random, and secret to who sends packets.
    pub fn new(capacity: usize, seed: u128, policy: Policy) -> Self {
        let ways = capacity.min(1 << 31) / 8 * 9;
        let buckets = ways.max(capacity.min(1 << 31)).div_ceil(WAYS).max(1);
        FlowCache {
            buckets: vec![Bucket::default(); buckets].into_boxed_slice(),
            entries: vec![Entry::default(); buckets * WAYS].into_boxed_slice(),
            cold: Colds::new(buckets * WAYS),
            templates: Templates::new((capacity / FLOWS_PER_TEMPLATE).max(FEWEST_TEMPLATES)),
            // Each flow has one at most, and one that is judged again has two for a moment.
            records: Records::new(buckets * WAYS + 1),
            hasher: Hasher::new(seed),
            policy,
            protect: ticks(policy.protect),
            forget: ticks(policy.forget),
            stats: Stats::default(),
            live: 0,
            ageing: 0,
            harvesting: Standing::default(),
            marking: Standing::default(),
            elsewhere: Elsewhere::default(),
            composed: Rewrite::nothing(),
            fetched: 0,
        }
    }

    /// How many flows there are ways for.
    pub fn ways(&self) -> usize {
        self.entries.len()
    }

    /// How many buckets of sixteen ways there are: the unit of slices.
    pub fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// How many different actions and origins of flows there is room for.
    pub fn templates(&self) -> usize {
        self.templates.capacity()
    }

    /// How many flows are here.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether no flow is here.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// What was counted so far.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// When flows are given up.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Reads the flow of a frame into `probe`, as [`peek()`](crate::peek()) tells, and hashes it: for [`FlowCache::fetch`]. A
    /// packet that is not a common one leaves the probe [unreadable](Probe::is_readable).
    #[inline(always)]
    pub fn read(&self, frame: &[u8], ingress: PortId, probe: &mut Probe) {
        if !peek::read(frame, ingress, &self.hasher, probe) {
            probe.len = 0;
        }
    }

    /// Hashes a batch of flows, and fetches them.
    #[inline]
    pub fn prepare(&mut self, probes: &mut [Probe]) {
        for probe in probes.iter_mut() {
            probe.hash = self.hasher.hash(&probe.key);
        }
        self.fetch(probes);
    }

    /// Fetches what the lookups of a batch of hashed flows will touch, all of them together: the memory answers them side by
    /// side. [`FlowCache::lookup`] is for probes that went through here.
    #[inline]
    pub fn fetch(&mut self, probes: &mut [Probe]) {
        // Passes of a few instructions a packet, so that the loads of many packets fit into the processor's window together.
        // A load that is used for nothing does what a prefetch would. Probes of packets that could not be read are left over
        // from earlier batches: fetching for them does no harm.
        let mut fetched = 0u64;
        for probe in probes.iter() {
            if let Some(bucket) = self.buckets.get(self.first(probe.hash)) {
                fetched ^= u64::from(bucket.tags[0]);
            }
        }
        for probe in probes.iter_mut() {
            probe.place = self.glance(probe.hash);
        }
        for probe in probes.iter() {
            if let Some(entry) = self.entries.get(probe.place as usize) {
                fetched ^= u64::from(entry.ports);
            }
        }
        self.fetched ^= fetched;
    }

    /// What to do with a packet, and counts it; `None`: let it walk the chain.
    pub fn lookup(&mut self, probe: &Probe, round: &Round<'_>) -> Option<&Action> {
        let place = self.locate(probe)?;
        self.settle_on(place, probe, round)?;
        self.compose(place).map(|rewrite| &rewrite.action)
    }

    /// [Looks up](FlowCache::lookup) what to do with the packet in `frame`, and does it, unless the front of the frame moves:
    /// says what became of it. `None`: let it walk the chain.
    #[inline(always)]
    pub fn execute(&mut self, probe: &Probe, round: &Round<'_>, frame: &mut [u8]) -> Option<Done> {
        // One branch for the family, and everything behind it knows.
        if probe.key.is_ipv4() {
            self.execute_at_sight::<true>(probe, round, frame)
        } else {
            self.execute_at_sight::<false>(probe, round, frame)
        }
    }

    #[inline(always)]
    fn execute_at_sight<const IPV4: bool>(
        &mut self,
        probe: &Probe,
        round: &Round<'_>,
        frame: &mut [u8],
    ) -> Option<Done> {
        let place = probe.place as usize;
        let bucket = self.buckets.get_mut(place / WAYS);
        let (Some(entry), Some(bucket)) = (self.entries.get_mut(place), bucket) else {
            return self.execute_elsewhere(probe, round, frame);
        };
        let Some(plan) = self.templates.plan(entry.template).filter(|plan| {
            if IPV4 { entry.is_of_ipv4(&probe.key, plan) } else { entry.is_of(&probe.key, plan) }
        }) else {
            return self.execute_elsewhere(probe, round, frame);
        };
        let stamp = &mut bucket.stamps[place % WAYS];
        if !entry.holds(plan, *stamp, probe, round, &mut self.stats) {
            return None;
        }
        if entry.count(probe.len) {
            carry(&mut self.cold, place, *stamp & CREDITED != 0, entry.packets == 0, entry.bytes, probe);
        }
        *stamp = renewed(*stamp, round.tick, entry.packets >= self.policy.prove);
        if entry.packets % NOMINATING == self.policy.prove % NOMINATING {
            self.elsewhere.nominate(place);
        }
        self.stats.hits += 1;
        let done = plan.done();
        let executed = if IPV4 {
            plan.execute_ipv4(entry, probe, frame)
        } else {
            plan.execute_ipv6(entry, &self.records, probe, frame)
        };
        if !executed && done.is_to_be_executed() {
            self.execute_whole(place, probe, frame)?;
        }
        Some(done)
    }

    /// For a probe whose flow is not where it seemed to be.
    #[cold]
    #[inline(never)]
    fn execute_elsewhere(&mut self, probe: &Probe, round: &Round<'_>, frame: &mut [u8]) -> Option<Done> {
        let place = self.search(probe)?;
        self.settle_on(place, probe, round)?;
        let done = self.templates.plan(self.entries.get(place)?.template)?.done();
        if done.is_to_be_executed() {
            self.execute_whole(place, probe, frame)?;
        }
        Some(done)
    }

    #[inline(never)]
    fn execute_whole(&mut self, place: usize, probe: &Probe, frame: &mut [u8]) -> Option<()> {
        let action = &self.compose(place)?.action;
        probe.apply(action, frame);
        Some(())
    }

    /// The whole of what is done to a packet whose front [moves](Done::moves_front), which [`FlowCache::execute`] has found.
    #[inline(never)]
    pub fn rewrite(&mut self, probe: &Probe) -> Option<&Rewrite> {
        let place = self.locate(probe)?;
        self.compose(place)
    }

    /// The action of the flow at a place, made whole.
    fn compose(&mut self, place: usize) -> Option<&Rewrite> {
        let entry = self.entries.get(place)?;
        let template = self.templates.get(entry.template)?;
        let action = entry.action(template, &self.records)?;
        self.composed = Rewrite { action, tunnel: self.templates.tunnel(template) };
        Some(&self.composed)
    }

    /// Where the flow of a prepared probe is.
    fn locate(&mut self, probe: &Probe) -> Option<usize> {
        let place = probe.place as usize;
        if self.is_at(place, &probe.key) { Some(place) } else { self.search(probe) }
    }

    /// Whether what is said of the flow at a place holds for a packet, which is then counted.
    fn settle_on(&mut self, place: usize, probe: &Probe, round: &Round<'_>) -> Option<()> {
        let stamp = self.buckets.get_mut(place / WAYS)?.stamps.get_mut(place % WAYS)?;
        let entry = self.entries.get_mut(place)?;
        let plan = self.templates.plan(entry.template)?;
        if !entry.holds(plan, *stamp, probe, round, &mut self.stats) {
            return None;
        }
        if entry.count(probe.len) {
            carry(&mut self.cold, place, *stamp & CREDITED != 0, entry.packets == 0, entry.bytes, probe);
        }
        *stamp = renewed(*stamp, round.tick, entry.packets >= self.policy.prove);
        if entry.packets % NOMINATING == self.policy.prove % NOMINATING {
            self.elsewhere.nominate(place);
        }
        self.stats.hits += 1;
        Some(())
    }

    /// Whether the flow of this key is at a place.
    #[inline(always)]
    fn is_at(&self, place: usize, key: &Key) -> bool {
        self.entries.get(place).is_some_and(|entry| {
            self.templates.plan(entry.template).is_some_and(|plan| entry.is_of(key, plan))
        })
    }

    /// The bucket that a flow's place is sought in first.
    #[inline(always)]
    pub(crate) fn first(&self, hash: u64) -> usize {
        scale(hash, self.buckets.len())
    }

    /// The bucket that a flow's place is sought in second; may be the same.
    #[inline(always)]
    pub(crate) fn second(&self, hash: u64) -> usize {
        scale(hash.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15), self.buckets.len())
    }

    /// Where a flow seems to be, by its tag.
    #[inline(always)]
    fn glance(&self, hash: u64) -> u32 {
        let first = self.first(hash);
        let matches = Matches::of(self.buckets.get(first), tag(hash));
        if matches.any() {
            return (first * WAYS + matches.way()) as u32;
        }
        let second = self.second(hash);
        let matches = Matches::of(self.buckets.get(second), tag(hash));
        if matches.any() { (second * WAYS + matches.way()) as u32 } else { NOWHERE }
    }

    /// For a probe that did not find its flow where it seemed to be: another one had the same tag, it came in meanwhile, or it
    /// is not here.
    #[cold]
    #[inline(never)]
    fn search(&mut self, probe: &Probe) -> Option<usize> {
        let found = self.find(probe.hash, &probe.key);
        self.stats.misses += u64::from(found.is_none());
        found
    }

    /// Where a flow is.
    pub(crate) fn find(&self, hash: u64, key: &Key) -> Option<usize> {
        let find = |number: usize| {
            let mut matches = Matches::of(self.buckets.get(number), tag(hash));
            while matches.any() {
                let place = number * WAYS + matches.way();
                if self.is_at(place, key) {
                    return Some(place);
                }
                matches = matches.others();
            }
            None
        };
        find(self.first(hash)).or_else(|| find(self.second(hash)))
    }

    pub(crate) fn stamp(&self, place: usize) -> u16 {
        self.buckets.get(place / WAYS).map_or(0, |bucket| bucket.stamps[place % WAYS])
    }
}

impl Entry {
    /// Whether what is said of the flow still holds, and for this packet; `stamp` is when the flow was last seen.
    #[inline(always)]
    fn holds(
        &mut self,
        plan: &Plan,
        stamp: u16,
        probe: &Probe,
        round: &Round<'_>,
        stats: &mut Stats,
    ) -> bool {
        if self.generation != round.epoch.generation() && !self.revalidate(round, stats) {
            return false;
        }
        if self.silence != ENDLESS && elapsed(stamp, round.tick) > u16::from(self.silence) {
            stats.silent += 1;
            return false;
        }
        if probe.len > plan.limit || probe.hop_limit <= plan.hops {
            stats.unfit += 1;
            return false;
        }
        true
    }

    /// For an entry of an earlier generation: whether nothing that it was made from has changed since.
    #[inline(never)]
    fn revalidate(&mut self, round: &Round<'_>, stats: &mut Stats) -> bool {
        if !round.epoch.unchanged(self.generation, &self.dependencies) {
            stats.stale += 1;
            return false;
        }
        self.generation = round.epoch.generation();
        stats.revalidated += 1;
        true
    }

    /// Counts a packet; whether one of the counters ran over.
    #[inline(always)]
    fn count(&mut self, len: u16) -> bool {
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(u32::from(len));
        self.packets == 0 || self.bytes < u32::from(len)
    }
}

/// The stamp of a flow that was just seen. Without a branch: in a large table, stamps are new as often as not.
#[inline(always)]
fn renewed(stamp: u16, tick: u16, proven: bool) -> u16 {
    tick | stamp & (CREDITED | ESTABLISHED) | u16::from(proven) << 15
}

/// Every 65536 packets, and every 4 GiB: to what is to be told, if somebody is, else to the totals. `bytes` is what the counter
/// shows after the packet of `probe`.
#[cold]
#[inline(never)]
fn carry(cold: &mut Colds, place: usize, credited: bool, packets: bool, bytes: u32, probe: &Probe) {
    let bytes = bytes < u32::from(probe.len);
    if credited {
        cold.carry(place, packets, bytes);
    } else {
        cold.tell(place, u64::from(packets) << 16, u64::from(bytes) << 32);
    }
}
