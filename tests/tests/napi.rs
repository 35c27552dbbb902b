//! A worker that shares its core with the kernel's receiving.

use std::time::Duration;

use throughway_lab::{Host, Lab, LabOptions, Service};
use throughway_tests::{binary, eventually, privileged, repository};

/// The kernel's NAPI threads of a device. No other test makes any.
fn threads(device: &str) -> Vec<u32> {
    let start = format!("napi/{device}-");
    let named = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with(&start))
    };
    let processes = std::fs::read_dir("/proc").expect("/proc is there").flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(named).collect()
}

/// Switches a device's threaded NAPI on and says which thread it is.
fn threaded(lab: &Lab, device: &str) -> u32 {
    lab.run(Host::Box, &["ethtool", "-K", device, "gro", "on"]).expect("GRO makes NAPI");
    let path = format!("/sys/class/net/{device}/threaded");
    lab.run(Host::Box, &["sh", "-c", &format!("echo 1 > {path}")]).expect("NAPI can be threaded");
    eventually("one thread", Duration::from_secs(5), || match threads(device)[..] {
        [thread] => Some(thread),
        _ => None,
    })
}

fn niceness(thread: u32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{thread}/stat")).expect("the thread runs");
    let (_, fields) = stat.rsplit_once(") ").expect("a name in brackets");
    // The first of these is the third field of proc(5), and the niceness the nineteenth.
    fields.split(' ').nth(16).and_then(|field| field.parse().ok()).expect("a number")
}

#[test]
fn a_napi_thread_pinned_to_the_worker_s_core_steps_back_and_one_that_can_go_elsewhere_does_not() {
    if !privileged() {
        return;
    }
    let lab =
        Lab::up(&LabOptions { wait: true, ..LabOptions::new("throughway-napi") }).expect("the lab comes up");
    let (shared, free) = (threaded(&lab, "lan0"), threaded(&lab, "wan0"));
    lab.run(Host::Box, &["taskset", "-pc", "0", &shared.to_string()]).expect("a thread can be pinned");
    let config = repository().join("config/examples/edge.yaml");
    let _service = Service::start(&lab, binary(), &config).expect("the service starts");
    // At the start, or when it is looked again.
    let stepped_back = || (niceness(shared) == 5).then_some(());
    eventually("the pinned thread steps back", Duration::from_secs(15), stepped_back);
    assert_eq!(niceness(free), 0, "a thread that may run elsewhere was made nicer");
}
