//! What the control side does: addresses come and go, rules are replaced, sessions are shown and cleared.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
mod world;

use std::collections::BTreeSet;

use throughway_nat::rule::{DestinationRule, Filtering, Match, Several, SourceRule, SourceTarget};
use throughway_nat::{BlockConfig, Filter, PoolConfig, RuleNumber, Rules, SessionView};
use throughway_packet::{Edit, PortId, parse};
use throughway_session::{Class, Cursor};
use throughway_vnf::{Context, DropReason, Function, Now, Packet, Verdict};
use world::*;

const SERVER: &str = "198.51.100.1";
const HOST: &str = "10.0.0.5";
const WAN: PortId = PortId(2);

fn masquerade(pools: &[(PortId, usize)]) -> SourceRule {
    SourceRule::new(SourceTarget::Masquerade(pools.to_vec()))
}

fn local(address: &str) -> PoolConfig {
    PoolConfig { local: true, ..pool(&[address], 1024..=65535) }
}

fn sessions(world: &World, filter: &Filter) -> Vec<SessionView> {
    let mut all = Vec::new();
    let mut cursor = Some(Cursor::default());
    while let Some(at) = cursor {
        cursor = world.shared.sessions(at, filter, |session| all.push(session));
    }
    all
}

fn clear(world: &World, filter: &Filter) -> usize {
    let mut gone = 0;
    let mut cursor = Some(Cursor::default());
    while let Some(at) = cursor {
        cursor = world.shared.clear(at, filter, Now(world.now), |_| gone += 1);
    }
    gone
}

#[test]
fn masquerading_takes_the_address_of_the_interface() {
    let (made, pools) =
        rules(vec![masquerade(&[(OUTSIDE, 0), (WAN, 1)])], vec![local("203.0.113.8"), local("203.0.113.9")]);
    let mut world = World::new((Rules { outside: vec![OUTSIDE, WAN], ..made }, pools));
    // Before the route is known: the first. Behind a router: that of the egress.
    assert_eq!(world.passes(INSIDE, &between(HOST, SERVER).udp(1000, 53)).source(), ip("203.0.113.8"));
    for (egress, expected) in [(OUTSIDE, "203.0.113.8"), (WAN, "203.0.113.9")] {
        let frame = between("10.0.0.6", SERVER).udp(1000 + egress.0, 53).finish();
        let mut packet = Packet::new(&frame, parse(&frame, INSIDE).unwrap());
        packet.edit(Edit::Egress(egress));
        let verdict = world.nat.judge(&mut packet, &Context { now: Now(world.now) });
        assert_eq!((verdict, packet.headers().source()), (Verdict::Continue, ip(expected)));
    }
    // What stays inside is not translated.
    let frame = between("10.0.0.6", "10.1.0.1").udp(1000, 53).finish();
    let mut packet = Packet::new(&frame, parse(&frame, INSIDE).unwrap());
    packet.edit(Edit::Egress(INSIDE));
    world.nat.judge(&mut packet, &Context { now: Now(world.now) });
    assert_eq!(packet.headers().source(), ip("10.0.0.6"));
    // What no mapping wants is the host's own.
    let ssh = world.passes(OUTSIDE, &between(SERVER, "203.0.113.8").tcp(5000, 22, SYN));
    assert_eq!(ssh.destination(), ip("203.0.113.8"));
}

#[test]
fn a_lost_address_takes_its_sessions_along() {
    let old = || rules(vec![masquerade(&[(OUTSIDE, 0)])], vec![local("203.0.113.8")]);
    let mut world = World::new(old());
    world.passes(INSIDE, &between(HOST, SERVER).tcp(1000, 80, SYN));
    world.passes(INSIDE, &between(HOST, SERVER).udp(1000, 53));
    let epoch = world.generations.epoch().generation();
    world.reload(rules(vec![masquerade(&[(OUTSIDE, 0)])], vec![local("203.0.113.77")]));
    world.shared.lose(ip("203.0.113.8"));
    // Before they are cleared nothing new is opened under the lost address.
    world.drops(INSIDE, &between(HOST, "198.51.100.9").udp(1000, 53), DropReason::NatConflict);
    let lost = Filter { outside: Some(ip("203.0.113.8")..=ip("203.0.113.8")), ..Filter::default() };
    assert_eq!(clear(&world, &lost), 2);
    assert_ne!(world.generations.epoch().generation(), epoch, "the caches are told");
    assert_eq!(world.shared.len(), (0, 0));
    assert_eq!(world.passes(INSIDE, &between(HOST, SERVER).udp(1000, 53)).source(), ip("203.0.113.77"));
    // And back.
    world.reload(old());
    assert_eq!(world.passes(INSIDE, &between("10.0.0.9", SERVER).udp(7, 53)).source(), ip("203.0.113.8"));
}

