//! How a prediction is laid out in columns, by the manifest's task.

use crate::answer::Arrays;
use crate::artefact::{Kind, Manifest, Task};
use crate::prediction::Prediction;

/// One column of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::batch) struct Column {
    pub name: String,
    pub holds: Holds,
}

/// What a column holds of a prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::batch) enum Holds {
    /// The label of the largest output.
    Label,
    /// The output's number at this place.
    Number(usize),
    /// All of the output.
    Vector,
    /// The graph's own tensors, as JSON.
    Arrays,
    /// How many tokens were computed.
    Tokens,
    /// Whether the text was cut.
    Truncated,
}

/// The columns of the model's answers. JSON lines have the same content in the form of `/predict`.
pub(in crate::batch) fn columns(manifest: &Manifest) -> Vec<Column> {
    let column = |name: &str, holds| Column {
        name: name.to_owned(),
        holds,
    };
    let numbers = |prefix: &str, names: &[String]| -> Vec<Column> {
        let numbered = names.iter().enumerate();
        numbered
            .map(|(place, name)| column(&format!("{prefix}_{name}"), Holds::Number(place)))
            .collect()
    };
    let outputs = &manifest.outputs;
    let mut columns = match manifest.task {
        Task::Classification => {
            let mut columns = vec![column("label", Holds::Label)];
            columns.extend(numbers("probability", &outputs.labels));
            columns
        }
        Task::Regression if outputs.names.is_empty() => vec![column("value", Holds::Number(0))],
        Task::Regression => numbers("value", &outputs.names),
        Task::Reranking => vec![column("score", Holds::Number(0))],
        Task::SentenceEmbedding => vec![column("embedding", Holds::Vector)],
        Task::Raw => vec![column("outputs", Holds::Arrays)],
        Task::TextGeneration => vec![column("output", Holds::Vector)],
    };
    if matches!(manifest.kind, Kind::Text | Kind::TextPair) {
        columns.push(column("tokens", Holds::Tokens));
        columns.push(column("truncated", Holds::Truncated));
    }
    columns
}

impl Holds {
    /// The cell of CSV: numbers as `/predict` writes them, a vector as a JSON array.
    pub(super) fn cell(self, manifest: &Manifest, prediction: &Prediction) -> String {
        match self {
            Self::Label => label(manifest, prediction).to_owned(),
            Self::Number(place) => decimal(&number(prediction, place)),
            Self::Vector => decimal(&prediction.output),
            Self::Arrays => arrays(prediction),
            Self::Tokens => prediction.tokens.to_string(),
            Self::Truncated => prediction.truncated.to_string(),
        }
    }
}

/// The label of the largest output.
pub(super) fn label<'a>(manifest: &'a Manifest, prediction: &Prediction) -> &'a str {
    let label = manifest.outputs.labels.get(prediction.class());
    label.map_or("", String::as_str)
}

/// The output's number at a place; no number where the output is too short, which no model that was
/// loaded answers.
pub(super) fn number(prediction: &Prediction, place: usize) -> f32 {
    prediction.output.get(place).copied().unwrap_or(f32::NAN)
}

/// The graph's own tensors, as `/predict` words them.
pub(super) fn arrays(prediction: &Prediction) -> String {
    decimal(&Arrays(&prediction.arrays))
}

/// The shortest decimals that are read as the same 32-bit floats.
fn decimal(numbers: &(impl serde::Serialize + ?Sized)) -> String {
    serde_json::to_string(numbers).unwrap_or_default() // numbers cannot fail
}
