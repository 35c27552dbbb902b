//! The worker's loop over ports in memory: what goes in, what comes out, byte for byte.

#![allow(clippy::unwrap_used, reason = "a failed test")]

mod common;

use std::net::IpAddr;

use common::{Bench, CONFIG, DMZ, HOST_LAN, HOST_WAN, LAN, WAN, facts};
use throughway::assemble::{Blueprint, Figures};
use throughway::host::{HostFacts, NeighbourFacts};
use throughway::worker::PortSettings;
use throughway_config::Config;
use throughway_flow::Slot;
use throughway_io::PacketIo;
use throughway_packet::build::PacketBuilder;
use throughway_packet::{PortId, checksum, parse};
use throughway_vnf::DropReason;

const BOX_LAN: [u8; 6] = [2, 0, 0, 0, 0, 0];
const BOX_WAN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const BOX_DMZ: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn to_wan() -> PacketBuilder {
    PacketBuilder::ipv4([10, 1, 0, 10], [10, 2, 0, 10]).ethernet(BOX_LAN, HOST_LAN).hop_limit(64)
}

fn assert_sound(frame: &[u8]) {
    let headers = parse(frame, PortId(0)).unwrap();
    assert!(checksum::verify(frame, &headers), "checksums of {headers:?}");
}

#[test]
fn forwards_and_marks() {
    let mut bench = Bench::new(CONFIG, &facts());
    bench.receive(LAN, &to_wan().udp(4000, 5060).payload(b"invite").finish());
    let expected = to_wan().ethernet(HOST_WAN, BOX_WAN).hop_limit(63).traffic_class(46 << 2).udp(4000, 5060);
    assert_eq!(bench.sent(WAN), [expected.payload(b"invite").finish()]);

    let six = |hops| {
        PacketBuilder::ipv6([0xfd00, 1, 0, 0, 0, 0, 0, 0x10], [0xfd00, 2, 0, 0, 0, 0, 0, 0x10])
            .hop_limit(hops)
            .tcp(9, 80, 2)
    };
    bench.receive(LAN, &six(9).ethernet(BOX_LAN, HOST_LAN).finish());
    assert_eq!(bench.sent(WAN), [six(8).ethernet(HOST_WAN, BOX_WAN).finish()]);
    bench.assert_balance();
}

#[test]
fn an_expired_packet_is_answered_by_the_way_it_came() {
    let mut bench = Bench::new(CONFIG, &facts());
    bench.receive(LAN, &to_wan().hop_limit(1).udp(1, 2).finish());
    assert_eq!(bench.drops(LAN, DropReason::HopLimitExceeded), 1);
    let answers = bench.sent(LAN);
    let [answer] = answers.as_slice() else { panic!("one answer, not {}", answers.len()) };
    assert_eq!(answer[..12], [HOST_LAN, BOX_LAN].concat());
    let headers = parse(answer, LAN).unwrap();
    assert_eq!(headers.source(), "10.1.0.1".parse::<IpAddr>().unwrap());
    assert_eq!((headers.icmp_type, headers.icmp_code), (11, 0));
    assert_sound(answer);
    bench.assert_balance();
}

#[test]
fn answers_are_rate_limited() {
    let mut bench = Bench::new(CONFIG, &facts());
    for _ in 0..200 {
        assert!(bench.worker.io().inject(LAN, &to_wan().hop_limit(1).udp(1, 2).finish()));
    }
    let now = bench.now;
    while bench.worker.round(now) > 0 {}
    assert_eq!(bench.drops(LAN, DropReason::HopLimitExceeded), 200);
    assert_eq!(bench.stats.originated.get() + bench.stats.answers_suppressed.get(), 200);
    assert_eq!(bench.stats.originated.get(), throughway::worker::limit::DESTINATION_BURST);
    bench.assert_balance();
}

/// The host knows a neighbour at the dmz from now on.
fn resolve(bench: &Bench, host: &mut HostFacts, address: IpAddr, mac: [u8; 6]) {
    host.neighbours.push(NeighbourFacts { port: DMZ.0, address, mac, state: "reachable".into() });
    for spec in bench.blueprint.routers() {
        spec.tables.publish(throughway::assemble::router::tables(host, &spec.config, None));
    }
    bench.generations.bump([Slot::CONFIG]);
}

