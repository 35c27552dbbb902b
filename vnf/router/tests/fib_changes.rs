//! The FIB while it changes, against a reference that is too slow to be wrong, and read by others meanwhile.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use throughway_packet::PortId;
use throughway_router::internet::{self, Random};
use throughway_router::{FibError, FibWriter, GroupId, Limits, NextHop, NextHops, Route, RouteId};
use throughway_vnf::{Prefix, Slot};

fn via(number: u16) -> Route {
    Route::via(NextHop::on_link(PortId(number)))
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

type Reference = BTreeMap<Prefix, Route>;

fn reference(routes: &Reference, address: IpAddr) -> Option<&Route> {
    let fitting = routes.iter().filter(|(prefix, _)| prefix.contains(address));
    fitting.max_by_key(|(prefix, _)| prefix.len()).map(|(_, route)| route)
}

#[derive(Clone, Debug)]
enum Change {
    Insert(Prefix, u16),
    Remove(Prefix),
    /// Removes the n-th of what is there, so that removals find something.
    RemoveNth(usize),
    /// Everything at once; to every other prefix of what is there, and these.
    Replace(Vec<(Prefix, u16)>),
}

/// Few different bits, so that prefixes nest, lie side by side and come again.
fn address(ipv6: bool) -> impl Strategy<Value = IpAddr> {
    let base = prop_oneof![Just(0u128), Just(0x2001_0db8_0001_u128 << 80), Just(u128::MAX)];
    (base, 0u32..128, 0u128..4).prop_map(move |(base, shift, flip)| {
        let bits = base ^ (flip << shift);
        if ipv6 { Ipv6Addr::from_bits(bits).into() } else { Ipv4Addr::from_bits((bits >> 96) as u32).into() }
    })
}

fn any_prefix() -> impl Strategy<Value = Prefix> {
    // Short ones are rare here as they are outside: each writes millions of words.
    let len = prop_oneof![1 => 0u8..12, 60 => 12u8..=32, 60 => 24u8..=128];
    (any::<bool>(), len)
        .prop_flat_map(|(ipv6, len)| (address(ipv6), Just(if ipv6 { len } else { len.min(32) })))
        .prop_map(|(address, len)| Prefix::containing(address, len).unwrap())
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        20 => (any_prefix(), 0u16..6).prop_map(|(prefix, route)| Change::Insert(prefix, route)),
        5 => any_prefix().prop_map(Change::Remove),
        12 => any::<usize>().prop_map(Change::RemoveNth),
        1 => vec((any_prefix(), 0u16..6), 0..20).prop_map(Change::Replace),
    ]
}

fn apply(writer: &mut FibWriter, routes: &mut Reference, change: Change) {
    match change {
        Change::Insert(prefix, number) => {
            let different = routes.insert(prefix, via(number)) != Some(via(number));
            assert_eq!(writer.insert(prefix, via(number)), Ok(different));
        }
        Change::Remove(prefix) => assert_eq!(writer.remove(prefix), routes.remove(&prefix).is_some()),
        Change::RemoveNth(number) => {
            let Some(prefix) = routes.keys().nth(number % routes.len().max(1)).copied() else { return };
            routes.remove(&prefix);
            assert!(writer.remove(prefix));
        }
        Change::Replace(new) => {
            let before = routes.clone();
            let mut index = 0;
            routes.retain(|_, _| {
                index += 1;
                index % 2 == 0
            });
            routes.extend(new.into_iter().map(|(prefix, number)| (prefix, via(number))));
            let gone = before.keys().filter(|prefix| !routes.contains_key(prefix)).count();
            let changed = routes.iter().filter(|(prefix, route)| before.get(prefix) != Some(route)).count();
            assert_eq!(writer.replace_all(routes.clone()), Ok(gone + changed));
        }
    }
}

