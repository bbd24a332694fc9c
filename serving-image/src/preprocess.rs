//! From the JSON of a request to what the network takes, by the manifest alone.
//!
//! There is one such path for HTTP, golden examples and warm-up, so that what was checked is what is served. All
//! errors of a request are collected; each names its field and what is expected there, and never repeats the value
//! that was sent, which may be somebody's personal data.

use serde::Serialize;
use serde_json::{Map, Value};
use tokenizers::{Tokenizer, TruncationParams};

use crate::artefact::{Input, InputType, Manifest, Scalar, Step};

/// Errors listed in one answer; more are only counted. Bounds the answer to a body of many wrong fields.
const MAX_LISTED: usize = 1_000;

/// Longest name of an unknown field that an answer repeats, in characters.
const MAX_ECHOED_NAME: usize = 64;

/// One field that is not as the manifest wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) into the request's body.
    pub field: String,
    /// What should be there.
    pub expected: String,
}

/// The errors of one request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldErrors {
    /// The first 1,000 of them.
    pub listed: Vec<FieldError>,
    /// How many there are in all.
    pub total: usize,
}

impl FieldErrors {
    /// Adds an error.
    pub fn push(&mut self, field: impl FnOnce() -> String, expected: impl Into<String>) {
        self.total += 1;
        if self.listed.len() < MAX_LISTED {
            self.listed.push(FieldError {
                field: field(),
                expected: expected.into(),
            });
        }
    }

    /// Adds the errors of another part of the request.
    pub fn append(&mut self, other: Self) {
        self.total += other.total;
        let room = MAX_LISTED - self.listed.len();
        self.listed.extend(other.listed.into_iter().take(room));
    }

    /// Exactly one error.
    pub fn one(field: &str, expected: impl Into<String>) -> Self {
        let mut errors = Self::default();
        errors.push(|| field.to_owned(), expected);
        errors
    }
}

/// Where a request keeps its instances, for the pointers in errors.
#[derive(Debug, Clone, Copy)]
pub enum Location {
    /// Elements of the array at this pointer.
    List(&'static str),
    /// The only instance is the value at this pointer.
    Single(&'static str),
}

impl Location {
    fn pointer(self, index: usize) -> String {
        match self {
            Self::List(array) => format!("{array}/{index}"),
            Self::Single(value) => value.to_owned(),
        }
    }
}

/// A text as the encoder takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Ids, special tokens included.
    pub ids: Vec<u32>,
    /// The type of each token: 0 for the first text of a pair, 1 for the second. Empty where all are 0.
    pub types: Vec<u32>,
    /// Whether the text was longer than what the ids stand for.
    pub truncated: bool,
}

/// Instances, prepared.
#[derive(Debug, Clone, PartialEq)]
pub enum Batch {
    /// One feature vector an instance, all of the same length.
    Features(Vec<Vec<f32>>),
    /// One token sequence an instance.
    Tokens(Vec<Tokens>),
}

impl Batch {
    /// Number of instances.
    pub fn len(&self) -> usize {
        match self {
            Self::Features(rows) => rows.len(),
            Self::Tokens(texts) => texts.len(),
        }
    }

