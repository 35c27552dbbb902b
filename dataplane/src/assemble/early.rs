//! Firewall sets that are dropped before anything else: which prefixes, and where, from the configuration.
//!
//! The XDP program asks for the longest prefix of a packet's source, and for nothing else. So prefixes within each other, of
//! sets that count at different interfaces, are made to say of each what holds for all around it.

use std::net::IpAddr;

use throughway_config::{Config, EarlyAt, FunctionId, FunctionKind, Set};
use throughway_shared::steer::MAX_EARLY_SETS;
use throughway_xdp::{EarlyRoom, MOST_EARLY_PREFIXES};

/// A set that is matched early.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EarlySet {
    /// The firewall it is of.
    pub function: String,
    /// Its name there.
    pub set: String,
    /// Where it counts: the bit of each interface's number in the XDP program, which is that of its device.
    pub interfaces: u64,
    /// How many of [`Plan::prefixes`] are counted for it.
    pub prefixes: usize,
}

/// A prefix of a plan.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Prefix {
    /// Its first address.
    pub address: IpAddr,
    /// Its length in bits.
    pub length: u8,
    /// The index of the set that it is counted for.
    pub set: usize,
    /// Where its packets are dropped: see [`EarlySet::interfaces`].
    pub interfaces: u64,
}

/// What a configuration wants to be dropped early.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// The sets, in the order of the file.
    pub sets: Vec<EarlySet>,
    /// What is in them, none twice; of a source the longest prefix says where it is dropped.
    pub prefixes: Vec<Prefix>,
}

/// More than the XDP program has room for.
#[derive(Debug, thiserror::Error)]
pub enum EarlyError {
    /// Too many sets.
    #[error("{0} sets have `early`; there may be {MAX_EARLY_SETS}")]
    Sets(usize),
    /// Too many prefixes of a family.
    #[error(
        "the sets with `early` come to {count} {family} prefixes; there may be {MOST_EARLY_PREFIXES}: write aligned prefixes rather than ranges, or leave `early` out of one"
    )]
    Prefixes {
        /// How many there are.
        count: usize,
        /// Of which family.
        family: &'static str,
    },
}

/// For every interface the number of the one that stands for its device in the XDP program: the one that is untagged, else the
/// first.
pub fn standing(config: &Config) -> Vec<u32> {
    let numbers = config.device_numbers();
    let stands = |number: &usize| {
        let on = |(_, (of, _)): &(u32, (&usize, _))| *of == number;
        let mut all = (0..).zip(numbers.iter().zip(&config.interfaces)).filter(on);
        let untagged = all.clone().find(|(_, (_, interface))| interface.vlan.is_none());
        untagged.or_else(|| all.next()).map_or(0, |(index, _)| index)
    };
    numbers.iter().map(stands).collect()
}

impl Plan {
    /// What `config` wants.
    ///
    /// # Errors
    ///
    /// When there is no room for it.
    pub fn of(config: &Config) -> Result<Self, EarlyError> {
        let standing = standing(config);
        let mut sets = Vec::new();
        let mut prefixes = Vec::new();
        for (id, function, set, at) in early_sets(config) {
            let chains = config.chains.iter().filter(|chain| chain.run.contains(&id));
            let named = match at {
                EarlyAt::Chains => chains.flat_map(|chain| &chain.from).collect::<Vec<_>>(),
                EarlyAt::Interfaces(named) => named.iter().collect(),
            };
            let numbers = named.into_iter().filter_map(|id| standing.get(id.index()));
            let interfaces = numbers.fold(0, |mask, number| mask | 1u64.checked_shl(*number).unwrap_or(0));
            let within = set.addresses().iter().flat_map(|range| range.prefixes());
            prefixes.extend(within.map(|prefix| {
                let (address, length) = (prefix.get().address(), prefix.get().len());
                Prefix { address, length, set: sets.len(), interfaces }
            }));
            let (function, set) = (function.to_owned(), set.name.to_string());
            sets.push(EarlySet { function, set, interfaces, prefixes: 0 });
        }
        if sets.len() > MAX_EARLY_SETS as usize {
            return Err(EarlyError::Sets(sets.len()));
        }
        let prefixes = nested(prefixes);
        let ipv4 = prefixes.iter().filter(|prefix| prefix.address.is_ipv4()).count();
        for (count, family) in [(ipv4, "IPv4"), (prefixes.len() - ipv4, "IPv6")] {
            if count > MOST_EARLY_PREFIXES as usize {
                return Err(EarlyError::Prefixes { count, family });
            }
        }
        for prefix in &prefixes {
            if let Some(set) = sets.get_mut(prefix.set) {
                set.prefixes += 1;
            }
        }
        Ok(Plan { sets, prefixes })
    }

