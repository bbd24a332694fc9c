//! The objectives that a new version must meet to be promoted.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{CustomEvidence, EvidenceSource, OnFailure, positive_duration};
use crate::api::{Duration, Percent};

/// One objective that a new version must meet: a name and exactly one of `latency`, `errorRate`,
/// `noWorseThanStable`, `predictionDrift` and `query`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.latency) ? 1 : 0) + (has(self.errorRate) ? 1 : 0) + \
    (has(self.noWorseThanStable) ? 1 : 0) + (has(self.predictionDrift) ? 1 : 0) + (has(self.query) \
    ? 1 : 0) == 1")
    .message("spec.objectives: each entry sets exactly one of latency, errorRate, \
        noWorseThanStable, predictionDrift and query"))]
#[x_kube(validation = Rule::new("!has(self.source) || !(has(self.predictionDrift) || \
    has(self.query))")
    .message("spec.objectives[].source: predictionDrift reads the serving pods and a query names \
        its own metrics; remove it"))]
#[x_kube(validation = Rule::new("has(self.custom) == (has(self.source) && self.source == \
    'Custom')")
    .message("spec.objectives[].custom: set it together with source: Custom, and only then"))]
#[x_kube(validation = Rule::new("!has(self.custom) || has(self.custom.requests) || \
    !(has(self.errorRate) || (has(self.noWorseThanStable) && \
    has(self.noWorseThanStable.errorRate)))")
    .message("spec.objectives[].custom.requests: an error rate needs a counter of answers; name \
        one"))]
#[x_kube(validation = Rule::new("!has(self.custom) || has(self.custom.latency) || \
    !(has(self.latency) || (has(self.noWorseThanStable) && \
    has(self.noWorseThanStable.latency)))")
    .message("spec.objectives[].custom.latency: a latency needs a histogram of durations; name \
        one"))]
pub struct Objective {
    /// The name by which status, events and people refer to it. Unique within the model: a DNS
    /// label of at most 40 characters. Where `noWorseThanStable` sets both of its members, its two
    /// gates are called `NAME-latency` and `NAME-error-rate`.
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("spec.objectives[].name: expected at most 40 small letters, digits and dashes, \
            with a letter or digit at both ends"))]
    pub name: String,

    /// A quantile of latency stays at or below a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencyObjective>,

    /// The share of answers 5xx stays at or below a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<ErrorRateObjective>,

    /// The version is no worse than the one that serves, by more than a margin: at least one of
    /// `latency` and `errorRate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_worse_than_stable: Option<NoWorseThanStableObjective>,

    /// The version predicts its classes about as often as the one that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction_drift: Option<PredictionDriftObjective>,

    /// The value of a query of your own stays within limits: at least one of `min` and `max`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<QueryObjective>,

    /// Whose counters judge it. The bundled router's own (`Envoy`) where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<EvidenceSource>,

    /// Metrics of your own, for `source: Custom` and absent otherwise: at least one of `requests`
    /// and `latency`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<CustomEvidence>,
}

/// "The `quantile` of latency is at most `max`", judged as "at most 1 − quantile of requests are
/// slower than `max`".
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.quantile > 0.0 && self.quantile < 1.0")
    .message("spec.objectives[].latency.quantile: expected a number between 0 and 1 (both \
        excluded), such as 0.99"))]
pub struct LatencyObjective {
    /// The quantile, between 0 and 1 (both excluded).
    pub quantile: f64,
    /// The limit. It is snapped down to a bucket edge of the latency histogram; status shows the
    /// edge.
    #[schemars(schema_with = "positive_duration")]
    pub max: Duration,
}

/// "At most `max` of answers are 5xx."
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.max.matches('[1-9]') && !self.max.startsWith('100')")
    .message("spec.objectives[].errorRate.max: above 0% and below 100%; an objective of 0% could \
        never be shown to hold"))]
pub struct ErrorRateObjective {
    /// The limit, above 0% and below 100%.
    pub max: Percent,
}

/// "No worse than the version that serves." Each member is judged by a gate of its own.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.latency) || has(self.errorRate)")
    .message("spec.objectives[].noWorseThanStable: set latency, errorRate or both"))]
#[x_kube(validation = Rule::new("!has(self.errorRate) || (self.errorRate.matches('[1-9]') && \
    !self.errorRate.startsWith('100'))")
    .message("spec.objectives[].noWorseThanStable.errorRate: above 0% and below 100%; that two \
        versions are exactly alike could never be shown"))]
pub struct NoWorseThanStableObjective {
    /// A quantile of latency is at most so much above stable's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencyMargin>,
    /// The share of answers 5xx is at most so many percentage points above stable's, above 0% and
    /// below 100%.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<Percent>,
}

/// "The `quantile` of latency is at most `by` above stable's." Stable's is read from the last hour
/// before the trial, to the precision of its histogram's buckets. The limit is snapped down to a
/// bucket edge; status shows the edge.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.quantile > 0.0 && self.quantile < 1.0")
    .message("spec.objectives[].noWorseThanStable.latency.quantile: expected a number between 0 \
        and 1 (both excluded), such as 0.99"))]
pub struct LatencyMargin {
    /// The quantile, between 0 and 1 (both excluded).
    pub quantile: f64,
    /// How much longer than stable's it may be, from 0% to 100%.
    pub by: Percent,
}

/// "Both versions predict their classes about as often." Read from `model_predictions_total`, which
/// the serving pods export with a label `class`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.max) || (self.max > 0.0 && self.max <= 10.0)")
    .message("spec.objectives[].predictionDrift.max: expected a population stability index above 0 \
        and at most 10, such as 0.2"))]
pub struct PredictionDriftObjective {
    /// The largest population stability index (PSI) between the two versions' classes; a tenth of
    /// it, in bits, is the limit of their Jensen-Shannon divergence. Above 0, at most 10; 0.2 where
    /// absent, which is commonly called a significant shift.
    #[serde(default = "significant_shift")]
    pub max: f64,
    /// What follows a proven drift; `Hold` where absent, since a new model may differ on purpose.
    #[serde(default = "pause")]
    pub then: OnFailure,
}

/// "The value of a query is at most `max` and at least `min`." One of them at least is set.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.min) || has(self.max)")
    .message("spec.objectives[].query: set min, max or both"))]
#[x_kube(validation = Rule::new("!has(self.min) || !has(self.max) || self.min <= self.max")
    .message("spec.objectives[].query: min is above max"))]
pub struct QueryObjective {
    /// PromQL that gives exactly one value. Every selector in it is confined to the namespace. In
    /// its strings, `{{name}}`, `{{namespace}}`, `{{canary}}` and `{{stable}}` (the two revisions)
    /// are filled in; a version's pods are `{{name}}-{{canary}}-.*`.
    #[schemars(length(min = 1, max = 2048))]
    pub promql: String,
    /// The lowest value that is good, in the unit of the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The highest value that is good, in the unit of the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// What follows three scrapes in a row beyond the limits; `Rollback` where absent.
    #[serde(default)]
    pub then: OnFailure,
}

fn significant_shift() -> f64 {
    0.2
}

fn pause() -> OnFailure {
    OnFailure::Hold
}
