//! The running state as JSON: what `throughway show` prints. Every answer is an array of flat objects, or one object.

mod backends;
pub mod firewall;
mod flows;
pub mod nat;
mod pools;
mod restart;

pub use flows::end;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use throughway_shared::steer::Reason;
use throughway_vnf::DropReason;
use throughway_vnf::counters::Counter;

use crate::app::Service;
use crate::host::{HostFacts, mac_to_text};
use crate::stats::{PortStats, SocketStats};

/// What of an aspect is wanted.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Source or destination.
    pub address: Option<IpAddr>,
    /// Source or destination port.
    pub port: Option<u16>,
    /// The upper-layer protocol (IANA number).
    pub protocol: Option<u8>,
    /// The interface on which packets come in.
    pub interface: Option<String>,
    /// The function whose sessions are meant.
    pub function: Option<String>,
    /// The load balancer's service that is meant.
    pub service: Option<String>,
    /// Not more lines than this.
    pub limit: Option<usize>,
}

impl Options {
    /// Whether a function is meant.
    pub fn is_of(&self, function: &str) -> bool {
        self.function.as_ref().is_none_or(|wanted| wanted == function)
    }
}

/// Lines where [`Options::limit`] says nothing.
const USUAL_LIMIT: usize = 100;

/// One aspect of the state by its name; the error says why it cannot be shown.
pub fn show(service: &Service, what: &str, options: &Options) -> Result<Value, String> {
    Ok(match what {
        "interfaces" => interfaces(service),
        "workers" => workers(service),
        "chains" => chains(service),
        "functions" => functions(service),
        "neighbours" => neighbours(&service.host()),
        "drops" => drops(service),
        "pools" => pools::pools(service, options),
        "backends" => backends::backends(service, options)?,
        "flows" => flows::flows(service, options)?,
        "rules" => firewall::rules(service),
        "sets" => firewall::sets(service),
        "sessions" => sessions(service, options),
        "restart" => restart::restart(service),
        "host" => serde_json::to_value(service.mirror().whole_facts()).unwrap_or_default(),
        _ => return Err(format!("there is no `{what}` to show")),
    })
}

/// The sessions of firewalls, then of NATs: their rows have other columns, so a table of one kind alone is easier to read.
fn sessions(service: &Service, options: &Options) -> Value {
    let limit = options.limit.unwrap_or(USUAL_LIMIT);
    let mut rows = Vec::new();
    for (name, shared) in service.firewalls() {
        if options.is_of(&name) {
            firewall::sessions(&name, &shared, options, limit, &mut rows);
        }
    }
    for (name, nat) in service.nats() {
        if options.is_of(&name) {
            nat::sessions(&name, &nat.shared, options, limit, &mut rows);
        }
    }
    Value::Array(rows)
}

fn sum<'a>(service: &'a Service, port: usize, figure: impl Fn(&'a PortStats) -> &'a Counter) -> u64 {
    service
        .workers()
        .iter()
        .filter_map(|worker| worker.stats.ports.get(port))
        .map(|port| figure(port).get())
        .sum()
}

fn interfaces(service: &Service) -> Value {
    let (host, config, unfit) = (service.host(), service.config(), service.unfit());
    let rows = service.interfaces().iter().enumerate().map(|(port, view)| {
        let facts = host.ports.get(port);
        json!({
            "interface": view.name,
            "device": view.device,
            "vlan": config.interfaces.get(port).and_then(|interface| interface.vlan.as_ref()).map(ToString::to_string),
            "state": if facts.is_some_and(|facts| facts.up) { "up" } else { "down" },
            "mac": facts.map(|facts| mac_to_text(facts.mac)),
            "mtu": facts.map(|facts| facts.mtu),
            "xdp": view.xdp,
            "xdp_fallback": view.xdp_fallback,
            "zero_copy": view.zero_copy,
            "zero_copy_fallback": view.zero_copy_fallback,
            "queues": view.queues,
            "on_failure": view.on_failure,
            "fast_path": view.fast_path,
            "fast_path_fallback": view.fast_path_fallback,
            "fast_egress": match unfit.get(port) {
                None => json!("off"),
                Some(None) => json!("yes"),
                Some(Some(reason)) => json!(reason),
            },
            "receive_packets": sum(service, port, |stats| &stats.received.packets),
            "receive_bytes": sum(service, port, |stats| &stats.received.bytes),
            "transmit_packets": sum(service, port, |stats| &stats.sent.packets),
            "transmit_bytes": sum(service, port, |stats| &stats.sent.bytes),
        })
    });
    rows.collect()
}