#[test]
fn ports_of_the_hosts_own_sockets_are_not_given() {
    let small = PoolConfig { ports: 2000..=2003, ..local("203.0.113.8") };
    let rule = SourceRule { preserve_parity: false, ..masquerade(&[(OUTSIDE, 0)]) };
    let mut world = World::new(rules(vec![rule], vec![small]));
    let address = ip("203.0.113.8");
    let exclude = |world: &World, ports: &[u16]| {
        let ports: BTreeSet<u16> = ports.iter().copied().collect();
        assert!(world.shared.addresses().exclude(address, 17, &ports));
    };
    exclude(&world, &[2001, 2003, 53]);
    let packet = |port| between(HOST, SERVER).udp(port, 53);
    assert_eq!(world.passes(INSIDE, &packet(2001)).source_port() % 2, 0, "not even if it is preferred");
    assert_eq!(world.passes(INSIDE, &packet(2)).source_port() % 2, 0);
    world.drops(INSIDE, &packet(3), DropReason::NatNoPort);
    // One that a mapping has when a socket takes it is kept until the mapping ends, and not given again.
    exclude(&world, &[2000, 2001, 2002, 53]);
    assert_eq!(world.passes(INSIDE, &packet(3)).source_port(), 2003);
    world.wait(301 + 125);
    assert_eq!(world.shared.len(), (0, 0));
    assert_eq!(world.passes(INSIDE, &packet(4)).source_port(), 2003);
    world.drops(INSIDE, &packet(5), DropReason::NatNoPort);
    exclude(&world, &[]);
    for port in 5..8 {
        world.passes(INSIDE, &packet(port));
    }
    assert!(!world.shared.addresses().exclude(ip("192.0.2.1"), 17, &BTreeSet::new()), "nobody's");
}

#[test]
fn pools_that_overlap_or_change_never_give_a_port_twice() {
    let only = |prefix: &str| Match {
        source: Several::of([throughway_nat::rule::range_of(prefix.parse().unwrap())]),
        ..Match::default()
    };
    let plain = SourceRule { preserve_parity: false, ..to_pool() };
    let first = SourceRule { matches: only("10.0.0.0/24"), ..plain.clone() };
    let second = SourceRule { matches: only("10.0.1.0/24"), target: SourceTarget::Pool(1), ..plain.clone() };
    let both = || vec![pool(&["203.0.113.8"], 3000..=3009), pool(&["203.0.113.8"], 3005..=3014)];
    let mut world = World::new(rules(vec![first, second], both()));
    let mut ends = BTreeSet::new();
    for number in 1..=8 {
        for net in [0, 1] {
            let host = format!("10.0.{net}.{number}");
            let frame = between(&host, SERVER).udp(3005, 53).finish();
            let (verdict, _, seen) = world.pass(INSIDE, &frame);
            assert!(verdict != Verdict::Continue || ends.insert(source_of(&seen)), "{ends:?}");
        }
    }
    assert!(ends.len() >= 13, "{}", ends.len());
    // Another pool with the same address: old mappings keep their ports.
    let before = ends.len();
    world.reload(rules(vec![plain], vec![pool(&["203.0.113.8"], 3000..=3020)]));
    for number in 1..=21 {
        let frame = between(&format!("10.0.2.{number}"), SERVER).udp(3005, 53).finish();
        let (verdict, _, seen) = world.pass(INSIDE, &frame);
        assert!(verdict != Verdict::Continue || ends.insert(source_of(&seen)), "{ends:?}");
    }
    assert_eq!(ends.len(), 21);
    assert_eq!(world.shared.len().1 as usize, 21, "{before} of them older");
    // Sessions that are known go on.
    let answer = between(SERVER, "203.0.113.8").udp(53, 3005);
    assert_eq!(world.passes(OUTSIDE, &answer).destination_port(), 3005);
}

