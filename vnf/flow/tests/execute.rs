//! What the cache does to a packet against what its action says, byte for byte: a few hundred thousand packets of all shapes
//! that are taken, with any edits.
//!
//! The sequence is the same in every run: what fails, fails again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use common::{Random, SECOND, SEED, any_edits};
use throughway_flow::{Credits, Dependencies, FlowCache, Generations, NewFlow, Policy, Probe, Round};
use throughway_packet::build::PacketBuilder;
use throughway_packet::{Action, Edit, PortId, apply, checksum, edits, parse};
use throughway_shared::action::Rewrite;
use throughway_shared::tunnel::Tunnel;

const PACKETS: u64 = 300_000;
const PORT: PortId = PortId(7);
const NOW: u64 = 1000 * SECOND;

fn frame(random: &mut Random) -> Vec<u8> {
    let dice = random.next();
    let [a, b, c, d, ..] = random.next().to_le_bytes();
    let builder = if dice & 1 == 0 {
        PacketBuilder::ipv4([10, a, b, c], [192, 0, 2, d])
    } else {
        PacketBuilder::ipv6(
            [0x2001, 0xdb8, a.into(), 0, 0, 0, 0, 1],
            [0xfd00, b.into(), 0, 0, 0, 0, c.into(), 2],
        )
    };
    let builder = builder.hop_limit(2 + (dice >> 8) as u8 % 254).traffic_class((dice >> 16) as u8);
    let builder = match dice >> 24 & 7 {
        0 => builder.vlan((dice >> 32) as u16),
        1 => builder.tag(0x88a8, (dice >> 32) as u16).vlan(5),
        _ => builder,
    };
    let builder = builder.payload(&vec![a; usize::from(b) % 40]);
    let (from, to) = (u16::from_be_bytes([c, d]), (dice >> 48) as u16);
    match dice >> 1 & 7 {
        0..3 => builder.tcp(from, to, 0x10).finish(),
        3 => builder.udp_without_checksum(from, to).finish(),
        _ => builder.udp(from, to).finish(),
    }
}

fn cache() -> (FlowCache, Generations) {
    (FlowCache::new(4096, SEED, Policy::default()), Generations::default())
}

fn new_flow<'a>(rewrite: &'a Rewrite) -> NewFlow<'a> {
    let (dependencies, credits) = (Dependencies::NONE, Credits::default());
    let tunnel = Some(&rewrite.tunnel);
    NewFlow { action: &rewrite.action, tunnel, dependencies, credits, limit: u16::MAX, silence: u64::MAX }
}

fn read(cache: &mut FlowCache, frame: &[u8]) -> Probe {
    let mut probes = [Probe::default()];
    cache.read(frame, PORT, &mut probes[0]);
    assert!(probes[0].is_readable(), "{frame:02x?}");
    cache.fetch(&mut probes);
    probes[0]
}

#[test]
fn packets_leave_as_their_action_says() {
    let (mut cache, generations) = cache();
    let round = Round::new(generations.epoch(), NOW);
    let mut random = Random(1);
    let mut zeros = 0;
    for number in 0..PACKETS {
        let frame = frame(&mut random);
        let headers = parse(&frame, PORT).unwrap();
        let (mut view, mut action) = (headers, Action::nothing());
        for edit in any_edits(&mut random, headers.is_ipv4()) {
            edit.record(&mut view, &mut action);
        }
        if number % 4 == 0 && headers.key.protocol == 17 {
            // A port that makes the checksum zero, or what stands for it.
            let at = usize::from(headers.l4_checksum);
            let old = u16::from_be_bytes([frame[at], frame[at + 1]]);
            let words = [old, !action.l4_delta, view.source_port()].map(u16::to_be_bytes);
            let port = checksum::sum(words.as_flattened());
            Edit::SourcePort(port).record(&mut view, &mut action);
        }
        let rewrite = Rewrite::from(action);
        cache.install(&Probe::of(&headers), &new_flow(&rewrite), &round, |_| ());
        let (mut slow, mut quick) = (frame.clone(), frame.clone());
        apply(&action, &headers, &mut slow);
        let probe = read(&mut cache, &frame);
        assert_eq!(cache.lookup(&probe, &round), Some(&action), "as it came in");
        let plan = cache.execute(&probe, &round, &mut quick).expect("a known flow");
        assert_eq!((plan.egress(), plan.drop(), plan.moves_front()), (action.egress, None, false));
        assert_eq!(slow, quick, "{action:?} on {frame:02x?}");
        let at = usize::from(headers.l4_checksum);
        zeros += u64::from(at > 0 && quick[at..at + 2] == [0xff; 2]);
        assert!(cache.remove(&probe, NOW, |_| ()), "makes room");
    }
    assert_eq!(cache.stats().hits, 2 * PACKETS);
    assert!(zeros > PACKETS / 100, "{zeros} UDP checksums that would have become zero");
}

#[test]
fn drops_and_what_moves_the_front_leave_the_packet_alone() {
    let (mut cache, generations) = cache();
    let round = Round::new(generations.epoch(), NOW);
    let mut random = Random(2);
    let tunnel = Tunnel { kind: 1, family: 4, destination: [9; 16], ..Tunnel::none() };
    for number in 0..1000u16 {
        let frame = frame(&mut random);
        let headers = parse(&frame, PORT).unwrap();
        let made = [edits::DROP, edits::TAGS, edits::PRIORITY | edits::EGRESS, edits::ENCAPSULATE];
        let made = made[usize::from(number % 4)];
        let action = Action { edits: made, drop: 3, outer_tag: number, egress: 5, ..Action::nothing() };
        let tunnel = if made == edits::ENCAPSULATE { tunnel } else { Tunnel::none() };
        let rewrite = Rewrite { action, tunnel };
        cache.install(&Probe::of(&headers), &new_flow(&rewrite), &round, |_| ());
        let mut quick = frame.clone();
        let probe = read(&mut cache, &frame);
        let plan = cache.execute(&probe, &round, &mut quick).expect("a known flow");
        assert_eq!(quick, frame);
        assert_eq!(plan.drop(), (made == edits::DROP).then_some(3));
        assert_eq!(plan.moves_front(), made != edits::DROP);
        assert_eq!(cache.rewrite(&probe), Some(&rewrite));
    }
}

#[test]
fn a_frame_that_is_shorter_than_what_was_read_is_left_alone() {
    let (mut cache, generations) = cache();
    let round = Round::new(generations.epoch(), NOW);
    let frame = PacketBuilder::ipv4([10, 0, 0, 1], [192, 0, 2, 1]).tcp(1, 2, 0x10).finish();
    let headers = parse(&frame, PORT).unwrap();
    let (mut view, mut action) = (headers, Action::nothing());
    Edit::DecrementHops.record(&mut view, &mut action);
    cache.install(&Probe::of(&headers), &new_flow(&action.into()), &round, |_| ());
    let probe = read(&mut cache, &frame);
    for len in 0..frame.len() {
        let mut cut = frame[..len].to_vec();
        cache.execute(&probe, &round, &mut cut);
    }
}
