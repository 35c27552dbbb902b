//! What the program counted.

use aya::maps::{MapData, PerCpuArray};
use throughway_shared::steer::{self, Reason, STEERED, UNKNOWN_INTERFACE};

use crate::steering::{SteeringError, in_map};

/// How many frames of one interface the program decided for which reason. They only grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counters {
    /// The number of the interface; `None` for all interfaces that the program does not know.
    pub interface: Option<u32>,
    frames: [u64; Reason::COUNT as usize],
}

impl Counters {
    /// Frames decided for `reason`.
    pub fn get(&self, reason: Reason) -> u64 {
        self.frames[reason as usize]
    }

    /// Every reason with its frames.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.iter().map(|&reason| (reason, self.get(reason)))
    }

    /// Frames decided for any reason: all that came in.
    pub fn total(&self) -> u64 {
        self.frames.iter().sum()
    }
}

pub(crate) fn read(
    steered: &PerCpuArray<MapData, u64>,
    interface: Option<u32>,
) -> Result<Counters, SteeringError> {
    let mut frames = [0; Reason::COUNT as usize];
    for (&reason, frames) in Reason::ALL.iter().zip(&mut frames) {
        let at = steer::counter(interface.unwrap_or(UNKNOWN_INTERFACE), reason);
        *frames = steered.get(&at, 0).map_err(in_map(STEERED))?.iter().sum();
    }
    Ok(Counters { interface, frames })
}
