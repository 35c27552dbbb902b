//! What becomes of packets when the service dies without a word.

use throughway_lab::Host;
use throughway_lab::topology::LAN;
use throughway_tests::config::Config;
use throughway_tests::{Scene, privileged};

/// Lets the box's own kernel forward, so that it could take over.
fn kernel_forwards(scene: &Scene) {
    let script = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding";
    scene.run(Host::Box, &["sh", "-c", script]);
}

fn crosses(scene: &Scene) -> [bool; 2] {
    Host::ServerA.addresses().map(|to| scene.pings(Host::Client, &to.to_string(), 5))
}

fn reaches_the_box(scene: &Scene) -> [bool; 2] {
    [LAN.box_ipv4().to_string(), LAN.box_ipv6().to_string()].map(|to| scene.pings(Host::Client, &to, 5))
}

#[test]
fn fail_open_gives_everything_to_the_kernel() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::running(&Config { on_failure: "open", ..Config::default() });
    assert_eq!(crosses(&scene), [true, true]);
    scene.kill();
    assert_eq!(reaches_the_box(&scene), [true, true]);
    assert_eq!(crosses(&scene), [false, false], "nothing forwards now");
    kernel_forwards(&scene);
    assert_eq!(crosses(&scene), [true, true], "the kernel gets every packet");
}

#[test]
fn fail_closed_drops_what_a_chain_claims_and_leaves_the_host_reachable() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::running(&Config { on_failure: "closed", ..Config::default() });
    assert_eq!(crosses(&scene), [true, true]);
    scene.kill();
    kernel_forwards(&scene);
    assert_eq!(crosses(&scene), [false, false], "the kernel must not see them");
    assert_eq!(reaches_the_box(&scene), [true, true]);
}

#[test]
fn the_next_service_takes_over_from_a_dead_one() {
    if !privileged() {
        return;
    }
    for on_failure in ["open", "closed"] {
        let config = Config { on_failure, ..Config::default() };
        let mut scene = Scene::running(&config);
        scene.kill();
        scene.start(&config);
        assert_eq!(crosses(&scene), [true, true], "{on_failure}");
        let left = scene.page().sum("throughway_chain_left_packets_total", &[]);
        assert!(left >= 20.0, "{on_failure}: {left}");
        scene.stop();
        let link = scene.run(Host::Box, &["ip", "link", "show", LAN.device]).stdout;
        assert!(!link.contains("xdp"), "{on_failure}: an orderly stop leaves nothing behind: {link}");
    }
}
