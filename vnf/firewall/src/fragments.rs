//! Virtual reassembly: later fragments get the verdict of their first one.
//!
//! A fragment that comes before its first one cannot be judged, and to let it through would let anybody past the rules who sends the
//! first fragment last: it changes nothing here, and whoever runs the chain may hold it until the first has come. Overlapping fragments end the whole datagram
//! (RFC 5722; RFC 8200, section 4.5), exact copies end alone. That the first fragment holds the upper-layer
//! header (RFC 1858, RFC 3128, RFC 7112) is seen to by parsing.

use std::time::Duration;

use arrayvec::ArrayVec;
use throughway_session::fragment::Piece;
use throughway_session::{Class, Config, InsertError, NewSession, Seed, SessionId, SessionTable, Side};
use throughway_vnf::{DropReason, Now};

/// More fragments of a datagram are not followed: 64 of 1280 bytes are more than a datagram can have.
pub(crate) const MOST: usize = 64;

/// The longest that fragments are waited for (RFC 8200, section 4.5).
const LONGEST: Duration = Duration::from_secs(60);

/// What was decided about a first fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fate {
    /// Passes, or ended for this reason.
    pub(crate) verdict: Result<(), DropReason>,
    /// The session it belongs to.
    pub(crate) session: Option<(SessionId, Side)>,
}

/// A datagram of which fragments are awaited.
#[derive(Clone, Debug)]
struct Datagram {
    fate: Fate,
    /// Those that were seen: first byte, and the one behind the last.
    seen: ArrayVec<(u16, u16), MOST>,
    /// Where it ends, once the last fragment was seen.
    end: Option<u16>,
    /// Why everything that follows is dropped.
    spoilt: Option<DropReason>,
}

impl Datagram {
    fn add(&mut self, piece: &Piece) -> Result<(), DropReason> {
        if let Some(reason) = self.spoilt {
            return Err(reason);
        }
        let Piece { start, end, last, .. } = *piece;
        if self.seen.contains(&(start, end)) && (!last || self.end == Some(end)) {
            return Err(DropReason::DuplicateFragment);
        }
        let overlaps = self.seen.iter().any(|&(from, to)| start < to && from < end);
        let beyond = match self.end {
            Some(known) => last || end > known,
            None => last && self.seen.iter().any(|&(_, to)| to > end),
        };
        let spoilt = if overlaps || beyond {
            Some(DropReason::FragmentOverlap)
        } else if self.seen.try_push((start, end)).is_err() {
            Some(DropReason::TooManyFragments)
        } else {
            None
        };
        if last && spoilt.is_none() {
            self.end = Some(end);
        }
        self.spoilt = spoilt;
        spoilt.map_or(Ok(()), Err)
    }

    /// Nothing overlaps, so lengths add up.
    fn is_complete(&self) -> bool {
        let bytes: u32 = self.seen.iter().map(|&(from, to)| u32::from(to - from)).sum();
        self.end.is_some_and(|end| u32::from(end) == bytes)
    }
}

/// What a fragment is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entered {
    /// The first of its datagram: to be judged, then [remembered](Fragments::remember).
    First,
    /// A later one, whose first was seen.
    Follows(Fate),
    /// It ends here.
    Refused(DropReason),
}

/// Datagrams of which fragments are awaited.
pub(crate) struct Fragments {
    table: SessionTable<Datagram>,
    capacity: u32,
    timeout: Duration,
}

impl Fragments {
    pub(crate) fn new(datagrams: u32, timeout: Duration, seed: Seed) -> Fragments {
        let table = SessionTable::new(Config::new(datagrams, seed));
        Fragments { table, capacity: datagrams.max(1), timeout: timeout.min(LONGEST) }
    }

    /// How many datagrams there are.
    pub(crate) fn len(&self) -> u32 {
        self.table.len()
    }

    /// Whether no other datagram has room.
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }

    /// Takes note of a fragment.
    pub(crate) fn enter(&self, piece: &Piece, now: Now) -> Entered {
        let found = self.table.lookup_with(&piece.datagram, now, |_, datagram, meta| {
            let added = datagram.add(piece);
            (added.map(|()| datagram.fate), datagram.is_complete().then(|| meta.id()))
        });
        match found {
            Some((added, complete)) => {
                // The identification may be used again.
                if let Some(id) = complete {
                    self.table.remove(id);
                }
                added.map_or_else(Entered::Refused, Entered::Follows)
            }
            None if piece.is_first() => Entered::First,
            None => Entered::Refused(DropReason::FragmentBeforeFirst),
        }
    }

    /// What [`Fragments::enter`] would say, changing nothing.
    pub(crate) fn peek(&self, piece: &Piece, now: Now) -> Entered {
        let found = self.table.lookup(&piece.datagram, now);
        match found.and_then(|found| self.table.read(found.id, |datagram, _| datagram.clone())) {
            Some(mut datagram) => match datagram.add(piece) {
                Ok(()) => Entered::Follows(datagram.fate),
                Err(reason) => Entered::Refused(reason),
            },
            None if piece.is_first() => Entered::First,
            None => Entered::Refused(DropReason::FragmentBeforeFirst),
        }
    }

    /// Keeps what was decided about a first fragment for those that follow.
    ///
    /// # Errors
    /// The first fragment has to be dropped itself: no room, or another worker judges a copy of it.
    pub(crate) fn remember(&self, piece: &Piece, fate: Fate, now: Now) -> Result<(), DropReason> {
        // What is dropped anyway must not fill the table: without an entry, the rest ends as "before first".
        if fate.verdict.is_err() && self.table.len() >= self.capacity / 2 {
            return Ok(());
        }
        let mut seen = ArrayVec::new();
        let _ = seen.try_push((piece.start, piece.end));
        let reverse = Piece::reverse(piece.datagram);
        let new = NewSession {
            forward: piece.datagram,
            reverse,
            class: Class::Established,
            timeout: self.timeout,
            state: Datagram { fate, seen, end: piece.last.then_some(piece.end), spoilt: None },
        };
        match self.table.insert(new, now, |_| {}) {
            Ok(_) => Ok(()),
            Err(InsertError::Conflict { .. } | InsertError::SameKey) => Err(DropReason::DuplicateFragment),
            Err(InsertError::Full | InsertError::Quota(_)) => Err(DropReason::FragmentTableFull),
        }
    }

    /// Forgets datagrams whose time is over, in a bounded slice.
    pub(crate) fn expire(&self, now: Now, budget: usize) {
        self.table.expire(now, budget, |_| {});
    }
}
