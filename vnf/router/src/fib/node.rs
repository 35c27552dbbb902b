//! What a node says, before it is written and after it is read: runs of slots with equal words.

use std::ops::Range;

use super::trie::{DEPTH_SHIFT, HEAD, MARKS, NODE, UNIT, VALUE};

/// Slots that say the same, up to the next run. The first run of a node begins at slot 0, and they are in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) start: u32,
    pub(super) word: u32,
}

pub(super) const fn leaf(value: u32, depth: u8) -> u32 {
    value & VALUE | (depth as u32) << DEPTH_SHIFT
}

pub(super) const fn depth(word: u32) -> u8 {
    (word >> DEPTH_SHIFT & 31) as u8
}

pub(super) const fn with_depth(word: u32, depth: u8) -> u32 {
    word & (NODE | VALUE) | (depth as u32) << DEPTH_SHIFT
}

/// Changes the words of the slots in `span` of a node that consumes `stride` bits. A word that leads to a node has a slot for
/// itself.
pub(super) fn paint(runs: &mut Vec<Run>, stride: u8, span: Range<u32>, mut change: impl FnMut(u32) -> u32) {
    let first = cut(runs, stride, span.start);
    let last = cut(runs, stride, span.end);
    for run in runs.get_mut(first..last).unwrap_or_default() {
        run.word = change(run.word);
    }
    runs.dedup_by(|later, kept| later.word == kept.word);
}

/// The position of the run that begins at a slot, which it does from now on.
pub(super) fn cut(runs: &mut Vec<Run>, stride: u8, slot: u32) -> usize {
    if slot >= 1 << stride {
        return runs.len();
    }
    match runs.binary_search_by_key(&slot, |run| run.start) {
        Ok(at) => at,
        Err(at) => {
            let word = at.checked_sub(1).and_then(|before| runs.get(before)).map_or(0, |run| run.word);
            runs.insert(at, Run { start: slot, word });
            at
        }
    }
}

/// The word of a slot.
pub(super) fn word_of(runs: &[Run], slot: u32) -> u32 {
    let at = runs.partition_point(|run| run.start <= slot);
    at.checked_sub(1).and_then(|at| runs.get(at)).map_or(0, |run| run.word)
}

/// The head of a node of bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) marks: [u32; MARKS],
    pub(super) before: [u32; 2],
}

impl Head {
    pub(super) fn of(runs: &[Run]) -> Head {
        let mut head = Head { marks: [0; MARKS], before: [0; 2] };
        for run in runs {
            if let Some(mark) = head.marks.get_mut(run.start as usize / 32) {
                *mark |= 1 << (run.start % 32);
            }
        }
        let mut count = 0;
        for (at, mark) in head.marks.iter().enumerate() {
            if let Some(before) = head.before.get_mut(at / 4) {
                *before |= count << (8 * (at % 4));
            }
            count += mark.count_ones();
        }
        head
    }
}

/// How much memory a node of bits with so many runs takes.
pub(super) const fn units(runs: usize) -> usize {
    (HEAD + runs).div_ceil(UNIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn painting_is_what_it_is_slot_by_slot() {
        let mut state = 1u32;
        let mut next = |below: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % below
        };
        let mut runs = vec![Run { start: 0, word: 9 }];
        let mut slots = [9u32; 256];
        for _ in 0..5000 {
            let (first, word) = (next(256), next(3));
            let span = first..first + 1 + next(256 - first);
            paint(&mut runs, 8, span.clone(), |_| word);
            slots[span.start as usize..span.end as usize].fill(word);
            let painted: Vec<u32> = (0..256).map(|slot| word_of(&runs, slot)).collect();
            assert_eq!(painted, slots);
            assert!(
                runs.windows(2).all(|pair| pair[0].start < pair[1].start && pair[0].word != pair[1].word)
            );
            let head = Head::of(&runs);
            let count: u32 = head.marks.iter().map(|mark| mark.count_ones()).sum();
            assert_eq!(count as usize, runs.len());
        }
    }
}
