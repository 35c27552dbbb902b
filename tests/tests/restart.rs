//! A restart does not stop what is under way: connections of real clients go on with the next instance.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;
use throughway_lab::Host;
use throughway_tests::datagrams::Datagrams;
use throughway_tests::echo::{self, Connection};
use throughway_tests::{Scene, eventually, privileged};

const VIP: &str = "198.51.100.80";
/// Datagrams a second.
const RATE: u64 = 2000;

/// What is configured otherwise from test to test.
#[derive(Clone, Copy)]
struct Setting {
    fast_path: &'static str,
    on_failure: &'static str,
    at_stop: &'static str,
    keep: &'static str,
    /// Where connections of the client appear from.
    source: &'static str,
    /// The firewall's rules.
    rules: &'static str,
    /// The interfaces in another order, and one rule more in the NAT before the others.
    moved: bool,
}

impl Setting {
    /// The interfaces are given back to the kernel, whose own address must not be the one that is translated to: it would reset what it
    /// does not know.
    const REMOVED: Setting = Setting {
        fast_path: "off",
        on_failure: "open",
        at_stop: "{ program: remove }",
        keep: "1s",
        source: "pool: 203.0.113.8-203.0.113.9",
        rules: "[ { allow: { from: lan } } ]",
        moved: false,
    };

    const KEPT: Setting = Setting {
        on_failure: "closed",
        at_stop: "{ program: keep }",
        keep: "30s",
        source: "masquerade: true",
        ..Setting::REMOVED
    };

    /// Firewall, load balancer, NAT and router.
    fn yaml(&self) -> String {
        let Setting { fast_path, on_failure, at_stop, keep, source, rules, moved } = self;
        let mut names = ["lan", "wan", "dmz"];
        if *moved {
            names.reverse();
        }
        let interface = |name: &str| {
            format!("  {name}: {{ device: {name}0, on-failure: {on_failure}, fast-path: {fast_path} }}\n")
        };
        let interfaces: String = names.map(interface).concat();
        let first = if *moved { "{ match: { source: 10.9.0.0/16 }, none: true }, " } else { "" };
        format!(
            "interfaces:\n{interfaces}workers: {{ cores: [0] }}\nfast-path: {{ keep: {keep} }}\nat-stop: {at_stop}\n\
             functions:\n  edge: {{ firewall: {{ default: drop, rules: {rules} }} }}\n  \
             front: {{ load-balancer: {{ services: [ {{ name: echo, vip: {VIP}, port: 7, protocol: tcp, backends: \
             [ {{ address: 10.3.0.10 }} ] }} ] }} }}\n  \
             outer: {{ nat: {{ outside: wan, source: [ {first}{{ match: {{ source: 10.1.0.0/16, destination: 10.2.0.0/16 }}, {source} }} ] }} }}\n  \
             core: {{ router: {{ table: main }} }}\n\
             chains:\n  outbound: {{ from: lan, run: [edge, front, outer, core] }}\n  \
             inbound: {{ from: wan, run: [outer, front, edge, core] }}\n  \
             services: {{ from: dmz, run: [front, edge, core] }}\n"
        )
    }
}

/// A scene in which only what is translated can be answered.
fn begun(setting: &Setting) -> Scene {
    let mut scene = Scene::new();
    scene.start_with(&setting.yaml());
    for argv in [&["ip", "route", "del", "10.1.0.0/24"][..], &["ip", "route", "del", "default"]] {
        let _ = scene.lab.exec(Host::ServerA, argv);
    }
    scene.run(Host::ServerA, &["ip", "route", "replace", "203.0.113.0/24", "via", "10.2.0.1"]);
    echo::serve(&scene.lab, Host::ServerA);
    echo::serve(&scene.lab, Host::ServerB);
    scene
}

fn server() -> IpAddr {
    IpAddr::V4(Host::ServerA.ipv4())
}

