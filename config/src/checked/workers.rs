//! Threads.

use super::*;
use crate::value::{Duration, Number, Value, words};

/// The worker threads: one per core, each with one queue of every interface.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Workers {
    /// The cores they are pinned to, all different, at least one.
    pub cores: Vec<u16>,
    /// What a worker does when there is nothing to do.
    pub poll: Poll,
    /// How many frames of packet memory each worker has: a power of two.
    pub frames: u32,
    /// How many flows each worker remembers; zero: every packet walks its chain.
    pub flows: u32,
}

words! {
    /// What a worker does when there is nothing to do.
    Poll, "poll mode", default Adaptive:
    /// Spins for a while, then sleeps until a packet arrives.
    Adaptive = "adaptive",
    /// Spins for ever: the lowest latency, a core at 100 %.
    Busy = "busy",
}

/// How many cores can be named: the kernel's `CPU_SETSIZE`.
pub const CORES: u16 = 1024;

/// Flows that a worker remembers unless it is said: 22 MiB.
const DEFAULT_FLOWS: u32 = 1 << 17;

/// How many flows can be asked for: 2.8 GiB.
pub(crate) const MOST_FLOWS: u32 = 1 << 24;

impl Workers {
    pub(super) fn check(raw: Option<&crate::raw::Workers>, report: &mut Report<'_>) -> Option<Self> {
        let cores = match raw.and_then(|raw| raw.cores.as_ref()) {
            Some(list) => check_cores(list, report),
            None => Some(vec![0]),
        };
        let poll = raw.map_or(Some(Poll::default()), |raw| raw.poll.read_or(Poll::default(), report));
        let frames =
            raw.map_or(Some(FrameCount::DEFAULT), |raw| raw.frames.read_or(FrameCount::DEFAULT, report));
        let flows = raw.map_or(Some(None), |raw| {
            raw.flows.as_ref().map_or(Some(None), |flows| flows.read(report).map(Some))
        });
        let flows = flows?.map_or(DEFAULT_FLOWS, |flows| flows.get());
        Some(Workers { cores: cores?, poll: poll?, frames: frames?.0, flows })
    }
}

/// What the XDP program may hold of the flows that it forwards by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct FastTable {
    /// How many flows of each worker.
    pub flows: u32,
    /// How long it goes on with them when the service has died.
    pub keep: Duration,
}

/// Flows that the XDP program has room for unless it is said: 10 MiB a worker.
const DEFAULT_FAST_FLOWS: u32 = 1 << 16;

/// How many can be asked for.
pub(crate) const MOST_FAST_FLOWS: u32 = 1 << 22;

/// How long the XDP program goes on at least: what the workers need to say that they are alive.
const SHORTEST_KEEP: Duration = Duration::from_nanos(1_000_000_000);

/// How long it goes on at most.
const LONGEST_KEEP: Duration = Duration::from_nanos(3_600_000_000_000);

impl FastTable {
    pub(super) fn check(raw: Option<&crate::raw::FastTable>, report: &mut Report<'_>) -> Option<Self> {
        let flows = raw.map_or(Some(None), |raw| {
            raw.flows.as_ref().map_or(Some(None), |flows| flows.read(report).map(Some))
        });
        let keep = match raw.and_then(|raw| raw.keep.as_ref()) {
            None => Some(SHORTEST_KEEP),
            Some(written) => written.read(report).and_then(|keep| {
                if keep > LONGEST_KEEP {
                    report.error(written.span, format!("at most {LONGEST_KEEP}"));
                    return None;
                }
                Some(keep.max(SHORTEST_KEEP))
            }),
        };
        Some(FastTable { flows: flows?.map_or(DEFAULT_FAST_FLOWS, Number::get), keep: keep? })
    }
}

fn check_cores(list: &OneOrMany<CoreRange>, report: &mut Report<'_>) -> Option<Vec<u16>> {
    let ranges = list.read(report)?;
    let mut cores = Vec::new();
    for (range, written) in ranges.iter().zip(&list.list) {
        if let Some(twice) = range.cores().find(|core| cores.contains(core)) {
            report.error(written.span, format!("core {twice} is named twice"));
        }
        cores.extend(range.cores());
    }
    Some(cores)
}

/// A core, or a range of cores with both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CoreRange {
    first: u16,
    last: u16,
}

impl CoreRange {
    fn cores(self) -> impl Iterator<Item = u16> {
        self.first..=self.last
    }
}

impl std::str::FromStr for CoreRange {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        let core = |text: &str| {
            if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
                let misread = Misread::new(format!("`{text}` is not the number of a core"));
                return Err(misread.help("expected a number or a range such as `2-5`"));
            }
            text.parse()
                .ok()
                .filter(|core| *core < CORES)
                .ok_or_else(|| Misread::new(format!("core {text} is outside 0 to {}", CORES - 1)))
        };
        let (first, last) = match text.split_once('-') {
            Some((first, last)) if !first.is_empty() => (core(first.trim())?, core(last.trim())?),
            _ => (core(text)?, core(text)?),
        };
        if first > last {
            let misread = Misread::new(format!("the range of cores `{text}` ends before it starts"));
            return Err(misread.help(format!("did you mean `{last}-{first}`?")));
        }
        Ok(CoreRange { first, last })
    }
}

impl Value for CoreRange {
    fn schema() -> serde_json::Value {
        serde_json::json!({
            "oneOf": [
                { "type": "integer", "minimum": 0, "maximum": CORES - 1 },
                { "type": "string", "pattern": "^[0-9]{1,4}( *- *[0-9]{1,4})?$", "examples": ["2-5"] },
            ],
        })
    }
}

/// A number of frames: a power of two, as AF_XDP rings want it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FrameCount(u32);

impl FrameCount {
    const DEFAULT: FrameCount = FrameCount(16384);
    const LEAST: u32 = 1 << 10;
    const MOST: u32 = 1 << 20;
}

impl std::str::FromStr for FrameCount {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        let frames = text.parse::<Number<{ FrameCount::LEAST }, { FrameCount::MOST }>>()?.get();
        if frames.is_power_of_two() {
            return Ok(FrameCount(frames));
        }
        let above = frames.next_power_of_two();
        Err(Misread::new(format!("`{text}` is not a power of two"))
            .help(format!("did you mean `{}` or `{above}`?", above / 2)))
    }
}

impl Value for FrameCount {
    fn schema() -> serde_json::Value {
        let powers: Vec<u32> = (10..=20).map(|exponent| 1 << exponent).collect();
        serde_json::json!({ "enum": powers })
    }
}
