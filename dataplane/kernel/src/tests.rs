//! Decoding and applying messages captured from Linux 6.18.

use std::net::IpAddr;

use crate::changes::Changes;
use crate::decode;
use crate::model::{
    Address, AddressKey, Neighbour, NeighbourKey, NextHop, NexthopObject, NudState, Prefix, Route, RouteKey,
    RouteKind, RouteProtocol, Scope, State, table,
};
use crate::socket::{Frames, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Payload, attributes};
use crate::store::{Fit, Store};

/// `ip route add 10.6.0.0/16 metric 7 proto 186 mtu 1400 nexthop via 10.1.0.2 weight 3
/// nexthop via inet6 fe80::1 dev va onlink`
const MULTIPATH_V4: &str = "02100000feba00010000000008000f00fe000000080001000a06000008000600070000000c000800\
    0800020078050000340009001000000203000000080005000a0100022000040003000000160012000a00fe8000000000000000000000000000010000";
/// `ip -6 route add 2001:db8:ff::/48 table 1000 nexthop via 2001:db8:1::2 nexthop via 2001:db8:1::3`
const MULTIPATH_V6: &str = "0a300000fc0300010000000008000f00e80300001400010020010db800ff00000000000000000000\
    08000600000400003c0009001c000000030000001400050020010db80001000000000000000000021c0000000300000014000500\
    20010db800010000000000000000000324000c0000000000000000000000000000000000000000000000000000000000000000000500140000000000";
/// `ip route add blackhole 203.0.113.0/24`
const BLACKHOLE: &str = "02180000fe0300060000000008000f00fe00000008000100cb007100";
/// `ip addr add 10.9.0.1 peer 10.9.0.2/32 dev va`
const PEER: &str = "0220800003000000080001000a090002080002000a0900010700030076610000080008008000000014000600\
    ffffffffffffffff7a7d06007a7d0600";
/// `ip link add link wan name wan.200 type vlan proto 802.1ad id 200`, put together by hand from linux/if_link.h: the test
/// machine's kernel has no VLAN devices.
const VLAN: &str = "000001000600000043100100000000000c00030077616e2e3230300008000500040000000a000100020000000001000008000400dc05\
    00003000120009000100766c616e00000000200002000600050088a8000006000100c80000000c00020001000000ffffffff\
    ";
/// A link-local address while the kernel looks for duplicates, with its flag made tentative.
const LINK_LOCAL: &str = "0a4080fd0200000014000100fe80000000000000b08ffcfffef39bdb14000600ffffffffffffffff047d0600\
    047d0600080008008000000005000b0003000000";
/// `ip neigh add 2001:db8:1::7 lladdr 02:00:00:00:06:07 dev va router`
const NEIGHBOUR: &str = "0a00000003000000800080011400010020010db80001000000000000000000070a00020002000000060700000800\
    0400000000001400030000000000000000000000000001000000";
/// `ip nexthop add id 1 via 10.1.0.2 dev va`
const NEXTHOP: &str = "02fd00000000000008000100010000000800050003000000080006000a010002";
/// `ip nexthop add id 10 group 1,5/2`
const GROUP: &str = "0000000000000000080001000a0000000600030000000000140002000100000004000000020000000000000008000e0000000080";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn slot(network: &str, len: u8, metric: u32) -> RouteKey {
    RouteKey {
        table: table::MAIN,
        prefix: Prefix { address: ip(network), len },
        source: None,
        tos: 0,
        metric,
    }
}

#[test]
fn routes_decode() {
    let (key, route) = decode::route(&bytes(MULTIPATH_V4)).unwrap().unwrap();
    assert_eq!(key, slot("10.6.0.0", 16, 7));
    let onlink = NextHop { onlink: true, ..NextHop::new(Some(ip("fe80::1")), Some(3)) };
    let expected = Route {
        protocol: RouteProtocol::BGP,
        mtu: Some(1400),
        next_hops: vec![NextHop { weight: 3, ..NextHop::new(Some(ip("10.1.0.2")), Some(3)) }, onlink],
        ..Route::default()
    };
    assert_eq!(route, expected);

    let (key, route) = decode::route(&bytes(MULTIPATH_V6)).unwrap().unwrap();
    assert_eq!(key, RouteKey { table: 1000, ..slot("2001:db8:ff::", 48, 1024) });
    let ways = ["2001:db8:1::2", "2001:db8:1::3"].map(|gateway| NextHop::new(Some(ip(gateway)), Some(3)));
    assert_eq!(route.next_hops, ways);

    let (key, route) = decode::route(&bytes(BLACKHOLE)).unwrap().unwrap();
    assert_eq!(
        (key, route.kind, route.next_hops.len()),
        (slot("203.0.113.0", 24, 0), RouteKind::Blackhole, 0)
    );
}

