//! Packets for a rule set: at the edges of its conditions, whole conversations, errors, fragments.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use throughway_packet::build::PacketBuilder;

use crate::kernel::{BOX, HOST};
use crate::rules::{NETS4, NETS6, Random, Rule, RuleSet};

/// What is sent: a datagram, as one frame or in pieces.
pub struct Probe {
    /// 0: from the LAN, 1: from the WAN.
    pub side: usize,
    pub frames: Vec<Vec<u8>>,
    pub text: String,
    pub kind: &'static str,
}

const MAGIC: [u8; 4] = *b"\xa5TW\x5a";

/// Eight bytes that name a probe.
pub fn mark(number: u32) -> [u8; 8] {
    let mut mark = [0; 8];
    mark[..4].copy_from_slice(&MAGIC);
    mark[4..].copy_from_slice(&number.to_be_bytes());
    mark
}

/// The probe that a frame is of.
pub fn marked(frame: &[u8]) -> Option<u32> {
    let at = frame.windows(4).position(|window| window == MAGIC)?;
    Some(u32::from_be_bytes(frame.get(at + 4..at + 8)?.try_into().ok()?))
}

#[derive(Clone, Copy, Debug)]
enum Upper {
    Tcp(u16, u16, u8),
    Udp(u16, u16),
    Icmp(u8, u8, u16),
    Other(u8),
}

#[derive(Clone, Copy, Debug)]
struct Packet {
    source: IpAddr,
    destination: IpAddr,
    upper: Upper,
    dscp: u8,
    length: Option<usize>,
}

/// The side behind which an address is.
fn side_of(address: IpAddr) -> Option<usize> {
    match address {
        IpAddr::V4(address) => match address.octets() {
            [10, net @ 1..=2, ..] => Some(usize::from(net) - 1),
            _ => None,
        },
        IpAddr::V6(address) => match address.segments() {
            [0xfd00, net @ 1..=2, ..] => Some(usize::from(net) - 1),
            _ => None,
        },
    }
}

fn ip(family: u8, bits: u128) -> IpAddr {
    if family == 4 { Ipv4Addr::from_bits(bits as u32).into() } else { Ipv6Addr::from_bits(bits).into() }
}

impl Packet {
    fn builder(&self, number: u32) -> PacketBuilder {
        let side = 1 - side_of(self.destination).expect("destinations are behind a link");
        let mut packet = PacketBuilder::between(self.source, self.destination)
            .ethernet(BOX[side], HOST[side])
            .traffic_class(self.dscp << 2)
            .identification(number);
        packet = match self.upper {
            Upper::Tcp(source, destination, flags) => packet.tcp(source, destination, flags),
            Upper::Udp(source, destination) => packet.udp(source, destination),
            Upper::Icmp(kind, code, identifier) => {
                let [high, low] = identifier.to_be_bytes();
                packet.icmp(kind, code, [high, low, 0, 1])
            }
            Upper::Other(number) => packet.protocol(number),
        };
        let bare = packet.finish().len() - 14;
        let room = self.length.map_or(8, |length| length.saturating_sub(bare).max(8));
        let payload: Vec<u8> = mark(number).into_iter().cycle().take(room).collect();
        packet.payload(&payload)
    }

    fn probe(&self, number: u32, kind: &'static str) -> Probe {
        let frame = self.builder(number).finish();
        let side = 1 - side_of(self.destination).expect("destinations are behind a link");
        Probe { side, frames: vec![frame], text: format!("{kind}: {self:?}"), kind }
    }

    fn back(&self) -> Packet {
        let upper = match self.upper {
            Upper::Tcp(source, destination, flags) => Upper::Tcp(destination, source, flags),
            Upper::Udp(source, destination) => Upper::Udp(destination, source),
            Upper::Icmp(8, code, identifier) => Upper::Icmp(0, code, identifier),
            Upper::Icmp(13, code, identifier) => Upper::Icmp(14, code, identifier),
            Upper::Icmp(128, code, identifier) => Upper::Icmp(129, code, identifier),
            other => other,
        };
        Packet { source: self.destination, destination: self.source, upper, ..*self }
    }
}

/// A value at the edge of some range, or next to it.
fn edge(random: &mut Random, ranges: &[(u128, u128)], least: u128, most: u128) -> u128 {
    let (first, last) = random.pick(ranges);
    let near = [first, last, first.saturating_sub(1), last + 1, first.midpoint(last)];
    random.pick(&near).clamp(least, most)
}

pub struct Probes<'a> {
    random: &'a mut Random,
    set: &'a RuleSet,
    used: HashSet<String>,
    pub all: Vec<Probe>,
}

