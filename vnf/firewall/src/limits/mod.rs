//! Limits of rules: so many packets, bytes or new connections a second; so many connections at a time; in all, or per
//! source or destination.
//!
//! Workers share them without locks (rates) or with a short one per opened connection (connections at a time).

mod bucket;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arrayvec::ArrayVec;
use throughway_session::{Seed, SourceConfig, SourceCounter, SourceError};
use throughway_shared::flow::MAPPED_PREFIX;
use throughway_vnf::Now;

use bucket::{Bucket, Pace, moment};
use table::{Buckets, Taken};

/// What a rate counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Unit {
    /// Packets. Every packet of a session that such a rule has let in is judged by itself.
    Packets,
    /// Bytes of IP packets. As with [`Unit::Packets`].
    Bytes,
    /// Packets that open a connection.
    Connections,
}

/// Who has a budget of his own.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Per {
    /// Nobody: one budget for all.
    All,
    /// Each source network of so many bits.
    Source {
        /// Bits of an IPv4 address, at most 32.
        ipv4: u8,
        /// Bits of an IPv6 address, at most 128.
        ipv6: u8,
    },
    /// Each destination network of so many bits.
    Destination {
        /// Bits of an IPv4 address, at most 32.
        ipv4: u8,
        /// Bits of an IPv6 address, at most 128.
        ipv6: u8,
    },
}

/// What is limited.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Measure {
    /// So much in a time. A packet that is larger than the burst costs the whole burst.
    Rate {
        /// What is counted.
        unit: Unit,
        /// How many in that time; at least 1.
        amount: u64,
        /// The time in seconds; at least 1.
        seconds: u32,
        /// How many at once, after a silence; at least 1.
        burst: u64,
    },
    /// So many connections at a time: those that met the rule within the limit and were let in, by it or by another. IPv6
    /// networks of at most 64 bits.
    Connections {
        /// How many.
        most: u32,
    },
}

/// A limit as it is configured. Rules with the same [`LimitId`](crate::LimitId) share it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct LimitConfig {
    /// The name: a limit with the same name and the same figures keeps its state over reloads.
    pub name: String,
    /// What is limited.
    pub measure: Measure,
    /// The rule matches what exceeds the limit, instead of what is within.
    pub over: bool,
    /// Whose budget it is.
    pub per: Per,
    /// How many sources or destinations are kept account of; for [`Per::All`] without meaning. One for which there is no room
    /// counts as exceeding the limit.
    pub capacity: u32,
}

/// What a limit has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LimitStats {
    /// How often it was exceeded.
    pub exceeded: u64,
    /// How often there was no room for a source or destination; also counted as exceeded.
    pub full: u64,
}

#[derive(Debug)]
enum State {
    One(Pace, Bucket),
    Many(Pace, Buckets),
    Connections(u32, AtomicU32),
    ConnectionsPer(u32, SourceCounter),
}

/// A limit with its state.
#[derive(Debug)]
pub(crate) struct Limit {
    config: LimitConfig,
    state: State,
    seed: Seed,
    exceeded: AtomicU64,
    full: AtomicU64,
}

/// Limits on connections that one session can count for.
pub(crate) const HOLDS: usize = 3;

/// Limits on connections that count a session.
pub(crate) type Holds = ArrayVec<Arc<Limit>, HOLDS>;

/// A packet as limits see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load<'a> {
    pub(crate) source: &'a [u8; 16],
    pub(crate) destination: &'a [u8; 16],
    pub(crate) len: u16,
    pub(crate) now: Now,
}

impl Limit {
    pub(crate) fn new(config: LimitConfig, seed: Seed) -> Limit {
        let capacity = config.capacity.clamp(1, 1 << 28);
        let state = match (config.measure, config.per) {
            (Measure::Rate { amount, seconds, burst, .. }, Per::All) => {
                State::One(Pace::new(amount, seconds, burst), Bucket::default())
            }
            (Measure::Rate { amount, seconds, burst, .. }, _) => {
                State::Many(Pace::new(amount, seconds, burst), Buckets::new(capacity))
            }
            (Measure::Connections { most }, Per::All) => State::Connections(most, AtomicU32::new(0)),
            // Addresses are masked before they are counted.
            (Measure::Connections { most }, _) => State::ConnectionsPer(
                most,
                SourceCounter::new(SourceConfig { capacity, ipv6_prefix: 64, seed }),
            ),
        };
        Limit { config, state, seed, exceeded: AtomicU64::new(0), full: AtomicU64::new(0) }
    }