#[test]
fn a_vlan_says_which_one_it_is_and_of_what() {
    let (index, link) = decode::link(&bytes(VLAN)).unwrap().unwrap();
    assert_eq!((index, link.name.as_str(), link.kind.as_deref()), (6, "wan.200", Some("vlan")));
    assert_eq!((link.vlan, link.parent, link.mtu), (Some(200), Some(4), 1500));
}

#[test]
fn addresses_and_neighbours_decode() {
    let key = AddressKey { ifindex: 3, address: ip("10.9.0.1"), prefix_len: 32, peer: Some(ip("10.9.0.2")) };
    assert_eq!(decode::address(&bytes(PEER)).unwrap(), Some((key, Address::default())));

    let settled = bytes(LINK_LOCAL);
    let (key, address) = decode::address(&settled).unwrap().unwrap();
    assert_eq!((key.peer, key.prefix_len, address.scope, address.tentative), (None, 64, Scope::LINK, false));
    // The flags attribute is the last but one; IFA_F_TENTATIVE is 0x40.
    let mut tentative = settled.clone();
    let flags = settled.len() - 12;
    assert_eq!(tentative[flags..][..4], [0x80, 0, 0, 0]);
    tentative[flags] |= 0x40;
    assert!(decode::address(&tentative).unwrap().unwrap().1.tentative);

    let key = NeighbourKey { ifindex: 3, address: ip("2001:db8:1::7") };
    let expected = Neighbour { mac: Some([2, 0, 0, 0, 6, 7]), state: NudState::Permanent, router: true };
    assert_eq!(decode::neighbour(&bytes(NEIGHBOUR)).unwrap(), Some((key, expected)));
    let mut of_a_bridge = bytes(NEIGHBOUR);
    of_a_bridge[0] = 7;
    assert_eq!(decode::neighbour(&of_a_bridge).unwrap(), None);
}

#[test]
fn nexthop_objects_decode() {
    let single = NexthopObject::Single(NextHop::new(Some(ip("10.1.0.2")), Some(3)));
    assert_eq!(decode::nexthop(&bytes(NEXTHOP)).unwrap(), Some((1, single)));
    let group = NexthopObject::Group(vec![(1, 5), (2, 1)]);
    assert_eq!(decode::nexthop(&bytes(GROUP)).unwrap(), Some((10, group)));
}

#[test]
fn messages_cut_short_are_errors_or_less_and_never_panics() {
    for hex in [MULTIPATH_V4, MULTIPATH_V6, BLACKHOLE, PEER, LINK_LOCAL, NEIGHBOUR, NEXTHOP, GROUP] {
        let whole = bytes(hex);
        for length in 0..whole.len() {
            let cut = &whole[..length];
            let _ = (decode::link(cut), decode::address(cut), decode::route(cut));
            let _ = (decode::neighbour(cut), decode::nexthop(cut));
        }
    }
    assert!(decode::route(&[]).is_err());
    assert!(decode::nexthop(&[0; 7]).is_err());
}

