//! How bad may the canary still be? An upper bound on its bad share that holds at all times at
//! once.
//!
//! A *confidence sequence*: bet against every share `p` at the same time, each with a beta-binomial
//! mixture of its own, whose prior Beta(1, 5/p) has a fifth of `p` for its mean,
//!
//! ```text
//! ln E(p) = lnB(1+k, b+n−k) − lnB(1, b) − k·ln p − (n−k)·ln(1−p)        b = 5/p
//! ```
//!
//! and exclude `p` once `E(p) ≥ 1/β`. The true share is ever excluded with probability at most `β`
//! (Ville), so the bound may be read after every scrape without being spoilt by it (Robbins 1970;
//! Howard, Ramdas et al. 2021). Why a fifth: a version that deserves the next weight usually has a
//! bad share well below what the weight needs, and a prior that expects so wastes little. Proving
//! 0.1 % to be below 1 % takes 466 requests on average, where no test takes fewer than 445 (Wald);
//! 0.28 % 884, where none takes fewer than 818.
//!
//! Worked numbers, budget 1 %: clean requests that the canary needs in all to get 25, 50 and 100 %
//! are 87, 175 and 351; with one bad request 153, 309 and 620.

use super::policy::GatePolicy;
use crate::evidence::Tally;

/// Where the search for the number of lacking requests gives up.
const FAR_TOO_MANY: u64 = 1_000_000_000;

/// A share that is to be excluded from above is so many times the prior's mean…
const ABOVE: f64 = 5.0;
/// …and one from below: a lower bound bets on more.
const BELOW: f64 = 0.5;

/// The confidence sequence of one gate.
#[derive(Clone, Copy, Debug)]
pub(super) struct BadShareBound {
    /// `ln(1/β)`.
    log_limit: f64,
}

impl BadShareBound {
    pub(super) fn new(policy: &GatePolicy) -> Self {
        Self {
            log_limit: -policy.beta.ln(),
        }
    }

    /// Whether `tally` excludes that the bad share is `share` or more.
    pub(super) fn excludes(self, tally: Tally, share: f64) -> bool {
        if share >= 1.0 {
            // Nothing is worse than everything: a share "below 100 %" needs no proof.
            return true;
        }
        share > tally.bad_share() && log_evidence(tally, share, ABOVE) >= self.log_limit
    }

    /// The lowest share that `tally` excludes; 1 if it excludes none.
    pub(super) fn upper_bound(self, tally: Tally) -> f64 {
        // Above the share seen, the evidence against a share grows with it: bisect. 1,100 halvings
        // reach any f64; 60 or so are enough unless the bound is tiny.
        let (mut possible, mut excluded) = (tally.bad_share(), 1.0);
        for _ in 0..1_100 {
            let middle = f64::midpoint(possible, excluded);
            if middle <= possible || middle >= excluded {
                break;
            }
            if self.excludes(tally, middle) {
                excluded = middle;
            } else {
                possible = middle;
            }
        }
        excluded
    }

    /// The highest share that `tally` excludes from below; 0 if it excludes none.
    pub(super) fn lower_bound(self, tally: Tally) -> f64 {
        // Below the share seen, the evidence against a share grows as it falls.
        let (mut excluded, mut possible) = (0.0, tally.bad_share());
        for _ in 0..1_100 {
            let middle = f64::midpoint(excluded, possible);
            if middle <= excluded || middle >= possible {
                break;
            }
            if log_evidence(tally, middle, BELOW) >= self.log_limit {
                excluded = middle;
            } else {
                possible = middle;
            }
        }
        excluded
    }

    /// How many more clean requests exclude `share`; `None` if a billion don't.
    pub(super) fn clean_requests_until(self, tally: Tally, share: f64) -> Option<u64> {
        let enough = |more: u64| {
            let requests = tally.requests.saturating_add(more);
            self.excludes(Tally::new(requests, tally.bad), share)
        };
        if enough(0) {
            return Some(0);
        }
        // Once the share seen is below `share`, each clean request adds evidence: bisect.
        let (mut too_few, mut sufficient) = (0, FAR_TOO_MANY);
        if !enough(sufficient) {
            return None;
        }
        while sufficient - too_few > 1 {
            let middle = u64::midpoint(too_few, sufficient);
            if enough(middle) {
                sufficient = middle;
            } else {
                too_few = middle;
            }
        }
        Some(sufficient)
    }
}

/// `ln E(share)`, for a share in (0, 1), by the prior Beta(1, times/share).
fn log_evidence(tally: Tally, share: f64, times: f64) -> f64 {
    let (bad, clean) = (tally.bad as f64, tally.clean() as f64);
    let b = times / share;
    // lnB(1, b) = −ln b
    ln_beta(1.0 + bad, b + clean) + b.ln() - bad * share.ln() - clean * (-share).ln_1p()
}

/// `ln B(a, b)`. At 10⁹ requests the three terms are around 2·10¹⁰, so about five decimals remain.
pub(super) fn ln_beta(a: f64, b: f64) -> f64 {
    libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b)
}