/// One connection through the NAT, one through the load balancer; both have been used.
fn connections(scene: &Scene) -> [Connection; 2] {
    let open = |to: IpAddr| {
        let mut connection = Connection::open(&scene.lab, Host::Client, to).expect("it opens");
        connection.exchange().expect("it works");
        connection
    };
    [open(server()), open(VIP.parse().expect("an address"))]
}

fn file(scene: &mut Scene) -> PathBuf {
    let socket = scene.service().socket();
    socket.with_file_name(format!("{}.sessions", socket.file_name().expect("a name").to_string_lossy()))
}

/// Stops the service and starts it with what may be another configuration; how long nobody was there.
fn restart(scene: &mut Scene, setting: &Setting) -> Duration {
    let path = file(scene);
    let begin = Instant::now();
    scene.stop();
    assert!(path.exists(), "the sessions are written");
    scene.start_with(&setting.yaml());
    assert!(!path.exists(), "they are used once");
    begin.elapsed()
}

/// The row of `show restart` for a function.
fn restored(scene: &Scene, function: &str) -> Value {
    let rows = scene.show("restart");
    let rows = rows.as_array().expect("rows");
    rows.iter().find(|row| row["function"] == function).cloned().unwrap_or_default()
}

/// A download over TCP for so many seconds, at a rate that leaves the machine time for other things.
fn download(scene: &Scene, seconds: u32) -> std::thread::JoinHandle<Result<Value, throughway_lab::LabError>> {
    scene.lab.thread(Host::Client, move || {
        let seconds = seconds.to_string();
        let argv = ["--client", "10.2.0.10", "--reverse", "--json", "--time", &seconds, "--bitrate", "50M"];
        let output = std::process::Command::new("iperf3").args(argv).output().expect("iperf3 runs");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    })
}

/// For who runs the test with --nocapture.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Waits until flows from the client to that port run in the XDP program.
fn until_executed(scene: &Scene, port: u16) {
    eventually("the XDP program has the flow", Duration::from_secs(10), || {
        let rows = scene.show(&format!("flows --port {port}"));
        let executed = |row: &Value| row["runs_in"].as_str().is_some_and(|at| at.starts_with("xdp"));
        rows.as_array().expect("rows").iter().any(executed).then_some(())
    });
}