    pub(crate) fn config(&self) -> &LimitConfig {
        &self.config
    }

    pub(crate) fn stats(&self) -> LimitStats {
        LimitStats {
            exceeded: self.exceeded.load(Ordering::Relaxed),
            full: self.full.load(Ordering::Relaxed),
        }
    }

    /// Whether it limits connections at a time: then what was [taken](Limit::take) is given back at the connection's end.
    pub(crate) fn is_held(&self) -> bool {
        matches!(self.config.measure, Measure::Connections { .. })
    }

    /// Whether every packet counts, not only those that open connections.
    pub(crate) fn counts_every_packet(&self) -> bool {
        matches!(self.config.measure, Measure::Rate { unit: Unit::Packets | Unit::Bytes, .. })
    }

    fn units(&self, load: &Load<'_>) -> u32 {
        match self.config.measure {
            Measure::Rate { unit: Unit::Bytes, .. } => u32::from(load.len).max(1),
            _ => 1,
        }
    }

    /// Whose budget: the address cut to the network.
    fn owner(&self, load: &Load<'_>) -> [u8; 16] {
        match self.config.per {
            Per::All => [0; 16],
            Per::Source { ipv4, ipv6 } => network(load.source, ipv4, ipv6),
            Per::Destination { ipv4, ipv6 } => network(load.destination, ipv4, ipv6),
        }
    }

    fn hash(&self, owner: &[u8; 16]) -> u64 {
        let bits = u128::from_be_bytes(*owner);
        self.seed.hash([(bits >> 64) as u64, bits as u64])
    }

    /// Charges a packet; says whether it is within the limit.
    pub(crate) fn take(&self, load: &Load<'_>) -> bool {
        let (now, units) = (moment(load.now), self.units(load));
        let taken = match &self.state {
            State::One(pace, bucket) if bucket.take(pace, now, units) => Taken::Yes,
            State::One(..) => Taken::Exceeded,
            State::Many(pace, buckets) => buckets.take(self.hash(&self.owner(load)), pace, now, units),
            State::Connections(most, count) => {
                let rise = |count| (count < *most).then(|| count + 1);
                match count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rise) {
                    Ok(_) => Taken::Yes,
                    Err(_) => Taken::Exceeded,
                }
            }
            State::ConnectionsPer(most, counts) => match counts.acquire(&self.owner(load), *most) {
                Ok(_) => Taken::Yes,
                Err(SourceError::Limit) => Taken::Exceeded,
                Err(SourceError::TooManySources) => Taken::Full,
            },
        };
        if taken != Taken::Yes {
            self.exceeded.fetch_add(1, Ordering::Relaxed);
        }
        if taken == Taken::Full {
            self.full.fetch_add(1, Ordering::Relaxed);
        }
        taken == Taken::Yes
    }

    /// Whether a packet would be within the limit; changes nothing.
    pub(crate) fn peek(&self, load: &Load<'_>) -> bool {
        let (now, units) = (moment(load.now), self.units(load));
        match &self.state {
            State::One(pace, bucket) => bucket.has(pace, now, units),
            State::Many(pace, buckets) => {
                buckets.peek(self.hash(&self.owner(load)), pace, now, units) == Taken::Yes
            }
            State::Connections(most, count) => count.load(Ordering::Relaxed) < *most,
            State::ConnectionsPer(most, counts) => counts.count(&self.owner(load)) < *most,
        }
    }

    /// Gives back what a connection between these addresses, as it was opened, has held.
    pub(crate) fn release(&self, source: &[u8; 16], destination: &[u8; 16]) {
        match &self.state {
            State::Connections(_, count) => {
                count.fetch_sub(1, Ordering::Relaxed);
            }
            State::ConnectionsPer(_, counts) => {
                counts.release(&self.owner(&Load { source, destination, len: 0, now: Now(0) }));
            }
            State::One(..) | State::Many(..) => {}
        }
    }
}

