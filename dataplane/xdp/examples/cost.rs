//! What a packet costs in the XDP program, in nanoseconds of one run, beside bare programs in the same namespace.
//!
//! ```sh
//! cargo run -p throughway-xdp --example cost               # as root; bare programs need clang
//! cargo run -p throughway-xdp --example cost -- 1 100000   # so many flows
//! ```
//!
//! BPF_PROG_TEST_RUN runs a program many times over one frame and leaves in it what the program wrote. So every flow's action
//! makes a packet of the next flow of it, round a ring in random order: each run looks up another flow, with no other program
//! between. Nothing else of a driver is in the figures, and the packet itself is always in the cache. Rounds of all
//! programs alternate and the best round of each counts, as the machine may be shared.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a program that is started by hand, prints its figures and may end at any error"
)]

use std::{fs, process::Command};

use aya::{
    Ebpf,
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use nix::sched::{CloneFlags, unshare};
use throughway_shared::{
    action::{Action, Rewrite, edits},
    checksum::{address_delta, delta, fold},
    flow::{FAMILY_IPV4, FAMILY_IPV6, FlowKey, mapped},
    steer::{self, FAST, Interface},
};
use throughway_xdp::{Back, FastConfig, FastFlow, FastFlows, FastPlace, OBJECT, Steering};

const BARE: &str = include_str!("../../../benches/peers/xdp.c");
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 9];
const ROUNDS: usize = 9;
const REPEAT: u32 = 300_000;
/// The address that everything is sent to.
const TARGET4: [u8; 4] = [192, 0, 2, 1];
const TARGET6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

fn main() {
    let flows: Vec<u32> = std::env::args().skip(1).map(|count| count.parse().expect("a number")).collect();
    let flows = if flows.is_empty() { vec![1, 10_000, 100_000, 1_000_000] } else { flows };
    unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
    let [ingress, egress] = ["in0", "out0"].map(device);
    ip("address add 10.255.0.1/8 dev in0");
    ip("address add 192.0.2.254/24 dev out0");
    ip("neighbour add 192.0.2.1 lladdr 02:00:00:00:00:03 dev out0 nud permanent");
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();

    let bare = bare(egress);
    let mut subjects = Vec::new();
    for count in flows {
        for (what, family) in [("IPv4", FAMILY_IPV4), ("IPv6", FAMILY_IPV6)] {
            let label = format!("hit {what}, {count} flows");
            subjects.push(Subject::new(&label, ingress, count, Some((family, egress))));
        }
    }
    subjects.push(Subject::new("miss IPv4", ingress, 1, None));

    let mut best = vec![f64::MAX; subjects.len() + bare.len()];
    for _ in 0..ROUNDS {
        let runs = bare.iter().map(|(_, bpf, name)| {
            let program: &Xdp = bpf.program(name).unwrap().try_into().unwrap();
            run(program, &frame4(0), ingress)
        });
        let ours =
            subjects.iter().map(|subject| run(subject.steering.program().unwrap(), &subject.frame, ingress));
        for (best, (ns, _)) in best.iter_mut().zip(runs.chain(ours)) {
            *best = best.min(ns);
        }
    }
    let labels = bare.iter().map(|(label, ..)| *label).chain(subjects.iter().map(|subject| &*subject.label));
    let verified = subjects[0].steering.program().unwrap().info().unwrap().verified_instruction_count();
    println!("{} instructions verified", verified.unwrap_or_default());
    println!("{:>8}  {:>8}  (ns a run; beyond the first)", "all", "beyond");
    for (label, ns) in labels.zip(&best) {
        println!("{ns:>8.1}  {:>8.1}  {label}", ns - best[0]);
    }
}

/// The program with some flows.
struct Subject {
    label: String,
    steering: Steering,
    frame: Vec<u8>,
}

impl Subject {
    fn new(label: &str, ingress: u32, count: u32, hit: Option<(u8, u32)>) -> Subject {
        let other = std::env::var_os("THROUGHWAY_BPF_OBJECT").map(|path| fs::read(path).unwrap());
        let object = other.as_deref().unwrap_or(OBJECT);
        // As much room as a service has that was told nothing, and more where it is needed.
        let config = FastConfig {
            workers: 1,
            flows: count
                .saturating_mul(5)
                .div_ceil(4)
                .max(std::env::var("CAP").map_or(131_072, |v| v.parse().unwrap())),
        };
        let mut steering = Steering::load_object(object, Some(config)).unwrap();
        let interface = Interface {
            number: 0,
            first_socket: steer::first_socket(0),
            flags: FAST,
            mac: MAC,
            reserved: [0; 2],
        };
        steering.set_interface(ingress, interface).unwrap();
        steering.alive_until(u64::MAX);
        let mut frame = frame4(0);
        if let Some((family, egress)) = hit {
            steering.set_egress(1, egress, Back::Transmit).unwrap();
            let ring = ring(count);
            let mut table = steering.take_fast_flows(0).unwrap();
            let mut next = vec![0; ring.len()];
            for (place, number) in ring.iter().enumerate() {
                next[*number as usize] = ring[(place + 1) % ring.len()];
            }
            // Not in the order of the ring, or the processor would foresee where the next entry lies.
            let mut places = Vec::new();
            for number in 0..count {
                places.push(install(&mut table, number, next[number as usize], family));
            }
            // What finds no place is left out of the ring: rarely, and never two in a row.
            for number in ring.iter().filter(|number| places[**number as usize].is_none()) {
                let before = next.iter().position(|next| next == number).unwrap();
                table.remove(places[before].unwrap(), now());
                install(&mut table, before as u32, next[*number as usize], family).unwrap();
            }
            frame = if family == FAMILY_IPV4 { frame4(ring[0]) } else { frame6(ring[0]) };
            let (_, action) = run(steering.program().unwrap(), &frame, ingress);
            assert_eq!(action, 4, "every run is to be a redirect");
        }
        Subject { label: label.to_owned(), steering, frame }
    }
}