#[test]
fn a_packet_waits_for_its_neighbour_and_leaves_when_it_is_known() {
    let mut host = facts();
    let mut bench = Bench::new(CONFIG, &host);
    let packet = PacketBuilder::ipv4([10, 1, 0, 10], [10, 3, 0, 77]).ethernet(BOX_LAN, HOST_LAN).udp(1, 2);
    for _ in 0..3 {
        bench.receive(LAN, &packet.finish());
    }
    let next_hop = "10.3.0.77".parse().unwrap();
    assert_eq!(bench.wanted.try_iter().collect::<Vec<_>>(), [(DMZ, next_hop)], "asked once, not thrice");
    assert!(bench.sent(DMZ).is_empty());
    bench.assert_balance();

    let mac = [2, 9, 9, 9, 9, 9];
    resolve(&bench, &mut host, next_hop, mac);
    bench.round();
    let expected = packet.ethernet(mac, BOX_DMZ).hop_limit(63).finish();
    assert_eq!(bench.sent(DMZ), [expected.clone(), expected.clone(), expected]);
    bench.assert_balance();
}

#[test]
fn what_waits_for_a_neighbour_is_bounded_and_leaves_in_order() {
    use throughway::worker::hold::{CAPACITY, PER_NEIGHBOUR};
    let mut host = facts();
    let mut bench = Bench::new(CONFIG, &host);
    let to = |last: u8, port: u16| {
        PacketBuilder::ipv4([10, 1, 0, 10], [10, 3, 0, last]).ethernet(BOX_LAN, HOST_LAN).udp(port, 2)
    };
    // For one neighbour by itself.
    for port in 0..PER_NEIGHBOUR as u16 + 10 {
        bench.receive(LAN, &to(77, port).finish());
    }
    assert_eq!(bench.drops(LAN, DropReason::NeighbourQueueFull), 10);
    assert_eq!(bench.stats.held.get(), PER_NEIGHBOUR as u64);
    // And for all together, at one moment; what a worker asks the resolver for is bounded too.
    let others = 100..200u8;
    for last in others.clone() {
        for port in 0..30 {
            assert!(bench.worker.io().inject(LAN, &to(last, port).finish()));
        }
    }
    let now = bench.now;
    while bench.worker.round(now) > 0 {}
    assert_eq!(bench.stats.held.get(), CAPACITY as u64);
    let refused = 10 + (PER_NEIGHBOUR + others.len() * 30 - CAPACITY) as u64;
    assert_eq!(bench.drops(LAN, DropReason::NeighbourQueueFull), refused);
    assert!(bench.wanted.try_iter().count() <= 64);
    bench.assert_balance();

    let mac = [2, 9, 9, 9, 9, 9];
    resolve(&bench, &mut host, "10.3.0.77".parse().unwrap(), mac);
    bench.round();
    let expected =
        (0..PER_NEIGHBOUR as u16).map(|port| to(77, port).ethernet(mac, BOX_DMZ).hop_limit(63).finish());
    assert_eq!(bench.sent(DMZ), expected.collect::<Vec<_>>());
    // Their room is others'.
    bench.receive(LAN, &to(250, 1).finish());
    assert_eq!(bench.drops(LAN, DropReason::NeighbourQueueFull), refused);
    // Nobody else answers: each has its reason.
    for _ in 0..4 {
        bench.now.0 += 1_000_000_000;
        bench.round();
    }
    let waited = (CAPACITY - PER_NEIGHBOUR + 1) as u64;
    assert_eq!(bench.drops(LAN, DropReason::NeighbourUnreachable), waited);
    bench.assert_balance();
}

#[test]
fn a_neighbour_that_never_answers_ends_as_host_unreachable() {
    let mut bench = Bench::new(CONFIG, &facts());
    let packet = PacketBuilder::ipv4([10, 1, 0, 10], [10, 3, 0, 77]).ethernet(BOX_LAN, HOST_LAN).udp(1, 2);
    bench.receive(LAN, &packet.finish());
    for _ in 0..4 {
        bench.now.0 += 1_000_000_000;
        bench.round();
    }
    assert!(bench.wanted.try_iter().count() >= 3, "asked again every second");
    assert_eq!(bench.drops(LAN, DropReason::NeighbourUnreachable), 1);
    let answers = bench.sent(LAN);
    let headers = parse(&answers[0], LAN).unwrap();
    assert_eq!((headers.icmp_type, headers.icmp_code), (3, 1));
    bench.assert_balance();
}

