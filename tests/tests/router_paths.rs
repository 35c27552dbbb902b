//! Next hops: several at once, by link-local addresses of IPv6 for both families, and those that have to be asked for first.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use throughway_lab::Host;
use throughway_packet::build::PacketBuilder;
use throughway_packet::{PortId, parse};
use throughway_tests::config::Config;
use throughway_tests::wire::Wire;
use throughway_tests::{Scene, eventually, privileged};

/// On the LAN, in both families, and nobody's but the test's.
const HOST: [&str; 2] = ["10.1.0.200", "fd00:1::200"];
/// Behind the servers.
const FAR: [&str; 2] = ["10.99.0.1", "fd99::1"];

/// Next hops: device, address, MAC address. The first of each device is a server's own, which the kernel resolves; the others are told
/// apart by the MAC addresses that they are said to have.
const HOPS: [(&str, &str, Option<&str>); 4] = [
    ("wan0", "fe80::a", None),
    ("wan0", "fe80::a2", Some("02:aa:00:00:00:02")),
    ("dmz0", "fe80::b", None),
    ("dmz0", "fe80::b2", Some("02:bb:00:00:00:02")),
];
const FLOWS: u16 = 400;
const FIRST: u16 = 20_000;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn on_box(scene: &Scene, words: &str) {
    let argv: Vec<&str> = ["ip"].into_iter().chain(words.split_whitespace()).collect();
    scene.run(Host::Box, &argv);
}

/// A route to the address that the servers have over those of the next hops that are given, with their weights.
fn route(scene: &Scene, family: usize, hops: &[(usize, u8)]) {
    let (option, via) = [("-4", "via inet6"), ("-6", "via")][family];
    let hops = hops.iter().map(|(hop, weight)| {
        let (device, address, _) = HOPS[*hop];
        format!(" nexthop {via} {address} dev {device} weight {weight}")
    });
    // As one that is replaced: IPv6 would add next hops to what is there.
    on_box(scene, &format!("{option} route replace {}{}", FAR[family], hops.collect::<String>()));
}

struct Ends {
    lan: Wire,
    servers: [Wire; 2],
    macs: [Vec<u8>; 4],
}

impl Ends {
    /// By which next hop each flow goes, by its source port. Sends every flow twice: both its packets must take the same way.
    fn ways(&mut self, family: usize) -> BTreeMap<u16, usize> {
        let far = ip(FAR[family]);
        let mut ways: BTreeMap<u16, usize> = BTreeMap::new();
        // Few at a time, so that no queue on the way is too short.
        for group in (FIRST..FIRST + FLOWS).collect::<Vec<_>>().chunks(50) {
            for port in group.iter().chain(group) {
                let packet = PacketBuilder::between(ip(HOST[family]), far).udp(*port, 4000);
                self.lan.send(&packet.finish());
            }
            let mut seen = 0;
            eventually("all of them arrive", Duration::from_secs(10), || {
                for server in &mut self.servers {
                    let all = server.waiting(|frame| {
                        let headers = parse(frame, PortId(0)).ok()?;
                        let ours = headers.destination() == far && headers.destination_port() == 4000;
                        ours.then(|| (headers.source_port(), frame[..6].to_vec()))
                    });
                    for (port, mac) in all {
                        let way = self.macs.iter().position(|known| *known == mac).expect("a next hop");
                        assert_eq!(*ways.entry(port).or_insert(way), way, "a flow by two ways");
                        seen += 1;
                    }
                }
                (seen == 2 * group.len()).then_some(())
            });
        }
        assert_eq!(ways.len(), usize::from(FLOWS));
        ways
    }
}

/// How many flows go by each next hop.
fn shares(ways: &BTreeMap<u16, usize>) -> [usize; 4] {
    [0, 1, 2, 3].map(|hop| ways.values().filter(|way| **way == hop).count())
}

