//! More is asked for than there is: who has something keeps it, who gets nothing is told, and what ends is there for others.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod world;

use std::net::{IpAddr, Ipv4Addr};

use throughway_nat::rule::SourceRule;
use throughway_nat::{BlockConfig, Options, PoolConfig, Refusal};
use throughway_packet::build::PacketBuilder;
use throughway_packet::parse;
use throughway_vnf::packet::State;
use throughway_vnf::{Answer, Batch, Context, DropReason, Function, IcmpError, Now, Packet, Verdict};
use world::*;

const SERVER: &str = "198.51.100.1";

fn host(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x6440_0000 + number).into()
}

fn packet(from: u32) -> PacketBuilder {
    PacketBuilder::between(host(from), ip(SERVER))
}

/// What a refused host inside is told.
const TOLD: Verdict = Verdict::Reject(DropReason::NatNoPort, Answer::Icmp(IcmpError::HostUnreachable));

/// A connection on which both sides have spoken; returns its outside port.
fn connect(world: &mut World, from: u32) -> (IpAddr, u16) {
    let seen = world.passes(INSIDE, &packet(from).tcp(40_000, 80, SYN));
    let (address, port) = source_of(&seen);
    let back = |flags| PacketBuilder::between(ip(SERVER), address).tcp(80, port, flags);
    world.passes(OUTSIDE, &back(SYN | ACK));
    world.passes(INSIDE, &packet(from).tcp(40_000, 80, ACK));
    (address, port)
}

fn goes_on(world: &mut World, from: u32, (address, port): (IpAddr, u16)) {
    assert_eq!(source_of(&world.passes(INSIDE, &packet(from).tcp(40_000, 80, ACK))), (address, port));
    let back = PacketBuilder::between(ip(SERVER), address).tcp(80, port, ACK);
    assert_eq!(destination_of(&world.passes(OUTSIDE, &back)), (host(from), 40_000));
}

fn refused(world: &World, refusal: Refusal) -> u64 {
    let usage = world.rules.read().pools[0].usage(world.now);
    let at = Refusal::ALL.iter().position(|known| *known == refusal).unwrap();
    usage.refused[at]
}

#[test]
fn all_ports_of_an_address_asked_for_three_times_over() {
    const PORTS: u32 = 65_536 - 1024;
    let made = rules(vec![to_pool()], vec![pool(&["203.0.113.8"], 1024..=65535)]);
    let mut world = World::with(Options::new(1 << 20, [1, 2]), made);
    let connection = connect(&mut world, 0);
    let (mut given, mut told) = (0, 0);
    for ask in 0..200_000_u32 {
        let frame = packet(1 + ask % 5000).udp((10_000 + ask / 5000) as u16, 53).finish();
        match world.judge(INSIDE, &frame).0 {
            Verdict::Continue => given += 1,
            verdict => {
                assert_eq!(verdict, TOLD);
                told += 1;
            }
        }
        if ask % 50_000 == 0 {
            goes_on(&mut world, 0, connection);
        }
    }
    // TCP's ports are its own.
    assert_eq!((given, told), (PORTS, 200_000 - PORTS));
    assert_eq!(refused(&world, Refusal::NoPort), u64::from(told));
    assert_eq!(world.rules.read().pools[0].usage(world.now).total().taken as u32, PORTS + 1);
    // Who has a port keeps it.
    let again = packet(1).udp(10_000, 53);
    assert_eq!(world.judge(INSIDE, &again.finish()).0, Verdict::Continue);
    world.wait(301);
    goes_on(&mut world, 0, connection);
    world.wait(122);
    for ask in 0..1000 {
        assert_eq!(world.judge(INSIDE, &packet(9000 + ask).udp(7, 53).finish()).0, Verdict::Continue);
    }
    goes_on(&mut world, 0, connection);
}

