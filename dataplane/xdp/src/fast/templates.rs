//! What flows have in common, kept once, and counted how many have it.

use std::{
    collections::{HashMap, VecDeque},
    sync::atomic::{AtomicU64, Ordering},
};

use throughway_shared::fast::{QUARANTINE, TEMPLATE_WORDS, Template};

/// Who keeps the numbers of templates; the templates themselves lie in shared memory.
pub(super) struct Templates {
    known: HashMap<[u64; TEMPLATE_WORDS], u16>,
    /// How many flows have each.
    users: Vec<u32>,
    free: Vec<u16>,
    /// Given back; with the time (ns) from which on they may be used again.
    resting: VecDeque<(u16, u64)>,
    capacity: usize,
}

impl Templates {
    pub(super) fn new(capacity: u32) -> Self {
        Templates {
            known: HashMap::new(),
            users: Vec::new(),
            free: Vec::new(),
            resting: VecDeque::new(),
            capacity: capacity.min(u32::from(u16::MAX)) as usize,
        }
    }

    /// The number of a template, for one more flow, at `now` (ns). A new one is written to `memory`. `None` when there are too
    /// many.
    pub(super) fn acquire(&mut self, template: &Template, memory: &[AtomicU64], now: u64) -> Option<u16> {
        let words = template.to_words();
        if let Some(&number) = self.known.get(&words) {
            *self.users.get_mut(usize::from(number))? += 1;
            return Some(number);
        }
        while self.resting.front().is_some_and(|(_, until)| *until <= now) {
            self.free.extend(self.resting.pop_front().map(|(number, _)| number));
        }
        let number = match self.free.pop() {
            Some(number) => number,
            None if self.users.len() < self.capacity => {
                self.users.push(0);
                (self.users.len() - 1) as u16
            }
            None => return None,
        };
        let at = usize::from(number) * TEMPLATE_WORDS;
        for (to, word) in memory.get(at..at + TEMPLATE_WORDS)?.iter().zip(words) {
            to.store(word, Ordering::Relaxed);
        }
        *self.users.get_mut(usize::from(number))? = 1;
        self.known.insert(words, number);
        Some(number)
    }

    /// One flow less has it.
    pub(super) fn release(&mut self, number: u16, memory: &[AtomicU64], now: u64) {
        let Some(users) = self.users.get_mut(usize::from(number)).filter(|users| **users > 0) else { return };
        *users -= 1;
        if *users > 0 {
            return;
        }
        let at = usize::from(number) * TEMPLATE_WORDS;
        let mut words = [0; TEMPLATE_WORDS];
        for (word, from) in words.iter_mut().zip(memory.get(at..).unwrap_or_default()) {
            *word = from.load(Ordering::Relaxed);
        }
        self.known.remove(&words);
        self.resting.push_back((number, now.saturating_add(QUARANTINE)));
    }
}
