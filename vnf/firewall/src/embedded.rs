//! The packet that an ICMP error is about, and the session it would belong to.

use throughway_packet::parse::{ICMP, ICMPV6, SCTP, TCP, UDP};
use throughway_packet::{Flags, Headers};
use throughway_session::SessionKey;

use crate::track::icmp::Query;

/// The key under which the session of an embedded packet is known, if it says enough. `None` where its ports or identifier are
/// not quoted, of later fragments, and of packets that no session has, such as errors.
pub(crate) fn session_key(embedded: &Headers, zone: u16) -> Option<SessionKey> {
    let mut key = SessionKey::of(&embedded.key, zone);
    if embedded.flags.has(Flags::LATER_FRAGMENT) {
        return None;
    }
    match key.protocol {
        TCP | UDP | SCTP => embedded.flags.has(Flags::PORTS).then_some(key),
        ICMP | ICMPV6 => {
            let ipv4 = embedded.is_ipv4();
            if (key.protocol == ICMP) != ipv4 || !embedded.flags.has(Flags::ICMP_QUERY) {
                return None;
            }
            Query::of(ipv4, embedded.icmp_type)?.put_into(&mut key);
            Some(key)
        }
        _ => Some(key),
    }
}
