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

use throughway_shared::action::Action;
use wide::i16x8;

use crate::entry::{Bucket, Cold, ESTABLISHED, Entry, NewFlow, Settled, TICK, WAYS, elapsed, tick};
use crate::generation::Epoch;
use crate::key::{Hasher, Key};
use crate::peek::Probe;

/// With so few free ways in its first bucket, a flow goes to the one of its two with more: late enough that most flows are
/// found at first sight, early enough that buckets fill evenly.
const CROWDED: u32 = 4;

/// No place.
const NOWHERE: u32 = u32::MAX;

/// When a flow may be given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// So many hits make a flow established.
    pub prove: u16,
    /// So long (ns) after its last packet an established flow cannot be driven out. At most an hour.
    pub protect: u64,
    /// So long (ns) after its last packet a flow is forgotten. At most an hour.
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
    /// Flows forgotten after their time.
    pub forgotten: u64,
    /// Flows taken out by name.
    pub removed: u64,
}

/// What one batch of lookups is measured against: the epoch, taken before any table was read, and the time.
#[derive(Clone, Copy, Debug)]
pub struct Round<'a> {
    epoch: Epoch<'a>,
    now: u64,
    tick: u16,
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
    pub(crate) cold: Box<[Cold]>,
    hasher: Hasher,
    policy: Policy,
    protect: u16,
    pub(crate) forget: u16,
    pub(crate) stats: Stats,
    pub(crate) live: usize,
    pub(crate) ageing: usize,
    pub(crate) harvesting: usize,
    /// Where loads that only fetch go, so that nobody thinks them useless.
    fetched: u64,
}

impl FlowCache {
    /// Room for `capacity` flows (at least one bucket, at most 2³¹ flows), all of it allocated and written to now. With an
    /// eighth more ways than flows, nearly every set of flows of that number fits.
    ///
    /// `seed` keys the hash: random, and secret to who sends packets.
    pub fn new(capacity: usize, seed: u128, policy: Policy) -> Self {
        let ways = capacity.min(1 << 31) / 8 * 9;
        let buckets = ways.max(capacity.min(1 << 31)).div_ceil(WAYS).max(1);
        FlowCache {
            buckets: vec![Bucket::default(); buckets].into_boxed_slice(),
            entries: vec![Entry::default(); buckets * WAYS].into_boxed_slice(),
            cold: vec![Cold::default(); buckets * WAYS].into_boxed_slice(),
            hasher: Hasher::new(seed),
            policy,
            protect: ticks(policy.protect),
            forget: ticks(policy.forget),
            stats: Stats::default(),
            live: 0,
            ageing: 0,
            harvesting: 0,
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

    /// Hashes a batch of flows and fetches what their lookups will touch, all of them together: the memory answers them
    /// side by side. [`FlowCache::lookup`] is for probes that went through here.
    #[inline]
    pub fn prepare(&mut self, probes: &mut [Probe]) {
        // Passes of a few instructions a packet, so that the loads of many packets fit into the processor's window together.
        // A load that is used for nothing does what a prefetch would.
        for probe in probes.iter_mut() {
            probe.hash = self.hasher.hash(&probe.key);
        }
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
                fetched ^= entry.ports ^ u64::from(entry.bytes);
            }
        }
        self.fetched ^= fetched;
    }

    /// What to do with a packet, and counts it; `None`: let it walk the chain.
    #[inline(always)]
    pub fn lookup(&mut self, probe: &Probe, round: &Round<'_>) -> Option<&Action> {
        let mut place = probe.place as usize;
        if self.entries.get(place).is_none_or(|entry| entry.key() != probe.key) {
            place = self.search(probe)?;
        }
        let way = place % WAYS;
        let bucket = self.buckets.get_mut(place / WAYS)?;
        let entry = self.entries.get_mut(place)?;
        if entry.generation != round.epoch.generation() {
            if !round.epoch.unchanged(entry.generation, &entry.dependencies) {
                self.stats.stale += 1;
                return None;
            }
            entry.generation = round.epoch.generation();
            self.stats.revalidated += 1;
        }
        if (probe.len > entry.limit) | (probe.hop_limit <= entry.action.hops) {
            self.stats.unfit += 1;
            return None;
        }
        let (packets, many) = entry.packets.overflowing_add(1);
        let (bytes, much) = entry.bytes.overflowing_add(u32::from(probe.len));
        entry.packets = packets;
        entry.bytes = bytes;
        if many | much
            && let Some(cold) = self.cold.get_mut(place)
        {
            carry(cold, many, much);
        }
        let stamp = &mut bucket.stamps[way];
        if *stamp != round.tick | ESTABLISHED {
            let proven = *stamp & ESTABLISHED != 0 || packets >= self.policy.prove;
            *stamp = round.tick | if proven { ESTABLISHED } else { 0 };
        }
        self.stats.hits += 1;
        Some(&entry.action)
    }

