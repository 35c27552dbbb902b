//! Maglev hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4).
//!
//! A table of a prime number of entries, each naming a backend. Every backend has its own order of preference over all
//! entries; the backends take turns in claiming the next free entry they prefer most, until none is free. So all get nearly
//! equal shares, and when a backend comes or goes few entries change hands among the others.
//!
//! Weights: a backend takes its turn whenever its share of the entries claimed so far falls behind its weight.
//!
//! The table depends on the names and weights of the backends and on nothing else: not on their order, not on a secret of this
//! process. Two boxes with the same configuration choose alike, and share no state.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// The table size where nothing else is said: with a hundred backends, shares differ by about one percent.
pub const USUAL_SIZE: u32 = 65_537;

/// Sizes that are chosen from where none is configured: primes, for up to 100, 655, 2621 and 10,485 equal backends.
pub const SIZES: [u32; 4] = [10_007, 65_537, 262_139, 1_048_573];

/// Entries for the lightest backend, so that shares differ by one percent (section 5.3).
const ENTRIES_FOR_EACH: u64 = 100;

/// The size of table that gives backends of these weights the shares that they should have, as far as [`SIZES`] go. By the weights
/// of the configuration alone, so that boxes choose alike and nothing but a new configuration moves flows for it.
pub fn fitting_size(weights: impl Iterator<Item = u32> + Clone) -> u32 {
    let weighty = weights.filter(|weight| *weight > 0);
    let Some(lightest) = weighty.clone().min() else { return SIZES[0] };
    let (whole, count) =
        weighty.fold((0u64, 0u64), |(whole, count), weight| (whole + u64::from(weight), count + 1));
    let wanted = (whole / u64::from(lightest)).saturating_mul(ENTRIES_FOR_EACH);
    // A backend that is a thousand times lighter than others may be a little off: a large table costs all of them.
    let wanted = wanted.min((count * ENTRIES_FOR_EACH).max(u64::from(USUAL_SIZE)));
    let [.., largest] = SIZES;
    SIZES.into_iter().find(|size| u64::from(*size) >= wanted).unwrap_or(largest)
}

/// The largest table: 8 MiB.
pub const LARGEST_SIZE: u32 = 4_194_301;

/// Backends in one table at most.
pub const MOST_BACKENDS: usize = u16::MAX as usize;

/// The largest weight.
pub const LARGEST_WEIGHT: u32 = 65_535;

/// A backend, as far as the choice is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate<'a> {
    /// What it is: the same bytes on every box, different for every backend.
    pub name: &'a [u8],
    /// Its share beside the others; with 0 it gets nothing.
    pub weight: u32,
}

/// Why a table cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MaglevError {
    /// The table size is no prime number, or above [`LARGEST_SIZE`].
    Size(u32),
    /// More backends than entries, or than [`MOST_BACKENDS`].
    TooMany(usize),
    /// A weight above [`LARGEST_WEIGHT`].
    Weight(u32),
    /// Two backends have the same name.
    SameName(usize, usize),
}

impl std::fmt::Display for MaglevError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MaglevError::Size(size) => {
                let next = next_prime(*size).map_or(LARGEST_SIZE, |prime| prime.min(LARGEST_SIZE));
                write!(f, "the table size {size} is not a prime number up to {LARGEST_SIZE}; {next} is one")
            }
            MaglevError::TooMany(count) => {
                write!(f, "{count} backends are more than the table has entries, or than {MOST_BACKENDS}")
            }
            MaglevError::Weight(weight) => write!(f, "the weight {weight} is above {LARGEST_WEIGHT}"),
            MaglevError::SameName(first, second) => write!(f, "backends {first} and {second} are the same"),
        }
    }
}

impl std::error::Error for MaglevError {}

/// No backend.
const NOBODY: u16 = u16::MAX;

/// A filled table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Maglev {
    entries: Box<[u16]>,
}

