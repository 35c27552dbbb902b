//! What the XDP program drops before anything else, while the service runs: see [`crate::assemble::early`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use throughway_config::Config;
use throughway_shared::steer::MAX_EARLY_SETS;
use throughway_xdp::{EarlyPrefix, EarlySets, SteeringError};

use crate::assemble::early::{EarlySet, Plan, standing};

/// The interfaces at which anything is dropped early: the bit of each number. Written by a reload, read by whoever tells the XDP
/// program of its interfaces.
pub(super) type EarlyAt = Arc<AtomicU64>;

/// The sets in force.
pub(super) struct Early {
    maps: EarlySets,
    rows: Vec<Row>,
    at: EarlyAt,
}

/// A set in force.
struct Row {
    set: EarlySet,
    /// Its number in the XDP program, which it keeps for as long as it is there.
    number: u32,
    /// What an earlier set of that number had counted.
    before: u64,
}

/// What is shown of a set that is dropped early.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EarlyView {
    /// Its firewall.
    pub function: String,
    /// Its name there.
    pub set: String,
    /// The interfaces at which it counts: all of a device.
    pub interfaces: Vec<String>,
    /// How many prefixes it has in the XDP program.
    pub prefixes: usize,
    /// Packets that were dropped.
    pub drops: u64,
}

impl Early {
    /// Nothing is dropped yet.
    pub(super) fn new(maps: EarlySets) -> Self {
        Early { maps, rows: Vec::new(), at: EarlyAt::default() }
    }

    /// Where anything is dropped, now and later.
    pub(super) fn at(&self) -> EarlyAt {
        Arc::clone(&self.at)
    }

    /// Puts `plan` into force. The XDP program must then be told of its interfaces.
    ///
    /// # Errors
    /// When the maps cannot be written: then what was in force stays so.
    pub(super) fn apply(&mut self, plan: &Plan) -> Result<(), SteeringError> {
        if plan.sets.is_empty() && self.rows.is_empty() {
            return Ok(());
        }
        let begun = Instant::now();
        let rows = self.numbered(plan)?;
        let prefixes = plan.prefixes.iter().filter_map(|prefix| {
            let set = rows.get(prefix.set)?.number;
            let (address, length, interfaces) = (prefix.address, prefix.length, prefix.interfaces);
            Some(EarlyPrefix { address, length, interfaces, set })
        });
        self.maps.replace(prefixes)?;
        self.rows = rows;
        self.at.store(plan.interfaces(), Ordering::Release);
        tracing::info!(
            sets = self.rows.len(),
            prefixes = self.maps.len(),
            in_tries = self.maps.in_tries(),
            milliseconds = begun.elapsed().as_millis(),
            "the XDP program has the sets that are dropped early"
        );
        Ok(())
    }

    /// The sets of `plan` with their numbers. One that comes gets the number of one that goes only when there is no other.
    fn numbered(&self, plan: &Plan) -> Result<Vec<Row>, SteeringError> {
        let same = |set: &EarlySet| {
            self.rows.iter().find(|row| (&row.set.function, &row.set.set) == (&set.function, &set.set))
        };
        let drops = self.maps.drops()?;
        let mut taken: Vec<u32> = plan.sets.iter().filter_map(same).map(|row| row.number).collect();
        let rows = plan.sets.iter().map(|set| {
            if let Some(row) = same(set) {
                return Row { set: set.clone(), number: row.number, before: row.before };
            }
            let free = || (0..MAX_EARLY_SETS).filter(|number| !taken.contains(number));
            let unused = free().find(|number| !self.rows.iter().any(|row| row.number == *number));
            // A plan has no more sets than there are numbers.
            let number = unused.or_else(|| free().next()).unwrap_or_default();
            taken.push(number);
            Row { set: set.clone(), number, before: drops.get(number as usize).copied().unwrap_or_default() }
        });
        Ok(rows.collect())
    }

    /// What there is to show.
    pub(super) fn views(&self, config: &Config) -> Vec<EarlyView> {
        let drops = self.maps.drops().unwrap_or_else(|error| {
            tracing::warn!(%error, "the XDP program's counters of early drops cannot be read");
            Vec::new()
        });
        let views = self.rows.iter().map(|row| EarlyView {
            function: row.set.function.clone(),
            set: row.set.set.clone(),
            interfaces: names(config, row.set.interfaces),
            prefixes: row.set.prefixes,
            drops: drops.get(row.number as usize).map_or(0, |drops| drops.saturating_sub(row.before)),
        });
        views.collect()
    }
}

/// The interfaces on the devices of `mask`.
pub fn names(config: &Config, mask: u64) -> Vec<String> {
    let numbered = config.interfaces.iter().zip(standing(config));
    let there = numbered.filter(|(_, number)| mask.checked_shr(*number).is_some_and(|mask| mask & 1 != 0));
    there.map(|(interface, _)| interface.name.to_string()).collect()
}
