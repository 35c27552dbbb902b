//! Random rules whose conditions meet often, and the packets at their edges.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test file uses what it needs")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use throughway_firewall::*;
use throughway_packet::PortId;

/// Xorshift (Marsaglia, 2003): the same numbers everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }

    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Few networks, so that prefixes nest; every length.
fn address(random: &mut Random, family: Family) -> IpAddr {
    let noise = random.next() & *random.pick(&[0, 3, 0xff, 0xffff, u64::MAX]);
    match family {
        Family::Ipv4 => {
            let base: u32 = *random.pick(&[0x0a00_0000, 0x0a01_0000, 0xc0a8_0000, 0, 0xffff_ff00]);
            Ipv4Addr::from_bits(base.wrapping_add(noise as u32)).into()
        }
        Family::Ipv6 => {
            let base: u128 = *random.pick(&[
                0x2001_0db8 << 96,
                (0x2001_0db8 << 96) + (1 << 64),
                0xfe80 << 112,
                0,
                u128::MAX << 8,
            ]);
            let shift = *random.pick(&[0, 0, 32, 64]);
            Ipv6Addr::from_bits(base.wrapping_add(u128::from(noise) << shift)).into()
        }
    }
}

pub(crate) fn range(random: &mut Random) -> AddressRange {
    let family = *random.pick(&[Family::Ipv4, Family::Ipv6]);
    let first = address(random, family);
    match random.below(3) {
        0 => first.into(),
        1 => {
            let width = if first.is_ipv4() { 33 } else { 129 };
            throughway_packet::Prefix::containing(first, random.below(width) as u8).unwrap().into()
        }
        _ => {
            let second = address(random, family);
            AddressRange::new(first.min(second), first.max(second)).unwrap()
        }
    }
}

fn numbers(random: &mut Random, most: usize, values: &[u16]) -> Vec<std::ops::RangeInclusive<u16>> {
    let count = random.below(most + 1);
    let mut one = || {
        let first = *random.pick(values);
        match random.below(3) {
            0 => first..=*random.pick(values),
            _ => first..=first,
        }
    };
    (0..count).map(|_| one()).collect()
}

const PORTS: &[u16] = &[0, 1, 22, 53, 80, 443, 1023, 1024, 8080, 32768, 65534, 65535];
const NUMBERS: &[u16] = &[0, 1, 2, 3, 100, 4094];

/// Shared sets, rules and groups.
pub(crate) struct World {
    pub(crate) rules: Vec<Rule>,
    pub(crate) groups: Vec<Group>,
}

impl World {
    pub(crate) fn new(seed: u64, count: usize) -> World {
        let mut random = Random::new(seed);
        let random = &mut random;
        let sets: Vec<_> = (0..4)
            .map(|_| {
                let count = *random.pick(&[0, 1, 5, 300]);
                Arc::new(AddressSet::new((0..count).map(|_| range(random)).collect::<Vec<_>>()))
            })
            .collect();
        let ports: Vec<_> = (0..3).map(|_| Arc::new(NumberSet::new(numbers(random, 40, PORTS)))).collect();
        let group_count = random.below(5);
        let groups = (0..group_count)
            .map(|own| {
                let rules = random.below(6);
                // Only to later groups: no circles.
                let rules =
                    (0..rules).map(|id| rule(random, id, own + 1..group_count, &sets, &ports)).collect();
                Group { name: format!("group {own}"), rules }
            })
            .collect();
        let rules = (0..count).map(|id| rule(random, id, 0..group_count, &sets, &ports)).collect();
        World { rules, groups }
    }
}

fn addresses(random: &mut Random, sets: &[Arc<AddressSet>]) -> AddressMatch {
    let (ranges, named) = (random.below(4), random.below(5).saturating_sub(3));
    let ranges = if random.chance(3) { 60 } else { ranges };
    AddressMatch {
        negated: random.chance(15),
        ranges: (0..ranges).map(|_| range(random)).collect(),
        sets: (0..named).map(|_| random.pick(sets).clone()).collect(),
    }
}

fn ports(random: &mut Random, sets: &[Arc<NumberSet>]) -> PortMatch {
    let named = random.below(5).saturating_sub(3);
    PortMatch {
        negated: random.chance(15),
        ranges: numbers(random, 4, PORTS),
        sets: (0..named).map(|_| random.pick(sets).clone()).collect(),
    }
}

