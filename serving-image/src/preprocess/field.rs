//! Checks the value of one named field against the manifest.

use serde_json::{Value, json};

use super::errors::{self, FieldErrors, escape};
use crate::artefact::{Input, InputType, Manifest, Scalar, Step};

/// Allowed values that an error lists; of more, it tells how many there are.
const MAX_LISTED_VALUES: usize = 20;

/// Width of the picture that a model is warmed up with, in pixels.
const EXAMPLE_WIDTH: u32 = 8;

/// An input, resolved.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) input: Input,
    /// Type and bounds, in words.
    pub(super) expected: String,
    /// Stands for a missing value.
    default: Option<Scalar>,
}

/// A valid value of a field that is no tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cell<'a> {
    Number(f64),
    Text(&'a str),
}

impl Scalar {
    pub(super) fn cell(&self) -> Cell<'_> {
        match self {
            Self::Boolean(truth) => Cell::Number(f64::from(u8::from(*truth))),
            Self::Number(number) => Cell::Number(*number),
            Self::Text(text) => Cell::Text(text),
        }
    }
}

impl Field {
    /// The manifest's inputs, with what its `impute` steps put in the place of missing values.
    pub(super) fn all(manifest: &Manifest) -> Vec<Self> {
        let field = |input: &Input| {
            let mut default = None;
            for step in &manifest.preprocessing {
                if let Step::Impute { values } = step
                    && input.nullable
                    && default.is_none()
                {
                    default = values.get(&input.name).cloned();
                }
            }
            Self {
                expected: describe(input),
                input: input.clone(),
                default,
            }
        };
        manifest.inputs.iter().map(field).collect()
    }

    /// The value of this field, or what is expected there.
    pub(super) fn read<'a>(&'a self, given: Option<&'a Value>) -> Result<Cell<'a>, String> {
        let value = match given {
            None | Some(Value::Null) => {
                let default = self.default.as_ref().map(Scalar::cell);
                return default.ok_or_else(|| format!("{} (required)", self.expected));
            }
            Some(value) => value,
        };
        let cell = match self.input.kind {
            InputType::String => self.text(value).map(Cell::Text),
            _ => self.number(value).map(Cell::Number),
        };
        let allowed = &self.input.allowed;
        cell.filter(|cell| allowed.is_empty() || allowed.iter().any(|one| one.cell() == *cell))
            .ok_or_else(|| self.expected.clone())
    }

    fn number(&self, value: &Value) -> Option<f64> {
        let number = match self.input.kind {
            InputType::Boolean => value.as_bool().map(|truth| f64::from(u8::from(truth))),
            InputType::Number => value.as_f64(),
            InputType::Integer => value.as_f64().filter(|number| number.fract() == 0.0),
            InputType::String | InputType::Tensor | InputType::Image => None,
        };
        number.filter(|number| self.is_in_range(*number))
    }

    /// Whether a number is within the input's bounds.
    pub(super) fn is_in_range(&self, number: f64) -> bool {
        self.input.min.is_none_or(|min| number >= min)
            && self.input.max.is_none_or(|max| number <= max)
    }

    /// A text that is not empty, not too long, and without NUL, which no C library takes.
    pub(super) fn text<'a>(&self, value: &'a Value) -> Option<&'a str> {
        let longest = self.input.max_length.unwrap_or(usize::MAX);
        value.as_str().filter(|text| {
            !text.is_empty() && text.chars().nth(longest).is_none() && !text.contains('\0')
        })
    }

    /// A value that is valid by construction.
    pub(super) fn example(&self) -> Value {
        if let Some(first) = self.input.allowed.first() {
            return json!(first);
        }
        let min = self.input.min.or(self.input.max.map(|max| max.min(0.0)));
        let min = min.unwrap_or(0.0);
        let max = self.input.max.unwrap_or(min.max(0.0));
        let middle = min.midpoint(max);
        match self.input.kind {
            InputType::String => self.short_text().into(),
            InputType::Boolean => true.into(),
            InputType::Number => middle.into(),
            InputType::Integer => middle.floor().max(min.ceil()).into(),
            InputType::Image => crate::picture::sample(EXAMPLE_WIDTH, || 0.5).into(),
            InputType::Tensor => self.zeros(&self.input.shape.clone().unwrap_or_default()),
        }
    }

    fn short_text(&self) -> String {
        let longest = self.input.max_length.unwrap_or(usize::MAX);
        "warm-up".chars().take(longest).collect()
    }

    /// Nested arrays of zeros, or of the number nearest to zero that is allowed.
    fn zeros(&self, shape: &[Option<usize>]) -> Value {
        match shape {
            [] if self.input.dtype == Some(crate::artefact::Dtype::Bool) => false.into(),
            [] => {
                let min = self.input.min.unwrap_or(f64::MIN);
                let max = self.input.max.unwrap_or(f64::MAX);
                0_f64.clamp(min, max).into()
            }
            [length, rest @ ..] => vec![self.zeros(rest); length.unwrap_or(1)].into(),
        }
    }
}

