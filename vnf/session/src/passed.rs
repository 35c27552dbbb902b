//! Flows that a function let pass as they are. Flow caches repeat that, until a session is opened that has one of them as one of its
//! directions: by a packet of the same addresses and ports that came in elsewhere, or as the answers to a connection whose destination
//! was translated.
//!
//! A bit for each of such flows by its hash, and a slot for each bit. Who opens a session looks at the bits of its two keys, nearly
//! always in vain; where one is set, its slot is bumped, and the bit is clear until a flow of its passes again. Many flows share a bit, which makes an
//! answer stale too early and never keeps it too long.
//!
//! **Why no session is overlooked.** Who lets a flow pass sets its bit and *then* looks for a session; who opens one puts it into the table and
//! *then* looks at the bits; with a fence between the two steps on either side, one of them sees the other.

use throughway_vnf::Slot;

use crate::key::{Probe, narrow};
use crate::sync::{AtomicU64, Ordering, fence};

/// Bits of each family, so that sessions of one do not meet the flows of the other: 64 KiB each.
#[cfg(not(loom))]
const BITS: u64 = 1 << 19;
#[cfg(loom)]
const BITS: u64 = 1 << 6;

/// Sessions' own handles are never as large: slots with this bit are those of bits.
const OF_BITS: u64 = 1 << 63;

/// The flows of all workers.
pub struct Passed {
    words: Box<[AtomicU64]>,
}

/// Where the bit of a key and of its reverse is.
fn number(probe: &Probe) -> u64 {
    let family = if narrow(&probe.key().source).is_some() { 0 } else { BITS };
    family + (probe.hash() >> 8) % BITS
}

impl Passed {
    /// With none.
    #[allow(clippy::new_without_default, reason = "128 KiB are not to come by themselves")]
    pub fn new() -> Passed {
        Passed { words: (0..2 * BITS / 64).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Lets packets with this key pass as they are: the slot on which it depends that they do. `None`: they belong to a session.
    /// That is asked of `has_session` when the flow is noted, whoever asked before.
    pub fn pass(&self, probe: &Probe, has_session: impl FnOnce() -> bool) -> Option<Slot> {
        let number = number(probe);
        if let Some(word) = self.words.get((number / 64) as usize) {
            let bit = 1 << (number % 64);
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        }
        fence(Ordering::SeqCst);
        (!has_session()).then(|| Slot::session(OF_BITS | number))
    }

    /// The slots that a session with these keys makes untrue. To be asked when it is in the table.
    #[inline]
    pub fn ended_by(&self, [there, back]: &[Probe; 2]) -> [Option<Slot>; 2] {
        fence(Ordering::SeqCst);
        [self.clear(there), self.clear(back)]
    }

    /// Clears the bit of a key; its slot, if it was set.
    #[inline]
    fn clear(&self, key: &Probe) -> Option<Slot> {
        let number = number(key);
        let (word, bit) = (self.words.get((number / 64) as usize)?, 1 << (number % 64));
        if word.load(Ordering::Relaxed) & bit == 0 {
            return None;
        }
        (word.fetch_and(!bit, Ordering::AcqRel) & bit != 0).then(|| Slot::session(OF_BITS | number))
    }
}

impl std::fmt::Debug for Passed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passed").finish_non_exhaustive()
    }
}

/// `RUSTFLAGS="--cfg loom" cargo test -p throughway-session --lib --target-dir target/loom interleavings`
#[cfg(all(test, loom))]
mod interleavings {
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicBool;
    use loom::thread;

    use super::*;
    use crate::{Config, Seed, SessionKey, SessionTable};

    /// What workers share: the bits, whether the session is in the table (a table that orders nothing by itself), and how often slots
    /// were bumped.
    struct Scene {
        passed: Passed,
        session: AtomicBool,
        bumps: AtomicU64,
    }

    impl Scene {
        fn new() -> Arc<Scene> {
            Arc::new(Scene {
                passed: Passed::new(),
                session: AtomicBool::new(false),
                bumps: AtomicU64::new(0),
            })
        }

        fn probe(port: u8) -> Probe {
            let mapped = |last| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, last];
            let table: SessionTable<()> = SessionTable::new(Config::new(1, Seed([1, 2])));
            table.probe(SessionKey {
                source: mapped(1),
                destination: mapped(2),
                source_port: [port, 1],
                ..SessionKey::default()
            })
        }

        /// A worker lets a packet pass and caches that; returns the number of bumps after which the cached answer was made.
        fn lets_pass(&self, probe: &Probe) -> Option<u64> {
            let made = self.bumps.load(Ordering::Acquire);
            self.passed.pass(probe, || self.session.load(Ordering::Relaxed)).map(|_| made)
        }

        /// What is done when a session with these keys is in the table.
        fn ends_what_passed(&self, keys: &[Probe; 2]) {
            let bumps = self.passed.ended_by(keys).into_iter().flatten().count() as u64;
            if bumps > 0 {
                self.bumps.fetch_add(bumps, Ordering::AcqRel);
            }
        }

        fn opens(&self, keys: &[Probe; 2]) {
            self.session.store(true, Ordering::Relaxed);
            self.ends_what_passed(keys);
        }
    }

    #[test]
    fn a_flow_is_not_cached_as_passing_while_another_worker_opens_its_session() {
        loom::model(|| {
            let (scene, flow, other) = (Scene::new(), Scene::probe(1), Scene::probe(2));
            assert_ne!(number(&flow), number(&other));
            let passing = {
                let scene = Arc::clone(&scene);
                thread::spawn(move || scene.lets_pass(&flow))
            };
            scene.opens(&[other, flow]);
            if let Some(made) = passing.join().unwrap() {
                assert!(scene.bumps.load(Ordering::Acquire) > made, "the cache goes on letting it pass");
            }
        });
    }

    #[test]
    fn a_bit_that_others_set_and_clear_hides_nobody() {
        loom::model(|| {
            let (scene, flow, other) = (Scene::new(), Scene::probe(1), Scene::probe(2));
            // Another flow of this bit has passed before; a session of that one is opened meanwhile.
            assert!(scene.lets_pass(&flow).is_some());
            let passing = {
                let scene = Arc::clone(&scene);
                thread::spawn(move || scene.lets_pass(&flow))
            };
            let third = {
                let scene = Arc::clone(&scene);
                thread::spawn(move || scene.ends_what_passed(&[other, flow]))
            };
            scene.opens(&[flow, other]);
            third.join().unwrap();
            if let Some(made) = passing.join().unwrap() {
                assert!(scene.bumps.load(Ordering::Acquire) > made, "the cache goes on letting it pass");
            }
        });
    }
}
