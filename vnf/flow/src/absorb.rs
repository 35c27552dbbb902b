//! Flows whose action somebody else executes beside the worker, as the XDP program does: which ones are worth it, what has to
//! be said of them, and taking over what was counted there.
//!
//! The cache stays the one place that knows a flow. A flow that is *elsewhere* is still here, with its credits and its
//! dependencies, and it ages by what [`FlowCache::absorb`] is told of it. Whoever executes flows elsewhere
//!
//! 1. takes the [nominees](FlowCache::nominees): flows that have proven themselves and still come to the worker;
//! 2. asks what is to be executed ([`FlowCache::candidate`]) and says under which number it does ([`FlowCache::moved`]);
//! 3. tells regularly what it saw ([`FlowCache::absorb`]), or at least that it did ([`FlowCache::seen_elsewhere`]);
//! 4. stops executing the numbers that have [ended](FlowCache::ended): their flow was forgotten, driven out, or judged anew.
//!
//! A flow that is judged anew was worth it before: it is a nominee again at once.

use throughway_shared::action::Rewrite;
use throughway_shared::flow::FlowKey;

use crate::bucket::{ESTABLISHED, TICK, WAYS, elapsed, tick, ticks};
use crate::cache::FlowCache;
use crate::entry::{Credits, ENDLESS};
use crate::generation::{Dependencies, Epoch};
use crate::peek::Probe;

/// So many flows are nominated between two calls of [`FlowCache::nominees`] at most. Others are nominated by a later packet.
/// As many as a harvest may find in the time for which a worker sleeps.
const NOMINEES: usize = 4096;

/// Which flows are executed elsewhere. Takes no memory until [`FlowCache::open_elsewhere`].
#[derive(Debug, Default)]
pub(crate) struct Elsewhere {
    /// By place: the number under which the flow there is executed elsewhere, and one; zero: it is not.
    numbers: Box<[u32]>,
    /// Flows are nominated as soon as they are recorded.
    eager: bool,
    /// Stamps of flows that are executed elsewhere may be late by so many ticks.
    late: u16,
    nominees: Vec<u32>,
    ended: Vec<u32>,
}

impl Elsewhere {
    /// The flow at a place is worth it.
    #[inline]
    pub(crate) fn nominate(&mut self, place: usize) {
        // Without room, and in a cache all of whose flows are here there is none, a later packet does it.
        if self.nominees.len() < self.nominees.capacity() {
            self.nominees.push(place as u32);
        }
    }

    /// Whether a flow that is judged now is worth it at once; `known` is where it was before.
    pub(crate) fn is_wanted(&self, known: Option<usize>) -> bool {
        self.eager || known.is_some_and(|place| self.at(place).is_some())
    }

    /// The flow at a place is no more.
    pub(crate) fn end(&mut self, place: usize) {
        if let Some(number) = self.at(place) {
            self.set(place, 0);
            self.ended.push(number);
        }
    }

    /// By how many ticks the stamp of the flow at a place may be late.
    pub(crate) fn lateness(&self, place: usize) -> u16 {
        if self.at(place).is_some() { self.late } else { 0 }
    }

    pub(crate) fn at(&self, place: usize) -> Option<u32> {
        self.numbers.get(place).and_then(|number| number.checked_sub(1))
    }

    fn set(&mut self, place: usize, number: u32) {
        if let Some(at) = self.numbers.get_mut(place) {
            *at = number;
        }
    }
}

/// What has to be said of a flow that is to be executed elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The flow.
    pub key: FlowKey,
    /// What happens to its packets.
    pub rewrite: Rewrite,
    /// What that was made from.
    pub dependencies: Dependencies,
    /// The generation at which it was last found true.
    pub generation: u32,
    /// The longest IP packet that it holds for.
    pub limit: u16,
    /// How long (ns) the flow may be silent for it to hold; `u64::MAX`: for any time.
    pub silence: u64,
    /// Whom its packets are credited to.
    pub credits: Credits,
    /// When it was last seen, in nanoseconds, to a quarter of a second.
    pub last: u64,
    /// Packets that were seen of it here and not told yet: how heavy it is.
    pub packets: u64,
    /// Whether it has proven itself.
    pub established: bool,
    /// The number under which it is executed elsewhere already.
    pub elsewhere: Option<u32>,
}

