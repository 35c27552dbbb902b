//! Values: what is printed reads back as the same value, and no text makes a reader panic.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::{Debug, Display};
use std::net::IpAddr;
use std::str::FromStr;

use proptest::prelude::*;
use throughway_config::value::{
    AddressRange, Ceiling, DeviceName, Dscp, Duration, Forward, Icmpv4Message, Icmpv6Message, LengthRange,
    Misread, Name, Number, PerSide, PortRange, Prefix, Protocol, Rate, RateUnit, Size,
};
use throughway_config::{Config, Poll, TableId, XdpMode};

fn reads_back<V: FromStr<Err = Misread> + Display + Debug + PartialEq>(value: V) {
    let text = value.to_string();
    assert_eq!(text.parse::<V>().unwrap_or_else(|misread| panic!("{text}: {misread}")), value);
}

fn addresses() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

fn prefixes() -> impl Strategy<Value = Prefix> {
    (addresses(), 0u8..=128).prop_map(|(address, length)| {
        Prefix::containing(address, if address.is_ipv4() { length % 33 } else { length }).unwrap()
    })
}

proptest! {
    #[test]
    fn durations(nanoseconds in prop_oneof![any::<u64>(), 0u64..5_000_000_000, (0u64..10_000).prop_map(|s| s * 1_000_000_000)]) {
        reads_back(Duration::from_nanos(nanoseconds));
    }

    #[test]
    fn sizes(bytes in prop_oneof![any::<u64>(), (0u64..1 << 24).prop_map(|m| m << 20), (0u64..1_000_000).prop_map(|k| k * 1000)]) {
        reads_back(Size::from_bytes(bytes));
    }

    #[test]
    fn prefixes_read_back(prefix in prefixes()) {
        reads_back(prefix);
    }

    #[test]
    fn host_bits_are_refused_with_the_prefix_that_was_meant(address in addresses(), length in 0u8..=128) {
        let length = if address.is_ipv4() { length % 33 } else { length };
        let meant = Prefix::containing(address, length).unwrap();
        prop_assert!(meant.get().contains(address));
        match format!("{address}/{length}").parse::<Prefix>() {
            Ok(prefix) => prop_assert_eq!((prefix, prefix.get().address()), (meant, address)),
            Err(misread) => {
                prop_assert!(meant.get().address() != address);
                prop_assert_eq!(misread.help, Some(format!("did you mean `{meant}`?")));
            }
        }
    }

    #[test]
    fn a_prefix_contains_what_shares_its_first_bits(prefix in prefixes(), address in addresses()) {
        let bits = |address: IpAddr| -> Vec<bool> {
            let bytes = match address { IpAddr::V4(v4) => v4.octets().to_vec(), IpAddr::V6(v6) => v6.octets().to_vec() };
            bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1)).collect()
        };
        let (ours, theirs) = (bits(prefix.get().address()), bits(address));
        let length = usize::from(prefix.get().len());
        let expected = ours.len() == theirs.len() && ours[..length] == theirs[..length];
        prop_assert_eq!(prefix.get().contains(address), expected);
    }

    #[test]
    fn ports(first in 1u16.., more in any::<u16>()) {
        reads_back(PortRange::new(first, first.saturating_add(more)).unwrap());
    }

    #[test]
    fn address_ranges(one in addresses(), other in addresses()) {
        let range = AddressRange::new(one.min(other), one.max(other));
        prop_assert_eq!(range.is_some(), one.is_ipv4() == other.is_ipv4());
        if let Some(range) = range {
            reads_back(range);
        }
    }

    #[test]
    fn a_range_is_as_few_prefixes_as_can_be(first in any::<u32>(), more in prop_oneof![0u32..2000, any::<u32>()], wide in any::<bool>()) {
        let last = first.saturating_add(more);
        let address = |bits: u32| -> IpAddr {
            if wide { std::net::Ipv6Addr::from(u128::from(bits) << 64 | 7).into() } else { std::net::Ipv4Addr::from(bits).into() }
        };
        let range = AddressRange::new(address(first), address(last)).unwrap();
        let prefixes = range.prefixes();
        // One after the other without a gap, from end to end.
        let ranges: Vec<AddressRange> = prefixes.iter().map(|prefix| AddressRange::from(*prefix)).collect();
        prop_assert_eq!(ranges.first().unwrap().first(), range.first());
        prop_assert_eq!(ranges.last().unwrap().last(), range.last());
        let count: u128 = ranges.iter().map(AddressRange::count).sum();
        prop_assert_eq!(count, range.count());
        for pair in ranges.windows(2) {
            prop_assert!(pair[0].last() < pair[1].first());
            // Two that would be one prefix are one.
            let joined = AddressRange::new(pair[0].first(), pair[1].last()).unwrap();
            prop_assert!(joined.prefix().is_none(), "{}", joined);
        }
        prop_assert_eq!(range.prefix().is_some(), prefixes.len() == 1);
    }

    #[test]
    fn prefixes_are_ranges(prefix in prefixes(), address in addresses()) {
        let range = AddressRange::from(prefix);
        prop_assert_eq!(range.prefix(), Some(prefix));
        prop_assert_eq!(range.prefixes(), vec![prefix]);
        prop_assert_eq!(range.contains(address), prefix.get().contains(address));
    }

    #[test]
    fn icmp_messages(kind in any::<u8>(), code in any::<Option<u8>>()) {
        reads_back(Icmpv4Message::new(kind, code));
        reads_back(Icmpv6Message::new(kind, code));
    }

    #[test]
    fn rates(
        text in "(over )?[1-9][0-9]{0,5}( connections| packets| kbit| Mbit| MiB| kB)?/(s|min|h|d)( per (source|destination)( /[0-9]| /24 /56| /48)?)?",
        burst in prop::option::of(1500u32..),
    ) {
        let text = match burst { Some(burst) => format!("{text}, burst {burst}"), None => text };
        reads_back(text.parse::<Rate>().unwrap_or_else(|misread| panic!("{text}: {misread}")));
    }

    #[test]
    fn ceilings(text in "(over )?[1-9][0-9]{0,8}( per (source|destination)( /[0-9]| /24 /56| /48)?)?") {
        reads_back(text.parse::<Ceiling>().unwrap());
    }

    #[test]
    fn forwards(address in addresses(), ports in prop::option::of((1u16.., any::<u16>())), prefix in prefixes()) {
        let ports = ports.map(|(first, more)| PortRange::new(first, first.saturating_add(more)).unwrap());
        reads_back(Forward::Address(address, ports));
        reads_back(Forward::Prefix(prefix));
    }

    #[test]
    fn names(name in "[a-z0-9][a-z0-9-]{0,31}") {
        reads_back(name.parse::<Name>().unwrap());
    }

    #[test]
    fn tables(table in (1u32..).prop_filter("the table of local addresses", |table| *table != 255)) {
        reads_back(TableId(table));
    }

    #[test]
    fn a_damaged_file_is_accepted_or_refused_with_places_inside_it(
        example in prop_oneof![
            Just(include_str!("../examples/edge.yaml")),
            Just(include_str!("../examples/voice.yaml")),
            Just(include_str!("../examples/isolated.yaml")),
            Just(include_str!("../examples/firewall.yaml")),
            Just(include_str!("../examples/nat.yaml")),
            Just(include_str!("../examples/load-balancer.yaml")),
        ],
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[-{}:,&*!|>'\"%@`#\\[\\]a0ü \n\t\r]{0,4}"), 1..5),
    ) {
        let mut text: Vec<char> = example.chars().collect();
        for (at, length, put) in damage {
            let start = at.index(text.len() + 1);
            let end = (start + length).min(text.len());
            text.splice(start..end, put.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(errors) = Config::parse("examples/damaged.yaml", &text) {
            prop_assert!(!errors.problems().is_empty());
            prop_assert!(errors.to_string().contains("damaged.yaml"));
            // A lone carriage return ends a line for YAML only.
            if !text.contains('\r') {
                for span in errors.problems().iter().filter_map(|problem| problem.span) {
                    prop_assert!(span.line as usize <= text.lines().count() + 1, "{}", errors);
                }
            }
        }
    }

    #[test]
    fn no_text_makes_a_reader_panic(text in "\\PC{0,24}|[0-9a-z./:-]{0,20}") {
        fn read<V: FromStr<Err = Misread>>(text: &str) {
            if let Err(misread) = text.parse::<V>() {
                assert!(!misread.message.is_empty());
            }
        }
        read::<Duration>(&text);
        read::<Size>(&text);
        read::<Prefix>(&text);
        read::<PortRange>(&text);
        read::<Dscp>(&text);
        read::<Protocol>(&text);
        read::<Name>(&text);
        read::<DeviceName>(&text);
        read::<Number<1, 64>>(&text);
        read::<TableId>(&text);
        read::<XdpMode>(&text);
        read::<AddressRange>(&text);
        read::<Rate>(&text);
        read::<Ceiling>(&text);
        read::<Rate>(&format!("1/s {text}"));
        read::<Icmpv4Message>(&text);
        read::<Icmpv6Message>(&text);
        read::<LengthRange>(&text);
        read::<Forward>(&text);
    }
}

#[test]
fn every_code_point_and_protocol_reads_back() {
    (0..64).for_each(|number| reads_back(Dscp::new(number).unwrap()));
    assert_eq!(Dscp::new(64), None);
    (0..=255).for_each(|number| reads_back(Protocol::new(number)));
    Poll::WORDS.iter().for_each(|word| reads_back(word.parse::<Poll>().unwrap()));
}

#[test]
fn code_points_have_the_numbers_of_the_registry() {
    let number = |name: &str| name.parse::<Dscp>().unwrap().get();
    assert_eq!((number("ef"), number("voice-admit"), number("le")), (46, 44, 1));
    for class in 0..8 {
        assert_eq!(number(&format!("cs{class}")), class * 8);
    }
    // RFC 2597 section 6.
    for class in 1..=4 {
        for precedence in 1..=3 {
            assert_eq!(number(&format!("af{class}{precedence}")), class * 8 + precedence * 2);
        }
    }
}

#[test]
fn durations_and_sizes_are_read_as_people_write_them() {
    let nanoseconds = |text: &str| text.parse::<Duration>().map(|duration| duration.get().as_nanos());
    assert_eq!(nanoseconds("250ms"), Ok(250_000_000));
    assert_eq!(nanoseconds("1m30s"), Ok(90_000_000_000));
    assert_eq!(nanoseconds("1d"), Ok(86_400_000_000_000));
    assert_eq!(nanoseconds("5").unwrap_err().help.as_deref(), Some("did you mean `5s`?"));
    for wrong in ["", "s", "-5s", "5 s", "5sec", "30s1m", "1s1s", "99999999999999d", "1.5s"] {
        assert!(nanoseconds(wrong).is_err(), "{wrong}");
    }
    let bytes = |text: &str| text.parse::<Size>().map(Size::bytes);
    assert_eq!(bytes("64MiB"), Ok(64 << 20));
    assert_eq!(bytes("10kB"), Ok(10_000));
    assert_eq!(bytes("1 GiB"), Ok(1 << 30));
    assert_eq!(bytes("1500"), Ok(1500));
    assert_eq!(bytes("64Mib").unwrap_err().help.as_deref(), Some("did you mean `64MiB`?"));
    for wrong in ["", "MiB", "-1", "1.5GiB", "99999999999TiB", "64 apples"] {
        assert!(bytes(wrong).is_err(), "{wrong}");
    }
    assert_eq!(Duration::from_nanos(90_000_000_000).to_string(), "1m30s");
    assert_eq!(Size::from_bytes(64 << 20).to_string(), "64MiB");
}

#[test]
fn rates_are_read_as_people_write_them() {
    let rate = |text: &str| text.parse::<Rate>().unwrap_or_else(|misread| panic!("{text}: {misread}"));
    let plain = rate("1000/s");
    assert_eq!((plain.amount(), plain.unit(), plain.interval().as_secs()), (1000, RateUnit::Packets, 1));
    assert_eq!((plain.per(), plain.burst(), plain.over()), (None, 1000, false));
    assert_eq!((rate("10 Mbit/s").amount(), rate("10 Mbit/s").unit()), (1_250_000, RateUnit::Bytes));
    assert_eq!((rate("10Mbit/s"), rate("1 KiB/s").burst()), (rate("10 Mbit/s"), 1500));
    assert_eq!(rate("1 MB/s burst 64 KiB").burst(), 65_536);
    let new = rate("5 connections/min per source, burst 20");
    assert_eq!((new.unit(), new.interval().as_secs(), new.burst()), (RateUnit::Connections, 60, 20));
    let per = |text: &str| rate(text).per().map(|per| (per.side, per.ipv4, per.ipv6));
    assert_eq!(per("1/s per source"), Some((PerSide::Source, 32, 64)));
    assert_eq!(per("1/s per source /24"), Some((PerSide::Source, 24, 64)));
    assert_eq!(per("1/s per destination /48"), Some((PerSide::Destination, 32, 48)));
    assert_eq!(per("over 1/s burst 5 per source /24 /56"), Some((PerSide::Source, 24, 56)));
    for wrong in [
        "",
        "1",
        "/s",
        "1/",
        "1/s per",
        "1/s per source /",
        "1/s burst",
        "1/s x",
        "1/s per source /24 /56 /64",
    ] {
        assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
    }
}

#[test]
fn a_hostile_file_is_refused_without_harm() {
    let deep = format!("interfaces: {}", "[".repeat(100_000));
    let deep_function = format!("functions: {{ core: {{ x: {} }} }}", "[".repeat(100_000));
    let bomb = (1..40).fold("interfaces:\n  a0: &a0 { device: x }\n".to_owned(), |mut text, level| {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        text += &format!("  a{level}: &a{level} [{aliases}]\n");
        text
    });
    for text in [deep, deep_function, bomb] {
        assert!(Config::parse("hostile.yaml", &text).is_err());
    }
}
