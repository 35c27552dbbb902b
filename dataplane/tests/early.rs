//! Fragments that come before the first one of their datagram: what every function makes of them, over ports in memory.

#![allow(clippy::unwrap_used, reason = "a failed test")]

mod common;

use proptest::prelude::*;

use common::{Bench, HOST_LAN, HOST_WAN, LAN, WAN, facts};
use throughway::worker::early::{CAPACITY, ELSEWHERE, PATIENCE};
use throughway_packet::PortId;
use throughway_packet::build::PacketBuilder;
use throughway_vnf::DropReason;

const INTERFACES: &str =
    "interfaces: { lan: { device: lan0 }, wan: { device: wan0 }, dmz: { device: dmz0 } }\n";
const CHAINS: &str = "chains: { outbound: { from: lan, run: [first, core] }, inbound: { from: [wan, dmz], run: [first, core] } }\n";
const BOX_LAN: [u8; 6] = [2, 0, 0, 0, 0, 0];
const BOX_WAN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const INSIDE: [u8; 4] = [10, 1, 0, 10];
const OUTSIDE: [u8; 4] = [10, 2, 0, 10];

fn bench(function: &str) -> Bench {
    let functions = format!("functions: {{ core: {{ router: {{}} }}, first: {{ {function} }} }}\n");
    Bench::new(&format!("{INTERFACES}{functions}{CHAINS}"), &facts())
}

/// A datagram of some length in fragments, and how they leave.
fn datagram(id: u16, source: [u8; 4], to: [u8; 4], leaves: ([u8; 4], [u8; 4])) -> [Vec<Vec<u8>>; 2] {
    let content: Vec<u8> = (0..5000_u32).map(|at| (at * 7) as u8).collect();
    let parts = |from: [u8; 4], to: [u8; 4]| {
        PacketBuilder::ipv4(from, to).identification(id.into()).udp(5004, 53).payload(&content)
    };
    [
        parts(source, to).ethernet(BOX_LAN, HOST_LAN).hop_limit(64).fragments(1200),
        parts(leaves.0, leaves.1).ethernet(HOST_WAN, BOX_WAN).hop_limit(63).fragments(1200),
    ]
}

fn lan_to_wan(id: u16) -> [Vec<Vec<u8>>; 2] {
    datagram(id, INSIDE, OUTSIDE, (INSIDE, OUTSIDE))
}

fn figures(bench: &Bench) -> Vec<(String, u64, u64)> {
    let entries = bench.figures.functions();
    entries
        .iter()
        .map(|entry| (entry.name.clone(), entry.stats.packets.get(), entry.stats.dropped.get()))
        .collect()
}

const FIREWALL: &str = "firewall: { default: drop, rules: [ { allow: { protocol: udp } } ] }";
const NAT: &str = "nat: { outside: wan, source: [ { match: {}, pool: 10.2.0.77, preserve-port: true } ] }";
const BALANCER: &str = "load-balancer: { services: [ { vip: 10.2.0.99, port: 53, protocol: udp, forward: nat, backends: [ { address: 10.2.0.10, port: 53 } ] } ] }";

/// In this order fragments come in, `parts[0]` being the first; all leave, byte for byte as they would have in order.
fn passes_in_every_order(function: &str, to: [u8; 4], leaves: ([u8; 4], [u8; 4])) {
    let mut bench = bench(function);
    for (id, order) in [[4, 3, 2, 1, 0], [2, 1, 0, 4, 3], [0, 4, 3, 2, 1], [3, 0, 1, 2, 4]].iter().enumerate()
    {
        let [parts, mut expected] = datagram(id as u16 + 1, INSIDE, to, leaves);
        assert_eq!(parts.len(), order.len());
        let before = order.iter().take_while(|at| **at != 0).count();
        for at in &order[..before] {
            bench.receive(LAN, &parts[*at]);
            assert!(bench.sent(WAN).is_empty(), "{function}: a fragment went on before its first one");
        }
        assert_eq!(bench.stats.held_fragments.get(), before as u64, "{function}");
        bench.assert_balance();
        for at in &order[before..] {
            bench.receive(LAN, &parts[*at]);
        }
        let mut sent = bench.sent(WAN);
        sent.sort_unstable();
        expected.sort_unstable();
        assert_eq!(sent, expected, "{function} {order:?}");
        assert_eq!(bench.stats.held_fragments.get(), 0);
        bench.assert_balance();
    }
    for (function, packets, dropped) in figures(&bench) {
        assert_eq!((packets, dropped), (20, 0), "each is counted once: {function}");
    }
    assert_eq!(bench.drops(LAN, DropReason::FragmentBeforeFirst), 0);
}

