//! Several workers at once over the same small tables: nothing is given twice, nothing is left behind.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;

use throughway_nat::rule::Filtering;
use throughway_nat::rule::SourceRule;
use throughway_nat::{BlockConfig, Nat, Options, PoolConfig};
use throughway_packet::parse;
use throughway_session::Cursor;
use throughway_vnf::{Context, Function, Now, Packet, Verdict};
use world::*;

fn run(filtering: Filtering, blocks: Option<BlockConfig>) {
    let rule = SourceRule { filtering, ..to_pool() };
    let config = PoolConfig { blocks, ..pool(&["203.0.113.1", "203.0.113.2"], 1024..=1279) };
    let options = Options { half_open: 150, ..Options::new(400, [5, 6]) };
    let mut world = World::with(options, rules(vec![rule], vec![config]));
    let start = world.now;
    std::thread::scope(|scope| {
        for worker in 0..4u64 {
            let (shared, rules) = (Arc::clone(&world.shared), world.rules.clone());
            scope.spawn(move || {
                let mut nat = Nat::new(shared, rules, worker);
                let mut state = worker + 1;
                for round in 0..20_000u64 {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(worker);
                    let pick = |shift: u32, count: u64| (state >> shift) % count;
                    // Workers meet in the same hosts, ports and remotes.
                    let host = format!("10.0.0.{}", pick(20, 8));
                    let remote = format!("198.51.100.{}", pick(28, 3));
                    let (port, to) = (1024 + pick(36, 16) as u16, 1 + pick(44, 6) as u16);
                    let (ingress, packet) = match pick(50, 4) {
                        0 => (INSIDE, between(&host, &remote).tcp(port, to, SYN)),
                        1 => (OUTSIDE, between(&remote, "203.0.113.1").udp(to, port)),
                        2 => (INSIDE, between(&host, "203.0.113.2").udp(port, 1024 + to)),
                        _ => (INSIDE, between(&host, &remote).udp(port, to)),
                    };
                    let frame = packet.finish();
                    let now = Now(start + round * 40_000_000);
                    let mut packet = Packet::new(&frame, parse(&frame, ingress).unwrap());
                    let verdict = nat.judge(&mut packet, &Context { now });
                    if verdict == Verdict::Continue && ingress == INSIDE {
                        assert_ne!(packet.headers().source(), ip(&host));
                    }
                    nat.tick(&Context { now });
                }
            });
        }
    });
    world.now = start + 20_000 * 40_000_000;
    let mut ends = BTreeSet::new();
    let mut cursor = Some(Cursor::default());
    while let Some(at) = cursor {
        cursor = world.shared.mappings(at, |mapping| {
            assert!(mapping.sessions > 0);
            assert!(ends.insert((mapping.protocol, mapping.outside)), "{mapping:?}");
        });
    }
    let usage = world.rules.read().pools[0].usage(world.now);
    assert_eq!(usage.total().taken, ends.len());
    assert!(!ends.is_empty());
    world.now += 9000 * SECOND;
    world.wait(10);
    world.now += 200 * SECOND;
    world.wait(20);
    assert_eq!((world.shared.len(), world.shared.peers()), ((0, 0), 0));
    let usage = world.rules.read().pools[0].usage(world.now);
    assert_eq!((usage.total().taken, usage.total().resting), (0, 0));
    assert_eq!(usage.blocks.0, usage.blocks.1);
}

#[test]
fn with_ports_at_random() {
    run(Filtering::AddressDependent, None);
    run(Filtering::EndpointIndependent, None);
}

#[test]
fn with_blocks() {
    run(Filtering::AddressAndPortDependent, Some(BlockConfig { size: 8, per_host: 4, hosts: Vec::new() }));
}
