//! The figures of load balancers.

use throughway_session::Class;

use super::Page;
use crate::app::Service;
use crate::assemble::balancer::ServiceRow;

/// By function, service and backend; and of the connection tables.
pub(super) fn balancers(page: &mut Page, service: &Service) {
    for (function, director) in service.balancers() {
        let function = function.as_str();
        for row in director.rows(None) {
            let labels = [("function", function), ("service", &*row.service), ("backend", &*row.backend)];
            let [connections, packets, bytes] = row.figures;
            let help =
                "Whether the backend may get new connections: it answers its checks and is not drained.";
            page.gauge("throughway_backend_up", help, &labels, f64::from(u8::from(row.up)));
            let help = "The backend's share of the service's new connections, 0 to 1.";
            page.gauge("throughway_backend_share", help, &labels, row.share);
            let help = "Connections of the backend that are remembered.";
            page.gauge("throughway_backend_active_connections", help, &labels, row.active.into());
            let help = "Connections that the backend was given.";
            page.counter("throughway_backend_connections_total", help, &labels, connections);
            let help = "Packets of the backend's connections, both directions as far as they pass here.";
            page.counter("throughway_backend_packets_total", help, &labels, packets);
            let help = "Bytes of the IP packets of the backend's connections.";
            page.counter("throughway_backend_bytes_total", help, &labels, bytes);
        }
        for row in director.services() {
            services(page, function, &row);
        }
        let overview = director.shared().overview();
        for (class, count) in Class::ALL.into_iter().zip(overview.connections) {
            let state = match class {
                Class::HalfOpen => "half-open",
                Class::Established => "established",
                Class::Closing => "closing",
            };
            let help = "Connections that the load balancer remembers.";
            let labels = [("function", function), ("state", state)];
            page.gauge("throughway_balancer_connections", help, &labels, count.into());
        }
        let of = [("function", function)];
        let help = "The most connections that the load balancer can remember.";
        page.gauge("throughway_balancer_connections_limit", help, &of, overview.capacity.into());
        let help = "Memory of the connection table.";
        page.gauge("throughway_balancer_table_bytes", help, &of, overview.memory as f64);
        let help = "Clients that are remembered for their affinity.";
        page.gauge("throughway_balancer_clients", help, &of, overview.clients.into());
        let help = "Memory of the table of clients.";
        page.gauge("throughway_balancer_clients_bytes", help, &of, overview.clients_memory as f64);
        let help = "ICMP errors about packets in tunnels to backends.";
        page.counter("throughway_balancer_tunnel_errors_total", help, &of, overview.tunnel_errors);
        let help = "Packets that the hash alone decided about, as their connection is not remembered: no room, or nothing that opens one.";
        page.counter("throughway_balancer_hash_only_packets_total", help, &of, overview.hash_only);
    }
}

fn services(page: &mut Page, function: &str, row: &ServiceRow) {
    let labels = [("function", function), ("service", &*row.service)];
    let [up, all] = row.backends;
    let help = "Backends of the service, and those of them that may get new connections.";
    for (state, count) in [("configured", all), ("up", up)] {
        let labels = [("function", function), ("service", &*row.service), ("state", state)];
        page.gauge("throughway_balancer_service_backends", help, &labels, count as f64);
    }
    let help = "Entries of the service's Maglev table.";
    page.gauge("throughway_balancer_service_table_size", help, &labels, row.table_size as f64);
    let counts = &row.counts;
    for (name, help, count) in [
        (
            "throughway_balancer_service_hash_only_packets_total",
            "Packets to the service that the hash alone decided about.",
            counts.hash_only,
        ),
        (
            "throughway_balancer_service_retries_total",
            "Other backends or ports that were tried, as the answers of a connection could not have been told from another's.",
            counts.retries,
        ),
        (
            "throughway_balancer_service_rejected_packets_total",
            "Packets to the service that found no backend.",
            counts.rejected,
        ),
        (
            "throughway_balancer_service_refused_packets_total",
            "Packets whose connection had to be remembered and was not: no room, or no backend or port left to try.",
            counts.refused,
        ),
        (
            "throughway_balancer_service_returned_connections_total",
            "New connections that went to the backend which their client had before (affinity).",
            counts.returned,
        ),
        (
            "throughway_balancer_service_icmp_errors_total",
            "ICMP errors about packets of the service that were brought to who sent these.",
            counts.errors,
        ),
    ] {
        page.counter(name, help, &labels, count);
    }
}
