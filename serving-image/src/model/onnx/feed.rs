//! Builds the inputs of a graph: one value for each.

use ort::session::SessionInputValue;
use ort::value::{Outlet, Tensor, TensorElementType};

use super::{OnnxError, describe};
use crate::array::Elements;
use crate::artefact::{Dtype, ImageDtype, InputType, Kind, Manifest, Network};
use crate::preprocess::{Batch, FieldColumn, Tokens};

/// One input of the graph, and where its value comes from.
#[derive(Debug)]
pub(super) struct Feed {
    name: String,
    dtype: TensorElementType,
    /// Whether it is a column without an axis of its own: `[n]`, not `[n, 1]`.
    flat: bool,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// The rows of the `order` step.
    Rows,
    /// These inputs of the manifest, side by side.
    Fields(Vec<usize>),
    /// The array of that input of the manifest.
    Array(usize),
    Tokens(Part),
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Ids,
    /// 1 for a token, 0 for padding.
    Mask,
    Types,
}

/// A feed for every input of the graph; what does not fit is an error that names both sides.
pub(super) fn feeds(manifest: &Manifest, inputs: &[Outlet]) -> Result<Vec<Feed>, OnnxError> {
    let Network::Onnx { inputs: mapped, .. } = &manifest.network else {
        return Err(OnnxError::Binding("the network is no graph".into()));
    };
    for input in mapped {
        if !inputs.iter().any(|outlet| outlet.name() == input.name) {
            let found = describe(inputs);
            return Err(OnnxError::Binding(format!(
                "there is no input {}, but {found}",
                input.name
            )));
        }
    }
    let feeds: Vec<Feed> = inputs
        .iter()
        .map(|outlet| feed(manifest, outlet, inputs.len()))
        .collect::<Result<_, _>>()?;
    for (index, input) in manifest.inputs.iter().enumerate() {
        let taken = feeds.iter().any(|feed| match &feed.source {
            Source::Fields(fields) => fields.contains(&index),
            Source::Array(array) => *array == index,
            Source::Rows | Source::Tokens(_) => true,
        });
        if !taken {
            let found = describe(inputs);
            return Err(OnnxError::Binding(format!(
                "no input of the graph takes {}; it has {found}",
                input.name
            )));
        }
    }
    Ok(feeds)
}

fn feed(manifest: &Manifest, outlet: &Outlet, inputs: usize) -> Result<Feed, OnnxError> {
    let name = outlet.name();
    let wrong = |problem: &str| Err(OnnxError::Binding(format!("input {name}: {problem}")));
    let (Some(dtype), Some(shape)) = (outlet.dtype().tensor_type(), outlet.dtype().tensor_shape())
    else {
        return wrong("it is no tensor");
    };
    let source = match manifest.kind {
        Kind::Tabular if manifest.order().is_some() => {
            if inputs > 1 {
                return wrong("the row of the order step is one input, but the graph has several");
            }
            Source::Rows
        }
        Kind::Tabular => match fields(manifest, name) {
            Some(fields) => Source::Fields(fields),
            None => return wrong("no field has this name, and network.inputs does not map it"),
        },
        Kind::Tensor => match manifest.inputs.iter().position(|input| input.name == name) {
            Some(index) => Source::Array(index),
            None => return wrong("no input of the manifest has this name"),
        },
        _ => Source::Tokens(match name {
            "input_ids" => Part::Ids,
            "attention_mask" => Part::Mask,
            "token_type_ids" => Part::Types,
            _ => return wrong("a text has input_ids, attention_mask and token_type_ids only"),
        }),
    };
    let width = match &source {
        Source::Rows => Some(manifest.features().len()),
        Source::Fields(fields) => Some(fields.len()),
        Source::Array(_) | Source::Tokens(_) => None,
    };
    let flat = shape.len() == 1 && width == Some(1);
    if let Some(width) = width
        && !flat
        && (shape.len() != 2 || (shape[1] >= 0 && usize::try_from(shape[1]) != Ok(width)))
    {
        return wrong(&format!(
            "it takes {}, but the manifest gives rows of {width}",
            outlet.dtype()
        ));
    }
    if !takes(manifest, &source, dtype) {
        return wrong(&format!(
            "it takes {}, which is not what the manifest gives{}",
            outlet.dtype(),
            remedy(manifest, &source, dtype)
        ));
    }
    if let Source::Array(index) = source
        && let Some(step) = manifest.image_step(&manifest.inputs[index].name)
        && let Some(given) = step.shape()
        && !is_of(&given, shape.get(1..).unwrap_or_default())
    {
        let [first, second, third] = given;
        return wrong(&format!(
            "it takes {}, but its image step gives {first} × {second} × {third} for each \
             instance: see its layout, resize and channels",
            outlet.dtype()
        ));
    }
    Ok(Feed {
        name: name.to_owned(),
        dtype,
        flat,
        source,
    })
}

