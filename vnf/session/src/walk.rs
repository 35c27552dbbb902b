//! Walking through all sessions, for `show sessions`, `clear` and export.

use crate::key::SessionKey;
use crate::session::{Info, Reason, Removed, SessionId};
use crate::sync::lock;
use crate::table::SessionTable;

/// How many slots are looked at while the lock of their slab is held.
const SLICE: u32 = 64;

/// Where a walk stands. It stays good whatever happens to the table meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    shard: u32,
    slot: u32,
}

impl Cursor {
    /// The cursor as a number, to hand it to a client between two pages. 0 is the beginning.
    pub const fn to_bits(self) -> u64 {
        (self.shard as u64) << 32 | self.slot as u64
    }

    /// See [`Cursor::to_bits`]. Of other numbers: some place in the table, or its end.
    pub const fn from_bits(bits: u64) -> Self {
        Cursor { shard: (bits >> 32) as u32, slot: bits as u32 }
    }
}

impl<S> SessionTable<S> {
    /// Shows the sessions of the next slice of slots, and where to go on; `None` at the end.
    ///
    /// Sessions never move, so each one that lives from the beginning to the end of a walk is shown exactly once; one that comes or
    /// goes meanwhile at most once. Those whose timeout is over but that are not collected are shown, too (see
    /// [`Info::expires`]). `show` runs under a lock that other workers may be waiting for: copy, and format later.
    pub fn walk(&self, cursor: Cursor, mut show: impl FnMut(&[SessionKey; 2], &S, &Info)) -> Option<Cursor> {
        let shard = self.shards.get(cursor.shard as usize)?;
        let slab = lock(&shard.slab);
        let end = cursor.slot.saturating_add(SLICE).min(slab.used());
        for slot in cursor.slot..end {
            let standing = shard.cards.get(slot).and_then(|card| card.present());
            if let (Some(standing), Some(state)) = (standing, slab.state(slot)) {
                let index = self.index(cursor.shard as usize, slot);
                let id = SessionId { index, generation: standing.life.generation };
                if let Some(keys) = self.keys(id) {
                    show(&keys, state, &Info::new(id, &standing));
                }
            }
        }
        self.after(cursor, end, slab.used())
    }

    /// A slice of a walk that shows only what is `wanted`: that is asked without a lock, so sessions that are not wanted
    /// keep no worker waiting. Otherwise as [`SessionTable::walk`].
    pub fn walk_where(
        &self,
        cursor: Cursor,
        mut wanted: impl FnMut(&[SessionKey; 2], &Info) -> bool,
        mut show: impl FnMut(&[SessionKey; 2], &S, &Info),
    ) -> Option<Cursor> {
        let shard = self.shards.get(cursor.shard as usize)?;
        let end = cursor.slot.saturating_add(SLICE).min(shard.cards.limit());
        for slot in cursor.slot..end {
            let Some((keys, info)) = self.glance(cursor.shard as usize, slot) else { continue };
            if wanted(&keys, &info) {
                self.read(info.id, |state, info| show(&keys, state, info));
            }
        }
        self.after(cursor, end, shard.cards.limit())
    }

    /// Ends the sessions of the next slice of slots that are `wanted` ([`Reason::Cleared`]), and says where to go on; `None` at the
    /// end. `wanted` is asked once without a lock, of keys and standing only. `gone` runs without any lock.
    pub fn clear(
        &self,
        cursor: Cursor,
        mut wanted: impl FnMut(&[SessionKey; 2], &Info) -> bool,
        mut gone: impl FnMut(Removed<S>),
    ) -> Option<Cursor> {
        let shard = self.shards.get(cursor.shard as usize)?;
        let end = cursor.slot.saturating_add(SLICE).min(shard.cards.limit());
        for slot in cursor.slot..end {
            let Some((keys, info)) = self.glance(cursor.shard as usize, slot) else { continue };
            if wanted(&keys, &info)
                && let Some(removed) = self.take(info.id, Reason::Cleared, |_, _| true)
            {
                gone(removed);
            }
        }
        self.after(cursor, end, shard.cards.limit())
    }

    /// Keys and standing of the session in a slot, without a lock.
    fn glance(&self, number: usize, slot: u32) -> Option<([SessionKey; 2], Info)> {
        let standing = self.shards.get(number)?.cards.get(slot)?.present()?;
        let id = SessionId { index: self.index(number, slot), generation: standing.life.generation };
        Some((self.keys(id)?, Info::new(id, &standing)))
    }

    /// Where a walk goes on after slot `end` of so many.
    fn after(&self, cursor: Cursor, end: u32, slots: u32) -> Option<Cursor> {
        if end < slots {
            return Some(Cursor { slot: end, ..cursor });
        }
        let next = cursor.shard + 1;
        ((next as usize) < self.shards.len()).then_some(Cursor { shard: next, slot: 0 })
    }
}
