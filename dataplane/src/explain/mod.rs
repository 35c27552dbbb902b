//! Why a packet goes where it goes: the chain walked function by function, offline, each step told.
//!
//! Packets are given as text ([`packet`]), several one after the other, so that the second can belong to the session that the
//! first has opened.

pub mod firewall;
pub mod packet;

use std::net::IpAddr;

use throughway_config::Config;
use throughway_packet::{Headers, PortId};
use throughway_vnf::packet::State;
use throughway_vnf::{Answer, Context, DropReason, Packet};

use crate::assemble::early::{Plan, standing};
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
    if let Some(verdict) = foreign_tags(&headers, config, port) {
        return nowhere(verdict);
    }
    let Some(chain) = program.chain_of(port) else { return nowhere(drop_text(DropReason::NoChain)) };
    let name = program.chains.get(chain).map(|chain| chain.name.clone());
    let mut packet = Packet::new(frame, headers);
    let mut steps = Vec::new();
    let mut before = headers;
    program.explain(chain, &mut packet, context, |function, kind, reasons, packet| {
        let egress = packet.egress().map(|egress| (egress, packet.awaited_neighbour()));
        let changes = changes(&before, packet.headers(), egress, |port| interface(config, port));
        before = *packet.headers();
        steps.push(Step { function: function.to_owned(), kind, reasons, changes });
    });
    Explanation { chain: name, steps, verdict: verdict(&packet, config) }
}

/// The end of a packet that never reaches a chain: its source is in a set that is matched before anything else.
pub fn dropped_early(plan: &Plan, config: &Config, port: PortId, frame: &[u8]) -> Option<Explanation> {
    let headers = throughway_packet::parse(frame, port).ok()?;
    let set = plan.dropped(headers.source(), *standing(config).get(port.index())?)?;
    let verdict = format!(
        "dropped: early-drop (the XDP program drops it before anything else: its source is in the set `{}` of `{}`)",
        set.set, set.function
    );
    Some(Explanation { chain: None, steps: Vec::new(), verdict })
}

fn drop_text(reason: DropReason) -> String {
    format!("dropped: {} ({})", reason.label(), reason.explanation().trim())
}

fn interface(config: &Config, port: PortId) -> String {
    let Some(interface) = config.interfaces.get(port.index()) else { return format!("port {}", port.0) };
    match &interface.vlan {
        None => interface.name.to_string(),
        Some(vlan) => format!("{} (VLAN {vlan} of {})", interface.name, interface.device),
    }
}

/// What becomes of a packet whose tags are written, and are not those of the interface that it is said to come in by. Tags that
/// are not written are those of the interface.
fn foreign_tags(headers: &Headers, config: &Config, port: PortId) -> Option<String> {
    let tags = (headers.key.outer_vlan, headers.key.inner_vlan);
    let own = config.interfaces.get(port.index())?.vlan.as_ref();
    let own = own.map_or((0, 0), |vlan| (vlan.outer, vlan.inner.unwrap_or_default()));
    if tags == (0, 0) || tags == own {
        return None;
    }
    let device = &config.interfaces.get(port.index())?.device;
    let other = config.interfaces.iter().find(|interface| {
        let vlan = interface.vlan.as_ref();
        let tagged = vlan.is_some_and(|vlan| (vlan.outer, vlan.inner.unwrap_or_default()) == tags);
        interface.device == *device && tagged
    });
    Some(match other {
        Some(other) => format!("not this interface's: with this VLAN it comes in by {}", other.name),
        None => "not ours: the VLAN is no interface, so the kernel gets it".to_owned(),
    })
}

/// What is different `after` a function from what was `before` it, for people. `egress` is where the packet will leave, with the next hop
/// that has no MAC address yet; `interface` names it.
pub fn changes(
    before: &Headers,
    after: &Headers,
    egress: Option<(PortId, Option<IpAddr>)>,
    interface: impl Fn(PortId) -> String,
) -> Vec<String> {
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
        if let Some((egress, awaited)) = egress {
            let to = awaited.map_or(String::new(), |next_hop| {
                format!(", to {next_hop}, whose MAC address is not known yet")
            });
            changes.push(format!("leaves by {}{to}", interface(egress)));
        }
    }
    changes
}

fn verdict(packet: &Packet<'_>, config: &Config) -> String {
    match (packet.state(), packet.egress()) {
        (State::Alive, Some(egress)) => format!("forwarded by {}", interface(config, egress)),
        (State::Alive, None) => drop_text(DropReason::NoEgress),
        (State::Dropped(reason, answer), _) => format!("{}{}", drop_text(reason), answer_text(answer)),
    }
}

/// What the sender of a rejected packet gets, to be put behind why it is rejected.
pub fn answer_text(answer: Option<Answer>) -> String {
    match answer {
        None => String::new(),
        Some(Answer::Icmp(error)) => format!("; its sender is told: {error:?}"),
        Some(Answer::TcpReset) => "; its sender gets a TCP reset".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::assemble::state::States;
    use crate::assemble::{Blueprint, Figures};
    use crate::host::HostFacts;

    #[test]
    fn vlans_are_named_and_foreign_tags_told_of() {
        let text = "\
interfaces: { lan: { device: eth1 }, voice: { device: eth1, vlan: 100, addresses: 10.77.0.1/24 } }
functions: { core: { router: { routes: [ { prefix: 192.0.2.0/24, interface: voice }, { prefix: 198.51.100.0/24, interface: lan } ] } } }
chains: { all: { from: [lan, voice], run: [core] } }
";
        let (config, _) = Config::parse("test.yaml", text).expect("a configuration");
        let names = ["lan", "voice"].map(|name| (name.to_owned(), "eth1".to_owned()));
        let facts = HostFacts::invented(names);
        let states = States::new(0, Arc::default());
        let blueprint = Blueprint::new(&config, &facts, &states).expect("a blueprint");
        let mut program = blueprint.program(0, &mut Figures::default());
        let mut told = |text: &str| {
            let written = packet::read(text).expect("a packet");
            let port = config.interface_named(&written.interface).expect("an interface");
            explain(&mut program, &config, PortId(port.0), &written.frame, &Context::default())
        };
        let out = told("lan udp 10.1.0.9:1 > 192.0.2.1:2");
        assert_eq!(out.verdict, "forwarded by voice (VLAN 100 of eth1)");
        assert!(
            out.steps[0]
                .changes
                .iter()
                .any(|change| change.starts_with("leaves by voice (VLAN 100 of eth1)"))
        );
        for text in
            ["voice udp 10.1.0.9:1 > 198.51.100.1:2", "voice udp 10.1.0.9:1 > 198.51.100.1:2 vlan 100"]
        {
            assert_eq!(told(text).verdict, "forwarded by lan", "{text}");
        }
        let other = told("lan udp 10.1.0.9:1 > 192.0.2.1:2 vlan 100");
        assert_eq!(
            (other.chain, other.verdict.as_str()),
            (None, "not this interface's: with this VLAN it comes in by voice")
        );
        let foreign = told("voice udp 10.1.0.9:1 > 192.0.2.1:2 vlan 7");
        assert!(foreign.verdict.starts_with("not ours"), "{}", foreign.verdict);
    }
}
