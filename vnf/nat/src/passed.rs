//! Flows that were let pass as they are. Flow caches repeat that, until a session is opened that has one of them as one of its
//! directions: by a packet of the same addresses and ports that came in elsewhere, or as the answers to a connection whose destination
//! was translated.
//!
//! A bit for each of such flows by its hash, and a slot for each bit. Who opens a session looks at the bits of its two keys, nearly
//! always in vain; where one is set, its slot is bumped, and the bit is clear until a flow of its passes again. Many flows share a bit, which makes an
//! answer stale too early and never keeps it too long.
//!
//! **Why no session is overlooked.** Who lets a flow pass sets its bit and *then* looks for a session; who opens one puts it into the table and
//! *then* looks at the bits; with a fence between the two steps on either side, one of them sees the other.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use throughway_session::Probe;
use throughway_vnf::Slot;

use crate::shared::is_ipv4;

/// Bits of each family, so that sessions of one do not meet the flows of the other: 64 KiB each.
const BITS: u64 = 1 << 19;

/// Sessions' own handles are never as large: slots with this bit are those of bits.
const OF_BITS: u64 = 1 << 63;

/// The flows of all workers.
pub(crate) struct Passed {
    words: Box<[AtomicU64]>,
}

/// Where the bit of a key and of its reverse is.
fn number(probe: &Probe) -> u64 {
    let family = if is_ipv4(&probe.key().source) { 0 } else { BITS };
    family + (probe.hash() >> 8) % BITS
}

impl Passed {
    pub(crate) fn new() -> Passed {
        Passed { words: (0..2 * BITS / 64).map(|_| AtomicU64::new(0)).collect() }
    }

    /// The slot on which it depends that packets with this key pass as they are. To be asked before it is looked whether they belong
    /// to a session.
    pub(crate) fn note(&self, probe: &Probe) -> Slot {
        let number = number(probe);
        if let Some(word) = self.words.get((number / 64) as usize) {
            let bit = 1 << (number % 64);
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        fence(Ordering::SeqCst);
        Slot::session(OF_BITS | number)
    }

    /// The slots that a session with these keys makes untrue. To be asked when it is in the table.
    pub(crate) fn ended_by(&self, keys: &[Probe; 2]) -> [Option<Slot>; 2] {
        fence(Ordering::SeqCst);
        keys.each_ref().map(|key| {
            let number = number(key);
            let word = self.words.get((number / 64) as usize)?;
            let bit = 1 << (number % 64);
            let was =
                word.load(Ordering::Relaxed) & bit != 0 && word.fetch_and(!bit, Ordering::AcqRel) & bit != 0;
            was.then(|| Slot::session(OF_BITS | number))
        })
    }
}

impl std::fmt::Debug for Passed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passed").finish_non_exhaustive()
    }
}
