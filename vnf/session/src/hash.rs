//! Keyed hashing: SipHash-1-3.
//!
//! Who sends packets chooses the keys of a table. With a secret seed and a pseudorandom function he cannot choose keys that meet in
//! one bucket. A keyed folded multiply is faster, but its collisions can be found without knowing the seed; the
//! slow path, bound by cache misses, can afford the difference.

/// The secret of a table's hash function: 128 random bits, chosen by whoever starts the process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub [u64; 2]);

// Not derived: the seed is a secret and must not appear in a log.
impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(..)")
    }
}

impl Seed {
    /// SipHash-1-3 of whole 64-bit words, as of their little-endian bytes.
    #[inline]
    pub fn hash<const WORDS: usize>(&self, words: [u64; WORDS]) -> u64 {
        siphash::<1, 3, WORDS>(self.0, words)
    }
}

/// SipHash with `C` compression and `D` finalization rounds (Aumasson and Bernstein, 2012, section 2).
#[inline]
fn siphash<const C: usize, const D: usize, const WORDS: usize>(
    [k0, k1]: [u64; 2],
    words: [u64; WORDS],
) -> u64 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    // The last word holds the bytes left over (none) and the length in its top byte.
    let length = ((WORDS * 8) as u64) << 56;
    for word in &words {
        compress::<C>(&mut v, *word);
    }
    compress::<C>(&mut v, length);
    v[2] ^= 0xff;
    rounds::<D>(&mut v);
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
fn compress<const C: usize>(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    rounds::<C>(v);
    v[0] ^= word;
}

#[inline(always)]
fn rounds<const N: usize>(v: &mut [u64; 4]) {
    for _ in 0..N {
        v[0] = v[0].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[2] = v[2].rotate_left(32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::{DefaultHasher, Hasher};

    const KEY: [u64; 2] = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];

    #[test]
    fn agrees_with_the_published_vectors_of_siphash_2_4() {
        // The reference implementation's vectors for inputs of 0, 8 and 16 bytes 00 01 02 …
        assert_eq!(siphash::<2, 4, 0>(KEY, []), 0x726f_db47_dd0e_0e31);
        assert_eq!(siphash::<2, 4, 1>(KEY, [KEY[0]]), 0x93f5_f579_9a93_2462);
        assert_eq!(siphash::<2, 4, 2>(KEY, KEY), 0x3f2a_cc7f_57c2_9bdb);
    }

    #[test]
    fn agrees_with_the_siphash_1_3_of_std() {
        let mut std = DefaultHasher::new();
        for word in [1, u64::MAX, KEY[0], 0, KEY[1]] {
            std.write_u64(word);
        }
        assert_eq!(Seed([0, 0]).hash([1, u64::MAX, KEY[0], 0, KEY[1]]), std.finish());
    }

    #[test]
    fn the_seed_matters_and_is_not_shown() {
        assert_ne!(Seed([0, 1]).hash([7]), Seed([1, 0]).hash([7]));
        assert_eq!(format!("{:?}", Seed([42, 43])), "Seed(..)");
    }
}
