//! What a worker hands over is done by the XDP program as the worker would have done it: here the worker itself writes into the
//! memory that it shares with the object in the kernel, of chains that put packets into tunnels and into VLANs and take them out.
//! Every frame goes both ways, and the same bytes come out.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test")]

mod common;

use std::sync::Arc;

use common::namespace::{in_namespace, ip};
use common::{Bench, facts_of};
use crossbeam::channel::bounded;
use throughway::worker::PortSettings;
use throughway::worker::inspect::{FlowFilter, Found, Inspection};
use throughway::worker::offload::{Egress, Offload};
use throughway_config::{Config, FastPath};
use throughway_flow::Generations;
use throughway_packet::PortId;
use throughway_packet::build::PacketBuilder;
use throughway_shared::steer::{self, FAST, Interface, Reason, Vlan, VlanKey};
use throughway_xdp::{Back, FastConfig, OBJECT, Steering};

const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;

/// Balancers whose backends are behind tunnels of both families, for services of both; and every way between tagged and
/// untagged interfaces.
const CONFIG: &str = "
interfaces:
  lan: { device: lan0 }
  wan: { device: wan0 }
  voice: { device: lan0, vlan: 7 }
  trunk: { device: wan0, vlan: [8, 9], vlan-protocol: 802.1ad }
