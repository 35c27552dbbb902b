//! What the object drops before anything else (BPF_PROG_TEST_RUN).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::{ifindex, in_namespace, ip, object};
use throughway_shared::steer::{self, EARLY, Interface, MAX_EARLY_SETS, Reason};
use throughway_xdp::{EarlyPrefix, EarlyRoom, EarlySets, Steering};

mod common;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const XDP_DROP: u32 = 1;

struct Bench {
    steering: Steering,
    early: EarlySets,
    ingress: u32,
}

impl Bench {
    fn new(flags: u32) -> Bench {
        Bench::with(flags, EarlyRoom::LEAST)
    }

    fn with(flags: u32, room: EarlyRoom) -> Bench {
        ip("link add in0 type veth peer name in0p");
        ip("link set dev in0 up");
        ip("link set dev in0p up");
        let mut steering = Steering::load_sized(&object(), None, room).unwrap();
        let ingress = ifindex("in0");
        let interface =
            Interface { number: 1, first_socket: steer::first_socket(1), flags, mac: MAC, reserved: [0; 2] };
        steering.set_interface(ingress, interface).unwrap();
        let early = steering.take_early().unwrap();
        Bench { steering, early, ingress }
    }

    fn drops(&self, frame: &[u8]) -> bool {
        let early = || {
            let counters = self.steering.counters().unwrap();
            counters.iter().find(|counters| counters.interface == Some(1)).unwrap().get(Reason::EarlyDrop)
        };
        let before = early();
        let trial = self.steering.try_frame(self.ingress, 0, frame).unwrap();
        let counted = early() - before;
        assert!(counted == 0 || counted == 1 && trial.action == XDP_DROP);
        counted == 1
    }
}

