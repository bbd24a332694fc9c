//! The gates of each objective.

use super::{
    ModelDeploymentSpec, NoWorseThanStableObjective, Objective, OnFailure,
    PredictionDriftObjective, QueryObjective,
};
use crate::api::Duration;

/// What one gate judges. Each objective is one gate; `noWorseThanStable` is one for each of its
/// members.
#[derive(Clone, Debug, PartialEq)]
pub enum Gate {
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

impl Gate {
    /// Returns the name by which status and events refer to it, such as `errorRate` or
    /// `latency-p99`. Names are unique in a valid spec.
    pub fn name(&self) -> String {
        match self {
            Self::Latency { quantile, .. } => format!("latency-{}", percentile(*quantile)),
            Self::ErrorRate { .. } => "errorRate".to_owned(),
            Self::LatencyOfStable { quantile, .. } => {
                format!("latency-{}-of-stable", percentile(*quantile))
            }
            Self::ErrorRateOfStable { .. } => "errorRate-of-stable".to_owned(),
            Self::PredictionDrift(_) => "predictionDrift".to_owned(),
            Self::Query(query) => format!("query-{}", query.name),
        }
    }

    /// What follows its failure.
    pub fn then(&self) -> OnFailure {
        match self {
            Self::PredictionDrift(drift) => drift.then,
            Self::Query(query) => query.then,
            _ => OnFailure::Rollback,
        }
    }
}

impl Objective {
    /// The gates that judge it; none where no member is set, which validation refuses.
    pub fn gates(&self) -> Vec<Gate> {
        let latency = self.latency.as_ref().map(|latency| Gate::Latency {
            quantile: latency.quantile,
            max: latency.max,
        });
        let error_rate = self.error_rate.as_ref().map(|errors| Gate::ErrorRate {
            max: errors.max.share(),
        });
        let relative = self.no_worse_than_stable.as_ref();
        let drift = self.prediction_drift.clone().map(Gate::PredictionDrift);
        let query = self.query.clone().map(Gate::Query);
        let relative = relative.map(NoWorseThanStableObjective::gates);
        let mut gates = relative.unwrap_or_default();
        gates.extend([latency, error_rate, drift, query].into_iter().flatten());
        gates
    }
}

impl NoWorseThanStableObjective {
    fn gates(&self) -> Vec<Gate> {
        let latency = self.latency.as_ref().map(|latency| Gate::LatencyOfStable {
            quantile: latency.quantile,
            by: latency.by.share(),
        });
        let error_rate = self.error_rate.map(|margin| Gate::ErrorRateOfStable {
            margin: margin.share(),
        });
        [latency, error_rate].into_iter().flatten().collect()
    }
}

impl ModelDeploymentSpec {
    /// All gates, in the objectives' order.
    pub fn gates(&self) -> Vec<Gate> {
        self.objectives.iter().flat_map(Objective::gates).collect()
    }
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
            {"latency": {"quantile": 0.999, "max": "250ms"}},
            {"errorRate": {"max": "1%"}},
            {"noWorseThanStable": {"latency": {"quantile": 0.5, "by": "20%"}, "errorRate": "0.5%"}},
            {"predictionDrift": {}},
            {"query": {"name": "gpu-memory", "promql": "x", "max": 3}},
            {},
        ]))
        .unwrap();
        let gates: Vec<Gate> = objectives.iter().flat_map(Objective::gates).collect();
        let names: Vec<String> = gates.iter().map(Gate::name).collect();
        assert_eq!(
            names,
            [
                "latency-p99.9",
                "errorRate",
                "latency-p50-of-stable",
                "errorRate-of-stable",
                "predictionDrift",
                "query-gpu-memory"
            ]
        );
        let then: Vec<OnFailure> = gates.iter().map(Gate::then).collect();
        assert_eq!(then[4..], [OnFailure::Hold, OnFailure::Rollback]);
    }
}
