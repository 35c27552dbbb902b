//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624), as plain sums.
//!
//! A *sum* is a one's complement sum of big-endian 16-bit words, not yet inverted. A *delta* is the sum to add to what
//! a checksum covers when some words change: `delta = ~old + new` (RFC 1624, equation 3). Deltas add up in any order.

/// Folds a 32-bit accumulator into 16 bits with end-around carry.
#[inline]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Adds two one's complement sums.
#[inline]
pub const fn add(a: u16, b: u16) -> u16 {
    fold(a as u32 + b as u32)
}

/// The delta of one 16-bit word (host values of big-endian words) changing from `old` to `new`.
#[inline]
pub const fn delta(old: u16, new: u16) -> u16 {
    add(!old, new)
}

/// The delta of a 16-byte address changing from `old` to `new`.
///
/// The IPv4-mapped prefix is the same on both sides and cancels, so the one form serves both families.
#[inline]
pub fn address_delta(old: &[u8; 16], new: &[u8; 16]) -> u16 {
    let mut sum = 0u32;
    let mut at = 0;
    while at < 16 {
        let before = u16::from_be_bytes([old[at], old[at + 1]]);
        let after = u16::from_be_bytes([new[at], new[at + 1]]);
        sum += !before as u32 + after as u32;
        at += 2;
    }
    fold(sum)
}

/// The new checksum field after what it covers changed by `delta` (RFC 1624, equation 3).
#[inline]
pub const fn update(checksum: u16, delta: u16) -> u16 {
    !add(!checksum, delta)
}