#[test]
fn too_big_is_answered_with_the_mtu() {
    let mut host = facts();
    host.neighbours.push(NeighbourFacts {
        port: 2,
        address: "10.3.0.10".parse().unwrap(),
        mac: HOST_WAN,
        state: "reachable".into(),
    });
    let mut bench = Bench::new(CONFIG, &host);
    let packet = |len: usize| {
        let packet =
            PacketBuilder::ipv4([10, 1, 0, 10], [10, 3, 0, 10]).ethernet(BOX_LAN, HOST_LAN).dont_fragment();
        packet.udp(1, 2).payload(&vec![7; len - 28]).finish()
    };
    bench.receive(LAN, &packet(1400));
    assert_eq!(bench.sent(DMZ).len(), 1, "the MTU itself fits");
    bench.receive(LAN, &packet(1401));
    assert!(bench.sent(DMZ).is_empty());
    let answer = bench.sent(LAN).remove(0);
    let headers = parse(&answer, LAN).unwrap();
    assert_eq!((headers.icmp_type, headers.icmp_code), (3, 4));
    let mtu = usize::from(headers.l4) + 6;
    assert_eq!(answer[mtu..mtu + 2], 1400u16.to_be_bytes(), "RFC 1191");
    bench.assert_balance();
}

/// A packet for the dmz, whose MTU is 1400 and whose neighbour is known.
fn to_dmz() -> (Bench, impl Fn(usize) -> PacketBuilder) {
    let mut host = facts();
    host.neighbours.push(NeighbourFacts {
        port: 2,
        address: "10.3.0.10".parse().unwrap(),
        mac: HOST_WAN,
        state: "reachable".into(),
    });
    let packet = |len: usize| {
        PacketBuilder::ipv4([10, 1, 0, 10], [10, 3, 0, 10])
            .ethernet(BOX_LAN, HOST_LAN)
            .identification(9)
            .udp(1, 2)
            .payload(&(0..len - 28).map(|at| at as u8).collect::<Vec<_>>())
    };
    (Bench::new(CONFIG, &host), packet)
}

#[test]
fn without_df_a_packet_is_cut_and_the_flow_is_remembered_up_to_the_mtu() {
    let (mut bench, packet) = to_dmz();
    // The long one comes first: what is remembered of the flow must not hold for the next long one.
    for round in 0..3 {
        bench.receive(LAN, &packet(2000).finish());
        let sent = bench.sent(DMZ);
        assert_eq!(sent.len(), 2, "round {round}");
        let out = packet(2000).ethernet(HOST_WAN, BOX_DMZ).hop_limit(63).fragments(1376);
        assert_eq!(sent, out, "round {round}");
        bench.receive(LAN, &packet(1400).finish());
        let out = packet(1400).ethernet(HOST_WAN, BOX_DMZ).hop_limit(63).finish();
        assert_eq!(bench.sent(DMZ), [out], "round {round}");
        bench.assert_balance();
    }
    assert_eq!((bench.stats.fragmented.get(), bench.stats.fragments.get()), (3, 6));
    bench.worker.publish_flows();
    assert_eq!(bench.stats.flows.values[0].get(), 3, "the answer to the long one holds for the short ones");
}

#[test]
fn a_packet_that_waits_is_cut_when_its_neighbour_is_known() {
    let mut bench = Bench::new(CONFIG, &facts());
    let (_, packet) = to_dmz();
    bench.receive(LAN, &packet(2000).finish());
    assert!(bench.sent(DMZ).is_empty());
    let (known, _) = to_dmz();
    let program = known.blueprint.program(0, &mut Figures::default());
    let _ = bench.worker.install(program);
    bench.round();
    assert_eq!(bench.sent(DMZ).len(), 2);
    bench.assert_balance();
}

