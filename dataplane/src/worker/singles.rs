//! Flows whose packets are judged one by one: what rates, logs and sequence checks must see, and what a rule drops that an answer
//! could follow. No flow cache knows them; the last ones are noted here, so that `show flows` can tell of them, and why the
//! XDP program does not execute them.

use throughway_flow::Credits;
use throughway_flow::entry::Flow;
use throughway_packet::{Action, FlowKey, Headers, Tunnel, edits};
use throughway_vnf::Now;

use super::End;

/// Flows that are noted at most. Two that share a place take it from each other with every packet.
const NOTED: usize = 512;
/// A flow is told of for so long (ns) after its last packet.
const TOLD: u64 = 60_000_000_000;

/// What is noted of a flow.
#[derive(Clone, Copy, Debug)]
struct Single {
    key: FlowKey,
    /// What was done to its last packet.
    action: Action,
    packets: u64,
    bytes: u64,
    first: u64,
    last: u64,
}

/// The flows of one worker.
#[derive(Debug)]
pub(super) struct Singles {
    places: Box<[Option<Single>]>,
}

impl Default for Singles {
    fn default() -> Self {
        Singles { places: vec![None; NOTED].into_boxed_slice() }
    }
}

impl Singles {
    /// A packet was judged by itself, and this was recorded of it and became of it.
    pub(super) fn note(&mut self, headers: &Headers, end: &End, recorded: &Action, now: Now) {
        let dropped;
        let action = match end {
            End::Drop(reason, _) => {
                dropped = Action { edits: edits::DROP, drop: *reason as u8, ..Action::nothing() };
                &dropped
            }
            End::Send | End::AwaitNeighbour(_) => recorded,
        };
        self.add(&headers.key, action, headers.packet_len(), now);
    }

    /// Changed in place: every packet that opens a connection comes here, too.
    fn add(&mut self, key: &FlowKey, action: &Action, bytes: u16, now: Now) {
        let Some(place) = self.places.get_mut(place(key)) else { return };
        match place {
            Some(single) if single.key == *key && now.0.saturating_sub(single.last) <= TOLD => {
                single.action = *action;
                single.packets += 1;
                single.bytes += u64::from(bytes);
                single.last = now.0;
            }
            _ => {
                let bytes = u64::from(bytes);
                *place =
                    Some(Single { key: *key, action: *action, packets: 1, bytes, first: now.0, last: now.0 });
            }
        }
    }

    /// The flow is in the cache from now on.
    pub(super) fn forget(&mut self, key: &FlowKey) {
        if let Some(place) = self.places.get_mut(place(key)) {
            let _ = place.take_if(|single| single.key == *key);
        }
    }

    /// Those that sent something within a minute before `now`.
    pub(super) fn flows(&self, now: Now) -> impl Iterator<Item = Flow> {
        let told =
            self.places.iter().flatten().filter(move |single| now.0.saturating_sub(single.last) <= TOLD);
        told.map(move |single| Flow {
            key: single.key,
            action: single.action,
            tunnel: Tunnel::none(),
            credits: Credits::default(),
            packets: single.packets,
            bytes: single.bytes,
            idle: now.0.saturating_sub(single.last),
            age: now.0.saturating_sub(single.first),
            established: false,
            elsewhere: false,
        })
    }
}

/// Where a flow is noted. Whoever makes flows meet makes only them invisible to each other.
fn place(key: &FlowKey) -> usize {
    let word = |bytes: [u8; 16]| {
        let wide = u128::from_ne_bytes(bytes);
        (wide ^ wide >> 64) as u64
    };
    let ports = u64::from(u16::from_ne_bytes(key.source_port)) << 32
        | u64::from(u16::from_ne_bytes(key.destination_port)) << 16
        | u64::from(key.ingress);
    let mixed = [word(key.source), word(key.destination), ports, u64::from(key.protocol)];
    let hash = mixed
        .into_iter()
        .fold(0u64, |hash, word| (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
    (hash >> 32) as usize % NOTED
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn key(port: u16) -> FlowKey {
        FlowKey {
            source: [1; 16],
            source_port: port.to_be_bytes(),
            protocol: 17,
            family: 4,
            ..FlowKey::default()
        }
    }

    #[test]
    fn a_flow_is_told_of_until_it_is_cached_or_silent() {
        let mut singles = Singles::default();
        singles.add(&key(1), &Action::nothing(), 100, Now(SECOND));
        singles.add(&key(1), &Action { hops: 1, ..Action::nothing() }, 50, Now(3 * SECOND));
        let told: Vec<Flow> = singles.flows(Now(10 * SECOND)).collect();
        assert_eq!(told.len(), 1);
        let flow = told[0];
        assert_eq!((flow.key, flow.action.hops, flow.packets, flow.bytes), (key(1), 1, 2, 150));
        assert_eq!((flow.idle, flow.age), (7 * SECOND, 9 * SECOND));
        assert_eq!(singles.flows(Now(64 * SECOND)).count(), 0, "silent for longer than a minute");
        singles.add(&key(1), &Action::nothing(), 100, Now(70 * SECOND));
        assert_eq!(
            singles.flows(Now(70 * SECOND)).next().map(|flow| flow.packets),
            Some(1),
            "it begins anew"
        );
        singles.forget(&key(2));
        singles.forget(&key(1));
        assert_eq!(singles.flows(Now(70 * SECOND)).count(), 0);
    }

    #[test]
    fn a_flood_takes_no_more_than_its_places_and_flows_spread() {
        let mut singles = Singles::default();
        (0..60_000).for_each(|port| singles.add(&key(port), &Action::nothing(), 1, Now(SECOND)));
        let noted = singles.flows(Now(SECOND)).count();
        assert!((NOTED * 9 / 10..=NOTED).contains(&noted), "{noted}");
    }
}
