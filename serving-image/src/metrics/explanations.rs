//! Explanations: how many there are, and how they end.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::ModelLabels;

/// How the work on a request for explanations ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All are found.
    Answered,
    /// The client has gone.
    Abandoned,
    /// The model failed.
    Failed,
}

/// Label values, in the order of [`Outcome`].
const OUTCOMES: [&str; 3] = ["answered", "abandoned", "failed"];

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabels {
    model: String,
    model_version: String,
    outcome: &'static str,
}

/// The series of a model that is explained. The default is not registered: never scraped.
#[derive(Debug, Default)]
pub struct Explanations {
    ended: [Counter; OUTCOMES.len()],
    in_progress: Gauge,
}

impl Explanations {
    pub(super) fn register(registry: &mut Registry, labels: &ModelLabels) -> Self {
        let ended = Family::<OutcomeLabels, Counter>::default();
        registry.register(
            "model_explanations",
            "Finished requests for explanations, by outcome",
            ended.clone(),
        );
        let in_progress = Gauge::default();
        registry.register(
            "model_explanations_in_progress",
            "Requests for explanations in progress",
            in_progress.clone(),
        );
        let labels = |outcome| OutcomeLabels {
            model: labels.model.clone(),
            model_version: labels.model_version.clone(),
            outcome,
        };
        Self {
            ended: OUTCOMES.map(|outcome| ended.get_or_create_owned(&labels(outcome))),
            in_progress,
        }
    }

    /// Counts a request as worked on until the guard is dropped.
    pub fn begin(&self) -> Running<'_> {
        self.in_progress.inc();
        Running(self)
    }
}

/// A request for explanations that is worked on.
#[derive(Debug)]
pub struct Running<'a>(&'a Explanations);

impl Running<'_> {
    /// Counts how it ended.
    pub fn end(self, outcome: Outcome) {
        self.0.ended[outcome as usize].inc();
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.in_progress.dec();
    }
}
