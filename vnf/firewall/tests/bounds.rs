//! Bounds: floods, full tables, and anything at all.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod wall;

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use throughway_firewall::{DefaultAction, Firewall, Options, PolicyConfig};
use throughway_packet::build::PacketBuilder;
use throughway_packet::{PortId, parse};
use throughway_session::{Class, WhenFull};
use throughway_vnf::{Batch, Context, DropReason, Function, Packet, Verdict};
use wall::*;

fn open() -> PolicyConfig {
    PolicyConfig { default: DefaultAction::Allow, ..PolicyConfig::default() }
}

fn spoofed(number: u32) -> PacketBuilder {
    let [_, a, b, c] = number.to_be_bytes();
    PacketBuilder::ipv4([100, a, b, c], [198, 51, 100, 7]).tcp(1024, 80, SYN)
}

#[test]
fn a_syn_flood_displaces_half_open_sessions_only() {
    let mut wall = Wall::new(Options { sessions: 400, half_open: 100, ..options() }, open());
    let ends = ("10.0.0.1", "198.51.100.7");
    for port in 1..=200 {
        wall.establish(ends, port);
    }
    for number in 0..100_000 {
        let frame = spoofed(number).finish();
        let mut packet = Packet::new(&frame, parse(&frame, PortId(0)).unwrap());
        assert_eq!(wall.firewall.judge(&mut packet, &Context { now: wall.now }), PASS);
        // Somebody who answers in time gets through meanwhile.
        if number % 10_000 == 0 {
            wall.establish(ends, 1000 + (number / 10_000) as u16);
        }
    }
    let overview = wall.shared.overview();
    assert_eq!(overview.sessions, [100, 210, 0]);
    assert_eq!(overview.table.evicted, 100_000 - 100);
    for port in (1..=200).chain(1000..1010) {
        assert_eq!(wall.send(&between(ends.1, ends.0).tcp(80, port, ACK)), PASS);
    }
}

#[test]
fn each_bound_has_its_own_reason() {
    let refuse = Options { half_open: 3, when_full: WhenFull::Refuse, ..options() };
    let mut wall = Wall::new(refuse, open());
    let verdicts: Vec<_> = (0..4).map(|number| wall.send(&spoofed(number))).collect();
    assert_eq!(verdicts, [PASS, PASS, PASS, Verdict::Drop(DropReason::HalfOpenLimit)]);

    let mut wall = Wall::new(Options { sessions: 2, half_open: 2, ..options() }, open());
    wall.establish(ENDS[0], 1);
    wall.establish(ENDS[0], 2);
    assert_eq!(wall.send(&spoofed(1)), Verdict::Drop(DropReason::SessionTableFull));
    assert_eq!(wall.shared.overview().sessions, [0, 2, 0]);

    let mut wall = Wall::new(Options { per_source: Some(2), ..options() }, open());
    let udp = |port| between("10.0.0.1", "198.51.100.7").udp(port, 53);
    let verdicts = [1, 2, 3].map(|port| wall.send(&udp(port)));
    let refused = Verdict::Drop(DropReason::TooManySessionsOfSource);
    assert_eq!(verdicts, [PASS, PASS, refused]);
    assert_eq!(wall.send(&udp(3)), refused, "what was refused has not been counted down");
    assert_eq!(wall.send(&between("10.0.0.2", "198.51.100.7").udp(1, 53)), PASS);
    wall.wait(Duration::from_secs(31));
    assert_eq!(wall.send(&udp(3)), PASS);
    assert_eq!(wall.shared.overview().sources, 1);
}

#[test]
fn a_batch_is_judged_as_one_by_one() {
    let frames: Vec<Vec<u8>> = (0..50)
        .flat_map(|n| {
            [spoofed(n % 7).finish(), between("10.0.0.1", "10.9.9.9").udp(n as u16 % 5, 9).finish()]
        })
        .take(60)
        .collect();
    let (mut one, mut many) = (Wall::simple(), Wall::simple());
    let mut batch = Batch::new();
    for frame in &frames {
        batch.push(Packet::new(frame, parse(frame, PortId(0)).unwrap())).unwrap();
    }
    many.firewall.process(&mut batch, &Context { now: many.now });
    for (frame, packet) in frames.iter().zip(batch.packets()) {
        let mut single = Packet::new(frame, parse(frame, PortId(0)).unwrap());
        let verdict = one.firewall.judge(&mut single, &Context { now: one.now });
        single.settle(verdict);
        assert_eq!((single.state(), single.is_repeatable()), (packet.state(), packet.is_repeatable()));
        assert_eq!(single.credits(), packet.credits());
    }
}

