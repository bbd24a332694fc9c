//! One reading a gate, for a canary with weight.

use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use kube::ResourceExt;

use super::Unmeasurable;
use super::metrics::{self, Client, Question, Source};
use crate::{
    api::{
        CanaryVersion, EvidenceSource, Gate, GateKind, GateMemory, ModelDeployment, StartAt, State,
        VersionRef,
    },
    evidence::{BlindReason, Cursors, Reading, Versions},
};

/// Time over which stable's traffic is averaged before a version starts: a minute with little
/// traffic says nothing about the rollout.
const RATE_WINDOW: Duration = Duration::from_secs(5 * 60);

/// What a gate asks of Prometheus: requests, predictions by class, or the value of a query.
enum Asked<'a> {
    Counts(Box<Question>),
    Classes,
    Value(&'a str),
}

/// Reads the evidence of gates.
pub struct EvidenceReader {
    client: Client,
    scrape_interval: Duration,
    router: Source,
}

impl EvidenceReader {
    /// Reads from one Prometheus that scrapes at an interval. `router` is the namespace and
    /// Deployment of the bundled router's pods.
    pub fn new(client: Client, scrape_interval: Duration, router: (String, String)) -> Self {
        let (namespace, deployment) = router;
        Self {
            client,
            scrape_interval,
            router: Source::Envoy {
                namespace,
                deployment,
            },
        }
    }

    /// Time between two readings. Between two scrapes there is nothing new.
    pub fn interval(&self) -> Duration {
        self.scrape_interval
    }

    /// Reads what each gate has not counted yet. Empty if no canary has weight.
    pub async fn read(
        &self,
        model: &ModelDeployment,
        state: &State,
        memory: &[GateMemory],
        now: Timestamp,
    ) -> Vec<Result<Reading, BlindReason>> {
        let (Some(stable), Some(canary)) = (&state.stable, &state.canary) else {
            return Vec::new();
        };
        if canary.progress.is_none() {
            return Vec::new();
        }
        let versions = versions(model, stable, canary);
        let gates = model.spec.gates();
        let readings = gates.iter().map(|gate| {
            let record = memory.iter().find(|memory| memory.is_of(gate));
            self.read_for(&versions, gate, record, now)
        });
        join_all(readings).await
    }

    /// Requests a second that stable answered in the last 5 minutes, for a version whose first step
    /// depends on them; `None` for any other. They are read from the source of the first objective
    /// that counts answers (see [`counting`]), or from the bundled router where no objective counts
    /// requests.
    pub async fn stable_rate(
        &self,
        model: &ModelDeployment,
        state: &State,
        now: Timestamp,
    ) -> Option<Result<f64, BlindReason>> {
        let (stable, canary) = (state.stable.as_ref()?, state.canary.as_ref()?);
        let starts = canary.progress.is_none();
        if !starts || model.spec.rollout.start_at != StartAt::ByTraffic {
            return None;
        }
        let gates = model.spec.gates();
        let (source, objective) = counting(&gates).map_or_else(
            || (self.router.clone(), metrics::Objective::ErrorRate),
            |(gate, objective)| (self.source(gate), objective),
        );
        let question = Question {
            source,
            versions: versions(model, stable, canary),
            objective,
            scrape_interval: self.scrape_interval,
        };
        let since = now.checked_sub(RATE_WINDOW).ok()?;
        let cursors = Cursors::starting_at(since.as_millisecond());
        let window = metrics::read(&self.client, &question, &cursors, None, now).await;
        let requests = window.map(|window| window.look.stable.requests);
        Some(requests.map(|requests| requests as f64 / RATE_WINDOW.as_secs_f64()))
    }

    /// Reads for one gate.
    async fn read_for(
        &self,
        versions: &Versions,
        gate: &Gate,
        record: Option<&GateMemory>,
        now: Timestamp,
    ) -> Result<Reading, BlindReason> {
        // An objective that is added during a rollout counts from now on.
        let cursors = record.map_or_else(
            || Cursors::starting_at(now.as_millisecond()),
            |record| record.cursors.clone(),
        );
        let scrape = self.scrape_interval;
        match self.asked(versions, gate) {
            Asked::Counts(question) => {
                let known = record.and_then(|record| record.threshold.as_ref());
                metrics::read(&self.client, &question, &cursors, known, now)
                    .await
                    .map(Reading::Counts)
            }
            Asked::Classes => metrics::read_classes(&self.client, versions, scrape, &cursors, now)
                .await
                .map(Reading::Classes),
            Asked::Value(promql) => {
                metrics::read_value(&self.client, versions, promql, scrape, now)
                    .await
                    .map(Reading::Value)
            }
        }
    }

    /// Which gates cannot be measured at present, while a version waits for its first weight, so
    /// that the status says so before any traffic moves.
    pub async fn preflight(
        &self,
        model: &ModelDeployment,
        state: &State,
        now: Timestamp,
    ) -> Vec<Unmeasurable> {
        let (Some(stable), Some(canary)) = (&state.stable, &state.canary) else {
            return Vec::new();
        };
        if canary.progress.is_some() {
            return Vec::new();
        }
        let versions = versions(model, stable, canary);
        let gates = model.spec.gates();
        let tries = gates.iter().map(|gate| async {
            let reason = self.try_for(&versions, gate, now).await.err()?;
            Some(Unmeasurable {
                objective: gate.name.clone(),
                reason,
            })
        });
        join_all(tries).await.into_iter().flatten().collect()
    }

