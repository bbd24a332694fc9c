//! A verdict on counted requests, and the numbers behind it.

use super::policy::GateVerdict;
use crate::evidence::Observation;

/// A verdict and the numbers behind it; [`sentence`](Judgement::sentence) puts them into words.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement {
    /// What to do.
    pub verdict: GateVerdict,
    /// Evidence that the canary breaks its objective; 1 means none. While the objective is kept, it
    /// ever reaches `x` with probability at most `1/x`.
    pub e_slo: f64,
    /// Evidence that the canary is worse than stable; 1 means none, same guarantee. At weight 100
    /// stable is what it was earlier in the rollout. Where the objective is a margin above stable,
    /// the same as `e_slo`.
    pub e_rel: f64,
    /// The strongest evidence for failing since the step began: the highest `min(e_slo, e_rel)`.
    pub strongest: f64,
    /// Where `strongest` fails the gate: `G/α`.
    pub fail_threshold: f64,
    /// The one look that tripped the hard guard in this step.
    pub guard: Option<Observation>,
    /// Upper confidence bound on the canary's bad share over the whole rollout; where the objective
    /// is a margin above stable, on how much it is above stable's, which may be less than 0.
    pub upper_bound: f64,
    /// The bound that the next weight needs: `budget · 100 / next weight`.
    pub bound_needed: f64,
    /// How many more requests, all of them clean, would let the canary pass (suspicion aside). 0 if
    /// none are lacking, `None` if more than a billion are.
    pub clean_requests_needed: Option<u64>,
    /// `e_slo` ≥ [`SUSPECT`](super::SUSPECT).
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
