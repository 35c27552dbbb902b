//! Which units of a trie's memory are free.

use super::trie::{HEAD, SLOTS, UNIT};

/// The units of the largest node.
pub(super) const LARGEST: usize = (HEAD + SLOTS).div_ceil(UNIT);

/// Blocks of 1 to [`LARGEST`] units. A block that was in use is retired first, and free again when no reader takes what it
/// finds there for an answer.
#[derive(Debug)]
pub(super) struct Memory {
    capacity: u32,
    /// From here on nothing was ever used.
    fresh: u32,
    /// Free blocks by their length in units.
    free: [Vec<u32>; LARGEST + 1],
    retired: Vec<(u32, u8)>,
    /// Whether joining neighbours among the free blocks could give something.
    scattered: bool,
}

impl Memory {
    pub(super) fn new(capacity: usize) -> Memory {
        Memory {
            capacity: u32::try_from(capacity).unwrap_or(u32::MAX),
            fresh: 0,
            free: [const { Vec::new() }; LARGEST + 1],
            retired: Vec::new(),
            scattered: false,
        }
    }

    /// A block of `units`.
    pub(super) fn take(&mut self, units: usize) -> Option<u32> {
        if let Some(block) = self.free.get_mut(units)?.pop() {
            return Some(block);
        }
        if self.capacity - self.fresh >= units as u32 {
            let block = self.fresh;
            self.fresh += units as u32;
            return Some(block);
        }
        if let Some(block) = self.split(units) {
            return Some(block);
        }
        self.join().then(|| self.split(units)).flatten()
    }

    /// Cuts the block off a longer one.
    fn split(&mut self, units: usize) -> Option<u32> {
        let (longer, block) =
            (units..=LARGEST).find_map(|longer| Some((longer, self.free.get_mut(longer)?.pop()?)))?;
        if longer > units {
            self.free[longer - units].push(block + units as u32);
        }
        Some(block)
    }

    /// Joins free blocks that lie side by side; says whether that was worth a try.
    fn join(&mut self) -> bool {
        if !std::mem::take(&mut self.scattered) {
            return false;
        }
        let mut all: Vec<(u32, u32)> = Vec::new();
        for (units, blocks) in self.free.iter_mut().enumerate() {
            all.extend(blocks.drain(..).map(|block| (block, units as u32)));
        }
        all.sort_unstable();
        let mut all = all.into_iter().peekable();
        while let Some((first, mut units)) = all.next() {
            while let Some((_, more)) = all.next_if(|(next, _)| *next == first + units) {
                units += more;
            }
            let (mut block, mut left) = (first, units as usize);
            while left > 0 {
                let piece = left.min(LARGEST);
                self.free[piece].push(block);
                block += piece as u32;
                left -= piece;
            }
        }
        true
    }

    /// Gives back a block that no reader can have seen.
    pub(super) fn give_back(&mut self, block: u32, units: usize) {
        if let Some(free) = self.free.get_mut(units) {
            free.push(block);
            self.scattered = true;
        }
    }

    /// Says that a block cannot be found any more; readers under way may still be in it.
    pub(super) fn retire(&mut self, block: u32, units: usize) {
        self.retired.push((block, units as u8));
    }

    /// How many blocks wait to be free again.
    pub(super) fn retired(&self) -> usize {
        self.retired.len()
    }

    /// Says that no reader takes what it finds in the retired blocks for an answer any more.
    pub(super) fn recycle(&mut self) {
        for (block, units) in std::mem::take(&mut self.retired) {
            self.give_back(block, usize::from(units));
        }
    }

    /// Bytes that were ever used.
    pub(super) fn used(&self) -> usize {
        self.fresh as usize * UNIT * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_can_be_used_again_as_blocks_of_another_size() {
        let mut memory = Memory::new(LARGEST * 4);
        let small: Vec<u32> = std::iter::from_fn(|| memory.take(1)).collect();
        assert_eq!(small.len(), LARGEST * 4);
        for block in small {
            memory.retire(block, 1);
        }
        assert_eq!(memory.take(1), None, "retired is not free");
        memory.recycle();
        let mut large: Vec<u32> = std::iter::from_fn(|| memory.take(LARGEST)).collect();
        large.sort_unstable();
        assert_eq!(large, [0, 1, 2, 3].map(|number| number * LARGEST as u32));
        for block in large {
            memory.give_back(block, LARGEST);
        }
        let middle: Vec<u32> = std::iter::from_fn(|| memory.take(5)).collect();
        assert!(middle.len() >= 12, "{middle:?}");
    }
}
