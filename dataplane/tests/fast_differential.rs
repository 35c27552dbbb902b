//! The XDP program against the workers: the same frames through the flow cache and through the object in the kernel
//! (BPF_PROG_TEST_RUN), with the same flows. The same bytes come out, of the same packets, by the same way, and the same is
//! counted: over every action that the functions record, over actions that nobody would record, and over frames of any bytes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test")]

mod common;

use std::cell::{Cell, RefCell};

use common::namespace::{in_namespace, ip};
use common::{Bench, HOST_LAN, HOST_WAN, LAN, WAN, facts};
use crossbeam::channel::bounded;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use throughway::worker::inspect::{FlowFilter, Inspection};
use throughway::worker::offload::Stays;
use throughway_flow::cacheable;
use throughway_flow::entry::Flow;
use throughway_packet::build::PacketBuilder;
use throughway_packet::{Action, Frame, PortId, edits, execute, parse};
use throughway_shared::action::Rewrite;
use throughway_shared::fast::QUARANTINE;
use throughway_shared::flow::{FlowKey, mapped};
use throughway_shared::steer::{self, FAST, Interface, Vlan, VlanKey};
use throughway_shared::tunnel::{Tunnel, kind};
use throughway_xdp::{Back, FastConfig, FastFlow, FastFlows, FastPlace, OBJECT, Steering};

const XDP_DROP: u32 = 1;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

/// The devices of the ports: frames come in at the first; the last has no device that can be sent to.
const DEVICES: [&str; 2] = ["lan0", "wan0"];
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0];
/// The VLANs of the devices that are ours.
const VLANS: [(u16, u16); 2] = [(7, 0), (7, 8)];

/// The program in a namespace of its own.
struct Kernel {
    steering: Steering,
    table: FastFlows,
    devices: [u32; 2],
    /// A time for the table, which nothing runs beside: it goes on when places are to be used again.
    now: u64,
}

impl Kernel {
    fn new() -> Kernel {
        let devices = DEVICES.map(|device| {
            ip(&format!("link add {device} type veth peer name {device}p"));
            ip(&format!("link set dev {device} up"));
            ip(&format!("link set dev {device}p up"));
            let shown = ip(&format!("-o link show dev {device}"));
            shown.split(':').next().unwrap().parse().unwrap()
        });
        let object = std::env::var_os("THROUGHWAY_BPF_OBJECT").map(|path| std::fs::read(path).unwrap());
        let object = object.as_deref().unwrap_or(OBJECT);
        let config = FastConfig { workers: 1, flows: 4096 };
        let mut steering = Steering::load_object(object, Some(config)).unwrap();
        for (number, ifindex) in (0u16..).zip(devices) {
            let first_socket = steer::first_socket(number.into());
            let mac = [2, 0, 0, 0, 0, number as u8];
            let interface =
                Interface { number: number.into(), first_socket, flags: FAST, mac, reserved: [0; 2] };
            steering.set_interface(ifindex, interface).unwrap();
            steering.set_egress(number, ifindex, Back::Transmit).unwrap();
            for (outer, inner) in VLANS {
                let key = VlanKey { ifindex, outer, inner };
                let vlan = Vlan { number: number.into(), mac, reserved: [0; 2] };
                steering.set_vlan(key, vlan).unwrap();
            }
        }
        steering.alive_until(u64::MAX);
        let table = steering.take_fast_flows(0).unwrap();
        Kernel { steering, table, devices, now: 0 }
    }

    /// What the program does to a frame that comes in on a port.
    fn run(&self, port: PortId, frame: &[u8]) -> (u32, Vec<u8>) {
        let trial = self.steering.try_frame(self.devices[port.index()], 0, frame).unwrap();
        (trial.action, trial.frame)
    }

    fn install(&mut self, key: &FlowKey, rewrite: &Rewrite, limit: u16) -> FastPlace {
        let dependencies = [0; 4];
        let silence = u64::MAX;
        let flow = FastFlow { key, rewrite, generation: 0, dependencies, limit, silence, token: 0 };
        self.table.install(&flow, self.now).unwrap()
    }

    fn remove(&mut self, places: Vec<FastPlace>) {
        for place in places {
            self.table.remove(place, self.now);
        }
        self.now += QUARANTINE;
    }

    /// Packets and bytes of some flows.
    fn counted(&self, places: &[FastPlace]) -> (u64, u64) {
        let counts = places.iter().map(|place| self.table.read(*place));
        counts.fold((0, 0), |(packets, bytes), count| (packets + count.packets, bytes + count.bytes))
    }
}

