//! Fragments that came before the first one of their datagram. Only the first has ports, so no function can judge them; the worker
//! holds them and has them judged again, from the start of the chain, when the first has come by (RFC 4787, REQ-14). Bounded: the
//! oldest makes room.

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use throughway_io::{Frame, PacketIo};
use throughway_packet::{Flags, Headers, PortId};
use throughway_session::SessionKey;
use throughway_session::fragment::Piece;
use throughway_vnf::{BATCH, Context, DropReason, Now};

use super::{End, Engine, Visit, walk};

/// How many fragments may wait in one worker: eleven of the largest datagrams, sent last fragment first.
pub const CAPACITY: usize = 512;
/// How long one waits, in nanoseconds. What a network reorders comes within milliseconds; a receiver may wait for a minute
/// (RFC 8200, section 4.5), but it holds its own datagrams only.
pub const PATIENCE: u64 = 1_000_000_000;
/// After so long, in nanoseconds, a fragment is judged again although no first one came by here: another worker may have had it.
pub const ELSEWHERE: u64 = 10_000_000;
/// After so many times judged again in vain a fragment is not woken any more: or first fragments for which a function has no room to
/// remember them, sent again and again, would have all of their datagram judged each time.
const TRIES: u8 = 3;
/// How often the waiting fragments are looked at, in nanoseconds.
const EVERY: u64 = 1_000_000;

/// One waiting fragment.
#[derive(Debug)]
pub(super) struct Early<F> {
    /// The frame, as received.
    frame: F,
    /// The interface it came in by.
    port: PortId,
    /// What it is of, whichever interface the others come in by.
    datagram: SessionKey,
    /// How many functions of its chain have counted it.
    counted: u8,
    /// How often it was judged again in vain.
    tries: u8,
    /// Since when it waits.
    since: Now,
}

/// The waiting fragments of one worker.
#[derive(Debug)]
pub(super) struct Waiting<F> {
    /// Those for which other workers have not been thought of, and the others; the oldest first.
    queues: [VecDeque<Early<F>>; 2],
    /// The datagrams of first fragments that have come by.
    came: ArrayVec<SessionKey, BATCH>,
    /// Fragments that are judged again now.
    woken: Vec<Early<F>>,
    looked: Now,
    capacity: usize,
}

impl<F> Default for Waiting<F> {
    fn default() -> Self {
        Waiting {
            queues: [VecDeque::with_capacity(CAPACITY), VecDeque::with_capacity(CAPACITY)],
            came: ArrayVec::new(),
            woken: Vec::with_capacity(CAPACITY),
            looked: Now(0),
            capacity: CAPACITY,
        }
    }
}

impl<F> Waiting<F> {
    /// Of a worker with so few frames that [`CAPACITY`] is too many of them: an eighth.
    pub(super) fn bound(&mut self, frames: usize) {
        self.capacity = CAPACITY.min(frames / 8).max(1);
    }

    /// The chains have changed: what functions had the fragments is no longer known.
    pub(super) fn forget_counted(&mut self) {
        self.queues.iter_mut().flatten().for_each(|early| early.counted = 0);
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.queues.iter().map(VecDeque::len).sum()
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    /// Adds a fragment; returns the one that had to make room for it.
    fn push(&mut self, early: Early<F>, asked: bool) -> Option<Early<F>> {
        let full = self.len() >= self.capacity;
        let [fresh, others] = &mut self.queues;
        let oldest = match (others.front(), fresh.front()) {
            _ if !full => None,
            (Some(other), Some(young)) if young.since < other.since => fresh.pop_front(),
            (Some(_), _) => others.pop_front(),
            (None, _) => fresh.pop_front(),
        };
        if asked {
            // Woken out of turn, it may be older than those that wait there.
            let behind = others.iter().rposition(|other| other.since <= early.since);
            others.insert(behind.map_or(0, |behind| behind + 1), early);
        } else {
            fresh.push_back(early);
        }
        oldest
    }

    /// Takes note of a first fragment that came by.
    fn first(&mut self, datagram: SessionKey) {
        let waits = |queue: &VecDeque<Early<F>>| {
            queue.iter().any(|early| early.datagram == datagram && early.tries < TRIES)
        };
        if self.queues.iter().any(waits) {
            // A batch has no more of them than there is room for.
            let _ = self.came.try_push(datagram);
        }
    }

    /// Puts those among the woken whose first fragment has come by.
    fn wake(&mut self) {
        for queue in self.queues.iter_mut().rev().filter(|_| !self.came.is_empty()) {
            for _ in 0..queue.len() {
                let Some(early) = queue.pop_front() else { break };
                if early.tries < TRIES && self.came.contains(&early.datagram) {
                    self.woken.push(early);
                } else {
                    queue.push_back(early);
                }
            }
        }
        self.came.clear();
    }

    /// Puts up to a batch among the woken of those that have waited long enough to be judged again, or too long.
    fn ripe(&mut self, now: Now) {
        for (queue, after) in self.queues.iter_mut().zip([ELSEWHERE, PATIENCE]) {
            let ripe = |early: &Early<F>| now.0.saturating_sub(early.since.0) >= after;
            for _ in 0..BATCH {
                if !queue.front().is_some_and(ripe) {
                    break;
                }
                self.woken.extend(queue.pop_front());
            }
        }
    }

    /// Takes out everything.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (F, PortId)> {
        self.queues.iter_mut().flat_map(|queue| queue.drain(..)).map(|early| (early.frame, early.port))
    }
}

