//! The fast path: established flows that the XDP program executes by itself, in memory that it shares with the workers.
//!
//! User space writes flows with plain stores and reads what they counted with plain loads: no system call. The maps are
//! arrays that are mapped into the process (`BPF_F_MMAPABLE`); each worker has a region of its own in them:
//!
//! * [`FAST_BUCKETS`]: eight ways at a glance, half a cache line: a tag of 16 bits ([`Hash::tag`]) for each, zero being a free way,
//!   and where its flow's entry is: see [`first_place`].
//! * [`FAST_ENTRIES`]: an [`Entry`] for each flow, one cache line: all that an IPv4 packet of the flow needs of its own.
//! * [`FAST_WIDE`]: a [`Wide`] at the same place, one cache line, for IPv6: the addresses of key and action.
//! * [`FAST_TEMPLATES`]: what many flows have in common, kept once: [`Template`].
//! * [`FAST_GENERATIONS`]: the words by which an entry knows that it is still true; one value for all.
//! * [`FAST_CONTROL`]: until when the flows may be executed; one value for all.
//!
//! And, written by system calls:
//!
//! * [`FAST_EGRESS`]: port of the data plane → device to send to; [`FAST_PORTS`]: the same, to look at.
//!
//! Who writes what: of an entry, `packets`, `bytes` and `last` are the program's, `generation` is both's, the rest is the
//! worker's. All of it is little more than relaxed loads and stores of aligned words; what makes it right is the order in
//! which a worker works: an entry is written before its tag and read through it, and a place whose tag was taken back is
//! written again only after [`QUARANTINE`], when no run of the program can still be at it.
//!
//! Places are not ways: flows lie side by side however few they are, for the sake of the processor's cache of page addresses. (Arrays
//! have pages of 4 KiB; ten thousand entries scattered over a table for 131,072 touch 2,700 of them, side by side 160.)

/// Map: mmapable array of buckets, [`BUCKET_WORDS`] words each.
pub const FAST_BUCKETS: &str = "FAST_BUCKETS";
/// Map: mmapable array of [`Entry`].
pub const FAST_ENTRIES: &str = "FAST_ENTRIES";
/// Map: mmapable array of [`Wide`].
pub const FAST_WIDE: &str = "FAST_WIDE";
/// Map: mmapable array of [`Template`].
pub const FAST_TEMPLATES: &str = "FAST_TEMPLATES";
/// Map: mmapable array with one value, [`GENERATION_WORDS`] words of 32 bits.
pub const FAST_GENERATIONS: &str = "FAST_GENERATIONS";
/// Map: mmapable array with one value, [`CONTROL_WORDS`] words of 64 bits.
pub const FAST_CONTROL: &str = "FAST_CONTROL";
/// Map: device map, port of the data plane → ifindex.
pub const FAST_EGRESS: &str = "FAST_EGRESS";
/// Map: array, port of the data plane → ifindex (`u32`), perhaps with [`BY_REDIRECT`], or zero.
pub const FAST_PORTS: &str = "FAST_PORTS";
/// Of a device in [`FAST_PORTS`]: frames that came in on it go back by a redirect, not by `XDP_TX`.
pub const BY_REDIRECT: u32 = 1 << 31;

/// Constant of the program: how many workers there are, `u32`; zero: no fast path at all.
pub const FAST_WORKERS: &str = "FAST_WORKERS";
/// Constant of the program: buckets of one worker, `u32`.
pub const FAST_BUCKETS_EACH: &str = "FAST_BUCKETS_EACH";
/// Constant of the program: templates of one worker, `u32`.
pub const FAST_TEMPLATES_EACH: &str = "FAST_TEMPLATES_EACH";
/// Constant of the program: the hash's first secret word, `u64`.
pub const FAST_SEED: &str = "FAST_SEED";
/// Constant of the program: the hash's second secret word, `u64`.
pub const FAST_SEED_LAST: &str = "FAST_SEED_LAST";

