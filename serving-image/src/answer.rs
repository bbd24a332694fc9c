//! The JSON form of one prediction, the same in `/predict` and in batch jobs.

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::array::NamedArray;
use crate::artefact::{Kind, Manifest, Task};
use crate::prediction::Prediction;

/// One prediction, as the manifest's task words it:
///
/// | task | fields |
/// |---|---|
/// | classification | `label`, `probabilities` by label |
/// | regression | `value`, or `values` by name |
/// | reranking | `score` |
/// | sentence-embedding | `embedding` |
/// | raw | `outputs`: `shape` and `data` by name |
///
/// Texts add `tokens` and `truncated`.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    manifest: &'a Manifest,
    prediction: &'a Prediction,
}

impl<'a> Answer<'a> {
    /// The answer of the model that `manifest` describes.
    pub fn new(manifest: &'a Manifest, prediction: &'a Prediction) -> Self {
        Self {
            manifest,
            prediction,
        }
    }
}

impl Serialize for Answer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let output = &self.prediction.output;
        let outputs = &self.manifest.outputs;
        let mut map = serializer.serialize_map(None)?;
        match self.manifest.task {
            Task::Classification => {
                map.serialize_entry("label", &outputs.labels[self.prediction.class()])?;
                map.serialize_entry("probabilities", &Named(&outputs.labels, output))?;
            }
            Task::Regression if outputs.names.is_empty() => {
                map.serialize_entry("value", &output.first())?;
            }
            Task::Regression => map.serialize_entry("values", &Named(&outputs.names, output))?,
            Task::Reranking => map.serialize_entry("score", &output.first())?,
            Task::SentenceEmbedding => map.serialize_entry("embedding", output)?,
            Task::Raw => map.serialize_entry("outputs", &Arrays(&self.prediction.arrays))?,
            Task::TextGeneration => map.serialize_entry("output", output)?,
        }
        if matches!(self.manifest.kind, Kind::Text | Kind::TextPair) {
            map.serialize_entry("tokens", &self.prediction.tokens)?;
            map.serialize_entry("truncated", &self.prediction.truncated)?;
        }
        map.end()
    }
}

/// The graph's own tensors: `{"logits": {"shape": [2], "data": [0.1, 0.9]}, …}`.
pub(crate) struct Arrays<'a>(pub &'a [NamedArray]);

impl Serialize for Arrays<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|named| (&named.name, &named.array)))
    }
}

/// Numbers by name, in the order of the names: `{"setosa": 0.97, …}`.
struct Named<'a>(&'a [String], &'a [f32]);

impl Serialize for Named<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().zip(self.1))
    }
}