/// Addresses where an error by one would show.
fn edges(prefix: &Prefix) -> Vec<IpAddr> {
    let beside = |address: IpAddr, by: i8| match address {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits().wrapping_add_signed(by.into()))),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits().wrapping_add_signed(by.into()))),
    };
    let (first, last) = (prefix.address(), prefix.last());
    vec![first, last, beside(first, -1), beside(last, 1)]
}

fn agree(writer: &FibWriter, routes: &Reference, addresses: &[IpAddr]) {
    let mut ids = vec![RouteId::default(); addresses.len()];
    let view = writer.fib().lookup_all(addresses, &mut ids);
    for (address, id) in addresses.iter().zip(ids) {
        let expected = reference(routes, *address);
        assert_eq!(view.get(id), expected, "{address} together");
        assert_eq!(writer.fib().lookup(*address).as_deref(), expected, "{address} alone");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 120,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_change_is_what_the_reference_says(changes in vec(change(), 1..150)) {
        let mut writer = FibWriter::new(Limits { ipv4: 1 << 20, ipv6: 4 << 20, routes: 64 });
        let mut routes = Reference::new();
        let mut touched: Vec<IpAddr> = Vec::new();
        for change in changes {
            match &change {
                Change::Insert(prefix, _) | Change::Remove(prefix) => touched.extend(edges(prefix)),
                _ => {}
            }
            apply(&mut writer, &mut routes, change);
            let recent = touched.len().saturating_sub(24);
            agree(&writer, &routes, &touched[recent..]);
        }
        let all: Vec<IpAddr> = routes.keys().flat_map(edges).chain(touched).collect();
        agree(&writer, &routes, &all);
        let listed: Reference = writer.iter().map(|(prefix, route)| (prefix, route.clone())).collect();
        prop_assert_eq!(&listed, &routes);
        prop_assert_eq!(writer.fib().ipv4_prefixes() + writer.fib().ipv6_prefixes(), routes.len());
        // What is taken out leaves nothing behind.
        for prefix in routes.keys() {
            prop_assert!(writer.remove(*prefix));
        }
        agree(&writer, &Reference::new(), &all);
        prop_assert_eq!(writer.routes(), 0);
    }
}

/// A FIB that is too small says so, stays as it was, and has room again when prefixes go.
#[test]
fn a_full_table_refuses_and_stays_right() {
    let mut writer = FibWriter::new(Limits { ipv4: 16 << 10, ipv6: 6 << 10, routes: 64 });
    let mut routes = Reference::new();
    let mut refused = 0;
    let mut random = Random(9);
    for round in 0..6 {
        for index in 0..400u16 {
            let bits = random.bits() as u32;
            let (address, len) = if index % 2 == 0 {
                (IpAddr::V4(Ipv4Addr::from_bits(bits & 0xc0ff_ffff)), 25 + (bits % 8) as u8)
            } else {
                let bits = 0x2001_u128 << 112 | u128::from(bits) << 64;
                (IpAddr::V6(Ipv6Addr::from_bits(bits)), 40 + (bits >> 64) as u8 % 80)
            };
            let prefix = Prefix::containing(address, len).unwrap();
            match writer.insert(prefix, via(index % 7)) {
                Ok(_) => {
                    routes.insert(prefix, via(index % 7));
                }
                Err(FibError::Full) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
        let all: Vec<IpAddr> = routes.keys().flat_map(edges).collect();
        agree(&writer, &routes, &all);
        assert!(refused > 100 * round, "round {round}: {refused}");
        // Three of four go; the next round finds their memory.
        let gone: Vec<Prefix> =
            routes.keys().enumerate().filter(|(at, _)| at % 4 != 0).map(|(_, at)| *at).collect();
        for prefix in gone {
            assert!(writer.remove(prefix));
            routes.remove(&prefix);
        }
        agree(&writer, &routes, &all);
    }
    assert!(routes.len() > 40, "{}", routes.len());
}

#[test]
fn too_many_routes_are_refused_and_numbers_are_used_again() {
    let mut writer = FibWriter::new(Limits { routes: 3, ..Limits::default() });
    for number in 0..3 {
        writer.insert(prefix(&format!("10.{number}.0.0/16")), via(number)).unwrap();
    }
    assert_eq!(writer.insert(prefix("10.9.0.0/16"), via(9)), Err(FibError::TooManyRoutes));
    assert_eq!(writer.insert(prefix("10.8.0.0/16"), via(0)), Ok(true), "an equal one is shared");
    assert!(writer.remove(prefix("10.1.0.0/16")));
    assert_eq!(writer.insert(prefix("10.9.0.0/16"), via(9)), Ok(true));
    assert_eq!(writer.fib().lookup(ip("10.9.1.1")).as_deref(), Some(&via(9)));
    assert_eq!(writer.routes(), 3);
}

#[test]
fn a_lost_port_is_left_out_of_all_routes_at_once() {
    let hop = |port| NextHop::gateway(PortId(port), ip("fe80::1"));
    let both = Route::Forward(NextHops::new([hop(1), hop(2)]).unwrap());
    let mut writer = FibWriter::default();
    for number in 0..200u8 {
        writer.insert(Prefix::new([10, number, 0, 0].into(), 16).unwrap(), both.clone()).unwrap();
    }
    writer.insert(prefix("2001:db8::/32"), Route::via(hop(1))).unwrap();
    assert!(!writer.take_changes().is_empty());

    assert_eq!(writer.port_lost(PortId(1), true), 1, "one set of next hops, however many prefixes");
    assert_eq!(writer.take_changes(), [Slot::ROUTES]);
    assert_eq!(writer.port_lost(PortId(1), true), 0, "known already");
    let used = |writer: &FibWriter, address| writer.fib().lookup(ip(address)).as_deref().cloned();
    assert_eq!(used(&writer, "10.77.1.1"), Some(Route::via(hop(2))));
    assert_eq!(used(&writer, "2001:db8::1"), Some(Route::via(hop(1))), "the last one stays");
    assert_eq!(writer.get(prefix("10.77.0.0/16")), Some(&both), "as it was asked for");
    // What is added later, too.
    let more = Route::Forward(NextHops::new([hop(1), hop(3)]).unwrap());
    writer.insert(prefix("172.16.0.0/12"), more.clone()).unwrap();
    assert_eq!(used(&writer, "172.16.0.1"), Some(Route::via(hop(3))));

    assert_eq!(writer.gateway_lost(PortId(2), ip("fe80::1"), true), 1, "now none is left: both stay");
    assert_eq!(used(&writer, "10.77.1.1"), Some(both.clone()));
    assert_eq!(writer.port_lost(PortId(1), false), 2);
    assert_eq!(used(&writer, "10.77.1.1"), Some(Route::via(hop(1))));
    assert_eq!(writer.gateway_lost(PortId(2), ip("fe80::1"), false), 1);
    assert_eq!((used(&writer, "10.77.1.1"), used(&writer, "172.16.0.1")), (Some(both), Some(more)));
}

#[test]
fn a_group_changes_for_all_its_prefixes() {
    let mut writer = FibWriter::default();
    let group = GroupId(7);
    assert_eq!(writer.insert(prefix("10.0.0.0/8"), group), Err(FibError::NoSuchGroup));
    assert_eq!(writer.update_group(group, via(1)), Ok(false));
    for text in ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"] {
        assert_eq!(writer.insert(prefix(text), group), Ok(true));
    }
    writer.take_changes();
    assert_eq!(writer.update_group(group, via(2)), Ok(true));
    assert_eq!(writer.take_changes(), [Slot::ROUTES]);
    for address in ["192.0.2.1", "10.2.0.1", "10.1.0.1", "2001:db8::1"] {
        assert_eq!(writer.fib().lookup(ip(address)).as_deref(), Some(&via(2)));
    }
    assert_eq!(writer.remove_group(group), Err(FibError::GroupInUse));
    for text in ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"] {
        assert!(writer.remove(prefix(text)));
    }
    assert_eq!(writer.remove_group(group), Ok(()));
    assert_eq!(writer.remove_group(group), Err(FibError::NoSuchGroup));
}

#[test]
fn what_was_found_says_whether_it_is_the_default_route() {
    let mut writer = FibWriter::default();
    assert!(writer.fib().lookup(ip("192.0.2.1")).is_none());
    writer.insert(prefix("0.0.0.0/0"), via(1)).unwrap();
    writer.insert(prefix("192.0.2.0/24"), via(1)).unwrap();
    assert!(writer.fib().lookup(ip("198.51.100.1")).unwrap().is_default());
    assert!(!writer.fib().lookup(ip("192.0.2.1")).unwrap().is_default());
    assert!(writer.fib().lookup(ip("2001:db8::1")).is_none(), "that of the other family");
}

#[test]
fn many_changes_are_told_as_one() {
    let mut writer = FibWriter::default();
    writer.insert(prefix("192.0.2.0/24"), via(1)).unwrap();
    assert_eq!(writer.take_changes(), [Slot::route(ip("192.0.2.1"))]);
    assert_eq!(writer.insert(prefix("192.0.2.0/24"), via(1)), Ok(false));
    assert!(writer.take_changes().is_empty(), "nothing has changed");
    for prefix in internet::ipv4(20_000, 4) {
        writer.insert(prefix, via(2)).unwrap();
    }
    assert_eq!(writer.take_changes(), [Slot::ROUTES]);
}

/// Readers look up what one writer changes. Every address has a history of which route it had when; what a reader sees
/// must be what it had at some time while the lookup was under way.
#[test]
fn readers_see_what_was_true_meanwhile() {
    // The writer writes down before each change from which step on it may be seen, and after it from which step on nothing
    // else may be. An address is that of a nest: a host route, a /24, a /20 and a /12 that come and go.
    const STEPS: u64 = 60_000;
    const NESTS: usize = 48;
    let address = |nest: usize| -> IpAddr {
        if nest.is_multiple_of(2) {
            Ipv4Addr::from_bits(0x0a00_0000 | (nest as u32 / 8) << 20 | (nest as u32 % 8) << 8 | 9).into()
        } else {
            Ipv6Addr::from_bits(
                0x2001_0db8_u128 << 96 | (nest as u128 / 8) << 84 | (nest as u128 % 8) << 64 | 9,
            )
            .into()
        }
    };
    let lengths = |nest: usize| if nest.is_multiple_of(2) { [12u8, 20, 24, 32] } else { [44, 57, 64, 128] };
    let started = AtomicU64::new(0);
    let finished = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    // Number of route = step that made it, so that a route says when it came to be. `None` is 0.
    let number = |route: Option<&Route>| match route {
        Some(Route::Forward(hops)) => {
            let hop = hops.iter().next().unwrap();
            match hop.gateway.unwrap() {
                IpAddr::V6(at) => at.to_bits() as u64,
                IpAddr::V4(_) => unreachable!(),
            }
        }
        _ => 0,
    };
    let route = |step: u64| Route::via(NextHop::gateway(PortId(1), Ipv6Addr::from_bits(step.into()).into()));
    let mut writer = FibWriter::new(Limits::default());
    let fib = writer.fib().clone();
    // For each address: what it had from which step on.
    let (mut histories, mut seen) = (vec![vec![(0u64, 0u64)]; NESTS], Vec::new());
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                let (fib, started, finished, stop) = (&fib, &started, &finished, &stop);
                scope.spawn(move || {
                    let addresses: Vec<IpAddr> = (0..NESTS).map(address).collect();
                    let mut seen: Vec<(usize, u64, u64, u64)> = Vec::new();
                    let mut ids = [RouteId::default(); NESTS];
                    while !stop.load(Ordering::Acquire) {
                        let first = finished.load(Ordering::SeqCst);
                        if reader == 0 {
                            let view = fib.lookup_all(&addresses, &mut ids);
                            let last = started.load(Ordering::SeqCst);
                            seen.extend(
                                (0..NESTS).map(|nest| (nest, first, last, number(view.get(ids[nest])))),
                            );
                        } else {
                            let nest = (first as usize).wrapping_mul(7) % NESTS;
                            let found = fib.lookup(addresses[nest]);
                            let last = started.load(Ordering::SeqCst);
                            seen.push((nest, first, last, number(found.as_deref())));
                        }
                        if seen.len() > 4_000_000 {
                            break;
                        }
                    }
                    seen
                })
            })
            .collect();

        let mut random = Random(11);
        let mut here: BTreeMap<Prefix, u64> = BTreeMap::new();
        for step in 1..=STEPS {
            let nest = random.below(NESTS as u64) as usize;
            let len = lengths(nest)[random.below(4) as usize];
            let prefix = Prefix::containing(address(nest), len).unwrap();
            started.store(step, Ordering::SeqCst);
            if random.below(3) == 0 {
                writer.remove(prefix);
                here.remove(&prefix);
            } else {
                writer.insert(prefix, route(step)).unwrap();
                here.insert(prefix, step);
            }
            finished.store(step, Ordering::SeqCst);
            for (nest, history) in histories.iter_mut().enumerate() {
                let now = lengths(nest)
                    .iter()
                    .rev()
                    .find_map(|len| here.get(&Prefix::containing(address(nest), *len).unwrap()));
                let now = now.copied().unwrap_or(0);
                if history.last().is_none_or(|(_, before)| *before != now) {
                    history.push((step, now));
                }
            }
        }
        stop.store(true, Ordering::Release);
        seen = readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect();
    });
    assert!(seen.len() > 1000);
    let mut moving = 0;
    for (nest, first, last, value) in seen {
        // What it had after step `first`, and after each step up to `last`.
        let history = &histories[nest];
        let from = history.partition_point(|(step, _)| *step <= first) - 1;
        let possible = history[from..].iter().take_while(|(step, _)| *step <= last.max(first));
        moving += usize::from(possible.clone().count() > 1);
        assert!(
            possible.clone().any(|(_, had)| *had == value),
            "{nest}: {value} between {first} and {last}: {possible:?}"
        );
    }
    println!("{moving} lookups while the answer changed");
}

