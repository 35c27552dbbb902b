//! The Prometheus page: counters of all workers, read when somebody asks.

mod balancers;
mod fast;
mod nats;
mod restart;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Router, routing};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, TextEncoder};
use throughway_session::{Class, Stats};
use throughway_vnf::DropReason;

use crate::app::Service;
use crate::control::mirror::Figures;
use crate::stats::{BATCH_BOUNDS, FlowStats, SocketStats};
use crate::worker::limit::Suppressed;

/// Serves `/metrics` until the process ends.
pub async fn serve(listener: tokio::net::TcpListener, service: Arc<Mutex<Service>>) -> std::io::Result<()> {
    let page = move || {
        let service = Arc::clone(&service);
        async move {
            match tokio::task::spawn_blocking(move || render(&service)).await {
                Ok(Ok(text)) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
                _ => (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written").into_response(),
            }
        }
    };
    let router = Router::new()
        .route("/metrics", routing::get(page))
        .route("/", routing::get(|| async { "throughway: metrics are at /metrics\n" }));
    axum::serve(listener, router).await
}

/// Opens the address of the metrics page.
pub async fn listen(address: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(address).await
}

fn render(service: &Mutex<Service>) -> Result<String, prometheus::Error> {
    let families = {
        let service = service.lock().unwrap_or_else(PoisonError::into_inner);
        collect(&service)
    };
    let mut text = Vec::new();
    TextEncoder::new().encode(&families, &mut text)?;
    String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
}

/// Metric families in the making.
#[derive(Default)]
struct Page(Vec<MetricFamily>);

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    fn add(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        labels: Labels<'_>,
        set: impl FnOnce(&mut Metric),
    ) {
        let mut metric = Metric::default();
        let labels = labels.iter().map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        metric.set_label(labels.collect());
        set(&mut metric);
        match self.0.iter_mut().find(|family| family.name() == name) {
            Some(family) => family.mut_metric().push(metric),
            None => {
                let mut family = MetricFamily::default();
                family.set_name(name.to_owned());
                family.set_help(help.to_owned());
                family.set_field_type(kind);
                family.mut_metric().push(metric);
                self.0.push(family);
            }
        }
    }

    fn counter(&mut self, name: &str, help: &str, labels: Labels<'_>, value: u64) {
        self.add(name, help, MetricType::COUNTER, labels, |metric| {
            let mut counter = Counter::default();
            counter.set_value(value as f64);
            metric.set_counter(counter);
        });
    }

    fn gauge(&mut self, name: &str, help: &str, labels: Labels<'_>, value: f64) {
        self.add(name, help, MetricType::GAUGE, labels, |metric| {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        });
    }
}

fn collect(service: &Service) -> Vec<MetricFamily> {
    let mut page = Page::default();
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    page.gauge("throughway_build_info", "The running version; always 1.", &version, 1.0);
    reloads(&mut page, service);
    restart::restart(&mut page, service);
    kernel(&mut page, &service.kernel_figures());
    routers(&mut page, service);
    interfaces(&mut page, service);
    for worker in service.workers() {
        worker_figures(&mut page, service, worker);
    }
    functions(&mut page, service);
    firewalls(&mut page, service);
    early(&mut page, service);
    nats::nats(&mut page, service);
    balancers::balancers(&mut page, service);
    page.0
}

/// What there is to say of a table of sessions.
struct SessionFigures {
    /// Sessions by class, as in [`Class::ALL`].
    classes: [u32; Class::ALL.len()],
    capacity: u32,
    bytes: usize,
    stats: Stats,
}

/// The table of sessions of a function.
fn sessions(page: &mut Page, name: &str, table: &SessionFigures) {
    let function = [("function", name)];
    for (class, count) in Class::ALL.iter().zip(table.classes) {
        let labels = [("function", name), ("class", class.label())];
        page.gauge("throughway_sessions", "Sessions, by class.", &labels, f64::from(count));
    }
    page.gauge("throughway_sessions_capacity", "The most sessions.", &function, f64::from(table.capacity));
    let help = "Memory of the session table.";
    page.gauge("throughway_sessions_bytes", help, &function, table.bytes as f64);
    page.counter("throughway_sessions_opened_total", "Sessions made.", &function, table.stats.inserted);
    for (why, count) in [("full", table.stats.refused_full), ("quota", table.stats.refused_quota)] {
        let labels = [("function", name), ("why", why)];
        let help = "Sessions refused for want of room, in all or in their class.";
        page.counter("throughway_sessions_refused_total", help, &labels, count);
    }
}

