//! Several routers beside each other, each with its table, and what their interfaces ask of sources.

use std::time::Duration;

use throughway_lab::Host;
use throughway_tests::{Scene, eventually, privileged};

fn ip(scene: &Scene, words: &str) {
    let argv: Vec<&str> = ["ip"].into_iter().chain(words.split_whitespace()).collect();
    scene.run(Host::Box, &argv);
}

/// Router `core` for what comes from the LAN and the WAN, router `tenant` with table 100 for the DMZ.
fn yaml(lan: &str) -> String {
    format!(
        "interfaces:\n  lan: {{ device: lan0{lan} }}\n  wan: {{ device: wan0, urpf: loose }}\n  dmz: {{ device: dmz0 }}\n\
         functions:\n  core: {{ router: {{}} }}\n  tenant: {{ router: {{ table: 100 }} }}\n\
         chains:\n  a: {{ from: [lan, wan], run: [core] }}\n  b: {{ from: dmz, run: [tenant] }}\n"
    )
}

/// What `show routes --lookup` says that a router does with packets to an address, and why not by another route.
fn lookup(scene: &Scene, address: &str, router: &str) -> serde_json::Value {
    let words = ["show", "routes", "--lookup", address, "--router", router, "--json"];
    let output = scene.ask(&words);
    assert!(output.status.success(), "{}", output.stderr);
    let mut value: serde_json::Value = serde_json::from_str(&output.stdout).expect("JSON");
    value[0].take()
}

#[test]
fn each_router_follows_its_own_table() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::new();
    // One address that the client has and one that server b has.
    scene.run(Host::Client, &["ip", "address", "add", "10.97.0.1/32", "dev", "lo"]);
    scene.run(Host::ServerB, &["ip", "address", "add", "10.96.0.1/32", "dev", "lo"]);
    scene.start_with(&yaml(""));
    ip(&scene, "route add 10.96.0.1 via 10.3.0.10");
    ip(&scene, "route add blackhole 10.97.0.0/24");
    ip(&scene, "route add 10.97.0.1 via 10.1.0.10 table 100");
    ip(&scene, "route add blackhole 10.96.0.0/24 table 100");
    eventually("main leads the client to server b", Duration::from_secs(5), || {
        scene.pings(Host::Client, "10.96.0.1", 1).then_some(())
    });
    eventually("table 100 leads server b to the client", Duration::from_secs(5), || {
        scene.pings(Host::ServerB, "10.97.0.1", 1).then_some(())
    });
    let does = |address: &str, router: &str| lookup(&scene, address, router)["does"].clone();
    assert_eq!([does("10.96.0.1", "core"), does("10.96.0.1", "tenant")], ["unicast", "blackhole"]);
    assert_eq!([does("10.97.0.1", "core"), does("10.97.0.1", "tenant")], ["blackhole", "unicast"]);
    assert!(!scene.pings(Host::ServerA, "10.97.0.1", 1), "what comes from the WAN goes by main");

    // Each knows its own tables only, and what is in both is judged apart.
    ip(&scene, "route add 10.95.0.0/16 via 10.2.0.10 metric 20");
    ip(&scene, "route add 10.95.0.0/16 via 10.3.0.10 metric 30");
    ip(&scene, "route add 10.95.7.0/24 via 10.3.0.10 metric 9 table 100");
    let told = eventually("core has both", Duration::from_secs(5), || {
        let told = lookup(&scene, "10.95.7.1", "core");
        (told["candidates"].as_array()?.len() == 2).then_some(told)
    });
    assert_eq!(told["prefix"], "10.95.0.0/16");
    assert_eq!(told["next_hops"][0]["interface"], "wan");
    let rows = told["candidates"].as_array().expect("rows");
    assert_eq!(
        (&rows[0]["used"], &rows[0]["metric"], &rows[0]["why_not"]),
        (&true.into(), &20.into(), &serde_json::Value::Null)
    );
    let why = rows[1]["why_not"].as_str().expect("a reason");
    assert!(why.contains("a lower metric"), "{why}");
    let told = lookup(&scene, "10.95.7.1", "tenant");
    assert_eq!((&told["table"], &told["prefix"]), (&"100".into(), &"10.95.7.0/24".into()));
    assert_eq!(told["next_hops"][0]["mac"].as_str().map(str::len), Some(17), "{told:#}");
}

#[test]
fn an_interface_checks_sources_as_it_says_and_a_reload_changes_it() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::new();
    scene.run(Host::Client, &["ip", "address", "add", "10.97.0.1/32", "dev", "lo"]);
    scene.run(Host::ServerB, &["ip", "address", "add", "10.96.0.1/32", "dev", "lo"]);
    scene.start_with(&yaml(", urpf: strict"));
    // There is a route to the client's second address, but not by the LAN.
    ip(&scene, "route add 10.97.0.1 via 10.2.0.10");
    // And none to server b's; the DMZ asks for none.
    let spoofed = |scene: &Scene, interface: &str| {
        let labels = [("reason", "spoofed-source"), ("interface", interface)];
        scene.page().sum("throughway_dropped_packets_total", &labels)
    };
    let send = |scene: &Scene, host: Host, from: &str, to: &str| {
        let argv = ["ping", "-n", "-c", "3", "-i", "0.02", "-W", "0.2", "-I", from, to];
        let _ = scene.lab.exec(host, &argv).expect("ping runs");
    };
    eventually("the route is there", Duration::from_secs(5), || {
        (lookup(&scene, "10.97.0.1", "core")["does"] == "unicast").then_some(())
    });
    assert!(scene.pings(Host::Client, "10.2.0.10", 3), "its own address is fine");
    send(&scene, Host::Client, "10.97.0.1", "10.2.0.10");
    assert!((spoofed(&scene, "lan") - 3.0).abs() < 0.1, "{}", spoofed(&scene, "lan"));
    send(&scene, Host::ServerB, "10.96.0.1", "10.2.0.10");
    assert!(spoofed(&scene, "dmz") < 0.1, "the DMZ leaves it to its router, which asks nothing");

    scene.write(&yaml(", urpf: loose"));
    let output = scene.reload();
    assert!(output.status.success() && output.stdout.contains("strict → loose"), "{output:?}");
    send(&scene, Host::Client, "10.97.0.1", "10.2.0.10");
    assert!((spoofed(&scene, "lan") - 3.0).abs() < 0.1, "a route by any interface is enough now");
    scene.run(Host::Client, &["ip", "address", "add", "10.94.0.1/32", "dev", "lo"]);
    send(&scene, Host::Client, "10.94.0.1", "10.2.0.10");
    assert!((spoofed(&scene, "lan") - 6.0).abs() < 0.1, "and there must be one: {}", spoofed(&scene, "lan"));
}
