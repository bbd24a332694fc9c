//! The gates of each objective.

use sha2::{Digest, Sha256};

use super::{
    CustomEvidence, EvidenceSource, ModelDeploymentSpec, NoWorseThanStableObjective, Objective,
    OnFailure, PredictionDriftObjective, QueryObjective,
};
use crate::api::Duration;

/// One gate: an objective, or one member of `noWorseThanStable`.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    /// The name by which status, events and people refer to it: the objective's, or
    /// `NAME-latency` and `NAME-error-rate` where `noWorseThanStable` sets both members. Unique in
    /// a valid spec.
    pub name: String,
    /// What it judges.
    pub kind: GateKind,
    /// Whose counters it reads, where it counts requests.
    pub source: EvidenceSource,
    /// The metrics of `source: Custom`.
    pub custom: Option<CustomEvidence>,
}

/// What one gate judges.
#[derive(Clone, Debug, PartialEq)]
pub enum GateKind {
    /// `latency`.
    Latency {
        /// The quantile, 0 to 1.
        quantile: f64,
        /// Its limit.
        max: Duration,
    },
    /// `errorRate`.
    ErrorRate {
        /// The share of bad answers allowed, 0 to 1.
        max: f64,
    },
    /// `noWorseThanStable.latency`.
    LatencyOfStable {
        /// The quantile, 0 to 1.
        quantile: f64,
        /// The latency allowed above stable's, as a share of it: 0.2 for 20 %.
        by: f64,
    },
    /// `noWorseThanStable.errorRate`.
    ErrorRateOfStable {
        /// The share of bad answers allowed above stable's, absolute: 0.005 for 0.5 percentage
        /// points.
        margin: f64,
    },
    /// `predictionDrift`.
    PredictionDrift(PredictionDriftObjective),
    /// `query`.
    Query(QueryObjective),
}

impl GateKind {
    /// Whether it counts requests. The others read the predictions of the serving pods, or a query.
    pub fn counts_requests(&self) -> bool {
        !matches!(self, Self::PredictionDrift(_) | Self::Query(_))
    }

    /// Whether it counts answers by their status, and none by their duration.
    pub fn counts_errors(&self) -> bool {
        matches!(
            self,
            Self::ErrorRate { .. } | Self::ErrorRateOfStable { .. }
        )
    }

    /// Without limits, such as `latency-p99`.
    fn name(&self) -> String {
        match self {
            Self::Latency { quantile, .. } => format!("latency-{}", percentile(*quantile)),
            Self::ErrorRate { .. } => "errorRate".to_owned(),
            Self::LatencyOfStable { quantile, .. } => {
                format!("latency-{}-of-stable", percentile(*quantile))
            }
            Self::ErrorRateOfStable { .. } => "errorRate-of-stable".to_owned(),
            Self::PredictionDrift(_) => "predictionDrift".to_owned(),
            Self::Query(_) => "query".to_owned(),
        }
    }
}

impl Gate {
    /// What its counts are of, such as `latency-p99` or `errorRate by Istio`. A gate whose
    /// objective now measures something else begins to count anew. Limits are not part of it.
    pub fn measures(&self) -> String {
        let kind = self.kind.name();
        if !self.kind.counts_requests() || self.source == EvidenceSource::default() {
            return kind;
        }
        let source = self.source;
        match &self.custom {
            Some(custom) => format!("{kind} by {source} {}", digest(custom)),
            None => format!("{kind} by {source}"),
        }
    }

    /// What follows its failure.
    pub fn then(&self) -> OnFailure {
        match &self.kind {
            GateKind::PredictionDrift(drift) => drift.then,
            GateKind::Query(query) => query.then,
            _ => OnFailure::Rollback,
        }
    }
}

impl Objective {
    /// The gates that judge it; none where no member is set, which validation refuses.
    pub fn gates(&self) -> Vec<Gate> {
        let latency = self.latency.as_ref().map(|latency| GateKind::Latency {
            quantile: latency.quantile,
            max: latency.max,
        });
        let error_rate = self.error_rate.as_ref().map(|errors| GateKind::ErrorRate {
            max: errors.max.share(),
        });
        let drift = self.prediction_drift.clone().map(GateKind::PredictionDrift);
        let query = self.query.clone().map(GateKind::Query);
        let relative = self.no_worse_than_stable.as_ref();
        let mut gates = relative.map_or_else(Vec::new, |relative| relative.gates(&self.name));
        let plain = [latency, error_rate, drift, query].into_iter().flatten();
        gates.extend(plain.map(|kind| (self.name.clone(), kind)));
        let gate = |(name, kind)| Gate {
            name,
            kind,
            source: self.source.unwrap_or_default(),
            custom: self.custom.clone(),
        };
        gates.into_iter().map(gate).collect()
    }
}

