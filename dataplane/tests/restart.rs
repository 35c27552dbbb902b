//! Two instances side by side: the one that goes on and the one that has taken over its sessions do the same to every packet.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use common::{Bench, LAN, WAN, facts};
use throughway::app::restart::{self, Report};
use throughway::app::saved::{self, Stamp};
use throughway::clock;
use throughway_config::Config;
use throughway_packet::build::PacketBuilder;
use throughway_packet::headers::octets;
use throughway_packet::{PortId, parse};
use throughway_vnf::save::{Record, Sink};

const SYN: u8 = 2;
const ACK: u8 = 16;

const CONFIG: &str = "\
interfaces: { lan: { device: lan0 }, wan: { device: wan0 }, dmz: { device: dmz0 } }
functions:
  edge: { firewall: { default: drop, rules: [ { name: inside, allow: { from: lan } } ] } }
  front:
    load-balancer:
      services:
        - { name: web, vip: 198.51.100.80, port: 80, protocol: tcp, affinity: source, affinity-timeout: 5m, \
            backends: [ { address: 10.2.0.10, port: 8001 }, { address: 10.2.0.10, port: 8002 }, { address: 10.2.0.10, port: 8003 } ] }
  outer:
    nat:
      outside: wan
      source:
        - { match: { source: 10.1.0.0/16, protocol: udp }, pool: 203.0.113.8-203.0.113.9, block-size: 64, filtering: address-dependent }
        - { match: { source: 10.1.0.0/16 }, masquerade: true }
        - { match: { source: 'fd00:1::/64' }, masquerade: true }
  core: { router: {} }
chains:
  outbound: { from: lan, run: [edge, front, outer, core] }
  inbound: { from: [wan, dmz], run: [outer, front, edge, core] }
";

/// A file in a folder of its own, gone afterwards.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let folder = std::env::temp_dir().join(format!("throughway-restart-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Place(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("sessions")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An instance by the real clock, which is the one that tells how old sessions are.
fn instance(config: &str) -> Bench {
    let mut bench = Bench::new(config, &facts());
    bench.blueprint.publish(&bench.states);
    bench.now = clock::now();
    bench
}

fn save(bench: &mut Bench, place: &Place, config: &str) {
    bench.worker.tell_all_seen();
    restart::save(&place.file(), &Config::parse("a.yaml", config).unwrap().0, &bench.states);
}

fn restore(bench: &Bench, place: &Place, config: &str) -> Report {
    restart::restore(&place.file(), &Config::parse("a.yaml", config).unwrap().0, &bench.states, || {})
}

/// What comes out on all ports.
fn through(bench: &mut Bench, port: PortId, frame: &[u8]) -> Vec<(PortId, Vec<u8>)> {
    bench.receive(port, frame);
    let out =
        (0..3).map(PortId).flat_map(|port| bench.sent(port).into_iter().map(move |frame| (port, frame)));
    out.collect()
}

/// What the receiver of a frame answers, with these flags if it is TCP.
fn answer(frame: &[u8], flags: u8) -> Vec<u8> {
    let headers = parse(frame, WAN).unwrap();
    let (to, from) = (headers.source_port(), headers.destination_port());
    let back = PacketBuilder::between(headers.destination(), headers.source());
    match headers.key.protocol {
        6 => back.tcp(from, to, flags),
        17 => back.udp(from, to),
        _ => back.echo_reply(to, 1),
    }
    .finish()
}

/// Clients of both families: frames that open something, and those that follow.
fn clients() -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    for client in 0..8u16 {
        // The one neighbour that is known.
        let (port, host) = (4000 + client, 10);
        for (from, to) in [
            (format!("10.1.0.{host}"), "10.2.0.10".to_owned()),
            (format!("fd00:1::{host}"), "fd00:2::10".to_owned()),
        ] {
            let packet = || PacketBuilder::between(from.parse().unwrap(), to.parse().unwrap());
            let tcp = |flags| packet().tcp(port, 443, flags).finish();
            all.push((tcp(SYN), tcp(ACK)));
            all.push((packet().udp(port, 53).finish(), packet().udp(port, 53).finish()));
            all.push((packet().echo_request(port, 1).finish(), packet().echo_request(port, 1).finish()));
        }
        let vip = || {
            PacketBuilder::between(
                format!("10.1.0.{host}").parse().unwrap(),
                "198.51.100.80".parse().unwrap(),
            )
        };
        all.push((vip().tcp(port, 80, SYN).finish(), vip().tcp(port, 80, ACK).finish()));
    }
    all
}

/// Opens everything; the answers as the receivers send them.
fn open(bench: &mut Bench) -> Vec<Vec<u8>> {
    let mut answers = Vec::new();
    for (first, next) in clients() {
        let [(WAN, sent)] = &through(bench, LAN, &first)[..] else { unreachable!("it goes out") };
        assert_eq!(through(bench, WAN, &answer(sent, SYN | ACK)).len(), 1, "the answer comes in");
        let again = through(bench, LAN, &next);
        answers.push(answer(&again[0].1, ACK));
    }
    answers
}

