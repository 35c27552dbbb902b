//! How a cached answer knows that it is still true, without anybody sweeping the caches.
//!
//! There is one number, the *generation*, and a table of *slots*. A slot stands for something that answers are made from:
//! the configuration, the routes to a block of addresses, one neighbour, one session. It holds the generation at which
//! that last changed. An entry holds the generation at which it was made or last found true, and the slots it was made from.
//!
//! Who changes a table publishes it first and then calls [`Generations::bump`]. Who reads tables takes an [`Epoch`] first,
//! once per batch. Then an entry of this generation is true (one comparison); an entry of an earlier one is true if none
//! of its slots has changed since ([`Epoch::unchanged`]), and may take the new generation; every other entry is stale.
//!
//! **Why this is right.** A bump writes *g* into its slots and then moves the generation from *g − 1* to *g*, in one step
//! that fails if somebody else was faster (it is then repeated with a larger *g*). A worker that reads generation *g* or a
//! later one therefore sees the new tables and the slots. A worker that may have seen the old ones has read at most
//! *g − 1*, so what it makes is older than the slot, and the first later batch that reads *g* finds it stale.
//!
//! Several things share a slot by hashing, which can make an entry stale too early and never keep it true too long.

//!
//! The generation and the slots are plain words, and they may lie in memory that others read too ([`Generations::over`]): the
//! XDP program then sees a change in the same instant as the workers.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use throughway_packet::PortId;
use throughway_packet::headers::octets;
use throughway_shared::fast;
use throughway_shared::flow::MAPPED_PREFIX;

/// How many slots there are.
pub const SLOTS: usize = 1 << 16;

/// How many words the slots and the generation are: slot *n* is word *n*, the generation is the last.
const WORDS: usize = SLOTS + 1;

// What the XDP program reads is what is written here.
const _: () = assert!(fast::SLOTS == SLOTS && fast::CURRENT == SLOTS && fast::HORIZON == HORIZON);
const _: () =
    assert!(fast::SLOT_CONFIG == Slot::CONFIG.0 as usize && fast::SLOT_ROUTES == Slot::ROUTES.0 as usize);

/// How many blocks of addresses one change may name before it counts as a change of all routes.
const MOST_BLOCKS: u32 = 256;

/// Entries this many generations old are stale, whatever their slots say, and no slot is kept older than that: so that
/// comparing numbers that wrap around stays right.
const HORIZON: u32 = 1 << 30;

/// Something that answers are made from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Slot(u16);

impl Slot {
    /// The configuration: everything. Every entry depends on it.
    pub const CONFIG: Slot = Slot(0);
    /// All routes of both families. Every entry depends on it.
    pub const ROUTES: Slot = Slot(1);
    /// Changes with every bump: for an entry that depends on more than it can name.
    pub const ANY: Slot = Slot(2);

    /// The slots from here on are hashed.
    const FIRST_HASHED: u16 = 16;

    /// The routes to `destination`: those of its /16 (IPv4) or /32 (IPv6).
    #[inline]
    pub fn route(destination: IpAddr) -> Slot {
        Slot::route_of(&octets(destination))
    }

    /// As [`Slot::route`], for an address in the 16-byte form of keys and actions.
    #[inline]
    pub fn route_of(destination: &[u8; 16]) -> Slot {
        let [a, b, c, d, ..] = *destination;
        if destination.starts_with(&MAPPED_PREFIX) {
            let [.., a, b, _, _] = *destination;
            Slot::hashed(1, u64::from(u16::from_be_bytes([a, b])))
        } else {
            Slot::hashed(2, u64::from(u32::from_be_bytes([a, b, c, d])))
        }
    }

    /// The slots to bump when a route to `prefix` of `length` bits comes, goes or changes: the blocks it covers, or
    /// [`Slot::ROUTES`] when these are more than 256 (shorter than /8, or than /24 of IPv6).
    pub fn of_prefix(prefix: IpAddr, length: u8) -> impl Iterator<Item = Slot> {
        let (kind, width, first) = match prefix {
            IpAddr::V4(address) => (1, 16u8, address.to_bits() >> 16),
            IpAddr::V6(address) => (2, 32u8, (address.to_bits() >> 96) as u32),
        };
        let free = u32::from(width.saturating_sub(length));
        let count = 1u64 << free;
        let all = count > u64::from(MOST_BLOCKS);
        // Host bits in a prefix are not an error here: they are ignored, as routing tables do.
        let first = u64::from(first) & !(count - 1);
        let blocks = if all { 0..0 } else { first..first + count };
        all.then_some(Slot::ROUTES).into_iter().chain(blocks.map(move |block| Slot::hashed(kind, block)))
    }

