//! Scores a policy on the past of the version that served: how often it would have rolled back a
//! version that is as good, and how long promotions would have taken.
//!
//! ```text
//! past ─► the operator's own reader, look by look ─► the serving version's requests
//!                                                        │ dealt out by weight (deal.rs, seeded)
//!                                                        ▼
//!                   rollouts from many starts ◄─ the operator's own decisions (rollout.rs)
//! ```
//! It cannot score how bad versions are found: that past has none.

mod deal;
mod past;
mod report;
mod rollout;

use std::{io::Write as _, path::PathBuf, time::Duration};

use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use kube::{Api, Client as KubeClient};
use serde::Deserialize as _;

use crate::{
    api::{
        Approval, ModelDeployment, ModelDeploymentSpec, OnFailure, Revision, VersionSpec,
        validate::{Limits, SCHEMES, validate},
    },
    observe::{
        EvidenceReader,
        metrics::{Client, ClientError},
    },
    runtime::settings,
};
pub use past::PastLook;
pub use rollout::{End, Simulated};

/// Looks between two lines of progress.
const PROGRESS_EVERY: usize = 500;

/// Arguments of a backtest.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Base URL of the Prometheus to read.
    #[arg(long = "prometheus", env = "SERIN_PROMETHEUS_URL", value_parser = settings::base_url)]
    pub prometheus_url: String,

    /// A header of every request to it, such as `X-Scope-OrgID: ml`. May be given several times.
    #[arg(
        long,
        env = "SERIN_PROMETHEUS_HEADERS",
        hide_env_values = true,
        value_delimiter = '\n',
        value_parser = settings::header
    )]
    pub prometheus_header: Vec<(HeaderName, HeaderValue)>,

    /// Start of the period: a time such as 2026-11-20T00:00:00Z, or a duration before now, such as
    /// 24h.
    #[arg(long, value_parser = moment)]
    pub from: Timestamp,

    /// End of the period, likewise; now where absent.
    #[arg(long, value_parser = moment)]
    pub to: Option<Timestamp>,

    /// Namespace of the ModelDeployment.
    #[arg(long)]
    pub namespace: String,

    /// Name of the ModelDeployment.
    #[arg(long)]
    pub name: String,

    /// A manifest of the ModelDeployment with the policy to score: `spec.objectives` and
    /// `spec.rollout`. The cluster's where absent.
    #[arg(long)]
    pub policy: Option<PathBuf>,

    /// The revision (8 hex digits) that served in that period. Where absent, the one that serves
    /// now, or the manifest's.
    #[arg(long)]
    pub revision: Option<String>,

    /// Scrape interval of that Prometheus, which is the time between two looks.
    #[arg(
        long,
        env = "SERIN_SCRAPE_INTERVAL",
        default_value = "15s",
        value_parser = settings::duration
    )]
    pub scrape_interval: Duration,

    /// Namespace of the bundled routers, whose counters are read by each objective that names no
    /// other source.
    #[arg(long, env = "POD_NAMESPACE", default_value = "serin-system")]
    pub router_namespace: String,

    /// Name of the router's Service and Deployment.
    #[arg(long, env = "SERIN_ROUTER_SERVICE", default_value = "serin-router")]
    pub router_service: String,

    /// Number of rollouts to simulate; their starts are spread evenly over the period.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rollouts: u32,

    /// Seed of the random numbers: the same seed gives the same report.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Why a backtest failed.
#[derive(Debug, thiserror::Error)]
pub enum BacktestError {
    /// The manifest cannot be read.
    #[error("cannot read {path}: {cause}")]
    Policy {
        /// The file.
        path: String,
        /// What is wrong.
        cause: String,
    },
    /// The ModelDeployment cannot be read from the cluster.
    #[error("cannot read {name} from the cluster: {cause}. --policy FILE needs no cluster")]
    Cluster {
        /// The model.
        name: String,
        /// What is wrong.
        cause: String,
    },
    /// The policy is invalid.
    #[error("invalid policy: {0}")]
    Invalid(String),
    /// Prometheus' address is invalid.
    #[error("invalid --prometheus: {0}")]
    Prometheus(#[from] ClientError),
    /// The period is too short for two looks.
    #[error(
        "the period from {from} to {to} has no room for two looks: make it longer than two scrape \
         intervals"
    )]
    NoPeriod {
        /// Its beginning.
        from: Timestamp,
        /// Its end.
        to: Timestamp,
    },
    /// No look could be read.
    #[error("nothing could be read: {0}")]
    NothingRead(String),
}