/// Runs `test` with the program in a namespace of its own; says so when it cannot.
fn with_kernel(test: impl FnOnce(Kernel) + Send + 'static) {
    in_namespace(|| test(Kernel::new()));
}

/// A packet of one of a few flows, and what is special about it.
#[derive(Clone, Debug)]
struct Sent {
    ipv4: bool,
    tcp: bool,
    flags: u8,
    hop_limit: u8,
    class: u8,
    payload: Vec<u8>,
    checksum: bool,
    padded: usize,
    /// Bytes that are changed afterwards.
    damage: Vec<(u16, u8)>,
    cut: Option<u16>,
    /// VLANs, and the priorities of their tags.
    vlans: (u16, u16),
    priorities: [u8; 2],
}

impl Sent {
    fn plain() -> Sent {
        Sent {
            ipv4: true,
            tcp: true,
            flags: 0x10,
            hop_limit: 64,
            class: 0,
            payload: Vec::new(),
            checksum: true,
            padded: 0,
            damage: Vec::new(),
            cut: None,
            vlans: (0, 0),
            priorities: [0; 2],
        }
    }

    fn builder(&self) -> PacketBuilder {
        let builder = if self.ipv4 {
            PacketBuilder::ipv4([10, 1, 0, 10], [10, 2, 0, 10])
        } else {
            PacketBuilder::ipv6([0xfd00, 1, 0, 0, 0, 0, 0, 10], [0xfd00, 2, 0, 0, 0, 0, 0, 10])
        };
        let mut builder = builder.ethernet(MAC, HOST_LAN).hop_limit(self.hop_limit).traffic_class(self.class);
        let ([outer, inner], (first, second)) =
            (self.priorities.map(|bits| u16::from(bits) << 8 & 0xf000), self.vlans);
        if first != 0 {
            builder = builder.tag(if self.class & 1 == 0 { 0x8100 } else { 0x88a8 }, outer | first);
        }
        if second != 0 {
            builder = builder.tag(0x8100, inner | second);
        }
        match (self.tcp, self.checksum) {
            (true, _) => builder.tcp(1000, 53, self.flags),
            (false, true) => builder.udp(1000, 53),
            (false, false) => builder.udp_without_checksum(1000, 53),
        }
    }

    fn frame(&self) -> Vec<u8> {
        let mut frame = self.builder().payload(&self.payload).padded(self.padded).finish();
        for (at, to) in &self.damage {
            let at = usize::from(*at) % frame.len();
            frame[at] = *to;
        }
        if let Some(cut) = self.cut {
            // Test runs take no frame without a whole Ethernet header.
            frame.truncate(usize::from(cut).max(14));
        }
        frame
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    let flags = prop_oneof![6 => Just(0x10u8), 2 => Just(0x18), 1 => any::<u8>()];
    let hop_limit = prop_oneof![4 => Just(64u8), 2 => 0..6u8, 1 => any::<u8>()];
    let shape = (any::<bool>(), any::<bool>(), flags, hop_limit, any::<u8>());
    let payload = prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 0..80);
    let damage =
        prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec((0u16..80, any::<u8>()), 1..4)];
    let cut = prop_oneof![8 => Just(None), 1 => (14u16..90).prop_map(Some)];
    let frame = (prop::bool::weighted(0.8), prop_oneof![Just(0usize), Just(60), Just(120)], any::<[u8; 2]>());
    (shape, payload, frame, damage, cut).prop_map(
        |((ipv4, tcp, flags, hop_limit, class), payload, (checksum, padded, priorities), damage, cut)| Sent {
            ipv4,
            tcp,
            flags,
            hop_limit,
            class,
            payload,
            checksum,
            padded,
            damage,
            cut,
            vlans: (0, 0),
            priorities,
        },
    )
}

/// No VLAN mostly, one of ours, or another one.
fn vlans() -> impl Strategy<Value = (u16, u16)> {
    prop_oneof![8 => Just((0u16, 0u16)), 6 => Just((7, 0)), 6 => Just((7, 8)), 1 => Just((9, 0)), 1 => Just((7, 9))]
}

