//! What the generator's frames carry at the beginning of their UDP or TCP payload, in network order:
//!
//! ```text
//!  bytes 0..3   "TWG"
//!  byte  3      bit 7: stamped; bits 6..0: the run
//!  bytes 4..9   sequence number                       ┐
//!  bytes 9..12  flow number                           │ only when stamped
//!  bytes 12..18 CLOCK_MONOTONIC in ns, modulo 2^48    ┘
//! ```
//!
//! Stamped, it fits a UDP over IPv4 frame of 64 bytes (60 without the frame check sequence) exactly.

/// The first three bytes, in host order.
pub const MAGIC: u32 = 0x545747;
/// Bit of the fourth byte: the rest of the tag is there.
pub const STAMPED: u32 = 1 << 7;
/// Runs are told apart by a number below this.
pub const MAX_RUNS: u32 = 128;
/// What the kernel's own generator begins its payload with (net/core/pktgen.c, `PKTGEN_MAGIC`), in host order.
pub const KERNEL_MAGIC: u32 = 0xbe9b_e955;
/// The run under which those packets are counted.
pub const KERNEL_RUN: u32 = MAX_RUNS;
/// Bytes of a tag without stamp.
pub const PLAIN_LENGTH: usize = 4;
/// Bytes of a stamped tag.
pub const STAMPED_LENGTH: usize = 18;

const SEQUENCE_BITS: u32 = 40;
const FLOW_BITS: u32 = 24;
const TIME_MASK: u64 = (1 << 48) - 1;

/// The first four bytes, in host order.
#[inline(always)]
pub const fn head(run: u32, stamped: bool) -> u32 {
    MAGIC << 8 | if stamped { STAMPED } else { 0 } | (run % MAX_RUNS)
}

/// Run and whether it is stamped, of a tag that begins with `head`; `None` when it is no tag.
#[inline(always)]
pub const fn read_head(head: u32) -> Option<(u32, bool)> {
    if head >> 8 == MAGIC {
        Some((head & (MAX_RUNS - 1), head & STAMPED != 0))
    } else if head == KERNEL_MAGIC {
        Some((KERNEL_RUN, false))
    } else {
        None
    }
}

/// Bytes 4 to 12, in host order.
#[inline(always)]
pub const fn numbers(sequence: u64, flow: u32) -> u64 {
    sequence << FLOW_BITS | (flow & ((1 << FLOW_BITS) - 1)) as u64
}

/// Sequence number and flow number of what [`numbers`] made.
#[inline(always)]
pub const fn read_numbers(numbers: u64) -> (u64, u32) {
    ((numbers >> FLOW_BITS) & ((1 << SEQUENCE_BITS) - 1), numbers as u32 & ((1 << FLOW_BITS) - 1))
}

/// Nanoseconds from `stamp` to `now`, of which only the low 48 bits are known (78 hours).
#[inline(always)]
pub const fn elapsed(stamp: u64, now: u64) -> u64 {
    now.wrapping_sub(stamp) & TIME_MASK
}
