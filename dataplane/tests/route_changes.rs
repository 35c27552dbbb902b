//! Hundreds of thousands of route changes go into force by the way that the mirror's go, while a worker forwards: every packet
//! is counted, none is lost, and each goes by a route that its prefix had.

#![allow(clippy::unwrap_used, reason = "a failed test")]

mod common;

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Bench, DMZ, HOST_LAN, HOST_WAN, LAN, WAN, facts};
use throughway::host::{HostFacts, NeighbourFacts};
use throughway::rib::{Kernel, PortMap, Rib};
use throughway_flow::Generations;
use throughway_kernel::Routes;
use throughway_kernel::model::{self, RouteKey};
use throughway_packet::build::PacketBuilder;
use throughway_packet::{PortId, Prefix};

const CONFIG: &str = "\
interfaces: { lan: { device: lan0 }, wan: { device: wan0 }, dmz: { device: dmz0 } }
functions:
  core: { router: { routes: [ { prefix: 20.0.0.0/8, blackhole: true }, { prefix: 2001:db8::/32, blackhole: true } ] } }
chains: { all: { from: [lan, wan, dmz], run: [core] } }
";

const BOX_LAN: [u8; 6] = [2, 0, 0, 0, 0, 0];
const HOST_DMZ: [u8; 6] = [2, 0, 0, 0, 3, 0x10];

/// Prefixes of each family that change, and how often each of them does. In a debug build memory is used again after a few changes,
/// so that they cost far more.
const PREFIXES: u32 = 20_000;
const ROUNDS: u32 = if cfg!(debug_assertions) { 1 } else { 25 };
/// Changes that are news at one time.
const AT_ONCE: usize = 512;
/// Packets on their way at one time.
const BURST: u32 = 64;

/// A /24 or a /48, and what lies within it and comes and goes: a /25 or a /56.
fn prefix(number: u32, six: bool, inner: bool) -> Prefix {
    let inner = u8::from(inner);
    let (address, len) = if six {
        let site = u128::from(number) << 80;
        (IpAddr::from(Ipv6Addr::from_bits(0x2001_0db8 << 96 | site)), 48 + 8 * inner)
    } else {
        (IpAddr::from(Ipv4Addr::from_bits(20 << 24 | number << 8)), 24 + inner)
    };
    Prefix::new(address, len).unwrap()
}

/// One in four has another within, which comes and goes; of all others the gateway changes.
const fn is_nested(number: u32) -> bool {
    number % 4 == 3
}

/// Where packets go after a round.
const fn port(number: u32, round: u32) -> PortId {
    let odd = if is_nested(number) { round % 2 == 1 } else { (number + round) % 2 == 1 };
    if odd { DMZ } else { WAN }
}

fn key(prefix: Prefix) -> RouteKey {
    let prefix = model::Prefix { address: prefix.address(), len: prefix.len() };
    RouteKey { table: 254, prefix, source: None, tos: 0, metric: 0 }
}

/// By the host behind a port.
fn via(port: PortId, six: bool) -> Arc<model::Route> {
    let number = port.0 + 1;
    let gateway = if six { format!("fd00:{number}::10") } else { format!("10.{number}.0.10") };
    let hop = model::NextHop::new(Some(gateway.parse().unwrap()), Some(u32::from(number)));
    Arc::new(model::Route { next_hops: vec![hop], ..model::Route::default() })
}

/// What the thread that follows the kernel does with news of routes.
struct Follower {
    routes: Routes,
    ports: PortMap,
    rib: Arc<Mutex<Rib>>,
    generations: Arc<Generations>,
}

impl Follower {
    fn apply(&mut self, news: impl IntoIterator<Item = (Prefix, Option<Arc<model::Route>>)>) -> usize {
        let mut prefixes = Vec::new();
        for (prefix, route) in news {
            self.routes.set(key(prefix), route.into_iter().collect());
            prefixes.push(prefix);
        }
        let count = prefixes.len();
        let mut rib = self.rib.lock().unwrap();
        rib.update(Kernel { routes: &self.routes, ports: &self.ports }, prefixes);
        let slots = rib.take_changes();
        drop(rib);
        self.generations.bump(slots);
        count
    }

    fn round(&mut self, round: u32) -> usize {
        let all: Vec<(u32, bool)> =
            (0..PREFIXES).flat_map(|number| [false, true].map(|six| (number, six))).collect();
        let change = |&(number, six): &(u32, bool)| {
            let to = port(number, round);
            let nested = is_nested(number);
            (prefix(number, six, nested), (!nested || to == DMZ).then(|| via(to, six)))
        };
        all.chunks(AT_ONCE).map(|some| self.apply(some.iter().map(change))).sum()
    }
}

fn host() -> HostFacts {
    let mut host = facts();
    for (port, ifindex) in host.ports.iter_mut().zip(1..) {
        port.ifindex = ifindex;
    }
    for address in ["10.3.0.10", "fd00:3::10"] {
        let address = address.parse().unwrap();
        host.neighbours.push(NeighbourFacts {
            port: DMZ.0,
            address,
            mac: HOST_DMZ,
            state: "reachable".to_owned(),
        });
    }
    host
}