functions:
  front:
    load-balancer:
      services:
        - { name: a, vip: 10.20.0.1, forward: ipip, backends: [ { address: 10.1.0.10 } ] }
        - { name: b, vip: 10.20.0.2, forward: ipip, backends: [ { address: \"fd00:3::10\" } ] }
        - { name: c, vip: \"fd00:20::1\", forward: ipip, backends: [ { address: 10.2.0.10 } ] }
        - { name: d, vip: \"fd00:20::2\", forward: ipip, backends: [ { address: \"fd00:0::10\" } ] }
  classes: { marker: { rules: [ { protocol: udp, dscp: ef } ] } }
  core: { router: {} }
chains: { all: { from: [lan, wan, voice, trunk], run: [front, classes, core] } }
";

/// Device, tags of what comes in there, of each interface.
const INTERFACES: [(u16, &[(u16, u16)]); 4] =
    [(0, &[]), (1, &[]), (0, &[(0x8100, 7)]), (1, &[(0x88a8, 8), (0x8100, 9)])];
/// A payload with which UDP over IPv6 fills a device's MTU.
const LONGEST: usize = 1452;
/// Services, of each family.
const SERVICES: usize = 2;

/// What interface *n* is reached by, and its neighbour 10.*n*.0.10.
const fn macs(interface: usize) -> ([u8; 6], [u8; 6]) {
    ([2, 0, 0, 0, 0, interface as u8], [2, 0, 0, 0, 1, interface as u8])
}

/// The object in a namespace of its own, and a worker that hands over to it.
struct Both {
    steering: Steering,
    devices: [u32; 2],
    bench: Bench,
}

impl Both {
    fn new() -> Both {
        let devices = ["lan0", "wan0"].map(|device| {
            ip(&format!("link add {device} type veth peer name {device}p"));
            ip(&format!("link set dev {device} up"));
            ip(&format!("link set dev {device}p up"));
            let shown = ip(&format!("-o link show dev {device}"));
            shown.split(':').next().unwrap().parse().unwrap()
        });
        let object = std::env::var_os("THROUGHWAY_BPF_OBJECT").map(|path| std::fs::read(path).unwrap());
        let object = object.as_deref().unwrap_or(OBJECT);
        let mut steering =
            Steering::load_object(object, Some(FastConfig { workers: 1, flows: 4096 })).unwrap();
        let egress = Arc::new(Egress::default());
        for (number, (device, tags)) in (0u16..).zip(INTERFACES) {
            let (ifindex, mac) = (devices[usize::from(device)], macs(number.into()).0);
            let number32 = u32::from(number);
            match tags {
                [] => {
                    let first_socket = steer::first_socket(device.into());
                    let interface =
                        Interface { number: number32, first_socket, flags: FAST, mac, reserved: [0; 2] };
                    steering.set_interface(ifindex, interface).unwrap();
                }
                [(_, outer), inner @ ..] => {
                    let inner = inner.first().map_or(0, |(_, id)| *id);
                    let key = VlanKey { ifindex, outer: *outer, inner };
                    steering.set_vlan(key, Vlan { number: number32, mac, reserved: [0; 2] }).unwrap();
                }
            }
            steering.set_egress(number, ifindex, Back::Transmit).unwrap();
            egress.set(number, true);
        }
        steering.alive_until(u64::MAX);
        let (config, _) = Config::parse("test.yaml", CONFIG).unwrap();
        let generations = Generations::over(steering.fast_generations().unwrap()).unwrap();
        let mut bench = Bench::made(
            CONFIG,
            &facts_of(&config, |number| macs(number).1),
            PortSettings::of(&config),
            generations,
        );
        // The program looks at the machine's clock.
        bench.now = throughway::clock::now();
        let table = steering.take_fast_flows(0).unwrap();
        bench.worker.offload(Offload::new(table, vec![FastPath::Eager; INTERFACES.len()], egress));
        Both { steering, devices, bench }
    }

    fn executed(&self) -> u64 {
        let counters = self.steering.counters().unwrap();
        counters.iter().map(|counters| counters.get(Reason::FastPath)).sum()
    }

    fn hits(&self) -> u64 {
        self.bench.worker.publish_flows();
        self.bench.stats.flows.values[0].get()
    }

    fn flows(&self) -> Vec<Found> {
        let (answer, answered) = bounded(1);
        let mut inspection = Some(Inspection::new(FlowFilter::default(), 1000, answer));
        while let Some(rest) = inspection {
            inspection = self.bench.worker.inspect(rest, self.bench.now);
        }
        answered.recv().unwrap()
    }
}

/// From an interface to another one, or to a service (numbers behind the interfaces): both families, TCP and UDP.
fn packets() -> Vec<(usize, PacketBuilder)> {
    let ends = INTERFACES.len() + SERVICES;
    let ways = (0..INTERFACES.len()).flat_map(|from| (0..ends).map(move |to| (from, to)));
    let kinds = ways.flat_map(|(from, to)| {
        [(true, true), (true, false), (false, true), (false, false)].map(|kind| (from, to, kind))
    });
    let packets = kinds.map(|(from, to, (ipv4, tcp))| {
        let service = to.checked_sub(INTERFACES.len());
        let packet = if ipv4 {
            let to = service.map_or([10, to as u8, 0, 10], |service| [10, 20, 0, service as u8 + 1]);
            PacketBuilder::ipv4([10, from as u8, 0, 10], to)
        } else {
            let address = |net: usize, host: u16| [0xfd00, net as u16, 0, 0, 0, 0, 0, host];
            let to = service.map_or(address(to, 0x10), |service| address(0x20, service as u16 + 1));
            PacketBuilder::ipv6(address(from, 0x10), to)
        };
        let packet = packet.ethernet(macs(from).0, macs(from).1);
        let tags = INTERFACES[from].1;
        let packet = tags.iter().fold(packet, |packet, (kind, id)| packet.tag(*kind, 0x6000 | id));
        let source = 4000 + to as u16;
        (from, if tcp { packet.tcp(source, 80, 0x10) } else { packet.udp(source, 53) })
    });
    packets.collect()
}

#[test]
fn tunnels_and_tags_that_functions_record_come_out_the_same() {
    in_namespace(|| {
        let mut both = Both::new();
        let packets = packets();
        for _ in 0..4 {
            for (from, packet) in &packets {
                both.bench.receive(PortId(INTERFACES[*from].0), &packet.clone().payload(&[7; 20]).finish());
            }
        }
        // Flows are handed over when there is nothing to do.
        for _ in 0..50 {
            both.bench.round();
        }
        let flows = both.flows();
        assert_eq!(flows.len(), packets.len(), "every way is a flow");
        assert!(flows.iter().all(|found| found.stays.is_none()), "handed over: {flows:#?}");

        let (mut same, mut longer, mut shorter, mut walked) = (0, 0, 0, 0);
        for (from, packet) in &packets {
            // The longest fit into no tunnel, or under no more tags.
            for (len, class, hops) in
                [(0, 0, 64), (1, 0x2e << 2 | 1, 2), (1300, 3, 64), (LONGEST, 2, 255), (20, 0, 1)]
            {
                let packet = packet.clone().traffic_class(class).hop_limit(hops);
                let frame = packet.payload(&vec![0x5a; len]).finish();
                let device = INTERFACES[*from].0;
                for device in [0, 1] {
                    both.bench.sent(PortId(device));
                }
                let hits = both.hits();
                both.bench.receive(PortId(device), &frame);
                let hit = both.hits() > hits;
                let executed = both.executed();
                let trial = both.steering.try_frame(both.devices[usize::from(device)], 0, &frame).unwrap();
                if both.executed() == executed {
                    assert_eq!(trial.frame, frame, "was touched");
                    // The longest under two tags stay the worker's: a driver would lose them.
                    assert!(!hit || len == LONGEST, "from {from}, {len} bytes: {frame:x?}");
                    walked += 1;
                    continue;
                }
                assert!(hit, "from {from}, {len} bytes: {frame:x?}");
                let leaves = match trial.action {
                    XDP_TX => device,
                    XDP_REDIRECT => 1 - device,
                    other => panic!("{other}"),
                };
                let sent = both.bench.sent(PortId(leaves));
                assert_eq!(sent, std::slice::from_ref(&trial.frame), "from {from}, {len} bytes");
                same += usize::from(trial.frame.len() == frame.len());
                longer += usize::from(trial.frame.len() > frame.len());
                shorter += usize::from(trial.frame.len() < frame.len());
            }
        }
        assert!(
            same > 50 && longer > 100 && shorter > 50 && walked > 50,
            "{same} {longer} {shorter} {walked}"
        );
    });
}