/// The network of an address, of so many bits by its family.
fn network(address: &[u8; 16], ipv4: u8, ipv6: u8) -> [u8; 16] {
    let bits = if address.starts_with(&MAPPED_PREFIX) { 96 + u32::from(ipv4.min(32)) } else { ipv6.into() };
    let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
    (u128::from_be_bytes(*address) & mask).to_be_bytes()
}

/// A limit on log entries, with the number of those left out.
#[derive(Debug, Default)]
pub(crate) struct LogGate {
    bucket: Bucket,
    suppressed: AtomicU64,
}

impl LogGate {
    /// Whether an entry may be written; then how many were left out since the last one.
    pub(crate) fn pass(&self, per_second: u32, burst: u32, now: Now) -> Option<u64> {
        if self.bucket.take(&Pace::new(per_second.into(), 1, burst.into()), moment(now), 1) {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use throughway_shared::flow::mapped;

    const SECOND: u64 = 1_000_000_000;

    fn limit(measure: Measure, per: Per, capacity: u32) -> Limit {
        Limit::new(LimitConfig { name: "l".into(), measure, over: false, per, capacity }, Seed([1, 2]))
    }

    fn load<'a>(source: &'a [u8; 16], len: u16, now: u64) -> Load<'a> {
        Load { source, destination: &[9; 16], len, now: Now(now) }
    }

    #[test]
    fn a_rate_is_exact_in_virtual_time() {
        let source = mapped([10, 0, 0, 1]);
        for (per_second, burst) in [(1u64, 1u64), (10, 5), (1000, 20), (1_000_000, 1)] {
            let limit = limit(
                Measure::Rate { unit: Unit::Packets, amount: per_second, seconds: 1, burst },
                Per::All,
                0,
            );
            let step = SECOND / per_second;
            let start = 5 * SECOND;
            // The burst at once, and not one more.
            let admitted = (0..burst + 3).filter(|_| limit.take(&load(&source, 40, start))).count();
            assert_eq!(admitted as u64, burst);
            // Then one for each step, and none in between.
            for number in 1..50 {
                let at = start + number * step;
                assert!(!limit.take(&load(&source, 40, at - 1)), "{per_second} {number}");
                assert!(limit.peek(&load(&source, 40, at)));
                assert!(limit.take(&load(&source, 40, at)), "{per_second} {number}");
                assert!(!limit.take(&load(&source, 40, at)));
            }
            // A long silence fills the bucket up to the burst, not further.
            let later = start + 10_000 * SECOND;
            let admitted = (0..burst + 3).filter(|_| limit.take(&load(&source, 40, later))).count();
            assert_eq!(admitted as u64, burst);
        }
    }

    #[test]
    fn a_rate_of_less_than_one_a_second_is_exact_too() {
        let source = mapped([10, 0, 0, 1]);
        for (amount, seconds, step) in [(10, 60, 6 * SECOND), (1, 86_400, 86_400 * SECOND)] {
            let limit = limit(Measure::Rate { unit: Unit::Packets, amount, seconds, burst: 2 }, Per::All, 0);
            assert!(limit.take(&load(&source, 40, SECOND)) && limit.take(&load(&source, 40, SECOND)));
            assert!(!limit.take(&load(&source, 40, SECOND)));
            for number in 1..20 {
                let at = SECOND + number * step;
                assert!(!limit.take(&load(&source, 40, at - 1)), "{amount} in {seconds} s: {number}");
                assert!(limit.take(&load(&source, 40, at)), "{amount} in {seconds} s: {number}");
            }
        }
        // Neither do odd figures take one away or add one.
        for (amount, seconds, burst) in
            [(7, 1, 7), (7, 3600, 7), (3, 1, 1000), (1_000_003, 1, 999), (11, 60, 1)]
        {
            let limit = limit(Measure::Rate { unit: Unit::Packets, amount, seconds, burst }, Per::All, 0);
            let admitted = (0..burst + 3).filter(|_| limit.take(&load(&source, 40, SECOND))).count();
            assert_eq!(admitted as u64, burst, "{amount} in {seconds} s, burst {burst}");
        }
        // What a byte costs at a thousand a day times the largest packet does not fit 64 bits.
        let daily = Measure::Rate { unit: Unit::Bytes, amount: 1000, seconds: 86_400, burst: 1 << 20 };
        let limit = limit(daily, Per::All, 0);
        assert!((0..16).all(|_| limit.take(&load(&source, 65_535, SECOND))));
        assert!(!limit.take(&load(&source, 65_535, SECOND)));
        assert!(limit.take(&load(&source, 16, SECOND)) && !limit.take(&load(&source, 1, SECOND)));
    }

