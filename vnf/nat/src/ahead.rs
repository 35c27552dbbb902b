//! Ports taken ahead, for all packets of a batch that will most likely want one.
//!
//! Which port a mapping gets says where its outside end and the answers' key lie in the tables, so these places cannot be fetched before the
//! port is known. Asked for one packet at a time, each of them waits for memory twice. So the ports of a batch are taken first, then
//! all these places are fetched together, and the packets are judged after that: who does not use the port that is held for it gives it back at once.

use std::cell::Cell;
use std::sync::Arc;

use arrayvec::ArrayVec;
use throughway_packet::parse::{SCTP, TCP, UDP};
use throughway_session::{Probe, SessionKey};
use throughway_vnf::BATCH;

use crate::address::Address;
use crate::plan::{Early, Planner, Source, opening, outside_end};
use crate::rule::Mapping;
use crate::shared::end_of;

/// In a batch with fewer new connections nothing is taken ahead: there is little to wait for together.
pub(crate) const FEW: usize = 4;

/// A port that is held for a packet.
pub(crate) struct Ahead<'r> {
    /// The rule by which it was taken.
    pub(crate) by: Early<'r>,
    /// Of this address.
    pub(crate) address: &'r Arc<Address>,
    /// The port.
    pub(crate) port: u16,
    /// Whether nobody uses it yet.
    pub(crate) is_held: Cell<bool>,
    /// The mapping's outside end.
    pub(crate) outside: Probe,
    /// The key that answers will have, if nothing else is translated.
    pub(crate) answers: Probe,
}

/// Inside ends of a batch, by their hashes.
#[derive(Default)]
pub(crate) struct Ends {
    known: ArrayVec<u64, BATCH>,
    /// A bit for each by its hash: nearly all that are new are found to be so without looking through the others.
    bits: [u64; 4],
}

impl Ends {
    /// Adds one; says whether it is new.
    #[inline]
    pub(crate) fn add(&mut self, hash: u64) -> bool {
        let Some(word) = self.bits.get_mut((hash >> 62) as usize) else { return false };
        let bit = 1 << (hash >> 56 & 63);
        let is_new = *word & bit == 0 || !self.known.contains(&hash);
        *word |= bit;
        is_new && self.known.try_push(hash).is_ok()
    }
}

impl<'r> Planner<'_, 'r> {
    /// Takes the port that the packet will want, unless somebody before it in its batch changes that. Not where its host would get a
    /// block, as those are told of, nor where ports are short, as somebody else might want the last one in earnest.
    pub(crate) fn ahead(&self, inside: &Probe) -> Option<Ahead<'r>> {
        let protocol = self.key.protocol;
        if !matches!(protocol, TCP | UDP | SCTP) || opening(self.headers).is_err() {
            return None;
        }
        let Ok(Source::Of(number, rule, pool)) = self.source_rule(false) else { return None };
        let is_new = || self.shared.mappings.lookup(inside, self.now).is_none();
        if rule.mapping != Mapping::EndpointIndependent || !pool.gives_early() || !is_new() {
            return None;
        }
        let (address, port) = pool.take_early(&self.wanted(rule))?;
        let outside = outside_end(self.key, address, port);
        let leaves =
            SessionKey { source: outside.destination, source_port: outside.destination_port, ..*self.key };
        Some(Ahead {
            by: (number, rule, pool),
            address,
            port,
            is_held: Cell::new(true),
            outside: self.shared.mappings.probe(outside),
            answers: self.shared.sessions.probe(leaves.reversed()),
        })
    }
}

impl Ahead<'_> {
    /// Gives the port back that was held for the packet with this key, unless somebody uses it: nobody has seen it.
    #[inline]
    pub(crate) fn give_back(&self, key: &SessionKey, now: u64) {
        if self.is_held.replace(false) {
            self.address.give_back(key.protocol, self.port, true, now);
            let (host, _) = end_of(&key.source, key.source_port);
            self.by.2.leave(host, self.port, now);
        }
    }
}