/// What was seen elsewhere of a flow since that was told last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Absorbed {
    /// Packets.
    pub packets: u64,
    /// Bytes of their IP packets.
    pub bytes: u64,
    /// When the last of them was seen, in nanoseconds.
    pub last: u64,
}

impl FlowCache {
    /// From now on flows may be executed elsewhere, at most `most` of them at a time, and what was seen there is told within `late` (ns). With
    /// `eager`, flows are nominated as soon as they are recorded, else when they have proven themselves. Takes four bytes a way.
    pub fn open_elsewhere(&mut self, most: usize, eager: bool, late: u64) {
        self.elsewhere = Elsewhere {
            numbers: vec![0; self.ways()].into_boxed_slice(),
            eager,
            late: ticks(late),
            nominees: Vec::with_capacity(NOMINEES),
            ended: Vec::with_capacity(most.min(self.ways())),
        };
    }

    /// Hands out the places of flows that were nominated since the last time. What is there may be another flow by now.
    pub fn nominees(&mut self) -> impl Iterator<Item = u32> {
        self.elsewhere.nominees.drain(..)
    }

    /// Hands out the numbers of flows that must no longer be executed elsewhere.
    pub fn ended(&mut self) -> impl Iterator<Item = u32> {
        self.elsewhere.ended.drain(..)
    }

    /// The flow at a place, seen at `now` (ns); `None` if there is none.
    pub fn candidate(&self, place: u32, now: u64) -> Option<Candidate> {
        let place = place as usize;
        let bucket = self.buckets.get(place / WAYS).filter(|bucket| bucket.tags[place % WAYS] != 0)?;
        let stamp = bucket.stamps[place % WAYS];
        let entry = self.entries.get(place)?;
        let template = self.templates.get(entry.template)?;
        let action = entry.action(template, &self.records)?;
        Some(Candidate {
            key: entry.key(template).flow_key(),
            rewrite: Rewrite { action, tunnel: self.templates.tunnel(template) },
            dependencies: entry.dependencies,
            generation: entry.generation,
            limit: template.limit,
            // A whole tick was taken off for the place in its tick at which a packet came: elsewhere, times are exact.
            silence: if entry.silence == ENDLESS { u64::MAX } else { (u64::from(entry.silence) + 1) << 28 },
            credits: self.cold.credits(place),
            last: (now >> 28).saturating_sub(elapsed(stamp, tick(now)).into()) << 28,
            packets: self.cold.carried(place).0 + u64::from(entry.packets),
            established: stamp & ESTABLISHED != 0,
            elsewhere: self.elsewhere.at(place),
        })
    }

    /// The flow of a [prepared](FlowCache::fetch) probe, seen at `now` (ns), if it is here. Nothing is counted.
    pub fn known(&self, probe: &Probe, now: u64) -> Option<Candidate> {
        let place = self.find(probe.hash, &probe.key)?;
        self.candidate(place as u32, now)
    }

    /// Looks at the flows in the next `budget` buckets of sixteen flows from bucket `from` on: whether each is to be executed `elsewhere`
    /// is asked again. One that no longer is has [ended](FlowCache::ended) there, one that is not yet is a
    /// [nominee](FlowCache::nominees). Returns where to go on, or `None` at the end.
    pub fn place_again(
        &mut self,
        from: usize,
        budget: usize,
        now: u64,
        mut elsewhere: impl FnMut(&Candidate) -> bool,
    ) -> Option<usize> {
        let end = from.saturating_add(budget).min(self.buckets.len());
        for place in from * WAYS..end * WAYS {
            let Some(flow) = self.candidate(place as u32, now) else { continue };
            match (flow.elsewhere.is_some(), elsewhere(&flow)) {
                (true, false) => self.elsewhere.end(place),
                (false, true) => self.elsewhere.nominate(place),
                _ => {}
            }
        }
        (end < self.buckets.len()).then_some(end)
    }

    /// The flow at a place is executed elsewhere under this number from now on.
    pub fn moved(&mut self, place: u32, number: u32) {
        self.elsewhere.set(place as usize, number.saturating_add(1));
    }

