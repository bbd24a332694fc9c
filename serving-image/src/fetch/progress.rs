//! Log lines about the progress of a fetch, at a readable rate.

use std::time::{Duration, Instant};

use tracing::info;

/// Time between two lines.
const INTERVAL: Duration = Duration::from_secs(5);

/// What came so far.
#[derive(Debug)]
pub struct Progress {
    /// All bytes that are to come; unknown for an archive without a stated length.
    total: Option<u64>,
    /// Bytes that are here, those of an earlier attempt included.
    here: u64,
    /// Bytes that came over the network.
    came: u64,
    started: Instant,
    said: Instant,
}

impl Progress {
    /// Starts the clock.
    pub fn new(total: Option<u64>) -> Self {
        let now = Instant::now();
        Self {
            total,
            here: 0,
            came: 0,
            started: now,
            said: now,
        }
    }

    /// Bytes that were here before.
    pub fn found(&mut self, bytes: u64) {
        self.here += bytes;
    }

    /// Bytes that proved worthless.
    pub fn lost(&mut self, bytes: u64) {
        self.here = self.here.saturating_sub(bytes);
    }

    /// The length is known now.
    pub fn expect(&mut self, total: u64) {
        self.total = Some(total);
    }

    /// Bytes that just came.
    pub fn came(&mut self, bytes: u64) {
        self.here += bytes;
        self.came += bytes;
        if self.said.elapsed() >= INTERVAL {
            self.said = Instant::now();
            let rate = self.rate();
            let left = self.total.map(|total| total.saturating_sub(self.here));
            info!(
                bytes = self.here,
                total = self.total,
                bytes_per_second = rate,
                seconds_left = left.and_then(|left| left.checked_div(rate)),
                "fetching"
            );
        }
    }

    /// Bytes over the network, and bytes a second.
    pub fn sum(&self) -> (u64, u64) {
        (self.came, self.rate())
    }

    fn rate(&self) -> u64 {
        (self.came as f64 / self.started.elapsed().as_secs_f64().max(0.001)) as u64
    }
}