#[test]
fn a_pool_that_stays_is_the_same_object() {
    let blocks = Some(BlockConfig { size: 64, per_host: 1, hosts: Vec::new() });
    let with_blocks = || PoolConfig { blocks: blocks.clone(), ..pool(&["203.0.113.8"], 1024..=2047) };
    let mut world = World::new(rules(vec![to_pool()], vec![with_blocks()]));
    world.passes(INSIDE, &between(HOST, SERVER).udp(1000, 53));
    world.reload(rules(vec![to_pool()], vec![pool(&["192.0.2.1"], 1..=9), with_blocks()]));
    let mut blocks = Vec::new();
    world.rules.read().pools[1].blocks(|block, mappings| blocks.push((block.inside, mappings)));
    assert_eq!(blocks, [(ip(HOST), 1)]);
}

#[test]
fn twice_nat_shows_the_inside_host_an_address_of_ours() {
    let forward = DestinationRule {
        matches: Match {
            destination: Several::of([ip("203.0.113.80")..=ip("203.0.113.80")]),
            protocols: Several::of([6]),
            destination_ports: Several::of([443..=443]),
            ..Match::default()
        },
        to: "10.0.0.10/32".parse().unwrap(),
        port: Some(8443..=8443),
        twice: Some(0),
    };
    let (made, pools) = rules(Vec::new(), vec![local("10.0.0.1")]);
    let mut world = World::new((Rules { destination: vec![forward], ..made }, pools));
    // Two clients with the same port are kept apart.
    let mut seen = BTreeSet::new();
    for client in ["192.0.2.1", "192.0.2.2"] {
        let out = world.passes(OUTSIDE, &between(client, "203.0.113.80").tcp(5000, 443, SYN));
        assert_eq!(destination_of(&out), (ip("10.0.0.10"), 8443));
        assert_eq!(out.source(), ip("10.0.0.1"));
        assert!(seen.insert(out.source_port()));
        let answer = between("10.0.0.10", "10.0.0.1").tcp(8443, out.source_port(), SYN | ACK);
        let back = world.passes(INSIDE, &answer);
        assert_eq!(
            (source_of(&back), destination_of(&back)),
            ((ip("203.0.113.80"), 443), (ip(client), 5000))
        );
    }
    assert_eq!(sessions(&world, &Filter::default())[0].rule, Some(RuleNumber::Destination(0)));
    world.wait(245);
    assert_eq!(world.shared.len(), (0, 0));
}

#[test]
fn ipv6_prefixes_and_pools() {
    let moved = SourceRule {
        matches: Match {
            source: Several::of([throughway_nat::rule::range_of("fd00::/64".parse().unwrap())]),
            ..Match::default()
        },
        ..SourceRule::new(SourceTarget::Prefix("2001:db8:1::/64".parse().unwrap()))
    };
    let mut world = World::new(rules(vec![moved, to_pool()], vec![local("2001:db8:2::1")]));
    for packet in [
        between("fd00::1:5", "2001:db8::9").udp(5000, 53),
        between("fd00::1:5", "2001:db8::9").tcp(5000, 53, SYN),
        between("fd00::1:5", "2001:db8::9").echo_request(5000, 1),
        between("fd00::1:5", "2001:db8::9").sctp(5000, 53),
    ] {
        assert_eq!(source_of(&world.passes(INSIDE, &packet)), (ip("2001:db8:1::1:5"), 5000));
    }
    let back = world.passes(OUTSIDE, &between("2001:db8::9", "2001:db8:1::1:5").udp(53, 5000));
    assert_eq!(destination_of(&back), (ip("fd00::1:5"), 5000));
    let masked = world.passes(INSIDE, &between("fd00:1::7", "2001:db8::9").udp(5000, 53));
    assert_eq!(masked.source(), ip("2001:db8:2::1"));
    let back = world.passes(OUTSIDE, &between("2001:db8::9", "2001:db8:2::1").udp(53, masked.source_port()));
    assert_eq!(destination_of(&back), (ip("fd00:1::7"), 5000));
}

#[test]
fn protocols_without_ports_are_told_apart_by_addresses() {
    let mut world = World::new(rules(vec![to_pool()], vec![pool(&["203.0.113.8"], 1024..=65535)]));
    let esp = |from: &str, to: &str| between(from, to).protocol(50).payload(b"sealed");
    assert_eq!(world.passes(INSIDE, &esp(HOST, SERVER)).source(), ip("203.0.113.8"));
    assert_eq!(world.passes(OUTSIDE, &esp(SERVER, "203.0.113.8")).destination(), ip(HOST));
    world.drops(INSIDE, &esp("10.0.0.6", SERVER), DropReason::NatConflict);
    world.passes(INSIDE, &esp("10.0.0.6", "198.51.100.2"));
    assert_eq!(world.passes(OUTSIDE, &esp("198.51.100.2", "203.0.113.8")).destination(), ip("10.0.0.6"));
}

