//! What lies under a shard's lock: the functions' states, the timing wheel, and what is vacant.

use crate::card::{Card, Spare};
use crate::chunks::Chunks;
use crate::quota::Class;
use crate::wheel::{LANES, Link, Links, Wheel};

/// Slots and spare keys allocated at once: 16 KiB of cards, below what malloc maps page by page.
pub(crate) const CHUNK: u32 = 256;
/// The end of a list of vacant slots.
pub(crate) const NONE: u32 = u32::MAX;

/// The cards of a shard.
pub(crate) type Cards = Chunks<Card, CHUNK>;
/// Its spare keys.
pub(crate) type Spares = Chunks<Spare, CHUNK>;

/// The list of what was used and is vacant, and where the never used begins.
pub(crate) struct Vacancies {
    /// The head of the list.
    first: u32,
    /// From here on nothing was ever used.
    fresh: u32,
    limit: u32,
}

impl Vacancies {
    pub(crate) fn new(limit: u32) -> Self {
        Vacancies { first: NONE, fresh: 0, limit }
    }

    pub(crate) fn any(&self) -> bool {
        self.first != NONE || self.fresh < self.limit
    }

    /// The one that will be taken next, or nothing that exists.
    pub(crate) fn next(&self) -> u32 {
        if self.first == NONE { self.fresh } else { self.first }
    }

    /// Takes one; `next` tells what follows one of the list.
    #[inline]
    pub(crate) fn take(&mut self, next: impl FnOnce(u32) -> Option<u32>) -> Option<u32> {
        if self.first != NONE {
            let taken = self.first;
            self.first = next(taken)?;
            return Some(taken);
        }
        if self.fresh == self.limit {
            return None;
        }
        self.fresh += 1;
        Some(self.fresh - 1)
    }

    /// Puts one in front of the list; returns what follows it.
    pub(crate) fn give(&mut self, number: u32) -> u32 {
        std::mem::replace(&mut self.first, number)
    }
}

/// See the top of the file.
pub(crate) struct Slab<S> {
    states: Vec<Box<[Option<S>]>>,
    pub(crate) wheel: Wheel,
    pub(crate) slots: Vacancies,
    pub(crate) spares: Vacancies,
    /// Buckets of the reserve.
    pub(crate) reserve: Vacancies,
    /// Whether the table has it on its list of shards with vacant slots.
    pub(crate) listed: bool,
}

impl Links for &Cards {
    #[inline]
    fn link(&self, slot: u32) -> Link {
        self.get(slot).map_or(Link::DETACHED, Card::link)
    }

    #[inline]
    fn set_link(&mut self, slot: u32, link: Link) {
        if let Some(card) = self.get(slot) {
            card.set_link(link);
        }
    }
}

impl<S> Slab<S> {
    pub(crate) fn new(slots: u32, reserve: u32) -> Self {
        Slab {
            states: Vec::with_capacity(slots.div_ceil(CHUNK) as usize),
            wheel: Wheel::new(),
            slots: Vacancies::new(slots),
            spares: Vacancies::new(slots),
            reserve: Vacancies::new(reserve),
            listed: slots > 0,
        }
    }

    /// Bytes on the heap.
    pub(crate) fn memory(&self) -> usize {
        self.states.capacity() * size_of::<Box<[Option<S>]>>()
            + self.states.iter().map(|chunk| size_of_val(&**chunk)).sum::<usize>()
            + self.wheel.memory()
    }

    /// The slots up to this one have been used.
    pub(crate) fn used(&self) -> u32 {
        self.slots.fresh
    }

    /// Makes the states' places up to and with this one.
    #[inline]
    pub(crate) fn grow(&mut self, slot: u32, limit: u32) {
        if self.states.len() as u32 * CHUNK <= slot {
            self.make(slot, limit);
        }
    }

    #[cold]
    fn make(&mut self, slot: u32, limit: u32) {
        while self.states.len() as u32 * CHUNK <= slot {
            let begun = self.states.len() as u32 * CHUNK;
            let cells = CHUNK.min(limit.saturating_sub(begun)).max(1);
            self.states.push((0..cells).map(|_| None).collect());
        }
    }

    #[inline]
    pub(crate) fn place(&mut self, slot: u32) -> Option<&mut Option<S>> {
        self.states.get_mut((slot / CHUNK) as usize)?.get_mut((slot % CHUNK) as usize)
    }

    #[inline]
    pub(crate) fn state(&self, slot: u32) -> Option<&S> {
        self.states.get((slot / CHUNK) as usize)?.get((slot % CHUNK) as usize)?.as_ref()
    }

    /// Files a session anew, because its deadline came closer or its class changed.
    pub(crate) fn refile(&mut self, mut cards: &Cards, slot: u32, class: Class, deadline: u32) {
        self.wheel.unlink(&mut cards, slot);
        self.wheel.file(&mut cards, lane(class), slot, deadline);
    }

    /// Looks at up to `budget` sessions whose lists have come up and gives those past their deadline to `overdue`; files the
    /// others anew. Overdue ones are filed for the next tick, so that none is lost if it is not removed after all.
    ///
    /// Returns how many were looked at, and whether nothing else is due.
    pub(crate) fn due(
        &mut self,
        mut cards: &Cards,
        tick: u32,
        budget: usize,
        mut overdue: impl FnMut(u32, u32),
    ) -> (usize, bool) {
        let mut looked_at = 0;
        for lane in 0..LANES {
            loop {
                if looked_at == budget {
                    return (looked_at, false);
                }
                let Some(slot) = self.wheel.pop(&mut cards, lane, tick) else { break };
                looked_at += 1;
                let Some(standing) = cards.get(slot).and_then(Card::present) else {
                    debug_assert!(false, "slot {slot} is in a list of the wheel but vacant");
                    continue;
                };
                let deadline = standing.deadline();
                self.refile(cards, slot, standing.class, deadline.max(tick.saturating_add(1)));
                if deadline <= tick {
                    overdue(slot, standing.life.generation);
                }
            }
        }
        (looked_at, true)
    }

    /// The half-open session of this shard that would end first, with its generation.
    pub(crate) fn oldest_half_open(&mut self, cards: &Cards) -> Option<(u32, u32)> {
        const TRIES: usize = 8;
        let lane = lane(Class::HalfOpen);
        let mut last = None;
        for _ in 0..TRIES {
            let (slot, list) = self.wheel.first(lane)?;
            let standing = cards.get(slot)?.present()?;
            last = Some((slot, standing.life.generation));
            if self.wheel.place(lane, standing.deadline()) == list {
                break;
            }
            // It lived on since it was filed.
            self.refile(cards, slot, standing.class, standing.deadline());
        }
        last
    }
}

/// Half-open sessions have their own lane, so that the oldest can be found.
pub(crate) fn lane(class: Class) -> usize {
    usize::from(class == Class::HalfOpen)
}