/// Inside 2000::/3 and, further on, outside of it.
#[test]
fn any_number_of_blocks_of_ipv6_is_right() {
    let blocks = (0x2000u128..0x2000 + 300).chain([0, 0x64, 0x1fff, 0x3fff, 0x4000, 0xfd00, 0xffff]);
    let prefixes = blocks.flat_map(|block| {
        let at = |bits: u128, len| {
            Prefix::containing(Ipv6Addr::from_bits(block << 112 | bits).into(), len).unwrap()
        };
        [
            at(0x1234 << 96, 20),
            at(0x1234 << 96, 32),
            at(0x1234_5678 << 80, 47),
            at(0x1234_5678 << 80, 48),
            at(7, 128),
        ]
    });
    let prefixes: Vec<Prefix> = prefixes
        .chain(["::/1", "::/2", "2000::/3", "2000::/4", "2001::/16", "c000::/2"].map(prefix))
        .collect();
    let mut routes: Reference =
        (0u16..).zip(&prefixes).map(|(number, at)| (*at, via(number % 900))).collect();
    let mut grown = FibWriter::default();
    for (prefix, route) in &routes {
        grown.insert(*prefix, route.clone()).unwrap();
    }
    let mut built = FibWriter::default();
    assert_eq!(built.replace_all(routes.clone()), Ok(routes.len()));
    let addresses: Vec<IpAddr> = prefixes.iter().step_by(7).flat_map(edges).collect();
    agree(&grown, &routes, &addresses);
    agree(&built, &routes, &addresses);
    for prefix in prefixes.iter().step_by(3).chain(prefixes.last()) {
        assert_eq!(built.remove(*prefix), routes.remove(prefix).is_some());
    }
    agree(&built, &routes, &addresses);
}

