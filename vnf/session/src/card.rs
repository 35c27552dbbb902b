//! What a lookup needs of a session, in one cache line that is read without a lock: both keys, generation, last life sign, timeout.
//!
//! Two full keys would take 80 bytes; nearly all sessions are IPv4 on both sides, or one side is the other reversed. The rest
//! (translated IPv6) keeps its reverse key in a spare cell.
//!
//! Generations are odd while a session lives and even while the slot is vacant. Keys change only while it is even, so who finds the
//! same odd generation before and after reading them has read them whole (a sequence lock: H.-J. Boehm, *Can seqlocks get along
//! with programming language memory models?*, MSPC 2012).

use crate::key::{SessionKey, Side, Words};
use crate::quota::Class;
use crate::sync::{AtomicU64, Ordering, fence, publish};
use crate::wheel::Link;

/// The generation after which a slot is not used again, so that handles stay unique.
pub(crate) const LAST_GENERATION: u32 = u32::MAX - 2;
/// The longest timeout a card can hold, in ticks: two years.
pub(crate) const LONGEST: u32 = (1 << 30) - 1;

const TAIL: usize = 4;
const LINK: usize = 5;
const LIFE: usize = 6;
const TERMS: usize = 7;

/// How the keys lie in the first five words.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Forward addresses, forward tail, reverse addresses, reverse tail.
    Narrow,
    /// Source, destination, tail of the forward key. The reverse one has them exchanged; its zone is in the terms.
    Mirrored,
    /// Source, destination, tail of the forward key. The reverse one is in the spare cell whose number is in the terms.
    Apart,
}

/// The last word.
#[derive(Clone, Copy)]
struct Terms {
    /// Ticks from the last life sign to the end.
    timeout: u32,
    /// See [`Form`].
    extra: u32,
    form: Form,
    class: Class,
}

impl Terms {
    #[inline]
    fn word(self) -> u64 {
        let timeout = u64::from(self.timeout.min(LONGEST));
        timeout << 34 | u64::from(self.extra & LONGEST) << 4 | (self.form as u64) << 2 | self.class as u64
    }

    #[inline]
    fn of(word: u64) -> Terms {
        let form = match word >> 2 & 3 {
            0 => Form::Narrow,
            1 => Form::Mirrored,
            _ => Form::Apart,
        };
        let class = match word & 3 {
            0 => Class::HalfOpen,
            1 => Class::Established,
            _ => Class::Closing,
        };
        Terms { timeout: (word >> 34) as u32, extra: (word >> 4) as u32 & LONGEST, form, class }
    }
}

/// The generation of a slot in the upper half, the last life sign in the lower. One `max` of the whole word is then a
/// life sign for the right session, and without effect on a later one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    fn of(word: u64) -> Life {
        Life { generation: (word >> 32) as u32, seen: word as u32 }
    }

    #[inline]
    pub(crate) fn is_living(self) -> bool {
        self.generation & 1 == 1
    }
}

/// When and as what a session lives.
#[derive(Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) life: Life,
    /// In ticks.
    pub(crate) timeout: u32,
    pub(crate) class: Class,
}

impl Standing {
    #[inline]
    pub(crate) fn deadline(&self) -> u32 {
        self.life.seen.saturating_add(self.timeout)
    }
}

/// A reverse key that does not fit into its card. Vacant, its first word leads to the next vacant one.
pub(crate) struct Spare([AtomicU64; 5]);