#[test]
fn datagrams_split_into_messages() {
    let message = |kind: u16, length: u32, body: &[u8]| {
        let mut all = length.to_ne_bytes().to_vec();
        all.extend_from_slice(&kind.to_ne_bytes());
        all.extend_from_slice(&[0x10, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        all.extend_from_slice(body);
        all
    };
    let two = [message(24, 18, &[1, 2, 0, 0]), message(25, 16, &[])].concat();
    let frames: Vec<_> = Frames::new(&two).map(Result::unwrap).collect();
    assert_eq!(frames.len(), 2);
    assert_eq!(
        (frames[0].kind, frames[0].flags, frames[0].sequence, frames[0].payload),
        (24, 16, 9, &[1, 2][..])
    );
    assert_eq!((frames[1].kind, frames[1].payload), (25, &[][..]));
    for wrong in [message(24, 15, &[]), message(24, 17, &[]), message(24, u32::MAX, &[]), vec![1, 2, 3]] {
        let frames: Vec<_> = Frames::new(&wrong).collect();
        assert!(frames.len() == 1 && frames[0].is_err());
    }
}

#[test]
fn attributes_are_read_as_they_are_written() {
    let mut payload = Payload::new(&[]);
    payload.put(1, &[7]).put_text(2, "veth0").nest(3, |inner| {
        inner.put(4, &[1, 2, 3, 4]);
    });
    assert_eq!(payload.bytes().len() % 4, 0);
    let read: Vec<_> = attributes(payload.bytes()).collect();
    assert_eq!(read[..2], [(1, &[7][..]), (2, &b"veth0\0"[..])]);
    assert_eq!((read[2].0, attributes(read[2].1).collect::<Vec<_>>()), (3, vec![(4, &[1, 2, 3, 4][..])]));
}

fn route(gateways: &[&str]) -> Route {
    Route {
        protocol: RouteProtocol::STATIC,
        next_hops: gateways.iter().map(|gateway| NextHop::new(Some(ip(gateway)), Some(3))).collect(),
        ..Route::default()
    }
}

fn gateways(store: &Store, key: RouteKey) -> Vec<Vec<String>> {
    let slot = &store.state().routes[&key];
    slot.iter()
        .map(|route| route.next_hops.iter().map(|hop| hop.gateway.unwrap().to_string()).collect())
        .collect()
}

#[test]
fn ipv4_slots_are_lists_and_repetition_does_no_harm() {
    let mut store = Store::new(State::default());
    let key = slot("10.0.0.0", 8, 0);
    let story = [
        ("192.0.2.1", NLM_F_EXCL | NLM_F_CREATE),
        ("192.0.2.2", NLM_F_APPEND | NLM_F_CREATE),
        ("192.0.2.3", NLM_F_CREATE),
        ("192.0.2.4", NLM_F_REPLACE),
    ];
    for (gateway, flags) in story {
        let mut changes = Changes::default();
        assert_eq!(store.new_route(key, route(&[gateway]), flags, &mut changes), Fit::Clear);
        assert!(changes.routes.contains(&key));
    }
    let expected = [["192.0.2.4"], ["192.0.2.1"], ["192.0.2.2"]];
    assert_eq!(gateways(&store, key), expected);
    let mut changes = Changes::default();
    for gateway in ["192.0.2.1", "192.0.2.2"] {
        assert_eq!(store.new_route(key, route(&[gateway]), NLM_F_APPEND, &mut changes), Fit::Clear);
    }
    assert_eq!(gateways(&store, key), expected);
    assert!(changes.is_empty());

    assert_eq!(store.delete_route(key, route(&["192.0.2.9"]), &mut changes), Fit::Unclear);
    assert_eq!(store.delete_route(slot("11.0.0.0", 8, 0), route(&["192.0.2.9"]), &mut changes), Fit::Clear);
    assert_eq!(store.delete_route(key, route(&["192.0.2.1"]), &mut changes), Fit::Clear);
    // That the kernel found the slot empty says that the rest has gone silently.
    assert_eq!(store.new_route(key, route(&["192.0.2.5"]), NLM_F_EXCL, &mut changes), Fit::Clear);
    assert_eq!(gateways(&store, key), [["192.0.2.5"]]);
    assert_eq!(store.delete_route(key, route(&["192.0.2.5"]), &mut changes), Fit::Clear);
    assert!(store.state().routes.is_empty());
}

#[test]
fn ipv6_ways_are_merged_and_taken_out() {
    let mut store = Store::new(State::default());
    let mut changes = Changes::default();
    let key = slot("2001:db8::", 32, 1024);
    let mut tell = |store: &mut Store, ways: &[&str], flags| {
        assert_eq!(store.new_route(key, route(ways), flags, &mut changes), Fit::Clear);
    };
    tell(&mut store, &["fe80::1"], NLM_F_CREATE);
    tell(&mut store, &["fe80::1", "fe80::2", "fe80::3"], NLM_F_APPEND);
    assert_eq!(gateways(&store, key), [["fe80::1", "fe80::2", "fe80::3"]]);
    // Told again from the beginning, after a dump.
    tell(&mut store, &["fe80::1"], NLM_F_CREATE);
    assert_eq!(gateways(&store, key), [["fe80::1", "fe80::2", "fe80::3"]]);
    let mut on_link = route(&[]);
    on_link.next_hops = vec![NextHop::new(None, Some(4))];
    let mut changes = Changes::default();
    assert_eq!(store.new_route(key, on_link.clone(), NLM_F_CREATE, &mut changes), Fit::Clear);
    assert_eq!(store.state().routes[&key].len(), 2);
    // Which of the two is replaced cannot be told.
    assert_eq!(store.new_route(key, route(&["fe80::9"]), NLM_F_REPLACE, &mut changes), Fit::Unclear);
    assert_eq!(store.delete_route(key, on_link, &mut changes), Fit::Clear);
    assert_eq!(store.delete_route(key, route(&["fe80::2"]), &mut changes), Fit::Clear);
    assert_eq!(gateways(&store, key), [["fe80::1", "fe80::3"]]);
    assert_eq!(store.new_route(key, route(&["fe80::9"]), NLM_F_REPLACE, &mut changes), Fit::Clear);
    assert_eq!(gateways(&store, key), [["fe80::9"]]);
}
