//! FRR and BIRD drive the router: sessions of the box, sessions across it, and a table of the Internet's kind.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use throughway_lab::Host;
use throughway_lab::topology::{DMZ, WAN};
use throughway_tests::config::Config;
use throughway_tests::daemons::{BIRD_COMMON, Frr, bird, birdc, is_up};
use throughway_tests::stream::Stream;
use throughway_tests::{Scene, eventually, privileged};

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[test]
fn bgp_across_the_box_and_ospf_and_bgp_of_the_box_itself() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&Config::default());
    let (wan, dmz) = (WAN.box_ipv4(), DMZ.box_ipv4());
    let (client, a, b) = (Host::Client.ipv4(), Host::ServerA.ipv4(), Host::ServerB.ipv4());
    scene.run(Host::ServerA, &["ip", "address", "add", "10.99.1.1/32", "dev", "lo"]);
    scene.run(Host::ServerB, &["ip", "address", "add", "10.99.2.1/32", "dev", "lo"]);
    scene.run(Host::Client, &["ip", "address", "add", "10.99.3.1/32", "dev", "lo"]);
    // The box: FRR, with BGP to server a and OSPF to server b.
    let bgp = format!(
        "router bgp 65001\n bgp router-id {wan}\n no bgp ebgp-requires-policy\n neighbor {a} remote-as 65002\n \
         neighbor {a} timers 2 6\n neighbor {a} timers connect 1\n"
    );
    let ospf = format!(
        "interface dmz0\n ip ospf network point-to-point\n ip ospf hello-interval 1\n ip ospf dead-interval 4\n\
         router ospf\n ospf router-id {dmz}\n network {dmz}/24 area 0\n"
    );
    let frr = Frr::start(&scene, Host::Box, &[("bgpd", &bgp), ("ospfd", &ospf)]);
    let _a = bird(
        &scene,
        Host::ServerA,
        &format!(
            "router id {a};\n{BIRD_COMMON}protocol static {{ ipv4; route 10.99.1.0/24 blackhole; }}\n\
             protocol bgp session {{ local {a} as 65002; neighbor {wan} as 65001; hold time 6; connect retry time 1;\n\
             connect delay time 1; ipv4 {{ import none; export where source = RTS_STATIC; }}; }}\n\
             protocol bgp across {{ local {a} as 65002; neighbor {client} as 65004; multihop; hold time 6;\n\
             connect retry time 1; connect delay time 1; ipv4 {{ import all; export all; }}; }}\n"
        ),
    );
    let _b = bird(
        &scene,
        Host::ServerB,
        &format!(
            "router id {b};\n{BIRD_COMMON}protocol ospf v2 area0 {{ ipv4 {{ import all; export none; }};\n\
             area 0 {{ interface \"eth0\" {{ type ptp; hello 1; dead 4; }}; interface \"lo\" {{ stub; }};\n\
             stubnet 10.99.2.0/24; }}; }}\n"
        ),
    );
    // Across the box: FRR on the client, with BIRD on server a.
    let across = format!(
        "router bgp 65004\n bgp router-id {client}\n no bgp ebgp-requires-policy\n neighbor {a} remote-as 65002\n \
         neighbor {a} ebgp-multihop\n neighbor {a} timers 2 6\n neighbor {a} timers connect 1\n \
         address-family ipv4 unicast\n  network 10.99.3.1/32\n"
    );
    let peer = Frr::start(&scene, Host::Client, &[("bgpd", &across)]);

    let patience = Duration::from_secs(60);
    eventually("the box's BGP session", patience, || {
        is_up(&scene, Host::ServerA, "session", "Established").then_some(())
    });
    eventually("the session across the box", patience, || {
        is_up(&scene, Host::ServerA, "across", "Established").then_some(())
    });
    eventually("the box's OSPF neighbour", patience, || {
        frr.vtysh(&scene, Host::Box, "show ip ospf neighbor").contains("Full").then_some(())
    });
    eventually("BGP's route is followed", patience, || {
        scene.pings(Host::Client, "10.99.1.1", 1).then_some(())
    });
    eventually("OSPF's route is followed", patience, || {
        scene.pings(Host::Client, "10.99.2.1", 1).then_some(())
    });
    let routes = scene.show("routes");
    let from = |prefix: &str| {
        let row = routes.as_array().into_iter().flatten().find(|row| row["prefix"] == prefix);
        row.and_then(|row| row["from"].as_str()).unwrap_or("none").to_owned()
    };
    for (prefix, protocol) in [("10.99.1.0/24", "bgp"), ("10.99.2.0/24", "ospf")] {
        assert!(from(prefix).starts_with(&format!("kernel: {protocol}, table main")), "{}", from(prefix));
    }
    eventually("the peer across has learned a route", patience, || {
        peer.vtysh(&scene, Host::Client, "show bgp ipv4 unicast").contains("10.99.1.0/24").then_some(())
    });
    // Longer than every hold and dead time, with the data plane in between.
    std::thread::sleep(Duration::from_secs(8));
    for protocol in ["session", "across"] {
        assert!(is_up(&scene, Host::ServerA, protocol, "Established"), "{protocol}");
    }
}