    /// Whether there is no instance.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The manifest's preprocessing, resolved once.
#[derive(Debug)]
pub struct Preprocessor {
    inputs: Vec<Field>,
    path: Path,
    max_instances: usize,
}

#[derive(Debug)]
struct Field {
    input: Input,
    /// The input's type and bounds, in words.
    expected: String,
    /// Stands for a missing value.
    default: Option<f64>,
}

#[derive(Debug)]
enum Path {
    Features(Vec<Feature>),
    Tokens {
        tokenizer: Box<Tokenizer>,
        max_tokens: usize,
        truncate: bool,
    },
}

/// One element of the feature vector: `(inputs[input] − mean) / scale`.
#[derive(Debug)]
struct Feature {
    input: usize,
    mean: f64,
    scale: f64,
}

/// Why a preprocessor cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum PreprocessError {
    /// The tokeniser's file is unusable.
    #[error("cannot read the tokeniser: {0}")]
    Tokenizer(String),
    /// A step that this build cannot make.
    #[error("this build cannot make the step {0}")]
    Unsupported(&'static str),
    /// The manifest lacks a step that its kind needs (it was not read by `Manifest::parse`).
    #[error("the manifest has no {0} step")]
    MissingStep(&'static str),
}

impl Preprocessor {
    /// The path of a tabular model.
    pub fn tabular(manifest: &Manifest) -> Result<Self, PreprocessError> {
        let mut inputs = fields(manifest);
        let mut features = Vec::new();
        for step in &manifest.preprocessing {
            match step {
                Step::Impute { values } => {
                    for field in inputs.iter_mut().filter(|field| field.input.nullable) {
                        let value = values.get(&field.input.name).and_then(Scalar::number);
                        field.default = value.or(field.default);
                    }
                }
                Step::Order { features: names } => {
                    features = names
                        .iter()
                        .filter_map(|name| {
                            inputs.iter().position(|field| field.input.name == *name)
                        })
                        .map(|input| Feature {
                            input,
                            mean: 0.0,
                            scale: 1.0,
                        })
                        .collect();
                }
                Step::StandardScale {
                    features: named,
                    mean,
                    scale,
                } if named.is_empty() => {
                    // A second scaling composes with the first: ((x − m) / s − m') / s' = (x − (m + s m')) / (s s').
                    for (feature, (mean, scale)) in features.iter_mut().zip(mean.iter().zip(scale))
                    {
                        feature.mean += feature.scale * mean;
                        feature.scale *= scale;
                    }
                }
                other => return Err(PreprocessError::Unsupported(other.name())),
            }
        }
        if features.is_empty() {
            return Err(PreprocessError::MissingStep("order"));
        }
        let max_instances = manifest.limits.max_instances;
        Ok(Self {
            inputs,
            path: Path::Features(features),
            max_instances,
        })
    }

    /// The path of an embedding model, with the content of its tokeniser's file.
    pub fn text(manifest: &Manifest, tokenizer: &[u8]) -> Result<Self, PreprocessError> {
        let unusable = |error: tokenizers::Error| PreprocessError::Tokenizer(error.to_string());
        let (max_tokens, truncate) = manifest
            .preprocessing
            .iter()
            .find_map(|step| match step {
                Step::Tokenize {
                    max_tokens,
                    truncate,
                    ..
                } => Some((*max_tokens, *truncate)),
                _ => None,
            })
            .ok_or(PreprocessError::MissingStep("tokenize"))?;
        let mut tokenizer = Tokenizer::from_bytes(tokenizer).map_err(unusable)?;
        // The file's own settings would pad every text to 128 tokens and cut it there in silence.
        tokenizer.with_padding(None);
        let truncation = truncate.then(|| TruncationParams {
            max_length: max_tokens,
            ..Default::default()
        });
        tokenizer.with_truncation(truncation).map_err(unusable)?;
        let path = Path::Tokens {
            tokenizer: Box::new(tokenizer),
            max_tokens,
            truncate,
        };
        Ok(Self {
            inputs: fields(manifest),
            path,
            max_instances: manifest.limits.max_instances,
        })
    }

    /// Prepares all instances, or names every field that is wrong.
    pub fn prepare(&self, instances: &[Value], location: Location) -> Result<Batch, FieldErrors> {
        if instances.is_empty() || instances.len() > self.max_instances {
            let (Location::List(field) | Location::Single(field)) = location;
            let expected = format!("an array of 1 to {} instances", self.max_instances);
            return Err(FieldErrors::one(field, expected));
        }
        let mut errors = FieldErrors::default();
        let located = instances
            .iter()
            .enumerate()
            .map(|(index, instance)| (location.pointer(index), instance));
        let batch = match &self.path {
            Path::Features(features) => Batch::Features(
                located
                    .map(|(pointer, instance)| {
                        self.prepare_row(features, &pointer, instance, &mut errors)
                    })
                    .collect(),
            ),
            Path::Tokens {
                tokenizer,
                max_tokens,
                truncate,
            } => Batch::Tokens(
                located
                    .filter_map(|(pointer, instance)| {
                        let text = self.check_text(instance);
                        let tokens =
                            text.and_then(|text| tokenize(tokenizer, text, *max_tokens, *truncate));
                        tokens
                            .map_err(|expected| errors.push(|| pointer, expected))
                            .ok()
                    })
                    .collect(),
            ),
        };
        if errors.total == 0 {
            Ok(batch)
        } else {
            Err(errors)
        }
    }

    /// An instance that is valid by construction, for the warm-up of a model without golden examples.
    pub fn example(&self) -> Value {
        let example = |field: &Field| -> Value {
            match field.input.kind {
                InputType::String | InputType::Tensor => "warm-up".into(),
                InputType::Boolean => true.into(),
                InputType::Number | InputType::Integer => {
                    let min = field
                        .input
                        .min
                        .or(field.input.max.map(|max| max.min(0.0)))
                        .unwrap_or(0.0);
                    let max = field.input.max.unwrap_or(min.max(0.0));
                    let middle = min.midpoint(max);
                    let integer = field.input.kind == InputType::Integer;
                    (if integer {
                        middle.floor().max(min.ceil())
                    } else {
                        middle
                    })
                    .into()
                }
            }
        };
        match (&self.path, self.inputs.first()) {
            (Path::Tokens { .. }, Some(text)) => example(text),
            _ => self
                .inputs
                .iter()
                .map(|field| (field.input.name.clone(), example(field)))
                .collect(),
        }
    }

    fn prepare_row(
        &self,
        features: &[Feature],
        pointer: &str,
        instance: &Value,
        errors: &mut FieldErrors,
    ) -> Vec<f32> {
        let Value::Object(given) = instance else {
            errors.push(
                || pointer.to_owned(),
                format!("an object with the fields {}", self.names()),
            );
            return Vec::new();
        };
        let values: Vec<f64> = self
            .inputs
            .iter()
            .map(|field| {
                read_field(field, given).unwrap_or_else(|expected| {
                    errors.push(
                        || format!("{pointer}/{}", escape(&field.input.name)),
                        expected,
                    );
                    f64::NAN // never computed with: an error refuses the request
                })
            })
            .collect();
        for name in given.keys() {
            if !self.inputs.iter().any(|field| field.input.name == *name) {
                let expected = format!("no such field; the fields are {}", self.names());
                errors.push(|| self::pointer(pointer, name), expected);
            }
        }
        features
            .iter()
            .map(|feature| ((values[feature.input] - feature.mean) / feature.scale) as f32)
            .collect()
    }

    fn check_text<'a>(&self, instance: &'a Value) -> Result<&'a str, String> {
        let field = self.inputs.first().ok_or("no input at all")?;
        let longest = field.input.max_length.unwrap_or(usize::MAX);
        match instance {
            Value::String(text) if !text.is_empty() && text.chars().nth(longest).is_none() => {
                Ok(text)
            }
            _ => Err(field.expected.clone()),
        }
    }

