//! The series that Prometheus scrapes. The names and labels are a contract with the operator's
//! gate.
//!
//! A file a theme; every label set is bounded by the manifest, and every handle is resolved before
//! the first request, so that counting one costs an atomic addition.

mod batching;
mod drift;
mod explanations;
mod generation;
mod process;
mod requests;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use serde_json::Value;

use crate::artefact::{Kind, Manifest};
use crate::prediction::Prediction;
use crate::telemetry::ExportMetrics;
pub use batching::BatchMetrics;
use drift::Drift;
pub use explanations::{Explanations, Outcome};
pub use generation::{GenerationMetrics, TextEnd};
use requests::Requests;
pub use requests::{DURATION_EDGES, InFlight};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every series of the model has.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ModelLabels {
    model: String,
    model_version: String,
}

/// The served model, for labels and `model_info`.
#[derive(Debug, Clone, Copy)]
pub struct Served<'a> {
    /// The model's manifest, which bounds the labels.
    pub manifest: &'a Manifest,
    /// The name it is served under.
    pub name: &'a str,
    /// The version it is served under.
    pub version: &'a str,
    /// The artefact's digest.
    pub digest: &'a str,
    /// Whether the test facility adds faults.
    pub test_faults: bool,
}

/// All series of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Requests,
    drift: Drift,
    generation: Option<GenerationMetrics>,
    explanations: Explanations,
    ready: Gauge,
    load_seconds: Gauge<f64, std::sync::atomic::AtomicU64>,
}

impl Metrics {
    /// The series of the served model. `duration_edges` are the rising edges of the latency
    /// histogram, in seconds.
    ///
    /// Those that a rollout's gate reads exist from the first scrape on, at zero, so that the first
    /// failure is an increase and not a birth.
    pub fn new(served: &Served, duration_edges: &[f64]) -> Self {
        let labels = ModelLabels {
            model: served.name.to_owned(),
            model_version: served.version.to_owned(),
        };
        let mut registry = Registry::default();
        let requests = Requests::register(&mut registry, &labels, duration_edges);
        let drift = Drift::register(&mut registry, &labels, served.manifest);
        let generates = served.manifest.kind == Kind::Generation;
        let generation = generates.then(|| GenerationMetrics::register(&mut registry, &labels));
        let is_explained = served.manifest.is_explained();
        let explanations = is_explained.then(|| Explanations::register(&mut registry, &labels));
        let (ready, load_seconds) = (Gauge::default(), Gauge::default());
        registry.register("model_ready", "1 while /readyz answers 200", ready.clone());
        registry.register(
            "model_load_seconds",
            "Seconds to verify, load and warm up the model; 0 before",
            load_seconds.clone(),
        );
        let faults = Gauge::<i64>::default();
        faults.set(i64::from(served.test_faults));
        registry.register(
            "model_test_faults_enabled",
            "1 where the test facility adds faults",
            faults,
        );
        registry.register_collector(Box::new(process::ResidentMemory));
        let word = |value: serde_json::Result<Value>| {
            value
                .ok()
                .and_then(|value| value.as_str().map(str::to_owned))
        };
        let manifest = served.manifest;
        registry.register(
            "model",
            "What is served",
            Info::new(vec![
                ("model", served.name.to_owned()),
                ("model_version", served.version.to_owned()),
                ("digest", served.digest.to_owned()),
                ("serve_version", env!("CARGO_PKG_VERSION").to_owned()),
                (
                    "kind",
                    word(serde_json::to_value(manifest.kind)).unwrap_or_default(),
                ),
                (
                    "task",
                    word(serde_json::to_value(manifest.task)).unwrap_or_default(),
                ),
                ("architecture", manifest.network.architecture().to_owned()),
            ]),
        );
        Self {
            registry,
            requests,
            drift,
            generation,
            explanations: explanations.unwrap_or_default(),
            ready,
            load_seconds,
        }
    }

    /// Adds the series of batching, with the model's labels.
    pub fn add_batching(&mut self, served: &Served, batching: &BatchMetrics) {
        let labels = [("model", served.name), ("model_version", served.version)]
            .map(|(label, value)| (label.into(), value.to_owned().into()));
        batching.register(self.registry.sub_registry_with_labels(labels.into_iter()));
    }

    /// Adds the series of exported spans.
    pub fn add_tracing(&mut self, tracing: &ExportMetrics) {
        tracing.register(&mut self.registry);
    }

    /// Counts a prediction request's answer.
    pub fn answered(&self, code: u16, seconds: f64) {
        self.requests.answered(code, seconds);
    }

    /// Counts accepted instances and what was predicted for them.
    pub fn predicted(&self, instances: &[Value], predictions: &[Prediction]) {
        self.drift.predicted(instances, predictions);
    }

    /// The series of a model that generates text; for other models, unregistered ones.
    pub fn generation(&self) -> GenerationMetrics {
        self.generation.clone().unwrap_or_default()
    }

    /// The series of explanations.
    pub fn explanations(&self) -> &Explanations {
        &self.explanations
    }

    /// Tells whether `/readyz` answers 200.
    pub fn set_ready(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }

    /// Tells how long loading took.
    pub fn set_loaded(&self, took: Duration) {
        self.load_seconds.set(took.as_secs_f64());
    }

    /// Whether a prediction request is being answered.
    pub fn is_predicting(&self) -> bool {
        self.requests.are_in_flight()
    }

    /// Counts a request as in flight until the guard is dropped, also if its client goes away.
    pub fn enter(&self) -> InFlight {
        self.requests.enter()
    }

    /// The series in OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        if let Err(error) = encode(&mut text, &self.registry) {
            // a String takes everything; a scraper refuses this line
            let _ = write!(text, "# {error}");
        }
        text
    }
}