/// How many flows one worker can have.
pub const MAX_FLOWS: u32 = 1 << 24;
/// How many workers there can be.
pub const MAX_WORKERS: u32 = 64;
/// How many flows share a bucket.
pub const WAYS: usize = 8;
/// Words of 64 bits in a bucket: two with four tags each, the first in the lowest bits, and two with the places in the same order.
pub const BUCKET_WORDS: usize = 4;
/// Binary digits of the number of buckets that share 65,536 places: what a place of 16 bits in a bucket can tell apart.
pub const GROUP_SHIFT: u32 = 13;
/// Words of 64 bits in an [`Entry`].
pub const ENTRY_WORDS: usize = size_of::<Entry>() / 8;
/// Words of 64 bits in a [`Wide`].
pub const WIDE_WORDS: usize = size_of::<Wide>() / 8;
/// Words of 64 bits in a [`Template`].
pub const TEMPLATE_WORDS: usize = size_of::<Template>() / 8;

/// How many slots of generations there are: the words of [`FAST_GENERATIONS`] from the first on.
pub const SLOTS: usize = 1 << 16;
/// The word of [`FAST_GENERATIONS`] that is the present generation; in a cache line of its own.
pub const CURRENT: usize = SLOTS;
/// Words of [`FAST_GENERATIONS`].
pub const GENERATION_WORDS: usize = SLOTS + 16;
/// The slot that every entry depends on: the configuration.
pub const SLOT_CONFIG: usize = 0;
/// The slot that every entry depends on: all routes.
pub const SLOT_ROUTES: usize = 1;
/// Entries so many generations old are stale, whatever their slots say.
pub const HORIZON: u32 = 1 << 30;

/// The word of [`FAST_CONTROL`] that says until when (ns of `CLOCK_MONOTONIC`) flows are executed: later the program
/// takes every flow for unknown.
pub const ALIVE_UNTIL: usize = 0;
/// Words of [`FAST_CONTROL`].
pub const CONTROL_WORDS: usize = 8;

/// How long (ns) a place or a template that was given back is not used again: far beyond one run of the program.
pub const QUARANTINE: u64 = 100_000_000;

/// Binary digits of a nanosecond count that [`Entry::last`] leaves out: its unit is 1.05 ms.
pub const LAST_SHIFT: u32 = 20;
/// Binary digits of a nanosecond count that [`Entry::silence`] leaves out: its unit is 16.8 ms.
pub const SILENCE_SHIFT: u32 = 24;
/// [`Entry::silence`] of an entry that may be silent for any time.
pub const ENDLESS: u16 = u16::MAX;

/// One flow: one cache line. Words are in the machine's own byte order; addresses and ports as they lie in the packet.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// The key's addresses, source and destination; zero of IPv6, whose are in [`Wide`].
    pub addresses: u64,
    /// The new addresses where they are edited; zero of IPv6.
    pub new_addresses: u64,
    /// The key's ports.
    pub ports: u32,
    /// The new ports where they are edited.
    pub new_ports: u32,
    /// The generation at which the flow was found true.
    pub generation: u32,
    /// The template with the rest of key and action.
    pub template: u16,
    /// After a silence of so many units (see [`SILENCE_SHIFT`]) the flow is the worker's; or [`ENDLESS`].
    pub silence: u16,
    /// The slots it was made from, beside [`SLOT_CONFIG`] and [`SLOT_ROUTES`].
    pub dependencies: [u16; 4],
    /// Packets that the program executed.
    pub packets: u64,
    /// Bytes of their IP packets.
    pub bytes: u64,
    /// When the last of them came, in units of 2^[`LAST_SHIFT`] ns; wraps around after 52 days.
    pub last: u32,
    /// Delta of the IPv4 header checksum, as it lies in the packet.
    pub l3_delta: u16,
    /// Delta of the upper layer's checksum, as it lies in the packet.
    pub l4_delta: u16,
}

const _: () = assert!(size_of::<Entry>() == 64);

/// Index of the word of an [`Entry`] with generation, template and silence.
pub const WORD_GENERATION: usize = 3;
/// Index of the word of an [`Entry`] with the packets.
pub const WORD_PACKETS: usize = 5;
/// Index of the word of an [`Entry`] with the bytes.
pub const WORD_BYTES: usize = 6;
/// Index of the word of an [`Entry`] with the time of the last packet.
pub const WORD_LAST: usize = 7;

