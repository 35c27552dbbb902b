//! How fast a host inside may open connections: a token bucket for each host, kept only while it is not full.

use std::net::Ipv6Addr;
use std::sync::OnceLock;
use std::time::Duration;

use throughway_session::{Class, Config, NewSession, Seed, SessionKey, SessionTable, WhenFull};
use throughway_vnf::{Now, nanos};

/// Hosts that are looked at for their age at a time.
const AGED: usize = 16;

/// Nothing is found by reverse keys: they are of this zone.
const REVERSE: u16 = 1;

/// So many connections in a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostRate {
    /// Between two connections (ns), at least 1, where they come evenly.
    pub every: u64,
    /// How many may come at once after a pause, at least one.
    pub burst: u64,
}

impl HostRate {
    /// `amount` connections in `interval`.
    pub fn new(amount: u64, interval: Duration, burst: u64) -> HostRate {
        HostRate { every: (nanos(interval) / amount.max(1)).max(1), burst: burst.max(1) }
    }
}

/// The buckets of all hosts, an IPv4 address or an IPv6 /64 each. When there is no room, the host that is waited for longest begins anew.
#[derive(Debug)]
pub(crate) struct Rates {
    /// When (ns) the bucket is full again: the generic cell rate algorithm (ITU-T I.371, annex A).
    buckets: OnceLock<SessionTable<u64>>,
    hosts: u32,
    seed: Seed,
}

impl Rates {
    pub(crate) fn new(hosts: u32, seed: Seed) -> Rates {
        Rates { buckets: OnceLock::new(), hosts, seed }
    }

    /// Makes room for the buckets, if there is none: off the packets' way. Until then everybody is admitted.
    pub(crate) fn prepare(&self) {
        self.buckets.get_or_init(|| {
            let config = Config::new(self.hosts, self.seed);
            SessionTable::new(config.half_open(self.hosts, WhenFull::EvictHalfOpen))
        });
    }

    /// Takes one connection out of the bucket of a host, if there is one.
    pub(crate) fn admit(&self, host: &[u8; 16], rate: HostRate, now: Now) -> bool {
        let Some(buckets) = self.buckets.get() else { return true };
        let forward = SessionKey { source: subscriber(host), ..SessionKey::default() };
        let most = rate.every.saturating_mul(rate.burst);
        let known = buckets.lookup_with(&forward, now, |_, full, meta| {
            let next = (*full).max(now.0).saturating_add(rate.every);
            let wait = next.saturating_sub(now.0);
            if wait > most {
                return false;
            }
            *full = next;
            meta.touch(now, Duration::from_nanos(wait));
            true
        });
        known.unwrap_or_else(|| {
            let reverse = SessionKey { zone: REVERSE, ..forward };
            let (class, timeout) = (Class::HalfOpen, Duration::from_nanos(rate.every));
            let state = now.0.saturating_add(rate.every);
            // Another worker may have been faster: then this one connection is not counted.
            let _ = buckets.insert(NewSession { forward, reverse, class, timeout, state }, now, |_| ());
            true
        })
    }

    pub(crate) fn expire(&self, now: Now) {
        if let Some(buckets) = self.buckets.get() {
            buckets.expire(now, AGED, |_| ());
        }
    }
}

/// Who counts as one host.
fn subscriber(host: &[u8; 16]) -> [u8; 16] {
    let mut subscriber = *host;
    if Ipv6Addr::from(*host).to_ipv4_mapped().is_none() {
        subscriber[8..].fill(0);
    }
    subscriber
}

#[cfg(test)]
mod tests {
    use super::*;
    use throughway_packet::headers::octets;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_host_gets_its_burst_and_then_its_rate() {
        let rates = Rates::new(1000, Seed([1, 2]));
        let rate = HostRate::new(10, Duration::from_secs(1), 5);
        let host = octets("10.0.0.1".parse().unwrap());
        assert!((0..100).all(|_| rates.admit(&host, rate, Now(0))), "before it is prepared");
        rates.prepare();
        let admitted = |from: u64, to: u64, step: u64| {
            let times = (0..).map(|number| from + number * step).take_while(|at| *at < to);
            times.filter(|at| rates.admit(&host, rate, Now(*at))).count()
        };
        assert_eq!(admitted(0, 1, 1), 1);
        assert_eq!(admitted(1, 1000, 1), 4, "the rest of the burst");
        // A thousand asks a second, for ten seconds.
        assert_eq!(admitted(1000, 10 * SECOND, SECOND / 1000), 99);
        rates.expire(Now(20 * SECOND));
        assert_eq!(admitted(20 * SECOND, 20 * SECOND + 1000, 1), 5, "after a pause, the burst");
        let other = octets("10.0.0.2".parse().unwrap());
        assert!(rates.admit(&other, rate, Now(20 * SECOND)), "each host for itself");
    }

    #[test]
    fn an_ipv6_subscriber_is_a_64() {
        let rates = Rates::new(1000, Seed([1, 2]));
        rates.prepare();
        let rate = HostRate::new(1, Duration::from_secs(1), 1);
        let of = |host: &str| rates.admit(&octets(host.parse().unwrap()), rate, Now(SECOND));
        assert!(of("2001:db8:0:1::1"));
        assert!(!of("2001:db8:0:1::2"));
        assert!(of("2001:db8:0:2::1"));
    }

    #[test]
    fn many_hosts_find_room() {
        let rates = Rates::new(64, Seed([1, 2]));
        rates.prepare();
        let rate = HostRate::new(1, Duration::from_secs(60), 1);
        for number in 0..10_000u32 {
            let host = octets(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into());
            assert!(rates.admit(&host, rate, Now(u64::from(number))));
        }
    }
}
