//! The packet memory of one worker, and the frames in it.
//!
//! The memory is divided into chunks of [`CHUNK`] bytes. A chunk is, at any time, in exactly one place: in the free list, in a
//! ring (then the kernel may write or read it), or inside one [`XskFrame`]. Rings and the free list give descriptors out only by
//! making an `XskFrame` of them, nothing copies an `XskFrame`, and only giving it back turns it into a descriptor again:
//! therefore the slices an `XskFrame` hands out are exclusive.
//!
//! ```text
//! |<- HEADROOM ->|<- 256: the kernel's, for XDP ->|<- packet, MAX_PACKET at most ... ->|
//! 0             128                              384                                 4096
//! ```

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::ptr::{self, NonNull};

use xsk_rs::FrameDesc;
use xsk_rs::config::{FrameSize, QueueSize, UmemConfig};

use super::{Error, Rings};
use crate::{Frame, HEADROOM};

/// Bytes of one chunk of packet memory: a page, the largest that the kernel takes without huge pages.
pub const CHUNK: usize = 4096;

/// What the kernel reserves before a packet for XDP programs (`XDP_PACKET_HEADROOM`).
const XDP_HEADROOM: usize = 256;

/// Where the kernel puts a packet in its chunk, and where a packet is transmitted from.
pub(super) const DATA: usize = HEADROOM + XDP_HEADROOM;

/// The longest packet that a frame can carry, Ethernet header included, in bytes.
///
/// Drivers divide receive buffers in steps of 128 bytes, so this is a multiple of it: nothing is lost to rounding.
pub const MAX_PACKET: usize = CHUNK - DATA;

/// The largest MTU that interfaces may have: it leaves room for the Ethernet header and several VLAN tags.
pub const MAX_MTU: u32 = 3500;

const _: () = assert!(HEADROOM.is_multiple_of(64), "the packet starts on a cache line");
const _: () = assert!(MAX_PACKET.is_multiple_of(128) && MAX_MTU as usize + 14 + 3 * 4 <= MAX_PACKET);

/// Packet memory for the AF_XDP sockets of one worker. It lives on the worker's stack and outlives the sockets and the frames,
/// which borrow it.
///
/// The kernel ties the first socket to the memory: its queue is free for others only when the `Umem` is dropped.
#[derive(Debug, Default)]
pub struct Umem {
    memory: Option<Memory>,
}

impl Umem {
    /// An empty place; [`super::XskIo::open`] allocates and registers the memory.
    #[must_use]
    pub const fn new() -> Self {
        Self { memory: None }
    }

    /// Registers fresh memory of `frames` chunks with the kernel. What was there before is given up; nobody can hold a part of it,
    /// because that would be a borrow of `self`.
    pub(super) fn create(&mut self, frames: NonZeroU32, rings: Rings) -> Result<&Memory, Error> {
        self.memory = None;
        Ok(self.memory.insert(Memory::new(frames, rings)?))
    }

    pub(super) const fn memory(&self) -> Option<&Memory> {
        self.memory.as_ref()
    }

    pub(super) fn clear(&mut self) {
        self.memory = None;
    }
}

/// Registered packet memory.
#[derive(Debug)]
pub(super) struct Memory {
    umem: xsk_rs::Umem,
    base: NonNull<u8>,
    /// The descriptor of every chunk, by chunk number, with the packet at [`DATA`].
    home: Vec<FrameDesc>,
}