/// One packet of a random conversation.
fn packet() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let host = prop_oneof![Just("10.0.0.1"), Just("10.0.0.2"), Just("198.51.100.7")];
    let host6 = prop_oneof![Just("2001:db8::1"), Just("2001:db8:1::7")];
    let pair = prop_oneof![(host.clone(), host), (host6.clone(), host6)];
    (pair, 0u8..9, 0u16..3, 0u16..3, any::<u8>(), prop::collection::vec(any::<u8>(), 0..60), 0u16..2)
        .prop_map(|((a, b), kind, source, destination, byte, payload, port)| {
            let packet = between(a, b).payload(&payload);
            let built = match kind {
                0..=2 => packet.tcp(source, destination, byte),
                3 => packet.udp(source, destination),
                4 => packet.echo_request(source, 1),
                5 => packet.echo_reply(source, 1),
                6 => packet.icmp(byte, source as u8, [0; 4]),
                7 => packet.sctp(source, destination),
                _ => {
                    let offset = u16::from(byte % 4) * 8;
                    let whole = payload.len() / 8 * 8;
                    packet
                        .payload(&payload[..whole])
                        .udp(source, destination)
                        .identification(destination.into())
                        .fragment(offset, true)
                }
            };
            (port, built.finish())
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever comes: no panic, what it explains is what it does, sessions stay within their bounds, and what it gave out of
    /// budgets comes back.
    #[test]
    fn anything_at_all(
        packets in prop::collection::vec((packet(), 0u64..3_000), 1..120),
        check_windows: bool,
        pickup: bool,
    ) {
        let options = Options {
            sessions: 12,
            half_open: 4,
            datagrams: 3,
            per_source: Some(5),
            check_windows,
            pickup,
            ..options()
        };
        let mut wall = Wall::new(options, inside_out());
        for ((port, frame), wait) in packets {
            if parse(&frame, PortId(port)).is_err() {
                continue;
            }
            let headers = parse(&frame, PortId(port)).unwrap();
            let established: Vec<_> = wall.sessions().iter()
                .filter(|session| session.class == Class::Established).map(|session| session.id).collect();
            let explained = wall.firewall.explain(&Packet::new(&frame, headers), wall.now);
            let mut packet = Packet::new(&frame, headers);
            let verdict = wall.firewall.judge(&mut packet, &Context { now: wall.now });
            prop_assert_eq!(explained.verdict, verdict, "{:?}", explained.steps);
            let overview = wall.shared.overview();
            prop_assert!(overview.sessions.iter().sum::<u32>() <= 12);
            prop_assert!(overview.sessions[0] <= 4 && overview.datagrams <= 3);
            // No packet ends an established session, whatever it is.
            let now: Vec<_> = wall.sessions().iter().map(|session| session.id).collect();
            prop_assert!(established.iter().all(|id| now.contains(id)));
            wall.wait(Duration::from_millis(wait));
        }
        wall.wait(Duration::from_secs(10_000));
        let overview = wall.shared.overview();
        prop_assert_eq!((overview.sessions, overview.sources, overview.datagrams), ([0; 3], 0, 0));
    }
}

#[test]
fn workers_share_sessions() {
    let wall = Wall::new(
        Options { sessions: 10_000, half_open: 10_000, per_source: Some(9_000), ..options() },
        open(),
    );
    let now = wall.now;
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let shared = Arc::clone(&wall.shared);
            scope.spawn(move || {
                let mut firewall = Firewall::new(shared);
                for port in 1..2000u16 {
                    // Both directions of the same connections, on all workers at once.
                    let packet = if worker % 2 == 0 {
                        between("10.0.0.1", "10.0.0.2").udp(port, 53)
                    } else {
                        between("10.0.0.2", "10.0.0.1").udp(53, port)
                    };
                    let frame = packet.finish();
                    let mut packet = Packet::new(&frame, parse(&frame, PortId(0)).unwrap());
                    assert_eq!(firewall.judge(&mut packet, &Context { now }), PASS);
                }
            });
        }
    });
    let overview = wall.shared.overview();
    assert_eq!(overview.sessions.iter().sum::<u32>(), 1999, "one session for each connection");
    let packets: u64 = wall.sessions().iter().map(|session| session.packets[0] + session.packets[1]).sum();
    assert_eq!(packets, 4 * 1999);
}