    /// Takes in what the chain said of a flow. `round` is that of the batch in which the chain was walked: its epoch was
    /// taken before the functions read their tables.
    ///
    /// What another flow (or this one) leaves uncredited when it has to go is handed to `settle`.
    pub fn install(
        &mut self,
        probe: &Probe,
        new: &NewFlow<'_>,
        round: &Round<'_>,
        settle: impl FnOnce(Settled),
    ) -> Installed {
        let hash = self.hasher.hash(&probe.key);
        let known = self.find(hash, &probe.key);
        let (place, established) = match known {
            Some(place) => (place, self.stamp(place) & ESTABLISHED),
            None => match self.make_room(hash, round) {
                Some(place) => (place, 0),
                None => {
                    self.stats.refused += 1;
                    return Installed::Refused;
                }
            },
        };
        if let Some(settled) = self.take(place, round.now) {
            settle(settled);
        }
        let [a, b, c, d, ports, rest] = probe.key.0;
        if let Some(entry) = self.entries.get_mut(place) {
            *entry = Entry {
                addresses: [a, b, c, d],
                ports,
                rest: rest as u32,
                generation: round.epoch.generation(),
                action: *new.action,
                dependencies: new.dependencies,
                bytes: 0,
                packets: 0,
                limit: new.limit,
            };
        }
        if let Some(cold) = self.cold.get_mut(place) {
            let before =
                if known.is_some() { *cold } else { Cold { installed: round.tick, ..Cold::default() } };
            *cold = Cold { credits: new.credits, ..before };
        }
        if let Some(bucket) = self.buckets.get_mut(place / WAYS) {
            self.live += usize::from(bucket.tags[place % WAYS] == 0);
            bucket.tags[place % WAYS] = tag(hash);
            bucket.stamps[place % WAYS] = round.tick | established;
        }
        if known.is_some() {
            self.stats.replaced += 1;
            Installed::Replaced
        } else {
            self.stats.installed += 1;
            Installed::New
        }
    }

    /// Takes a flow out, if it is here, at `now` (ns). What it leaves uncredited is handed to `settle`.
    pub fn remove(&mut self, probe: &Probe, now: u64, settle: impl FnOnce(Settled)) -> bool {
        let Some(place) = self.find(self.hasher.hash(&probe.key), &probe.key) else { return false };
        if let Some(settled) = self.take(place, now) {
            settle(settled);
        }
        self.free(place);
        self.stats.removed += 1;
        true
    }

    pub(crate) fn free(&mut self, place: usize) {
        if let Some(bucket) = self.buckets.get_mut(place / WAYS) {
            self.live -= usize::from(bucket.tags[place % WAYS] != 0);
            bucket.tags[place % WAYS] = 0;
        }
        // A batch that was prepared before may still look here: no packet has this key.
        if let Some(entry) = self.entries.get_mut(place) {
            entry.rest = 0;
        }
    }

    /// The bucket that a flow's place is sought in first.
    #[inline(always)]
    fn first(&self, hash: u64) -> usize {
        scale(hash, self.buckets.len())
    }