/// Any tunnel that the program knows, meaningful or not.
fn tunnels() -> impl Strategy<Value = Tunnel> {
    let bytes = (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<[u8; 4]>());
    (any::<[bool; 2]>(), any::<u8>(), 0..64u8, 0..8u8, bytes).prop_map(
        |([gue, ipv4], hop_limit, dscp, flags, (source, destination, ports))| Tunnel {
            kind: if gue { kind::GUE } else { kind::IP },
            family: if ipv4 { 4 } else { 6 },
            hop_limit,
            dscp,
            flags,
            source,
            destination,
            source_port: [ports[0], ports[1]],
            destination_port: [ports[2], ports[3]],
            ..Tunnel::none()
        },
    )
}

/// Any action that takes no packet out of a tunnel, meaningful or not.
fn actions() -> impl Strategy<Value = Action> {
    const NEVER: u16 = edits::DECAPSULATE | edits::TOO_DEEP | edits::DROP | 0xc000;
    let edits = prop_oneof![
        4 => any::<u16>().prop_map(|bits| bits & !(NEVER | edits::FRONT | edits::SERVICE_TAG) | edits::EGRESS),
        8 => any::<u16>().prop_map(|bits| bits & !NEVER | edits::EGRESS),
        1 => Just(edits::DROP),
    ];
    let numbers = (
        0..4u16,
        prop_oneof![Just(0u16), Just(0xffff), any::<u16>()],
        prop_oneof![Just(0u16), Just(0xffff), any::<u16>()],
    );
    let small = (0..5u8, 0..64u8);
    let tag = || prop_oneof![2 => Just(0u16), 2 => 1..4095u16, 1 => any::<u16>()];
    let bytes = (any::<[u8; 4]>(), any::<[u8; 12]>(), any::<[u8; 32]>());
    (edits, numbers, small, bytes, tag(), tag()).prop_map(
        |(
            edits,
            (egress, l3_delta, l4_delta),
            (hops, dscp),
            (ports, macs, addresses),
            outer_tag,
            inner_tag,
        )| Action {
            edits,
            egress,
            l3_delta,
            l4_delta,
            hops,
            dscp,
            source_port: [ports[0], ports[1]],
            destination_port: [ports[2], ports[3]],
            ethernet_destination: *macs.first_chunk().unwrap(),
            ethernet_source: *macs.last_chunk().unwrap(),
            source: *addresses.first_chunk().unwrap(),
            destination: *addresses.last_chunk().unwrap(),
            outer_tag,
            inner_tag,
            ..Action::nothing()
        },
    )
}

/// A frame in plain memory with room before it.
struct Plain(Vec<u8>, usize);

impl Frame for Plain {
    fn bytes(&self) -> &[u8] {
        &self.0[self.1..]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0[self.1..]
    }

    fn move_start(&mut self, by: isize) -> bool {
        let start = self.1.checked_add_signed(by).filter(|start| *start <= self.0.len());
        self.1 = start.unwrap_or(self.1);
        start.is_some()
    }

    fn set_len(&mut self, len: usize) -> bool {
        let whole = self.0.len() >= self.1 + len;
        self.0.truncate(self.1 + len);
        whole
    }
}

/// A flow that both know.
struct Known {
    key: FlowKey,
    rewrite: Rewrite,
    limit: u16,
}

/// What the worker makes of a frame: how it leaves the program, and the length of its packet; `None` when its chain is to be
/// walked. This is the slow way; that the cache does the same is shown in `vnf/flow` and in `differential.rs`.
fn executed(flows: &[Known], frame: &[u8]) -> Option<(u32, Vec<u8>, u64)> {
    // What is not for the interface does not come as far as to a worker.
    if !frame.starts_with(&MAC) {
        return None;
    }
    let headers = parse(frame, LAN).ok().filter(cacheable)?;
    // Frames of VLANs that are not ours do not come so far either.
    let vlan = (headers.key.outer_vlan, headers.key.inner_vlan);
    if headers.l3 > 14 && !VLANS.contains(&vlan) {
        return None;
    }
    let Known { rewrite, limit, .. } = flows.iter().find(|flow| flow.key == headers.key)?;
    let (action, len) = (&rewrite.action, headers.packet_len());
    if len > *limit || headers.hop_limit <= action.hops {
        return None;
    }
    if action.has(edits::DROP) {
        return Some((XDP_DROP, frame.to_vec(), len.into()));
    }
    let way = match action.egress {
        0 => XDP_TX,
        1 => XDP_REDIRECT,
        // No device for the port: it stays the worker's.
        _ => return None,
    };
    let mut frame = Plain([&[0; 128], frame].concat(), 128);
    execute(rewrite, &headers, &mut frame).unwrap();
    Some((way, frame.bytes().to_vec(), len.into()))
}

