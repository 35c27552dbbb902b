//! The ports of one outside address and one protocol.
//!
//! A port is free, taken, or at rest: after its last mapping ended it is not given to another one for a quiet time, so that
//! packets still on their way reach nobody they are not meant for (RFC 6888, REQ-8; TCP's 2 MSL, RFC 5382, REQ-5).
//!
//! Which free port a mapping gets cannot be guessed (RFC 6056): it is a random one of the first word of 64 ports that has any, from a
//! random place on. Finding it takes the same few steps whether one port in a hundred is free or all are: a summary leads from any place to
//! the next word of the bitmap with a free port of the wanted parity, and a second one beyond what one summary covers. Ranges (a
//! pool's ports, a block) are searched the same way.

use std::collections::{BTreeSet, VecDeque};
use std::ops::RangeInclusive;

/// Words of 64 ports.
const WORDS: usize = 1 << 10;
/// Words of the summary: a bit for each word of ports.
const SUMMARY: usize = WORDS / 64;
/// Ports that come back from rest in one step at most: more than are taken in one.
const WAKING: usize = 2;
/// … and when none is free otherwise.
const WAKING_WHEN_SHORT: usize = 64;

/// Whether a port has to be even or odd (RFC 4787, REQ-4: RTP and RTCP).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Parity {
    /// Either.
    #[default]
    Any,
    /// Even.
    Even,
    /// Odd.
    Odd,
}

impl Parity {
    /// The parity of `port`.
    pub const fn of(port: u16) -> Parity {
        if port.is_multiple_of(2) { Parity::Even } else { Parity::Odd }
    }

    /// Of what is known of even and of odd ports.
    const fn of_either(self, even: u64, odd: u64) -> u64 {
        match self {
            Parity::Any => even | odd,
            Parity::Even => even,
            Parity::Odd => odd,
        }
    }

    /// The ports of a word that have it.
    const fn mask(self) -> u64 {
        match self {
            Parity::Any => u64::MAX,
            Parity::Even => 0x5555_5555_5555_5555,
            Parity::Odd => 0xaaaa_aaaa_aaaa_aaaa,
        }
    }
}

/// The ports of one address and protocol. 8.6 KiB, and 8 bytes for each port at rest.
#[derive(Clone, Debug)]
pub struct Ports {
    /// A bit for each port that is free.
    free: Box<[u64; WORDS]>,
    /// For even and odd ports, a bit for each word with a free one.
    words: [[u64; SUMMARY]; 2],
    /// For even and odd ports, a bit for each word of the summary that is not zero.
    top: [u16; 2],
    available: u32,
    owned: u32,
    resting: VecDeque<Resting>,
    /// Ports that somebody else uses.
    excluded: BTreeSet<u16>,
    /// Of these, the ones that are not in use here.
    withheld: BTreeSet<u16>,
    /// How long a port rests (ns).
    quiet: u64,
}

#[derive(Clone, Copy, Debug)]
struct Resting {
    port: u16,
    /// In ticks of 2²⁸ ns (0.27 s), rounded up.
    until: u32,
}

/// Of the 64 places from 64 × `at` on, those that are from `first` to `last`. At least one has to be.
fn within(first: usize, last: usize, at: usize) -> u64 {
    let (from, to) = (first.saturating_sub(at * 64), (at * 64 + 63).saturating_sub(last));
    (u64::MAX << (from % 64)) & (u64::MAX >> (to % 64))
}

/// The first bit from `from` on that is set, around the end.
fn one_of(bits: u64, from: u32) -> Option<usize> {
    let at = (bits.rotate_right(from).trailing_zeros() + from) % 64;
    (bits != 0).then_some(at as usize)
}

const fn tick(time: u64) -> u32 {
    (time >> 28) as u32
}

impl Ports {
    /// All ports of `range` free; after use a port rests for `quiet` ns.
    pub fn new(range: RangeInclusive<u16>, quiet: u64) -> Ports {
        let mut ports = Ports {
            free: Box::new([0; WORDS]),
            words: [[0; SUMMARY]; 2],
            top: [0; 2],
            available: 0,
            owned: 0,
            resting: VecDeque::new(),
            excluded: BTreeSet::new(),
            withheld: BTreeSet::new(),
            quiet,
        };
        // Word by word: port by port would take a moment for each address that is used first.
        let (first, last) = (usize::from(*range.start()), usize::from(*range.end()));
        for at in first / 64..=last / 64 {
            let Some(word) = ports.free.get_mut(at).filter(|_| first <= last) else { break };
            *word = within(first, last, at);
            ports.available += word.count_ones();
            ports.summarize(at);
        }
        ports.owned = ports.available;
        ports
    }

