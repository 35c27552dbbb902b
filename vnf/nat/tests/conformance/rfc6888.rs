//! RFC 6888: carrier-grade NAT, with the computed blocks of RFC 7422.

use super::*;

fn blocks(size: u16, per_host: u16) -> PoolConfig {
    let blocks = Some(BlockConfig { size, per_host, hosts: Vec::new() });
    PoolConfig { blocks, ..pool(&["203.0.113.8", "203.0.113.9"], 1024..=5119) }
}

fn no_preference() -> SourceRule {
    SourceRule { preserve_port: false, preserve_parity: false, ..to_pool() }
}

#[test]
fn req3_and_4_a_host_has_a_limit_of_ports_and_sessions() {
    let mut world = World::new(rules(vec![no_preference()], vec![blocks(64, 2)]));
    for port in 0..128 {
        world.passes(INSIDE, &between(HOST, SERVER).udp(10_000 + port, 53));
    }
    world.drops(INSIDE, &between(HOST, SERVER).udp(9999, 53), DropReason::NatNoPort);
    world.passes(INSIDE, &between(NEIGHBOUR, SERVER).udp(9999, 53));

    let (made, pools) = rules(vec![to_pool()], vec![pool(&[POOL], 1024..=65535)]);
    let mut world = World::new((Rules { sessions_per_host: Some(10), ..made }, pools));
    for port in 1..=10 {
        world.passes(INSIDE, &between(HOST, SERVER).udp(5004, port));
    }
    world.drops(INSIDE, &between(HOST, SERVER).udp(5004, 11), DropReason::NatHostLimit);
    world.passes(INSIDE, &between(NEIGHBOUR, SERVER).udp(5004, 11));
    world.wait(301);
    world.passes(INSIDE, &between(HOST, SERVER).udp(5004, 11));
}

#[test]
fn req4_hosts_open_connections_no_faster_than_they_may() {
    let (made, pools) = rules(vec![to_pool()], vec![pool(&[POOL], 1024..=65535)]);
    let rate = Some(HostRate::new(10, std::time::Duration::from_secs(1), 20));
    let mut world = World::new((Rules { rate_per_host: rate, ..made }, pools));
    world.shared.limit_rates();
    let opened = |world: &mut World, host: &str, from: u16| {
        let asks = (from..from + 50).map(|port| between(host, SERVER).udp(port, 53).finish());
        let verdicts: Vec<_> = asks.map(|frame| world.judge(INSIDE, &frame).0).collect();
        let refused = Verdict::Drop(DropReason::NatHostRate);
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Continue || *verdict == refused));
        verdicts.iter().filter(|verdict| **verdict == Verdict::Continue).count()
    };
    assert_eq!(opened(&mut world, HOST, 1000), 20, "the burst");
    assert_eq!(opened(&mut world, NEIGHBOUR, 1000), 20, "each host has its own");
    world.now += SECOND;
    assert_eq!(opened(&mut world, HOST, 2000), 10, "and then the rate");
    // What is open goes on, whatever is asked for.
    for _ in 0..100 {
        world.passes(INSIDE, &between(HOST, SERVER).udp(1000, 53));
    }
}

#[test]
fn req8_ports_rest_for_two_minutes() {
    let small = pool(&[POOL], 7000..=7000);
    let mut world = World::new(rules(vec![no_preference()], vec![small]));
    world.passes(INSIDE, &between(HOST, SERVER).udp(1, 1));
    world.wait(301);
    assert_eq!(world.shared.len(), (0, 0));
    world.wait(118);
    world.drops(INSIDE, &between(NEIGHBOUR, SERVER).udp(1, 1), DropReason::NatNoPort);
    world.wait(3);
    assert_eq!(world.passes(INSIDE, &between(NEIGHBOUR, SERVER).udp(1, 1)).source_port(), 7000);
}

