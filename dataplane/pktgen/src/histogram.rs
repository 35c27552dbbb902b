//! Latency percentiles from the sink's buckets.

use throughway_traffic::sink::bucket_floor;

/// What the stamps say of the time from generator to sink, in ns. Percentiles are to within 1.6 %.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Latency {
    /// Packets.
    pub count: u64,
    /// The shortest.
    pub min: u64,
    /// Half of all packets took no longer.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p999: u64,
    /// The longest.
    pub max: u64,
}

impl Latency {
    /// From the count of each bucket and the extremes; `None` when nothing was counted.
    pub(crate) fn new(buckets: &[u64], min: u64, max: u64) -> Option<Latency> {
        let count: u64 = buckets.iter().sum();
        // The middle of the bucket in which the packet of that rank is.
        let percentile = |per_mille: u64| {
            let rank = (count * per_mille).div_ceil(1000).max(1);
            let mut seen = 0;
            for (at, packets) in (0..).zip(buckets) {
                seen += packets;
                if seen >= rank {
                    let (floor, next) = (bucket_floor(at), bucket_floor(at + 1));
                    return ((floor + next - 1) / 2).clamp(min, max);
                }
            }
            max
        };
        (count != 0).then(|| Latency {
            count,
            min,
            p50: percentile(500),
            p90: percentile(900),
            p99: percentile(990),
            p999: percentile(999),
            max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use throughway_traffic::sink::{BUCKETS, bucket};

    #[test]
    fn every_latency_is_in_its_bucket() {
        let mut last = 0;
        for power in 0..40 {
            for offset in [0u64, 1, 3, 17, 1000, 12_345] {
                let latency = (1u64 << power) + offset;
                let at = bucket(latency);
                assert!(at < BUCKETS, "{latency}");
                if latency < 1 << 37 {
                    let (floor, next) = (bucket_floor(at), bucket_floor(at + 1));
                    assert!(floor <= latency && latency < next, "{latency}: {floor}..{next}");
                    assert!(next - floor <= 1 + floor / 64, "{latency}: {floor}..{next}");
                } else {
                    assert_eq!(at, BUCKETS - 1);
                }
                last = last.max(at);
            }
        }
        assert_eq!(last, BUCKETS - 1);
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        let mut values: Vec<u64> = (0..10_000u64).map(|n| 500 + n * n / 37).collect();
        let mut buckets = vec![0; BUCKETS as usize];
        for &value in &values {
            buckets[bucket(value) as usize] += 1;
        }
        values.sort_unstable();
        let (min, max) = (values[0], values[9_999]);
        let latency = Latency::new(&buckets, min, max).unwrap();
        assert_eq!((latency.count, latency.min, latency.max), (10_000, min, max));
        for (said, rank) in
            [(latency.p50, 5_000), (latency.p90, 9_000), (latency.p99, 9_900), (latency.p999, 9_990)]
        {
            let exact = values[rank - 1];
            assert!(said.abs_diff(exact) <= exact / 64 + 1, "{said} for {exact}");
        }
        assert_eq!(Latency::new(&[0; 8], 0, 0), None);
    }
}
