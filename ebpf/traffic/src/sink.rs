//! What the sink counts.
//!
//! * [`RUNS`]: per CPU, one [`Run`] for each run of a generator.
//! * [`OTHER`]: per CPU, frames that are not the generator's.
//! * [`LATENCY`]: per CPU, a histogram: see [`bucket`].
//! * [`WINDOWS`]: which of the latest sequence numbers of each run were seen: see [`window`].
//! * [`FLOWS`]: the highest sequence number of each flow: see [`flow_entry`].

use crate::tag::MAX_RUNS;

/// Map: per-CPU array of [`Run`].
pub const RUNS: &str = "RUNS";
/// Map: per-CPU array of one `u64`.
pub const OTHER: &str = "OTHER";
/// Map: per-CPU array of `u64`.
pub const LATENCY: &str = "LATENCY";
/// Map: array of `u64`.
pub const WINDOWS: &str = "WINDOWS";
/// Map: array of `u64`.
pub const FLOWS: &str = "FLOWS";

/// Entries of [`RUNS`]: those of our generator, and one for the kernel's.
pub const RUN_ENTRIES: u32 = MAX_RUNS + 1;

/// What one CPU has seen of one run.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Run {
    /// Packets.
    pub packets: u64,
    /// Bytes of their frames, without the frame check sequence.
    pub bytes: u64,
    /// CLOCK_MONOTONIC of the first packet, in ns; zero before it.
    pub first: u64,
    /// CLOCK_MONOTONIC of a late packet, in ns: not of the last, because the clock is read every 32 packets only.
    pub last: u64,
    /// How many packets had come at that time.
    pub packets_at_last: u64,
    /// Packets with a stamp.
    pub stamped: u64,
    /// Of these, packets whose sequence number had been seen.
    pub duplicates: u64,
    /// Packets that came so late that nothing is known of their sequence number any more ([`window`]).
    pub unknown: u64,
    /// Packets that came after a later one of the same flow (RFC 4737, section 3.3, for each flow by itself).
    pub reordered: u64,
    /// The lowest sequence number plus one; zero before the first stamped packet.
    pub lowest: u64,
    /// The highest sequence number plus one.
    pub highest: u64,
    /// The shortest time from stamp to sink, in ns, plus one; zero before the first.
    pub least_latency: u64,
    /// The longest time from stamp to sink, in ns.
    pub most_latency: u64,
}

const WORDS: usize = size_of::<Run>() / 8;

impl Run {
    /// Its size in words: there is no padding.
    pub const WORDS: usize = WORDS;

    /// The value that lies in the map as `words`.
    pub const fn from_words(words: &[u64; WORDS]) -> Run {
        let &[
            packets,
            bytes,
            first,
            last,
            packets_at_last,
            stamped,
            duplicates,
            unknown,
            reordered,
            lowest,
            highest,
            least_latency,
            most_latency,
        ] = words;
        Run {
            packets,
            bytes,
            first,
            last,
            packets_at_last,
            stamped,
            duplicates,
            unknown,
            reordered,
            lowest,
            highest,
            least_latency,
            most_latency,
        }
    }
}

/// Buckets within a power of two, as a power of two: they are 1.6 % wide.
const SUB_BITS: u32 = 6;
/// From here on, in ns, everything is in the last bucket: 2^37 ns are 137 s.
const LAST_POWER: u32 = 36;
/// Entries of [`LATENCY`].
pub const BUCKETS: u32 = (LAST_POWER - SUB_BITS + 2) << SUB_BITS;

/// The bucket of a latency in ns: below 64 ns one bucket for each, then 64 buckets for each power of two.
#[inline(always)]
pub const fn bucket(latency: u64) -> u32 {
    let mut power = 0;
    let mut rest = latency;
    let mut step = 32;
    // No instruction of BPF counts zeros.
    while step > 0 {
        if rest >> step != 0 {
            rest >>= step;
            power += step;
        }
        step /= 2;
    }
    if power < SUB_BITS {
        return latency as u32;
    }
    if power > LAST_POWER {
        return BUCKETS - 1;
    }
    let shift = power - SUB_BITS;
    ((shift + 1) << SUB_BITS) + ((latency >> shift) as u32 & ((1 << SUB_BITS) - 1))
}

/// The shortest latency in `bucket`, in ns.
pub const fn bucket_floor(bucket: u32) -> u64 {
    let (group, sub) = (bucket >> SUB_BITS, (bucket & ((1 << SUB_BITS) - 1)) as u64);
    if group == 0 { sub } else { ((1 << SUB_BITS) + sub) << (group - 1) }
}

/// Words of the window of one run.
const WINDOW_WORDS: u32 = 1024;
/// How many sequence numbers of a run are remembered.
pub const WINDOW: u32 = WINDOW_WORDS * 32;
/// Entries of [`WINDOWS`].
pub const WINDOW_ENTRIES: u32 = MAX_RUNS * WINDOW_WORDS;

/// Where in [`WINDOWS`] the sequence number is remembered, the 32 bits above the seen ones, and its bit.
#[inline(always)]
pub const fn window(run: u32, sequence: u64) -> (u32, u32, u32) {
    let word = (sequence >> 5) as u32;
    let at = (run % MAX_RUNS) * WINDOW_WORDS + word % WINDOW_WORDS;
    // Zero is a word that was never written.
    (at, word + 1, 1 << (sequence & 31))
}

/// What a word of [`WINDOWS`] says of a sequence number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Not seen so far: the word to write back.
    New(u64),
    /// Seen before.
    Before,
    /// So old that the word is another's by now.
    Unknown,
}

/// Looks `bit` of `epoch` up in `word`.
#[inline(always)]
pub const fn look(word: u64, epoch: u32, bit: u32) -> Seen {
    let known = (word >> 32) as u32;
    if known == epoch {
        if word & bit as u64 != 0 { Seen::Before } else { Seen::New(word | bit as u64) }
    } else if known < epoch {
        Seen::New((epoch as u64) << 32 | bit as u64)
    } else {
        Seen::Unknown
    }
}

/// Entries of [`FLOWS`].
pub const FLOW_ENTRIES: u32 = 1 << 17;

/// Where in [`FLOWS`] the flow is, and what its entry has in the bits above the sequence number: flows that meet in one
/// entry are not mistaken for each other, but are not watched either.
#[inline(always)]
pub const fn flow_entry(run: u32, flow: u32) -> (u32, u64) {
    let at = (flow ^ (run << 10)) % FLOW_ENTRIES;
    (at, ((run as u64) << 17 | (flow as u64 >> 7)) << 40)
}