#[test]
fn udp_without_a_checksum_and_sctp_are_translated() {
    let rule = SourceRule { preserve_port: false, ..to_pool() };
    let mut world = World::new(rules(vec![rule], vec![pool(&["203.0.113.8"], 1024..=65535)]));
    let (_, sent, _) = world.pass(INSIDE, &between(HOST, SERVER).udp_without_checksum(5000, 53).finish());
    assert_eq!(sent[40..42], [0, 0]);
    let out = world.passes(INSIDE, &between(HOST, SERVER).sctp(5000, 2905).payload(&[1, 0, 0, 4]));
    assert_eq!(out.source(), ip("203.0.113.8"));
    let back = between(SERVER, "203.0.113.8").sctp(2905, out.source_port()).payload(&[2, 0, 0, 4]);
    assert_eq!(destination_of(&world.passes(OUTSIDE, &back)), (ip(HOST), 5000));
}

#[test]
fn sessions_are_shown_and_cleared_by_filter() {
    let open = SourceRule { filtering: Filtering::EndpointIndependent, ..to_pool() };
    let mut world = World::new(rules(vec![open], vec![pool(&["203.0.113.8"], 1024..=65535)]));
    world.passes(INSIDE, &between(HOST, SERVER).tcp(5000, 80, SYN));
    world.passes(INSIDE, &between(HOST, SERVER).udp(5000, 53));
    world.passes(OUTSIDE, &between("192.0.2.7", "203.0.113.8").udp(9, 5000));
    world.passes(INSIDE, &between("10.0.0.6", SERVER).udp(7000, 53));
    let all = sessions(&world, &Filter::default());
    assert_eq!(all.len(), 4);
    let tcp = all.iter().find(|session| session.key.protocol == 6).unwrap();
    assert_eq!((tcp.state, tcp.class, tcp.rule), ("syn-sent", Class::HalfOpen, Some(RuleNumber::Source(0))));
    assert_eq!(tcp.key.to_string(), "protocol 6 10.0.0.5:5000 > 198.51.100.1:80");
    assert_eq!(tcp.translated.to_string(), "protocol 6 203.0.113.8:5000 > 198.51.100.1:80");
    assert!(tcp.mapped && !tcp.inbound);
    let inbound = all.iter().find(|session| session.inbound).unwrap();
    assert_eq!((inbound.rule, inbound.mapped), (None, false));
    let mut mappings = 0;
    let mut cursor = Some(Cursor::default());
    while let Some(at) = cursor {
        cursor = world.shared.mappings(at, |mapping| {
            mappings += 1;
            assert_eq!(mapping.outside.0, ip("203.0.113.8"));
        });
    }
    assert_eq!(mappings, 3);
    let of_host = Filter { address: Some(ip(HOST)..=ip(HOST)), ..Filter::default() };
    assert_eq!(sessions(&world, &of_host).len(), 3);
    assert_eq!(sessions(&world, &Filter { port: Some(9), ..Filter::default() }).len(), 1);
    assert_eq!(clear(&world, &Filter { protocol: Some(17), ..of_host }), 2);
    assert_eq!(world.shared.len(), (2, 2));
    assert_eq!(clear(&world, &Filter::default()), 2);
    assert_eq!(world.shared.len(), (0, 0));
}