#[test]
fn blocks_are_logged_when_given_and_when_given_back() {
    let mut world = World::new(rules(vec![no_preference()], vec![blocks(64, 2)]));
    let mut ports = Vec::new();
    for port in 0..65 {
        ports.push(source_of(&world.passes(INSIDE, &between(HOST, SERVER).udp(10_000 + port, 53))));
        world.passes(INSIDE, &between(HOST, SERVER).tcp(10_000 + port, 53, SYN));
    }
    let logged = |world: &World| -> Vec<PortBlock> {
        std::iter::from_fn(|| world.events.take())
            .map(|event| {
                assert_eq!(event.function, 7);
                match event.what {
                    What::Block(block) => block,
                    other => panic!("{other:?}"),
                }
            })
            .collect()
    };
    let given = logged(&world);
    assert_eq!(given.len(), 2, "two lines for 130 mappings");
    for (outside, port) in ports {
        assert!(given.iter().any(|block| {
            block.allocated
                && block.inside == throughway_packet::headers::octets(ip(HOST))
                && block.outside == throughway_packet::headers::octets(outside)
                && (block.first..=block.last).contains(&port)
        }));
    }
    world.wait(300 + 120 + 20);
    let back = logged(&world);
    assert_eq!(back.len(), 2);
    assert!(
        back.iter().all(|block| !block.allocated && given.iter().any(|given| given.first == block.first))
    );
    let usage = world.rules.read().pools[0].usage(world.now);
    assert_eq!((usage.blocks, usage.total().taken), ((128, 128), 0));
}

#[test]
fn the_last_blocks_are_for_hosts_that_have_none() {
    let blocks = Some(BlockConfig { size: 64, per_host: 64, hosts: Vec::new() });
    let config = PoolConfig { blocks, ..pool(&[POOL], 1024..=5119) };
    let mut world = World::new(rules(vec![no_preference()], vec![config]));
    let mut got = 0;
    for port in 0..5000 {
        let frame = between(HOST, SERVER).udp(10_000 + port, 53).finish();
        got += usize::from(world.pass(INSIDE, &frame).0 == Verdict::Continue);
    }
    assert_eq!(got, 60 * 64, "four of 64 blocks are kept");
    for host in 1..=4 {
        world.passes(INSIDE, &between(&format!("10.0.7.{host}"), SERVER).udp(1, 53));
    }
    world.drops(INSIDE, &between("10.0.7.9", SERVER).udp(1, 53), DropReason::NatNoPort);
}

#[test]
fn rfc7422_computed_blocks_need_no_log() {
    let hosts = vec![ip("10.0.0.0")..=ip("10.0.0.99"), ip("10.9.0.0")..=ip("10.9.0.27")];
    let blocks = Some(BlockConfig { size: 32, per_host: 2, hosts });
    let config = PoolConfig { blocks, ..pool(&["203.0.113.8", "203.0.113.9"], 1024..=5119) };
    let mut world = World::new(rules(vec![no_preference()], vec![config]));
    let pool = std::sync::Arc::clone(&world.rules.read().pools[0]);
    // 64 hosts for each address, in the order of the list.
    let expected = [
        ("10.0.0.0", "203.0.113.8", 1024),
        ("10.0.0.1", "203.0.113.8", 1088),
        ("10.0.0.63", "203.0.113.8", 5056),
        ("10.0.0.64", "203.0.113.9", 1024),
        ("10.9.0.0", "203.0.113.9", 1024 + 36 * 64),
        ("10.9.0.27", "203.0.113.9", 5056),
    ];
    for (host, outside, first) in expected {
        let block = pool.block_of(ip(host)).expect("listed");
        assert_eq!((block.outside, block.first, block.last), (ip(outside), first, first + 63), "{host}");
        for port in [first, first + 63] {
            assert_eq!(pool.host_of(ip(outside), port), Some(ip(host)));
        }
        for port in 0..64 {
            let seen = source_of(&world.passes(INSIDE, &between(host, SERVER).udp(20_000 + port, 53)));
            assert_eq!(pool.host_of(seen.0, seen.1), Some(ip(host)));
        }
        world.drops(INSIDE, &between(host, SERVER).udp(1, 53), DropReason::NatNoPort);
    }
    world.drops(INSIDE, &between("10.9.0.28", SERVER).udp(1, 53), DropReason::NatNoPort);
    assert!(world.events.take().is_none());
}