#[test]
fn the_firewall_judges_them_when_their_first_has_come() {
    passes_in_every_order(FIREWALL, OUTSIDE, (INSIDE, OUTSIDE));
}

#[test]
fn the_nat_translates_them_when_their_first_has_come() {
    passes_in_every_order(NAT, OUTSIDE, ([10, 2, 0, 77], OUTSIDE));
}

#[test]
fn the_load_balancer_sends_them_after_their_first() {
    passes_in_every_order(BALANCER, [10, 2, 0, 99], (INSIDE, OUTSIDE));
}

#[test]
fn all_of_a_batch_leave_and_the_first_goes_first() {
    let mut bench = bench(NAT);
    let [parts, expected] = datagram(9, INSIDE, OUTSIDE, ([10, 2, 0, 77], OUTSIDE));
    for at in [2, 1, 0, 3, 4] {
        assert!(bench.worker.io().inject(LAN, &parts[at]));
    }
    bench.round();
    let sent = bench.sent(WAN);
    let in_order: Vec<_> = [0, 3, 4, 2, 1].map(|at: usize| expected[at].clone()).into();
    assert_eq!(sent, in_order);
    bench.assert_balance();
}

#[test]
fn they_share_the_fate_of_a_first_that_is_dropped() {
    let mut bench = bench("firewall: { default: drop, rules: [ { allow: { protocol: tcp } } ] }");
    let [parts, _] = lan_to_wan(1);
    bench.receive(LAN, &parts[1]);
    bench.receive(LAN, &parts[0]);
    assert_eq!(bench.drops(LAN, DropReason::FirewallDefault), 2);
    assert_eq!(bench.stats.held_fragments.get(), 0);
    bench.assert_balance();
}

#[test]
fn copies_and_overlaps_end_as_they_do_in_order() {
    let mut bench = bench(FIREWALL);
    let [parts, expected] = lan_to_wan(1);
    for at in [2, 2, 1, 0] {
        bench.receive(LAN, &parts[at]);
    }
    assert_eq!(bench.sent(WAN), [0, 2, 1].map(|at: usize| expected[at].clone()));
    assert_eq!(bench.drops(LAN, DropReason::DuplicateFragment), 1);
    bench.assert_balance();
}

#[test]
fn who_waits_in_vain_is_dropped_and_counted_once() {
    for function in [FIREWALL, NAT] {
        let mut bench = bench(function);
        let [parts, _] = lan_to_wan(1);
        bench.receive(LAN, &parts[1]);
        bench.now.0 += PATIENCE - 10_000_000;
        bench.round();
        assert_eq!(bench.drops(LAN, DropReason::FragmentBeforeFirst), 0, "not yet");
        bench.now.0 += 10_000_000;
        bench.round();
        assert_eq!(bench.drops(LAN, DropReason::FragmentBeforeFirst), 1);
        let dropped: Vec<_> = figures(&bench).into_iter().filter(|figures| figures.2 > 0).collect();
        assert!(matches!(&dropped[..], [(name, 1, 1)] if name.contains("first")), "{dropped:?}");
        bench.assert_balance();
    }
}

#[test]
fn the_oldest_makes_room() {
    let mut bench = bench(NAT);
    for id in 0..CAPACITY as u16 + 10 {
        let [parts, _] = datagram(id, INSIDE, OUTSIDE, (INSIDE, OUTSIDE));
        assert!(bench.worker.io().inject(LAN, &parts[1]));
        bench.worker.round(bench.now);
    }
    assert_eq!(bench.drops(LAN, DropReason::FragmentQueueFull), 10);
    assert_eq!(bench.stats.held_fragments.get(), CAPACITY as u64);
    // Those that came last are there still.
    let [parts, _] = datagram(CAPACITY as u16 + 9, INSIDE, OUTSIDE, (INSIDE, OUTSIDE));
    bench.receive(LAN, &parts[0]);
    assert_eq!(bench.sent(WAN).len(), 2);
    bench.assert_balance();
}

