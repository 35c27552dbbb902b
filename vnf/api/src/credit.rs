//! Whom the packets of a flow are credited to, when they take the short way past the functions.
//!
//! A function that judges a packet may leave a [`Credit`] with it. The flow cache keeps it with the recorded action, and in
//! slices, within [`HARVEST`], tells the function what it saw: [`Function::settle`](crate::Function::settle). So counters of
//! rules and backends add up, and sessions live as long as their packets flow.
//!
//! **How a session and the flow cache stay in step.** A session ends when nothing was seen of it for its timeout *T*. The
//! cache tells of a packet within [`HARVEST`] of seeing it. An answer that a session gives therefore must not be repeated
//! after a silence of *T* − [`HARVEST`] ([`Packet::limit_silence`](crate::Packet::limit_silence)): then whenever the
//! cache answers, the session is still there, and its end needs no message to anybody. Answers of sessions whose timeout is
//! too short for that are not repeated at all. Only an end before its time (evicted, cleared, judged anew) bumps the
//! session's slot.
//!
//! [`session_silence`] computes it, of sessions whose timeouts never become shorter [`steady_silence`].

use std::time::Duration;

use crate::nanos;

/// Within this time (ns) of a packet, the functions it is credited to are told of it. Each telling costs some cache lines of
/// the flow and its sessions, so a shorter time is paid for by every packet of a large table.
pub const HARVEST: u64 = 4_000_000_000;

/// Within this time (ns) of a packet functions are told how many there were, where flows are so many that they are told only of life
/// signs within [`HARVEST`]: counters of rules and sessions lag, sessions do not die of it.
pub const FIGURES: u64 = 5 * HARVEST;

/// An answer that depends on a session of TCP is not repeated after a silence of this (ns), whatever the session's timeout: sessions
/// whose state changes get shorter timeouts, and the caches of other workers need not hear of it.
pub const LONGEST_SESSION_SILENCE: u64 = 5_000_000_000;

/// Shorter silences than this (ns) are not worth an entry in the cache.
pub const SHORTEST_SILENCE: u64 = 1_000_000_000;

/// How long (ns) a flow may be silent for the answer of a session of TCP with this timeout to hold; `None`: not to be repeated.
pub const fn session_silence(timeout: Duration) -> Option<u64> {
    match steady_silence(timeout) {
        Some(silence) if silence > LONGEST_SESSION_SILENCE => Some(LONGEST_SESSION_SILENCE),
        silence => silence,
    }
}

/// How long (ns) a flow may be silent for the answer of a session to hold that never has a shorter timeout than this, whatever its next
/// packets are; `None`: not to be repeated.
pub const fn steady_silence(timeout: Duration) -> Option<u64> {
    let silence = nanos(timeout).saturating_sub(HARVEST);
    if silence < SHORTEST_SILENCE { None } else { Some(silence) }
}

/// Which function of the data plane: stays with name and kind over reloads, so that what is credited late finds its
/// function. Zero is nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct FunctionTag(pub u8);

/// A function, and 56 bits that mean something to it. Zero is nobody.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Credit(pub u64);

impl Credit {
    /// The upper eight bits of `id` are cut off.
    pub const fn new(function: FunctionTag, id: u64) -> Self {
        Credit((function.0 as u64) << 56 | id & (u64::MAX >> 8))
    }

    /// Whom to tell.
    pub const fn function(self) -> FunctionTag {
        FunctionTag((self.0 >> 56) as u8)
    }

    /// What it means to the function: 56 bits.
    pub const fn id(self) -> u64 {
        self.0 & (u64::MAX >> 8)
    }
}

/// The credits of one flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Credits(pub [Credit; Credits::MOST]);

impl Credits {
    /// How many functions one flow can be credited to: firewall, NAT and load balancer.
    pub const MOST: usize = 3;

    /// Adds one; says whether there was room. One that is there already takes none.
    pub fn add(&mut self, credit: Credit) -> bool {
        if self.0.contains(&credit) {
            return true;
        }
        match self.0.iter_mut().find(|free| **free == Credit::default()) {
            Some(free) => {
                *free = credit;
                true
            }
            None => false,
        }
    }

    /// Those that are somebody.
    pub fn iter(&self) -> impl Iterator<Item = Credit> {
        self.0.into_iter().filter(|credit| *credit != Credit::default())
    }
}

/// What the flow cache saw of a flow since it last told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// Packets; zero: some, which are told of later.
    pub packets: u64,
    /// Bytes of their IP packets.
    pub bytes: u64,
    /// When the last of them was seen: not later than that, and less than half a second earlier.
    pub last: crate::Now,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_keep_function_and_id() {
        let credit = Credit::new(FunctionTag(7), u64::MAX);
        assert_eq!((credit.function(), credit.id()), (FunctionTag(7), (1 << 56) - 1));
        let mut credits = Credits::default();
        assert!((1..=3).all(|id| credits.add(Credit::new(FunctionTag(1), id))));
        assert!(credits.add(Credit::new(FunctionTag(1), 2)), "what is there takes no room");
        assert!(!credits.add(Credit::new(FunctionTag(2), 2)));
        assert_eq!(credits.iter().count(), 3);
    }

    #[test]
    fn a_silence_leaves_time_for_the_harvest() {
        const SECOND: u64 = 1_000_000_000;
        let session = |seconds| session_silence(Duration::from_secs(seconds));
        let steady = |seconds| steady_silence(Duration::from_secs(seconds));
        assert_eq!(session(4), None);
        assert_eq!(session(5), Some(SECOND));
        assert_eq!(session(8), Some(4 * SECOND));
        assert_eq!(session(86_400), Some(LONGEST_SESSION_SILENCE));
        assert_eq!(steady(4), None);
        assert_eq!(steady(300), Some(296 * SECOND));
        assert_eq!(steady(u64::MAX), Some(u64::MAX - HARVEST));
    }
}