impl<'a> Probes<'a> {
    pub fn of(set: &'a RuleSet, random: &'a mut Random) -> Vec<Probe> {
        let mut probes = Probes { random, set, used: HashSet::new(), all: Vec::new() };
        for _ in 0..6 * set.rules.len() + 40 {
            probes.edge();
        }
        for _ in 0..12 {
            probes.conversation();
        }
        for _ in 0..8 {
            probes.error();
            probes.fragments();
        }
        probes.all
    }

    fn address(&mut self, family: u8, of: &Option<(u8, crate::rules::Cond)>) -> IpAddr {
        if let Some((_, cond)) = of.as_ref().filter(|(of, _)| *of == family)
            && !self.random.one_in(8)
        {
            return ip(family, edge(self.random, &cond.ranges, 0, u128::MAX >> 1 | 1 << 127));
        }
        let low = u128::from(self.random.next());
        ip(
            family,
            if family == 4 { NETS4 + low % 0x2_0000 } else { self.random.pick(&NETS6) + low % 0x1_0000 },
        )
    }

    /// A packet that a rule matches, or just not.
    fn near(&mut self) -> Option<Packet> {
        let rule: Rule = self.random.pick(&self.set.rules);
        let of = rule.source.as_ref().or(rule.destination.as_ref()).map(|(family, _)| *family);
        let other = self.random.pick(&[4, 6]);
        let family = rule.family.or(of.filter(|_| !self.random.one_in(6))).unwrap_or(other);
        let source = self.address(family, &rule.source);
        let destination = self.address(family, &rule.destination);
        // From one side to the other, and never to or from the box itself.
        let side = side_of(destination)?;
        if side_of(source) != Some(1 - side) {
            return None;
        }
        let random = &mut *self.random;
        let mut port = |cond: &Option<crate::rules::Cond>| match cond {
            Some(cond) => edge(random, &cond.ranges, 1, 65_535) as u16,
            None => 1 + (random.next() % 65_535) as u16,
        };
        let (sport, dport) = (port(&rule.from_port), port(&rule.to_port));
        let protocol = match &rule.protocol {
            Some(cond) => self.random.pick(&cond.ranges).0 as u8,
            None if rule.flags.is_some() => 6,
            None if !rule.icmp.is_empty() || !rule.icmpv6.is_empty() => 1,
            None => self.random.pick(&[6, 6, 17, 17, 1, 50, 99]),
        };
        let upper = match protocol {
            6 => {
                let (set, clear) = rule.flags.unwrap_or((2, 0));
                let mut flags = if self.random.one_in(3) { set } else { set | 2 };
                match self.random.below(6) {
                    0 => flags ^= 1 << self.random.below(8),
                    1 => flags |= clear,
                    2 => flags = self.random.below(256) as u8,
                    _ => {}
                }
                Upper::Tcp(sport, dport, flags)
            }
            17 => Upper::Udp(sport, dport),
            1 => {
                let list = if family == 4 { &rule.icmp } else { &rule.icmpv6 };
                let question = if family == 4 { 8 } else { 128 };
                let (kind, code) = if list.is_empty() { (question, None) } else { self.random.pick(list) };
                // Neighbour discovery and the like belong to the link.
                let kind = if self.random.one_in(5) { kind.wrapping_add(1) } else { kind };
                let kind = match (family, kind) {
                    (6, 1..=4 | 128 | 129) => kind,
                    (6, _) => 128,
                    // Router discovery: untracked here, invalid there.
                    (_, 9 | 10) => 19,
                    _ => kind,
                };
                Upper::Icmp(kind, code.unwrap_or(self.random.below(2) as u8), sport)
            }
            // GRE has a tracker of its own in the kernel; these have none on either side.
            47 => Upper::Other(98),
            other => Upper::Other(other),
        };
        let dscp = match &rule.dscp {
            Some(cond) => edge(self.random, &cond.ranges, 0, 63) as u8,
            None => 0,
        };
        let length = rule.length.as_ref().map(|cond| edge(self.random, &cond.ranges, 60, 1500) as usize);
        Some(Packet { source, destination, upper, dscp, length })
    }

