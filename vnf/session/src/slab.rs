//! Where sessions lie: slots in chunks, with their timing wheel.

use std::mem;

use crate::key::{Packed, SessionKey, Side};
use crate::quota::Class;
use crate::sync::{AtomicU64, Ordering};
use crate::wheel::{LANES, Link, Links, Wheel};

/// Slots allocated at once: some 25 KiB for a state of 32 bytes, below what malloc maps page by page.
const CHUNK: u32 = 256;
/// The end of a list of vacant slots.
const NONE: u32 = u32::MAX;

/// A session as it lies in its slot.
pub(crate) struct Live<S> {
    pub(crate) keys: Packed,
    pub(crate) class: Class,
    /// Ticks from the last life sign to the end.
    pub(crate) timeout: u32,
    /// The next entry of each key's chain in the index.
    pub(crate) chain: [u32; 2],
    pub(crate) link: Link,
    pub(crate) state: S,
}

enum Slot<S> {
    Vacant { next: u32 },
    Live(Live<S>),
}

// The discriminant of a slot hides in the niche of `Packed`.
const _: () = assert!(size_of::<Slot<[u32; 8]>>() == 100 && size_of::<Slot<[u64; 4]>>() == 104);

/// Cells that are allocated chunk by chunk and never move.
struct Chunks<T> {
    chunks: Vec<Box<[T]>>,
    /// How many cells there may be.
    limit: u32,
    /// The cells from here on were never used.
    fresh: u32,
}

impl<T> Chunks<T> {
    fn new(limit: u32) -> Self {
        Chunks { chunks: Vec::with_capacity(limit.div_ceil(CHUNK) as usize), limit, fresh: 0 }
    }

    #[inline]
    fn get(&self, cell: u32) -> Option<&T> {
        self.chunks.get((cell / CHUNK) as usize)?.get((cell % CHUNK) as usize)
    }

    #[inline]
    fn get_mut(&mut self, cell: u32) -> Option<&mut T> {
        self.chunks.get_mut((cell / CHUNK) as usize)?.get_mut((cell % CHUNK) as usize)
    }

    fn grow(&mut self, empty: impl Fn() -> T) {
        let begun = self.chunks.len() as u32 * CHUNK;
        let cells = CHUNK.min(self.limit - begun);
        self.chunks.push((0..cells).map(|_| empty()).collect());
    }

    /// The number of a cell that was never used.
    fn next(&mut self, empty: impl Fn() -> T) -> Option<u32> {
        if self.fresh == self.limit {
            return None;
        }
        if self.fresh == self.chunks.len() as u32 * CHUNK {
            self.grow(empty);
        }
        self.fresh += 1;
        Some(self.fresh - 1)
    }

    fn memory(&self) -> usize {
        self.chunks.capacity() * size_of::<Box<[T]>>()
            + self.chunks.iter().map(|chunk| size_of_val(&**chunk)).sum::<usize>()
    }
}

enum Spare {
    Vacant { next: u32 },
    Key(SessionKey),
}

/// Reverse keys that do not fit into their session.
struct Spares {
    cells: Chunks<Spare>,
    vacant: u32,
}

impl Spares {
    fn keep(&mut self, key: SessionKey) -> u32 {
        let number = match self.cells.get(self.vacant) {
            Some(&Spare::Vacant { next }) => Some(mem::replace(&mut self.vacant, next)),
            _ => self.cells.next(|| Spare::Vacant { next: NONE }),
        };
        // There are as many cells as slots, and a session needs at most one.
        let number = number.unwrap_or(NONE);
        debug_assert_ne!(number, NONE);
        if let Some(cell) = self.cells.get_mut(number) {
            *cell = Spare::Key(key);
        }
        number
    }

    #[inline]
    fn get(&self, number: u32) -> SessionKey {
        match self.cells.get(number) {
            Some(Spare::Key(key)) => *key,
            _ => {
                debug_assert!(false, "spare key {number} is missing");
                SessionKey::default()
            }
        }
    }

