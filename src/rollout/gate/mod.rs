//! The gate: is the canary good enough to get more traffic, bad enough to lose all of it, or is it
//! too early to say?
//!
//! It judges *request counts*, not ratios over a window. After every Prometheus scrape the caller
//! feeds one [`Observation`] per gate (an objective: "at most 1 % errors", "p99 ≤ 250 ms") into a
//! [`GateState`] and asks it to [`judge`](GateState::judge):
//!
//! | verdict | when |
//! |---|---|
//! | [`Fail`](GateVerdict::Fail) | the canary breaks its objective **and** is worse than the stable version serving beside it: `min(E_slo, E_rel) ≥ G/α`; or one scrape is so bad that no statistics are needed (the *hard guard*) |
//! | [`Pass`](GateVerdict::Pass) | no suspicion (`E_slo < 20`), and the next weight × the upper bound on the canary's bad share fits the error budget; enough requests in this step, and the next weight × their bad share fits it, too |
//! | [`NeedMoreData`](GateVerdict::NeedMoreData) | otherwise |
//!
//! Two things are decided outside: whether the metrics can be trusted at all (*Blind*; a look that
//! cannot be trusted must not be observed), and how long a step has to bake.
//!
//! # The guarantee
//! With `G` gates, the evidence of a gate crosses `G/α` with probability at most `α/G`, however often
//! one looks and whenever one stops, so a whole rollout is rolled back by the evidence though its
//! canary is good with probability at most `α` (1 %). *Good* means that the canary's probability of a
//! bad request always stays within its objective, **or** always within that of the stable version at
//! the same moment. How that comes about is told where it is computed: `e_values.rs` (the tests) and
//! `bound.rs` (the upper bound).
//!
//! At weight 100 no stable traffic runs beside the canary. There it is compared with what stable has
//! shown earlier in this rollout, and never with less than the objective allows (`log_ratios_to_past`).
//! The first half of the premise is enough for the guarantee to hold there: while the canary stays within
//! its objective, `E_slo` alone crosses `G/α` with probability at most `α/G`. The second half is, at
//! weight 100, a protection in practice and no theorem: stable might be worse today than it was.
//!
//! Advancing needs every gate's Pass. So a canary that is over the next weight's budget in any objective
//! gets that weight only if that objective's own gate is wrong, which has a probability of at most `β`
//! (5 %): nothing has to be split over the gates (an intersection-union test; Berger 1982).
//!
//! The hard guard stands outside the bookkeeping of `α`, but rules chance out by itself: a version that
//! keeps its objective trips it in less than one scrape in a million, and one that shares an outage with
//! stable in less than one in a thousand of the outage's scrapes (in fact far less: stable must also
//! look well in that scrape).

mod bound;
mod drift;
mod e_values;
mod ledger;
mod margin;
mod sentence;
mod state;
mod value;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use drift::{Distance, DriftJudgement};
pub use sentence::Criterion;
pub use value::Limits;

use crate::evidence::Observation;

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
    /// `β`, the chance that a gate's upper bound on the bad share is ever too low, and so the chance that a canary
    /// gets a weight that its bad share does not fit: all gates must pass, so it is not shared among them. Default 5 %.
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
    fn p0(&self) -> f64 {
        self.budget.clamp(1e-6, 0.999)
    }

    /// The highest bad share with which `weight` percent of all requests fit the budget.
    fn share_allowed_at(&self, weight: u8) -> f64 {
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

/// A verdict and the numbers behind it; [`sentence`](Judgement::sentence) says them in words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// What to do.
    pub verdict: GateVerdict,
    /// Evidence that the canary breaks its objective; 1 means none. While the objective is kept, it
    /// ever reaches `x` with probability at most `1/x`.
    pub e_slo: f64,
    /// Evidence that the canary is worse than stable; 1 means none, same guarantee. At weight 100 stable is what it
    /// was earlier in the rollout. Where the objective is a margin above stable, the same as `e_slo`.
    pub e_rel: f64,
    /// The strongest evidence for failing since the step began: the highest `min(e_slo, e_rel)`.
    pub strongest: f64,
    /// Where `strongest` fails the gate: `G/α`.
    pub fail_threshold: f64,
    /// The one look that tripped the hard guard in this step.
    pub guard: Option<Observation>,
    /// Upper confidence bound on the canary's bad share over the whole rollout; where the objective is a margin above
    /// stable, on how much it is above stable's, which may be less than 0.
    pub upper_bound: f64,
    /// The bound that the next weight needs: `budget · 100 / next weight`.
    pub bound_needed: f64,
    /// How many more requests, all of them clean, would let the canary pass (suspicion aside). 0 if
    /// none are lacking, `None` if more than a billion are.
    pub clean_requests_needed: Option<u64>,
    /// `e_slo` ≥ [`SUSPECT`].
    pub suspect: bool,
    /// The objective's budget, `p0`, or its margin above stable.
    pub budget: f64,
    /// The weight that the canary asks for, in percent; `None` where it asks to be promoted.
    pub next_weight: Option<u8>,
    /// Requests since the step began.
    pub step: Observation,
    /// Requests since the rollout began.
    pub rollout: Observation,
}
