//! The sources whose packets are dropped before anything else.
//!
//! `throughway_shared::early` says how they lie in memory that is shared with the XDP program. [`EarlySets`] changes them in place, by
//! difference.

mod family;
mod prefix;
mod table;

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aya::maps::{MapData, PerCpuArray};
use aya::{Ebpf, EbpfLoader};
use throughway_shared::early::{
    EARLY_BUCKETS4, EARLY_BUCKETS6, EARLY_ROOTS4, EARLY_ROOTS6, EARLY_SEED, EARLY_TABLE4, EARLY_TABLE6,
    EARLY_VERDICTS, ROOTS, VERDICTS, Verdict, WAYS6, WORDS4, WORDS6, buckets,
};
use throughway_shared::fast::QUARANTINE;
use throughway_shared::steer::{EARLY_DROPS, EARLY4, EARLY6, MAX_EARLY, MAX_EARLY_SETS};

use crate::fast::{SharedWords, mapped, take};
use crate::steering::{SteeringError, check, in_map};
use family::{Family, Numbers, Trie};
use prefix::{Entry, Prefix, in_order};
use table::Table;

/// A source prefix whose packets are dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EarlyPrefix {
    /// Its address; host bits do not matter.
    pub address: IpAddr,
    /// Its length in bits.
    pub length: u8,
    /// The interfaces at which it counts: the bit of each number. Only the longest prefix of a source is asked.
    pub interfaces: u64,
    /// The number of the set that its packets are counted for.
    pub set: u32,
}

/// How many prefixes of a family there may be: half of what the maps hold, so that the new ones fit in beside the old ones.
pub const MOST_EARLY_PREFIXES: u32 = MAX_EARLY / 2;

/// For how many prefixes tables are made: their memory is taken when the program is loaded. More go into tries, where each packet that may
/// be in one pays for a walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EarlyRoom {
    /// IPv4: 16 bytes for each.
    pub ipv4: u32,
    /// IPv6: 52 bytes for each.
    pub ipv6: u32,
}

impl EarlyRoom {
    /// What there is room for at least: 1 MiB, and 0.8.
    pub const LEAST: EarlyRoom = EarlyRoom { ipv4: 1 << 16, ipv6: 1 << 14 };

    /// For those that a configuration has, half as many more, and [`EarlyRoom::LEAST`].
    pub fn of(ipv4: usize, ipv6: usize) -> Self {
        let room = |count: usize, least: u32| {
            let wanted = u32::try_from(count + count / 2).unwrap_or(u32::MAX);
            wanted.clamp(least, MOST_EARLY_PREFIXES)
        };
        EarlyRoom { ipv4: room(ipv4, Self::LEAST.ipv4), ipv6: room(ipv6, Self::LEAST.ipv6) }
    }
}

/// How large the maps are, before they are made.
pub(crate) struct EarlyPlan {
    buckets: [u32; 2],
    seed: u64,
}

impl EarlyPlan {
    pub(crate) fn new(room: EarlyRoom) -> Self {
        let most = |count: u32| count.min(MOST_EARLY_PREFIXES);
        let buckets = [buckets(most(room.ipv4), WORDS4), buckets(most(room.ipv6), WAYS6)];
        // The standard library keys these with randomness that it draws from the system.
        EarlyPlan { buckets, seed: RandomState::new().hash_one(0) }
    }

    /// Says to the loader how large the maps are to be, and to the program.
    pub(crate) fn tell<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        let EarlyPlan { buckets: [narrow, wide], seed } = self;
        loader
            .map_max_entries(EARLY_TABLE4, *narrow)
            .map_max_entries(EARLY_TABLE6, *wide)
            .override_global(EARLY_BUCKETS4, narrow, true)
            .override_global(EARLY_BUCKETS6, wide, true)
            .override_global(EARLY_SEED, seed, true);
    }
}

/// What is dropped before anything else, on interfaces with the flag [`EARLY`](throughway_shared::steer::EARLY). Writing a
/// million prefixes takes a while, so it has nothing in common with the rest of [`Steering`](crate::Steering).
pub struct EarlySets {
    /// IPv4, IPv6.
    families: [Family; 2],
    verdicts: SharedWords<AtomicU64>,
    /// The numbers of those in use.
    numbers: Numbers,
    drops: PerCpuArray<MapData, u64>,
    /// When it was changed last: what was given back then may still be looked at.
    changed: Option<Instant>,
}