    /// The bucket that a flow's place is sought in second; may be the same.
    #[inline(always)]
    fn second(&self, hash: u64) -> usize {
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
    fn search(&mut self, probe: &Probe) -> Option<usize> {
        let found = self.find(probe.hash, &probe.key);
        self.stats.misses += u64::from(found.is_none());
        found
    }

    /// Where a flow is.
    fn find(&self, hash: u64, key: &Key) -> Option<usize> {
        [self.first(hash), self.second(hash)].into_iter().find_map(|number| {
            let mut matches = Matches::of(self.buckets.get(number), tag(hash));
            while matches.any() {
                let place = number * WAYS + matches.way();
                if self.entries.get(place).is_some_and(|entry| entry.key() == *key) {
                    return Some(place);
                }
                matches = matches.others();
            }
            None
        })
    }

    fn stamp(&self, place: usize) -> u16 {
        self.buckets.get(place / WAYS).map_or(0, |bucket| bucket.stamps[place % WAYS])
    }

    /// A way for a new flow, as the policy says.
    fn make_room(&mut self, hash: u64, round: &Round<'_>) -> Option<usize> {
        let numbers = [self.first(hash), self.second(hash)];
        let free = numbers.map(|number| Matches::of(self.buckets.get(number), 0));
        let [in_first, in_second] = free.map(Matches::count);
        let side = usize::from(in_first <= CROWDED && in_first < in_second);
        if free[side].any() {
            return Some(numbers[side] * WAYS + free[side].way());
        }
        // Of equals, a random one: bits of the hash that neither bucket nor tag depend on much.
        let start = (hash >> 16) as usize % WAYS;
        let worst = numbers.map(|number| {
            let bucket = self.buckets.get(number)?;
            let ways = (0..WAYS).map(|way| (start + way) % WAYS);
            ways.map(|way| (self.dispensable(bucket.stamps[way], round.tick), number * WAYS + way))
                .reduce(|best, next| if next.0 > best.0 { next } else { best })
        });
        let [Some(first), Some(second)] = worst else { return None };
        let (why, place) = if second.0 > first.0 { second } else { first };
        if why > TICK {
            self.stats.evicted_idle += 1;
            return Some(place);
        }
        if why > 0 {
            self.stats.evicted_probation += 1;
            return Some(place);
        }
        let entry = self.entries.get(place)?;
        if round.epoch.unchanged(entry.generation, &entry.dependencies) {
            return None;
        }
        self.stats.evicted_stale += 1;
        Some(place)
    }

    /// How dispensable a flow is: above [`TICK`] when it was silent for long, above zero on probation.
    fn dispensable(&self, stamp: u16, now: u16) -> u16 {
        let silent = elapsed(stamp, now);
        if silent >= self.protect {
            silent | ESTABLISHED
        } else if stamp & ESTABLISHED == 0 {
            silent + 1
        } else {
            0
        }
    }

    /// Takes what a flow has not been credited for.
    pub(crate) fn take(&mut self, place: usize, now: u64) -> Option<Settled> {
        let silent = u64::from(elapsed(self.stamp(place), tick(now)));
        let entry = self.entries.get_mut(place)?;
        let cold = self.cold.get_mut(place)?;
        let packets = u64::from(entry.packets) + (u64::from(cold.packets_carried) << 16);
        let bytes = u64::from(entry.bytes) + (u64::from(cold.bytes_carried) << 32);
        if packets == 0 {
            return None;
        }
        (entry.packets, entry.bytes) = (0, 0);
        (cold.packets_carried, cold.bytes_carried) = (0, 0);
        cold.packets += packets;
        cold.bytes += bytes;
        Some(Settled {
            key: entry.key().flow_key(),
            credits: cold.credits,
            dependencies: entry.dependencies,
            packets,
            bytes,
            last: (now >> 28).saturating_sub(silent) << 28,
        })
    }
}

/// Every 65536 packets, and every 4 GiB.
#[cold]
fn carry(cold: &mut Cold, packets: bool, bytes: bool) {
    cold.packets_carried = cold.packets_carried.saturating_add(u16::from(packets));
    cold.bytes_carried = cold.bytes_carried.saturating_add(u16::from(bytes));
}

/// A duration (ns) in ticks: rounded up, at most half of what the ticks can tell.
fn ticks(duration: u64) -> u16 {
    let ticks = duration.div_ceil(1 << 28).clamp(1, u64::from(TICK / 2));
    ticks as u16
}

/// The upper half of a hash as a number below `range`.
#[inline(always)]
fn scale(hash: u64, range: usize) -> usize {
    (((hash >> 32) * range as u64) >> 32) as usize
}

/// The tag of a flow: never zero.
#[inline(always)]
fn tag(hash: u64) -> u16 {
    (hash as u16).max(1)
}

/// The ways of a bucket with one tag: a bit of each.
#[derive(Clone, Copy)]
struct Matches(u32);

impl Matches {
    #[inline(always)]
    fn of(bucket: Option<&Bucket>, tag: u16) -> Matches {
        let Some(bucket) = bucket else { return Matches(0) };
        let wanted = i16x8::splat(tag as i16);
        let (eights, _) = bucket.tags.as_chunks::<8>();
        let [lower, upper] = [eights[0], eights[1]].map(|eight| i16x8::new(eight.map(|tag| tag as i16)));
        Matches(lower.simd_eq(wanted).to_bitmask() | upper.simd_eq(wanted).to_bitmask() << 8)
    }

    /// The way of one of them; of some way, if there is none.
    #[inline(always)]
    const fn way(self) -> usize {
        self.0.trailing_zeros() as usize % WAYS
    }

    #[inline(always)]
    const fn any(self) -> bool {
        self.0 != 0
    }

    const fn count(self) -> u32 {
        self.0.count_ones()
    }

    const fn others(self) -> Matches {
        Matches(self.0 & (self.0 - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_matches_where_its_tag_is_and_nowhere_else() {
        for tag in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
            for others in
                [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x1234].into_iter().filter(|other| *other != tag)
            {
                for ways in [0u32, 1, 2, 0x10, 0x8000, 0xffff, 0xa5a5, 0x1248] {
                    let mut bucket = Bucket { tags: [others; WAYS], ..Bucket::default() };
                    (0..WAYS).filter(|way| ways >> way & 1 != 0).for_each(|way| bucket.tags[way] = tag);
                    let mut matches = Matches::of(Some(&bucket), tag);
                    assert_eq!(matches.count(), ways.count_ones());
                    let mut found = 0;
                    while matches.any() {
                        found |= 1 << matches.way();
                        matches = matches.others();
                    }
                    assert_eq!(found, ways, "{tag:x} among {others:x}");
                }
            }
        }
    }
}