/// A restart under load, twice: once as it was, once with another configuration. Everything that was under way goes on.
fn everything_goes_on(setting: Setting, changed: Setting) {
    let mut scene = begun(&setting);
    let _server = scene.lab.spawn(Host::ServerA, &["iperf3", "--server"], "iperf3.log").expect("it starts");
    let mut connections = connections(&scene);
    eventually("iperf3 is served", Duration::from_secs(20), || {
        let argv = ["iperf3", "--client", "10.2.0.10", "--time", "1"];
        scene.lab.exec(Host::Client, &argv).ok().filter(|output| output.status.success()).map(drop)
    });
    let fast = setting.fast_path != "off";
    for next in [setting, changed] {
        let downloading = download(&scene, 7);
        let datagrams = Datagrams::start(&scene.lab, Host::Client, Host::ServerA, server(), RATE);
        datagrams.let_pass(RATE);
        if fast {
            until_executed(&scene, throughway_tests::datagrams::PORT);
        }
        let before = scene.show("sessions --protocol 6 --port 5201");
        let gap = restart(&mut scene, &next);
        for (number, connection) in connections.iter_mut().enumerate() {
            let said = connection.exchange();
            assert!(said.is_ok(), "connection {number} does not go on: {said:?}");
        }
        datagrams.let_pass(RATE);
        // The download has the outside end that it had.
        let after = scene.show("sessions --protocol 6 --port 5201");
        let ends = |rows: &Value| -> Vec<String> {
            let open = |row: &&Value| row["function"] == "outer" && row["class"] == "established";
            let nat = rows.as_array().expect("rows").iter().filter(open);
            let mut ends: Vec<_> =
                nat.map(|row| format!("{} {}", row["source"], row["translated_source"])).collect();
            ends.sort();
            ends
        };
        assert!(ends(&before).len() >= 2, "{before}");
        assert_eq!(ends(&after), ends(&before));
        for (function, least) in [("edge", 4), ("outer", 4), ("front", 1)] {
            let row = restored(&scene, function);
            assert!(row["sessions"].as_u64() >= Some(least), "{function}: {row}");
            assert_eq!(row["lost"], 0, "{row}");
            let page = scene.page();
            let counted = page.sum("throughway_restored_sessions_total", &[("function", function)]);
            assert_eq!(Some(counted as u64), row["sessions"].as_u64());
        }
        let report = datagrams.finish();
        let lost = report.sent - report.arrived;
        let said = downloading.join().expect("the thread did not panic").expect("the host is there");
        assert!(said["error"].is_null(), "{said}");
        let bytes = said["end"]["sum_received"]["bytes"].as_u64().unwrap_or(0);
        let again = said["end"]["sum_sent"]["retransmits"].as_u64();
        let seconds = said["intervals"].as_array().map_or(0, Vec::len);
        let Setting { fast_path, at_stop, .. } = next;
        say(&format!(
            "fast-path {fast_path}, at-stop {at_stop}: restarted within {gap:?}; of {} datagrams at {RATE}/s {lost} were \
             lost; the download of {seconds} intervals got {bytes} bytes, {again:?} segments were sent again",
            report.sent
        ));
        assert_eq!((report.duplicates, report.damaged), (0, 0));
        // Without the fast path nobody forwards meanwhile: what was sent in that time is lost, and no more. With it the driver does, until
        // the new worker's sockets are in the new program's map: none is lost, unless the machine keeps the worker from its core for longer
        // than there is room in its rings.
        let most = if fast { RATE as f64 / 20.0 } else { gap.as_secs_f64() * RATE as f64 };
        assert!((lost as f64) < most, "{lost} of {most} at most");
        assert!(bytes > 10_000_000, "{said}");
    }
    scene.stop();
    // It was told to leave the program only where that was configured.
    let link = scene.run(Host::Box, &["ip", "link", "show", "lan0"]).stdout;
    assert_eq!(link.contains("xdp"), setting.at_stop.contains("keep"), "{link}");
}

/// Other rules, which let the same in; a NAT with one rule more; the interfaces have other numbers.
fn otherwise(setting: Setting) -> Setting {
    Setting {
        rules: "[ { name: inside, allow: { from: lan } }, { drop: { from: wan } } ]",
        moved: true,
        ..setting
    }
}

#[test]
fn connections_go_on_after_an_orderly_restart() {
    if privileged() {
        everything_goes_on(Setting::REMOVED, otherwise(Setting::REMOVED));
    }
}

#[test]
fn connections_go_on_on_an_address_of_the_box_which_it_keeps() {
    if privileged() {
        everything_goes_on(Setting::KEPT, otherwise(Setting::KEPT));
    }
}

#[test]
fn flows_in_the_driver_go_on_while_nobody_is_there() {
    if privileged() {
        let eager = Setting { fast_path: "eager", ..Setting::KEPT };
        everything_goes_on(eager, otherwise(eager));
    }
}

