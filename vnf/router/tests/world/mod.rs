//! A small network for the tests: two links that work, one that is down, one without any IPv4 address.
#![allow(dead_code, reason = "every test file compiles its own copy and uses a part of it")]

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use throughway_packet::PortId;
use throughway_router::{
    Fib, InterfaceAddress, Neighbours, NextHop, NextHops, Port, PortSettings, Ports, Route, Router, Tables,
};
use throughway_vnf::{Prefix, Snapshot};

pub(crate) const LAN: PortId = PortId(0);
pub(crate) const WAN: PortId = PortId(1);
pub(crate) const DOWN: PortId = PortId(2);
pub(crate) const BARE: PortId = PortId(3);

pub(crate) const LAN_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0];
pub(crate) const WAN_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];
pub(crate) const BARE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 3];
/// 192.0.2.77 and 2001:db8:1::77 behind LAN.
pub(crate) const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 2, 0x77];
/// 203.0.113.1 and fe80::99 behind WAN.
pub(crate) const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 2, 0x99];
/// fe80::9 behind BARE.
pub(crate) const SIX_MAC: [u8; 6] = [2, 0, 0, 0, 2, 9];

pub(crate) const WAN_MTU: u16 = 1400;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn own(text: &str) -> InterfaceAddress {
    let (address, len) = text.split_once('/').unwrap();
    InterfaceAddress::new(ip(address), len.parse().unwrap()).unwrap()
}

fn port(mac: [u8; 6], mtu: u32, up: bool, addresses: &[&str]) -> Port {
    Port {
        mac,
        mtu,
        up,
        addresses: addresses.iter().map(|text| own(text)).collect(),
        settings: PortSettings::default(),
    }
}

pub(crate) fn ports() -> Ports {
    Ports::new(vec![
        port(LAN_MAC, 1500, true, &["fe80::1/64", "192.0.2.1/24", "2001:db8:1::1/64"]),
        port(
            WAN_MAC,
            WAN_MTU.into(),
            true,
            &["10.99.0.1/30", "203.0.113.2/24", "fe80::2/64", "2001:db8:2::2/64"],
        ),
        port([2, 0, 0, 0, 1, 2], 1500, false, &[]),
        port(BARE_MAC, 1500, true, &["fe80::3/64"]),
    ])
}

/// Built once: reserving the memory of a FIB takes longer than routing a packet.
pub(crate) fn tables() -> Tables {
    static TABLES: LazyLock<Tables> = LazyLock::new(build);
    TABLES.clone()
}

fn build() -> Tables {
    let via = |port, gateway| Route::via(NextHop::gateway(port, ip(gateway)));
    let ports = ports();
    let mut fib = ports.connected_routes();
    for (to, route) in [
        ("0.0.0.0/0", via(WAN, "203.0.113.1")),
        ("10.0.0.0/16", Route::Blackhole),
        ("10.1.0.0/16", Route::Unreachable),
        ("10.2.0.0/16", Route::Prohibit),
        ("10.3.0.0/16", Route::Throw),
        ("10.4.0.0/16", Route::NotOurs),
        ("10.5.0.0/16", Route::via(NextHop::on_link(DOWN))),
        ("10.6.0.0/16", Route::via(NextHop::on_link(PortId(99)))),
        ("10.7.0.0/16", via(WAN, "203.0.113.254")),
        ("10.8.0.0/16", Route::Forward(NextHops::new(several()).unwrap())),
        ("198.51.100.0/24", via(BARE, "fe80::9")),
        ("2001:db8:a0::/48", Route::Blackhole),
        ("2001:db8:a1::/48", Route::Unreachable),
        ("2001:db8:a2::/48", Route::Prohibit),
        ("2001:db8:a3::/48", Route::Throw),
        ("2001:db8:a4::/48", Route::NotOurs),
        ("2001:db8:a5::/48", Route::via(NextHop::on_link(DOWN))),
        ("2001:db8:a6::/48", Route::via(NextHop::on_link(PortId(99)))),
        ("2001:db8:a7::/48", via(WAN, "2001:db8:2::254")),
        ("2001:db8:a8::/48", Route::Forward(NextHops::new(several()).unwrap())),
        ("2001:db8:b000::/36", via(WAN, "fe80::99")),
        ("2001:db8:c000::/36", via(BARE, "fe80::9")),
    ] {
        fib.push((prefix(to), route));
    }
    let neighbours = [
        (LAN, ip("192.0.2.77"), HOST_MAC),
        (LAN, ip("2001:db8:1::77"), HOST_MAC),
        (WAN, ip("203.0.113.1"), GATEWAY_MAC),
        (WAN, ip("fe80::99"), GATEWAY_MAC),
        (BARE, ip("fe80::9"), SIX_MAC),
    ];
    Tables {
        ports: Arc::new(ports),
        neighbours: Arc::new(neighbours.into_iter().collect::<Neighbours>()),
        fib: Fib::fixed(fib),
    }
}

/// Four next hops behind WAN; the last has no weight, which counts as 1.
pub(crate) fn several() -> Vec<NextHop> {
    [("fe80::a", 1), ("fe80::b", 2), ("fe80::c", 4), ("fe80::d", 0)]
        .map(|(gateway, weight)| NextHop::gateway(WAN, ip(gateway)).weighted(weight))
        .to_vec()
}

pub(crate) fn router() -> Router {
    Router::new(Snapshot::new(tables()))
}
