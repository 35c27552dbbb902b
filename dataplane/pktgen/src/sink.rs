//! The counting sink.

use std::collections::BTreeMap;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use aya::programs::{Xdp, XdpMode};
use throughway_traffic::SINK;
use throughway_traffic::sink::{BUCKETS, LATENCY, OTHER, RUN_ENTRIES, RUNS, Run};

use crate::device::Device;
use crate::{Error, Latency, OBJECT};

/// How the sink sits on its device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// In the driver.
    Native,
    /// After the kernel has made a socket buffer: slower.
    Generic,
}

impl Mode {
    /// The label used in output.
    pub const fn label(self) -> &'static str {
        match self {
            Mode::Native => "native",
            Mode::Generic => "generic",
        }
    }
}

/// What the sink has counted.
#[derive(Clone, PartialEq, Debug)]
pub struct Received {
    /// The generator's packets.
    pub packets: u64,
    /// Bytes of their frames, without the frame check sequence.
    pub bytes: u64,
    /// Frames that are not the generator's: they passed to the kernel.
    pub other: u64,
    /// CLOCK_MONOTONIC of the first packet in ns; `None`: there was none.
    pub first: Option<u64>,
    /// CLOCK_MONOTONIC of the last packet, or of one of the last 32 of a CPU when they have no stamp.
    pub last: Option<u64>,
    /// Packets per second between these two.
    pub rate: f64,
    /// What the stamps say; `None` without stamps.
    pub stamped: Option<Stamped>,
}

/// What sequence numbers and stamps say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamped {
    /// Sequence numbers between the first and the last that came which did not come.
    pub lost: u64,
    /// Packets whose sequence number had come before.
    pub duplicates: u64,
    /// Packets that came after a later one of their flow.
    pub reordered: u64,
    /// Packets so late that it is not known whether they had come before: 32768 later ones had come.
    pub unknown: u64,
    /// From stamp to sink.
    pub latency: Latency,
}

/// An XDP program on a device that counts the generator's packets and drops them. It goes when this is dropped.
pub struct Sink {
    // Keeps the program on its device.
    _program: Ebpf,
    mode: Mode,
    refused: Option<String>,
    runs: PerCpuArray<MapData, [u64; Run::WORDS]>,
    other: PerCpuArray<MapData, u64>,
    latency: PerCpuArray<MapData, u64>,
}

impl Sink {
    /// Puts the sink on `device`, in the network namespace of the calling thread: in its driver where that can be, else
    /// behind it.
    ///
    /// # Errors
    ///
    /// When there is no such device, another program is on it, or the kernel refuses.
    pub fn attach(device: &str) -> Result<Sink, Error> {
        let device = Device::find(device)?;
        let mut bpf = Ebpf::load(OBJECT)?;
        let program: &mut Xdp = bpf
            .program_mut(SINK)
            .ok_or(Error::Missing(SINK))?
            .try_into()
            .map_err(Error::program("the sink is no XDP program"))?;
        program.load().map_err(Error::program("the kernel refuses the sink's program"))?;
        let (mode, refused) = match program.attach_to_if_index(device.index, XdpMode::Driver) {
            Ok(_) => (Mode::Native, None),
            Err(native) => match program.attach_to_if_index(device.index, XdpMode::Skb) {
                Ok(_) => (Mode::Generic, Some(native.to_string())),
                Err(error) => {
                    return Err(Error::program(format!("cannot put the sink on {}", device.name))(error));
                }
            },
        };
        let mut take = |name| bpf.take_map(name).ok_or(Error::Missing(name));
        Ok(Sink {
            mode,
            refused,
            runs: take(RUNS)?.try_into().map_err(Error::map(RUNS))?,
            other: take(OTHER)?.try_into().map_err(Error::map(OTHER))?,
            latency: take(LATENCY)?.try_into().map_err(Error::map(LATENCY))?,
            _program: bpf,
        })
    }