fn firewalls(page: &mut Page, service: &Service) {
    page.counter(
        "throughway_events_lost_total",
        "Log entries and other events of functions that were lost because they came faster than they can be written.",
        &[],
        service.lost_events(),
    );
    for (name, shared) in service.firewalls() {
        let function = [("function", name.as_str())];
        let overview = shared.overview();
        let table = SessionFigures {
            classes: overview.sessions,
            capacity: shared.options().sessions,
            bytes: overview.memory,
            stats: overview.table,
        };
        sessions(page, &name, &table);
        page.gauge(
            "throughway_reassembly_datagrams",
            "Datagrams of which fragments are awaited.",
            &function,
            f64::from(overview.datagrams),
        );
        for rule in shared.rules() {
            let labels = [("function", name.as_str()), ("rule", rule.name.as_str())];
            let help = "Packets that a rule matched, and those of the sessions it let in.";
            page.counter("throughway_rule_packets_total", help, &labels, rule.stats.packets);
            let help = "Bytes of these packets.";
            page.counter("throughway_rule_bytes_total", help, &labels, rule.stats.bytes);
            let help = "Sessions that a rule let in.";
            page.counter("throughway_rule_sessions_total", help, &labels, rule.stats.sessions);
        }
        for limit in shared.limits() {
            let labels = [("function", name.as_str()), ("limit", limit.config.name.as_str())];
            let help = "Packets for which the limit of a rule was exceeded.";
            page.counter("throughway_limit_exceeded_total", help, &labels, limit.stats.exceeded);
        }
    }
}

fn early(page: &mut Page, service: &Service) {
    for view in service.early() {
        let labels = [("function", view.function.as_str()), ("set", view.set.as_str())];
        let help =
            "Packets that the XDP program dropped before anything else, as their source is in the set.";
        page.counter("throughway_firewall_early_drops_total", help, &labels, view.drops);
        let help = "Prefixes that the set has in the XDP program.";
        page.gauge("throughway_firewall_early_prefixes", help, &labels, view.prefixes as f64);
    }
}

fn reloads(page: &mut Page, service: &Service) {
    let reloads = service.reloads();
    let help = "Reloads of the configuration, by result.";
    page.counter("throughway_config_reloads_total", help, &[("result", "applied")], reloads.applied);
    page.counter("throughway_config_reloads_total", help, &[("result", "refused")], reloads.refused);
    page.gauge(
        "throughway_config_last_reload_successful",
        "Whether the last attempt to reload was applied (1 also when there was none).",
        &[],
        f64::from(u8::from(reloads.last_applied)),
    );
}

fn kernel(page: &mut Page, figures: &Figures) {
    let mirror = &figures.mirror;
    let counters = [
        (
            "overruns",
            "Times the netlink socket overflowed and the kernel's state was read anew.",
            mirror.overruns,
        ),
        (
            "rebuilds",
            "Times the kernel's state was read anew as a whole: once for several overruns in a row.",
            mirror.rebuilds,
        ),
        ("notifications", "Netlink notifications read.", mirror.notifications),
        (
            "resyncs",
            "Times the routes of one family were read anew, as a notification did not fit what was known.",
            mirror.resyncs,
        ),
        (
            "rechecks",
            "Times the routes over one device were read anew, as the kernel changes them without a word.",
            mirror.rechecks,
        ),
        ("undecodable", "Netlink messages that could not be understood.", mirror.undecodable),
        ("interrupted_dumps", "Times a table changed while it was read.", mirror.interrupted_dumps),
        ("neighbour_resolutions", "Neighbours that the kernel was asked to resolve.", figures.resolutions),
        (
            "neighbour_confirmations",
            "Stale neighbours in use that the kernel was asked to confirm.",
            figures.confirmations,
        ),
    ];
    for (name, help, value) in counters {
        page.counter(&format!("throughway_kernel_{name}_total"), help, &[], value);
    }
    let gauges = [
        ("routes", "Routes of all tables of the kernel.", figures.routes),
        ("routes_bytes", "Memory of the mirrored routes, at most.", figures.memory),
        ("silent_neighbours", "Neighbours that were asked for and did not answer.", figures.silent),
    ];
    for (name, help, value) in gauges {
        page.gauge(&format!("throughway_kernel_{name}"), help, &[], value as f64);
    }
}