/// The other way about: BIRD drives the box, with OSPF for both families and BGP, and its peers are FRR's.
#[test]
fn ospf_of_both_families_and_bgp_of_the_box_with_bird() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&Config::default());
    let (wan, a, b) = (WAN.box_ipv4(), Host::ServerA.ipv4(), Host::ServerB.ipv4());
    scene.run(Host::ServerA, &["ip", "address", "add", "10.99.1.1/24", "dev", "lo"]);
    scene.run(Host::ServerB, &["ip", "address", "add", "10.99.2.1/24", "dev", "lo"]);
    scene.run(Host::ServerB, &["ip", "address", "add", "fd99:2::1/64", "dev", "lo"]);
    let ospf = |version: &str, family: &str| {
        format!(
            "protocol kernel kernel_{family} {{ {family} {{ export where source != RTS_DEVICE; import none; }}; }}\n\
             protocol ospf {version} area0_{family} {{ {family} {{ import all; export none; }};\n\
             area 0 {{ interface \"dmz0\" {{ type ptp; hello 1; dead 4; }}; }}; }}\n"
        )
    };
    let session = format!(
        "protocol bgp session {{ local {wan} as 65001; neighbor {a} as 65002; hold time 6; connect retry time 1;\n\
         connect delay time 1; ipv4 {{ import all; export none; }}; }}\n"
    );
    let (v2, v3) = (ospf("v2", "ipv4"), ospf("v3", "ipv6"));
    let _box = bird(&scene, Host::Box, &format!("router id {wan};\n{BIRD_COMMON}{v2}{v3}{session}"));
    let ospfd = format!(
        "interface eth0\n ip ospf network point-to-point\n ip ospf hello-interval 1\n ip ospf dead-interval 4\n\
         router ospf\n ospf router-id {b}\n network {b}/24 area 0\n network 10.99.2.0/24 area 0\n"
    );
    let ospf6d = format!(
        "interface eth0\n ipv6 ospf6 area 0.0.0.0\n ipv6 ospf6 network point-to-point\n ipv6 ospf6 hello-interval 1\n \
         ipv6 ospf6 dead-interval 4\ninterface lo\n ipv6 ospf6 area 0.0.0.0\n ipv6 ospf6 passive\n\
         router ospf6\n ospf6 router-id {b}\n"
    );
    let b_routes = Frr::start(&scene, Host::ServerB, &[("ospfd", &ospfd), ("ospf6d", &ospf6d)]);
    let bgp = format!(
        "router bgp 65002\n bgp router-id {a}\n no bgp ebgp-requires-policy\n neighbor {wan} remote-as 65001\n \
         neighbor {wan} timers 2 6\n neighbor {wan} timers connect 1\n address-family ipv4 unicast\n  network 10.99.1.0/24\n"
    );
    let _a = Frr::start(&scene, Host::ServerA, &[("bgpd", &bgp)]);

    let patience = Duration::from_secs(60);
    let neighbours = || {
        birdc(&scene, Host::Box, &["show", "ospf", "neighbors"])
            + &birdc(&scene, Host::Box, &["show", "ospf", "neighbors", "area0_ipv6"])
    };
    let full = |command: &str| b_routes.vtysh(&scene, Host::ServerB, command).contains("Full");
    eventually("both OSPF adjacencies", patience, || {
        (full("show ip ospf neighbor") && full("show ipv6 ospf6 neighbor")).then_some(())
    });
    eventually("the box's BGP session", patience, || {
        is_up(&scene, Host::Box, "session", "Established").then_some(())
    });
    for (address, what) in [
        ("10.99.1.1", "BGP's route"),
        ("10.99.2.1", "OSPF's route"),
        ("fd99:2::1", "OSPFv3's route, by a link-local next hop"),
    ] {
        eventually(what, patience, || scene.pings(Host::Client, address, 1).then_some(()));
        let told = scene.show(&format!("routes --lookup {address}"));
        let from = told[0]["candidates"][0]["from"].as_str().unwrap_or("none").to_owned();
        assert!(from.starts_with("kernel: bird, table main"), "{what}: {from}");
    }
    // Longer than every hold and dead time, with the data plane in between; and packets all the while.
    for _ in 0..8 {
        for address in ["10.99.1.1", "10.99.2.1", "fd99:2::1"] {
            assert!(scene.pings(Host::Client, address, 1), "{address}");
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    assert!(full("show ip ospf neighbor") && full("show ipv6 ospf6 neighbor"), "{}", neighbours());
    assert!(is_up(&scene, Host::Box, "session", "Established"));
    // What is withdrawn is followed, too.
    scene.run(Host::ServerB, &["ip", "address", "del", "10.99.2.1/24", "dev", "lo"]);
    scene.run(Host::ServerB, &["ip", "address", "del", "fd99:2::1/64", "dev", "lo"]);
    for address in ["10.99.2.1", "fd99:2::1"] {
        eventually("OSPF's withdrawal", patience, || {
            let told = scene.show(&format!("routes --lookup {address}"));
            (told[0]["does"] == "no route").then_some(())
        });
    }
}

/// Three routers, each with a session to both others: the box and server a with BIRD, server b with FRR. A and b announce the same
/// prefix, and the box prefers a's.
#[test]
fn a_full_mesh_of_three_routers_converges_and_moves_traffic() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&Config::default());
    let (wan, dmz) = (WAN.box_ipv4(), DMZ.box_ipv4());
    let (a, b) = (Host::ServerA.ipv4(), Host::ServerB.ipv4());
    // A link of their own between a and b.
    let b_space = scene.lab.namespace(Host::ServerB);
    let link =
        ["ip", "link", "add", "mesh0", "type", "veth", "peer", "name", "mesh0", "netns", b_space.as_str()];
    scene.run(Host::ServerA, &link);
    for (host, address) in [(Host::ServerA, "10.9.0.1/24"), (Host::ServerB, "10.9.0.2/24")] {
        scene.run(host, &["ip", "address", "add", address, "dev", "mesh0"]);
        scene.run(host, &["ip", "link", "set", "mesh0", "up"]);
        scene.run(host, &["ip", "address", "add", "10.98.0.1/24", "dev", "lo"]);
    }
    // FRR announces networks that its host has.
    scene.run(Host::ServerB, &["ip", "address", "add", "10.98.2.1/24", "dev", "lo"]);
    let peer = |name: &str,
                own: &dyn std::fmt::Display,
                asn: u32,
                peer: &dyn std::fmt::Display,
                peer_asn: u32,
                prefer: u32| {
        format!(
            "protocol bgp {name} {{ local {own} as {asn}; neighbor {peer} as {peer_asn}; hold time 6; connect retry time 1;\n\
             connect delay time 1; error wait time 1, 2; ipv4 {{ import filter {{ if net = 10.98.0.0/24 && bgp_path.len = 1 then bgp_local_pref = {prefer}; accept; }};\n\
             export where source = RTS_BGP || proto = \"own\"; }}; }}\n"
        )
    };
    let kernel = "protocol kernel { ipv4 { export where source = RTS_BGP; import none; }; }\n";
    let to_a = peer("to_a", &wan, 65001, &a, 65002, 200);
    let to_b = peer("to_b", &dmz, 65001, &b, 65003, 100);
    let _box = bird(&scene, Host::Box, &format!("router id {wan};\n{BIRD_COMMON}{kernel}{to_a}{to_b}"));
    let own = "protocol static own { ipv4; route 10.98.0.0/24 blackhole; route 10.98.1.0/24 blackhole; }\n";
    let to_box = peer("to_box", &a, 65002, &wan, 65001, 100);
    let to_b = peer("to_b", &"10.9.0.1", 65002, &"10.9.0.2", 65003, 100);
    let _a = bird(&scene, Host::ServerA, &format!("router id {a};\n{BIRD_COMMON}{own}{to_box}{to_b}"));
    let neighbour = |address: &dyn std::fmt::Display, asn: u32| {
        format!(
            " neighbor {address} remote-as {asn}\n neighbor {address} timers 2 6\n neighbor {address} timers connect 1\n"
        )
    };
    let mesh = format!(
        "router bgp 65003\n bgp router-id {b}\n no bgp ebgp-requires-policy\n{}{} address-family ipv4 unicast\n  network 10.98.0.0/24\n  network 10.98.2.0/24\n",
        neighbour(&dmz, 65001),
        neighbour(&"10.9.0.1", 65002),
    );
    let frr = Frr::start(&scene, Host::ServerB, &[("bgpd", &mesh)]);

    let patience = Duration::from_secs(60);
    for (host, protocol) in
        [(Host::Box, "to_a"), (Host::Box, "to_b"), (Host::ServerA, "to_box"), (Host::ServerA, "to_b")]
    {
        eventually(&format!("{protocol} of {}", host.name()), patience, || {
            is_up(&scene, host, protocol, "Established").then_some(())
        });
    }
    let goes_by = |address: &str| {
        let told = scene.show(&format!("routes --lookup {address}"));
        told[0]["next_hops"][0]["interface"].as_str().unwrap_or("nowhere").to_owned()
    };
    let follows = |address: &str, interface: &str| {
        eventually(&format!("{address} by {interface}"), patience, || {
            (goes_by(address) == interface).then_some(())
        });
    };
    follows("10.98.0.1", "wan");
    follows("10.98.1.1", "wan");
    follows("10.98.2.1", "dmz");
    assert!(
        frr.vtysh(&scene, Host::ServerB, "show bgp ipv4 unicast").contains("10.98.1.0/24"),
        "b has learned from both"
    );

    // The best path goes, and comes back, under traffic.
    for host in [Host::ServerA, Host::ServerB] {
        assert!(scene.pings(Host::Client, &host.ipv4().to_string(), 2));
    }
    let stream = Stream::start(&scene, &[Host::ServerA, Host::ServerB], [10, 98, 0, 1].into());
    eventually("it flows", patience, || (goes_by("10.98.0.1") == "wan").then_some(()));
    // Both servers have the address that is asked.
    let argv = ["ping", "-n", "-q", "-i", "0.01", "-W", "1", "10.98.0.1"];
    let mut ping = scene.lab.spawn(Host::Client, &argv, "ping.log").expect("ping starts");
    std::thread::sleep(Duration::from_millis(500));
    let withdrawn = Instant::now();
    birdc(&scene, Host::ServerA, &["disable", "own"]);
    follows("10.98.0.1", "dmz");
    std::thread::sleep(Duration::from_millis(300));
    birdc(&scene, Host::ServerA, &["enable", "own"]);
    follows("10.98.0.1", "wan");
    std::thread::sleep(Duration::from_millis(300));
    ping.signal(Signal::SIGINT);
    let _ = ping.wait(Duration::from_secs(5)).expect("ping ends");
    let log = std::fs::read_to_string(scene.lab.directory().join("ping.log")).expect("its log");
    let pinged = log.lines().find(|line| line.contains("packet loss")).expect("a summary");
    say(&format!("mesh: ping at 100 a second over the same flap: {pinged}"));
    let numbers: Vec<u32> = pinged.split(' ').filter_map(|word| word.parse().ok()).collect();
    assert!(numbers[0] > 50 && (numbers[0] - numbers[1]) * 10 < numbers[0], "{pinged}");
    let arrived = stream.finish();
    let first = arrived.first_after(1, withdrawn).expect("server b got something");
    let last = arrived.by_host[0].iter().rev().map(|(at, _)| *at).find(|at| *at < first).unwrap_or(withdrawn);
    let lost = arrived.sent - arrived.arrived();
    say(&format!(
        "mesh: server b is reached {:?} after BIRD was told, {:?} without an arrival; {lost} of {} datagrams lost in a flap",
        first - withdrawn,
        first.saturating_duration_since(last),
        arrived.sent
    ));
    // Tens of milliseconds, on a machine that does nothing else; a router that is only missed is given up after 90 s (BGP's hold time).
    assert!(first - withdrawn < Duration::from_secs(15), "BGP, the kernel and the mirror together");
    assert!(lost * 10 < arrived.sent, "{lost} of {} lost", arrived.sent);
    // The sessions have lived through it.
    for (host, protocol) in [(Host::Box, "to_a"), (Host::Box, "to_b"), (Host::ServerA, "to_b")] {
        assert!(is_up(&scene, host, protocol, "Established"), "{protocol} of {}", host.name());
    }
}

