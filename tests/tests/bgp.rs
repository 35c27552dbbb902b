//! FRR and BIRD drive the router: sessions of the box, sessions across it, and a table of the Internet's kind.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use throughway_lab::Host;
use throughway_lab::topology::{DMZ, WAN};
use throughway_tests::config::Config;
use throughway_tests::daemons::{BIRD_COMMON, Frr, bird, is_up};
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

/// So many prefixes; a million by THROUGHWAY_FULL_TABLE=1000000.
fn size() -> u32 {
    std::env::var("THROUGHWAY_FULL_TABLE").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000)
}

#[test]
fn a_full_table_through_bird_is_followed_and_withdrawn() {
    if !privileged() {
        return;
    }
    let size = size();
    let scene = Scene::running(&Config::default());
    let (own, peer) = (WAN.box_ipv4(), WAN.host_ipv4());
    scene.run(Host::ServerA, &["ip", "address", "add", "20.0.1.1/32", "dev", "lo"]);
    let mut table = String::new();
    for number in 0..size {
        // From 20.0.0.0 on, one /24 after the other.
        let address = std::net::Ipv4Addr::from_bits(0x1400_0000 + (number << 8));
        let _ = writeln!(table, "route {address}/24 blackhole;");
    }
    let _box = bird(
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
    let begun = Instant::now();
    eventually("the first routes", patience, || (count() > 100.0).then_some(()));
    let first = Instant::now();
    eventually("all routes", patience, || (count() >= f64::from(size)).then_some(()));
    say(&format!(
        "{size} prefixes through BIRD: the first after {:?}, all {:?} later",
        first - begun,
        first.elapsed()
    ));
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
    assert!(scene.pings(Host::Client, "10.2.0.10", 3), "the rest goes on");
}