    fn free(&mut self, number: u32) {
        if let Some(cell) = self.cells.get_mut(number) {
            *cell = Spare::Vacant { next: mem::replace(&mut self.vacant, number) };
        }
    }
}

struct Slots<S> {
    cells: Chunks<Slot<S>>,
    /// Takes the links of slots that hold no session, should one ever be in a list.
    stray: Link,
}

impl<S> Slots<S> {
    #[inline]
    fn live(&self, slot: u32) -> Option<&Live<S>> {
        match self.cells.get(slot) {
            Some(Slot::Live(live)) => Some(live),
            _ => None,
        }
    }

    #[inline]
    fn live_mut(&mut self, slot: u32) -> Option<&mut Live<S>> {
        match self.cells.get_mut(slot) {
            Some(Slot::Live(live)) => Some(live),
            _ => None,
        }
    }
}

impl<S> Links for Slots<S> {
    #[inline]
    fn link(&mut self, slot: u32) -> &mut Link {
        match self.cells.get_mut(slot) {
            Some(Slot::Live(live)) => &mut live.link,
            _ => {
                debug_assert!(false, "slot {slot} is in a list of the wheel but vacant");
                self.stray = Link::DETACHED;
                &mut self.stray
            }
        }
    }
}

/// The sessions of one shard.
pub(crate) struct Slab<S> {
    slots: Slots<S>,
    spares: Spares,
    vacant: u32,
    wheel: Wheel,
}

/// A fresh session, not yet in a slot.
pub(crate) struct Fresh<S> {
    pub(crate) keys: [SessionKey; 2],
    pub(crate) class: Class,
    pub(crate) timeout: u32,
    pub(crate) state: S,
}

impl<S> Slab<S> {
    pub(crate) fn new(limit: u32, up_front: bool) -> Self {
        let mut slots = Slots { cells: Chunks::new(limit), stray: Link::DETACHED };
        while up_front && (slots.cells.chunks.len() as u32) < limit.div_ceil(CHUNK) {
            slots.cells.grow(|| Slot::Vacant { next: NONE });
        }
        let spares = Spares { cells: Chunks::new(limit), vacant: NONE };
        Slab { slots, spares, vacant: NONE, wheel: Wheel::new() }
    }

    /// Bytes on the heap.
    pub(crate) fn memory(&self) -> usize {
        self.slots.cells.memory() + self.spares.cells.memory() + self.wheel.memory()
    }

    /// The slots up to this one have been used.
    pub(crate) fn used(&self) -> u32 {
        self.slots.cells.fresh
    }

    #[inline]
    pub(crate) fn live(&self, slot: u32) -> Option<&Live<S>> {
        self.slots.live(slot)
    }

    #[inline]
    pub(crate) fn live_mut(&mut self, slot: u32) -> Option<&mut Live<S>> {
        self.slots.live_mut(slot)
    }

    #[inline]
    pub(crate) fn key(&self, live: &Live<S>, side: Side) -> SessionKey {
        live.keys.key(side, |number| self.spares.get(number))
    }

    /// Both keys of a session.
    pub(crate) fn keys(&self, live: &Live<S>) -> [SessionKey; 2] {
        [self.key(live, Side::Forward), self.key(live, Side::Reverse)]
    }

    /// Takes a vacant slot out of the list; to be filled or [freed](Slab::free).
    pub(crate) fn vacant(&mut self) -> Option<u32> {
        match self.slots.cells.get(self.vacant) {
            Some(&Slot::Vacant { next }) => Some(mem::replace(&mut self.vacant, next)),
            _ => self.slots.cells.next(|| Slot::Vacant { next: NONE }),
        }
    }

    /// Puts a session into a vacant slot; it is filed under `deadline`.
    pub(crate) fn fill(&mut self, slot: u32, fresh: Fresh<S>, chain: [u32; 2], deadline: u32) {
        let Fresh { keys, class, timeout, state } = fresh;
        let keys = Packed::new(&keys, |reverse| self.spares.keep(reverse));
        if let Some(cell) = self.slots.cells.get_mut(slot) {
            *cell = Slot::Live(Live { keys, class, timeout, chain, link: Link::DETACHED, state });
            self.wheel.file(&mut self.slots, lane(class), slot, deadline);
        }
    }

