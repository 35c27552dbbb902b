//! Random traffic: reordered, duplicated, truncated, forged. Nothing panics, every outside end belongs to one inside end at a time,
//! and ports neither leak nor are given twice.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use throughway_nat::rule::{DestinationRule, Filtering, Mapping, Match, Several, SourceRule};
use throughway_nat::{BlockConfig, Filter, MappingView, Options, PoolConfig, Rules, SessionView};
use throughway_packet::build::PacketBuilder;
use throughway_packet::icmp::{IcmpError, MAX_FRAME, build_error};
use throughway_packet::{Headers, PortId, parse};
use throughway_session::Cursor;
use throughway_vnf::save::Lost;
use throughway_vnf::{Batch, Context, Function, Now, Packet, Verdict};
use world::*;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// A host inside sends: host, remote, ports, kind.
    Out(u8, u8, u16, u16, u8),
    /// A host outside sends to an outside end: of a mapping that was seen, or any.
    In(u8, usize, u16, u8),
    /// A frame that was sent before comes again, on either side, cut to a length.
    Again(usize, bool, usize),
    /// … with bytes changed.
    Forged(usize, bool, usize, u8),
    /// An error about a frame that left, in fragments of it, or a fragment of a datagram.
    Error(usize, bool, u8),
    Fragment(u8, u16, u8, bool),
    Wait(u8),
    Clear(u8),
    /// The service is started anew, after so many seconds.
    Restart(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0u8..6, 0u8..4, 0u16..6, 0u16..4, 0u8..12).prop_map(|(a, b, c, d, e)| Step::Out(a, b, c, d, e)),
        5 => (0u8..4, any::<usize>(), 0u16..4, 0u8..8).prop_map(|(a, b, c, d)| Step::In(a, b, c, d)),
        2 => (any::<usize>(), any::<bool>(), 14usize..90).prop_map(|(a, b, c)| Step::Again(a, b, c)),
        2 => (any::<usize>(), any::<bool>(), 14usize..60, any::<u8>()).prop_map(|(a, b, c, d)| Step::Forged(a, b, c, d)),
        2 => (any::<usize>(), any::<bool>(), 0u8..4).prop_map(|(a, b, c)| Step::Error(a, b, c)),
        2 => (0u8..4, 0u16..4, 0u8..3, any::<bool>()).prop_map(|(a, b, c, d)| Step::Fragment(a, b, c, d)),
        2 => (0u8..120).prop_map(Step::Wait),
        1 => (0u8..6).prop_map(Step::Clear),
        1 => (0u8..3).prop_map(|seconds| Step::Restart(seconds * 20)),
    ]
}

fn config() -> impl Strategy<Value = (SourceRule, PoolConfig, bool, Option<u32>)> {
    let mapping = prop_oneof![
        4 => Just(Mapping::EndpointIndependent),
        1 => Just(Mapping::AddressDependent),
        1 => Just(Mapping::AddressAndPortDependent),
    ];
    let filtering = prop_oneof![
        Just(Filtering::EndpointIndependent),
        Just(Filtering::AddressDependent),
        Just(Filtering::AddressAndPortDependent),
    ];
    let blocks = prop_oneof![
        Just(None),
        Just(Some(BlockConfig { size: 4, per_host: 2, hosts: Vec::new() })),
        Just(Some(BlockConfig { size: 2, per_host: 2, hosts: vec![ip("10.0.0.0")..=ip("10.0.0.9")] })),
    ];
    (mapping, filtering, blocks, any::<[bool; 3]>(), proptest::option::of(1u32..12)).prop_map(
        |(mapping, filtering, blocks, [preserve_port, preserve_parity, hairpin], limit)| {
            let rule = SourceRule { mapping, filtering, preserve_port, preserve_parity, ..to_pool() };
            let config = PoolConfig { blocks, ..pool(&["203.0.113.1", "203.0.113.2"], 1024..=1063) };
            (rule, config, hairpin, limit)
        },
    )
}