#[test]
fn explaining_says_what_would_happen_and_changes_nothing() {
    let mut world = World::new(rules(vec![to_pool()], vec![pool(&["203.0.113.8"], 1024..=65535)]));
    let ask = |world: &World, ingress, frame: &[u8]| {
        let packet = Packet::new(frame, parse(frame, ingress).unwrap());
        world.nat.explain(&packet, &Context { now: Now(world.now) }).join("\n")
    };
    let out = between(HOST, SERVER).udp(5000, 53).finish();
    let said = ask(&world, INSIDE, &out);
    assert!(said.contains("no session") && said.contains("source rule 1: a new port of address"), "{said}");
    assert!(said.contains("203.0.113.8"), "{said}");
    assert_eq!(world.shared.len(), (0, 0));
    world.pass(INSIDE, &out);
    let said = ask(&world, INSIDE, &out);
    assert!(said.contains("unanswered") && said.contains("leaves as protocol 17 203.0.113.8:5000"), "{said}");
    let said = ask(&world, INSIDE, &between(HOST, "198.51.100.9").udp(5000, 53).finish());
    assert!(said.contains("source rule 1: its mapping 203.0.113.8 port 5000"), "{said}");
    let nobodys = between(SERVER, "203.0.113.8").udp(9, 5001).finish();
    assert!(ask(&world, OUTSIDE, &nobodys).contains("nobody inside has this end: nat-no-mapping"));
    let stranger = between("192.0.2.7", "203.0.113.8").udp(9, 5000).finish();
    let said = ask(&world, OUTSIDE, &stranger);
    assert!(said.contains("address-dependent: keeps it out"), "{said}");
    let known = between(SERVER, "203.0.113.8").udp(9, 5000).finish();
    let said = ask(&world, OUTSIDE, &known);
    assert!(said.contains("mapping of 10.0.0.5 port 5000") && said.contains("lets it in"), "{said}");
}

#[test]
fn rules_may_say_what_they_are_not_about() {
    let inside = throughway_nat::rule::range_of("10.0.0.0/8".parse().unwrap());
    let not_inside = Several { not: true, any_of: vec![inside] };
    let matches = Match { destination: not_inside, ..Match::default() };
    let rule = SourceRule { matches, ..to_pool() };
    let mut world = World::new(rules(vec![rule], vec![pool(&["203.0.113.8"], 1024..=65535)]));
    assert_eq!(world.passes(INSIDE, &between(HOST, "10.9.9.9").udp(1, 2)).source(), ip(HOST));
    assert_eq!(world.passes(INSIDE, &between(HOST, SERVER).udp(1, 2)).source(), ip("203.0.113.8"));
}

#[test]
fn tables_are_bounded_and_say_why() {
    let options = throughway_nat::Options { half_open: 8, ..throughway_nat::Options::new(16, [1, 2]) };
    let made = rules(vec![to_pool()], vec![pool(&["203.0.113.8"], 1024..=65535)]);
    let mut world = World::with(options, made);
    // Half-open: the oldest makes room.
    for port in 1..=20 {
        world.passes(INSIDE, &between(HOST, SERVER).tcp(5000, port, SYN));
    }
    assert_eq!(world.shared.len().0, 8);
    // Established ones are not displaced.
    for port in 1..=20 {
        let out = between(HOST, SERVER).udp(6000, port).finish();
        if world.pass(INSIDE, &out).0 == Verdict::Continue {
            world.pass(OUTSIDE, &between(SERVER, "203.0.113.8").udp(port, 6000).finish());
        }
    }
    assert_eq!(world.shared.len().0, 16);
    assert_eq!(world.shared.count(Class::Established), 16);
    world.drops(INSIDE, &between(HOST, SERVER).udp(6000, 99), DropReason::NatSessionTableFull);
}

#[test]
fn the_ports_that_the_kernel_gives_to_sockets_are_left_to_it() {
    let left = |left| PoolConfig { left_to_host: Some(left), ..local("203.0.113.8") };
    let rule = || SourceRule { preserve_parity: false, ..masquerade(&[(OUTSIDE, 0)]) };
    let mut world = World::new(rules(vec![rule()], vec![left(20_000..=40_000)]));
    let mut seen = BTreeSet::new();
    for port in [19_999, 20_000, 30_000, 40_000, 40_001] {
        let outside = world.passes(INSIDE, &between(HOST, SERVER).udp(port, 53)).source_port();
        assert_eq!(outside == port, !(20_000..=40_000).contains(&port), "{port} became {outside}");
    }
    for number in 0..2000 {
        let host = format!("10.1.{}.{}", number / 250, number % 250 + 1);
        let outside = world.passes(INSIDE, &between(&host, SERVER).udp(30_000, 53)).source_port();
        assert!(!(20_000..=40_000).contains(&outside) && outside >= 1024);
        seen.insert(outside / 1000);
    }
    assert!(
        seen.contains(&5) && seen.contains(&19) && seen.contains(&41) && seen.contains(&64),
        "both sides"
    );
    let usage = world.rules.read().pools[0].usage(world.now);
    assert_eq!(usage.ports, 65_536 - 1024 - 20_001);

    // Nor is any of them in a block.
    let blocks = Some(BlockConfig { size: 1000, per_host: 1, hosts: Vec::new() });
    let config = PoolConfig { ports: 10_000..=19_999, blocks, ..left(12_500..=16_000) };
    let mut world = World::new(rules(vec![rule()], vec![config]));
    assert_eq!(world.rules.read().pools[0].usage(world.now).blocks, (5, 5));
    for number in 1..=5 {
        let outside = world.passes(INSIDE, &between(&format!("10.0.0.{number}"), SERVER).udp(7, 53));
        assert!(!(12_000..17_000).contains(&outside.source_port()));
    }
    world.drops(INSIDE, &between("10.0.0.6", SERVER).udp(7, 53), DropReason::NatNoPort);
}

