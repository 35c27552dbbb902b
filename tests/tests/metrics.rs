//! The metrics page: names, types, and figures that are true.

use std::time::Duration;

use throughway_lab::metrics::Page;
use throughway_lab::{Host, Service};
use throughway_tests::config::Config;
use throughway_tests::{Scene, binary, eventually, privileged};

/// What dashboards are built on: a name that goes or changes its type breaks them.
const CONTRACT: &[(&str, &str)] = &[
    ("throughway_build_info", "gauge"),
    ("throughway_config_reloads_total", "counter"),
    ("throughway_config_last_reload_successful", "gauge"),
    ("throughway_kernel_overruns_total", "counter"),
    ("throughway_kernel_notifications_total", "counter"),
    ("throughway_kernel_rebuilds_total", "counter"),
    ("throughway_kernel_resyncs_total", "counter"),
    ("throughway_kernel_undecodable_total", "counter"),
    ("throughway_kernel_routes", "gauge"),
    ("throughway_kernel_silent_neighbours", "gauge"),
    ("throughway_router_prefixes", "gauge"),
    ("throughway_router_updates_total", "counter"),
    ("throughway_router_refused_total", "counter"),
    ("throughway_router_lookups_total", "counter"),
    ("throughway_router_misses_total", "counter"),
    ("throughway_router_unresolved_total", "counter"),
    ("throughway_interface_info", "gauge"),
    ("throughway_interface_fallback", "gauge"),
    ("throughway_steered_packets_total", "counter"),
    ("throughway_receive_packets_total", "counter"),
    ("throughway_receive_bytes_total", "counter"),
    ("throughway_transmit_packets_total", "counter"),
    ("throughway_transmit_bytes_total", "counter"),
    ("throughway_dropped_packets_total", "counter"),
    ("throughway_originated_packets_total", "counter"),
    ("throughway_fragmented_packets_total", "counter"),
    ("throughway_fragments_total", "counter"),
    ("throughway_held_packets", "gauge"),
    ("throughway_frames_outstanding", "gauge"),
    ("throughway_batch_packets", "histogram"),
    ("throughway_chain_entered_packets_total", "counter"),
    ("throughway_chain_left_packets_total", "counter"),
    ("throughway_function_packets_total", "counter"),
    ("throughway_function_dropped_packets_total", "counter"),
    ("throughway_worker_rounds_total", "counter"),
    // XDP_STATISTICS, all six.
    ("throughway_xsk_rx_dropped_total", "counter"),
    ("throughway_xsk_rx_invalid_descs_total", "counter"),
    ("throughway_xsk_tx_invalid_descs_total", "counter"),
    ("throughway_xsk_rx_ring_full_total", "counter"),
    ("throughway_xsk_rx_fill_ring_empty_descs_total", "counter"),
    ("throughway_xsk_tx_ring_empty_descs_total", "counter"),
];

fn check_form(page: &Page) {
    for (name, kind) in CONTRACT {
        assert_eq!(page.types.get(*name).map(String::as_str), Some(*kind), "{name}");
    }
    for (name, kind) in &page.types {
        assert!(name.starts_with("throughway_"), "{name}");
        assert!(page.help.get(name).is_some_and(|help| !help.is_empty()), "{name} has no help text");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
    }
    let mut seen = std::collections::BTreeSet::new();
    for sample in &page.samples {
        assert!(seen.insert((sample.name.clone(), sample.labels.clone())), "twice: {sample:?}");
    }
    for interface in ["lan", "wan", "dmz"] {
        let labels = [("interface", interface)];
        let info: Vec<_> = page.of("throughway_interface_info", &labels).collect();
        assert_eq!(info.len(), 1, "{interface}");
        // What veth can do: the driver's XDP, but no zero copy.
        assert_eq!(info[0].label("xdp"), "native");
        assert_eq!(
            page.sum("throughway_interface_fallback", &[("interface", interface), ("what", "zero-copy")]),
            1.0
        );
    }
}

/// Every packet that came in or was made here went out or died, and nothing is left in anybody's hands.
fn balance(page: &Page) -> Result<(), String> {
    let sum = |name| page.sum(name, &[]);
    let made = sum("throughway_originated_packets_total") + sum("throughway_fragments_total");
    let came = sum("throughway_receive_packets_total") + made;
    let gone = sum("throughway_dropped_packets_total") + sum("throughway_fragmented_packets_total");
    let went = sum("throughway_transmit_packets_total") + gone;
    let (held, outstanding) = (sum("throughway_held_packets"), sum("throughway_frames_outstanding"));
    if came == went && held == 0.0 && outstanding == 0.0 {
        return Ok(());
    }
    Err(format!("{came} came, {went} went, {held} wait, {outstanding} frames out"))
}

