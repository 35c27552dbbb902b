//! What a worker's packets were sent by, as marks that the control side collects.
//!
//! The kernel sees nothing of what is forwarded, so it has to be told which neighbours are in use. A mark stands for a slot
//! of the flow caches' generations ([`Slot`]): of packets that walk their chain at once, of flows that the cache knows
//! when it is harvested. Several neighbours may share a slot; then one is confirmed that nobody uses, which does no harm.

use std::sync::atomic::{AtomicU64, Ordering};

use throughway_vnf::{Dependencies, Slot};

const WORDS: usize = (u16::MAX as usize + 1) / 64;

/// The marks of one worker, one bit a slot: 8 KiB. Only the worker sets them.
#[derive(Debug)]
pub struct Uses(Box<[AtomicU64]>);

impl Default for Uses {
    fn default() -> Self {
        Uses((0..WORDS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Uses {
    /// Marks what an answer was made from.
    #[inline]
    pub fn mark(&self, dependencies: &Dependencies) {
        for slot in dependencies.slots() {
            let (word, bit) = place(slot);
            // Mostly it is set already: then nothing is written. Two writers could lose a mark, but there is one; one that
            // the collector clears in between is set again by the next packet.
            if let Some(word) = self.0.get(word) {
                let marks = word.load(Ordering::Relaxed);
                if marks & bit == 0 {
                    word.store(marks | bit, Ordering::Relaxed);
                }
            }
        }
    }
}

/// The marks of all workers since they were collected last.
#[derive(Clone, Debug)]
pub struct Used(Box<[u64]>);

impl Used {
    /// Collects, and clears, what was marked.
    pub fn collect<'a>(workers: impl Iterator<Item = &'a Uses>) -> Self {
        let mut all = vec![0; WORDS].into_boxed_slice();
        for uses in workers {
            for (all, word) in all.iter_mut().zip(&uses.0) {
                if word.load(Ordering::Relaxed) != 0 {
                    *all |= word.swap(0, Ordering::Relaxed);
                }
            }
        }
        Used(all)
    }

    /// Whether something marked may have been made from `slot`.
    pub fn contains(&self, slot: Slot) -> bool {
        let has = |slot| {
            let (word, bit) = place(slot);
            self.0.get(word).is_some_and(|word| word & bit != 0)
        };
        // Who depends on more than it can name depends on anything.
        has(slot) || has(Slot::ANY)
    }
}

fn place(slot: Slot) -> (usize, u64) {
    let number = usize::from(slot.number());
    (number / 64, 1 << (number % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_collected_once_and_from_everybody() {
        let [first, second] = [Uses::default(), Uses::default()];
        let slots = [3, 4, 5].map(Slot::session);
        first.mark(&[slots[0]].into_iter().collect());
        second.mark(&[slots[1]].into_iter().collect());
        let used = Used::collect([&first, &second].into_iter());
        assert_eq!(slots.map(|slot| used.contains(slot)), [true, true, false]);
        let used = Used::collect([&first, &second].into_iter());
        assert_eq!(slots.map(|slot| used.contains(slot)), [false; 3]);
        // More than an entry can name.
        first.mark(&(0..9).map(Slot::session).collect());
        assert!(Used::collect([&first].into_iter()).contains(Slot::session(77)));
    }
}