fn routers(page: &mut Page, service: &Service) {
    for router in service.kernel_figures().routers {
        let of = [("router", router.name.as_str())];
        for (family, prefixes) in ["ipv4", "ipv6"].iter().zip(router.prefixes) {
            let labels = [("router", router.name.as_str()), ("family", *family)];
            let help = "Prefixes in the forwarding table.";
            page.gauge("throughway_router_prefixes", help, &labels, prefixes as f64);
        }
        for (side, bytes) in ["lookup", "control"].iter().zip(router.memory) {
            let labels = [("router", router.name.as_str()), ("side", *side)];
            let help = "Memory of the forwarding table: what packets are looked up in, and what changes it.";
            page.gauge("throughway_router_table_bytes", help, &labels, bytes as f64);
        }
        let help = "Prefixes that were judged anew since something of them had changed.";
        page.counter("throughway_router_updates_total", help, &of, router.rib.updates);
        let help = "Prefixes whose route became another.";
        page.counter("throughway_router_changes_total", help, &of, router.rib.changed);
        let help = "Routes that did not fit into the forwarding table.";
        page.counter("throughway_router_refused_total", help, &of, router.rib.refused);
    }
    for entry in service.router_stats() {
        let worker = entry.worker.to_string();
        let labels = [("router", entry.name.as_str()), ("worker", worker.as_str())];
        let counters = &entry.counters;
        let figures = [
            (
                "lookups",
                "Destinations looked up: first packets of flows, and those that the flow cache leaves.",
                &counters.lookups,
            ),
            ("misses", "Look-ups that found no route.", &counters.misses),
            ("unresolved", "Packets whose next hop was not resolved.", &counters.unresolved),
        ];
        for (name, help, counter) in figures {
            page.counter(&format!("throughway_router_{name}_total"), help, &labels, counter.get());
        }
    }
}

fn interfaces(page: &mut Page, service: &Service) {
    for interface in service.interfaces() {
        let labels = [
            ("interface", interface.name.as_str()),
            ("device", interface.device.as_str()),
            ("xdp", interface.xdp.as_str()),
            ("zero_copy", interface.zero_copy.as_str()),
            ("on_failure", interface.on_failure.as_str()),
            ("fast_path", interface.fast_path.as_str()),
        ];
        page.gauge(
            "throughway_interface_info",
            "Interfaces and the modes they were granted; always 1.",
            &labels,
            1.0,
        );
        let help = "Whether the interface runs in a slower mode than the best (generic XDP, or copies instead of zero copy).";
        for (what, fallback) in [
            ("xdp", &interface.xdp_fallback),
            ("zero-copy", &interface.zero_copy_fallback),
            ("fast-path", &interface.fast_path_fallback),
        ] {
            let labels = [("interface", interface.name.as_str()), ("what", what)];
            page.gauge(
                "throughway_interface_fallback",
                help,
                &labels,
                f64::from(u8::from(fallback.is_some())),
            );
        }
    }
    for (interface, unfit) in service.interfaces().iter().zip(service.unfit()) {
        let help = "Whether the XDP program itself can send known flows by the interface.";
        let labels = [("interface", interface.name.as_str())];
        page.gauge("throughway_fast_path_egress", help, &labels, f64::from(u8::from(unfit.is_none())));
    }
    for (interface, reason, count) in service.steered() {
        let help = "Frames that the XDP program decided, by what it decided and why.";
        let labels = [("interface", interface.as_str()), ("reason", reason)];
        page.counter("throughway_steered_packets_total", help, &labels, count);
    }
}

