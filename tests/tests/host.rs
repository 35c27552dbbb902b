//! The host stays reachable: what no chain claims goes to the kernel, before, while and after the service runs.

use std::time::Duration;

use throughway_lab::topology::{LAN, WAN};
use throughway_lab::{Guard, Host};
use throughway_tests::config::Config;
use throughway_tests::daemons::{BIRD_COMMON, bird, is_up};
use throughway_tests::echo::{self, Connection};
use throughway_tests::{Scene, eventually, privileged};

/// Runs `check` before the service starts, while it runs, and after it has stopped.
fn through_start_and_stop(scene: &mut Scene, mut check: impl FnMut(&Scene, &str)) {
    check(scene, "before");
    scene.start(&Config::default());
    check(scene, "while it runs");
    assert!(scene.pings(Host::Client, "10.2.0.10", 5), "the service does its work beside");
    scene.stop();
    check(scene, "afterwards");
}

#[test]
fn a_tcp_session_to_the_box_lives_through_start_and_stop() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::new();
    echo::serve(&scene.lab, Host::Box);
    let own = [LAN.box_ipv4().into(), LAN.box_ipv6().into()];
    let mut sessions = own.map(|to| Connection::open(&scene.lab, Host::Client, to).expect("a connection"));
    through_start_and_stop(&mut scene, |scene, when| {
        for session in &mut sessions {
            session.exchange().unwrap_or_else(|error| panic!("{when}: {error}"));
        }
        for to in own {
            let fresh = Connection::open(&scene.lab, Host::Client, to);
            fresh
                .and_then(|mut fresh| fresh.exchange())
                .unwrap_or_else(|error| panic!("new, {when}: {error}"));
        }
    });
}

#[test]
fn the_box_itself_can_ping_and_be_pinged() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::new();
    through_start_and_stop(&mut scene, |scene, when| {
        for to in ["10.1.0.10", "fd00:1::10", "10.2.0.10", "fd00:2::10", "10.3.0.10", "fd00:3::10"] {
            assert!(scene.pings(Host::Box, to, 5), "{to} {when}");
        }
        for own in ["10.1.0.1", "fd00:1::1"] {
            assert!(scene.pings(Host::Client, own, 5), "{own} {when}");
        }
    });
}

#[test]
fn tcpdump_on_the_box_sees_what_the_kernel_is_given() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&Config::default());
    let path = scene.lab.directory().join("seen.pcap");
    let file = path.to_string_lossy().into_owned();
    let mut dump = scene
        .lab
        .spawn(Host::Box, &["tcpdump", "-U", "-i", "lan0", "-w", &file, "icmp"], "tcpdump.log")
        .expect("it starts");
    std::thread::sleep(Duration::from_millis(500));
    assert!(scene.pings(Host::Client, "10.1.0.1", 4));
    eventually("four requests are in the capture", Duration::from_secs(5), || {
        (throughway_tests::capture::read(&path).len() >= 4).then_some(())
    });
    dump.stop().expect("tcpdump ends");
}

/// The addresses and ports of the connection that carries the box's BGP session; `None` while the session is not established. (Not since
/// when: BIRD computes that anew whenever it is asked, a millisecond more or less.)
fn bgp_connection(scene: &Scene) -> Option<String> {
    let sockets = scene.lab.exec(Host::Box, &["ss", "-Htn", "state", "established"]).ok()?.stdout;
    let bgp = sockets.lines().find(|line| line.split_ascii_whitespace().any(|end| end.ends_with(":179")))?;
    // Behind what waits in its queues.
    let ends: Vec<_> = bgp.split_ascii_whitespace().skip(2).collect();
    is_up(scene, Host::Box, "session", "Established").then(|| ends.join(" "))
}

