//! What makes a request bad.

use std::time::Duration;

/// What makes a request bad, for the words of a [`Judgement`](super::Judgement) and for the gate's
/// budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Criterion {
    /// The answer was a 5xx.
    ErrorRate {
        /// The share of failed requests that the objective allows: 0.01 for 1 %.
        max: f64,
    },
    /// The answer took too long. "p-quantile ≤ T" is the same as "a share of at most 1 − p over T".
    Latency {
        /// The quantile, between 0 and 1: 0.99 for p99.
        quantile: f64,
        /// The longest time that this quantile may take.
        max: Duration,
    },
    /// The answer was a 5xx; and what counts is how many more of them the canary gives than stable.
    Margin {
        /// How much the canary's share may be above stable's: 0.005 for half a percentage point.
        margin: f64,
    },
}

impl Criterion {
    /// The share of bad requests that the objective allows, for
    /// [`GatePolicy::budget`](super::GatePolicy::budget).
    pub fn budget(&self) -> f64 {
        match *self {
            Self::ErrorRate { max } => max,
            Self::Latency { quantile, .. } => 1.0 - quantile,
            Self::Margin { margin } => margin,
        }
    }
}