impl NoWorseThanStableObjective {
    /// The names and kinds of its gates.
    fn gates(&self, objective: &str) -> Vec<(String, GateKind)> {
        let latency = self
            .latency
            .as_ref()
            .map(|latency| GateKind::LatencyOfStable {
                quantile: latency.quantile,
                by: latency.by.share(),
            });
        let error_rate = self.error_rate.map(|margin| GateKind::ErrorRateOfStable {
            margin: margin.share(),
        });
        match (latency, error_rate) {
            (Some(latency), Some(error_rate)) => vec![
                (format!("{objective}-latency"), latency),
                (format!("{objective}-error-rate"), error_rate),
            ],
            (latency, error_rate) => {
                let only = latency.or(error_rate);
                only.map(|kind| (objective.to_owned(), kind))
                    .into_iter()
                    .collect()
            }
        }
    }
}

impl ModelDeploymentSpec {
    /// All gates, in the objectives' order.
    pub fn gates(&self) -> Vec<Gate> {
        self.objectives.iter().flat_map(Objective::gates).collect()
    }
}

/// Eight hex digits that change with the metrics that are named.
fn digest(custom: &CustomEvidence) -> String {
    let text = serde_json::to_vec(custom).unwrap_or_default();
    let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(&text).into();
    format!("{:08x}", u32::from_be_bytes([a, b, c, d]))
}

/// Formats a quantile as `p99` or `p99.9`.
fn percentile(quantile: f64) -> String {
    let text = format!("{:.4}", quantile * 100.0);
    format!("p{}", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn each_objective_has_its_gates_and_each_gate_its_name() {
        let objectives: Vec<Objective> = serde_json::from_value(serde_json::json!([
            {"name": "latency", "latency": {"quantile": 0.999, "max": "250ms"}},
            {"name": "errors", "errorRate": {"max": "1%"}},
            {"name": "beside-stable", "noWorseThanStable":
                {"latency": {"quantile": 0.5, "by": "20%"}, "errorRate": "0.5%"}},
            {"name": "no-slower", "noWorseThanStable": {"latency": {"quantile": 0.9, "by": "1%"}}},
            {"name": "no-more-errors", "noWorseThanStable": {"errorRate": "0.5%"}},
            {"name": "in-mesh", "errorRate": {"max": "2%"}, "source": "Istio"},
            {"name": "by-name", "errorRate": {"max": "2%"}, "source": "Custom",
                "custom": {"requests": {"metric": "answers_total", "label": "code"}}},
            {"name": "drift", "predictionDrift": {}},
            {"name": "gpu-memory", "query": {"promql": "x", "max": 3}},
            {"name": "nothing"},
        ]))
        .unwrap();
        let gates: Vec<Gate> = objectives.iter().flat_map(Objective::gates).collect();
        let names: Vec<(&str, String)> = gates
            .iter()
            .map(|gate| (&*gate.name, gate.measures()))
            .collect();
        assert_eq!(
            names,
            [
                ("latency", "latency-p99.9"),
                ("errors", "errorRate"),
                ("beside-stable-latency", "latency-p50-of-stable"),
                ("beside-stable-error-rate", "errorRate-of-stable"),
                ("no-slower", "latency-p90-of-stable"),
                ("no-more-errors", "errorRate-of-stable"),
                ("in-mesh", "errorRate by Istio"),
                ("by-name", "errorRate by Custom 1a761f65"),
                ("drift", "predictionDrift"),
                ("gpu-memory", "query"),
            ]
            .map(|(name, measures)| (name, measures.to_owned()))
        );
        let then: Vec<OnFailure> = gates.iter().map(Gate::then).collect();
        assert_eq!(then[8..], [OnFailure::Hold, OnFailure::Rollback]);
    }
}