/// What a fragment is of, whichever interface the others come in by.
fn datagram_of(frame: &[u8], headers: &Headers) -> Option<SessionKey> {
    Piece::of(frame, headers).map(|piece| SessionKey { zone: 0, ..piece.datagram })
}

impl<I: PacketIo> Engine<I> {
    /// Takes note of a packet that has been judged: perhaps it is the first fragment that others wait for.
    pub(super) fn first_came(&mut self, frame: &I::Frame, headers: &Headers) {
        let first = headers.flags.has(Flags::FRAGMENT) && !headers.flags.has(Flags::LATER_FRAGMENT);
        if first
            && !self.early.is_empty()
            && let Some(datagram) = datagram_of(frame.bytes(), headers)
        {
            self.early.first(datagram);
        }
    }

    /// Holds a fragment back that `counted` functions of its chain have counted.
    pub(super) fn await_first(&mut self, frame: I::Frame, headers: &Headers, counted: u8, now: Now) {
        let port = headers.ingress();
        match datagram_of(frame.bytes(), headers) {
            Some(datagram) => {
                self.hold_early(Early { frame, port, datagram, counted, tries: 0, since: now }, false)
            }
            None => self.end(frame, port, DropReason::FragmentBeforeFirst),
        }
    }

    fn hold_early(&mut self, early: Early<I::Frame>, asked: bool) {
        if let Some(oldest) = self.early.push(early, asked) {
            self.taps.look_at_one(oldest.frame.bytes(), oldest.port, oldest.since);
            self.lose(oldest, DropReason::FragmentQueueFull);
            self.taps.done();
        }
        self.stats.held_fragments.set(self.early.len() as u64);
    }

    /// Judges those again whose first fragment has come by.
    pub(super) fn release_woken(&mut self, context: &Context) {
        self.early.wake();
        self.judge_woken(context);
    }

    /// Judges those again that have waited for a while, and gives up on those that waited too long.
    pub(super) fn release_ripe(&mut self, context: &Context) {
        if self.early.is_empty() || context.now.0.saturating_sub(self.early.looked.0) < EVERY {
            return;
        }
        self.early.looked = context.now;
        self.early.ripe(context.now);
        self.judge_woken(context);
    }

    fn judge_woken(&mut self, context: &Context) {
        if self.early.woken.is_empty() {
            return;
        }
        let mut woken = std::mem::take(&mut self.early.woken);
        for early in woken.drain(..) {
            self.judge_again(early, context);
        }
        self.early.woken = woken;
        self.stats.held_fragments.set(self.early.len() as u64);
    }

    fn judge_again(&mut self, early: Early<I::Frame>, context: &Context) {
        self.taps.look_at_one(early.frame.bytes(), early.port, early.since);
        self.judge_looked_at(early, context);
        self.taps.done();
    }

    fn judge_looked_at(&mut self, early: Early<I::Frame>, context: &Context) {
        // A reload meanwhile may have changed what walks it.
        let Some(chain) = self.program.chain_of(early.port) else {
            return self.end(early.frame, early.port, DropReason::NoChain);
        };
        let parsed = throughway_packet::parse(early.frame.bytes(), early.port).map_err(DropReason::from);
        let (frames, parsed) = (std::slice::from_ref(&early.frame), std::slice::from_ref(&parsed));
        let visit = Visit::Again { counted: early.counted.into() };
        let (program, links) = (&mut self.program, &self.links);
        let outcome = walk(program, Some(chain), links, (frames, parsed), visit, context, |_, _| {}).pop();
        let Some(outcome) = outcome else {
            return self.end(early.frame, early.port, DropReason::FragmentBeforeFirst);
        };
        self.stats.uses.mark(&outcome.dependencies);
        if matches!(outcome.end, End::Drop(DropReason::FragmentBeforeFirst, _)) {
            let counted = early.counted.max(outcome.rewrite.action.judged);
            let early = Early { counted, tries: early.tries.saturating_add(1), ..early };
            if context.now.0.saturating_sub(early.since.0) < PATIENCE {
                self.hold_early(early, true);
            } else {
                self.lose(early, DropReason::FragmentBeforeFirst);
            }
            return;
        }
        self.conclude(early.frame, Some(chain), outcome, context);
    }