#[test]
fn a_first_that_came_by_another_worker_counts() {
    let mut bench = bench(FIREWALL);
    let [parts, expected] = lan_to_wan(1);
    bench.receive(LAN, &parts[1]);
    let mut other = bench.blueprint.program(1, &mut bench.figures);
    let headers = throughway_packet::parse(&parts[0], LAN).unwrap();
    let mut batch = throughway_vnf::Batch::new();
    batch.push(throughway_vnf::Packet::new(&parts[0], headers)).unwrap();
    let chain = other.chain_of(PortId(0)).unwrap();
    other.walk(chain, &mut batch, 0, &throughway_vnf::Context { now: bench.now });
    bench.now.0 += ELSEWHERE;
    bench.round();
    assert_eq!(bench.sent(WAN), expected[1..2]);
    bench.assert_balance();
}

#[test]
fn nothing_is_left_when_the_worker_stops() {
    let mut bench = bench(NAT);
    let [parts, _] = lan_to_wan(1);
    bench.receive(LAN, &parts[1]);
    let stats = std::sync::Arc::clone(&bench.stats);
    let io = bench.worker.finish();
    assert_eq!(throughway_io::PacketIo::outstanding(&io), 0);
    assert_eq!(stats.ports[0].drops[DropReason::Shutdown as usize].get(), 1);
}

/// What is sent: which datagram, which fragment of it, and whether its bytes are changed at a place, or cut off there.
type Sent = (u16, usize, Option<(usize, Option<u8>)>);

fn sent() -> impl Strategy<Value = Vec<Sent>> {
    let mangled = proptest::option::weighted(0.1, (14usize..80, any::<Option<u8>>()));
    proptest::collection::vec((1u16..4, 0usize..5, mangled), 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Fragments of several datagrams in any order, sent again, cut and forged: nothing is lost uncounted, and where nothing is forged,
    /// all leave of a datagram whose first fragment came, byte for byte and as often as they came.
    #[test]
    fn whatever_order_they_come_in(sends in sent(), reads in 1usize..8) {
        let mut bench = bench(&NAT.replace("{ outside", "{ limits: { sessions: 1000 }, outside"));
        let mut expected = Vec::new();
        let whole: Vec<_> = (0..4).map(|id| datagram(id, INSIDE, OUTSIDE, ([10, 2, 0, 77], OUTSIDE))).collect();
        for batch in sends.chunks(reads) {
            for (id, at, mangled) in batch {
                let [parts, _] = &whole[usize::from(*id)];
                let mut frame = parts[*at].clone();
                match mangled {
                    None => {}
                    Some((place, None)) => frame.truncate(*place),
                    Some((place, Some(value))) => frame[*place] = *value,
                }
                prop_assert!(bench.worker.io().inject(LAN, &frame));
            }
            bench.round();
            bench.assert_balance();
        }
        let has_first = |id: u16| sends.iter().any(|sent| sent.0 == id && sent.1 == 0);
        for (id, at, _) in sends.iter().filter(|sent| has_first(sent.0)) {
            expected.push(whole[usize::from(*id)][1][*at].clone());
        }
        let mut left = bench.sent(WAN);
        if sends.iter().all(|sent| sent.2.is_none()) {
            left.sort_unstable();
            expected.sort_unstable();
            prop_assert_eq!(left, expected);
        }
        // Nothing waits for ever, and others are not hurt.
        bench.now.0 += PATIENCE;
        bench.round();
        prop_assert_eq!(bench.stats.held_fragments.get(), 0);
        let [parts, expected] = &whole[0];
        for at in [1, 0] {
            bench.receive(LAN, &parts[at]);
        }
        prop_assert_eq!(bench.sent(WAN), [expected[0].clone(), expected[1].clone()]);
        bench.assert_balance();
    }
}