    /// How many ports could be taken now.
    pub fn available(&self) -> usize {
        self.available as usize
    }

    /// How many ports of a range could be taken now.
    pub fn available_in(&self, range: &RangeInclusive<u16>) -> usize {
        let (first, last) = (usize::from(*range.start()), usize::from(*range.end()));
        let words = self.free.iter().enumerate().take(last / 64 + 1).skip(first / 64);
        let count = |(at, word): (usize, &u64)| (word & within(first, last, at)).count_ones() as usize;
        if first > last { 0 } else { words.map(count).sum() }
    }

    /// How many there are: free, taken and at rest.
    pub fn owned(&self) -> usize {
        self.owned as usize
    }

    /// How many rest.
    pub fn resting(&self) -> usize {
        self.resting.len()
    }

    /// Gives up a port as soon as it is free: somebody else uses it (the kernel, a port forward). Says whether it was free.
    pub fn exclude(&mut self, port: u16) -> bool {
        self.excluded.insert(port);
        let taken = self.pull(port);
        if taken {
            self.owned -= 1;
            self.withheld.insert(port);
        }
        taken
    }

    /// Exactly these ports are [excluded](Ports::exclude) from now on.
    pub fn exclude_only(&mut self, ports: &BTreeSet<u16>) {
        self.excluded.retain(|port| ports.contains(port));
        let back: Vec<u16> = self.withheld.iter().filter(|port| !ports.contains(port)).copied().collect();
        for port in back {
            self.withheld.remove(&port);
            self.owned += 1;
            self.put(port);
        }
        for port in ports {
            self.exclude(*port);
        }
    }

    /// Takes this very port, if it is free: port preservation.
    pub fn take(&mut self, port: u16, now: u64) -> bool {
        self.wake(now, WAKING);
        self.pull(port)
    }

    /// Takes a free port of that parity near a random place. `random` has to be unpredictable for who sends
    /// packets. `None` when none is free.
    pub fn take_any(&mut self, parity: Parity, random: u64, now: u64) -> Option<u16> {
        self.take_in(0..=u16::MAX, parity, random, now)
    }

    /// [`Ports::take_any`] of these ports only.
    pub fn take_in(
        &mut self,
        range: RangeInclusive<u16>,
        parity: Parity,
        random: u64,
        now: u64,
    ) -> Option<u16> {
        self.wake(now, WAKING);
        let port = self.find(&range, parity, random).or_else(|| {
            // Perhaps one has only just rested long enough.
            let woken = self.wake(now, WAKING_WHEN_SHORT);
            if woken > 0 { self.find(&range, parity, random) } else { None }
        })?;
        self.pull(port).then_some(port)
    }

    /// A free port of `range` near a random place in it.
    fn find(&self, range: &RangeInclusive<u16>, parity: Parity, random: u64) -> Option<u16> {
        let (first, last) = (*range.start(), *range.end());
        let span = u64::from(last.checked_sub(first)?) + 1;
        let start = first + (((random >> 32) * span) >> 32) as u16;
        self.near(range, start, parity, random).or_else(|| {
            let port = self.next(start, parity).filter(|port| *port <= last);
            port.or_else(|| self.next(first, parity).filter(|port| *port < start))
        })
    }

    /// A free port of `range` among the 4096 around `start`: a random one of a word that has any, from that of `start` on, around the
    /// end of the 4096. No step depends on how many are free, as long as one is.
    fn near(&self, range: &RangeInclusive<u16>, start: u16, parity: Parity, random: u64) -> Option<u16> {
        let (first, last) = (usize::from(*range.start()), usize::from(*range.end()));
        let (word, [even, odd]) = (usize::from(start) / 64, &self.words);
        let part = word / 64;
        let some = parity.of_either(*even.get(part)?, *odd.get(part)?);
        let at = part * 64 + one_of(some & within(first / 64, last / 64, part), word as u32 % 64)?;
        let free = self.free.get(at)? & parity.mask() & within(first, last, at);
        Some((at * 64 + one_of(free, random as u32 % 64)?) as u16)
    }

