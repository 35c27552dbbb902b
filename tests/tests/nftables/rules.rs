//! Rule sets that both sides can express, and their two texts.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Pseudo-random numbers (SplitMix64): a rule set is known by its seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// One time in `times`.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
}

/// Ranges of which one must match, or none.
#[derive(Clone, Debug, Default)]
pub struct Cond {
    pub not: bool,
    pub ranges: Vec<(u128, u128)>,
    /// The name of a set that holds just these.
    pub set: Option<&'static str>,
}

#[derive(Clone, Debug, Default)]
pub struct Rule {
    pub accept: bool,
    pub family: Option<u8>,
    pub from: Option<usize>,
    pub to: Option<usize>,
    /// Of the family that stands beside it.
    pub source: Option<(u8, Cond)>,
    pub destination: Option<(u8, Cond)>,
    pub protocol: Option<Cond>,
    pub from_port: Option<Cond>,
    pub to_port: Option<Cond>,
    /// Set, clear.
    pub flags: Option<(u8, u8)>,
    pub icmp: Vec<(u8, Option<u8>)>,
    pub icmpv6: Vec<(u8, Option<u8>)>,
    pub dscp: Option<Cond>,
    pub length: Option<Cond>,
    pub states: Vec<&'static str>,
}

#[derive(Debug)]
pub struct RuleSet {
    pub accept: bool,
    pub sets: Vec<(&'static str, u8, Cond)>,
    pub rules: Vec<Rule>,
}

pub const NETS4: u128 = 0x0a01_0000;
pub const NETS6: [u128; 2] = [0xfd00_0001 << 96, 0xfd00_0002 << 96];
const SIDES: [&str; 2] = ["lan", "wan"];
const FLAGS: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];

fn addresses(random: &mut Random, family: u8) -> Vec<(u128, u128)> {
    let count = 1 + random.below(3);
    let mut ranges: Vec<(u128, u128)> = (0..count)
        .map(|_| {
            let base = if family == 4 {
                NETS4 + u128::from(random.next() % 0x2_0000)
            } else {
                random.pick(&NETS6) + u128::from(random.next() % 0x1_0000)
            };
            let size = 1_u128 << random.below(13);
            match random.below(3) {
                0 => (base, base),
                1 => (base & !(size - 1), base | (size - 1)),
                _ => (base, base + u128::from(random.next() % 300)),
            }
        })
        .collect();
    merge(&mut ranges);
    ranges
}

