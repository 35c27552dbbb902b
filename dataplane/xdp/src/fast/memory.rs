//! Memory that the process shares with the XDP program, as atomic words. The only unsafe code of this crate.

#![allow(unsafe_code, reason = "memory that others write to can only be reached through a pointer")]

use std::{
    fmt, io,
    os::fd::AsRawFd,
    slice,
    sync::atomic::{AtomicU32, AtomicU64},
};

use memmap2::{MmapOptions, MmapRaw};

mod sealed {
    pub trait Sealed {}
    impl Sealed for std::sync::atomic::AtomicU32 {}
    impl Sealed for std::sync::atomic::AtomicU64 {}
}

/// A word that may change under everybody's hands: [`AtomicU32`] or [`AtomicU64`]. Any bits make one.
pub trait Word: sealed::Sealed + Default + Send + Sync + 'static {}

impl Word for AtomicU32 {}
impl Word for AtomicU64 {}

/// Words that several threads, and perhaps the XDP program, read and write: memory of a BPF array, or plain memory. All zeros
/// at first.
pub struct SharedWords<W: Word = AtomicU32> {
    memory: Memory<W>,
}

enum Memory<W> {
    Plain(Box<[W]>),
    /// A mapping, and how many words of it are used.
    Mapped(MmapRaw, usize),
}

impl<W: Word> SharedWords<W> {
    /// So many words that no program knows.
    pub fn in_memory(words: usize) -> Self {
        SharedWords { memory: Memory::Plain((0..words).map(|_| W::default()).collect()) }
    }

    /// The first `words` words of the BPF array behind `map`, which was made with `BPF_F_MMAPABLE`. The mapping outlives
    /// `map`.
    ///
    /// # Errors
    ///
    /// When the kernel refuses: the array is smaller, or not made to be mapped.
    pub(crate) fn of_map(map: impl AsRawFd, words: usize) -> io::Result<Self> {
        let mapping = MmapOptions::new().len(words * size_of::<W>()).map_raw(map.as_raw_fd())?;
        Ok(SharedWords { memory: Memory::Mapped(mapping, words) })
    }
}

impl<W: Word> AsRef<[W]> for SharedWords<W> {
    #[inline]
    fn as_ref(&self) -> &[W] {
        match &self.memory {
            Memory::Plain(words) => words,
            // SAFETY: the mapping is readable and writable, begins at a page, so it is aligned for words, is at least `words` words
            // long (`of_map` asked for so many and the kernel refuses to map beyond an array's end), and is unmapped only when it
            // is dropped, which the borrow of `self` prevents. `W` is an atomic integer (sealed): any bits are valid, and it may
            // be changed by anybody while it is borrowed; the program and other threads change it by aligned stores only.
            Memory::Mapped(mapping, words) => unsafe {
                slice::from_raw_parts(mapping.as_mut_ptr().cast_const().cast::<W>(), *words)
            },
        }
    }
}

impl<W: Word> fmt::Debug for SharedWords<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.memory {
            Memory::Plain(_) => "plain",
            Memory::Mapped(..) => "mapped",
        };
        write!(f, "SharedWords({kind}, {})", self.as_ref().len())
    }
}
