//! How far the generator has come, and when the next burst is due.

use crate::{MIX, MIXED, Plan};

/// How far the generator has come. The program's own; user space begins with zeros and reads it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// CLOCK_MONOTONIC of the first turn, in ns; zero before it.
    pub origin: u64,
    /// The latest turn, in ns after the first.
    pub elapsed: u64,
    /// When the next burst is due, in 1/256 ns after the first.
    pub due: u64,
    /// Packets sent: the sequence number of the next.
    pub packets: u64,
    /// Bytes of their frames, without the frame check sequence.
    pub bytes: u64,
    /// Packets that were due and were given up, because the generator came too late.
    pub skipped: u64,
    /// Not zero when everything is sent.
    pub finished: u64,
    /// Flows that were begun after the first [`Plan::flows`].
    pub created: u64,
    /// New flows to begin in this burst.
    pub pending: u64,
    /// Whose turn it is, of the flows that exist.
    pub cursor: u64,
    /// How often the cursor has gone round.
    pub round: u64,
    /// The program's own: how far the kernel has come in its batch.
    pub position: u64,
    /// The program's own: whether this batch is sent.
    pub sending: u64,
}

const WORDS: usize = size_of::<State>() / 8;

/// What to do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Send one burst.
    Send,
    /// Nothing is due yet.
    Wait,
    /// All is sent.
    Finished,
}

/// What the next frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Its sequence number.
    pub sequence: u64,
    /// Its flow.
    pub flow: u32,
    /// How many packets of the flow came before, about: what TCP's sequence number grows by.
    pub round: u32,
    /// Whether it is the flow's first.
    pub first: bool,
    /// Index of its length in [`Plan::classes`], below [`crate::MAX_CLASSES`].
    pub class: usize,
}

/// 2^64 divided by the golden ratio: its multiples spread evenly, and so does every arithmetic progression of them (Knuth,
/// The Art of Computer Programming, volume 3, section 6.4). So each flow gets every length in the right share.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl State {
    /// Its size in words: there is no padding.
    pub const WORDS: usize = WORDS;

    /// The value that lies in the map as `words`.
    pub const fn from_words(words: &[u64; WORDS]) -> State {
        let &[
            origin,
            elapsed,
            due,
            packets,
            bytes,
            skipped,
            finished,
            created,
            pending,
            cursor,
            round,
            position,
            sending,
        ] = words;
        State {
            origin,
            elapsed,
            due,
            packets,
            bytes,
            skipped,
            finished,
            created,
            pending,
            cursor,
            round,
            position,
            sending,
        }
    }

    /// Whether a burst is due at `now` (CLOCK_MONOTONIC, ns). When it answers [`Turn::Send`], the burst counts as begun.
    #[inline(always)]
    pub fn turn(&mut self, plan: &Plan, now: u64) -> Turn {
        // Later turns are no part of the time that it took.
        if self.finished != 0 {
            return Turn::Finished;
        }
        if self.origin == 0 {
            self.origin = now;
        }
        let now = now.wrapping_sub(self.origin);
        self.elapsed = now;
        if now >= plan.end || self.packets >= plan.limit {
            self.finished = 1;
            return Turn::Finished;
        }
        #[allow(
            clippy::manual_checked_ops,
            reason = "zero is not the end of a division here, but: as fast as it goes"
        )]
        if plan.burst_time != 0 {
            let now = now << 8;
            if now < self.due {
                return Turn::Wait;
            }
            let late = now - self.due;
            if late > plan.patience {
                // Made up for at once, it would be a burst that no receiver was told of.
                let bursts = late / plan.burst_time;
                self.skipped += bursts * plan.burst;
                self.due += bursts * plan.burst_time;
            }
            self.due += plan.burst_time;
        }
        if plan.new_flows != 0 {
            let wanted = (now / 1000) * plan.new_flows / 1_000_000;
            self.pending = wanted.saturating_sub(self.created);
        }
        Turn::Send
    }

    /// The next packet of a burst; `None` when there are no more to send.
    #[inline(always)]
    pub fn next(&mut self, plan: &Plan) -> Option<Packet> {
        if self.packets >= plan.limit {
            return None;
        }
        let sequence = self.packets;
        let round = self.round as u32;
        // The oldest flow goes when a new one comes: those that exist are `created .. created + flows`.
        let (flow, first) = if self.pending != 0 {
            self.pending -= 1;
            self.created += 1;
            (self.created + plan.flows - 1, true)
        } else {
            let flow = self.created + self.cursor;
            let first = round == 0 && flow < plan.flows;
            self.cursor += 1;
            if self.cursor >= plan.flows {
                self.cursor = 0;
                self.round += 1;
            }
            (flow, first)
        };
        let class = if plan.has(MIXED) {
            let at = (sequence.wrapping_mul(GOLDEN) >> 56) as usize % MIX;
            plan.mix[at] as usize % crate::MAX_CLASSES
        } else {
            0
        };
        self.packets += 1;
        self.bytes += plan.classes[class].length;
        Some(Packet { sequence, flow: flow as u32, round, first, class })
    }

    /// How long it took to send what was sent, in ns: what is sent by a rate ends when the next burst would be due.
    pub fn duration(&self) -> u64 {
        self.elapsed.max(self.due >> 8)
    }
}