impl Spare {
    pub(crate) fn new() -> Self {
        Spare(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// The next vacant one, of a vacant one.
    pub(crate) fn next(&self) -> u32 {
        self.0[0].load(Ordering::Relaxed) as u32
    }

    /// See [`Spare::next`].
    pub(crate) fn set_next(&self, next: u32) {
        self.0[0].store(u64::from(next), Ordering::Relaxed);
    }

    fn words(&self) -> Words {
        Words(std::array::from_fn(|word| self.0.get(word).map_or(0, |word| word.load(Ordering::Relaxed))))
    }

    fn keep(&self, words: &Words) {
        for (cell, word) in self.0.iter().zip(words.0) {
            cell.store(word, Ordering::Relaxed);
        }
    }
}

#[repr(align(64))]
pub(crate) struct Card([AtomicU64; 8]);

#[cfg(not(loom))]
const _: () = assert!(size_of::<Card>() == 64);

impl Card {
    #[inline]
    pub(crate) fn new() -> Self {
        // Word by word: thousands are made at a time.
        let word = |word: usize| {
            AtomicU64::new(match word {
                LIFE => Life { generation: 2, seen: 0 }.word(),
                LINK => Link::DETACHED.to_bits(),
                _ => 0,
            })
        };
        Card([word(0), word(1), word(2), word(3), word(TAIL), word(LINK), word(LIFE), word(TERMS)])
    }

    /// Writes the keys of the session that is to be born here; `spare` gives a spare cell with its number if one is needed, and
    /// may fail: then nothing is born. The shard's lock must be held.
    #[inline]
    pub(crate) fn write<'a>(
        &self,
        [forward, reverse]: &[Words; 2],
        class: Class,
        timeout: u32,
        spare: impl FnOnce() -> Option<(u32, &'a Spare)>,
    ) -> Option<()> {
        // Who reads one of the words below sees the death of the predecessor, too.
        fence(Ordering::Release);
        let (form, extra) = if let (Some(there), Some(back)) = (forward.narrow(), reverse.narrow()) {
            let [a, b, c, d, ..] = &self.0;
            a.store(there, Ordering::Relaxed);
            b.store(forward.tail(), Ordering::Relaxed);
            c.store(back, Ordering::Relaxed);
            d.store(reverse.tail(), Ordering::Relaxed);
            (Form::Narrow, 0)
        } else {
            for (cell, word) in self.0.iter().zip(forward.0) {
                cell.store(word, Ordering::Relaxed);
            }
            if forward.reversed().without_zone() == reverse.without_zone() {
                (Form::Mirrored, u32::from(reverse.zone()))
            } else {
                let (number, cell) = spare()?;
                cell.keep(reverse);
                (Form::Apart, number)
            }
        };
        self.0[TERMS].store(Terms { timeout, extra, form, class }.word(), Ordering::Relaxed);
        Some(())
    }

    /// Whether one side's key is `wanted`. Meaningful only if the session was the same before and after.
    #[inline]
    fn has<'a>(
        &self,
        terms: Terms,
        side: Side,
        wanted: &Words,
        spare: impl FnOnce(u32) -> Option<&'a Spare>,
    ) -> bool {
        let is = |word: usize, value: u64| self.load(word) == value;
        match (terms.form, side) {
            (Form::Narrow, _) => {
                let begin = side.index() * 2;
                wanted.narrow().is_some_and(|addresses| is(begin, addresses)) && is(begin + 1, wanted.tail())
            }
            (Form::Mirrored, Side::Reverse) => {
                u32::from(wanted.zone()) == terms.extra
                    && self.forward().without_zone() == wanted.reversed().without_zone()
            }
            (Form::Apart, Side::Reverse) => spare(terms.extra).is_some_and(|spare| spare.words() == *wanted),
            (_, Side::Forward) => self.forward() == *wanted,
        }
    }

    /// The session, if one lives here and `wanted` is the key of its `side`.
    #[inline]
    pub(crate) fn find<'a>(
        &self,
        side: Side,
        wanted: &Words,
        spare: impl FnOnce(u32) -> Option<&'a Spare>,
    ) -> Option<Standing> {
        let before = Life::of(self.0[LIFE].load(Ordering::Acquire));
        let terms = self.terms();
        if !before.is_living() || !self.has(terms, side, wanted, spare) {
            return None;
        }
        self.settled(before.generation, terms)
    }