impl Entry {
    /// The entry as words.
    pub const fn to_words(&self) -> [u64; ENTRY_WORDS] {
        let [a, b, c, d] = self.dependencies;
        [
            self.addresses,
            self.new_addresses,
            halves(self.ports, self.new_ports),
            halves(self.generation, quarters(self.template, self.silence)),
            halves(quarters(a, b), quarters(c, d)),
            self.packets,
            self.bytes,
            halves(self.last, quarters(self.l3_delta, self.l4_delta)),
        ]
    }

    /// The entry of these words.
    pub const fn from_words(words: &[u64; ENTRY_WORDS]) -> Entry {
        let [addresses, new_addresses, ports, generation, dependencies, packets, bytes, last] = *words;
        let (ports, new_ports) = split(ports);
        let (generation, rest) = split(generation);
        let (template, silence) = split_half(rest);
        let (front, back) = split(dependencies);
        let ((a, b), (c, d)) = (split_half(front), split_half(back));
        let (last, deltas) = split(last);
        let (l3_delta, l4_delta) = split_half(deltas);
        Entry {
            addresses,
            new_addresses,
            ports,
            new_ports,
            generation,
            template,
            silence,
            dependencies: [a, b, c, d],
            packets,
            bytes,
            last,
            l3_delta,
            l4_delta,
        }
    }
}

/// The IPv6 addresses of a flow: one cache line. Words as they lie in the packet.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wide {
    /// The key's addresses, source and destination.
    pub addresses: [u64; 4],
    /// The new addresses where they are edited.
    pub new_addresses: [u64; 4],
}

const _: () = assert!(size_of::<Wide>() == 64);

impl Wide {
    /// The addresses as words.
    pub const fn to_words(&self) -> [u64; WIDE_WORDS] {
        let ([a, b, c, d], [e, f, g, h]) = (self.addresses, self.new_addresses);
        [a, b, c, d, e, f, g, h]
    }
}

/// What many flows have in common: where they come from, and all of their action but addresses, ports and checksum deltas.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Template {
    /// The rest of the key: [`context`].
    pub context: u64,
    /// See [`edits`](crate::action::edits).
    pub edits: u16,
    /// Egress port of the data plane.
    pub egress: u16,
    /// The longest IP packet that the action holds for.
    pub limit: u16,
    /// What to take off the hop limit.
    pub hops: u8,
    /// The DSCP to set, 0 to 63.
    pub dscp: u8,
    /// Destination and source MAC address, as they lie in the frame, in three words.
    pub ethernet: [u32; 3],
    /// The outer tag, as in [`Action`](crate::action::Action).
    pub outer_tag: u16,
    /// The inner tag, as in [`Action`](crate::action::Action).
    pub inner_tag: u16,
    /// Zero.
    pub reserved: [u64; 4],
    /// What the packet is put into, with [`ENCAPSULATE`](crate::action::edits::ENCAPSULATE).
    pub tunnel: [u64; 8],
}

const _: () = assert!(size_of::<Template>() == 128);

impl Template {
    /// The template as words.
    pub const fn to_words(&self) -> [u64; TEMPLATE_WORDS] {
        let [m0, m1, m2] = self.ethernet;
        let [r0, r1, r2, r3] = self.reserved;
        let [t0, t1, t2, t3, t4, t5, t6, t7] = self.tunnel;
        let small = u16::from_ne_bytes([self.hops, self.dscp]);
        let edits = halves(quarters(self.edits, self.egress), quarters(self.limit, small));
        let tags = halves(m2, quarters(self.outer_tag, self.inner_tag));
        [self.context, edits, halves(m0, m1), tags, r0, r1, r2, r3, t0, t1, t2, t3, t4, t5, t6, t7]
    }
}