#[test]
fn req6_translation_is_turned_off_for_destinations() {
    let keep = SourceRule {
        matches: throughway_nat::rule::Match {
            destination: throughway_nat::rule::Several::of([ip(OTHER)..=ip(OTHER)]),
            ..Default::default()
        },
        ..SourceRule::new(SourceTarget::Untranslated)
    };
    let mut world = World::new(rules(vec![keep, to_pool()], vec![pool(&[POOL], 1024..=65535)]));
    assert_eq!(world.passes(INSIDE, &between(HOST, OTHER).udp(1, 2)).source(), ip(HOST));
    assert_eq!(world.passes(INSIDE, &between(HOST, SERVER).udp(1, 2)).source(), ip(POOL));
}

#[test]
fn req11_who_gets_no_mapping_is_told_and_displaces_nobody() {
    let mut world = World::new(rules(vec![no_preference()], vec![pool(&[POOL], 7000..=7000)]));
    world.passes(INSIDE, &between(HOST, SERVER).udp(1, 1));
    let refused = world.pass(INSIDE, &between(NEIGHBOUR, SERVER).udp(1, 1).finish()).0;
    let told = Answer::Icmp(IcmpError::HostUnreachable);
    assert_eq!(refused, Verdict::Reject(DropReason::NatNoPort, told));
    world.passes(OUTSIDE, &between(SERVER, POOL).udp(1, 7000));

    let options = Options { when_full: WhenFull::Refuse, ..Options::new(4, [1, 2]) };
    let mut world = World::with(options, rules(vec![to_pool()], vec![pool(&[POOL], 1024..=65535)]));
    world.passes(INSIDE, &between(HOST, SERVER).udp(1, 1));
    let refused = world.pass(INSIDE, &between(NEIGHBOUR, SERVER).udp(1, 1).finish()).0;
    assert_eq!(refused, Verdict::Reject(DropReason::NatSessionTableFull, told), "one may be half-open");
    assert_eq!(world.shared.len(), (1, 1));
}

#[test]
fn req11_who_gets_no_mapping_is_told_what_the_rules_say() {
    for (refuse, expected) in [
        (None, Verdict::Drop(DropReason::NatNoPort)),
        (
            // RFC 5508, REQ-8.
            Some(IcmpError::AdminProhibited),
            Verdict::Reject(DropReason::NatNoPort, Answer::Icmp(IcmpError::AdminProhibited)),
        ),
    ] {
        let (made, pools) = rules(vec![no_preference()], vec![pool(&[POOL], 7000..=7000)]);
        let mut world = World::new((Rules { refuse, ..made }, pools));
        world.passes(INSIDE, &between(HOST, SERVER).udp(1, 1));
        assert_eq!(world.pass(INSIDE, &between(NEIGHBOUR, SERVER).udp(1, 1).finish()).0, expected);
        // Nobody outside is told anything.
        world.drops(OUTSIDE, &between(SERVER, POOL).udp(1, 7001), DropReason::NatNoMapping);
    }
}

#[test]
fn req15_ports_are_hard_to_guess() {
    let mut world = World::new(rules(vec![no_preference()], vec![pool(&[POOL], 1024..=65535)]));
    let mut last = 0i32;
    let mut near = 0;
    for port in 1..2000 {
        let got = i32::from(world.passes(INSIDE, &between(HOST, SERVER).udp(port, 53)).source_port());
        near += i32::from((got - last).abs() < 1000);
        last = got;
    }
    // Of 64512 ports some 3 % are that near.
    assert!((20..140).contains(&near), "{near}");
}
