//! What the XDP program does with a packet of a flow, but for the packet itself: for tests that have no kernel.

use std::sync::atomic::{AtomicU32, Ordering};

use throughway_shared::{
    action::Rewrite,
    fast::{
        CURRENT, ENDLESS, ENTRY_WORDS, HORIZON, LAST_SHIFT, SILENCE_SHIFT, SLOT_CONFIG, SLOT_ROUTES,
        TEMPLATE_WORDS, WORD_BYTES, WORD_LAST, WORD_PACKETS, halves, split,
    },
    flow::FlowKey,
};

use super::{FastFlow, FastFlows, FastPlace};

impl FastFlows {
    /// Counts an IP packet of `len` bytes, at `now` (ns), as the program would; `words` are those of the generations. `None`:
    /// the packet is for the worker.
    pub fn pretend(&self, key: &FlowKey, len: u16, now: u64, words: &[AtomicU32]) -> Option<FastPlace> {
        // Only the key counts here.
        let mut rewrite = Rewrite::nothing();
        rewrite.action.edits = throughway_shared::action::edits::DROP;
        let flow = FastFlow {
            key,
            rewrite: &rewrite,
            generation: 0,
            dependencies: [0; 4],
            limit: 0,
            silence: u64::MAX,
            token: 0,
        };
        let place = self.place_of(&flow)?;
        let entry = self.entry(place);
        let word = |index: usize| words.get(index).map_or(0, |word| word.load(Ordering::Acquire));
        let current = word(CURRENT);
        if entry.generation != current {
            let changed = |slot: usize| word(slot).wrapping_sub(entry.generation) as i32 > 0;
            let slots = entry.dependencies.map(usize::from);
            let any = [SLOT_CONFIG, SLOT_ROUTES].into_iter().chain(slots).any(changed);
            if any || current.wrapping_sub(entry.generation) >= HORIZON {
                return None;
            }
        }
        let ticks = (now >> LAST_SHIFT) as u32;
        let silent = ticks.wrapping_sub(entry.last) >> (SILENCE_SHIFT - LAST_SHIFT);
        if entry.silence != ENDLESS && silent > u32::from(entry.silence) {
            return None;
        }
        let limit = (self.template_word(entry.template, 1) >> 32) as u16;
        if len > limit {
            return None;
        }
        let at = place.number() as usize * ENTRY_WORDS;
        self.add(at + WORD_PACKETS, 1);
        self.add(at + WORD_BYTES, len.into());
        let (_, deltas) = split(self.word(at + WORD_LAST));
        self.store(at + WORD_LAST, halves(ticks, deltas));
        Some(place)
    }

    fn template_word(&self, template: u16, word: usize) -> u64 {
        self.regions.templates.load(usize::from(template) * TEMPLATE_WORDS + word)
    }

    fn word(&self, at: usize) -> u64 {
        self.regions.entries.load(at)
    }

    fn store(&self, at: usize, value: u64) {
        if let Some(word) = self.regions.entries.at(at) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn add(&self, at: usize, more: u64) {
        self.store(at, self.word(at).wrapping_add(more));
    }
}
