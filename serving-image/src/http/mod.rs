//! The HTTP API: routes, and the state they share.

mod about;
mod body;
mod deadline;
mod docs;
mod embeddings;
mod explain;
#[cfg(test)]
mod fuzz_tests;
mod generate;
mod infer;
mod models;
mod observe;
mod openapi;
mod predict;
mod problem;
mod record;
mod rerank;
mod trace;
mod v2;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header::InvalidHeaderValue};
use axum::middleware::from_fn_with_state;
use serde_json::{Value, json};

use crate::artefact::{Artefact, Kind, Manifest, Task};
use crate::batching::Batcher;
use crate::compute::ComputePool;
use crate::faults::Faults;
use crate::lifecycle::{Engine, Lifecycle, Phase};
use crate::metrics::{Metrics, Served};
use crate::telemetry::Tracer;
use observe::Counted;
use openapi::Contract;
use problem::Problem;

/// Bounds on one request.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Largest body in bytes.
    pub body: usize,
    /// Longest time in which a body must have arrived.
    pub body_time: Duration,
    /// Longest time to a prediction's answer; a request's headers may shorten it.
    pub deadline: Duration,
}

/// The threads that compute.
#[derive(Debug)]
pub struct Executors {
    /// Prepares and words requests, and predicts what takes microseconds.
    pub compute: ComputePool,
    /// Encodes texts.
    pub batcher: Batcher,
    /// Explains answers, one request after the other.
    pub explanations: ComputePool,
}

/// The state that all handlers share.
#[derive(Debug)]
pub struct App {
    /// The name it is served under: label, header and body.
    pub name: String,
    /// The version it is served under.
    pub version: String,
    /// Loading, ready or draining; and the model.
    pub lifecycle: Lifecycle,
    /// The series.
    pub metrics: Metrics,
    kind: Kind,
    task: Task,
    compute: ComputePool,
    batcher: Batcher,
    explanations: ComputePool,
    is_explained: bool,
    faults: Option<Faults>,
    bounds: Bounds,
    name_header: HeaderValue,
    version_header: HeaderValue,
    openapi: Value,
    v2_metadata: Value,
    about: Value,
    /// Seconds since 1970 at which it was made.
    created: u64,
    ids: trace::Ids,
    tracer: Option<Tracer>,
}

impl App {
    /// The state of a process that serves `artefact` as `name` and `version`.
    ///
    /// Fails where a name or version cannot be an HTTP header's value.
    pub fn new(
        artefact: &Artefact,
        name: String,
        version: String,
        executors: Executors,
        faults: Option<Faults>,
        bounds: Bounds,
        latency_edges: &[f64],
    ) -> Result<Self, InvalidHeaderValue> {
        let manifest = &artefact.manifest;
        let digest = artefact.digest.to_string();
        let served = Served {
            manifest,
            name: &name,
            version: &version,
            digest: &digest,
            test_faults: faults.is_some(),
        };
        let Executors {
            compute,
            batcher,
            explanations,
        } = executors;
        let mut metrics = Metrics::new(&served, latency_edges);
        if matches!(manifest.kind, Kind::Text | Kind::TextPair) {
            metrics.add_batching(&served, batcher.metrics());
        }
        let about = json!({
            "model": name,
            "model_version": version,
            "digest": digest,
            "artefact": {"name": manifest.name, "version": manifest.version},
            "serve_version": env!("CARGO_PKG_VERSION"),
        });
        Ok(Self {
            name_header: HeaderValue::from_str(&name)?,
            version_header: HeaderValue::from_str(&version)?,
            openapi: Contract {
                manifest,
                name: &name,
                version: &version,
                max_body: bounds.body,
            }
            .document(),
            v2_metadata: v2::describe(manifest, &name, &version),
            about,
            created: SystemTime::UNIX_EPOCH
                .elapsed()
                .map_or(0, |time| time.as_secs()),
            kind: manifest.kind,
            task: manifest.task,
            lifecycle: Lifecycle::default(),
            metrics,
            compute,
            batcher,
            explanations,
            is_explained: manifest.is_explained(),
            faults,
            bounds,
            ids: trace::Ids::default(),
            tracer: None,
            name,
            version,
        })
    }

    /// Traces requests.
    #[must_use]
    pub fn traced(mut self, tracer: Tracer) -> Self {
        self.metrics.add_tracing(tracer.metrics());
        self.tracer = Some(tracer);
        self
    }

    /// The tracer of its requests, if they are traced.
    pub fn tracer(&self) -> Option<&Tracer> {
        self.tracer.as_ref()
    }

    /// Makes the process ready, after a load of that time.
    pub fn ready(&self, engine: Engine, took: Duration) {
        self.lifecycle.ready(engine);
        self.metrics.set_loaded(took);
        self.metrics
            .set_ready(self.lifecycle.phase() == Phase::Ready);
    }

    /// Ends readiness, and asks clients to close their connections after the next answer.
    pub fn drain(&self) {
        self.lifecycle.drain();
        self.metrics.set_ready(false);
    }
}

/// The routes of this process's model: each endpoint has its own file, and the manifest's kind
/// decides which are served.
pub fn router(app: Arc<App>) -> Router {
    let mut predictions = Router::new();
    if app.kind == Kind::Generation {
        predictions = predictions.merge(generate::routes());
    } else {
        predictions = predictions
            .merge(predict::routes(&app.name))
            .merge(v2::predictions());
    }
    if app.task == Task::SentenceEmbedding {
        predictions = predictions.merge(embeddings::routes());
    }
    if app.task == Task::Reranking && app.kind == Kind::TextPair {
        predictions = predictions.merge(rerank::routes());
    }
    let rest = about::routes().merge(docs::routes()).merge(v2::about());
    let rest = rest
        .merge(models::routes())
        .merge(explain::routes(app.is_explained))
        .fallback(not_found);
    let observed = |routes: Router<Arc<App>>, counted| {
        let state = (Arc::clone(&app), counted);
        routes
            .method_not_allowed_fallback(method_not_allowed)
            .layer(from_fn_with_state(state, observe::observe))
    };
    let in_time = from_fn_with_state(Arc::clone(&app), deadline::enforce);
    observed(predictions.route_layer(in_time), Counted::Prediction)
        .merge(observed(rest, Counted::No))
        .with_state(app)
}

async fn not_found() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "not-found",
        "No such path; /openapi.json lists them",
    )
}

async fn method_not_allowed() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "This path takes another method; the Allow header names it",
    )
}

/// The OpenAPI document of a model, under its own name, with the default bound on a body.
pub fn contract(manifest: &Manifest) -> Value {
    let contract = Contract {
        manifest,
        name: &manifest.name,
        version: &manifest.version,
        max_body: 1 << 20,
    };
    contract.document()
}