    async fn try_for(
        &self,
        versions: &Versions,
        gate: &Gate,
        now: Timestamp,
    ) -> Result<(), BlindReason> {
        let (client, scrape) = (&self.client, self.scrape_interval);
        match self.asked(versions, gate) {
            Asked::Counts(question) => metrics::preflight(client, &question, now).await,
            Asked::Classes => metrics::preflight_classes(client, versions, scrape, now).await,
            Asked::Value(promql) => {
                metrics::preflight_query(client, versions, promql, scrape, now).await
            }
        }
    }

    /// What a gate asks of Prometheus.
    fn asked<'a>(&self, versions: &Versions, gate: &'a Gate) -> Asked<'a> {
        let objective = match (&gate.kind, objective(&gate.kind)) {
            (_, Some(objective)) => objective,
            (GateKind::Query(query), None) => return Asked::Value(&query.promql),
            (_, None) => return Asked::Classes,
        };
        Asked::Counts(Box::new(Question {
            source: self.source(gate),
            versions: versions.clone(),
            objective,
            scrape_interval: self.scrape_interval,
        }))
    }

    /// Whose counters a gate reads.
    fn source(&self, gate: &Gate) -> Source {
        match gate.source {
            EvidenceSource::Envoy => self.router.clone(),
            EvidenceSource::Serving => Source::Serving,
            EvidenceSource::Istio => Source::Istio { waypoint: false },
            EvidenceSource::IstioAmbient => Source::Istio { waypoint: true },
            EvidenceSource::Linkerd => Source::Linkerd,
            EvidenceSource::IngressNginx => Source::IngressNginx,
            EvidenceSource::Traefik => Source::Traefik,
            EvidenceSource::Vllm => Source::Vllm,
            EvidenceSource::Triton => Source::Triton,
            EvidenceSource::Custom => Source::Custom(gate.custom.clone().unwrap_or_default()),
        }
    }
}

/// Which requests are bad for a gate; `None` where it counts none.
fn objective(kind: &GateKind) -> Option<metrics::Objective> {
    match kind {
        GateKind::ErrorRate { .. } | GateKind::ErrorRateOfStable { .. } => {
            Some(metrics::Objective::ErrorRate)
        }
        GateKind::Latency { max, .. } => Some(metrics::Objective::Latency { max: (*max).into() }),
        GateKind::LatencyOfStable { quantile, by } => Some(metrics::Objective::LatencyOfStable {
            quantile: *quantile,
            by: *by,
        }),
        GateKind::PredictionDrift(_) | GateKind::Query(_) => None,
    }
}

/// The gate by whose counters stable's traffic is measured: the first that counts answers by their
/// status, else the first with a latency limit of its own, else the first that counts requests.
fn counting(gates: &[Gate]) -> Option<(&Gate, metrics::Objective)> {
    let by = |wanted: fn(&GateKind) -> bool| gates.iter().find(|gate| wanted(&gate.kind));
    let gate = by(GateKind::counts_errors)
        .or_else(|| by(|kind| matches!(kind, GateKind::Latency { .. })))
        .or_else(|| by(GateKind::counts_requests))?;
    Some((gate, objective(&gate.kind)?))
}

fn versions(model: &ModelDeployment, stable: &VersionRef, canary: &CanaryVersion) -> Versions {
    Versions {
        namespace: model.namespace().unwrap_or_default(),
        name: model.name_any(),
        canary: canary.revision.to_string(),
        stable: stable.revision.to_string(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::Objective;

    /// The objective by whose counters stable's traffic is measured.
    fn counted_by(objectives: Value) -> Option<String> {
        let objectives: Vec<Objective> = serde_json::from_value(objectives).unwrap();
        let gates: Vec<Gate> = objectives.iter().flat_map(Objective::gates).collect();
        counting(&gates).map(|(gate, _)| gate.name.clone())
    }

    #[test]
    fn stables_traffic_is_counted_by_the_first_that_counts_answers_else_by_a_latency() {
        let drift = || json!({"name": "drift", "predictionDrift": {}});
        let slow = || json!({"name": "slow", "latency": {"quantile": 0.99, "max": "1s"}});
        let slower = || {
            let latency = json!({"quantile": 0.99, "by": "10%"});
            json!({"name": "slower", "noWorseThanStable": {"latency": latency}})
        };
        let errors = |name: &str| json!({"name": name, "errorRate": {"max": "1%"}});
        let first = |objectives: Value| counted_by(objectives).unwrap_or_default();
        assert_eq!(
            first(json!([drift(), slow(), errors("a"), errors("b")])),
            "a"
        );
        assert_eq!(first(json!([drift(), slower(), slow()])), "slow");
        assert_eq!(first(json!([drift(), slower()])), "slower");
        assert_eq!(counted_by(json!([drift()])), None);
    }
}