#[test]
fn the_page_keeps_its_contract_and_its_figures_are_true() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&Config::default());
    let before = scene.page();
    check_form(&before);
    assert!(scene.pings(Host::Client, "10.2.0.10", 100));
    let after = scene.page();
    let moved = |name: &str, labels: &[(&str, &str)]| after.sum(name, labels) - before.sum(name, labels);
    for (name, labels) in [
        ("throughway_receive_packets_total", [("interface", "lan")]),
        ("throughway_receive_packets_total", [("interface", "wan")]),
        ("throughway_transmit_packets_total", [("interface", "lan")]),
        ("throughway_transmit_packets_total", [("interface", "wan")]),
        ("throughway_chain_entered_packets_total", [("chain", "outbound")]),
        ("throughway_chain_left_packets_total", [("chain", "outbound")]),
        ("throughway_chain_left_packets_total", [("chain", "inbound")]),
    ] {
        assert_eq!(moved(name, &labels), 100.0, "{name} {labels:?}");
    }
    // 14 bytes Ethernet, 20 IPv4, 8 ICMP, 56 data.
    assert_eq!(moved("throughway_receive_bytes_total", &[("interface", "lan")]), 9800.0);
    assert_eq!(moved("throughway_receive_packets_total", &[("interface", "dmz")]), 0.0);
    assert_eq!(
        moved("throughway_steered_packets_total", &[("interface", "lan"), ("reason", "to-worker")]),
        100.0
    );
    assert_eq!(moved("throughway_function_packets_total", &[("function", "core")]), 200.0);
    assert_eq!(moved("throughway_batch_packets_sum", &[("interface", "lan")]), 100.0);
}

#[test]
fn every_packet_is_accounted_for() {
    if !privileged() {
        return;
    }
    let scene = Scene::running(&Config::default());
    // Forwarded, refused with an answer, expired, too big, and waiting for a neighbour that is not there.
    for argv in [
        &["ping", "-n", "-q", "-f", "-c", "2000", "10.2.0.10"][..],
        &["ping", "-n", "-c", "3", "-i", "0.1", "-W", "1", "192.0.2.1"],
        &["ping", "-n", "-c", "3", "-i", "0.1", "-t", "1", "-W", "1", "10.2.0.10"],
        &["ping", "-n", "-c", "3", "-i", "0.1", "-M", "do", "-s", "1472", "-W", "1", "10.3.0.10"],
        &["ping", "-n", "-c", "5", "-i", "0.1", "-W", "1", "10.3.0.77"],
        &["ping", "-n", "-c", "3", "-i", "0.1", "-W", "1", "fd00:3::77"],
    ] {
        scene.lab.exec(Host::Client, argv).expect("ping runs");
    }
    let mut last = String::new();
    eventually("the figures balance", Duration::from_secs(15), || match balance(&scene.page()) {
        Ok(()) => Some(()),
        Err(difference) => {
            last = difference;
            None
        }
    });
    let page = scene.page();
    for reason in ["no-route", "hop-limit-exceeded", "neighbour-unreachable"] {
        assert!(
            page.sum("throughway_dropped_packets_total", &[("reason", reason)]) >= 3.0,
            "{reason} {last}"
        );
    }
    assert!(page.sum("throughway_dropped_packets_total", &[("reason", "too-big")]) >= 1.0);
}

#[test]
fn the_page_is_read_over_http_and_nothing_else_is() {
    if !privileged() {
        return;
    }
    let mut scene = Scene::running(&Config::default());
    let head = scene.run(Host::Box, &["curl", "-s", "-i", "http://127.0.0.1:9464/metrics"]).stdout;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    let other = scene
        .run(Host::Box, &["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:9464/x"]);
    assert_eq!(other.stdout, "404");
    // A second one must not take the first one's place.
    let twin = Service::start_with(&scene.lab, binary(), &scene.config_path(), "twin");
    let error = twin.expect_err("two services on one interface").to_string();
    assert!(error.contains("lan0") || error.contains("9464"), "{error}");
    assert!(scene.pings(Host::Client, "10.2.0.10", 5), "the second one broke the first");
    scene.stop();
}
