//! The project's safety net: whatever the chain, the configuration and the packets, with the flow cache and without it the
//! same bytes come out, for the same reasons, and the same figures are counted. Every function is put under it.

#![allow(clippy::unwrap_used, reason = "a failed test")]

mod common;

use std::sync::Arc;

use common::{Bench, HOST_LAN, HOST_WAN, facts};
use proptest::prelude::*;
use throughway::assemble::{Blueprint, router};
use throughway::capture::{Filter, Ring, What};
use throughway::host::{HostFacts, NeighbourFacts, NextHopFacts, RouteFacts, RouteKind};
use throughway::worker::PortSettings;
use throughway::worker::tap::Tap;
use throughway_config::Config;
use throughway_flow::Slot;
use throughway_packet::build::PacketBuilder;
use throughway_packet::{PortId, Tags};
use throughway_session::Cursor;
use throughway_vnf::DropReason;

/// What happens to the box.
#[derive(Clone, Debug)]
enum Event {
    /// Packets come in together, each as (port, flow, kind).
    Packets(Vec<(u16, u8, Kind)>),
    /// A neighbour moves to the MAC address with this last byte, or is no longer known.
    Neighbour(u8, Option<u8>),
    /// A /24 of one of the destinations changes what it does.
    Route(u8, Change),
    /// Another configuration comes into force.
    Reload(usize),
    /// Time passes, in milliseconds.
    Wait(u64),
}

/// What is special about a packet.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Plain,
    Tcp(u8),
    HopLimit(u8),
    Length(u16),
    Options,
    Fragment,
    Echo,
    NoChecksum,
    Sctp,
    Damaged(u8),
    Tagged,
    /// The very answer to the flow, from the host of this net.
    Answer(u8),
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Absent,
    Kind(RouteKind),
    Via(u16),
}