// SAFETY: `base` points into the mapping that `umem` owns, which belongs to no thread. A `Memory` reads and writes no packet bytes
// except through an `XskFrame` it was given, which is exclusive; all else in it is immutable after `new`.
unsafe impl Send for Memory {}
// SAFETY: see above: `&Memory` allows no access to packet bytes without owning an `XskFrame`.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(frames: NonZeroU32, rings: Rings) -> Result<Self, Error> {
        let size = |size| QueueSize::new(size).map_err(|_| Error::RingSize { size });
        let invalid = |error: &dyn fmt::Display| Error::Umem { reason: error.to_string() };
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(CHUNK as u32).map_err(|error| invalid(&error))?)
            .frame_headroom(HEADROOM as u32)
            .fill_queue_size(size(rings.fill)?)
            .comp_queue_size(size(rings.tx)?)
            .build()
            .map_err(|error| invalid(&error))?;
        let (umem, home) = xsk_rs::Umem::new(config, frames, false).map_err(|error| {
            let source = std::error::Error::source(&error);
            let cause = source.map(|cause| format!(": {cause}")).unwrap_or_default();
            let errno = source.and_then(|cause| cause.downcast_ref::<std::io::Error>()?.raw_os_error());
            let hint = match errno {
                Some(libc::ENOBUFS) => {
                    " (it may not be locked: LimitMEMLOCK=infinity or CAP_IPC_LOCK is needed)"
                }
                _ => "",
            };
            Error::Umem { reason: format!("{error}{cause}{hint}") }
        })?;
        let in_place = home.iter().enumerate().all(|(number, desc)| desc.addr() == number * CHUNK + DATA);
        let Some(first) = home.first().filter(|_| in_place) else {
            return Err(Error::Umem { reason: "unexpected layout of the packet memory".to_owned() });
        };
        // SAFETY: `first` comes from this UMEM, and no socket exists yet, so nobody else accesses the memory.
        let data = unsafe { umem.data(first) }.contents().as_ptr();
        // The slice above has permission for the first packet only. The mapping's own pointer was given to libxdp and, as an
        // integer, to the kernel: it is exposed, and this is the address it starts at.
        let base = NonNull::new(ptr::with_exposed_provenance_mut::<u8>(data.addr() - DATA))
            .ok_or_else(|| Error::Umem { reason: "the packet memory is at address zero".to_owned() })?;
        Ok(Self { umem, base, home })
    }

    pub(super) const fn umem(&self) -> &xsk_rs::Umem {
        &self.umem
    }

    /// The descriptors of all chunks: the free list to begin with.
    pub(super) fn all(&self) -> &[FrameDesc] {
        &self.home
    }

    /// The descriptor of the same chunk with the packet at its usual place. (An XDP program may have moved it.)
    #[inline]
    pub(super) fn home(&self, desc: FrameDesc) -> FrameDesc {
        self.home.get(desc.addr() / CHUNK).copied().unwrap_or(desc)
    }

    /// Makes a frame of a descriptor, with a packet of `len` bytes in it.
    ///
    /// # Safety
    ///
    /// `desc` must come from this memory's free list or from the receive ring of one of its sockets, and the caller must give up
    /// every other copy that could reach a ring, the free list or another frame. The packet must end inside its chunk, and
    /// `len` must not be above [`MAX_PACKET`].
    #[inline]
    pub(super) unsafe fn frame(&self, desc: FrameDesc, len: usize) -> XskFrame<'_> {
        let start = desc.addr() % CHUNK;
        debug_assert!(desc.addr() / CHUNK < self.home.len() && start + len <= CHUNK && len <= MAX_PACKET);
        // SAFETY: the address of a descriptor of this memory is inside the mapping, thus its chunk is too.
        let chunk = unsafe { self.base.add(desc.addr() - start) };
        // Both are at most CHUNK, so they fit.
        XskFrame { chunk, desc, start: start as u16, len: len as u16, umem: PhantomData }
    }

    /// Takes a frame back as a descriptor with the packet at its usual place; `None`, and the frame is gone, when it belongs to
    /// another memory.
    #[inline]
    pub(super) fn reclaim(&self, frame: XskFrame<'_>) -> Option<FrameDesc> {
        self.owns(&frame).then(|| self.home(frame.desc))
    }

    /// Whether the frame lies in this memory. Lifetimes alone do not tell: two memories may be borrowed for equally long.
    #[inline]
    pub(super) fn owns(&self, frame: &XskFrame<'_>) -> bool {
        let offset = frame.desc.addr() - frame.desc.addr() % CHUNK;
        frame.chunk.addr().get() == self.base.addr().get().wrapping_add(offset)
    }

    /// Makes a frame of this memory (see [`Memory::owns`]) a descriptor to transmit, and says whether the packet had to be moved for it:
    /// only when its start is neither where the kernel put it nor at the usual place.
    #[inline]
    pub(super) fn sendable(&self, frame: XskFrame<'_>) -> (FrameDesc, bool) {
        let (start, len) = (usize::from(frame.start), usize::from(frame.len));
        let mut moved = false;
        let mut desc = frame.desc;
        if start != desc.addr() % CHUNK {
            desc = self.home(desc);
            if start != DATA {
                // SAFETY: the frame owns its chunk; `start + len <= CHUNK` and `len <= MAX_PACKET` hold for every frame
                // (`frame`, `move_start`, `set_len`), so both ranges are inside the chunk; `copy` allows them to overlap.
                unsafe { ptr::copy(frame.chunk.as_ptr().add(start), frame.chunk.as_ptr().add(DATA), len) };
                moved = true;
            }
        }
        // SAFETY: `desc` describes the chunk that `frame`, which is consumed here, owned exclusively.
        unsafe { self.umem.data_mut(&mut desc) }.cursor().set_pos(len);
        desc.set_options(0);
        (desc, moved)
    }
}

/// A packet in the memory that the sockets of a worker share. It owns its chunk.
#[must_use = "a frame that is dropped is lost to its sockets: transmit or release it"]
pub struct XskFrame<'umem> {
    chunk: NonNull<u8>,
    desc: FrameDesc,
    /// Where the packet begins in the chunk.
    start: u16,
    len: u16,
    umem: PhantomData<&'umem Umem>,
}

// SAFETY: a frame owns its chunk exclusively, and the mapping belongs to no thread.
unsafe impl Send for XskFrame<'_> {}

impl Frame for XskFrame<'_> {
    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: the chunk is mapped for as long as `'umem`, owned by this frame alone, and `start + len <= CHUNK`. It was
        // zeroed by the kernel at first, so every byte is initialised.
        unsafe { std::slice::from_raw_parts(self.chunk.as_ptr().add(self.start.into()), self.len.into()) }
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`; `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.chunk.as_ptr().add(self.start.into()), self.len.into()) }
    }

    #[inline]
    fn move_start(&mut self, by: isize) -> bool {
        let end = usize::from(self.start) + usize::from(self.len);
        match usize::from(self.start).checked_add_signed(by) {
            Some(start) if start <= end && end - start <= MAX_PACKET => {
                self.start = start as u16;
                self.len = (end - start) as u16;
                true
            }
            _ => false,
        }
    }

    #[inline]
    fn set_len(&mut self, len: usize) -> bool {
        if len > MAX_PACKET || usize::from(self.start) + len > CHUNK {
            return false;
        }
        self.len = len as u16;
        true
    }
}

impl fmt::Debug for XskFrame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XskFrame")
            .field("chunk", &(self.desc.addr() / CHUNK))
            .field("start", &self.start)
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
