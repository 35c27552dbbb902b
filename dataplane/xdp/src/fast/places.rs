//! Which places of a worker's table are free: those of a group of buckets are given out side by side.

use throughway_shared::fast::Geometry;

/// Way of a place that has no flow.
const NONE: u32 = u32::MAX;
/// Places of a group, but for the last one.
const GROUP: usize = 1 << 16;

/// The places of one worker.
pub(super) struct Places {
    groups: Vec<Group>,
    /// The way of the flow in each place.
    ways: Box<[u32]>,
}

struct Group {
    /// Given back, the last one on top.
    free: Vec<u32>,
    /// The first that was never used.
    fresh: u32,
    end: u32,
}

impl Places {
    pub(super) fn new(geometry: &Geometry) -> Self {
        let ways = geometry.ways();
        let starts = (0..ways).step_by(GROUP);
        let group =
            |start: u32| Group { free: Vec::new(), fresh: start, end: ways.min(start + GROUP as u32) };
        Places { groups: starts.map(group).collect(), ways: vec![NONE; ways as usize].into_boxed_slice() }
    }

    /// Whether there is a free place in the group that begins at `first`.
    pub(super) fn has_free(&self, first: u32) -> bool {
        let group = self.groups.get(first as usize / GROUP);
        group.is_some_and(|group| !group.free.is_empty() || group.fresh < group.end)
    }

    /// A free place of the group that begins at `first`, for the flow in this way.
    pub(super) fn take(&mut self, first: u32, way: u32) -> Option<u32> {
        let group = self.groups.get_mut(first as usize / GROUP)?;
        let place = match group.free.pop() {
            Some(place) => place,
            None if group.fresh < group.end => {
                group.fresh += 1;
                group.fresh - 1
            }
            None => return None,
        };
        *self.ways.get_mut(place as usize)? = way;
        Some(place)
    }

    /// The flow goes: its way. The place is not free yet.
    pub(super) fn vacate(&mut self, place: u32) -> Option<u32> {
        let way = self.ways.get_mut(place as usize).filter(|way| **way != NONE)?;
        Some(std::mem::replace(way, NONE))
    }

    /// A place without a flow is free from now on.
    pub(super) fn give_back(&mut self, place: u32) {
        if let Some(group) = self.groups.get_mut(place as usize / GROUP) {
            group.free.push(place);
        }
    }

    /// Whether there is a flow.
    pub(super) fn is_used(&self, place: u32) -> bool {
        self.ways.get(place as usize).is_some_and(|way| *way != NONE)
    }
}