/// The part of a flow's key that is neither address nor port: ingress port of the data plane, tags, protocol, family.
#[inline(always)]
pub const fn context(ingress: u16, vlans: [u16; 2], protocol: u8, family: u8) -> u64 {
    let small = u16::from_ne_bytes([protocol, family]);
    halves(quarters(ingress, vlans[0]), quarters(vlans[1], small))
}

/// Two halves of a word, the first at the lower address.
#[inline(always)]
pub const fn halves(first: u32, second: u32) -> u64 {
    if cfg!(target_endian = "little") {
        first as u64 | (second as u64) << 32
    } else {
        second as u64 | (first as u64) << 32
    }
}

/// Two halves of a half, the first at the lower address.
#[inline(always)]
pub const fn quarters(first: u16, second: u16) -> u32 {
    if cfg!(target_endian = "little") {
        first as u32 | (second as u32) << 16
    } else {
        second as u32 | (first as u32) << 16
    }
}

/// The halves of [`halves`].
#[inline(always)]
pub const fn split(word: u64) -> (u32, u32) {
    if cfg!(target_endian = "little") {
        (word as u32, (word >> 32) as u32)
    } else {
        ((word >> 32) as u32, word as u32)
    }
}

/// The halves of [`quarters`].
#[inline(always)]
pub const fn split_half(half: u32) -> (u16, u16) {
    if cfg!(target_endian = "little") {
        (half as u16, (half >> 16) as u16)
    } else {
        ((half >> 16) as u16, half as u16)
    }
}

/// A keyed hash of a flow: a product of 64 bits for each word, folded. Nobody outside can aim flows at one bucket without
/// the seed; and what they could win by it is only that their flows stay with the worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hash(pub u64);

impl Hash {
    /// Of IPv4: the addresses are one word.
    #[inline(always)]
    pub const fn narrow(seed: [u64; 2], addresses: u64, ports: u32, context: u64) -> Hash {
        Hash::finish(mix(seed[0], addresses), seed, ports, context)
    }

    /// Of IPv6.
    #[inline(always)]
    pub const fn wide(seed: [u64; 2], addresses: [u64; 4], ports: u32, context: u64) -> Hash {
        let [a, b, c, d] = addresses;
        Hash::finish(mix(mix(mix(mix(seed[0], a), b), c), d), seed, ports, context)
    }

    /// The rest is mixed beside the addresses, not after them: the two products do not wait for each other.
    #[inline(always)]
    const fn finish(hash: u64, seed: [u64; 2], ports: u32, context: u64) -> Hash {
        let rest = mix(seed[1], ports as u64 ^ context.rotate_left(32));
        Hash(mix(hash, rest.rotate_left(29)))
    }

    /// The bucket, of so many, that the flow is sought in first.
    #[inline(always)]
    pub const fn first(self, buckets: u32) -> u32 {
        (((self.0 >> 32) * buckets as u64) >> 32) as u32
    }

    /// The bucket, of so many, that the flow is sought in second; may be the same.
    #[inline(always)]
    pub const fn second(self, buckets: u32) -> u32 {
        let other = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (((other >> 32) * buckets as u64) >> 32) as u32
    }

    /// The flow's tag: never zero.
    #[inline(always)]
    pub const fn tag(self) -> u16 {
        let tag = self.0 as u16;
        if tag == 0 { 1 } else { tag }
    }
}

/// One more word in a hash.
#[inline(always)]
pub(crate) const fn mix(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(0xd6e8_feb8_6659_fd93);
    product ^ product >> 32
}

/// One bit in each of the four tags of a word.
const LOWEST: u64 = 0x0001_0001_0001_0001;

/// Marks, by its highest bit, the first tag (at least) in a word of four that is `tag`. Marks behind the first may be wrong:
/// a tag that differs in its lowest bit is taken for one.
#[inline(always)]
pub const fn matches(word: u64, tag: u16) -> u64 {
    let differences = word ^ (tag as u64 * LOWEST);
    differences.wrapping_sub(LOWEST) & !differences & LOWEST << 15
}