const CONFIGS: [&str; 10] = [
    "
functions:
  classes: { marker: { rules: [ { protocol: udp, to-port: 1-3, dscp: ef }, { protocol: tcp, dscp: cs1 } ] } }
  core: { router: {} }
chains:
  outbound: { from: lan, run: [classes, core] }
  inbound: { from: [wan, dmz], run: [core] }
",
    "
functions:
  first: { marker: { rules: [ { dscp: af11 } ] } }
  second: { marker: { rules: [ { family: ipv4, dscp: af21 } ] } }
  core: { router: { routes: [ { prefix: 10.2.5.0/24, blackhole: true } ] } }
  third: { marker: { rules: [ { source: 10.1.0.0/16, dscp: cs7 } ] } }
chains:
  outbound: { from: lan, run: [first, second, core, third] }
  inbound: { from: wan, run: [core, first] }
",
    "
functions:
  core: { router: { kernel-routes: false, routes: [ { prefix: 0.0.0.0/0, via: 10.2.0.10 } ] } }
chains:
  outbound: { from: [lan, dmz], run: [core] }
",
    "
functions:
  core: { router: { routes: [ { prefix: 10.2.0.0/16, unreachable: true, metric: 7 } ] } }
  edge: { router: { routes: [ { prefix: \"fd00:2::/32\", via: \"fd00:2::10\" } ] } }
chains:
  outbound: { from: lan, run: [edge] }
  inbound: { from: [wan, dmz], run: [core] }
",
    "
functions:
  wall:
    firewall:
      default: drop
      rules:
        - allow: { from: lan, protocol: udp }
        - allow: { protocol: tcp, to-port: 1-3 }
        - reject: { protocol: tcp }
        - allow: { protocol: [icmp, icmpv6] }
  classes: { marker: { rules: [ { protocol: udp, dscp: ef } ] } }
  core: { router: {} }
chains:
  outbound: { from: lan, run: [wall, classes, core] }
  inbound: { from: [wan, dmz], run: [wall, core] }
",
    "
functions:
  wall:
    firewall:
      default: allow
      track: { rejudge: true }
      rules:
        - allow: { protocol: udp, to-port: 1 }
          rate: 50/s burst 20
        - drop: { protocol: udp, to-port: 1 }
        - drop: { source: 10.2.1.0/24 }
        - count: { state: established }
  core: { router: { routes: [ { prefix: 0.0.0.0/0, via: 10.2.0.10 } ] } }
chains:
  outbound: { from: lan, run: [core, wall] }
  inbound: { from: wan, run: [wall, core] }
",
    "
functions:
  wall: { firewall: { default: drop, rules: [ { allow: { from: lan } } ] } }
  outer:
    nat:
      outside: [wan, dmz]
      source:
        - { match: { source: 10.1.0.0/24, protocol: udp }, pool: 203.0.113.8 }
        - { match: { source: 10.1.0.0/24 }, to: 203.0.113.0/24 }
        - { match: { source: \"fd00:1::/64\" }, to: \"2001:db8:9::/64\" }
  core: { router: {} }
chains:
  outbound: { from: lan, run: [wall, outer, core] }
  inbound: { from: [wan, dmz], run: [outer, wall, core] }
",
    // Few connections, so that some are not remembered; and the same service with other backends.
    "
functions:
  front:
    load-balancer:
      connections: 6
      services:
        - { name: all, vip: [10.2.1.10, 10.2.2.11], backends: [ { address: 10.2.0.10 }, { address: 10.2.0.11 } ] }
        - { vip: \"fd00:2:1::10\", port: 1-3, protocol: [tcp, udp], forward: dsr, backends: [ { address: \"fd00:2::10\" } ] }
        - { vip: 10.2.3.10, forward: ipip, backends: [ { address: 10.2.0.10 } ] }
  core: { router: {} }
chains:
  outbound: { from: lan, run: [front, core] }
  inbound: { from: [wan, dmz], run: [front, core] }
",
    "
functions:
  front:
    load-balancer:
      connections: 6
      services:
        - { name: all, vip: [10.2.1.10, 10.2.2.11], source-nat: 10.2.3.1-10.2.3.2, backends: [ { address: 10.2.0.10 } ] }
        - { vip: 10.2.3.11, protocol: udp, port: 1, backends: [ { address: 10.2.0.10, port: 2 }, { address: 10.2.0.11, weight: 0 } ] }
  core: { router: {} }
chains:
  outbound: { from: lan, run: [front, core] }
  inbound: { from: [wan, dmz], run: [front, core] }
",
    // Most is not translated; answers from net 0 are, once somebody has called net 1.
    "
functions:
  outer:
    nat:
      outside: [dmz]
      source: [ { match: { source: 10.1.0.0/24, protocol: tcp }, pool: 203.0.113.8 } ]
      destination:
        - { match: { destination: 10.2.1.0/24, protocol: udp }, to: 10.2.0.0/24 }
        - { match: { destination: \"fd00:2:1::/48\", protocol: udp }, to: \"fd00:2::/48\" }
  core: { router: {} }
chains:
  outbound: { from: lan, run: [outer, core] }
  inbound: { from: [wan, dmz], run: [outer, core] }
",
];

fn config(number: usize, flows: u32) -> String {
    let interfaces = "interfaces: { lan: { device: lan0 }, wan: { device: wan0 }, dmz: { device: dmz0 } }";
    format!("{interfaces}\nworkers: {{ flows: {flows} }}{}", CONFIGS[number % CONFIGS.len()])
}

/// The lan and the dmz as VLANs: of a device of its own, and of the wan's.
fn vlans() -> Vec<PortSettings> {
    let on = |device, tags| PortSettings { device: Some(device), tags, ..PortSettings::default() };
    vec![on(0, Tags::one(7)), on(1, Tags::NONE), on(1, Tags::two(9, 30))]
}

/// One of sixteen flows, from the lan or back; with `tag` those from the lan come tagged.
fn frame(port: u16, flow: u8, kind: Kind, tag: bool) -> Vec<u8> {
    let (net, host) = (u16::from(flow >> 1 & 3), 10 + u16::from(flow >> 3 & 1));
    let net = if let Kind::Answer(net) = kind { net.into() } else { net };
    let (from, to) = if port == 0 { ([1, 0, 10], [2, net, host]) } else { ([2, net, host], [1, 0, 10]) };
    let builder = if flow & 1 == 0 {
        let address = |[a, b, c]: [u16; 3]| [10, a as u8, b as u8, c as u8];
        PacketBuilder::ipv4(address(from), address(to))
    } else {
        // The hosts are called ::10 and ::11.
        let address = |[a, b, c]: [u16; 3]| [0xfd00, a, b, 0, 0, 0, 0, c + 6];
        PacketBuilder::ipv6(address(from), address(to))
    };
    let mac = [2, 0, 0, 0, 0, port as u8];
    let builder = builder.ethernet(mac, if port == 0 { HOST_LAN } else { HOST_WAN });
    // With a priority that depends on the flow.
    let tag = if tag && port == 0 { Some(u16::from(flow) << 13 | 7) } else { None };
    let builder = tag.into_iter().fold(builder, PacketBuilder::vlan);
    let (sport, dport) = (1000 + u16::from(flow), u16::from(flow % 5));
    let udp = |builder: PacketBuilder| builder.udp(sport, dport).payload(&[flow; 20]);
    match kind {
        Kind::Plain => udp(builder).finish(),
        Kind::Tcp(flags) => builder.tcp(sport, dport, flags).payload(&[flow; 9]).finish(),
        Kind::HopLimit(hops) => udp(builder.hop_limit(hops)).finish(),
        Kind::Length(len) => {
            builder.dont_fragment().udp(sport, dport).payload(&vec![flow; len.into()]).finish()
        }
        Kind::Options if flow & 1 == 0 => udp(builder.options(&[1, 1, 1, 0])).finish(),
        Kind::Options => udp(builder.extension(60, &[1, 4, 0, 0, 0, 0])).finish(),
        Kind::Fragment => builder.fragment(64, true).protocol(17).payload(&[flow; 64]).finish(),
        Kind::Echo => builder.echo_request(sport, 1).finish(),
        Kind::NoChecksum => builder.udp_without_checksum(sport, dport).payload(&[flow; 20]).finish(),
        Kind::Sctp => builder.sctp(sport, dport).payload(&[flow; 20]).finish(),
        Kind::Damaged(at) => {
            let mut frame = udp(builder).finish();
            let at = usize::from(at) % frame.len();
            frame[at] ^= 0x5a;
            frame
        }
        Kind::Tagged => udp(builder.vlan(7)).finish(),
        Kind::Answer(_) => builder.udp(dport, sport).payload(&[flow; 20]).finish(),
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        8 => Just(Kind::Plain),
        3 => prop_oneof![Just(0x10u8), Just(0x18), Just(0x02), Just(0x11), Just(0x04)].prop_map(Kind::Tcp),
        1 => (0u8..4).prop_map(Kind::HopLimit),
        1 => (1300u16..1472).prop_map(Kind::Length),
        1 => Just(Kind::Options),
        1 => Just(Kind::Fragment),
        1 => Just(Kind::Echo),
        1 => Just(Kind::NoChecksum),
        1 => Just(Kind::Sctp),
        1 => any::<u8>().prop_map(Kind::Damaged),
        1 => Just(Kind::Tagged),
        2 => (0u8..2).prop_map(Kind::Answer),
    ]
}

fn events() -> impl Strategy<Value = Event> {
    let route = prop_oneof![
        Just(Change::Absent),
        Just(Change::Kind(RouteKind::Blackhole)),
        Just(Change::Kind(RouteKind::Prohibit)),
        (0u16..3).prop_map(Change::Via),
    ];
    prop_oneof![
        10 => prop::collection::vec((0u16..2, 0u8..16, kinds()), 1..40).prop_map(Event::Packets),
        2 => (0u8..4, prop::option::of(1u8..4)).prop_map(|(host, mac)| Event::Neighbour(host, mac)),
        2 => (0u8..4, route).prop_map(|(net, change)| Event::Route(net, change)),
        1 => (0..CONFIGS.len()).prop_map(Event::Reload),
        // Whole seconds: what the cache tells of a session's last packet is up to half a second old, so a session may end that much
        // earlier. No packet comes in that half second.
        1 => prop_oneof![1u64..5, 29u64..32, 50u64..200].prop_map(|seconds| Event::Wait(seconds * 1000)),
    ]
}

/// Changes the host; returns what has to be judged again.
fn change(host: &mut HostFacts, event: &Event) -> Vec<Slot> {
    match *event {
        Event::Neighbour(which, mac) => {
            let address =
                ["10.2.0.10", "fd00:2::10", "10.1.0.10", "fd00:1::10"][usize::from(which)].parse().unwrap();
            let port = if which < 2 { 1 } else { 0 };
            host.neighbours.retain(|neighbour| neighbour.address != address);
            if let Some(last) = mac {
                let mac = [2, 7, 7, 7, 7, last];
                host.neighbours.push(NeighbourFacts { port, address, mac, state: "reachable".into() });
            }
            vec![Slot::neighbour(PortId(port), address)]
        }
        Event::Route(net, what) => {
            let prefix = (format!("10.2.{net}.0").parse().unwrap(), 24);
            Arc::make_mut(&mut host.routes).retain(|route| route.prefix != prefix);
            let (kind, hops) = match what {
                Change::Absent => return Slot::of_prefix(prefix.0, prefix.1).collect(),
                Change::Kind(kind) => (kind, Vec::new()),
                Change::Via(port) => {
                    let gateway = Some(format!("10.{}.0.10", port + 1).parse().unwrap());
                    (RouteKind::Unicast, vec![NextHopFacts { port: Some(port), gateway, weight: 1 }])
                }
            };
            let protocol = "static".to_owned();
            Arc::make_mut(&mut host.routes).push(RouteFacts {
                table: 254,
                prefix,
                kind,
                metric: 0,
                protocol,
                next_hops: hops,
            });
            Slot::of_prefix(prefix.0, prefix.1).collect()
        }
        Event::Packets(_) | Event::Reload(_) | Event::Wait(_) => Vec::new(),
    }
}

/// The frames that each port sent, and the figures.
type Observation = (Vec<Vec<Vec<u8>>>, String);

/// Everything that can be seen from outside.
fn observe(bench: &mut Bench) -> Observation {
    // In their order: no packet overtakes another.
    let sent = (0..3).map(|port| bench.sent(PortId(port))).collect();
    let mut figures = String::new();
    for port in &bench.stats.ports {
        let drops: Vec<u64> = port.drops.iter().map(|counter| counter.get()).collect();
        let volumes = [&port.received, &port.sent].map(|volume| (volume.packets.get(), volume.bytes.get()));
        figures.push_str(&format!("{volumes:?} {drops:?}\n"));
    }
    for entry in bench.figures.functions() {
        let (packets, dropped) = (entry.stats.packets.get(), entry.stats.dropped.get());
        figures.push_str(&format!("{} {packets} {dropped}\n", entry.name));
    }
    for entry in bench.figures.chains() {
        let volumes = [&entry.stats.entered, &entry.stats.left]
            .map(|volume| (volume.packets.get(), volume.bytes.get()));
        figures.push_str(&format!("{} {volumes:?}\n", entry.name));
    }
    figures.push_str(&format!(
        "held {} originated {} suppressed {}",
        bench.stats.held.get(),
        bench.stats.originated.get(),
        bench.stats.answers_suppressed.get()
    ));
    (sent, figures)
}

/// Lets the functions be told of all that the cache saw.
fn settle(bench: &mut Bench) {
    for _ in 0..4 {
        bench.now.0 += throughway_vnf::credit::HARVEST / 4;
        bench.round();
    }
}

/// Who looks on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    Nobody,
    Capture,
    Trace,
}

/// A capture of everything, and the drops that were counted before.
struct Onlooker {
    ring: Arc<Ring>,
    dropped: Vec<u64>,
}

impl Onlooker {
    fn new(bench: &mut Bench, traces: bool) -> Self {
        let ring = Arc::new(Ring::new(1024, 2048, traces, 3));
        ring.begin();
        let tap = Box::new(Tap::new(1, Filter::default(), traces, Arc::clone(&ring)));
        assert!(bench.worker.tap(tap, crossbeam::channel::bounded(1).0).is_ok());
        Onlooker { ring, dropped: vec![0; DropReason::COUNT] }
    }

    /// What was written down is what was sent, byte for byte, and every drop that was counted, with its reason.
    fn look(&mut self, bench: &Bench, sent: &[Vec<Vec<u8>>]) {
        let mut written = Vec::new();
        let mut sent: Vec<&[u8]> = sent.iter().flatten().map(Vec::as_slice).collect();
        while let Some(record) = self.ring.next() {
            match record.what {
                What::Sent | What::Answer => written.push(record.bytes().to_vec()),
                What::Dropped(reason) => self.dropped[reason as usize] += 1,
                What::Received | What::Held | What::Given => {}
            }
            self.ring.give_back(record);
        }
        assert!((0..3).all(|port| self.ring.counts(port).1 == 0), "nothing is lost");
        written.sort();
        sent.sort();
        assert_eq!(written, sent);
        for (number, reason) in DropReason::ALL.iter().enumerate() {
            let counted: u64 = (0..3).map(|port| bench.drops(PortId(port), *reason)).sum();
            assert_eq!(self.dropped[number], counted, "{reason:?}");
        }
    }
}

/// What was seen after each event, and how often the cache was hit.
fn run(events: &[Event], flows: u32, tagged: bool, look: Look) -> (Vec<Observation>, u64) {
    let mut host = facts();
    let settings = if tagged { vlans() } else { vec![PortSettings::default(); 3] };
    let mut bench = Bench::with_settings(&config(0, flows), &host, settings);
    let mut onlooker = (look != Look::Nobody).then(|| Onlooker::new(&mut bench, look == Look::Trace));
    let mut seen = Vec::new();
    for event in events {
        match event {
            Event::Packets(packets) => {
                // Known flows of a batch go first: what makes their answers untrue counts from the next one on. So whoever opens
                // a connection does not come together with the answers to it.
                let is_answer = |kind: &Kind| matches!(kind, Kind::Answer(_));
                for answers in [false, true] {
                    for (port, flow, kind) in packets.iter().filter(|packet| is_answer(&packet.2) == answers)
                    {
                        assert!(bench.worker.io().inject(PortId(*port), &frame(*port, *flow, *kind, tagged)));
                    }
                    if !answers {
                        bench.round();
                    }
                }
            }
            Event::Reload(number) => {
                // What the cache has not told yet of a session would be counted for the rule that judges it afterwards.
                settle(&mut bench);
                let (config, _) = Config::parse("test.yaml", &config(*number, flows)).unwrap();
                bench.blueprint = Blueprint::new(&config, &host, &bench.states).unwrap();
                let program = bench.blueprint.program(0, &mut bench.figures);
                drop(bench.worker.install(program));
                bench.blueprint.publish(&bench.states);
                bench.generations.bump([Slot::CONFIG]);
                bench.figures.retain(&config);
                bench.states.retain(&config);
            }
            Event::Wait(milliseconds) => bench.now.0 += milliseconds * 1_000_000,
            Event::Neighbour(..) | Event::Route(..) => {
                let slots = change(&mut host, event);
                for spec in bench.blueprint.routers() {
                    spec.tables.publish(router::tables(&host, &spec.config, None));
                }
                bench.generations.bump(slots);
            }
        }
        bench.round();
        bench.assert_balance();
        let observation = observe(&mut bench);
        if let Some(onlooker) = &mut onlooker {
            onlooker.look(&bench, &observation.0);
        }
        seen.push(observation);
    }
    settle(&mut bench);
    let mut told = String::new();
    for (name, firewall) in bench.states.firewalls() {
        for rule in firewall.rules() {
            told.push_str(&format!("{name} {} {:?}\n", rule.name, rule.stats));
        }
        let mut sessions = Vec::new();
        let mut cursor = Some(Cursor::default());
        while let Some(at) = cursor {
            cursor = firewall.sessions(at, |session| {
                sessions.push(format!(
                    "{} {} {:?} {:?}",
                    session.key, session.state, session.packets, session.bytes
                ));
            });
        }
        sessions.sort();
        told.push_str(&sessions.join("\n"));
    }
    seen.push((Vec::new(), told));
    bench.worker.publish_flows();
    let hits = bench.stats.flows.values[0].get();
    (seen, hits)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_cache_changes_nothing_but_the_price(events in prop::collection::vec(events(), 1..40), tagged: bool) {
        // Nor does it change anything that somebody looks on.
        let (without, none) = run(&events, 0, tagged, Look::Capture);
        prop_assert_eq!(none, 0);
        // A small one, too, so that flows are evicted and refused.
        for (flows, look) in [(16, Look::Nobody), (4096, Look::Nobody), (4096, Look::Capture), (16, Look::Trace)] {
            let (with, _) = run(&events, flows, tagged, look);
            for (index, (with, without)) in with.iter().zip(&without).enumerate() {
                prop_assert_eq!(&with.1, &without.1, "figures after {:?}", events.get(index));
                prop_assert_eq!(&with.0, &without.0, "frames after {:?}", events.get(index));
            }
        }
    }
}

#[test]
fn what_backends_sent_of_their_own_is_an_answer_once_somebody_calls() {
    // 10.2.1.10 is a service at all ports, whose backend 10.2.0.10 sends first.
    let events = [
        Event::Reload(7),
        Event::Packets(vec![(0, 6, Kind::Tcp(0x10))]),
        Event::Packets(vec![(1, 2, Kind::Answer(0))]),
        Event::Packets(vec![(1, 2, Kind::Answer(0)), (0, 6, Kind::Tcp(0x11)), (0, 2, Kind::Plain)]),
        Event::Packets(vec![(1, 2, Kind::Answer(0))]),
    ];
    // fd00:2:1::10 is one whose backends answer by themselves: its connections count as answered.
    let direct = [
        Event::Reload(7),
        Event::Packets(vec![(1, 3, Kind::Answer(1))]),
        Event::Packets(vec![(0, 12, Kind::Plain), (0, 12, Kind::Plain), (0, 3, Kind::Plain)]),
        Event::Packets(vec![(1, 3, Kind::Answer(1))]),
        Event::Packets(vec![(0, 0, Kind::Plain)]),
        Event::Reload(8),
        Event::Packets(vec![(0, 12, Kind::Tcp(0x10))]),
    ];
    for (events, flows) in [(&events[..], 16), (&events, 4096), (&direct, 16), (&direct, 4096)] {
        assert_eq!(run(events, flows, false, Look::Nobody).0, run(events, 0, false, Look::Nobody).0);
    }
}

#[test]
fn the_cache_is_used() {
    let packets = Event::Packets((0..16).map(|flow| (0, flow, Kind::Plain)).collect());
    // Flows to known neighbours: 10.2.0.10 and fd00:2::10 with their two port pairs each.
    for tagged in [false, true] {
        let (_, hits) = run(&vec![packets.clone(); 10], 4096, tagged, Look::Nobody);
        assert!(hits >= 9 * 2, "{hits} hits");
    }
    // Into a tunnel: 10.2.3.10 is a service of another configuration, whose backend is 10.2.0.10.
    let packets = Event::Packets(vec![(0, 6, Kind::Plain)]);
    for tagged in [false, true] {
        let mut events = vec![packets.clone(); 11];
        events.insert(0, Event::Reload(7));
        let (seen, hits) = run(&events, 4096, tagged, Look::Nobody);
        assert_eq!(hits, 9, "the first opens a connection, the second is recorded");
        let sent = |observation: &Observation| observation.0[1].clone();
        assert_eq!((seen[1].0[1].len(), sent(&seen[1])), (1, sent(&seen[11])));
        let outer = throughway_packet::parse(&sent(&seen[11])[0], PortId(1)).unwrap();
        assert_eq!((outer.key.protocol, outer.l3), (4, 14), "in a tunnel, and without the tag");
    }
}