    /// The neighbour at `address` behind `port`.
    pub fn neighbour(port: PortId, address: IpAddr) -> Slot {
        let address = u128::from_be_bytes(octets(address));
        let folded = (address >> 64) as u64 ^ (address as u64).rotate_left(17);
        Slot::hashed(3, folded ^ u64::from(port.0) << 48)
    }

    /// The session with this identifier. Sessions share some 65,500 slots: end those that merely aged out without a bump
    /// (the caches forget idle flows by themselves), and bump for those whose translation stops being true.
    pub const fn session(id: u64) -> Slot {
        Slot::hashed(4, id)
    }

    /// Its number, for output.
    pub const fn number(self) -> u16 {
        self.0
    }

    const fn hashed(kind: u64, value: u64) -> Slot {
        // SplitMix64's finaliser; then scaled to the range, which needs the upper bits only.
        let mut mixed = value.wrapping_add(kind.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let range = SLOTS as u64 - Slot::FIRST_HASHED as u64;
        Slot(Slot::FIRST_HASHED + (((mixed >> 32) * range) >> 32) as u16)
    }
}

/// What one entry was made from, beside [`Slot::CONFIG`] and [`Slot::ROUTES`]: up to four slots. One more, and it depends
/// on everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Dependencies([Slot; 4]);

impl Dependencies {
    /// Nothing but the configuration and all routes.
    pub const NONE: Dependencies = Dependencies([Slot::CONFIG; 4]);

    /// Adds a slot; what is there already takes no room.
    pub fn add(&mut self, slot: Slot) {
        let implied = slot == Slot::CONFIG || slot == Slot::ROUTES;
        if implied || self.0.contains(&slot) || self.0.contains(&Slot::ANY) {
            return;
        }
        match self.0.iter_mut().find(|free| **free == Slot::CONFIG) {
            Some(free) => *free = slot,
            None => self.0 = [Slot::ANY; 4],
        }
    }

    /// The numbers of the slots; zero, the configuration's, stands for none.
    pub const fn numbers(&self) -> [u16; 4] {
        let [a, b, c, d] = self.0;
        [a.number(), b.number(), c.number(), d.number()]
    }

    /// The slots.
    pub fn slots(&self) -> impl Iterator<Item = Slot> {
        self.0.into_iter().filter(|slot| *slot != Slot::CONFIG)
    }
}

impl FromIterator<Slot> for Dependencies {
    fn from_iter<T: IntoIterator<Item = Slot>>(slots: T) -> Self {
        let mut dependencies = Dependencies::NONE;
        for slot in slots {
            dependencies.add(slot);
        }
        dependencies
    }
}

/// Whether `change` came after `then`, both being generations, which wrap around.
#[inline]
const fn after(change: u32, then: u32) -> bool {
    change.wrapping_sub(then) as i32 > 0
}

/// Memory that others read too, of [`throughway_shared::fast::GENERATION_WORDS`] words.
pub type SharedWords = Arc<dyn AsRef<[AtomicU32]> + Send + Sync>;

/// Where the words are.
enum Words {
    Own(Box<[AtomicU32; WORDS]>),
    Shared(SharedWords),
}

/// The generation and the slots: one for the whole data plane, shared by the control side and the workers.
pub struct Generations(Words);

impl Default for Generations {
    fn default() -> Self {
        Generations::starting_at(0)
    }
}

impl fmt::Debug for Generations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generations").field("current", &self.read()).finish_non_exhaustive()
    }
}

impl Generations {
    /// Starts with this generation, at which everything is as if just changed. The number has no meaning of its own.
    pub fn starting_at(generation: u32) -> Self {
        Generations(Words::Own(Box::new(std::array::from_fn(|_| AtomicU32::new(generation)))))
    }