#[test]
fn the_program_executes_any_action_as_the_worker_does() {
    with_kernel(|kernel| {
        let flows = prop::collection::vec((actions(), tunnels(), 20u16..130), 4);
        let case = (flows, vlans(), prop::collection::vec((sent(), prop::bool::weighted(0.9)), 1..60));
        let cases = repeated(1000) as u32;
        let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(cases) });
        let (count, longer, shorter) = (Cell::new(0), Cell::new(0), Cell::new(0));
        let kernel = RefCell::new(kernel);
        let result = runner.run(&case, |(flows, vlans, packets)| {
            let mut kernel = kernel.borrow_mut();
            let known: Vec<_> = (0u8..)
                .zip(flows)
                .map(|(number, (mut action, tunnel, limit))| {
                    let ipv4 = number & 1 == 0;
                    let builder = Sent { ipv4, tcp: number & 2 == 0, vlans, ..Sent::plain() };
                    let key = parse(&builder.frame(), LAN).unwrap().key;
                    if ipv4 {
                        // The source port of GUE comes from addresses as keys have them.
                        let last = |address: [u8; 16]| mapped(*address.last_chunk().unwrap());
                        (action.source, action.destination) = (last(action.source), last(action.destination));
                    }
                    let limit = if action.has(edits::DROP) { u16::MAX } else { limit };
                    let tunnel = if action.has(edits::ENCAPSULATE) { tunnel } else { Tunnel::none() };
                    Known { key, rewrite: Rewrite { action, tunnel }, limit }
                })
                .collect();
            let places: Vec<_> =
                known.iter().map(|flow| kernel.install(&flow.key, &flow.rewrite, flow.limit)).collect();
            for (packet, tagged) in packets {
                let packet = &Sent { vlans: if tagged { vlans } else { (0, 0) }, ..packet };
                let frame = packet.frame();
                let before = kernel.counted(&places);
                let (action, out) = kernel.run(LAN, &frame);
                let after = kernel.counted(&places);
                match executed(&known, &frame) {
                    Some((way, bytes, len)) => {
                        prop_assert_eq!(&out, &bytes, "bytes of {:?}", packet);
                        prop_assert_eq!(action, way);
                        prop_assert_eq!((after.0 - before.0, after.1 - before.1), (1, len));
                        count.set(count.get() + 1);
                        longer.set(longer.get() + u32::from(out.len() > frame.len()));
                        shorter.set(shorter.get() + u32::from(out.len() < frame.len()));
                    }
                    None => {
                        prop_assert_eq!(&out, &frame, "was touched: {:?}", packet);
                        prop_assert!(action != XDP_TX && action != XDP_REDIRECT, "{:?}", packet);
                        prop_assert_eq!(before, after);
                    }
                }
            }
            kernel.remove(places);
            Ok(())
        });
        result.unwrap();
        let counts = [count.get(), longer.get(), shorter.get()];
        // Far less than is to be expected.
        let least = [2500, 600, 10].map(|least| least * cases.min(1000) / 1000);
        assert!(
            counts.iter().zip(least).all(|(count, least)| *count >= least),
            "executed, longer, shorter: {counts:?}"
        );
    });
}

/// So many cases, or as many times that as `THROUGHWAY_FUZZ` says: a number such as 10, or 0.05 where every one takes long.
fn repeated(cases: usize) -> usize {
    let times = std::env::var("THROUGHWAY_FUZZ").ok().and_then(|times| times.parse::<f64>().ok());
    times.map_or(cases, |times| ((cases as f64 * times) as usize).max(1))
}

