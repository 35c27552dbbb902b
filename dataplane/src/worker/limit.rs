//! How often answers are sent: ICMP errors by destination and in all (RFC 1812, section 4.3.2.8; RFC 4443, section 2.4 f), TCP
//! resets in all.
//!
//! Token buckets. A destination that provokes errors without end, or somebody who forges it as the source, uses up its own
//! bucket and no other's; what a worker sends in all is limited beside, so that no number of destinations makes it an amplifier.

use std::net::IpAddr;

use throughway_packet::headers::octets;
use throughway_vnf::{IcmpError, Now};

/// Answers a second that one worker sends at most.
pub const RATE: u64 = 1000;
/// How many may come at once.
pub const BURST: u64 = 100;

/// ICMP errors a second that one worker sends to one destination at most: room for a path tracer that sends ten probes a
/// second, as mtr can.
pub const DESTINATION_RATE: u64 = 20;
/// How many may come at once: all probes that traceroute sends side by side.
pub const DESTINATION_BURST: u64 = 20;

/// How many destinations have a bucket: sets of [`WAYS`], 48 KiB for each worker.
const DESTINATIONS: usize = 2048;
const WAYS: usize = 4;

/// Why an answer that was due is not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Suppressed {
    /// No route back to the sender that forwards, or no address to send from.
    NoWayBack,
    /// The RFCs forbid it: an error about an error, about a later fragment, to something that is not one host; a reset
    /// that answers a reset.
    Forbidden,
    /// The sender has been told often enough for now.
    DestinationRate,
    /// The worker has sent enough for now.
    WorkerRate,
    /// There was no free frame to write it into.
    NoFrame,
}

impl Suppressed {
    /// All of them, in the order of their numbers, with their labels.
    pub const LABELS: [&'static str; 5] =
        ["no-way-back", "forbidden", "destination-rate", "worker-rate", "no-frame"];
}

/// A token bucket, as the time up to which its tokens are spent, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket {
    spent_until: u64,
}

