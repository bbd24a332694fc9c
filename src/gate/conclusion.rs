//! What the verdict of any gate rests on.

use std::time::Duration;

use super::{criterion::Criterion, drift::DriftJudgement, judgement::Judgement, value::Limits};
use crate::evidence::ValueState;

/// What a verdict rests on, by the kind of the objective.
#[derive(Clone, Debug, PartialEq)]
pub enum Conclusion {
    /// Requests were counted.
    Requests {
        /// The numbers.
        judged: Judgement,
        /// What makes a request bad.
        criterion: Criterion,
        /// The canary's requests a second in this step, where they are known.
        rate: Option<f64>,
        /// The latency asked for, where `criterion` has the bucket edge below it.
        asked: Option<Duration>,
    },
    /// The limit follows from a quantile of stable that is not known yet.
    AwaitsQuantile {
        /// The quantile, between 0 and 1.
        quantile: f64,
        /// How much slower the canary may be: 0.1 for 10 %.
        by: f64,
    },
    /// Predicted classes were compared.
    Drift(DriftJudgement),
    /// A value was measured.
    Value {
        /// The last value, and how long it has been beyond its limits.
        state: ValueState,
        /// Its limits.
        limits: Limits,
    },
}