/// Hands a flow over whose packets become those of the flow `next`; `None` when it finds no place.
fn install(table: &mut FastFlows, number: u32, next: u32, family: u8) -> Option<FastPlace> {
    let (key, rewrite) = flow(number, next, family);
    let flow = FastFlow {
        key: &key,
        rewrite: &rewrite,
        generation: 0,
        dependencies: [3, 4, 5, 6],
        limit: 1500,
        silence: u64::MAX,
        token: 0,
    };
    table.install(&flow, now()).ok()
}

/// Numbers below `count` in random order.
fn ring(count: u32) -> Vec<u32> {
    let mut ring: Vec<u32> = (0..count).collect();
    let mut state = 88_172_645_463_325_252u64;
    for last in (1..ring.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ring.swap(last, state as usize % (last + 1));
    }
    ring
}

/// The source of a flow: address and port.
fn source(number: u32) -> ([u8; 4], [u8; 2]) {
    ((0x0a00_0000 | number >> 4).to_be_bytes(), (1024 + (number & 15) as u16).to_be_bytes())
}

fn source6(number: u32) -> [u8; 16] {
    let mut address = TARGET6;
    let ([a, b, c, d], _) = source(number);
    address[10..14].copy_from_slice(&[a, b, c, d]);
    address
}

/// A flow whose packets become those of the flow `next`.
fn flow(number: u32, next: u32, family: u8) -> (FlowKey, Rewrite) {
    let ((old, old_port), (new, new_port)) = (source(number), source(next));
    let (from, to, destination) = if family == FAMILY_IPV4 {
        (mapped(old), mapped(new), mapped(TARGET4))
    } else {
        (source6(number), source6(next), TARGET6)
    };
    let key = FlowKey {
        source: from,
        destination,
        source_port: old_port,
        destination_port: 53u16.to_be_bytes(),
        protocol: 17,
        family,
        ..FlowKey::default()
    };
    let l3_delta = address_delta(&from, &to);
    let ports = delta(u16::from_be_bytes(old_port), u16::from_be_bytes(new_port));
    let action = Action {
        edits: edits::EGRESS | edits::ETHERNET | edits::SOURCE | edits::SOURCE_PORT,
        egress: 1,
        ethernet_destination: MAC,
        ethernet_source: PEER,
        source: to,
        source_port: new_port,
        l3_delta,
        l4_delta: fold(u32::from(l3_delta) + u32::from(ports)),
        ..Action::nothing()
    };
    (key, action.into())
}

/// A packet of a flow: 60 bytes, as long as the shortest frame without its check sequence.
fn frame4(number: u32) -> Vec<u8> {
    let (from, port) = source(number);
    let mut header = vec![0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 17, 0, 0];
    header.extend(from.into_iter().chain(TARGET4));
    let sum: u32 = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    header[10..12].copy_from_slice(&(!fold(sum)).to_be_bytes());
    [&MAC[..], &PEER, &[8, 0], &header, &port, &[0, 53, 0, 26, 0x12, 0x34], &[0; 18]].concat()
}

fn frame6(number: u32) -> Vec<u8> {
    let (_, port) = source(number);
    let first = [0x60, 0, 0, 0, 0, 8, 17, 64];
    [&MAC[..], &PEER, &[0x86, 0xdd], &first, &source6(number), &TARGET6, &port, &[0, 53, 0, 8, 0x12, 0x34]]
        .concat()
}

/// Nanoseconds of one run, and what the last one returned.
fn run(program: &Xdp, frame: &[u8], ingress: u32) -> (f64, u32) {
    let context = [0, frame.len() as u32, 0, ingress, 0, 0];
    let context: Vec<u8> = context.iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context),
        repeat: REPEAT,
        ..TestRunOptions::default()
    };
    let result = program.test_run(options).unwrap();
    // The kernel says whole nanoseconds, without the time in which others had the processor.
    (result.duration.as_nanos() as f64, result.return_value)
}

/// The bare programs, where there is a compiler: label, object, name.
fn bare(egress: u32) -> Vec<(&'static str, Ebpf, &'static str)> {
    // One kind of section, and packets whose hop limit never ends.
    let source = BARE.replace("xdp/redirect", "xdp").replace("xdp/fib", "xdp").replace("ip->ttl--;", "");
    let directory = std::env::temp_dir().join(format!("throughway-cost-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let (from, to) = (directory.join("xdp.c"), directory.join("xdp.o"));
    fs::write(&from, source).unwrap();
    let include = format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH);
    let out = format!("-DOUT={egress}");
    let status = Command::new("clang")
        .args(["-O2", "-g", "-target", "bpf", &include, &out, "-DSINK=2,0,0,0,0,1", "-c", "-o"])
        .args([&to, &from])
        .status()
        .expect("clang");
    assert!(status.success());
    let object = fs::read(&to).unwrap();
    fs::remove_dir_all(&directory).unwrap();
    let names = [("bare redirect", "redirect"), ("bare, the kernel's forwarding table", "fib")];
    let load = |(label, name)| {
        let mut bpf = Ebpf::load(&object).unwrap();
        let program: &mut Xdp = bpf.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap();
        (label, bpf, name)
    };
    names.into_iter().map(load).collect()
}

fn now() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A veth that is up; its index.
fn device(name: &str) -> u32 {
    ip(&format!("link add {name} type veth peer name {name}p"));
    ip(&format!("link set dev {name} up"));
    ip(&format!("link set dev {name}p up"));
    ip(&format!("-o link show dev {name}")).split(':').next().unwrap().parse().unwrap()
}
