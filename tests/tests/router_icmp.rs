//! Which ICMP errors the router sends over real interfaces, from where, about what never, and how many; and that echo to the box
//! itself is the kernel's.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use throughway_lab::Host;
use throughway_packet::build::PacketBuilder;
use throughway_packet::{Headers, PortId, checksum, parse};
use throughway_tests::config::Config;
use throughway_tests::wire::Wire;
use throughway_tests::{Scene, eventually, privileged};

/// On the LAN, in both families, and nobody's but the test's.
const HOST: [&str; 2] = ["10.1.0.200", "fd00:1::200"];
const OTHER: [&str; 2] = ["10.1.0.201", "fd00:1::201"];
/// Server a, which the box knows a way to.
const SERVER: [&str; 2] = ["10.2.0.10", "fd00:2::10"];
/// The box on the LAN and on the WAN.
const LAN_BOX: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const WAN_BOX: [&str; 2] = ["10.2.0.1", "fd00:2::1"];

const TIME_EXCEEDED: [(u8, u8); 2] = [(11, 0), (3, 0)];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn between(source: &str, destination: &str) -> PacketBuilder {
    PacketBuilder::between(ip(source), ip(destination))
}

/// A datagram whose hops run out, told from others by its source port.
fn expiring(source: &str, destination: &str, number: u16) -> PacketBuilder {
    between(source, destination).udp(number, 33_434).payload(b"probe").hop_limit(1)
}

/// Frames to `to`, all of whose checksums are right.
fn to(to: &str) -> impl Fn(&[u8]) -> Option<(Vec<u8>, Headers)> {
    let to = ip(to);
    move |frame| {
        let headers = parse(frame, PortId(0)).ok().filter(|headers| headers.destination() == to)?;
        assert!(checksum::verify(frame, &headers), "a wrong checksum: {headers:?}");
        Some((frame.to_vec(), headers))
    }
}

/// Of an ICMP error: from whom, type and code, and the source port of what it is about.
fn error((frame, headers): &(Vec<u8>, Headers)) -> (IpAddr, (u8, u8), u16) {
    let quoted = usize::from(headers.l4) + 8;
    let ports = quoted + if headers.is_ipv4() { 20 } else { 40 };
    let number = frame.get(ports..ports + 2).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]));
    (headers.source(), (headers.icmp_type, headers.icmp_code), number)
}

/// A service, and the LAN's other end in our hand. The neighbours are known.
fn lan(scene: &Scene) -> Wire {
    let all = [HOST, OTHER].concat();
    let mut wire = Wire::of(scene, Host::Client, "lan0", &all);
    for (source, destination) in HOST.into_iter().chain(OTHER).zip(SERVER.into_iter().chain(SERVER)) {
        eventually("errors come back", Duration::from_secs(10), || {
            wire.send(&expiring(source, destination, 9).finish());
            wire.next(to(source)).map(|_| ())
        });
    }
    wire
}

fn suppressed(scene: &Scene, reason: &str) -> f64 {
    scene.page().sum("throughway_answers_suppressed_total", &[("reason", reason)])
}

fn dropped(scene: &Scene, reason: &str) -> f64 {
    scene.page().sum("throughway_dropped_packets_total", &[("reason", reason)])
}

