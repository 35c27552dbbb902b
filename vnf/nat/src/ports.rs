//! The ports of one outside address and one protocol.
//!
//! A port is free, taken, or at rest: after its last mapping ended it is not given to another one for a quiet time, so that
//! packets still on their way reach nobody they are not meant for (RFC 6888, REQ-8; TCP's 2 MSL, RFC 5382, REQ-5).
//!
//! Which free port a mapping gets cannot be guessed (RFC 6056): it is the first free one from a random place on. Finding it
//! takes the same few steps whether one port in a hundred is free or all are: two levels of summaries lead from any
//! place to the next word of the bitmap with a free port of the wanted parity. Ranges (a pool's ports, a block) are searched the
//! same way.

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
            let below = if at == first / 64 { (1 << (first % 64)) - 1 } else { 0 };
            let above = if at == last / 64 { u64::MAX >> (63 - last % 64) } else { u64::MAX };
            let Some(word) = ports.free.get_mut(at).filter(|_| first <= last) else { break };
            *word = above & !below;
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

    /// Takes a free port of that parity: the first from a random place on. `random` has to be unpredictable for who sends
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

    /// The first free port of `range` from a random place in it on, around its end.
    fn find(&self, range: &RangeInclusive<u16>, parity: Parity, random: u64) -> Option<u16> {
        let (first, last) = (*range.start(), *range.end());
        let span = u64::from(last.checked_sub(first)?) + 1;
        let start = first + (((random >> 32) * span) >> 32) as u16;
        self.next(start, parity)
            .filter(|port| *port <= last)
            .or_else(|| self.next(first, parity).filter(|port| *port < start))
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
        let of = |even: u64, odd: u64| match parity {
            Parity::Any => even | odd,
            Parity::Even => even,
            Parity::Odd => odd,
        };
        let [even, odd] = &self.words;
        let summary = |at: usize| Some(of(*even.get(at)?, *odd.get(at)?));
        let first = start / 64;
        let here = summary(first)? >> (start % 64);
        if here != 0 {
            return Some(start + here.trailing_zeros() as usize);
        }
        let [even, odd] = self.top.map(u64::from);
        let rest = of(even, odd) >> (first + 1);
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

    /// Brings the summaries of a word up to date.
    fn summarize(&mut self, at: usize) {
        let word = self.free.get(at).copied().unwrap_or(0);
        for (side, parity) in [Parity::Even, Parity::Odd].into_iter().enumerate() {
            let Some(summary) = self.words[side].get_mut(at / 64) else { return };
            let bit = 1u64 << (at % 64);
            *summary = if word & parity.mask() == 0 { *summary & !bit } else { *summary | bit };
            let bit = 1u16 << (at / 64);
            self.top[side] = if *summary == 0 { self.top[side] & !bit } else { self.top[side] | bit };
        }
    }
}
