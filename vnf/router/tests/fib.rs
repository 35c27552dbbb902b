//! The FIB against a reference that is too slow to be wrong: a list, searched from end to end.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use throughway_packet::PortId;
use throughway_router::{Fib, NextHop, Route};
use throughway_vnf::Prefix;

/// The longest prefix that contains the address; of equal ones the one added last.
fn reference(routes: &[(Prefix, Route)], address: IpAddr) -> Option<&Route> {
    let fitting = routes.iter().filter(|(prefix, _)| prefix.contains(address));
    // `max_by_key` returns the last of several maxima.
    fitting.max_by_key(|(prefix, _)| prefix.len()).map(|(_, route)| route)
}

fn route(number: u16) -> Route {
    match number {
        0 => Route::Blackhole,
        1 => Route::Local,
        2 => Route::Throw,
        port => Route::via(NextHop::on_link(PortId(port))),
    }
}

fn neighbour_below(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits().wrapping_sub(1))),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits().wrapping_sub(1))),
    }
}

fn neighbour_above(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits().wrapping_add(1))),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits().wrapping_add(1))),
    }
}

/// The addresses where an error by one would show.
fn edges(prefix: &Prefix) -> [IpAddr; 4] {
    let (first, last) = (prefix.address(), prefix.last());
    [first, last, neighbour_below(first), neighbour_above(last)]
}

/// Addresses that share their first bits with few others, so that prefixes of them nest and lie side by side.
fn crowded_ipv4() -> impl Strategy<Value = IpAddr> {
    let base = prop_oneof![Just(0u32), Just(0x0a01_0000), Just(0xc000_0200), Just(u32::MAX), any::<u32>()];
    (base, 0u32..32, 0u32..8)
        .prop_map(|(base, shift, flip)| IpAddr::V4(Ipv4Addr::from_bits(base ^ (flip << shift))))
}

fn crowded_ipv6() -> impl Strategy<Value = IpAddr> {
    let base = prop_oneof![
        Just(0u128),
        Just(0x2001_0db8_0001_0000_0000_0000_0000_0000),
        Just(u128::MAX),
        any::<u128>()
    ];
    (base, 0u32..128, 0u128..8)
        .prop_map(|(base, shift, flip)| IpAddr::V6(Ipv6Addr::from_bits(base ^ (flip << shift))))
}

fn routes(address: impl Strategy<Value = IpAddr>, max: u8) -> impl Strategy<Value = Vec<(Prefix, Route)>> {
    // Short ones are rare here as they are outside: each writes millions of words.
    let len = prop_oneof![1 => 0..12u8, 40 => 12..=max];
    let prefix = (address, len).prop_map(|(address, len)| Prefix::containing(address, len).unwrap());
    vec((prefix, (0u16..40).prop_map(route)), 0..120)
}

fn agree(routes: &[(Prefix, Route)], extra: &[IpAddr]) -> Result<(), TestCaseError> {
    let fib = Fib::fixed(routes.iter().cloned());
    for address in routes.iter().flat_map(|(prefix, _)| edges(prefix)).chain(extra.iter().copied()) {
        let found = fib.lookup(address);
        prop_assert_eq!(found.as_deref(), reference(routes, address), "{}", address);
    }
    let mut distinct: Vec<Prefix> = routes.iter().map(|(prefix, _)| *prefix).collect();
    distinct.sort();
    distinct.dedup();
    let ipv4 = distinct.iter().filter(|prefix| prefix.address().is_ipv4()).count();
    prop_assert_eq!((fib.ipv4_prefixes(), fib.ipv6_prefixes()), (ipv4, distinct.len() - ipv4));
    Ok(())
}

fn config() -> ProptestConfig {
    // Beside this file; the default looks for `lib.rs` above it.
    let persistence = FileFailurePersistence::WithSource("regressions");
    ProptestConfig {
        cases: 200,
        failure_persistence: Some(Box::new(persistence)),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn ipv4_agrees_with_the_reference(routes in routes(crowded_ipv4(), 32), extra in vec(crowded_ipv4(), 50)) {
        agree(&routes, &extra)?;
    }

    #[test]
    fn ipv6_agrees_with_the_reference(routes in routes(crowded_ipv6(), 128), extra in vec(crowded_ipv6(), 50)) {
        agree(&routes, &extra)?;
    }

    #[test]
    fn families_do_not_mix(
        ipv4 in routes(crowded_ipv4(), 32),
        ipv6 in routes(crowded_ipv6(), 128),
        extra in vec(prop_oneof![crowded_ipv4(), crowded_ipv6()], 50),
    ) {
        let both: Vec<_> = ipv4.into_iter().chain(ipv6).collect();
        agree(&both, &extra)?;
    }
}

#[test]
fn an_empty_fib_knows_nothing() {
    let fib = Fib::default();
    assert!(fib.lookup("192.0.2.1".parse().unwrap()).is_none());
    assert!(fib.lookup("2001:db8::1".parse().unwrap()).is_none());
    assert_eq!((fib.ipv4_prefixes(), fib.ipv6_prefixes(), fib.memory()), (0, 0, 0));
}

#[test]
fn every_length_from_the_default_route_to_the_host_route() {
    for (address, max) in [("203.0.113.77", 32), ("2001:db8:5a5a:a5a5:1234:8765:9abc:def1", 128)] {
        let address: IpAddr = address.parse().unwrap();
        let routes: Vec<_> = (0..=max)
            .map(|len| (Prefix::containing(address, len).unwrap(), route(100 + u16::from(len))))
            .collect();
        let fib = Fib::fixed(routes.iter().cloned());
        assert_eq!(fib.lookup(address).as_deref(), Some(&route(100 + u16::from(max))));
        for (prefix, _) in &routes {
            for edge in edges(prefix) {
                assert_eq!(fib.lookup(edge).as_deref(), reference(&routes, edge), "{edge}");
            }
        }
    }
}

#[test]
fn a_table_of_a_hundred_thousand_routes_is_small_and_right() {
    // A deterministic scatter of mostly /24 below a default route, as in the Internet.
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state
    };
    let mut routes = vec![(Prefix::containing(Ipv4Addr::UNSPECIFIED.into(), 0).unwrap(), route(3))];
    for number in 0..100_000u32 {
        let len = [24, 24, 24, 22, 23, 20, 16, 19][(number % 8) as usize];
        let address = IpAddr::V4(Ipv4Addr::from_bits(next()));
        routes.push((Prefix::containing(address, len).unwrap(), route(4 + (next() >> 16) as u16 % 60)));
    }
    let fib = Fib::fixed(routes.iter().cloned());
    let nodes = fib.memory() - Fib::fixed([]).memory();
    assert!(nodes < 1 << 20, "{nodes} bytes beside the first tables");
    for (prefix, _) in routes.iter().step_by(997) {
        for edge in edges(prefix) {
            assert_eq!(fib.lookup(edge).as_deref(), reference(&routes, edge), "{edge}");
        }
    }
}
