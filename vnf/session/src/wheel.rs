//! A hierarchical timing wheel over links that lie in somebody else's slots.
//!
//! Six levels of 64 lists span all 32-bit ticks. An entry is filed by the highest group of six bits in which its deadline
//! differs from the wheel's own time, so it is moved at most five times before it is due; empty stretches are skipped by
//! bit maps. Filing, unlinking and finding the next due entry take constant time.
//!
//! One wheel has several *lanes*: independent sets of lists over the same slots.

const GROUP: u32 = 6;
const WIDTH: u32 = 1 << GROUP;
const LEVELS: u32 = 32_u32.div_ceil(GROUP);
const LISTS: u32 = LEVELS * WIDTH;

/// How many lanes a wheel has.
pub(crate) const LANES: usize = 2;

/// Marks a link that leads to a list's ends instead of to a slot: the rest is the number of the list.
const ENDS: u32 = 1 << 31;
/// Not in any list.
const NOWHERE: u32 = u32::MAX;

/// What every slot holds for the wheel: its neighbours in its list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    previous: u32,
    next: u32,
}

impl Link {
    /// The link of a slot that is in no list.
    pub(crate) const DETACHED: Link = Link { previous: NOWHERE, next: NOWHERE };

    /// What a vacant slot holds instead: the next one.
    pub(crate) fn vacant(next: u32) -> Link {
        Link { previous: NOWHERE, next }
    }

    pub(crate) fn next(self) -> u32 {
        self.next
    }

    pub(crate) fn to_bits(self) -> u64 {
        u64::from(self.previous) << 32 | u64::from(self.next)
    }

    pub(crate) fn from_bits(bits: u64) -> Link {
        Link { previous: (bits >> 32) as u32, next: bits as u32 }
    }
}

/// Where the links lie.
pub(crate) trait Links {
    fn link(&self, slot: u32) -> Link;
    fn set_link(&mut self, slot: u32, link: Link);
}

#[derive(Clone, Copy)]
struct Ends {
    first: u32,
    last: u32,
}

pub(crate) struct Wheel {
    /// The time of each lane: everything before it has been taken out.
    now: [u32; LANES],
    /// Which lists of each level hold something.
    occupied: [[u64; LEVELS as usize]; LANES],
    lists: Box<[Ends]>,
}

impl Wheel {
    pub(crate) fn new() -> Self {
        let empty = |number| Ends { first: ENDS | number, last: ENDS | number };
        Wheel {
            now: [0; LANES],
            occupied: [[0; LEVELS as usize]; LANES],
            lists: (0..LANES as u32 * LISTS).map(empty).collect(),
        }
    }

    /// Bytes on the heap.
    pub(crate) fn memory(&self) -> usize {
        size_of_val(&*self.lists)
    }

    /// The list in which an entry of this deadline belongs now.
    #[inline]
    pub(crate) fn place(&self, lane: usize, deadline: u32) -> u32 {
        let deadline = deadline.max(self.now[lane]);
        let level = (deadline ^ self.now[lane]).checked_ilog2().unwrap_or(0) / GROUP;
        lane as u32 * LISTS + level * WIDTH + group(deadline, level)
    }

    /// Files a slot that is in no list. Behind those that are already in its list.
    #[inline]
    pub(crate) fn file(&mut self, links: &mut impl Links, lane: usize, slot: u32, deadline: u32) {
        let list = self.place(lane, deadline);
        let ends = &mut self.lists[list as usize];
        let last = std::mem::replace(&mut ends.last, slot);
        links.set_link(slot, Link { previous: last, next: ENDS | list });
        if last & ENDS == 0 {
            links.set_link(last, Link { next: slot, ..links.link(last) });
        } else {
            ends.first = slot;
            self.mark(list);
        }
    }

