//! What one function made of a traced packet: kept as plain values, put into words by whoever reads.

use std::net::IpAddr;

use arrayvec::ArrayString;
use throughway_packet::{Headers, PortId};
use throughway_vnf::packet::State;
use throughway_vnf::{Answer, DropReason, Packet};

use crate::explain::{answer_text, changes};

/// Steps that are kept of a packet; what a longer chain does after them is told by the packet as it leaves.
pub const STEPS: usize = 16;

/// The longest name of a function, in bytes.
pub(crate) const NAME: usize = 32;

/// How a packet is behind a function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The function's name.
    pub function: ArrayString<NAME>,
    /// Whether it goes on from there, else why not.
    pub end: Option<(DropReason, Option<Answer>)>,
    /// Its headers before the function.
    before: Headers,
    /// Its headers behind the function, as edited so far.
    after: Headers,
    /// Where it will leave.
    pub egress: Option<PortId>,
    /// The next hop that has no MAC address yet.
    pub awaits: Option<IpAddr>,
}

impl Step {
    /// What `function` made of `packet`, which was as `before` says.
    pub(crate) fn new(function: &str, before: &Headers, packet: &Packet<'_>) -> Self {
        Step {
            function: name(function),
            end: match packet.state() {
                State::Alive => None,
                State::Dropped(reason, answer) => Some((reason, answer)),
            },
            before: *before,
            after: *packet.headers(),
            egress: packet.egress(),
            awaits: packet.awaited_neighbour(),
        }
    }

    /// The headers behind the function.
    pub fn after(&self) -> &Headers {
        &self.after
    }

    /// In words: `edge: passes`, `outer: source becomes 203.0.113.1:5000`, `edge: drops it: firewall-rule`. `interface` names ports.
    pub fn in_words(&self, interface: impl Fn(PortId) -> String) -> String {
        let function = &self.function;
        if let Some((reason, answer)) = self.end {
            return format!("{function}: drops it: {}{}", reason.label(), answer_text(answer));
        }
        let egress = self.egress.map(|egress| (egress, self.awaits));
        let changes = changes(&self.before, &self.after, egress, interface);
        let changes = if changes.is_empty() { "passes".to_owned() } else { changes.join(", ") };
        format!("{function}: {changes}")
    }
}

/// A name, cut off where it is longer than names are.
pub(crate) fn name(text: &str) -> ArrayString<NAME> {
    let mut name = ArrayString::new();
    let mut end = text.len().min(NAME);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let _ = name.try_push_str(text.get(..end).unwrap_or_default());
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use throughway_packet::build::PacketBuilder;
    use throughway_packet::{Edit, parse};
    use throughway_vnf::Verdict;

    #[test]
    fn what_a_function_did_is_put_into_words() {
        let frame = PacketBuilder::ipv4([10, 1, 0, 10], [10, 2, 0, 10]).udp(4000, 53).finish();
        let headers = parse(&frame, PortId(0)).unwrap();
        let mut packet = Packet::new(&frame, headers);
        let mut before = headers;
        let mut step = |packet: &Packet<'_>, name: &str| {
            let step = Step::new(name, &before, packet);
            before = *packet.headers();
            step.in_words(|port| format!("port {}", port.0))
        };
        assert_eq!(step(&packet, "edge"), "edge: passes");
        packet.edit(Edit::Source(IpAddr::from([203, 0, 113, 1])));
        packet.edit(Edit::SourcePort(5000));
        assert_eq!(step(&packet, "outer"), "outer: source becomes 203.0.113.1:5000");
        packet.edit(Edit::DecrementHops);
        packet.edit(Edit::Egress(PortId(1)));
        assert_eq!(step(&packet, "core"), "core: ttl becomes 63, leaves by port 1");
        packet.settle(Verdict::Drop(DropReason::NoRoute));
        assert_eq!(step(&packet, "last"), "last: drops it: no-route");
        assert_eq!(name(&"ä".repeat(40)).as_str(), "ä".repeat(16));
    }
}
