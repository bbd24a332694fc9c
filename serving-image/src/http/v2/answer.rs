//! Predictions as tensors.

use serde::Serialize;
use serde_json::{Value, json};

use crate::array::Elements;
use crate::artefact::{Kind, Manifest, Task};
use crate::http::App;
use crate::http::infer::Wording;
use crate::model::{Model, Prediction};

/// How a request wants its answer.
#[derive(Debug, Default)]
pub(super) struct V2Answer {
    /// The request's own id, to be given back.
    pub id: Option<String>,
    /// The outputs that are asked for; none for all.
    pub outputs: Option<Vec<String>>,
}

/// One tensor of an answer.
#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    shape: Vec<usize>,
    datatype: &'static str,
    data: Data<'a>,
}

/// Its elements, row by row.
#[derive(Serialize)]
#[serde(untagged)]
enum Data<'a> {
    Bytes(Vec<&'a str>),
    Float(Vec<f32>),
    Integer(Vec<usize>),
    Bool(Vec<bool>),
    Own(Elements),
}

#[derive(Serialize)]
struct Body<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<Tensor<'a>>,
}

impl Wording for V2Answer {
    fn render(
        &self,
        app: &App,
        model: &Model,
        predictions: &[Prediction],
    ) -> serde_json::Result<Vec<u8>> {
        let mut outputs = outputs(&model.manifest, predictions);
        if let Some(asked) = &self.outputs {
            outputs.retain(|tensor| asked.iter().any(|name| name == tensor.name));
        }
        serde_json::to_vec(&Body {
            model_name: &app.name,
            model_version: &app.version,
            id: self.id.as_deref(),
            outputs,
        })
    }
}

/// All outputs of these predictions.
fn outputs<'a>(manifest: &'a Manifest, predictions: &'a [Prediction]) -> Vec<Tensor<'a>> {
    let rows = predictions.len();
    let column = |name, datatype, data| Tensor {
        name,
        shape: vec![rows],
        datatype,
        data,
    };
    let numbers = |index: usize| {
        let number = |one: &Prediction| one.output.get(index).copied().unwrap_or(f32::NAN);
        Data::Float(predictions.iter().map(number).collect())
    };
    let matrix = |name, width| Tensor {
        name,
        shape: vec![rows, width],
        datatype: "FP32",
        data: Data::Float(
            predictions
                .iter()
                .flat_map(|one| one.output.iter().copied())
                .collect(),
        ),
    };
    let outputs = &manifest.outputs;
    let mut tensors = match manifest.task {
        Task::Classification => {
            let label = |one: &Prediction| outputs.labels[one.class()].as_str();
            let labels = predictions.iter().map(label).collect();
            vec![
                column("label", "BYTES", Data::Bytes(labels)),
                matrix("probabilities", outputs.labels.len()),
            ]
        }
        Task::Regression if outputs.names.is_empty() => vec![column("value", "FP32", numbers(0))],
        Task::Regression => outputs
            .names
            .iter()
            .enumerate()
            .map(|(index, name)| column(name, "FP32", numbers(index)))
            .collect(),
        Task::Reranking => vec![column("score", "FP32", numbers(0))],
        Task::SentenceEmbedding => {
            let width = outputs.dimensions.unwrap_or_default();
            vec![matrix("embedding", width)]
        }
        Task::Raw => arrays(predictions),
        Task::TextGeneration => Vec::new(), // has faces of its own
    };
    if is_text(manifest) {
        let tokens = predictions.iter().map(|one| one.tokens).collect();
        let truncated = predictions.iter().map(|one| one.truncated).collect();
        tensors.push(column("tokens", "INT64", Data::Integer(tokens)));
        tensors.push(column("truncated", "BOOL", Data::Bool(truncated)));
    }
    tensors
}

/// The graph's own tensors: those of all instances, one after the other.
fn arrays(predictions: &[Prediction]) -> Vec<Tensor<'_>> {
    let Some(first) = predictions.first() else {
        return Vec::new();
    };
    let mut tensors = Vec::new();
    for (index, named) in first.arrays.iter().enumerate() {
        let mut elements = named.array.elements.clone();
        for other in &predictions[1..] {
            elements.extend(&other.arrays[index].array.elements);
        }
        let mut shape = vec![predictions.len()];
        shape.extend(&named.array.shape);
        tensors.push(Tensor {
            name: &named.name,
            shape,
            datatype: datatype(&elements),
            data: Data::Own(elements),
        });
    }
    tensors
}

fn datatype(elements: &Elements) -> &'static str {
    match elements {
        Elements::Float32(_) => "FP32",
        Elements::Float64(_) => "FP64",
        Elements::Int32(_) => "INT32",
        Elements::Int64(_) => "INT64",
        Elements::Uint8(_) => "UINT8",
        Elements::Bool(_) => "BOOL",
        Elements::Text(_) => "BYTES",
    }
}

fn is_text(manifest: &Manifest) -> bool {
    matches!(manifest.kind, Kind::Text | Kind::TextPair)
}

/// The outputs as the model's metadata lists them; the number of instances is open. Those of the task `raw` are only known
/// to the graph, and not listed.
pub(super) fn tensors(manifest: &Manifest) -> Vec<Value> {
    let width = |name: &str| match (manifest.task, name) {
        (Task::Classification, "probabilities") => Some(json!(manifest.outputs.labels.len())),
        (Task::SentenceEmbedding, "embedding") => Some(json!(manifest.outputs.dimensions)),
        _ => None,
    };
    outputs(manifest, &[])
        .iter()
        .map(|tensor| {
            let mut shape = vec![json!(-1)];
            shape.extend(width(tensor.name));
            json!({"name": tensor.name, "datatype": tensor.datatype, "shape": shape})
        })
        .collect()
}

/// The names that a request may ask for; none where only the graph knows them (the task `raw`).
pub(in crate::http) fn names(manifest: &Manifest) -> Option<Vec<String>> {
    let outputs = outputs(manifest, &[]);
    let names = outputs.iter().map(|tensor| tensor.name.to_owned());
    (manifest.task != Task::Raw).then(|| names.collect())
}
