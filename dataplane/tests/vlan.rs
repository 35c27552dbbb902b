//! VLANs over ports in memory: what goes in with which tags, what comes out with which, byte for byte.

#![allow(clippy::unwrap_used, reason = "a failed test")]

mod common;

use common::{Bench, facts_of};
use throughway::host::{HostFacts, NeighbourFacts};
use throughway::worker::PortSettings;
use throughway_config::Config;
use throughway_flow::Slot;
use throughway_packet::build::PacketBuilder;
use throughway_packet::{PortId, checksum, parse};
use throughway_vnf::DropReason;

const CONFIG: &str = "\
interfaces:
  lan: { device: eth1 }
  voice: { device: eth1, vlan: 100 }
  wan: { device: eth2 }
  guest: { device: eth1, vlan: [200, 30] }
  trunk: { device: eth3, vlan: 100, vlan-protocol: 802.1ad }
functions: { core: { router: {} } }
chains: { all: { from: [lan, voice, wan, guest, trunk], run: [core] } }
";

/// The devices, by number.
const ETH1: PortId = PortId(0);
const ETH2: PortId = PortId(1);
const ETH3: PortId = PortId(2);

const VOICE: usize = 1;
const WAN: usize = 2;
const GUEST: usize = 3;
const TRUNK: usize = 4;

/// What interface *n* is reached by: its own MAC address, and that of its neighbour 10.*n*.0.10.
const fn macs(interface: usize) -> ([u8; 6], [u8; 6]) {
    ([2, 0, 0, 0, 0, interface as u8], [2, 0, 0, 0, 1, interface as u8])
}

fn facts() -> HostFacts {
    let (config, _) = Config::parse("test.yaml", CONFIG).unwrap();
    let mut facts = facts_of(&config, |number| macs(number).1);
    facts.ports[GUEST].mtu = 1400;
    facts
}

fn bench(facts: &HostFacts) -> Bench {
    let (config, _) = Config::parse("test.yaml", CONFIG).unwrap();
    Bench::with_settings(CONFIG, facts, PortSettings::of(&config))
}

fn between(from: usize, to: usize) -> PacketBuilder {
    PacketBuilder::ipv4([10, from as u8, 0, 10], [10, to as u8, 0, 10]).hop_limit(64)
}

/// As it comes in by interface `from`, without tags.
fn arriving(packet: PacketBuilder, from: usize) -> PacketBuilder {
    packet.ethernet(macs(from).0, macs(from).1)
}

/// As it leaves by interface `to`, without tags.
fn leaving(packet: PacketBuilder, to: usize) -> PacketBuilder {
    packet.ethernet(macs(to).1, macs(to).0).hop_limit(63)
}

fn received(bench: &Bench) -> Vec<u64> {
    bench.stats.ports.iter().map(|port| port.received.packets.get()).collect()
}

fn sent(bench: &Bench) -> Vec<u64> {
    bench.stats.ports.iter().map(|port| port.sent.packets.get()).collect()
}

#[test]
fn tags_are_put_on_taken_off_and_replaced() {
    let mut bench = bench(&facts());
    // From, with tags; to, with tags. The priority of the outer tag as received goes over to the new tags.
    type Tags<'a> = &'a [(u16, u16)];
    let ways: [(usize, Tags<'_>, PortId, usize, Tags<'_>, PortId); 8] = [
        (0, &[], ETH1, VOICE, &[(0x8100, 100)], ETH1),
        (VOICE, &[(0x8100, 0xa064)], ETH1, 0, &[], ETH1),
        (WAN, &[], ETH2, GUEST, &[(0x88a8, 200), (0x8100, 30)], ETH1),
        (GUEST, &[(0x88a8, 0x60c8), (0x8100, 30)], ETH1, WAN, &[], ETH2),
        (VOICE, &[(0x8100, 0xa064)], ETH1, GUEST, &[(0x88a8, 0xa0c8), (0x8100, 0xa01e)], ETH1),
        // Either announces an outer tag; what is sent is what is configured.
        (GUEST, &[(0x9100, 200), (0x8100, 30)], ETH1, VOICE, &[(0x8100, 100)], ETH1),
        (VOICE, &[(0x8100, 100)], ETH1, TRUNK, &[(0x88a8, 100)], ETH3),
        (TRUNK, &[(0x8100, 100)], ETH3, VOICE, &[(0x8100, 100)], ETH1),
    ];
    for (from, tags_in, device_in, to, tags_out, device_out) in ways {
        let six = |from: usize, to: usize| {
            let address = |net: usize| [0xfd00, net as u16, 0, 0, 0, 0, 0, 0x10];
            PacketBuilder::ipv6(address(from), address(to)).hop_limit(64)
        };
        for packet in [between(from, to), six(from, to)] {
            let tag = |packet: PacketBuilder, tags: Tags<'_>| {
                tags.iter().fold(packet, |packet, (kind, control)| packet.tag(*kind, *control))
            };
            let into = tag(arriving(packet.clone(), from), tags_in).udp(4000, 53).payload(b"question");
            let out = tag(leaving(packet, to), tags_out).udp(4000, 53).payload(b"question");
            // The second packet may take the short way: it must not be different.
            for _ in 0..2 {
                bench.receive(device_in, &into.finish());
                assert_eq!(bench.sent(device_out), [out.finish()], "{from} {tags_in:x?} to {to}");
            }
        }
    }
    assert_eq!(received(&bench), [4, 12, 4, 8, 4]);
    assert_eq!(sent(&bench), [4, 12, 4, 8, 4]);
    bench.assert_balance();
}

