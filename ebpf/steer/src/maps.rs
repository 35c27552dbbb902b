//! The maps: what user space tells the program, and what the program counts.
//!
//! Their names and layouts are in `throughway_shared::steer`. The flows that are executed here are in [`crate::flows`], what is dropped
//! early in [`crate::early`].

use aya_ebpf::{
    bindings::xdp_action,
    macros::map,
    maps::{Array, DevMap, HashMap, PerCpuArray, XskMap},
};
use throughway_shared::steer::{
    self, COUNTERS, FAIL_CLOSED, Interface, MAX_INTERFACES, MAX_LOCAL_ADDRESSES, NEARS, Near, Reason,
    SOCKET_SLOTS, Vlan,
};

use crate::classify::Address;

/// `BPF_F_MMAPABLE`: an array that user space has in its own memory.
pub(crate) const MMAPABLE: u32 = 1 << 10;

#[map]
static INTERFACES: HashMap<u32, Interface> = HashMap::with_max_entries(MAX_INTERFACES, 0);

#[map]
static NEAR: Array<Near> = Array::with_max_entries(NEARS, 0);

#[map]
static VLANS: HashMap<[u32; 2], Vlan> = HashMap::with_max_entries(MAX_INTERFACES, 0);

#[map]
static LOCAL_ADDRESSES: HashMap<Address, u32> = HashMap::with_max_entries(MAX_LOCAL_ADDRESSES, 0);

#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(SOCKET_SLOTS, 0);

#[map]
static STEERED: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);

#[map]
static FAST_EGRESS: DevMap = DevMap::with_max_entries(MAX_INTERFACES, 0);

#[map]
static FAST_PORTS: Array<u32> = Array::with_max_entries(MAX_INTERFACES, 0);

/// What is known of the interface `ifindex`, if it is ours.
#[inline(always)]
pub(crate) fn interface(ifindex: u32) -> Option<&'static Interface> {
    if let Some(near) = NEAR.get(steer::near(ifindex)).filter(|near| near.ifindex == ifindex) {
        return Some(&near.interface);
    }
    // SAFETY: the entry lives at least until this run of the program ends (RCU). User space may replace it meanwhile;
    // every bit pattern is a valid `Interface`, and one frame judged by a half replaced entry does no harm.
    unsafe { INTERFACES.get(ifindex) }
}

/// What is known of the VLAN with these tags, if it is ours. `key`: `VlanKey::words`.
#[inline(always)]
pub(crate) fn vlan(key: [u32; 2]) -> Option<&'static Vlan> {
    // SAFETY: as in `interface`.
    unsafe { VLANS.get(key) }
}

/// The flags of `address`, if it is one of the host's own.
#[inline(always)]
pub(crate) fn local_address(address: &Address) -> Option<u32> {
    // SAFETY: as in `interface`; the value is one aligned word.
    unsafe { LOCAL_ADDRESSES.get(address) }.copied()
}

/// Whether the socket in `slot` serves `queue`: a socket of another queue would lose the frame.
#[inline(always)]
pub(crate) fn has_socket(slot: u32, queue: u32) -> bool {
    SOCKETS.get(slot) == Some(queue)
}

/// Hands the frame to the worker of `queue`. The action to return.
#[inline(always)]
pub(crate) fn redirect(interface: &Interface, queue: u32) -> u32 {
    // Only for the instant in which a socket goes between the look at the map and here.
    let otherwise =
        if interface.flags & FAIL_CLOSED == 0 { xdp_action::XDP_PASS } else { xdp_action::XDP_DROP };
    match SOCKETS.redirect(interface.first_socket + queue, otherwise.into()) {
        Ok(action) | Err(action) => action,
    }
}

/// The device that frames to a port of the data plane may be sent to from here, if there is one; none that a frame came in on, if those
/// do not go back by `XDP_TX`.
#[inline(always)]
pub(crate) fn egress(port: u32) -> Option<u32> {
    FAST_PORTS.get(port).copied().filter(|device| *device != 0)
}

/// Sends the frame to a port of the data plane. The action to return: a redirect, if there is still a device.
#[inline(always)]
pub(crate) fn send(port: u32) -> u32 {
    match FAST_EGRESS.redirect(port, xdp_action::XDP_DROP.into()) {
        Ok(action) | Err(action) => action,
    }
}

/// Counts a frame of interface `number`.
#[inline(always)]
pub(crate) fn count(number: u32, reason: Reason) {
    if let Some(counter) = STEERED.get_ptr_mut(steer::counter(number, reason)) {
        // SAFETY: the kernel returned a pointer to this CPU's own value, and XDP does not migrate or nest on a CPU.
        unsafe { *counter += 1 }
    }
}
