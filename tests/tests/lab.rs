//! The lab itself: what the other tests stand on.

use throughway_lab::topology::{DMZ, LAN};
use throughway_lab::web::{self, FileServer};
use throughway_lab::{Host, Lab, LabError, LabOptions};
use throughway_tests::privileged;

const PREFIX: &str = "throughway-labtest";

fn up() -> Lab {
    Lab::up(&LabOptions { wait: true, ..LabOptions::new(PREFIX) }).expect("the lab comes up")
}

fn forward(lab: &Lab, on: bool) {
    let value = if on { "1" } else { "0" };
    let script = format!(
        "echo {value} > /proc/sys/net/ipv4/ip_forward; echo {value} > /proc/sys/net/ipv6/conf/all/forwarding"
    );
    lab.run(Host::Box, &["sh", "-c", &script]).expect("forwarding is set");
}

fn pings(lab: &Lab, to: &str) -> bool {
    let output =
        lab.exec(Host::Client, &["ping", "-n", "-c", "2", "-i", "0.05", "-W", "1", to]).expect("ping runs");
    output.status.success()
}

#[test]
fn the_box_is_reached_but_nothing_crosses_it_without_throughway() {
    if !privileged() {
        return;
    }
    let lab = up();
    for to in ["10.1.0.1", "fd00:1::1"] {
        assert!(pings(&lab, to), "{to}");
    }
    for to in ["10.2.0.10", "fd00:2::10", "10.3.0.10", "fd00:3::10"] {
        assert!(!pings(&lab, to), "{to}");
    }
    // That it is the box and not a broken wire which stops them:
    forward(&lab, true);
    for to in ["10.2.0.10", "fd00:2::10", "10.3.0.10", "fd00:3::10"] {
        assert!(pings(&lab, to), "{to}");
    }
    let path = lab.run(Host::Client, &["tracepath", "-n", "10.3.0.10"]).expect("tracepath runs").stdout;
    assert!(path.contains("pmtu 1400"), "{path}");
    let _web = FileServer::start(&lab, Host::ServerA, 1_000_000).expect("the file server starts");
    let script = format!("curl --silent --fail http://{}:{}/ | sha256sum", Host::ServerA.ipv4(), web::PORT);
    let sum = lab.run(Host::Client, &["sh", "-c", &script]).expect("curl runs").stdout;
    assert!(sum.starts_with(&web::sha256(1_000_000).expect("a checksum")), "{sum}");
}

#[test]
fn a_lab_takes_everything_along_when_it_goes() {
    if !privileged() {
        return;
    }
    // A name of its own: the tests beside this one take theirs as soon as it is free.
    const GONE: &str = "throughway-gone";
    let lab = Lab::up(&LabOptions { wait: true, ..LabOptions::new(GONE) }).expect("the lab comes up");
    let mut left = lab.spawn(Host::ServerB, &["sleep", "600"], "sleep.log").expect("sleep starts");
    let directory = lab.directory().to_owned();
    assert!(directory.exists());
    assert!(matches!(Lab::up(&LabOptions::new(GONE)), Err(LabError::Busy { .. })));
    drop(lab);
    assert!(left.ended().is_some(), "the process outlived the lab");
    assert!(!directory.exists());
    assert!(matches!(Lab::attach(GONE), Err(LabError::Absent { .. })));
}

#[test]
fn what_a_dead_run_left_is_replaced() {
    if !privileged() {
        return;
    }
    let lab = up();
    lab.run(Host::Client, &["ip", "route", "delete", "default"]).expect("the route goes");
    // As if killed: the namespaces stay.
    lab.keep();
    let attached = Lab::attach(PREFIX).expect("it is still there");
    assert!(!attached.run(Host::Client, &["ip", "route"]).expect("ip runs").stdout.contains("default"));
    let lab = up();
    let routes = lab.run(Host::Client, &["ip", "route"]).expect("ip runs").stdout;
    assert!(routes.contains(&format!("default via {}", LAN.box_ipv4())), "{routes}");
}

#[test]
fn queues_mtu_and_offloads_are_as_asked_for() {
    if !privileged() {
        return;
    }
    let options = LabOptions { queues: 2, wait: true, checksum_offload: true, ..LabOptions::new(PREFIX) };
    let lab = Lab::up(&options).expect("the lab comes up");
    let link = lab.run(Host::Box, &["ip", "-d", "link", "show", DMZ.device]).expect("ip runs").stdout;
    assert!(link.contains("mtu 1400") && link.contains("numrxqueues 2"), "{link}");
    let features = lab.run(Host::Client, &["ethtool", "-k", "eth0"]).expect("ethtool runs").stdout;
    assert!(
        features.contains("tx-checksumming: on") && features.contains("generic-receive-offload: on"),
        "{features}"
    );
    drop(lab);
    let features = up().run(Host::Client, &["ethtool", "-k", "eth0"]).expect("ethtool runs").stdout;
    assert!(features.contains("tx-checksumming: off"), "{features}");
}
