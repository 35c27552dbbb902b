//! The host changes while the service runs.

use std::time::Duration;

use nix::sys::signal::Signal;
use throughway_lab::Host;
use throughway_lab::topology::WAN;
use throughway_tests::config::Config;
use throughway_tests::{Scene, eventually, privileged};

#[test]
fn a_neighbour_that_comes_back_with_another_mac_address_and_says_nothing_is_found() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&Config::default());
    // So that the kernel doubts its neighbours after one second instead of thirty.
    let quick = "cd /proc/sys/net/ipv4/neigh/wan0; echo 1000 > base_reachable_time_ms; echo 1 > delay_first_probe_time";
    scene.run(Host::Box, &["sh", "-c", quick]);
    let server = Host::ServerA.ipv4().to_string();
    assert!(scene.pings(Host::Client, &server, 3));
    let mac = scene.run(Host::Box, &["cat", "/sys/class/net/wan0/address"]).stdout;
    // It knows the box, so it asks for nothing and the box learns nothing from its questions.
    let change = format!(
        "ip link set eth0 address 02:00:00:00:00:77 && ip neighbour replace {} lladdr {} dev eth0 nud permanent",
        WAN.box_ipv4(),
        mac.trim()
    );
    scene.run(Host::ServerA, &["sh", "-c", &change]);
    assert!(!scene.pings(Host::Client, &server, 1), "nobody told the box: the test tests nothing");
    eventually("the server is found again", Duration::from_secs(60), || {
        scene.pings(Host::Client, &server, 1).then_some(())
    });
}

#[test]
fn a_device_that_goes_and_comes_back_is_told_and_carries_nothing() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::running(&Config::default());
    let server = Host::ServerA.ipv4().to_string();
    assert!(scene.pings(Host::Client, &server, 3));
    // In another's hands, the name being taken by something else.
    scene.run(Host::ServerA, &["ip", "link", "delete", "eth0"]);
    let again = "ip link add wan0 type veth peer name other && ip addr add 10.2.0.1/24 dev wan0 && \
                 ip link set other up && ip link set wan0 up";
    scene.run(Host::Box, &["sh", "-c", again]);
    eventually("it is in the log", Duration::from_secs(5), || {
        scene.service().log().contains("the device has gone").then_some(())
    });
    let sent = |scene: &Scene| scene.page().sum("throughway_transmit_packets_total", &[("interface", "wan")]);
    let before = sent(&scene);
    assert!(!scene.pings(Host::Client, &server, 3));
    assert_eq!(sent(&scene), before, "packets that went nowhere are counted as sent");
    // The others are not disturbed.
    assert!(scene.pings(Host::Client, &Host::ServerB.ipv4().to_string(), 3));
}

#[test]
fn a_service_that_was_stopped_for_a_while_goes_on() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::running(&Config::default());
    for _ in 0..3 {
        // Longer than the period of the look at the workers, so that several are overdue.
        scene.service().process().signal(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(3200));
        scene.service().process().signal(Signal::SIGCONT);
        std::thread::sleep(Duration::from_millis(1500));
    }
    assert!(scene.pings(Host::Client, &Host::ServerA.ipv4().to_string(), 3));
    scene.stop();
}