    /// As [`Generations::starting_at`] zero, in memory that others read too. Nobody else may write to it. `None` when there are
    /// fewer than [`throughway_shared::fast::GENERATION_WORDS`] words.
    pub fn over(words: SharedWords) -> Option<Self> {
        let all = (*words).as_ref();
        if all.len() < fast::GENERATION_WORDS {
            return None;
        }
        for word in all {
            word.store(0, Ordering::Relaxed);
        }
        Some(Generations(Words::Shared(words)))
    }

    /// The generation, and the slots.
    fn parts(&self) -> (&AtomicU32, &[AtomicU32; SLOTS]) {
        /// Instead of memory that has become shorter, which does not happen.
        static NOTHING: ([AtomicU32; SLOTS], AtomicU32) =
            ([const { AtomicU32::new(0) }; SLOTS], AtomicU32::new(0));
        let words = match &self.0 {
            Words::Own(words) => words.as_slice(),
            Words::Shared(words) => (**words).as_ref(),
        };
        match words.split_first_chunk() {
            Some((slots, [current, ..])) => (current, slots),
            _ => (&NOTHING.1, &NOTHING.0),
        }
    }

    /// Says that what `slots` stand for has changed. To be called **after** the new tables are published. From any thread;
    /// does not block. One bump for many changes is cheaper for everybody than many.
    ///
    /// Returns the new generation.
    pub fn bump(&self, slots: impl IntoIterator<Item = Slot> + Clone) -> u32 {
        let mut seen = self.read();
        loop {
            let next = self.mark(seen, slots.clone());
            match self.commit(seen) {
                Ok(()) => return next,
                Err(newer) => seen = newer,
            }
        }
    }

    /// The first half of a bump: the slots get the generation that follows `seen`.
    fn mark(&self, seen: u32, slots: impl IntoIterator<Item = Slot>) -> u32 {
        let next = seen.wrapping_add(1);
        for slot in slots {
            self.raise(slot.0, next);
        }
        self.raise(Slot::ANY.0, next);
        // One slot per bump in turn: none falls so far back that it would seem to lie ahead.
        self.raise(next as u16, next.wrapping_sub(HORIZON));
        next
    }

    /// The second half: the generation itself, if it is still the one seen. Release: who reads it sees tables and slots.
    /// As this is a read-modify-write, that holds for what came before in other threads too.
    fn commit(&self, seen: u32) -> Result<(), u32> {
        let next = seen.wrapping_add(1);
        self.parts().0.compare_exchange(seen, next, Ordering::AcqRel, Ordering::Acquire).map(|_| ())
    }

    /// Never lowers a slot: of two bumps at once the later one stays.
    fn raise(&self, slot: u16, to: u32) {
        let later = |value| after(to, value).then_some(to);
        // An error only says that the slot is there already.
        let _ = self.parts().1[usize::from(slot)].fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }

    fn read(&self) -> u32 {
        self.parts().0.load(Ordering::Acquire)
    }

    /// The present, for one batch. To be taken **before** any table is read.
    #[inline]
    pub fn epoch(&self) -> Epoch<'_> {
        let (current, slots) = self.parts();
        Epoch { generation: current.load(Ordering::Acquire), slots }
    }
}

/// The generation that a batch works with. What is made in this batch is of this generation.
#[derive(Clone, Copy, Debug)]
pub struct Epoch<'a> {
    generation: u32,
    slots: &'a [AtomicU32; SLOTS],
}

impl Epoch<'_> {
    /// Its number.
    #[inline]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether nothing that an entry of generation `then` was made from has changed up to now.
    #[inline]
    pub fn unchanged(&self, then: u32, dependencies: &Dependencies) -> bool {
        let changed = |slot: Slot| after(self.slots[usize::from(slot.0)].load(Ordering::Relaxed), then);
        let [a, b, c, d] = dependencies.0;
        // All at once, without branches: the loads overlap.
        let any =
            changed(Slot::CONFIG) | changed(Slot::ROUTES) | changed(a) | changed(b) | changed(c) | changed(d);
        !any & (self.generation.wrapping_sub(then) < HORIZON)
    }
}

#[cfg(test)]
mod tests;
