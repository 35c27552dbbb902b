//! Rules → boxes: one range in each dimension.
//!
//! A rule with lists becomes one box for each combination of their ranges, as long as these are few; else ranges are joined over
//! their smallest gaps, and what lies in such a box is checked in full. A box holds every packet that its rule matches.

use crate::classify::check::Check;
use crate::classify::flatten::{Flat, NO_PARENT};
use crate::classify::lists::{List, Lister, address_max, numbers};
use crate::rule::{Family, Fields, Group, Matches, Rule, States};

/// Dimensions: the words of both addresses, then seven more.
pub(super) const MAX_DIMENSIONS: usize = 15;

/// Counted from behind the addresses.
pub(super) const EGRESS: usize = 4;
pub(super) const STATE: usize = 5;

/// An address of one family as a number, and in words for the dimensions.
pub(super) trait Address: Copy + Ord + std::fmt::Debug {
    const FAMILY: Family;
    /// 32-bit words of an address: as many dimensions.
    const WORDS: usize;
    /// The low bits of `bits`.
    fn from_bits(bits: u128) -> Self;
    /// The words, most significant first; the rest zero.
    fn words(self) -> [u32; 4];
}

impl Address for u32 {
    const FAMILY: Family = Family::Ipv4;
    const WORDS: usize = 1;
    #[inline]
    fn from_bits(bits: u128) -> u32 {
        bits as u32
    }
    #[inline]
    fn words(self) -> [u32; 4] {
        [self, 0, 0, 0]
    }
}

impl Address for u128 {
    const FAMILY: Family = Family::Ipv6;
    const WORDS: usize = 4;
    #[inline]
    fn from_bits(bits: u128) -> u128 {
        bits
    }
    #[inline]
    fn words(self) -> [u32; 4] {
        [(self >> 96) as u32, (self >> 64) as u32, (self >> 32) as u32, self as u32]
    }
}

/// A packet as a point.
pub(super) struct Point<A> {
    pub(super) source: A,
    pub(super) destination: A,
    pub(super) at: [u32; MAX_DIMENSIONS + 1],
}

impl<A: Address> Point<A> {
    #[inline]
    pub(super) fn of(fields: &Fields) -> Point<A> {
        let source = A::from_bits(u128::from_be_bytes(fields.source));
        let destination = A::from_bits(u128::from_be_bytes(fields.destination));
        let mut at = [0; MAX_DIMENSIONS + 1];
        at[..A::WORDS].copy_from_slice(&source.words()[..A::WORDS]);
        at[A::WORDS..2 * A::WORDS].copy_from_slice(&destination.words()[..A::WORDS]);
        at[2 * A::WORDS..2 * A::WORDS + 7].copy_from_slice(&[
            u32::from(fields.source_port),
            u32::from(fields.destination_port),
            u32::from(fields.protocol),
            u32::from(fields.ingress.0),
            fields.egress.map_or(0, |egress| u32::from(egress.0) + 1),
            fields.state as u32,
            u32::from(fields.vlan),
        ]);
        Point { source, destination, at }
    }
}

/// The box as it is compared with packets: flow fields exactly, but for what [`Entry::CHECK`] announces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<A> {
    pub(super) source: (A, A),
    pub(super) destination: (A, A),
    pub(super) source_ports: (u16, u16),
    pub(super) destination_ports: (u16, u16),
    pub(super) ingress: (u16, u16),
    /// Either of the two, or any ([`Entry::ANY_PROTOCOL`]).
    pub(super) protocols: (u8, u8),
    pub(super) states: u8,
    pub(super) flags: u8,
    /// The rule, in flattened order.
    pub(super) index: u32,
}

impl<A: Address> Entry<A> {
    /// Only packets whose ports are known.
    pub(super) const PORTS: u8 = 1 << 0;
    pub(super) const ANY_PROTOCOL: u8 = 1 << 1;
    /// There is more to the rule than the box: [`Check`] has the last word.
    pub(super) const CHECK: u8 = 1 << 2;

