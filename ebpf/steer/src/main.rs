//! The XDP program `throughway`: which frames go to a worker, which to the kernel, and why.
//!
//! * [`classify`]: the decision, over what it can see of a frame and of the host. No pointer, no helper.
//! * [`door`]: that view of frame and host. The only place which touches packet memory.
//! * [`maps`]: what user space tells the program, and what it counts.
//!
//! * [`early`]: what is dropped before anything else.
//! * [`fast`]: executes the established flows that workers handed over; [`flows`]: their memory; [`rewrite`] and
//!   [`front`]: the bytes.
//!
//! But for the fast path, nothing here changes a byte of a frame. Only headers are read, so a frame in several buffers is as good as one in a
//! single buffer (`xdp.frags`): the driver keeps the headers in the first.
#![feature(asm_experimental_arch)]
#![no_std]
#![no_main]

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use throughway_shared::steer::{Reason, UNKNOWN_INTERFACE};

mod classify;
mod door;
mod early;
mod fast;
mod flows;
mod front;
mod maps;
mod rewrite;

/// Entry: decides, counts, acts.
#[xdp(frags)]
pub fn throughway(context: XdpContext) -> u32 {
    let Some(interface) = maps::interface(context.ingress_ifindex() as u32) else {
        maps::count(UNKNOWN_INTERFACE, Reason::UnknownInterface);
        return xdp_action::XDP_PASS;
    };
    let queue = context.rx_queue_index();
    let door = door::Door::new(&context);
    if early::is_dropped(&door, interface) {
        maps::count(interface.number, Reason::EarlyDrop);
        return xdp_action::XDP_DROP;
    }
    if let Some((number, reason, action)) = fast::run(&context, interface, queue) {
        maps::count(number, reason);
        return action;
    }
    let (number, reason) = classify::classify(&door, interface, queue);
    maps::count(number, reason);
    match reason {
        Reason::ToWorker => maps::redirect(interface, queue),
        Reason::UnknownInterface
        | Reason::NotIp
        | Reason::UnclaimedVlan
        | Reason::OtherMac
        | Reason::Multicast
        | Reason::LinkLocal
        | Reason::DhcpReply
        | Reason::LocalAddress
        | Reason::LocalSocket
        | Reason::NoSocketPass => xdp_action::XDP_PASS,
        Reason::NoSocketDrop
        | Reason::Truncated
        // Those that were acted on before.
        | Reason::EarlyDrop
        | Reason::FastPath
        | Reason::FastDrop
        | Reason::FastNoEgress => xdp_action::XDP_DROP,
    }
}

/// Never reached: nothing above can panic, and the verifier would refuse the endless loop if it could.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// What the kernel reads to decide which helpers may be called; MIT may be combined with GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