impl EarlySets {
    /// Takes the maps of a program that was loaded with this plan.
    pub(crate) fn take(bpf: &mut Ebpf, plan: &EarlyPlan) -> Result<Self, SteeringError> {
        let [narrow, wide] = plan.buckets;
        let table4 = mapped(bpf, EARLY_TABLE4, narrow as usize * WORDS4)?;
        let table6 = mapped(bpf, EARLY_TABLE6, wide as usize * WORDS6)?;
        let families = [
            Family::new(
                EARLY4,
                mapped(bpf, EARLY_ROOTS4, ROOTS)?,
                Table::new(table::Family::Narrow, table4, narrow, plan.seed),
                Trie::Narrow(take(bpf, EARLY4)?.try_into().map_err(in_map(EARLY4))?),
            ),
            Family::new(
                EARLY6,
                mapped(bpf, EARLY_ROOTS6, ROOTS)?,
                Table::new(table::Family::Wide, table6, wide, plan.seed),
                Trie::Wide(take(bpf, EARLY6)?.try_into().map_err(in_map(EARLY6))?),
            ),
        ];
        Ok(EarlySets {
            families,
            verdicts: mapped(bpf, EARLY_VERDICTS, VERDICTS * 2)?,
            numbers: HashMap::new(),
            drops: take(bpf, EARLY_DROPS)?.try_into().map_err(in_map(EARLY_DROPS))?,
            changed: None,
        })
    }

    /// How many prefixes there are, of both families.
    pub fn len(&self) -> usize {
        self.families.iter().map(|family| family.known.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of them the tables have no room or no length for: packets that may be of one pay for a walk through a trie.
    pub fn in_tries(&self) -> usize {
        self.families.iter().map(|family| family.in_trie.len()).sum()
    }

    /// Drops what comes from these prefixes. What was set before is changed by difference, and what is new comes in before what
    /// is old goes: no packet of a prefix that stays gets through meanwhile. Of a prefix that is named twice, the last counts.
    /// After a change it waits until a tenth of a second is over before it does the next.
    ///
    /// # Errors
    ///
    /// When there are more than [`MOST_EARLY_PREFIXES`] of a family, a set's number is not below [`MAX_EARLY_SETS`], or a map
    /// cannot be written. Then it is as it was before, as far as the maps can be written back.
    pub fn replace(&mut self, prefixes: impl IntoIterator<Item = EarlyPrefix>) -> Result<(), SteeringError> {
        let mut wanted = [Vec::new(), Vec::new()];
        for prefix in prefixes {
            check("early set", prefix.set, MAX_EARLY_SETS)?;
            let verdict = Verdict { interfaces: prefix.interfaces, set: prefix.set.into() };
            let [narrow, wide] = &mut wanted;
            let list = if prefix.address.is_ipv4() { narrow } else { wide };
            list.push((Prefix::new(prefix.address, prefix.length), verdict));
        }
        let wanted = wanted.map(in_order);
        for list in &wanted {
            let count = u32::try_from(list.len()).unwrap_or(u32::MAX);
            check("number of early prefixes", count, MOST_EARLY_PREFIXES + 1)?;
        }
        // No run of the program is at what was given back then.
        if let Some(changed) = self.changed {
            std::thread::sleep(Duration::from_nanos(QUARANTINE).saturating_sub(changed.elapsed()));
        }
        let numbers = self.number(&wanted);
        let [new4, new6] = wanted;
        let [narrow, wide] = &mut self.families;
        let changed = narrow.change(new4, &numbers).and_then(|before| {
            let changed = wide.change(new6, &numbers).map(drop);
            if changed.is_err() {
                // What fitted before fits again; if not, the error is told anyway.
                let _ = narrow.change(before, &numbers);
            }
            changed
        });
        self.numbers = numbers;
        self.changed = Some(Instant::now());
        changed
    }

    /// The numbers of the verdicts in use before, and of those that come; some of these get none when there are too many.
    fn number(&self, wanted: &[Vec<Entry>; 2]) -> Numbers {
        let mut numbers = Numbers::new();
        let known = self.families.iter().flat_map(|family| &family.known);
        for (_, verdict) in known {
            if let Some(number) = self.numbers.get(verdict) {
                numbers.insert(*verdict, *number);
            }
        }
        let taken: BTreeSet<u32> = numbers.values().copied().collect();
        let mut free = (1..VERDICTS as u32).filter(|number| !taken.contains(number));
        for (_, verdict) in wanted.iter().flatten() {
            if numbers.contains_key(verdict) {
                continue;
            }
            let Some(number) = free.next() else { break };
            let at = number as usize * 2;
            for (word, value) in self.verdicts.as_ref().iter().skip(at).zip([verdict.interfaces, verdict.set])
            {
                word.store(value, Ordering::Release);
            }
            numbers.insert(*verdict, number);
        }
        numbers
    }

    /// How many packets were dropped for each set, by its number.
    ///
    /// # Errors
    ///
    /// When the map cannot be read.
    pub fn drops(&self) -> Result<Vec<u64>, SteeringError> {
        let count =
            |set| self.drops.get(&set, 0).map(|values| values.iter().sum()).map_err(in_map(EARLY_DROPS));
        (0..MAX_EARLY_SETS).map(count).collect()
    }
}