    /// Whether the flow fields of the packet lie in the box. Without branches: most of the time the answer is no, and nobody
    /// can foresee which dimension says so.
    #[inline]
    pub(super) fn holds(&self, point: &Point<A>, fields: &Fields) -> bool {
        let ports = (self.source_ports.0 <= fields.source_port)
            & (fields.source_port <= self.source_ports.1)
            & (self.destination_ports.0 <= fields.destination_port)
            & (fields.destination_port <= self.destination_ports.1);
        let addresses = (self.source.0 <= point.source)
            & (point.source <= self.source.1)
            & (self.destination.0 <= point.destination)
            & (point.destination <= self.destination.1);
        let protocol = (self.flags & Self::ANY_PROTOCOL != 0)
            | (self.protocols.0 == fields.protocol)
            | (self.protocols.1 == fields.protocol);
        addresses
            & protocol
            & ((self.flags & Self::PORTS == 0) | (fields.has_ports & ports))
            & (self.ingress.0 <= fields.ingress.0)
            & (fields.ingress.0 <= self.ingress.1)
    }
}

/// A box with its projection on each dimension.
#[derive(Clone, Copy, Debug)]
pub(super) struct Solid<A> {
    pub(super) low: [u32; MAX_DIMENSIONS],
    pub(super) high: [u32; MAX_DIMENSIONS],
    pub(super) entry: Entry<A>,
}

/// What a rule and all jumps that lead to it ask for.
#[derive(Clone)]
struct Extent {
    source: List,
    destination: List,
    source_ports: List,
    destination_ports: List,
    ingress: List,
    egress: (u32, u32),
    vlan: (u32, u32),
    /// Sorted; empty for any.
    protocols: Vec<u8>,
    states: u8,
    ports: bool,
    /// More than a box can say.
    check: bool,
}

impl Extent {
    fn all(family: Family) -> Extent {
        let (address, number) = (List::all(address_max(family)), List::all(u128::from(u16::MAX)));
        Extent {
            source: address.clone(),
            destination: address,
            source_ports: number.clone(),
            destination_ports: number.clone(),
            ingress: number,
            egress: (0, u32::from(u16::MAX) + 1),
            vlan: (0, u32::from(u16::MAX)),
            protocols: Vec::new(),
            states: States::ALL.bits(),
            ports: false,
            check: false,
        }
    }

    /// Narrowed by a rule's conditions; `None` when nothing of the family can match.
    fn narrowed(&self, matches: &Matches, family: Family, lister: &mut Lister) -> Option<Extent> {
        if matches.family.is_some_and(|wanted| wanted != family) {
            return None;
        }
        let mut own = self.clone();
        let narrow = |list: &mut List, by: Option<List>| {
            if let Some(by) = by {
                *list = list.and(&by);
            }
        };
        narrow(&mut own.source, matches.source.as_ref().map(|list| lister.addresses(list, family)));
        narrow(&mut own.destination, matches.destination.as_ref().map(|list| lister.addresses(list, family)));
        narrow(&mut own.source_ports, matches.source_ports.as_ref().map(|list| lister.ports(list)));
        narrow(&mut own.destination_ports, matches.destination_ports.as_ref().map(|list| lister.ports(list)));
        narrow(&mut own.ingress, matches.ingress.as_ref().map(numbers));
        own.ports |= matches.source_ports.is_some() || matches.destination_ports.is_some();
        own.states &= matches.states.map_or(u8::MAX, States::bits);
        if !matches.protocols.is_empty() {
            let mut wanted = matches.protocols.clone();
            wanted.sort_unstable();
            wanted.dedup();
            if !own.protocols.is_empty() {
                wanted.retain(|protocol| own.protocols.contains(protocol));
            }
            if wanted.is_empty() {
                return None;
            }
            own.protocols = wanted;
        }
        if let Some(set) = &matches.vlans {
            let hull = hull(&numbers(set))?;
            own.vlan = meet(own.vlan, hull)?;
        }
        if let Some(set) = &matches.egress {
            let (first, last) = hull(&numbers(set))?;
            own.egress = meet(own.egress, (first + 1, last + 1))?;
        }
        own.check |= matches.vlans.is_some()
            || matches.egress.is_some()
            || !matches.tcp_flags.is_empty()
            || !matches.icmp.is_empty()
            || matches.dscp.is_some()
            || matches.length.is_some()
            || matches.fragment.is_some();
        let empty = own.lists().iter().any(|list| list.ranges.is_empty()) || own.states == 0;
        (!empty).then_some(own)
    }

