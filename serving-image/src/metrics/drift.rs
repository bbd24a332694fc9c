//! The distributions of inputs and predictions, counted in the bins of the training histogram.
//!
//! Counters, because they add up over pods and over any window. The shares of training are beside
//! them, so that a population stability index is one query (README has it).

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use serde_json::Value;

use super::ModelLabels;
use crate::artefact::{Distribution, InputType, Manifest, Scalar, Task};
use crate::prediction::Prediction;

/// Most inputs that are counted, in the manifest's order: with 12 bins each, 768 series of a
/// version.
const MAX_FEATURES: usize = 64;

/// Most categories that have their own bin; the likeliest ones, and one more bin for all others.
const MAX_CATEGORIES: usize = 11;

/// The bin of all categories without a bin of their own.
const OTHER: &str = "(other)";

/// What an embedding's vectors are counted as.
const EMBEDDING: &str = "embedding";

/// Edges of a classifier's confidence, the probability of the class that it answers: most models
/// live near 1.
const CONFIDENCE_EDGES: [f64; 10] = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99];

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BinLabels {
    model: String,
    model_version: String,
    feature: String,
    bin: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct FeatureLabels {
    model: String,
    model_version: String,
    feature: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClassLabels {
    model: String,
    model_version: String,
    class: String,
}

/// A share, from 0 to 1.
type Share = Gauge<f64, AtomicU64>;

#[derive(Debug)]
pub(super) struct Drift {
    features: Vec<Feature>,
    predictions: Predictions,
}

/// One input that is counted.
#[derive(Debug)]
struct Feature {
    name: String,
    /// Counted where the value is not there.
    missing: Option<Counter>,
    /// The bins and their counters; none without a reference.
    bins: Option<(Bins, Vec<Counter>)>,
}

#[derive(Debug)]
enum Predictions {
    /// A counter a label, and how sure the model was.
    Classes(Vec<Counter>, Histogram),
    /// A counter a bin of the first number.
    Numbers(Bins, Vec<Counter>),
    /// One counter for all.
    All(Counter),
    /// Nothing that has a distribution to count.
    None,
}

impl Drift {
    pub(super) fn register(
        registry: &mut Registry,
        labels: &ModelLabels,
        manifest: &Manifest,
    ) -> Self {
        Self {
            features: register_features(registry, labels, manifest),
            predictions: register_predictions(registry, labels, manifest),
        }
    }

    pub(super) fn predicted(&self, instances: &[Value], predictions: &[Prediction]) {
        if !self.features.is_empty() {
            for instance in instances.iter().filter_map(Value::as_object) {
                for feature in &self.features {
                    feature.count(instance.get(&feature.name));
                }
            }
        }
        match &self.predictions {
            Predictions::Classes(classes, confidence) => {
                for prediction in predictions {
                    let class = prediction.class();
                    if let Some(counter) = classes.get(class) {
                        counter.inc();
                        confidence.observe(f64::from(prediction.output[class]));
                    }
                }
            }
            Predictions::Numbers(bins, counters) => {
                for number in predictions.iter().filter_map(|one| one.output.first()) {
                    counters[bins.of_number(f64::from(*number))].inc();
                }
            }
            Predictions::All(counter) => {
                counter.inc_by(predictions.len() as u64);
            }
            Predictions::None => {}
        }
    }
}

impl Feature {
    fn count(&self, value: Option<&Value>) {
        match value {
            None | Some(Value::Null) => {
                if let Some(missing) = &self.missing {
                    missing.inc();
                }
            }
            Some(value) => {
                if let Some((bins, counters)) = &self.bins {
                    counters[bins.of(value)].inc();
                }
            }
        }
    }
}

fn register_features(
    registry: &mut Registry,
    labels: &ModelLabels,
    manifest: &Manifest,
) -> Vec<Feature> {
    let Some(reference) = &manifest.reference else {
        return Vec::new();
    };
    let counts = Family::<BinLabels, Counter>::default();
    let shares = Family::<BinLabels, Share>::default();
    let missing = Family::<FeatureLabels, Counter>::default();
    registry.register(
        "model_input_feature_bin",
        "Accepted values, by feature and bin of the training histogram",
        counts.clone(),
    );
    registry.register(
        "model_input_reference_share",
        "Share of each bin in training",
        shares.clone(),
    );
    registry.register(
        "model_input_missing",
        "Accepted instances without a value, by feature",
        missing.clone(),
    );
    let ModelLabels {
        model,
        model_version,
    } = labels;
    let features = manifest.inputs.iter().take(MAX_FEATURES).map(|input| {
        let feature = FeatureLabels {
            model: model.clone(),
            model_version: model_version.clone(),
            feature: input.name.clone(),
        };
        let bins = reference.inputs.get(&input.name).map(|distribution| {
            let (bins, named) = Bins::new(distribution, input.kind);
            let counters = named.into_iter().map(|(bin, share)| {
                let labels = BinLabels {
                    model: model.clone(),
                    model_version: model_version.clone(),
                    feature: input.name.clone(),
                    bin,
                };
                shares.get_or_create(&labels).set(share);
                counts.get_or_create_owned(&labels)
            });
            (bins, counters.collect())
        });
        Feature {
            name: input.name.clone(),
            missing: input
                .nullable
                .then(|| missing.get_or_create_owned(&feature)),
            bins,
        }
    });
    features
        .filter(|feature| feature.bins.is_some() || feature.missing.is_some())
        .collect()
}

fn register_predictions(
    registry: &mut Registry,
    labels: &ModelLabels,
    manifest: &Manifest,
) -> Predictions {
    let counts = Family::<ClassLabels, Counter>::default();
    let shares = Family::<ClassLabels, Share>::default();
    let class_labels = |class: &str| ClassLabels {
        model: labels.model.clone(),
        model_version: labels.model_version.clone(),
        class: class.to_owned(),
    };
    let counter = |class: &str| counts.get_or_create_owned(&class_labels(class));
    let reference = manifest
        .reference
        .as_ref()
        .and_then(|reference| reference.outputs.as_ref());
    let predictions = match manifest.task {
        Task::Classification => {
            if let Some(Distribution::Categories { shares: known }) = reference {
                for (class, share) in known {
                    shares.get_or_create(&class_labels(class)).set(*share);
                }
            }
            let confidences = Family::<ModelLabels, Histogram>::new_with_constructor(|| {
                Histogram::new(CONFIDENCE_EDGES)
            });
            registry.register(
                "model_prediction_confidence",
                "Probability of the class that was answered",
                confidences.clone(),
            );
            let labels_of = &manifest.outputs.labels;
            Predictions::Classes(
                labels_of.iter().map(|label| counter(label)).collect(),
                confidences.get_or_create_owned(labels),
            )
        }
        Task::Regression => match reference {
            Some(distribution) => {
                let (bins, named) = Bins::new(distribution, InputType::Number);
                let counters = named.into_iter().map(|(bin, share)| {
                    shares.get_or_create(&class_labels(&bin)).set(share);
                    counter(&bin)
                });
                Predictions::Numbers(bins, counters.collect())
            }
            None => Predictions::None,
        },
        Task::SentenceEmbedding => Predictions::All(counter(EMBEDDING)),
        Task::Reranking | Task::TextGeneration | Task::Raw => Predictions::None,
    };
    registry.register(
        "model_predictions",
        "Predicted instances, by class; by bin of the training histogram for a number",
        counts,
    );
    if reference.is_some() {
        registry.register(
            "model_prediction_reference_share",
            "Share of each class or bin in training",
            shares,
        );
    }
    predictions
}

/// Finds the bin of a value.
#[derive(Debug)]
enum Bins {
    /// Between rising edges; a value on an edge is in the bin below it.
    Edges(Vec<f64>),
    /// A bin for each, and one more for all others.
    Categories(Vec<Scalar>),
}

impl Bins {
    /// The bins of a distribution, with the label and the share of each.
    fn new(distribution: &Distribution, kind: InputType) -> (Self, Vec<(String, f64)>) {
        match distribution {
            Distribution::Bins { edges, shares } => {
                let lower = std::iter::once("(-Inf".to_owned())
                    .chain(edges.iter().map(|edge| format!("({edge}")));
                let upper = edges
                    .iter()
                    .map(|edge| format!("{edge}]"))
                    .chain(["+Inf)".to_owned()]);
                let intervals = lower.zip(upper).map(|(low, high)| format!("{low},{high}"));
                let named = intervals.zip(shares.iter().copied()).collect();
                (Self::Edges(edges.clone()), named)
            }
            Distribution::Categories { shares } => {
                let mut likeliest: Vec<(&String, f64)> =
                    shares.iter().map(|(name, share)| (name, *share)).collect();
                likeliest.sort_by(|a, b| b.1.total_cmp(&a.1));
                likeliest.truncate(MAX_CATEGORIES);
                let rest = 1.0 - likeliest.iter().map(|(_, share)| share).sum::<f64>();
                let values = likeliest.iter().map(|(name, _)| category(name, kind));
                let values = values.collect();
                let mut named: Vec<(String, f64)> = likeliest
                    .into_iter()
                    .map(|(name, share)| (name.clone(), share))
                    .collect();
                named.push((OTHER.to_owned(), rest.max(0.0)));
                (Self::Categories(values), named)
            }
        }
    }

    fn of(&self, value: &Value) -> usize {
        match self {
            Self::Edges(_) => self.of_number(match value {
                Value::Bool(truth) => f64::from(u8::from(*truth)),
                value => value.as_f64().unwrap_or(f64::NAN),
            }),
            Self::Categories(known) => known
                .iter()
                .position(|category| match category {
                    Scalar::Text(text) => value.as_str() == Some(text),
                    Scalar::Boolean(truth) => value.as_bool() == Some(*truth),
                    Scalar::Number(number) => value.as_f64() == Some(*number),
                })
                .unwrap_or(known.len()),
        }
    }

    fn of_number(&self, number: f64) -> usize {
        match self {
            // Not a number is in the last bin, where it is seen.
            Self::Edges(edges) if number.is_nan() => edges.len(),
            Self::Edges(edges) => edges.partition_point(|edge| *edge < number),
            Self::Categories(known) => known.len(),
        }
    }
}

/// A category's text as a value of that type.
fn category(text: &str, kind: InputType) -> Scalar {
    let read = match kind {
        InputType::Number | InputType::Integer => text.parse().ok().map(Scalar::Number),
        InputType::Boolean => text.parse().ok().map(Scalar::Boolean),
        InputType::String | InputType::Tensor | InputType::Image => None,
    };
    read.unwrap_or_else(|| Scalar::Text(text.to_owned()))
}