    /// Takes a slot out of its list, if it is in one.
    pub(crate) fn unlink(&mut self, links: &mut impl Links, slot: u32) {
        let Link { previous, next } = links.link(slot);
        if previous == NOWHERE {
            return;
        }
        links.set_link(slot, Link::DETACHED);
        self.set_next(links, previous, next);
        if next & ENDS == 0 {
            links.set_link(next, Link { previous, ..links.link(next) });
        } else {
            self.lists[(next & !ENDS) as usize].last = previous;
            self.mark(next & !ENDS);
        }
    }

    /// Takes out the next entry that is due at `tick` by what was filed, or has to be filed closer: whoever gets it looks
    /// at the true deadline, and files it again if that is later.
    pub(crate) fn pop(&mut self, links: &mut impl Links, lane: usize, tick: u32) -> Option<u32> {
        loop {
            let (level, position) = self.earliest(lane)?;
            let beginning = self.beginning(lane, level, position);
            if beginning > tick {
                // Everything filed lies behind `tick`: moving the time up to it changes nobody's place.
                self.now[lane] = self.now[lane].max(tick);
                return None;
            }
            self.now[lane] = self.now[lane].max(beginning);
            let list = lane as u32 * LISTS + level * WIDTH + position;
            let slot = self.lists[list as usize].first;
            if slot & ENDS == 0 {
                self.unlink(links, slot);
                return Some(slot);
            }
            // A set bit over an empty list cannot be; clearing it keeps this loop finite all the same.
            self.mark(list);
        }
    }

    /// The entry that was filed to be due first, with its list.
    pub(crate) fn first(&self, lane: usize) -> Option<(u32, u32)> {
        let (level, position) = self.earliest(lane)?;
        let list = lane as u32 * LISTS + level * WIDTH + position;
        let slot = self.lists[list as usize].first;
        (slot & ENDS == 0).then_some((slot, list))
    }

    /// Level and position of the list whose time comes first.
    fn earliest(&self, lane: usize) -> Option<(u32, u32)> {
        let now = self.now[lane];
        // Lists whose time has begun are being emptied into lower levels; nothing below is complete before that is done.
        let begun = (1..LEVELS)
            .rev()
            .find(|&level| self.occupied[lane][level as usize] >> group(now, level) & 1 == 1);
        if let Some(level) = begun {
            return Some((level, group(now, level)));
        }
        (0..LEVELS).find_map(|level| {
            let ahead = self.occupied[lane][level as usize] & u64::MAX << group(now, level);
            (ahead != 0).then(|| (level, ahead.trailing_zeros()))
        })
    }

    /// The first tick of a list.
    fn beginning(&self, lane: usize, level: u32, position: u32) -> u32 {
        let above = u64::MAX << ((level + 1) * GROUP);
        (u64::from(self.now[lane]) & above | u64::from(position) << (level * GROUP)) as u32
    }

    fn set_next(&mut self, links: &mut impl Links, previous: u32, next: u32) {
        if previous & ENDS == 0 {
            links.set_link(previous, Link { next, ..links.link(previous) });
        } else {
            self.lists[(previous & !ENDS) as usize].first = next;
        }
    }

    /// Brings the bit of a list in line with the list.
    fn mark(&mut self, list: u32) {
        let lane = (list / LISTS) as usize;
        let level = (list % LISTS / WIDTH) as usize;
        let bit = 1 << (list % WIDTH);
        if self.lists[list as usize].last & ENDS == 0 {
            self.occupied[lane][level] |= bit;
        } else {
            self.occupied[lane][level] &= !bit;
        }
    }
}