#[test]
fn what_is_left_in_the_driver_ends_by_its_bound_and_the_fail_mode_holds() {
    if !privileged() {
        return;
    }
    let setting = Setting { fast_path: "eager", keep: "2s", ..Setting::KEPT };
    let mut scene = begun(&setting);
    let mut connections = connections(&scene);
    let datagrams = Datagrams::start(&scene.lab, Host::Client, Host::ServerA, server(), RATE);
    datagrams.let_pass(RATE);
    until_executed(&scene, throughway_tests::datagrams::PORT);
    let begin = Instant::now();
    scene.stop();
    let from = datagrams.sent();
    let received = || {
        let counted = scene.run(Host::ServerA, &["cat", "/proc/net/dev"]).stdout;
        let line =
            counted.lines().find(|line| line.trim_start().starts_with("eth0:")).expect("a line").to_owned();
        line.split_whitespace().nth(2).and_then(|packets| packets.parse::<u64>().ok()).expect("a number")
    };
    let first = received();
    eventually("the driver goes on", Duration::from_secs(1), || {
        (received() > first + RATE / 10).then_some(())
    });
    // Nothing else does: what is new finds nobody, and the kernel does not see it.
    scene.run(Host::Box, &["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
    assert!(!scene.pings(Host::Client, "10.2.0.10", 1), "fail closed");
    eventually("the bound is over", Duration::from_secs(10), || {
        let before = received();
        std::thread::sleep(Duration::from_millis(100));
        (received() < before + RATE / 100).then_some(())
    });
    let ended = begin.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(9)).contains(&ended), "{ended:?}");
    let stopped = datagrams.sent();
    datagrams.let_pass(RATE / 2);
    assert!(received() < first + (stopped - from) + RATE / 10, "nothing is executed after that");
    // Whoever comes late finds the connections all the same.
    scene.start_with(&setting.yaml());
    for connection in &mut connections {
        connection.exchange().expect("it goes on");
    }
    let report = datagrams.finish();
    assert!(report.arrived < report.sent, "for a time nobody forwarded");
}

#[test]
fn a_damaged_file_is_said_and_a_kill_leaves_none() {
    if !privileged() {
        return;
    }
    let setting = Setting::KEPT;
    let mut scene = begun(&setting);
    let path = file(&mut scene);
    let mut old = connections(&scene);
    scene.stop();
    let mut bytes = std::fs::read(&path).expect("it was written");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).expect("it can be written");
    scene.start_with(&setting.yaml());
    assert!(!path.exists(), "it is not tried again");
    let rows = scene.show("restart");
    assert_eq!((&rows[0]["reasons"], &rows[0]["sessions"]), (&"damaged".into(), &0.into()), "{rows}");
    let log = scene.service().log();
    assert!(log.contains("are not taken over") && log.contains("it is damaged"), "{log}");
    assert_eq!(scene.page().sum("throughway_restore_refused", &[("reason", "damaged")]), 1.0);
    assert!(scene.show("sessions").as_array().expect("rows").is_empty());
    // The service runs, with sessions of its own.
    let _new = connections(&scene);
    // A kill leaves no sessions, and the fail mode that is declared.
    scene.kill();
    assert!(!path.exists());
    assert!(Connection::open(&scene.lab, Host::Client, server()).is_err(), "fail closed");
    scene.start_with(&setting.yaml());
    assert_eq!(scene.show("restart").as_array().map(Vec::len), Some(0), "nothing was left");
    let _newer = connections(&scene);
    // Sessions of a NAT have begun anew: what was under way is not known any more.
    assert!(old[0].exchange().is_err());
}

#[test]
fn what_is_configured_otherwise_is_left_out_and_counted() {
    if !privileged() {
        return;
    }
    let setting = Setting::KEPT;
    let mut scene = begun(&setting);
    let mut connections = connections(&scene);
    // Another address outside; and the firewall lets the client to the load balancer only, and judges again.
    let yaml = Setting { source: "pool: 203.0.113.8-203.0.113.9", ..setting }.yaml();
    let rules = format!(
        "default: drop, track: {{ rejudge: true }}, rules: [ {{ allow: {{ from: lan, destination: {VIP} }} }} ]"
    );
    let yaml = yaml.replace("default: drop, rules: [ { allow: { from: lan } } ]", &rules);
    assert!(yaml.contains("rejudge"), "{yaml}");
    scene.stop();
    scene.start_with(&yaml);
    let nat = restored(&scene, "outer");
    assert_eq!((&nat["sessions"], &nat["reasons"]), (&0.into(), &"address-gone 1".into()), "{nat}");
    assert_eq!(restored(&scene, "edge")["sessions"], 2);
    assert!(connections[1].exchange().is_ok(), "what is still allowed goes on");
    assert!(connections[0].exchange().is_err(), "what is not has ended");
    let counted = scene
        .page()
        .sum("throughway_restore_lost_sessions_total", &[("function", "outer"), ("reason", "address-gone")]);
    assert_eq!(counted, 1.0);
    // A function that is gone.
    scene.stop();
    let config = throughway_tests::config::Config { on_failure: "closed", ..Default::default() };
    scene.start(&config);
    let gone = restored(&scene, "front");
    assert_eq!((&gone["kind"], &gone["sessions"]), (&"load-balancer".into(), &0.into()));
    assert_eq!(gone["reasons"], "function-gone 1", "{gone}");
}

