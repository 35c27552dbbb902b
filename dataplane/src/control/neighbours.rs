//! Neighbours: the kernel is asked for those that packets wait for, and told which are in use.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError};
use throughway_kernel::model::{NeighbourKey, NudState, State};
use throughway_kernel::{Changes, Resolver};
use throughway_packet::PortId;
use throughway_vnf::Slot;

use super::mirror::Shared;
use crate::host::HostFacts;
use crate::stats::WorkerStats;
use crate::worker::Wanted;
use crate::worker::uses::Used;

/// How long the thread sleeps at most before it looks whether it shall stop.
const PATIENCE: Duration = Duration::from_millis(100);

/// How often stale neighbours that are in use are confirmed.
const CONFIRM_EVERY: Duration = Duration::from_secs(2);

/// How long senders are told at once that a neighbour does not answer. Longer than the kernel keeps asking (three requests
/// a second apart): while packets come, one failure follows on the other; after a silence it gets another chance.
const SILENCE: Duration = Duration::from_secs(5);

/// So many silent neighbours are remembered; packets for more of them wait as for any other.
const MOST_SILENT: usize = 4096;

/// The neighbours that did not answer when they were last asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Silent(HashMap<NeighbourKey, Instant>);

impl Silent {
    /// Takes notice of what the kernel said of neighbours; tells whether anything is different.
    pub(super) fn note(&mut self, state: &State, changes: &Changes, now: Instant) -> bool {
        let mut different = false;
        for key in &changes.neighbours {
            let failed = state.neighbours.get(key).is_some_and(|known| known.state == NudState::Failed);
            if !failed {
                different |= self.0.remove(key).is_some();
            } else if self.0.contains_key(key) || self.0.len() < MOST_SILENT {
                different |= self.0.insert(*key, now).is_none();
            }
        }
        different
    }

    /// Forgets those of long ago; tells whether there were any.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let before = self.0.len();
        self.0.retain(|_, since| now.saturating_duration_since(*since) < SILENCE);
        self.0.len() != before
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &NeighbourKey> {
        self.0.keys()
    }
}

/// Has the kernel resolve what workers ask for, and confirm what their packets are sent to.
pub(super) fn resolve(
    mut resolver: Resolver,
    wanted: &Receiver<Wanted>,
    shared: &Shared,
    workers: &[Arc<WorkerStats>],
    stop: &AtomicBool,
) {
    let mut confirmed = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        if confirmed.elapsed() >= CONFIRM_EVERY {
            confirmed = Instant::now();
            let used = Used::collect(workers.iter().map(|stats| &stats.uses));
            for (ifindex, address) in stale(&shared.facts(), &used) {
                shared.count(|figures| figures.confirmations += 1);
                if let Err(error) = resolver.confirm(ifindex, address) {
                    tracing::debug!(%error, %address, "the kernel would not confirm a neighbour");
                }
            }
        }
        let (port, address) = match wanted.recv_timeout(PATIENCE) {
            Ok(wanted) => wanted,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        // Where the kernel has no device, as for a VLAN of ours alone, it can resolve nothing.
        let ifindex =
            shared.facts().ports.get(port.index()).map(|port| port.ifindex).filter(|index| *index != 0);
        if let Some(ifindex) = ifindex {
            shared.count(|figures| figures.resolutions += 1);
            if let Err(error) = resolver.resolve(ifindex, address) {
                tracing::debug!(%error, %address, "the kernel would not resolve a neighbour");
            }
        }
    }
}

/// The neighbours that have to be confirmed, by the kernel's number of their device: stale ones that packets are sent to.
///
/// The kernel sees nothing of what is forwarded to them, so without being told it would never ask whether they are still
/// there, and packets would go to a MAC address that nobody has any more.
fn stale<'a>(facts: &'a HostFacts, used: &'a Used) -> impl Iterator<Item = (u32, IpAddr)> + 'a {
    let stale = facts.neighbours.iter().filter(|neighbour| neighbour.state == "stale");
    let in_use =
        stale.filter(|neighbour| used.contains(Slot::neighbour(PortId(neighbour.port), neighbour.address)));
    in_use.filter_map(|neighbour| {
        let port = facts.ports.get(usize::from(neighbour.port))?;
        Some((port.ifindex, neighbour.address))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::NeighbourFacts;
    use crate::worker::uses::Uses;

    #[test]
    fn stale_neighbours_in_use_are_confirmed_and_no_others() {
        let mut facts = HostFacts::invented([("wan".to_owned(), "eth1".to_owned())]);
        facts.ports[0].ifindex = 4;
        let address = |last| IpAddr::from([192, 0, 2, last]);
        for (last, state) in [(1, "reachable"), (2, "stale"), (3, "permanent"), (4, "stale")] {
            let address = address(last);
            facts.neighbours.push(NeighbourFacts { port: 0, address, mac: [2; 6], state: state.to_owned() });
        }
        let uses = Uses::default();
        for last in [1, 2, 3] {
            uses.mark(&[Slot::neighbour(PortId(0), address(last))].into_iter().collect());
        }
        let used = Used::collect([&uses].into_iter());
        assert_eq!(stale(&facts, &used).collect::<Vec<_>>(), [(4, address(2))]);
    }

    #[test]
    fn silence_is_remembered_for_its_time() {
        let key = NeighbourKey { ifindex: 4, address: IpAddr::from([192, 0, 2, 1]) };
        let mut state = State::default();
        let changes = Changes { neighbours: [key].into(), ..Changes::default() };
        let mut silent = Silent::default();
        let begun = Instant::now();
        assert!(!silent.note(&state, &changes, begun));
        let failed = throughway_kernel::Neighbour { state: NudState::Failed, ..Default::default() };
        state.neighbours.insert(key, failed);
        assert!(silent.note(&state, &changes, begun));
        // Said again: nothing is different, and it holds for longer.
        assert!(!silent.note(&state, &changes, begun + SILENCE / 2));
        assert!(!silent.expire(begun + SILENCE) && silent.expire(begun + SILENCE * 2));
        assert!(silent.note(&state, &changes, begun));
        state.neighbours.clear();
        assert!(silent.note(&state, &changes, begun) && silent.iter().count() == 0);
    }
}