    fn lists(&self) -> [&List; 5] {
        [&self.source, &self.destination, &self.source_ports, &self.destination_ports, &self.ingress]
    }

    /// How many boxes it makes.
    fn count(&self) -> usize {
        self.lists().iter().fold(1usize, |count, list| count.saturating_mul(list.ranges.len()))
    }

    /// Joins ranges until it makes at most `limit` boxes. Keeps what is told apart best: the longest list gives way first.
    fn fit(&mut self, limit: usize) {
        while self.count() > limit {
            let mut lists = [
                &mut self.source,
                &mut self.destination,
                &mut self.source_ports,
                &mut self.destination_ports,
                &mut self.ingress,
            ];
            let Some(longest) = lists.iter_mut().max_by_key(|list| list.ranges.len()) else { return };
            let half = longest.ranges.len() / 2;
            longest.coarsen(half);
        }
    }

    fn write<A: Address>(&self, index: u32, solids: &mut Vec<Solid<A>>) {
        let exact = self.lists().iter().all(|list| list.exact);
        let mut flags = 0;
        if self.ports {
            flags |= Entry::<A>::PORTS;
        }
        let (protocols, protocol) = match *self.protocols {
            [] => ((0, 0), (0, 255)),
            [one] => ((one, one), (one, one)),
            [one, two] => ((one, two), (one, two)),
            [first, .., last] => ((0, 0), (first, last)),
        };
        if self.protocols.is_empty() || self.protocols.len() > 2 {
            flags |= Entry::<A>::ANY_PROTOCOL;
        }
        if self.check || !exact || self.protocols.len() > 2 {
            flags |= Entry::<A>::CHECK;
        }
        let state = (self.states.trailing_zeros(), 7 - self.states.leading_zeros());
        for source in &self.source.ranges {
            for destination in &self.destination.ranges {
                for source_ports in &self.source_ports.ranges {
                    for destination_ports in &self.destination_ports.ranges {
                        for ingress in &self.ingress.ranges {
                            let number = |range: &(u128, u128)| (range.0 as u16, range.1 as u16);
                            let entry = Entry {
                                source: (A::from_bits(source.0), A::from_bits(source.1)),
                                destination: (A::from_bits(destination.0), A::from_bits(destination.1)),
                                source_ports: number(source_ports),
                                destination_ports: number(destination_ports),
                                ingress: number(ingress),
                                protocols,
                                states: self.states,
                                flags,
                                index,
                            };
                            let protocol = (u32::from(protocol.0), u32::from(protocol.1));
                            solids.push(Solid::of(entry, protocol, self.egress, state, self.vlan));
                        }
                    }
                }
            }
        }
    }
}