/// The fields that the manifest maps to an input, or the field of its name.
fn fields(manifest: &Manifest, name: &str) -> Option<Vec<usize>> {
    let place = |field: &str| manifest.inputs.iter().position(|input| input.name == field);
    let Network::Onnx { inputs, .. } = &manifest.network else {
        return None;
    };
    match inputs.iter().find(|input| input.name == name) {
        Some(mapped) => mapped.fields.iter().map(|field| place(field)).collect(),
        None => place(name).map(|index| vec![index]),
    }
}

fn takes(manifest: &Manifest, source: &Source, dtype: TensorElementType) -> bool {
    use TensorElementType as T;
    let number = matches!(
        dtype,
        T::Float32 | T::Float64 | T::Int64 | T::Int32 | T::Bool
    );
    match source {
        Source::Rows => matches!(dtype, T::Float32 | T::Float64),
        Source::Fields(fields) => fields.iter().all(|index| {
            if manifest.inputs[*index].kind == InputType::String {
                dtype == T::String
            } else {
                number
            }
        }),
        Source::Tokens(_) => matches!(dtype, T::Int64 | T::Int32),
        Source::Array(index) => {
            let input = &manifest.inputs[*index];
            let given = match manifest.image_step(&input.name) {
                Some(step) => Some(match step.dtype {
                    ImageDtype::Float32 => T::Float32,
                    ImageDtype::Uint8 => T::Uint8,
                }),
                None => input.dtype.map(|dtype| match dtype {
                    Dtype::Float32 => T::Float32,
                    Dtype::Float64 => T::Float64,
                    Dtype::Int32 => T::Int32,
                    Dtype::Int64 => T::Int64,
                    Dtype::Uint8 => T::Uint8,
                    Dtype::Bool => T::Bool,
                }),
            };
            given == Some(dtype)
        }
    }
}

/// Whether a shape is the one that is wanted, where an axis of any length is negative.
fn is_of(shape: &[usize], wanted: &[i64]) -> bool {
    let fits =
        |(length, wanted): (&usize, &i64)| *wanted < 0 || usize::try_from(*wanted) == Ok(*length);
    shape.len() == wanted.len() && shape.iter().zip(wanted).all(fits)
}

/// What to change in the manifest where an image is of another type than the graph takes; else
/// nothing.
fn remedy(manifest: &Manifest, source: &Source, dtype: TensorElementType) -> &'static str {
    let Source::Array(index) = source else {
        return "";
    };
    let input = &manifest.inputs[*index];
    let step = manifest.image_step(&input.name);
    let is_picture = input.kind == InputType::Image;
    match (step.map(|step| step.dtype), dtype) {
        (Some(ImageDtype::Float32), TensorElementType::Uint8) if is_picture => {
            ": its image step gives float32; with \"dtype\": \"uint8\" and without rescale, mean \
             and std it gives levels"
        }
        (Some(ImageDtype::Float32), TensorElementType::Uint8) => {
            ": its image step gives float32; without the step it gives levels"
        }
        (Some(ImageDtype::Uint8), TensorElementType::Float32) => {
            ": its image step gives uint8; without dtype, and with rescale, mean and std, it \
             gives float32"
        }
        _ => "",
    }
}

/// Whether the graph was exported for batches of exactly one: the first axis of its inputs says so.
pub(super) fn takes_one(inputs: &[Outlet]) -> Result<bool, OnnxError> {
    let mut one = false;
    for outlet in inputs {
        match outlet
            .dtype()
            .tensor_shape()
            .and_then(|shape| shape.first())
        {
            Some(1) => one = true,
            Some(length) if *length < 0 => {}
            _ => {
                return Err(OnnxError::Binding(format!(
                    "input {}: the first axis of {} must be the instances, 1 or any number",
                    outlet.name(),
                    outlet.dtype()
                )));
            }
        }
    }
    Ok(one)
}

