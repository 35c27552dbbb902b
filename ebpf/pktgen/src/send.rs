//! One call: one frame of the generator.
//!
//! The kernel calls in batches of as many frames as the plan's burst has. The first call of a batch looks at the clock and
//! decides for all of them: send, or give the frames back.

use aya_ebpf::{
    bindings::xdp_action,
    helpers::{bpf_ktime_get_ns, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use throughway_traffic::{
    IPV6, MIXED, Packet, Plan, STAMPED, TCP, Turn,
    frame::{least, write},
};

use crate::maps::{PLAN, STATE};

/// How often the clock is read before a batch is given back because nothing is due: some 2 µs. Giving back lets the
/// kernel look for signals and for other work.
const PATIENCE: u32 = 96;

#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes nothing and has no conditions.
    unsafe { bpf_ktime_get_ns() }
}

#[inline(always)]
pub(crate) fn send(context: &XdpContext) -> u32 {
    let (Some(plan), Some(state)) = (PLAN.get(0), STATE.get_ptr_mut(0)) else { return xdp_action::XDP_DROP };
    // SAFETY: the entry lives as long as the program. One run at a time uses it: one thread of user space asks for them.
    let state = unsafe { &mut *state };
    if state.position == 0 {
        let mut turn = Turn::Wait;
        for _ in 0..PATIENCE {
            turn = state.turn(plan, now());
            if turn != Turn::Wait {
                break;
            }
        }
        state.sending = (turn == Turn::Send) as u64;
    }
    state.position += 1;
    if state.position >= plan.burst {
        state.position = 0;
    }
    if state.sending == 0 {
        return xdp_action::XDP_DROP;
    }
    let Some(packet) = state.next(plan) else { return xdp_action::XDP_DROP };
    if plan.has(MIXED) {
        let shorter = plan.classes[packet.class].length as i32 - plan.classes[0].length as i32;
        // SAFETY: `context` is the program's own; no pointer into the frame has been made yet.
        if shorter != 0 && unsafe { bpf_xdp_adjust_tail(context.ctx, shorter) } != 0 {
            return xdp_action::XDP_DROP;
        }
    }
    let written = match (plan.has(IPV6), plan.has(TCP), plan.has(STAMPED)) {
        (false, false, false) => {
            form::<false, false, false, { least(false, false, false) }>(context, plan, &packet)
        }
        (false, false, true) => {
            form::<false, false, true, { least(false, false, true) }>(context, plan, &packet)
        }
        (false, true, false) => {
            form::<false, true, false, { least(false, true, false) }>(context, plan, &packet)
        }
        (false, true, true) => {
            form::<false, true, true, { least(false, true, true) }>(context, plan, &packet)
        }
        (true, false, false) => {
            form::<true, false, false, { least(true, false, false) }>(context, plan, &packet)
        }
        (true, false, true) => {
            form::<true, false, true, { least(true, false, true) }>(context, plan, &packet)
        }
        (true, true, false) => {
            form::<true, true, false, { least(true, true, false) }>(context, plan, &packet)
        }
        (true, true, true) => form::<true, true, true, { least(true, true, true) }>(context, plan, &packet),
    };
    if written { xdp_action::XDP_TX } else { xdp_action::XDP_DROP }
}

/// Writes the frame, if it has room.
#[inline(always)]
fn form<const IPV6: bool, const TCP: bool, const STAMPED: bool, const N: usize>(
    context: &XdpContext,
    plan: &Plan,
    packet: &Packet,
) -> bool {
    let start = context.data();
    if start + N > context.data_end() {
        return false;
    }
    // SAFETY: N bytes from `start` are within the frame, which nobody else has while the program runs; any bytes make an
    // array of bytes.
    let frame = unsafe { &mut *(start as *mut [u8; N]) };
    let stamp = if STAMPED { now() } else { 0 };
    write::<IPV6, TCP, STAMPED, N>(frame, plan, packet, stamp);
    true
}
