//! The gate: is the canary good enough to get more traffic, bad enough to lose all of it, or is it
//! too early to say?
//!
//! It judges *request counts*, not ratios over a window. After every Prometheus scrape the caller
//! feeds one [`Observation`](crate::evidence::Observation) per gate (an objective: "at most 1 %
//! errors", "p99 ≤ 250 ms") into a [`GateState`](crate::evidence::GateState) and asks it to
//! [`judge`](crate::evidence::GateState::judge):
//!
//! - [`Fail`](GateVerdict::Fail): the canary breaks its objective **and** is worse than the stable
//!   version serving beside it: `min(E_slo, E_rel) ≥ G/α`; or one scrape is so bad that no
//!   statistics are needed (the *hard guard*).
//! - [`Pass`](GateVerdict::Pass): no suspicion (`E_slo < 20`), and the next weight × the upper
//!   bound on the canary's bad share fits the error budget; enough requests in this step, and the
//!   next weight × their bad share fits it, too.
//! - [`NeedMoreData`](GateVerdict::NeedMoreData) otherwise.
//!
//! Two things are decided outside: whether the metrics can be trusted at all (*Blind*; an
//! observation that cannot be trusted must not be taken in), and how long a step lasts at least.
//!
//! # The guarantee
//! With `G` gates, the evidence of a gate crosses `G/α` with probability at most `α/G`, however
//! often it is read and whenever reading stops. So a whole rollout is rolled back by the evidence
//! though its canary is good with probability at most `α` (1 %). *Good* means that the canary's
//! probability of a bad request always stays within its objective, **or** always within that of the
//! stable version at the same moment. The tests are in `e_values.rs`, the upper bound in
//! `bound.rs`.
//!
//! At weight 100 no stable traffic runs beside the canary. There it is compared with what stable
//! has shown earlier in this rollout, and never with less than the objective allows
//! (`log_ratios_to_past`). The first half of the premise is enough for the guarantee to hold there:
//! while the canary stays within its objective, `E_slo` alone crosses `G/α` with probability at
//! most `α/G`. The second half is, at weight 100, a protection in practice and no theorem: stable
//! might be worse today than it was.
//!
//! Advancing needs every gate's Pass. So a canary that is over the next weight's budget in any
//! objective gets that weight only if that objective's own gate is wrong, which has a probability
//! of at most `β` (5 %): nothing has to be split over the gates (an intersection-union test; Berger
//! 1982).
//!
//! The hard guard stands outside the bookkeeping of `α`, but rules chance out by itself: a version
//! that keeps its objective trips it in less than one scrape in a million, and one that shares an
//! outage with stable in less than one in a thousand of the outage's scrapes (in fact far less:
//! stable must also look well in that scrape).

mod bound;
mod conclusion;
mod criterion;
mod drift;
mod e_values;
mod judgement;
mod ledger;
mod margin;
mod policy;
mod state;
mod value;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod tests;

pub use conclusion::Conclusion;
pub use criterion::Criterion;
pub(crate) use drift::BIT_PER_PSI;
pub use drift::{Distance, DriftJudgement};
pub use judgement::Judgement;
pub use policy::{GatePolicy, GateVerdict, SUSPECT};
pub(crate) use value::BREACHES;
pub use value::Limits;