impl Maglev {
    /// Fills a table of `size` entries. With no backend, or all of weight 0, it chooses nobody.
    ///
    /// `seed` is part of the configuration: boxes that shall choose alike have the same.
    ///
    /// # Errors
    /// See [`MaglevError`].
    pub fn new(size: u32, seed: u64, backends: &[Candidate<'_>]) -> Result<Maglev, MaglevError> {
        if size > LARGEST_SIZE || !is_prime(size) {
            return Err(MaglevError::Size(size));
        }
        if backends.len() >= MOST_BACKENDS || backends.len() > size as usize {
            return Err(MaglevError::TooMany(backends.len()));
        }
        if let Some(heavy) = backends.iter().find(|backend| backend.weight > LARGEST_WEIGHT) {
            return Err(MaglevError::Weight(heavy.weight));
        }
        let mut turns: Vec<Turn<'_>> = Vec::with_capacity(backends.len());
        for (index, backend) in backends.iter().enumerate().filter(|(_, backend)| backend.weight > 0) {
            turns.push(Turn::new(index as u16, *backend, size, seed));
        }
        // The order in which they take turns must not depend on the order in the configuration.
        turns.sort_unstable_by(|a, b| a.name.cmp(b.name));
        let twins = turns.iter().zip(turns.iter().skip(1)).find(|(a, b)| a.name == b.name);
        if let Some((a, b)) = twins {
            let (a, b) = (usize::from(a.index), usize::from(b.index));
            return Err(MaglevError::SameName(a.min(b), a.max(b)));
        }
        let mut entries = vec![NOBODY; size as usize].into_boxed_slice();
        fill(&mut entries, &mut turns);
        Ok(Maglev { entries })
    }

    /// The backend for a connection with this hash: its place in the list that the table was made of.
    #[inline]
    pub fn choose(&self, hash: u64) -> Option<usize> {
        let entry = *self.entries.get((hash % self.entries.len() as u64) as usize)?;
        (entry != NOBODY).then_some(usize::from(entry))
    }

    /// How many entries there are.
    pub fn size(&self) -> usize {
        self.entries.len()
    }

    /// How many entries each of `backends` backends has.
    pub fn shares(&self, backends: usize) -> Vec<usize> {
        let mut shares = vec![0; backends];
        for entry in &self.entries {
            if let Some(share) = shares.get_mut(usize::from(*entry)) {
                *share += 1;
            }
        }
        shares
    }

    /// Who has which entry.
    pub fn entries(&self) -> impl Iterator<Item = Option<usize>> {
        self.entries.iter().map(|entry| (*entry != NOBODY).then_some(usize::from(*entry)))
    }
}

/// One backend while the table is filled.
struct Turn<'a> {
    index: u16,
    name: &'a [u8],
    weight: u64,
    /// How far it is behind its share, in entries × the largest weight.
    owed: u64,
    /// The entry it wants next.
    next: u32,
    skip: u32,
}

impl<'a> Turn<'a> {
    fn new(index: u16, backend: Candidate<'a>, size: u32, seed: u64) -> Self {
        let hash = |which: u64| {
            let mut hasher = SipHasher13::new_with_keys(seed, which);
            hasher.write(backend.name);
            hasher.finish()
        };
        // With a prime size every skip from 1 on reaches every entry. A size of 2 leaves only the skip 1.
        let next = (hash(1) % u64::from(size)) as u32;
        let skip = (hash(2) % u64::from(size - 1)) as u32 + 1;
        Turn { index, name: backend.name, weight: backend.weight.into(), owed: 0, next, skip }
    }

    /// Claims the free entry it prefers most. There must be one.
    fn claim(&mut self, entries: &mut [u16]) {
        let size = entries.len() as u32;
        for _ in 0..size {
            let wanted = self.next;
            self.next =
                if wanted >= size - self.skip { wanted - (size - self.skip) } else { wanted + self.skip };
            if let Some(entry) = entries.get_mut(wanted as usize)
                && *entry == NOBODY
            {
                *entry = self.index;
                return;
            }
        }
    }
}

/// Lets the backends claim entries in turn until none is free.
fn fill(entries: &mut [u16], turns: &mut [Turn<'_>]) {
    let Some(heaviest) = turns.iter().map(|turn| turn.weight).max() else { return };
    let mut free = entries.len();
    loop {
        for turn in turns.iter_mut() {
            // The heaviest claims in every round, others whenever their weights add up to an entry.
            turn.owed += turn.weight;
            if turn.owed < heaviest {
                continue;
            }
            turn.owed -= heaviest;
            turn.claim(entries);
            free -= 1;
            if free == 0 {
                return;
            }
        }
    }
}

/// The smallest prime number above `number`.
pub fn next_prime(number: u32) -> Option<u32> {
    (number.checked_add(1)?..=u32::MAX).find(|candidate| is_prime(*candidate))
}

/// Whether a number is prime. Trial division: at most 2¹⁶ steps, once for a configuration.
pub fn is_prime(number: u32) -> bool {
    let small = number < 4;
    let divisor =
        || (2..).take_while(|d: &u32| d.saturating_mul(*d) <= number).find(|d| number.is_multiple_of(*d));
    if small { number >= 2 } else { divisor().is_none() }
}
