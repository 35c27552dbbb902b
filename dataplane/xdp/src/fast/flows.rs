//! The table of one worker.

use std::{
    collections::VecDeque,
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use throughway_shared::fast::{
    BUCKET_WORDS, ENTRY_WORDS, Entry, Geometry, Hash, LAST_SHIFT, MAX_FLOWS, QUARANTINE, TEMPLATE_WORDS,
    WAYS, WIDE_WORDS, WORD_BYTES, WORD_GENERATION, WORD_LAST, WORD_PACKETS, Wide, first_place, halves, split,
};

use super::{
    flow::{FastCount, FastFlow, FastRefusal, Laid},
    memory::SharedWords,
    places::Places,
    templates::Templates,
};

/// With so few free ways in its first bucket, a flow goes to the one of its two with more.
const CROWDED: u32 = 2;

/// What it costs to read a flow, in places that are looked at.
pub const FAST_VISIT: usize = 16;

/// Where a flow is in the table of its worker: of meaning until it is removed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FastPlace(u32);

impl FastPlace {
    /// Its number: smaller than the table has ways, of which it has as many as places.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The place with this number, which [`FastPlace::number`] gave.
    pub const fn of_number(number: u32) -> Self {
        FastPlace(number)
    }
}

/// One worker's words of one of the maps.
pub(super) struct Region {
    words: Arc<SharedWords<AtomicU64>>,
    range: Range<usize>,
}

impl Region {
    /// Part `number` of `words`, the parts being `length` words each.
    pub(super) fn new(words: Arc<SharedWords<AtomicU64>>, number: usize, length: usize) -> Self {
        Region { words, range: number * length..(number + 1) * length }
    }

    fn in_memory(length: usize) -> Self {
        Region::new(Arc::new(SharedWords::in_memory(length)), 0, length)
    }

    fn words(&self) -> &[AtomicU64] {
        (*self.words).as_ref().get(self.range.clone()).unwrap_or_default()
    }

    pub(super) fn at(&self, index: usize) -> Option<&AtomicU64> {
        self.words().get(index)
    }

    pub(super) fn load(&self, index: usize) -> u64 {
        self.at(index).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    fn read<const N: usize>(&self, number: usize) -> [u64; N] {
        std::array::from_fn(|word| self.load(number * N + word))
    }

    fn write<const N: usize>(&self, number: usize, words: [u64; N]) {
        for (word, value) in words.into_iter().enumerate() {
            if let Some(to) = self.at(number * N + word) {
                to.store(value, Ordering::Relaxed);
            }
        }
    }
}

/// The four regions of a worker.
pub(super) struct Regions {
    pub(super) buckets: Region,
    pub(super) entries: Region,
    pub(super) wide: Region,
    pub(super) templates: Region,
}

/// The flows of one worker that the XDP program executes. Owned by that worker: nobody else writes to them but the program,
/// and it only counts.
pub struct FastFlows {
    pub(super) regions: Regions,
    geometry: Geometry,
    seed: [u64; 2],
    templates: Templates,
    places: Places,
    /// What the worker calls the flow in each place.
    tokens: Box<[u32]>,
    /// Places that were given back and may still be read by a run of the program, with the time (ns) from which on they may be used
    /// again, in this order.
    resting: VecDeque<(u32, u64)>,
    used: usize,
    capacity: usize,
    /// Where the next sweep goes on.
    next: usize,
    /// The latest time that was told (ns).
    now: u64,
}

impl FastFlows {
    /// For so many flows (1 to [`MAX_FLOWS`]), in memory that no program sees.
    pub fn in_memory(flows: u32) -> Self {
        let geometry = Geometry::of(flows);
        let ways = geometry.ways() as usize;
        let regions = Regions {
            buckets: Region::in_memory(geometry.buckets as usize * BUCKET_WORDS),
            entries: Region::in_memory(ways * ENTRY_WORDS),
            wide: Region::in_memory(ways * WIDE_WORDS),
            templates: Region::in_memory(geometry.templates as usize * TEMPLATE_WORDS),
        };
        FastFlows::over(regions, flows, [1, 2])
    }

    /// For so many flows, in these regions of zeros; the program's hash has this seed.
    pub(super) fn over(regions: Regions, flows: u32, seed: [u64; 2]) -> Self {
        let geometry = Geometry::of(flows);
        let ways = geometry.ways() as usize;
        FastFlows {
            regions,
            geometry,
            seed,
            templates: Templates::new(geometry.templates),
            places: Places::new(&geometry),
            tokens: vec![0; ways].into_boxed_slice(),
            resting: VecDeque::new(),
            used: 0,
            capacity: flows.clamp(1, MAX_FLOWS) as usize,
            next: 0,
            now: 0,
        }
    }

    /// How many flows are here.
    pub fn used(&self) -> usize {
        self.used
    }

    /// How many flows may be here.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Hands a flow over to the program, at `now` (ns of `CLOCK_MONOTONIC`): its next packet is executed in the driver, if the
    /// interface is switched to the fast path.
    ///
    /// # Errors
    ///
    /// Nothing is changed then, and the [`FastRefusal`] says why.
    pub fn install(&mut self, flow: &FastFlow<'_>, now: u64) -> Result<FastPlace, FastRefusal> {
        self.now = self.now.max(now);
        let laid = flow.lay(now)?;
        let hash = self.hash(&laid);
        if self.find(&laid, hash).is_some() {
            return Err(FastRefusal::AlreadyThere);
        }
        self.wake(now);
        if self.used >= self.capacity {
            return Err(FastRefusal::Full);
        }
        let way = self.free_way(hash).ok_or(FastRefusal::Crowded)?;
        // A group with nothing but resting places is full, too.
        let group = first_place((way / WAYS) as u32);
        if !self.places.has_free(group) {
            return Err(FastRefusal::Crowded);
        }
        let template = self.templates.acquire(&laid.template, self.regions.templates.words(), now);
        let template = template.ok_or(FastRefusal::Diverse)?;
        let place = self.places.take(group, way as u32).ok_or(FastRefusal::Crowded)? as usize;
        if let Some(wide) = &laid.wide {
            self.regions.wide.write(place, wide.to_words());
        }
        self.regions.entries.write(place, Entry { template, ..laid.entry }.to_words());
        if let Some(token) = self.tokens.get_mut(place) {
            *token = flow.token;
        }
        self.set_way(way, place, hash.tag());
        self.used += 1;
        Ok(FastPlace(place as u32))
    }

    /// Whether there is a place for a flow that is not here, if there is room at all.
    pub fn has_place(&self, flow: &FastFlow<'_>) -> bool {
        flow.lay(self.now).is_ok_and(|laid| {
            let way = self.free_way(self.hash(&laid));
            way.is_some_and(|way| self.places.has_free(first_place((way / WAYS) as u32)))
        })
    }

    /// Of the flows that take a [crowded](FastRefusal::Crowded) one's place the one that was silent for longest, with its token and what
    /// was counted of it.
    pub fn idlest_before(&self, flow: &FastFlow<'_>) -> Option<(FastPlace, u32, FastCount)> {
        let hash = self.hash(&flow.lay(self.now).ok()?);
        let ways = [hash.first(self.geometry.buckets), hash.second(self.geometry.buckets)]
            .map(|bucket| bucket as usize * WAYS..(bucket as usize + 1) * WAYS);
        let places = ways.into_iter().flatten().filter(|way| self.tag(*way) != 0).map(|way| self.place(way));
        let found = places.map(|place| (FastPlace(place as u32), self.read(FastPlace(place as u32))));
        let (place, count) = found.min_by_key(|(_, count)| count.last)?;
        Some((place, self.tokens.get(place.0 as usize).copied()?, count))
    }

    /// Says that the flow at `place` was found true at `generation`.
    pub fn renew(&mut self, place: FastPlace, generation: u32) {
        let at = place.0 as usize * ENTRY_WORDS + WORD_GENERATION;
        if let Some(word) = self.regions.entries.at(at).filter(|_| self.is_used(place.0 as usize)) {
            // The program writes the generation too, and only that; what the rest of the word holds is ours.
            let (_, rest) = split(word.load(Ordering::Relaxed));
            word.store(halves(generation, rest), Ordering::Relaxed);
        }
    }

    /// Says that a packet of the flow at `place` came, elsewhere, at `last` (ns): its silence is over.
    pub fn seen(&mut self, place: FastPlace, last: u64) {
        let at = place.0 as usize * ENTRY_WORDS + WORD_LAST;
        if let Some(word) = self.regions.entries.at(at).filter(|_| self.is_used(place.0 as usize)) {
            // The program writes the time too, and only that; the deltas beside it stay as they are.
            let ((before, deltas), last) = (split(word.load(Ordering::Relaxed)), (last >> LAST_SHIFT) as u32);
            if last.wrapping_sub(before) as i32 > 0 {
                word.store(halves(last, deltas), Ordering::Relaxed);
            }
        }
    }

    /// Takes the flow at `place` back, at `now` (ns): its packets go up to the worker from now on. A run of the program that
    /// found it just before may still execute it, and is not counted in what [`FastFlows::read`] said before. The place is not used
    /// again before that has ended.
    pub fn remove(&mut self, place: FastPlace, now: u64) {
        self.now = self.now.max(now);
        let Some(way) = self.places.vacate(place.0) else { return };
        self.set_way(way as usize, place.0 as usize, 0);
        self.templates.release(self.entry(place).template, self.regions.templates.words(), self.now);
        self.resting.push_back((place.0, self.now.saturating_add(QUARANTINE)));
        self.used -= 1;
    }

    /// What the program counted of the flow at `place` since it was installed. Right after [`FastFlows::remove`], too.
    pub fn read(&self, place: FastPlace) -> FastCount {
        let at = place.0 as usize * ENTRY_WORDS;
        let (last, _) = split(self.regions.entries.load(at + WORD_LAST));
        FastCount {
            packets: self.regions.entries.load(at + WORD_PACKETS),
            bytes: self.regions.entries.load(at + WORD_BYTES),
            last: self.time(last),
        }
    }

    /// Goes on through the places while there is something of `budget`, and reads the flows there that are `asked` something, `flows` of
    /// them at most. A place costs one, a flow that is read [`FAST_VISIT`] more, so that once round always costs the same. Returns what
    /// is left, below zero if the last flow cost more; nothing where there is no flow at all. `visit` gets the place, the flow's token,
    /// what was counted, and what is asked.
    pub fn sweep<A>(
        &mut self,
        budget: i64,
        flows: usize,
        mut asked: impl FnMut(FastPlace) -> Option<A>,
        mut visit: impl FnMut(FastPlace, u32, FastCount, A),
    ) -> i64 {
        let places = self.tokens.len();
        let (mut left, mut flows) = (if self.used > 0 { budget } else { 0 }, flows);
        while left > 0 && flows > 0 {
            left -= 1;
            let place = self.next;
            self.next = if place + 1 < places { place + 1 } else { 0 };
            if self.is_used(place)
                && let Some(asked) = asked(FastPlace(place as u32))
            {
                left -= FAST_VISIT as i64;
                flows -= 1;
                let token = self.tokens.get(place).copied().unwrap_or_default();
                let place = FastPlace(place as u32);
                visit(place, token, self.read(place), asked);
            }
        }
        left
    }

    /// The entry at `place`, as it lies there.
    pub(super) fn entry(&self, place: FastPlace) -> Entry {
        Entry::from_words(&self.regions.entries.read(place.0 as usize))
    }

    /// Where a flow with the key of `flow` is, if it is here.
    pub(super) fn place_of(&self, flow: &FastFlow<'_>) -> Option<FastPlace> {
        let laid = flow.lay(self.now).ok()?;
        self.find(&laid, self.hash(&laid)).map(|place| FastPlace(place as u32))
    }

    fn hash(&self, laid: &Laid) -> Hash {
        let (entry, context) = (&laid.entry, laid.template.context);
        match &laid.wide {
            None => Hash::narrow(self.seed, entry.addresses, entry.ports, context),
            Some(wide) => Hash::wide(self.seed, wide.addresses, entry.ports, context),
        }
    }

    /// Where the flow is, if it is here.
    fn find(&self, laid: &Laid, hash: Hash) -> Option<usize> {
        let buckets = [hash.first(self.geometry.buckets), hash.second(self.geometry.buckets)];
        buckets.into_iter().find_map(|bucket| {
            let mut ways = bucket as usize * WAYS..(bucket as usize + 1) * WAYS;
            ways.find_map(|way| {
                let place = self.place(way);
                (self.tag(way) == hash.tag() && self.is_of(place, laid)).then_some(place)
            })
        })
    }

    fn is_of(&self, place: usize, laid: &Laid) -> bool {
        let entry = self.entry(FastPlace(place as u32));
        let context = self.regions.templates.load(usize::from(entry.template) * TEMPLATE_WORDS);
        let wide: [u64; WIDE_WORDS] = self.regions.wide.read(place);
        let same_wide = |own: &Wide| wide.starts_with(&own.addresses);
        (entry.addresses, entry.ports, context)
            == (laid.entry.addresses, laid.entry.ports, laid.template.context)
            && laid.wide.as_ref().is_none_or(same_wide)
    }

    /// A way for a new flow.
    fn free_way(&self, hash: Hash) -> Option<usize> {
        let buckets = [hash.first(self.geometry.buckets), hash.second(self.geometry.buckets)];
        let free = buckets.map(|bucket| self.free_ways(bucket as usize));
        let [first, second] = free.map(u32::count_ones);
        let side = usize::from(first <= CROWDED && first < second);
        let ways = free.get(side).copied().filter(|ways| *ways != 0)?;
        Some(*buckets.get(side)? as usize * WAYS + ways.trailing_zeros() as usize)
    }

    /// The ways of a bucket that have no tag: a bit of each.
    fn free_ways(&self, bucket: usize) -> u32 {
        (0..WAYS).filter(|way| self.tag(bucket * WAYS + way) == 0).map(|way| 1 << way).sum()
    }

    /// Places whose rest is over may be used again.
    fn wake(&mut self, now: u64) {
        while let Some(&(place, _)) = self.resting.front().filter(|(_, until)| *until <= now) {
            self.resting.pop_front();
            self.places.give_back(place);
        }
    }

    fn is_used(&self, place: usize) -> bool {
        self.places.is_used(place as u32)
    }

    /// The tag of a way; zero: it is free.
    fn tag(&self, way: usize) -> u16 {
        let (tags, _, shift) = words_of(way);
        (self.regions.buckets.load(tags) >> shift) as u16
    }

    /// The place of the flow in a way.
    fn place(&self, way: usize) -> usize {
        let (_, places, shift) = words_of(way);
        let place = (self.regions.buckets.load(places) >> shift) as u16;
        first_place((way / WAYS) as u32) as usize + usize::from(place)
    }

    /// Publishes what was written before at this place, or takes it back.
    fn set_way(&self, way: usize, place: usize, tag: u16) {
        let (tags, places, shift) = words_of(way);
        // The lower 16 bits: the bucket knows the others. First the place, then the tag that leads to it.
        for (number, value) in [(places, place as u16), (tags, tag)] {
            if let Some(word) = self.regions.buckets.at(number) {
                let others = word.load(Ordering::Relaxed) & !(0xffff << shift);
                word.store(others | u64::from(value) << shift, Ordering::Release);
            }
        }
    }

    /// A time in an entry's units as nanoseconds: the one nearest to the latest that was told.
    fn time(&self, last: u32) -> u64 {
        let now = self.now >> LAST_SHIFT;
        let ahead = last.wrapping_sub(now as u32) as i32;
        now.saturating_add_signed(i64::from(ahead)) << LAST_SHIFT
    }
}

/// Where tag and place of a way are in the words of the buckets: the numbers of both words, and by how many binary digits they are
/// shifted there.
const fn words_of(way: usize) -> (usize, usize, usize) {
    let tags = way / WAYS * BUCKET_WORDS + way % WAYS / 4;
    (tags, tags + BUCKET_WORDS / 2, way % 4 * 16)
}

impl fmt::Debug for FastFlows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FastFlows({} of {})", self.used, self.capacity)
    }
}
