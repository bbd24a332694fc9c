//! Predictions as tensors.

use serde::Serialize;
use serde_json::{Value, json};

use super::binary::push_text;
use crate::array::{Elements, Outline};
use crate::artefact::{Kind, Manifest, Task};
use crate::http::App;
use crate::http::infer::{Page, Renderer};
use crate::model::Model;
use crate::prediction::Prediction;
use crate::preprocess::FieldErrors;

/// How a request wants its answer.
#[derive(Debug, Default)]
pub(super) struct V2Answer {
    /// The request's own id, to be given back.
    pub id: Option<String>,
    /// The outputs that are asked for; none for all.
    pub outputs: Option<Vec<AskedOutput>>,
    /// Whether they are binary where none is named.
    pub all_binary: bool,
}

/// An output that is asked for.
#[derive(Debug)]
pub(super) struct AskedOutput {
    pub name: String,
    /// Whether its elements are to follow the JSON as bytes.
    pub binary: bool,
}

/// One tensor of an answer.
#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    shape: Vec<usize>,
    datatype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinarySize>,
}

/// That a tensor's elements follow the JSON.
#[derive(Serialize)]
struct BinarySize {
    binary_data_size: usize,
}

impl<'a> Tensor<'a> {
    fn new(name: &'a str, shape: Vec<usize>, datatype: &'static str, data: Data<'a>) -> Self {
        Self {
            name,
            shape,
            datatype,
            data: Some(data),
            parameters: None,
        }
    }

    /// Moves its elements to `bytes`.
    fn make_binary(&mut self, bytes: &mut Vec<u8>) {
        let before = bytes.len();
        if let Some(data) = self.data.take() {
            data.append_to(bytes);
        }
        let binary_data_size = bytes.len() - before;
        self.parameters = Some(BinarySize { binary_data_size });
    }
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

impl Data<'_> {
    fn append_to(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Bytes(texts) => texts.iter().for_each(|text| push_text(text, bytes)),
            Self::Float(numbers) => bytes.extend(numbers.iter().flat_map(|n| n.to_le_bytes())),
            Self::Integer(numbers) => {
                let wide = numbers.iter().map(|number| *number as u64);
                bytes.extend(wide.flat_map(u64::to_le_bytes));
            }
            Self::Bool(truths) => bytes.extend(truths.iter().copied().map(u8::from)),
            Self::Own(elements) => match elements {
                Elements::Float32(all) => bytes.extend(all.iter().flat_map(|n| n.to_le_bytes())),
                Elements::Float64(all) => bytes.extend(all.iter().flat_map(|n| n.to_le_bytes())),
                Elements::Int32(all) => bytes.extend(all.iter().flat_map(|n| n.to_le_bytes())),
                Elements::Int64(all) => bytes.extend(all.iter().flat_map(|n| n.to_le_bytes())),
                Elements::Uint8(all) => bytes.extend(all),
                Elements::Bool(all) => bytes.extend(all.iter().copied().map(u8::from)),
                Elements::Text(all) => all.iter().for_each(|text| push_text(text, bytes)),
            },
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    model_name: &'a str,
    model_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: Vec<Tensor<'a>>,
}

impl Renderer for V2Answer {
    fn check(&self, model: &Model, predictions: &[Prediction]) -> Result<(), FieldErrors> {
        if model.manifest.task == Task::Raw {
            check_arrays(self.outputs.as_deref(), predictions)
        } else {
            Ok(())
        }
    }

