//! One small hash for flows and for table keys: multiplication folded to 64 bits, one step a word.
//!
//! Not keyed. Who can choose what is hashed can choose collisions, so it is only used where the number of entries is
//! bounded elsewhere (the kernel's neighbour table) or where a collision costs nothing (a choice among next hops).

use std::hash::Hasher;
use std::net::IpAddr;

use throughway_packet::headers::octets;
use throughway_packet::{Flags, Headers, PortId};

/// An odd constant without pattern: 2⁶⁴ divided by the golden ratio.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

#[inline]
const fn step(state: u64, word: u64) -> u64 {
    let product = (state ^ word) as u128 * MULTIPLIER as u128;
    (product as u64) ^ ((product >> 64) as u64)
}

#[inline]
fn address(state: u64, octets: &[u8; 16]) -> u64 {
    let bits = u128::from_be_bytes(*octets);
    step(step(state, (bits >> 64) as u64), bits as u64)
}

/// The hash of a destination alone, for packets without a flow.
pub(crate) fn of_address(octets: &[u8; 16]) -> u64 {
    address(MULTIPLIER, octets)
}

/// The hash of what a next hop is.
pub(crate) fn of_next_hop(port: PortId, gateway: Option<IpAddr>) -> u64 {
    // No gateway is told apart from that of all zeros.
    let state = address(MULTIPLIER, &gateway.map_or([0; 16], octets));
    step(state, u64::from(port.0) << 1 | u64::from(gateway.is_some()))
}

/// Two hashes made into one of which every bit depends on all of theirs (the finaliser of SplitMix64).
#[inline]
pub(crate) const fn mix(a: u64, b: u64) -> u64 {
    let mut z = a ^ b.rotate_left(32).wrapping_mul(MULTIPLIER);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The hash of a packet's flow: addresses, protocol and ports.
///
/// The pieces of a datagram must stay together, and only the first of them has ports: fragments are hashed without.
/// Ingress and VLAN are left out: a flow that arrives over two links still leaves over one.
#[inline]
pub(crate) fn of_flow(headers: &Headers) -> u64 {
    let key = &headers.key;
    let [a, b] = key.source_port;
    let [c, d] = key.destination_port;
    let ports = if headers.flags.has(Flags::FRAGMENT) { 0 } else { u32::from_be_bytes([a, b, c, d]) };
    let state = address(address(MULTIPLIER, &key.source), &key.destination);
    step(state, u64::from(ports) << 8 | u64::from(key.protocol))
}

/// [`Hasher`] for the keys of small tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FoldHasher(u64);

impl Default for FoldHasher {
    fn default() -> Self {
        FoldHasher(MULTIPLIER)
    }
}

impl Hasher for FoldHasher {
    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_be_bytes(word));
        }
    }

    #[inline]
    fn write_u64(&mut self, word: u64) {
        self.0 = step(self.0, word);
    }
}
