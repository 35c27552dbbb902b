//! What the NAT would do with a packet now, and why, a line each. Nothing changes by asking.

use throughway_packet::Flags;
use throughway_session::fragment::Piece;
use throughway_session::{SessionKey, Side};
use throughway_vnf::{DropReason, Now, Packet};

use crate::address::has_ports;
use crate::fragments::Fate;
use crate::function::Nat;
use crate::plan::{Planner, Prepared, Source, ends, opening, redirect};
use crate::pool::Pool;
use crate::related::session_of;
use crate::rule::{Filtering, SourceRule};
use crate::shared::{Shared, peer_key};
use crate::show::state_name;

pub(crate) fn explain(nat: &Nat, packet: &Packet<'_>, now: Now) -> Vec<String> {
    let shared: &Shared = nat.shared();
    let rules = nat.rules();
    let headers = *packet.headers();
    let key = SessionKey::of(&headers.key, 0);
    let mut lines = Vec::new();
    if packet.received().flags.has(Flags::LATER_FRAGMENT) {
        let fate = Piece::of(packet.bytes(), packet.received())
            .and_then(|piece| shared.fragments.find(&piece.datagram, now));
        lines.push(match fate {
            None => "a later fragment, and its first one was not seen: it waits for that".into(),
            Some(Fate::Untouched) => "a later fragment; its first one was not translated".into(),
            Some(Fate::Dropped(reason)) => {
                format!("a later fragment; its first one was dropped: {}", reason.label())
            }
            Some(Fate::Session(id, _)) => match shared.sessions.keys(id) {
                Some([forward, _]) => {
                    format!("a later fragment, translated as its first one: session {forward}")
                }
                None => "a later fragment of a session that is gone: dropped".into(),
            },
        });
        return lines;
    }
    if headers.flags.has(Flags::ICMP_ERROR) {
        let keys = session_of(shared, packet, now).and_then(|(id, _)| shared.sessions.keys(id));
        lines.push(match keys {
            Some([forward, _]) => {
                format!("an ICMP error about session {forward}: translated with what it quotes")
            }
            None => {
                "an ICMP error about no session: dropped if its addresses would have to be translated".into()
            }
        });
        return lines;
    }
    if let Some(found) = shared.sessions.lookup(&key, now)
        && let Some([forward, reverse]) = shared.sessions.keys(found.id)
    {
        let other = if found.side == Side::Forward { reverse } else { forward };
        let state = shared.sessions.read(found.id, |session, info| {
            let left = info.expires.0.saturating_sub(now.0) / 1_000_000_000;
            format!("{}, ends in {left} s", state_name(session.connection))
        });
        let side = if found.side == Side::Forward { "of the opener" } else { "of the other side" };
        lines.push(format!("session {forward} ({}), packet {side}", state.unwrap_or_default()));
        lines.push(format!("leaves as {}", other.reversed()));
        return lines;
    }
    let egress = packet.egress();
    let planner = Planner::new(shared, &rules, (&headers, &key), egress, (now, 0), Prepared::default());
    lines.push(format!("no session {key}"));
    let from = if planner.is_inbound() { "outside" } else { "inside" };
    lines.push(format!("comes from {from}"));
    let mut translated = key;
    let mut turned = false;
    if let Some((number, rule)) = planner.destination_rule() {
        redirect(rule, &headers, &mut translated);
        lines.push(format!("destination rule {}: would be {translated}", count(number)));
        turned = true;
    } else if let Some(outside) = planner.called() {
        let mapping = shared.mappings.lookup(&outside, now).and_then(|found| {
            let keys = shared.mappings.keys(found.id)?;
            let filtering = shared.mappings.read(found.id, |mapped, _| mapped.filtering)?;
            Some((found.id, ends(&keys), filtering))
        });
        if let Some((id, ((inside, port), _), filtering)) = mapping {
            let sent = shared.is_permitted(id, &peer_key(&key, &key.source), now);
            let (how, may) = match filtering {
                Filtering::EndpointIndependent => ("endpoint-independent", true),
                Filtering::AddressDependent => ("address-dependent", sent),
                Filtering::AddressAndPortDependent => ("address-and-port-dependent", false),
            };
            let may = if may { "lets it in" } else { "keeps it out" };
            lines.push(format!("mapping of {inside} port {port}, filtering {how}: {may}"));
            turned = true;
        }
    }
    match planner.source_rule(turned) {
        Ok(Source::Same) => {
            let same = if turned { "the source stays" } else { "no rule: not translated" };
            lines.push(same.into());
        }
        Ok(Source::Moved(number, address)) => {
            lines.push(format!("source rule {}: source becomes {address}", count(number)))
        }
        Ok(Source::Of(number, rule, pool)) => {
            let made = of_pool(shared, &planner, rule, pool, now);
            lines.push(format!("source rule {}: {made}", count(number)));
        }
        Err(reason) => lines.push(format!("dropped: {}", reason.label())),
    }
    if !turned && let Err(reason) = planner.stray() {
        let own = if reason == DropReason::LocalDestination { ", which is for the host itself" } else { "" };
        lines.push(format!("nobody inside has this end: {}{own}", reason.label()));
    }
    if let (Err(reason), true) = (opening(&headers), lines.len() > 3 || turned) {
        lines.push(format!("it opens no connection: dropped, {}", reason.label()));
    }
    lines
}

/// The outside end that a packet has, or would get, of a pool.
fn of_pool(shared: &Shared, planner: &Planner<'_, '_>, rule: &SourceRule, pool: &Pool, now: Now) -> String {
    let inside = planner.headers.source();
    let address = || pool.address_for(inside).map_or("none".into(), |address| address.to_string());
    if !has_ports(planner.key.protocol) {
        return format!("address {}", address());
    }
    let known = shared.mappings.lookup(&planner.inside_of(rule), now);
    if let Some(keys) = known.and_then(|found| shared.mappings.keys(found.id)) {
        let (_, (address, port)) = ends(&keys);
        return format!("its mapping {address} port {port}");
    }
    match (pool.block_of(inside), &pool.config().blocks) {
        (Some(block), _) => {
            format!("a new port of its block {} ports {} to {}", block.outside, block.first, block.last)
        }
        (None, Some(_)) => "a new port of its blocks, or of a new block".into(),
        (None, None) => format!("a new port of address {}", address()),
    }
}

/// A rule as people count: from one, as `show sessions` does.
fn count(number: u16) -> u32 {
    u32::from(number) + 1
}
