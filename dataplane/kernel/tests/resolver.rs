//! Resolving and confirming neighbours over a cable between two namespaces.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests fail as tests do"
)]

mod common;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use common::{Namespace, namespace, until};
use throughway_kernel::{NudState, ResolveError, Resolver};

/// Two namespaces and a cable: `near` in the first with …1, `far` in the second with …2.
fn pair() -> Option<(Namespace, Namespace)> {
    let (near, far) = (namespace()?, namespace()?);
    for side in [&near, &far] {
        side.run(|| std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap());
    }
    near.ip("link add near address 02:00:00:00:01:01 type veth peer name far address 02:00:00:00:01:02");
    near.ip(&format!("link set far netns {}", far.path()));
    for (side, name, last) in [(&near, "near", 1), (&far, "far", 2)] {
        side.ip(&format!("address add 10.1.0.{last}/24 dev {name}"));
        side.ip(&format!("address add 2001:db8:1::{last}/64 dev {name}"));
        side.ip(&format!("link set {name} up"));
    }
    Some((near, far))
}

fn addresses() -> [IpAddr; 2] {
    ["10.1.0.2".parse().unwrap(), "2001:db8:1::2".parse().unwrap()]
}

#[test]
fn a_neighbour_is_asked_for_and_its_answer_arrives() {
    let Some((near, _far)) = pair() else { return };
    let mut mirror = near.mirror();
    let index = near.index("near");
    until(&mut mirror, "cable", |state| state.links[&index].usable());
    let mut resolver = near.run(Resolver::open).unwrap();
    for address in addresses() {
        assert!(mirror.state().neighbour(index, address).is_none());
        resolver.resolve(index, address).unwrap();
        let changes = until(&mut mirror, "answer", |state| {
            state.neighbour(index, address).is_some_and(|neighbour| neighbour.mac.is_some())
        });
        assert!(changes.neighbours.iter().any(|key| key.address == address));
        let neighbour = mirror.state().neighbour(index, address).unwrap();
        assert_eq!(neighbour.mac, Some([2, 0, 0, 0, 1, 2]));
        assert_eq!(neighbour.state, NudState::Reachable);
        resolver.resolve(index, address).unwrap();
    }
}

#[test]
fn nobody_answers_and_asking_starts_over() {
    let Some((near, far)) = pair() else { return };
    for family in ["ipv4", "ipv6"] {
        near.run(move || {
            std::fs::write(format!("/proc/sys/net/{family}/neigh/near/retrans_time_ms"), "50").unwrap();
        });
    }
    let mut mirror = near.mirror();
    let index = near.index("near");
    until(&mut mirror, "cable", |state| state.links[&index].usable());
    let mut resolver = near.run(Resolver::open).unwrap();
    for (address, add) in [("10.1.0.9", "10.1.0.9/24"), ("2001:db8:1::9", "2001:db8:1::9/64")] {
        let ip: IpAddr = address.parse().unwrap();
        resolver.resolve(index, ip).unwrap();
        until(&mut mirror, "failure", |state| {
            state.neighbour(index, ip).is_some_and(|neighbour| neighbour.state == NudState::Failed)
        });
        assert!(!mirror.state().neighbour(index, ip).unwrap().state.usable());
        far.ip(&format!("address add {add} dev far"));
        resolver.resolve(index, ip).unwrap();
        until(&mut mirror, "answer at last", |state| {
            state.neighbour(index, ip).is_some_and(|neighbour| neighbour.mac == Some([2, 0, 0, 0, 1, 2]))
        });
    }
}

#[test]
fn a_stale_neighbour_in_use_is_confirmed_and_keeps_its_address() {
    let Some((near, _far)) = pair() else { return };
    for family in ["ipv4", "ipv6"] {
        near.run(move || {
            std::fs::write(format!("/proc/sys/net/{family}/neigh/near/delay_first_probe_time"), "1").unwrap();
        });
    }
    let mut mirror = near.mirror();
    let index = near.index("near");
    until(&mut mirror, "cable", |state| state.links[&index].usable());
    let mut resolver = near.run(Resolver::open).unwrap();
    for address in addresses() {
        near.ip(&format!("neighbour replace {address} lladdr 02:00:00:00:01:02 dev near nud stale"));
    }
    let state_of = |state: &throughway_kernel::State, address| {
        state.neighbour(index, address).map(|neighbour| neighbour.state)
    };
    until(&mut mirror, "stale", |state| {
        addresses().iter().all(|address| state_of(state, *address) == Some(NudState::Stale))
    });
    for address in addresses() {
        resolver.confirm(index, address).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while addresses().iter().any(|address| state_of(mirror.state(), *address) != Some(NudState::Reachable)) {
        assert!(Instant::now() < deadline, "{:?}", mirror.state().neighbours);
        mirror.wait(Duration::from_millis(50)).unwrap();
        for address in addresses() {
            let neighbour = mirror.state().neighbour(index, address).unwrap();
            assert!(neighbour.state.usable() && neighbour.mac.is_some(), "{neighbour:?}");
        }
    }
}

#[test]
fn what_cannot_be_resolved_says_why() {
    let Some((near, _far)) = pair() else { return };
    let mut resolver = near.run(Resolver::open).unwrap();
    let [v4, v6] = addresses();
    assert!(matches!(resolver.resolve(4242, v4), Err(ResolveError::NoSuchInterface(4242))));
    let index = near.index("near");
    near.run(|| std::fs::write("/proc/sys/net/ipv6/conf/near/disable_ipv6", "1").unwrap());
    // With IPv6 off the kernel may take the request and fail it, or refuse it; it must not resolve.
    match resolver.resolve(index, v6) {
        Ok(()) | Err(ResolveError::NotOnInterface { .. }) => {}
        Err(other) => panic!("{other:?}"),
    }
    resolver.resolve(index, v4).unwrap();
}
