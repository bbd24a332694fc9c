//! Reads the outputs of a graph, by their meaning in the manifest.

use std::collections::HashMap;

use ort::session::SessionOutputs;
use ort::value::{DynValue, MapValueType, Outlet, TensorElementType, Value, ValueType};
use serin_kernels::softmax;

use super::{OnnxError, describe};
use crate::array::{Array, Elements, NamedArray, Outline};
use crate::artefact::{Holds, Manifest, Network, Task};
use crate::prediction::Prediction;
use crate::preprocess::Batch;

/// The outputs that are asked for, and how they are read.
#[derive(Debug)]
pub(super) struct Answer {
    outputs: Vec<String>,
    /// None where the tensors are the answer as they are.
    holds: Option<Holds>,
    task: Task,
    labels: Vec<String>,
    /// Numbers that one prediction consists of.
    width: usize,
    /// Of the tensors that are the answer as they are.
    outlines: Vec<Outline>,
}

impl Answer {
    /// Checks that the graph has the outputs that the manifest names.
    pub(super) fn new(manifest: &Manifest, outlets: &[Outlet]) -> Result<Self, OnnxError> {
        let Network::Onnx { outputs, .. } = &manifest.network else {
            return Err(OnnxError::Binding("the network is no graph".into()));
        };
        for output in outputs {
            if !outlets.iter().any(|outlet| outlet.name() == output.name) {
                let found = describe(outlets);
                return Err(OnnxError::Binding(format!(
                    "there is no output {}, but {found}",
                    output.name
                )));
            }
        }
        let mut names: Vec<String> = outputs.iter().map(|output| output.name.clone()).collect();
        if names.is_empty() {
            names = outlets
                .iter()
                .map(|outlet| outlet.name().to_owned())
                .collect();
        }
        let raw = manifest.task == Task::Raw;
        for outlet in outlets
            .iter()
            .filter(|outlet| names.iter().any(|name| name == outlet.name()))
        {
            if !is_readable(outlet.dtype(), raw) {
                return Err(OnnxError::Binding(format!(
                    "output {}: {} cannot be answered",
                    outlet.name(),
                    outlet.dtype()
                )));
            }
        }
        Ok(Self {
            holds: (!raw)
                .then(|| outputs.first().map(|output| output.holds))
                .flatten(),
            task: manifest.task,
            labels: manifest.outputs.labels.clone(),
            width: manifest.output_width().unwrap_or(0),
            outlines: if raw {
                let asked = |outlet: &&Outlet| names.iter().any(|name| name == outlet.name());
                outlets.iter().filter(asked).filter_map(outline).collect()
            } else {
                Vec::new()
            },
            outputs: names,
        })
    }

    /// The types and shapes of the graph's own tensors (the task `raw`).
    pub(super) fn outlines(&self) -> &[Outline] {
        &self.outlines
    }

    /// Names of the outputs that are asked for.
    pub(super) fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// One prediction for each instance of the batch.
    pub(super) fn read(
        &self,
        outputs: &SessionOutputs<'_>,
        batch: &Batch,
    ) -> Result<Vec<Prediction>, String> {
        let value = |name: &String| {
            let found = outputs.get(name);
            found.ok_or_else(|| format!("the graph did not give {name}"))
        };
        let Some(holds) = self.holds else {
            return self.arrays(value, batch.len());
        };
        let name = self.outputs.first().ok_or("no output is asked for")?;
        let answers = self
            .answers(holds, value(name)?, batch)
            .map_err(|reason| format!("output {name}: {reason}"))?;
        let (tokens, truncated): (Vec<_>, Vec<_>) = match batch {
            Batch::Tokens(texts) => texts
                .iter()
                .map(|text| (text.ids.len(), text.truncated))
                .unzip(),
            _ => vec![(0, false); batch.len()].into_iter().unzip(),
        };
        let predictions = answers.into_iter().zip(tokens).zip(truncated);
        Ok(predictions
            .map(|((output, tokens), truncated)| Prediction {
                output,
                tokens,
                truncated,
                ..Default::default()
            })
            .collect())
    }

    fn answers(
        &self,
        holds: Holds,
        value: &DynValue,
        batch: &Batch,
    ) -> Result<Vec<Vec<f32>>, String> {
        if let ValueType::Sequence(_) = value.dtype() {
            return self.zip_map(value, batch.len());
        }
        let array = array(value)?;
        if holds == Holds::Label {
            return self.one_hot(&array, batch.len());
        }
        let numbers = array.elements.to_f32();
        if holds == Holds::TokenVectors {
            return token_means(&numbers, &array.shape, batch, self.width);
        }
        if batch.is_empty() || numbers.is_empty() || !numbers.len().is_multiple_of(batch.len()) {
            return Err(format!(
                "an output of shape {:?} for {} instances",
                array.shape,
                batch.len()
            ));
        }
        let rows = numbers.chunks(numbers.len() / batch.len());
        rows.map(|row| self.row(holds, row)).collect()
    }

