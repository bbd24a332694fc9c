//! When requests are due: an open loop, which does not wait for answers.

use std::time::Duration;

use super::args::Arrivals;

/// A small, fast generator (xorshift64*): good enough for gaps and sample bodies, and the same on
/// every machine.
#[derive(Debug, Clone)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        // Neighbouring seeds must not start alike, and zero would stay zero.
        Self((seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 to just below 1.
    pub(super) fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// From 0 to just below `end`, which is not 0.
    pub(super) fn below(&mut self, end: usize) -> usize {
        ((self.share() * end as f64) as usize).min(end.saturating_sub(1))
    }
}

/// The times at which requests are due, from the start.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    random: Random,
    arrivals: Arrivals,
    gap: f64,
    sent: u64,
    at: f64,
    end: f64,
}

impl Schedule {
    pub(super) fn new(arrivals: Arrivals, rate: f64, duration: Duration, seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            arrivals,
            gap: rate.recip(),
            sent: 0,
            at: 0.0,
            end: duration.as_secs_f64(),
        }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.at = match self.arrivals {
            // without the error that a sum gathers
            Arrivals::Constant => self.sent as f64 * self.gap,
            Arrivals::Poisson => self.at - self.gap * (1.0 - self.random.share()).ln(),
        };
        self.sent += 1;
        (self.at < self.end).then(|| Duration::from_secs_f64(self.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(arrivals: Arrivals, seed: u64) -> Vec<f64> {
        let times: Vec<f64> = Schedule::new(arrivals, 100.0, Duration::from_secs(1_000), seed)
            .map(|time| time.as_secs_f64())
            .collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    #[test]
    fn a_clock_ticks_evenly() {
        let gaps = gaps(Arrivals::Constant, 1);
        assert_eq!(gaps.len(), 99_999);
        assert!(gaps.iter().all(|gap| (gap - 0.01).abs() < 1e-8));
    }

    /// An exponential distribution has the mean as its standard deviation, and a share of 1/e of
    /// gaps above the mean.
    #[test]
    fn people_come_at_random_and_the_same_seed_brings_the_same_people() {
        let gaps = gaps(Arrivals::Poisson, 7);
        let count = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / count;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / count;
        let above = gaps.iter().filter(|gap| **gap > 0.01).count() as f64 / count;
        assert!((count - 100_000.0).abs() < 1_500.0, "{count}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.02);
        assert!((above - (-1.0_f64).exp()).abs() < 0.01, "{above}");
        assert_eq!(gaps, super::tests::gaps(Arrivals::Poisson, 7));
        assert_ne!(gaps, super::tests::gaps(Arrivals::Poisson, 8));
    }

    #[test]
    fn random_numbers_stay_in_their_range() {
        let mut random = Random::new(0);
        let mut seen = [0; 5];
        for _ in 0..5_000 {
            seen[random.below(5)] += 1;
        }
        assert!(
            seen.iter().all(|count| (800..1_200).contains(count)),
            "{seen:?}"
        );
        assert_eq!(random.below(1), 0);
    }
}