#[test]
fn without_frames_for_all_fragments_none_is_sent() {
    let (mut bench, packet) = to_dmz();
    let mut taken: Vec<_> = std::iter::from_fn(|| bench.worker.io().allocate()).collect();
    // One for the packet itself, and one for two fragments.
    for _ in 0..2 {
        bench.worker.io().release(taken.pop().unwrap());
    }
    bench.receive(LAN, &packet(1900).finish());
    assert!(bench.sent(DMZ).is_empty());
    assert_eq!(bench.drops(LAN, DropReason::NotFragmented), 1);
    bench.worker.io().release(taken.pop().unwrap());
    bench.receive(LAN, &packet(1900).finish());
    assert_eq!(bench.sent(DMZ).len(), 2);
    taken.into_iter().for_each(|frame| bench.worker.io().release(frame));
    bench.assert_balance();
}

const OPTIONS: &str = "\
interfaces: { lan: { device: lan0 }, wan: { device: wan0 }, dmz: { device: dmz0 } }
functions: { core: { router: { urpf: strict, mss: clamp } } }
chains: { all: { from: [lan, wan, dmz], run: [core] } }
";

/// A SYN that announces an MSS of 1460, with right checksums.
fn syn(from: [u8; 4], to: [u8; 4], flags: u8, mss: u16) -> Vec<u8> {
    let [high, low] = mss.to_be_bytes();
    let packet = PacketBuilder::ipv4(from, to).ethernet(BOX_LAN, HOST_LAN).tcp(1, 2, flags);
    let mut frame = packet.payload(&[2, 4, high, low]).finish();
    frame[46] = 0x60;
    let headers = parse(&frame, LAN).unwrap();
    assert!(throughway_packet::apply::recompute_checksums(&headers, &mut frame));
    frame
}

#[test]
fn connections_agree_on_what_both_links_take() {
    let mut bench = Bench::new(OPTIONS, &facts());
    let announced = |frame: &[u8]| {
        assert!(checksum::verify(frame, &parse(frame, LAN).unwrap()));
        u16::from_be_bytes([frame[56], frame[57]])
    };
    // The dmz has MTU 1400, the others 1500. The SYN goes to the lan, what it announces holds for the way back too.
    for flags in [0x02, 0x12] {
        let mut from_dmz = syn([10, 3, 0, 10], [10, 1, 0, 10], flags, 1460);
        from_dmz[..6].copy_from_slice(&BOX_DMZ);
        bench.receive(DMZ, &from_dmz);
        assert_eq!(announced(&bench.sent(LAN)[0]), 1360);
        bench.receive(LAN, &syn([10, 1, 0, 10], [10, 2, 0, 10], flags, 1460));
        assert_eq!(announced(&bench.sent(WAN)[0]), 1460);
        bench.receive(LAN, &syn([10, 1, 0, 10], [10, 2, 0, 10], flags, 536));
        assert_eq!(announced(&bench.sent(WAN)[0]), 536, "never raised");
    }
    bench.receive(DMZ, &syn([10, 3, 0, 10], [10, 1, 0, 10], 0x10, 1460));
    assert_eq!(announced(&bench.sent(LAN)[0]), 1460, "no SYN");
    bench.assert_balance();
}

#[test]
fn an_mss_that_the_file_names_is_the_most_that_is_announced() {
    let mut bench = Bench::new(&OPTIONS.replace("mss: clamp", "mss: 1200"), &facts());
    let announced = |frame: &[u8]| {
        assert_sound(frame);
        let headers = parse(frame, LAN).unwrap();
        let at = usize::from(headers.l4) + 22;
        u16::from_be_bytes([frame[at], frame[at + 1]])
    };
    for (theirs, ours) in [(1460, 1200), (1201, 1200), (1200, 1200), (536, 536)] {
        bench.receive(LAN, &syn([10, 1, 0, 10], [10, 2, 0, 10], 0x02, theirs));
        assert_eq!(announced(&bench.sent(WAN)[0]), ours);
        let [high, low] = u16::to_be_bytes(theirs);
        let six = PacketBuilder::ipv6([0xfd00, 1, 0, 0, 0, 0, 0, 0x10], [0xfd00, 2, 0, 0, 0, 0, 0, 0x10])
            .ethernet(BOX_LAN, HOST_LAN)
            .tcp(1, 2, 0x12)
            .payload(&[2, 4, high, low]);
        let mut frame = six.finish();
        frame[66] = 0x60;
        let headers = parse(&frame, LAN).unwrap();
        assert!(throughway_packet::apply::recompute_checksums(&headers, &mut frame));
        bench.receive(LAN, &frame);
        assert_eq!(announced(&bench.sent(WAN)[0]), ours, "IPv6");
    }
    bench.assert_balance();
}