#[test]
fn the_next_instance_does_to_every_packet_what_the_last_one_would_have_done() {
    let place = Place::new("same");
    let mut before = instance(CONFIG);
    let answers = open(&mut before);
    save(&mut before, &place, CONFIG);
    // Other rules that let the same in, and backends in another order with one more.
    let changed = CONFIG
        .replace("[ { name: inside,", "[ { drop: { source: 192.0.2.1 } }, { name: inside,")
        .replace("backends: [ ", "backends: [ { address: 10.2.0.10, port: 8009 }, ");
    for config in [CONFIG, &changed] {
        let copy = Place::new("copy");
        std::fs::copy(place.file(), copy.file()).unwrap();
        let mut after = instance(config);
        let report = restore(&after, &copy, config);
        let told: Vec<_> =
            report.functions.iter().map(|of| (of.name.as_str(), of.restored.sessions)).collect();
        assert_eq!(told, [("edge", 56), ("outer", 56), ("front", 8)]);
        assert!(report.functions.iter().all(|of| of.restored.all_lost() == 0), "{report:?}");
        before.now = before.now.max(clock::now());
        after.now = before.now;
        for ((_, next), answer) in clients().iter().zip(&answers) {
            for (port, frame) in [(WAN, answer), (LAN, next), (WAN, answer), (LAN, next)] {
                let sent = through(&mut before, port, frame);
                assert_eq!(sent.len(), 1);
                assert_eq!(through(&mut after, port, frame), sent);
            }
        }
        // The second of each took the short way in both.
        after.assert_balance();
        // New clients appear under outside ends that nobody has, and affinity is remembered.
        let mut ends = std::collections::HashSet::new();
        for (first, _) in clients() {
            let mut frame = first;
            // Another port of the client's.
            let at = if frame[12] == 8 { 34 } else { 54 };
            frame[at] ^= 0x40;
            let known = parse(&frame, LAN).unwrap();
            if known.key.protocol == 17 {
                let packet = PacketBuilder::between(known.source(), known.destination());
                let sent = through(&mut after, LAN, &packet.udp(known.source_port(), 53).finish());
                let seen = parse(&sent[0].1, WAN).unwrap();
                assert!(ends.insert((seen.source(), seen.source_port())));
            }
        }
        assert!(answers.iter().all(|answer| {
            let headers = parse(answer, WAN).unwrap();
            headers.key.protocol != 17 || !ends.contains(&(headers.destination(), headers.destination_port()))
        }));
    }
}

#[test]
fn what_is_gone_is_counted_and_the_rest_goes_on() {
    let place = Place::new("gone");
    let mut before = instance(CONFIG);
    open(&mut before);
    save(&mut before, &place, CONFIG);
    let without =
        CONFIG.replace("  front:", "  other:").replace("[edge, front, outer", "[edge, other, outer");
    let without = without
        .replace("[outer, front, edge", "[outer, other, edge")
        .replace("203.0.113.8-203.0.113.9, block-size: 64", "203.0.113.20-203.0.113.21, block-size: 64");
    let after = instance(&without);
    let report = restore(&after, &place, &without);
    let lost: Vec<_> = report
        .functions
        .iter()
        .map(|of| (of.name.as_str(), of.restored.sessions, of.restored.all_lost()))
        .collect();
    assert_eq!(lost, [("edge", 56, 0), ("outer", 48, 8), ("front", 0, 8)]);
    assert!(!place.file().exists());
    // There is nothing the second time.
    assert!(restore(&after, &place, &without).functions.is_empty());
    // Switched off, nothing is written, and what is there is not used.
    let off = format!("{CONFIG}at-stop: {{ sessions: 0s }}\n");
    save(&mut before, &place, CONFIG);
    assert_eq!(restore(&after, &place, &off).refused.map(|(label, _)| label), Some("unwanted"));
    save(&mut before, &place, &off);
    assert!(!place.file().exists());
}

/// A record of a NAT: a block of ports that a host has (`vnf/nat/src/save.rs`).
const BLOCK: u8 = 2;

#[test]
fn however_many_blocks_do_not_come_back_each_is_told_of() {
    const BLOCKS: u32 = 20_000;
    let place = Place::new("blocks");
    let address = |bits: u32| octets(IpAddr::V4(Ipv4Addr::from_bits(bits)));
    // Of an address that no pool has any more.
    let outside = address(u32::from_be_bytes([203, 0, 113, 77]));
    let write = |sink: &mut dyn Sink| {
        let mut record = Record::default();
        for host in 0..BLOCKS {
            record.begin(BLOCK).bytes(&address(0x0a01_0000 + host)).bytes(&outside);
            record.number(1024u16).number(1087u16).span(Duration::ZERO);
            assert!(sink.put(record.as_bytes()));
        }
    };
    let stamp = Stamp::now().unwrap();
    saved::save(&place.file(), &stamp, &[], |writer| writer.section("nat", "outer", write)).unwrap();
    let next = instance(CONFIG);
    let (events, mut told) = (next.states.events(), 0);
    let config = Config::parse("a.yaml", CONFIG).unwrap().0;
    let mut take = || told += std::iter::from_fn(|| events.take()).count();
    restart::restore(&place.file(), &config, &next.states, &mut take);
    take();
    assert_eq!((told, events.lost()), (BLOCKS as usize, 0));
}