    /// As [`Probes::near`], of a connection that nobody has seen.
    fn fresh(&mut self) -> Packet {
        loop {
            let Some(packet) = self.near() else { continue };
            let mut ends = match packet.upper {
                Upper::Tcp(source, destination, _) => {
                    [(packet.source, source, 6), (packet.destination, destination, 6)]
                }
                Upper::Udp(source, destination) => {
                    [(packet.source, source, 17), (packet.destination, destination, 17)]
                }
                Upper::Icmp(_, _, identifier) => {
                    [(packet.source, identifier, 1), (packet.destination, identifier, 1)]
                }
                Upper::Other(number) => [(packet.source, 0, number), (packet.destination, 0, number)],
            };
            ends.sort_unstable();
            if self.used.insert(format!("{ends:?}")) {
                return packet;
            }
        }
    }

    fn number(&self) -> u32 {
        self.all.len() as u32
    }

    fn edge(&mut self) {
        let probe = self.fresh().probe(self.number(), "edge");
        self.all.push(probe);
    }

    /// A connection in both directions: as it should be, or in any order.
    fn conversation(&mut self) {
        const SYN: u8 = 2;
        const ACK: u8 = 16;
        const FIN: u8 = 1;
        const RST: u8 = 4;
        let mut packet = self.fresh();
        (packet.dscp, packet.length) = (0, None);
        if self.random.one_in(3) {
            packet.upper = match packet.upper {
                Upper::Tcp(source, destination, _) => Upper::Udp(source, destination),
                other => other,
            };
        }
        let Upper::Tcp(source, destination, _) = packet.upper else {
            // What a second packet before an answer is, the two see differently.
            for turn in 0..4 {
                let one = if turn % 2 == 0 { packet } else { packet.back() };
                let probe = one.probe(self.number(), "exchange");
                self.all.push(probe);
            }
            return;
        };
        let whole = [
            (0, SYN),
            (1, SYN | ACK),
            (0, ACK),
            (0, ACK | 8),
            (1, ACK),
            (1, ACK | FIN),
            (0, ACK),
            (0, FIN | ACK),
            (1, ACK),
        ];
        let reset = [(0, SYN), (1, RST | ACK)];
        let (steps, kind) = match self.random.below(4) {
            0 => (whole.to_vec(), "conversation"),
            1 => (reset.to_vec(), "refused"),
            2 => {
                // After a reset before any answer the kernel forgets the connection.
                let cut = 2 + self.random.below(4);
                let mut steps = whole[..cut].to_vec();
                steps.extend([(self.random.below(2), RST), (0, ACK), (1, ACK)]);
                (steps, "cut")
            }
            _ => {
                // Of a SYN sent again, each way what its side may send: the other the kernel drops.
                let late = [(0, SYN), (1, SYN | ACK)];
                let any = [ACK, ACK | 8, FIN | ACK];
                let mut steps = whole[..3].to_vec();
                for _ in 0..7 {
                    let step = (self.random.below(2), self.random.pick(&any));
                    // Not behind a FIN: there the kernel takes it for the beginning of another connection.
                    let ending = steps.iter().any(|(_, flags)| flags & FIN != 0);
                    let again = !ending && self.random.one_in(4);
                    steps.push(if again { self.random.pick(&late) } else { step });
                }
                (steps, "disorder")
            }
        };
        let mut told = String::new();
        for (way, flags) in steps {
            told.push_str(&format!("{way}:{flags:#x} "));
            packet.upper = Upper::Tcp(source, destination, flags);
            let one = if way == 0 { packet } else { packet.back() };
            let mut probe = one.probe(self.number(), kind);
            probe.text = format!("{told} {}", probe.text);
            self.all.push(probe);
        }
    }

    /// An ICMP error: about a packet that was seen, or about another; to its sender, or to somebody else.
    fn error(&mut self) {
        let mut packet = self.fresh();
        (packet.dscp, packet.length) = (0, None);
        if !matches!(packet.upper, Upper::Tcp(..) | Upper::Udp(..)) || side_of(packet.source).is_none() {
            return;
        }
        if let Upper::Tcp(source, destination, _) = packet.upper {
            packet.upper = Upper::Tcp(source, destination, 2);
        }
        let number = self.number();
        let inner = packet.builder(number + 1).finish();
        let (seen, right) = (!self.random.one_in(4), !self.random.one_in(4));
        if seen {
            self.all.push(packet.probe(number, "before an error"));
        }
        let four = packet.source.is_ipv4();
        // Who says so is some router on the other side.
        let from = if four {
            ip(4, 0x0a01_fe01 + 0x1_0000 * side_of(packet.destination).unwrap_or(0) as u128)
        } else {
            packet.destination
        };
        let to = if right {
            packet.source
        } else if four {
            ip(4, 0x0a01_fd01 + 0x1_0000 * side_of(packet.source).unwrap_or(0) as u128)
        } else {
            ip(6, NETS6[side_of(packet.source).unwrap_or(0)] + 0xf_fffd)
        };
        let (kind, code) = self.random.pick(if four {
            &[(3, 1), (3, 3), (3, 4), (11, 0)]
        } else {
            &[(1, 0), (1, 4), (2, 0), (3, 0)]
        });
        let side = 1 - side_of(to).expect("it is behind a link");
        // The number of the embedded packet is that of the error, or the mark would name another.
        let inner = if seen { inner } else { packet.builder(number).finish() };
        let rest = if four { [0, 0, 5, 120] } else { [0, 0, 5, 0] };
        let frame = PacketBuilder::between(from, to)
            .ethernet(BOX[side], HOST[side])
            .icmp(kind, code, rest)
            .payload(&inner[14..])
            .finish();
        let text =
            format!("error {kind}/{code} from {from} to {to}, seen {seen}, right {right}, about {packet:?}");
        self.all.push(Probe { side, frames: vec![frame], text, kind: "error" });
    }

