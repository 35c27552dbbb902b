//! Ports taken ahead, for all packets of a batch that will most likely want one.
//!
//! Which port a mapping gets says where its outside end and the answers' key lie in the tables, so these places cannot be fetched before the
//! port is known. Asked for one packet at a time, each of them waits for memory twice. So the ports of a batch are taken first, then
//! all these places are fetched together, and the packets are judged after that: who does not use the port that is held for it gives it back at once.

use std::sync::Arc;

use throughway_packet::parse::{SCTP, TCP, UDP};
use throughway_session::{Probe, SessionKey};

use crate::address::Address;
use crate::plan::{Planner, Source, opening, outside_end};
use crate::rule::{Mapping, SourceRule};

/// In a batch with fewer new connections nothing is taken ahead: there is little to wait for together.
pub(crate) const FEW: usize = 4;

/// A port that is held for a packet.
pub(crate) struct Ahead {
    /// The rule by which it was taken: compared, nothing else.
    pub(crate) rule: *const SourceRule,
    /// Of this address.
    pub(crate) address: Arc<Address>,
    /// The port.
    pub(crate) port: u16,
    /// The mapping's outside end.
    pub(crate) outside: Probe,
    /// The key that answers will have, if nothing else is translated.
    pub(crate) answers: Probe,
}

impl Planner<'_> {
    /// Takes the port that the packet will want, unless somebody before it in its batch changes that. Not where hosts have blocks, as
    /// those are told of, nor where ports are short, as somebody else might want the last one in earnest.
    pub(crate) fn ahead(&self, inside: &Probe) -> Option<Ahead> {
        let protocol = self.key.protocol;
        if !matches!(protocol, TCP | UDP | SCTP) || opening(self.headers).is_err() {
            return None;
        }
        let Ok(Source::Of(_, rule, pool)) = self.source_rule(false) else { return None };
        let is_new = || self.shared.mappings.lookup(inside, self.now).is_none();
        if rule.mapping != Mapping::EndpointIndependent || !pool.gives_early() || !is_new() {
            return None;
        }
        let (address, port) = pool.take_early(&self.wanted(rule))?;
        let outside = outside_end(self.key, &address, port);
        let leaves =
            SessionKey { source: outside.destination, source_port: outside.destination_port, ..*self.key };
        Some(Ahead {
            rule: std::ptr::from_ref(rule),
            address,
            port,
            outside: self.shared.mappings.probe(outside),
            answers: self.shared.sessions.probe(leaves.reversed()),
        })
    }

    /// The port that is held for the packet, if it was taken by this rule.
    pub(crate) fn held_by(&self, rule: &SourceRule) -> Option<Ahead> {
        let held = self.held.take()?;
        if std::ptr::eq(held.rule, rule) {
            return Some(held);
        }
        self.held.set(Some(held));
        None
    }

    /// Gives the port back that was held for the packet, if it was not used.
    pub(crate) fn give_back_held(&self) {
        if let Some(held) = self.held.take() {
            held.give_back(self.key.protocol, self.now.0);
        }
    }
}

impl Ahead {
    /// Gives the port back: nobody has seen it.
    pub(crate) fn give_back(self, protocol: u8, now: u64) {
        self.address.give_back(protocol, self.port, true, now);
    }
}