impl Bucket {
    /// Takes one token, if there is one.
    pub(super) fn admit(&mut self, rate: u64, burst: u64, now: Now) -> bool {
        let cost = 1_000_000_000 / rate;
        let floor = now.0.saturating_sub(burst * cost);
        let spent = self.spent_until.max(floor) + cost;
        if spent > now.0 {
            return false;
        }
        self.spent_until = spent;
        true
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Destination {
    /// IPv4 in its mapped form. All zeros, the unspecified address, is nobody's.
    address: [u8; 16],
    bucket: Bucket,
}

/// The limits of one worker.
#[derive(Debug)]
pub struct Limits {
    all: Bucket,
    sets: Box<[[Destination; WAYS]]>,
    seed: u64,
}

impl Limits {
    /// Full buckets. `seed` decides which destinations share a set, so that nobody outside can choose them.
    pub fn new(seed: u128) -> Self {
        Limits {
            all: Bucket::default(),
            sets: vec![[Destination::default(); WAYS]; DESTINATIONS / WAYS].into_boxed_slice(),
            seed: seed as u64 ^ (seed >> 64) as u64,
        }
    }

    /// Whether this error may be sent to `destination` now.
    ///
    /// What tells of a path's MTU counts for the worker alone, as in Linux: it is what its receiver acts upon, and one that is
    /// missing is a connection that hangs.
    pub fn admit_error(&mut self, destination: IpAddr, error: IcmpError, now: Now) -> Result<(), Suppressed> {
        let limited = !matches!(error, IcmpError::TooBig { .. });
        if limited && !self.bucket_of(destination).admit(DESTINATION_RATE, DESTINATION_BURST, now) {
            return Err(Suppressed::DestinationRate);
        }
        self.admit_reset(now)
    }

    /// Whether a TCP reset may be sent now. Each answers one segment and is no longer than it.
    pub fn admit_reset(&mut self, now: Now) -> Result<(), Suppressed> {
        if self.all.admit(RATE, BURST, now) { Ok(()) } else { Err(Suppressed::WorkerRate) }
    }

    /// The bucket of a destination. Where its set is full of others, the one that has spent least is given up: of all it is
    /// nearest to a fresh one.
    fn bucket_of(&mut self, destination: IpAddr) -> &mut Bucket {
        let address = octets(destination);
        let number = self.hash(&address) as usize % self.sets.len().max(1);
        // Below the number of sets.
        let [first, rest @ ..] = &mut self.sets[number];
        let mut chosen = first;
        for other in rest {
            if chosen.address == address {
                break;
            }
            if other.address == address || other.bucket.spent_until < chosen.bucket.spent_until {
                chosen = other;
            }
        }
        if chosen.address != address {
            *chosen = Destination { address, bucket: Bucket::default() };
        }
        &mut chosen.bucket
    }

    fn hash(&self, address: &[u8; 16]) -> u64 {
        let bits = u128::from_be_bytes(*address);
        let fold = |state: u64, word: u64| {
            let product = u128::from(state ^ word) * 0x9e37_79b9_7f4a_7c15;
            product as u64 ^ (product >> 64) as u64
        };
        fold(fold(self.seed, (bits >> 64) as u64), bits as u64) >> 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 10_000_000_000;
    const ERROR: IcmpError = IcmpError::HopLimitExceeded;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into()
    }

    fn admitted(limits: &mut Limits, to: IpAddr, error: IcmpError, at: u64) -> u64 {
        (0..1000).filter(|_| limits.admit_error(to, error, Now(at)).is_ok()).count() as u64
    }

    #[test]
    fn a_destination_gets_its_burst_and_then_its_rate_and_takes_nothing_from_others() {
        let mut limits = Limits::new(7);
        let (noisy, other) = (address(1), "2001:db8::1".parse().unwrap());
        assert_eq!(admitted(&mut limits, noisy, ERROR, START), DESTINATION_BURST);
        assert_eq!(limits.admit_error(noisy, ERROR, Now(START)), Err(Suppressed::DestinationRate));
        assert_eq!(admitted(&mut limits, other, ERROR, START), DESTINATION_BURST);
        assert_eq!(admitted(&mut limits, noisy, ERROR, START + 500_000_000), DESTINATION_RATE / 2);
        // Refused ones cost nothing.
        assert_eq!(admitted(&mut limits, noisy, ERROR, START + 60_000_000_000), DESTINATION_BURST);
    }

    #[test]
    fn what_a_worker_sends_is_limited_whoever_it_is_for() {
        let mut limits = Limits::new(7);
        let sent = (0..1000).filter(|number| limits.admit_error(address(*number), ERROR, Now(START)).is_ok());
        assert_eq!(sent.count() as u64, BURST);
        assert_eq!(limits.admit_error(address(5000), ERROR, Now(START)), Err(Suppressed::WorkerRate));
        assert_eq!(limits.admit_reset(Now(START)), Err(Suppressed::WorkerRate));
        let later = (0..1000).filter(|_| limits.admit_reset(Now(START + 10_000_000)).is_ok());
        assert_eq!(later.count() as u64, RATE / 100);
    }

    #[test]
    fn what_tells_of_the_mtu_is_limited_for_the_worker_only() {
        let mut limits = Limits::new(7);
        assert_eq!(admitted(&mut limits, address(1), IcmpError::TooBig { mtu: 1400 }, START), BURST);
    }

    #[test]
    fn a_flood_of_destinations_gives_up_the_fullest_buckets_first() {
        let mut limits = Limits::new(7);
        let noisy = address(1);
        assert_eq!(admitted(&mut limits, noisy, ERROR, START), DESTINATION_BURST);
        // Forty times as many as there is room for, each once: theirs have spent less.
        for number in 0..40 * DESTINATIONS as u32 {
            limits.bucket_of(address(0x10_0000 + number)).admit(
                DESTINATION_RATE,
                DESTINATION_BURST,
                Now(START),
            );
        }
        assert_eq!(limits.admit_error(noisy, ERROR, Now(START)), Err(Suppressed::DestinationRate));
        assert_eq!(limits.sets.len() * WAYS, DESTINATIONS);
    }
}
