//! Sessions over a restart: outside ends stay with who had them, or go to nobody.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::time::Duration;

use proptest::prelude::*;
use throughway_nat::rule::{DestinationRule, Filtering, Match, Several, SourceRule};
use throughway_nat::{BlockConfig, PoolConfig, Rules};
use throughway_vnf::DropReason;
use throughway_vnf::events::What;
use throughway_vnf::save::{Lost, Restored};
use world::*;

const HOST: &str = "10.0.0.5";
const SERVER: &str = "198.51.100.1";
const OTHER: &str = "198.51.100.2";

fn lost(lost: Lost, count: u64) -> Restored {
    let mut restored = Restored::default();
    restored.lose(lost, count);
    restored
}

fn small() -> PoolConfig {
    pool(&["203.0.113.1"], 2000..=2003)
}

fn filtering(filtering: Filtering) -> SourceRule {
    SourceRule { filtering, preserve_port: false, preserve_parity: false, ..to_pool() }
}

/// A port forward of 443 to a host inside.
fn forwarding(to: &str) -> (Rules, Vec<PoolConfig>) {
    let (made, pools) = rules(vec![filtering(Filtering::EndpointIndependent)], vec![small()]);
    let forward = DestinationRule {
        matches: Match {
            destination: Several::of([ip("203.0.113.1")..=ip("203.0.113.1")]),
            protocols: Several::of([6]),
            destination_ports: Several::of([443..=443]),
            ..Match::default()
        },
        to: format!("{to}/32").parse().unwrap(),
        port: None,
        twice: None,
    };
    (Rules { destination: vec![forward], ..made }, pools)
}

#[test]
fn a_host_keeps_its_outside_end_and_who_may_send_to_it() {
    for kind in
        [Filtering::EndpointIndependent, Filtering::AddressDependent, Filtering::AddressAndPortDependent]
    {
        let mut world = World::new(rules(vec![filtering(kind)], vec![small()]));
        let out = |to: &str, port| between(HOST, to).udp(4000, port);
        let end = source_of(&world.passes(INSIDE, &out(SERVER, 53)));
        // A second address, which only the table of peers has room for.
        assert_eq!(source_of(&world.passes(INSIDE, &out(OTHER, 53))), end);
        let back = |from: &str, port| between(from, "203.0.113.1").udp(port, end.1);
        let (mut world, restored) = world.restarted(Duration::from_secs(2));
        assert_eq!(restored, Restored { sessions: 2, ..Restored::default() });
        assert_eq!(world.shared.len(), (2, 1));
        for from in [SERVER, OTHER] {
            assert_eq!(destination_of(&world.passes(OUTSIDE, &back(from, 53))), (ip(HOST), 4000));
        }
        // As before the restart: by the kind of filtering.
        let another_port = back(SERVER, 54);
        if kind == Filtering::AddressAndPortDependent {
            world.drops(OUTSIDE, &another_port, DropReason::NatFiltered);
        } else {
            world.passes(OUTSIDE, &another_port);
        }
        let stranger = back("198.51.100.9", 53);
        if kind == Filtering::EndpointIndependent {
            world.passes(OUTSIDE, &stranger);
        } else {
            world.drops(OUTSIDE, &stranger, DropReason::NatFiltered);
        }
        // New connections of the same inside end have it, too; nobody else gets it.
        assert_eq!(source_of(&world.passes(INSIDE, &out("198.51.100.7", 53))), end);
        for host in 6..9 {
            let seen = world.passes(INSIDE, &between(&format!("10.0.0.{host}"), SERVER).udp(4000, 53));
            assert_ne!(source_of(&seen), end);
        }
        world.drops(INSIDE, &between("10.0.0.9", SERVER).udp(4000, 53), DropReason::NatNoPort);
        // It is given back in the end, and rests.
        world.wait(400);
        assert_eq!((world.shared.len(), world.shared.peers()), ((0, 0), 0));
        let usage = world.rules.read().pools[0].usage(world.now).total();
        assert_eq!((usage.taken, usage.resting), (0, 4));
    }
}

