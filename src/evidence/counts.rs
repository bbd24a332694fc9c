//! Requests, and the bad ones among them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What one version answered.
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

    /// The share of bad requests, 0 if there were none at all.
    pub fn bad_share(self) -> f64 {
        if self.requests == 0 {
            0.0
        } else {
            self.bad as f64 / self.requests as f64
        }
    }

    /// Adds what another tally counted.
    pub(crate) fn add(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.bad = self.bad.saturating_add(other.bad);
    }
}

/// What the two versions answered at the same time: in one scrape, one step or a whole rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Look {
    /// The version on trial.
    pub canary: Tally,
    /// The version that it would replace.
    pub stable: Tally,
}

impl Look {
    /// Requests of both versions.
    pub fn requests(&self) -> u64 {
        self.canary.requests.saturating_add(self.stable.requests)
    }

    /// Adds what another look counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.canary.add(other.canary);
        self.stable.add(other.stable);
    }

    /// The same look with no more bad requests than requests.
    pub(crate) fn consistent(&self) -> Self {
        Self {
            canary: Tally::new(self.canary.requests, self.canary.bad),
            stable: Tally::new(self.stable.requests, self.stable.bad),
        }
    }
}