    fn row(&self, holds: Holds, row: &[f32]) -> Result<Vec<f32>, String> {
        // One number for two labels is of the second of them.
        let of_second = row.len() == 1 && self.labels.len() == 2;
        if row.len() != self.width && !of_second {
            return Err(format!(
                "{} numbers for each instance, but the manifest wants {}",
                row.len(),
                self.width
            ));
        }
        Ok(match (holds, self.task) {
            (Holds::Logits, _) if of_second => vec![1.0 - logistic(row[0]), logistic(row[0])],
            (Holds::Logits, Task::Reranking) => vec![logistic(row[0])],
            (Holds::Logits, _) => softmax(row),
            _ if of_second => vec![1.0 - row[0], row[0]],
            (_, Task::SentenceEmbedding) => unit(row.to_vec()),
            _ => row.to_vec(),
        })
    }

    /// A sequence of maps from a label, or its place in the order, to its probability.
    fn zip_map(&self, value: &DynValue, instances: usize) -> Result<Vec<Vec<f32>>, String> {
        let text = |error: ort::Error| error.to_string();
        let ValueType::Sequence(element) = value.dtype() else {
            return Err("no sequence".into());
        };
        let by_text = matches!(
            **element,
            ValueType::Map {
                key: TensorElementType::String,
                ..
            }
        );
        let labels = &self.labels;
        let rows: Vec<Vec<f32>> = if by_text {
            let maps = value
                .view()
                .downcast::<ort::value::SequenceValueType<MapValueType<String, f32>>>()
                .map_err(text)?;
            let row = |map: Value<MapValueType<String, f32>>| {
                // Not `extract_map`, which panics over names that are no UTF-8.
                let map: HashMap<String, f32> = map.try_extract_map().map_err(text)?;
                let probability = |label: &String| {
                    let found = map.get(label).copied();
                    found.ok_or_else(|| format!("the graph knows no label {label}"))
                };
                labels.iter().map(probability).collect()
            };
            let maps = maps.try_extract_sequence().map_err(text)?;
            maps.into_iter().map(row).collect::<Result<_, String>>()?
        } else {
            let maps = value
                .view()
                .downcast::<ort::value::SequenceValueType<MapValueType<i64, f32>>>()
                .map_err(text)?;
            let row = |map: Value<MapValueType<i64, f32>>| {
                let mut pairs: Vec<(i64, f32)> = map.try_extract_key_values().map_err(text)?;
                pairs.sort_by_key(|(key, _)| *key);
                let probabilities = pairs.into_iter().map(|(_, probability)| probability);
                Ok(probabilities.collect())
            };
            let maps = maps.try_extract_sequence().map_err(text)?;
            maps.into_iter().map(row).collect::<Result<_, String>>()?
        };
        let sound = rows.len() == instances && rows.iter().all(|row| row.len() == labels.len());
        if sound {
            Ok(rows)
        } else {
            Err(format!(
                "{} maps of {} labels, but there are {instances} instances and {} labels",
                rows.len(),
                rows.first().map_or(0, Vec::len),
                labels.len()
            ))
        }
    }

    /// Probability 1 for the label that the graph names.
    fn one_hot(&self, array: &Array, instances: usize) -> Result<Vec<Vec<f32>>, String> {
        let places: Vec<Option<usize>> = match &array.elements {
            Elements::Text(names) => names
                .iter()
                .map(|name| self.labels.iter().position(|label| label == name))
                .collect(),
            Elements::Int64(places) => places
                .iter()
                .map(|place| usize::try_from(*place).ok())
                .map(|place| place.filter(|place| *place < self.labels.len()))
                .collect(),
            _ => return Err("a label is a text or a 64-bit integer".into()),
        };
        if places.len() != instances {
            return Err(format!("{} labels for {instances} instances", places.len()));
        }
        let row = |place: Option<usize>| {
            let place = place.ok_or("the graph gave a label that the manifest does not know")?;
            let mut row = vec![0.0; self.labels.len()];
            row[place] = 1.0;
            Ok(row)
        };
        places.into_iter().map(row).collect()
    }

