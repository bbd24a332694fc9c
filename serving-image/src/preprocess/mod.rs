//! Turns the JSON of a request into the input of the network, by the manifest alone.
//!
//! HTTP, golden examples and warm-up share this path, so that the served preprocessing is the
//! checked one. All errors of a request are collected. Each names its field and the expected value,
//! and never repeats the value that was sent, which may be personal data.

mod errors;
mod field;
mod image;
mod tabular;
mod tensor;
#[cfg(test)]
mod tests;
mod text;

use serde_json::Value;

#[cfg(test)]
pub(crate) use self::image::Image;
use crate::array::Array;
use crate::artefact::{Kind, Manifest};
pub use errors::{FieldError, FieldErrors, Location, escape, pointer};
use field::{Cell, Field};
use tabular::Tabular;
use tensor::Tensors;
use text::Text;

/// A text, or a pair of texts, as the encoder takes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Ids, special tokens included.
    pub ids: Vec<u32>,
    /// For each token of a pair whether it belongs to the first text (0) or to the second (1).
    /// Empty for a single text.
    pub types: Vec<u32>,
    /// Whether the text was truncated.
    pub truncated: bool,
}

/// Rows of numbers, one after the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// Numbers in a row; at least 1.
    pub width: usize,
    /// Row after row.
    pub values: Vec<f32>,
}

impl Rows {
    /// No rows, with room for `rows`.
    pub fn with_capacity(width: usize, rows: usize) -> Self {
        Self {
            width,
            values: Vec::with_capacity(width * rows),
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

/// The values of one field, one for each instance.
#[derive(Debug, Clone, PartialEq)]
pub enum FieldColumn {
    /// Of a number, integer or boolean.
    Numbers(Vec<f64>),
    /// Of a string.
    Texts(Vec<String>),
}

impl FieldColumn {
    fn push(&mut self, cell: Cell<'_>) {
        match (self, cell) {
            (Self::Numbers(numbers), Cell::Number(number)) => numbers.push(number),
            (Self::Texts(texts), Cell::Text(text)) => texts.push(text.to_owned()),
            // Unreachable: a field has checked that its values have its type.
            (Self::Numbers(numbers), Cell::Text(_)) => numbers.push(f64::NAN),
            (Self::Texts(texts), Cell::Number(number)) => texts.push(number.to_string()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.len(),
            Self::Texts(texts) => texts.len(),
        }
    }
}

/// Prepared instances.
#[derive(Debug, Clone, PartialEq)]
pub enum Batch {
    /// One feature vector an instance.
    Features(Rows),
    /// One column an input, in the order of the manifest's inputs.
    Fields(Vec<FieldColumn>),
    /// One token sequence an instance.
    Tokens(Vec<Tokens>),
    /// The arrays of each instance, in the order of the manifest's inputs.
    Arrays(Vec<Vec<Array>>),
}

impl Batch {
    /// Number of instances.
    pub fn len(&self) -> usize {
        match self {
            Self::Features(rows) => rows.len(),
            Self::Fields(columns) => columns.first().map_or(0, FieldColumn::len),
            Self::Tokens(texts) => texts.len(),
            Self::Arrays(instances) => instances.len(),
        }
    }

    /// Whether there is no instance.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The instances at these places, in this order.
    #[must_use]
    pub fn select(&self, places: &[usize]) -> Self {
        fn pick<T: Clone>(all: &[T], places: &[usize]) -> Vec<T> {
            places.iter().map(|place| all[*place].clone()).collect()
        }
        match self {
            Self::Features(rows) => {
                let mut picked = Rows::with_capacity(rows.width, places.len());
                for place in places {
                    let start = place * rows.width;
                    let row = &rows.values[start..start + rows.width];
                    picked.values.extend_from_slice(row);
                }
                Self::Features(picked)
            }
            Self::Fields(columns) => {
                let column = |column: &FieldColumn| match column {
                    FieldColumn::Numbers(all) => FieldColumn::Numbers(pick(all, places)),
                    FieldColumn::Texts(all) => FieldColumn::Texts(pick(all, places)),
                };
                Self::Fields(columns.iter().map(column).collect())
            }
            Self::Tokens(all) => Self::Tokens(pick(all, places)),
            Self::Arrays(all) => Self::Arrays(pick(all, places)),
        }
    }
}

/// The manifest's preprocessing, resolved once.
#[derive(Debug)]
pub struct Preprocessor {
    path: Path,
    max_instances: usize,
}

#[derive(Debug)]
enum Path {
    Tabular(Tabular),
    Text(Text),
    Tensors(Tensors),
}

/// Why a preprocessor cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum PreprocessError {
    /// The tokeniser's file is unusable.
    #[error("cannot read the tokeniser: {0}")]
    Tokenizer(String),
    /// The manifest lacks a step that its kind needs (it was not read by `Manifest::parse`).
    #[error("the manifest has no {0} step")]
    MissingStep(&'static str),
    /// Prompts are not prepared by the manifest but by the template in the weights file.
    #[error("a generation model has no preprocessing of its own")]
    Generation,
}

impl Preprocessor {
    /// The path of a model, with the content of its tokeniser's file if it has one. An error where
    /// the manifest lacks a step, or the tokeniser's file cannot be used.
    pub fn new(manifest: &Manifest, tokenizer: Option<&[u8]>) -> Result<Self, PreprocessError> {
        let path = match manifest.kind {
            Kind::Tabular => Path::Tabular(Tabular::new(manifest)),
            Kind::Text | Kind::TextPair => {
                let tokenizer = tokenizer.ok_or(PreprocessError::MissingStep("tokenize"))?;
                Path::Text(Text::new(manifest, tokenizer)?)
            }
            Kind::Tensor => Path::Tensors(Tensors::new(manifest)),
            Kind::Generation => return Err(PreprocessError::Generation),
        };
        Ok(Self {
            path,
            max_instances: manifest.limits.max_instances,
        })
    }

    /// Prepares all instances, or names every field that is wrong. At most as many instances as the
    /// manifest or the flags allow.
    pub fn prepare(&self, instances: &[Value], location: Location) -> Result<Batch, FieldErrors> {
        if instances.is_empty() || instances.len() > self.max_instances {
            let (Location::List(field) | Location::Single(field)) = location;
            let expected = format!("an array of 1 to {} instances", self.max_instances);
            return Err(FieldErrors::one(field, expected));
        }
        let mut errors = FieldErrors::default();
        let batch = match &self.path {
            Path::Tabular(tabular) => tabular.prepare(instances, location, &mut errors),
            Path::Text(text) => Batch::Tokens(text.prepare(instances, location, &mut errors)),
            Path::Tensors(tensors) => {
                Batch::Arrays(tensors.prepare(instances, location, &mut errors))
            }
        };
        if errors.total == 0 {
            Ok(batch)
        } else {
            Err(errors)
        }
    }

    /// An instance that is valid by construction, for the warm-up of a model without golden
    /// examples.
    pub fn example(&self) -> Value {
        match &self.path {
            Path::Text(text) if !text.pair => {
                text.fields.first().map_or(Value::Null, Field::example)
            }
            Path::Tabular(Tabular { fields, .. })
            | Path::Text(Text { fields, .. })
            | Path::Tensors(Tensors { fields, .. }) => fields
                .iter()
                .map(|field| (field.input.name.clone(), field.example()))
                .collect(),
        }
    }
}