/// Reads an object's fields with `read`, in the order of the inputs. Errors are added, also for
/// fields that the manifest does not know.
pub(super) fn read_object<'a>(
    fields: &'a [Field],
    instance: &'a Value,
    pointer: impl Fn() -> String,
    errors: &mut FieldErrors,
    mut read: impl FnMut(&'a Field, Option<&'a Value>) -> Result<(), String>,
) {
    let Value::Object(given) = instance else {
        let expected = format!("an object with the fields {}", names(fields));
        errors.push(pointer, expected);
        return;
    };
    let mut present = 0;
    for field in fields {
        let name = &field.input.name;
        let value = given.get(name);
        present += usize::from(value.is_some());
        if let Err(expected) = read(field, value) {
            errors.push(|| format!("{}/{}", pointer(), escape(name)), expected);
        }
    }
    if present == given.len() {
        return;
    }
    let known = |name: &str| fields.iter().any(|field| field.input.name == name);
    for name in given.keys().filter(|name| !known(name)) {
        let expected = format!("no such field; the fields are {}", names(fields));
        errors.push(|| errors::pointer(&pointer(), name), expected);
    }
}

fn names(fields: &[Field]) -> String {
    let names: Vec<_> = fields
        .iter()
        .map(|field| field.input.name.as_str())
        .collect();
    names.join(", ")
}

/// Type and bounds of an input, in words: `a number from 0 to 30 cm`.
fn describe(input: &Input) -> String {
    let null = if input.nullable { ", or null" } else { "" };
    if !input.allowed.is_empty() {
        return format!("{}{null}", one_of(&input.allowed));
    }
    let shape = || -> String {
        let lengths = input.shape.iter().flatten();
        let lengths: Vec<_> = lengths
            .map(|length| length.map_or("any".to_owned(), |length| length.to_string()))
            .collect();
        lengths.join(" × ")
    };
    let dtype = input.dtype.map_or("", crate::artefact::Dtype::name);
    let kind = match input.kind {
        InputType::Number => "a number".to_owned(),
        InputType::Integer => "an integer".to_owned(),
        InputType::Boolean => "true or false".to_owned(),
        InputType::String => "a text that is not empty".to_owned(),
        InputType::Image => "a JPEG or PNG picture in base64".to_owned(),
        InputType::Tensor => format!("nested arrays of {dtype}, {}, each", shape()),
    };
    let range = match (input.min, input.max) {
        (Some(min), Some(max)) => format!(" from {min} to {max}"),
        (Some(min), None) => format!(" of at least {min}"),
        (None, Some(max)) => format!(" of at most {max}"),
        (None, None) => String::new(),
    };
    let unit = input.unit.as_ref().map(|unit| format!(" {unit}"));
    let length = input
        .max_length
        .map(|max| format!(", of at most {max} characters"));
    let text = format!(
        "{kind}{range}{}{}{null}",
        unit.unwrap_or_default(),
        length.unwrap_or_default()
    );
    text.trim_end_matches(", each").to_owned()
}

fn one_of(allowed: &[Scalar]) -> String {
    let listed: Vec<_> = allowed
        .iter()
        .take(MAX_LISTED_VALUES)
        .map(|value| match value {
            Scalar::Text(text) => json!(text).to_string(),
            value => value.to_string(),
        })
        .collect();
    let more = if allowed.len() > MAX_LISTED_VALUES {
        format!(", … ({} values)", allowed.len())
    } else {
        String::new()
    };
    format!("one of {}{more}", listed.join(", "))
}
