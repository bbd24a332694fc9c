//! The series of a model that generates text.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::ModelLabels;

/// Edges in seconds, at objectives for a first token and for waiting.
const FIRST_EDGES: [f64; 14] = [
    0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0,
];

/// Edges in seconds: people read 5 to 10 tokens a second.
const FURTHER_EDGES: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0,
];

/// How a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextEnd {
    /// The model ended it, or a stop string did.
    Stop,
    /// It has as many tokens as were asked for.
    Length,
    /// The client has gone.
    Abandoned,
    /// It could not be computed.
    Failed,
}

/// Label values, in the order of [`TextEnd`].
const ENDS: [&str; 4] = ["stop", "length", "abandoned", "failed"];

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct EndLabels {
    model: String,
    model_version: String,
    reason: &'static str,
}

/// Tokens, and the time that they take. Clones count into the same series.
#[derive(Debug, Clone)]
pub struct GenerationMetrics {
    prompt_tokens: Counter,
    completion_tokens: Counter,
    queue_time: Histogram,
    first_token: Histogram,
    further_token: Histogram,
    texts: [Counter; ENDS.len()],
    in_progress: Gauge,
    reserved: Gauge,
}

impl Default for GenerationMetrics {
    /// Unregistered series, which are never scraped.
    fn default() -> Self {
        Self {
            prompt_tokens: Counter::default(),
            completion_tokens: Counter::default(),
            queue_time: Histogram::new(FIRST_EDGES),
            first_token: Histogram::new(FIRST_EDGES),
            further_token: Histogram::new(FURTHER_EDGES),
            texts: Default::default(),
            in_progress: Gauge::default(),
            reserved: Gauge::default(),
        }
    }
}

impl GenerationMetrics {
    pub(super) fn register(registry: &mut Registry, labels: &ModelLabels) -> Self {
        let mut counter = |name: &str, help: &str| {
            let family = Family::<ModelLabels, Counter>::default();
            registry.register(name, help, family.clone());
            family.get_or_create_owned(labels)
        };
        let prompt_tokens = counter("model_prompt_tokens", "Tokens of prompts that got a slot");
        let completion_tokens = counter("model_completion_tokens", "Generated tokens");
        let mut histogram = |name: &str, help: &str, new: fn() -> Histogram| {
            let family = Family::<ModelLabels, Histogram, _>::new_with_constructor(new);
            registry.register(name, help, family.clone());
            family.get_or_create_owned(labels)
        };
        let queue_time = histogram(
            "model_generation_queue_seconds",
            "Seconds from a request's arrival to its slot",
            || Histogram::new(FIRST_EDGES),
        );
        let first_token = histogram(
            "model_time_to_first_token_seconds",
            "Seconds from a request's arrival to its first token",
            || Histogram::new(FIRST_EDGES),
        );
        let further_token = histogram(
            "model_time_per_output_token_seconds",
            "Seconds from one token of a text to the next",
            || Histogram::new(FURTHER_EDGES),
        );
        let texts = Family::<EndLabels, Counter>::default();
        registry.register(
            "model_texts",
            "Generated texts, by the reason of their end",
            texts.clone(),
        );
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        Self {
            prompt_tokens,
            completion_tokens,
            queue_time,
            first_token,
            further_token,
            texts: ENDS.map(|reason| texts.get_or_create_owned(&end_labels(labels, reason))),
            in_progress: gauge("model_texts_in_progress", "Texts in slots"),
            reserved: gauge(
                "model_tokens_in_flight",
                "Tokens that the caches of the texts in slots have room for",
            ),
        }
    }

    /// A text was given a place, after that time in the queue.
    pub fn admitted(&self, prompt_tokens: usize, waited: Duration) {
        self.prompt_tokens.inc_by(prompt_tokens as u64);
        self.queue_time.observe(waited.as_secs_f64());
    }

    /// A text's first token came, that long after the request.
    pub fn first_token(&self, after: Duration) {
        self.completion_tokens.inc();
        self.first_token.observe(after.as_secs_f64());
    }

    /// A further token came, that long after the one before it.
    pub fn further_token(&self, after: Duration) {
        self.completion_tokens.inc();
        self.further_token.observe(after.as_secs_f64());
    }

    /// A text ended.
    pub fn ended(&self, how: TextEnd) {
        self.texts[how as usize].inc();
    }

    /// How many texts have a place now, and the tokens that their caches have room for.
    pub fn in_progress(&self, texts: usize, tokens: usize) {
        let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.in_progress.set(gauge(texts));
        self.reserved.set(gauge(tokens));
    }
}

fn end_labels(labels: &ModelLabels, reason: &'static str) -> EndLabels {
    let ModelLabels {
        model,
        model_version,
    } = labels.clone();
    EndLabels {
        model,
        model_version,
        reason,
    }
}
