//! Requests by code, their latency, and how many there are.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::ModelLabels;

/// Edges in seconds, at the latencies that objectives commonly name: a threshold is only judged
/// exactly on an edge.
pub const DURATION_EDGES: [f64; 20] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5,
    2.0, 2.5, 5.0, 10.0,
];

/// The codes whose series are there from the start: success, and what failed for want of room, time
/// or luck. Shed load (429) has its own label, so that who reads success and failure can tell it
/// from both.
const CODES: [u16; 5] = [200, 429, 500, 503, 504];

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CodeLabels {
    model: String,
    model_version: String,
    code: u16,
}

#[derive(Debug)]
pub(super) struct Requests {
    labels: ModelLabels,
    by_code: Family<CodeLabels, Counter>,
    resolved: [Counter; CODES.len()],
    duration: Histogram,
    in_flight: Gauge,
}

impl Requests {
    pub(super) fn register(registry: &mut Registry, labels: &ModelLabels, edges: &[f64]) -> Self {
        let by_code = Family::<CodeLabels, Counter>::default();
        registry.register(
            "model_requests",
            "Prediction requests, by status code",
            by_code.clone(),
        );
        let edges = edges.to_vec();
        let durations = Family::<ModelLabels, Histogram, _>::new_with_constructor(move || {
            Histogram::new(edges.iter().copied())
        });
        registry.register(
            "model_request_duration_seconds",
            "Seconds from the head of a prediction request to its answer",
            durations.clone(),
        );
        let in_flight = Gauge::default();
        registry.register(
            "model_requests_in_flight",
            "Prediction requests in progress",
            in_flight.clone(),
        );
        Self {
            resolved: CODES.map(|code| by_code.get_or_create_owned(&code_labels(labels, code))),
            duration: durations.get_or_create_owned(labels),
            labels: labels.clone(),
            by_code,
            in_flight,
        }
    }

    pub(super) fn answered(&self, code: u16, seconds: f64) {
        if let Some(index) = CODES.iter().position(|known| *known == code) {
            self.resolved[index].inc();
        } else {
            let labels = code_labels(&self.labels, code);
            self.by_code.get_or_create(&labels).inc();
        }
        self.duration.observe(seconds);
    }

    pub(super) fn are_in_flight(&self) -> bool {
        self.in_flight.get() > 0
    }

    pub(super) fn enter(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }
}

fn code_labels(labels: &ModelLabels, code: u16) -> CodeLabels {
    let ModelLabels {
        model,
        model_version,
    } = labels.clone();
    CodeLabels {
        model,
        model_version,
        code,
    }
}

/// A prediction request that is being answered.
#[derive(Debug)]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
