//! Routes of every kind that the kernel has, followed while traffic flows.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use throughway_lab::Host;
use throughway_tests::config::Config;
use throughway_tests::stream::Stream;
use throughway_tests::{Scene, eventually, privileged};

/// An address that both servers have.
const ANYCAST: &str = "10.99.0.1";
const ANYCAST6: &str = "fd99::1";

/// How long traffic may take to move at most, after the kernel's change.
const PROMPT: Duration = Duration::from_millis(100);
/// Where more than a route moves, and where other work keeps the machine busy: far more than it takes.
const PATIENT: Duration = Duration::from_millis(1500);
/// How often what must be prompt is tried: the machine's cores are shared with whatever else runs.
const TRIES: u32 = 3;

fn scene(config: &Config) -> Scene {
    let scene = Scene::running(config);
    for host in [Host::ServerA, Host::ServerB] {
        scene.run(host, &["ip", "address", "add", &format!("{ANYCAST}/32"), "dev", "lo"]);
        scene.run(host, &["ip", "address", "add", &format!("{ANYCAST6}/128"), "dev", "lo"]);
    }
    scene
}

fn ip(scene: &Scene, words: &str) {
    let argv: Vec<&str> = ["ip"].into_iter().chain(words.split_whitespace()).collect();
    scene.run(Host::Box, &argv);
}

/// Feeds lines to `ip -batch` in the box.
fn batch(scene: &Scene, lines: &str) {
    let path = scene.lab.directory().join("batch");
    std::fs::write(&path, lines).expect("the lab's folder takes files");
    let argv = ["ip", "-batch", &path.to_string_lossy()];
    let output = scene.lab.exec_for(Host::Box, &argv, Duration::from_secs(300)).expect("ip runs");
    assert!(output.status.success(), "{}", output.stderr);
}

/// `throughway show routes --lookup`, of one router.
fn lookup(scene: &Scene, address: &str, router: &str) -> Value {
    let words = ["show", "routes", "--lookup", address, "--router", router, "--json"];
    let output = scene.ask(&words);
    assert!(output.status.success(), "{}", output.stderr);
    let mut value: Value = serde_json::from_str(&output.stdout).expect("JSON");
    value[0].take()
}

/// Waits until the client reaches the address that both servers have.
fn reaches(scene: &Scene) {
    eventually("the route is followed", Duration::from_secs(5), || {
        scene.pings(Host::Client, ANYCAST, 1).then_some(())
    });
}

