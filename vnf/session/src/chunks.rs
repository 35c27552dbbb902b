//! Cells that are allocated chunk by chunk, never move and never go away: readers need no lock to reach them.

use std::sync::OnceLock;

/// Up to `limit` cells, `CHUNK` of them allocated at once.
pub(crate) struct Chunks<T, const CHUNK: u32> {
    chunks: Box<[OnceLock<Box<[T]>>]>,
    limit: u32,
}

impl<T, const CHUNK: u32> Chunks<T, CHUNK> {
    pub(crate) fn new(limit: u32) -> Self {
        Chunks { chunks: (0..limit.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect(), limit }
    }

    /// How many cells there may be.
    pub(crate) fn limit(&self) -> u32 {
        self.limit
    }

    /// A cell, if its chunk is there.
    #[inline]
    pub(crate) fn get(&self, cell: u32) -> Option<&T> {
        self.chunks.get((cell / CHUNK) as usize)?.get()?.get((cell % CHUNK) as usize)
    }

    /// A cell below the limit, whose chunk is made if need be.
    #[inline]
    pub(crate) fn ensure(&self, cell: u32, empty: impl Fn() -> T) -> Option<&T> {
        self.get(cell).or_else(|| self.make(cell, empty))
    }

    #[cold]
    fn make(&self, cell: u32, empty: impl Fn() -> T) -> Option<&T> {
        let number = cell / CHUNK;
        let chunk = self.chunks.get(number as usize)?.get_or_init(|| {
            let cells = CHUNK.min(self.limit.saturating_sub(number * CHUNK));
            (0..cells).map(|_| empty()).collect()
        });
        chunk.get((cell % CHUNK) as usize)
    }

    /// Makes every chunk.
    pub(crate) fn fill(&self, empty: impl Fn() -> T) {
        for cell in (0..self.limit).step_by(CHUNK as usize) {
            self.ensure(cell, &empty);
        }
    }

    /// Bytes on the heap.
    pub(crate) fn memory(&self) -> usize {
        let chunks = self.chunks.iter().filter_map(OnceLock::get);
        size_of_val(&*self.chunks) + chunks.map(|chunk| size_of_val(&**chunk)).sum::<usize>()
    }
}