/// So many prefixes side by side and in one another that no node of ranges holds them, below each bound that IPv6 has; then
/// they go again, one by one.
#[test]
fn crowds_of_ipv6_prefixes_come_and_go() {
    let mut random = Random(5);
    let regions = [
        ("2001:db8::", 26u8, 16u32),
        ("2001:db8::", 54, 14),
        ("2001:db8:0:100::", 78, 20),
        ("fd00::", 12, 30),
    ];
    for (base, from, bits) in regions {
        let IpAddr::V6(base) = ip(base) else { unreachable!() };
        let mut one = || {
            let len = u32::from(from) + 1 + random.below(u64::from(bits)) as u32;
            // Few values: equal neighbours are one run until one of them goes.
            let at = u128::from(random.below(1 << bits)) << (128 - u32::from(from) - bits);
            let prefix = Prefix::containing(Ipv6Addr::from_bits(base.to_bits() | at).into(), len as u8);
            (prefix.unwrap(), random.below(3) as u16)
        };
        let all: Vec<(Prefix, u16)> = (0..400).map(|_| one()).collect();
        let mut writer = FibWriter::default();
        let mut routes = Reference::new();
        let addresses: Vec<IpAddr> = all.iter().flat_map(|(prefix, _)| edges(prefix)).collect();
        for (step, (prefix, number)) in all.iter().enumerate() {
            routes.insert(*prefix, via(*number));
            writer.insert(*prefix, via(*number)).unwrap();
            if step % 20 == 0 {
                agree(&writer, &routes, &addresses);
            }
        }
        let mut built = FibWriter::default();
        assert_eq!(built.replace_all(routes.clone()), Ok(routes.len()));
        agree(&built, &routes, &addresses);
        for (step, (prefix, _)) in all.iter().rev().enumerate() {
            let there = routes.remove(prefix).is_some();
            assert_eq!([writer.remove(*prefix), built.remove(*prefix)], [there; 2]);
            if step % 20 == 0 {
                agree(&writer, &routes, &addresses);
                agree(&built, &routes, &addresses);
            }
        }
        assert!(writer.is_empty() && writer.routes() == 0);
    }
}

