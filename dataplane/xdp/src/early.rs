//! The sources whose packets are dropped before anything else.

use std::net::IpAddr;

use aya::maps::{
    MapData, PerCpuArray,
    lpm_trie::{Key, LpmTrie},
};
use throughway_shared::steer::{EARLY_DROPS, EARLY4, EARLY6, MAX_EARLY, MAX_EARLY_SETS, early_value};

use crate::steering::{SteeringError, check, in_map, is_absent};

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

/// An entry of a trie, in order.
type Entry<A> = ((A, u8), [u32; 3]);

/// What is dropped before anything else, on interfaces with the flag [`EARLY`](throughway_shared::steer::EARLY). Writing a
/// million prefixes takes seconds, so it has nothing in common with the rest of [`Steering`](crate::Steering).
pub struct EarlySets {
    ipv4: LpmTrie<MapData, [u8; 4], [u32; 3]>,
    ipv6: LpmTrie<MapData, [u8; 16], [u32; 3]>,
    drops: PerCpuArray<MapData, u64>,
    /// What is in the tries.
    known4: Vec<Entry<[u8; 4]>>,
    known6: Vec<Entry<[u8; 16]>>,
}

impl EarlySets {
    pub(crate) fn new(
        ipv4: LpmTrie<MapData, [u8; 4], [u32; 3]>,
        ipv6: LpmTrie<MapData, [u8; 16], [u32; 3]>,
        drops: PerCpuArray<MapData, u64>,
    ) -> Self {
        EarlySets { ipv4, ipv6, drops, known4: Vec::new(), known6: Vec::new() }
    }

    /// How many prefixes there are, of both families.
    pub fn len(&self) -> usize {
        self.known4.len() + self.known6.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops what comes from these prefixes. What was set before is changed by difference, and what is new comes in before what
    /// is old goes: no packet of a prefix that stays gets through meanwhile. Of a prefix that is named twice, the last counts.
    ///
    /// # Errors
    ///
    /// When there are more than [`MOST_EARLY_PREFIXES`] of a family, a set's number is not below [`MAX_EARLY_SETS`], or a map
    /// cannot be written. Then it is as it was before, as far as the maps can be written back.
    pub fn replace(&mut self, prefixes: impl IntoIterator<Item = EarlyPrefix>) -> Result<(), SteeringError> {
        let (mut wanted4, mut wanted6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            check("early set", prefix.set, MAX_EARLY_SETS)?;
            let value = early_value(prefix.interfaces, prefix.set);
            match prefix.address {
                IpAddr::V4(address) => {
                    let bits = prefix.length.min(32);
                    let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                    wanted4.push((((address.to_bits() & mask).to_be_bytes(), bits), value));
                }
                IpAddr::V6(address) => {
                    let bits = prefix.length.min(128);
                    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                    wanted6.push((((address.to_bits() & mask).to_be_bytes(), bits), value));
                }
            }
        }
        let (wanted4, wanted6) = (in_order(wanted4), in_order(wanted6));
        for count in [wanted4.len(), wanted6.len()] {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            check("number of early prefixes", count, MOST_EARLY_PREFIXES + 1)?;
        }
        let before = change(&mut self.ipv4, EARLY4, &mut self.known4, wanted4)?;
        if let Err(error) = change(&mut self.ipv6, EARLY6, &mut self.known6, wanted6) {
            // What fitted before fits again; if not, the error is told anyway.
            let _ = change(&mut self.ipv4, EARLY4, &mut self.known4, before);
            return Err(error);
        }
        Ok(())
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

/// Sorted, and of each prefix the last.
fn in_order<A: Ord + Copy>(mut entries: Vec<Entry<A>>) -> Vec<Entry<A>> {
    entries.reverse();
    entries.sort_by_key(|(prefix, _)| *prefix);
    entries.dedup_by_key(|(prefix, _)| *prefix);
    entries
}

/// Changes a trie from what is `known` of it to `new`; what was known before. On an error it is changed back; as far as that
/// fails, too, all that may be in it is known.
fn change<const N: usize>(
    trie: &mut LpmTrie<MapData, [u8; N], [u32; 3]>,
    map: &'static str,
    known: &mut Vec<Entry<[u8; N]>>,
    new: Vec<Entry<[u8; N]>>,
) -> Result<Vec<Entry<[u8; N]>>, SteeringError>
where
    [u8; N]: aya::Pod,
{
    match write(trie, map, known, &new) {
        Ok(()) => Ok(std::mem::replace(known, new)),
        Err(error) => {
            if !undo(trie, known, &new) {
                // The new value of a prefix counts, so that the next change writes the old one again.
                *known = in_order(known.iter().chain(&new).copied().collect());
            }
            Err(error)
        }
    }
}

/// Takes back what [`write()`] did of a change from `old` to `new`, past errors: what is too much first, so that there is room.
/// Whether all of it succeeded.
fn undo<const N: usize>(
    trie: &mut LpmTrie<MapData, [u8; N], [u32; 3]>,
    old: &[Entry<[u8; N]>],
    new: &[Entry<[u8; N]>],
) -> bool
where
    [u8; N]: aya::Pod,
{
    let mut whole = true;
    for ((address, bits), _) in beyond(new, old, |(a, _), (b, _)| a == b) {
        let removed = trie.remove(&Key::new((*bits).into(), *address));
        whole &= removed.is_ok() || removed.is_err_and(|error| is_absent(&error));
    }
    for ((address, bits), value) in beyond(old, new, |a, b| a == b) {
        whole &= trie.insert(&Key::new((*bits).into(), *address), value, 0).is_ok();
    }
    whole
}

fn write<const N: usize>(
    trie: &mut LpmTrie<MapData, [u8; N], [u32; 3]>,
    map: &'static str,
    old: &[Entry<[u8; N]>],
    new: &[Entry<[u8; N]>],
) -> Result<(), SteeringError>
where
    [u8; N]: aya::Pod,
{
    for ((address, bits), value) in beyond(new, old, |a, b| a == b) {
        trie.insert(&Key::new((*bits).into(), *address), value, 0).map_err(in_map(map))?;
    }
    for ((address, bits), _) in beyond(old, new, |(a, _), (b, _)| a == b) {
        match trie.remove(&Key::new((*bits).into(), *address)) {
            Err(error) if !is_absent(&error) => return Err(in_map(map)(error)),
            _ => {}
        }
    }
    Ok(())
}

/// The entries of `list` of which none in `other` is the same. Both are in order.
fn beyond<'a, A: Ord>(
    list: &'a [Entry<A>],
    other: &'a [Entry<A>],
    same: impl Fn(&Entry<A>, &Entry<A>) -> bool,
) -> impl Iterator<Item = &'a Entry<A>> {
    let mut others = other.iter().peekable();
    list.iter().filter(move |entry| {
        while others.next_if(|other| other.0 < entry.0).is_some() {}
        !others.peek().is_some_and(|other| same(entry, other))
    })
}
