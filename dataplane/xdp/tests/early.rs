//! What the object drops before anything else (BPF_PROG_TEST_RUN).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::net::IpAddr;

use common::{ifindex, in_namespace, ip, load};
use throughway_shared::steer::{self, EARLY, Interface, MAX_EARLY_SETS, Reason};
use throughway_xdp::{EarlyPrefix, EarlySets, Steering};

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
        ip("link add in0 type veth peer name in0p");
        ip("link set dev in0 up");
        ip("link set dev in0p up");
        let mut steering = load();
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

#[test]
fn only_interfaces_that_ask_for_it_drop() {
    in_namespace(|| {
        let mut bench = Bench::new(0);
        bench.early.replace(prefixes(&[("0.0.0.0", 0, 0), ("::", 0, 0)])).unwrap();
        assert!(!bench.drops(&frame("198.51.100.7", 0, MAC)));
    });
}