fn packet(number: u32, six: bool) -> Vec<u8> {
    let packet = match prefix(number, six, false).address() {
        IpAddr::V4(first) => PacketBuilder::ipv4([10, 1, 0, 10], (first.to_bits() + 7).to_be_bytes()),
        IpAddr::V6(first) => {
            let source = IpAddr::from(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x10));
            PacketBuilder::between(source, Ipv6Addr::from_bits(first.to_bits() + 7).into())
        }
    };
    packet.ethernet(BOX_LAN, HOST_LAN).udp(4000, 4000).finish()
}

/// How long this thread was on a processor: the machine may be shared.
fn on_processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Sends a packet to each of these and says where each went, in their order: to the host behind a port.
fn forward(bench: &mut Bench, packets: &[Vec<u8>]) -> Vec<PortId> {
    for packet in packets {
        assert!(bench.worker.io().inject(LAN, packet));
    }
    bench.now.0 += 10_000;
    let now = bench.now;
    while bench.worker.round(now) > 0 {}
    let mut ways = vec![None; packets.len()];
    for (port, mac) in [(WAN, HOST_WAN), (DMZ, HOST_DMZ)] {
        bench.worker.io().drain_sent(port, |frame| {
            assert_eq!(frame[..6], mac, "the neighbour of the port that it leaves by");
            // Addresses do not change on the way; all that do are before them.
            let at = if frame[12] == 0x86 { 22 } else { 26 };
            let number = packets.iter().position(|packet| packet[at..] == frame[at..]).unwrap();
            assert_eq!(ways[number].replace(port), None, "once");
        });
    }
    let lost = ways.iter().filter(|way| way.is_none()).count();
    assert_eq!(lost, 0, "packets are lost");
    ways.into_iter().flatten().collect()
}

#[test]
fn changes_of_routes_lose_no_packet_and_are_in_force_when_they_are_told() {
    let host = host();
    let mut bench = Bench::new(CONFIG, &host);
    let mut follower = Follower {
        routes: Routes::default(),
        ports: PortMap::of(&host),
        rib: Arc::clone(&bench.blueprint.routers()[0].rib),
        generations: Arc::clone(&bench.generations),
    };
    let outer = (0..PREFIXES)
        .filter(|number| is_nested(*number))
        .flat_map(|number| [(number, false), (number, true)]);
    follower.apply(outer.map(|(number, six)| (prefix(number, six, false), Some(via(WAN, six)))));
    follower.round(0);

    let done = AtomicBool::new(false);
    // Neighbouring flows meet at different times of a round; many are in the flow cache, many not.
    let burst = |turn: u32| -> Vec<(u32, bool)> {
        let flow = |at: u32| ((turn % 257 * 78 + at * 311) % PREFIXES, at.is_multiple_of(2));
        (0..BURST).map(flow).collect()
    };
    let (mut forwarded, mut by) = (0, [0; 3]);
    let mut follower = std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            let (begun, busy) = (Instant::now(), on_processor());
            let count: usize = (1..=ROUNDS).map(|round| follower.round(round)).sum();
            let busy = on_processor() - busy;
            done.store(true, Ordering::Release);
            (follower, count, begun.elapsed(), busy)
        });
        let mut turn = 0;
        while !done.load(Ordering::Acquire) {
            let packets: Vec<_> = burst(turn).into_iter().map(|(number, six)| packet(number, six)).collect();
            for way in forward(&mut bench, &packets) {
                by[way.index()] += 1;
                forwarded += 1;
            }
            turn += 1;
        }
        let (follower, count, took, busy) = changes.join().unwrap();
        let [rate, own] = [took, busy].map(|time| count as f64 / time.as_secs_f64());
        let _ = writeln!(
            std::io::stderr(),
            "{count} changes, {rate:.0} a second, {own:.0} a second of processor time, while a worker forwarded {forwarded} packets: \
             {} to one side, {} to the other",
            by[WAN.index()],
            by[DMZ.index()]
        );
        assert_eq!(count, (2 * PREFIXES * ROUNDS) as usize);
        follower
    });
    assert!(by[WAN.index()] > 0 && by[DMZ.index()] > 0, "both ways were used: {by:?}");
    // What was told holds, for flows that the cache knows and for others.
    for round in [ROUNDS, ROUNDS + 1] {
        if round > ROUNDS {
            follower.round(round);
        }
        for turn in 0..257 {
            let flows = burst(turn);
            let packets: Vec<_> = flows.iter().map(|(number, six)| packet(*number, *six)).collect();
            let expected: Vec<_> = flows.iter().map(|(number, _)| port(*number, round)).collect();
            assert_eq!(forward(&mut bench, &packets), expected);
        }
    }
    bench.assert_balance();
}