#[test]
fn connections_from_outside_and_between_hosts_inside_stay() {
    let mut world = World::new(forwarding("10.0.0.3"));
    let call = between(SERVER, "203.0.113.1").tcp(999, 443, SYN);
    assert_eq!(destination_of(&world.passes(OUTSIDE, &call)), (ip("10.0.0.3"), 443));
    world.passes(INSIDE, &between("10.0.0.3", SERVER).tcp(443, 999, SYN | ACK));
    world.passes(OUTSIDE, &between(SERVER, "203.0.113.1").tcp(999, 443, ACK));
    let end = source_of(&world.passes(INSIDE, &between(HOST, SERVER).udp(4000, 53)));
    let hairpin = between("10.0.0.8", "203.0.113.1").udp(4000, end.1);
    let caller = source_of(&world.passes(INSIDE, &hairpin));
    let answer = between(HOST, "203.0.113.1").udp(4000, caller.1);
    world.passes(INSIDE, &answer);
    // The forward leads to another host now: who is connected stays.
    let saved = world.saved();
    let mut world = World::new(forwarding("10.0.0.4"));
    assert_eq!(world.restore(&saved, Duration::ZERO), Restored { sessions: 3, ..Restored::default() });
    let next = between(SERVER, "203.0.113.1").tcp(999, 443, ACK);
    assert_eq!(destination_of(&world.passes(OUTSIDE, &next)), (ip("10.0.0.3"), 443));
    let new = between(SERVER, "203.0.113.1").tcp(1000, 443, SYN);
    assert_eq!(destination_of(&world.passes(OUTSIDE, &new)), (ip("10.0.0.4"), 443));
    assert_eq!(source_of(&world.passes(INSIDE, &hairpin)), caller);
    assert_eq!(destination_of(&world.passes(INSIDE, &answer)), (ip("10.0.0.8"), 4000));
}

#[test]
fn what_cannot_be_had_again_is_left_out_and_counted() {
    let out = |port| between(HOST, SERVER).udp(port, 53);
    let mut world = World::new(rules(vec![to_pool()], vec![small()]));
    let ends = [4000, 4002].map(|port| source_of(&world.passes(INSIDE, &out(port))));
    world.passes(INSIDE, &between(HOST, OTHER).udp(4000, 53));
    let saved = world.saved();
    // The address is of no pool any more.
    let other = World::new(rules(vec![to_pool()], vec![pool(&["203.0.113.9"], 2000..=2003)]));
    assert_eq!(other.restore(&saved, Duration::ZERO), lost(Lost::Address, 3));
    assert_eq!(other.shared.len(), (0, 0));
    // A socket of the host has one of the ports.
    let taken = World::new(rules(vec![to_pool()], vec![small()]));
    taken.shared.addresses().exclude(ip("203.0.113.1"), 17, &[ends[0].1].into());
    assert_eq!(taken.restore(&saved, Duration::ZERO), Restored { sessions: 1, ..lost(Lost::Port, 2) });
    assert_eq!(taken.shared.len(), (1, 1));
    // Other ports of the same address than the pool has now: they stay until they end, as over a reload.
    let ports = World::new(rules(vec![to_pool()], vec![pool(&["203.0.113.1"], 3000..=3003)]));
    assert_eq!(ports.restore(&saved, Duration::ZERO).sessions, 3);
    // A limit for hosts.
    let (made, pools) = rules(vec![to_pool()], vec![small()]);
    let mut counted = World::new((Rules { sessions_per_host: Some(3), ..made }, pools));
    for port in [4000, 4002] {
        counted.passes(INSIDE, &out(port));
    }
    counted.passes(INSIDE, &between(HOST, OTHER).udp(4000, 53));
    let (made, pools) = rules(vec![to_pool()], vec![small()]);
    let mut limited = World::new((Rules { sessions_per_host: Some(2), ..made }, pools));
    let restored = limited.restore(&counted.saved(), Duration::ZERO);
    assert_eq!(restored, Restored { sessions: 2, ..lost(Lost::Limit, 1) });
    limited.drops(INSIDE, &between(HOST, "198.51.100.7").udp(4000, 53), DropReason::NatHostLimit);
    // All silent for too long.
    let late = World::new(rules(vec![to_pool()], vec![small()]));
    assert_eq!(late.restore(&saved, Duration::from_secs(301)), lost(Lost::Expired, 3));
    assert_eq!(late.shared.len(), (0, 0));
    // Twice the same: nothing is taken twice, and nothing is given back that others have.
    let twice = World::new(rules(vec![to_pool()], vec![small()]));
    assert_eq!(twice.restore(&saved, Duration::ZERO).sessions, 3);
    assert_eq!(twice.restore(&saved, Duration::ZERO), lost(Lost::Port, 3));
    let usage = twice.rules.read().pools[0].usage(twice.now).total();
    assert_eq!((twice.shared.len(), usage.taken, usage.resting), ((3, 2), 2, 0));
}