fn host(number: u8) -> String {
    format!("10.0.0.{number}")
}

fn remote(number: u8) -> String {
    // The last ones are outside addresses of the NAT itself: hairpinning and forged sources.
    ["198.51.100.1", "198.51.100.2", "203.0.113.1", "203.0.113.2"][usize::from(number)].into()
}

fn packet(from: &str, to: &str, ports: (u16, u16), kind: u8) -> PacketBuilder {
    let packet = between(from, to);
    match kind {
        0..=2 => packet.udp(ports.0, ports.1).payload(b"data"),
        3 => packet.tcp(ports.0, ports.1, SYN),
        4 => packet.tcp(ports.0, ports.1, SYN | ACK),
        5 => packet.tcp(ports.0, ports.1, ACK),
        6 => packet.tcp(ports.0, ports.1, 4),
        7 => packet.tcp(ports.0, ports.1, 1 | ACK),
        8 => packet.echo_request(ports.0, 1).payload(b"ping"),
        9 => packet.echo_reply(ports.0, 1),
        10 => packet.sctp(ports.0, ports.1).payload(&[1, 0, 0, 4]),
        _ => packet.protocol(47).payload(b"gre"),
    }
}

/// All mappings, each once.
fn mappings(world: &World) -> Vec<MappingView> {
    let mut all = Vec::new();
    let mut cursor = Some(Cursor::default());
    while let Some(at) = cursor {
        cursor = world.shared.mappings(at, |mapping| all.push(mapping));
    }
    all
}

/// The sessions that still live after `gap` for more than so many ticks less one, as far as a restart leaves them what they are.
fn alive(world: &World, gap: Duration, ticks: u64) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut cursor = Some(Cursor::default());
    while let Some(at) = cursor {
        cursor = world.shared.sessions(at, &Filter::default(), |session| {
            if session.expires.0 + (1 << 26) > world.now + gap.as_nanos() as u64 + (ticks << 26) {
                let SessionView { key, translated, state, class, rule, inbound, mapped, .. } = session;
                all.insert(format!("{key} {translated} {state} {class:?} {rule:?} {inbound} {mapped}"));
            }
        });
    }
    all
}

/// Sends a frame, by turns alone and in a batch of two.
fn send(world: &mut World, ingress: PortId, frame: &[u8]) -> Option<(Verdict, Vec<u8>, Headers)> {
    parse(frame, ingress).ok()?;
    Some(world.pass(ingress, frame))
}

