//! Records of a few words that flows share, as only some of them need one.

/// Records of `WORDS` words each, those given back in a list that leads through them.
#[derive(Debug)]
pub(crate) struct Records<const WORDS: usize> {
    records: Box<[[u64; WORDS]]>,
    /// The first of those given back (its number and one); the first word of each leads on.
    free: u64,
    /// From here on none was ever used.
    fresh: usize,
}

impl<const WORDS: usize> Records<WORDS> {
    /// Room for so many; pages of them that were never used take no memory.
    pub(crate) fn new(capacity: usize) -> Self {
        // Zeros fresh from the system: not written to.
        Records { records: vec![[0; WORDS]; capacity].into_boxed_slice(), free: 0, fresh: 0 }
    }

    #[inline(always)]
    pub(crate) fn get(&self, number: u32) -> Option<&[u64; WORDS]> {
        self.records.get(number as usize)
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut [u64; WORDS]> {
        self.records.get_mut(number as usize)
    }

    /// The number of a new record that holds this; `None` if all are in use.
    pub(crate) fn insert(&mut self, value: [u64; WORDS]) -> Option<u32> {
        let number = if self.free > 0 { self.free as usize - 1 } else { self.fresh };
        let record = self.records.get_mut(number)?;
        if self.free > 0 {
            self.free = record.first().copied().unwrap_or(0);
        } else {
            self.fresh += 1;
        }
        *record = value;
        u32::try_from(number).ok()
    }

    /// Gives a record back.
    pub(crate) fn remove(&mut self, number: u32) {
        if let Some(first) = self.records.get_mut(number as usize).and_then(|record| record.first_mut()) {
            *first = self.free;
            self.free = u64::from(number) + 1;
        }
    }

    /// How many were in use at most at a time.
    #[cfg(test)]
    pub(crate) fn most(&self) -> usize {
        self.fresh
    }
}