#[test]
fn ten_thousand_subscribers_with_blocks_of_512_ports() {
    const SUBSCRIBERS: u32 = 80 * 126;
    let addresses = (1..=80).map(|last| IpAddr::from([203, 0, 113, last])).collect();
    let blocks = Some(BlockConfig { size: 512, per_host: 4, hosts: Vec::new() });
    let rule = SourceRule { preserve_port: false, ..to_pool() };
    let made = rules(vec![rule], vec![PoolConfig { blocks, ..PoolConfig::new(addresses) }]);
    let mut world = World::with(Options::new(1 << 20, [1, 2]), made);
    let connection = connect(&mut world, 0);
    for subscriber in 1..SUBSCRIBERS {
        let (verdict, _) = world.judge(INSIDE, &packet(subscriber).udp(5000, 53).finish());
        assert_eq!(verdict, Verdict::Continue, "subscriber {subscriber}");
    }
    let usage = world.rules.read().pools[0].usage(world.now);
    assert_eq!(usage.blocks, (SUBSCRIBERS as usize, 0));
    for subscriber in SUBSCRIBERS..SUBSCRIBERS + 300 {
        assert_eq!(world.judge(INSIDE, &packet(subscriber).udp(5000, 53).finish()).0, TOLD);
    }
    assert_eq!(refused(&world, Refusal::NoBlock), 300);
    // A block is for all of its host's ports, and for no other host.
    for port in 0..511 {
        world.passes(INSIDE, &packet(7).udp(6000 + port, 53));
    }
    assert_eq!(world.judge(INSIDE, &packet(7).udp(7000, 53).finish()).0, TOLD);
    goes_on(&mut world, 0, connection);
    // What nobody uses any more is for others, once it has rested.
    world.wait(301 + 122 + 20);
    goes_on(&mut world, 0, connection);
    let usage = world.rules.read().pools[0].usage(world.now);
    assert_eq!(usage.blocks, (SUBSCRIBERS as usize, SUBSCRIBERS as usize - 1));
    for subscriber in SUBSCRIBERS..SUBSCRIBERS + 300 {
        assert_eq!(world.judge(INSIDE, &packet(subscriber).udp(5000, 53).finish()).0, Verdict::Continue);
    }
}

#[test]
fn a_full_session_table_hurts_nobody_who_was_answered() {
    let made = rules(vec![to_pool()], vec![pool(&["203.0.113.8", "203.0.113.9"], 1024..=65535)]);
    let mut world = World::with(Options::new(4096, [1, 2]), made);
    let connections: Vec<_> = (0..2000).map(|from| connect(&mut world, from)).collect();
    // Ten times as many as there is room for, and nobody answers.
    for ask in 0..40_000_u32 {
        world.judge(INSIDE, &packet(10_000 + ask).udp(5000, 53).finish());
        world.now += SECOND / 10_000;
    }
    let (sessions, mappings) = world.shared.len();
    assert!(sessions <= 4096 && mappings <= 4096);
    for (from, connection) in connections.into_iter().enumerate() {
        goes_on(&mut world, from as u32, connection);
    }
}

/// Ports are taken ahead for a whole batch: that neither keeps one from anybody nor counts a refusal twice.
#[test]
fn batches_use_exactly_the_ports_there_are() {
    const PORTS: usize = 65_536 - 1024;
    let made = rules(vec![to_pool()], vec![pool(&["203.0.113.8"], 1024..=65535)]);
    let mut world = World::with(Options::new(1 << 20, [1, 2]), made);
    let context = Context { now: Now(world.now) };
    let (mut given, mut told) = (0, 0);
    for number in 0..1500_u32 {
        // Each inside end calls two servers in one batch: one mapping. Half of the ends want the same port.
        let frames: Vec<_> = (0..64)
            .map(|at| {
                let to = if at % 2 == 0 { SERVER } else { "198.51.100.2" };
                let end = number * 32 + at / 2;
                let port = if end % 2 == 0 { 5000 } else { 1024 + (end % 60_000) as u16 };
                PacketBuilder::between(host(end), ip(to)).udp(port, 53).finish()
            })
            .collect();
        let mut batch = Batch::new();
        for frame in &frames {
            assert!(batch.push(Packet::new(frame, parse(frame, INSIDE).unwrap())).is_ok());
        }
        world.nat.process(&mut batch, &context);
        for pair in batch.packets().chunks(2) {
            let [first, second] = pair else { panic!() };
            assert_eq!(first.headers().source_port(), second.headers().source_port());
            assert_eq!(first.state(), second.state());
            match first.state() {
                State::Alive => given += 1,
                State::Dropped(reason, _) => {
                    assert_eq!(reason, DropReason::NatNoPort);
                    told += 1;
                }
            }
        }
        let usage = world.rules.read().pools[0].usage(world.now).total();
        assert_eq!((usage.taken, usage.resting), (given, 0));
    }
    assert_eq!((given, told), (1500 * 32, 0));
    for number in 0..1000_u32 {
        let frames: Vec<_> =
            (0..64).map(|at| packet(100_000 + number * 64 + at).udp(5000, 53).finish()).collect();
        let mut batch = Batch::new();
        for frame in &frames {
            assert!(batch.push(Packet::new(frame, parse(frame, INSIDE).unwrap())).is_ok());
        }
        world.nat.process(&mut batch, &context);
        given += batch.packets().iter().filter(|packet| packet.state() == State::Alive).count();
    }
    assert_eq!(given, PORTS);
    assert_eq!(refused(&world, Refusal::NoPort), (1500 * 32 + 64_000 - PORTS) as u64);
}