#[test]
fn ports_go_on_resting() {
    let mut world = World::new(rules(vec![to_pool()], vec![small()]));
    for port in 4000..4004 {
        world.passes(INSIDE, &between(HOST, SERVER).udp(port, 53));
    }
    // They end after 300 s, and rest for 120 s: a minute of it passes before the restart, and half a minute during it.
    world.wait(365);
    let usage = |world: &World| world.rules.read().pools[0].usage(world.now).total();
    assert_eq!((usage(&world).taken, usage(&world).resting), (0, 4));
    let (mut world, _) = world.restarted(Duration::from_secs(30));
    assert_eq!(usage(&world).resting, 4);
    world.drops(INSIDE, &between(HOST, SERVER).udp(4000, 53), DropReason::NatNoPort);
    world.wait(30);
    world.passes(INSIDE, &between(HOST, SERVER).udp(4000, 53));
}

fn blocks(size: u16, per_host: u16) -> PoolConfig {
    let blocks = Some(BlockConfig { size, per_host, hosts: Vec::new() });
    PoolConfig { blocks, ..pool(&["203.0.113.1"], 2000..=2015) }
}

fn told(world: &World) -> Vec<(u16, bool)> {
    let events = std::iter::from_fn(|| world.events.take());
    let blocks = events.filter_map(|event| match event.what {
        What::Block(block) => Some((block.first, block.allocated)),
        _ => None,
    });
    blocks.collect()
}

#[test]
fn a_host_keeps_its_block_or_the_log_says_that_it_does_not() {
    let mut world = World::new(rules(vec![to_pool()], vec![blocks(4, 2)]));
    let ends =
        [4000, 4001, 4002].map(|port| source_of(&world.passes(INSIDE, &between(HOST, SERVER).udp(port, 53))));
    let [(first, true)] = told(&world)[..] else { unreachable!("one block was given") };
    assert!(ends.iter().all(|(_, port)| (first..first + 4).contains(port)));
    let saved = world.saved();
    let (mut world, restored) = world.restarted(Duration::ZERO);
    assert_eq!(restored, Restored { sessions: 3, ..Restored::default() });
    assert_eq!(told(&world), [], "the log goes on where it was");
    // The fourth port is of the same block, the fifth of a new one; another host gets none of both.
    let (_, port) = source_of(&world.passes(INSIDE, &between(HOST, SERVER).udp(4003, 53)));
    assert!((first..first + 4).contains(&port));
    world.passes(INSIDE, &between(HOST, SERVER).udp(4004, 53));
    world.passes(INSIDE, &between("10.0.0.6", SERVER).udp(4000, 53));
    let given = told(&world);
    assert_eq!(given.len(), 2);
    assert!(given.iter().all(|(block, allocated)| *block != first && *allocated));
    // Once all is silent it is free again.
    world.wait(450);
    assert_eq!(world.rules.read().pools[0].usage(world.now).blocks, (4, 4));
    // Blocks of another size: nobody may be taken for the owner of ports that are not his.
    let other = World::new(rules(vec![to_pool()], vec![blocks(8, 2)]));
    assert_eq!(other.restore(&saved, Duration::ZERO), lost(Lost::Block, 3));
    assert_eq!(told(&other), [(first, false)]);
    assert_eq!(other.rules.read().pools[0].usage(other.now).blocks, (2, 2));
}

