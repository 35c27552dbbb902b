//! The fast path of the object in the kernel (BPF_PROG_TEST_RUN): what it executes, what it leaves to the workers, and what it
//! counts. That it executes exactly what the workers do is shown in `dataplane/tests/fast_differential.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use common::{ifindex, in_namespace, ip, object};
use throughway_shared::{
    action::{Action, Rewrite, edits},
    checksum::fold,
    fast::{CURRENT, SLOT_ROUTES},
    flow::{FlowKey, mapped},
    steer::{self, FAST, Interface, Reason, Vlan, VlanKey},
    tunnel::{Tunnel, kind},
};
use throughway_xdp::{Back, FastConfig, FastFlow, FastFlows, FastPlace, Steering};

use std::sync::atomic::Ordering;

mod common;

const NUMBER: u32 = 3;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

struct Bench {
    steering: Steering,
    flows: Vec<FastFlows>,
    ingress: u32,
}

impl Bench {
    fn new(workers: u32, flows: u32) -> Bench {
        for veth in ["in0", "out0"] {
            ip(&format!("link add {veth} numrxqueues 4 numtxqueues 4 type veth peer name {veth}p"));
            ip(&format!("link set dev {veth} up"));
            ip(&format!("link set dev {veth}p up"));
        }
        let mut steering = Steering::load_object(&object(), Some(FastConfig { workers, flows })).unwrap();
        let first_socket = steer::first_socket(NUMBER);
        let interface = Interface { number: NUMBER, first_socket, flags: FAST, mac: MAC, reserved: [0; 2] };
        let ingress = ifindex("in0");
        steering.set_interface(ingress, interface).unwrap();
        steering.set_egress(1, ifindex("out0"), Back::Transmit).unwrap();
        steering.set_egress(2, ingress, Back::Transmit).unwrap();
        steering.alive_until(u64::MAX);
        let taken = (0..workers).map(|worker| steering.take_fast_flows(worker).unwrap());
        let flows = taken.collect();
        assert!(steering.take_fast_flows(0).is_none() && steering.take_fast_flows(workers).is_none());
        Bench { steering, flows, ingress }
    }

    fn run(&self, frame: &[u8], queue: u32) -> (u32, Vec<u8>) {
        let trial = self.steering.try_frame(self.ingress, queue, frame).unwrap();
        (trial.action, trial.frame)
    }

    fn counted(&self, reason: Reason) -> u64 {
        let counters = self.steering.counters().unwrap();
        counters.iter().find(|counters| counters.interface == Some(NUMBER)).unwrap().get(reason)
    }

