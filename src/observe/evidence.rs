//! One reading a gate, for the canary that has weight.

use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use kube::ResourceExt;

use super::metrics::{self, BlindReason, Client, Cursors, Question, Reading, Source, Versions};
use crate::api::{
    CanaryVersion, EvidenceSource, FirstStep, ModelDeployment, Objective, State, VersionRef,
};

/// Over so long stable's traffic is averaged before a version starts: a minute's lull is not the traffic it will get.
const RATE_WINDOW: Duration = Duration::from_secs(5 * 60);

/// Where the evidence is read.
pub struct Evidence {
    client: Client,
    scrape_interval: Duration,
    router: Source,
}

impl Evidence {
    /// Reads from one Prometheus that scrapes at an interval. `router` names the bundled router's pods: namespace, Deployment.
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

    /// Time between two looks: a look between two scrapes sees nothing new.
    pub fn interval(&self) -> Duration {
        self.scrape_interval
    }

    /// Reads what each gate has not counted yet; nothing where no canary has weight.
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
        let readings = model.spec.objectives.iter().map(|objective| {
            let question = self.question(model, &versions, objective);
            let gate = progress
                .gates
                .iter()
                .find(|gate| gate.objective == objective.name());
            // An objective that was added in mid-rollout counts from now on.
            let cursors = gate.map_or_else(
                || Cursors::starting_at(now.as_millisecond()),
                |gate| gate.cursors.clone(),
            );
            async move {
                let window = metrics::read(&self.client, &question, &cursors, now).await;
                window.map(Reading::Counts)
            }
        });
        join_all(readings).await
    }

    /// Requests a second that stable answered lately, for a version that starts where its traffic suffices. `None` where
    /// that is not asked for, and where it cannot be measured.
    pub async fn stable_rate(
        &self,
        model: &ModelDeployment,
        state: &State,
        now: Timestamp,
    ) -> Option<f64> {
        let (stable, canary) = (state.stable.as_ref()?, state.canary.as_ref()?);
        let starts = canary.progress.is_none();
        if !starts || model.spec.rollout.first_step != FirstStep::Adaptive {
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
        match metrics::read(&self.client, &question, &cursors, now).await {
            Ok(window) => Some(window.look.stable.requests as f64 / RATE_WINDOW.as_secs_f64()),
            Err(blind) => {
                tracing::info!(%blind, "stable's traffic cannot be measured; the version starts at its first step");
                None
            }
        }
    }

    fn question(
        &self,
        model: &ModelDeployment,
        versions: &Versions,
        objective: &Objective,
    ) -> Question {
        let bad = match &objective.latency {
            Some(latency) => metrics::Objective::Latency {
                max: latency.max.into(),
            },
            None => metrics::Objective::ErrorRate,
        };
        Question {
            source: self.source(model),
            versions: versions.clone(),
            objective: bad,
            scrape_interval: self.scrape_interval,
        }
    }

    fn source(&self, model: &ModelDeployment) -> Source {
        match model.spec.traffic.evidence {
            EvidenceSource::Envoy => self.router.clone(),
            EvidenceSource::Serving => Source::Serving,
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