    /// The flow at a place, which was executed elsewhere under this number, no longer is: its packets come here.
    pub fn returned(&mut self, place: u32, number: u32) {
        if self.elsewhere.at(place as usize) == Some(number) {
            self.elsewhere.set(place as usize, 0);
        }
    }

    /// Fetches what [`FlowCache::absorb`] and [`FlowCache::renew`] will touch of the flows at these places, all of them together: the
    /// memory answers them side by side.
    pub fn foresee(&mut self, places: impl Iterator<Item = u32> + Clone) {
        let mut fetched = 0;
        for place in places.clone().map(|place| place as usize) {
            fetched ^= self.elsewhere.at(place).map_or(0, u64::from) ^ self.cold.touch(place);
            fetched ^= self.buckets.get(place / WAYS).map_or(0, |bucket| u64::from(bucket.stamps[0]));
            fetched ^= self.entries.get(place).map_or(0, |entry| u64::from(entry.ports));
        }
        for place in places {
            fetched ^= self.cold.told(place as usize).0;
        }
        self.fetched ^= fetched;
    }

    /// Fetches what [`FlowCache::seen_elsewhere`] will touch of the flows at these places.
    pub fn foresee_stamps(&mut self, places: impl Iterator<Item = u32>) {
        let mut fetched = 0;
        for place in places.map(|place| place as usize) {
            fetched ^= self.elsewhere.at(place).map_or(0, u64::from);
            fetched ^= self.buckets.get(place / WAYS).map_or(0, |bucket| u64::from(bucket.stamps[0]));
        }
        self.fetched ^= fetched;
    }

    /// The flow at a place, which is executed elsewhere under this number, was seen there at `last`: it does not age. How much was seen
    /// [`FlowCache::absorb`] is told later. Stamps are written anew when half of the time is over for which a flow is protected, so
    /// that [`FlowCache::harvest`] and others that look for flows which were seen need not come each time.
    pub fn seen_elsewhere(&mut self, place: u32, number: u32, last: u64, now: u64) {
        let (place, half) = (place as usize, self.protect / 2);
        if self.elsewhere.at(place) == Some(number)
            && let Some(bucket) = self.buckets.get_mut(place / WAYS)
        {
            let (stamp, last) = (&mut bucket.stamps[place % WAYS], tick(last.min(now)));
            if (half..=TICK / 2).contains(&elapsed(*stamp, last)) {
                *stamp = *stamp & !TICK | last;
            }
        }
    }

    /// Takes over what was seen elsewhere, up to `now` (ns), of the flow at a place that is executed under this number: it
    /// counts for output and for ageing. Whom it is credited to is for the caller to tell: what was seen here is told by
    /// [`FlowCache::harvest`]. Returns what the flow's action was made from; `None`: the flow is no longer here.
    pub fn absorb(&mut self, place: u32, number: u32, seen: &Absorbed, now: u64) -> Option<Dependencies> {
        let place = place as usize;
        if self.elsewhere.at(place) != Some(number) {
            return None;
        }
        self.cold.tell(place, seen.packets, seen.bytes);
        let proven = self.cold.told(place).0 >= u64::from(self.policy().prove);
        let stamp = self.buckets.get_mut(place / WAYS)?.stamps.get_mut(place % WAYS)?;
        // The clock there may be ahead of the one of this round, and a stamp of the future would be one of long ago.
        let last = tick(seen.last.min(now));
        if elapsed(*stamp, last) <= TICK / 2 {
            *stamp = *stamp & !TICK | last;
        }
        if proven {
            *stamp |= ESTABLISHED;
        }
        Some(self.entries.get(place)?.dependencies)
    }

    /// Whether the action of the flow at a place is still true at `epoch`; then it has its generation.
    pub fn renew(&mut self, place: u32, epoch: &Epoch<'_>) -> bool {
        let Some(entry) = self.entries.get_mut(place as usize) else { return false };
        let same = entry.generation == epoch.generation();
        let unchanged = same || epoch.unchanged(entry.generation, &entry.dependencies);
        if unchanged {
            entry.generation = epoch.generation();
        }
        unchanged
    }
}