fn check(world: &World) {
    let all = mappings(world);
    let mut outside = BTreeMap::new();
    for mapping in &all {
        assert!(mapping.sessions > 0, "a mapping without sessions: {mapping:?}");
        let end = (mapping.protocol, mapping.outside);
        let before = outside.insert(end, mapping.inside);
        assert!(before.is_none(), "{end:?} belongs to {before:?} and {:?}", mapping.inside);
    }
    let rules = world.rules.read();
    let usage = rules.pools[0].usage(world.now);
    assert_eq!(usage.total().taken, all.len(), "ports in use and mappings");
    assert_eq!(world.shared.len().1 as usize, all.len());
    let mut sum = 0;
    rules.pools[0].blocks(|_, mappings| sum += mappings as usize);
    if usage.blocks.0 > 0 {
        assert_eq!(sum, all.len(), "mappings in blocks");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_every_outside_end_has_one_inside_end(
        (rule, pool, hairpin, limit) in config(),
        steps in proptest::collection::vec(step(), 1..250),
    ) {
        let options = Options { half_open: 12, datagrams: 4, ..Options::new(40, [7, 9]) };
        let forward = DestinationRule {
            matches: Match {
                destination: Several::of([ip("203.0.113.1")..=ip("203.0.113.1")]),
                protocols: Several::of([6]),
                destination_ports: Several::of([1..=1]),
                ..Match::default()
            },
            to: "10.0.0.3/32".parse().unwrap(),
            port: None,
            twice: None,
        };
        let (made, pools) = rules(vec![rule], vec![pool]);
        let made = Rules { hairpin, sessions_per_host: limit, destination: vec![forward], ..made };
        let mut world = World::with(options, (made, pools));
        let mut sent: Vec<(bool, Vec<u8>)> = Vec::new();
        let mut ends: BTreeSet<(IpAddr, u16)> = BTreeSet::new();
        for step in steps {
            let (ingress, frame) = match step {
                Step::Out(from, to, source, destination, kind) => {
                    let destination = if to >= 2 && !ends.is_empty() {
                        ends.iter().nth(usize::from(destination) % ends.len()).map_or(1, |end| end.1)
                    } else {
                        destination + 1
                    };
                    (INSIDE, packet(&host(from), &remote(to), (source + 1024, destination), kind).finish())
                }
                Step::In(from, end, port, kind) => {
                    let (address, to) = match ends.iter().nth(end % (ends.len() + 1)) {
                        Some(end) => *end,
                        None => (ip("203.0.113.1"), port),
                    };
                    (OUTSIDE, packet(&remote(from), &address.to_string(), (port + 1, to), kind).finish())
                }
                Step::Again(at, outside, len) => {
                    let Some((_, frame)) = sent.get(at % sent.len().max(1)) else { continue };
                    let len = len.min(frame.len());
                    (if outside { OUTSIDE } else { INSIDE }, frame[..len].to_vec())
                }
                Step::Forged(at, outside, byte, value) => {
                    let Some((_, frame)) = sent.get(at % sent.len().max(1)) else { continue };
                    let mut frame = frame.clone();
                    let at = byte % frame.len();
                    frame[at] = value;
                    // So that more than the IPv4 header checksum is tried.
                    if frame.len() >= 34 && frame[14] == 0x45 {
                        frame[24..26].fill(0);
                        let sum = !throughway_packet::checksum::sum(&frame[14..34]);
                        frame[24..26].copy_from_slice(&sum.to_be_bytes());
                    }
                    (if outside { OUTSIDE } else { INSIDE }, frame)
                }
                Step::Error(at, outside, from) => {
                    let Some((_, frame)) = sent.get(at % sent.len().max(1)) else { continue };
                    let Ok(headers) = parse(frame, OUTSIDE) else { continue };
                    let mut out = [0; MAX_FRAME];
                    let reporter = if from == 0 { headers.destination() } else { ip(&remote(from)) };
                    let made = build_error(frame, &headers, IcmpError::HostUnreachable, reporter, &mut out);
                    let Some(len) = made else { continue };
                    (if outside { OUTSIDE } else { INSIDE }, out[..len].to_vec())
                }
                Step::Fragment(from, id, at, outside) => {
                    let (from, to) = if outside {
                        let Some(end) = ends.first() else { continue };
                        (remote(from), end.0.to_string())
                    } else {
                        (host(from), remote(0))
                    };
                    let port = ends.first().map_or(1, |end| end.1);
                    let ports = if outside { (1, port) } else { (1024, 1) };
                    let whole = between(&from, &to).identification(id.into()).udp(ports.0, ports.1);
                    let parts = whole.payload(&[3; 100]).fragments(48);
                    let ingress = if outside { OUTSIDE } else { INSIDE };
                    (ingress, parts[usize::from(at)].clone())
                }
                Step::Wait(seconds) => {
                    world.now += u64::from(seconds) * SECOND;
                    world.wait(1);
                    check(&world);
                    continue;
                }
                Step::Clear(number) => {
                    let address = ip(&host(number));
                    let filter = Filter { address: Some(address..=address), ..Filter::default() };
                    let mut cursor = Some(Cursor::default());
                    while let Some(at) = cursor {
                        cursor = world.shared.clear(at, &filter, Now(world.now), |_| ());
                    }
                    check(&world);
                    continue;
                }
                Step::Restart(seconds) => {
                    let gap = Duration::from_secs(seconds.into());
                    // Deadlines are kept in ticks: what ends just then may be there or not.
                    let [surely, perhaps] = [3, 0].map(|ticks| alive(&world, gap, ticks));
                    let (next, restored) = world.restarted(gap);
                    world = next;
                    prop_assert!(restored.all_lost() == restored.lost[Lost::Expired as usize]);
                    // By the clock of the new instance, which is the old one's here.
                    let there = alive(&world, Duration::ZERO, 0);
                    prop_assert_eq!(restored.sessions, there.len() as u64);
                    prop_assert!(surely.is_subset(&there) && there.is_subset(&perhaps), "{:?} {:?} {:?}", surely, there, perhaps);
                    check(&world);
                    continue;
                }
            };
            if let Some((verdict, left, seen)) = send(&mut world, ingress, &frame) {
                if verdict == Verdict::Continue && ingress == INSIDE && seen.source().to_string().starts_with("203.") {
                    ends.insert(source_of(&seen));
                }
                if verdict == Verdict::Continue {
                    sent.push((ingress == OUTSIDE, left));
                }
                sent.push((ingress == INSIDE, frame));
            }
            let (sessions, mappings) = world.shared.len();
            prop_assert!(sessions <= 40 && mappings <= 80, "{sessions} {mappings}");
            check(&world);
        }
        // After all timeouts everything is free again.
        world.now += 9000 * SECOND;
        world.wait(10);
        world.now += 200 * SECOND;
        world.wait(20);
        prop_assert_eq!(world.shared.len(), (0, 0));
        prop_assert_eq!(world.shared.peers(), 0);
        let usage = world.rules.read().pools[0].usage(world.now);
        prop_assert_eq!((usage.total().taken, usage.total().resting), (0, 0));
        prop_assert_eq!(usage.blocks.0, usage.blocks.1);
    }

    /// A batch is judged as its packets one by one. Where there are many ports, some are taken ahead: then who could keep his own port
    /// may be another one.
    #[test]
    fn batches_say_what_single_packets_say(
        (rule, pool, hairpin, limit) in config(),
        many: bool,
        sends in proptest::collection::vec((0u8..6, 0u8..2, 0u16..6, 0u16..4, 0u8..12), 1..60),
    ) {
        let frames: Vec<_> = sends
            .iter()
            .map(|(from, to, source, port, kind)| {
                packet(&host(*from), &remote(*to), (source + 1024, port + 1), *kind).finish()
            })
            .collect();
        let pool = if many { PoolConfig { ports: 1024..=65535, blocks: None, ..pool } } else { pool };
        let mut worlds = [0, 1].map(|_| {
            let (made, pools) = rules(vec![rule.clone()], vec![pool.clone()]);
            World::new((Rules { hairpin, sessions_per_host: limit, ..made }, pools))
        });
        let context = Context { now: Now(worlds[0].now) };
        let mut batch = Batch::new();
        for frame in &frames {
            let packet = Packet::new(frame, parse(frame, INSIDE).unwrap());
            prop_assert!(batch.push(packet).is_ok());
        }
        worlds[0].nat.process(&mut batch, &context);
        for (frame, batched) in frames.iter().zip(batch.packets()) {
            let mut alone = Packet::new(frame, parse(frame, INSIDE).unwrap());
            let verdict = worlds[1].nat.judge(&mut alone, &context);
            alone.settle(verdict);
            prop_assert_eq!(alone.state(), batched.state());
            if !many {
                prop_assert_eq!(alone.action(), batched.action());
            }
            let addresses = |packet: &Packet<'_>| (packet.headers().source(), packet.headers().destination());
            prop_assert_eq!(addresses(&alone), addresses(batched));
        }
        let [batched, alone] = worlds.each_ref().map(|world| {
            let usage = world.rules.read().pools[0].usage(world.now);
            (world.shared.len(), world.shared.peers(), usage.total(), usage.refused)
        });
        prop_assert_eq!(batched, alone);
        check(&worlds[0]);
    }
}
