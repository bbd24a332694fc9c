//! Counts of requests, and of bad ones among them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Counts of one version's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// Requests answered.
    pub requests: u64,
    /// Those of them that were bad: failed, or slower than the objective's threshold.
    pub bad: u64,
}

impl Tally {
    /// `bad` requests of `requests`; a surplus of bad ones (two counters read at slightly different
    /// moments) is dropped.
    pub fn new(requests: u64, bad: u64) -> Self {
        let bad = bad.min(requests);
        Self { requests, bad }
    }

    /// Requests that were not bad.
    pub fn clean(self) -> u64 {
        self.requests.saturating_sub(self.bad)
    }

    /// The share of bad requests, 0 to 1; 0 where there were no requests.
    pub fn bad_share(self) -> f64 {
        if self.requests == 0 {
            0.0
        } else {
            self.bad as f64 / self.requests as f64
        }
    }

    /// Adds another tally's counts.
    pub(crate) fn add(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.bad = self.bad.saturating_add(other.bad);
    }
}

/// Counts of both versions over the same time: one scrape, one step or a whole rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Observation {
    /// The version on trial.
    pub canary: Tally,
    /// The version that it would replace.
    pub stable: Tally,
}

impl Observation {
    /// Requests of both versions.
    pub fn requests(&self) -> u64 {
        self.canary.requests.saturating_add(self.stable.requests)
    }

    /// Adds another look's counts.
    pub(crate) fn add(&mut self, other: &Self) {
        self.canary.add(other.canary);
        self.stable.add(other.stable);
    }

    /// The same counts, with `bad` capped at `requests`.
    pub(crate) fn consistent(&self) -> Self {
        Self {
            canary: Tally::new(self.canary.requests, self.canary.bad),
            stable: Tally::new(self.stable.requests, self.stable.bad),
        }
    }
}