fn rule(
    random: &mut Random,
    id: usize,
    targets: std::ops::Range<usize>,
    sets: &[Arc<AddressSet>],
    port_sets: &[Arc<NumberSet>],
) -> Rule {
    let mut matches = Matches::default();
    if random.chance(20) {
        matches.family = Some(*random.pick(&[Family::Ipv4, Family::Ipv6]));
    }
    if random.chance(20) {
        matches.ingress = Some(NumberSet::new(numbers(random, 3, NUMBERS)));
    }
    if random.chance(10) {
        matches.egress = Some(NumberSet::new(numbers(random, 3, NUMBERS)));
    }
    if random.chance(8) {
        matches.vlans = Some(NumberSet::new(numbers(random, 3, NUMBERS)));
    }
    matches.source = random.chance(60).then(|| addresses(random, sets));
    matches.destination = random.chance(60).then(|| addresses(random, sets));
    if random.chance(40) {
        let count = 1 + random.below(4);
        matches.protocols = (0..count).map(|_| *random.pick(&[1u8, 6, 17, 58, 132, 47])).collect();
    }
    matches.source_ports = random.chance(20).then(|| ports(random, port_sets));
    matches.destination_ports = random.chance(40).then(|| ports(random, port_sets));
    if random.chance(8) {
        let one = |random: &mut Random| TcpFlags {
            mask: random.next() as u8 & 0x17,
            value: random.next() as u8 & 2,
        };
        matches.tcp_flags = (0..2).map(|_| one(random)).collect();
    }
    if random.chance(8) {
        let one = |random: &mut Random| IcmpMatch {
            family: *random.pick(&[Family::Ipv4, Family::Ipv6]),
            kind: *random.pick(&[0, 3, 8, 128]),
            code: random.chance(50).then(|| random.below(3) as u8),
        };
        matches.icmp = (0..3).map(|_| one(random)).collect();
    }
    matches.dscp = random.chance(6).then(|| random.next());
    if random.chance(6) {
        let first = *random.pick(&[0, 64, 1500]);
        matches.length = Some(first..=first + random.below(600) as u16);
    }
    if random.chance(6) {
        use FragmentMatch::*;
        matches.fragment = Some(*random.pick(&[Fragment, Whole, First, Later]));
    }
    if random.chance(15) {
        let states: Vec<State> = STATES.iter().copied().filter(|_| random.chance(40)).collect();
        matches.states = Some(States::of(&states));
    }
    let mut actions = Actions { log: random.chance(20).then_some(7), ..Actions::default() };
    actions.ending = match random.below(5) {
        0 if !targets.is_empty() => {
            Ending::Jump(GroupId((targets.start + random.below(targets.len())) as u16))
        }
        0 | 1 => Ending::Allow,
        2 => Ending::Reject(RejectWith::TcpReset),
        3 => Ending::Continue,
        _ => Ending::Drop,
    };
    Rule { id: id as u32, matches, actions }
}

pub(crate) const STATES: [State; 5] =
    [State::New, State::Established, State::Related, State::Invalid, State::Untracked];

/// An address with its neighbours.
fn around(address: IpAddr) -> Vec<IpAddr> {
    match address {
        IpAddr::V4(v4) => [-1i32, 0, 1]
            .iter()
            .filter_map(|&step| v4.to_bits().checked_add_signed(step))
            .map(|bits| Ipv4Addr::from_bits(bits).into())
            .collect(),
        IpAddr::V6(v6) => [-1i128, 0, 1]
            .iter()
            .filter_map(|&step| v6.to_bits().checked_add_signed(step))
            .map(|bits| Ipv6Addr::from_bits(bits).into())
            .collect(),
    }
}

/// All addresses at an edge of a list. Of large sets only some.
pub(crate) fn edges(list: &AddressMatch, random: &mut Random) -> Vec<IpAddr> {
    let mut ranges = list.ranges.clone();
    for set in &list.sets {
        let all: Vec<_> = set.ranges().collect();
        let take = all.len().min(4);
        ranges.extend((0..take).map(|_| *random.pick(&all)));
    }
    ranges.iter().flat_map(|range| [around(range.first()), around(range.last())].concat()).collect()
}

fn near(value: u16) -> [u16; 3] {
    [value.saturating_sub(1), value, value.saturating_add(1)]
}