fn workers(service: &Service) -> Value {
    let rows = service.workers().iter().map(|worker| {
        let stats = &worker.stats;
        let received: u64 = stats.ports.iter().map(|port| port.received.packets.get()).sum();
        json!({
            "worker": worker.number,
            "core": worker.core,
            "rounds": stats.rounds.get(),
            "idle_rounds": stats.idle_rounds.get(),
            "receive_packets": received,
            "flows": stats.flows.flows.get(),
            "flow_hits": stats.flows.values.first().map(Counter::get),
            "fast_flows": stats.fast.flows.get(),
            "fast_packets": stats.fast.packets.get(),
            "held": stats.held.get(),
            "held_fragments": stats.held_fragments.get(),
            "originated": stats.originated.get(),
            "fragmented": stats.fragmented.get(),
            "answers_suppressed": stats.answers_suppressed.get(),
            "given_to_host": stats.given_to_host.get(),
            "installs": stats.installs.get(),
        })
    });
    rows.collect()
}

fn chains(service: &Service) -> Value {
    let config = service.config();
    let stats = service.chain_stats();
    let rows = config.chains.iter().map(|chain| {
        let of_chain = || stats.iter().filter(|entry| *chain.name == *entry.name);
        let from: Vec<_> = chain.from.iter().map(|id| config.interface(*id).name.to_string()).collect();
        let run: Vec<_> = chain.run.iter().map(|id| config.function(*id).name.to_string()).collect();
        json!({
            "chain": chain.name.to_string(),
            "from": from,
            "run": run,
            "entered_packets": of_chain().map(|entry| entry.stats.entered.packets.get()).sum::<u64>(),
            "entered_bytes": of_chain().map(|entry| entry.stats.entered.bytes.get()).sum::<u64>(),
            "left_packets": of_chain().map(|entry| entry.stats.left.packets.get()).sum::<u64>(),
            "left_bytes": of_chain().map(|entry| entry.stats.left.bytes.get()).sum::<u64>(),
        })
    });
    rows.collect()
}

fn functions(service: &Service) -> Value {
    let stats = service.function_stats();
    let rows = service.config().functions.iter().map(|function| {
        let of_function = || stats.iter().filter(|entry| *function.name == *entry.name);
        json!({
            "function": function.name.to_string(),
            "kind": function.kind.word(),
            "packets": of_function().map(|entry| entry.stats.packets.get()).sum::<u64>(),
            "dropped": of_function().map(|entry| entry.stats.dropped.get()).sum::<u64>(),
        })
    });
    rows.collect()
}

fn port_name(host: &HostFacts, port: Option<u16>) -> Option<String> {
    host.ports.get(usize::from(port?)).map(|port| port.name.clone())
}

fn neighbours(host: &HostFacts) -> Value {
    let rows = host.neighbours.iter().map(|neighbour| {
        json!({
            "interface": port_name(host, Some(neighbour.port)),
            "address": neighbour.address,
            "mac": mac_to_text(neighbour.mac),
            "state": neighbour.state,
        })
    });
    let silent = host.unreachable.iter().map(|(port, address)| {
        json!({
            "interface": port_name(host, Some(*port)),
            "address": address,
            "mac": null,
            "state": "failed",
        })
    });
    rows.chain(silent).collect()
}

fn drops(service: &Service) -> Value {
    let mut rows = Vec::new();
    for (port, view) in service.interfaces().iter().enumerate() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            let counts =
                service.workers().iter().filter_map(|worker| worker.stats.ports.get(port)?.drops.get(index));
            let count: u64 = counts.map(Counter::get).sum();
            if count > 0 {
                rows.push(json!({
                    "interface": view.name,
                    "where": "worker",
                    "reason": reason.label(),
                    "packets": count,
                    "explanation": reason.explanation().trim(),
                }));
            }
        }
    }
    for worker in service.workers() {
        for (port, queue, socket) in worker.stats.sockets.get().into_iter().flatten() {
            let interface = service.interface_of_device(*port).map_or("", |view| view.name.as_str());
            for (name, counter) in SocketStats::NAMES.iter().zip(&socket.values) {
                let explanation = match *name {
                    "rx_dropped" => {
                        "The kernel had no free frame for the packet: the worker was too slow for too long; more workers.frames bridge it."
                    }
                    "rx_ring_full" => "The receive ring was full: the worker was too slow for too long.",
                    "tx_dropped" => "The driver refused the packet.",
                    "rx_oversized" => "The packet did not fit into one frame.",
                    _ => continue,
                };
                if counter.get() > 0 {
                    rows.push(json!({
                        "interface": interface,
                        "where": format!("socket {queue}"),
                        "reason": name.replace('_', "-"),
                        "packets": counter.get(),
                        "explanation": explanation,
                    }));
                }
            }
        }
    }
    for (interface, reason, count) in service.steered() {
        if count > 0 {
            rows.push(json!({
                "interface": interface,
                "where": "xdp",
                "reason": reason,
                "packets": count,
                "explanation": (reason == Reason::EarlyDrop.label())
                    .then_some("The source is in a firewall's set with `early`: see `show sets`."),
            }));
        }
    }
    Value::Array(rows)
}
