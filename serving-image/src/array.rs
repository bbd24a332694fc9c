//! Arrays of numbers or texts, the inputs and outputs of graphs: named, typed, shaped, row-major.

use serde::Serialize;

use crate::artefact::Dtype;

/// A typed array. In JSON `{"shape": […], "data": […]}`, with the data in one row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Array {
    /// Length of each axis.
    pub shape: Vec<usize>,
    /// As many as the product of the shape, the last axis fastest.
    #[serde(rename = "data")]
    pub elements: Elements,
}

/// The elements of an array.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Elements {
    /// 32-bit floats.
    Float32(Vec<f32>),
    /// 64-bit floats.
    Float64(Vec<f64>),
    /// 32-bit integers.
    Int32(Vec<i32>),
    /// 64-bit integers.
    Int64(Vec<i64>),
    /// Bytes.
    Uint8(Vec<u8>),
    /// Truth values.
    Bool(Vec<bool>),
    /// Texts, which only graphs over named fields and some graphs' answers have.
    Text(Vec<String>),
}

/// An array with its name in the graph.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedArray {
    /// The output's name.
    pub name: String,
    /// Its value for one instance: the axis of the batch is gone.
    pub array: Array,
}

/// The type and shape of a graph's array, known before it is computed.
#[derive(Debug, Clone, PartialEq)]
pub struct Outline {
    /// The output's name.
    pub name: String,
    /// None, of the type that it will have.
    pub elements: Elements,
    /// Length of each axis of one instance; none where the graph leaves it open.
    pub shape: Vec<Option<usize>>,
}

impl Elements {
    /// No elements yet, of that type.
    pub fn empty(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Float32 => Self::Float32(Vec::new()),
            Dtype::Float64 => Self::Float64(Vec::new()),
            Dtype::Int32 => Self::Int32(Vec::new()),
            Dtype::Int64 => Self::Int64(Vec::new()),
            Dtype::Uint8 => Self::Uint8(Vec::new()),
            Dtype::Bool => Self::Bool(Vec::new()),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Float32(list) => list.len(),
            Self::Float64(list) => list.len(),
            Self::Int32(list) => list.len(),
            Self::Int64(list) => list.len(),
            Self::Uint8(list) => list.len(),
            Self::Bool(list) => list.len(),
            Self::Text(list) => list.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a number that lies within the type's range.
    pub fn push(&mut self, number: f64) {
        match self {
            Self::Float32(list) => list.push(number as f32),
            Self::Float64(list) => list.push(number),
            Self::Int32(list) => list.push(number as i32),
            Self::Int64(list) => list.push(number as i64),
            Self::Uint8(list) => list.push(number as u8),
            Self::Bool(list) => list.push(number != 0.0),
            Self::Text(list) => list.push(number.to_string()),
        }
    }

    /// The numbers as 32-bit floats; none for texts.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::Float32(list) => list.clone(),
            Self::Float64(list) => list.iter().map(|x| *x as f32).collect(),
            Self::Int32(list) => list.iter().map(|x| *x as f32).collect(),
            Self::Int64(list) => list.iter().map(|x| *x as f32).collect(),
            Self::Uint8(list) => list.iter().map(|x| f32::from(*x)).collect(),
            Self::Bool(list) => list.iter().map(|x| f32::from(u8::from(*x))).collect(),
            Self::Text(_) => Vec::new(),
        }
    }

    /// Those from `start` on, `length` of them.
    #[must_use]
    pub fn slice(&self, start: usize, length: usize) -> Self {
        let range = start..start + length;
        match self {
            Self::Float32(list) => Self::Float32(list[range].to_vec()),
            Self::Float64(list) => Self::Float64(list[range].to_vec()),
            Self::Int32(list) => Self::Int32(list[range].to_vec()),
            Self::Int64(list) => Self::Int64(list[range].to_vec()),
            Self::Uint8(list) => Self::Uint8(list[range].to_vec()),
            Self::Bool(list) => Self::Bool(list[range].to_vec()),
            Self::Text(list) => Self::Text(list[range].to_vec()),
        }
    }

    /// Adds those of another array of the same type; of another type, none are added.
    pub fn extend(&mut self, other: &Self) {
        match (self, other) {
            (Self::Float32(list), Self::Float32(more)) => list.extend(more),
            (Self::Float64(list), Self::Float64(more)) => list.extend(more),
            (Self::Int32(list), Self::Int32(more)) => list.extend(more),
            (Self::Int64(list), Self::Int64(more)) => list.extend(more),
            (Self::Uint8(list), Self::Uint8(more)) => list.extend(more),
            (Self::Bool(list), Self::Bool(more)) => list.extend(more),
            (Self::Text(list), Self::Text(more)) => list.extend(more.iter().cloned()),
            _ => {}
        }
    }
}