    /// A datagram in pieces, in order. The kernel puts it together before its rules see it: with conditions on lengths, the two judge
    /// different lengths.
    fn fragments(&mut self) {
        let mut packet = self.fresh();
        packet.length = Some(600);
        let conditions = |rule: &Rule| rule.length.is_some();
        let Upper::Udp(..) = packet.upper else { return };
        if self.set.rules.iter().any(conditions) {
            return;
        }
        let frames = packet.builder(self.number()).fragments(256);
        let mut probe = packet.probe(self.number(), "fragments");
        probe.frames = frames;
        self.all.push(probe);
    }
}

/// Packets under rules, and which of them pass: through Throughway, through the kernel.
pub struct Case {
    pub text: &'static str,
    pub set: RuleSet,
    pub probes: Vec<Probe>,
    pub ours: Vec<u32>,
    pub theirs: Vec<u32>,
}

/// Rows of `docs/firewall-and-nftables.md`, shown by packets: states, resets, late SYNs, router discovery, fragments.
pub fn documented() -> Vec<Case> {
    let packet = |port: u16, upper: fn(u16) -> Upper| Packet {
        source: ip(4, NETS4 + 9),
        destination: ip(4, NETS4 + 0x1_0009),
        upper: upper(port),
        dscp: 0,
        length: None,
    };
    let open = |rules: Vec<Rule>| RuleSet { accept: true, sets: Vec::new(), rules };
    let tcp = |steps: &[(usize, u8)]| -> Vec<Probe> {
        let one = |(number, &(way, flags)): (usize, &(usize, u8))| {
            let mut one = packet(80, |port| Upper::Tcp(4000, port, 0));
            one.upper = Upper::Tcp(4000, 80, flags);
            if way == 0 { one } else { one.back() }.probe(number as u32, "documented")
        };
        steps.iter().enumerate().map(one).collect()
    };
    let udp = packet(53, |port| Upper::Udp(4000, port));
    let no_established = Rule { states: vec!["established"], ..Rule::default() };
    let long = crate::rules::Cond { ranges: vec![(500, 65_535)], ..Default::default() };
    let not_long = Rule { length: Some(long), ..Rule::default() };
    let mut pieces = udp.probe(0, "documented");
    pieces.frames = Packet { length: Some(600), ..udp }.builder(0).fragments(256);
    vec![
        Case {
            text: "a second packet before any answer",
            set: open(vec![no_established]),
            probes: vec![udp.probe(0, "documented"), udp.probe(1, "documented")],
            ours: vec![0],
            theirs: vec![0, 1],
        },
        Case {
            text: "a segment behind a reset that is the only answer",
            set: open(vec![]),
            probes: tcp(&[(0, 2), (1, 20), (0, 16)]),
            ours: vec![0, 1, 2],
            theirs: vec![0, 1],
        },
        Case {
            text: "a SYN from the side that has answered, a SYN with ACK from the opener",
            set: open(vec![]),
            probes: tcp(&[(0, 2), (1, 18), (0, 16), (1, 2), (0, 18), (1, 16)]),
            ours: vec![0, 1, 2, 3, 4, 5],
            theirs: vec![0, 1, 2, 5],
        },
        Case {
            text: "router discovery",
            set: open(vec![]),
            probes: vec![packet(1, |port| Upper::Icmp(9, 0, port)).probe(0, "documented")],
            ours: vec![0],
            theirs: vec![],
        },
        Case {
            text: "a condition on length, and fragments",
            set: open(vec![not_long]),
            probes: vec![pieces],
            ours: vec![0],
            theirs: vec![],
        },
    ]
}
