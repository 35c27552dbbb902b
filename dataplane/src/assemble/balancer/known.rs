//! What is known of one backend: what its checks said, whether it is drained, and how fast connections come to it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use throughway_balancer::{FULL_SHARE, Health, Seat};
use throughway_config::{Backend, Health as Check};

/// Over how long rates are measured.
const WINDOW: Duration = Duration::from_secs(2);

/// What answers to the checks say of a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    /// Nobody asks.
    Unchecked,
    /// No answer yet; whether it counts as up meanwhile: at the start of the service, but not when it joins others that are up.
    Unknown { trusted: bool },
    /// With so many bad answers since the last good one.
    Up { bad: u8 },
    /// With so many good answers since the last bad one.
    Down { good: u8 },
}

/// A backend with what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) config: Backend,
    pub(super) seat: Arc<Seat>,
    pub(super) status: Status,
    /// What the last bad answer was.
    why: String,
    /// When it went up or down.
    pub(super) since: Option<Instant>,
    /// Gets no new connections by an operator's word: until then, or for good.
    pub(super) drained: Option<Option<Instant>>,
    /// When it came up, while it starts slowly.
    pub(super) rising: Option<Instant>,
    /// When its figures were last read, and what they were.
    sampled: Option<(Instant, [u64; 3])>,
    /// Connections, packets and bytes a second, lately.
    pub(super) rates: [f64; 3],
}

impl Known {
    pub(super) fn new(config: Backend, seat: Arc<Seat>, status: Status) -> Known {
        Known {
            config,
            seat,
            status,
            why: String::new(),
            since: None,
            drained: None,
            rising: None,
            sampled: None,
            rates: [0.0; 3],
        }
    }

    pub(super) fn health(&self) -> Health {
        match self.status {
            _ if self.drained.is_some() => Health::Draining,
            Status::Down { .. } | Status::Unknown { trusted: false } => Health::Down,
            Status::Unchecked | Status::Unknown { trusted: true } | Status::Up { .. } => Health::Up,
        }
    }

    pub(super) fn state(&self) -> &'static str {
        match self.status {
            _ if self.drained.is_some() || self.config.weight == 0 => "draining",
            Status::Down { .. } => "down",
            Status::Unknown { .. } => "unknown",
            Status::Unchecked | Status::Up { .. } if self.rising.is_some() => "starting",
            Status::Unchecked | Status::Up { .. } => "up",
        }
    }

    /// Why it is not simply up, for people.
    pub(super) fn why(&self, check: Option<&Check>, now: Instant) -> String {
        let of = |count: u8, of: u8, what: &str| format!("{count} of {of} {what} answers");
        let (rise, fall) = check.map_or((0, 0), |check| (check.rise, check.fall));
        match (self.drained, self.status) {
            (Some(None), _) => "drained by an operator".to_owned(),
            (Some(Some(until)), _) => {
                let left = until.saturating_duration_since(now).as_secs();
                format!("drained by an operator, for {left} s more")
            }
            (None, Status::Down { good: 0 }) => self.why.clone(),
            (None, Status::Down { good }) => format!("{}; {} since", self.why, of(good, rise, "good")),
            (None, Status::Unknown { trusted: true }) => "no answer yet; taken for alive".to_owned(),
            (None, Status::Unknown { trusted: false }) => "no answer yet".to_owned(),
            (None, Status::Up { bad }) if bad > 0 => format!("{}: {}", of(bad, fall, "bad"), self.why),
            _ if self.config.weight == 0 => "weight 0".to_owned(),
            _ if self.rising.is_some() => "slow start".to_owned(),
            _ => String::new(),
        }
    }

    /// The first answer decides at once; after that as many in a row as the check says.
    pub(super) fn answered(
        &mut self,
        answer: Result<(), String>,
        check: &Check,
        slow_start: Duration,
        now: Instant,
    ) {
        let good = match answer {
            Ok(()) => true,
            Err(why) => {
                self.why = why;
                false
            }
        };
        let before = self.status;
        self.status = match (self.status, good) {
            (Status::Unchecked, _) => Status::Unchecked,
            (Status::Unknown { trusted }, true) => {
                self.rising = Some(now).filter(|_| !trusted && slow_start > Duration::ZERO);
                Status::Up { bad: 0 }
            }
            (Status::Unknown { .. }, false) => Status::Down { good: 0 },
            (Status::Up { .. }, true) => Status::Up { bad: 0 },
            (Status::Up { bad }, false) if bad + 1 >= check.fall => Status::Down { good: 0 },
            (Status::Up { bad }, false) => Status::Up { bad: bad + 1 },
            (Status::Down { .. }, false) => Status::Down { good: 0 },
            (Status::Down { good }, true) if good + 1 >= check.rise => {
                self.rising = Some(now).filter(|_| slow_start > Duration::ZERO);
                Status::Up { bad: 0 }
            }
            (Status::Down { good }, true) => Status::Down { good: good + 1 },
        };
        if std::mem::discriminant(&before) != std::mem::discriminant(&self.status) {
            self.since = Some(now);
        }
    }

    /// How much of its weight it is given, while it starts slowly.
    pub(super) fn share(&self, slow_start: Duration, now: Instant) -> u32 {
        let Some(since) = self.rising else { return FULL_SHARE };
        let elapsed = now.saturating_duration_since(since).as_millis();
        let whole = slow_start.as_millis().max(1);
        u32::try_from(elapsed * u128::from(FULL_SHARE) / whole)
            .map_or(FULL_SHARE, |share| share.clamp(1, FULL_SHARE))
    }

    /// Measures the rates, now and then.
    pub(super) fn sample(&mut self, now: Instant) {
        let figures = self.seat.figures.get();
        let Some((then, before)) = self.sampled else {
            self.sampled = Some((now, figures));
            return;
        };
        let elapsed = now.saturating_duration_since(then);
        if elapsed >= WINDOW {
            for (rate, (is, was)) in self.rates.iter_mut().zip(figures.iter().zip(before)) {
                *rate = is.saturating_sub(was) as f64 / elapsed.as_secs_f64();
            }
            self.sampled = Some((now, figures));
        }
    }
}