#[test]
fn errors_come_from_the_interface_that_sends_them_and_never_about_what_the_rfcs_exclude() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&Config::default());
    let mut lan = lan(&scene);
    let mut wan = Wire::of(&scene, Host::ServerA, "wan0", &[]);

    // The way back to these sources is the WAN: the error leaves there, and has its address (RFC 1812, section 4.3.2.4).
    for (family, (far, via)) in [("10.97.0.1", SERVER[0]), ("fd97::1", SERVER[1])].into_iter().enumerate() {
        scene.run(Host::Box, &["ip", "route", "add", far, "via", via]);
        eventually("the error goes the way back", Duration::from_secs(10), || {
            lan.send(&expiring(far, SERVER[family], 10).finish());
            let seen = wan.next(to(far))?;
            assert_eq!(error(&seen), (ip(WAN_BOX[family]), TIME_EXCEEDED[family], 10));
            Some(())
        });
        lan.send(&expiring(HOST[family], SERVER[family], 11).finish());
        let seen = lan.next(to(HOST[family])).expect("an error");
        assert_eq!(error(&seen), (ip(LAN_BOX[family]), TIME_EXCEEDED[family], 11));
    }

    // What hops run out of, and is not told of: errors, IPv4's redirects, and all fragments but the first.
    let expires = |family: usize| between(HOST[family], SERVER[family]).hop_limit(1);
    let about =
        [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 2, 0, 10, 10, 1, 0, 200, 0, 7, 0, 7, 0, 8, 0, 0];
    let mut silent: Vec<Vec<u8>> = Vec::new();
    for kind in [3, 4, 5, 11, 12] {
        silent.push(expires(0).icmp(kind, 0, [0; 4]).payload(&about).finish());
    }
    // Redirects of IPv6 (137) are neighbour discovery: the XDP program leaves them to the kernel.
    for kind in [1, 2, 3, 4, 100] {
        silent.push(expires(1).icmp(kind, 0, [0; 4]).payload(&about).finish());
    }
    for family in 0..2 {
        silent.push(expires(family).udp(12, 13).payload(&[7; 64]).fragment(72, true).finish());
        silent.push(expires(family).udp(12, 13).payload(&[7; 64]).fragment(72, false).finish());
    }
    let before = [suppressed(&scene, "forbidden"), dropped(&scene, "hop-limit-exceeded")];
    for frame in &silent {
        lan.send(frame);
    }
    // To groups: the kernel's to judge. From what is not one host: dropped for a reason of its own. Both as silently.
    let groups =
        [between(HOST[0], "224.0.0.9"), between(HOST[0], "255.255.255.255"), between(HOST[1], "ff0e::1")];
    let martians = [
        between("127.0.0.1", SERVER[0]),
        between("224.0.0.9", SERVER[0]),
        between("::1", SERVER[1]),
        between("ff02::1", SERVER[1]),
    ];
    let martian = dropped(&scene, "martian-address");
    for packet in groups.iter().chain(&martians) {
        lan.send(&packet.clone().udp(12, 13).hop_limit(1).finish());
    }
    // One queue, one worker: this one is answered after all of them.
    for family in 0..2 {
        lan.send(&expiring(HOST[family], SERVER[family], 14).finish());
        let seen = lan.next(to(HOST[family])).expect("an error");
        assert_eq!(error(&seen).2, 14, "something that came before was told of: {:?}", seen.1);
    }
    let after = [suppressed(&scene, "forbidden"), dropped(&scene, "hop-limit-exceeded")];
    let expected = silent.len() as f64;
    assert_eq!([after[0] - before[0], after[1] - before[1]], [expected, expected + 2.0]);
    assert_eq!(dropped(&scene, "martian-address") - martian, martians.len() as f64);
    // A first fragment is told of.
    for family in 0..2 {
        lan.send(&expires(family).udp(15, 13).payload(&[7; 64]).fragment(0, true).finish());
        assert_eq!(error(&lan.next(to(HOST[family])).expect("an error")).1, TIME_EXCEEDED[family]);
    }
}

#[test]
fn a_better_way_on_the_same_link_is_taken_and_not_told_of() {
    better_way(&Config::default());
}

#[test]
fn in_the_driver_too_what_goes_back_to_its_link_arrives() {
    if let Some(scene) = better_way(&Config { fast_path: Some("eager"), ..Config::default() }) {
        eventually("the driver sends it back", Duration::from_secs(10), || {
            let packets = scene.page().sum("throughway_fast_path_packets_total", &[]);
            (packets > 20.0).then_some(())
        });
    }
}

fn better_way(config: &Config) -> Option<Scene> {
    if !privileged() {
        return None;
    }
    let scene = Scene::running(config);
    let mut lan = lan(&scene);
    for (family, far) in ["10.77.0.1", "fd77::1"].into_iter().enumerate() {
        scene.run(Host::Box, &["ip", "route", "add", far, "via", OTHER[family]]);
        let packet = |number| between(HOST[family], far).udp(number, 7);
        eventually("it goes back to the link it came from", Duration::from_secs(10), || {
            lan.send(&packet(20).finish());
            lan.next(to(far)).map(|_| ())
        });
        // RFC 1812, section 5.2.7.2, lets a router tell of it: ours does not, whether the flow is new or known.
        for _ in 0..20 {
            lan.send(&packet(21).finish());
            lan.next(to(far)).expect("it goes back to the link it came from");
        }
        assert!(lan.is_silent(to(HOST[family])), "a redirect");
        // The last word: an error, with nothing before it.
        lan.send(&expiring(HOST[family], SERVER[family], 22).finish());
        assert_eq!(error(&lan.next(to(HOST[family])).expect("an error")).2, 22);
    }
    Some(scene)
}

