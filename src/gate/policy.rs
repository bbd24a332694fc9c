//! What a gate holds the canary to, how sure it has to be, and what it can say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `E_slo` from which a canary is *suspect*: it may not advance, though it need not fail.
///
/// A version within its objective ever gets here with probability at most 1 in 20.
pub const SUSPECT: f64 = 20.0;

/// What a gate holds the canary to, and how sure it has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GatePolicy {
    /// `p0`, the share of bad requests that the objective allows: 0.01 for "at most 1 % errors" and
    /// for "p99 ≤ 250 ms". Taken as at least one in a million and at most 99.9 %.
    pub budget: f64,
    /// `G`, how many gates the rollout has; they share `alpha`.
    pub gates: u32,
    /// How many steps the rollout has.
    pub steps: u32,
    /// `α`, the chance that the evidence rolls back a good version, over all gates of a whole
    /// rollout. Default 1 %.
    pub alpha: f64,
    /// `β`, the chance that a gate's upper bound on the bad share is ever too low, and so the
    /// chance that a canary gets a weight that its bad share does not fit: all gates must pass, so
    /// it is not shared among them. Default 5 %.
    pub beta: f64,
    /// Canary requests that a step needs before it can pass. Default 20.
    pub min_requests: u64,
}

impl GatePolicy {
    /// A policy with the default certainties: `α` = 1 %, `β` = 5 %, 20 requests a step.
    pub fn new(budget: f64, gates: u32, steps: u32) -> Self {
        Self {
            budget,
            gates,
            steps,
            alpha: 0.01,
            beta: 0.05,
            min_requests: 20,
        }
    }

    /// `G/α`: the evidence at which a gate fails; 200 for two gates.
    pub fn fail_threshold(&self) -> f64 {
        f64::from(self.gates.max(1)) / self.alpha
    }

    /// `p0` within the range in which the formulas are defined.
    pub(super) fn p0(&self) -> f64 {
        self.budget.clamp(1e-6, 0.999)
    }

    /// The highest bad share with which `weight` percent of all requests fit the budget.
    pub(super) fn share_allowed_at(&self, weight: u8) -> f64 {
        (self.p0() * 100.0 / f64::from(weight.max(1))).min(1.0)
    }
}

/// What a gate says about the canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GateVerdict {
    /// The canary breaks its objective and is worse than stable: take its traffic away.
    Fail,
    /// The canary may get the next weight.
    Pass,
    /// Neither is proven: hold.
    NeedMoreData,
}
