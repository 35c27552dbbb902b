//! What the service says of the demo's traffic, from its metrics page.

use std::fmt::Write;

use crate::metrics::{Page, Sample};

/// The report: granted modes and volumes by interface, chains, functions, drops by reason.
pub(super) fn report(page: &Page) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\nInterfaces");
    for info in page.of("throughway_interface_info", &[]) {
        let name = [("interface", info.label("interface"))];
        let _ = writeln!(
            text,
            "  {:<8}{:<8}XDP {}, zero copy {}; {} packets in, {} out",
            info.label("interface"),
            info.label("device"),
            info.label("xdp"),
            info.label("zero_copy"),
            page.sum("throughway_receive_packets_total", &name),
            page.sum("throughway_transmit_packets_total", &name),
        );
    }
    let _ = writeln!(text, "Chains");
    for name in names(page, "throughway_chain_entered_packets_total", "chain") {
        let chain = [("chain", name.as_str())];
        let _ = writeln!(
            text,
            "  {name:<16}{} packets in, {} out, {:.0} MB",
            page.sum("throughway_chain_entered_packets_total", &chain),
            page.sum("throughway_chain_left_packets_total", &chain),
            page.sum("throughway_chain_left_bytes_total", &chain) / 1e6,
        );
    }
    let _ = writeln!(text, "Functions");
    for name in names(page, "throughway_function_packets_total", "function") {
        let function = [("function", name.as_str())];
        let judged = page.sum("throughway_function_packets_total", &function);
        let ended = page.sum("throughway_function_dropped_packets_total", &function);
        let _ = writeln!(text, "  {name:<16}{judged} packets judged, {ended} ended");
    }
    by_reason(&mut text, page, "Dropped by the workers", "throughway_dropped_packets_total");
    by_reason(&mut text, page, "Decided by the XDP program", "throughway_steered_packets_total");
    sockets(&mut text, page);
    text.truncate(text.trim_end().len());
    text
}

/// Sums over workers, one line for each interface and reason that happened.
fn by_reason(text: &mut String, page: &Page, title: &str, metric: &str) {
    let _ = writeln!(text, "{title}");
    let mut none = true;
    for interface in names(page, metric, "interface") {
        for reason in names(page, metric, "reason") {
            let count = page.sum(metric, &[("interface", &interface), ("reason", &reason)]);
            if count > 0.0 {
                none = false;
                let _ = writeln!(text, "  {interface:<12}{reason:<28}{count}");
            }
        }
    }
    if none {
        let _ = writeln!(text, "  nothing");
    }
}

/// What the AF_XDP sockets lost: between the XDP program and the worker, or on the way out.
fn sockets(text: &mut String, page: &Page) {
    let losses = [
        ("throughway_xsk_rx_ring_full_total", "receive ring was full"),
        ("throughway_xsk_rx_dropped_total", "dropped by the kernel"),
        ("throughway_xsk_rx_invalid_descs_total", "invalid fill descriptors"),
        ("throughway_xsk_tx_invalid_descs_total", "invalid transmit descriptors"),
    ];
    let _ = writeln!(text, "Lost in the AF_XDP sockets");
    let mut none = true;
    for interface in names(page, "throughway_interface_info", "interface") {
        for (metric, what) in losses {
            let count = page.sum(metric, &[("interface", &interface)]);
            if count > 0.0 {
                none = false;
                let _ = writeln!(text, "  {interface:<12}{what:<28}{count}");
            }
        }
    }
    if none {
        let _ = writeln!(text, "  nothing");
    }
}

/// The values of a label, each once, in the order of the page.
fn names(page: &Page, metric: &str, label: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for name in page.of(metric, &[]).map(|sample: &Sample| sample.label(label)) {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_sums_over_workers_and_leaves_out_what_did_not_happen() {
        let page = Page::parse(
            r#"throughway_interface_info{interface="lan",device="lan0",xdp="native",zero_copy="copy",on_failure="open"} 1
throughway_receive_packets_total{interface="lan",worker="0"} 10
throughway_receive_packets_total{interface="lan",worker="1"} 5
throughway_chain_entered_packets_total{chain="out",worker="0"} 15
throughway_chain_left_packets_total{chain="out",worker="0"} 12
throughway_dropped_packets_total{interface="lan",worker="0",reason="no-route"} 3
throughway_dropped_packets_total{interface="lan",worker="0",reason="too-big"} 0
throughway_xsk_rx_ring_full_total{interface="lan",queue="0",worker="0"} 7
"#,
        )
        .unwrap();
        let text = report(&page);
        assert!(text.contains("XDP native, zero copy copy; 15 packets in, 0 out"), "{text}");
        assert!(text.contains("15 packets in, 12 out"), "{text}");
        assert!(text.contains("no-route                    3"), "{text}");
        assert!(!text.contains("too-big"), "{text}");
        assert!(text.contains("Decided by the XDP program\n  nothing\n"), "{text}");
        assert!(text.contains("lan         receive ring was full       7"), "{text}");
    }
}
