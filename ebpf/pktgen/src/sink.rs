//! Counts the generator's frames and drops them.

use core::ptr;

use aya_ebpf::{bindings::xdp_action, helpers::bpf_ktime_get_ns, programs::XdpContext};
use throughway_traffic::{
    sink::{Run, Seen, bucket, flow_entry, look, window},
    tag,
};

use crate::maps::{FLOWS, LATENCY, OTHER, RUNS, WINDOWS};

/// The clock is read at one packet in so many where no stamp asks for it.
const CLOCK_EVERY: u64 = 32;

#[inline(always)]
fn read<const N: usize>(context: &XdpContext, at: usize) -> Option<[u8; N]> {
    let start = context.data() + at;
    if start + N > context.data_end() {
        return None;
    }
    // SAFETY: N bytes from `start` are within the frame; any bytes make an array of bytes.
    Some(unsafe { ptr::read_unaligned(start as *const [u8; N]) })
}

/// Where the payload of UDP or TCP begins, behind at most one VLAN tag and one IP header without extensions.
#[inline(always)]
fn payload(context: &XdpContext) -> Option<usize> {
    let mut network = 14;
    let mut kind = u16::from_be_bytes(read(context, 12)?);
    if kind == 0x8100 || kind == 0x88a8 {
        kind = u16::from_be_bytes(read(context, 16)?);
        network = 18;
    }
    let (next, transport) = match kind {
        0x0800 => {
            let [first] = read(context, network)?;
            let [next] = read(context, network + 9)?;
            (next, network + (first & 15) as usize * 4)
        }
        0x86dd => {
            let [next] = read(context, network + 6)?;
            (next, network + 40)
        }
        _ => return None,
    };
    match next {
        17 => Some(transport + 8),
        6 => {
            let [offset] = read(context, transport + 12)?;
            Some(transport + (offset >> 4) as usize * 4)
        }
        _ => None,
    }
}

#[inline(always)]
pub(crate) fn sink(context: &XdpContext) -> u32 {
    match count(context) {
        Some(()) => xdp_action::XDP_DROP,
        None => {
            if let Some(other) = OTHER.get_ptr_mut(0) {
                // SAFETY: the kernel returned a pointer to this CPU's own value, and XDP does not nest on a CPU.
                unsafe { *other += 1 }
            }
            xdp_action::XDP_PASS
        }
    }
}

#[inline(always)]
fn count(context: &XdpContext) -> Option<()> {
    let payload = payload(context)?;
    let (number, stamped) = tag::read_head(u32::from_be_bytes(read(context, payload)?))?;
    let run = RUNS.get_ptr_mut(number)?;
    // SAFETY: as in `sink`.
    let run = unsafe { &mut *run };
    run.packets += 1;
    run.bytes += (context.data_end() - context.data()) as u64;
    if !stamped {
        if run.packets % CLOCK_EVERY == 1 {
            clock(run);
        }
        return Some(());
    }
    let now = clock(run);
    let (sequence, flow) = tag::read_numbers(u64::from_be_bytes(read(context, payload + 4)?));
    let [t0, t1, t2, t3, t4, t5] = read(context, payload + 12)?;
    let latency = tag::elapsed(u64::from_be_bytes([0, 0, t0, t1, t2, t3, t4, t5]), now);
    if run.least_latency == 0 || latency < run.least_latency - 1 {
        run.least_latency = latency + 1;
    }
    if latency > run.most_latency {
        run.most_latency = latency;
    }
    if let Some(bucket) = LATENCY.get_ptr_mut(bucket(latency)) {
        // SAFETY: as in `sink`.
        unsafe { *bucket += 1 }
    }
    run.stamped += 1;
    if sequence >= run.highest {
        run.highest = sequence + 1;
    }
    if run.lowest == 0 || sequence < run.lowest - 1 {
        run.lowest = sequence + 1;
    }
    match seen(number, sequence) {
        Seen::New(_) => {}
        Seen::Before => run.duplicates += 1,
        Seen::Unknown => run.unknown += 1,
    }
    if comes_late(number, flow, sequence) {
        run.reordered += 1;
    }
    Some(())
}

/// Reads the clock and writes it down. Returns CLOCK_MONOTONIC in ns.
#[inline(always)]
fn clock(run: &mut Run) -> u64 {
    // SAFETY: the helper takes nothing and has no conditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if run.first == 0 {
        run.first = now;
    }
    run.last = now;
    run.packets_at_last = run.packets;
    now
}

/// Whether the sequence number was seen before; remembers it. Two CPUs that write one word at the same time lose one of two
/// bits: a duplicate may be missed then, but never made up.
#[inline(always)]
fn seen(run: u32, sequence: u64) -> Seen {
    let (at, epoch, bit) = window(run, sequence);
    let Some(word) = WINDOWS.get_ptr_mut(at) else { return Seen::Unknown };
    // SAFETY: the entry lives as long as the program and is one aligned word.
    let seen = look(unsafe { ptr::read_volatile(word) }, epoch, bit);
    if let Seen::New(next) = seen {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(word, next) }
    }
    seen
}

/// Whether a later packet of the flow was here first. Packets of one flow come by one queue, so on one CPU.
#[inline(always)]
fn comes_late(run: u32, flow: u32, sequence: u64) -> bool {
    let (at, owner) = flow_entry(run, flow);
    let Some(entry) = FLOWS.get_ptr_mut(at) else { return false };
    // SAFETY: the entry lives as long as the program; where two CPUs write one entry, either value will do.
    unsafe {
        let known = ptr::read_volatile(entry);
        let same = (known ^ owner) >> 40 == 0;
        let late = same && sequence + 1 < known & ((1 << 40) - 1);
        if !late {
            ptr::write_volatile(entry, owner | (sequence + 1));
        }
        late
    }
}