    fn render(
        &self,
        app: &App,
        model: &Model,
        predictions: &[Prediction],
    ) -> serde_json::Result<Page> {
        let mut outputs = outputs(&model.manifest, predictions);
        let mut binary = Vec::new();
        let mut is_binary = false;
        outputs.retain_mut(|tensor| {
            let wanted = match &self.outputs {
                None => Some(self.all_binary),
                Some(asked) => {
                    let asked = asked.iter().find(|one| one.name == tensor.name);
                    asked.map(|one| one.binary)
                }
            };
            if wanted == Some(true) {
                is_binary = true;
                tensor.make_binary(&mut binary);
            }
            wanted.is_some()
        });
        let mut bytes = serde_json::to_vec(&Body {
            model_name: &app.name,
            model_version: &app.version,
            id: self.id.as_deref(),
            outputs,
        })?;
        let json = is_binary.then_some(bytes.len());
        bytes.append(&mut binary);
        Ok(Page { bytes, json })
    }
}

/// All outputs of these predictions.
fn outputs<'a>(manifest: &'a Manifest, predictions: &'a [Prediction]) -> Vec<Tensor<'a>> {
    let rows = predictions.len();
    let column = |name, datatype, data| Tensor::new(name, vec![rows], datatype, data);
    let numbers = |index: usize| {
        let number = |one: &Prediction| one.output.get(index).copied().unwrap_or(f32::NAN);
        Data::Float(predictions.iter().map(number).collect())
    };
    let matrix = |name, width| {
        let numbers = predictions
            .iter()
            .flat_map(|one| one.output.iter().copied());
        Tensor::new(
            name,
            vec![rows, width],
            "FP32",
            Data::Float(numbers.collect()),
        )
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
        Task::TextGeneration => Vec::new(), // has endpoints of its own
    };
    if is_text(manifest) {
        let tokens = predictions.iter().map(|one| one.tokens).collect();
        let truncated = predictions.iter().map(|one| one.truncated).collect();
        tensors.push(column("tokens", "INT64", Data::Integer(tokens)));
        tensors.push(column("truncated", "BOOL", Data::Bool(truncated)));
    }
    tensors
}

/// That the outputs asked for are there, and that those of all instances fit together in one
/// tensor.
fn check_arrays(
    asked: Option<&[AskedOutput]>,
    predictions: &[Prediction],
) -> Result<(), FieldErrors> {
    let mut errors = FieldErrors::default();
    let Some((first, others)) = predictions.split_first() else {
        return Ok(());
    };
    let names: Vec<&str> = first
        .arrays
        .iter()
        .map(|named| named.name.as_str())
        .collect();
    let is_asked = |name: &str| asked.is_none_or(|asked| asked.iter().any(|one| one.name == name));
    for (index, one) in asked.unwrap_or_default().iter().enumerate() {
        if !names.contains(&one.name.as_str()) {
            let field = || format!("/outputs/{index}/name");
            errors.push(field, format!("one of {}", names.join(", ")));
        }
    }
    for (index, named) in first.arrays.iter().enumerate() {
        let shape = |one: &Prediction| one.arrays[index].array.shape == named.array.shape;
        if is_asked(&named.name) && !others.iter().all(shape) {
            let expected = format!(
                "instances whose {} have one shape; others one by one",
                named.name
            );
            errors.push(|| "/inputs".into(), expected);
        }
    }
    if errors.total == 0 {
        Ok(())
    } else {
        Err(errors)
    }
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
        let datatype = datatype(&elements);
        tensors.push(Tensor::new(
            &named.name,
            shape,
            datatype,
            Data::Own(elements),
        ));
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

/// The graph's own tensors as the model's metadata lists them; the number of instances is open.
pub(super) fn outlined(outlines: &[Outline]) -> Vec<Value> {
    let tensor = |outline: &Outline| {
        let lengths = outline.shape.iter();
        let lengths = lengths.map(|length| length.map_or(json!(-1), |length| json!(length)));
        let shape: Vec<Value> = std::iter::once(json!(-1)).chain(lengths).collect();
        json!({"name": outline.name, "datatype": datatype(&outline.elements), "shape": shape})
    };
    outlines.iter().map(tensor).collect()
}

/// The outputs as the model's metadata lists them; the number of instances is open. Those of the
/// task `raw` are [`outlined`] once the graph is loaded.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::array::{Array, NamedArray};

    /// An instance with two outputs; of `boxes` there are that many.
    fn prediction(boxes: usize) -> Prediction {
        let named = |name: &str, shape: Vec<usize>, elements| NamedArray {
            name: name.into(),
            array: Array { shape, elements },
        };
        Prediction {
            arrays: vec![
                named(
                    "boxes",
                    vec![boxes, 2],
                    Elements::Float32(vec![0.5; 2 * boxes]),
                ),
                named("count", vec![], Elements::Int64(vec![3])),
            ],
            ..Prediction::default()
        }
    }

    fn refused(asked: Option<&[&str]>, boxes: &[usize]) -> Vec<(String, String)> {
        let output = |name: &&str| AskedOutput {
            name: (*name).to_owned(),
            binary: false,
        };
        let asked: Option<Vec<AskedOutput>> = asked.map(|names| names.iter().map(output).collect());
        let predictions: Vec<Prediction> = boxes.iter().map(|boxes| prediction(*boxes)).collect();
        let errors = check_arrays(asked.as_deref(), &predictions)
            .err()
            .unwrap_or_default();
        let listed = errors.listed.into_iter();
        listed.map(|error| (error.field, error.expected)).collect()
    }

    #[test]
    fn tensors_of_one_shape_are_one_tensor() {
        assert!(refused(None, &[4, 4, 4]).is_empty());
        let predictions = [prediction(4), prediction(4)];
        let tensors = arrays(&predictions);
        assert_eq!(
            serde_json::to_value(&tensors).unwrap(),
            json!([
                {"name": "boxes", "shape": [2, 4, 2], "datatype": "FP32", "data": vec![0.5; 16]},
                {"name": "count", "shape": [2], "datatype": "INT64", "data": [3, 3]},
            ])
        );
    }

    #[test]
    fn tensors_that_do_not_fit_together_are_refused_where_they_are_asked_for() {
        let expected = "instances whose boxes have one shape; others one by one";
        assert_eq!(
            refused(None, &[4, 5]),
            [("/inputs".into(), expected.into())]
        );
        assert!(refused(Some(&["count"]), &[4, 5]).is_empty());
        let unknown = (
            "/outputs/1/name".to_owned(),
            "one of boxes, count".to_owned(),
        );
        assert_eq!(refused(Some(&["count", "masks"]), &[4]), [unknown]);
    }
}