    fn install(&mut self, action: Action, change: impl FnOnce(&mut FastFlow<'_>)) -> FastPlace {
        let (key, rewrite) = (key(), Rewrite::from(action));
        let mut flow = FastFlow { dependencies: [100, 200, 300, 400], token: 7, ..flow(&key, &rewrite) };
        change(&mut flow);
        self.flows[0].install(&flow, now()).unwrap()
    }
}

/// A flow that depends on nothing and never becomes silent.
fn flow<'a>(key: &'a FlowKey, rewrite: &'a Rewrite) -> FastFlow<'a> {
    FastFlow { key, rewrite, generation: 0, dependencies: [0; 4], limit: 1500, silence: u64::MAX, token: 0 }
}

fn now() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

fn key() -> FlowKey {
    FlowKey {
        source: mapped([10, 0, 0, 1]),
        destination: mapped([192, 0, 2, 1]),
        source_port: 1000u16.to_be_bytes(),
        destination_port: 53u16.to_be_bytes(),
        ingress: NUMBER as u16,
        protocol: 17,
        family: 4,
        ..FlowKey::default()
    }
}

/// A packet of that flow.
fn frame() -> Vec<u8> {
    let mut frame = MAC.to_vec();
    frame.extend([2, 0, 0, 0, 0, 9, 8, 0]);
    let mut header =
        vec![0x45, 0xb9, 0, 20 + 8 + 18, 0x12, 0x34, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 192, 0, 2, 1];
    let sum: u32 = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(header);
    frame.extend([0x03, 0xe8, 0, 53, 0, 26, 0, 0]);
    frame.extend([0x55; 18]);
    frame
}

fn forward(egress: u16) -> Action {
    Action {
        edits: edits::EGRESS | edits::ETHERNET,
        egress,
        hops: 1,
        ethernet_destination: [2, 0, 0, 0, 0, 3],
        ethernet_source: [2, 0, 0, 0, 0, 4],
        ..Action::nothing()
    }
}

#[test]
fn a_flow_is_executed_counted_and_given_back() {
    in_namespace(|| {
        let mut bench = Bench::new(2, 1000);
        let frame = frame();
        assert_eq!(bench.run(&frame, 0), (XDP_PASS, frame.clone()), "unknown");
        let place = bench.install(forward(1), |_| ());
        let (action, out) = bench.run(&frame, 0);
        assert_eq!(action, XDP_REDIRECT);
        assert_eq!(out[..14], [2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 4, 8, 0]);
        assert_eq!((out[22], &out[26..]), (63, &frame[26..]));
        assert_eq!(bench.run(&frame, 2).0, XDP_REDIRECT, "the same worker");
        assert_eq!(bench.run(&frame, 1), (XDP_PASS, frame.clone()), "another worker's queue");
        let count = bench.flows[0].read(place);
        assert_eq!((count.packets, count.bytes, bench.counted(Reason::FastPath)), (2, 92, 2));
        assert!(now() - count.last < 1_000_000_000, "{count:?}");
        let mut seen = Vec::new();
        bench.flows[0].sweep(
            1000,
            10,
            |_| Some(()),
            |place, token, count, ()| seen.push((place, token, count.packets)),
        );
        assert_eq!(seen, [(place, 7, 2)]);
        bench.flows[0].remove(place, now());
        assert_eq!(bench.run(&frame, 0), (XDP_PASS, frame.clone()), "taken back");
        assert_eq!(bench.counted(Reason::NoSocketPass), 3);
    });
}

#[test]
fn it_leaves_by_the_port_of_its_action_or_not_at_all() {
    in_namespace(|| {
        let mut bench = Bench::new(1, 1000);
        let frame = frame();
        for (egress, expected) in
            [(1, XDP_REDIRECT), (2, XDP_TX), (4, XDP_PASS), (64, XDP_PASS), (u16::MAX, XDP_PASS)]
        {
            let place = bench.install(forward(egress), |_| ());
            let (action, out) = bench.run(&frame, 0);
            assert_eq!(action, expected, "port {egress}");
            assert_eq!(out == frame, expected == XDP_PASS, "port {egress}");
            bench.flows[0].remove(place, now());
        }
        let drop = Action { edits: edits::DROP, ..Action::nothing() };
        let place = bench.install(drop, |_| ());
        assert_eq!(bench.run(&frame, 0), (XDP_DROP, frame.clone()));
        assert_eq!(bench.flows[0].read(place).packets, 1);
        assert_eq!(bench.counted(Reason::FastDrop), 1);
        bench.flows[0].remove(place, now());
        bench.install(forward(1), |_| ());
        bench.steering.clear_egress(1).unwrap();
        assert_eq!(bench.run(&frame, 0), (XDP_PASS, frame.clone()), "no longer");
        assert!(bench.steering.set_egress(64, 1, Back::Transmit).is_err());
    });
}

#[test]
fn only_what_is_still_true_is_executed() {
    in_namespace(|| {
        let mut bench = Bench::new(1, 1000);
        let (frame, words) = (frame(), bench.steering.fast_generations().unwrap());
        let set = |slot: usize, to| (*words).as_ref()[slot].store(to, Ordering::Relaxed);
        set(CURRENT, 7);
        let mut place = bench.install(forward(1), |flow| flow.generation = 7);
        let executed = |bench: &Bench| bench.run(&frame, 0).0 == XDP_REDIRECT;
        assert!(executed(&bench));
        // Something else changed: the flow takes the new generation.
        set(500, 8);
        set(CURRENT, 8);
        assert!(executed(&bench));
        for slot in [100, 200, 300, 400, 0, SLOT_ROUTES] {
            let next = (*words).as_ref()[CURRENT].load(Ordering::Relaxed) + 1;
            set(slot, next);
            set(CURRENT, next);
            assert!(!executed(&bench), "slot {slot} changed");
            bench.flows[0].renew(place, next);
            assert!(executed(&bench), "found true again");
        }
        // It had taken the generation that it was found true at last, so that an old one is no matter.
        set(CURRENT, (1 << 30) - 1);
        assert!(executed(&bench));
        set(CURRENT, (1 << 31) - 2);
        assert!(executed(&bench));
        set(CURRENT, (1 << 31) - 2 + (1 << 30));
        assert!(!executed(&bench), "too old to tell");
        set(CURRENT, 14);
        bench.flows[0].remove(place, now());

        // As if the last packet had come so long ago.
        for (silence, ago, holds) in [(60, 50, true), (60, 61, false), (6, 7, false), (6, 0, true)] {
            let (key, rewrite) = (key(), Rewrite::from(forward(1)));
            let second = 1_000_000_000;
            let flow = FastFlow { generation: 14, silence: silence * second, ..flow(&key, &rewrite) };
            // A virtual machine may have started only just.
            let Some(then) = now().checked_sub(ago * second) else { continue };
            place = bench.flows[0].install(&flow, then).unwrap();
            assert_eq!(executed(&bench), holds, "{ago} of {silence} seconds");
            assert_eq!(executed(&bench), holds, "{ago} of {silence} seconds, again");
            bench.flows[0].remove(place, now());
        }
        bench.install(forward(1), |flow| flow.generation = 14);

        // The program reads a coarse clock.
        bench.steering.alive_until(now() - 50_000_000);
        assert!(!executed(&bench), "nobody alive");
        bench.steering.alive_until(now() + 60_000_000_000);
        assert!(executed(&bench));
    });
}

#[test]
fn what_is_special_goes_up() {
    in_namespace(|| {
        let mut bench = Bench::new(1, 1000);
        bench.install(Action { hops: 3, ..forward(1) }, |flow| flow.limit = 46);
        let frame = frame();
        assert_eq!(bench.run(&frame, 0).0, XDP_REDIRECT);
        let mut padded = frame.clone();
        padded.extend([0; 20]);
        let (action, out) = bench.run(&padded, 0);
        assert_eq!((action, out.len()), (XDP_REDIRECT, padded.len()), "padding stays");
        // With the header checksum made right again.
        let changed = |at: usize, to: u8| {
            let mut frame = frame.clone();
            let word = at & !1;
            let old = u16::from_be_bytes([frame[word], frame[word + 1]]);
            frame[at] = to;
            let new = u16::from_be_bytes([frame[word], frame[word + 1]]);
            if (14..34).contains(&at) {
                let sum =
                    u32::from(!u16::from_be_bytes([frame[24], frame[25]])) + u32::from(!old) + u32::from(new);
                let sum = (sum & 0xffff) + (sum >> 16);
                let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            frame
        };
        assert_eq!(bench.run(&changed(18, 0x99), 0).0, XDP_REDIRECT, "another identification");
        assert_eq!(bench.run(&changed(20, 0), 0).0, XDP_REDIRECT, "may be fragmented");
        let mut damaged = frame.clone();
        damaged[25] ^= 1;
        for (why, frame) in [
            ("another MAC", changed(0, 0)),
            ("another MAC", changed(5, 0)),
            ("IPv6", changed(14, 0x65)),
            ("options", changed(14, 0x46)),
            ("a first fragment", changed(20, 0x60)),
            ("a later fragment", changed(21, 1)),
            ("TTL", changed(22, 3)),
            ("ICMP", changed(23, 1)),
            ("TCP", changed(23, 6)),
            ("another source", changed(29, 2)),
            ("another port", changed(35, 0)),
            ("longer than the frame", changed(17, 47)),
            ("too short for UDP", changed(39, 7)),
            ("UDP longer than IP", changed(39, 27)),
            ("a wrong header checksum", damaged),
            ("longer than the egress takes", {
                let mut long = changed(17, 47);
                long.push(0);
                long
            }),
            ("cut off", frame[..59].to_vec()),
        ] {
            assert_eq!(bench.run(&frame, 0), (XDP_PASS, frame), "{why}");
        }
        assert_eq!(bench.run(&changed(22, 4), 0).0, XDP_REDIRECT, "just enough hops");
        let interface = Interface {
            number: NUMBER,
            first_socket: steer::first_socket(NUMBER),
            flags: 0,
            mac: MAC,
            reserved: [0; 2],
        };
        bench.steering.set_interface(bench.ingress, interface).unwrap();
        assert_eq!(bench.run(&frame, 0), (XDP_PASS, frame.clone()), "switched off");
    });
}

#[test]
fn addresses_ports_and_checksums_are_rewritten_byte_for_byte() {
    in_namespace(|| {
        let mut bench = Bench::new(1, 1000);
        let edited = Action {
            edits: forward(1).edits | edits::SOURCE | edits::SOURCE_PORT | edits::DSCP,
            source: mapped([203, 0, 113, 8]),
            source_port: [0x40, 0x00],
            // From 10.0.0.1:1000 (RFC 1624, equation 3).
            l3_delta: delta(&[(0x0a00, 0xcb00), (0x0001, 0x7108)]),
            l4_delta: delta(&[(0x0a00, 0xcb00), (0x0001, 0x7108), (0x03e8, 0x4000)]),
            dscp: 46,
            ..forward(1)
        };
        bench.install(edited, |_| ());
        let with = |checksum: u16| {
            let mut frame = frame();
            frame[40..42].copy_from_slice(&checksum.to_be_bytes());
            frame
        };
        let checksum_of = |out: &[u8]| u16::from_be_bytes([out[40], out[41]]);
        let (action, out) = bench.run(&with(0x1234), 0);
        assert_eq!(action, XDP_REDIRECT);
        assert_eq!(out[14..16], [0x45, 46 << 2 | 1], "ECN stays");
        assert_eq!(out[26..38], [203, 0, 113, 8, 192, 0, 2, 1, 0x40, 0, 0, 53]);
        let words = out[14..34].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        assert_eq!(fold(words.sum()), 0xffff, "the header's checksum is right");
        assert_eq!(checksum_of(&out), !fold(u32::from(!0x1234u16) + u32::from(edited.l4_delta)));
        assert_eq!(out[42..], frame()[42..]);
        // None stays none; and one that becomes zero would be none (RFC 768).
        assert_eq!(checksum_of(&bench.run(&with(0), 0).1), 0);
        assert_eq!(checksum_of(&bench.run(&with(edited.l4_delta), 0).1), 0xffff);
    });
}

#[test]
fn tags_and_outer_headers_are_put_on_and_taken_off_byte_for_byte() {
    in_namespace(|| {
        let mut bench = Bench::new(1, 1000);
        let ours = VlanKey { ifindex: bench.ingress, outer: 7, inner: 0 };
        let vlan = Vlan { number: NUMBER, mac: MAC, reserved: [0; 2] };
        bench.steering.set_vlan(ours, vlan).unwrap();
        let tagged = |control: [u8; 2]| {
            let mut frame = frame();
            frame.splice(12..12, [0x81, 0, control[0], control[1]]);
            frame
        };
        let macs = [2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 4];
        // What the packet is afterwards: TTL 63, its checksum right.
        let mut packet = frame()[14..].to_vec();
        packet[8] = 63;
        packet[10..12].copy_from_slice(&[0; 2]);
        let sum = checksum(&packet[..20]);
        packet[10..12].copy_from_slice(&sum);

        // IP in IP: 66 bytes, DF as the packet has it, its DSCP and ECN (RFC 2003, RFC 6040).
        let ipip = Tunnel {
            kind: kind::IP,
            family: 4,
            hop_limit: 64,
            source: mapped([192, 0, 2, 9]),
            destination: mapped([198, 51, 100, 5]),
            ..Tunnel::none()
        };
        let mut outer = vec![0x45, 0xb9, 0, 66, 0, 0, 0x40, 0, 64, 4, 0, 0, 192, 0, 2, 9, 198, 51, 100, 5];
        let sum = checksum(&outer);
        outer[10..12].copy_from_slice(&sum);
        let put = |edit: u16, outer_tag: u16, inner_tag: u16, tunnel: Tunnel| {
            let action = Action { edits: forward(1).edits | edit, outer_tag, inner_tag, ..forward(1) };
            Rewrite { action, tunnel }
        };
        let none = Tunnel::none();
        let qinq = edits::TAGS | edits::SERVICE_TAG;
        for (what, vlan, frame, rewrite, front) in [
            ("IP in IP", 0, frame(), put(edits::ENCAPSULATE, 0, 0, ipip), [&[8, 0][..], &outer].concat()),
            ("a tag", 0, frame(), put(edits::TAGS, 9, 0, none), vec![0x81, 0, 0, 9, 8, 0]),
            ("two tags", 0, frame(), put(qinq, 9, 10, none), vec![0x88, 0xa8, 0, 9, 0x81, 0, 0, 10, 8, 0]),
            ("no tag", 7, tagged([0xb0, 7]), put(edits::TAGS, 0, 0, none), vec![8, 0]),
            ("another tag", 7, tagged([0xb0, 7]), put(edits::TAGS, 9, 0, none), vec![0x81, 0, 0xb0, 9, 8, 0]),
            ("the same tag", 7, tagged([0xb0, 7]), put(0, 0, 0, none), vec![0x81, 0, 0xb0, 7, 8, 0]),
            ("a tunnel for a tag", 7, tagged([0, 7]), put(edits::TAGS | edits::ENCAPSULATE, 0, 0, ipip), {
                [&[8, 0][..], &outer].concat()
            }),
        ] {
            let key = FlowKey { outer_vlan: vlan, ..key() };
            let flow = FastFlow { limit: 46, ..flow(&key, &rewrite) };
            let place = bench.flows[0].install(&flow, now()).unwrap();
            let (action, out) = bench.run(&frame, 0);
            assert_eq!((action, out), (XDP_REDIRECT, [&macs[..], &front, &packet].concat()), "{what}");
            assert_eq!(bench.flows[0].read(place).packets, 1, "{what}");
            assert_eq!(bench.run(&tagged([0, 8]), 0).0, XDP_PASS, "a VLAN that is not ours");
            let mut elsewhere = frame.clone();
            elsewhere[5] ^= 1;
            assert_eq!(bench.run(&elsewhere, 0), (XDP_PASS, elsewhere), "another MAC");
            bench.flows[0].remove(place, now());
        }
        assert_eq!(bench.counted(Reason::FastPath), 7);
    });
}

fn checksum(header: &[u8]) -> [u8; 2] {
    let words = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    (!fold(words.sum())).to_be_bytes()
}

fn delta(changes: &[(u16, u16)]) -> u16 {
    fold(changes.iter().map(|(old, new)| u32::from(!*old) + u32::from(*new)).sum())
}
