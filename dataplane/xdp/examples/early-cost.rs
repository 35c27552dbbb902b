//! What early sets cost: time to load and to change them, memory, and nanoseconds a packet. As root:
//! `cargo run --release -p throughway-xdp --example early-cost [PREFIXES]`.

use std::error::Error;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use aya::programs::{TestRun as _, TestRunOptions};
use throughway_shared::steer::{EARLY, Interface, first_socket};
use throughway_xdp::{EarlyPrefix, EarlyRoom, Steering};

/// Where test runs come in: the loopback device.
const INGRESS: u32 = 1;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const REPEAT: u32 = 1_000_000;

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// Bytes of kernel memory that the maps and programs of this process are charged with.
fn memory() -> std::io::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir("/proc/self/fdinfo")? {
        let text = std::fs::read_to_string(entry?.path()).unwrap_or_default();
        let charged = text.lines().find_map(|line| line.strip_prefix("memlock:"));
        sum += charged.and_then(|bytes| bytes.trim().parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}

fn frame(from: Ipv4Addr) -> Vec<u8> {
    let mut frame = [MAC, [2, 0, 0, 0, 0, 9]].concat();
    frame.extend([8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend(from.octets());
    frame.extend([192, 0, 2, 1]);
    frame.extend([0; 30]);
    frame
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    let count: usize = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse())?;
    let mut state = 0x1234_5678_9abc_def0;
    let host = |address: IpAddr| {
        let length = if address.is_ipv4() { 32 } else { 64 };
        EarlyPrefix { address, length, interfaces: 1, set: 0 }
    };
    let ipv4: Vec<_> =
        (0..count).map(|_| host(Ipv4Addr::from_bits(random(&mut state) as u32 | 1 << 31).into())).collect();
    let ipv6: Vec<_> =
        (0..count).map(|_| host(Ipv6Addr::from_bits(u128::from(random(&mut state)) << 64).into())).collect();
    let mut steering = Steering::load_for(None, EarlyRoom::of(count, count))?;
    let interface = Interface {
        number: 0,
        first_socket: first_socket(0),
        flags: EARLY,
        mac: MAC,
        ..Interface::default()
    };
    steering.set_interface(INGRESS, interface)?;
    let mut early = steering.take_early().ok_or("the program has no early sets")?;
    let cost = |from: Ipv4Addr| -> Result<u128, Box<dyn Error>> {
        let frame = frame(from);
        let mut times = Vec::new();
        for _ in 0..9 {
            let options =
                TestRunOptions { data_in: Some(&frame), repeat: REPEAT, ..TestRunOptions::default() };
            times.push(steering.program()?.test_run(options)?.duration.as_nanos());
        }
        times.sort_unstable();
        Ok(times[times.len() / 2])
    };
    let unlisted = Ipv4Addr::new(10, 0, 0, 1);
    writeln!(out, "no prefixes: {} ns for a packet that goes on", cost(unlisted)?)?;
    for (what, prefixes) in [("IPv4 addresses", &ipv4), ("IPv6 prefixes", &ipv6)] {
        early.replace([])?;
        let before = memory()?;
        let begun = Instant::now();
        early.replace(prefixes.iter().copied())?;
        let loaded = begun.elapsed();
        let begun = Instant::now();
        early.replace(prefixes.iter().skip(count / 100).copied())?;
        let changed = begun.elapsed();
        let memory = memory()?.saturating_sub(before) >> 20;
        writeln!(
            out,
            "{count} {what}: loaded in {loaded:.2?}, a hundredth taken out in {changed:.2?}, {memory} MiB more charged, {} in tries",
            early.in_tries()
        )?;
    }
    early.replace(ipv4.iter().copied())?;
    writeln!(out, "with them: {} ns for a packet that goes on", cost(unlisted)?)?;
    if let Some(IpAddr::V4(listed)) = ipv4.first().map(|prefix| prefix.address) {
        writeln!(out, "with them: {} ns for one that is dropped", cost(listed)?)?;
    }
    Ok(())
}