/// So many prefixes; a million by THROUGHWAY_FULL_TABLE=1000000.
fn size() -> u32 {
    std::env::var("THROUGHWAY_FULL_TABLE").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000)
}

/// For how long a process was on a processor.
fn on_processor(pid: u32) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(tasks.filter_map(of).sum())
}

#[test]
fn a_full_table_through_bird_is_followed_and_withdrawn() {
    if !privileged() {
        return;
    }
    let size = size();
    let mut scene = Scene::running(&Config::default());
    let service = scene.service().process().pid();
    let (own, peer) = (WAN.box_ipv4(), WAN.host_ipv4());
    scene.run(Host::ServerA, &["ip", "address", "add", "20.0.1.1/32", "dev", "lo"]);
    let mut table = String::new();
    for number in 0..size {
        // From 20.0.0.0 on, one /24 after the other.
        let address = std::net::Ipv4Addr::from_bits(0x1400_0000 + (number << 8));
        let _ = writeln!(table, "route {address}/24 blackhole;");
    }
    let daemon = bird(
        &scene,
        Host::Box,
        &format!(
            "router id {own};\n{BIRD_COMMON}protocol kernel {{ ipv4 {{ export all; import none; }}; }}\n\
             protocol bgp session {{ local {own} as 65001; neighbor {peer} as 65002; connect retry time 1;\n\
             connect delay time 1; ipv4 {{ import all; export none; }}; }}\n"
        ),
    );
    let text = format!(
        "router id {peer};\n{BIRD_COMMON}protocol static {{ ipv4; {table} }}\n\
         protocol bgp session {{ local {peer} as 65002; neighbor {own} as 65001; connect retry time 1;\n\
         connect delay time 1; ipv4 {{ import none; export all; }}; }}\n"
    );
    let peer_guard = bird(&scene, Host::ServerA, &text);
    let patience = Duration::from_secs(120 + u64::from(size / 5000));
    let count = || scene.page().sum("throughway_router_prefixes", &[("family", "ipv4")]);
    // Where the time goes: of BIRD, of us, and how often news was lost.
    let spent = |what: &str| {
        let figure = |name: &str| scene.page().sum(name, &[]);
        say(&format!(
            "{what}: BIRD has been on a processor for {:?}, the service for {:?}; {} news, {} overruns, {} rebuilds, {} prefixes looked at",
            on_processor(daemon.pid()),
            on_processor(service),
            figure("throughway_kernel_notifications_total"),
            figure("throughway_kernel_overruns_total"),
            figure("throughway_kernel_rebuilds_total"),
            figure("throughway_router_updates_total"),
        ));
    };
    let begun = Instant::now();
    eventually("the first routes", patience, || (count() > 100.0).then_some(()));
    let first = Instant::now();
    eventually("all routes", patience, || (count() >= f64::from(size)).then_some(()));
    say(&format!(
        "{size} prefixes through BIRD: the first after {:?}, all {:?} later",
        first - begun,
        first.elapsed()
    ));
    spent("loaded");
    assert!(scene.pings(Host::Client, "20.0.1.1", 3));
    // Asked for one address, it answers from a full table as from an empty one.
    let begun = Instant::now();
    let rows = scene.show("routes");
    assert_eq!(rows.as_array().map(Vec::len), Some(1000), "a page, not the whole table");
    say(&format!("a page of {size} prefixes in {:?}", begun.elapsed()));
    for name in ["throughway_kernel_routes_bytes", "throughway_router_table_bytes"] {
        say(&format!("{name}: {} MB", scene.page().sum(name, &[]) / 1e6));
    }
    drop(peer_guard);
    let begun = Instant::now();
    eventually("all routes are withdrawn", patience, || (count() < 100.0).then_some(()));
    say(&format!("withdrawn in {:?}", begun.elapsed()));
    spent("withdrawn");
    assert!(scene.pings(Host::Client, "10.2.0.10", 3), "the rest goes on");
}
