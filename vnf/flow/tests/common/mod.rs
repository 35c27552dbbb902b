//! What the tests share.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test uses a part of this")]

use throughway_flow::{
    Credits, Dependencies, FlowCache, Generations, Installed, NewFlow, Probe, Round, Settled,
};
use throughway_packet::build::PacketBuilder;
use throughway_packet::{Action, Edit, PortId, edits, parse};
use throughway_shared::flow::mapped;

/// One second in nanoseconds.
pub const SECOND: u64 = 1_000_000_000;

/// The seed of the hash, in every run.
pub const SEED: u128 = 0x0123_4567_89ab_cdef_0f1e_2d3c_4b5a_6978;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 32) as usize * limit) >> 32
    }
}

/// The probe of flow number `number`: even ones are IPv4, odd ones IPv6.
pub fn probe(number: u64) -> Probe {
    let [a, b, c, d, ..] = (number / 2).to_le_bytes();
    let builder = if number.is_multiple_of(2) {
        PacketBuilder::ipv4([10, b, c, d], [192, 0, 2, a])
    } else {
        PacketBuilder::ipv6(
            [0x2001, 0xdb8, 0, 0, 0, 0, u16::from(b) << 8 | u16::from(c), d.into()],
            [0xfd00, 1, 2, 3, 4, 5, 6, a.into()],
        )
    };
    Probe::of(&parse(&builder.udp(1000, 53).finish(), PortId(0)).unwrap())
}

/// An action that can be told from others, of every kind that is kept in a way of its own: new IPv6 addresses, new IPv4
/// addresses, none.
pub fn action(mark: u32) -> Action {
    let [a, b, c, d] = mark.to_be_bytes();
    let action = Action {
        edits: edits::EGRESS,
        egress: (mark % 5) as u16,
        l3_delta: (mark >> 3) as u16,
        l4_delta: !mark as u16,
        ..Action::nothing()
    };
    match mark % 3 {
        0 => Action {
            source: u128::from(mark).to_be_bytes(),
            destination: [d; 16],
            edits: action.edits | edits::SOURCE | edits::DESTINATION,
            ..action
        },
        1 => Action { source: mapped([a, b, c, d]), edits: action.edits | edits::SOURCE, ..action },
        _ => Action {
            source_port: [a, b],
            destination_port: [c, d],
            edits: action.edits | edits::SOURCE_PORT | edits::DESTINATION_PORT,
            l3_delta: 0,
            ..action
        },
    }
}

pub fn mark(action: &Action) -> u32 {
    let mark = if action.has(edits::SOURCE) {
        u128::from_be_bytes(action.source) as u32
    } else {
        let ([a, b], [c, d]) = (action.source_port, action.destination_port);
        u32::from_be_bytes([a, b, c, d])
    };
    assert_eq!(*action, self::action(mark), "not a field is lost");
    mark
}

pub fn new_flow<'a>(action: &'a Action, dependencies: Dependencies, credit: u32) -> NewFlow<'a> {
    let credits = Credits([u64::from(credit), 0, 0]);
    NewFlow { action, tunnel: None, dependencies, credits, limit: u16::MAX, silence: u64::MAX }
}

/// Installs a flow that depends on nothing.
pub fn install(
    cache: &mut FlowCache,
    number: u64,
    generations: &Generations,
    now: u64,
) -> (Installed, Option<Settled>) {
    let mut settled = None;
    let action = action(number as u32);
    let new = new_flow(&action, Dependencies::NONE, number as u32);
    let round = Round::new(generations.epoch(), now);
    let installed = cache.install(&probe(number), &new, &round, |counts| settled = Some(counts));
    (installed, settled)
}

/// What the cache says of one packet of a flow.
pub fn look(cache: &mut FlowCache, number: u64, generations: &Generations, now: u64) -> Option<Action> {
    let mut probes = [probe(number)];
    cache.prepare(&mut probes);
    cache.lookup(&probes[0], &Round::new(generations.epoch(), now)).copied()
}

pub fn any_edits(random: &mut Random, ipv4: bool) -> Vec<Edit> {
    let address = |bits: u64| {
        let [a, b, c, d, ..] = bits.to_le_bytes();
        if ipv4 { [a, b, c, d].into() } else { [0x20, 1, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, a].into() }
    };
    let bits = random.next();
    let all = [
        Edit::Source(address(random.next())),
        Edit::Destination(address(random.next())),
        Edit::SourcePort(bits as u16),
        Edit::DestinationPort((bits >> 16) as u16),
        Edit::Dscp((bits >> 32) as u8),
        Edit::DecrementHops,
        Edit::Ethernet { destination: [1; 6], source: [2; 6] },
        Edit::Egress(PortId(3)),
    ];
    all.into_iter().filter(|_| random.next() & 1 != 0).collect()
}