#[test]
fn answers_to_the_hosts_own_pings_are_the_hosts() {
    let mut world = World::new(rules(vec![masquerade(&[(OUTSIDE, 0)])], vec![local("203.0.113.8")]));
    let ping = |from: &str, to: &str, kind, id: u8| between(from, to).icmp(kind, 0, [8, id, 0, 1]);
    world.passes(INSIDE, &ping(HOST, SERVER, 8, 7));
    assert_eq!(world.passes(OUTSIDE, &ping(SERVER, "203.0.113.8", 0, 7)).destination(), ip(HOST));
    world.drops(OUTSIDE, &ping(SERVER, "203.0.113.8", 0, 8), DropReason::LocalDestination);
    // An error about a packet that no host inside has sent.
    let own = between("203.0.113.8", SERVER).udp(33_000, 33_434).finish();
    let mut frame = vec![0; 1500];
    let error = throughway_packet::icmp::IcmpError::PortUnreachable;
    let headers = parse(&own, INSIDE).unwrap();
    let len = throughway_packet::icmp::build_error(&own, &headers, error, ip(SERVER), &mut frame).unwrap();
    frame.truncate(len);
    let verdict = world.judge(OUTSIDE, &frame).0;
    assert_eq!(verdict, Verdict::Drop(DropReason::LocalDestination));
    // Where the address is the NAT's alone, nobody wants them.
    let mut world = World::new(rules(vec![to_pool()], vec![pool(&["203.0.113.8"], 1024..=65535)]));
    world.drops(OUTSIDE, &ping(SERVER, "203.0.113.8", 0, 8), DropReason::NatNoMapping);
    assert_eq!(world.judge(OUTSIDE, &frame).0, Verdict::Drop(DropReason::NatUnrelatedError));
}

#[test]
fn blocks_of_a_pool_that_is_gone_are_given_back_one_by_one() {
    let config = |size| {
        let blocks = Some(BlockConfig { size, per_host: 2, hosts: Vec::new() });
        PoolConfig { blocks, ..pool(&["203.0.113.8"], 1024..=5119) }
    };
    let mut world = World::new(rules(vec![to_pool()], vec![config(64)]));
    world.passes(INSIDE, &between(HOST, SERVER).udp(1000, 53));
    let events = |world: &World| {
        std::iter::from_fn(|| world.events.take())
            .map(|event| match event.what {
                throughway_vnf::events::What::Block(block) => (block.allocated, block.first, block.last),
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
    let given = events(&world);
    assert!(matches!(given[..], [(true, ..)]));
    let before = world.rules.read_owned();
    world.reload(rules(vec![to_pool()], vec![config(128)]));
    world.shared.retire(&before.pools, &world.rules.read_owned().pools);
    world.wait(200);
    assert_eq!(events(&world), [], "its mapping is still there");
    world.wait(301 - 200 + 122 + 20);
    assert_eq!(events(&world), [(false, given[0].1, given[0].2)]);
}

#[test]
fn sessions_on_a_lost_address_end_unless_it_comes_back() {
    let with = |address| rules(vec![masquerade(&[(OUTSIDE, 0)])], vec![local(address)]);
    let mut world = World::new(with("203.0.113.8"));
    (0..100).for_each(|port| {
        world.passes(INSIDE, &between(HOST, SERVER).udp(1000 + port, 53));
    });
    let now = Now(world.now);
    world.reload(with("203.0.113.77"));
    world.shared.lose(ip("203.0.113.8"));
    world.reload(with("203.0.113.8"));
    assert_eq!(world.shared.end_lost(ip("203.0.113.8"), || now), 0, "it is back");
    world.reload(with("203.0.113.77"));
    world.shared.lose(ip("203.0.113.8"));
    assert_eq!(world.shared.end_lost(ip("203.0.113.8"), || now), 100);
    assert_eq!(world.shared.len(), (0, 0));
}