#[test]
fn a_start_that_fails_leaves_the_sessions_to_the_next_one() {
    if !privileged() {
        return;
    }
    let setting = Setting::REMOVED;
    let mut scene = begun(&setting);
    let connections = connections(&scene);
    let (path, socket) = (file(&mut scene), scene.service().socket().to_string_lossy().into_owned());
    scene.stop();
    // Nobody has this core, which is found out when the worker starts: the sessions were taken over before.
    scene.write(&setting.yaml().replace("cores: [0]", "cores: [1000]"));
    let (binary, config) = (throughway_tests::binary().to_string_lossy(), scene.config_path());
    let argv = [&*binary, "run", &config.to_string_lossy(), "--api", &socket];
    let failed = scene.lab.exec(Host::Box, &argv).expect("it can be run");
    let said = failed.stdout + &failed.stderr;
    assert!(
        !failed.status.success() && said.contains("sessions of the last instance are taken over"),
        "{said}"
    );
    assert!(path.exists(), "they are written again: {said}");
    scene.start_with(&setting.yaml());
    for mut connection in connections {
        connection.exchange().expect("it goes on");
    }
}

/// Whether the device takes VLAN tags out of received frames.
fn takes_tags_out(scene: &Scene) -> bool {
    let features = scene.run(Host::Box, &["ethtool", "-k", "lan0"]).stdout;
    let line = features.lines().find(|line| line.starts_with("rx-vlan-offload:")).expect("a veth has it");
    line.contains(": on")
}

#[test]
fn offloads_come_back_when_the_interfaces_are_given_back_whoever_switched_them_off() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::new();
    assert!(takes_tags_out(&scene));
    scene.start_with(&Setting::KEPT.yaml());
    assert!(!takes_tags_out(&scene));
    scene.stop();
    assert!(!takes_tags_out(&scene), "the device is left as it is");
    // One more that is to leave it, and is killed.
    scene.start_with(&Setting::KEPT.yaml());
    scene.kill();
    scene.start_with(&Setting { at_stop: "{ program: remove, sessions: 0s }", ..Setting::KEPT }.yaml());
    assert!(!takes_tags_out(&scene));
    scene.stop();
    assert!(takes_tags_out(&scene));
    // Who does not want a next one says so.
    scene.start_with(&Setting::KEPT.yaml());
    let socket = scene.service().socket().to_string_lossy().into_owned();
    let detach = [&*throughway_tests::binary().to_string_lossy(), "detach", "lan0", "--api", &socket];
    let refused = scene.lab.exec(Host::Box, &detach).expect("it can be run");
    assert!(!refused.status.success() && !takes_tags_out(&scene), "{}", refused.stderr);
    scene.kill();
    assert_eq!(
        scene.run(Host::Box, &detach).stdout,
        "detached; offloads as they were before: rx-vlan-hw-parse on\n"
    );
    assert!(takes_tags_out(&scene));
    assert_eq!(scene.run(Host::Box, &detach).stdout, "no program of ours is attached\n");
}