fn worker_figures(page: &mut Page, service: &Service, worker: &crate::app::WorkerView) {
    let number = worker.number.to_string();
    let stats = &worker.stats;
    let of_worker = [("worker", number.as_str())];
    page.counter(
        "throughway_worker_rounds_total",
        "Rounds of the worker's loop.",
        &of_worker,
        stats.rounds.get(),
    );
    let help = "Rounds of the worker's loop that found no packet.";
    page.counter("throughway_worker_idle_rounds_total", help, &of_worker, stats.idle_rounds.get());
    let help = "Packets that the data plane itself originated (ICMP errors, TCP resets).";
    page.counter("throughway_originated_packets_total", help, &of_worker, stats.originated.get());
    let help = "IPv4 packets that were cut into fragments for their egress.";
    page.counter("throughway_fragmented_packets_total", help, &of_worker, stats.fragmented.get());
    let help = "Fragments that packets were cut into.";
    page.counter("throughway_fragments_total", help, &of_worker, stats.fragments.get());
    let help = "Answers (ICMP errors, TCP resets) that were due but not sent.";
    for (label, count) in Suppressed::LABELS.iter().zip(&stats.suppressed) {
        let labels = [&of_worker[..], &[("reason", *label)]].concat();
        page.counter("throughway_answers_suppressed_total", help, &labels, count.get());
    }
    let help = "Answers to pings of this host and errors about its own packets that were given to it.";
    page.counter("throughway_given_to_host_packets_total", help, &of_worker, stats.given_to_host.get());
    let help =
        "Packets that wait: for a neighbour to be resolved, or for the first fragment of their datagram.";
    for (what, held) in [("neighbour", &stats.held), ("first-fragment", &stats.held_fragments)] {
        let labels = [&of_worker[..], &[("for", what)]].concat();
        page.gauge("throughway_held_packets", help, &labels, held.get() as f64);
    }
    let help = "Frames in the hands of the worker between two rounds; more than the held ones is a leak.";
    page.gauge("throughway_frames_outstanding", help, &of_worker, stats.outstanding.get() as f64);
    page.counter(
        "throughway_program_installs_total",
        "Times the chains were replaced.",
        &of_worker,
        stats.installs.get(),
    );

    for (name, counter) in FlowStats::NAMES.iter().zip(&stats.flows.values) {
        let help = format!("Flow cache: {}.", name.replace('_', " "));
        page.counter(&format!("throughway_flow_cache_{name}_total"), &help, &of_worker, counter.get());
    }
    let help = "Flows that the worker remembers.";
    page.gauge("throughway_flow_cache_flows", help, &of_worker, stats.flows.flows.get() as f64);
    fast::fast(page, &number, &stats.fast);

    for (interface, port) in service.interfaces().iter().zip(&stats.ports) {
        let labels = [("interface", interface.name.as_str()), ("worker", number.as_str())];
        let figures = [
            ("throughway_receive_packets_total", "Packets received by workers.", &port.received.packets),
            (
                "throughway_receive_bytes_total",
                "Bytes received by workers, Ethernet header included.",
                &port.received.bytes,
            ),
            ("throughway_transmit_packets_total", "Packets handed to the interface.", &port.sent.packets),
            (
                "throughway_transmit_bytes_total",
                "Bytes handed to the interface, Ethernet header included.",
                &port.sent.bytes,
            ),
        ];
        for (name, help, counter) in figures {
            page.counter(name, help, &labels, counter.get());
        }
        for (&reason, counter) in DropReason::ALL.iter().zip(&port.drops) {
            let labels = [
                ("interface", interface.name.as_str()),
                ("worker", number.as_str()),
                ("reason", reason.label()),
            ];
            let help = "Packets that came in by the interface and ended without being sent, by reason.";
            page.counter("throughway_dropped_packets_total", help, &labels, counter.get());
        }
        batch_sizes(page, &labels, port);
    }
    for (port, queue, socket) in stats.sockets.get().into_iter().flatten() {
        let interface = service.interface_of_device(*port).map_or("", |interface| interface.name.as_str());
        let queue = queue.to_string();
        let labels = [("interface", interface), ("queue", queue.as_str()), ("worker", number.as_str())];
        for (name, counter) in SocketStats::NAMES.iter().zip(&socket.values) {
            let help = format!(
                "AF_XDP socket: {} (XDP_STATISTICS or the socket's own code).",
                name.replace('_', " ")
            );
            page.counter(&format!("throughway_xsk_{name}_total"), &help, &labels, counter.get());
        }
    }
}

fn batch_sizes(page: &mut Page, labels: Labels<'_>, port: &crate::stats::PortStats) {
    let mut histogram = Histogram::default();
    let mut cumulative = 0;
    let mut buckets = Vec::with_capacity(BATCH_BOUNDS.len());
    for (bound, counter) in BATCH_BOUNDS.iter().zip(&port.batches) {
        cumulative += counter.get();
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound as f64);
        bucket.set_cumulative_count(cumulative);
        buckets.push(bucket);
    }
    histogram.set_bucket(buckets);
    histogram.set_sample_count(cumulative);
    histogram.set_sample_sum(port.received.packets.get() as f64);
    let help = "Packets received together in one batch.";
    page.add("throughway_batch_packets", help, MetricType::HISTOGRAM, labels, |metric| {
        metric.set_histogram(histogram);
    });
}

fn functions(page: &mut Page, service: &Service) {
    for entry in service.chain_stats() {
        let worker = entry.worker.to_string();
        let labels = [("chain", entry.name.as_str()), ("worker", worker.as_str())];
        let stats = &entry.stats;
        let figures = [
            (
                "throughway_chain_entered_packets_total",
                "Packets that entered the chain.",
                &stats.entered.packets,
            ),
            ("throughway_chain_entered_bytes_total", "Bytes that entered the chain.", &stats.entered.bytes),
            (
                "throughway_chain_left_packets_total",
                "Packets that the chain sent on to an interface.",
                &stats.left.packets,
            ),
            (
                "throughway_chain_left_bytes_total",
                "Bytes that the chain sent on to an interface.",
                &stats.left.bytes,
            ),
        ];
        for (name, help, counter) in figures {
            page.counter(name, help, &labels, counter.get());
        }
    }
    for entry in service.function_stats() {
        let worker = entry.worker.to_string();
        let labels = [("function", entry.name.as_str()), ("kind", entry.kind), ("worker", worker.as_str())];
        let help = "Packets that the function judged.";
        page.counter("throughway_function_packets_total", help, &labels, entry.stats.packets.get());
        let help = "Packets that the function ended.";
        page.counter("throughway_function_dropped_packets_total", help, &labels, entry.stats.dropped.get());
    }
}