    /// Takes a session out of its slot, the wheel and the spare keys. The slot stays out of the list until it is
    /// [freed](Slab::free).
    pub(crate) fn take(&mut self, slot: u32) -> Option<(Live<S>, [SessionKey; 2])> {
        let keys = self.keys(self.slots.live(slot)?);
        self.wheel.unlink(&mut self.slots, slot);
        let cell = self.slots.cells.get_mut(slot)?;
        let Slot::Live(live) = mem::replace(cell, Slot::Vacant { next: NONE }) else { return None };
        if let Some(number) = live.keys.spare() {
            self.spares.free(number);
        }
        Some((live, keys))
    }

    /// Gives a slot back for use by the next session.
    pub(crate) fn free(&mut self, slot: u32) {
        if let Some(cell) = self.slots.cells.get_mut(slot) {
            *cell = Slot::Vacant { next: mem::replace(&mut self.vacant, slot) };
        }
    }

    /// Files a session anew, because its deadline came closer or its class changed.
    pub(crate) fn refile(&mut self, slot: u32, deadline: u32) {
        if let Some(class) = self.slots.live(slot).map(|live| live.class) {
            self.wheel.unlink(&mut self.slots, slot);
            self.wheel.file(&mut self.slots, lane(class), slot, deadline);
        }
    }

    /// Looks at up to `budget` sessions whose lists have come up and gives those past their deadline to `overdue`; files the
    /// others anew. Overdue ones are filed for the next tick, so that none is lost if it is not removed after all.
    ///
    /// Returns how many were looked at, and whether nothing else is due.
    pub(crate) fn due(
        &mut self,
        life: &[AtomicU64],
        tick: u32,
        budget: usize,
        mut overdue: impl FnMut(u32),
    ) -> (usize, bool) {
        let mut looked_at = 0;
        for lane in 0..LANES {
            loop {
                if looked_at == budget {
                    return (looked_at, false);
                }
                let Some(slot) = self.wheel.pop(&mut self.slots, lane, tick) else { break };
                looked_at += 1;
                let deadline = self.deadline(life, slot);
                self.refile(slot, deadline.max(tick.saturating_add(1)));
                if deadline <= tick {
                    overdue(slot);
                }
            }
        }
        (looked_at, true)
    }

    /// The half-open session of this slab that would end first.
    pub(crate) fn oldest_half_open(&mut self, life: &[AtomicU64]) -> Option<u32> {
        const TRIES: usize = 8;
        let lane = lane(Class::HalfOpen);
        let mut last = None;
        for _ in 0..TRIES {
            let (slot, list) = self.wheel.first(lane)?;
            last = Some(slot);
            let deadline = self.deadline(life, slot);
            if self.wheel.place(lane, deadline) == list {
                break;
            }
            // It lived on since it was filed.
            self.refile(slot, deadline);
        }
        last
    }

    fn deadline(&self, life: &[AtomicU64], slot: u32) -> u32 {
        let seen = life.get(slot as usize).map_or(0, |life| Life::load(life).seen);
        self.slots.live(slot).map_or(0, |live| seen.saturating_add(live.timeout))
    }
}

/// Half-open sessions have their own lane, so that the oldest can be found.
fn lane(class: Class) -> usize {
    usize::from(class == Class::HalfOpen)
}

/// What lies outside the lock: the generation of a slot in the upper half, the last life sign in the lower. One `max` of
/// the whole word is then a life sign for the right session, and without effect on a later one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) generation: u32,
    /// In ticks.
    pub(crate) seen: u32,
}

impl Life {
    #[inline]
    pub(crate) fn word(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.seen)
    }

    #[inline]
    pub(crate) fn load(life: &AtomicU64) -> Life {
        let word = life.load(Ordering::Relaxed);
        Life { generation: (word >> 32) as u32, seen: word as u32 }
    }
}
