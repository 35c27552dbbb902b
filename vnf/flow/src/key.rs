//! A flow key as machine words, and its hash.

use throughway_shared::flow::FlowKey;

/// A [`FlowKey`] as words in the machine's own byte order: the same 44 bytes in the same order, made to be compared and
/// hashed. The last word has its upper half empty.
#[derive(Clone, Copy, Debug, Default)]
pub struct Key(pub(crate) [u64; 6]);

impl PartialEq for Key {
    /// Word by word without branches: comparing the array would be a call of `memcmp`, for a third of the price of a hit.
    #[inline(always)]
    fn eq(&self, other: &Key) -> bool {
        let [a0, a1, a2, a3, a4, a5] = self.0;
        let [b0, b1, b2, b3, b4, b5] = other.0;
        (a0 ^ b0) | (a1 ^ b1) | (a2 ^ b2) | (a3 ^ b3) | (a4 ^ b4) | (a5 ^ b5) == 0
    }
}

impl Eq for Key {}

impl Key {
    /// From addresses (in their 16-byte form, as two words each in memory order), the ports, and the rest.
    #[inline(always)]
    pub(crate) fn new(addresses: [u64; 4], ports: [u8; 4], ingress: u16, protocol: u8, family: u8) -> Self {
        let [a, b, c, d] = ports;
        let [i, j] = ingress.to_ne_bytes();
        let fifth = u64::from_ne_bytes([a, b, c, d, i, j, 0, 0]);
        let sixth = u32::from_ne_bytes([0, 0, protocol, family]);
        let [w0, w1, w2, w3] = addresses;
        Key([w0, w1, w2, w3, fifth, u64::from(sixth)])
    }

    /// The key as others know it.
    pub fn flow_key(&self) -> FlowKey {
        let [w0, w1, w2, w3, w4, w5] = self.0;
        let [a, b, c, d, i, j, o, p] = w4.to_ne_bytes();
        let [q, r, protocol, family] = (w5 as u32).to_ne_bytes();
        FlowKey {
            source: join(w0, w1),
            destination: join(w2, w3),
            source_port: [a, b],
            destination_port: [c, d],
            ingress: u16::from_ne_bytes([i, j]),
            outer_vlan: u16::from_ne_bytes([o, p]),
            inner_vlan: u16::from_ne_bytes([q, r]),
            protocol,
            family,
        }
    }
}

impl From<&FlowKey> for Key {
    fn from(key: &FlowKey) -> Self {
        let [w0, w1] = split(&key.source);
        let [w2, w3] = split(&key.destination);
        let [a, b] = key.source_port;
        let [c, d] = key.destination_port;
        let [i, j] = key.ingress.to_ne_bytes();
        let [o, p] = key.outer_vlan.to_ne_bytes();
        let [q, r] = key.inner_vlan.to_ne_bytes();
        let fifth = u64::from_ne_bytes([a, b, c, d, i, j, o, p]);
        let sixth = u32::from_ne_bytes([q, r, key.protocol, key.family]);
        Key([w0, w1, w2, w3, fifth, u64::from(sixth)])
    }
}

/// The two words of an address.
#[inline(always)]
pub(crate) fn split(address: &[u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

fn join(first: u64, second: u64) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h] = first.to_ne_bytes();
    let [i, j, k, l, m, n, o, p] = second.to_ne_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// A keyed hash: three products of 64 by 64 bits, folded, and one more to finish.
///
/// Each factor is masked by a secret word, so nobody outside can aim flows at one bucket without learning the seed, which
/// never leaves the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hasher([u64; 7]);

impl Hasher {
    /// Spreads the seed over the words (SplitMix64).
    pub(crate) fn new(seed: u128) -> Self {
        let mut state = seed as u64;
        let other = (seed >> 64) as u64;
        Hasher(std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ other;
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }))
    }

    #[inline(always)]
    pub(crate) fn hash(&self, key: &Key) -> u64 {
        let [s0, s1, s2, s3, s4, s5, s6] = self.0;
        let [w0, w1, w2, w3, w4, w5] = key.0;
        // Both halves of an address in different products: those of IPv4 have a constant first half.
        let a = fold(w0 ^ s0, w3 ^ s3);
        let b = fold(w1 ^ s1, w2 ^ s2);
        let c = fold(w4 ^ s4, w5 ^ s5);
        fold(a ^ c ^ s6, b ^ c.rotate_left(32) ^ s0)
    }
}

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> impl Iterator<Item = Key> {
        // What real traffic looks like to a hash: addresses and ports that count up.
        (0..64u8).flat_map(|host| {
            (0..256u16).map(move |port| {
                let mut key =
                    FlowKey { protocol: 17, family: 4, destination_port: [0, 53], ..FlowKey::default() };
                key.source = throughway_shared::flow::mapped([10, 0, 0, host]);
                key.destination = throughway_shared::flow::mapped([192, 0, 2, 1]);
                key.source_port = port.to_be_bytes();
                Key::from(&key)
            })
        })
    }

    #[test]
    fn words_and_key_are_the_same() {
        let key = FlowKey {
            source: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
            destination: [17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32],
            source_port: [33, 34],
            destination_port: [35, 36],
            ingress: 0x2526,
            outer_vlan: 0x728,
            inner_vlan: 0x92a,
            protocol: 43,
            family: 44,
        };
        assert_eq!(Key::from(&key).flow_key(), key);
    }

    #[test]
    fn keys_that_count_up_spread_over_the_buckets() {
        let hasher = Hasher::new(1);
        for shift in [0, 16, 32, 54] {
            let mut count = vec![0u32; 1024];
            for key in keys() {
                count[(hasher.hash(&key) >> shift) as usize & 1023] += 1;
            }
            // 16 are to be expected, with a deviation of 4.
            let worst = count.iter().max().copied().unwrap_or(0);
            assert!(worst < 40, "bits from {shift}: {worst} in one bucket");
        }
    }

    #[test]
    fn every_bit_of_the_key_counts() {
        let hasher = Hasher::new(7);
        let key = keys().next().unwrap_or_default();
        for word in 0..6 {
            for bit in 0..if word == 5 { 32 } else { 64 } {
                let mut other = key;
                other.0[word] ^= 1 << bit;
                let changed = (hasher.hash(&key) ^ hasher.hash(&other)).count_ones();
                assert!((10..=54).contains(&changed), "word {word} bit {bit}: {changed} bits changed");
            }
        }
    }

    #[test]
    fn another_seed_gives_another_order() {
        let (one, two) = (Hasher::new(1), Hasher::new(2));
        let high = Hasher::new(1 << 64 | 1);
        let same = keys().filter(|key| {
            let bucket = |hasher: &Hasher| hasher.hash(key) >> 56;
            bucket(&one) == bucket(&two) || bucket(&one) == bucket(&high)
        });
        // One in 256 of 16384, twice.
        assert!(same.count() < 300);
    }
}