#[inline]
fn group(tick: u32, level: u32) -> u32 {
    tick >> (level * GROUP) & (WIDTH - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    impl Links for Vec<Link> {
        fn link(&self, slot: u32) -> Link {
            self[slot as usize]
        }

        fn set_link(&mut self, slot: u32, link: Link) {
            self[slot as usize] = link;
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        File { slot: u32, lane: usize, after: u32 },
        Unlink(u32),
        Advance(u32),
    }

    fn span() -> impl Strategy<Value = u32> {
        // Every level of the wheel, and the edges of its groups.
        prop_oneof![0u32..4, 60u32..70, 4090u32..4100, 0u32..300_000, 0u32..1 << 28]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u32..24, 0..LANES, span()).prop_map(|(slot, lane, after)| Step::File { slot, lane, after }),
            1 => (0u32..24).prop_map(Step::Unlink),
            2 => span().prop_map(Step::Advance),
        ]
    }

    proptest! {
        #[test]
        fn gives_out_what_a_sorted_map_would(steps in prop::collection::vec(step(), 1..120)) {
            let mut wheel = Wheel::new();
            let mut links = vec![Link::DETACHED; 24];
            let mut model: BTreeMap<u32, (usize, u32)> = BTreeMap::new();
            let mut now = 0u32;
            for step in steps {
                match step {
                    Step::File { slot, lane, after } => {
                        wheel.unlink(&mut links, slot);
                        wheel.file(&mut links, lane, slot, now.saturating_add(after));
                        model.insert(slot, (lane, now.saturating_add(after)));
                    }
                    Step::Unlink(slot) => {
                        wheel.unlink(&mut links, slot);
                        model.remove(&slot);
                    }
                    Step::Advance(by) => {
                        now = now.saturating_add(by);
                        for lane in 0..LANES {
                            let mut moves = 0;
                            let mut due = vec![];
                            while let Some(slot) = wheel.pop(&mut links, lane, now) {
                                moves += 1;
                                prop_assert!(moves <= 24 * (LEVELS + 1), "more moves than levels");
                                let (its_lane, deadline) = model[&slot];
                                prop_assert_eq!(its_lane, lane);
                                if deadline <= now {
                                    due.push(slot);
                                    model.remove(&slot);
                                } else {
                                    wheel.file(&mut links, lane, slot, deadline);
                                }
                            }
                            let overdue = model.values().filter(|(l, deadline)| *l == lane && *deadline <= now).count();
                            prop_assert_eq!(overdue, 0, "something due was left in lane {}", lane);
                        }
                    }
                }
                for lane in 0..LANES {
                    let any = model.values().any(|(l, _)| *l == lane);
                    prop_assert_eq!(wheel.first(lane).is_some(), any);
                }
            }
        }
    }

    #[test]
    fn entries_of_one_list_come_out_in_the_order_they_were_filed() {
        let mut wheel = Wheel::new();
        let mut links = vec![Link::DETACHED; 8];
        for slot in [3, 1, 7, 0, 5] {
            wheel.file(&mut links, 1, slot, 10_000);
        }
        wheel.unlink(&mut links, 7);
        assert_eq!(wheel.first(1).map(|(slot, _)| slot), Some(3));
        let mut out = vec![];
        while let Some(slot) = wheel.pop(&mut links, 1, 10_000) {
            if wheel.now[1] == 10_000 {
                out.push(slot);
            } else {
                wheel.file(&mut links, 1, slot, 10_000);
            }
        }
        assert_eq!(out, [3, 1, 0, 5]);
    }

    #[test]
    fn a_long_silence_costs_nothing() {
        let mut wheel = Wheel::new();
        let mut links = vec![Link::DETACHED; 1];
        wheel.file(&mut links, 0, 0, u32::MAX);
        // Were empty lists visited, this would take minutes.
        for tick in (0..u32::MAX).step_by(1 << 20) {
            while let Some(slot) = wheel.pop(&mut links, 0, tick) {
                wheel.file(&mut links, 0, slot, u32::MAX);
            }
        }
        let mut popped = 0;
        while wheel.pop(&mut links, 0, u32::MAX).is_some() && popped < 10 {
            popped += 1;
            if wheel.now[0] == u32::MAX {
                break;
            }
            wheel.file(&mut links, 0, 0, u32::MAX);
        }
        assert!(popped <= 6, "{popped}");
        assert!(wheel.first(0).is_none());
    }
}
