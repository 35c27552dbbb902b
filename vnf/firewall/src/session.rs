//! What the firewall keeps of a session.

use std::sync::Arc;

use throughway_packet::parse::{ICMP, ICMPV6, SCTP, TCP, UDP};
use throughway_packet::{Headers, PortId};
use throughway_session::tcp::flags::SYN;
use throughway_session::{SessionId, SessionKey, Side};
use throughway_shared::flow::MAPPED_PREFIX;
use throughway_vnf::Now;

use crate::counters::RuleState;
use crate::limits::Holds;
use crate::rule::{Family, Fields, Fragmentation, State};
use crate::track::Track;

/// What of the packet that opened a session is not in its key, and rules may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Opener {
    pub(crate) ingress: PortId,
    pub(crate) egress: Option<PortId>,
    pub(crate) vlan: u16,
}

/// The state of a session.
#[derive(Clone, Debug)]
pub(crate) struct Tracked {
    pub(crate) track: Track,
    /// The rule that let it in.
    pub(crate) rule: Option<u32>,
    pub(crate) state: Arc<RuleState>,
    /// The limits on connections that count it.
    pub(crate) hold: Holds,
    pub(crate) mark: u32,
    /// The number of the policy that last judged it.
    pub(crate) judged_by: u32,
    pub(crate) opener: Opener,
    /// Packets of the opener are subject to a limit on packets or bytes.
    pub(crate) policed: bool,
    /// An answer that depends on it may stand in a flow cache.
    pub(crate) cached: bool,
    pub(crate) opened: Now,
    /// Of each direction.
    pub(crate) packets: [u64; 2],
    pub(crate) bytes: [u64; 2],
}

impl Tracked {
    /// Counts packets of one direction, for the session and for its rule.
    pub(crate) fn count(&mut self, side: Side, packets: u64, bytes: u64) {
        let [forward, reverse] = &mut self.packets;
        let seen = if side == Side::Forward { forward } else { reverse };
        *seen = seen.wrapping_add(packets);
        let [forward, reverse] = &mut self.bytes;
        let seen = if side == Side::Forward { forward } else { reverse };
        *seen = seen.wrapping_add(bytes);
        self.state.add(packets, bytes);
    }
}

/// What the rules are asked when a session is judged again: the packet that opened it, as far as it is known, with the length and
/// DSCP of the packet at hand.
pub(crate) fn opening_fields(key: &SessionKey, tracked: &Tracked, headers: &Headers) -> Fields {
    let icmp_type = match tracked.track {
        Track::Query(query, _) => query.request,
        _ => 0,
    };
    let has_ports = matches!(key.protocol, TCP | UDP | SCTP);
    let port = |port| if has_ports { u16::from_be_bytes(port) } else { 0 };
    Fields {
        source: key.source,
        destination: key.destination,
        source_port: port(key.source_port),
        destination_port: port(key.destination_port),
        ingress: tracked.opener.ingress,
        egress: tracked.opener.egress,
        vlan: tracked.opener.vlan,
        length: headers.packet_len(),
        family: if key.source.starts_with(&MAPPED_PREFIX) { Family::Ipv4 } else { Family::Ipv6 },
        protocol: key.protocol,
        tcp_flags: if key.protocol == TCP { SYN } else { 0 },
        icmp_type,
        icmp_code: 0,
        dscp: headers.dscp(),
        fragmentation: Fragmentation::Whole,
        state: State::New,
        has_ports,
        has_header: matches!(key.protocol, TCP | ICMP | ICMPV6),
    }
}

/// A credit has 56 bits: one for the direction, 30 for the index, the rest for the generation.
const GENERATION_BITS: u32 = 25;
const INDEX_BITS: u32 = 30;

/// A session and a direction as a credit; `None` for a slot that was used so often that the number does not fit.
pub(crate) fn to_credit(id: SessionId, side: Side) -> Option<u64> {
    let bits = id.to_bits();
    let (generation, index) = (bits >> 32, bits & u64::from(u32::MAX));
    (generation >> GENERATION_BITS == 0 && index >> INDEX_BITS == 0)
        .then_some((side as u64) << (GENERATION_BITS + INDEX_BITS) | generation << INDEX_BITS | index)
}

/// See [`to_credit`].
pub(crate) fn from_credit(credit: u64) -> (SessionId, Side) {
    let index = credit & ((1 << INDEX_BITS) - 1);
    let generation = credit >> INDEX_BITS & ((1 << GENERATION_BITS) - 1);
    let side = if credit >> (GENERATION_BITS + INDEX_BITS) & 1 == 0 { Side::Forward } else { Side::Reverse };
    (SessionId::from_bits(generation << 32 | index), side)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credit_is_a_session_and_a_direction_or_none() {
        for bits in [1u64 << 32, 5 << 32 | 77, ((1 << 25) - 1) << 32 | ((1 << 30) - 1)] {
            for side in [Side::Forward, Side::Reverse] {
                let id = SessionId::from_bits(bits);
                let credit = to_credit(id, side).unwrap();
                assert!(credit < 1 << 56);
                assert_eq!(from_credit(credit), (id, side));
            }
        }
        assert_eq!(to_credit(SessionId::from_bits(1 << 57), Side::Forward), None);
        assert_eq!(to_credit(SessionId::from_bits(1 << 32 | 1 << 30), Side::Forward), None);
    }
}