#[test]
fn flows_take_the_short_way_with_tags_and_without() {
    let mut bench = bench(&facts());
    let remembered = |bench: &mut Bench| {
        bench.worker.publish_flows();
        (bench.stats.flows.flows.get(), bench.stats.flows.values[0].get())
    };
    let plain = arriving(between(0, WAN), 0).udp(1, 2).finish();
    let tagged = |control| arriving(between(VOICE, WAN), VOICE).vlan(control).udp(1, 2).finish();
    let into = arriving(between(0, VOICE), 0).udp(1, 2).finish();
    let packets = [(plain, ETH2), (tagged(100), ETH2), (into, ETH1)];
    for (number, (frame, out)) in packets.iter().enumerate() {
        bench.receive(ETH1, frame);
        assert_eq!(remembered(&mut bench), (number as u64 + 1, number as u64));
        let first = bench.sent(*out);
        let before = bench.figures.chains()[0].stats.left.bytes.get();
        bench.receive(ETH1, frame);
        assert_eq!(remembered(&mut bench), (number as u64 + 1, number as u64 + 1), "a hit");
        assert_eq!(bench.sent(*out), first);
        let left = bench.figures.chains()[0].stats.left.bytes.get() - before;
        assert_eq!((first.len(), left), (1, first[0].len() as u64), "as long as it left");
    }
    // Another priority is the same flow.
    bench.receive(ETH1, &tagged(0x6064));
    assert_eq!(remembered(&mut bench), (3, 4));
    bench.assert_balance();
}

#[test]
fn interfaces_of_a_device_are_kept_apart_in_one_batch() {
    let mut bench = bench(&facts());
    let voice = |port| arriving(between(VOICE, WAN), VOICE).vlan(100).udp(port, 1).finish();
    let lan = |port| arriving(between(0, WAN), 0).udp(port, 1).finish();
    for port in 0..20 {
        for frame in [voice(port), lan(port)] {
            assert!(bench.worker.io().inject(ETH1, &frame));
        }
    }
    bench.round();
    let mut ports: Vec<(u8, u16)> = Vec::new();
    for frame in bench.sent(ETH2) {
        let headers = parse(&frame, ETH2).unwrap();
        let std::net::IpAddr::V4(source) = headers.source() else { unreachable!() };
        ports.push((source.octets()[1], headers.source_port()));
    }
    for of in [0, VOICE as u8] {
        let order: Vec<u16> = ports.iter().filter(|(from, _)| *from == of).map(|(_, port)| *port).collect();
        assert_eq!(order, (0..20).collect::<Vec<_>>(), "in the order of arrival");
    }
    assert_eq!(received(&bench), [20, 20, 0, 0, 0]);
    bench.assert_balance();
}

#[test]
fn what_no_interface_claims_is_dropped_and_counted_at_the_first() {
    let mut bench = bench(&facts());
    let packet = arriving(between(0, WAN), 0);
    for frame in [packet.clone().vlan(101), packet.clone().vlan(200), packet.clone().vlan(100).vlan(30)] {
        bench.receive(ETH1, &frame.udp(1, 2).finish());
    }
    assert_eq!(bench.drops(PortId(0), DropReason::UnclaimedVlan), 3);
    // Untagged, where only a VLAN is an interface.
    bench.receive(ETH3, &packet.clone().udp(1, 2).finish());
    assert_eq!(bench.drops(PortId(TRUNK as u16), DropReason::UnclaimedVlan), 1);
    // A priority tag is no VLAN; it does not go on.
    bench.receive(ETH1, &packet.clone().tag(0x8100, 0xe000).udp(1, 2).finish());
    assert_eq!(bench.sent(ETH2), [leaving(between(0, WAN), WAN).udp(1, 2).finish()]);
    bench.receive(ETH1, &packet.vlan(100).udp(1, 2).finish()[..17]);
    assert_eq!(bench.drops(PortId(0), DropReason::TruncatedEthernet), 1);
    bench.assert_balance();
}

