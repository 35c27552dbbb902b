//! The XDP programs that make and count test traffic, for `throughway pktgen`.
//!
//! * [`send`]: turns the empty frames that the kernel hands out into test traffic.
//! * [`sink`]: counts the frames of the generator and drops them.
//! * [`maps`]: what user space tells the programs, and what they count.
//!
//! What frames look like and when one is due is in `throughway_traffic`; only memory and clock are touched here.
#![no_std]
#![no_main]

use aya_ebpf::{macros::xdp, programs::XdpContext};

mod maps;
mod send;
mod sink;

/// Run by BPF_PROG_TEST_RUN with live frames: one frame of the generator, or none.
#[xdp]
pub fn pktgen_send(context: XdpContext) -> u32 {
    send::send(&context)
}

/// Attached to a device: counts the generator's frames and drops them; others pass.
#[xdp(frags)]
pub fn pktgen_sink(context: XdpContext) -> u32 {
    sink::sink(&context)
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
