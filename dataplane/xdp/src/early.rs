//! The sources whose packets are dropped before anything else.

use std::{collections::BTreeMap, net::IpAddr};

use aya::maps::{
    MapData, PerCpuArray,
    lpm_trie::{Key, LpmTrie},
};
use throughway_shared::steer::{EARLY_DROPS, EARLY4, EARLY6, MAX_EARLY, MAX_EARLY_SETS};

use crate::steering::{SteeringError, check, in_map, is_absent};

/// Prefix as (address, bits) → number of its set. Host bits are zero.
type Known<A> = BTreeMap<(A, u8), u32>;

/// Both tries, as far as the program knows.
pub(crate) struct EarlySets {
    ipv4: LpmTrie<MapData, [u8; 4], u32>,
    ipv6: LpmTrie<MapData, [u8; 16], u32>,
    drops: PerCpuArray<MapData, u64>,
    known4: Known<[u8; 4]>,
    known6: Known<[u8; 16]>,
}

impl EarlySets {
    pub(crate) fn new(
        ipv4: LpmTrie<MapData, [u8; 4], u32>,
        ipv6: LpmTrie<MapData, [u8; 16], u32>,
        drops: PerCpuArray<MapData, u64>,
    ) -> Self {
        EarlySets { ipv4, ipv6, drops, known4: Known::new(), known6: Known::new() }
    }

    /// Changes what is in the tries to `prefixes`, by difference: what is new comes in before what is old goes.
    pub(crate) fn replace(
        &mut self,
        prefixes: impl IntoIterator<Item = (IpAddr, u8, u32)>,
    ) -> Result<(), SteeringError> {
        let (mut wanted4, mut wanted6) = (Known::new(), Known::new());
        for (address, bits, set) in prefixes {
            check("early set", set, MAX_EARLY_SETS)?;
            match address {
                IpAddr::V4(address) => {
                    let bits = bits.min(32);
                    let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                    wanted4.insert(((address.to_bits() & mask).to_be_bytes(), bits), set);
                }
                IpAddr::V6(address) => {
                    let bits = bits.min(128);
                    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                    wanted6.insert(((address.to_bits() & mask).to_be_bytes(), bits), set);
                }
            }
        }
        for count in [wanted4.len(), wanted6.len()] {
            check("number of early prefixes", u32::try_from(count).unwrap_or(u32::MAX), MAX_EARLY + 1)?;
        }
        change(&mut self.ipv4, EARLY4, &mut self.known4, wanted4)?;
        change(&mut self.ipv6, EARLY6, &mut self.known6, wanted6)
    }

    /// How many packets were dropped for each set.
    pub(crate) fn drops(&self) -> Result<Vec<u64>, SteeringError> {
        let count =
            |set| self.drops.get(&set, 0).map(|values| values.iter().sum()).map_err(in_map(EARLY_DROPS));
        (0..MAX_EARLY_SETS).map(count).collect()
    }
}

fn change<const N: usize>(
    trie: &mut LpmTrie<MapData, [u8; N], u32>,
    map: &'static str,
    known: &mut Known<[u8; N]>,
    wanted: Known<[u8; N]>,
) -> Result<(), SteeringError>
where
    [u8; N]: aya::Pod,
{
    for (&(address, bits), &set) in &wanted {
        if known.get(&(address, bits)) != Some(&set) {
            trie.insert(&Key::new(bits.into(), address), set, 0).map_err(in_map(map))?;
            known.insert((address, bits), set);
        }
    }
    let gone: Vec<_> = known.keys().filter(|prefix| !wanted.contains_key(*prefix)).copied().collect();
    for (address, bits) in gone {
        match trie.remove(&Key::new(bits.into(), address)) {
            Err(error) if !is_absent(&error) => return Err(in_map(map)(error)),
            _ => known.remove(&(address, bits)),
        };
    }
    Ok(())
}