#[test]
fn a_source_that_packets_could_not_be_sent_to_is_dropped() {
    let packet =
        |from: [u8; 4], to: [u8; 4]| PacketBuilder::ipv4(from, to).ethernet(BOX_LAN, HOST_LAN).udp(1, 2);
    let elsewhere = packet([10, 2, 0, 99], [10, 2, 0, 10]).finish();
    let nowhere = packet([203, 0, 113, 9], [10, 2, 0, 10]).finish();
    let right = packet([10, 1, 0, 99], [10, 2, 0, 10]).finish();
    for (mode, passing) in [("strict", vec![&right]), ("loose", vec![&right, &elsewhere])] {
        let mut bench = Bench::new(&OPTIONS.replace("strict", mode), &facts());
        // Twice: the second time the flow is known.
        for _ in 0..2 {
            for frame in [&right, &elsewhere, &nowhere] {
                bench.receive(LAN, frame);
                assert_eq!(bench.sent(WAN).len(), usize::from(passing.contains(&frame)), "{mode}");
            }
        }
        let dropped = 2 * (3 - passing.len()) as u64;
        assert_eq!(bench.drops(LAN, DropReason::SpoofedSource), dropped, "{mode}");
        bench.assert_balance();
    }
}

#[test]
fn malformed_and_unroutable_packets_have_their_reasons() {
    let mut bench = Bench::new(CONFIG, &facts());
    let mut bad_sum = to_wan().udp(1, 2).finish();
    bad_sum[24] ^= 0xff;
    bench.receive(LAN, &bad_sum);
    bench.receive(LAN, &to_wan().udp(1, 2).finish()[..30]);
    let blackhole =
        PacketBuilder::ipv4([10, 1, 0, 10], [198, 51, 100, 1]).ethernet(BOX_LAN, HOST_LAN).udp(1, 2);
    bench.receive(LAN, &blackhole.finish());
    let nowhere = PacketBuilder::ipv4([10, 1, 0, 10], [203, 0, 113, 1]).ethernet(BOX_LAN, HOST_LAN).udp(1, 2);
    bench.receive(LAN, &nowhere.finish());
    for reason in [
        DropReason::BadIpv4Checksum,
        DropReason::TruncatedIpv4,
        DropReason::BlackholeRoute,
        DropReason::NoRoute,
    ] {
        assert_eq!(bench.drops(LAN, reason), 1, "{}", reason.label());
    }
    assert_eq!(bench.sent(LAN).len(), 1, "no route is answered, the rest is silent");
    bench.assert_balance();
}

#[test]
fn partial_checksums_are_finished_where_the_port_says_so() {
    let mut settings = vec![PortSettings::default(); 3];
    settings[0].recompute_checksums = true;
    let mut bench = Bench::with_settings(CONFIG, &facts(), settings);
    let mut partial = to_wan().tcp(1, 2, 0x10).payload(b"offloaded").finish();
    let at = 14 + 20 + 16;
    partial[at..at + 2].copy_from_slice(&[0x12, 0x34]);
    bench.receive(LAN, &partial);
    assert_sound(&bench.sent(WAN)[0]);
}

#[test]
fn a_full_transmit_ring_keeps_what_fits_and_counts_the_rest() {
    let mut bench = Bench::new(CONFIG, &facts());
    bench.worker.io().set_transmit_capacity(WAN, Some(10));
    for _ in 0..400 {
        assert!(bench.worker.io().inject(LAN, &to_wan().udp(1, 2).finish()));
    }
    while bench.round() > 0 {}
    let dropped = bench.drops(LAN, DropReason::TransmitRingFull);
    assert!(dropped > 0);
    let mut sent = 0;
    loop {
        let now = bench.sent(WAN).len();
        sent += now;
        if now == 0 {
            break;
        }
        bench.round();
    }
    assert_eq!(sent as u64 + dropped, 400);
    bench.assert_balance();
}

