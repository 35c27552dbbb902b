//! Sets of addresses against the plain list of their ranges.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::{Random, edges, range};
use proptest::prelude::*;
use throughway_firewall::{AddressMatch, AddressRange, AddressSet, Fields, NumberSet, SetError};

fn contains(set: &AddressSet, address: IpAddr) -> bool {
    let fields = Fields::between(address, address);
    set.contains(fields.family, &fields.source)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_set_holds_what_its_ranges_hold(seed in any::<u64>(), count in 0usize..300) {
        let mut random = Random::new(seed);
        let ranges: Vec<AddressRange> = (0..count).map(|_| range(&mut random)).collect();
        // Sparse, so that not everything is covered.
        let ranges: Vec<_> = ranges.into_iter().filter(|range| range.first() == range.last() || random.chance(20)).collect();
        let set = AddressSet::new(ranges.clone());
        let list = AddressMatch { ranges: ranges.clone(), ..AddressMatch::default() };
        for address in edges(&list, &mut random) {
            let listed = ranges.iter().any(|range| range.contains(address));
            prop_assert_eq!(contains(&set, address), listed, "{} in {:?}", address, ranges);
        }
        // What it says of itself makes the same set again.
        let again = AddressSet::new(set.ranges());
        prop_assert_eq!(again.ranges().collect::<Vec<_>>(), set.ranges().collect::<Vec<_>>());
        prop_assert_eq!(set.ranges().count(), set.len());
    }
}

#[test]
fn a_hundred_thousand_entries_of_each_kind() {
    let mut random = Random::new(5);
    let v4: Vec<IpAddr> = (0..100_000).map(|_| Ipv4Addr::from_bits(random.next() as u32).into()).collect();
    let v6: Vec<IpAddr> =
        (0..100_000).map(|_| Ipv6Addr::from_bits(u128::from(random.next()) << 32).into()).collect();
    let set = AddressSet::new(v4.iter().chain(&v6).map(|&address| address.into()));
    let mut sorted: Vec<IpAddr> = v4.iter().chain(&v6).copied().collect();
    sorted.sort_unstable();
    for &address in &sorted {
        assert!(contains(&set, address));
        let next = match address {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().wrapping_add(1)).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_add(1)).into(),
        };
        assert_eq!(contains(&set, next), sorted.binary_search(&next).is_ok(), "{next}");
    }
}

#[test]
fn networks_and_hosts_are_told_apart() {
    let networks = AddressSet::new(["2001:db8::/64", "2001:db8:1::/48"].map(prefix));
    assert!(contains(&networks, "2001:db8::ffff".parse().unwrap()));
    assert!(!contains(&networks, "2001:db8:0:1::".parse().unwrap()));
    let mixed = AddressSet::new(["2001:db8::/64", "2001:db8:1::/48", "2001:db8:0:1::7/128"].map(prefix));
    assert!(contains(&mixed, "2001:db8:0:1::7".parse().unwrap()));
    assert!(!contains(&mixed, "2001:db8:0:1::8".parse().unwrap()));
    assert_eq!(mixed.len(), 3);
}

fn prefix(text: &str) -> AddressRange {
    text.parse::<throughway_packet::Prefix>().unwrap().into()
}

#[test]
fn ranges_are_checked() {
    let [low, high, other] = ["10.0.0.1", "10.0.0.9", "::1"].map(|text| text.parse::<IpAddr>().unwrap());
    assert!(AddressRange::new(low, high).is_ok());
    assert_eq!(AddressRange::new(high, low), Err(SetError::Empty { first: high, last: low }));
    assert_eq!(AddressRange::new(low, other), Err(SetError::Families { first: low, last: other }));
}

#[test]
fn numbers() {
    let set = NumberSet::new([80..=80, 81..=90, 0..=1, 65535..=65535, 85..=88]);
    assert_eq!(set.ranges().collect::<Vec<_>>(), [0..=1, 80..=90, 65535..=65535]);
    for (number, inside) in
        [(0, true), (2, false), (79, false), (80, true), (90, true), (91, false), (65535, true)]
    {
        assert_eq!(set.contains(number), inside, "{number}");
    }
}
