//! Test traffic: what the generator is told, what its frames look like, when one is due, and what the sink counts.
//!
//! * [`Plan`]: what to send; written once by user space, read by the program (map [`PLAN`]).
//! * [`State`]: how far it has come, and when the next burst is due (map [`STATE`]).
//! * [`frame`]: the bytes of one frame.
//! * [`tag`]: what the frames carry, by which the sink knows them.
//! * [`sink`]: what the sink counts.
//!
//! Plan, state and frames are plain functions, so that a generator in user space sends the very same traffic as the
//! program in the kernel does.
#![no_std]
#![forbid(unsafe_code)]

pub mod frame;
pub mod sink;
mod state;
pub mod tag;

pub use state::{Packet, State, Turn};

/// Map: array of one [`Plan`].
pub const PLAN: &str = "PLAN";
/// Map: array of one [`State`].
pub const STATE: &str = "STATE";
/// The program that makes frames.
pub const SENDER: &str = "pktgen_send";
/// The program that counts and drops them.
pub const SINK: &str = "pktgen_sink";

/// Frames of different lengths in one mix.
pub const MAX_CLASSES: usize = 8;
/// Entries of [`Plan::mix`].
pub const MIX: usize = 256;
/// Flows that exist at one time.
pub const MAX_FLOWS: u32 = 1 << 24;

/// Flag of [`Plan::flags`]: IPv6, not IPv4.
pub const IPV6: u64 = 1 << 0;
/// Flag of [`Plan::flags`]: TCP, not UDP.
pub const TCP: u64 = 1 << 1;
/// Flag of [`Plan::flags`]: frames carry sequence number, flow number and time.
pub const STAMPED: u64 = 1 << 2;
/// Flag of [`Plan::flags`]: the first packet of a TCP flow is a SYN; without it, an ACK as all others.
pub const SYN: u64 = 1 << 3;
/// Flag of [`Plan::flags`]: lengths vary; without it, all frames are of the first class.
pub const MIXED: u64 = 1 << 4;

/// Frames of one length.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Class {
    /// Bytes of the frame, without the frame check sequence.
    pub length: u64,
    /// Sum (RFC 1071) of the IPv4 header but for both addresses; zero for IPv6.
    pub network_sum: u64,
    /// Sum of the constant part of what the UDP or TCP checksum covers: pseudo header, header, beginning of the payload.
    pub transport_sum: u64,
}

/// What to send. Every field is of eight bytes or a multiple of them: see [`Plan::to_words`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// [`IPV6`], [`TCP`], [`STAMPED`], [`SYN`], [`MIXED`].
    pub flags: u64,
    /// The Ethernet header; the last two bytes are not used.
    pub ethernet: [u8; 16],
    /// Source address of flow zero; IPv4 in the last four bytes.
    pub source: [u8; 16],
    /// Destination address of flow zero; IPv4 in the last four bytes.
    pub destination: [u8; 16],
    /// How many low bits of the source address differ from flow to flow, at most 31.
    pub source_bits: u64,
    /// How many low bits of the destination address do, at most 31.
    pub destination_bits: u64,
    /// The first source port.
    pub source_port: u64,
    /// How many source ports, at least one.
    pub source_ports: u64,
    /// The first destination port.
    pub destination_port: u64,
    /// How many destination ports, at least one.
    pub destination_ports: u64,
    /// Flows that exist at one time, at least one, at most [`MAX_FLOWS`].
    pub flows: u64,
    /// Of these, how many are replaced by new ones each second.
    pub new_flows: u64,
    /// The first four bytes of the tag ([`tag::head`]).
    pub tag: u64,
    /// Frames sent at one go, at least one.
    pub burst: u64,
    /// Time from one burst to the next, in 1/256 ns; zero: as fast as it goes.
    pub burst_time: u64,
    /// By how much a burst may be late, in 1/256 ns, and still be made up for.
    pub patience: u64,
    /// Ends so many ns after the first burst.
    pub end: u64,
    /// Ends after so many packets.
    pub limit: u64,
    /// The lengths that occur; the first is the longest.
    pub classes: [Class; MAX_CLASSES],
    /// Class of a packet, picked by its sequence number: each class has its share of the entries.
    pub mix: [u8; MIX],
}

/// The longest frame has to be the first: the kernel prepares buffers of that length, and the program can only shorten.
const WORDS: usize = size_of::<Plan>() / 8;
const _: () = assert!(size_of::<Plan>() == 8 * (15 + 6 + 3 * MAX_CLASSES + MIX / 8));

impl Plan {
    /// Its size in words: there is no padding.
    pub const WORDS: usize = WORDS;

    /// The value as it lies in the map.
    pub fn to_words(&self) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        let mut at = 0;
        let mut put = |word: u64| {
            words[at] = word;
            at += 1;
        };
        put(self.flags);
        for bytes in [&self.ethernet, &self.source, &self.destination] {
            bytes.as_chunks().0.iter().for_each(|&bytes| put(u64::from_ne_bytes(bytes)));
        }
        put(self.source_bits);
        put(self.destination_bits);
        put(self.source_port);
        put(self.source_ports);
        put(self.destination_port);
        put(self.destination_ports);
        put(self.flows);
        put(self.new_flows);
        put(self.tag);
        put(self.burst);
        put(self.burst_time);
        put(self.patience);
        put(self.end);
        put(self.limit);
        for class in &self.classes {
            put(class.length);
            put(class.network_sum);
            put(class.transport_sum);
        }
        self.mix.as_chunks().0.iter().for_each(|&bytes| put(u64::from_ne_bytes(bytes)));
        words
    }

    /// Whether `flag` is set.
    #[inline(always)]
    pub const fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    /// Addresses and ports of `flow`. Flows differ first in the source address, then in the source port, then in the
    /// destination's address and port; beyond the last combination they begin anew.
    #[inline(always)]
    pub fn tuple(&self, flow: u32) -> Tuple {
        let low =
            |address: &[u8; 16]| u32::from_be_bytes([address[12], address[13], address[14], address[15]]);
        let (source, rest) = digit_bits(flow, self.source_bits as u32);
        let (source_port, rest) = digit(rest, self.source_ports as u32);
        let (destination, rest) = digit_bits(rest, self.destination_bits as u32);
        let (destination_port, _) = digit(rest, self.destination_ports as u32);
        Tuple {
            source: low(&self.source).wrapping_add(source),
            destination: low(&self.destination).wrapping_add(destination),
            source_port: (self.source_port as u16).wrapping_add(source_port as u16),
            destination_port: (self.destination_port as u16).wrapping_add(destination_port as u16),
        }
    }
}

#[inline(always)]
fn digit_bits(number: u32, bits: u32) -> (u32, u32) {
    let bits = bits & 31;
    (number & ((1 << bits) - 1), number >> bits)
}

/// `number` modulo and divided by `base`. A division is as dear as all the rest of a frame: most often there is none.
#[inline(always)]
fn digit(number: u32, base: u32) -> (u32, u32) {
    if number < base {
        return (number, 0);
    }
    if base <= 1 {
        return (0, number);
    }
    let rest = number / base;
    (number - rest * base, rest)
}

/// Low words of the addresses and the ports of a flow, in host order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuple {
    /// The last four bytes of the source address.
    pub source: u32,
    /// The last four bytes of the destination address.
    pub destination: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}