/// nft refuses ranges that overlap.
fn merge(ranges: &mut Vec<(u128, u128)>) {
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for &(first, last) in ranges.iter() {
        match merged.last_mut() {
            Some(end) if first <= end.1 + 1 => end.1 = end.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    *ranges = merged;
}

fn numbers(random: &mut Random, least: u128, most: u128) -> Vec<(u128, u128)> {
    let count = 1 + random.below(4);
    let mut ranges: Vec<(u128, u128)> = (0..count)
        .map(|_| {
            let first = least + u128::from(random.next()) % (most - least);
            let length = if random.one_in(2) { 0 } else { u128::from(random.next() % 200) };
            (first, (first + length).min(most))
        })
        .collect();
    merge(&mut ranges);
    ranges
}

fn cond(random: &mut Random, ranges: Vec<(u128, u128)>) -> Cond {
    Cond { not: random.one_in(4), ranges, set: None }
}

fn singles(values: impl IntoIterator<Item = u128>) -> Vec<(u128, u128)> {
    let mut ranges: Vec<_> = values.into_iter().map(|value| (value, value)).collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

impl RuleSet {
    pub fn random(random: &mut Random) -> RuleSet {
        let set = |ranges| Cond { ranges, ..Cond::default() };
        let sets = vec![
            ("near", 4, set(addresses(random, 4))),
            ("six", 6, set(addresses(random, 6))),
            ("ports", 0, set(numbers(random, 1, 65_535))),
        ];
        let count = 1 + random.below(24);
        let rules = (0..count).map(|_| rule(random, &sets)).collect();
        RuleSet { accept: random.one_in(3), sets, rules }
    }
}

fn ports(random: &mut Random, sets: &[(&'static str, u8, Cond)]) -> Cond {
    let mut cond = {
        let ranges = numbers(random, 1, 65_535);
        cond(random, ranges)
    };
    if random.one_in(4) {
        (cond.ranges, cond.set) = (sets[2].2.ranges.clone(), Some(sets[2].0));
    }
    cond
}

fn rule(random: &mut Random, sets: &[(&'static str, u8, Cond)]) -> Rule {
    let mut rule = Rule { accept: random.one_in(2), ..Rule::default() };
    let mut family = random.pick(&[4, 6]);
    match random.below(9) {
        0 | 1 => {
            let protocols = random.pick(&[vec![6], vec![17], vec![6, 17]]);
            rule.protocol = Some(Cond { ranges: singles(protocols), ..Cond::default() });
            rule.to_port = Some(ports(random, sets));
            if random.one_in(3) {
                rule.from_port = Some(ports(random, sets));
            }
        }
        2 => {
            rule.protocol = Some(Cond { ranges: singles([6, 17]), ..Cond::default() });
            rule.from_port = Some(ports(random, sets));
        }
        3 => {
            let (set, clear) = (1 << random.below(8) | 1 << random.below(8), 1 << random.below(8));
            rule.flags = Some((set, clear & !set));
        }
        4 => {
            family = 4;
            let message = |random: &mut Random| {
                (random.pick(&[8, 13, 3, 11, 0]), random.one_in(3).then(|| random.below(3) as u8))
            };
            rule.icmp = (0..1 + random.below(2)).map(|_| message(random)).collect();
        }
        5 => {
            family = 6;
            let message = |random: &mut Random| {
                (random.pick(&[128, 129, 1, 3]), random.one_in(3).then(|| random.below(3) as u8))
            };
            rule.icmpv6 = (0..1 + random.below(2)).map(|_| message(random)).collect();
        }
        6 => {
            let protocols = singles([random.pick(&[6, 17]), random.pick(&[50, 99, 47])]);
            rule.protocol = Some({
                let mut made = cond(random, protocols);
                made.set = None;
                made
            });
        }
        _ => {}
    }
    let of_one_family = rule.icmp.len() + rule.icmpv6.len() > 0;
    if random.one_in(4) || of_one_family {
        rule.family = Some(family);
    }
    for (place, odds) in [(0, 2), (1, 3)] {
        if random.one_in(odds) {
            let ranges = addresses(random, family);
            let mut made = cond(random, ranges);
            if random.one_in(4) {
                let set = &sets[usize::from(family == 6)];
                (made.ranges, made.set) = (set.2.ranges.clone(), Some(set.0));
            }
            let slot = if place == 0 { &mut rule.source } else { &mut rule.destination };
            *slot = Some((family, made));
        }
    }
    if random.one_in(5) {
        rule.from = Some(random.below(2));
    }
    if random.one_in(5) {
        rule.to = Some(random.below(2));
    }
    if random.one_in(6) {
        let codes = singles((0..3).map(|_| random.below(64) as u128));
        rule.dscp = Some(cond(random, codes));
    }
    if random.one_in(6) {
        let lengths = numbers(random, 60, 1400);
        rule.length = Some(cond(random, lengths));
    }
    if random.one_in(4) {
        let all = ["new", "established", "related", "invalid"];
        rule.states = all.into_iter().filter(|_| random.one_in(2)).collect();
    }
    rule
}

fn address(family: u8, bits: u128) -> String {
    if family == 4 {
        Ipv4Addr::from_bits(bits as u32).to_string()
    } else {
        Ipv6Addr::from_bits(bits).to_string()
    }
}

fn texts(ranges: &[(u128, u128)], text: impl Fn(u128) -> String) -> String {
    let one = |&(first, last): &(u128, u128)| {
        if first == last { text(first) } else { format!("{}-{}", text(first), text(last)) }
    };
    ranges.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn yaml(cond: &Cond, text: impl Fn(u128) -> String) -> String {
    let list = match cond.set {
        Some(set) => format!("\"@{set}\""),
        None => format!(
            "[{}]",
            cond.ranges
                .iter()
                .map(|range| format!("\"{}\"", texts(&[*range], &text)))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    };
    if cond.not { format!("{{ not: {list} }}") } else { list }
}

fn nft(cond: &Cond, text: impl Fn(u128) -> String) -> String {
    let not = if cond.not { "!= " } else { "" };
    match cond.set {
        Some(set) => format!("{not}@{set}"),
        None => format!("{not}{{ {} }}", texts(&cond.ranges, text)),
    }
}

fn number(value: u128) -> String {
    value.to_string()
}

impl Rule {
    fn yaml(&self) -> String {
        let mut parts = Vec::new();
        if let Some(family) = self.family {
            parts.push(format!("family: ipv{family}"));
        }
        for (key, side) in [("from", self.from), ("to", self.to)] {
            parts.extend(side.map(|side| format!("{key}: {}", SIDES[side])));
        }
        for (key, place) in [("source", &self.source), ("destination", &self.destination)] {
            parts.extend(
                place
                    .as_ref()
                    .map(|(family, cond)| format!("{key}: {}", yaml(cond, |bits| address(*family, bits)))),
            );
        }
        for (key, cond) in [
            ("protocol", &self.protocol),
            ("from-port", &self.from_port),
            ("to-port", &self.to_port),
            ("dscp", &self.dscp),
            ("length", &self.length),
        ] {
            parts.extend(cond.as_ref().map(|cond| format!("{key}: {}", yaml(cond, number))));
        }
        if let Some((set, clear)) = self.flags {
            let named = |bits: u8| {
                FLAGS
                    .iter()
                    .enumerate()
                    .filter(|(bit, _)| bits >> bit & 1 == 1)
                    .map(|(_, name)| *name)
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let mut both = vec![format!("set: [{}]", named(set))];
            if clear != 0 {
                both.push(format!("clear: [{}]", named(clear)));
            }
            parts.push(format!("tcp-flags: {{ {} }}", both.join(", ")));
        }
        for (key, list) in [("icmp", &self.icmp), ("icmpv6", &self.icmpv6)] {
            if !list.is_empty() {
                let texts: Vec<_> = list
                    .iter()
                    .map(|(kind, code)| {
                        code.map_or(format!("\"{kind}\""), |code| format!("\"{kind}/{code}\""))
                    })
                    .collect();
                parts.push(format!("{key}: [{}]", texts.join(", ")));
            }
        }
        if !self.states.is_empty() {
            parts.push(format!("state: [{}]", self.states.join(", ")));
        }
        format!("{}: {{ {} }}", if self.accept { "allow" } else { "drop" }, parts.join(", "))
    }

    /// One line for each family, as nft wants, or more for messages of ICMP.
    fn nft(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for family in [4_u8, 6] {
            let places = [("saddr", &self.source), ("daddr", &self.destination)];
            let foreign = |place: &Option<(u8, Cond)>| {
                place.as_ref().is_some_and(|(of, cond)| *of != family && !cond.not)
            };
            let other = if family == 4 { &self.icmpv6 } else { &self.icmp };
            if self.family.is_some_and(|of| of != family)
                || places.iter().any(|(_, place)| foreign(place))
                || !other.is_empty()
            {
                continue;
            }
            let ip = if family == 4 { "ip" } else { "ip6" };
            let mut line = format!("meta nfproto ipv{family} ");
            for (key, side) in [("iifname", self.from), ("oifname", self.to)] {
                if let Some(side) = side {
                    let _ = write!(line, "{key} {}0 ", SIDES[side]);
                }
            }
            for (key, place) in places {
                if let Some((of, cond)) = place.as_ref().filter(|(of, _)| *of == family) {
                    let _ = write!(line, "{ip} {key} {} ", nft(cond, |bits| address(*of, bits)));
                }
            }
            if let Some(cond) = &self.protocol {
                let _ = write!(line, "meta l4proto {} ", nft(cond, number));
            }
            for (key, cond) in [("sport", &self.from_port), ("dport", &self.to_port)] {
                if let Some(cond) = cond {
                    let _ = write!(line, "th {key} {} ", nft(cond, number));
                }
            }
            if let Some((set, clear)) = self.flags {
                let _ = write!(line, "meta l4proto tcp tcp flags & {:#x} == {set:#x} ", set | clear);
            }
            if let Some(cond) = &self.dscp {
                let _ = write!(line, "{ip} dscp {} ", nft(cond, number));
            }
            if let Some(cond) = &self.length {
                let _ = write!(line, "meta length {} ", nft(cond, number));
            }
            let (own, word) = if family == 4 { (&self.icmp, "icmp") } else { (&self.icmpv6, "icmpv6") };
            if own.is_empty() {
                lines.push(line);
                continue;
            }
            lines.extend(own.iter().map(|(kind, code)| {
                let code = code.map_or(String::new(), |code| format!("{word} code {code} "));
                format!("{line}{word} type {kind} {code}")
            }));
        }
        lines
    }
}

impl RuleSet {
    /// The firewall behind the router, so that rules may ask where a packet leaves.
    pub fn yaml(&self) -> String {
        let mut text = String::from(
            "interfaces: { lan: { device: lan0 }, wan: { device: wan0 }, dmz: { device: dmz0 } }\nfunctions:\n  edge:\n    firewall:\n",
        );
        let _ = writeln!(text, "      default: {}\n      sets:", if self.accept { "allow" } else { "drop" });
        for (name, family, cond) in &self.sets {
            let list =
                if *family == 0 { yaml(cond, number) } else { yaml(cond, |bits| address(*family, bits)) };
            let _ = writeln!(text, "        {name}: {list}");
        }
        text.push_str("      rules:\n");
        for rule in &self.rules {
            let _ = writeln!(text, "        - {}", rule.yaml());
        }
        text.push_str("  core:\n    router:\n      routes:\n");
        for net in [1, 2] {
            let _ = writeln!(text, "        - {{ prefix: 10.{net}.0.0/16, via: 192.0.{net}.10 }}");
            let _ = writeln!(text, "        - {{ prefix: \"fd00:{net}::/32\", via: \"fd99:{net}::10\" }}");
        }
        text.push_str("chains: { all: { from: [lan, wan, dmz], run: [core, edge] } }\n");
        text
    }

    /// The same for nft: rules speak for the states they name, or for new packets; `zone` keeps the connections of one set apart from
    /// another's.
    pub fn nft(&self, zone: u16, fence: &str) -> String {
        let mut text = format!(
            "table inet t {{\n chain zones {{ type filter hook prerouting priority -300;\n ct zone set {zone}\n }}\n"
        );
        for (name, family, cond) in &self.sets {
            let (kind, list) = match family {
                0 => ("inet_service", texts(&cond.ranges, number)),
                4 => ("ipv4_addr", texts(&cond.ranges, |bits| address(4, bits))),
                _ => ("ipv6_addr", texts(&cond.ranges, |bits| address(6, bits))),
            };
            let _ = writeln!(text, " set {name} {{ type {kind}; flags interval; elements = {{ {list} }} }}");
        }
        for state in ["new", "established", "related", "invalid"] {
            let _ = writeln!(text, " chain {state}s {{");
            for rule in &self.rules {
                if rule.states.contains(&state) || (rule.states.is_empty() && state == "new") {
                    let verdict = if rule.accept { "accept" } else { "drop" };
                    for line in rule.nft() {
                        let _ = writeln!(text, "  {line}counter {verdict}");
                    }
                }
            }
            let otherwise = match state {
                "new" => self.accept,
                "invalid" => false,
                _ => true,
            };
            let _ = writeln!(text, "  {}\n }}", if otherwise { "accept" } else { "drop" });
        }
        let _ = writeln!(
            text,
            " chain f {{ type filter hook forward priority 0; policy drop;\n  {fence} accept\n  ct state vmap {{ new : jump news, established : jump establisheds, related : jump relateds, invalid : jump invalids }}\n }}\n}}"
        );
        text
    }
}