    /// A fragment ends that waited in vain: the function that could not judge it has dropped it after all.
    fn lose(&mut self, early: Early<I::Frame>, reason: DropReason) {
        self.program.lost(early.port, early.counted.into());
        self.end(early.frame, early.port, reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn early(id: u8, since: u64) -> Early<u8> {
        let datagram = SessionKey { source_port: [0, id], ..SessionKey::default() };
        Early { frame: id, port: PortId(0), datagram, counted: 1, tries: 0, since: Now(since) }
    }

    fn woken(waiting: &mut Waiting<u8>) -> Vec<u8> {
        waiting.woken.drain(..).map(|early| early.frame).collect()
    }

    #[test]
    fn the_oldest_makes_room_wherever_it_waits() {
        let mut waiting = Waiting::default();
        for at in 0..CAPACITY as u64 {
            assert!(waiting.push(early(at as u8, at + 10), at % 2 == 0).is_none());
        }
        for at in 0..4 {
            let oldest = waiting.push(early(9, 5000 + at), at == 0);
            assert_eq!(oldest.map(|early| early.since), Some(Now(at + 10)));
            assert_eq!(waiting.len(), CAPACITY);
        }
    }

    #[test]
    fn who_was_woken_in_vain_keeps_its_age() {
        let mut waiting = Waiting::default();
        waiting.push(early(2, 900), true);
        waiting.push(early(1, 0), true);
        waiting.push(early(3, 950), true);
        waiting.ripe(Now(PATIENCE));
        assert_eq!(woken(&mut waiting), [1]);
        waiting.ripe(Now(PATIENCE + 950));
        assert_eq!(woken(&mut waiting), [2, 3]);
    }

    #[test]
    fn few_frames_are_not_all_for_those_that_wait() {
        let mut waiting = Waiting::default();
        waiting.bound(1024);
        for since in 0..128 {
            assert!(waiting.push(early(1, since), false).is_none());
        }
        assert_eq!(waiting.push(early(1, 128), false).map(|oldest| oldest.since), Some(Now(0)));
    }

    #[test]
    fn those_of_a_datagram_wake_in_order_when_its_first_comes() {
        let mut waiting = Waiting::default();
        for (id, since) in [(1, 1), (2, 2), (1, 3), (3, 4), (1, 5)] {
            waiting.push(early(id, since), false);
        }
        waiting.first(early(7, 0).datagram);
        waiting.wake();
        assert!(waiting.woken.is_empty(), "nobody waits for it");
        waiting.first(early(1, 0).datagram);
        waiting.wake();
        let since: Vec<_> = waiting.woken.drain(..).map(|early| early.since.0).collect();
        assert_eq!((since, waiting.len()), (vec![1, 3, 5], 2));
    }

    #[test]
    fn who_was_woken_in_vain_too_often_sleeps_on() {
        let mut waiting = Waiting::default();
        waiting.push(Early { tries: TRIES - 1, ..early(1, 1) }, true);
        waiting.push(Early { tries: TRIES, ..early(1, 2) }, true);
        waiting.first(early(1, 0).datagram);
        waiting.wake();
        assert_eq!((woken(&mut waiting).len(), waiting.len()), (1, 1));
        waiting.first(early(1, 0).datagram);
        assert!(waiting.came.is_empty());
    }

    #[test]
    fn they_ripen_twice() {
        let mut waiting = Waiting::default();
        waiting.push(early(1, 0), false);
        waiting.push(early(2, 0), true);
        waiting.ripe(Now(ELSEWHERE - 1));
        assert!(waiting.woken.is_empty());
        waiting.ripe(Now(ELSEWHERE));
        assert_eq!(woken(&mut waiting), [1]);
        waiting.ripe(Now(PATIENCE - 1));
        assert!(waiting.woken.is_empty());
        waiting.ripe(Now(PATIENCE));
        assert_eq!(woken(&mut waiting), [2]);
    }
}