    /// At which interfaces anything is dropped early.
    pub fn interfaces(&self) -> u64 {
        self.sets.iter().fold(0, |mask, set| mask | set.interfaces)
    }

    /// For how many prefixes the XDP program is to have room in memory.
    pub fn room(&self) -> EarlyRoom {
        let ipv4 = self.prefixes.iter().filter(|prefix| prefix.address.is_ipv4()).count();
        EarlyRoom::of(ipv4, self.prefixes.len() - ipv4)
    }

    /// The set that packets from `source` are counted for, if they are dropped at the interface of that number.
    pub fn dropped(&self, source: IpAddr, number: u32) -> Option<&EarlySet> {
        let longest = self.prefixes.iter().rev().find(|prefix| contains(prefix, source))?;
        let here = longest.interfaces.checked_shr(number).is_some_and(|mask| mask & 1 != 0);
        here.then(|| self.sets.get(longest.set)).flatten()
    }
}

/// The sets with `early`, each with its function and where it counts.
fn early_sets(config: &Config) -> Vec<(FunctionId, &str, &Set, &EarlyAt)> {
    let mut all = Vec::new();
    for (id, function) in (0u16..).zip(&config.functions) {
        let FunctionKind::Firewall(firewall) = &function.kind else { continue };
        let sets = firewall.sets.iter();
        all.extend(
            sets.filter_map(|set| Some((FunctionId(id), function.name.as_str(), set, set.early.as_ref()?))),
        );
    }
    all
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn contains(prefix: &Prefix, address: IpAddr) -> bool {
    let differ = bits(prefix.address) ^ bits(address);
    prefix.address.is_ipv4() == address.is_ipv4() && differ.leading_zeros() >= u32::from(prefix.length)
}

/// The same prefixes in order, none twice, each for all interfaces of those that it is in. Those that say nothing that the one
/// around them does not say are left out.
fn nested(mut prefixes: Vec<Prefix>) -> Vec<Prefix> {
    prefixes.sort_unstable();
    let mut all: Vec<Prefix> = Vec::with_capacity(prefixes.len());
    // Those that hold the one in hand, from the widest to the narrowest: places in `all`.
    let mut around: Vec<usize> = Vec::new();
    for mut prefix in prefixes {
        while around
            .pop_if(|last| !all.get(*last).is_some_and(|last| contains(last, prefix.address)))
            .is_some()
        {}
        if let Some(outer) = around.last().and_then(|last| all.get_mut(*last)) {
            if (outer.address, outer.length) == (prefix.address, prefix.length) {
                outer.interfaces |= prefix.interfaces;
                continue;
            }
            if outer.set == prefix.set {
                continue;
            }
            prefix.interfaces |= outer.interfaces;
        }
        around.push(all.len());
        all.push(prefix);
    }
    all
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn config(sets: &str) -> Config {
        let text = format!(
            "interfaces:
  lan: {{ device: a }}
  wan: {{ device: b }}
  guest: {{ device: b, vlan: 7 }}
  only: {{ device: c, vlan: 8 }}
  aside: {{ device: d }}
functions:
  edge: {{ firewall: {{ default: allow, sets: {{ {sets} }} }} }}
  other: {{ firewall: {{ default: allow, sets: {{ theirs: {{ elements: [198.18.0.0/15, 10.9.0.0/16], early: aside }} }} }} }}
  core: {{ router: {{}} }}
chains:
  all: {{ from: [lan, guest, only], run: [edge, core] }}
  rest: {{ from: [wan, aside], run: [other, core] }}
"
        );
        Config::parse("test.yaml", &text).unwrap_or_else(|errors| panic!("{errors}")).0
    }

    fn plan(sets: &str) -> Plan {
        Plan::of(&config(sets)).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_set_counts_where_its_firewall_runs_or_where_it_says() {
        let plan = plan(
            "a: { elements: 10.0.0.0/8, early: true }, b: { elements: 10.0.0.1, early: [wan, aside] }, c: [10.0.0.2]",
        );
        let sets: Vec<_> = plan.sets.iter().map(|set| (&*set.function, &*set.set, set.interfaces)).collect();
        // The VLAN stands for its whole device: `wan`, where the device has untagged frames.
        assert_eq!(sets, [("edge", "a", 0b01011), ("edge", "b", 0b10010), ("other", "theirs", 0b10000)]);
        assert_eq!(plan.interfaces(), 0b11011);
        let dropped = |source: &str, number| {
            plan.dropped(source.parse().expect("an address"), number).map(|set| set.set.as_str())
        };
        assert_eq!(dropped("10.1.2.3", 0), Some("a"));
        assert_eq!(dropped("10.1.2.3", 4), None);
        assert_eq!((dropped("10.0.0.1", 0), dropped("10.0.0.1", 4)), (Some("b"), Some("b")));
        assert_eq!((dropped("10.9.0.1", 4), dropped("10.9.0.1", 0)), (Some("theirs"), Some("theirs")));
        assert_eq!((dropped("198.18.0.1", 4), dropped("198.18.0.1", 0)), (Some("theirs"), None));
        assert_eq!((dropped("11.0.0.1", 0), dropped("::10.1.2.3", 0)), (None, None));
    }

    /// Against the plain meaning of the sets: any of those that have the source says so.
    #[test]
    fn the_longest_prefix_says_what_the_sets_say() {
        let mut state = 1u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let names = ["lan", "wan", "only", "aside"];
        let mut hits = 0;
        for _ in 0..200 {
            let sets: Vec<_> = (0..3)
                .map(|_| {
                    let ranges: Vec<_> = (0..1 + random(5))
                        .map(|_| {
                            let first = random(256);
                            (first, first + random(256 - first))
                        })
                        .collect();
                    (ranges, names[random(4) as usize])
                })
                .collect();
            let written = (0..).zip(&sets).map(|(index, (ranges, at))| {
                let ranges: Vec<_> = ranges.iter().map(|(a, b)| format!("192.0.2.{a}-192.0.2.{b}")).collect();
                format!("s{index}: {{ elements: [{}], early: {at} }}", ranges.join(", "))
            });
            let config = config(&written.collect::<Vec<_>>().join(", "));
            let (plan, standing) = (Plan::of(&config).expect("a plan"), standing(&config));
            for last in 0..=255u8 {
                for name in names {
                    let wanted = sets.iter().any(|(ranges, at)| {
                        *at == name && ranges.iter().any(|(a, b)| (*a..=*b).contains(&last.into()))
                    });
                    let port = config.interface_named(name).expect("an interface");
                    let source = Ipv4Addr::new(192, 0, 2, last).into();
                    let found = plan.dropped(source, standing[port.index()]).is_some();
                    assert_eq!(found, wanted, "{last} at {name}: {sets:?}");
                    hits += usize::from(found);
                }
            }
        }
        assert!(hits > 10_000, "{hits}");
    }

    #[test]
    fn what_says_nothing_new_takes_no_room() {
        let plan = plan(
            "a: { elements: [10.0.0.0/8, 10.1.0.0/16, 10.0.0.0-10.255.255.255, 2001:db8::/32], early: true }",
        );
        assert_eq!(plan.sets[0].prefixes, 2, "{:?}", plan.prefixes);
    }
}
