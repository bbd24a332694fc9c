//! One reading for one gate: requests, a value, or predictions by class.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Cursors, Observation, Snapped};

/// One reading for one gate. The objective determines the kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reading {
    /// Requests of both versions, good and bad: of `latency`, `errorRate` and `noWorseThanStable`.
    Counts(Window),
    /// The value of a query that the user wrote: of `query`.
    Value(Value),
    /// Predictions of both versions by class: of `predictionDrift`.
    Classes(Classes),
}

impl Reading {
    /// The PromQL whose answer this is, for a person to repeat.
    pub fn query(&self) -> &str {
        match self {
            Self::Counts(window) => &window.query,
            Self::Value(value) => &value.query,
            Self::Classes(classes) => &classes.query,
        }
    }
}

/// The single value of a query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// The value: finite.
    pub value: f64,
    /// The time at which the query was evaluated.
    pub at: Timestamp,
    /// The PromQL that was sent: the user's, confined to the namespace.
    pub query: String,
}

/// One window of predictions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Classes {
    /// The canary's predictions that no earlier window has counted, by class.
    pub canary: BTreeMap<String, u64>,
    /// The same of stable.
    pub stable: BTreeMap<String, u64>,
    /// To be passed to the next reading. Losing it loses or repeats evidence.
    pub cursors: Cursors,
    /// The scrape up to which both versions were seen: the older of the two versions' newest.
    pub newest_sample: Timestamp,
    /// The PromQL whose answer was counted.
    pub query: String,
    /// How far back evidence was fetched after an outage; `None` without one.
    pub replayed: Option<Duration>,
    /// The part of an outage that was too long ago to be fetched (see
    /// [`Span::lost`](super::Span::lost)).
    pub lost: Option<Duration>,
}

/// One window of evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// The requests that no earlier window has counted. Zero means that there were none, not that
    /// they were unreadable.
    pub look: Observation,
    /// To be passed to the next reading. Losing it loses or repeats evidence.
    pub cursors: Cursors,
    /// The scrape up to which both versions were seen: the older of the two versions' newest.
    pub newest_sample: Timestamp,
    /// The latency threshold used. `None` for an error rate, and while no request has been timed
    /// yet.
    pub threshold: Option<Snapped>,
    /// The PromQL whose answer was counted, for people to repeat.
    pub query: String,
    /// How far back evidence was fetched after an outage of Prometheus or of the operator; `None`
    /// without an outage.
    pub replayed: Option<Duration>,
    /// The part of an outage that was too long ago to be fetched (see
    /// [`Span::lost`](super::Span::lost)).
    pub lost: Option<Duration>,
}