const CHAINS: [&str; 3] = [
    "
functions:
  wall:
    firewall:
      default: drop
      rules:
        - drop: { protocol: udp, to-port: 4 }
        - allow: { from: lan }
        - allow: { protocol: tcp }
  outer:
    nat:
      outside: wan
      source:
        - { match: { source: 10.1.0.0/24 }, pool: 203.0.113.8 }
        - { match: { source: \"fd00:1::/64\" }, to: \"2001:db8:9::/64\" }
  classes: { marker: { rules: [ { protocol: udp, dscp: ef }, { protocol: tcp, dscp: cs1 } ] } }
  core: { router: { routes: [ { prefix: 10.2.0.11/32, blackhole: true } ] } }
chains:
  outbound: { from: lan, run: [wall, outer, classes, core] }
  inbound: { from: [wan, dmz], run: [outer, wall, core] }
",
    "
functions:
  front:
    load-balancer:
      services:
        - { name: all, vip: [10.2.1.10, 10.2.2.11], backends: [ { address: 10.2.0.10 }, { address: 10.2.0.11 } ] }
        - { vip: 10.2.3.10, port: 1, protocol: udp, source-nat: 10.2.3.1-10.2.3.2, backends: [ { address: 10.2.0.10, port: 7 } ] }
        - { vip: \"fd00:2:1::10\", port: 1-3, protocol: [tcp, udp], forward: dsr, backends: [ { address: \"fd00:2::10\" } ] }
  core: { router: {} }
chains:
  outbound: { from: lan, run: [front, core] }
  inbound: { from: [wan, dmz], run: [front, core] }
",
    "
functions:
  first: { marker: { rules: [ { dscp: af11 } ] } }
  core: { router: { routes: [ { prefix: 10.2.0.0/16, via: 10.1.0.10 }, { prefix: \"fd00:2::/32\", via: \"fd00:2::10\" } ] } }
chains:
  outbound: { from: lan, run: [first, core] }
  inbound: { from: wan, run: [core] }
",
];

/// One of many flows, from the lan or back.
fn packet(port: PortId, flow: u16, tcp: Option<u8>) -> PacketBuilder {
    let (net, host) = (flow >> 1 & 3, 10 + (flow >> 3 & 1));
    let (inside, outside) = ([1, 0, 10], [2, net, host]);
    let (from, to) = if port == LAN { (inside, outside) } else { (outside, inside) };
    let builder = if flow & 1 == 0 {
        let address = |[a, b, c]: [u16; 3]| [10, a as u8, b as u8, c as u8];
        PacketBuilder::ipv4(address(from), address(to))
    } else {
        // The hosts are called ::10 and ::11.
        let address = |[a, b, c]: [u16; 3]| [0xfd00, a, b, 0, 0, 0, 0, c + 6];
        PacketBuilder::ipv6(address(from), address(to))
    };
    let (mine, theirs) = (1000 + flow, flow % 5);
    let (source, destination) = if port == LAN { (mine, theirs) } else { (theirs, mine) };
    let mac = [2, 0, 0, 0, 0, port.0 as u8];
    let builder = builder.ethernet(mac, if port == LAN { HOST_LAN } else { HOST_WAN });
    match tcp {
        Some(flags) => builder.tcp(source, destination, flags),
        None => builder.udp(source, destination),
    }
}

fn flows(bench: &Bench) -> Vec<Flow> {
    let (answer, answered) = bounded(1);
    let mut inspection = Some(Inspection::new(FlowFilter::default(), 1000, answer));
    while let Some(rest) = inspection {
        inspection = bench.worker.inspect(rest, bench.now);
    }
    let found = answered.recv().unwrap().into_iter();
    // What is judged packet by packet is nobody else's.
    found.filter(|found| found.stays != Some(Stays::Each)).map(|found| found.flow).collect()
}

#[test]
fn the_program_does_what_the_worker_does_to_what_the_functions_record() {
    with_kernel(|mut kernel| {
        for chains in CHAINS {
            let interfaces =
                "interfaces: { lan: { device: lan0 }, wan: { device: wan0 }, dmz: { device: dmz0 } }";
            let mut bench =
                Bench::new(&format!("{interfaces}\nworkers: {{ flows: 4096 }}{chains}"), &facts());
            let kinds = [None, Some(0x10), Some(0x18)];
            let packets: Vec<_> = [LAN, WAN]
                .into_iter()
                .flat_map(|port| (0..80).map(move |flow| (port, flow)))
                .flat_map(|(port, flow)| kinds.map(|kind| (port, packet(port, flow, kind))))
                .collect();
            for (port, packet) in &packets {
                // Connections are opened before they carry anything.
                bench.receive(*port, &packet.finish());
            }
            for flow in 0..80 {
                bench.receive(LAN, &packet(LAN, flow, Some(0x02)).finish());
            }
            for (port, packet) in &packets {
                bench.receive(*port, &packet.finish());
            }
            // What came out is answered, too: with the addresses and ports that it left with.
            let mut frames: Vec<_> = packets.iter().map(|(port, packet)| (*port, packet.finish())).collect();
            for port in [LAN, WAN] {
                for mut frame in bench.sent(port) {
                    let other = if frame[12] == 8 { (26, 4, 34) } else { (22, 16, 54) };
                    let (at, len, ports) = other;
                    frame.copy_within(0..6, 6);
                    frame[..6].copy_from_slice(&[2, 0, 0, 0, 0, port.0 as u8]);
                    frame[at..at + 2 * len].rotate_left(len);
                    frame[ports..ports + 4].rotate_left(2);
                    frames.push((port, frame));
                }
            }
            for _ in 0..2 {
                for (port, frame) in &frames {
                    bench.receive(*port, frame);
                }
            }
            let recorded = flows(&bench);
            let places: Vec<_> = recorded
                .iter()
                .map(|flow| {
                    let limit = if flow.action.has(edits::DROP) { u16::MAX } else { 1500 };
                    kernel.install(&flow.key, &Rewrite::from(flow.action), limit)
                })
                .collect();
            let mut counts = [0; 3];
            for (port, frame) in &frames {
                let hits = |bench: &Bench| {
                    bench.worker.publish_flows();
                    bench.stats.flows.values[0].get()
                };
                let (before, executed) = (hits(&bench), kernel.counted(&places).0);
                for port in [LAN, WAN] {
                    bench.sent(port);
                }
                bench.receive(*port, frame);
                let hit = hits(&bench) > before;
                let (action, out) = kernel.run(*port, frame);
                assert_eq!(kernel.counted(&places).0 > executed, hit, "{port:?} {frame:x?}");
                if !hit {
                    assert_eq!(out, *frame);
                    counts[2] += 1;
                    continue;
                }
                let other = if *port == LAN { WAN } else { LAN };
                match action {
                    // An error that was due may have been sent as well.
                    XDP_TX => assert!(bench.sent(*port).contains(&out), "{port:?} {frame:x?} {out:x?}"),
                    XDP_REDIRECT => assert!(bench.sent(other).contains(&out), "{port:?} {frame:x?} {out:x?}"),
                    XDP_DROP => assert_eq!(out, *frame),
                    other => panic!("{other}"),
                }
                counts[usize::from(action == XDP_DROP)] += 1;
            }
            let total: u64 = recorded.iter().map(|flow| flow.packets).sum();
            assert!(total > 0 && counts[0] > 30, "{counts:?} {chains}");
            kernel.remove(places);
        }
    });
}

/// Frames of any bytes, many of them nearly right: nothing is executed that the cache would not take.
#[test]
fn arbitrary_frames_do_no_harm() {
    with_kernel(|mut kernel| {
        let plain = packet(LAN, 0, None).payload(&[7; 30]);
        let six = packet(LAN, 1, Some(0x10)).payload(&[7; 30]);
        let tagged = packet(LAN, 0, None).vlan(7).payload(&[7; 30]);
        let known =
            [(&plain, 0), (&six, edits::TAGS), (&tagged, edits::ENCAPSULATE)].map(|(packet, more)| {
                let key = parse(&packet.finish(), LAN).unwrap().key;
                let edits = edits::EGRESS | more;
                let action = Action { edits, egress: 1, hops: 1, outer_tag: 9, ..Action::nothing() };
                let tunnel = Tunnel { kind: kind::GUE, family: 6, hop_limit: 64, ..Tunnel::none() };
                let tunnel = if more == edits::ENCAPSULATE { tunnel } else { Tunnel::none() };
                Known { key, rewrite: Rewrite { action, tunnel }, limit: 1500 }
            });
        let places: Vec<_> =
            known.iter().map(|flow| kernel.install(&flow.key, &flow.rewrite, flow.limit)).collect();
        let frames = [plain, six, tagged].map(|packet| packet.finish());
        let mut state = 88_172_645_463_325_252u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        let mut executed = 0;
        let frames_sent = repeated(300_000);
        for number in 0..frames_sent {
            let mut frame = frames[number % 3].clone();
            match number % 5 {
                0 => frame.iter_mut().skip(12).for_each(|byte| *byte = random() as u8),
                1 => frame.truncate(14 + random() % 80),
                _ => {
                    for _ in 0..1 + random() % 3 {
                        let at = random() % frame.len();
                        frame[at] = random() as u8;
                    }
                }
            }
            let (action, out) = kernel.run(LAN, &frame);
            match self::executed(&known, &frame) {
                Some((way, bytes, _)) => {
                    assert_eq!((action, out), (way, bytes), "{frame:x?}");
                    executed += 1;
                }
                None => assert!(action != XDP_REDIRECT && out == frame, "{frame:x?}"),
            }
        }
        assert_eq!(kernel.counted(&places).0, executed);
        assert!(executed > 10_000 * frames_sent.min(300_000) as u64 / 300_000, "{executed}");
    });
}
