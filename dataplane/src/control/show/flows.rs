//! `show flows`: what the workers' caches know.

use std::net::IpAddr;

use serde_json::{Value, json};
use throughway_config::value::Protocol;
use throughway_packet::{Action, FlowKey, edits};
use throughway_shared::flow::FAMILY_IPV4;
use throughway_vnf::DropReason;

use super::{Options, USUAL_LIMIT};
use crate::app::Service;
use crate::worker::inspect::{FlowFilter, Found};

const SECOND: u64 = 1_000_000_000;

/// The flows that `options` ask for, the busiest of those found first.
pub(super) fn flows(service: &Service, options: &Options) -> Result<Value, String> {
    let ingress = match &options.interface {
        None => None,
        Some(name) => {
            let known = service.interfaces().iter().position(|view| view.name == *name);
            Some(known.ok_or_else(|| format!("there is no interface `{name}`"))? as u16)
        }
    };
    let filter =
        FlowFilter { address: options.address, port: options.port, protocol: options.protocol, ingress };
    let limit = options.limit.unwrap_or(USUAL_LIMIT);
    let found = service.flows(filter, limit).map_err(|error| error.to_string())?;
    let mut all: Vec<(usize, Found)> = found
        .into_iter()
        .flat_map(|(worker, flows)| flows.into_iter().map(move |flow| (worker, flow)))
        .collect();
    all.sort_by_key(|(_, found)| std::cmp::Reverse(found.flow.packets));
    all.truncate(limit);
    Ok(all.iter().map(|(worker, found)| row(service, *worker, found)).collect())
}

fn row(service: &Service, worker: usize, Found { flow, stays }: &Found) -> Value {
    let name = |port: u16| service.interfaces().get(usize::from(port)).map(|view| view.name.clone());
    let (key, action) = (&flow.key, &flow.action);
    let dropped = action.has(edits::DROP);
    let reason = dropped.then(|| DropReason::ALL.get(usize::from(action.drop)).map(|reason| reason.label()));
    let vlan: Vec<u16> = [key.outer_vlan, key.inner_vlan].into_iter().filter(|id| *id != 0).collect();
    json!({
        "interface": name(key.ingress),
        "vlan": vlan,
        "protocol": Protocol::new(key.protocol).to_string(),
        "source": end(key.family, &key.source, key.source_port),
        "destination": end(key.family, &key.destination, key.destination_port),
        "verdict": reason.flatten().map_or_else(|| "forward".to_owned(), |reason| format!("drop: {reason}")),
        "egress": if dropped { None } else { name(action.egress) },
        "edits": changes(key, action),
        "packets": flow.packets,
        "bytes": flow.bytes,
        "idle_seconds": flow.idle / SECOND,
        "age_seconds": flow.age / SECOND,
        "proven": flow.established,
        "runs_in": if stays.is_none() { format!("xdp {worker}") } else { format!("worker {worker}") },
        "not_in_xdp": stays.map(|stays| stays.label()),
    })
}

/// What is changed beside MAC addresses and hop limit, which every router changes.
fn changes(key: &FlowKey, action: &Action) -> Vec<String> {
    let mut changes = Vec::new();
    if action.has(edits::DROP) {
        return changes;
    }
    let port = |bit, new: [u8; 2], old: [u8; 2]| if action.has(bit) { new } else { old };
    if action.edits & (edits::SOURCE | edits::SOURCE_PORT) != 0 {
        let address = if action.has(edits::SOURCE) { &action.source } else { &key.source };
        let port = port(edits::SOURCE_PORT, action.source_port, key.source_port);
        changes.push(format!("source {}", end(key.family, address, port)));
    }
    if action.edits & (edits::DESTINATION | edits::DESTINATION_PORT) != 0 {
        let address = if action.has(edits::DESTINATION) { &action.destination } else { &key.destination };
        let port = port(edits::DESTINATION_PORT, action.destination_port, key.destination_port);
        changes.push(format!("destination {}", end(key.family, address, port)));
    }
    if action.has(edits::DSCP) {
        changes.push(format!("dscp {}", action.dscp));
    }
    changes
}

/// An address and, where there is one, a port: `192.0.2.1:443`, `[2001:db8::1]:443`.
pub fn end(family: u8, address: &[u8; 16], port: [u8; 2]) -> String {
    let [.., a, b, c, d] = *address;
    let address = if family == FAMILY_IPV4 { IpAddr::from([a, b, c, d]) } else { IpAddr::from(*address) };
    match (address, u16::from_be_bytes(port)) {
        (address, 0) => address.to_string(),
        (IpAddr::V4(address), port) => format!("{address}:{port}"),
        (IpAddr::V6(address), port) => format!("[{address}]:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use throughway_shared::flow::mapped;

    #[test]
    fn what_is_changed_is_told_as_it_leaves() {
        let key = FlowKey {
            source: mapped([10, 0, 0, 1]),
            destination: mapped([192, 0, 2, 9]),
            source_port: 4000u16.to_be_bytes(),
            destination_port: 443u16.to_be_bytes(),
            protocol: 6,
            family: FAMILY_IPV4,
            ..FlowKey::default()
        };
        let action = Action {
            edits: edits::SOURCE | edits::DESTINATION_PORT | edits::DSCP,
            source: mapped([198, 51, 100, 1]),
            destination_port: 8443u16.to_be_bytes(),
            dscp: 46,
            ..Action::nothing()
        };
        let told = ["source 198.51.100.1:4000", "destination 192.0.2.9:8443", "dscp 46"];
        assert_eq!(changes(&key, &action), told);
        assert!(changes(&key, &Action::nothing()).is_empty());
        assert!(changes(&key, &Action { edits: edits::DROP, ..action }).is_empty());
        let v6 = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
        assert_eq!(end(6, &v6, [1, 187]), "[2001:db8::1]:443");
        assert_eq!(end(6, &v6, [0, 0]), "2001:db8::1");
    }
}