#[test]
fn one_that_provokes_errors_without_end_silences_nobody_else() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&Config::default());
    let mut lan = lan(&scene);
    for family in 0..2 {
        let before = suppressed(&scene, "destination-rate");
        let many = 400;
        for number in 0..many {
            lan.send(&expiring(HOST[family], SERVER[family], 1000 + number).finish());
        }
        lan.send(&expiring(OTHER[family], SERVER[family], 30).finish());
        let mut told = 0;
        let other = lan.next(|frame| {
            told += u32::from(to(HOST[family])(frame).is_some());
            to(OTHER[family])(frame)
        });
        assert_eq!(error(&other.expect("the other is told")).2, 30);
        let limited = suppressed(&scene, "destination-rate") - before;
        let _ = writeln!(std::io::stderr(), "{told} of {many} were told of, {limited} counted as too many");
        assert!((f64::from(told) + limited - f64::from(many)).abs() < 0.1, "each is one or the other");
        // Twenty at once and twenty a second: a slow machine takes a while for all of them.
        assert!((1..200).contains(&told), "{told}");
    }
    assert!(suppressed(&scene, "worker-rate") < 0.1);
}

/// How many echo replies the kernel of the box has sent: IPv4 and IPv6.
fn replies(scene: &Scene) -> [u64; 2] {
    let text = scene.run(Host::Box, &["cat", "/proc/net/snmp", "/proc/net/snmp6"]).stdout;
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("Icmp: "));
    let (names, values) = (rows.next().expect("names"), rows.next().expect("values"));
    let mut both = names.split(' ').zip(values.split(' '));
    let ipv4 = both.find(|(name, _)| *name == "OutEchoReps").expect("a counter").1;
    let ipv6 = text.lines().find(|line| line.starts_with("Icmp6OutEchoReplies")).expect("a counter");
    [ipv4, ipv6.split_whitespace().last().expect("a value")].map(|text| text.parse().expect("a number"))
}

#[test]
fn echo_to_any_of_the_boxs_addresses_is_the_kernels_with_options_and_in_fragments_too() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&Config::default());
    let mut lan = lan(&scene);
    let plain: [&[&str]; 3] = [&[], &["-s", "4000"], &["-s", "1472", "-M", "do"]];
    let with_options: [&[&str]; 3] = [&["-R"], &["-T", "tsonly"], &["-R", "-s", "4000"]];
    let drops = |scene: &Scene| {
        // Pings to the box end nowhere but in its kernel.
        scene.page().sum("throughway_dropped_packets_total", &[])
    };
    let before = (replies(&scene), drops(&scene));
    let mut pings = [0, 0];
    for (family, own) in
        [LAN_BOX, WAN_BOX].concat().into_iter().map(|own| (usize::from(own.contains(':')), own))
    {
        let modes = plain.iter().chain(if family == 0 { &with_options[..] } else { &[] });
        for mode in modes {
            // The longest that fits: a longer header for IPv6.
            let mode: Vec<&str> =
                mode.iter().map(|word| if *word == "1472" && family == 1 { "1452" } else { word }).collect();
            let argv = [&["ping", "-n", "-c", "2", "-i", "0.05", "-W", "2"], &mode[..], &[own]].concat();
            let output = scene.lab.exec(Host::Client, &argv).expect("ping runs").stdout;
            assert!(output.contains(" 0% packet loss"), "{argv:?}\n{output}");
            if mode.contains(&"-R") {
                assert!(output.contains("RR:"), "{output}");
            }
            pings[family] += 2;
        }
    }
    // An option that every router has to look at (RFC 2711), and one that is padding (RFC 8200, section 4.2).
    for (number, content) in [(0, [5, 2, 0, 0, 0, 0]), (60, [1, 4, 0, 0, 0, 0])] {
        lan.send(&between(HOST[1], LAN_BOX[1]).extension(number, &content).echo_request(5, 1).finish());
        let answer = lan.next(to(HOST[1])).expect("an answer").1;
        assert_eq!((answer.source(), answer.icmp_type), (ip(LAN_BOX[1]), 129));
        pings[1] += 1;
    }
    let after = (replies(&scene), drops(&scene));
    assert_eq!([after.0[0] - before.0[0], after.0[1] - before.0[1]], pings, "the kernel answered them all");
    assert!((after.1 - before.1).abs() < 0.1, "{} were dropped by us", after.1 - before.1);
}
