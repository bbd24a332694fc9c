//! The test facility: injected faults, which show that the gate of a rollout works.
//!
//! Off unless `--test-faults` is set. A warning in the log at start and the gauge
//! `model_test_faults_enabled` announce it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Faults that are added to predictions.
#[derive(Debug, Default)]
pub struct Faults {
    /// Share of predictions that answer 500, 0 to 1.
    pub error_share: f64,
    /// Added to each prediction.
    pub latency: Duration,
    requests: AtomicU64,
}

impl Faults {
    /// Faults of that share and latency.
    pub fn new(error_share: f64, latency: Duration) -> Self {
        Self {
            error_share,
            latency,
            requests: AtomicU64::new(0),
        }
    }

    /// Waits the added latency, then says whether this prediction must fail.
    pub async fn inject(&self) -> bool {
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        self.next_fails()
    }

    /// A hash of the request's number decides: free of patterns that could match a client's rhythm,
    /// and the same in every run.
    fn next_fails(&self) -> bool {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        (splitmix64(number) as f64) < self.error_share * (u64::MAX as f64)
    }
}

/// The finaliser of Steele, Lea and Flood (OOPSLA 2014): neighbouring numbers become independent
/// ones.
fn splitmix64(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_failures_is_the_one_asked_for() {
        for (share, low, high) in [(0.0, 0, 0), (0.2, 1_900, 2_100), (1.0, 10_000, 10_000)] {
            let faults = Faults::new(share, Duration::ZERO);
            let failed = (0..10_000).filter(|_| faults.next_fails()).count();
            assert!(
                (low..=high).contains(&failed),
                "{failed} of 10,000 at {share}"
            );
        }
    }
}