    fn names(&self) -> String {
        let names: Vec<_> = self
            .inputs
            .iter()
            .map(|field| field.input.name.as_str())
            .collect();
        names.join(", ")
    }
}

fn fields(manifest: &Manifest) -> Vec<Field> {
    let field = |input: &Input| Field {
        expected: describe(input),
        input: input.clone(),
        default: None,
    };
    manifest.inputs.iter().map(field).collect()
}

/// The value of one field as a number, or what is expected there.
fn read_field(field: &Field, given: &Map<String, Value>) -> Result<f64, String> {
    let value = match given.get(&field.input.name) {
        None | Some(Value::Null) => {
            return field
                .default
                .ok_or_else(|| format!("{} (required)", field.expected));
        }
        Some(value) => value,
    };
    let number = match field.input.kind {
        InputType::Boolean => value.as_bool().map(|truth| f64::from(u8::from(truth))),
        InputType::Number => value.as_f64(),
        InputType::Integer => value.as_f64().filter(|number| number.fract() == 0.0),
        InputType::String | InputType::Tensor => None,
    };
    number
        .filter(|number| field.input.min.is_none_or(|min| *number >= min))
        .filter(|number| field.input.max.is_none_or(|max| *number <= max))
        .ok_or_else(|| field.expected.clone())
}

fn tokenize(
    tokenizer: &Tokenizer,
    text: &str,
    max_tokens: usize,
    truncate: bool,
) -> Result<Tokens, String> {
    let encoding = tokenizer
        .encode_fast(text, true)
        .map_err(|_| "a text that the tokeniser can read".to_owned())?;
    if !truncate && encoding.len() > max_tokens {
        return Err(format!("a text of at most {max_tokens} tokens"));
    }
    Ok(Tokens {
        ids: encoding.get_ids().to_vec(),
        types: Vec::new(),
        truncated: !encoding.get_overflowing().is_empty(),
    })
}

/// Type and bounds of an input, in words: `a number from 0 to 30 cm`.
fn describe(input: &Input) -> String {
    let kind = match input.kind {
        InputType::Number => "a number",
        InputType::Integer => "an integer",
        InputType::Boolean => "true or false",
        InputType::String => "a text that is not empty",
        InputType::Tensor => "nested arrays of numbers",
    };
    let range = match (input.min, input.max) {
        (Some(min), Some(max)) => format!(" from {min} to {max}"),
        (Some(min), None) => format!(" of at least {min}"),
        (None, Some(max)) => format!(" of at most {max}"),
        (None, None) => String::new(),
    };
    let unit = input
        .unit
        .as_ref()
        .map(|unit| format!(" {unit}"))
        .unwrap_or_default();
    let length = input
        .max_length
        .map(|max| format!(", of at most {max} characters"))
        .unwrap_or_default();
    let null = if input.nullable { ", or null" } else { "" };
    format!("{kind}{range}{unit}{length}{null}")
}

/// The pointer of a field that a client named, at a length that an answer bears.
pub fn pointer(parent: &str, name: &str) -> String {
    format!("{parent}/{}", escape(&shorten(name)))
}

/// A name as a part of a JSON pointer.
pub fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

fn shorten(name: &str) -> String {
    match name.char_indices().nth(MAX_ECHOED_NAME) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn preprocessor() -> Preprocessor {
        let manifest = json!({
            "schemaVersion": 1, "name": "m", "version": "1", "kind": "tabular", "task": "classification",
            "inputs": [
                {"name": "age", "type": "integer", "min": 0.0, "max": 130.0, "unit": "years"},
                {"name": "income", "type": "number", "nullable": true},
                {"name": "member", "type": "boolean"}
            ],
            "preprocessing": [
                {"step": "impute", "values": {"income": 30.0}},
                {"step": "order", "features": ["income", "member", "age"]},
                {"step": "standardScale", "mean": [10.0, 0.5, 40.0], "scale": [5.0, 0.5, 20.0]}
            ],
            "network": {"architecture": "linear", "weights": "w"},
            "outputs": {"labels": ["no", "yes"]}, "limits": {"maxInstances": 3}
        });
        Preprocessor::tabular(&Manifest::parse(manifest.to_string().as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn fields_are_imputed_ordered_and_scaled() {
        let instances = [
            json!({"age": 60, "member": true}),
            json!({"income": 20.5, "age": 20.0, "member": false}),
        ];
        let batch = preprocessor()
            .prepare(&instances, Location::List("/instances"))
            .unwrap();
        assert_eq!(
            batch,
            Batch::Features(vec![vec![4.0, 1.0, 1.0], vec![2.1, -1.0, -1.0]])
        );
    }

    #[test]
    fn every_wrong_field_is_named_and_no_value_is_repeated() {
        let instances = [
            json!({"age": 131, "member": "secret", "a/b": 1}),
            json!("secret"),
            json!({"age": 1.5, "income": "secret"}),
        ];
        let errors = preprocessor()
            .prepare(&instances, Location::List("/instances"))
            .unwrap_err();
        let fields: Vec<_> = errors
            .listed
            .iter()
            .map(|e| (e.field.as_str(), e.expected.as_str()))
            .collect();
        assert_eq!(
            fields,
            [
                ("/instances/0/age", "an integer from 0 to 130 years"),
                ("/instances/0/member", "true or false"),
                (
                    "/instances/0/a~1b",
                    "no such field; the fields are age, income, member"
                ),
                (
                    "/instances/1",
                    "an object with the fields age, income, member"
                ),
                ("/instances/2/age", "an integer from 0 to 130 years"),
                ("/instances/2/income", "a number, or null"),
                ("/instances/2/member", "true or false (required)"),
            ]
        );
        assert_eq!(errors.total, 7);
    }

    #[test]
    fn the_number_of_instances_is_bounded() {
        for instances in [vec![], vec![json!({}); 4]] {
            let errors = preprocessor()
                .prepare(&instances, Location::List("/instances"))
                .unwrap_err();
            assert_eq!(
                errors,
                FieldErrors::one("/instances", "an array of 1 to 3 instances")
            );
        }
    }

    #[test]
    fn the_example_is_valid() {
        let preprocessor = preprocessor();
        let example = preprocessor.example();
        assert!(
            preprocessor
                .prepare(&[example], Location::List("/instances"))
                .is_ok()
        );
    }
}
