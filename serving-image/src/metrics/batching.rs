//! The series of batching: how long requests waited, and how large the batches were.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Edges in seconds: a wait is short beside a request's duration.
const QUEUE_EDGES: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// The series of batching.
#[derive(Debug, Clone)]
pub struct BatchMetrics {
    pub(crate) queue: Histogram,
    pub(crate) texts: Histogram,
    pub(crate) tokens: Histogram,
    pub(crate) waiting: Gauge,
    pub(crate) abandoned: Counter,
}

impl Default for BatchMetrics {
    fn default() -> Self {
        let powers = |count: u32| (0..count).map(|power| f64::from(1_u32 << power));
        Self {
            queue: Histogram::new(QUEUE_EDGES),
            texts: Histogram::new(powers(11)),
            tokens: Histogram::new(powers(15)),
            waiting: Gauge::default(),
            abandoned: Counter::default(),
        }
    }
}

impl BatchMetrics {
    pub(crate) fn set_waiting(&self, requests: usize) {
        self.waiting
            .set(i64::try_from(requests).unwrap_or(i64::MAX));
    }

    /// Adds the series to a registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "model_queue_seconds",
            "Seconds from a request's arrival in the queue to its first batch",
            self.queue.clone(),
        );
        registry.register(
            "model_batch_texts",
            "Texts in one batch",
            self.texts.clone(),
        );
        registry.register(
            "model_batch_tokens",
            "Tokens in one batch",
            self.tokens.clone(),
        );
        registry.register(
            "model_requests_waiting",
            "Requests with texts that are not computed yet",
            self.waiting.clone(),
        );
        registry.register(
            "model_requests_abandoned",
            "Requests that left the queue because their client had gone",
            self.abandoned.clone(),
        );
    }
}
