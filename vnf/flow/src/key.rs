//! A flow key as machine words, and its hash.

use throughway_shared::flow::{FAMILY_IPV4, FAMILY_IPV6, FlowKey, mapped};

/// A [`FlowKey`] as words in the machine's own byte order, made to be compared and hashed: addresses (four words; of IPv4
/// both in the first, and zeros), ports (the lower half of the fifth), and the *context*: ingress, tags, protocol and family.
#[derive(Clone, Copy, Debug, Default)]
pub struct Key(pub(crate) [u64; 6]);

/// Where a packet came in: ingress, and the identifiers of its tags.
pub(crate) type Way = (u16, [u16; 2]);

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
    /// Of IPv4, from addresses and ports in memory order, and where the packet came in.
    #[inline(always)]
    pub(crate) fn ipv4(addresses: u64, ports: u32, (ingress, tags): Way, protocol: u8) -> Self {
        let context = context(ingress, tags, protocol, FAMILY_IPV4);
        Key([addresses, 0, 0, 0, u64::from(ports), context])
    }

    /// Of IPv6, from addresses as two words each in memory order, and the rest.
    #[inline(always)]
    pub(crate) fn ipv6(addresses: [u64; 4], ports: u32, (ingress, tags): Way, protocol: u8) -> Self {
        let [w0, w1, w2, w3] = addresses;
        let context = context(ingress, tags, protocol, FAMILY_IPV6);
        Key([w0, w1, w2, w3, u64::from(ports), context])
    }

    /// Whether the addresses are in the first word.
    #[inline(always)]
    pub(crate) const fn is_ipv4(&self) -> bool {
        self.family() == FAMILY_IPV4
    }

    #[inline(always)]
    pub(crate) const fn family(&self) -> u8 {
        let [.., family] = self.0[5].to_ne_bytes();
        family
    }

    #[inline(always)]
    pub(crate) const fn protocol(&self) -> u8 {
        let [.., protocol, _] = self.0[5].to_ne_bytes();
        protocol
    }

    /// All of it but addresses and ports.
    pub(crate) const fn context(&self) -> u64 {
        self.0[5]
    }

    pub(crate) const fn ports(&self) -> u32 {
        self.0[4] as u32
    }

    /// The key as others know it.
    pub fn flow_key(&self) -> FlowKey {
        let [w0, w1, w2, w3, w4, w5] = self.0;
        let [a, b, c, d] = (w4 as u32).to_ne_bytes();
        let [i, j, o, p, q, r, protocol, family] = w5.to_ne_bytes();
        let (source, destination) = if self.is_ipv4() {
            let (source, destination) = unpair(w0);
            (mapped(source), mapped(destination))
        } else {
            (join(w0, w1), join(w2, w3))
        };
        FlowKey {
            source,
            destination,
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
        let [a, b] = key.source_port;
        let [c, d] = key.destination_port;
        let ports = u64::from(u32::from_ne_bytes([a, b, c, d]));
        let context = context(key.ingress, [key.outer_vlan, key.inner_vlan], key.protocol, key.family);
        if key.family == FAMILY_IPV4 {
            // A key of this family has its addresses in mapped form.
            let last = |[.., a, b, c, d]: [u8; 16]| [a, b, c, d];
            return Key([pair(last(key.source), last(key.destination)), 0, 0, 0, ports, context]);
        }
        let [w0, w1] = split(&key.source);
        let [w2, w3] = split(&key.destination);
        Key([w0, w1, w2, w3, ports, context])
    }
}

#[inline(always)]
const fn context(ingress: u16, vlans: [u16; 2], protocol: u8, family: u8) -> u64 {
    let [i, j] = ingress.to_ne_bytes();
    let [o, p] = vlans[0].to_ne_bytes();
    let [q, r] = vlans[1].to_ne_bytes();
    u64::from_ne_bytes([i, j, o, p, q, r, protocol, family])
}

/// Two IPv4 addresses as one word.
#[inline(always)]
pub(crate) const fn pair([a, b, c, d]: [u8; 4], [e, f, g, h]: [u8; 4]) -> u64 {
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// The addresses of [`pair`].
#[inline(always)]
pub(crate) const fn unpair(word: u64) -> ([u8; 4], [u8; 4]) {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    ([a, b, c, d], [e, f, g, h])
}

/// The two words of an address.
#[inline(always)]
pub(crate) fn split(address: &[u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

pub(crate) fn join(first: u64, second: u64) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h] = first.to_ne_bytes();
    let [i, j, k, l, m, n, o, p] = second.to_ne_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// A keyed hash: three products of 64 by 64 bits, folded, and one more to finish.
///
/// Each factor is masked by a secret word, so nobody outside can aim flows at one bucket without learning the seed, which
/// never leaves the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hasher {
    secret: [u64; 7],
    /// The product of the two words that are zero in all keys of IPv4.
    zeros: u64,
}

impl Hasher {
    /// Spreads the seed over the words (SplitMix64).
    pub(crate) fn new(seed: u128) -> Self {
        let mut state = seed as u64;
        let other = (seed >> 64) as u64;
        let secret: [u64; 7] = std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ other;
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        });
        Hasher { secret, zeros: fold(secret[1], secret[2]) }
    }

    /// Hashes everything to some number: for who needs none.
    pub(crate) const NONE: Hasher = Hasher { secret: [0; 7], zeros: 0 };

    #[inline(always)]
    pub(crate) fn hash(&self, key: &Key) -> u64 {
        let [s0, s1, s2, s3, s4, s5, s6] = self.secret;
        let [w0, w1, w2, w3, w4, w5] = key.0;
        // The halves of an address in different products; of IPv4 two are constants then, and the last one still mixes.
        let a = fold(w0 ^ s0, w3 ^ s3);
        let b = fold(w1 ^ s1, w2 ^ s2);
        let c = fold(w4 ^ s4, w5 ^ s5);
        fold(a ^ c ^ s6, b ^ c.rotate_left(32) ^ s0)
    }

    /// [`Hasher::hash`] of a key of IPv4, with one product less.
    #[inline(always)]
    pub(crate) fn hash_ipv4(&self, key: &Key) -> u64 {
        let [s0, _, _, s3, s4, s5, s6] = self.secret;
        let [w0, .., w4, w5] = key.0;
        let a = fold(w0 ^ s0, s3);
        let c = fold(w4 ^ s4, w5 ^ s5);
        fold(a ^ c ^ s6, self.zeros ^ c.rotate_left(32) ^ s0)
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
                key.source = mapped([10, 0, 0, host]);
                key.destination = mapped([192, 0, 2, 1]);
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
        let narrow =
            FlowKey { source: mapped([1, 2, 3, 4]), destination: mapped([5, 6, 7, 8]), family: 4, ..key };
        assert_eq!(Key::from(&narrow).flow_key(), narrow);
        assert_eq!(Key::from(&narrow).0[1..4], [0; 3]);
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
            assert_eq!(hasher.hash_ipv4(&key), hasher.hash(&key));
            for bit in 0..if word == 4 { 32 } else { 64 } {
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
