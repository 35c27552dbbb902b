//! What the XDP program executes by itself.

use super::Page;
use crate::stats::FastStats;

/// The figures of one worker's flows.
pub(super) fn fast(page: &mut Page, worker: &str, stats: &FastStats) {
    let of_worker = [("worker", worker)];
    let help = "Flows that the XDP program executes for the worker.";
    page.gauge("throughway_fast_path_flows", help, &of_worker, stats.flows.get() as f64);
    let help = "Flows of the worker that the XDP program has room for.";
    page.gauge("throughway_fast_path_capacity", help, &of_worker, stats.capacity.get() as f64);
    let figures = [
        (
            "packets",
            "Packets of the worker's flows that the XDP program executed; told within 5 s, of more than 65536 flows within 20 s.",
            &stats.packets,
        ),
        ("bytes", "Bytes of these packets, Ethernet header included.", &stats.bytes),
        ("installed", "Flows that were handed over to the XDP program.", &stats.installed),
        ("removed", "Flows that were taken back from the XDP program.", &stats.removed),
        ("driven_out", "Flows that were taken back to make room for heavier ones.", &stats.driven_out),
    ];
    for (name, help, counter) in figures {
        page.counter(&format!("throughway_fast_path_{name}_total"), help, &of_worker, counter.get());
    }
    let help = "How often a flow that was worth it stayed with the worker, and why.";
    for (why, counter) in FastStats::STAYS.iter().zip(&stats.stays) {
        let labels = [("worker", worker), ("why", why)];
        page.counter("throughway_fast_path_stays_total", help, &labels, counter.get());
    }
}