    /// Where it sits.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Why it could not sit in the driver.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// How many packets of the generator have come so far.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn packets(&self) -> Result<u64, Error> {
        Ok(self.runs()?.values().flatten().map(|run| run.packets).sum())
    }

    /// What has come so far.
    ///
    /// # Errors
    ///
    /// When a map cannot be read.
    pub fn received(&self) -> Result<Received, Error> {
        let other = self.other.get(&0, 0).map_err(Error::map(OTHER))?.iter().sum();
        let runs = self.runs()?;
        let seen = || runs.values().flatten();
        let sum = |what: fn(&Run) -> u64| seen().map(what).sum::<u64>();
        let (first, last) = (seen().map(|run| run.first).min(), seen().map(|run| run.last).max());
        let span = Duration::from_nanos(last.unwrap_or(0).saturating_sub(first.unwrap_or(0))).as_secs_f64();
        // The first one opens the span and is not part of it.
        let counted = sum(|run| run.packets_at_last).saturating_sub(1);
        let stamped = self.latency(seen())?.map(|latency| Stamped {
            lost: runs.values().map(|run| lost(run)).sum(),
            duplicates: sum(|run| run.duplicates),
            reordered: sum(|run| run.reordered),
            unknown: sum(|run| run.unknown),
            latency,
        });
        Ok(Received {
            packets: sum(|run| run.packets),
            bytes: sum(|run| run.bytes),
            other,
            first,
            last,
            rate: if span > 0.0 { counted as f64 / span } else { 0.0 },
            stamped,
        })
    }

    /// What each CPU has seen of each run, where there is anything.
    fn runs(&self) -> Result<BTreeMap<u32, Vec<Run>>, Error> {
        let mut runs = BTreeMap::new();
        for number in 0..RUN_ENTRIES {
            let words = self.runs.get(&number, 0).map_err(Error::map(RUNS))?;
            let seen: Vec<Run> = words.iter().map(Run::from_words).filter(|run| run.packets != 0).collect();
            if !seen.is_empty() {
                runs.insert(number, seen);
            }
        }
        Ok(runs)
    }

    fn latency<'a>(&self, runs: impl Iterator<Item = &'a Run>) -> Result<Option<Latency>, Error> {
        let (mut min, mut max) = (u64::MAX, 0);
        for run in runs.filter(|run| run.least_latency != 0) {
            min = min.min(run.least_latency - 1);
            max = max.max(run.most_latency);
        }
        if min > max {
            return Ok(None);
        }
        let mut buckets = Vec::with_capacity(BUCKETS as usize);
        for bucket in 0..BUCKETS {
            buckets.push(self.latency.get(&bucket, 0).map_err(Error::map(LATENCY))?.iter().sum());
        }
        Ok(Latency::new(&buckets, min, max))
    }
}

/// Of one run, what did not come between the first and the last sequence number that came.
fn lost(run: &[Run]) -> u64 {
    let stamped = || run.iter().filter(|run| run.stamped != 0);
    // Both are one more than the number itself.
    let (Some(lowest), Some(highest)) =
        (stamped().map(|run| run.lowest).min(), stamped().map(|run| run.highest).max())
    else {
        return 0;
    };
    let distinct: u64 = stamped().map(|run| run.stamped - run.duplicates).sum();
    (highest + 1).saturating_sub(lowest).saturating_sub(distinct)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_come_is_lost() {
        // Sequence numbers 10 to 19 on one CPU, without 14; 20 and 21 on another, 20 twice.
        let one = Run { packets: 9, stamped: 9, lowest: 11, highest: 20, ..Run::default() };
        let two = Run { packets: 3, stamped: 3, duplicates: 1, lowest: 21, highest: 22, ..Run::default() };
        assert_eq!(lost(&[one, two]), 1);
        assert_eq!(lost(&[Run { packets: 3, ..Run::default() }]), 0, "without stamps nothing is known");
    }
}