#[test]
fn a_bgp_session_lives_through_start_and_stop_and_its_routes_are_followed() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::new();
    let (own, peer) = (WAN.box_ipv4(), WAN.host_ipv4());
    // The peer announces an address that it has.
    scene.run(Host::ServerA, &["ip", "address", "add", "10.99.0.1/32", "dev", "lo"]);
    let _box = bird(
        &scene,
        Host::Box,
        &format!(
            "router id {own};\n{BIRD_COMMON}protocol kernel {{ ipv4 {{ export all; import none; }}; }}\n\
             protocol bgp session {{ local {own} as 65001; neighbor {peer} as 65002; hold time 6; connect retry time 1;\n\
             connect delay time 1; ipv4 {{ import all; export none; }}; }}\n"
        ),
    );
    let _peer = bird(
        &scene,
        Host::ServerA,
        &format!(
            "router id {peer};\n{BIRD_COMMON}protocol static {{ ipv4; route 10.99.0.0/24 blackhole; }}\n\
             protocol bgp session {{ local {peer} as 65002; neighbor {own} as 65001; hold time 6; connect retry time 1;\n\
             connect delay time 1; ipv4 {{ import none; export all; }}; }}\n"
        ),
    );
    let connection =
        eventually("the session is established", Duration::from_secs(30), || bgp_connection(&scene));
    let mut first = true;
    through_start_and_stop(&mut scene, |scene, when| {
        // Longer than the hold time: a session that hears nothing would be gone.
        if !std::mem::take(&mut first) {
            std::thread::sleep(Duration::from_secs(8));
        }
        assert_eq!(bgp_connection(scene).as_deref(), Some(connection.as_str()), "{when}");
        if when == "while it runs" {
            assert!(scene.pings(Host::Client, "10.99.0.1", 5), "the route that BIRD learned is not followed");
        }
    });
}

/// A DHCP server in server a's namespace and a client on the box's `wan0`.
struct Dhcp {
    _server: Guard,
    directory: String,
    script: String,
}

impl Dhcp {
    fn new(scene: &Scene) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let directory = scene.lab.directory().to_string_lossy().into_owned();
        let server = scene
            .lab
            .spawn(
                Host::ServerA,
                &[
                    "dnsmasq",
                    "--keep-in-foreground",
                    "--conf-file=/dev/null",
                    "--port=0",
                    "--interface=eth0",
                    "--bind-interfaces",
                    "--dhcp-range=10.2.0.100,10.2.0.110,255.255.255.0,2m",
                    "--dhcp-option=3",
                    "--dhcp-authoritative",
                    "--log-dhcp",
                    "--log-facility=-",
                    "--user=root",
                    "--no-ping",
                    &format!("--dhcp-leasefile={directory}/dnsmasq.leases"),
                    &format!("--pid-file={directory}/dnsmasq.pid"),
                ],
                "dnsmasq.log",
            )
            .expect("dnsmasq starts");
        // The client's own script would change the machine's resolver.
        let script = format!("{directory}/dhcp-script");
        std::fs::write(
            &script,
            format!("#!/bin/sh\necho \"$reason $new_ip_address\" >> {directory}/dhcp-events\n"),
        )
        .expect("the lab's folder takes files");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))
            .expect("it can be made executable");
        Dhcp { _server: server, directory, script }
    }

    /// Asks for an address from nothing, and gives it back to nobody.
    fn ask(&self, scene: &Scene) -> Result<(), String> {
        let events = format!("{}/dhcp-events", self.directory);
        let _ = std::fs::remove_file(&events);
        let leases = format!("{}/dhcp-leases", self.directory);
        let _ = std::fs::remove_file(&leases);
        std::fs::write(&leases, "").map_err(|error| error.to_string())?;
        let pid = format!("{}/dhclient.pid", self.directory);
        let argv = ["dhclient", "-1", "-d", "-v", "-sf", &self.script, "-lf", &leases, "-pf", &pid, "wan0"];
        let mut client =
            scene.lab.spawn(Host::Box, &argv, "dhclient.log").map_err(|error| error.to_string())?;
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        loop {
            let text = std::fs::read_to_string(&events).unwrap_or_default();
            if text.lines().any(|line| line.starts_with("BOUND 10.2.0.1")) {
                return Ok(());
            }
            if client.ended().is_some() || std::time::Instant::now() > deadline {
                let log = scene.lab.directory().join("dhclient.log");
                return Err(format!("{text}{}", std::fs::read_to_string(log).unwrap_or_default()));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_dhcp_client_gets_its_address_on_a_claimed_interface() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::new();
    let dhcp = Dhcp::new(&scene);
    std::thread::sleep(Duration::from_millis(500));
    through_start_and_stop(&mut scene, |scene, when| {
        dhcp.ask(scene).unwrap_or_else(|log| panic!("{when}: {log}"));
    });
}