    /// Gives a taken port back: it rests, then it is free again. Giving back what was not taken is for the caller to avoid: such
    /// a port would be free although it is not ours.
    pub fn give_back(&mut self, port: u16, now: u64) {
        if self.quiet == 0 {
            self.release(port);
            return;
        }
        let until = tick(now.saturating_add(self.quiet)).saturating_add(1);
        self.resting.push_back(Resting { port, until });
    }

    /// Gives a taken port back that nobody has used: it is free at once, unless it is excluded.
    pub fn release(&mut self, port: u16) {
        if self.excluded.contains(&port) {
            self.owned -= 1;
            self.withheld.insert(port);
        } else {
            self.put(port);
        }
    }

    /// The ports that rest, and until when (ns), in the order in which they wake.
    pub fn rests(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.resting.iter().map(|resting| (resting.port, u64::from(resting.until) << 28))
    }

    /// A free port rests until then (ns): for those that have rested in an earlier instance, in the order in which they wake.
    pub fn rest_until(&mut self, port: u16, until: u64) {
        if self.pull(port) {
            self.resting.push_back(Resting { port, until: tick(until) });
        }
    }

    /// Frees ports that have rested long enough, `most` at a time: a few with every take, so that ports come back faster than they
    /// go. Says how many.
    pub fn wake(&mut self, now: u64, most: usize) -> usize {
        let mut woken = 0;
        while woken < most {
            match self.resting.front() {
                Some(resting) if resting.until <= tick(now) => {
                    let port = resting.port;
                    self.resting.pop_front();
                    self.release(port);
                    woken += 1;
                }
                _ => break,
            }
        }
        woken
    }

    /// The first free port of that parity from `from` on.
    fn next(&self, from: u16, parity: Parity) -> Option<u16> {
        let at = usize::from(from) / 64;
        let here = self.free.get(at)? & parity.mask() & u64::MAX << (from % 64);
        if here != 0 {
            return Some((at * 64) as u16 + here.trailing_zeros() as u16);
        }
        let at = self.word_from(at + 1, parity)?;
        let candidates = self.free.get(at)? & parity.mask();
        (candidates != 0).then(|| (at * 64) as u16 + candidates.trailing_zeros() as u16)
    }

    /// The first word from `start` on with a free port of that parity.
    fn word_from(&self, start: usize, parity: Parity) -> Option<usize> {
        let [even, odd] = &self.words;
        let summary = |at: usize| Some(parity.of_either(*even.get(at)?, *odd.get(at)?));
        let first = start / 64;
        let here = summary(first)? >> (start % 64);
        if here != 0 {
            return Some(start + here.trailing_zeros() as usize);
        }
        let [even, odd] = self.top.map(u64::from);
        let rest = parity.of_either(even, odd) >> (first + 1);
        let at = first + 1 + rest.trailing_zeros() as usize;
        Some(at * 64 + summary(at)?.trailing_zeros() as usize)
    }

    fn pull(&mut self, port: u16) -> bool {
        let (at, bit) = (usize::from(port) / 64, 1u64 << (port % 64));
        let Some(word) = self.free.get_mut(at) else { return false };
        if *word & bit == 0 {
            return false;
        }
        *word &= !bit;
        self.available -= 1;
        self.summarize(at);
        true
    }

    fn put(&mut self, port: u16) {
        let (at, bit) = (usize::from(port) / 64, 1u64 << (port % 64));
        let Some(word) = self.free.get_mut(at) else { return };
        self.available += u32::from(*word & bit == 0);
        *word |= bit;
        self.summarize(at);
    }

    /// Brings the summaries of a word up to date. Without a branch: in a pool that is nearly used up, whether a word has a free
    /// port is as good as random, and each wrong guess of the processor costs as much as all the rest.
    fn summarize(&mut self, at: usize) {
        let word = self.free.get(at).copied().unwrap_or(0);
        for (side, parity) in [Parity::Even, Parity::Odd].into_iter().enumerate() {
            let Some(summary) = self.words[side].get_mut(at / 64) else { return };
            let (bit, some) = (at % 64, u64::from(word & parity.mask() != 0));
            *summary = *summary & !(1 << bit) | some << bit;
            let (bit, some) = (at / 64, u16::from(*summary != 0));
            self.top[side] = self.top[side] & !(1 << bit) | some << bit;
        }
    }
}
