//! ICMP errors: about a packet of a session, translated with the packet they quote (RFC 5508, section 4).

use throughway_packet::parse::{ICMP, ICMPV6, SCTP, TCP, UDP};
use throughway_packet::{Edit, Flags, Headers};
use throughway_session::{SessionId, SessionKey, Side};
use throughway_vnf::{Now, Packet};

use crate::shared::{Shared, end_of};

/// The key that an answer to the quoted packet would have, if the quote says enough.
fn answer_key(embedded: &Headers) -> Option<SessionKey> {
    let flags = embedded.flags;
    let enough = match embedded.key.protocol {
        _ if flags.has(Flags::LATER_FRAGMENT) => false,
        TCP | UDP | SCTP => flags.has(Flags::PORTS),
        ICMP | ICMPV6 => flags.has(Flags::ICMP_QUERY),
        _ => true,
    };
    enough.then(|| SessionKey::of(&embedded.key, 0).reversed())
}

/// The session that an error is about. It must be addressed to who sent the packet it quotes. Nothing is kept alive by it
/// (RFC 7857, section 8).
pub(crate) fn session_of(shared: &Shared, packet: &Packet<'_>, now: Now) -> Option<(SessionId, Side)> {
    let embedded = packet.embedded()?;
    if embedded.key.source != packet.headers().key.destination {
        return None;
    }
    let found = shared.sessions.lookup(&answer_key(&embedded)?, now)?;
    Some((found.id, found.side))
}

/// Translates an error and what it quotes: it goes the way of the packets of `side`. `None` if the session is gone.
pub(crate) fn translate_error(
    shared: &Shared,
    packet: &mut Packet<'_>,
    (id, side): (SessionId, Side),
) -> Option<()> {
    let [forward, reverse] = shared.sessions.keys(id)?;
    // The packet was sent as an answer to this key; it began as one with the other key.
    let (answer, origin) = if side == Side::Forward { (forward, reverse) } else { (reverse, forward) };
    let before = answer.reversed();
    let (source, source_port) = end_of(&origin.source, origin.source_port);
    let (destination, destination_port) = end_of(&origin.destination, origin.destination_port);
    if before.destination != origin.destination {
        // From behind the NAT: whoever reports it there is not known outside (RFC 5508, REQ-5).
        packet.edit(Edit::Source(destination));
        packet.edit_embedded(Edit::Destination(destination));
    }
    if before.source != origin.source {
        packet.edit(Edit::Destination(source));
        packet.edit_embedded(Edit::Source(source));
    }
    if before.source_port != origin.source_port {
        packet.edit_embedded(Edit::SourcePort(source_port));
    }
    let is_query = matches!(origin.protocol, ICMP | ICMPV6);
    if !is_query && before.destination_port != origin.destination_port {
        packet.edit_embedded(Edit::DestinationPort(destination_port));
    }
    Some(())
}