/// Some packet, with everything drawn from the values that rules use.
pub(crate) fn packet(random: &mut Random) -> Fields {
    let family = *random.pick(&[Family::Ipv4, Family::Ipv6]);
    let mut fields = Fields::between(address(random, family), address(random, family));
    fields.protocol = *random.pick(&[1u8, 6, 6, 17, 17, 58, 132, 47]);
    fields.source_port = *random.pick(PORTS);
    fields.destination_port = *random.pick(PORTS);
    fields.ingress = PortId(*random.pick(NUMBERS));
    fields.egress = random.chance(60).then(|| PortId(*random.pick(NUMBERS)));
    fields.vlan = *random.pick(NUMBERS);
    fields.length = *random.pick(&[20, 63, 64, 65, 500, 1500]);
    fields.tcp_flags = random.next() as u8 & 0x3f;
    fields.icmp_type = *random.pick(&[0, 3, 8, 128]);
    fields.icmp_code = random.below(3) as u8;
    fields.dscp = random.below(64) as u8;
    fields.fragmentation = *random.pick(&[Fragmentation::Whole, Fragmentation::First, Fragmentation::Later]);
    fields.state = *random.pick(&STATES);
    let later = fields.fragmentation == Fragmentation::Later;
    fields.has_ports = matches!(fields.protocol, 6 | 17 | 132) && (!later || random.chance(30));
    fields.has_header = matches!(fields.protocol, 6 | 1 | 58) && !later;
    fields
}

/// Packets that a rule decides about: as much as possible as it wants them, then each dimension at each of its edges.
pub(crate) fn probes(rule: &Rule, random: &mut Random) -> Vec<Fields> {
    let wanted = &rule.matches;
    let mut base = packet(random);
    let sources = wanted.source.as_ref().map(|list| edges(list, random)).unwrap_or_default();
    let destinations = wanted.destination.as_ref().map(|list| edges(list, random)).unwrap_or_default();
    if !sources.is_empty() {
        base = with_source(base, *random.pick(&sources));
    }
    if !destinations.is_empty() {
        base = with_destination(base, *random.pick(&destinations));
    }
    if let Some(protocol) = wanted.protocols.first() {
        base.protocol = *protocol;
        base.has_ports = matches!(base.protocol, 6 | 17 | 132);
        base.has_header = matches!(base.protocol, 6 | 1 | 58);
    }
    let of = |list: &Option<PortMatch>| -> Vec<u16> {
        let list = list.iter().flat_map(|list| list.ranges.clone()).collect::<Vec<_>>();
        list.iter().flat_map(|range| [near(*range.start()), near(*range.end())].concat()).collect()
    };
    let set = |set: &Option<NumberSet>| -> Vec<u16> {
        let ranges: Vec<_> = set.iter().flat_map(|set| set.ranges()).collect();
        ranges.iter().flat_map(|range| [near(*range.start()), near(*range.end())].concat()).collect()
    };
    let (source_ports, destination_ports) = (of(&wanted.source_ports), of(&wanted.destination_ports));
    let (ingress, egress, vlans) = (set(&wanted.ingress), set(&wanted.egress), set(&wanted.vlans));
    let choose = |random: &mut Random, from: &[u16], to: &mut u16| {
        if !from.is_empty() {
            *to = *random.pick(from);
        }
    };
    choose(random, &source_ports, &mut base.source_port);
    choose(random, &destination_ports, &mut base.destination_port);
    choose(random, &ingress, &mut base.ingress.0);
    choose(random, &vlans, &mut base.vlan);
    if !egress.is_empty() {
        base.egress = Some(PortId(*random.pick(&egress)));
    }
    let mut all = vec![base];
    all.extend(sources.iter().map(|&address| with_source(base, address)));
    all.extend(destinations.iter().map(|&address| with_destination(base, address)));
    all.extend(source_ports.iter().map(|&source_port| Fields { source_port, ..base }));
    all.extend(destination_ports.iter().map(|&destination_port| Fields { destination_port, ..base }));
    all.extend(ingress.iter().map(|&port| Fields { ingress: PortId(port), ..base }));
    all.extend(egress.iter().map(|&port| Fields { egress: Some(PortId(port)), ..base }));
    all.extend(vlans.iter().map(|&vlan| Fields { vlan, ..base }));
    if let Some(length) = &wanted.length {
        let lengths = [near(*length.start()), near(*length.end())].concat();
        all.extend(lengths.iter().map(|&length| Fields { length, ..base }));
    }
    all.extend(STATES.map(|state| Fields { state, ..base }));
    all.push(Fields { has_ports: false, has_header: false, ..base });
    all.push(Fields { egress: None, ..base });
    all
}

/// A packet has one family: the other end follows when the source changes it.
pub(crate) fn with_source(fields: Fields, address: IpAddr) -> Fields {
    let new = Fields::between(address, address);
    let destination = if new.family == fields.family { fields.destination } else { new.destination };
    Fields { source: new.source, family: new.family, destination, ..fields }
}

pub(crate) fn with_destination(fields: Fields, address: IpAddr) -> Fields {
    let new = Fields::between(address, address);
    let source = if new.family == fields.family { fields.source } else { new.source };
    Fields { destination: new.destination, family: new.family, source, ..fields }
}