#[test]
fn a_table_that_was_built_and_one_that_grew_agree() {
    let mut random = Random(21);
    let mut prefixes = internet::ipv4(30_000, 1);
    prefixes.extend(internet::ipv6(20_000, 2));
    let routes: Vec<(Prefix, Route)> =
        prefixes.iter().map(|at| (*at, via(random.below(50) as u16))).collect();
    let mut grown = FibWriter::default();
    // By a way that leaves nothing of what was there before.
    for (prefix, _) in routes.iter().rev().step_by(2) {
        grown.insert(*prefix, via(99)).unwrap();
    }
    for (prefix, _) in routes.iter().step_by(3) {
        grown.remove(*prefix);
    }
    for (prefix, route) in &routes {
        grown.insert(*prefix, route.clone()).unwrap();
    }
    let mut built = FibWriter::default();
    assert_eq!(built.replace_all(routes.clone()), Ok(routes.len()));
    assert_eq!(grown.replace_all(routes), Ok(0), "the same already");
    assert_eq!(grown.len(), 50_000);
    for addresses in internet::destinations(&prefixes, 64_000, 3).chunks(64) {
        let (mut one, mut other) = ([RouteId::default(); 64], [RouteId::default(); 64]);
        let (grown, built) =
            (grown.fib().lookup_all(addresses, &mut one), built.fib().lookup_all(addresses, &mut other));
        for (address, (one, other)) in addresses.iter().zip(one.into_iter().zip(other)) {
            assert!(grown.get(one).is_some(), "{address}");
            assert_eq!(grown.get(one), built.get(other), "{address}");
        }
    }
}