#[test]
fn errors_go_back_with_the_tags_of_the_way_back() {
    let mut bench = bench(&facts());
    let dying = |packet: PacketBuilder| packet.hop_limit(1).udp(1, 2);
    let back = |frame: &[u8], to: usize, source: usize| {
        let headers = parse(frame, ETH1).unwrap();
        assert_eq!(frame[..12], [macs(to).1, macs(to).0].concat());
        assert_eq!((headers.icmp_type, headers.icmp_code), (11, 0));
        assert_eq!(headers.source(), std::net::IpAddr::from([10, source as u8, 0, 1]));
        assert!(checksum::verify(frame, &headers));
        (headers.key.outer_vlan, headers.key.inner_vlan, frame[12..14].to_vec())
    };
    bench.receive(ETH1, &dying(arriving(between(VOICE, WAN), VOICE).tag(0x8100, 0xa064)).finish());
    let answer = bench.sent(ETH1).remove(0);
    assert_eq!(back(&answer, VOICE, VOICE), (100, 0, vec![0x81, 0]));
    assert_eq!(answer[14..16], [0xa0, 100], "the priority too");

    bench.receive(ETH1, &dying(arriving(between(GUEST, WAN), GUEST).tag(0x88a8, 200).vlan(30)).finish());
    assert_eq!(back(&bench.sent(ETH1).remove(0), GUEST, GUEST), (200, 30, vec![0x88, 0xa8]));

    // The sender's address is on another link than it sends from: there and back by different interfaces.
    for (from, tags, to, expected) in [
        (VOICE, Some(100), GUEST, (200, 30, vec![0x88, 0xa8])),
        (VOICE, Some(100), 0, (0, 0, vec![8, 0])),
        (0, None, VOICE, (100, 0, vec![0x81, 0])),
    ] {
        let packet = arriving(between(to, WAN), from);
        let packet = tags.map_or(packet.clone(), |tag| packet.vlan(tag));
        bench.receive(ETH1, &dying(packet).finish());
        assert_eq!(back(&bench.sent(ETH1).remove(0), to, to), expected);
    }
    bench.assert_balance();
}

#[test]
fn packets_are_cut_and_refused_by_the_mtu_without_tags() {
    let mut bench = bench(&facts());
    let packet = |len: usize| between(WAN, GUEST).identification(7).udp(1, 2).payload(&vec![7; len - 28]);
    let tagged = |packet: PacketBuilder| leaving(packet, GUEST).tag(0x88a8, 200).vlan(30);
    bench.receive(ETH2, &arriving(packet(1400), WAN).finish());
    assert_eq!(bench.sent(ETH1), [tagged(packet(1400)).finish()], "tags do not count");
    bench.receive(ETH2, &arriving(packet(2000), WAN).finish());
    assert_eq!(bench.sent(ETH1), tagged(packet(2000)).fragments(1376));

    bench.receive(ETH2, &arriving(packet(1401).dont_fragment(), WAN).finish());
    let answer = bench.sent(ETH2).remove(0);
    let headers = parse(&answer, ETH2).unwrap();
    assert_eq!((headers.icmp_type, headers.icmp_code), (3, 4));
    let at = usize::from(headers.l4) + 6;
    assert_eq!(answer[at..at + 2], 1400u16.to_be_bytes());
    bench.assert_balance();
}

#[test]
fn a_packet_that_waits_for_its_neighbour_leaves_with_tags() {
    let mut host = facts();
    let mut bench = bench(&host);
    let packet = || PacketBuilder::ipv4([10, 2, 0, 10], [10, 1, 0, 77]).hop_limit(64).udp(1, 2);
    bench.receive(ETH2, &arriving(packet(), WAN).finish());
    let (next_hop, mac) = ("10.1.0.77".parse().unwrap(), [2, 9, 9, 9, 9, 9]);
    let wanted: Vec<_> = bench.wanted.try_iter().collect();
    assert_eq!(wanted, [(PortId(VOICE as u16), next_hop)], "asked for on the VLAN");
    host.neighbours.push(NeighbourFacts { port: VOICE as u16, address: next_hop, mac, state: "x".into() });
    for spec in bench.blueprint.routers() {
        spec.tables.publish(throughway::assemble::router::tables(&host, &spec.config, None));
    }
    bench.generations.bump([Slot::CONFIG]);
    bench.round();
    let out = leaving(packet(), VOICE).ethernet(mac, macs(VOICE).0).vlan(100);
    assert_eq!(bench.sent(ETH1), [out.finish()]);
    bench.assert_balance();
}