/// Scores a policy and returns the report as text. An error where the policy or the past cannot be
/// read, or Prometheus does not answer.
pub async fn run(arguments: &Arguments) -> Result<String, BacktestError> {
    let (mut model, serving) = match &arguments.policy {
        Some(file) => (from_manifest(file)?, None),
        None => from_cluster(arguments).await?,
    };
    model.metadata.namespace = Some(arguments.namespace.clone());
    model.metadata.name = Some(arguments.name.clone());
    check(&model)?;
    let revision = arguments
        .revision
        .clone()
        .map(Revision)
        .or(serving)
        .unwrap_or_else(|| VersionSpec::of(&model.spec).revision());

    let headers: HeaderMap = arguments.prometheus_header.iter().cloned().collect();
    let client = Client::new(&arguments.prometheus_url, headers)?.of_the_past();
    let router = (
        arguments.router_namespace.clone(),
        arguments.router_service.clone(),
    );
    let evidence = EvidenceReader::new(client, arguments.scrape_interval, router);
    let spec = unattended(&model.spec);
    let (from, to) = (arguments.from, arguments.to.unwrap_or_else(Timestamp::now));
    let looks = past::read(&evidence, &model, &revision, from, to, |done, all| {
        if done % PROGRESS_EVERY == 0 {
            // Standard output is for the report.
            let _ = writeln!(std::io::stderr(), "read {done} of {all} looks");
        }
    })
    .await;
    if looks.len() < 2 {
        return Err(BacktestError::NoPeriod { from, to });
    }
    if let Some(blind) = nothing_read(&looks) {
        return Err(BacktestError::NothingRead(blind));
    }
    let rollouts: Vec<Simulated> = starts(&looks, arguments.rollouts)
        .map(|start| {
            rollout::simulate(
                &spec,
                &looks,
                start,
                arguments.scrape_interval,
                arguments.seed,
            )
        })
        .collect();
    let findings = report::Findings {
        title: format!(
            "{}/{}, revision {revision}",
            arguments.namespace, arguments.name
        ),
        spec: &spec,
        attended: spec != model.spec,
        looks: &looks,
        rollouts: &rollouts,
        interval: arguments.scrape_interval,
    };
    Ok(findings.text())
}

/// Reads the first ModelDeployment in a file of YAML documents.
fn from_manifest(file: &PathBuf) -> Result<ModelDeployment, BacktestError> {
    let failed = |cause: String| BacktestError::Policy {
        path: file.display().to_string(),
        cause,
    };
    let text = std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
    for document in serde_norway::Deserializer::from_str(&text) {
        let value = serde_norway::Value::deserialize(document)
            .map_err(|error| failed(error.to_string()))?;
        if value.get("kind").and_then(|kind| kind.as_str()) == Some("ModelDeployment") {
            return serde_norway::from_value(value).map_err(|error| failed(error.to_string()));
        }
    }
    Err(failed("it has no ModelDeployment".to_owned()))
}

/// Reads the resource from the cluster, and the revision that serves now.
async fn from_cluster(
    arguments: &Arguments,
) -> Result<(ModelDeployment, Option<Revision>), BacktestError> {
    let failed = |cause: String| BacktestError::Cluster {
        name: format!("{}/{}", arguments.namespace, arguments.name),
        cause,
    };
    let client = KubeClient::try_default()
        .await
        .map_err(|error| failed(error.to_string()))?;
    let api: Api<ModelDeployment> = Api::namespaced(client, &arguments.namespace);
    let model = api
        .get(&arguments.name)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let status = model.status.as_ref();
    let stable = status.and_then(|status| status.state.stable.as_ref());
    let serving = stable.map(|stable| stable.revision.clone());
    Ok((model, serving))
}

fn check(model: &ModelDeployment) -> Result<(), BacktestError> {
    let limits = Limits {
        allowed_schemes: SCHEMES.map(str::to_owned).to_vec(),
        bundled_image: String::new(), // not known here: only a spec without an image has it
    };
    let errors: Vec<String> = validate(model, &limits)
        .iter()
        .map(ToString::to_string)
        .collect();
    if errors.is_empty() {
        Ok(())
    } else {
        Err(BacktestError::Invalid(errors.join("; ")))
    }
}

/// The most frequent reason, where no look could be read.
fn nothing_read(looks: &[PastLook]) -> Option<String> {
    let mut readings = looks.iter().flat_map(|look| &look.readings);
    if readings.any(Result::is_ok) {
        return None;
    }
    let reasons = looks.iter().flat_map(|look| &look.readings);
    Some(
        reasons
            .filter_map(|reading| reading.as_ref().err())
            .next_back()
            .map_or_else(
                || "the policy has no objective".to_owned(),
                ToString::to_string,
            ),
    )
}

/// The policy without waits for a person: approvals are given at once, and failing evidence rolls
/// back, so that it is counted.
fn unattended(spec: &ModelDeploymentSpec) -> ModelDeploymentSpec {
    let mut spec = spec.clone();
    let rollout = &mut spec.rollout;
    rollout.paused = false;
    rollout.approval = Approval::Never;
    rollout.on_failure = OnFailure::Rollback;
    for step in &mut rollout.steps {
        step.pause = None;
    }
    for objective in &mut spec.objectives {
        if let Some(drift) = &mut objective.prediction_drift {
            drift.then = OnFailure::Rollback;
        }
        if let Some(query) = &mut objective.query {
            query.then = OnFailure::Rollback;
        }
    }
    spec
}

/// Looks from which a rollout starts, spread evenly. A rollout does not start while metrics are
/// away.
fn starts(looks: &[PastLook], count: u32) -> impl Iterator<Item = usize> {
    let count = (count as usize).min(looks.len());
    let all = looks.len();
    let spread = (0..count).map(move |number| number * all / count);
    spread.filter(move |start| {
        looks
            .get(*start)
            .is_some_and(|look| look.readings.iter().all(Result::is_ok))
    })
}

/// Parses a time, or a duration before now.
fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let ago = settings::duration(text)
        .ok()
        .and_then(|ago| SignedDuration::try_from(ago).ok())
        .and_then(|ago| Timestamp::now().checked_sub(ago).ok());
    ago.ok_or_else(|| {
        "expected a time such as 2026-11-20T00:00:00Z, or a duration before now, such as 24h"
            .to_owned()
    })
}
