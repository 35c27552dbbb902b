//! Sets with `early`: their sources are dropped by the XDP program before anything else, and only where it is said.

use std::net::IpAddr;
use std::time::Duration;

use throughway_lab::Host;
use throughway_tests::config::Config;
use throughway_tests::datagrams::Datagrams;
use throughway_tests::echo::{self, Connection};
use throughway_tests::{Scene, eventually, privileged};

/// Further addresses of the client, one of each family.
const OTHERS: [&str; 2] = ["10.1.0.77", "fd00:1::77"];

/// Everything passes but what is dropped early: the addresses in `bad.txt` from the LAN, and the client's own from the WAN,
/// where they never come from.
fn config() -> Config {
    let mut config = Config::default();
    let sets = "{ bad: { file: bad.txt, early: lan }, elsewhere: { elements: [10.1.0.0/16, \"fd00:1::/32\"], early: wan } }";
    config.functions.push(("edge", format!("{{ firewall: {{ default: allow, sets: {sets} }} }}")));
    config.run.insert(0, "edge");
    config
}

fn scene(bad: &str, config: &Config) -> Scene {
    let mut scene = Scene::new();
    for (address, length) in OTHERS.iter().zip(["24", "64"]) {
        let address = format!("{address}/{length}");
        scene.run(Host::Client, &["ip", "address", "add", &address, "dev", "eth0", "nodad"]);
    }
    write(&scene, bad);
    scene.start(config);
    scene
}

fn write(scene: &Scene, bad: &str) {
    std::fs::write(scene.lab.directory().join("bad.txt"), bad).expect("the lab's folder takes files");
}

#[track_caller]
fn reloaded(scene: &mut Scene, bad: &str) {
    write(scene, bad);
    let output = scene.reload();
    assert!(output.status.success(), "{}{}", output.stdout, output.stderr);
}

/// Whether pings from that address of the client's are answered.
fn pings(scene: &Scene, from: &str, to: IpAddr) -> bool {
    let argv = ["ping", "-n", "-q", "-c", "3", "-i", "0.02", "-W", "1", "-I", from, &to.to_string()];
    let output = scene.lab.exec(Host::Client, &argv).unwrap_or_else(|error| panic!("{error}"));
    let (none, all) =
        (output.stdout.contains(" 100% packet loss"), output.stdout.contains(" 0% packet loss"));
    assert!(none || all, "{}", output.stdout);
    all
}

fn drops(scene: &Scene, set: &str) -> f64 {
    scene.page().sum("throughway_firewall_early_drops_total", &[("function", "edge"), ("set", set)])
}

#[test]
fn listed_sources_reach_nothing_and_others_everything() {
    if !privileged() {
        return;
    }
    let mut scene = scene("10.1.0.64/27 # a part of the LAN\nfd00:1::77\n", &config());
    let [v4, v6] = Host::ServerA.addresses();
    let [own4, own6] = Host::Client.addresses().map(|address| address.to_string());
    let owns = Host::Box.addresses();
    for (own, other, to, of_box) in [(&own4, OTHERS[0], v4, owns[0]), (&own6, OTHERS[1], v6, owns[1])] {
        eventually("the path", Duration::from_secs(10), || pings(&scene, own, to).then_some(()));
        let before = drops(&scene, "bad");
        assert!(!pings(&scene, other, to), "{other} is listed");
        assert!(!pings(&scene, other, of_box), "{other} reaches not even the box itself");
        assert!(pings(&scene, own, to) && pings(&scene, own, of_box), "{own} is not listed here");
        assert_eq!(drops(&scene, "bad") - before, 6.0);
    }
    // Counted by interface, too; and nothing for the set that counts elsewhere.
    let page = scene.page();
    let early = |interface| {
        page.sum("throughway_steered_packets_total", &[("reason", "early-drop"), ("interface", interface)])
    };
    assert_eq!((early("lan"), early("wan"), drops(&scene, "elsewhere")), (12.0, 0.0, 0.0));
    let sets = scene.show("sets");
    let row = |name: &str| sets.as_array().expect("rows").iter().find(|row| row["set"] == name).cloned();
    let bad = row("bad").expect("the set");
    assert_eq!((&bad["early"], &bad["early_prefixes"]), (&"lan".into(), &2.into()), "{sets:#}");
    assert_eq!((&bad["elements"], &bad["early_drops"]), (&2.into(), &12.into()), "{sets:#}");
    assert_eq!(row("elsewhere").expect("the set")["early"], "wan");

    // A reload that is refused changes nothing, and one that is not changes what is listed, in both families.
    write(&scene, "10.1.0.300\n");
    let output = scene.reload();
    assert!(!output.status.success() && output.stderr.contains("bad.txt:1:1"), "{output:?}");
    assert!(!pings(&scene, OTHERS[0], v4) && pings(&scene, &own4, v4));
    reloaded(&mut scene, &format!("{}\n{own6}\n", OTHERS[0]));
    assert!(!pings(&scene, OTHERS[0], v4) && pings(&scene, OTHERS[1], v6) && !pings(&scene, &own6, v6));
    let before = drops(&scene, "bad");
    assert!(before >= 18.0, "the count goes on: {before}");
    // Nothing is dropped early any more, nor asked for.
    scene.write(&config().yaml().replace(", early: lan", "").replace(", early: wan", ""));
    let output = scene.reload();
    assert!(output.stdout.contains("sets.bad.early: [lan] → false"), "{}{}", output.stdout, output.stderr);
    assert!(pings(&scene, OTHERS[0], v4) && pings(&scene, &own6, v6));
    scene.stop();
}

#[test]
fn a_flow_that_runs_is_stopped_and_goes_on() {
    if !privileged() {
        return;
    }
    for mode in ["off", "eager"] {
        let mut scene = scene("192.0.2.1\n", &Config { fast_path: Some(mode), ..config() });
        echo::serve(&scene.lab, Host::ServerA);
        let [to, _] = Host::ServerA.addresses();
        eventually("the path", Duration::from_secs(10), || {
            scene.pings(Host::Client, &to.to_string(), 1).then_some(())
        });
        let mut connection = Connection::open(&scene.lab, Host::Client, to).expect("it connects");
        (0..20).for_each(|_| connection.exchange().expect("it is echoed"));
        let datagrams = Datagrams::start(&scene.lab, Host::Client, Host::ServerA, to, 10_000);
        datagrams.let_pass(5_000);
        reloaded(&mut scene, "10.1.0.0/24\n");
        // Told: from here on nothing more comes in, whoever had forwarded it.
        let taken = || {
            let page = scene.page();
            ["to-worker", "fast-path", "local-address"]
                .map(|reason| {
                    let labels = [("reason", reason), ("interface", "lan")];
                    page.sum("throughway_steered_packets_total", &labels)
                })
                .iter()
                .sum::<f64>()
        };
        let before = taken();
        let dropped = drops(&scene, "bad");
        datagrams.let_pass(5_000);
        assert_eq!(taken(), before, "{mode}: packets from a listed source got in");
        assert!(drops(&scene, "bad") >= dropped + 4_000.0, "{mode}: they are counted");
        reloaded(&mut scene, "192.0.2.1\n");
        datagrams.let_pass(5_000);
        (0..20).for_each(|_| connection.exchange().expect("the connection has survived"));
        let report = datagrams.finish();
        assert!(report.arrived >= 10_000, "{mode}: {report:?}");
    }
}