#[test]
fn computed_ports_stay_with_their_host_alone() {
    let computed = |hosts: &str| {
        let hosts = vec![ip(hosts)..=ip("10.0.0.9")];
        PoolConfig { blocks: Some(BlockConfig { size: 4, per_host: 1, hosts }), ..blocks(4, 1) }
    };
    let mut world = World::new(rules(vec![to_pool()], vec![computed("10.0.0.4")]));
    world.passes(INSIDE, &between(HOST, SERVER).udp(4000, 53));
    let saved = world.saved();
    assert_eq!(world.restarted(Duration::ZERO).1.sessions, 1);
    let moved = World::new(rules(vec![to_pool()], vec![computed("10.0.0.5")]));
    assert_eq!(moved.restore(&saved, Duration::ZERO), lost(Lost::Block, 1));
}

/// A change here is a change of the file's format: its version goes up.
#[test]
fn the_records_are_these_bytes() {
    let mut world = World::new(rules(vec![to_pool()], vec![blocks(4, 1)]));
    let seen = world.passes(INSIDE, &between(HOST, SERVER).udp(4000, 53));
    world.now += SECOND;
    let hex = |record: &Vec<u8>| record.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let all: Vec<_> = world.saved().iter().map(hex).collect();
    let port = format!("{:04x}", seen.source_port());
    let text = all.join(" ").replace(&port, "PORT");
    assert_eq!(text, GOLDEN);
}

const GOLDEN: &str = "0200000000000000000000ffff0a00000500000000000000000000ffffcb007101dc0fdf0f00 \
                      01838080803001110a000005000000000fa00000011100000000cb0071010000PORT01 \
                      0001110a000005c63364010fa000350111c6336401cb0071010035PORTe8078ba812102000838080803000";

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_are_too_odd(
        changes in prop::collection::vec((any::<usize>(), 0usize..80, any::<u8>(), 0u8..4), 1..12),
        noise in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..10),
        with_blocks: bool,
    ) {
        let config = || if with_blocks { blocks(4, 4) } else { pool(&["203.0.113.1"], 2000..=2015) };
        let made = || {
            let (made, pools) = rules(vec![filtering(Filtering::AddressDependent)], vec![config()]);
            (Rules { sessions_per_host: Some(50), ..made }, pools)
        };
        let mut world = World::new(made());
        for port in 4000..4006 {
            world.passes(INSIDE, &between(HOST, SERVER).udp(port, 53));
            world.passes(INSIDE, &between(HOST, OTHER).udp(port, 53));
        }
        let mut records = world.saved();
        let count = records.len();
        for (number, at, byte, how) in changes {
            let record = &mut records[number % count];
            match how {
                0 => record.truncate(at),
                1 => record.push(byte),
                _ => if let Some(old) = record.get_mut(at) { *old = byte },
            }
        }
        // Records in another order, and some of them twice.
        let again = records[usize::from(noise.len() as u8) % count].clone();
        records.push(again);
        records.extend(noise);
        let mut next = World::new(made());
        let restored = next.restore(&records, Duration::ZERO);
        prop_assert!(restored.sessions <= records.len() as u64);
        next.passes(INSIDE, &between("10.0.0.77", SERVER).echo_request(7, 1));
        // Whatever came back, it goes in the end: nothing is left taken.
        next.now = 1 << 58;
        next.wait(20);
        next.now += 200 * SECOND;
        next.wait(20);
        prop_assert_eq!((next.shared.len(), next.shared.peers()), ((0, 0), 0));
        let usage = next.rules.read().pools[0].usage(next.now);
        prop_assert_eq!((usage.total().taken, usage.total().resting), (0, 0));
        prop_assert_eq!(usage.blocks.0, usage.blocks.1);
    }
}