#[test]
fn flows_share_link_local_next_hops_of_both_families_and_only_those_of_a_lost_one_move() {
    if !privileged() {
        return;
    }
    let scene = Scene::new();
    for (host, own) in [(Host::ServerA, "fe80::a/64"), (Host::ServerB, "fe80::b/64")] {
        scene.run(host, &["ip", "address", "add", own, "dev", "eth0", "nodad"]);
        for far in [format!("{}/32", FAR[0]), format!("{}/128", FAR[1])] {
            scene.run(host, &["ip", "address", "add", &far, "dev", "lo"]);
        }
    }
    for (device, address, mac) in HOPS {
        if let Some(mac) = mac {
            on_box(&scene, &format!("neighbour replace {address} lladdr {mac} dev {device} nud permanent"));
        }
    }
    let mut scene = scene;
    scene.start(&Config::default());
    let mac = |host: Host| {
        let text = scene.run(host, &["cat", "/sys/class/net/eth0/address"]).stdout;
        octets(text.trim())
    };
    let macs =
        [mac(Host::ServerA), octets("02:aa:00:00:00:02"), mac(Host::ServerB), octets("02:bb:00:00:00:02")];
    let mut ends = Ends {
        lan: Wire::of(&scene, Host::Client, "lan0", &HOST),
        servers: [Wire::of(&scene, Host::ServerA, "wan0", &[]), Wire::of(&scene, Host::ServerB, "dmz0", &[])],
        macs,
    };
    for (family, far) in FAR.into_iter().enumerate() {
        // Each alone: the kernel resolves link-local addresses for the packets of either family, and answers come back.
        for hop in [0, 2] {
            route(&scene, family, &[(hop, 1)]);
            eventually("the next hop is resolved", Duration::from_secs(10), || {
                scene.pings(Host::Client, far, 1).then_some(())
            });
            let told = scene.show(&format!("routes --lookup {far}"));
            assert_eq!(told[0]["next_hops"][0]["gateway"].as_str(), Some(HOPS[hop].1), "{told:#}");
        }
        let settled = |scene: &Scene, count: usize| {
            eventually("the route is followed", Duration::from_secs(5), || {
                let told = scene.show(&format!("routes --lookup {far}"));
                (told[0]["next_hops"].as_array()?.len() == count).then_some(())
            });
        };
        route(&scene, family, &[(0, 1), (1, 1), (2, 1), (3, 1)]);
        settled(&scene, 4);
        let all = ends.ways(family);
        // A quarter each; five times what chance alone does to so many.
        for share in shares(&all) {
            assert!(share.abs_diff(100) < 45, "{:?}", shares(&all));
        }
        route(&scene, family, &[(0, 1), (1, 1), (2, 1)]);
        settled(&scene, 3);
        let fewer = ends.ways(family);
        let moved: Vec<u16> = all.keys().copied().filter(|port| all[port] != fewer[port]).collect();
        let lost: Vec<u16> = all.keys().copied().filter(|port| all[port] == 3).collect();
        let _ = writeln!(
            std::io::stderr(),
            "family {family}: {FLOWS} flows over four as {:?}, over three as {:?}: {} moved, {} had to",
            shares(&all),
            shares(&fewer),
            moved.len(),
            lost.len()
        );
        assert_eq!(moved, lost, "only those of the lost one move");
        route(&scene, family, &[(0, 1), (1, 1), (2, 1), (3, 1)]);
        settled(&scene, 4);
        assert_eq!(ends.ways(family), all, "and the same come back");
        // Weights: 1, 1, 2, 4.
        route(&scene, family, &[(0, 1), (1, 1), (2, 2), (3, 4)]);
        eventually("the weights are followed", Duration::from_secs(5), || {
            let told = scene.show(&format!("routes --lookup {far}"));
            let hops = told[0]["next_hops"].as_array()?;
            let sum: u64 = hops.iter().filter_map(|hop| hop["weight"].as_u64()).sum();
            (sum == 8).then_some(())
        });
        let weighted = shares(&ends.ways(family));
        for (share, expected) in weighted.into_iter().zip([50usize, 50, 100, 200]) {
            assert!(share.abs_diff(expected) < 50, "{weighted:?}");
        }
    }
}

fn octets(mac: &str) -> Vec<u8> {
    mac.split(':').map(|octet| u8::from_str_radix(octet, 16).expect("an octet")).collect()
}

/// How many packets may wait for one neighbour in a worker (`dataplane/src/worker/hold.rs`).
const MAY_WAIT: u16 = 64;

#[test]
fn what_waits_for_a_neighbour_is_bounded_and_leaves_in_order_when_it_comes() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&Config::default());
    let mut lan = Wire::of(&scene, Host::Client, "lan0", &HOST);
    let mut wan = Wire::of(&scene, Host::ServerA, "wan0", &[]);
    let count = |reason: &str| scene.page().sum("throughway_dropped_packets_total", &[("reason", reason)]);
    for (family, (known, new, own)) in
        [("10.2.0.10", "10.2.0.77", "10.2.0.77/24"), ("fd00:2::10", "fd00:2::77", "fd00:2::77/64")]
            .into_iter()
            .enumerate()
    {
        let packet =
            |to: &str, port: u16| PacketBuilder::between(ip(HOST[family]), ip(to)).udp(port, 4000).finish();
        let arriving = |to: &'static str| {
            move |frame: &[u8]| {
                let headers = parse(frame, PortId(0)).ok()?;
                let wanted = headers.destination() == ip(to) && headers.destination_port() == 4000;
                wanted.then(|| headers.source_port())
            }
        };
        let full = count("neighbour-queue-full");
        for port in 0..MAY_WAIT + 36 {
            lan.send(&packet(new, port));
        }
        // The others go on beside.
        eventually("a known neighbour is reached meanwhile", Duration::from_secs(10), || {
            lan.send(&packet(known, 1));
            wan.next(arriving(known)).map(|_| ())
        });
        eventually("what is too much is counted", Duration::from_secs(2), || {
            ((count("neighbour-queue-full") - full - 36.0).abs() < 0.1).then_some(())
        });
        scene.run(
            Host::ServerA,
            &["ip", "address", "add", own, "dev", "eth0", "nodad"][..if family == 0 { 6 } else { 7 }],
        );
        let arrived: Vec<u16> = (0..MAY_WAIT).map_while(|_| wan.next(arriving(new))).collect();
        assert_eq!(arrived, (0..MAY_WAIT).collect::<Vec<_>>(), "the first ones, in order");
        lan.send(&packet(new, 500));
        assert_eq!(wan.next(arriving(new)), Some(500), "nothing is left, and the next one goes at once");
        assert!((count("neighbour-queue-full") - full - 36.0).abs() < 0.1);
        assert!(count("neighbour-unreachable") < 0.1);
    }
}