impl Feed {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The input's value for these instances.
    pub(super) fn value(&self, batch: &Batch) -> ort::Result<SessionInputValue<'static>> {
        match (&self.source, batch) {
            (Source::Rows, Batch::Features(rows)) => {
                let shape = [rows.len(), rows.width];
                if self.dtype == TensorElementType::Float64 {
                    let wide: Vec<f64> = rows.values.iter().map(|x| f64::from(*x)).collect();
                    return Ok(Tensor::from_array((shape, wide))?.into());
                }
                Ok(Tensor::from_array((shape, rows.values.clone()))?.into())
            }
            (Source::Fields(fields), Batch::Fields(columns)) => {
                let columns: Vec<_> = fields.iter().map(|index| &columns[*index]).collect();
                self.side_by_side(&columns, batch.len())
            }
            (Source::Array(index), Batch::Arrays(instances)) => {
                let Some((first, rest)) = instances.split_first() else {
                    return Err(ort::Error::new("there is no instance"));
                };
                let mut elements = first[*index].elements.clone();
                for arrays in rest {
                    elements.extend(&arrays[*index].elements);
                }
                let mut shape = vec![instances.len()];
                shape.extend(&first[*index].shape);
                tensor(shape, elements)
            }
            (Source::Tokens(part), Batch::Tokens(texts)) => self.tokens(*part, texts),
            _ => Err(ort::Error::new("the graph does not take what was prepared")),
        }
    }

    fn side_by_side(
        &self,
        columns: &[&FieldColumn],
        rows: usize,
    ) -> ort::Result<SessionInputValue<'static>> {
        let shape = if self.flat {
            vec![rows]
        } else {
            vec![rows, columns.len()]
        };
        if self.dtype == TensorElementType::String {
            let texts: Vec<String> = (0..rows)
                .flat_map(|row| {
                    columns.iter().filter_map(move |column| match column {
                        FieldColumn::Texts(texts) => Some(texts[row].clone()),
                        FieldColumn::Numbers(_) => None,
                    })
                })
                .collect();
            return Ok(Tensor::from_string_array((shape, texts.as_slice()))?.into());
        }
        let numbers = (0..rows).flat_map(|row| {
            columns.iter().filter_map(move |column| match column {
                FieldColumn::Numbers(numbers) => Some(numbers[row]),
                FieldColumn::Texts(_) => None,
            })
        });
        let mut elements = match self.dtype {
            TensorElementType::Float64 => Elements::Float64(Vec::new()),
            TensorElementType::Int64 => Elements::Int64(Vec::new()),
            TensorElementType::Int32 => Elements::Int32(Vec::new()),
            TensorElementType::Bool => Elements::Bool(Vec::new()),
            _ => Elements::Float32(Vec::new()),
        };
        numbers.for_each(|number| elements.push(number));
        tensor(shape, elements)
    }

    fn tokens(&self, part: Part, texts: &[Tokens]) -> ort::Result<SessionInputValue<'static>> {
        let longest = texts
            .iter()
            .map(|tokens| tokens.ids.len())
            .max()
            .unwrap_or(0);
        let mut elements = if self.dtype == TensorElementType::Int32 {
            Elements::Int32(Vec::with_capacity(texts.len() * longest))
        } else {
            Elements::Int64(Vec::with_capacity(texts.len() * longest))
        };
        for text in texts {
            for place in 0..longest {
                let number = match part {
                    Part::Ids => text.ids.get(place).copied().unwrap_or(0),
                    Part::Mask => u32::from(place < text.ids.len()),
                    Part::Types => text.types.get(place).copied().unwrap_or(0),
                };
                elements.push(f64::from(number));
            }
        }
        tensor(vec![texts.len(), longest], elements)
    }
}

fn tensor(shape: Vec<usize>, elements: Elements) -> ort::Result<SessionInputValue<'static>> {
    Ok(match elements {
        Elements::Float32(list) => Tensor::from_array((shape, list))?.into(),
        Elements::Float64(list) => Tensor::from_array((shape, list))?.into(),
        Elements::Int32(list) => Tensor::from_array((shape, list))?.into(),
        Elements::Int64(list) => Tensor::from_array((shape, list))?.into(),
        Elements::Uint8(list) => Tensor::from_array((shape, list))?.into(),
        Elements::Bool(list) => Tensor::from_array((shape, list))?.into(),
        Elements::Text(list) => Tensor::from_string_array((shape, list.as_slice()))?.into(),
    })
}