    #[test]
    fn bytes_are_charged_by_length_and_no_packet_is_too_large_for_ever() {
        let source = mapped([10, 0, 0, 1]);
        let rate = Measure::Rate { unit: Unit::Bytes, amount: 1000, seconds: 1, burst: 2000 };
        let limit = limit(rate, Per::All, 0);
        assert!(limit.take(&load(&source, 1500, 0)));
        assert!(!limit.take(&load(&source, 501, 0)));
        assert!(limit.take(&load(&source, 500, 0)));
        assert!(!limit.take(&load(&source, 9000, SECOND)));
        assert!(limit.take(&load(&source, 9000, 2 * SECOND)), "costs the burst");
        assert_eq!(limit.stats(), LimitStats { exceeded: 2, full: 0 });
    }

    #[test]
    fn each_network_has_its_own_budget_and_the_table_is_bounded() {
        let rate = Measure::Rate { unit: Unit::Packets, amount: 1, seconds: 1, burst: 2 };
        let limit = limit(rate, Per::Source { ipv4: 24, ipv6: 64 }, 8);
        let near = [mapped([10, 0, 0, 1]), mapped([10, 0, 0, 200])];
        assert!(near.iter().all(|source| limit.take(&load(source, 40, 0))));
        assert!(!limit.take(&load(&near[0], 40, 0)));
        assert!(limit.take(&load(&mapped([10, 0, 1, 1]), 40, 0)));
        // Two of eight cells are in use; six are free, then it is full.
        let admitted = (2..100).filter(|&third| limit.take(&load(&mapped([10, 0, third, 1]), 40, 0))).count();
        assert_eq!(admitted, 6);
        assert_eq!(limit.stats().full, 92);
        assert!(limit.take(&load(&mapped([10, 0, 1, 1]), 40, 0)), "who is in, stays in");
        // Once the buckets are full again, the cells are free.
        assert!(limit.take(&load(&mapped([10, 9, 9, 1]), 40, 3 * SECOND)));
    }

    #[test]
    fn connections_at_a_time_are_given_back() {
        for per in [Per::All, Per::Source { ipv4: 32, ipv6: 64 }] {
            let limit = limit(Measure::Connections { most: 2 }, per, 10);
            let source = mapped([10, 0, 0, 1]);
            assert!(limit.is_held() && !limit.counts_every_packet());
            assert!(limit.take(&load(&source, 40, 0)) && limit.take(&load(&source, 40, 0)));
            assert!(!limit.take(&load(&source, 40, 0)) && !limit.peek(&load(&source, 40, 0)));
            let other = limit.take(&load(&mapped([10, 0, 0, 2]), 40, 0));
            assert_eq!(other, per != Per::All);
            limit.release(&source, &[9; 16]);
            assert!(limit.take(&load(&source, 40, 0)));
        }
    }

    #[test]
    fn workers_together_do_not_exceed_a_rate() {
        let rate = Measure::Rate { unit: Unit::Packets, amount: 1, seconds: 1, burst: 1000 };
        let limit = limit(rate, Per::Source { ipv4: 32, ipv6: 64 }, 64);
        let admitted: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let source = mapped([10, 0, 0, 1]);
                        (0..1000).filter(|_| limit.take(&load(&source, 40, 0))).count()
                    })
                })
                .collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert_eq!(admitted, 1000);
    }

    #[test]
    fn a_log_tells_how_much_it_left_out() {
        let gate = LogGate::default();
        assert_eq!(gate.pass(1, 1, Now(0)), Some(0));
        assert!((0..7).all(|_| gate.pass(1, 1, Now(0)).is_none()));
        assert_eq!(gate.pass(1, 1, Now(SECOND)), Some(7));
    }
}