#[test]
fn a_new_program_takes_over_between_batches_and_figures_go_on() {
    let host = facts();
    let mut bench = Bench::new(CONFIG, &host);
    let packet = to_wan().udp(4000, 5060).finish();
    bench.receive(LAN, &packet);
    let changed = CONFIG.replace("dscp: ef", "dscp: cs1");
    let (config, _) = Config::parse("test.yaml", &changed).unwrap();
    let blueprint = Blueprint::new(&config, &host, &bench.states).unwrap();
    let program = blueprint.program(0, &mut bench.figures);
    drop(bench.worker.install(program));
    bench.generations.bump([Slot::CONFIG]);
    bench.receive(LAN, &packet);
    let classes: Vec<u8> = bench.sent(WAN).iter().map(|frame| parse(frame, WAN).unwrap().dscp()).collect();
    assert_eq!(classes, [46, 8]);
    let functions = bench.figures.functions();
    let marker = functions.iter().find(|entry| entry.name == "classes").unwrap();
    assert_eq!(marker.stats.packets.get(), 2, "the figures of a function outlive the reload");
    bench.assert_balance();
}

#[test]
fn what_waits_over_a_reload_is_answered_by_the_chain_of_its_interface() {
    let host = facts();
    let mut bench = Bench::new(CONFIG, &host);
    let packet = PacketBuilder::ipv4([10, 1, 0, 10], [10, 3, 0, 77]).ethernet(BOX_LAN, HOST_LAN).udp(1, 2);
    bench.receive(LAN, &packet.finish());
    // The chain that was the first is the second now, and the first one's router knows no way back.
    let changed = "\
interfaces: { lan: { device: lan0 }, wan: { device: wan0 }, dmz: { device: dmz0 } }
functions:
  core: { router: {} }
  blind: { router: { routes: [ { prefix: 10.1.0.0/24, blackhole: true } ] } }
chains:
  inbound: { from: [wan, dmz], run: [blind] }
  outbound: { from: lan, run: [core] }
";
    let (config, _) = Config::parse("test.yaml", changed).unwrap();
    let program = Blueprint::new(&config, &host, &bench.states).unwrap().program(0, &mut bench.figures);
    drop(bench.worker.install(program));
    bench.now.0 += 4_000_000_000;
    bench.round();
    assert_eq!(bench.drops(LAN, DropReason::NeighbourUnreachable), 1);
    assert_eq!(bench.sent(LAN).len(), 1, "the sender is told");
    bench.assert_balance();
}

#[test]
fn what_waits_at_the_end_is_counted() {
    let mut bench = Bench::new(CONFIG, &facts());
    let packet = PacketBuilder::ipv4([10, 1, 0, 10], [10, 3, 0, 77]).ethernet(BOX_LAN, HOST_LAN).udp(1, 2);
    bench.receive(LAN, &packet.finish());
    let stats = bench.stats.clone();
    let io = bench.worker.finish();
    assert_eq!(io.outstanding(), 0);
    assert_eq!(stats.ports[0].drops[DropReason::Shutdown as usize].get(), 1);
}

#[test]
fn a_route_without_a_live_next_hop_gives_way_to_the_next_metric() {
    use throughway::host::{NextHopFacts, RouteFacts, RouteKind};
    let mut host = facts();
    let route = |metric, next_hops| RouteFacts {
        table: 254,
        prefix: ("203.0.113.0".parse().unwrap(), 24),
        kind: RouteKind::Unicast,
        metric,
        protocol: "static".to_owned(),
        next_hops,
    };
    let gateway = Some("10.2.0.10".parse().unwrap());
    let live = NextHopFacts { port: Some(1), gateway, weight: 1 };
    let elsewhere = NextHopFacts { port: None, gateway: None, weight: 1 };
    let packet =
        PacketBuilder::ipv4([10, 1, 0, 10], [203, 0, 113, 9]).ethernet(BOX_LAN, HOST_LAN).udp(1, 2).finish();

    host.routes = std::sync::Arc::new(vec![route(1, Vec::new()), route(2, vec![live])]);
    let mut bench = Bench::new(CONFIG, &host);
    bench.receive(LAN, &packet);
    assert_eq!(bench.sent(WAN).len(), 1);

    // One that leads where we may not send is no reason to send it elsewhere.
    host.routes = std::sync::Arc::new(vec![route(1, vec![elsewhere]), route(2, vec![])]);
    let mut bench = Bench::new(CONFIG, &host);
    bench.receive(LAN, &packet);
    assert_eq!(bench.drops(LAN, DropReason::EgressNotOurs), 1);
}
