//! Sources that are dropped before anything else: how they lie in memory that the loader shares with the XDP program.
//!
//! Prefixes of each family are in a hash table by address and length, in front of which stands a *root* for each value of an address's
//! first 16 bits. It says what becomes of sources of which nothing longer is known, and which lengths there are beyond it: one load
//! for a source that is in no set, and one more for a whole address that is in one. A root may also say that a trie of the kernel's is
//! to be asked ([`EARLY4`](crate::steer::EARLY4), [`EARLY6`](crate::steer::EARLY6)): it has the prefixes that the table has no room or
//! no length for. The longest prefix of all says where a source is dropped, and for whom that is counted: its *verdict*, by a number.
//!
//! * [`EARLY_ROOTS4`], [`EARLY_ROOTS6`]: 65,536 roots: see [`Root`].
//! * [`EARLY_TABLE4`]: buckets of [`WORDS4`] words, each word a prefix: [`word4`].
//! * [`EARLY_TABLE6`]: buckets of [`WAYS6`] prefixes: their [`tail6`], then their addresses, two words each.
//! * [`EARLY_VERDICTS`]: [`Verdict`] by number; the first one is none.
//!
//! A prefix is in its first bucket, or, if that was full when it came, in its second, and then bit [`MORE`] is set in the first word of the
//! first. Who writes does so in an order in which every word alone is true: addresses before the tail that says they are there.

use crate::fast::mix;

/// Map: mmapable array of lines, [`ROOTS_IN_LINE`] words of 32 bits each: the roots of IPv4.
pub const EARLY_ROOTS4: &str = "EARLY_ROOTS4";
/// Map: mmapable array of lines, [`ROOTS_IN_LINE`] words of 32 bits each: the roots of IPv6.
pub const EARLY_ROOTS6: &str = "EARLY_ROOTS6";
/// Map: mmapable array of buckets, [`WORDS4`] words each.
pub const EARLY_TABLE4: &str = "EARLY_TABLE4";
/// Map: mmapable array of buckets, [`WORDS6`] words each.
pub const EARLY_TABLE6: &str = "EARLY_TABLE6";
/// Map: mmapable array of [`Verdict`], as two words of 64 bits.
pub const EARLY_VERDICTS: &str = "EARLY_VERDICTS";
/// Constant of the program: buckets of [`EARLY_TABLE4`], `u32`.
pub const EARLY_BUCKETS4: &str = "EARLY_BUCKETS4";
/// Constant of the program: buckets of [`EARLY_TABLE6`], `u32`.
pub const EARLY_BUCKETS6: &str = "EARLY_BUCKETS6";
/// Constant of the program: the secret of the hash, `u64`.
pub const EARLY_SEED: &str = "EARLY_SEED";

/// How many roots a family has.
pub const ROOTS: usize = 1 << 16;
/// Of which so many are a value of the map: the kernel gives each value a multiple of eight bytes.
pub const ROOTS_IN_LINE: usize = 16;
/// How many verdicts there are, with the one that is none.
pub const VERDICTS: usize = 1 << 12;
/// Words in a bucket of IPv4: as many prefixes.
pub const WORDS4: usize = 8;
/// Prefixes in a bucket of IPv6.
pub const WAYS6: usize = 5;
/// Words in a bucket of IPv6: two cache lines.
pub const WORDS6: usize = 16;

/// Lengths of IPv6 prefixes that are in the table, by their number in a [`Root`]; others beyond 16 bits are in the trie.
pub const LENGTHS6: [u8; 16] = [24, 28, 29, 32, 33, 36, 40, 44, 45, 46, 47, 48, 56, 60, 64, 128];

/// Bit of a bucket's first word: some of its prefixes are in their second bucket.
pub const MORE: u64 = 1 << 63;

/// What is known of all sources with the same first 16 bits: in the lower half the lengths of prefixes in the table (of IPv4 the lowest
/// bit is 17, the highest 32; of IPv6 see [`LENGTHS6`]), above the number of the verdict of the longest that has no more than 16 bits,
/// and above that a bit: ask the trie.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Root(pub u32);

impl Root {
    /// Bit: the trie has prefixes of these sources.
    pub const TRIE: u32 = 1 << 31;

    /// The lengths beyond 16 bits that the table has.
    #[inline(always)]
    pub const fn lengths(self) -> u32 {
        self.0 & 0xffff
    }

    /// The verdict of those of which nothing longer is known; zero: none.
    #[inline(always)]
    pub const fn verdict(self) -> u32 {
        self.0 >> 16 & (VERDICTS as u32 - 1)
    }

    /// Whether the trie is to be asked.
    #[inline(always)]
    pub const fn asks_trie(self) -> bool {
        self.0 & Root::TRIE != 0
    }
}

/// Where packets are dropped, and for which set that is counted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Verdict {
    /// The interfaces: the bit of each number.
    pub interfaces: u64,
    /// The number of the set.
    pub set: u64,
}

/// The bits of [`word4`] that are the prefix and its length.
pub const KEY4: u64 = (1 << 38) - 1;
/// By how many bits the verdict of [`word4`] is shifted.
pub const VERDICT4: u32 = 40;
/// The bits of [`tail6`] that are not the verdict.
pub const KEY6: u64 = !(0xffff << VERDICT6) & !MORE;
/// By how many bits the verdict of [`tail6`] is shifted.
pub const VERDICT6: u32 = 40;

/// An IPv4 prefix as it is looked for: host order, the bits beyond its length zero.
#[inline(always)]
pub const fn key4(prefix: u32, length: u32) -> u64 {
    prefix as u64 | (length as u64) << 32
}

/// An IPv4 prefix in the table; one without a verdict is none.
#[inline(always)]
pub const fn word4(key: u64, verdict: u32) -> u64 {
    key | (verdict as u64) << VERDICT4
}

/// The number of the verdict in a word of either table; zero: the place is free.
#[inline(always)]
pub const fn verdict_of(word: u64) -> u32 {
    const { assert!(VERDICT4 == VERDICT6) }
    (word >> VERDICT4) as u32 & (VERDICTS as u32 - 1)
}

/// What is compared first of an IPv6 prefix: 32 bits of its hash, and its length.
#[inline(always)]
pub const fn tail6(hash: u64, length: u32) -> u64 {
    (hash & 0xffff_ffff) | (length as u64) << 32
}

/// The hash of an IPv4 prefix.
#[inline(always)]
pub const fn hash4(seed: u64, key: u64) -> u64 {
    mix(mix(seed, key), seed)
}

/// The hash of an IPv6 prefix: host order, the bits beyond its length zero.
#[inline(always)]
pub const fn hash6(seed: u64, high: u64, low: u64, length: u32) -> u64 {
    mix(mix(mix(seed, high), low), length as u64)
}

/// The bucket, of so many, that a prefix is sought in first.
#[inline(always)]
pub const fn first(hash: u64, buckets: u32) -> u32 {
    (((hash >> 32) * buckets as u64) >> 32) as u32
}

/// The bucket, of so many, that a prefix is sought in second; may be the same.
#[inline(always)]
pub const fn second(hash: u64, buckets: u32) -> u32 {
    first(hash.wrapping_mul(0x9e37_79b9_7f4a_7c15), buckets)
}

/// How many buckets of `ways` prefixes each a table for so many prefixes has: half of the ways stay free, so that hardly any prefix is in its
/// second bucket, and hardly ever one in neither.
pub const fn buckets(prefixes: u32, ways: usize) -> u32 {
    let wanted = (prefixes as u64 * 2).div_ceil(ways as u64);
    if wanted < 1 { 1 } else { wanted as u32 }
}