/// Which of the four tags the lowest mark of [`matches()`] is of; the first, when there is none.
#[inline(always)]
pub const fn way(marks: u64) -> u32 {
    // The BPF target neither counts trailing zeros nor compares without a branch, which would often be foretold wrongly.
    let first = (marks & marks.wrapping_neg()) >> 15;
    (first.wrapping_mul(0x0000_0001_0002_0003) >> 48) as u32 & 3
}

/// The first of the places of the flows in a worker's bucket: the places in the bucket count from it.
#[inline(always)]
pub const fn first_place(bucket: u32) -> u32 {
    (bucket >> GROUP_SHIFT) << 16
}

/// How much memory one worker's flows take: what the maps and the program must agree on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Buckets of [`WAYS`] ways each.
    pub buckets: u32,
    /// Templates.
    pub templates: u32,
}

impl Geometry {
    /// For so many flows (1 to [`MAX_FLOWS`]): a third more ways than flows, so that nearly every set of flows of that number
    /// fits; and a template for each 64 flows, 1024 at least.
    pub const fn of(flows: u32) -> Geometry {
        let flows = if flows == 0 {
            1
        } else if flows > MAX_FLOWS {
            MAX_FLOWS
        } else {
            flows
        };
        let ways = flows + flows.div_ceil(3);
        let templates = flows / 64;
        let templates = if templates < 1024 {
            1024
        } else if templates > u16::MAX as u32 {
            u16::MAX as u32
        } else {
            templates
        };
        Geometry { buckets: ways.div_ceil(WAYS as u32), templates }
    }

    /// Ways: places of flows.
    pub const fn ways(&self) -> u32 {
        self.buckets * WAYS as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_four_equal_tags_is_found() {
        for tag in [1, 2, 0x7fff, 0x8000, 0xfffe, 0xffff] {
            for ways in 0..16u64 {
                for other in [0, 1, 0x1234, 0x8000, 0xffff].into_iter().filter(|other| *other != tag) {
                    let word = (0..4).map(|way| if ways >> way & 1 != 0 { tag } else { other });
                    let word = word.rev().fold(0u64, |word, tag| word << 16 | u64::from(tag));
                    let marks = matches(word, tag);
                    assert_eq!(marks != 0, ways != 0, "{word:x} {tag:x}");
                    if ways != 0 {
                        assert_eq!(way(marks), ways.trailing_zeros(), "{word:x} {tag:x}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_entry_is_its_words() {
        let words = [
            0x1122_3344_5566_7788,
            2,
            3 | 4 << 32,
            5 | 6 << 40,
            7 | 8 << 16 | 9 << 32 | 10 << 48,
            11,
            12,
            13 | 14 << 35,
        ];
        assert_eq!(Entry::from_words(&words).to_words(), words);
    }

    #[test]
    fn every_bit_of_a_flow_counts() {
        let seed = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
        let far = |a: Hash, b: Hash| (12..=52).contains(&(a.0 ^ b.0).count_ones());
        let of = |addresses, ports, context| Hash::narrow(seed, addresses, ports, context);
        let (addresses, ports, context) = (0x0100_02c0_0100_000a, 0x3500_e803, context(3, [0; 2], 17, 4));
        let plain = of(addresses, ports, context);
        for bit in 0..64 {
            assert!(far(plain, of(addresses ^ (1 << bit), ports, context)), "address bit {bit}");
            assert!(far(plain, of(addresses, ports, context ^ (1 << bit))), "context bit {bit}");
            assert!(
                bit >= 32 || far(plain, of(addresses, ports ^ (1 << (bit % 32)), context)),
                "port bit {bit}"
            );
        }
    }

    #[test]
    fn flows_that_count_up_spread_over_the_buckets() {
        let seed = [1, 2];
        for side in [Hash::first, Hash::second] {
            let mut counts = [0u32; 1000];
            for flow in 0..16_000u32 {
                let (addresses, ports) = (u64::from((flow >> 6).to_be()) | 7 << 32, (flow << 26).to_be());
                counts[side(Hash::narrow(seed, addresses, ports, 3), 1000) as usize] += 1;
            }
            // 16 are to be expected, with a deviation of 4.
            assert!(counts.iter().all(|count| *count < 40), "{:?}", counts.iter().max());
        }
    }
}
