//! The door to packet memory and to the kernel's sockets: every access is checked here, and nowhere else.

use core::ptr;

use crate::{
    classify::{Address, Transport, Tuple4, Tuple6, View},
    maps,
};
use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple},
    helpers::{bpf_sk_lookup_udp, bpf_sk_release, bpf_skc_lookup_tcp},
    programs::XdpContext,
};
use throughway_shared::steer::{Vlan, VlanKey};

/// Frame and host as the program sees them.
pub(crate) struct Door<'a> {
    context: &'a XdpContext,
}

impl<'a> Door<'a> {
    /// The view of the frame in `context`.
    #[inline(always)]
    pub(crate) fn new(context: &'a XdpContext) -> Self {
        Door { context }
    }
}

impl Door<'_> {
    /// The bytes at `at` as a `T`. `T` is an array of integers in all uses: any bytes make one.
    #[inline(always)]
    fn read<T>(&self, at: usize) -> Option<T> {
        let start = self.context.data() + at;
        if start + size_of::<T>() > self.context.data_end() {
            return None;
        }
        // SAFETY: `size_of::<T>()` bytes from `start` are within the frame, nothing is assumed of their alignment, and
        // the callers below ask for arrays of integers only.
        Some(unsafe { ptr::read_unaligned(start as *const T) })
    }

    /// Whether the host has a socket for `tuple`, which is `Tuple4` or `Tuple6`, in the namespace of the interface.
    #[inline(always)]
    fn local_socket<T>(&self, transport: Transport, tuple: &T, size: usize) -> bool {
        let context = self.context.as_ptr();
        let tuple = ptr::from_ref(tuple).cast::<bpf_sock_tuple>().cast_mut();
        let namespace = BPF_F_CURRENT_NETNS as u64;
        let socket: *mut bpf_sock = match transport {
            // SAFETY: `context` is the program's own; `tuple` points to at least `size` initialised bytes, which the
            // helper only reads, and `size` tells it which member of the union they are.
            Transport::Tcp => unsafe { bpf_skc_lookup_tcp(context, tuple, size as u32, namespace, 0) }.cast(),
            // SAFETY: as above.
            Transport::Udp => unsafe { bpf_sk_lookup_udp(context, tuple, size as u32, namespace, 0) },
        };
        if socket.is_null() {
            return false;
        }
        // SAFETY: a socket that the helpers returned, released once and not used afterwards.
        unsafe { bpf_sk_release(socket.cast()) };
        true
    }
}

/// How many bytes of the frame can be read: of one in several buffers, those of the first.
#[inline(always)]
pub(crate) fn len(context: &XdpContext) -> usize {
    context.data_end() - context.data()
}

/// The bytes of the frame at `at` as a `T`, one of the packed headers of `fast`: any bytes make one.
#[inline(always)]
pub(crate) fn at<T>(context: &XdpContext, at: usize) -> Option<&T> {
    // SAFETY: see `pointer`; nothing else writes to the frame while the program runs, and its callers hold no `&mut` to these
    // bytes.
    Some(unsafe { &*pointer(context, at)? })
}

/// As [`at`], to be written to.
#[inline(always)]
pub(crate) fn at_mut<T>(context: &XdpContext, at: usize) -> Option<&mut T> {
    // SAFETY: as in `at`; callers ask for parts of the frame that do not overlap.
    Some(unsafe { &mut *pointer(context, at)? })
}

/// A pointer to a `T` within the frame. `T` must be of alignment 1.
#[inline(always)]
fn pointer<T>(context: &XdpContext, at: usize) -> Option<*mut T> {
    const { assert!(align_of::<T>() == 1) };
    let start = context.data() + at;
    if start + size_of::<T>() > context.data_end() { None } else { Some(start as *mut T) }
}

impl View for Door<'_> {
    #[inline(always)]
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.read(at)
    }

    #[inline(always)]
    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        self.read(at)
    }

    #[inline(always)]
    fn double_words<const N: usize>(&self, at: usize) -> Option<[u64; N]> {
        self.read(at)
    }

    #[inline(always)]
    fn vlan(&self, outer: u16, inner: u16) -> Option<Vlan> {
        let ifindex = self.context.ingress_ifindex() as u32;
        maps::vlan(VlanKey { ifindex, outer, inner }.words()).copied()
    }

    #[inline(always)]
    fn local_address(&self, address: &Address) -> Option<u32> {
        maps::local_address(address)
    }

    #[inline(always)]
    fn local_socket4(&self, transport: Transport, tuple: &Tuple4) -> bool {
        self.local_socket(transport, tuple, 12)
    }

    #[inline(always)]
    fn local_socket6(&self, transport: Transport, tuple: &Tuple6) -> bool {
        self.local_socket(transport, tuple, 36)
    }

    #[inline(always)]
    fn has_worker(&self, slot: u32, queue: u32) -> bool {
        maps::has_socket(slot, queue)
    }
}