    /// Every tensor, cut into instances.
    fn arrays<'v>(
        &self,
        value: impl Fn(&String) -> Result<&'v DynValue, String>,
        instances: usize,
    ) -> Result<Vec<Prediction>, String> {
        let mut predictions = vec![Prediction::default(); instances];
        for name in &self.outputs {
            let Array { shape, elements } = array(value(name)?)?;
            let [first, rest @ ..] = shape.as_slice() else {
                return Err(format!("output {name} has no axis of instances"));
            };
            if *first != instances {
                return Err(format!(
                    "output {name} is {shape:?} for {instances} instances"
                ));
            }
            let length = rest.iter().product();
            for (index, prediction) in predictions.iter_mut().enumerate() {
                let elements = elements.slice(index * length, length);
                prediction.output.extend(elements.to_f32());
                prediction.arrays.push(NamedArray {
                    name: name.clone(),
                    array: Array {
                        shape: rest.to_vec(),
                        elements,
                    },
                });
            }
        }
        Ok(predictions)
    }
}

/// The mean of each text's vectors without its padding, of unit length.
fn token_means(
    numbers: &[f32],
    shape: &[usize],
    batch: &Batch,
    width: usize,
) -> Result<Vec<Vec<f32>>, String> {
    let (Batch::Tokens(texts), [instances, longest, hidden]) = (batch, shape) else {
        return Err(format!(
            "vectors of tokens are texts × tokens × numbers, not {shape:?}"
        ));
    };
    if *instances != texts.len() || *hidden != width {
        return Err(format!(
            "vectors of tokens are {shape:?}, but there are {} texts and {width} dimensions",
            texts.len()
        ));
    }
    let mean = |(text, vectors): (&crate::preprocess::Tokens, &[f32])| {
        let mut mean = vec![0.0; width];
        for vector in vectors.chunks(width).take(text.ids.len()) {
            for (sum, number) in mean.iter_mut().zip(vector) {
                *sum += number;
            }
        }
        unit(mean)
    };
    Ok(texts
        .iter()
        .zip(numbers.chunks(longest * hidden))
        .map(mean)
        .collect())
}

/// `1 / (1 + exp(−x))`
fn logistic(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The vector of length 1 in the same direction.
fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    for number in &mut vector {
        *number /= length;
    }
    vector
}

fn is_readable(dtype: &ValueType, raw: bool) -> bool {
    use TensorElementType as T;
    match dtype {
        ValueType::Tensor { ty, .. } => matches!(
            ty,
            T::Float32 | T::Float64 | T::Int32 | T::Int64 | T::Uint8 | T::Bool | T::String
        ),
        ValueType::Sequence(element) => {
            let map = matches!(
                **element,
                ValueType::Map {
                    key: T::String | T::Int64,
                    value: T::Float32
                }
            );
            map && !raw
        }
        _ => false,
    }
}

/// Of a tensor whose first axis is that of the instances.
fn outline(outlet: &Outlet) -> Option<Outline> {
    use TensorElementType as T;
    let elements = match outlet.dtype().tensor_type()? {
        T::Float32 => Elements::Float32(Vec::new()),
        T::Float64 => Elements::Float64(Vec::new()),
        T::Int32 => Elements::Int32(Vec::new()),
        T::Int64 => Elements::Int64(Vec::new()),
        T::Uint8 => Elements::Uint8(Vec::new()),
        T::Bool => Elements::Bool(Vec::new()),
        T::String => Elements::Text(Vec::new()),
        _ => return None,
    };
    let shape = outlet.dtype().tensor_shape()?;
    Some(Outline {
        name: outlet.name().to_owned(),
        elements,
        shape: shape
            .iter()
            .skip(1)
            .map(|length| usize::try_from(*length).ok())
            .collect(),
    })
}

fn array(value: &DynValue) -> Result<Array, String> {
    use TensorElementType as T;
    let text = |error: ort::Error| error.to_string();
    let dtype = value.dtype();
    let shape = dtype
        .tensor_shape()
        .ok_or_else(|| format!("{dtype} is no tensor"))?;
    let shape = shape
        .iter()
        .map(|length| usize::try_from(*length).unwrap_or(0))
        .collect();
    macro_rules! elements {
        ($variant:ident, $number:ty) => {
            Elements::$variant(
                value
                    .try_extract_tensor::<$number>()
                    .map_err(text)?
                    .1
                    .to_vec(),
            )
        };
    }
    let elements = match dtype.tensor_type() {
        Some(T::Float32) => elements!(Float32, f32),
        Some(T::Float64) => elements!(Float64, f64),
        Some(T::Int32) => elements!(Int32, i32),
        Some(T::Int64) => elements!(Int64, i64),
        Some(T::Uint8) => elements!(Uint8, u8),
        Some(T::Bool) => elements!(Bool, bool),
        Some(T::String) => Elements::Text(value.try_extract_strings().map_err(text)?.1),
        _ => return Err(format!("{dtype} cannot be answered")),
    };
    Ok(Array { shape, elements })
}
