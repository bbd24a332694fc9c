//! The fields of an instance.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One field of an instance.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Input {
    /// The field's name in a request.
    pub name: String,
    /// Its JSON type.
    #[serde(rename = "type")]
    pub kind: InputType,
    /// Smallest value that is accepted (numbers, and the elements of tensors).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Largest value that is accepted (numbers, and the elements of tensors).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// Unit of measure, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Whether `null` or a missing field is accepted; an `impute` step must then fill it. Default
    /// false.
    #[serde(default)]
    pub nullable: bool,
    /// Longest text that is accepted, in Unicode scalar values (strings).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// The only values that are accepted (categories). Default: all of the type, within the other
    /// bounds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<Scalar>,
    /// Type of the elements (tensors).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Dtype>,
    /// Length of each axis of one instance, without the axis of the batch; `null` is any length
    /// (tensors).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<Vec<Option<usize>>>,
}

/// JSON type of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputType {
    /// Any finite number.
    Number,
    /// A number without a fraction.
    Integer,
    /// `true` is prepared as 1, `false` as 0.
    Boolean,
    /// A text.
    String,
    /// Nested arrays of numbers, of the input's `dtype` and `shape`.
    Tensor,
    /// A picture in JPEG or PNG, as a text in base64.
    Image,
}

/// Type of a tensor's elements, by numpy's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE 754, 4 bytes.
    Float32,
    /// IEEE 754, 8 bytes.
    Float64,
    /// Signed, 4 bytes.
    Int32,
    /// Signed, 8 bytes.
    Int64,
    /// Unsigned, 1 byte: what images consist of.
    Uint8,
    /// `true` or `false`.
    Bool,
}

impl Dtype {
    /// The name as the manifest writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float64 => "float64",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
            Self::Uint8 => "uint8",
            Self::Bool => "bool",
        }
    }

    /// The smallest and the largest value; none for floats, whose bounds no JSON number of use
    /// exceeds.
    pub fn range(self) -> Option<(f64, f64)> {
        match self {
            Self::Float32 | Self::Float64 => None,
            Self::Int32 => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
            // 2^53: a JSON number beyond it may have lost its last digits on the way.
            Self::Int64 => Some((-9_007_199_254_740_992.0, 9_007_199_254_740_992.0)),
            Self::Uint8 => Some((0.0, 255.0)),
            Self::Bool => Some((0.0, 1.0)),
        }
    }
}

/// One value of a field.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    /// `true` or `false`.
    Boolean(bool),
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
}

impl Scalar {
    /// Whether it is a value of an input of that type.
    pub fn is_a(&self, kind: InputType) -> bool {
        match self {
            Self::Boolean(_) => kind == InputType::Boolean,
            Self::Number(number) => match kind {
                // A boolean that is missing may be imputed by its mean.
                InputType::Number | InputType::Boolean => true,
                InputType::Integer => number.is_finite(),
                InputType::String | InputType::Tensor | InputType::Image => false,
            },
            Self::Text(_) => kind == InputType::String,
        }
    }

    /// The number that it is prepared as; none for a text.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Boolean(truth) => Some(f64::from(u8::from(*truth))),
            Self::Number(number) => Some(*number),
            Self::Text(_) => None,
        }
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Boolean(truth) => write!(f, "{truth}"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}