    /// Both keys of the session of this generation.
    pub(crate) fn keys<'a>(
        &self,
        generation: u32,
        spare: impl FnOnce(u32) -> Option<&'a Spare>,
    ) -> Option<[SessionKey; 2]> {
        let before = Life::of(self.0[LIFE].load(Ordering::Acquire));
        let terms = self.terms();
        let keys = match terms.form {
            Form::Narrow => {
                [Words::widened(self.load(0), self.load(1)), Words::widened(self.load(2), self.load(3))]
            }
            Form::Mirrored => [self.forward(), self.forward().reversed().in_zone(terms.extra as u16)],
            Form::Apart => [self.forward(), spare(terms.extra)?.words()],
        };
        if before.generation != generation || !before.is_living() {
            return None;
        }
        let [forward, reverse] = keys;
        self.settled(generation, terms).map(|_| [forward.key(), reverse.key()])
    }

    /// What was read since this generation was seen is its own, if it still lasts.
    #[inline]
    fn settled(&self, generation: u32, terms: Terms) -> Option<Standing> {
        fence(Ordering::Acquire);
        // After the terms: who changes both writes the life sign first, so a new timeout never meets an old life sign.
        let life = self.life();
        let standing = Standing { life, timeout: terms.timeout, class: terms.class };
        (life.generation == generation).then_some(standing)
    }

    /// The session of this generation.
    #[inline]
    pub(crate) fn standing(&self, generation: u32) -> Option<Standing> {
        let terms = self.terms();
        if generation & 1 == 1 { self.settled(generation, terms) } else { None }
    }

    /// The session that lives here. The shard's lock must be held, so that it cannot end.
    #[inline]
    pub(crate) fn under_lock(&self) -> Standing {
        let Terms { timeout, class, .. } = self.terms();
        Standing { life: self.life(), timeout, class }
    }

    /// The session that lives here, whichever.
    #[inline]
    pub(crate) fn present(&self) -> Option<Standing> {
        self.standing(self.life().generation)
    }

    #[inline]
    pub(crate) fn life(&self) -> Life {
        Life::of(self.load(LIFE))
    }

    /// Begins the life of the session that was written. The shard's lock must be held.
    #[inline]
    pub(crate) fn begin(&self, seen: u32) -> u32 {
        let generation = self.life().generation.saturating_add(1);
        publish(&self.0[LIFE], Life { generation, seen }.word());
        generation
    }

    /// Ends a generation if `decide` agrees, given its standing. A life sign that comes in meanwhile is decided upon again. The
    /// shard's lock must be held. Returns how it stood.
    pub(crate) fn end(&self, generation: u32, decide: impl Fn(&Standing) -> bool) -> Option<Standing> {
        loop {
            let standing = self.standing(generation)?;
            if !decide(&standing) {
                return None;
            }
            let next = Life { generation: generation.saturating_add(1), seen: 0 };
            let swapped = self.0[LIFE].compare_exchange(
                standing.life.word(),
                next.word(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            if swapped.is_ok() {
                return Some(standing);
            }
        }
    }

    /// A life sign for a generation; says whether it still lasts.
    #[inline]
    pub(crate) fn sign(&self, generation: u32, seen: u32) -> bool {
        let known = self.life();
        if known.generation != generation || !known.is_living() {
            return false;
        }
        // A slot's generation only grows: if the session goes between these two steps, the maximum is the newer one's.
        let sign = Life { generation, seen }.word();
        known.seen >= seen || self.0[LIFE].fetch_max(sign, Ordering::Relaxed) >> 32 == sign >> 32
    }

    /// The shard's lock must be held, and the life sign that belongs to the timeout be given already.
    pub(crate) fn set_timeout(&self, timeout: u32) {
        self.0[TERMS].store(Terms { timeout, ..self.terms() }.word(), Ordering::Release);
    }

    /// The shard's lock must be held.
    pub(crate) fn set_class(&self, class: Class) {
        self.0[TERMS].store(Terms { class, ..self.terms() }.word(), Ordering::Release);
    }

    /// The number of the spare cell in use. The shard's lock must be held.
    pub(crate) fn spare(&self) -> Option<u32> {
        let terms = self.terms();
        (terms.form == Form::Apart).then_some(terms.extra)
    }

    /// The place in the wheel, or in the list of vacant slots. The shard's lock must be held.
    pub(crate) fn link(&self) -> Link {
        Link::from_bits(self.load(LINK))
    }

    /// See [`Card::link`].
    pub(crate) fn set_link(&self, link: Link) {
        self.0[LINK].store(link.to_bits(), Ordering::Relaxed);
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn age(&self, generation: u32) {
        self.0[LIFE].store(Life { generation, seen: 0 }.word(), Ordering::Relaxed);
    }

    #[inline]
    fn terms(&self) -> Terms {
        Terms::of(self.load(TERMS))
    }

    #[inline]
    fn forward(&self) -> Words {
        Words([self.load(0), self.load(1), self.load(2), self.load(3), self.load(TAIL)])
    }

    #[inline]
    fn load(&self, word: usize) -> u64 {
        self.0.get(word).map_or(0, |word| word.load(Ordering::Relaxed))
    }
}
