//! One reading a gate, for a canary with weight.

use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use kube::ResourceExt;

use super::Unmeasurable;
use super::metrics::{self, Client, Question, Source};
use crate::{
    api::{
        CanaryVersion, EvidenceSource, Gate, GateRecord, ModelDeployment, StartAt, State,
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
        now: Timestamp,
    ) -> Vec<Result<Reading, BlindReason>> {
        let (Some(stable), Some(canary)) = (&state.stable, &state.canary) else {
            return Vec::new();
        };
        let Some(progress) = &canary.progress else {
            return Vec::new();
        };
        let versions = versions(model, stable, canary);
        let gates = model.spec.gates();
        let readings = gates.iter().map(|gate| {
            let name = gate.name();
            let record = progress
                .gates
                .iter()
                .find(|record| record.objective == name);
            self.read_for(model, &versions, gate, record, now)
        });
        join_all(readings).await
    }

    /// Requests a second that stable answered in the last 5 minutes, for a version whose first step
    /// depends on them. `None` for any other.
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
        let question = Question {
            source: self.source(model),
            versions: versions(model, stable, canary),
            objective: metrics::Objective::ErrorRate,
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
        model: &ModelDeployment,
        versions: &Versions,
        gate: &Gate,
        record: Option<&GateRecord>,
        now: Timestamp,
    ) -> Result<Reading, BlindReason> {
        // An objective that is added during a rollout counts from now on.
        let cursors = record.map_or_else(
            || Cursors::starting_at(now.as_millisecond()),
            |record| record.cursors.clone(),
        );
        let scrape = self.scrape_interval;
        match self.asked(model, versions, gate) {
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
            let reason = self.try_for(model, &versions, gate, now).await.err()?;
            Some(Unmeasurable {
                objective: gate.name(),
                reason,
            })
        });
        join_all(tries).await.into_iter().flatten().collect()
    }

    async fn try_for(
        &self,
        model: &ModelDeployment,
        versions: &Versions,
        gate: &Gate,
        now: Timestamp,
    ) -> Result<(), BlindReason> {
        let (client, scrape) = (&self.client, self.scrape_interval);
        match self.asked(model, versions, gate) {
            Asked::Counts(question) => metrics::preflight(client, &question, now).await,
            Asked::Classes => metrics::preflight_classes(client, versions, scrape, now).await,
            Asked::Value(promql) => {
                metrics::preflight_query(client, versions, promql, scrape, now).await
            }
        }
    }

    /// What a gate asks of Prometheus.
    fn asked<'a>(&self, model: &ModelDeployment, versions: &Versions, gate: &'a Gate) -> Asked<'a> {
        let objective = match gate {
            Gate::ErrorRate { .. } | Gate::ErrorRateOfStable { .. } => {
                metrics::Objective::ErrorRate
            }
            Gate::Latency { max, .. } => metrics::Objective::Latency { max: (*max).into() },
            Gate::LatencyOfStable { quantile, by } => metrics::Objective::LatencyOfStable {
                quantile: *quantile,
                by: *by,
            },
            Gate::PredictionDrift(_) => return Asked::Classes,
            Gate::Query(query) => return Asked::Value(&query.promql),
        };
        Asked::Counts(Box::new(Question {
            source: self.source(model),
            versions: versions.clone(),
            objective,
            scrape_interval: self.scrape_interval,
        }))
    }

    fn source(&self, model: &ModelDeployment) -> Source {
        let traffic = &model.spec.traffic;
        match traffic.evidence {
            EvidenceSource::Envoy => self.router.clone(),
            EvidenceSource::Serving => Source::Serving,
            EvidenceSource::Istio => Source::Istio { waypoint: false },
            EvidenceSource::IstioAmbient => Source::Istio { waypoint: true },
            EvidenceSource::Linkerd => Source::Linkerd,
            EvidenceSource::IngressNginx => Source::IngressNginx,
            EvidenceSource::Traefik => Source::Traefik,
            EvidenceSource::Vllm => Source::Vllm,
            EvidenceSource::Triton => Source::Triton,
            EvidenceSource::Custom => Source::Custom(traffic.custom.clone().unwrap_or_default()),
        }
    }
}

fn versions(model: &ModelDeployment, stable: &VersionRef, canary: &CanaryVersion) -> Versions {
    Versions {
        namespace: model.namespace().unwrap_or_default(),
        name: model.name_any(),
        canary: canary.revision.to_string(),
        stable: stable.revision.to_string(),
    }
}