impl<A: Address> Solid<A> {
    fn of(
        entry: Entry<A>,
        protocol: (u32, u32),
        egress: (u32, u32),
        state: (u32, u32),
        vlan: (u32, u32),
    ) -> Solid<A> {
        let (mut low, mut high) = ([0; MAX_DIMENSIONS], [u32::MAX; MAX_DIMENSIONS]);
        for (range, offset) in [(entry.source, 0), (entry.destination, A::WORDS)] {
            let (first, last) = (range.0.words(), range.1.words());
            for word in 0..A::WORDS {
                (low[offset + word], high[offset + word]) = (first[word], last[word]);
                // The next word says something only below one value of this one.
                if first[word] != last[word] {
                    break;
                }
            }
        }
        let wide = |range: (u16, u16)| (u32::from(range.0), u32::from(range.1));
        let rest = [
            wide(entry.source_ports),
            wide(entry.destination_ports),
            protocol,
            wide(entry.ingress),
            egress,
            state,
            vlan,
        ];
        for (dimension, range) in rest.into_iter().enumerate() {
            (low[2 * A::WORDS + dimension], high[2 * A::WORDS + dimension]) = range;
        }
        Solid { low, high, entry }
    }
}

fn hull(list: &List) -> Option<(u32, u32)> {
    Some((list.ranges.first()?.0 as u32, list.ranges.last()?.1 as u32))
}

fn meet(a: (u32, u32), b: (u32, u32)) -> Option<(u32, u32)> {
    let (first, last) = (a.0.max(b.0), a.1.min(b.1));
    (first <= last).then_some((first, last))
}

/// The most boxes that one rule may make.
const MOST: usize = 256;

/// The most boxes that all rules together may make, beside one for each rule.
pub(super) const SPARE: usize = 1 << 16;

/// The boxes of all rules for one family, in the order of the rules; at most twice as many as there are rules, and [`SPARE`].
pub(super) fn boxes<A: Address>(rules: &[Rule], groups: &[Group], flat: &[Flat]) -> Vec<Solid<A>> {
    let mut lister = Lister::default();
    let mut extents: Vec<(u32, Extent)> = Vec::with_capacity(flat.len());
    // The jumps that lead to the current rule, with their extents; `None` when nothing can come here.
    let mut above: Vec<(u32, Option<Extent>)> = Vec::new();
    let everything = Extent::all(A::FAMILY);
    for (index, own) in flat.iter().enumerate() {
        let index = index as u32;
        while above.last().is_some_and(|&(jump, _)| jump != own.parent) {
            above.pop();
        }
        let outer = match above.last() {
            Some((_, outer)) => outer.as_ref(),
            None => Some(&everything),
        };
        let rule = own.rule(rules, groups);
        let extent = outer.and_then(|outer| outer.narrowed(&rule.matches, A::FAMILY, &mut lister));
        if own.last != index {
            above.push((index, extent.clone()));
        }
        if let Some(extent) = extent
            && rule.actions.is_visible()
        {
            extents.push((index, extent));
        }
    }
    let budget = SPARE + 2 * flat.len();
    let needed = |most: usize| extents.iter().map(|(_, extent)| extent.count().min(most)).sum::<usize>();
    let mut most = MOST;
    while most > 1 && needed(most) > budget {
        most /= 2;
    }
    let mut solids = Vec::with_capacity(needed(most));
    for (index, mut extent) in extents {
        extent.fit(most);
        extent.write(index, &mut solids);
    }
    solids
}

/// Whether the rule `index` and all jumps that lead to it match; with the fields that were looked at.
#[inline]
pub(super) fn holds(
    flat: &[Flat],
    checks: &[Check],
    sources: &[u32],
    index: u32,
    fields: &Fields,
) -> (bool, crate::rule::PacketFields) {
    let chain = || {
        let mut next = index;
        std::iter::from_fn(move || {
            let (own, check) = (flat.get(next as usize)?, sources.get(next as usize)?);
            next = own.parent;
            checks.get(*check as usize)
        })
    };
    const { assert!(NO_PARENT == u32::MAX, "ends the chain: no rule has this index") };
    let mut depends = crate::rule::PacketFields::NONE;
    if !chain().all(|check| check.flow_holds(fields)) {
        return (false, depends);
    }
    chain().for_each(|check| depends |= check.packet_fields());
    (chain().all(|check| check.packet_holds(fields)), depends)
}