/// A frame from an address, with so many tags, to whichever MAC address.
fn frame(from: &str, tags: usize, mac: [u8; 6]) -> Vec<u8> {
    let mut frame = [mac, [2, 0, 0, 0, 0, 9]].concat();
    for tag in 0..tags {
        frame.extend([[0x81, 0, 0, 7], [0x88, 0xa8, 0, 8]][tag % 2]);
    }
    match from.parse().unwrap() {
        IpAddr::V4(address) => {
            frame.extend([8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
            frame.extend(address.octets());
            frame.extend([192, 0, 2, 1]);
        }
        IpAddr::V6(address) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
            frame.extend(address.octets());
            frame.extend([0x20; 16]);
        }
    }
    frame.extend([0; 8]);
    frame
}

/// All of them at interfaces 0 and 1.
fn prefixes<'a>(list: &'a [(&'a str, u8, u32)]) -> impl Iterator<Item = EarlyPrefix> + 'a {
    list.iter().map(|(address, length, set)| at(address, *length, *set, 0b11))
}

fn at(address: &str, length: u8, set: u32, interfaces: u64) -> EarlyPrefix {
    EarlyPrefix { address: address.parse().unwrap(), length, interfaces, set }
}

#[test]
fn sources_in_the_sets_are_dropped_and_counted() {
    in_namespace(|| {
        let mut bench = Bench::new(EARLY);
        let listed = [
            ("198.51.100.0", 24, 0),
            ("198.51.100.7", 32, 5),
            ("203.0.113.9", 28, 1),
            ("2001:db8::", 32, 2),
            ("2001:db8:1::1", 128, 5),
        ];
        assert!(!bench.drops(&frame("198.51.100.1", 0, MAC)), "nothing is listed yet");
        bench.early.replace(prefixes(&listed)).unwrap();
        for (from, dropped) in [
            ("198.51.100.1", true),
            ("198.51.100.7", true),
            ("198.51.101.1", false),
            ("203.0.113.0", true),
            ("203.0.113.15", true),
            ("203.0.113.16", false),
            ("2001:db8:ffff::1", true),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
            ("::ffff:198.51.100.1", false),
        ] {
            for tags in 0..3 {
                for mac in [MAC, [0xff; 6]] {
                    assert_eq!(bench.drops(&frame(from, tags, mac)), dropped, "{from}, {tags} tags");
                }
            }
            assert!(!bench.drops(&frame(from, 3, MAC)), "three tags are nobody's");
        }
        let counts = bench.early.drops().unwrap();
        assert_eq!((counts.len(), &counts[..6]), (MAX_EARLY_SETS as usize, &[6, 12, 6, 0, 0, 12][..]));
        for length in 14..34 {
            let cut = bench.drops(&frame("198.51.100.1", 0, MAC)[..length]);
            assert_eq!(cut, length >= 30, "cut at {length}");
        }

        // By difference: one goes, one comes, one changes its set.
        let listed = [("198.51.100.0", 24, 3), ("203.0.113.32", 28, 1), ("2001:db8::", 32, 2)];
        bench.early.replace(prefixes(&listed)).unwrap();
        assert!(bench.drops(&frame("198.51.100.7", 0, MAC)) && bench.drops(&frame("203.0.113.33", 0, MAC)));
        assert!(!bench.drops(&frame("203.0.113.0", 0, MAC)) && bench.drops(&frame("2001:db8:1::1", 0, MAC)));
        assert_eq!(bench.early.drops().unwrap()[3], 1);
        assert!(bench.early.replace(prefixes(&[("10.0.0.0", 8, MAX_EARLY_SETS)])).is_err());
        // What was refused has changed nothing.
        assert!(bench.drops(&frame("198.51.100.7", 0, MAC)));

        // Only where it counts, and the longest prefix alone says where.
        bench
            .early
            .replace([
                at("198.51.100.0", 24, 0, 1 << 1),
                at("198.51.100.8", 29, 0, 1 << 33),
                at("2001:db8::", 32, 0, !(1 << 1)),
            ])
            .unwrap();
        assert!(bench.drops(&frame("198.51.100.7", 0, MAC)));
        assert!(!bench.drops(&frame("198.51.100.8", 0, MAC)) && !bench.drops(&frame("2001:db8::1", 0, MAC)));
        bench.early.replace([]).unwrap();
        assert!(bench.early.is_empty() && !bench.drops(&frame("198.51.100.7", 0, MAC)));
    });
}

/// Prefixes of all lengths within each other, and sources in and about them: what the longest of them says.
#[test]
fn the_longest_prefix_decides_wherever_it_lies() {
    let mut state = 1u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    // Few bits are set, so that many have beginnings in common.
    let mut address = |narrow: bool| -> IpAddr {
        let few = (0..3).fold(0u128, |bits, _| bits | 1 << random(if narrow { 32 } else { 128 }));
        if narrow {
            Ipv4Addr::from_bits(0x0a00_0000 ^ few as u32).into()
        } else {
            Ipv6Addr::from_bits(0x2001_0db8 << 96 ^ few).into()
        }
    };
    let lists: Vec<Vec<EarlyPrefix>> = (0..4)
        .map(|list| {
            let many = [600, 600, 40, 0][list];
            (0..many)
                .map(|number| {
                    let address = address(number % 2 == 0);
                    let most = if address.is_ipv4() { 32 } else { 128 };
                    // Lengths that tables have, and others; both interfaces, one, or the other.
                    let length = [most, 8 + number as u8 % (most - 7), 24, 16][number / 2 % 4];
                    at(&address.to_string(), length, number as u32 % 7, [0b11, 0b01, 0b10][number % 3])
                })
                .collect()
        })
        .collect();
    let sources: Vec<IpAddr> = (0..400).map(|number| address(number % 2 == 0)).collect();
    let says = |list: &[EarlyPrefix], source: IpAddr| {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
            IpAddr::V6(address) => address.to_bits(),
        };
        let within = |prefix: &&EarlyPrefix| {
            prefix.address.is_ipv4() == source.is_ipv4()
                && (bits(prefix.address) ^ bits(source)).leading_zeros() >= prefix.length.into()
        };
        // Of the same twice the last.
        let longest = list.iter().filter(within).max_by_key(|prefix| prefix.length);
        longest.filter(|prefix| prefix.interfaces & 0b10 != 0).map(|prefix| prefix.set as usize)
    };
    in_namespace(move || {
        // Room for all, and for hardly any: the rest is in the tries.
        for room in [EarlyRoom::LEAST, EarlyRoom { ipv4: 16, ipv6: 16 }, EarlyRoom { ipv4: 0, ipv6: 0 }] {
            let mut bench = Bench::with(EARLY, room);
            let (mut dropped, mut in_tries) = (0, 0);
            for list in &lists {
                bench.early.replace(list.iter().copied()).unwrap();
                in_tries = in_tries.max(bench.early.in_tries());
                // And each prefix's own first address.
                let mut counted = bench.early.drops().unwrap();
                for source in sources.iter().copied().chain(list.iter().map(|prefix| prefix.address)) {
                    let wanted = says(list, source);
                    let told = bench.drops(&frame(&source.to_string(), 0, MAC));
                    assert_eq!(told, wanted.is_some(), "{source} of {}, {room:?}", list.len());
                    if let Some(set) = wanted {
                        counted[set] += 1;
                        dropped += 1;
                    }
                }
                assert_eq!(bench.early.drops().unwrap(), counted, "each for its set, {room:?}");
            }
            assert!(dropped > 700 && bench.early.in_tries() == 0 && in_tries > 50, "{dropped} {in_tries}");
            ip("link del in0");
        }
    });
}

#[test]
fn only_interfaces_that_ask_for_it_drop() {
    in_namespace(|| {
        let mut bench = Bench::new(0);
        bench.early.replace(prefixes(&[("0.0.0.0", 0, 0), ("::", 0, 0)])).unwrap();
        assert!(!bench.drops(&frame("198.51.100.7", 0, MAC)));
    });
}