/// How many packets the data plane itself has ended, for a reason or for any.
fn dropped(scene: &Scene, reason: Option<&str>) -> f64 {
    let labels: Vec<_> = reason.map(|reason| ("reason", reason)).into_iter().collect();
    scene.page().sum("throughway_dropped_packets_total", &labels)
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Moves a stream of datagrams from server a to server b by `change`; returns how long none arrived anywhere, and
/// how many were lost.
fn moved(scene: &Scene, address: &str, change: impl FnOnce(&Scene)) -> (Duration, u64) {
    let address: IpAddr = address.parse().expect("an address");
    for host in [Host::ServerA, Host::ServerB] {
        // Neighbours that are known: what is measured is the route.
        assert!(scene.pings(Host::Client, &host.ipv4().to_string(), 2));
        assert!(scene.pings(Host::Client, &host.ipv6().to_string(), 2));
    }
    let stream = Stream::start(scene, &[Host::ServerA, Host::ServerB], address);
    std::thread::sleep(Duration::from_millis(700));
    change(scene);
    let changed = Instant::now();
    std::thread::sleep(Duration::from_millis(1500));
    let arrived = stream.finish();
    let before = arrived.by_host[0].iter().filter(|(at, _)| *at < changed).count();
    assert!(before > 200, "the stream did not flow to server a: {before}");
    let first = arrived.by_host[1].first().map(|(at, _)| *at).expect("nothing arrived at server b");
    // The kernel had changed at the latest when the command was over, and nothing reached server a much later than that.
    let last = arrived.by_host[0].last().map_or(changed, |(at, _)| *at);
    (first.saturating_duration_since(last.min(changed)), arrived.sent - arrived.arrived())
}

#[test]
fn withdrawing_the_best_route_moves_traffic_at_once() {
    if !privileged() {
        return;
    }
    let scene = scene(&Config::default());
    for (family, address, a, b) in
        [("-4", ANYCAST, "10.2.0.10", "10.3.0.10"), ("-6", ANYCAST6, "fd00:2::10", "fd00:3::10")]
    {
        ip(&scene, &format!("{family} route add {address} via {b} metric 20"));
        let mut took = Vec::new();
        for _ in 0..TRIES {
            ip(&scene, &format!("{family} route add {address} via {a} metric 10"));
            let (after, lost) = moved(&scene, address, |scene| {
                ip(scene, &format!("{family} route del {address} via {a} metric 10"));
            });
            say(&format!("withdrawn, {address}: {after:?} without an arrival, {lost} lost at 2000/s"));
            assert!(after < PATIENT && lost < 3000, "{after:?}, {lost} lost");
            took.push(after);
            if after < PROMPT {
                break;
            }
        }
        assert!(took.iter().any(|after| *after < PROMPT), "{took:?}");
    }
}

#[test]
fn a_link_without_carrier_loses_its_next_hops_and_gets_them_back() {
    if !privileged() {
        return;
    }
    let scene = scene(&Config::default());
    // The kernel keeps both while only the carrier is lost.
    ip(&scene, &format!("route add {ANYCAST} via 10.2.0.10 metric 10"));
    ip(&scene, &format!("route add {ANYCAST} via 10.3.0.10 metric 20"));
    let (after, lost) = moved(&scene, ANYCAST, |scene| {
        scene.run(Host::ServerA, &["ip", "link", "set", "eth0", "down"]);
    });
    say(&format!("carrier lost: {after:?} without an arrival, {lost} lost at 2000/s"));
    assert!(after < PATIENT && lost < 3000, "{after:?}, {lost} lost");
    let told = lookup(&scene, ANYCAST, "core");
    assert_eq!(told["candidates"][0]["why_not"], "the link is down", "{told:#}");
    assert_eq!(told["next_hops"][0]["interface"], "dmz", "{told:#}");

    scene.run(Host::ServerA, &["ip", "link", "set", "eth0", "up"]);
    scene.run(Host::ServerA, &["ip", "route", "replace", "default", "via", "10.2.0.1"]);
    eventually("the first is used again", Duration::from_secs(5), || {
        (lookup(&scene, ANYCAST, "core")["next_hops"][0]["interface"] == "wan").then_some(())
    });
    // Of several next hops the others take over.
    ip(&scene, &format!("route del {ANYCAST} metric 10"));
    ip(&scene, &format!("route del {ANYCAST} metric 20"));
    ip(&scene, &format!("route add {ANYCAST} nexthop via 10.2.0.10 nexthop via 10.3.0.10"));
    reaches(&scene);
    assert!(scene.pings(Host::Client, ANYCAST, 20), "over both");
    scene.run(Host::ServerA, &["ip", "link", "set", "eth0", "down"]);
    eventually("the link is seen to be down", Duration::from_secs(5), || {
        (lookup(&scene, ANYCAST, "core")["next_hops"].as_array()?.len() == 1).then_some(())
    });
    assert!(scene.pings(Host::Client, ANYCAST, 20), "the one that is left takes all");
}

#[test]
fn a_route_to_a_downed_link_is_answered_for() {
    if !privileged() {
        return;
    }
    let scene = scene(&Config::default());
    ip(&scene, &format!("route add {ANYCAST} via 10.2.0.10"));
    reaches(&scene);
    scene.run(Host::ServerA, &["ip", "link", "set", "eth0", "down"]);
    eventually("the link is seen to be down", Duration::from_secs(5), || {
        (lookup(&scene, ANYCAST, "core")["next_hops"][0]["link"] == "down").then_some(())
    });
    let output =
        scene.lab.exec(Host::Client, &["ping", "-n", "-c", "2", "-W", "1", ANYCAST]).expect("ping runs");
    assert!(
        output.stdout.contains("From 10.1.0.1 icmp_seq=1 Destination Host Unreachable"),
        "{}",
        output.stdout
    );
    assert!((dropped(&scene, Some("egress-down")) - 2.0).abs() < 0.1, "each of the two is counted");
    // Taken down by hand, the kernel drops the route without a word.
    scene.run(Host::ServerA, &["ip", "link", "set", "eth0", "up"]);
    ip(&scene, "link set wan0 down");
    eventually("there is no route", Duration::from_secs(5), || {
        (lookup(&scene, ANYCAST, "core")["does"] == "no route").then_some(())
    });
    let argv = ["ping", "-n", "-c", "1", "-W", "1", ANYCAST];
    let output = scene.lab.exec(Host::Client, &argv).expect("ping runs");
    assert!(output.stdout.contains("Destination Net Unreachable"), "{}", output.stdout);
    assert!((dropped(&scene, Some("no-route")) - 1.0).abs() < 0.1);
    let misses = scene.page().sum("throughway_router_misses_total", &[]);
    assert!((misses - 1.0).abs() < 0.1, "{misses}");
}

#[test]
fn a_next_hop_that_never_answers_is_told_of_and_found_when_it_comes() {
    if !privileged() {
        return;
    }
    let scene = scene(&Config::default());
    ip(&scene, &format!("route add {ANYCAST} via 10.2.0.99"));
    let ping = |count: &str, interval: &str| {
        let argv = ["ping", "-n", "-c", count, "-i", interval, "-W", "5", ANYCAST];
        scene.lab.exec(Host::Client, &argv).expect("ping runs").stdout
    };
    // The kernel asks three times, a second apart.
    let first = ping("1", "1");
    assert!(first.contains("Destination Host Unreachable"), "{first}");
    // From then on the answer comes at once.
    let begun = Instant::now();
    let next = ping("5", "0.1");
    let took = begun.elapsed();
    say(&format!("a silent next hop: five packets answered in {took:?}"));
    assert_eq!(next.matches("Destination Host Unreachable").count(), 5, "{next}");
    assert!(took < Duration::from_millis(2500), "{took:?}\n{next}");
    assert!((dropped(&scene, Some("neighbour-unreachable")) - 6.0).abs() < 0.1, "each packet is counted");
    let silent = scene.page().sum("throughway_kernel_silent_neighbours", &[]);
    assert!((silent - 1.0).abs() < 0.1, "{silent}");
    scene.run(Host::ServerA, &["ip", "address", "add", "10.2.0.99/24", "dev", "eth0"]);
    let begun = Instant::now();
    eventually("it is found", Duration::from_secs(15), || {
        scene.pings(Host::Client, ANYCAST, 1).then_some(())
    });
    say(&format!("found {:?} after it came", begun.elapsed()));
}

#[test]
fn stale_neighbours_are_confirmed_when_traffic_uses_them_only() {
    if !privileged() {
        return;
    }
    let scene = scene(&Config::default());
    scene.run(Host::Box, &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/neigh/wan0/delay_first_probe_time"]);
    for host in [Host::ServerA, Host::ServerB] {
        assert!(scene.pings(Host::Client, &host.ipv4().to_string(), 3));
    }
    ip(&scene, &format!("route add {ANYCAST} via 10.2.0.10"));
    // What was in use is looked at every two seconds, and forgotten then.
    let looked_at = || std::thread::sleep(Duration::from_secs(3));
    looked_at();
    let neighbours = [("10.2.0.10", "wan0"), ("10.3.0.10", "dmz0")];
    for (address, device) in neighbours {
        ip(&scene, &format!("neighbour change {address} dev {device} nud stale"));
    }
    let confirmations =
        |scene: &Scene| scene.page().sum("throughway_kernel_neighbour_confirmations_total", &[]);
    let state = |scene: &Scene, address: &str| {
        let rows = scene.show("neighbours");
        let row = rows.as_array().into_iter().flatten().find(|row| row["address"] == address);
        row.and_then(|row| row["state"].as_str()).unwrap_or("none").to_owned()
    };
    eventually("both are stale", Duration::from_secs(5), || {
        neighbours.iter().all(|(address, _)| state(&scene, address) == "stale").then_some(())
    });
    let before = confirmations(&scene);
    looked_at();
    assert_eq!(neighbours.map(|(address, _)| state(&scene, address)), ["stale", "stale"], "nobody uses them");
    assert!((confirmations(&scene) - before).abs() < 0.1, "without traffic nothing is confirmed");
    // A flow that the cache knows: neither the kernel nor the router sees anything of its packets.
    let stream = Stream::start(&scene, &[Host::ServerA], ANYCAST.parse().expect("an address"));
    looked_at();
    ip(&scene, "neighbour change 10.2.0.10 dev wan0 nud stale");
    let begun = confirmations(&scene);
    eventually("the one in use is confirmed", Duration::from_secs(10), || {
        (confirmations(&scene) > begun && state(&scene, "10.2.0.10") == "reachable").then_some(())
    });
    stream.finish();
    assert_eq!(state(&scene, "10.3.0.10"), "stale", "nobody uses server b, and yet it was confirmed");
}

#[test]
fn every_kind_of_route_is_followed() {
    if !privileged() {
        return;
    }
    let config = Config {
        functions: vec![(
            "core",
            "{ router: { table: 100, routes: [ { prefix: 10.66.0.0/16, blackhole: true, metric: 7 } ] } }"
                .to_owned(),
        )],
        ..Config::default()
    };
    let scene = scene(&config);
    assert!(scene.pings(Host::Client, "10.2.0.10", 2), "connected prefixes need no route of the table");
    assert!(!scene.pings(Host::Client, ANYCAST, 1));
    let works = |scene: &Scene, what: &str, route: &str| {
        ip(scene, &format!("route replace {ANYCAST} table 100 {route}"));
        eventually(what, Duration::from_secs(5), || scene.pings(Host::Client, ANYCAST, 1).then_some(()));
        assert!(scene.pings(Host::Client, ANYCAST, 5), "{what}");
    };
    works(&scene, "plain", "via 10.2.0.10");
    works(&scene, "on link", "via 10.2.0.10 dev wan0 onlink");
    works(&scene, "RFC 8950", "via inet6 fd00:3::10 dev dmz0");
    works(&scene, "multipath", "nexthop via 10.2.0.10 weight 3 nexthop via 10.3.0.10");
    ip(&scene, "nexthop add id 1 via 10.2.0.10 dev wan0");
    ip(&scene, "nexthop add id 2 via 10.3.0.10 dev dmz0");
    ip(&scene, "nexthop add id 10 group 1,5/2");
    works(&scene, "a group", "nhid 10");
    let shares = |scene: &Scene| -> Vec<(String, u64)> {
        let hops = lookup(scene, ANYCAST, "core")["next_hops"].as_array().cloned().unwrap_or_default();
        hops.iter()
            .map(|hop| (hop["interface"].to_string(), hop["weight"].as_u64().unwrap_or_default()))
            .collect()
    };
    assert_eq!(shares(&scene), [("\"wan\"".to_owned(), 5), ("\"dmz\"".to_owned(), 1)]);
    ip(&scene, "nexthop replace id 10 group 2");
    eventually("the group is replaced", Duration::from_secs(5), || {
        (shares(&scene) == [("\"dmz\"".to_owned(), 1)]).then_some(())
    });
    assert!(scene.pings(Host::Client, ANYCAST, 5));

    // What comes first and what not.
    ip(&scene, "route add 10.66.0.0/16 via 10.2.0.10 table 100 metric 9");
    ip(&scene, "route add 10.66.0.0/16 via 10.2.0.10 table 100 metric 3");
    let told = eventually("both are there", Duration::from_secs(5), || {
        let told = lookup(&scene, "10.66.1.1", "core");
        (told["candidates"].as_array()?.len() == 3).then_some(told)
    });
    let used: Vec<_> = told["candidates"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| (row["metric"].as_u64(), row["used"].as_bool()))
        .collect();
    assert_eq!(used, [(Some(3), Some(true)), (Some(7), Some(false)), (Some(9), Some(false))]);
    assert_eq!(told["candidates"][1]["from"], "functions.core.routes[0]");
    ip(&scene, "route del 10.66.0.0/16 table 100 metric 3");
    eventually("the configuration's is next", Duration::from_secs(5), || {
        (lookup(&scene, "10.66.1.1", "core")["does"] == "blackhole").then_some(())
    });
    // A way for everything that is not refused: what is refused must not take it.
    ip(&scene, "route add default via 10.2.0.10 table 100");
    ip(&scene, "-6 route add default via fd00:2::10 table 100");
    for (kind, says, says6) in [
        ("prohibit", "Packet filtered", "Administratively prohibited"),
        ("unreachable", "Destination Host Unreachable", "No route"),
        ("throw", "Destination Net Unreachable", "No route"),
    ] {
        for (option, prefix, to, says) in
            [("-4", "10.67.0.0/16", "10.67.0.1", says), ("-6", "fd67::/64", "fd67::1", says6)]
        {
            ip(&scene, &format!("{option} route flush {prefix} table 100"));
            ip(&scene, &format!("{option} route add {kind} {prefix} table 100"));
            let reason = match kind {
                "throw" => "no-route".to_owned(),
                kind => format!("{kind}-route"),
            };
            eventually(kind, Duration::from_secs(5), || {
                let before = dropped(&scene, Some(&reason));
                let argv = ["ping", "-n", "-c", "1", "-W", "1", to];
                let said = scene.lab.exec(Host::Client, &argv).ok()?.stdout.contains(says);
                (said && dropped(&scene, Some(&reason)) > before).then_some(())
            });
        }
    }
}

#[test]
fn flaps_and_a_flood_beyond_the_buffer_leave_the_tables_true() {
    if !privileged() {
        return;
    }
    let mut scene = scene(&Config::default());
    // A hundred thousand changes of one prefix in a row, under traffic.
    let mut lines = String::new();
    for _ in 0..50_000 {
        let _ =
            writeln!(lines, "route replace {ANYCAST} via 10.2.0.10\nroute replace {ANYCAST} via 10.3.0.10");
    }
    ip(&scene, &format!("route add {ANYCAST} via 10.3.0.10"));
    reaches(&scene);
    for host in [Host::ServerA, Host::ServerB] {
        assert!(scene.pings(Host::Client, &host.ipv4().to_string(), 2));
    }
    let updates = |scene: &Scene| scene.page().sum("throughway_router_updates_total", &[]);
    let (updates_before, dropped_before) = (updates(&scene), dropped(&scene, None));
    let stream = Stream::start(&scene, &[Host::ServerA, Host::ServerB], ANYCAST.parse().expect("an address"));
    let begun = Instant::now();
    batch(&scene, &lines);
    let took = begun.elapsed();
    eventually("the last one holds", Duration::from_secs(60), || {
        (lookup(&scene, ANYCAST, "core")["next_hops"][0]["interface"] == "dmz").then_some(())
    });
    let behind = begun.elapsed() - took;
    let arrived = stream.finish();
    let lost = arrived.sent - arrived.arrived();
    say(&format!(
        "100,000 flaps: the kernel took {took:?}, we were done {behind:?} later; {lost} of {} datagrams lost",
        arrived.sent
    ));
    // There was a route at every moment, so nothing had to end here; what the machine lost before or behind us for want of
    // time is little.
    let ended = dropped(&scene, None) - dropped_before;
    assert!(ended < 0.5, "{ended} packets were dropped by us");
    assert!(lost * 50 < arrived.sent, "{lost} of {} lost", arrived.sent);
    assert!(arrived.by_host.iter().all(|seen| seen.len() > 50), "both ways were used");
    let seen = updates(&scene) - updates_before;
    say(&format!("{seen} changes went into the table"));
    assert!(seen > 1000.0, "{seen}: what was followed?");

    // A service that does not read for a while: more news than the socket holds.
    let overruns = |scene: &Scene| scene.page().sum("throughway_kernel_overruns_total", &[]);
    let before = overruns(&scene);
    scene.service().process().signal(Signal::SIGSTOP);
    let mut lines = String::new();
    for number in 0..250_000u32 {
        let (a, b) = (number / 256 % 256, number % 256);
        let gateway = if number % 3 == 0 { "10.2.0.10" } else { "10.3.0.10" };
        let _ = writeln!(lines, "route replace 11.{a}.{b}.0/24 via {gateway}");
    }
    for number in 0..60_000u32 {
        let gateway = if number % 3 == 0 { "fd00:2::10" } else { "fd00:3::10" };
        let _ = writeln!(lines, "route replace 2001:db8:{:x}::/48 via {gateway}", number % 16_384);
    }
    batch(&scene, &lines);
    scene.service().process().signal(Signal::SIGCONT);
    eventually("the overrun is counted", Duration::from_secs(60), || {
        (overruns(&scene) > before).then_some(())
    });
    for (family, routes) in [("ipv4", 65_536.0), ("ipv6", 16_384.0)] {
        eventually("all routes are there", Duration::from_secs(60), || {
            (scene.page().sum("throughway_router_prefixes", &[("family", family)]) >= routes).then_some(())
        });
    }
    // What the last round of each prefix said holds.
    for number in [249_999u32, 249_998, 200_000, 196_608] {
        let (a, b) = (number / 256 % 256, number % 256);
        let interface = if number % 3 == 0 { "wan" } else { "dmz" };
        let told = lookup(&scene, &format!("11.{a}.{b}.1"), "core");
        assert_eq!(told["next_hops"][0]["interface"], interface, "{number}: {told:#}");
    }
    for number in [59_999u32, 59_998, 49_152, 43_616] {
        let interface = if number % 3 == 0 { "wan" } else { "dmz" };
        let told = lookup(&scene, &format!("2001:db8:{:x}::1", number % 16_384), "core");
        assert_eq!(told["next_hops"][0]["interface"], interface, "{number}: {told:#}");
    }
    assert!(scene.page().sum("throughway_kernel_undecodable_total", &[]) < 0.5);
}
