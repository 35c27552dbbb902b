//! Why a packet goes where it goes: the chain walked function by function, offline, each step told.
//!
//! Packets are given as text ([`packet`]), several one after the other, so that the second can belong to the session that the
//! first has opened.

pub mod firewall;
pub mod packet;

use throughway_config::Config;
use throughway_packet::{Headers, PortId};
use throughway_vnf::packet::State;
use throughway_vnf::{Answer, Context, DropReason, Packet};

use crate::chain::Program;
use crate::control::show::end;

/// What one function did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The function.
    pub function: String,
    /// Its kind.
    pub kind: &'static str,
    /// What it says of itself: rules tried, state found.
    pub reasons: Vec<String>,
    /// What it changed.
    pub changes: Vec<String>,
}

/// The way of one packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// The chain, if one starts at the interface.
    pub chain: Option<String>,
    /// What each function did, in order.
    pub steps: Vec<Step>,
    /// How it ended.
    pub verdict: String,
}

/// Walks a packet through its chain.
pub fn explain(
    program: &mut Program,
    config: &Config,
    port: PortId,
    frame: &[u8],
    context: &Context,
) -> Explanation {
    let nowhere = |verdict: String| Explanation { chain: None, steps: Vec::new(), verdict };
    let headers = match throughway_packet::parse(frame, port) {
        Ok(headers) => headers,
        Err(error) => return nowhere(drop_text(DropReason::from(error))),
    };
    let Some(chain) = program.chain_of(port) else { return nowhere(drop_text(DropReason::NoChain)) };
    let name = program.chains.get(chain).map(|chain| chain.name.clone());
    let mut packet = Packet::new(frame, headers);
    let mut steps = Vec::new();
    let mut before = headers;
    program.explain(chain, &mut packet, context, |function, kind, reasons, packet| {
        let changes = changes(&before, packet, config);
        before = *packet.headers();
        steps.push(Step { function: function.to_owned(), kind, reasons, changes });
    });
    Explanation { chain: name, steps, verdict: verdict(&packet, config) }
}

fn drop_text(reason: DropReason) -> String {
    format!("dropped: {} ({})", reason.label(), reason.explanation().trim())
}

fn interface(config: &Config, port: PortId) -> String {
    let interface = config.interfaces.get(port.index());
    interface.map_or_else(|| format!("port {}", port.0), |interface| interface.name.to_string())
}

fn changes(before: &Headers, packet: &Packet<'_>, config: &Config) -> Vec<String> {
    let after = packet.headers();
    let (old, new) = (&before.key, &after.key);
    let mut changes = Vec::new();
    if (old.source, old.source_port) != (new.source, new.source_port) {
        changes.push(format!("source becomes {}", end(new.family, &new.source, new.source_port)));
    }
    if (old.destination, old.destination_port) != (new.destination, new.destination_port) {
        let end = end(new.family, &new.destination, new.destination_port);
        changes.push(format!("destination becomes {end}"));
    }
    if before.dscp() != after.dscp() {
        changes.push(format!("dscp becomes {}", after.dscp()));
    }
    if before.hop_limit != after.hop_limit {
        changes.push(format!("ttl becomes {}", after.hop_limit));
        if let Some(egress) = packet.egress() {
            let to = packet.awaited_neighbour().map_or(String::new(), |next_hop| {
                format!(", to {next_hop}, whose MAC address is not known yet")
            });
            changes.push(format!("leaves by {}{to}", interface(config, egress)));
        }
    }
    changes
}

fn verdict(packet: &Packet<'_>, config: &Config) -> String {
    match (packet.state(), packet.egress()) {
        (State::Alive, Some(egress)) => format!("forwarded by {}", interface(config, egress)),
        (State::Alive, None) => drop_text(DropReason::NoEgress),
        (State::Dropped(reason, None), _) => drop_text(reason),
        (State::Dropped(reason, Some(Answer::Icmp(error))), _) => {
            format!("{}; its sender is told: {error:?}", drop_text(reason))
        }
        (State::Dropped(reason, Some(Answer::TcpReset)), _) => {
            format!("{}; its sender gets a TCP reset", drop_text(reason))
        }
    }
}
