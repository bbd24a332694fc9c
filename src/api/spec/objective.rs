//! What a new version must hold to be promoted.

use kube::{KubeSchema, core::Duration};
use serde::{Deserialize, Serialize};

use super::duration_schema;
use crate::api::Percent;

/// One thing that a new version must hold. Exactly one member is set.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.latency) ? 1 : 0) + (has(self.errorRate) ? 1 : 0) == 1")
    .message("spec.objectives: each entry sets exactly one of latency and errorRate"))]
pub struct Objective {
    /// A quantile of latency stays at or below a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencyObjective>,

    /// The share of answers 5xx stays at or below a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_rate: Option<ErrorRateObjective>,
}

/// "The `quantile` of latency is at most `max`", judged as "at most 1 − quantile of requests are slower than `max`".
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.quantile > 0.0 && self.quantile < 1.0")
    .message("spec.objectives[].latency.quantile: expected a number between 0 and 1 (both excluded), such as 0.99"))]
#[x_kube(validation = Rule::new("duration(self.max) > duration('0s')")
    .message("spec.objectives[].latency.max: expected a duration above zero, such as 250ms"))]
pub struct LatencyObjective {
    /// The quantile, between 0 and 1 (both excluded).
    pub quantile: f64,
    /// The limit. Snapped down to an edge of the latency histogram, which status then says.
    #[schemars(schema_with = "duration_schema")]
    pub max: Duration,
}

/// "At most `max` of answers are 5xx."
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.max.matches('[1-9]') && !self.max.startsWith('100')")
    .message("spec.objectives[].errorRate.max: above 0% and below 100%; an objective of 0% could never be shown to hold"))]
pub struct ErrorRateObjective {
    /// The limit, above 0% and below 100%.
    pub max: Percent,
}
impl Objective {
    /// The name under which status and events speak of this objective, such as `errorRate` or `latency-p99`.
    pub fn name(&self) -> String {
        match &self.latency {
            Some(latency) => format!("latency-p{}", trimmed(latency.quantile * 100.0)),
            None => "errorRate".to_owned(),
        }
    }
}

/// A number without needless zeros: `99`, `99.9`.
fn trimmed(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
